//! Liveness sources: the emitter asks one before each heartbeat, so a heartbeat means
//! that the agent lives, and not only that the emitter runs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;
use ureq::tls::Certificate;

use super::USER_AGENT;
use pap_core::time::{Monotonic, SinceBoot};
use pap_process::client::{self, Client};
use pap_process::clock::{monotonic, since_boot, wall};
use pap_process::files::read_small;
use pap_process::panics;
use pap_process::url::Url;

/// How much a time of the wall clock may differ from a time of the kernel.
const CLOCKS_DIFFER: Duration = Duration::from_secs(10);

/// Says whether the agent lives.
pub trait LivenessSource: Send {
    /// How long the agent has lived. Takes at most `patience`.
    ///
    /// # Errors
    /// Why the agent does not seem to live, in words for people.
    fn look(&mut self, patience: Duration) -> Result<Duration, String>;

    /// What the source is, in words for people.
    fn describe(&self) -> String;
}

/// This process, if no other liveness source is configured.
#[derive(Debug)]
pub struct Itself;

impl LivenessSource for Itself {
    fn look(&mut self, _: Duration) -> Result<Duration, String> {
        uptime_of_this_process()
    }

    fn describe(&self) -> String {
        "this process alone".into()
    }
}

/// How long this process has run. A re-exec does not reset it.
///
/// # Errors
/// /proc cannot be read.
pub fn uptime_of_this_process() -> Result<Duration, String> {
    Process::find("self").map(Process::uptime)
}

/// A URL: the agent lives while it answers with a 2xx.
pub struct Probe {
    client: Client,
    url: Url,
    patience: Duration,
    /// When it first answered with a 2xx, since the last time that nobody listened there.
    since: Option<Monotonic>,
}

impl Probe {
    /// A probe of `url`, which must answer within `patience`.
    pub fn new(url: Url, patience: Duration, roots: &[Certificate<'static>]) -> Self {
        Self { client: Client::new(USER_AGENT, roots), url, patience, since: None }
    }
}

impl LivenessSource for Probe {
    fn look(&mut self, patience: Duration) -> Result<Duration, String> {
        let agent = self.client.within(self.patience.min(patience));
        match panics::contain(|| agent.get(self.url.as_str()).call())? {
            Ok(answer) if answer.status().is_success() => {
                let now = monotonic();
                Ok(now.since(*self.since.get_or_insert(now)))
            }
            // The agent runs but is not well, so its uptime goes on.
            Ok(answer) => {
                let code = answer.status().as_u16();
                Err(format!("the probe answers {code}: {}", client::excerpt(answer)))
            }
            Err(error) => {
                if matches!(&error, ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused)
                {
                    // Nobody listens there, so the next 2xx comes from another process.
                    self.since = None;
                }
                Err(format!("the probe: {}", client::trouble(&error)))
            }
        }
    }

    fn describe(&self) -> String {
        format!("the answers of {}", self.url)
    }
}

/// A pid file: the agent lives while the process lives whose number is in the file.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    /// The version of the file and the process, as of the last look.
    known: Option<(Written, Process)>,
}

/// One version of the file: the process's number in it, its inode, and when it was
/// written (seconds and nanoseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written(u32, u64, i64, i64);

impl PidFile {
    /// The file at `path`.
    pub const fn new(path: PathBuf) -> Self {
        Self { path, known: None }
    }
}

impl LivenessSource for PidFile {
    fn look(&mut self, _: Duration) -> Result<Duration, String> {
        let trouble = |error: io::Error| format!("{}: {error}", self.path.display());
        let (text, about) = read_small(&self.path).map_err(trouble)?;
        let number = text.split_whitespace().next().and_then(|word| word.parse().ok()).filter(|&pid| pid > 0);
        let number: u32 = number.ok_or_else(|| format!("{} holds no process number", self.path.display()))?;
        let written = Written(number, about.ino(), about.mtime(), about.mtime_nsec());
        let process = Process::find(&number.to_string())?;
        let is_another = match &self.known {
            Some((known, before)) if *known == written => before.started != process.started,
            // This version of the file is new. The process whose number it holds was there when
            // it was written; so a file that is older than the process is about an earlier one.
            _ => {
                let age = about.modified().ok().map(|at| wall().since(at));
                age.is_some_and(|age| age > process.uptime() + CLOCKS_DIFFER)
            }
        };
        // The kernel gives the number of an ended process to a new one.
        if is_another {
            return Err(format!(
                "{} is older than process {number}, so it names an earlier process with this number",
                self.path.display()
            ));
        }
        self.known = Some((written, process));
        process.alive(number)
    }

