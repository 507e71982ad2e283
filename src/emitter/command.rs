//! Runs the agent as a command: starts it, passes signals on, and waits for its end.
//! As process 1 of a container, `pap-heartbeat` also reaps orphans of other processes.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use crossbeam_channel::Sender;
use nix::sys::signal::{SigHandler, SigSet, kill, signal};
use nix::unistd::{Pid, getpgid, getpgrp};
use rustix::process::{WaitOptions, wait};

use super::Event;
use super::liveness::Child;
use pap_core::heartbeat::Mode;
use pap_core::time::Monotonic;
use pap_process::clock::monotonic;
use pap_process::signals::{Caught, Signal, Signals, UNASKED, is_ignored};

/// The exit codes of a shell if a command is not found, or cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_RUN: i32 = 126;
/// A shell's exit code is this plus the number of the signal that ended a command.
const BY_SIGNAL: i32 = 128;

/// An end within this time after a SIGTERM is a planned stop.
const LONGEST_STOP: Duration = Duration::from_secs(3600);
/// The same for Ctrl-C, and shorter: many programs ask the user before they quit.
const LONGEST_INTERRUPT: Duration = Duration::from_secs(10);

/// The signals to take before the command starts. A signal that is ignored, as by
/// nohup(1), stays ignored.
pub fn signals() -> Vec<Signal> {
    let ours = [Signal::SIGTERM, Signal::SIGWINCH, Signal::SIGCHLD];
    let usual = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP];
    ours.into_iter().chain(UNASKED).chain(usual.into_iter().filter(|&signal| !is_ignored(signal))).collect()
}

/// Starts a command. It inherits `blocked` as its mask of blocked signals.
///
/// # Errors
/// The exit code, and why the command cannot be started.
#[expect(unsafe_code, reason = "our signals are blocked, and the command is not to inherit that")]
pub fn start(program: &OsString, arguments: &[OsString], blocked: SigSet) -> Result<Child, (i32, String)> {
    let name = program.to_string_lossy().into_owned();
    // SAFETY: the default action runs no code of ours. A shell may have left SIGCHLD
    // ignored; then the kernel would not report the end of the command.
    let default = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    default.map_err(|error| (NOT_RUN, format!("cannot wait for {name}: {error}")))?;
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: between fork and exec only this thread is left; pthread_sigmask
    // is one of the calls that are allowed there (signal-safety(7)).
    unsafe { command.pre_exec(move || Ok(blocked.thread_set_mask()?)) };
    match command.spawn() {
        Ok(child) => Ok(Child { pid: child.id(), name, started: monotonic() }),
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
            Err((code, format!("cannot run {name}: {error}")))
        }
    }
}

/// The mode that a signal asks for. SIGWINCH from the terminal, whose size changed,
/// asks for none.
fn mode(caught: Caught) -> Option<Mode> {
    match caught.signal {
        Signal::SIGUSR1 => Some(Mode::Emergency),
        Signal::SIGUSR2 => Some(Mode::Idle),
        Signal::SIGWINCH if caught.by_process => Some(Mode::Sleep),
        _ => None,
    }
}

/// Passes signals on until the command has ended, then sends [`Event::End`].
pub fn attend(child: u32, signals: &Signals, events: &Sender<Event>) {
    let Ok(child) = i32::try_from(child).map(Pid::from_raw) else { return };
    let mut planned_until = Monotonic::default();
    loop {
        let caught = signals.next(|_| ());
        let now = monotonic();
        let longest = match caught.signal {
            Signal::SIGCHLD => {
                if let Some(code) = reap(Some(child)) {
                    // If the receiver is gone, the process is ending anyway.
                    let planned = code == 0 || now < planned_until;
                    let _ = events.send(Event::End { planned, code });
                    return;
                }
                continue;
            }
            Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGWINCH => {
                tell_mode(caught, events);
                continue;
            }
            signal if UNASKED.contains(&signal) => {
                not_obeyed(signal);
                continue;
            }
            Signal::SIGTERM => LONGEST_STOP,
            Signal::SIGINT | Signal::SIGQUIT => LONGEST_INTERRUPT,
            _ => Duration::ZERO,
        };
        planned_until = planned_until.max(now + longest);
        // A terminal sends Ctrl-C to its whole foreground group, so the command has
        // it already. A hangup may come to us alone.
        let has_it = !caught.by_process
            && caught.signal != Signal::SIGHUP
            && getpgid(Some(child)).is_ok_and(|group| group == getpgrp());
        if !has_it {
            // The command may just have ended.
            let _ = kill(child, caught.signal);
        }
        if caught.signal == Signal::SIGTERM {
            // The emitter holds the other end until this loop sends the end.
            let _ = events.send(Event::Leaving);
        }
    }
}

/// Says that a signal changes nothing. It is not passed on either: most programs do not
/// expect it, and it would end them.
pub fn not_obeyed(signal: Signal) {
    log::info!("{signal} is not obeyed");
}

/// Sends the mode that a signal asks for, if any. If the channel is full, many other
/// modes wait already, and this one is dropped.
pub fn tell_mode(caught: Caught, events: &Sender<Event>) {
    if let Some(mode) = mode(caught) {
        let _ = events.try_send(Event::Mode(mode));
    }
}

/// Reaps all children that have ended. Returns the exit code of `child` if it is one
/// of them.
pub fn reap(child: Option<Pid>) -> Option<i32> {
    let mut result = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if child.is_some_and(|child| child.as_raw() == pid.as_raw_pid()) {
            let by_signal = status.terminating_signal().map(|signal| BY_SIGNAL + signal);
            result = status.exit_status().or(by_signal).or(result);
        }
    }
    result
}
