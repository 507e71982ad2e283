//! Takes what was read: registrations and tombstones in their order, and heartbeats. What is read
//! together is stored in one write.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pap_core::time::Wall;
use pap_process::clock::wall;
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Headers as _};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::json;

use super::counters::{Heartbeat, Registry};
use super::order::Order;
use super::{groups, message, writer};
use crate::clusters::{self, Applied, Heard, REMEMBERED, What, Word};
use crate::station::Station;
use crate::{audit, registry};

/// A record of the registry, and the registration or tombstone in it.
struct Said {
    partition: i32,
    offset: i64,
    time: Wall,
    /// Its time is ahead of our clock, and it is read for the first time.
    is_ahead: bool,
    word: Word,
}

/// Takes records, and counts what follows.
pub struct Taker<'a> {
    station: &'a Arc<Station>,
    order: Order,
    /// Clusters that were registered, removed, and left out because there was no room, in this
    /// reading.
    registered: u64,
    removed: u64,
    left_out: u64,
}

impl<'a> Taker<'a> {
    /// A taker that has taken nothing yet.
    pub fn new(station: &'a Arc<Station>) -> Self {
        let most = station.config.admission.max_clusters.saturating_mul(REMEMBERED + 1);
        let order = Order::new(usize::try_from(most).unwrap_or(usize::MAX));
        Self { station, order, registered: 0, removed: 0, left_out: 0 }
    }

    /// Whether some clusters had no room.
    pub const fn has_left_out(&self) -> bool {
        self.left_out > 0
    }

    /// Whether some clusters had no room when they came, and others have gone.
    pub const fn is_to_read_again(&self) -> bool {
        self.left_out > 0 && self.removed > 0
    }

    /// Takes note that the topic was read to its end.
    pub fn end(&self, topic: &str) {
        let Self { registered, removed, left_out, .. } = self;
        if registered + removed > 0 {
            log::info!("{topic} was read: {registered} registrations and {removed} removals were new");
        }
        if *left_out > 0 {
            log::warn!("{left_out} registrations in {topic} are left out: MAX_CLUSTERS");
        }
    }

