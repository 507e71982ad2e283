//! Counters, histograms and their text (Prometheus exposition format 0.0.4).
//!
//! No label's value comes from a client: all values are listed here or in the
//! core. So clients cannot make the number of series grow.

mod alertmanagers;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pap_core::heartbeat::Mode;
use pap_core::outbox::Tally;
use pap_core::registry::{Counters, Registry, Stats};
use pap_core::time::Now;
use pap_core::verdict::Verdict;
use pap_http::service::States;
use pap_process::clock::Clock;

use crate::state_keeper::Saving;

/// Buckets, in seconds, for work that should take milliseconds.
pub const FAST: [f64; 12] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Buckets, in seconds, for work that may take as long as an outage.
pub const SLOW: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];

/// Counts durations by length.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and a last one for durations beyond all bounds.
    counts: Vec<AtomicU64>,
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// An empty histogram with these upper bounds, in rising seconds.
    pub fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_nanos: AtomicU64::new(0) }
    }

    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.partition_point(|&bound| bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

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
    /// Why a connection was closed by us.
    Closed {
        /// A request was not taken.
        Refused = "refused",
        /// The answer said that the connection ends.
        Done = "done",
        /// No request came for too long.
        Idle = "idle",
        /// A request that did not arrive, or an answer that was not taken.
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
        /// The station answered that it does not want it, or not with this key.
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
    /// Records of heartbeats that are missing in the trace.
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

/// A copy of what the registry counts, so that it can be written without the lock.
#[derive(Debug)]
pub struct Numbers {
    stats: Stats,
    counters: Counters,
    tally: Tally,
    queued: usize,
    owed: usize,
    alerted: usize,
    firing: Option<alertmanagers::Numbers>,
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
            firing: alertmanagers::Numbers::of(registry.firing(), now.tick),
            mass_silence: registry.mass_silence().is_some(),
            held: registry.held(),
        }
    }
}

/// The answer to a scrape.
pub fn render(cluster: &str, numbers: &Numbers, metrics: &Metrics, clock: &Clock, gauges: &Gauges) -> String {
    let mut text = Text::new(cluster);
    text.build_info();
    text.agents(numbers, metrics, gauges);
    text.alerts(numbers, metrics);
    if let Some(firing) = &numbers.firing {
        text.alertmanagers(firing, metrics);
    }
    text.requests(metrics, gauges);
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
    text.state(gauges.saving);
    text.family("sweep_duration_seconds", "histogram", "Time one sweep took.");
    text.histogram("sweep_duration_seconds", &[], &metrics.sweep);
    text.out
}

struct Text {
    out: String,
    cluster: String,
}

