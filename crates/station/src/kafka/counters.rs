//! What is counted about Kafka.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pap_process::metrics::{Histogram, SLOW, Text};

/// How a record of the registry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registry {
    /// It changed something.
    Applied,
    /// It was known, or a later registration or tombstone was.
    Known,
    /// There was no room for its cluster.
    Full,
    /// It is neither a registration nor a tombstone.
    Invalid,
}

/// How a record of the heartbeats ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// Its cluster lives.
    Taken,
    /// Nobody has registered its cluster.
    Unregistered,
    /// Its cluster was removed.
    Removed,
    /// It is no heartbeat.
    Invalid,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// A registration or a tombstone.
    Registry,
    /// A row of the audit.
    Audit,
}

const REGISTRY: [&str; 4] = ["applied", "known", "full", "invalid"];
const HEARTBEAT: [&str; 4] = ["taken", "unregistered", "removed", "invalid"];
const WRITTEN: [&str; 2] = ["registry", "audit"];

/// The counters.
#[derive(Debug)]
pub struct Counters {
    registry: [AtomicU64; REGISTRY.len()],
    heartbeats: [AtomicU64; HEARTBEAT.len()],
    written: [AtomicU64; WRITTEN.len()],
    not_written: AtomicU64,
    failures: AtomicU64,
    groups: AtomicU64,
    skew: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            registry: Default::default(),
            heartbeats: Default::default(),
            written: Default::default(),
            not_written: AtomicU64::default(),
            failures: AtomicU64::default(),
            groups: AtomicU64::default(),
            skew: Histogram::new(&SLOW),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// Counts a record of the registry that was read.
    pub fn registry(&self, outcome: Registry) {
        count(&self.registry[outcome as usize]);
    }

    /// Counts a heartbeat that was read.
    pub fn heartbeat(&self, outcome: Heartbeat) {
        count(&self.heartbeats[outcome as usize]);
    }

    /// Records how far a client's clock was from ours.
    pub fn skew(&self, by: Duration) {
        self.skew.record(by);
    }

    /// Counts a record that was written.
    pub fn written(&self, what: Written) {
        count(&self.written[what as usize]);
    }

    /// Counts a record that was not written, and is tried again.
    pub fn not_written(&self) {
        count(&self.not_written);
    }

    /// Counts that a topic could not be read.
    pub fn failure(&self) {
        count(&self.failures);
    }

    /// Counts a consumer group that was deleted.
    pub fn group(&self) {
        count(&self.groups);
    }

    /// The text.
    pub fn render(&self, is_read: bool, owed: u64) -> String {
        let mut text = Text::new("pap_station", &[]);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        text.family("kafka_records_total", "counter", "Records that were read, by what followed.");
        for (topic, outcomes, counters) in
            [("registry", REGISTRY, &self.registry), ("heartbeat", HEARTBEAT, &self.heartbeats)]
        {
            for (outcome, counter) in outcomes.iter().zip(counters) {
                let labels = [("topic", topic), ("outcome", outcome)];
                text.sample("kafka_records_total", &labels, read(counter));
            }
        }
        text.family("kafka_written_total", "counter", "Records that were written.");
        for (topic, counter) in WRITTEN.iter().zip(&self.written) {
            text.sample("kafka_written_total", &[("topic", topic)], read(counter));
        }
        for (name, help, counter) in [
            (
                "kafka_write_failures_total",
                "Records that were not written, and are tried again.",
                &self.not_written,
            ),
            ("kafka_read_failures_total", "Times that a topic could not be read.", &self.failures),
            ("kafka_groups_deleted_total", "Consumer groups that were deleted.", &self.groups),
        ] {
            text.one(name, "counter", help, read(counter));
        }
        text.one("kafka_reading", "gauge", "Whether both topics are read (1) or not (0).", u8::from(is_read));
        text.one("kafka_owed", "gauge", "Words about clusters that the registry does not have yet.", owed);
        let help = "How far clocks of clients were from ours, by their heartbeats.";
        text.family("kafka_heartbeat_skew_seconds", "histogram", help);
        text.histogram("kafka_heartbeat_skew_seconds", &[], &self.skew);
        text.finish()
    }
}
