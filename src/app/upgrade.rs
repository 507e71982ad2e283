//! In-place upgrades: the process replaces its program by another one (re-exec)
//! and keeps its number, its ports and, where both programs know the same
//! hand-over, its state and its connections.

use std::env;
use std::fs::File;
use std::io::{self, BufWriter, Seek as _};
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pap_core::time::millis;
use pap_http::listener;
use pap_http::server::Adopted;
use pap_process::clock::monotonic;
use pap_process::reexec::{self, Image, Inherited, Memory, Seats, WRITTEN, memory, takes_ours};
use pap_process::systemd::Notifier;
use serde::{Deserialize, Serialize};

use super::orders::Demands;
use super::{FLUSH, Server, StartError};
use crate::config::Config;
use crate::parts::Parts;

/// The variable of the environment that names a hand-over.
const HANDOVER: &str = "PAP_COLLECTOR_HANDOVER";
/// The most sockets that a process listens on.
const MOST_LISTENERS: usize = 8;
/// How long posts to the station may take to end.
const POSTS: Duration = Duration::from_secs(1);
/// How long observers may take to hear that they should come again.
const GOODBYES: Duration = Duration::from_millis(200);
/// How long clients may take over an answer that a lane gives; the event loops
/// serve everybody else meanwhile. Then their connections are closed.
const BIG_ANSWERS: Duration = Duration::from_secs(3);
/// How long the event loops may take to end their turns.
const STANDSTILL: Duration = Duration::from_secs(1);
/// How often other demands are looked for meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a hand-over says about a connection, beside its descriptor.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// What was read and is not answered.
    read: Vec<u8>,
    /// What was answered and is not sent.
    unsent: Vec<u8>,
    /// How long ago the first byte of the unfinished request came.
    request_age_ms: Option<u64>,
    /// A whole request was read of it.
    has_asked: bool,
    /// It ends when all is sent.
    is_ending: bool,
}

/// What the process starts with.
pub type Start = reexec::Start<About>;

/// Takes what the process inherited. To be called once, before anything else
/// opens a descriptor.
///
/// # Errors
/// There are no descriptors left.
pub fn inherit() -> io::Result<Start> {
    Start::take(HANDOVER, MOST_LISTENERS)
}

/// What the process listens on, and what came along from the former program.
pub struct Inheritance {
    /// The sockets to serve; all of them.
    pub listeners: Vec<TcpListener>,
    /// The former program's state.
    pub state: Option<File>,
    /// The former program's connections.
    pub connections: Vec<Adopted>,
}

