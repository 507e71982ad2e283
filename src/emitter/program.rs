//! The process `pap-heartbeat`: the emitter runs on the main thread, another thread
//! reads signals.

use std::ffi::OsString;
use std::process;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::config::{Config, Liveness};
use super::liveness::{Child, Itself, PidFile, Probe};
use super::{Emitter, Event, LivenessSource, ModeFile, command};
use crate::VERSION;
use pap_process::cli::{BUG, IO_ERROR, STOPPED};
use pap_process::logging::Log;
use pap_process::panics::on_panic_of_ours;
use pap_process::signals::{Signal, Signals, UNASKED};
use pap_process::threads;

/// Events that may wait.
const MOST_EVENTS: usize = 64;
/// How long writing the rest of the log may take.
const FLUSH: Duration = Duration::from_millis(500);

/// Sends heartbeats until the command ends or a signal asks for the stop. Returns the
/// exit code.
pub fn run(config: &Config, log: &Log, signals: Signals) -> i32 {
    end_on_panic(log);
    let (told, events) = bounded(MOST_EVENTS);
    let Config { identity, rhythm, targets, liveness, .. } = config;
    let source: Box<dyn LivenessSource> = match liveness {
        Liveness::Command(program, arguments) => match start(program, arguments, signals, told) {
            Ok(child) => Box::new(child),
            Err(code) => return code,
        },
        other => {
            let log = log.clone();
            if let Err(error) = spawn(move || obey(&signals, &log, &told)) {
                return no_thread(&error);
            }
            match other {
                Liveness::Probe(url, patience) => {
                    Box::new(Probe::new(url.clone(), *patience, &targets.roots))
                }
                Liveness::PidFile(path) => Box::new(PidFile::new(path.clone())),
                Liveness::Command(..) | Liveness::Itself => Box::new(Itself),
            }
        }
    };
    announce(config, source.as_ref());
    Emitter::new(identity, *rhythm, targets, source)
        .emergency_after(config.emergency_after)
        .mode_file(config.mode_file.clone().map(ModeFile::new))
        .status_file(config.status_file.clone(), identity)
        .run(&events)
}

/// A panic in a thread of ours ends the process.
pub(super) fn end_on_panic(log: &Log) {
    let log = log.clone();
    on_panic_of_ours(move |panic| {
        log::error!("{panic}");
        log.flush_within(FLUSH);
        process::exit(BUG);
    });
}

/// Starts the command and a thread that passes signals on to it.
fn start(
    program: &OsString,
    arguments: &[OsString],
    signals: Signals,
    told: Sender<Event>,
) -> Result<Child, i32> {
    let child = command::start(program, arguments, signals.inherited()).map_err(|(code, why)| {
        log::error!("{why}");
        code
    })?;
    let pid = child.pid;
    spawn(move || command::attend(pid, &signals, &told)).map_err(|error| {
        // Without this thread nobody would pass signals on to the command.
        let _ = i32::try_from(pid).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        no_thread(&error)
    })?;
    Ok(child)
}

/// Turns signals into events. The second request to stop ends the process.
fn obey(signals: &Signals, log: &Log, events: &Sender<Event>) {
    let mut asked_to_stop = false;
    loop {
        let caught = signals.next(|_| ());
        match caught.signal {
            // Process 1 of a container inherits the orphans of others.
            Signal::SIGCHLD => drop(command::reap(None)),
            Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGWINCH => command::tell_mode(caught, events),
            signal if UNASKED.contains(&signal) => command::not_obeyed(signal),
            // A SIGHUP from a process asks to reload, and there is nothing to reload. One
            // from the terminal says that it is gone, and ends the program.
            Signal::SIGHUP if caught.by_process => {}
            _ if asked_to_stop => {
                log.flush_within(FLUSH);
                process::exit(STOPPED);
            }
            _ => {
                asked_to_stop = true;
                // The main thread holds the other end, and ends with the process.
                let _ = events.send(Event::End { planned: true, code: STOPPED });
            }
        }
    }
}

fn announce(config: &Config, source: &dyn LivenessSource) {
    let Config { identity, rhythm, targets, liveness, .. } = config;
    log::info!(
        "pap-heartbeat {VERSION} for {} ({}), {} every {:?}",
        identity.name,
        identity.id,
        rhythm.mode,
        rhythm.interval()
    );
    let station = targets.station.as_ref().map(|(url, _)| url.as_str());
    match (&targets.collector, station) {
        (Some(collector), Some(station)) => {
            log::info!("heartbeats: to {collector}, or to {station} if the collector takes none");
        }
        (Some(url), None) => log::info!("heartbeats: to {url}"),
        (None, url) => log::info!("heartbeats: to {}", url.unwrap_or_default()),
    }
    if *liveness == Liveness::Itself {
        log::warn!(
            "no liveness source: a heartbeat only says that this process runs, not that the agent lives; \
             give --probe, --pid-file, or a command after --"
        );
    } else {
        log::info!("liveness source: {}", source.describe());
    }
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    threads::spawn("signals", work).map(drop)
}

fn no_thread(error: &std::io::Error) -> i32 {
    log::error!("cannot start a thread: {error}; check the limit on processes");
    IO_ERROR
}
