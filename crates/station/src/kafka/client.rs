//! What all connections to Kafka have in common.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll, Wake, Waker};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use pap_process::clock::deadline_in;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::settings::{Kafka, Sasl, Tls};

/// How long an answer of a broker may take.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The name by which brokers know the station. It stands for a group as well, although nothing is
/// read or written as a member of a group: the library asks for one.
const NAME: &str = "pap-station";

/// The part of a connection's configuration that all of them have.
pub fn config(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.brokers).set("client.id", NAME);
    config.set("socket.keepalive.enable", "true").set("reconnect.backoff.max.ms", "2000");
    config.set("receive.message.max.bytes", "4000000");
    config.set(
        "security.protocol",
        match (&kafka.tls, &kafka.sasl) {
            (None, None) => "plaintext",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), None) => "ssl",
            (Some(_), Some(_)) => "sasl_ssl",
        },
    );
    if let Some(Tls { ca, own }) = &kafka.tls {
        // "probe" makes the library look where systems have their certificates.
        config.set("ssl.ca.location", ca.as_deref().unwrap_or("probe"));
        if let Some((cert, key)) = own {
            config.set("ssl.certificate.location", cert).set("ssl.key.location", key);
        }
    }
    if let Some(Sasl { mechanism, user, password }) = &kafka.sasl {
        config.set("sasl.mechanism", mechanism);
        config.set("sasl.username", user.reveal()).set("sasl.password", password.reveal());
    }
    config
}

/// For reading: nothing is remembered in Kafka, and little is fetched ahead.
pub fn consumer_config(kafka: &Kafka, resets_to: &str) -> ClientConfig {
    let mut config = config(kafka);
    config.set("group.id", NAME).set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", resets_to).set("enable.partition.eof", "true");
    config.set("allow.auto.create.topics", "false");
    config.set("queued.max.messages.kbytes", "1024").set("queued.min.messages", "1000");
    config.set("fetch.message.max.bytes", "262144").set("fetch.max.bytes", "1048576");
    config
}

/// For writing: what is acknowledged is in the topic, in the order in which it was sent.
pub fn producer_config(kafka: &Kafka, longest: Duration) -> ClientConfig {
    let mut config = config(kafka);
    config.set("acks", "all").set("max.in.flight.requests.per.connection", "1");
    config.set("message.timeout.ms", longest.as_millis().to_string());
    config.set("queue.buffering.max.kbytes", "8192");
    // As Java's producers do, so that our tombstones go into the partitions of their registrations,
    // and compaction finds both.
    config.set("partitioner", "murmur2_random");
    config
}

/// Takes what the library says of itself.
#[derive(Debug, Default)]
pub struct Ear(Mutex<String>);

impl Ear {
    /// The last error that the library spoke of since this was asked, if there was one.
    pub fn last(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(&self, text: &str) {
        text.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl ClientContext for Ear {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // The threads that ask for the last error log what matters, once.
        log::debug!("librdkafka {facility}: {text}");
        if matches!(level, RDKafkaLogLevel::Error | RDKafkaLogLevel::Critical) {
            let (_, text) = text.split_once("]: ").unwrap_or(("", text));
            self.keep(text);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!("librdkafka: {error}: {reason}");
        // That all brokers are gone is known. The error before it says why.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.keep(reason);
        }
    }
}

impl ConsumerContext for Ear {}

/// An error, and what the library said of its reason.
pub fn explain(error: &dyn std::fmt::Display, ear: &Ear) -> String {
    let why = ear.last();
    if why.is_empty() { error.to_string() } else { format!("{error} ({why})") }
}

struct Wakes(Sender<()>);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        // One message is enough, however often it is woken.
        let _ = self.0.try_send(());
    }
}

/// Waits for a future on this thread; None if it takes longer than `longest`. The library's
/// administrative requests are futures that its own thread completes.
pub fn wait_for<F: Future>(future: F, longest: Duration) -> Option<F::Output> {
    let mut future = pin!(future);
    let (wake, woken) = bounded(1);
    let waker = Waker::from(Arc::new(Wakes(wake)));
    let mut context = task::Context::from_waker(&waker);
    let deadline = deadline_in(longest);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        if woken.recv_deadline(deadline).is_err() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_is_waited_for_but_not_for_ever() {
        assert_eq!(wait_for(std::future::ready(7), Duration::ZERO), Some(7));
        assert_eq!(wait_for(std::future::pending::<()>(), Duration::from_millis(1)), None);
        let mut polls = 0;
        let later = std::future::poll_fn(|context| {
            polls += 1;
            let waker = context.waker().clone();
            std::thread::spawn(move || waker.wake());
            if polls == 3 { Poll::Ready(polls) } else { Poll::Pending }
        });
        assert_eq!(wait_for(later, Duration::from_secs(600)), Some(3));
    }
}
