//! Signals, which we read from a descriptor instead of catching them in handlers.
//!
//! All threads block these signals, so the kernel keeps each until we read it, even
//! during a re-exec. No signal is lost.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::SigSet;
pub use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};

/// Signals that by default end a process and that nobody sends for that: other programs
/// reopen their logs or print statistics at SIGUSR1 and SIGUSR2, timers and devices send
/// SIGALRM and the like, and a file that grows beyond `ulimit -f` brings SIGXFSZ. A
/// program takes them so that they do not end it. They are blocked and not ignored: a
/// command would inherit that they are ignored, and blocked is what the mask of
/// [`Signals::inherited`] undoes.
pub const UNASKED: [Signal; 9] = [
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGSTKFLT,
    Signal::SIGXFSZ,
];

/// A signal that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Which signal.
    pub signal: Signal,
    /// `true` if a process sent the signal to us. `false` if the kernel sent it: a
    /// terminal's signals go to all processes that run in it.
    pub by_process: bool,
}

/// The signals of this process.
pub struct Signals {
    descriptor: SignalFd,
    /// The signals that were blocked before.
    inherited: SigSet,
    reading: Mutex<()>,
}

impl Signals {
    /// Takes these signals from now on. Call it before any other thread is started: a
    /// signal could end the process through a thread that does not block it.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn take(signals: &[Signal]) -> io::Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        let inherited = SigSet::thread_get_mask()?;
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&set, flags)?;
        Ok(Self { descriptor, inherited, reading: Mutex::default() })
    }

    /// The signals that were blocked before these were taken. A command inherits this
    /// mask.
    pub const fn inherited(&self) -> SigSet {
        self.inherited
    }

    /// Waits for the next signal, and calls `note` with it. A thread that waits in
    /// [`hold`](Self::hold) goes on only after that.
    pub fn next(&self, note: impl Fn(Signal)) -> Caught {
        loop {
            // If poll fails, the attempt to read tells whether there is a signal.
            let _ = poll(&mut [PollFd::from_borrowed_fd(self.descriptor.as_fd(), PollFlags::IN)], None);
            let _reading = self.hold();
            let read = self.descriptor.read_signal().ok().flatten();
            let Some(read) = read else { continue };
            let number = i32::try_from(read.ssi_signo).ok();
            if let Some(signal) = number.and_then(|number| Signal::try_from(number).ok()) {
                note(signal);
                // The kernel's own signals have codes above 0 (sigaction(2)).
                return Caught { signal, by_process: read.ssi_code <= 0 };
            }
        }
    }

    /// As long as the caller keeps this guard, signals stay in the kernel.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this process ignores a signal because it was started so, as by nohup(1). A
/// signal that is ignored and blocked would still reach the descriptor.
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

    /// The test runs in a thread of its own and sends the signal to this thread,
    /// because the threads of other tests do not block the signal.
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
