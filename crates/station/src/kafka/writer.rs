//! The thread that writes to Kafka: registrations and tombstones that came over HTTP, the audit, and
//! the deletion of consumer groups. What it owes is in the file until Kafka has acknowledged it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pap_core::time::{Uptime, Wall};
use pap_process::clock::wall;
use pap_process::throttle::Throttle;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use serde_json::value::RawValue;

use super::client::{Ear, PATIENCE, config, explain, producer_config, wait_for};
use super::counters::Written;
use super::reader::wait_after;
use super::settings::Kafka;
use super::{groups, outbox};
use crate::station::Station;

/// The header with the moment of a registration or a tombstone, in milliseconds since 1970: a topic
/// may set the times of its records itself.
pub const AT: &str = "pap-at";
/// How long a record may take.
const LONGEST: Duration = Duration::from_secs(10);
/// The most that is sent at once.
const BATCH: u32 = 256;
/// The most groups that are tried at once.
const GROUPS: u32 = 32;
/// How often the thread looks for something to write when nobody rings.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often groups are tried.
const GROUPS_EVERY: Duration = Duration::from_secs(2);
/// Under which name the file keeps up to which row the audit was sent.
const SENT: &str = "kafka_audit_sent";

/// Writes until the station stops.
pub fn run(station: &Arc<Station>) {
    let Some(kafka) = &station.config.kafka else { return };
    let mut writer = Writer { station, kafka, producer: None, tried: None };
    let (mut failures, said) = (0, Throttle::default());
    loop {
        let seen = station.kafka.bell.count();
        if station.stop.is_stopping() {
            return;
        }
        match writer.turn() {
            Ok(is_more) => {
                failures = 0;
                if !is_more {
                    station.kafka.bell.wait(seen, LOOK_EVERY);
                }
            }
            Err(why) => {
                // A new producer finds brokers that have moved.
                writer.producer = None;
                if said.is_news((), station.clock.uptime()) {
                    log::error!("not written to Kafka: {why}; it is tried again");
                }
                if station.stop.wait(wait_after(failures)) {
                    return;
                }
                failures += 1;
            }
        }
    }
}

/// A record to write.
struct Record {
    key: String,
    /// None for a tombstone.
    value: Option<String>,
    at: Wall,
}

struct Writer<'a> {
    station: &'a Arc<Station>,
    kafka: &'a Kafka,
    producer: Option<BaseProducer<Acks>>,
    /// When groups were tried last.
    tried: Option<Uptime>,
}

impl Writer<'_> {
    /// Writes some of what is owed. Returns whether there is more.
    fn turn(&mut self) -> Result<bool, String> {
        // If one of the three fails, the others still have their turn.
        let (words, audit, groups) = (self.words(), self.audit(), self.groups());
        groups?;
        Ok(words? | audit?)
    }

    /// Whether it is this station that writes, for as long as that may take.
    fn may_write(&self) -> bool {
        self.station.store.lease().covers(LONGEST)
    }

    /// Writes registrations and tombstones.
    fn words(&mut self) -> Result<bool, String> {
        if !self.may_write() {
            return Ok(false);
        }
        let owed = self.station.store.read(|connection| outbox::owed(connection, BATCH)).map_err(text)?;
        if owed.is_empty() {
            return Ok(false);
        }
        let record =
            |it: &outbox::Owed| Record { key: it.cluster_id.clone(), value: it.value.clone(), at: it.at };
        let records: Vec<_> = owed.iter().map(record).collect();
        let topic = &self.kafka.registry;
        let (acknowledged, failed) = self.send(topic, &records, Written::Registry)?;
        let is_more = owed.len() >= BATCH as usize;
        let paid: Vec<_> = owed
            .into_iter()
            .zip(acknowledged)
            .filter_map(|(owed, is_paid)| is_paid.then_some(owed))
            .collect();
        self.station
            .store
            .write(move |connection| paid.iter().try_for_each(|owed| outbox::paid(connection, owed)))
            .map_err(text)?;
        failed.map_or(Ok(is_more), Err)
    }

    /// Writes rows of the audit, in their order.
    fn audit(&mut self) -> Result<bool, String> {
        if !self.may_write() {
            return Ok(false);
        }
        let Some(topic) = &self.kafka.audit else { return Ok(false) };
        let rows = self.station.store.read(unsent).map_err(text)?;
        if rows.is_empty() {
            return Ok(false);
        }
        let record = |row: &Row| Record {
            key: row.client_id.clone(),
            // Numbers, text and JSON can be written as JSON.
            value: Some(serde_json::to_string(row).unwrap_or_default()),
            at: row.at,
        };
        let records: Vec<_> = rows.iter().map(record).collect();
        let (acknowledged, failed) = self.send(topic, &records, Written::Audit)?;
        // The rows after one that failed are sent again with it.
        let sent = rows.iter().zip(acknowledged).take_while(|(_, is_sent)| *is_sent).last();
        if let Some((row, _)) = sent {
            let id = row.id;
            self.station.store.write(move |connection| set_sent(connection, id)).map_err(text)?;
        }
        failed.map_or(Ok(rows.len() >= BATCH as usize), Err)
    }

    /// Sends records, and waits until each is acknowledged or has failed. Returns which are
    /// acknowledged, and why others failed.
    fn send(
        &mut self,
        topic: &str,
        records: &[Record],
        what: Written,
    ) -> Result<(Vec<bool>, Option<String>), String> {
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => {
                producer_config(self.kafka, LONGEST).create_with_context(Acks::default()).map_err(text)?
            }
        };
        let producer = self.producer.insert(producer);
        let (mut acknowledged, mut failed) = (vec![false; records.len()], None);
        let mut waiting = 0;
        for (number, record) in records.iter().enumerate() {
            let at = record.at.0.to_string();
            let headers = OwnedHeaders::new().insert(Header { key: AT, value: Some(&at) });
            let mut message = BaseRecord::with_opaque_to(topic, number).key(&record.key).headers(headers);
            message = message.timestamp(i64::try_from(record.at.0).unwrap_or(i64::MAX));
            if let Some(value) = &record.value {
                message = message.payload(value);
            }
            match producer.send(message) {
                Ok(()) => waiting += 1,
                Err((error, _)) => failed = Some(format!("{topic}: {error}")),
            }
        }
        let deadline = self.station.clock.uptime() + LONGEST + PATIENCE;
        while waiting > 0 && self.station.clock.uptime() < deadline && !self.station.stop.is_stopping() {
            producer.poll(Duration::from_millis(20));
            for (number, error) in producer.context().take() {
                waiting -= 1;
                match error {
                    None => acknowledged[number] = true,
                    Some(error) => {
                        failed = Some(format!("{topic}: {}", explain(&error, &producer.context().ear)));
                    }
                }
            }
        }
        if waiting > 0 {
            failed = Some(format!("{topic}: no answer in time"));
        }
        for is_acknowledged in &acknowledged {
            let counters = &self.station.kafka.counters;
            if *is_acknowledged { counters.written(what) } else { counters.not_written() }
        }
        Ok((acknowledged, failed))
    }

    /// Deletes consumer groups of removed clusters that have no member any more.
    fn groups(&mut self) -> Result<(), String> {
        if !self.may_write() {
            return Ok(());
        }
        let now = self.station.clock.uptime();
        if self.tried.is_some_and(|at| now.since(at) < GROUPS_EVERY) {
            return Ok(());
        }
        self.tried = Some(now);
        let due = self.station.store.read(|connection| groups::due(connection, GROUPS)).map_err(text)?;
        if due.is_empty() {
            return Ok(());
        }
        // The client is made for these groups alone, because it has a thread that looks ten times a
        // second.
        let admin = config(self.kafka).create_with_context(Ear::default()).map_err(text)?;
        let (mut tried, mut failed) = (Vec::new(), None);
        for name in due {
            if self.station.stop.is_stopping() {
                break;
            }
            match delete_group(&admin, &name) {
                Ok(is_gone) => {
                    if is_gone {
                        log::info!("🗑️  Deleting consumer group: {name}");
                        self.station.kafka.counters.group();
                    } else {
                        log::debug!("the consumer group {name} still has members");
                    }
                    tried.push((name, is_gone));
                }
                Err(why) => {
                    failed = Some(format!("the consumer group {name} is not deleted: {why}"));
                    tried.push((name, false));
                    break;
                }
            }
        }
        let now = wall();
        self.station.store.write(move |connection| groups::tried(connection, now, &tried)).map_err(text)?;
        failed.map_or(Ok(()), Err)
    }
}

