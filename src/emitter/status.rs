//! The status file: who took the last heartbeat, and what is wrong. `--check` and
//! `--status`, which run as other processes, read it.

use std::fmt;
use std::fs;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::targets::Identity;
use pap_core::agent_id::AgentId;
use pap_core::heartbeat::Mode;
use pap_core::pace::Taken;
use pap_core::time::{Monotonic, millis};
use pap_process::clock::{monotonic, wall};
use pap_process::escape::for_terminal;
use pap_process::files::{Durability, destination, read_small, replace};

/// Where the file is by default: the first of these that can be written.
const PLACES: [&str; 2] = ["/run", "/tmp"];

/// The longest part of an id in a file's name, in bytes. A name has at most 255.
const LONGEST_NAME: usize = 200;

/// One status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    agent_id: String,
    agent_name: String,
    pid: u32,
    mode: Mode,
    interval_ms: u64,
    vouches_for: String,
    /// The last heartbeat that was taken.
    accepted: Option<Accepted>,
    /// What is wrong now; empty if nothing is.
    trouble: String,
}

/// A heartbeat that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Accepted {
    by: String,
    /// When it was taken, for people.
    at: String,
    /// The same time on the monotonic clock, in milliseconds.
    monotonic_ms: u64,
    /// Within which time it promised the next heartbeat.
    interval_ms: u64,
}

impl Status {
    /// The status before the first heartbeat.
    pub fn new(identity: &Identity, vouches_for: String) -> Self {
        Self {
            agent_id: identity.id.to_string(),
            agent_name: identity.name.clone(),
            pid: std::process::id(),
            mode: Mode::Idle,
            interval_ms: 0,
            vouches_for,
            accepted: None,
            trouble: String::new(),
        }
    }

    /// Sets the mode and the interval.
    pub fn paced(&mut self, mode: Mode, interval: Duration) {
        (self.mode, self.interval_ms) = (mode, millis(interval));
    }

    /// Records the outcome of a heartbeat, which promised the next heartbeat within `interval`,
    /// and what went wrong.
    pub fn tried(&mut self, taken: Taken, interval: Duration, trouble: &str) {
        trouble.clone_into(&mut self.trouble);
        let by = match taken {
            Taken::Collector => "the collector",
            Taken::Station => "the station",
            Taken::Nobody => return,
        };
        let monotonic_ms = millis(monotonic().reading());
        let (at, interval_ms) = (wall().to_string(), millis(interval));
        self.accepted = Some(Accepted { by: by.into(), at, monotonic_ms, interval_ms });
    }

    /// Whether a heartbeat was taken within two intervals. Either text is one line for people.
    ///
    /// # Errors
    /// None was taken within them.
    pub fn check(&self, now: Monotonic) -> Result<String, String> {
        let trouble = if self.trouble.is_empty() {
            String::new()
        } else {
            format!("; {}", for_terminal(&self.trouble))
        };
        let Some(accepted) = &self.accepted else {
            return Err(format!("not beating: nobody has taken a heartbeat yet{trouble}"));
        };
        let longest = Duration::from_millis(accepted.interval_ms) * 2;
        let by = for_terminal(&accepted.by);
        let age = Duration::from_millis(millis(now.reading()).saturating_sub(accepted.monotonic_ms));
        if age <= longest {
            Ok(format!("beating: {by} took a heartbeat {age:.1?} ago{trouble}"))
        } else {
            Err(format!(
                "not beating: {by} took the last heartbeat {age:.1?} ago, more than {longest:?}{trouble}"
            ))
        }
    }

    /// Everything, for people.
    pub fn describe(&self, now: Monotonic) -> String {
        let Self { agent_id, agent_name, pid, mode, interval_ms, vouches_for, .. } = self;
        let (Ok(summary) | Err(summary)) = self.check(now);
        let accepted = self.accepted.as_ref().map_or("never".into(), |accepted| for_terminal(&accepted.at));
        format!(
            "agent      {} ({})\nliveness   {}\nheartbeat  {mode}, every {:?}\nlast taken {accepted}\n\
             process    {pid}\n{summary}",
            for_terminal(agent_name),
            for_terminal(agent_id),
            for_terminal(vouches_for),
            Duration::from_millis(*interval_ms)
        )
    }
}

/// Where the status of one agent is kept.
#[derive(Clone, Debug)]
pub struct StatusFile(Vec<PathBuf>);

impl StatusFile {
    /// The usual places for this agent.
    pub fn usual(id: &AgentId) -> Self {
        let mut name = id.to_path();
        if name.len() > LONGEST_NAME {
            let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(id.to_string());
            name.replace_range(LONGEST_NAME - 16.., &format!("{hash:016x}"));
        }
        let name = format!("pap-heartbeat-{name}.json");
        Self(PLACES.iter().map(|place| Path::new(place).join(&name)).collect())
    }

    /// One place.
    pub fn at(path: PathBuf) -> Self {
        Self(vec![path])
    }

