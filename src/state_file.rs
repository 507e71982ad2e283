//! Writes the registry into a file, and reads it back after a restart.
//!
//! Each line is a JSON object: first a head, then one line for each agent and each
//! event, and at the end a line that proves the file complete. A new file is written
//! beside the old one, synced and renamed, so a whole file exists at any moment. A
//! file that cannot be read is set aside, never overwritten.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use pap_core::outbox::SavedEvent;
use pap_core::registry::{Condition, Registry, SavedAgent};
use pap_core::time::{Now, Wall};
use pap_process::clock::wall;
use pap_process::files::{Durability, destination, open, replace};

/// The format's name and version. A change that an older program would
/// misread needs a new version.
const FORMAT: &str = "pap-collector-state";
const VERSION: u32 = 1;
/// How many agents are copied each time the lock is held.
const STEP: usize = 1024;

/// The longest first line and the longest other line, in bytes. The last line may be longer: it
/// has the ended conditions that some Alertmanager has not taken.
const LONGEST_HEAD: u64 = 4096;
const LONGEST_LINE: u64 = 1024 * 1024;
/// What the last line begins with.
const END: &str = r#"{"end""#;

/// One bounded step on the registry.
pub type Step<'a> = dyn FnMut(&Registry, Now) + 'a;
/// Runs such a step under the lock.
pub type Locked<'a> = dyn FnMut(&mut Step<'_>) + 'a;

/// What a saved state begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    cluster_id: String,
    /// The first part of the event ids that go with `seq`.
    instance: String,
    seq: u64,
    saved_at: u64,
    /// The collector heard no agent after it was saved.
    #[serde(default)]
    is_last: bool,
    /// Since when the collector was awake.
    #[serde(default)]
    awake_since: Option<u64>,
    /// When the mass silence was found that lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mass_since: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Record {
    Agent(SavedAgent),
    Event(SavedEvent),
    End {
        agents: usize,
        events: usize,
        /// The ended conditions that some Alertmanager has not taken. An older program ignores
        /// them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ended: Vec<Condition>,
    },
}

/// A state that was read.
#[derive(Debug)]
pub struct Saved {
    /// The first part of the event ids.
    pub instance: String,
    /// The number of the newest alert.
    pub seq: u64,
    /// When it was saved, in milliseconds since 1970.
    pub saved_at: u64,
    /// The collector heard no agent after it was saved.
    pub is_last: bool,
    /// Since when the collector was awake.
    pub awake_since: Option<Wall>,
    /// When the mass silence was found that lasts.
    pub mass_since: Option<Wall>,
    /// The agents.
    pub agents: Vec<SavedAgent>,
    /// The events that were not yet told.
    pub events: Vec<SavedEvent>,
    /// The ended conditions that some Alertmanager has not taken.
    pub ended: Vec<Condition>,
}

/// Why a state cannot be used. The registry is unchanged.
#[derive(Debug)]
pub enum Unusable {
    /// It cannot be read at all.
    Io(io::Error),
    /// It has another format, or a part of it is missing.
    Broken(String),
    /// It belongs to another cluster, or to a newer version of this program.
    Foreign(String),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "it cannot be read: {error}"),
            Self::Broken(what) => write!(f, "it is broken: {what}"),
            Self::Foreign(what) => write!(f, "it belongs to another collector or program: {what}"),
        }
    }
}

/// Whose state it is.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The cluster's id.
    pub cluster_id: String,
    /// The first part of the event ids.
    pub instance: String,
}

/// Writes the state in bounded steps. `locked` runs each step on the registry. If it
/// `is_last`, the collector hears no agent afterwards.
///
/// # Errors
/// Those of `out`.
pub fn write(owner: &Owner, is_last: bool, locked: &mut Locked<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (mut agents, mut events, mut seq) = (0, Vec::new(), 0);
    let (mut awake_since, mut mass_since) = (None, None);
    locked(&mut |registry, now| {
        events = registry.save_events(now);
        seq = registry.outbox().seq();
        awake_since = Some(registry.awake_since().0);
        mass_since = registry.mass_silence().map(|mass| mass.since.wall.0);
    });
    let head = Head {
        format: FORMAT.into(),
        version: VERSION,
        cluster_id: owner.cluster_id.clone(),
        instance: owner.instance.clone(),
        seq,
        saved_at: wall().0,
        is_last,
        awake_since,
        mass_since,
    };
    line(out, &head)?;
    let (mut from, mut step) = (Some(0), Vec::with_capacity(STEP));
    while let Some(place) = from {
        locked(&mut |registry, now| from = registry.save(now, place, STEP, &mut step));
        agents += step.len();
        for agent in step.drain(..) {
            line(out, &Record::Agent(agent))?;
        }
    }
    let count = events.len();
    for event in events {
        line(out, &Record::Event(event))?;
    }
    let (mut ended, mut from) = (Vec::new(), Some(0));
    while let Some(number) = from {
        locked(&mut |registry, _| from = registry.save_ended(number, STEP, &mut ended));
    }
    line(out, &Record::End { agents, events: count, ended })?;
    out.flush()
}

