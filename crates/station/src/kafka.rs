//! Kafka: registrations, tombstones and heartbeats of clusters come from there. Registrations and
//! tombstones that come over HTTP go there, and groups of removed clusters are deleted there.
//!
//! ```text
//!  cluster.registry --> reader --> taker: message, order --> clusters::apply
//!  cluster.heartbeat -> reader --> taker: message ---------> clusters::sign
//!  outbox, audit, groups (in the file) --> writer --> cluster.registry, audit topic, groups
//! ```
//!
//! - `settings`, `outbox`, `groups`, `counters`: in every build, since the file is the same
//! - `client`, `message`, `order`, `reader`, `taker`, `writer`: with the feature `kafka` alone
//!
//! Registrations and tombstones come by Kafka or over HTTP. Of two about one cluster the later one
//! holds (`clusters::holds`), so the registry may be read again and again.

#[cfg(feature = "kafka")]
pub mod client;
pub mod counters;
pub mod groups;
#[cfg(feature = "kafka")]
pub mod message;
#[cfg(feature = "kafka")]
pub mod order;
pub mod outbox;
#[cfg(feature = "kafka")]
mod reader;
pub mod settings;
#[cfg(feature = "kafka")]
mod taker;
#[cfg(feature = "kafka")]
mod writer;

use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(feature = "kafka")]
use std::{io, sync::Arc};

use crate::notify::Bell;
#[cfg(feature = "kafka")]
use crate::station::Station;
use counters::Counters;

/// A topic that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Registrations and tombstones of clusters.
    Registry,
    /// Heartbeats of clusters.
    Heartbeat,
}

/// The state of the link to Kafka, for all threads.
#[derive(Debug, Default)]
pub struct Link {
    is_used: bool,
    is_read: [AtomicBool; 2],
    /// Rings when something may have to be written.
    pub bell: Bell,
    /// What is counted.
    pub counters: Counters,
}

impl Link {
    /// Nothing was read yet.
    pub fn new(is_used: bool) -> Self {
        Self { is_used, ..Self::default() }
    }

    /// Whether there is a Kafka.
    pub const fn is_used(&self) -> bool {
        self.is_used
    }

    /// Takes note of whether a topic can be read, and was read to its end once.
    pub fn set_read(&self, source: Source, is_read: bool) {
        self.is_read[source as usize].store(is_read, Ordering::Relaxed);
    }

    /// Whether both topics can be read, and were read to their ends once.
    pub fn is_read(&self) -> bool {
        self.is_read.iter().all(|is_read| is_read.load(Ordering::Relaxed))
    }

    /// Whether there is a Kafka that is not read now.
    pub fn is_unread(&self) -> bool {
        self.is_used && !self.is_read()
    }

    /// The metrics as text; none without a Kafka.
    pub fn metrics(&self, owed: u64) -> String {
        if self.is_used { self.counters.render(self.is_read(), owed) } else { String::new() }
    }
}

/// Starts the threads, if there is a Kafka.
///
/// # Errors
/// The system cannot start one more thread.
#[cfg(feature = "kafka")]
pub fn spawn(station: &Arc<Station>, threads: &mut pap_process::threads::Threads) -> io::Result<()> {
    let Some(config) = &station.config.kafka else { return Ok(()) };
    log::info!("Kafka: {}", config.brokers);
    for (name, source) in [("kafka-registry", Source::Registry), ("kafka-heartbeat", Source::Heartbeat)] {
        let at = Arc::clone(station);
        threads.spawn(name, move || reader::run(&at, source))?;
    }
    let at = Arc::clone(station);
    threads.spawn("kafka-writer", move || writer::run(&at))
}
