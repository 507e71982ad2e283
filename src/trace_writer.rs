//! The thread that writes the trace (`HEARTBEAT_TRACE`) to its file.
//!
//! Heartbeats never wait for the disk: what the registry is told becomes bytes in
//! memory, under the registry's lock, and this thread takes them once a second, or when
//! there are many. If the disk is full or too slow, records are dropped and counted, and
//! the trace says where. A crash loses what was not taken yet; readers skip a block
//! that it tears. docs/trace-format.md describes the format.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, rename};
use std::io::{self, Write as _};
use std::mem;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use pap_core::trace::MAGIC;
use pap_core::trace::tape::{Wish, seal};
use pap_process::files::{self, destination};
use pap_process::throttle::Throttle;

use crate::config::TraceConfig;
use crate::parts::Parts;

/// How often records are written; also the time between two time marks.
const EVERY: Duration = Duration::from_secs(1);
/// The most bytes that wait for the disk.
const MOST_WAITING: u64 = 4 * 1024 * 1024;
/// How much memory the writer keeps after a burst of heartbeats; it gives the rest back.
const KEPT: usize = 512 * 1024;
/// How many rotated files there are beside the one that is written.
pub const ROTATED: usize = 3;

/// The size at which a file is rotated. With what is written at once, all files together
/// then have at most the size that was asked for.
fn full_file(trace: &TraceConfig) -> u64 {
    trace.most / (ROTATED as u64 + 2)
}

