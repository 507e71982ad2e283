//! A command of ours: started, told every signal, waited for. As process 1 of
//! a container we also wait for whoever else is left behind.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crossbeam_channel::Sender;
use nix::sys::signal::{SigSet, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::Event;
use super::subject::Child;
use crate::beat::Mode;
use crate::clock::monotonic;
use crate::signals::{Caught, Signal, Signals};

/// What a shell exits with when there is no such command, or it cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_RUN: i32 = 126;
/// What a shell adds to the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;

/// The signals that are to be taken before the command is started.
pub const SIGNALS: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
];

/// Starts a command.
///
/// # Errors
/// Why it cannot be, and what to exit with.
#[expect(unsafe_code, reason = "our signals are blocked, and the command is not to inherit that")]
pub fn start(program: &OsString, arguments: &[OsString]) -> Result<Child, (i32, String)> {
    let name = program.to_string_lossy().into_owned();
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: between fork and exec only this thread is left; sigprocmask(2)
    // is one of the calls that are allowed there (signal-safety(7)).
    unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) };
    match command.spawn() {
        Ok(child) => Ok(Child { pid: child.id(), name, started: monotonic() }),
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
            Err((code, format!("cannot run {}: {error}", name.escape_debug())))
        }
    }
}

/// The mode that a signal asks for. A terminal that changes its size asks for
/// nothing.
pub fn mode(caught: Caught) -> Option<Mode> {
    match caught.signal {
        Signal::SIGUSR1 => Some(Mode::Emergency),
        Signal::SIGUSR2 => Some(Mode::Idle),
        Signal::SIGWINCH if caught.by_process => Some(Mode::Sleep),
        _ => None,
    }
}

/// Passes signals on until the command has ended, and says so.
pub fn attend(child: u32, signals: &Signals, events: &Sender<Event>) {
    let Ok(child) = i32::try_from(child).map(Pid::from_raw) else { return };
    let mut asked_to_stop = false;
    loop {
        let caught = signals.next(|_| ());
        let event = match caught.signal {
            Signal::SIGCHLD => match reap(child) {
                Some(code) => {
                    // There is nobody left to pass signals to.
                    let _ = events.send(Event::End { planned: asked_to_stop || code == 0, code });
                    return;
                }
                None => None,
            },
            Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGWINCH => mode(caught).map(Event::Mode),
            signal => {
                // What a terminal sends, it sends to the command as well.
                if caught.by_process {
                    // It may have ended a moment ago.
                    let _ = kill(child, signal);
                }
                let stops = signal != Signal::SIGHUP && !asked_to_stop;
                asked_to_stop |= stops;
                stops.then_some(Event::Leaving)
            }
        };
        if let Some(event) = event {
            // The other end is there as long as this loop is.
            let _ = events.send(event);
        }
    }
}

/// Waits for all who have ended; the exit code of `child` if it is among them.
fn reap(child: Pid) -> Option<i32> {
    let mut result = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => result = Some(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                result = Some(BY_SIGNAL + signal as i32);
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return result,
            Ok(_) => {}
        }
    }
}
