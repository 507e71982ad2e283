//! The threads that read: one the registry, from its beginning, one the heartbeats, from now on.
//!
//! All partitions are assigned by hand, and no offset is kept in Kafka: what the registry says is
//! in the file, and reading it again changes nothing. So any error ends a reading, and after a
//! wait the next reading begins.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pap_core::time::Uptime;
use pap_process::throttle::Throttle;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::Source;
use super::client::{Ear, PATIENCE, consumer_config, explain};
use super::settings::Kafka;
use super::taker::Taker;
use crate::station::Station;

/// How long the thread waits for the first record of a batch, and for each further one.
const FIRST: Duration = Duration::from_millis(250);
const NEXT: Duration = Duration::from_millis(5);
/// The most records and bytes of a batch.
const MAX_RECORDS: usize = 256;
const MAX_BYTES: usize = 1024 * 1024;
/// The most that the library may have to say when a topic cannot be read.
const MAX_EVENTS: usize = 64;
/// How often the thread looks whether the topic can still be read.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// How often the registry is read again when some clusters had no room.
const AGAIN_EVERY: Duration = Duration::from_secs(600);
/// The wait after a reading that failed, which doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The wait after so many failures in a row, with jitter, so that not all threads ask at once.
pub fn wait_after(failures: u32) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << failures.min(10)).min(LONGEST_WAIT);
    doubled.mul_f64(0.75 + fastrand::f64() / 4.0)
}

/// Reads a topic until the station stops.
pub fn run(station: &Arc<Station>, source: Source) {
    let Some(kafka) = &station.config.kafka else { return };
    let topic = match source {
        Source::Registry => &kafka.registry,
        Source::Heartbeat => &kafka.heartbeat,
    };
    let (mut failures, said) = (0, Throttle::default());
    while !station.stop.is_stopping() {
        let Err(why) = read(station, kafka, source, topic, &mut failures) else { continue };
        station.kafka.set_read(source, false);
        station.kafka.counters.failure();
        // The text does not tell news: it holds numbers that are always new.
        if said.is_news((), station.clock.uptime()) {
            log::error!("{topic} cannot be read: {why}; it is tried again");
        }
        if station.stop.wait(wait_after(failures)) {
            return;
        }
        failures += 1;
    }
}

type Consumer = BaseConsumer<Ear>;

/// Reads a topic until something is wrong, or the topic is to be read anew.
fn read(
    station: &Arc<Station>,
    kafka: &Kafka,
    source: Source,
    topic: &str,
    failures: &mut u32,
) -> Result<(), String> {
    let (from, resets_to) = match source {
        Source::Registry => (Offset::Beginning, "earliest"),
        Source::Heartbeat => (Offset::End, "latest"),
    };
    let consumer: Consumer = consumer_config(kafka, resets_to)
        .create_with_context(Ear::default())
        .map_err(|error| error.to_string())?;
    let assigned = partitions(&consumer, topic)?;
    let mut list = TopicPartitionList::new();
    for partition in &assigned {
        list.add_partition_offset(topic, *partition, from).map_err(|error| error.to_string())?;
    }
    consumer.assign(&list).map_err(|error| error.to_string())?;
    match source {
        Source::Registry => log::info!("👀 Watching {topic} topic"),
        Source::Heartbeat => log::info!("💓 Watching {topic} topic"),
    }
    let mut taker = Taker::new(station);
    let mut unread = assigned.clone();
    let (mut probed, mut ended): (Uptime, Option<Uptime>) = (station.clock.uptime(), None);
    while !station.stop.is_stopping() {
        let batch = gather(&consumer)?;
        match source {
            Source::Registry => taker.registry(&batch.messages)?,
            Source::Heartbeat => {
                taker.heartbeats(&batch.messages);
                // Its end may move on for ever; any record from there shows that it is read.
                for message in &batch.messages {
                    unread.remove(&message.partition());
                }
            }
        }
        for partition in &batch.ended {
            unread.remove(partition);
        }
        let now = station.clock.uptime();
        if unread.is_empty() && ended.is_none() {
            if taker.is_to_read_again() {
                // There is room now for clusters that had none.
                return Ok(());
            }
            (ended, *failures) = (Some(now), 0);
            taker.end(topic);
            station.kafka.set_read(source, true);
        }
        if batch.is_in_doubt || now.since(probed) >= PROBE_EVERY {
            if partitions(&consumer, topic)? != assigned {
                log::info!("the partitions of {topic} have changed");
                return Ok(());
            }
            probed = station.clock.uptime();
        }
        if taker.has_left_out() && ended.is_some_and(|at| now.since(at) >= AGAIN_EVERY) {
            return Ok(());
        }
    }
    Ok(())
}

/// The partitions of a topic, all of which can be read.
fn partitions(consumer: &Consumer, topic: &str) -> Result<BTreeSet<i32>, String> {
    let found = consumer.fetch_metadata(Some(topic), PATIENCE).map_err(|error| {
        // The library tells why when it is polled, one thing each time. Records that come
        // meanwhile are read again.
        for _ in 0..MAX_EVENTS {
            let _ = consumer.poll(Duration::ZERO);
        }
        explain(&error, consumer.client().context())
    })?;
    let found = found.topics().iter().find(|found| found.name() == topic);
    let error = found.and_then(MetadataTopic::error).map(Code::from);
    match (found, error) {
        (Some(found), None) if !found.partitions().is_empty() => {
            let broken = found.partitions().iter().find_map(|it| Some((it.id(), Code::from(it.error()?))));
            if let Some((partition, why)) = broken {
                return Err(format!("partition {partition}: {why}"));
            }
            Ok(found.partitions().iter().map(MetadataPartition::id).collect())
        }
        (Some(_), Some(why)) if !matches!(why, Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
            Err(why.to_string())
        }
        _ => Err("the topic is not there; create it with kafka-topics --create".into()),
    }
}

/// What has come.
#[derive(Default)]
struct Batch<'a> {
    messages: Vec<BorrowedMessage<'a>>,
    /// The partitions that were read to their ends.
    ended: Vec<i32>,
    /// Whether the brokers may be gone.
    is_in_doubt: bool,
}

/// Takes what has come, and waits a little if there is nothing.
fn gather(consumer: &Consumer) -> Result<Batch<'_>, String> {
    let (mut batch, mut bytes, mut wait) = (Batch::default(), 0, FIRST);
    while batch.messages.len() < MAX_RECORDS && bytes < MAX_BYTES {
        match consumer.poll(wait) {
            None => break,
            Some(Ok(message)) => {
                bytes += message.key_len() + message.payload_len();
                batch.messages.push(message);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => batch.ended.push(partition),
            Some(Err(KafkaError::MessageConsumption(code))) => match code {
                Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::OperationTimedOut
                | Code::Resolve => {
                    batch.is_in_doubt = true;
                    break;
                }
                // This is no error here: nothing is done as a member of a group.
                Code::GroupAuthorizationFailed => {}
                _ => return Err(explain(&code, consumer.client().context())),
            },
            Some(Err(error)) => return Err(explain(&error, consumer.client().context())),
        }
        wait = NEXT;
    }
    Ok(batch)
}