fn line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Reads a state.
///
/// # Errors
/// Every [`Unusable`], as they say.
pub fn read(cluster_id: &str, input: impl BufRead) -> Result<Saved, Unusable> {
    let mut lines = Lines(input);
    let first = lines.next(LONGEST_HEAD)?.ok_or_else(|| Unusable::Broken("it is empty".into()))?;
    let head: Head = serde_json::from_str(&first).map_err(|error| Unusable::Broken(error.to_string()))?;
    if head.format != FORMAT || head.version > VERSION {
        return Err(Unusable::Foreign(format!("{} version {}", head.format, head.version)));
    }
    if head.cluster_id != cluster_id {
        return Err(Unusable::Foreign(format!("cluster {}", head.cluster_id)));
    }
    let (mut agents, mut events) = (Vec::new(), Vec::new());
    let mut number = 1;
    while let Some(text) = lines.next(LONGEST_LINE)? {
        number += 1;
        match serde_json::from_str(&text) {
            Ok(Record::Agent(agent)) => agents.push(agent),
            Ok(Record::Event(event)) => events.push(event),
            Ok(Record::End { agents: all, events: all_events, ended })
                if (all, all_events) == (agents.len(), events.len()) =>
            {
                return Ok(Saved {
                    instance: head.instance,
                    seq: head.seq,
                    saved_at: head.saved_at,
                    is_last: head.is_last,
                    awake_since: head.awake_since.map(Wall),
                    mass_since: head.mass_since.map(Wall),
                    agents,
                    events,
                    ended,
                });
            }
            Ok(Record::End { .. }) => return Err(Unusable::Broken("lines are missing".into())),
            Err(error) => return Err(Unusable::Broken(format!("line {number}: {error}"))),
        }
    }
    Err(Unusable::Broken("its end is missing".into()))
}

/// The lines of a file, which may hold anything: a line that is no JSON object, or is longer
/// than a line can be, is not read into memory.
struct Lines<R>(R);

impl<R: BufRead> Lines<R> {
    fn next(&mut self, longest: u64) -> Result<Option<String>, Unusable> {
        match self.0.fill_buf().map_err(Unusable::Io)?.first() {
            None => return Ok(None),
            Some(b'{') => {}
            Some(_) => return Err(Unusable::Broken("a line is no JSON object".into())),
        }
        let mut line = String::new();
        let mut read = self.0.by_ref().take(longest).read_line(&mut line);
        if line.len() as u64 == longest && line.starts_with(END) {
            read = self.0.read_line(&mut line);
        }
        match read {
            Ok(_) if line.len() as u64 == longest => Err(Unusable::Broken("a line is too long".into())),
            Ok(_) => Ok(Some(line)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Unusable::Broken("a line is not UTF-8".into()))
            }
            Err(error) => Err(Unusable::Io(error)),
        }
    }
}

/// The file for the state.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// The file that was saved last. Its lock tells other collectors that this collector uses
    /// it.
    held: Mutex<Option<File>>,
}

