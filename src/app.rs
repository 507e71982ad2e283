//! The process: starts, names, stops and joins the threads, in order. On request
//! it starts an in-place upgrade.

mod edge_watch;
mod orders;
mod parent;
mod service_manager;
mod upgrade;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use pap_alertmanager::sender::{Alertmanager, own_url};
use pap_alertmanager::settings::Alertmanagers;
use pap_core::alert::Alert;
use pap_core::heartbeat::Mode;
use pap_core::time::Uptime;
use pap_core::verdict::dead_after;
use pap_process::cli::{BAD_CONFIG, BUG, IO_ERROR};
use pap_process::limits;
use pap_process::logging::Log;
use pap_process::panics;
use pap_process::signals::Signals;
use pap_process::systemd::Notifier;
use pap_process::threads::{Threads, spawn};
use pap_process::throttle::Throttle;

use crate::admin::{Admin, AdminError};
use crate::alert_client::AlertClient;
use crate::alerter::{self, Posting};
use crate::api::Api;
use crate::config::Config;
use crate::config::settings::STATION_ALERT_URL;
use crate::parts::Parts;
use crate::readiness::Phase;
use crate::station_link::StationLink;
use crate::trace_writer::TraceWriter;
use crate::{USER_AGENT, VERSION, conditions, sweeper};
pub use orders::signals;
use orders::{Demands, Order};
use parent::Parent;
use upgrade::Inheritance;
use upgrade::Program;
pub use upgrade::{Start, inherit};

/// How long the senders may take to post the owed alerts when the process stops.
const DRAIN: Duration = Duration::from_secs(5);
/// After SIGTERM, this long without a heartbeat means that no agent sends heartbeats here
/// any more.
const QUIET: Duration = Duration::from_secs(2);
/// How long the rest of a stop may take, in all:
const CLOSING: Duration = Duration::from_secs(3);
/// of it, until streams are closed,
const GOODBYES: Duration = Duration::from_secs(1);
/// and until the threads have ended.
const JOIN: Duration = Duration::from_secs(2);
/// How long writing the rest of the log may take.
const FLUSH: Duration = Duration::from_millis(500);

/// Why the process could not start.
#[derive(Debug)]
pub enum StartError {
    /// It cannot listen on its port.
    Listen(io::Error),
    /// The process inherited this many sockets, more than the server serves.
    Listeners(usize),
    /// It cannot listen on its admin socket.
    Admin(AdminError),
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
                "{count} sockets were inherited (LISTEN_FDS), more than the collector serves; remove some \
                 ListenStream= from the .socket unit (a port alone serves IPv4 and IPv6)"
            ),
            Self::Admin(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}; check the limit on processes"),
        }
    }
}

