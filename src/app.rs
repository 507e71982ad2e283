//! The process: starts, names, stops and joins the threads, in order, and
//! goes on in another image where it must.

mod edge_watch;
mod orders;
mod parent;
mod service_manager;
mod upgrade;

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use pap_core::alert::Alert;
use pap_process::cli::{BAD_CONFIG, BUG, IO_ERROR};
use pap_process::logging::Log;
use pap_process::panics;
use pap_process::signals::Signals;
use pap_process::systemd::Notifier;
use pap_process::threads::{Threads, spawn};
use pap_process::throttle::Throttle;

use crate::alert_client::AlertClient;
use crate::alerter::{self, Posting};
use crate::api::Api;
use crate::config::Config;
use crate::limits;
use crate::parts::Parts;
use crate::readiness::Phase;
use crate::{VERSION, sweeper};
pub use orders::SIGNALS;
use orders::{Demands, Order};
use parent::Parent;
use upgrade::Inheritance;
use upgrade::Program;
pub use upgrade::{Start, inherit};

/// How long the alerts may take to go out when the process is to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the threads may take to end after that.
const JOIN: Duration = Duration::from_secs(3);
/// How long observers may take to hear of it.
const GOODBYES: Duration = Duration::from_secs(1);
/// How long the log may take to go out.
const FLUSH: Duration = Duration::from_millis(500);

/// Why the process could not start.
#[derive(Debug)]
pub enum StartError {
    /// It cannot listen on its port.
    Listen(io::Error),
    /// systemd passed this many sockets, and the server serves one.
    Listeners(usize),
    /// It cannot start a thread.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => {
                write!(f, "cannot listen: {error}; check COLLECTOR_PORT and COLLECTOR_BIND")
            }
            Self::Listeners(count) => write!(
                f,
                "LISTEN_FDS is {count}, more sockets than can be served; remove some ListenStream= from the \
                 .socket unit (a port alone serves IPv4 and IPv6)"
            ),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}; check the limit on processes"),
        }
    }
}

impl StartError {
    /// The exit code of the process.
    pub const fn code(&self) -> i32 {
        match self {
            Self::Listen(_) | Self::Thread(_) => IO_ERROR,
            Self::Listeners(_) => BAD_CONFIG,
        }
    }
}

/// Runs the collector until it is told to stop.
///
/// # Errors
/// What kept it from starting. Nothing is left running.
pub fn run(config: &Config, log: &Log, signals: Signals, inherited: Start) -> Result<(), StartError> {
    end_on_panic(log);
    for remark in &inherited.remarks {
        log::warn!("{remark}");
    }
    let mut program = Program::new(inherited.seats);
    let Inheritance { listeners, state, connections } = upgrade::listen(config, inherited.inherited)?;
    limits::raise_descriptor_limit();
    let (demands, orders) = orders::obey(signals, log).map_err(StartError::Thread)?;
    let parts = Arc::new(Parts::new(config, state.as_ref()));
    let continues = state.is_some();
    if continues {
        // Whoever asks between two images learns nothing of the change.
        parts.readiness.enter(Phase::Ready);
    }
    // It is memory, as much as the state.
    drop(state);
    let server = Arc::new(serve(config, listeners, &parts).map_err(StartError::Listen)?);
    server.adopt(connections);
    announce(config, &server, continues);

    let mut threads = Threads::default();
    let (notifier, parent) = start(config, &parts, &server, &mut threads).map_err(StartError::Thread)?;
    parts.readiness.enter(Phase::Ready);
    notifier.say("READY=1");

    carry_out(&orders, &mut program, &server, &parts, &notifier, &demands);

    log::info!("stopping: finishing what is in hand");
    notifier.say("STOPPING=1");
    parent.say_goodbye();
    parts.readiness.enter(Phase::Draining);
    if !parts.shared.await_deliveries(DRAIN, |deliveries| deliveries.is_done) {
        let owed = parts.shared.with(|registry, _| registry.outbox().owed());
        log::warn!("stopping with {owed} verdicts still owed to the station");
    }
    parent.await_end();
    parts.stop.stop();
    parts.shared.wake();
    parts.observers.end();
    server.stop();
    parts.observers.await_end(GOODBYES);
    if let Err(late) = threads.join(JOIN) {
        // One of the slow lanes may still have a client that takes its time.
        log::warn!("threads that do not end in time: {}", late.join(", "));
    }
    parts.keeper.save(&parts.shared);
    log::info!("stopped");
    Ok(())
}

/// The server of a collector's API.
pub type Server = pap_http::server::Server<Api>;

