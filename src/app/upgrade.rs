//! In-place upgrades: the process replaces its program by another one (re-exec)
//! and keeps its number, its ports and, where both programs know the same
//! hand-over, its state and its connections.

use std::env;
use std::fs::File;
use std::io::{self, BufWriter, Seek as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pap_core::time::millis;
use pap_http::listener;
use pap_http::server::{Adopted, Carried};
use pap_process::clock::monotonic;
use pap_process::reexec::{self, Image, Inherited, Memory, Seats, WRITTEN, memory, takes_ours};
use pap_process::systemd::Notifier;
use serde::{Deserialize, Serialize};

use super::orders::Demands;
use super::{Doors, FLUSH, StartError};
use crate::config::Config;
use crate::parts::Parts;

/// The variable of the environment that names a hand-over.
const HANDOVER: &str = "PAP_COLLECTOR_HANDOVER";
/// The most sockets that a process listens on.
const MOST_LISTENERS: usize = 8;
/// How long posts to the station may take to end.
const POSTS: Duration = Duration::from_secs(1);
/// How long it may take until the observers' streams are closed.
const GOODBYES: Duration = Duration::from_millis(200);
/// How long clients may take to read an answer from a lane. Meanwhile the event
/// loops serve all other clients. After this time such connections are closed.
const BIG_ANSWERS: Duration = Duration::from_secs(3);
/// How long answers may take that came to a lane after all, while the event loops stand
/// still.
const LATE_ANSWERS: Duration = Duration::from_millis(200);
/// How long the event loops may take to end their turns.
const STANDSTILL: Duration = Duration::from_secs(1);
/// How often this thread looks for other demands while it waits for the lanes.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a hand-over says about a connection, besides its descriptor.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub struct About {
    /// Bytes that were read and are not answered.
    read: Vec<u8>,
    /// Bytes of answers that are not sent.
    unsent: Vec<u8>,
    /// How long ago the first byte of an incomplete request arrived.
    request_age_ms: Option<u64>,
    /// A whole request was read from it.
    has_asked: bool,
    /// It is closed when everything is sent,
    is_ending: bool,
    /// and the client may still be sending then.
    lingers: bool,
    /// The client of its incomplete request got a 100.
    said_continue: bool,
    /// How long ago it was opened or last answered.
    idle_age_ms: u64,
    /// For how long the client has not taken all of its answers.
    unsent_age_ms: Option<u64>,
}

impl From<&Carried> for About {
    fn from(carried: &Carried) -> Self {
        Self {
            read: carried.input.clone(),
            unsent: carried.output.clone(),
            request_age_ms: carried.request_age.map(millis),
            has_asked: carried.has_asked,
            is_ending: carried.is_ending,
            lingers: carried.lingers,
            said_continue: carried.said_continue,
            idle_age_ms: millis(carried.idle_age),
            unsent_age_ms: carried.unsent_age.map(millis),
        }
    }
}

impl From<About> for Carried {
    fn from(about: About) -> Self {
        Self {
            input: about.read,
            output: about.unsent,
            request_age: about.request_age_ms.map(Duration::from_millis),
            idle_age: Duration::from_millis(about.idle_age_ms),
            unsent_age: about.unsent_age_ms.map(Duration::from_millis),
            has_asked: about.has_asked,
            said_continue: about.said_continue,
            is_ending: about.is_ending,
            lingers: about.lingers,
        }
    }
}

/// What the process starts with.
pub type Start = reexec::Start<About>;

/// Takes what the process inherited. Call it once, before anything else opens a
/// descriptor.
///
/// # Errors
/// There are no descriptors left.
pub fn inherit() -> io::Result<Start> {
    Start::take(HANDOVER, MOST_LISTENERS)
}

/// What the process listens on, and what the former program has handed over.
pub struct Inheritance {
    /// All sockets that the server is to serve.
    pub listeners: Vec<TcpListener>,
    /// The former program's admin socket.
    pub admin: Option<OwnedFd>,
    /// The former program's state.
    pub state: Option<File>,
    /// The former program's connections.
    pub connections: Vec<Adopted>,
}

