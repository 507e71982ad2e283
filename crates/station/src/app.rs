//! The process: starts, names, stops and joins the threads, in order.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use pap_alertmanager::sender::{Alertmanager, own_url};
use pap_http::listener;
use pap_http::server::Server;
use pap_process::cli::{BAD_CONFIG, BUG, IO_ERROR, STOPPED};
use pap_process::limits;
use pap_process::logging::Log;
use pap_process::panics;
use pap_process::signals::{Signal, Signals, UNASKED};
use pap_process::stop::Stop;
use pap_process::systemd::Notifier;
use pap_process::threads::{Threads, spawn};

use crate::api::Api;
use crate::channels::{self, MAX_CHANNELS};
use crate::clients::USER_AGENT;
use crate::config::Config;
#[cfg(feature = "kafka")]
use crate::kafka;
use crate::station::{Phase, Station, admin_key, admin_key_path};
use crate::store::{OpenError, RENEW, StoreError};
use crate::{VERSION, conditions, control, elsewhere, notify, standby, sweeper};

/// How long the requests in hand may take when the process stops, and the last writes as well.
const JOIN: Duration = Duration::from_secs(5);
/// How long writing the rest of the log may take.
const FLUSH: Duration = Duration::from_millis(500);
/// The wait after a renewal of the lease on the file that failed.
const RETRY: Duration = Duration::from_secs(1);
/// How often event loops are asked for a sign of life.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why the process could not start.
#[derive(Debug)]
pub enum StartError {
    /// It cannot use its file.
    Open(String, OpenError),
    /// It cannot read it.
    Read(StoreError),
    /// It cannot read or write the admin's key.
    Key(String, io::Error),
    /// It cannot listen.
    Listen(io::Error),
    /// It cannot start a thread.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(path, error) => write!(f, "cannot use STATION_DB {path}: {error}"),
            Self::Read(error) => write!(f, "cannot read STATION_DB: {error}"),
            Self::Key(path, error) => {
                write!(f, "cannot use {path}: {error}; set STATION_ADMIN_KEY, or make the directory writable")
            }
            Self::Listen(error) => {
                write!(f, "cannot listen: {error}; check STATION_PORT and STATION_BIND")
            }
            Self::Thread(error) => write!(f, "cannot start a thread: {error}; check the limit on processes"),
        }
    }
}

impl StartError {
    /// The exit code of the process.
    pub const fn code(&self) -> i32 {
        match self {
            Self::Open(
                _,
                OpenError::Taken
                | OpenError::Elsewhere
                | OpenError::Shared(_)
                | OpenError::Foreign
                | OpenError::Newer(..),
            ) => BAD_CONFIG,
            _ => IO_ERROR,
        }
    }
}

/// The signals that a station takes: those that it obeys, and those that must not end it.
pub fn signals() -> Vec<Signal> {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().chain(UNASKED).collect()
}