impl StartError {
    /// The exit code of the process.
    pub const fn code(&self) -> i32 {
        match self {
            Self::Listen(_) | Self::Thread(_) => IO_ERROR,
            Self::Listeners(_) | Self::Admin(_) => BAD_CONFIG,
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
    let Inheritance { listeners, admin, state, connections } = upgrade::listen(config, inherited.inherited)?;
    limits::raise_descriptor_limit();
    let (demands, orders) = orders::obey(signals, log).map_err(StartError::Thread)?;
    let parts = Arc::new(Parts::new(config, state.as_ref()));
    let continues = state.is_some();
    if continues {
        // A client that asks during an in-place upgrade must not see "starting".
        parts.readiness.enter(Phase::Ready);
    }
    // This file is memory, as large as the state.
    drop(state);
    let server = Arc::new(serve(config, listeners, &parts).map_err(StartError::Listen)?);
    server.adopt(connections);
    let doors = Doors { admin: open_admin(config, admin, &server)?, server };
    announce(config, &doors.server, continues);

    let mut threads = Threads::default();
    let (notifier, parent) = start(config, &parts, &doors, &mut threads).map_err(StartError::Thread)?;
    parts.readiness.enter(Phase::Ready);
    notifier.say("READY=1");

    carry_out(&orders, &mut program, &doors, &parts, &notifier, &demands);

    log::info!("stopping: answering the requests in hand and posting the owed alerts");
    notifier.say("STOPPING=1");
    let began = parts.shared.clock().uptime();
    parent.say_goodbye();
    parts.readiness.enter(Phase::Draining);
    parts.shared.recorded(|_, now, tape| tape.stopped(now));
    doors.server.drain();
    parts.keeper.save(&parts.shared);
    if !parts.shared.await_deliveries(DRAIN, |deliveries| deliveries.is_done) {
        let owed = parts.shared.with(|registry, _| registry.outbox().owed());
        log::warn!("stopping with {owed} verdicts still owed to the station");
    }
    if demands.is_grace_asked() {
        serve_on(&doors.server, &parts, began, config.shutdown_grace);
    }
    let clock = parts.shared.clock();
    parent.await_end(DRAIN.saturating_sub(clock.uptime().since(began)));
    let closing = clock.uptime();
    let left = |longest: Duration| longest.saturating_sub(clock.uptime().since(closing));
    parts.stop.stop();
    parts.shared.wake();
    parts.observers.end();
    doors.server.stop();
    parts.observers.await_end(left(GOODBYES));
    if let Err(late) = threads.join(left(JOIN)) {
        // A lane may still have a client that reads its answer slowly.
        log::warn!("stopping although these threads did not end in time: {}", late.join(", "));
    }
    parts.keeper.save_last(&parts.shared);
    if parts.is_traced && !parts.shared.trace_calls().await_written(left(CLOSING) / 2) {
        log::warn!("stopping although the end of HEARTBEAT_TRACE is not written: the disk is too slow");
    }
    log::info!("stopped");
    Ok(())
}

/// The server of a collector's API.
pub type Server = pap_http::server::Server<Api>;

/// What takes requests: the port and the admin socket.
pub struct Doors {
    /// The server of the port.
    pub server: Arc<Server>,
    /// The admin socket; None without one.
    pub admin: Option<Arc<Admin>>,
}

impl Doors {
    /// Whether no answer is under way that a client may read slowly.
    pub fn are_free(&self) -> bool {
        self.server.are_lanes_free() && self.admin.as_ref().is_none_or(|admin| admin.is_idle())
    }
}

fn open_admin(
    config: &Config,
    handed_over: Option<OwnedFd>,
    server: &Server,
) -> Result<Option<Arc<Admin>>, StartError> {
    let Some(path) = &config.admin_socket else { return Ok(None) };
    let admin = Admin::new(path, handed_over, server.service().endpoints()).map_err(StartError::Admin)?;
    log::info!("admin socket: {}", path.display());
    Ok(Some(Arc::new(admin)))
}

/// Makes the server.
fn serve(config: &Config, listeners: Vec<TcpListener>, parts: &Arc<Parts>) -> io::Result<Server> {
    let most = limits::most_connections(config.max_connections, config.max_observers);
    let api = Arc::new(Api::new(config, Arc::clone(parts)));
    let server = Server::new(api, listeners, config.http_workers, most)?;
    server.service().count_connections(server.counter());
    Ok(server)
}

/// Starts all threads. A thread that receives work starts before those that send
/// the work.
fn start(
    config: &Config,
    parts: &Arc<Parts>,
    doors: &Doors,
    threads: &mut Threads,
) -> io::Result<(Arc<Notifier>, Parent)> {
    let senders = start_senders(config, parts)?;
    start_alertmanagers(config, parts, &doors.server, threads)?;
    let (swept, longest_sleep, hold) =
        (Arc::clone(parts), config.longest_sleep, config.rules.mass_silence_hold);
    threads.spawn("sweeper", move || sweeper::run(&swept, &senders, longest_sleep, hold))?;
    doors.server.start(threads)?;
    if let Some(admin) = doors.admin.clone() {
        let parts = Arc::clone(parts);
        threads.spawn("admin", move || admin.run(&parts))?;
    }
    let (watched, watching) = (Arc::clone(&doors.server), Arc::clone(parts));
    threads.spawn("watch", move || edge_watch::run(&watched, &watching))?;
    if let Some(access) = &config.cluster {
        let (link, parts) = (StationLink::new(config, access), Arc::clone(parts));
        // It is not joined: at the end of the process it may still wait for the station.
        spawn("station", move || link.run(&parts))?;
    }
    if let Some(interval) = parts.keeper.interval() {
        let parts = Arc::clone(parts);
        threads.spawn("state", move || parts.keeper.run(&parts.shared, &parts.stop, interval))?;
    }
    if let Some(trace) = config.trace.clone() {
        let parts = Arc::clone(parts);
        // It is not joined: at the end of the process it may still wait for a slow disk.
        spawn("trace", move || TraceWriter::new(&trace).run(&parts))?;
    }
    let notifier = Arc::new(Notifier::from_environment());
    if notifier.is_on() {
        let (notifier, parts) = (Arc::clone(&notifier), Arc::clone(parts));
        threads.spawn("systemd", move || service_manager::report(&notifier, &parts))?;
    }
    Ok((notifier, Parent::start(config.parent.as_ref(), parts)?))
}

/// Starts the threads that post alerts. They are not joined: at the end of the
/// process one of them may still wait for the station.
fn start_senders(config: &Config, parts: &Arc<Parts>) -> io::Result<Sender<Alert>> {
    let count = config.rules.outbox.senders;
    let (senders, alerts) = bounded(count);
    let station = AlertClient::new(config, parts.keeper.owner().clone());
    let url_name = config.station.as_ref().map_or(STATION_ALERT_URL.name, |station| station.url_name);
    let posting = Arc::new(Posting { station, url_name, troubles: Throttle::default() });
    for number in 0..count {
        let (parts, posting, alerts) = (Arc::clone(parts), Arc::clone(&posting), alerts.clone());
        spawn(&format!("alerter-{number}"), move || alerter::run(&parts, &posting, number, &alerts))?;
    }
    Ok(senders)
}

/// Starts the threads that post to Alertmanagers.
fn start_alertmanagers(
    config: &Config,
    parts: &Arc<Parts>,
    server: &Server,
    threads: &mut Threads,
) -> io::Result<()> {
    let Some(alertmanagers) = &config.alertmanagers else { return Ok(()) };
    let port = server.addresses().first().map_or(config.port, SocketAddr::port);
    let url = config.collector_url.as_ref().map_or_else(|| own_url(port), |url| url.as_str().to_owned());
    for alertmanager in Alertmanager::all(alertmanagers, USER_AGENT, &url) {
        let owner = conditions::Owner::new(config, parts);
        threads.spawn(&alertmanager.thread(), move || alertmanager.run(&owner))?;
    }
    Ok(())
}

/// Carries out orders until one of them is to stop.
fn carry_out(
    orders: &Receiver<Order>,
    program: &mut Program,
    doors: &Doors,
    parts: &Parts,
    notifier: &Notifier,
    demands: &Demands,
) {
    // The thread "signals" holds the sending end, and never ends.
    for order in orders {
        match order {
            Order::Stop => return,
            Order::Upgrade => {
                demands.begin_upgrade();
                match program.now_at_path() {
                    Ok(target) => upgrade::go_on(program, &target, doors, parts, notifier, demands),
                    Err(error) => log::error!("{error}"),
                }
            }
        }
        if demands.is_stop_asked() {
            return;
        }
    }
}

/// Goes on serving heartbeats: agents may not know yet that the collector stops. It ends
/// after `longest`, or when no agent has sent a heartbeat for [`QUIET`].
fn serve_on(server: &Server, parts: &Parts, began: Uptime, longest: Duration) {
    loop {
        let now = parts.shared.clock().uptime();
        let heard = server.service().last_heard().max(began);
        let left = (began + longest).min(heard + QUIET).since(now);
        if left.is_zero() || parts.stop.wait(left) {
            return;
        }
    }
}

/// A panic in a thread of ours ends the process: a collector without one of its threads is
/// worse than a collector that is started again.
fn end_on_panic(log: &Log) {
    let log = log.clone();
    panics::on_panic_of_ours(move |panic| {
        log::error!("{panic}");
        log.flush_within(FLUSH);
        process::exit(BUG);
    });
}

fn announce(config: &Config, server: &Server, continues: bool) {
    log::info!("pap-collector {VERSION} for cluster {} ({})", config.cluster_id, config.cluster_name);
    let how = if continues { ", continuing after an in-place upgrade" } else { "" };
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
        None if config.alertmanagers.is_some() => log::info!("alerts: to no station"),
        None => log::info!("alerts: to this log only, no station is configured"),
    }
    if let Some(station) = &config.cluster {
        log::info!("registration and beats: to {}", station.url);
    }
    if let Some(Alertmanagers { urls, every, .. }) = &config.alertmanagers {
        let urls = urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        log::info!("conditions: to {urls}, again every {every:?} while they hold");
    }
    log::info!(
        "at most {} agents on {} connections, dead after a silence of {}, forgotten after {:?}",
        rules.max_agents,
        server.most_connections(),
        Mode::ALL.map(|mode| format!("{:?} in {mode}", dead_after(mode, rules.grace))).join(", "),
        rules.retention
    );
    match &config.state {
        Some(state) => log::info!("state: in {}, every {:?}", state.path.display(), state.interval),
        None => log::info!("state: not saved, so a restart forgets all agents; set STATE_FILE to keep them"),
    }
    if let Some(trace) = &config.trace {
        log::info!("heartbeats: recorded in {}, at most {} bytes", trace.path.display(), trace.most);
    }
    if let Some(parent) = &config.parent
        && let Some(url) = &parent.targets.collector
    {
        let (id, every) = (&parent.identity.id, parent.rhythm.interval());
        log::info!("heartbeats of this collector: as {id} to {url}, every {every:?}");
    }
    if config.max_connections.is_some_and(|wanted| server.most_connections() < wanted) {
        log::warn!(
            "COLLECTOR_MAX_CONNECTIONS is lowered to {}: the limit on descriptors allows no more; raise it (ulimit -n)",
            server.most_connections()
        );
    }
    if let Some(limit) = limits::low_descriptor_limit() {
        log::warn!(
            "only {limit} descriptors are allowed, so hardly a client is answered; raise the limit (ulimit -n)"
        );
    }
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
}
