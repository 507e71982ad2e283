//! The process: starts, names, stops and joins the threads, in order, and
//! goes on in another image where it must.

mod image;
mod parent;
mod state;

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use pap_process::threads::{Threads, spawn};

use crate::alerter::{self, Troubles};
use crate::config::Config;
use crate::emitter::Event;
use crate::metrics::Metrics;
use crate::observers::Observers;
use crate::server::{self, Api, Ends, SLOW_LANES, Server};
use crate::shared::{Phase, Shared};
use crate::station::Station;
use crate::vitals::Vitals;
use crate::{VERSION, sweeper};
use image::Program;
pub use image::{Start, start};
use pap_process::cli::{BAD_CONFIG, BUG, IO_ERROR, STOPPED};
use pap_process::clock::wall;
use pap_process::logging::Log;
use pap_process::panics::on_panic_of_ours;
use pap_process::signals::{Signal, Signals};
use pap_process::systemd::Notifier;
use state::Keeper;

/// How long the alerts may take to go out when the process is to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the threads may take to end after that.
const JOIN: Duration = Duration::from_secs(3);
/// How long watchers may take to hear of it.
const GOODBYES: Duration = Duration::from_secs(1);
/// How long the collector above may take, beside what the rest took.
const GOODBYE_ABOVE: Duration = Duration::from_secs(5);
/// How long the log may take to go out.
const FLUSH: Duration = Duration::from_millis(500);
/// After a fresh image could not be had, it is tried again after this.
const REFRESH_PAUSE: Duration = Duration::from_secs(60);
/// Orders that may wait.
const MOST_ORDERS: usize = 16;
/// How often the service manager is told how we are, if it does not ask.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// The signals that [`run`] obeys.
pub const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Why the process could not do its work.
#[derive(Debug)]
pub enum Failure {
    /// It cannot listen on its port.
    Listen(io::Error),
    /// systemd passed this many sockets, and the server serves one.
    Listeners(usize),
    /// It cannot start a thread.
    Thread(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => {
                write!(f, "cannot listen: {error}; check COLLECTOR_PORT and COLLECTOR_BIND")
            }
            Self::Listeners(count) => write!(
                f,
                "LISTEN_FDS is {count}, but only one socket can be served; keep one ListenStream= in the \
                 .socket unit (a port alone serves IPv4 and IPv6)"
            ),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}; check the limit on processes"),
        }
    }
}

impl Failure {
    /// The exit code of the process.
    pub const fn code(&self) -> i32 {
        match self {
            Self::Listen(_) | Self::Thread(_) => IO_ERROR,
            Self::Listeners(_) => BAD_CONFIG,
        }
    }
}

/// What the main thread is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Finish and end.
    Stop,
    /// Go on in the image that is now at our path.
    Upgrade,
    /// Go on in a fresh image: too much has piled up.
    Refresh,
}

/// What signals have asked for and is not done yet; and the log, which both an
/// end and a fresh image would cut short.
struct Demands {
    signals: Signals,
    log: Log,
    stop: AtomicBool,
    upgrade: AtomicBool,
}

impl Demands {
    fn any(&self) -> bool {
        self.stop.load(Ordering::SeqCst) || self.upgrade.load(Ordering::SeqCst)
    }
}

