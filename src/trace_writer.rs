//! The thread that writes the record of heartbeats (`HEARTBEAT_TRACE`) to its file.
//!
//! Heartbeats never wait for the disk: what the registry is told becomes bytes in
//! memory, under the registry's lock, and this thread takes them once a second, or when
//! there are many. If the disk is full or too slow, records are dropped and counted, and
//! the trace says where. A crash loses what was not taken yet; a block that it tears is
//! passed over by whoever reads. docs/trace-format.md describes the format.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, rename};
use std::io::{self, Write as _};
use std::mem;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use pap_core::trace::MAGIC;
use pap_core::trace::tape::{Wish, seal};
use pap_process::throttle::Throttle;
use rustix::fs::OFlags;

use crate::config::TraceConfig;
use crate::parts::Parts;

/// How often records are written, and how far time marks are apart.
const EVERY: Duration = Duration::from_secs(1);
/// The most bytes that wait for the disk.
const MOST_WAITING: u64 = 4 * 1024 * 1024;
/// Memory that a burst of heartbeats needed is given back beyond this.
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
    /// Asks the writer to come before its time. It does not wait.
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
                // Whoever asked may have given up.
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self, parts: &Parts) {
        let ends_file = self.file.as_ref().is_some_and(|&(_, length)| length >= self.full);
        let wish = Wish { ends_file, ..Wish::default() };
        let mut cut = parts.shared.cut_trace(wish, mem::take(&mut self.spare));
        seal(&mut cut.bytes);
        let mut dropped = cut.lost;
        match self.append(&cut.bytes) {
            Ok(()) if cut.lost == 0 => self.troubles.clear(),
            Ok(()) => self.complain(parts, &"the disk is too slow"),
            Err(error) => {
                self.complain(parts, &error);
                // What follows cannot be read without what is missing.
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
            // A reader passes over a block that is cut, so this is only to save its time.
            Err(_) => file.set_len(length).map_or(length + bytes.len() as u64, |()| length),
        };
        self.file = Some((file, length));
        written
    }
}

/// Opens the file for appending. A full one is rotated before.
fn open(path: &Path, full: u64) -> io::Result<(File, u64)> {
    // To open a pipe must not wait for its reader.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let open = || OpenOptions::new().read(true).append(true).create(true).custom_flags(flags).open(path);
    let file = open()?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    if about.len() > 0 && !begins_with_block(&file) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it holds something else than a trace"));
    }
    if about.len() < full {
        return Ok((file, about.len()));
    }
    for number in (1..ROTATED).rev() {
        match rename(rotated(path, number), rotated(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    rename(path, rotated(path, 1))?;
    Ok((open()?, 0))
}

/// Whether a file that is not empty is a trace. A crash may have cut its first block.
fn begins_with_block(file: &File) -> bool {
    let mut start = MAGIC;
    let length = file.read_at(&mut start, 0).unwrap_or_default();
    length > 0 && start[..length] == MAGIC[..length]
}
