//! Counters and their text (Prometheus exposition format 0.0.4).
//!
//! No label's value comes from a client, so clients cannot make the number of series grow.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use pap_http::service::States;

use crate::alert::Type;
use crate::channels::Outcome;

const OUTCOMES: [&str; 3] = ["delivered", "refused", "failed"];

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    alerts: [AtomicU64; Type::ALL.len()],
    repeats: AtomicU64,
    refused_alerts: AtomicU64,
    beats: AtomicU64,
    heartbeats: AtomicU64,
    machine_reports: AtomicU64,
    deliveries: [AtomicU64; OUTCOMES.len()],
    wrong_keys: AtomicU64,
    store_failures: AtomicU64,
}

/// What is counted where it is kept.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Seconds since the start.
    pub uptime: u64,
    /// Connections by state.
    pub connections: States,
    /// Clusters that are known.
    pub clusters: u64,
    /// Incidents that are open.
    pub incidents: u64,
    /// Deliveries that are owed.
    pub owed: u64,
    /// Agents that beat here, and how many of them are dead.
    pub agents: (usize, usize),
    /// Machines by status: unknown, online, offline.
    pub machines: [u64; 3],
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Metrics {
    /// An alert was stored, or was stored before.
    pub fn alert(&self, kind: Type, is_new: bool) {
        count(if is_new { &self.alerts[kind as usize] } else { &self.repeats });
    }

    /// An alert was not taken.
    pub fn refused_alert(&self) {
        count(&self.refused_alerts);
    }

    /// A collector said that it lives.
    pub fn beat(&self) {
        count(&self.beats);
    }

    /// An agent said that it lives.
    pub fn heartbeat(&self) {
        count(&self.heartbeats);
    }

    /// A machine said something.
    pub fn machine_report(&self) {
        count(&self.machine_reports);
    }

    /// A delivery was tried.
    pub fn delivery(&self, outcome: &Outcome) {
        count(match outcome {
            Outcome::Delivered => &self.deliveries[0],
            Outcome::Refused(_) | Outcome::Gone(_) => &self.deliveries[1],
            Outcome::Failed(_) => &self.deliveries[2],
        });
    }

    /// A key was nobody's.
    pub fn wrong_key(&self) {
        count(&self.wrong_keys);
    }

    /// Something could not be stored.
    pub fn store_failure(&self) {
        count(&self.store_failures);
    }

    /// The text.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut out = Text(String::with_capacity(4096));
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        out.head("alerts_total", "counter", "Alerts that were stored, by type.");
        for kind in Type::ALL {
            out.line(
                "alerts_total",
                &format!("{{type=\"{}\"}}", kind.name()),
                read(&self.alerts[kind as usize]),
            );
        }
        out.one("alert_repeats_total", "counter", "Alerts that were stored before.", read(&self.repeats));
        out.one("alerts_refused_total", "counter", "Alerts that were not taken.", read(&self.refused_alerts));
        out.one("collector_heartbeats_total", "counter", "Heartbeats of collectors.", read(&self.beats));
        out.one("agent_heartbeats_total", "counter", "Heartbeats of agents.", read(&self.heartbeats));
        out.one(
            "machine_reports_total",
            "counter",
            "Reports and heartbeats of machines.",
            read(&self.machine_reports),
        );
        out.head("delivery_attempts_total", "counter", "Attempts to deliver, by how they ended.");
        for (outcome, counter) in OUTCOMES.iter().zip(&self.deliveries) {
            out.line("delivery_attempts_total", &format!("{{outcome=\"{outcome}\"}}"), read(counter));
        }
        out.one(
            "wrong_keys_total",
            "counter",
            "Requests with a key that is nobody's.",
            read(&self.wrong_keys),
        );
        out.one(
            "store_failures_total",
            "counter",
            "Writes that were not stored.",
            read(&self.store_failures),
        );
        out.one("clusters", "gauge", "Clusters that are known.", gauges.clusters);
        out.one("incidents_open", "gauge", "Incidents that are open.", gauges.incidents);
        out.one("deliveries_owed", "gauge", "Deliveries that are owed.", gauges.owed);
        let (agents, dead) = gauges.agents;
        out.one("agents", "gauge", "Agents that beat here.", agents as u64);
        out.one("agents_dead", "gauge", "Agents that beat here and are dead.", dead as u64);
        out.head("machines", "gauge", "Machines, by status.");
        for (status, number) in ["unknown", "online", "offline"].iter().zip(gauges.machines) {
            out.line("machines", &format!("{{status=\"{status}\"}}"), number);
        }
        out.one("connections", "gauge", "Open connections.", gauges.connections.open as u64);
        out.one("uptime_seconds", "gauge", "Seconds since the start.", gauges.uptime);
        out.0
    }
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP pap_station_{name} {help}\n# TYPE pap_station_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.0, "pap_station_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(name, "", value);
    }
}