    /// Takes records of the registry.
    ///
    /// # Errors
    /// They are not stored.
    pub fn registry(&mut self, messages: &[BorrowedMessage<'_>]) -> Result<(), String> {
        if messages.is_empty() {
            return Ok(());
        }
        let (station, now) = (self.station, wall());
        let mut all = Vec::with_capacity(messages.len());
        for message in messages {
            let Some((cluster_id, what)) = message::registry(message.key(), message.payload()) else {
                station.kafka.counters.registry(Registry::Invalid);
                continue;
            };
            let word = Word { cluster_id, at: now, what };
            let (partition, offset) = (message.partition(), message.offset());
            all.push(Said { partition, offset, time: time(message).unwrap_or(now), is_ahead: false, word });
        }
        // The moment of each; and the clusters whose incidents are to be closed first.
        let order = &mut self.order;
        let live = station.store.read(|connection| {
            let mut live = Vec::new();
            for said in &mut all {
                let first = first_read(connection, said)?;
                said.is_ahead = first.is_none() && said.time > now;
                let cluster_id = &said.word.cluster_id;
                said.word.at = order.place(said.partition, cluster_id, said.time, first.unwrap_or(now));
                if matches!(said.word.what, What::Removed)
                    && clusters::would_change(connection, &said.word)?
                    && clusters::find(connection, cluster_id)?.is_some_and(|(_, is_gone)| !is_gone)
                {
                    live.push(cluster_id.clone());
                }
            }
            Ok(live)
        });
        for cluster_id in live.map_err(|error| error.to_string())? {
            registry::close_incidents(station, now, &cluster_id).map_err(|error| error.to_string())?;
        }
        let all = Arc::new(all);
        let (said, admission) = (Arc::clone(&all), station.config.admission);
        let lively = station.config.cleanup_timeout;
        let groups: Vec<_> = all.iter().map(|said| station.consumer_groups(&said.word.cluster_id)).collect();
        let applied = station.write(move |connection| {
            let mut applied = Vec::with_capacity(said.len());
            for (said, groups) in said.iter().zip(&groups) {
                if said.is_ahead {
                    remember_ahead(connection, said, now)?;
                }
                let (word, id) = (&said.word, &said.word.cluster_id);
                let outcome = clusters::apply(connection, now, word, admission, lively)?;
                match outcome {
                    Applied::Registered(true) => {
                        audit::write(connection, now, "Kafka", id, registry::REGISTERED, &json!({}))?;
                    }
                    Applied::Removed => {
                        audit::write(connection, now, "Kafka", id, registry::REMOVED, &json!({}))?;
                        groups::owe(connection, id, groups, now)?;
                    }
                    // kg-control-plane may have run its workers.
                    Applied::Remembered => groups::owe(connection, id, groups, now)?,
                    Applied::Registered(false) | Applied::Nothing | Applied::Full => {}
                }
                applied.push(outcome);
            }
            if applied.contains(&Applied::Remembered) || applied.contains(&Applied::Removed) {
                clusters::forget_removed(connection, admission)?;
            }
            if said.iter().any(|said| said.is_ahead) {
                forget_ahead(connection, admission.max_clusters.saturating_mul(REMEMBERED))?;
            }
            Ok(applied)
        });
        for (said, applied) in all.iter().zip(applied.map_err(|error| error.to_string())?) {
            self.follow(&said.word, now, applied);
        }
        Ok(())
    }

    /// What follows from a registration or a tombstone that is stored.
    fn follow(&mut self, word: &Word, now: Wall, applied: Applied) {
        let (station, cluster_id) = (self.station, word.cluster_id.as_str());
        station.kafka.counters.registry(match applied {
            Applied::Nothing => Registry::Known,
            Applied::Full => Registry::Full,
            Applied::Registered(_) | Applied::Removed | Applied::Remembered => Registry::Applied,
        });
        match applied {
            Applied::Nothing => {}
            Applied::Full => self.left_out += 1,
            Applied::Registered(_) => {
                self.registered += 1;
                let is_sign = now.since(word.at.into()) < station.config.cleanup_timeout;
                registry::registered(station, cluster_id, is_sign);
            }
            Applied::Removed => {
                self.removed += 1;
                registry::removed(station, cluster_id, "Kafka");
            }
            Applied::Remembered => self.removed += 1,
        }
    }

    /// Takes heartbeats, in one write.
    pub fn heartbeats(&self, messages: &[BorrowedMessage<'_>]) {
        if messages.is_empty() {
            return;
        }
        let (station, now) = (self.station, wall());
        let counters = &station.kafka.counters;
        // For each cluster the times that its heartbeats say.
        let mut beats: HashMap<String, Vec<Option<Wall>>> = HashMap::new();
        for message in messages {
            match message::heartbeat(message.key(), message.payload()) {
                Some((cluster_id, time)) => beats.entry(cluster_id).or_default().push(time),
                None => counters.heartbeat(Heartbeat::Invalid),
            }
        }
        let whose = station.store.read(|connection| {
            beats
                .keys()
                .map(|cluster_id| Ok((cluster_id, clusters::whose(connection, cluster_id)?)))
                .collect()
        });
        let whose: Vec<_> = match whose {
            Ok(whose) => whose,
            Err(error) => {
                log::error!("heartbeats from Kafka are not taken: {error}");
                return;
            }
        };
        let mut alive = Vec::new();
        for (cluster_id, whose) in whose {
            let times = beats.get(cluster_id).map(Vec::as_slice).unwrap_or_default();
            for time in times {
                counters.heartbeat(match whose {
                    Heard::Registered => Heartbeat::Taken,
                    Heard::Unregistered => Heartbeat::Unregistered,
                    Heard::Removed => Heartbeat::Removed,
                });
                if let (Heard::Registered, Some(time)) = (whose, time) {
                    counters.skew(Duration::from_millis(now.0.abs_diff(time.0)));
                }
            }
            if whose == Heard::Registered {
                log::debug!("💓 Heartbeat received from: {cluster_id}");
                station.heard_cluster(cluster_id);
                alive.push(cluster_id.clone());
            }
        }
        if alive.is_empty() {
            return;
        }
        // If the write fails, that is logged; the next heartbeat comes soon.
        let written = station.write(move |connection| {
            let mut is_news = false;
            for cluster_id in &alive {
                is_news |= clusters::sign(connection, now, cluster_id)?;
            }
            Ok(is_news)
        });
        if let Ok(is_news) = written {
            station.news.clusters();
            if is_news {
                station.reconcile();
            }
        }
    }
}

/// The time of a record: the one in the header that stations write, else the record's own.
fn time(message: &BorrowedMessage<'_>) -> Option<Wall> {
    let own = message.headers().and_then(|headers| {
        let header = headers.iter().find(|header| header.key == writer::AT)?;
        std::str::from_utf8(header.value?).ok()?.parse().ok()
    });
    let of_record =
        || message.timestamp().to_millis().map(|millis| u64::try_from(millis).unwrap_or_default());
    own.or_else(of_record).map(Wall)
}

/// When a record was first read, if its time was ahead of our clock then.
fn first_read(connection: &Connection, said: &Said) -> rusqlite::Result<Option<Wall>> {
    connection
        .prepare_cached(
            "SELECT read_at FROM registry_ahead WHERE partition = ?1 AND \"offset\" = ?2 AND at = ?3",
        )?
        .query_row(params![said.partition, said.offset, storable(said.time)], |row| row.get(0).map(Wall))
        .optional()
}

fn remember_ahead(connection: &Connection, said: &Said, now: Wall) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO registry_ahead (partition, \"offset\", at, read_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![said.partition, said.offset, storable(said.time), now.0])
        .map(drop)
}

/// Keeps at most `most` of these moments, the newest.
fn forget_ahead(connection: &Connection, most: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM registry_ahead WHERE (partition, \"offset\", at) IN (
                SELECT partition, \"offset\", at FROM registry_ahead ORDER BY read_at DESC LIMIT -1 OFFSET ?1)",
        )?
        .execute([most])
        .map(drop)
}

/// A client's time as the file can hold it.
fn storable(time: Wall) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}