/// The most bytes that may wait to be written.
pub fn most_waiting(trace: &TraceConfig) -> usize {
    let most = MOST_WAITING.min(full_file(trace) / (ROTATED as u64 + 1));
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// The name of a rotated file: the higher the number, the older the file.
pub fn rotated(path: &Path, number: usize) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

/// Calls for the writer. Each asks it to write now.
pub struct Calls {
    caller: Sender<Option<Sender<()>>>,
    waiting: Receiver<Option<Sender<()>>>,
}

impl Default for Calls {
    fn default() -> Self {
        let (caller, waiting) = bounded(1);
        Self { caller, waiting }
    }
}

impl Calls {
    /// Asks the writer to write before its time. It does not wait.
    pub fn call(&self) {
        // If there is a call already, the writer comes anyway.
        let _ = self.caller.try_send(None);
    }

    /// Waits until everything that was recorded is written, at most for twice `longest`.
    /// Returns whether it is.
    pub fn await_written(&self, longest: Duration) -> bool {
        let (done, written) = bounded(1);
        self.caller.send_timeout(Some(done), longest).is_ok() && written.recv_timeout(longest).is_ok()
    }
}

/// Writes the trace.
pub struct TraceWriter {
    path: PathBuf,
    full: u64,
    /// The open file and its length.
    file: Option<(File, u64)>,
    spare: Vec<u8>,
    troubles: Throttle<()>,
}

impl TraceWriter {
    /// A writer. It opens the file when there is something to write.
    pub fn new(trace: &TraceConfig) -> Self {
        Self {
            path: trace.path.clone(),
            full: full_file(trace),
            file: None,
            spare: Vec::new(),
            troubles: Throttle::default(),
        }
    }

    /// Writes until the process ends.
    pub fn run(mut self, parts: &Parts) {
        loop {
            let call = parts.shared.trace_calls().waiting.recv_timeout(EVERY);
            self.write(parts);
            if let Ok(Some(done)) = call {
                // The thread that asked may have given up.
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self, parts: &Parts) {
        let is_gone = self.file.as_ref().is_some_and(|(file, _)| self.is_elsewhere(file));
        if is_gone {
            log::warn!(
                "the trace {} was removed or renamed, so a new one begins; HEARTBEAT_TRACE_MAX_MB bounds it without help",
                self.path.display()
            );
        }
        let ends_file = is_gone || self.file.as_ref().is_some_and(|&(_, length)| length >= self.full);
        let wish = Wish { ends_file, ..Wish::default() };
        let mut cut = parts.shared.cut_trace(wish, mem::take(&mut self.spare));
        seal(&mut cut.bytes);
        let mut dropped = cut.lost;
        match self.append(&cut.bytes) {
            Ok(()) if cut.lost == 0 => self.troubles.clear(),
            Ok(()) => self.complain(parts, &"the disk is too slow"),
            Err(error) => {
                self.complain(parts, &error);
                // Without what is missing, readers could not read what follows.
                dropped =
                    parts.shared.cut_trace(Wish { lost: cut.records + cut.lost, ..wish }, Vec::new()).lost;
            }
        }
        parts.metrics.trace_dropped.fetch_add(dropped, Ordering::Relaxed);
        if cut.ends_file {
            self.file = None;
        }
        self.spare = cut.bytes;
        self.spare.clear();
        self.spare.shrink_to(KEPT);
    }

    /// Whether another file, or none, is at the path by now.
    fn is_elsewhere(&self, file: &File) -> bool {
        let number = |about: Metadata| (about.dev(), about.ino());
        match (fs::metadata(&self.path), file.metadata()) {
            (Ok(there), Ok(ours)) => number(there) != number(ours),
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            (_, Err(_)) => false,
        }
    }

    fn complain(&self, parts: &Parts, why: &dyn std::fmt::Display) {
        if self.troubles.is_news((), parts.shared.clock().uptime()) {
            log::error!(
                "heartbeats are missing in the trace {}: {why}; pap_collector_trace_dropped_total counts them",
                self.path.display()
            );
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (mut file, length) = match self.file.take() {
            Some(open) => open,
            None => open(&self.path, self.full)?,
        };
        let written = file.write_all(bytes);
        let length = match &written {
            Ok(()) => length + bytes.len() as u64,
            // A reader skips a block that is cut, so this only saves the reader's time.
            Err(_) => file.set_len(length).map_or(length + bytes.len() as u64, |()| length),
        };
        self.file = Some((file, length));
        written
    }
}

/// Opens the file for appending. A full one is rotated before.
fn open(path: &Path, full: u64) -> io::Result<(File, u64)> {
    let path = destination(path)?;
    let open = |path: &Path| {
        let (file, about) = files::open(path, OpenOptions::new().read(true).append(true).create(true))?;
        if about.len() > 0 && !begins_with_block(&file) {
            let what = format!("{} holds something else than a trace", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok((file, about.len()))
    };
    let (file, length) = open(&path)?;
    if length < full {
        return Ok((file, length));
    }
    for number in (1..=ROTATED).rev() {
        let name = rotated(&path, number);
        match fs::symlink_metadata(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // A file that is no trace is neither renamed nor replaced.
            _ => drop(open(&name)?),
        }
        if number < ROTATED {
            rename(&name, rotated(&path, number + 1))?;
        }
    }
    rename(&path, rotated(&path, 1))?;
    open(&path)
}

/// Whether a file that is not empty is a trace. A crash may have cut its first block.
fn begins_with_block(file: &File) -> bool {
    let mut start = MAGIC;
    let length = file.read_at(&mut start, 0).unwrap_or_default();
    length > 0 && start[..length] == MAGIC[..length]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_no_trace_is_neither_written_nor_renamed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace");
        let fill = |path: &Path| fs::write(path, [&MAGIC[..], &[0; 100]].concat()).unwrap();
        for full in [0, 1000] {
            fs::write(&path, "somebody's").unwrap();
            assert!(open(&path, full).is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
        }
        for number in 1..=ROTATED {
            fill(&path);
            fs::write(rotated(&path, number), "somebody's").unwrap();
            assert!(open(&path, 10).is_err(), "{number}");
            assert_eq!(fs::read_to_string(rotated(&path, number)).unwrap(), "somebody's");
            fs::remove_file(rotated(&path, number)).unwrap();
        }
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_rotated() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (link, path) = (here.path().join("trace"), there.path().join("trace"));
        symlink(&path, &link).unwrap();
        for round in 0..5_u8 {
            let (mut file, length) = open(&link, 50).unwrap();
            assert_eq!(length, 0);
            file.write_all(&[&MAGIC[..], &[round; 100]].concat()).unwrap();
        }
        let last = |path: &Path| fs::read(path).unwrap().pop().unwrap();
        assert_eq!(last(&path), 4);
        assert_eq!([1, 2, 3].map(|number| last(&rotated(&path, number))), [3, 2, 1]);
        assert_eq!(fs::read_dir(&here).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&there).unwrap().count(), 4);
    }
}