    fn describe(&self) -> String {
        format!("the process whose number is in {}", self.path.display())
    }
}

/// The command that we started.
#[derive(Debug)]
pub struct Child {
    /// Its number.
    pub pid: u32,
    /// What was run.
    pub name: String,
    /// When it was started.
    pub started: Monotonic,
}

impl LivenessSource for Child {
    fn look(&mut self, _: Duration) -> Result<Duration, String> {
        match Process::find(&self.pid.to_string()) {
            Ok(process) => drop(process.alive(self.pid)?),
            // If /proc works, the process has ended.
            Err(why) if Process::find("self").is_ok() => return Err(why),
            Err(_) => {}
        }
        Ok(monotonic().since(self.started))
    }

    fn describe(&self) -> String {
        format!("{}, process {}", self.name, self.pid)
    }
}

/// What /proc says about a process (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    state: char,
    threads: u64,
    /// When the process started, in clock ticks since the boot.
    started: u64,
}

impl Process {
    fn find(pid: &str) -> Result<Self, String> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("there is no process {pid}"),
            _ => format!("process {pid}: {error}"),
        })?;
        Self::parse(&text)
            .ok_or_else(|| format!("process {pid}: its stat file in /proc cannot be understood"))
    }

    fn parse(text: &str) -> Option<Self> {
        // The name, which comes first, may hold spaces and parentheses.
        let (_, rest) = text.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?.chars().next()?;
        // The state is field 3, the threads are field 20, the start is field 22.
        let threads = fields.nth(16)?.parse().ok()?;
        let started = fields.nth(1)?.parse().ok()?;
        Some(Self { state, threads, started })
    }

    fn uptime(self) -> Duration {
        let ticks = clock_ticks_per_second().max(1);
        let (seconds, rest) = (self.started / ticks, self.started % ticks);
        let started =
            Duration::from_secs(seconds) + Duration::from_secs(rest) / u32::try_from(ticks).unwrap_or(1);
        since_boot().since(SinceBoot::new(started))
    }

    fn alive(self, pid: u32) -> Result<Duration, String> {
        match self.state {
            // The first thread of a process may end before its other threads.
            'Z' | 'X' | 'x' if self.threads <= 1 => Err(format!("process {pid} has ended")),
            'T' => Err(format!("process {pid} is stopped")),
            _ => Ok(self.uptime()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let text = "7 (a) Z 1 b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 10\n";
        assert_eq!(Process::parse(text), Some(Process { state: 'S', threads: 1, started: 123_456 }));
        assert_eq!(Process::parse("7 (a"), None);
        assert!(uptime_of_this_process().unwrap() < since_boot().reading());
    }

    #[test]
    fn a_pid_file_stands_for_the_process_that_wrote_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let mut source = PidFile::new(path.clone());
        assert!(source.look(LONG).unwrap_err().contains("pid: "), "there is no file");
        fs::write(&path, "none\n").unwrap();
        assert!(source.look(LONG).unwrap_err().contains("holds no process number"));

        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        fs::write(&path, format!("{}\n", child.id())).unwrap();
        assert!(source.look(LONG).unwrap() < Duration::from_secs(60));
        // The same number in the same file, but another process.
        source.known.as_mut().unwrap().1.started -= 1;
        assert!(source.look(LONG).unwrap_err().contains("names an earlier process"));
        fs::write(&path, format!("{} \n", child.id())).unwrap();
        source.look(LONG).unwrap();
        // A file that an earlier process with this number has left.
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(PidFile::new(path.clone()).look(LONG).unwrap_err().contains("is older than process"));

        child.kill().unwrap();
        fs::write(&path, child.id().to_string()).unwrap();
        while source.look(LONG).is_ok() {}
        assert!(source.look(LONG).unwrap_err().contains("has ended"), "nobody has waited for it yet");
        child.wait().unwrap();
        assert!(source.look(LONG).unwrap_err().contains("there is no process"));
    }
}