/// Listens on the inherited sockets, or, without any, on the configured address.
///
/// # Errors
/// The process cannot listen on the address, or it inherited too many sockets.
pub fn listen(config: &Config, inherited: Inherited<About>) -> Result<Inheritance, StartError> {
    let (listeners, admin, state, connections) = match inherited {
        Inherited::Nothing => (Vec::new(), None, None, Vec::new()),
        Inherited::Listeners(listeners) => (listeners, None, None, Vec::new()),
        Inherited::Image(Image { listeners, local, state, connections }) => {
            (listeners, local, state, connections)
        }
    };
    if listeners.len() > MOST_LISTENERS {
        return Err(StartError::Listeners(listeners.len()));
    }
    let mut adopted = listeners
        .into_iter()
        .map(listener::adopt)
        .collect::<io::Result<Vec<_>>>()
        .map_err(StartError::Listen)?;
    if adopted.is_empty() {
        adopted.push(listener::bind(config.bind, config.port).map_err(StartError::Listen)?);
    }
    let connections = connections
        .into_iter()
        .map(|connection| Adopted { descriptor: connection.socket, carried: connection.about.into() });
    Ok(Inheritance { listeners: adopted, admin, state, connections: connections.collect() })
}

/// What an in-place upgrade needs to know about the program that runs now.
pub struct Program {
    path: Option<PathBuf>,
    seats: Seats,
}

/// A program to which the process may upgrade.
pub struct Target {
    path: PathBuf,
    /// Whether it reads the hand-over that this program writes.
    takes_memory: bool,
}

impl Program {
    /// Call it at the start: later, another program may be at the same path.
    pub fn new(seats: Seats) -> Self {
        Self { path: env::current_exe().ok(), seats }
    }

    /// The program at the path from which this one was started, if it accepts the
    /// configuration of this collector.
    ///
    /// # Errors
    /// Why it cannot be started, in words for the log.
    pub fn now_at_path(&self) -> Result<Target, String> {
        match self.path.as_deref().filter(|path| path.exists()) {
            // The file of the running program is gone from its path, but the kernel still has it.
            None => Ok(Target { path: PathBuf::from("/proc/self/exe"), takes_memory: true }),
            Some(path) => match check(path) {
                Ok(says) => Ok(Target { path: path.to_owned(), takes_memory: takes_ours(&says) }),
                Err(error) => Err(failed(path, &error)),
            },
        }
    }
}

fn failed(program: &Path, why: &dyn std::fmt::Display) -> String {
    format!("the in-place upgrade failed: {} cannot be run: {why}", program.display())
}

/// What the program at `path` says about the configuration of this collector.
///
/// # Errors
/// It refuses the configuration, or says nothing.
fn check(path: &Path) -> Result<String, String> {
    let output = Command::new(path).args(env::args_os().skip(1)).arg("--check-config").output();
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Replaces the program of the process by the target. Returns only if the re-exec
/// failed, or if another signal came first; then the collector goes on as before.
pub fn go_on(
    program: &mut Program,
    target: &Target,
    doors: &Doors,
    parts: &Parts,
    notifier: &Notifier,
    demands: &Demands,
) {
    let Parts { shared, keeper, observers, .. } = parts;
    log::info!("in-place upgrade: replacing this program by {}", target.path.display());
    if !target.takes_memory {
        let memory = match keeper.interval() {
            Some(_) => "the agents and the owed verdicts come from STATE_FILE",
            None => "the agents and the owed verdicts are forgotten, because STATE_FILE is not set",
        };
        log::warn!(
            "{} does not read the hand-over of this program (version {WRITTEN}), so it gets only the \
             listeners: connections are closed, and {memory}",
            target.path.display()
        );
    }
    // If the next program fails at its start, the state is at least in the file.
    keeper.save(shared);
    let mut state = match memory("pap-collector-state") {
        Ok(state) => state,
        Err(error) => return log::error!("{}", failed(&target.path, &error)),
    };
    notifier.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic().reading().as_micros()));
    // A post that is cut off would be told twice, so wait for those under way.
    shared.hold_alerts(true);
    observers.end();
    shared.await_deliveries(POSTS, |deliveries| !deliveries.is_posting);
    observers.await_end(GOODBYES);
    await_answers(doors, parts, demands);
    demands.log.flush_within(FLUSH);
    if let Some(standstill) = doors.server.stand_still(STANDSTILL, LATE_ANSWERS, target.takes_memory) {
        if parts.is_traced {
            shared.trace_calls().await_written(FLUSH);
        }
        let connections: Vec<_> = standstill
            .connections
            .iter()
            .map(|parked| (parked.descriptor, About::from(&parked.carried)))
            .collect();
        if target.takes_memory {
            with_memory(program, target, doors, parts, (&mut state, &connections), demands);
        } else {
            with_listeners(program, target, doors, parts, demands);
        }
    } else {
        log::error!("{}", failed(&target.path, &"an event loop did not end its turn in time"));
    }
    shared.hold_alerts(false);
    observers.resume();
    notifier.say("READY=1");
}

