//! Counters and histograms of a collector.
//!
//! No label's value comes from a client: all values are listed here or in the
//! core. So clients cannot make the number of series grow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pap_alertmanager::metrics::Numbers as Firing;
use pap_core::firing::AlertName;
use pap_core::heartbeat::Mode;
use pap_core::outbox::Tally;
use pap_core::registry::{Counters, Registry, Stats};
use pap_core::time::Now;
use pap_core::verdict::Verdict;
use pap_http::service::States;
use pap_process::clock::Clock;
use pap_process::metrics::{FAST, Histogram, SLOW, Text};

use crate::state_keeper::Saving;

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The label's value in the metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

labels! {
    /// What a request asked for.
    Route {
        /// `POST /heartbeat/:agentId`
        Heartbeat = "heartbeat",
        /// `DELETE /heartbeat/:agentId`
        Goodbye = "goodbye",
        /// `GET /agents`
        Agents = "agents",
        /// `GET` or `DELETE /agents/:agentId`
        Agent = "agent",
        /// `GET /health`
        Health = "health",
        /// `GET /ready`
        Ready = "ready",
        /// `GET /metrics`
        Metrics = "metrics",
        /// `GET /`
        Root = "root",
        /// `WS /observe/:agentId`
        Observe = "observe",
        /// Anything else.
        Other = "other",
    }
}

labels! {
    /// Why a heartbeat was refused.
    Refusal {
        /// 401: no key, or a wrong one; goodbyes are counted too.
        Key = "key",
        /// 400: the agent's id.
        Id = "id",
        /// 400: no heartbeat.
        Payload = "payload",
        /// 400: an unknown mode.
        Mode = "mode",
        /// 400: the agent's name.
        Name = "name",
        /// 400: resource data.
        Resource = "resource_data",
        /// 400, 413, 415, 417, 501: a body that is not read.
        Body = "body",
        /// 503: a new agent beyond the maximum.
        Full = "max_agents",
    }
}

labels! {
    /// Why the collector closed a connection.
    Closed {
        /// A request was not taken.
        Refused = "refused",
        /// The answer said that the connection ends.
        Done = "done",
        /// No request came for too long.
        Idle = "idle",
        /// A request did not arrive, or an answer was not taken.
        Stalled = "stalled",
        /// It made room for another connection.
        Surplus = "surplus",
        /// The collector stops.
        Stopping = "stopping",
    }
}

labels! {
    /// How a beat to the station ended.
    BeatResult {
        /// The station took it.
        Taken = "taken",
        /// The station answered that it does not take it, or not with this key.
        Refused = "refused",
        /// There was no answer, or the station could not take it then.
        Failed = "failed",
    }
}

/// What threads count outside the registry.
#[derive(Debug)]
pub struct Metrics {
    requests: Vec<Histogram>,
    refusals: Vec<AtomicU64>,
    closed: Vec<AtomicU64>,
    station_beats: Vec<AtomicU64>,
    /// Records that are missing in the trace.
    pub trace_dropped: AtomicU64,
    /// From an event until the station took its alert, or the log did.
    pub alert_delivery: Histogram,
    /// From a change until an Alertmanager took it.
    pub alertmanager_delivery: Histogram,
    /// From the deadline of a death until its alert was queued.
    pub detection_lag: Histogram,
    /// One sweep.
    pub sweep: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            requests: Route::ALL.iter().map(|_| Histogram::new(&FAST)).collect(),
            refusals: zeros(Refusal::ALL.len()),
            closed: zeros(Closed::ALL.len()),
            station_beats: zeros(BeatResult::ALL.len()),
            trace_dropped: AtomicU64::new(0),
            alert_delivery: Histogram::new(&SLOW),
            alertmanager_delivery: Histogram::new(&SLOW),
            detection_lag: Histogram::new(&FAST),
            sweep: Histogram::new(&FAST),
        }
    }
}

impl Metrics {
    /// Counts a request that was answered.
    pub fn request(&self, route: Route, took: Duration) {
        self.requests[route as usize].record(took);
    }