/// Runs the station until it is told to stop.
///
/// # Errors
/// What kept it from starting. Nothing is left running.
pub fn run(config: &Config, log: &Log, signals: Signals) -> Result<(), StartError> {
    end_on_panic(log);
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let path = config.db.display().to_string();
    let listener = listener::bind(config.bind, config.port).map_err(StartError::Listen)?;
    let stopped = obey(signals, log).map_err(StartError::Thread)?;
    let notifier = Arc::new(Notifier::from_environment());
    let opened = standby::wait(&config.db, &listener, &notifier, &stopped);
    let Some((store, writer)) = opened.map_err(|error| StartError::Open(path.clone(), error))? else {
        log::info!("stopped");
        return Ok(());
    };
    let key_path = admin_key_path(&config.db).display().to_string();
    let (admin, is_new) = admin_key(config).map_err(|error| StartError::Key(key_path.clone(), error))?;
    if config.admin_key.is_none() {
        log::info!("the admin's key is in {key_path}");
    }
    if is_new && io::stderr().is_terminal() {
        // For a person who starts the station by hand; it is shown nowhere else.
        let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("admin key: {admin}\n"));
    }
    let station = Arc::new(Station::new(config.clone(), store, &admin).map_err(StartError::Read)?);
    let api = Arc::new(Api::new(Arc::clone(&station)));
    let loops = std::thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(1, 4));
    limits::raise_descriptor_limit();
    let most = limits::most_connections(Some(config.max_connections), MAX_CHANNELS);
    let server = Server::new(api, vec![listener], loops, most).map_err(StartError::Listen)?;
    let server = Arc::new(server);
    server.service().count_connections(server.counter());

    // The writer ends last: others may still have to write.
    let closed = Arc::new(Stop::default());
    let (mut threads, mut last) = (Threads::default(), Threads::default());
    let closing = Arc::clone(&closed);
    last.spawn("writer", move || writer.run(closing.receiver())).map_err(StartError::Thread)?;
    start(&station, &server, &notifier, &mut threads).map_err(StartError::Thread)?;
    let (at, kept) = (Arc::clone(&station), log.clone());
    spawn("lease", move || keep_lease(&at, &kept)).map_err(StartError::Thread)?;
    for address in server.addresses() {
        log::info!("pap-station {VERSION} listens on {address}");
    }
    station.enter(Phase::Ready);
    notifier.say("READY=1");

    // The thread that takes signals holds the other end.
    let _ = stopped.recv();

    log::info!("stopping: answering the requests in hand");
    notifier.say("STOPPING=1");
    station.enter(Phase::Stopping);
    server.drain();
    station.stop.stop();
    station.bell.ring();
    station.agent_bell.ring();
    station.reconcile();
    station.kafka.bell.ring();
    server.stop();
    if let Err(late) = threads.join(JOIN) {
        log::warn!("stopping although these threads did not end in time: {}", late.join(", "));
    }
    closed.stop();
    if last.join(JOIN).is_err() {
        log::warn!("stopping although the last writes did not end in time: the disk is too slow");
    }
    station.store.release();
    log::info!("stopped");
    Ok(())
}

/// Starts all threads but the writer.
fn start(
    station: &Arc<Station>,
    server: &Arc<Server<Api>>,
    notifier: &Arc<Notifier>,
    threads: &mut Threads,
) -> io::Result<()> {
    let at = Arc::clone(station);
    threads.spawn("sweeper", move || sweeper::run(&at))?;
    let at = Arc::clone(station);
    threads.spawn("keeper", move || sweeper::keep(&at))?;
    let at = Arc::clone(station);
    threads.spawn("elsewhere", move || elsewhere::run(&at))?;
    let at = Arc::clone(station);
    threads.spawn("asker", move || elsewhere::follow_up(&at))?;
    let at = Arc::clone(station);
    threads.spawn("notifier", move || notify::run(&at))?;
    tell_alertmanagers(station, server, threads)?;
    control::start(station, threads)?;
    #[cfg(feature = "kafka")]
    kafka::spawn(station, threads)?;
    server.start(threads)?;
    let (at, watched) = (Arc::clone(station), Arc::clone(server));
    threads.spawn("watch", move || watch(&at, &watched))?;
    if notifier.is_on() {
        let (at, told) = (Arc::clone(station), Arc::clone(notifier));
        threads.spawn("systemd", move || report(&at, &told))?;
    }
    Ok(())
}

/// Renews the lease on the file. If another station has taken over, this one does not know what
/// happens now, so the process ends: such a station is worse than one that is started again.
fn keep_lease(station: &Station, log: &Log) {
    let lease = station.store.lease();
    let mut next = RENEW;
    let mut trouble = None;
    while !station.stop.is_stopping() {
        let is_lost = lease.lost().recv_timeout(next).is_ok() || lease.is_lost();
        if !is_lost {
            next = match station.store.renew() {
                Ok(()) => {
                    if trouble.take().is_some() {
                        log::info!("the lease on STATION_DB is renewed again");
                    }
                    RENEW
                }
                Err(StoreError::Stopping) => return,
                Err(error) => {
                    let why = error.to_string();
                    if trouble.as_ref() != Some(&why) {
                        log::error!("the lease on STATION_DB is not renewed: {why}");
                        trouble = Some(why);
                    }
                    RETRY
                }
            };
        }
        if lease.is_lost() {
            log::error!("{}", lease.why_lost());
            log.flush_within(FLUSH);
            process::exit(IO_ERROR);
        }
    }
}

