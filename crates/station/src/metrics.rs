//! The counters of a station.
//!
//! No label's value comes from a client, so clients cannot make the number of series grow.

use std::sync::atomic::{AtomicU64, Ordering};

use pap_alertmanager::metrics::Numbers as Conditions;
use pap_http::service::States;
use pap_process::metrics::{Histogram, Text};

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

/// Numbers of this moment, from where they are kept.
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
    /// Counts an alert that is stored; `is_new` if it was not stored before.
    pub fn alert(&self, kind: Type, is_new: bool) {
        count(if is_new { &self.alerts[kind as usize] } else { &self.repeats });
    }

    /// Counts an alert that was not taken.
    pub fn refused_alert(&self) {
        count(&self.refused_alerts);
    }

    /// Counts a beat.
    pub fn beat(&self) {
        count(&self.beats);
    }

    /// Counts a heartbeat of an agent.
    pub fn heartbeat(&self) {
        count(&self.heartbeats);
    }

    /// Counts a report or a heartbeat of a machine.
    pub fn machine_report(&self) {
        count(&self.machine_reports);
    }

    /// Counts an attempt at a delivery.
    pub fn delivery(&self, outcome: &Outcome) {
        count(match outcome {
            Outcome::Delivered => &self.deliveries[0],
            Outcome::Refused(_) | Outcome::Gone(_) => &self.deliveries[1],
            Outcome::Failed(_) => &self.deliveries[2],
        });
    }

    /// Counts a key that is nobody's.
    pub fn wrong_key(&self) {
        count(&self.wrong_keys);
    }

    /// Counts a write that was not stored.
    pub fn store_failure(&self) {
        count(&self.store_failures);
    }

    /// The text.
    pub fn render(&self, gauges: &Gauges, conditions: Option<(Conditions, &Histogram)>) -> String {
        let mut text = Text::new("pap_station", &[]);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        text.family("alerts_total", "counter", "Alerts that were stored, by type.");
        for kind in Type::ALL {
            text.sample("alerts_total", &[("type", kind.name())], read(&self.alerts[kind as usize]));
        }
        for (name, help, counter) in [
            ("alert_repeats_total", "Alerts that were stored before.", &self.repeats),
            ("alerts_refused_total", "Alerts that were not taken.", &self.refused_alerts),
            ("collector_heartbeats_total", "Heartbeats of collectors.", &self.beats),
            ("agent_heartbeats_total", "Heartbeats of agents.", &self.heartbeats),
            ("machine_reports_total", "Reports and heartbeats of machines.", &self.machine_reports),
        ] {
            text.one(name, "counter", help, read(counter));
        }
        text.family("delivery_attempts_total", "counter", "Attempts to deliver, by how they ended.");
        for (outcome, counter) in OUTCOMES.iter().zip(&self.deliveries) {
            text.sample("delivery_attempts_total", &[("outcome", outcome)], read(counter));
        }
        for (name, help, counter) in [
            ("wrong_keys_total", "Requests with a key that is nobody's.", &self.wrong_keys),
            ("store_failures_total", "Writes that were not stored.", &self.store_failures),
        ] {
            text.one(name, "counter", help, read(counter));
        }
        let (agents, dead) = gauges.agents;
        for (name, help, value) in [
            ("clusters", "Clusters that are known.", gauges.clusters),
            ("incidents_open", "Incidents that are open.", gauges.incidents),
            ("deliveries_owed", "Deliveries that are owed.", gauges.owed),
            ("agents", "Agents that beat here.", agents as u64),
            ("agents_dead", "Agents that beat here and are dead.", dead as u64),
            ("connections", "Open connections.", gauges.connections.open as u64),
            ("uptime_seconds", "Seconds since the start.", gauges.uptime),
        ] {
            text.one(name, "gauge", help, value);
        }
        text.family("machines", "gauge", "Machines, by status.");
        for (status, number) in ["unknown", "online", "offline"].iter().zip(gauges.machines) {
            text.sample("machines", &[("status", status)], number);
        }
        if let Some((counted, delivery)) = conditions {
            counted.write(&mut text, delivery);
        }
        text.finish()
    }
}
