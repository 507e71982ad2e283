//! In-place upgrades: the process replaces its image by another program (re-exec)
//! and keeps its number, its port and, where both programs know the same
//! hand-over, its state and its connections. It also replaces its image by the
//! same program, to get rid of what has piled up.

use std::env;
use std::fs::File;
use std::io::{self, BufWriter, Seek as _};
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::orders::Demands;
use super::{FLUSH, StartError};
use crate::config::Config;
use crate::parts::Parts;
use crate::server::{self, ACCEPT_GATE, Server};
use pap_process::clock::monotonic;
use pap_process::reexec::{self, Connection, Image, Inherited, Memory, Seats, WRITTEN, memory, takes_ours};
use pap_process::systemd::Notifier;

/// The variable of the environment that names a hand-over.
const HANDOVER: &str = "PAP_COLLECTOR_HANDOVER";
/// Listeners that the server serves.
const LISTENERS: usize = 1;

/// How long posts to the station may take to end.
const POSTS: Duration = Duration::from_secs(1);
/// How long watchers may take to hear that they should come again.
const GOODBYES: Duration = Duration::from_millis(200);
/// How long clients may take over a big answer before the first step.
const BIG_ANSWERS: Duration = Duration::from_secs(3);
/// The attempts at one re-exec. During an attempt nobody is let in, so each is
/// short, and a client waits for 5 s at least. A machine that keeps up answers
/// the requests in hand within milliseconds. If one is still unanswered after
/// the first attempts, the last one cuts it off.
const ATTEMPTS: [Rule; 3] = [
    Rule { patience: Duration::from_secs(1), then: Then::GiveUp },
    Rule { patience: Duration::from_secs(2), then: Then::GiveUp },
    Rule { patience: Duration::from_secs(3), then: Then::CutOff },
];
/// How long everybody is let in between two attempts.
const OPEN: Duration = Duration::from_secs(2);
/// How often other demands are looked for meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How one attempt treats the requests that workers have in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    /// How long it waits for the answers.
    patience: Duration,
    /// What it does about those that are still missing.
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It leaves the re-exec to the next attempt.
    GiveUp,
    /// It does the re-exec: the kernel closes their connections.
    CutOff,
}

/// Why an attempt returned: the process still runs the same image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// The re-exec was not possible; the log says why.
    Failed,
    /// Requests were in hand, and the rule was to give up.
    Busy,
    /// Another signal came, and goes first.
    Cancelled,
}

/// What a hand-over says about a connection, beside its descriptor: nothing, as
/// everything that this image read of it is answered.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct About {}

/// What the process starts with.
pub type Start = reexec::Start<About>;

/// Takes what the process inherited. To be called once, before anything else
/// opens a descriptor.
///
/// # Errors
/// There are no descriptors left.
pub fn inherit() -> io::Result<Start> {
    Start::take(HANDOVER, LISTENERS)
}