    /// Counts a heartbeat that was refused.
    pub fn refusal(&self, why: Refusal) {
        self.refusals[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that we closed.
    pub fn closed(&self, why: Closed) {
        self.closed[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a beat to the station.
    pub fn station_beat(&self, result: BeatResult) {
        self.station_beats[result as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Numbers of this moment from outside the registry.
#[derive(Debug)]
pub struct Gauges {
    /// How many connections are in which state.
    pub connections: States,
    /// Agents that have an observer of their own.
    pub watched: usize,
    /// Observers.
    pub observers: usize,
    /// Messages that were dropped because an observer was too slow, so far.
    pub missed: u64,
    /// How saving the state goes.
    pub saving: Saving,
}

/// A copy of the counts of the registry, so that they can be written without the lock.
#[derive(Debug)]
pub struct Numbers {
    stats: Stats,
    counters: Counters,
    tally: Tally,
    queued: usize,
    owed: usize,
    alerted: usize,
    firing: Option<Firing>,
    mass_silence: bool,
    held: usize,
}

impl Numbers {
    /// A copy of what `registry` counts.
    pub fn of(registry: &Registry, now: Now) -> Self {
        let outbox = registry.outbox();
        Self {
            stats: registry.stats(),
            counters: registry.counters().clone(),
            tally: outbox.tally().clone(),
            queued: outbox.queued(),
            owed: outbox.owed(),
            alerted: registry.alerted(),
            firing: Firing::of(registry.firing(), &AlertName::OF_AGENTS, now.tick),
            mass_silence: registry.mass_silence().is_some(),
            held: registry.held(),
        }
    }
}

/// The answer to a scrape.
pub fn render(cluster: &str, numbers: &Numbers, metrics: &Metrics, clock: &Clock, gauges: &Gauges) -> String {
    let mut text = Text::new("pap_collector", &[("cluster", cluster)]);
    build_info(&mut text);
    agents(&mut text, numbers, metrics, gauges);
    alerts(&mut text, numbers, metrics);
    if let Some(firing) = &numbers.firing {
        firing.write(&mut text, &metrics.alertmanager_delivery);
    }
    requests(&mut text, metrics, gauges);
    text.one(
        "trace_dropped_total",
        "counter",
        "Records that HEARTBEAT_TRACE lacks, because the disk was full or too slow.",
        metrics.trace_dropped.load(Ordering::Relaxed),
    );
    text.family(
        "paused_seconds_total",
        "counter",
        "Time in which the collector was not awake; it does not count as silence of agents.",
    );
    text.sample("paused_seconds_total", &[], clock.paused().as_secs_f64());
    state(&mut text, gauges.saving);
    text.family("sweep_duration_seconds", "histogram", "Time one sweep took.");
    text.histogram("sweep_duration_seconds", &[], &metrics.sweep);
    text.finish()
}

fn build_info(text: &mut Text) {
    text.family("build_info", "gauge", "Always 1; the version is in the label.");
    text.sample("build_info", &[("version", crate::VERSION)], 1);
}

fn agents(text: &mut Text, numbers: &Numbers, metrics: &Metrics, gauges: &Gauges) {
    let Numbers { stats, counters, .. } = numbers;
    text.one("agents_total", "gauge", "Agents known.", stats.total());
    text.one("agents_healthy", "gauge", "Agents that are not dead.", stats.healthy());
    text.one("agents_unhealthy", "gauge", "Agents that are dead.", stats.unhealthy());
    let suspect = stats.by_status[Verdict::Suspect as usize];
    text.one("agents_suspect", "gauge", "Agents silent for 1.5 intervals and not yet dead.", suspect);
    text.family("agents_by_mode", "gauge", "Agents by mode.");
    for mode in Mode::ALL {
        text.sample("agents_by_mode", &[("mode", mode.as_str())], stats.by_mode[mode as usize]);
    }
    text.one("observations_active", "gauge", "Agents that have an observer of their own.", gauges.watched);
    text.one("observers", "gauge", "Observers that are connected.", gauges.observers);
    text.family("heartbeats_total", "counter", "Heartbeats accepted, by mode.");
    for mode in Mode::ALL {
        text.sample("heartbeats_total", &[("mode", mode.as_str())], counters.heartbeats[mode as usize]);
    }
    text.one("deaths_total", "counter", "Agents that were found dead.", counters.deaths);
    text.one(
        "mass_silence",
        "gauge",
        "1 while at least ten agents and half of the known ones are silent that fell silent at once.",
        u8::from(numbers.mass_silence),
    );
    text.one("mass_silences_total", "counter", "Mass silences that began.", counters.mass_silences);
    text.one("deaths_held", "gauge", "Deaths of a mass silence that are held back.", numbers.held);
    text.one("recoveries_total", "counter", "Dead agents that came back.", counters.recoveries);
    text.one("restarts_total", "counter", "Restarts of agents that were noticed.", counters.restarts);
    text.family(
        "detection_lag_seconds",
        "histogram",
        "Time from the deadline of a death until its alert was queued.",
    );
    text.histogram("detection_lag_seconds", &[], &metrics.detection_lag);
}

fn alerts(text: &mut Text, numbers: &Numbers, metrics: &Metrics) {
    let Numbers { tally, .. } = numbers;
    text.one(
        "alert_queue_size",
        "gauge",
        "Alerts in the queue, including those that are being posted.",
        numbers.queued,
    );
    text.one("alerted_agents", "gauge", "Agents that are dead as far as the station knows.", numbers.alerted);
    text.one("alerts_owed", "gauge", "Verdicts that are still to be told to the station.", numbers.owed);
    text.family("alerts_delivered_total", "counter", "Alerts that the station took, by type.");
    for (kind, count) in &tally.delivered {
        text.sample("alerts_delivered_total", &[("type", kind.as_str())], count);
    }
    text.family(
        "alerts_refused_total",
        "counter",
        "Alerts that the station refused for good, by type and status.",
    );
    for ((kind, status), count) in &tally.refused {
        text.sample(
            "alerts_refused_total",
            &[("type", kind.as_str()), ("status", &status.to_string())],
            count,
        );
    }
    text.family(
        "alerts_dropped_total",
        "counter",
        "Alerts that were dropped and will not be posted, by type and reason.",
    );
    for ((kind, reason), count) in &tally.dropped {
        text.sample("alerts_dropped_total", &[("type", kind.as_str()), ("reason", reason.as_str())], count);
    }
    text.family(
        "alert_delivery_seconds",
        "histogram",
        "Time from an event until the station took its alert.",
    );
    text.histogram("alert_delivery_seconds", &[], &metrics.alert_delivery);
    text.family("station_beats_total", "counter", "Beats to STATION_URL, by result.");
    for &result in BeatResult::ALL {
        let count = metrics.station_beats[result as usize].load(Ordering::Relaxed);
        text.sample("station_beats_total", &[("result", result.as_str())], count);
    }
}

fn state(text: &mut Text, saving: Saving) {
    let unsaved = u8::from(saving.is_saved == Some(false));
    text.one("state_unsaved", "gauge", "1 while the state cannot be saved, else 0.", unsaved);
    text.family("state_saves_total", "counter", "Tries to save the state, by result.");
    for (result, count) in [("saved", saving.succeeded), ("failed", saving.failed)] {
        text.sample("state_saves_total", &[("result", result)], count);
    }
}

fn requests(text: &mut Text, metrics: &Metrics, gauges: &Gauges) {
    text.family("heartbeats_refused_total", "counter", "Heartbeats refused, by reason.");
    for &why in Refusal::ALL {
        let count = metrics.refusals[why as usize].load(Ordering::Relaxed);
        text.sample("heartbeats_refused_total", &[("reason", why.as_str())], count);
    }
    text.family(
        "http_request_duration_seconds",
        "histogram",
        "Time from a whole request to its answer, by route.",
    );
    for &route in Route::ALL {
        text.histogram(
            "http_request_duration_seconds",
            &[("route", route.as_str())],
            &metrics.requests[route as usize],
        );
    }
    let States { open, reading, answering, held_back } = gauges.connections;
    text.one("connections", "gauge", "Connections that are open.", open);
    text.family("connections_by_state", "gauge", "Connections that are open, by state.");
    let busy = [
        ("reading", reading),
        ("answering", answering),
        ("held_back", held_back),
        ("watching", gauges.observers),
    ];
    let idle = open.saturating_sub(busy.iter().map(|(_, count)| count).sum());
    for (state, count) in [("idle", idle)].into_iter().chain(busy) {
        text.sample("connections_by_state", &[("state", state)], count);
    }
    text.family("connections_closed_total", "counter", "Connections that the collector closed, by reason.");
    for &why in Closed::ALL {
        let count = metrics.closed[why as usize].load(Ordering::Relaxed);
        text.sample("connections_closed_total", &[("reason", why.as_str())], count);
    }
    text.one(
        "observer_lagged_total",
        "counter",
        "Messages that were dropped because an observer was too slow.",
        gauges.missed,
    );
}