impl StateFile {
    /// The file at `path`.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), held: Mutex::default() }
    }

    /// Tells other collectors that the file is in use, if none uses it. A save does the
    /// same.
    pub fn claim(&self) {
        let opened = open(&self.path, OpenOptions::new().read(true));
        let claimed = opened.ok().filter(|(file, _)| file.try_lock().is_ok());
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = claimed.map(|(file, _)| file);
    }

    /// Reads the state; None if there is no file.
    ///
    /// # Errors
    /// Every [`Unusable`], as they say.
    pub fn load(&self, cluster_id: &str) -> Result<Option<Saved>, Unusable> {
        match open(&self.path, OpenOptions::new().read(true)) {
            Ok((file, _)) => read(cluster_id, BufReader::new(file)).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Unusable::Io(error)),
        }
    }

    /// Renames a file that cannot be used, and returns the new name.
    ///
    /// # Errors
    /// The file cannot be renamed. It keeps its name and must not be overwritten.
    pub fn set_aside(&self) -> io::Result<PathBuf> {
        let path = destination(&self.path)?;
        let mut name = path.clone().into_os_string();
        name.push(format!(".broken-{}", wall().0));
        fs::rename(&path, &name)?;
        Ok(name.into())
    }

    /// Replaces the file with the present state; `is_last` as for [`write()`].
    ///
    /// # Errors
    /// Those of the file system, or another collector uses the file. The former file is
    /// still there.
    pub fn save(&self, owner: &Owner, is_last: bool, locked: &mut Locked<'_>) -> io::Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_unused(held.as_ref())?;
        let mut new = None;
        replace(&self.path, ".pap-new", Durability::Synced, |file| {
            // If this fails, the file system has no locks, and other collectors are not noticed.
            let _ = file.try_lock();
            new = Some(file.try_clone()?);
            let mut out = BufWriter::with_capacity(64 * 1024, file);
            write(owner, is_last, locked, &mut out)
        })?;
        *held = new;
        Ok(())
    }

    /// Checks that no other collector saves its state here.
    fn check_unused(&self, held: Option<&File>) -> io::Result<()> {
        let Ok((file, about)) = open(&self.path, OpenOptions::new().read(true)) else { return Ok(()) };
        let ours = held.map(File::metadata).transpose()?;
        if ours.is_some_and(|ours| (ours.dev(), ours.ino()) == (about.dev(), about.ino())) {
            return Ok(());
        }
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another collector uses this STATE_FILE; give each its own",
            )),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use pap_core::agent_id::AgentId;
    use pap_core::heartbeat::{Heartbeat, Mode};
    use pap_core::outbox::Limits;
    use pap_core::registry::{Resume, Rules};
    use pap_core::time::Tick;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Now {
        Now {
            tick: Tick::from_start(Duration::from_secs(seconds)),
            wall: Wall(1_764_669_600_000 + seconds * 1000),
        }
    }

    fn registry() -> Registry {
        Registry::new(Rules {
            max_agents: 5000,
            grace: Some(Duration::ZERO),
            mass_silence_hold: Duration::ZERO,
            retention: Duration::from_secs(3600),
            recovery_alerts: true,
            outbox: Limits { queue: 100, ttl: Duration::from_secs(300), senders: 4 },
        })
    }

    fn owner() -> Owner {
        Owner { cluster_id: "c".into(), instance: "i".into() }
    }

    fn text(registry: &Registry, now: Now) -> Vec<u8> {
        let mut out = Vec::new();
        write(&owner(), true, &mut |step| step(registry, now), &mut out).unwrap();
        out
    }

    /// Three thousand agents, some dead and owed, some with events.
    fn busy() -> Registry {
        let mut registry = registry();
        for number in 0..3000_u32 {
            let mode = Mode::ALL[number as usize % 3];
            let beat = Heartbeat { mode, uptime: f64::from(number) + 0.5, name: Some("näme".into()) };
            registry
                .beat(at(u64::from(number % 7)), &AgentId::new(&format!("agent {number}")).unwrap(), &beat)
                .ok();
        }
        while registry.sweep(at(14), 100).more {}
        registry
    }

    #[test]
    fn a_continued_registry_is_the_same() {
        let before = busy();
        let now = at(20);
        let saved = read("c", text(&before, now).as_slice()).unwrap();
        assert_eq!((saved.agents.len(), saved.instance.as_str()), (3000, "i"));
        let mut after = registry();
        assert_eq!(after.restore(now, saved.agents, Resume::Continued), 0);
        after.restore_events(now, saved.seq, saved.events);
        after.audit();
        assert_eq!(after.stats(), before.stats());
        assert_eq!(after.outbox().owed(), before.outbox().owed());
        assert_eq!(after.next_deadline(), before.next_deadline());
        for number in 0..3000 {
            let id = AgentId::new(&format!("agent {number}")).unwrap();
            assert_eq!(after.view(now, &id), before.view(now, &id));
        }
    }

    #[test]
    fn after_a_kill_everyone_gets_a_full_deadline() {
        let before = busy();
        let saved = read("c", text(&before, at(20)).as_slice()).unwrap();
        assert!(saved.is_last);
        let mut after = registry();
        after.restore(at(1000), saved.agents, Resume::Killed);
        assert_eq!(after.stats(), before.stats(), "verdicts are kept");
        assert!(after.sweep(at(1009), 9).changes.iter().all(|change| change.agent.healthy));
        let mut deaths = 0;
        loop {
            let swept = after.sweep(at(1010), 100);
            deaths += swept.changes.iter().filter(|change| !change.agent.healthy).count();
            if !swept.more {
                break;
            }
        }
        let alive = 1000 - before.stats().unhealthy();
        assert_eq!(deaths, alive, "those in EMERGENCY who never came back");
        after.audit();
    }

    #[test]
    fn what_is_cut_or_foreign_is_not_used() {
        let whole = text(&busy(), at(20));
        for cut in [0, 1, 50, whole.len() / 2, whole.len() - 2] {
            assert!(matches!(read("c", &whole[..cut]), Err(Unusable::Broken(_))), "{cut}");
        }
        assert!(matches!(read("other", whole.as_slice()), Err(Unusable::Foreign(_))));
        let newer = String::from_utf8(whole).unwrap().replacen("\"version\":1", "\"version\":2", 1);
        assert!(matches!(read("c", newer.as_bytes()), Err(Unusable::Foreign(_))));
    }

    /// Bytes that never end and hold no line.
    struct Endless;

    impl io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(0);
            Ok(buffer.len())
        }
    }

    #[test]
    fn what_never_ends_is_no_state() {
        let endless = |start: &'static [u8]| BufReader::new(start.chain(Endless));
        let whole = text(&busy(), at(20));
        let head: Vec<u8> = whole.iter().copied().take_while(|&byte| byte != b'\n').chain(*b"\n").collect();
        for start in [&b""[..], b"{", b"\n", head.leak()] {
            assert!(matches!(read("c", endless(start)), Err(Unusable::Broken(_))), "{start:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_state_or_a_reason(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read("c", bytes.as_slice()).is_err());
        }
    }
}