/// Starts the threads that tell Alertmanagers which incidents are open.
fn tell_alertmanagers(station: &Arc<Station>, server: &Server<Api>, threads: &mut Threads) -> io::Result<()> {
    let config = &station.config;
    let Some(alertmanagers) = &config.alertmanagers else { return Ok(()) };
    let port = server.addresses().first().map_or(config.port, SocketAddr::port);
    let url = config.external_url.as_ref().map_or_else(|| own_url(port), |url| url.as_str().to_owned());
    log::info!(
        "open incidents: to {}, again every {:?} while they are open",
        alertmanagers.urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
        alertmanagers.every
    );
    for alertmanager in Alertmanager::all(alertmanagers, USER_AGENT, &url) {
        let owner = conditions::Owner(Arc::clone(station));
        threads.spawn(&alertmanager.thread(), move || alertmanager.run(&owner))?;
    }
    let at = Arc::clone(station);
    threads.spawn("conditions", move || conditions::run(&at))
}

/// Asks the event loops for signs of life.
fn watch(station: &Station, server: &Server<Api>) {
    station.vitals.probed(station.clock.uptime());
    server.ask();
    while !station.stop.wait(LOOK_EVERY) {
        let is_alive = server.is_alive();
        station.set_edge_alive(is_alive);
        if is_alive {
            station.vitals.probed(station.clock.uptime());
            server.ask();
        } else {
            log::error!("an event loop has not answered for five seconds");
        }
    }
}

/// Tells systemd whether the station is well, and a line about its state.
fn report(station: &Station, notifier: &Notifier) {
    let every = notifier.watchdog.map_or(LOOK_EVERY, |watchdog| (watchdog / 3).min(LOOK_EVERY));
    loop {
        let counted = station.store.read(|connection| {
            let count = |sql: &str| connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, u64>(0));
            Ok((
                count("SELECT count(*) FROM incident WHERE closed_at IS NULL")?,
                count("SELECT count(*) FROM cluster WHERE deleted_at IS NULL")?,
                count(channels::OWED)?,
            ))
        });
        let summary = counted.map_or_else(
            |error| format!("STATUS={error}"),
            |(incidents, clusters, owed)| {
                format!("STATUS={incidents} incidents open, {clusters} clusters, {owed} deliveries owed")
            },
        );
        match station.vitals.check(station.clock.uptime()) {
            Ok(()) => notifier.say(&format!("WATCHDOG=1\n{summary}")),
            Err(who) => {
                log::error!("systemd's watchdog is not reset, so systemd may restart this station: {who}");
                notifier.say(&format!("{summary}; {who}"));
            }
        }
        if station.stop.wait(every) {
            return;
        }
    }
}

/// Starts the thread that waits for signals. It sends a message when the process is to stop;
/// a second request ends the process at once.
fn obey(signals: Signals, log: &Log) -> io::Result<Receiver<()>> {
    let (stop, stopped) = bounded(1);
    let log = log.clone();
    spawn("signals", move || {
        let mut is_asked = false;
        loop {
            let caught = signals.next(|_| ());
            if !matches!(caught.signal, Signal::SIGINT | Signal::SIGTERM) {
                log::info!("{} is not obeyed: SIGTERM stops", caught.signal);
                continue;
            }
            if is_asked {
                log.flush_within(FLUSH);
                process::exit(STOPPED);
            }
            is_asked = true;
            // The main thread waits for it.
            let _ = stop.send(());
        }
    })?;
    Ok(stopped)
}

/// A thread of ours that panics ends the process: a station without one of its threads is worse
/// than a station that is started again.
fn end_on_panic(log: &Log) {
    let log = log.clone();
    panics::on_panic_of_ours(move |panic| {
        log::error!("{panic}");
        log.flush_within(FLUSH);
        process::exit(BUG);
    });
}