    /// Replaces what is there.
    ///
    /// # Errors
    /// None of the places can be written to.
    pub fn write(&self, status: &Status) -> io::Result<()> {
        let mut result = Ok(());
        for path in &self.0 {
            result = write(path, status)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Reads the status from all places, and returns the latest.
    ///
    /// # Errors
    /// No place has a usable status; why, in words for people.
    pub fn read(&self) -> Result<Status, String> {
        let mut trouble = None;
        let mut latest: Option<Status> = None;
        let moment = |status: &Status| status.accepted.as_ref().map(|accepted| accepted.monotonic_ms);
        for path in self.0.iter().rev() {
            match read(path) {
                Ok(status) if latest.as_ref().is_none_or(|latest| moment(latest) <= moment(&status)) => {
                    latest = Some(status);
                }
                Ok(_) => {}
                // An unusable file says more than a missing one.
                Err(error) if trouble.is_some() && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => trouble = Some(format!("{}: {error}", path.display())),
            }
        }
        latest.ok_or_else(|| trouble.unwrap_or_default())
    }

    /// Removes our status, as we send no more heartbeats.
    pub fn remove(&self) {
        for path in &self.0 {
            // Another process for the same agent may have started before we end.
            if read(path).is_ok_and(|status| status.pid == std::process::id()) {
                // If this fails, the file stays, and --check soon calls it too old.
                let _ = destination(path).and_then(fs::remove_file);
            }
        }
    }
}

/// Reads one place. The file must be ours or root's; root reads anybody's.
fn read(path: &Path) -> io::Result<Status> {
    let (text, about) = read_small(path)?;
    let us = geteuid().as_raw();
    if us != 0 && about.uid() != us && about.uid() != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user wrote it"));
    }
    let status: Status = serde_json::from_str(&text)?;
    let is_later = |accepted: &Accepted| accepted.monotonic_ms > millis(monotonic().reading());
    if status.accepted.as_ref().is_some_and(is_later) {
        return Err(io::Error::other("it was written before the system was started"));
    }
    Ok(status)
}

impl fmt::Display for StatusFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<String> = self.0.iter().map(|path| path.display().to_string()).collect();
        f.write_str(&places.join(" or "))
    }
}

fn write(path: &Path, status: &Status) -> io::Result<()> {
    let beside = format!(".pap-{}", std::process::id());
    replace(path, &beside, Durability::Cached, |file| Ok(serde_json::to_writer(file, status)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Mode::Emergency.interval();

    fn status() -> Status {
        let identity = Identity { id: AgentId::new("a/b").unwrap(), name: "n".into() };
        let mut status = Status::new(&identity, "a test".into());
        status.paced(Mode::Emergency, INTERVAL);
        status
    }

    #[test]
    fn a_heartbeat_counts_for_two_intervals() {
        let mut status = status();
        assert!(status.check(monotonic()).unwrap_err().contains("yet"));
        status.tried(Taken::Nobody, INTERVAL, "the collector: gone");
        assert!(status.check(monotonic()).unwrap_err().ends_with("yet; the collector: gone"));
        status.tried(Taken::Station, INTERVAL, "the collector: gone");
        let taken = Monotonic::new(Duration::from_millis(status.accepted.as_ref().unwrap().monotonic_ms));
        let text = status.check(taken + Duration::from_secs(10)).unwrap();
        assert_eq!(text, "beating: the station took a heartbeat 10.0s ago; the collector: gone");
        let text = status.check(taken + Duration::from_millis(10_001)).unwrap_err();
        assert!(text.contains("the last heartbeat 10.0s ago, more than 10s"), "{text}");
        assert!(status.describe(taken).contains("EMERGENCY, every 5s\nlast taken 20"));
    }

    #[test]
    fn the_file_is_replaced_whole_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (nowhere, path) = (directory.path().join("no/where"), directory.path().join("status"));
        let files = StatusFile(vec![nowhere, path.clone()]);
        assert!(files.read().unwrap_err().contains("No such file"));
        let precious = directory.path().join("precious");
        fs::write(&precious, "x").unwrap();
        std::os::unix::fs::symlink(&precious, format!("{}.pap-{}", path.display(), std::process::id()))
            .unwrap();
        files.write(&status()).unwrap();
        assert_eq!(files.read(), Ok(status()));
        assert_eq!(fs::read_to_string(&precious).unwrap(), "x");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left lying");
        let mut former = status();
        former.tried(Taken::Collector, INTERVAL, "");
        former.accepted.as_mut().unwrap().monotonic_ms += 60_000;
        files.write(&former).unwrap();
        assert!(files.read().unwrap_err().contains("before the system was started"));
        files.write(&Status { pid: 0, ..status() }).unwrap();
        files.remove();
        assert!(files.read().is_ok(), "another process wrote it");
        files.write(&status()).unwrap();
        files.remove();
        assert!(files.read().is_err());
        assert!(StatusFile(vec![directory.path().join("a/b")]).write(&status()).is_err());
    }

    #[test]
    fn the_usual_places_tell_agents_apart() {
        let long = |end: &str| AgentId::new(&format!("{}{end}", "\u{2665}".repeat(40))).unwrap();
        let StatusFile(a) = StatusFile::usual(&long("a"));
        assert_ne!(StatusFile(a.clone()).to_string(), StatusFile::usual(&long("b")).to_string());
        assert!(a[0].file_name().unwrap().len() < 230);
        let StatusFile(places) = StatusFile::usual(&AgentId::new("a/b").unwrap());
        assert_eq!(
            places,
            [Path::new("/run/pap-heartbeat-a%2Fb.json"), Path::new("/tmp/pap-heartbeat-a%2Fb.json")]
        );
    }
}