/// Waits until no answer is under way or another signal came, and at most for
/// [`BIG_ANSWERS`].
fn await_answers(doors: &Doors, parts: &Parts, demands: &Demands) {
    let began = monotonic();
    while !doors.are_free() && !demands.any() && monotonic().since(began) < BIG_ANSWERS {
        parts.stop.wait(LOOK_EVERY);
    }
}

/// Replaces the program; it gets the listeners, the state and the connections.
fn with_memory(
    program: &mut Program,
    target: &Target,
    doors: &Doors,
    parts: &Parts,
    (state, connections): (&mut File, &[(i32, About)]),
    demands: &Demands,
) {
    let local = doors.admin.as_ref().map(|admin| admin.listener());
    // The file is memory, so writing to it does not wait while the lock is held.
    parts.shared.with(|registry, now| {
        let _signals = demands.signals.hold();
        match write(state, &mut |out| parts.keeper.write(&mut |step| step(registry, now), out)) {
            Ok(()) => exec(program, target, doors, demands, Some(&Memory { local, state, connections })),
            Err(error) => {
                let why = format!("the state cannot be handed over: {error}");
                log::error!("{}", failed(&target.path, &why));
            }
        }
    });
}

/// Saves the state and replaces the program; it gets only the listeners.
fn with_listeners(program: &mut Program, target: &Target, doors: &Doors, parts: &Parts, demands: &Demands) {
    // The event loops stand still, so no heartbeat is taken after this save.
    if parts.keeper.save_last(&parts.shared) {
        let signals = demands.signals.hold();
        exec(program, target, doors, demands, None);
        drop(signals);
        // The upgrade failed and agents are heard again, so this was not the last save.
        parts.keeper.save(&parts.shared);
    } else {
        log::error!(
            "{}",
            failed(&target.path, &"it would forget the agents, because STATE_FILE cannot be written")
        );
    }
}

/// Replaces the program. Call it while signals are held: a signal that this program reads
/// now would be lost.
fn exec(
    program: &mut Program,
    target: &Target,
    doors: &Doors,
    demands: &Demands,
    memory: Option<&Memory<'_, About>>,
) {
    if demands.any() {
        return;
    }
    let listeners: Vec<_> = doors.server.listeners().iter().map(|listener| listener.as_fd()).collect();
    let error = reexec::replace(&target.path, HANDOVER, &mut program.seats, &listeners, memory);
    log::error!("{}", failed(&target.path, &error));
}

/// Overwrites a file from its start, and rewinds it for the reader.
fn write(
    file: &mut File,
    work: &mut dyn FnMut(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    let mut out = BufWriter::with_capacity(64 * 1024, &mut *file);
    work(&mut out)?;
    out.into_inner()?.rewind()
}
