//! The process: starts, names, stops and joins the threads, in order.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::panic;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::alerter::{self, Troubles};
use crate::clock::wall;
use crate::config::Config;
use crate::logging::Log;
use crate::metrics::Metrics;
use crate::server::{self, Api, REPORTERS, Server};
use crate::shared::{Phase, Shared};
use crate::station::Station;
use crate::{VERSION, sweeper};

/// The process ends as it was asked to.
pub const STOPPED: i32 = 0;
/// The process ends because of a bug.
pub const BUG: i32 = 70;
/// The process ends because it cannot listen or write.
pub const IO_ERROR: i32 = 74;
/// The process did not start because its configuration is wrong.
pub const BAD_CONFIG: i32 = 78;

/// How long the alerts may take to go out when the process is to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the log may take to go out.
const FLUSH: Duration = Duration::from_millis(500);

/// Why the process could not do its work.
#[derive(Debug)]
pub enum Failure {
    /// It cannot listen on its port.
    Listen(io::Error),
    /// It cannot start a thread.
    Thread(io::Error),
    /// It cannot take signals.
    Signals(ctrlc::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => {
                write!(f, "cannot listen: {error}; check COLLECTOR_PORT and COLLECTOR_BIND")
            }
            Self::Thread(error) => write!(f, "cannot start a thread: {error}; check the limit on processes"),
            Self::Signals(error) => write!(f, "cannot take signals: {error}"),
        }
    }
}

/// Runs the collector until it is told to stop.
///
/// # Errors
/// What kept it from starting. Nothing is left running.
pub fn run(config: &Config, log: &Log) -> Result<(), Failure> {
    end_on_panic(log.clone());
    let listener = server::bind(config.bind, config.port).map_err(Failure::Listen)?;
    let address = listener.local_addr().map_err(Failure::Listen)?;
    let shared = Arc::new(Shared::new(config.rules));
    let metrics = Arc::new(Metrics::default());
    let station = Arc::new(Station::new(config, instance()));
    let stop = stop_signals(log.clone())?;

    let api = Api {
        shared: Arc::clone(&shared),
        metrics: Arc::clone(&metrics),
        cluster_id: config.cluster_id.clone(),
        cluster_name: config.cluster_name.clone(),
        api_key: config.api_key.clone(),
        port: address.port(),
    };
    let (server, big) = Server::new(listener, api).map_err(Failure::Listen)?;
    announce(config, &server);

    let (alerts, alerts_out) = bounded(config.rules.outbox.senders);
    let troubles = Arc::new(Troubles::default());
    for number in 0..config.rules.outbox.senders {
        let (shared, metrics, station) = (Arc::clone(&shared), Arc::clone(&metrics), Arc::clone(&station));
        let (troubles, alerts) = (Arc::clone(&troubles), alerts_out.clone());
        spawn(&format!("alerter-{number}"), move || {
            alerter::run(&shared, &metrics, &station, &troubles, &alerts);
        })?;
    }
    let sweeper = {
        let (shared, metrics, longest_sleep) =
            (Arc::clone(&shared), Arc::clone(&metrics), config.longest_sleep);
        spawn("sweeper", move || sweeper::run(&shared, &metrics, &alerts, longest_sleep))?
    };
    let mut serving = Vec::new();
    for number in 0..config.http_workers {
        let server = Arc::clone(&server);
        serving.push(spawn(&format!("http-{number}"), move || work(&server))?);
    }
    for number in 0..REPORTERS {
        let (server, big) = (Arc::clone(&server), big.clone());
        serving.push(spawn(&format!("reporter-{number}"), move || server.report(&big))?);
    }
    shared.enter(Phase::Ready);

    // The handler keeps the other end; it cannot go away before us.
    let _ = stop.recv();
    log::info!("stopping: finishing what is in hand");
    shared.enter(Phase::Draining);
    if !shared.wait_until(DRAIN, |registry| registry.outbox().is_empty()) {
        let owed = shared.with(|registry, _| registry.outbox().owed());
        log::warn!("stopping with {owed} verdicts still owed to the station");
    }
    shared.stop();
    server.stop(config.http_workers);
    for thread in serving.into_iter().chain([sweeper]) {
        // A thread of ours that panicked has ended the process already.
        let _ = thread.join();
    }
    // The alerters end with the process: one may wait for the station.
    log::info!("stopped");
    Ok(())
}

fn work(server: &Server) {
    if let Err(error) = server.work() {
        panic!("the port is deaf: {error}");
    }
}

fn announce(config: &Config, server: &Server) {
    log::info!(
        "pap-collector {VERSION} for cluster {} ({})",
        config.cluster_id,
        config.cluster_name.escape_debug()
    );
    log::info!("listening on {}", server.address());
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
        "at most {} agents, dead after 2 intervals + {:?}, forgotten after {:?}",
        rules.max_agents,
        rules.grace,
        rules.retention
    );
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
}

/// Something no other run of a collector has, for the ids of its alerts.
fn instance() -> String {
    format!("{:016x}", RandomState::new().hash_one((process::id(), wall().0)))
}

/// A receiver for the first request to stop; the second ends the process.
fn stop_signals(log: Log) -> Result<crossbeam_channel::Receiver<()>, Failure> {
    let (asked, stop) = bounded(1);
    let again = AtomicBool::new(false);
    let handler = move || {
        if again.swap(true, Ordering::SeqCst) {
            log.flush_within(FLUSH);
            process::exit(STOPPED);
        }
        let _ = asked.try_send(());
    };
    ctrlc::set_handler(handler).map_err(Failure::Signals)?;
    Ok(stop)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Failure> {
    thread::Builder::new().name(name.into()).spawn(work).map_err(Failure::Thread)
}

/// A thread of ours that panics ends the process: a collector that is half
/// dead is worse than one that is started again. The threads that tiny_http
/// starts have no name and serve one connection each; those may go.
fn end_on_panic(log: Log) {
    panic::set_hook(Box::new(move |panic| {
        let Some(name) = thread::current().name().map(ToOwned::to_owned) else {
            log::debug!("a connection's thread ended: {panic}");
            return;
        };
        log::error!("bug in thread {name}: {panic}");
        log.flush_within(FLUSH);
        process::exit(BUG);
    }));
}