/// Runs the collector until it is told to stop.
///
/// # Errors
/// What kept it from starting. Nothing is left running.
pub fn run(config: &Config, log: &Log, signals: Signals, start: Start) -> Result<(), Failure> {
    let panic_log = log.clone();
    on_panic_of_ours(move |panic| {
        log::error!("{panic}");
        panic_log.flush_within(FLUSH);
        process::exit(BUG);
    });
    for remark in &start.remarks {
        log::warn!("{remark}");
    }
    let mut program = Program::new(start.seats);
    let (listener, handed) = image::listen(config, start.inherited)?;
    server::raise_descriptor_limit();
    let (asked, orders) = bounded(MOST_ORDERS);
    let demands = Arc::new(Demands {
        signals,
        log: log.clone(),
        stop: AtomicBool::new(false),
        upgrade: AtomicBool::new(false),
    });
    obey_signals(Arc::clone(&demands), asked.clone())?;

    let shared = Arc::new(Shared::new(config.rules));
    let keeper = Arc::new(Keeper::new(config, Arc::clone(&shared), new_instance(), handed.as_ref()));
    let continues = handed.is_some();
    if continues {
        // Whoever asks between two images learns nothing of the change.
        shared.enter(Phase::Ready);
    }
    // It is memory, as much as the state.
    drop(handed);
    let metrics = Arc::new(Metrics::default());
    let vitals = Arc::new(Vitals::new(config.rules.outbox.senders));
    let station = Arc::new(Station::new(config, keeper.owner().instance.clone()));
    let mut threads = Threads::default();

    let instance = keeper.owner().instance.clone();
    let observers = Arc::new(Observers::new(config.cluster_id.clone(), instance, config.max_observers));
    let api = Api::new(config, Arc::clone(&shared), Arc::clone(&metrics), Arc::clone(&observers));
    let other_threads = config.rules.outbox.senders + config.http_workers;
    let most_connections =
        server::most_connections(config.max_connections, config.max_observers, other_threads);
    let (server, ends) =
        Server::new(listener, api, config.http_workers, most_connections).map_err(Failure::Listen)?;
    announce(config, &server, continues);

    let (alerts, alerts_out) = bounded(config.rules.outbox.senders);
    let troubles = Arc::new(Troubles::default());
    for number in 0..config.rules.outbox.senders {
        let (shared, metrics, station) = (Arc::clone(&shared), Arc::clone(&metrics), Arc::clone(&station));
        let (troubles, vitals, alerts) = (Arc::clone(&troubles), Arc::clone(&vitals), alerts_out.clone());
        // Not joined: at the end one may still wait for the station.
        spawn(&format!("alerter-{number}"), move || {
            alerter::run(&shared, &metrics, &station, &troubles, (&vitals, number), &alerts);
        })
        .map_err(Failure::Thread)?;
    }
    {
        let (shared, metrics, vitals) = (Arc::clone(&shared), Arc::clone(&metrics), Arc::clone(&vitals));
        let (observers, longest_sleep) = (Arc::clone(&observers), config.longest_sleep);
        threads
            .spawn("sweeper", move || {
                sweeper::run(&shared, &metrics, &vitals, &observers, &alerts, longest_sleep);
            })
            .map_err(Failure::Thread)?;
    }
    serve(config.http_workers, &server, ends, &vitals, asked, &mut threads)?;
    if let Some(interval) = keeper.interval() {
        let keeper = Arc::clone(&keeper);
        threads.spawn("state", move || keeper.run(interval)).map_err(Failure::Thread)?;
    }
    let notifier = Arc::new(Notifier::from_environment());
    if notifier.is_on() {
        let (notifier, shared, vitals) = (Arc::clone(&notifier), Arc::clone(&shared), Arc::clone(&vitals));
        threads
            .spawn("systemd", move || report_to_systemd(&notifier, &shared, &vitals))
            .map_err(Failure::Thread)?;
    }
    shared.enter(Phase::Ready);
    notifier.say("READY=1");
    let (parting, parted) = bounded(1);
    let mut above = Threads::default();
    if let Some(parent) = config.parent.clone() {
        let (shared, vitals) = (Arc::clone(&shared), Arc::clone(&vitals));
        above
            .spawn("parent", move || parent::run(&parent, shared, vitals, &parted))
            .map_err(Failure::Thread)?;
    }

    wait_for_stop(&orders, &mut program, &server, &keeper, &notifier, &demands);
    log::info!("stopping: finishing what is in hand");
    notifier.say("STOPPING=1");
    // Only this collector's end is planned: its agents go on. If nobody
    // listens, there is nobody above.
    let _ = parting.try_send(Event::End { planned: true, code: STOPPED });
    shared.enter(Phase::Draining);
    if !shared.wait_until(DRAIN, |registry| registry.outbox().is_empty()) {
        let owed = shared.with(|registry, _| registry.outbox().owed());
        log::warn!("stopping with {owed} verdicts still owed to the station");
    }
    join(above, GOODBYE_ABOVE);
    shared.stop();
    observers.end();
    server.stop();
    observers.await_end(GOODBYES);
    join(threads, JOIN);
    keeper.save();
    log::info!("stopped");
    // Requests that nobody took would be answered once more when they are
    // dropped, and may wait for their clients; they end with the process.
    std::mem::forget(server);
    Ok(())
}

/// Starts the threads of the server.
fn serve(
    workers: usize,
    server: &Arc<Server>,
    ends: Ends,
    vitals: &Arc<Vitals>,
    asked: Sender<Order>,
    threads: &mut Threads,
) -> Result<(), Failure> {
    for number in 0..workers {
        let server = Arc::clone(server);
        threads.spawn(&format!("http-{number}"), move || server.work()).map_err(Failure::Thread)?;
    }
    {
        let (server, streams) = (Arc::clone(server), ends.streams);
        threads.spawn("streams", move || server.open_streams(&streams)).map_err(Failure::Thread)?;
    }
    for number in 0..SLOW_LANES {
        let (server, slow) = (Arc::clone(server), ends.slow.clone());
        threads.spawn(&format!("slow-{number}"), move || server.slow_lane(&slow)).map_err(Failure::Thread)?;
    }
    {
        let (guarding, doomed, crowd, asked) = (Arc::clone(server), ends.doomed, ends.crowd, asked);
        threads
            .spawn("guard", move || {
                guarding.guard(&doomed, &crowd, &|| {
                    // If an order waits already, this one comes again.
                    let _ = asked.try_send(Order::Refresh);
                });
            })
            .map_err(Failure::Thread)?;
        let (watching, trouble, vitals) = (Arc::clone(server), ends.trouble, Arc::clone(vitals));
        threads.spawn("watch", move || watching.watch(&trouble, &vitals)).map_err(Failure::Thread)?;
        let draining = Arc::clone(server);
        threads.spawn("former", move || draining.drain_former()).map_err(Failure::Thread)?;
    }
    Ok(())
}