impl Text {
    fn new(cluster: &str) -> Self {
        let cluster = cluster.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        Self { out: String::with_capacity(16 * 1024), cluster }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "# HELP pap_collector_{name} {help}\n# TYPE pap_collector_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = write!(self.out, "pap_collector_{name}{{cluster=\"{}\"", self.cluster);
        for (label, text) in labels {
            let _ = write!(self.out, ",{label}=\"{text}\"");
        }
        let _ = writeln!(self.out, "}} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut count = 0;
        let bucket = format!("{name}_bucket");
        for (at, bucket_count) in histogram.counts.iter().enumerate() {
            count += bucket_count.load(Ordering::Relaxed);
            let bound = histogram.bounds.get(at).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            let labels = [labels, &[("le", &bound)]].concat();
            self.sample(&bucket, &labels, count);
        }
        let sum = Duration::from_nanos(histogram.sum_nanos.load(Ordering::Relaxed));
        self.sample(&format!("{name}_sum"), labels, sum.as_secs_f64());
        self.sample(&format!("{name}_count"), labels, count);
    }

    fn build_info(&mut self) {
        self.family("build_info", "gauge", "Always 1; the version is in the label.");
        self.sample("build_info", &[("version", crate::VERSION)], 1);
    }

    fn agents(&mut self, numbers: &Numbers, metrics: &Metrics, gauges: &Gauges) {
        let Numbers { stats, counters, .. } = numbers;
        self.one("agents_total", "gauge", "Agents known.", stats.total());
        self.one("agents_healthy", "gauge", "Agents that are not dead.", stats.healthy());
        self.one("agents_unhealthy", "gauge", "Agents that are dead.", stats.unhealthy());
        let suspect = stats.by_status[Verdict::Suspect as usize];
        self.one("agents_suspect", "gauge", "Agents silent for 1.5 intervals and not yet dead.", suspect);
        self.family("agents_by_mode", "gauge", "Agents by mode.");
        for mode in Mode::ALL {
            self.sample("agents_by_mode", &[("mode", mode.as_str())], stats.by_mode[mode as usize]);
        }
        self.one(
            "observations_active",
            "gauge",
            "Agents that have an observer of their own.",
            gauges.watched,
        );
        self.one("observers", "gauge", "Observers that are connected.", gauges.observers);
        self.family("heartbeats_total", "counter", "Heartbeats accepted, by mode.");
        for mode in Mode::ALL {
            self.sample("heartbeats_total", &[("mode", mode.as_str())], counters.heartbeats[mode as usize]);
        }
        self.one("deaths_total", "counter", "Agents that were found dead.", counters.deaths);
        self.one(
            "mass_silence",
            "gauge",
            "1 while at least ten agents and half of the known ones are silent that fell silent at once.",
            u8::from(numbers.mass_silence),
        );
        self.one("mass_silences_total", "counter", "Mass silences that began.", counters.mass_silences);
        self.one("deaths_held", "gauge", "Deaths of a mass silence that are held back.", numbers.held);
        self.one("recoveries_total", "counter", "Dead agents that came back.", counters.recoveries);
        self.one("restarts_total", "counter", "Restarts of agents that were noticed.", counters.restarts);
        self.family(
            "detection_lag_seconds",
            "histogram",
            "Time from the deadline of a death until its alert was queued.",
        );
        self.histogram("detection_lag_seconds", &[], &metrics.detection_lag);
    }

    fn alerts(&mut self, numbers: &Numbers, metrics: &Metrics) {
        let Numbers { tally, .. } = numbers;
        self.one(
            "alert_queue_size",
            "gauge",
            "Alerts in the queue, including those that are being posted.",
            numbers.queued,
        );
        self.one(
            "alerted_agents",
            "gauge",
            "Agents that are dead as far as the station knows.",
            numbers.alerted,
        );
        self.one("alerts_owed", "gauge", "Verdicts that are still to be told to the station.", numbers.owed);
        self.family("alerts_delivered_total", "counter", "Alerts that the station took, by type.");
        for (kind, count) in &tally.delivered {
            self.sample("alerts_delivered_total", &[("type", kind.as_str())], count);
        }
        self.family(
            "alerts_refused_total",
            "counter",
            "Alerts that the station refused for good, by type and status.",
        );
        for ((kind, status), count) in &tally.refused {
            self.sample(
                "alerts_refused_total",
                &[("type", kind.as_str()), ("status", &status.to_string())],
                count,
            );
        }
        self.family(
            "alerts_dropped_total",
            "counter",
            "Alerts that were dropped and will not be posted, by type and reason.",
        );
        for ((kind, reason), count) in &tally.dropped {
            self.sample(
                "alerts_dropped_total",
                &[("type", kind.as_str()), ("reason", reason.as_str())],
                count,
            );
        }
        self.family(
            "alert_delivery_seconds",
            "histogram",
            "Time from an event until the station took its alert.",
        );
        self.histogram("alert_delivery_seconds", &[], &metrics.alert_delivery);
        self.family("station_beats_total", "counter", "Beats to STATION_URL, by result.");
        for &result in BeatResult::ALL {
            let count = metrics.station_beats[result as usize].load(Ordering::Relaxed);
            self.sample("station_beats_total", &[("result", result.as_str())], count);
        }
    }

    fn state(&mut self, saving: Saving) {
        let unsaved = u8::from(saving.is_saved == Some(false));
        self.one("state_unsaved", "gauge", "1 while the state cannot be saved, else 0.", unsaved);
        self.family("state_saves_total", "counter", "Tries to save the state, by result.");
        for (result, count) in [("saved", saving.succeeded), ("failed", saving.failed)] {
            self.sample("state_saves_total", &[("result", result)], count);
        }
    }

    fn requests(&mut self, metrics: &Metrics, gauges: &Gauges) {
        self.family("heartbeats_refused_total", "counter", "Heartbeats refused, by reason.");
        for &why in Refusal::ALL {
            let count = metrics.refusals[why as usize].load(Ordering::Relaxed);
            self.sample("heartbeats_refused_total", &[("reason", why.as_str())], count);
        }
        self.family(
            "http_request_duration_seconds",
            "histogram",
            "Time from a whole request to its answer, by route.",
        );
        for &route in Route::ALL {
            self.histogram(
                "http_request_duration_seconds",
                &[("route", route.as_str())],
                &metrics.requests[route as usize],
            );
        }
        let States { open, reading, answering, held_back } = gauges.connections;
        self.one("connections", "gauge", "Connections that are open.", open);
        self.family("connections_by_state", "gauge", "Connections that are open, by state.");
        let busy = [
            ("reading", reading),
            ("answering", answering),
            ("held_back", held_back),
            ("watching", gauges.observers),
        ];
        let idle = open.saturating_sub(busy.iter().map(|(_, count)| count).sum());
        for (state, count) in [("idle", idle)].into_iter().chain(busy) {
            self.sample("connections_by_state", &[("state", state)], count);
        }
        self.family(
            "connections_closed_total",
            "counter",
            "Connections that the collector closed, by reason.",
        );
        for &why in Closed::ALL {
            let count = metrics.closed[why as usize].load(Ordering::Relaxed);
            self.sample("connections_closed_total", &[("reason", why.as_str())], count);
        }
        self.one(
            "observer_lagged_total",
            "counter",
            "Messages that were dropped because an observer was too slow.",
            gauges.missed,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_upwards_and_ends_in_infinity() {
        let histogram = Histogram::new(&FAST);
        for millis in [0, 1, 3, 70_000] {
            histogram.record(Duration::from_millis(millis));
        }
        let mut text = Text::new("a\"b");
        text.histogram("x", &[("route", "y")], &histogram);
        let has = |line: &str| assert!(text.out.contains(line), "{line} in\n{}", text.out);
        has("pap_collector_x_bucket{cluster=\"a\\\"b\",route=\"y\",le=\"0.0001\"} 1\n");
        has("le=\"0.001\"} 2\n");
        has("le=\"0.005\"} 3\n");
        has("le=\"5\"} 3\n");
        has("le=\"+Inf\"} 4\n");
        has("pap_collector_x_sum{cluster=\"a\\\"b\",route=\"y\"} 70.004\n");
        has("pap_collector_x_count{cluster=\"a\\\"b\",route=\"y\"} 4\n");
    }
}