/// Listens on what was inherited, or else on the configured address.
///
/// # Errors
/// The address cannot be listened on, or there are too many sockets.
pub fn listen(config: &Config, inherited: Inherited<About>) -> Result<Inheritance, StartError> {
    let (listeners, state, connections) = match inherited {
        Inherited::Nothing => (Vec::new(), None, Vec::new()),
        Inherited::Listeners(listeners) => (listeners, None, Vec::new()),
        Inherited::Image(Image { listeners, state, connections }) => (listeners, state, connections),
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
    let connections = connections.into_iter().map(|connection| {
        let About { read, unsent, request_age_ms, has_asked, is_ending } = connection.about;
        Adopted {
            descriptor: connection.socket,
            input: read,
            output: unsent,
            request_age: request_age_ms.map(Duration::from_millis),
            has_asked,
            is_ending,
        }
    });
    Ok(Inheritance { listeners: adopted, state, connections: connections.collect() })
}

/// What an image of this process is made of.
pub struct Program {
    path: Option<PathBuf>,
    seats: Seats,
}

/// A program that the process may go on in.
pub struct Target {
    path: PathBuf,
    /// Whether it takes the hand-over that we write.
    takes_memory: bool,
}

impl Program {
    /// To be made at the start: later the file may have been replaced.
    pub fn new(seats: Seats) -> Self {
        Self { path: env::current_exe().ok(), seats }
    }

    /// Whatever is at the path that we were started from, if it would start with
    /// our configuration.
    ///
    /// # Errors
    /// What keeps it from that, in words for the log.
    pub fn now_at_path(&self) -> Result<Target, String> {
        match self.path.as_deref().filter(|path| path.exists()) {
            // Its file is gone, and it still runs.
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

/// What the program at `path` says about our configuration.
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

/// Replaces the program of the process by the target. Returns only if that failed,
/// or if there are other demands by then; all goes on as before.
pub fn go_on(
    program: &mut Program,
    target: &Target,
    server: &Server,
    parts: &Parts,
    notifier: &Notifier,
    demands: &Demands,
) {
    let Parts { shared, keeper, observers, .. } = parts;
    log::info!("in-place upgrade: the process goes on in {}", target.path.display());
    if !target.takes_memory {
        let memory = match keeper.interval() {
            Some(_) => "the agents and the owed verdicts come from STATE_FILE",
            None => "the agents and the owed verdicts are forgotten, as STATE_FILE is not set",
        };
        log::warn!(
            "{} takes no hand-over that this program writes (version {WRITTEN}), so only the listeners go \
             along: connections are closed, and {memory}",
            target.path.display()
        );
    }
    // If the next program fails, a file is better than nothing.
    keeper.save(shared);
    let mut state = match memory("pap-collector-state") {
        Ok(state) => state,
        Err(error) => return log::error!("{}", failed(&target.path, &error)),
    };
    notifier.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic().reading().as_micros()));
    // What is being posted is waited for, so that nothing is told twice.
    shared.hold_alerts(true);
    observers.end();
    shared.await_deliveries(POSTS, |deliveries| !deliveries.is_posting);
    observers.await_end(GOODBYES);
    await_lanes(server, parts, demands);
    demands.log.flush_within(FLUSH);
    if let Some(standstill) = server.stand_still(STANDSTILL, target.takes_memory) {
        let connections: Vec<_> = standstill
            .connections
            .iter()
            .map(|parked| {
                let about = About {
                    read: parked.input.clone(),
                    unsent: parked.output.clone(),
                    request_age_ms: parked.request_age.map(millis),
                    has_asked: parked.has_asked,
                    is_ending: parked.is_ending,
                };
                (parked.descriptor, about)
            })
            .collect();
        if target.takes_memory {
            with_memory(program, target, server, parts, (&mut state, &connections), demands);
        } else {
            with_listeners(program, target, server, parts, demands);
        }
    } else {
        log::error!("{}", failed(&target.path, &"an event loop does not end its turn"));
    }
    shared.hold_alerts(false);
    observers.resume();
    notifier.say("READY=1");
}

/// Waits until no client is being answered on a lane, or until there are other
/// demands.
fn await_lanes(server: &Server, parts: &Parts, demands: &Demands) {
    let began = monotonic();
    while !server.are_lanes_free() && !demands.any() && monotonic().since(began) < BIG_ANSWERS {
        parts.stop.wait(LOOK_EVERY);
    }
}

/// Replaces the program; state and connections go along.
fn with_memory(
    program: &mut Program,
    target: &Target,
    server: &Server,
    parts: &Parts,
    (state, connections): (&mut File, &[(i32, About)]),
    demands: &Demands,
) {
    // The file is memory, so nothing is waited for under the lock.
    parts.shared.with(|registry, now| {
        let _signals = demands.signals.hold();
        match write(state, &mut |out| parts.keeper.write(&mut |step| step(registry, now), out)) {
            Ok(()) => exec(program, target, server, demands, Some(&Memory { state, connections })),
            Err(error) => {
                let why = format!("the state cannot be handed over: {error}");
                log::error!("{}", failed(&target.path, &why));
            }
        }
    });
}

/// Saves the state and replaces the program; only the listeners go along.
fn with_listeners(program: &mut Program, target: &Target, server: &Server, parts: &Parts, demands: &Demands) {
    // While the event loops stand still, no heartbeat comes after this.
    if parts.keeper.save(&parts.shared) {
        let _signals = demands.signals.hold();
        exec(program, target, server, demands, None);
    } else {
        log::error!("{}", failed(&target.path, &"it would forget what STATE_FILE does not hold"));
    }
}

/// Replaces the program. To be called while signals are held: one that was read
/// would be lost with this program.
fn exec(
    program: &mut Program,
    target: &Target,
    server: &Server,
    demands: &Demands,
    memory: Option<&Memory<'_, About>>,
) {
    if demands.any() {
        return;
    }
    let listeners: Vec<_> = server.listeners().iter().map(|listener| listener.as_fd()).collect();
    let error = reexec::replace(&target.path, HANDOVER, &mut program.seats, &listeners, memory);
    log::error!("{}", failed(&target.path, &error));
}

/// Writes to a file from its start on, and leaves it ready to be read.
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