/// Listens on what was inherited, or else on the configured address. Returns the
/// state of the former image too, if it came along.
pub fn listen(
    config: &Config,
    inherited: Inherited<About>,
) -> Result<(TcpListener, Option<File>), StartError> {
    let (listeners, state) = match inherited {
        Inherited::Nothing => (Vec::new(), None),
        Inherited::Listeners(listeners) if listeners.len() > LISTENERS => {
            return Err(StartError::Listeners(listeners.len()));
        }
        Inherited::Listeners(listeners) => (listeners, None),
        Inherited::Image(Image { listeners, state, connections }) => {
            ACCEPT_GATE.hand_on(connections.into_iter().map(|connection| connection.socket).collect());
            if listeners.len() > LISTENERS {
                // An end would lose more.
                log::error!(
                    "the former image listened on {} sockets; this program serves the first and closes the others",
                    listeners.len()
                );
            }
            (listeners, state)
        }
    };
    let listener = match listeners.into_iter().next() {
        Some(listener) => server::adopt(listener),
        None => server::bind(config.bind, config.port),
    };
    Ok((listener.map_err(StartError::Listen)?, state))
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

    /// The program that runs now, even if its file is gone.
    #[expect(clippy::unused_self, reason = "the other half of the choice")]
    pub fn itself(&self) -> Target {
        Target { path: PathBuf::from("/proc/self/exe"), takes_memory: true }
    }

    /// Whatever is at the path that we were started from, if it would start with
    /// our configuration.
    ///
    /// # Errors
    /// What keeps it from that, in words for the log.
    pub fn now_at_path(&self) -> Result<Target, String> {
        match self.path.as_deref().filter(|path| path.exists()) {
            None => Ok(self.itself()),
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

/// Replaces the image of the process by the target. Returns only if that failed,
/// or if there are other demands by then; all goes on as before.
pub fn go_on(
    program: &mut Program,
    target: &Target,
    server: &Server,
    parts: &Parts,
    notifier: &Notifier,
    demands: &Demands,
) {
    let Parts { shared, keeper, .. } = parts;
    log::info!("in-place upgrade: the process goes on in {}", target.path.display());
    if !target.takes_memory {
        let memory = match keeper.interval() {
            Some(_) => "the agents and the owed verdicts come from STATE_FILE",
            None => "the agents and the owed verdicts are forgotten, as STATE_FILE is not set",
        };
        log::warn!(
            "{} takes no hand-over that this program writes (version {WRITTEN}), so only the listener goes along: \
             connections are closed, and {memory}",
            target.path.display()
        );
    }
    // If the new image fails, a file is better than nothing.
    keeper.save(shared);
    let mut state = match memory("pap-collector-state") {
        Ok(state) => state,
        Err(error) => return log::error!("{}", failed(&target.path, &error)),
    };
    let attempt = |rule| {
        notifier.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic().reading().as_micros()));
        let outcome = try_to_go_on((program, target), server, parts, &mut state, demands, rule);
        notifier.say("READY=1");
        outcome
    };
    in_attempts(attempt, || {
        log::info!("in-place upgrade: requests are still in hand, so the next attempt follows in {OPEN:?}");
        let until = shared.clock().uptime() + OPEN;
        while shared.clock().uptime() < until && !demands.any() {
            parts.stop.wait(LOOK_EVERY);
        }
        !demands.any()
    });
}

/// Makes attempts as long as requests are in hand. `pause` says whether there is
/// to be another one.
fn in_attempts(mut attempt: impl FnMut(Rule) -> Attempt, pause: impl Fn() -> bool) {
    for rule in ATTEMPTS {
        match attempt(rule) {
            Attempt::Failed | Attempt::Cancelled => return,
            Attempt::Busy => {
                if !pause() {
                    return;
                }
            }
        }
    }
}

/// One attempt.
fn try_to_go_on(
    (program, target): (&mut Program, &Target),
    server: &Server,
    parts: &Parts,
    state: &mut File,
    demands: &Demands,
    rule: Rule,
) -> Attempt {
    let Parts { shared, observers, .. } = parts;
    server.await_slow_lane(BIG_ANSWERS, || demands.any());
    // What is being posted is waited for, so that nothing is told twice.
    shared.hold_alerts(true);
    shared.await_deliveries(POSTS, |deliveries| !deliveries.is_posting);
    // Whoever connects from now on waits for the next image.
    observers.end();
    ACCEPT_GATE.close();
    observers.await_end(rule.patience.min(GOODBYES));
    let is_quiet = server.freeze(rule.patience);
    let outcome = if !is_quiet && rule.then == Then::GiveUp {
        Attempt::Busy
    } else {
        demands.log.flush_within(FLUSH);
        if target.takes_memory {
            with_memory(program, target, server, parts, state, demands)
        } else {
            with_listeners(program, target, server, parts, demands)
        }
    };
    server.thaw();
    shared.hold_alerts(false);
    observers.resume();
    ACCEPT_GATE.open();
    outcome
}

/// Replaces the image; state and connections go along.
fn with_memory(
    program: &mut Program,
    target: &Target,
    server: &Server,
    parts: &Parts,
    state: &mut File,
    demands: &Demands,
) -> Attempt {
    // From here on no heartbeat is taken by this image. The file is memory, so
    // nothing is waited for under the lock.
    parts.shared.with(|registry, now| {
        let _signals = demands.signals.hold();
        if let Err(error) = write(state, &mut |out| parts.keeper.write(&mut |step| step(registry, now), out))
        {
            log::error!(
                "{}",
                failed(&target.path, &format_args!("the state cannot be handed over: {error}"))
            );
            return Attempt::Failed;
        }
        let sockets = server.not_begun().into_iter();
        let connections: Vec<_> = sockets.map(|socket| Connection { socket, about: About {} }).collect();
        exec(program, target, server, demands, Some(&Memory { state, connections: &connections }))
    })
}

/// Saves the state and replaces the image; only the listener goes along.
fn with_listeners(
    program: &mut Program,
    target: &Target,
    server: &Server,
    parts: &Parts,
    demands: &Demands,
) -> Attempt {
    // While requests are frozen, no heartbeat comes after this.
    if !parts.keeper.save(&parts.shared) {
        log::error!("{}", failed(&target.path, &"it would forget what STATE_FILE does not hold"));
        return Attempt::Failed;
    }
    let _signals = demands.signals.hold();
    exec(program, target, server, demands, None)
}

/// Replaces the image. To be called while signals are held: one that was read
/// would be lost with this image.
fn exec(
    program: &mut Program,
    target: &Target,
    server: &Server,
    demands: &Demands,
    memory: Option<&Memory<'_, About>>,
) -> Attempt {
    if demands.any() {
        return Attempt::Cancelled;
    }
    let listeners = [server.listener().as_fd()];
    let error = reexec::replace(&target.path, HANDOVER, &mut program.seats, &listeners, memory);
    log::error!("{}", failed(&target.path, &error));
    Attempt::Failed
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_hand_is_cut_off_only_at_last() {
        let made = |outcomes: &[Attempt], pauses: bool| {
            let (mut made, mut outcomes) = (Vec::new(), outcomes.iter());
            in_attempts(
                |rule| {
                    made.push((rule.patience.as_secs(), rule.then));
                    *outcomes.next().unwrap()
                },
                || pauses,
            );
            made
        };
        let (first, second, last) = ((1, Then::GiveUp), (2, Then::GiveUp), (3, Then::CutOff));
        assert_eq!(made(&[Attempt::Failed], true), [first]);
        assert_eq!(made(&[Attempt::Cancelled], true), [first]);
        assert_eq!(made(&[Attempt::Busy, Attempt::Failed], true), [first, second]);
        assert_eq!(made(&[Attempt::Busy, Attempt::Busy, Attempt::Failed], true), [first, second, last]);
        assert_eq!(made(&[Attempt::Busy], false), [first], "there are other demands");
    }
}