/// Deletes a group if it has no members. Returns whether it is gone.
fn delete_group(admin: &AdminClient<Ear>, name: &str) -> Result<bool, String> {
    let ear = admin.inner().context();
    let listed = admin.inner().fetch_group_list(Some(name), PATIENCE).map_err(|it| explain(&it, ear))?;
    if listed.groups().iter().any(|group| group.name() == name && !group.members().is_empty()) {
        return Ok(false);
    }
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let deleted = wait_for(admin.delete_groups(&[name], &options), LONGEST);
    let deleted = deleted.ok_or("no answer in time")?.map_err(|it| explain(&it, ear))?;
    match deleted.into_iter().next() {
        Some(Ok(_) | Err((_, Code::GroupIdNotFound))) => Ok(true),
        Some(Err((_, Code::NonEmptyGroup))) => Ok(false),
        Some(Err((_, why))) => Err(why.to_string()),
        None => Err("no answer about it".into()),
    }
}

/// A row of the audit as it is written, the members in their order.
#[derive(Serialize)]
struct Row {
    id: i64,
    at: Wall,
    who: String,
    client_id: String,
    action: String,
    details: Box<RawValue>,
}

/// The next rows of the audit.
fn unsent(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    let sent: Option<String> = connection
        .prepare_cached("SELECT value FROM about WHERE name = ?1")?
        .query_row([SENT], |row| row.get(0))
        .optional()?;
    let sent: i64 = sent.and_then(|sent| sent.parse().ok()).unwrap_or_default();
    let mut statement = connection.prepare_cached(
        "SELECT id, at, who, cluster_id, action, details FROM audit WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let rows = statement.query_map(params![sent, BATCH], |row| {
        let details: String = row.get(5)?;
        Ok(Row {
            id: row.get(0)?,
            at: Wall(row.get(1)?),
            who: row.get(2)?,
            client_id: row.get(3)?,
            action: row.get(4)?,
            details: RawValue::from_string(details).unwrap_or_else(|_| RawValue::NULL.to_owned()),
        })
    })?;
    rows.collect()
}

fn set_sent(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO about (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
        )?
        .execute(params![SENT, id.to_string()])
        .map(drop)
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn text(error: impl ToString) -> String {
    error.to_string()
}

/// Which records have ended, and how.
#[derive(Default)]
struct Acks {
    ended: Mutex<Vec<(usize, Option<KafkaError>)>>,
    ear: Ear,
}

impl Acks {
    fn take(&self) -> Vec<(usize, Option<KafkaError>)> {
        std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Acks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.ear.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.ear.error(error, reason);
    }
}

impl ProducerContext for Acks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let error = result.as_ref().err().map(|(error, _)| error.clone());
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).push((number, error));
    }
}