/// Carries out orders until one is to stop; between them, gives back code.
fn wait_for_stop(
    orders: &Receiver<Order>,
    program: &mut Program,
    server: &Server,
    keeper: &Keeper,
    notifier: &Notifier,
    demands: &Demands,
) {
    let clock = keeper.shared().clock();
    let mut refresh_after = Duration::ZERO;
    // The thread that reads signals keeps the other end: this does not end by itself.
    for order in orders {
        match order {
            Order::Stop => return,
            Order::Upgrade => {
                demands.upgrade.store(false, Ordering::SeqCst);
                match program.now_at_path() {
                    Ok(target) => image::go_on(program, &target, server, keeper, notifier, demands),
                    Err(error) => log::error!("{error}"),
                }
            }
            Order::Refresh if clock.uptime() < refresh_after => {}
            Order::Refresh => {
                let target = program.itself();
                image::go_on(program, &target, server, keeper, notifier, demands);
                // It failed, and will again.
                refresh_after = clock.uptime() + REFRESH_PAUSE;
            }
        }
        if demands.stop.load(Ordering::SeqCst) {
            return;
        }
    }
}

fn join(threads: Threads, longest: Duration) {
    if let Err(late) = threads.join(longest) {
        log::warn!("threads that do not end in time: {}", late.join(", "));
    }
}

fn announce(config: &Config, server: &Server, continues: bool) {
    log::info!(
        "pap-collector {VERSION} for cluster {} ({})",
        config.cluster_id,
        config.cluster_name.escape_debug()
    );
    let how = if continues { ", going on where the former image stopped" } else { "" };
    log::info!("listening on {}{how}", server.address());
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
        let url = parent.ways.collector.as_deref().unwrap_or_default();
        log::info!("beating as {id} to {url}, every {every:?}");
    }
    if server.most_connections() < config.max_connections {
        log::warn!("COLLECTOR_MAX_CONNECTIONS is {}, but the system bears fewer", config.max_connections);
    }
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
}

/// Something no other run of a collector has, for the ids of its alerts.
fn new_instance() -> String {
    format!("{:016x}", RandomState::new().hash_one((process::id(), wall().0)))
}

/// Turns signals into orders. The second request to stop ends the process.
fn obey_signals(demands: Arc<Demands>, orders: Sender<Order>) -> Result<(), Failure> {
    let work = move || loop {
        let again = Cell::new(false);
        let caught = demands.signals.next(|signal| match signal {
            Signal::SIGHUP => demands.upgrade.store(true, Ordering::SeqCst),
            _ => again.set(demands.stop.swap(true, Ordering::SeqCst)),
        });
        if again.get() {
            demands.log.flush_within(FLUSH);
            process::exit(STOPPED);
        }
        let order = if caught.signal == Signal::SIGHUP { Order::Upgrade } else { Order::Stop };
        let _ = orders.send(order);
    };
    spawn("signals", work).map(drop).map_err(Failure::Thread)
}

/// Tells the service manager how we are, as often as it wants to hear it, and
/// says nothing for the watchdog when one of our threads is stuck.
fn report_to_systemd(notifier: &Notifier, shared: &Shared, vitals: &Vitals) {
    let every = notifier.watchdog.map_or(STATUS_EVERY, |watchdog| (watchdog / 3).min(STATUS_EVERY));
    while !shared.is_stopping() {
        let (stats, owed) = shared.with(|registry, _| (registry.stats(), registry.outbox().owed()));
        let summary = format!("STATUS={} agents, {} dead, {owed} owed", stats.total(), stats.unhealthy());
        match vitals.check(shared.clock().uptime()) {
            Ok(()) => notifier.say(&format!("WATCHDOG=1\n{summary}")),
            Err(who) => {
                log::error!("the watchdog is not told that all is well: {who}");
                notifier.say(&format!("{summary}; {who}"));
            }
        }
        shared.pause(every);
    }
}
