//! Signals, read from a descriptor instead of caught by handlers.
//!
//! They are blocked in all threads, so the kernel keeps them until they are
//! read, also while the process goes on in another image: none is lost.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::SigSet;
pub use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};

/// A signal that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Which.
    pub signal: Signal,
    /// Whether a process sent it, to us; a terminal sends its signals to all
    /// that run in it.
    pub by_process: bool,
}

/// The signals of this process.
pub struct Signals {
    descriptor: SignalFd,
    reading: Mutex<()>,
}

impl Signals {
    /// Takes these signals from now on. To be called before any other thread
    /// is started: a thread that does not block them could be ended by one.
    ///
    /// # Errors
    /// The system refuses.
    pub fn take(signals: &[Signal]) -> io::Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { descriptor: SignalFd::with_flags(&set, flags)?, reading: Mutex::default() })
    }

    /// Waits for the next one. Calls `note` with it before anybody who holds
    /// signals back can go on.
    pub fn next(&self, note: impl Fn(Signal)) -> Caught {
        loop {
            // If it fails, the attempt to read says whether there is one.
            let _ = poll(&mut [PollFd::from_borrowed_fd(self.descriptor.as_fd(), PollFlags::IN)], None);
            let _reading = self.hold();
            let read = self.descriptor.read_signal().ok().flatten();
            let Some(read) = read else { continue };
            let number = i32::try_from(read.ssi_signo).ok();
            if let Some(signal) = number.and_then(|number| Signal::try_from(number).ok()) {
                note(signal);
                // Of those that we read, the kernel's own have codes above 0 (sigaction(2)).
                return Caught { signal, by_process: read.ssi_code <= 0 };
            }
        }
    }

    /// As long as this is held, signals stay in the kernel.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
