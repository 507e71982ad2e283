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
    /// What was blocked before.
    inherited: SigSet,
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
        let inherited = SigSet::thread_get_mask()?;
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&set, flags)?;
        Ok(Self { descriptor, inherited, reading: Mutex::default() })
    }

    /// What was blocked before these were taken: what a command is to inherit.
    pub const fn inherited(&self) -> SigSet {
        self.inherited
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

/// Whether this process was started with a signal ignored, as nohup(1) does
/// it. One that is blocked would come all the same.
pub fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use crossbeam_channel::bounded;
    use nix::sys::signal::raise;

    use super::*;

    /// All in a thread of its own, which sends the signal to itself: those of
    /// the other tests do not block it.
    #[test]
    fn who_holds_signals_back_knows_of_all_that_were_read() {
        let (give, given) = bounded(1);
        let (go, went) = bounded::<()>(1);
        let (tell, told) = bounded(1);
        let (permit, permitted) = bounded::<()>(1);
        let reader = thread::spawn(move || {
            let signals = Arc::new(Signals::take(&[Signal::SIGUSR1]).unwrap());
            give.send(Arc::clone(&signals)).unwrap();
            went.recv().unwrap();
            raise(Signal::SIGUSR1).unwrap();
            signals.next(|signal| {
                tell.send(signal).unwrap();
                permitted.recv().unwrap();
            })
        });
        let signals = given.recv().unwrap();
        let guard = signals.hold();
        go.send(()).unwrap();
        let early = told.recv_timeout(Duration::from_millis(100));
        assert!(early.is_err(), "it is not read as long as signals are held back");
        drop(guard);
        assert_eq!(told.recv(), Ok(Signal::SIGUSR1));
        assert!(signals.reading.try_lock().is_err(), "nobody goes on before it is noted");
        permit.send(()).unwrap();
        assert_eq!(reader.join().unwrap(), Caught { signal: Signal::SIGUSR1, by_process: true });
        drop(signals.hold());
    }
}
