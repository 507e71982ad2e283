//! `pap-collector replay`: reads a trace, runs it through the core, and says which deaths
//! there were, and which there would have been under another grace.

mod text;

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use pap_core::replay::Replay;
use pap_core::time::Monotonic;
use pap_core::trace::VERSION;
use pap_core::trace::read::{Found, MOST_NEEDED, block, next_magic};
use pap_process::clock::monotonic;
use pap_process::escape::in_json;
use pap_process::files::destination;
use pap_process::settings::{ConfigError, Flags, Reader};

use crate::config::settings::{HEARTBEAT_GRACE_MS, SETTINGS};
use crate::trace_writer::{ROTATED, rotated};

/// How many bytes are read at once.
const CHUNK: usize = 1 << 20;
/// How often the progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// Why there is no report.
#[derive(Debug)]
pub enum ReplayError {
    /// The grace that was asked for is wrong.
    Grace(ConfigError),
    /// The trace cannot be read. The text is one line for people.
    Trace(String),
}

/// The parts of a trace that could not be used.
#[derive(Default)]
struct Damage {
    bytes: u64,
}

/// Replays the rotated files of `file`, and then `file`. Of the flags for settings it uses only
/// the one for the grace. Returns the report: one JSON object, or text.
///
/// # Errors
/// Every [`ReplayError`], as they say.
pub fn run(file: &str, json: bool, flags: &Flags) -> Result<String, ReplayError> {
    let asked = asked_grace(flags).map_err(ReplayError::Grace)?;
    let broken = |error: io::Error| ReplayError::Trace(format!("{file} cannot be replayed: {error}"));
    let files = files(Path::new(file)).map_err(broken)?;
    let (mut replay, mut damage) = (Replay::new(asked), Damage::default());
    let mut progress = Progress::new(files.iter().map(|(_, length)| length).sum());
    for (file, _) in &files {
        read(file, &mut replay, &mut damage, &mut progress).map_err(broken)?;
    }
    progress.end();
    let about = text::About {
        time: replay.time(),
        pauses: replay.pauses(),
        lost: replay.lost(),
        asked_ms: asked.map(pap_core::time::millis),
    };
    let report = replay.end().ok_or_else(|| broken(io::Error::other("it is no record of heartbeats")))?;
    if damage.bytes > 0 {
        // The reader must not overlook that parts of the trace are missing in the report.
        let _ = writeln!(
            io::stderr(),
            "pap-collector: {} bytes of the trace are damaged, as after a crash; nobody is judged over them",
            damage.bytes
        );
    }
    if json {
        let json = serde_json::to_string(&report).map_err(|error| broken(error.into()))?;
        Ok(in_json(&json).into_owned())
    } else {
        Ok(text::write(&report, &about))
    }
}

/// The grace that a flag asks for. The environment does not count: it has the collector's
/// grace.
fn asked_grace(flags: &Flags) -> Result<Option<Duration>, ConfigError> {
    if flags.get(HEARTBEAT_GRACE_MS.name).is_none() {
        return Ok(None);
    }
    Reader::new(SETTINGS, flags, &|_| None).millis(&HEARTBEAT_GRACE_MS).map(Some)
}

/// The files of a trace, the oldest first, with their lengths.
fn files(path: &Path) -> io::Result<Vec<(File, u64)>> {
    let path = destination(path)?;
    let mut names: Vec<_> = (1..=ROTATED).rev().map(|number| rotated(&path, number)).collect();
    names.push(path);
    let mut files = Vec::new();
    for path in names {
        match File::open(&path) {
            Ok(file) => {
                let length = file.metadata()?.len();
                files.push((file, length));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if files.is_empty() { Err(io::Error::other("there is no such file")) } else { Ok(files) }
}

/// Gives the records of a file to the replay.
fn read(file: &File, replay: &mut Replay, damage: &mut Damage, progress: &mut Progress) -> io::Result<()> {
    let (mut bytes, mut at, mut is_whole) = (Vec::with_capacity(CHUNK + MOST_NEEDED), 0, false);
    loop {
        if !is_whole && bytes.len() - at < MOST_NEEDED {
            bytes.drain(..at);
            at = 0;
            let read = file.take(CHUNK as u64).read_to_end(&mut bytes)?;
            is_whole = read < CHUNK;
            progress.show(read as u64, replay.heartbeats());
        }
        let rest = &bytes[at..];
        if rest.is_empty() {
            return Ok(());
        }
        let passed_over = match block(rest) {
            Found::Block { records, length } => {
                for record in records {
                    match record {
                        Ok(record) => drop(replay.take(&record)),
                        Err(_) => replay.damaged(),
                    }
                }
                at += length;
                continue;
            }
            Found::Newer(version) => {
                let why = format!(
                    "version {version} of the format is newer than {VERSION}, which this program reads"
                );
                return Err(io::Error::other(why));
            }
            Found::Damaged(length) => length,
            // All bytes are there, so a crash has torn this block. Other blocks may follow.
            Found::Cut => next_magic(rest),
        };
        at += passed_over;
        damage.bytes += passed_over as u64;
        replay.damaged();
    }
}

/// How far the replay is, on a terminal.
struct Progress {
    /// None if standard error is no terminal.
    shown: Option<Monotonic>,
    read: u64,
    all: u64,
}

impl Progress {
    fn new(all: u64) -> Self {
        Self { shown: io::stderr().is_terminal().then(monotonic), read: 0, all }
    }

    fn show(&mut self, read: u64, heartbeats: u64) {
        self.read += read;
        let Some(shown) = &mut self.shown else { return };
        let now = monotonic();
        if now.since(*shown) >= SHOW_EVERY {
            *shown = now;
            let line = text::progress(self.read, self.all, heartbeats);
            // If this fails, nobody reads it.
            let _ = write!(io::stderr(), "\r{line}");
        }
    }

    fn end(&self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