/// Makes the server.
fn serve(config: &Config, listeners: Vec<TcpListener>, parts: &Arc<Parts>) -> io::Result<Server> {
    let most = limits::most_connections(config.max_connections, config.max_observers);
    let api = Arc::new(Api::new(config, Arc::clone(parts)));
    let server = Server::new(api, listeners, config.http_workers, most)?;
    server.service().count_connections(server.counter());
    Ok(server)
}

/// Starts all threads, those first that others hand their work to.
fn start(
    config: &Config,
    parts: &Arc<Parts>,
    server: &Arc<Server>,
    threads: &mut Threads,
) -> io::Result<(Arc<Notifier>, Parent)> {
    let senders = start_senders(config, parts)?;
    let (swept, longest_sleep) = (Arc::clone(parts), config.longest_sleep);
    threads.spawn("sweeper", move || sweeper::run(&swept, &senders, longest_sleep))?;
    server.start(threads)?;
    let (watched, watching) = (Arc::clone(server), Arc::clone(parts));
    threads.spawn("watch", move || edge_watch::run(&watched, &watching))?;
    if let Some(interval) = parts.keeper.interval() {
        let parts = Arc::clone(parts);
        threads.spawn("state", move || parts.keeper.run(&parts.shared, &parts.stop, interval))?;
    }
    let notifier = Arc::new(Notifier::from_environment());
    if notifier.is_on() {
        let (notifier, parts) = (Arc::clone(&notifier), Arc::clone(parts));
        threads.spawn("systemd", move || service_manager::report(&notifier, &parts))?;
    }
    Ok((notifier, Parent::start(config.parent.as_ref(), parts)?))
}

/// Starts the threads that post alerts. They are not joined: at the end one may
/// still wait for the station.
fn start_senders(config: &Config, parts: &Arc<Parts>) -> io::Result<Sender<Alert>> {
    let count = config.rules.outbox.senders;
    let (senders, alerts) = bounded(count);
    let station = AlertClient::new(config, parts.keeper.owner().clone());
    let posting = Arc::new(Posting { station, troubles: Throttle::default() });
    for number in 0..count {
        let (parts, posting, alerts) = (Arc::clone(parts), Arc::clone(&posting), alerts.clone());
        spawn(&format!("alerter-{number}"), move || alerter::run(&parts, &posting, number, &alerts))?;
    }
    Ok(senders)
}

/// Carries out orders until one is to stop.
fn carry_out(
    orders: &Receiver<Order>,
    program: &mut Program,
    server: &Server,
    parts: &Parts,
    notifier: &Notifier,
    demands: &Demands,
) {
    // The thread that reads signals keeps the other end open.
    for order in orders {
        match order {
            Order::Stop => return,
            Order::Upgrade => {
                demands.begin_upgrade();
                match program.now_at_path() {
                    Ok(target) => upgrade::go_on(program, &target, server, parts, notifier, demands),
                    Err(error) => log::error!("{error}"),
                }
            }
        }
        if demands.is_stop_asked() {
            return;
        }
    }
}

/// A panic in a thread of ours ends the process: a collector that is half dead
/// is worse than one that is started again.
fn end_on_panic(log: &Log) {
    let log = log.clone();
    panics::on_panic_of_ours(move |panic| {
        log::error!("{panic}");
        log.flush_within(FLUSH);
        process::exit(BUG);
    });
}

fn announce(config: &Config, server: &Server, continues: bool) {
    log::info!(
        "pap-collector {VERSION} for cluster {} ({})",
        config.cluster_id,
        config.cluster_name.escape_debug()
    );
    let how = if continues { ", going on where the former image stopped" } else { "" };
    for address in server.addresses() {
        log::info!("listening on {address}{how}");
    }
    let rules = &config.rules;
    match &config.station {
        Some(station) => log::info!(
            "alerts: to {}, {} at once, recoveries {}",
            station.url,
            rules.outbox.senders,
            if rules.recovery_alerts { "told" } else { "not told" },
        ),
        None => log::info!("alerts: to this log"),
    }
    log::info!(
        "at most {} agents on {} connections, dead after 2 intervals + {:?}, forgotten after {:?}",
        rules.max_agents,
        server.most_connections(),
        rules.grace,
        rules.retention
    );
    match &config.state {
        Some(state) => log::info!("state: in {}, every {:?}", state.path.display(), state.interval),
        None => log::info!("state: not saved, a restart forgets (STATE_FILE is not set)"),
    }
    if let Some(parent) = &config.parent {
        let (id, every) = (&parent.identity.id, parent.rhythm.interval());
        let url = parent.targets.collector.as_deref().unwrap_or_default();
        log::info!("beating as {id} to {url}, every {every:?}");
    }
    if config.max_connections.is_some_and(|wanted| server.most_connections() < wanted) {
        log::warn!(
            "COLLECTOR_MAX_CONNECTIONS is lowered to {}: there are no descriptors for more (ulimit -n)",
            server.most_connections()
        );
    }
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
}
