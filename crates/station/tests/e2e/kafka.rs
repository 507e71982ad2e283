//! Kafka, with a real broker: the registry, the heartbeats, what is written, groups that are
//! deleted, and days on which the broker is away.

use std::collections::HashSet;
use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pap_station::kafka::client::wait_for;
use pap_station::kafka::groups;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::{Value, json};

use crate::support::{ADMIN, COLLECTOR, PATIENCE, Start, Station, alert, missing, start, until};
use crate::workers::{
    self, Clusters, SLEEPS, await_gone, await_running, running, state, template, with_templates,
};

const REGISTRY: &str = "cluster.registry";
const HEARTBEAT: &str = "cluster.heartbeat";
const AUDIT: &str = "cluster.audit";

/// A broker, and in front of it a line that can be cut.
struct Broker {
    child: Child,
    port: u16,
    line: Arc<Line>,
    admin: AdminClient<DefaultClientContext>,
}

#[derive(Default)]
struct Line {
    is_cut: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Line {
    fn run(&self, listener: &TcpListener, to: u16) {
        for socket in listener.incoming().map_while(Result::ok) {
            let Ok(other) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            let mut sockets = self.sockets.lock().unwrap();
            if self.is_cut.load(Ordering::SeqCst) {
                continue;
            }
            for (from, into) in [(&socket, &other), (&other, &socket)] {
                let (mut from, mut into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                sockets.push(from.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = copy(&mut from, &mut into);
                    let _ = into.shutdown(Shutdown::Both);
                });
            }
        }
    }

    fn cut(&self) {
        let mut sockets = self.sockets.lock().unwrap();
        self.is_cut.store(true, Ordering::SeqCst);
        for socket in sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A broker with these topics, of three partitions each; None where there is no program of one.
fn broker(topics: &[&str]) -> Option<Broker> {
    let Some(program) = std::env::var_os("PAP_KAFKA_BROKER_PROGRAM") else {
        missing("a Kafka broker (PAP_KAFKA_BROKER_PROGRAM)");
        return None;
    };
    let (own, listener) = (free_port(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let child = Command::new(program)
        .args(["broker", "--listener-url", &format!("tcp://127.0.0.1:{own}")])
        .args(["--advertised-listener-url", &format!("tcp://127.0.0.1:{port}")])
        .args(["--storage-engine", "memory://tansu/"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let line = Arc::<Line>::default();
    let at = Arc::clone(&line);
    thread::spawn(move || at.run(&listener, own));
    let admin = config(port).create().unwrap();
    let broker = Broker { child, port, line, admin };
    until("the broker listens", || TcpStream::connect(("127.0.0.1", own)).is_ok());
    broker.create(topics);
    Some(broker)
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(port: u16) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{port}"));
    config
}

/// A record as it is in a topic.
#[derive(Clone, Debug, PartialEq)]
struct Record {
    key: String,
    value: Option<String>,
}

impl Broker {
    /// Whether a consumer group is there.
    fn lists(&self, group: &str) -> bool {
        let listed = self.admin.inner().fetch_group_list(None, PATIENCE).unwrap();
        listed.groups().iter().any(|it| it.name() == group)
    }

    /// Somebody who is in a consumer group.
    fn join(&self, group: &str) -> BaseConsumer {
        let mut config = config(self.port);
        config.set("group.id", group).set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer = config.create().unwrap();
        consumer.subscribe(&[REGISTRY]).unwrap();
        until("it has joined", || {
            let _ = consumer.poll(Duration::from_millis(100));
            consumer.assignment().unwrap().count() > 0
        });
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(REGISTRY, 0, Offset::Offset(0)).unwrap();
        consumer.commit(&offsets, CommitMode::Sync).unwrap();
        consumer
    }

    fn create(&self, topics: &[&str]) {
        let topics: Vec<_> =
            topics.iter().map(|name| NewTopic::new(name, 3, TopicReplication::Fixed(1))).collect();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let made = wait_for(self.admin.create_topics(&topics, &options), PATIENCE).unwrap().unwrap();
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }

    fn start(&self) -> Start {
        self.of(start())
    }

    /// A station after this one.
    fn after(&self, station: &Station) -> Start {
        self.of(start().after(station))
    }

    fn of(&self, start: Start) -> Start {
        start.with("KAFKA_BROKERS", &format!("127.0.0.1:{}", self.port)).with("KAFKA_AUDIT_TOPIC", AUDIT)
    }

    /// Produces as state-watcher does: compressed, idempotent, acknowledged by all.
    fn send_all(&self, topic: &str, records: &[(&str, Option<&str>)]) {
        self.put(topic, records.iter().map(|(key, value)| (*key, *value, None, None)));
    }

    fn send(&self, topic: &str, key: &str, value: Option<&str>) {
        self.send_all(topic, &[(key, value)]);
    }

    /// Into this partition, with this time.
    fn send_at(&self, key: &str, value: Option<&str>, partition: i32, at: u64) {
        self.put(REGISTRY, [(key, value, Some(partition), Some(i64::try_from(at).unwrap()))].into_iter());
    }

    fn put<'a>(
        &self,
        topic: &str,
        records: impl Iterator<Item = (&'a str, Option<&'a str>, Option<i32>, Option<i64>)>,
    ) {
        let mut config = config(self.port);
        config.set("compression.type", "zstd").set("acks", "all").set("enable.idempotence", "true");
        let producer: BaseProducer = config.create().unwrap();
        for (key, value, partition, at) in records {
            let mut record = BaseRecord::to(topic).key(key);
            if let Some(value) = value {
                record = record.payload(value);
            }
            if let Some(partition) = partition {
                record = record.partition(partition);
            }
            if let Some(at) = at {
                record = record.timestamp(at);
            }
            producer.send(record).map_err(|(error, _)| error).unwrap();
            producer.poll(Duration::ZERO);
        }
        producer.flush(PATIENCE).unwrap();
    }

    /// All that is in a topic, a partition after the other.
    fn all(&self, topic: &str) -> Vec<Record> {
        let mut config = config(self.port);
        config
            .set("group.id", "a-test")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..3 {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let (mut ended, mut all) = (HashSet::new(), vec![Vec::new(); 3]);
        while ended.len() < 3 {
            match consumer.poll(PATIENCE).expect("an end") {
                Ok(message) => {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    let key = text(message.key().unwrap_or_default());
                    all[usize::try_from(message.partition()).unwrap()]
                        .push(Record { key, value: message.payload().map(text) });
                }
                Err(rdkafka::error::KafkaError::PartitionEOF(partition)) => drop(ended.insert(partition)),
                Err(error) => panic!("{error}"),
            }
        }
        all.concat()
    }
}

fn wall() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// The clusters that are known, by id.
fn known(station: &Station) -> Vec<String> {
    let clusters = station.seen("/api/clusters");
    let ids = clusters["clusters"].as_array().unwrap().iter().map(|it| it["cluster_id"].as_str().unwrap());
    let mut ids: Vec<_> = ids.map(str::to_owned).collect();
    ids.sort();
    ids
}

fn until_known(station: &Station, expected: &[&str]) {
    until(&format!("{expected:?} are known, not {:?}", known(station)), || known(station) == expected);
}

/// A sample of /metrics.
fn metric(station: &Station, name: &str) -> u64 {
    let (status, text) = station.get("/metrics", "");
    assert_eq!(status, 200);
    let text = text.as_str().unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.trim().parse().unwrap()
}

fn records(station: &Station, topic: &str, outcome: &str) -> u64 {
    metric(station, &format!("pap_station_kafka_records_total{{topic=\"{topic}\",outcome=\"{outcome}\"}}"))
}

/// The station's file, beside the station.
fn file(station: &Station) -> Connection {
    let file = Connection::open(station.directory.path().join("station.db")).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    file
}

fn last_sign(station: &Station, cluster: &str) -> Option<u64> {
    let sql = "SELECT last_sign_at FROM cluster WHERE cluster_id = ?1";
    file(station).query_row(sql, [cluster], |row| row.get(0)).optional().unwrap().flatten()
}

/// What the job register-cluster means to send.
fn whole(id: &str) -> String {
    format!(
        r#"{{"client_id":"{id}","cluster_name":"name of {id}","version":"2.1.2","registered_at":"2025-10-23T10:00:00Z","metadata":{{"namespace":"observability","release_name":"kg","chart_version":"2.1.2"}}}}"#
    )
}

/// What the job cluster-registry sends.
fn of_registry_job(id: &str) -> String {
    format!(
        r#"{{"client_id":"{id}","cluster_name":"","region":"unknown","timestamp":"2025-10-23T10:00:00Z","chart_version":"2.0.9"}}"#
    )
}

#[test]
fn registrations_of_all_producers_register_and_tombstones_remove() {
    let Some(broker) = broker(&[REGISTRY, HEARTBEAT, AUDIT]) else { return };
    let split = whole("split");
    let (split_key, split_value) = split.split_once(':').unwrap();
    // Some before the station is there, some while it runs.
    broker.send_all(
        REGISTRY,
        &[
            (split_key, Some(split_value)),
            ("console", Some(&whole("console"))),
            ("lines", Some("{")),
            ("  \"client_id\"", Some(" \"lines\",")),
            ("  \"metadata\"", Some(" {")),
            ("../x", Some(&whole("../x"))),
        ],
    );
    let station = broker.start().run();
    for line in ["👀 Watching cluster.registry topic", "💓 Watching cluster.heartbeat topic"] {
        station.await_log(line);
    }
    assert_eq!(known(&station), ["console", "split"], "ready means that the registry was read");
    station.await_log("📝 Cluster registered: console (name: name of console, version: 2.1.2)");
    broker.send(REGISTRY, "job", Some(&of_registry_job("job")));
    broker.send(
        REGISTRY,
        "evil",
        Some(r#"{"client_id":"evil","status":"dead","GraphBuilderID":"kg-control-plane"}"#),
    );
    until_known(&station, &["console", "evil", "job", "split"]);
    let job = &station.seen("/api/clusters/job")["cluster"];
    assert_eq!((&job["name"], &job["version"]), (&json!("job"), &json!("2.0.9")));
    assert_eq!(station.seen("/api/clusters/evil")["cluster"]["status"], "ACTIVE");
    until("garbage is counted", || records(&station, "registry", "invalid") == 4);

    // A removal closes what is open, and ends keys.
    let mut death = alert("AGENT_DEATH", "a", 1);
    death["cluster_id"] = json!("console");
    assert_eq!(station.alert("console", &death).0, 200);
    let (_, made) = station.ask("POST", "/api/clusters/console/keys", ADMIN, "");
    let key = made["key"].as_str().unwrap();
    assert_eq!(station.ask("POST", "/api/clusters/console/heartbeat", key, "").0, 200);
    // null, and what older producers send instead.
    broker.send_all(REGISTRY, &[("console", None), ("job", Some("")), ("split", None)]);
    until_known(&station, &["evil"]);
    station.await_log("🪦 Cluster deregistered: console");
    until("its key has ended", || station.ask("POST", "/api/clusters/console/heartbeat", key, "").0 == 401);
    assert_eq!(station.seen("/api/incidents?state=open")["total"], 0);
    assert_eq!(station.ask("POST", "/api/clusters/job/heartbeat", COLLECTOR, "").0, 410);
    // What came from Kafka does not go there again.
    assert_eq!(metric(&station, "pap_station_kafka_written_total{topic=\"registry\"}"), 0);
    assert_eq!(metric(&station, "pap_station_kafka_owed"), 0);
}

#[test]
fn records_are_ordered_by_their_times_across_partitions_and_by_offset_within_one() {
    let Some(broker) = broker(&[REGISTRY, HEARTBEAT, AUDIT]) else { return };
    let now = wall() - 60_000;
    // Each producer has a partition of its own.
    broker.send_at("a", None, 1, now + 2000);
    broker.send_at("a", Some(&whole("a")), 0, now + 1000);
    broker.send_at("b", Some(&whole("b")), 0, now + 2000);
    broker.send_at("b", None, 1, now + 1000);
    // A clock that goes back within one partition.
    broker.send_at("c", Some(&whole("c")), 2, now + 2000);
    broker.send_at("c", None, 2, now + 1000);
    // A clock that is ahead by years.
    broker.send_at("ahead", Some(&whole("ahead")), 0, now + 100_000_000_000);
    let mut station = broker.start().run();
    assert_eq!(known(&station), ["ahead", "b"]);
    // The tombstone that nobody knew yet holds while it runs, too.
    broker.send_at("a", Some(&whole("a")), 2, now + 1500);
    until("it is known to be old", || records(&station, "registry", "known") > 0);
    assert_eq!(known(&station), ["ahead", "b"]);
    broker.send_at("a", Some(&whole("a")), 2, now + 3000);
    until_known(&station, &["a", "ahead", "b"]);
    // Our own word is later than all that was read before, whatever time a record claims.
    assert_eq!(station.ask("DELETE", "/api/clusters/ahead", ADMIN, "").0, 200);
    for _ in 0..2 {
        station.kill();
        station = broker.after(&station).run();
        assert_eq!(known(&station), ["a", "b"]);
    }
}

#[test]
fn what_a_kill_interrupts_is_the_same_afterwards() {
    let Some(broker) = broker(&[REGISTRY, HEARTBEAT, AUDIT]) else { return };
    let mut station = broker.start().run();
    for round in 0..3 {
        let ids: Vec<_> = (0..40).map(|number| format!("c{round}-{number:02}")).collect();
        let values: Vec<_> = ids.iter().map(|id| whole(id)).collect();
        let said: Vec<_> =
            ids.iter().zip(&values).map(|(id, value)| (id.as_str(), Some(value.as_str()))).collect();
        broker.send_all(REGISTRY, &said);
        // In the middle of reading; and what is said meanwhile is read later.
        station.kill();
        let gone: Vec<_> = ids.iter().step_by(2).map(|id| (id.as_str(), None)).collect();
        broker.send_all(REGISTRY, &gone);
        station = broker.after(&station).run();
        let left = known(&station)
            .into_iter()
            .filter(|id| id.starts_with(&format!("c{round}-")))
            .collect::<Vec<_>>();
        let expected: Vec<_> = ids.iter().skip(1).step_by(2).cloned().collect();
        assert_eq!(left, expected);
    }
    assert_eq!(known(&station).len(), 60);
    let applied = records(&station, "registry", "applied");
    assert!(applied < 200 && records(&station, "registry", "known") > 0, "{applied}");
}

#[test]
fn an_old_registration_is_no_sign_of_life_and_heartbeats_are() {
    let Some(broker) = broker(&[REGISTRY, HEARTBEAT, AUDIT]) else { return };
    broker.send_at("old", Some(&whole("old")), 0, wall() - 3_600_000);
    // Before the station is there, so it does not count.
    broker.send(HEARTBEAT, "old", Some(r#"{"client_id":"old","timestamp":"2025-10-23T10:05:00Z"}"#));
    let station = broker.start().with("RUST_LOG", "info,pap_station=debug").run();
    assert_eq!((known(&station), last_sign(&station, "old")), (vec!["old".to_owned()], None));
    broker.send(REGISTRY, "new", Some(&whole("new")));
    until_known(&station, &["new", "old"]);
    assert!(last_sign(&station, "new").is_some_and(|at| wall() - at < 60_000));
    broker.send(REGISTRY, "gone", None);
    until("it is removed", || station.ask("POST", "/api/clusters/gone/heartbeat", COLLECTOR, "").0 == 410);

    // state-watcher's, and the job's; with clocks that are wrong.
    let before = wall();
    broker.send_all(
        HEARTBEAT,
        &[
            ("old::old", Some(r#"{"client_id":"old","timestamp":"2035-10-23T10:05:00Z","status":"healthy","metrics":{"resources_sent":0,"uptime_seconds":30}}"#)),
            ("new", Some(r#"{"client_id":"new","timestamp":"2025-10-23T10:05:00Z"}"#)),
            ("stranger", Some(r#"{"client_id":"stranger"}"#)),
            ("gone", Some(r#"{"client_id":"gone"}"#)),
            ("a b", Some("{}")),
            ("new", None),
        ],
    );
    station.await_log("💓 Heartbeat received from: old");
    station.await_log("💓 Heartbeat received from: new");
    until("by our clock", || {
        ["old", "new"].iter().all(|id| last_sign(&station, id).is_some_and(|at| at >= before))
    });
    assert!(last_sign(&station, "old").unwrap() <= wall());
    for (outcome, count) in [("taken", 2), ("unregistered", 1), ("removed", 1), ("invalid", 2)] {
        until(outcome, || records(&station, "heartbeat", outcome) == count);
    }
    assert_eq!(metric(&station, "pap_station_kafka_heartbeat_skew_seconds_count"), 2);
    assert_eq!(known(&station), ["new", "old"], "a heartbeat registers nobody");
    assert!(!station.get("/metrics", "").1.as_str().unwrap().contains("stranger"));
}

#[test]
fn a_broker_that_goes_away_is_said_and_found_again() {
    let Some(broker) = broker(&[REGISTRY, HEARTBEAT, AUDIT]) else { return };
    broker.line.cut();
    let station = broker.start().listen();
    let unready =
        || station.get("/ready", "") == (503, json!({ "ready": false, "reason": "Kafka cannot be read" }));
    assert!(unready(), "{:?}", station.get("/ready", ""));
    station.await_log("cluster.registry cannot be read: ");
    broker.line.mend();
    until("it is found", || station.get("/ready", "").0 == 200);
    for round in 0..2 {
        broker.line.cut();
        until("it is missed", unready);
        assert_eq!(metric(&station, "pap_station_kafka_reading"), 0);
        // What is said here meanwhile is owed.
        let id = format!("here-{round}");
        assert_eq!(station.ask("PUT", &format!("/api/clusters/{id}"), COLLECTOR, "{}").0, 201);
        assert_eq!(metric(&station, "pap_station_kafka_owed"), 1);
        broker.line.mend();
        until("it is found", || station.get("/ready", "").0 == 200);
        until("nothing is owed", || metric(&station, "pap_station_kafka_owed") == 0);
        assert!(broker.all(REGISTRY).iter().any(|it| it.key == id));
        broker.send(REGISTRY, &format!("there-{round}"), Some("{}"));
        until("it is read", || known(&station).contains(&format!("there-{round}")));
    }
    // It stops in time without a broker, too.
    let mut station = station;
    broker.line.cut();
    until("it is missed", || station.get("/ready", "").0 == 503);
    assert_eq!(station.stop(), 0);
    assert!(!station.log().contains("did not end in time"), "{}", station.log());
}

#[test]
fn a_broker_that_is_not_there_is_said_with_the_reason() {
    // Nobody listens there.
    let mut station = start().with("KAFKA_BROKERS", "127.0.0.1:1").listen();
    for topic in [REGISTRY, HEARTBEAT] {
        let why = station.await_log(&format!("{topic} cannot be read: "));
        assert!(why.contains("127.0.0.1:1/bootstrap: Connect to") && why.contains("refused"), "{why}");
    }
    assert_eq!(station.get("/ready", "").1["reason"], "Kafka cannot be read");
    assert_eq!(station.ask("PUT", "/api/clusters/a", COLLECTOR, "{}").0, 201, "all else goes on");
    station.await_log("not written to Kafka: ");
    assert_eq!(metric(&station, "pap_station_kafka_owed"), 1);
    assert_eq!(station.stop(), 0);
}

#[test]
fn a_topic_that_is_missing_is_said_until_it_is_there() {
    let Some(broker) = broker(&[REGISTRY, AUDIT]) else { return };
    let station = broker.start().listen();
    station.await_log(
        "cluster.heartbeat cannot be read: the topic is not there; create it with kafka-topics --create",
    );
    assert_eq!(station.get("/ready", "").0, 503);
    broker.create(&[HEARTBEAT]);
    until("it is found", || station.get("/ready", "").0 == 200);
}

#[test]
fn what_is_said_here_arrives_there_although_the_station_is_killed() {
    let Some(broker) = broker(&[REGISTRY, HEARTBEAT, AUDIT]) else { return };
    let mut station = broker.start().run();
    let said = r#"{"cluster_name":"A","version":"1.0","region":"eu","metadata":{"namespace":"n"}}"#;
    assert_eq!(station.ask("PUT", "/api/clusters/a", COLLECTOR, said).0, 201);
    assert_eq!(station.ask("POST", "/api/clusters", ADMIN, r#"{"cluster_id":"b","name":"B"}"#).0, 201);
    station.await_log("📝 Cluster registered: a (name: A, version: 1.0)");
    until("both are there", || broker.all(REGISTRY).len() == 2);
    let all = broker.all(REGISTRY);
    let value = all.iter().find(|it| it.key == "a").unwrap().value.as_deref().unwrap();
    let mut record: Value = serde_json::from_str(value).unwrap();
    assert!(record["registered_at"].take().as_str().unwrap().ends_with('Z'));
    assert_eq!(
        record,
        json!({ "client_id": "a", "cluster_name": "A", "version": "1.0", "region": "eu", "registered_at": null, "metadata": { "namespace": "n" } })
    );
    assert_eq!(station.ask("DELETE", "/api/clusters/a", ADMIN, "").0, 200);
    station.await_log("🪦 Cluster deregistered: a (by admin)");
    let tombstone = Record { key: "a".into(), value: None };
    until("the tombstone is there", || broker.all(REGISTRY).contains(&tombstone));

    // The last word of each cluster is owed over kills, and then said.
    broker.line.cut();
    assert_eq!(station.ask("DELETE", "/api/clusters/b", ADMIN, "").0, 200);
    for number in 0..20 {
        assert_eq!(station.ask("PUT", &format!("/api/clusters/k{number:02}"), COLLECTOR, "{}").0, 201);
    }
    assert_eq!(station.ask("DELETE", "/api/clusters/k00", ADMIN, "").0, 200);
    station.kill();
    station = broker.after(&station).listen();
    station.kill();
    broker.line.mend();
    station = broker.after(&station).run();
    until("nothing is owed", || metric(&station, "pap_station_kafka_owed") == 0);
    let all = broker.all(REGISTRY);
    for key in ["b", "k00"] {
        let last = all.iter().rfind(|it| it.key == key);
        assert_eq!(
            last,
            Some(&Record { key: key.into(), value: None }),
            "all of one key are in one partition"
        );
    }
    for number in 1..20 {
        assert!(all.iter().any(|it| it.key == format!("k{number:02}") && it.value.is_some()));
    }
    // Its own words change nothing when they come back, and are not said again.
    let expected: Vec<_> = (1..20).map(|number| format!("k{number:02}")).collect();
    let count = all.len();
    station.kill();
    let station = broker.after(&station).run();
    assert_eq!(known(&station), expected);
    assert_eq!(records(&station, "registry", "applied"), 0);
    assert_eq!((metric(&station, "pap_station_kafka_owed"), broker.all(REGISTRY).len()), (0, count));
    // Another station learns the same from the topic.
    let other = broker.start().run();
    assert_eq!(known(&other), expected);
}

#[test]
fn a_group_is_deleted_once_its_cluster_is_removed_and_nobody_is_in_it() {
    let Some(broker) = broker(&[REGISTRY, HEARTBEAT, AUDIT]) else { return };
    let station = broker.start().run();
    let (lists, join) = (|group: &str| broker.lists(group), |group: &str| broker.join(group));
    for id in ["a", "b"] {
        assert_eq!(station.ask("PUT", &format!("/api/clusters/{id}"), COLLECTOR, "{}").0, 201);
    }
    let (of_a, of_b) = (join("kg-builder-a"), join("kg-builder-b"));
    let owe = |id: &str, group: &str| {
        groups::owe(&file(&station), id, &[group.into(), format!("never-{id}")], pap_core::time::Wall(1))
            .unwrap();
    };
    // The worker of a removed cluster still runs.
    assert_eq!(station.ask("DELETE", "/api/clusters/a", ADMIN, "").0, 200);
    owe("a", "kg-builder-a");
    owe("b", "kg-builder-b");
    station.await_log("🗑️  Deleting consumer group: never-a");
    let tried = |group: &str| {
        let sql = "SELECT tried_at FROM consumer_group WHERE name = ?1";
        file(&station).query_row(sql, [group], |row| row.get::<_, u64>(0)).optional().unwrap()
    };
    until("it was tried", || {
        let _ = of_a.poll(Duration::ZERO);
        tried("kg-builder-a").is_some_and(|at| at > 0)
    });
    assert!(lists("kg-builder-a") && !station.log().contains("Deleting consumer group: kg-builder-a"));
    of_a.unsubscribe();
    drop((of_a, of_b));
    station.await_log("🗑️  Deleting consumer group: kg-builder-a");
    until("it is gone", || !lists("kg-builder-a"));
    until("it is owed no more", || tried("kg-builder-a").is_none());
    // That of a cluster that is there is not touched.
    assert_eq!(tried("kg-builder-b"), Some(0));
    assert!(lists("kg-builder-b"));
}

#[test]
fn the_audit_is_copied_in_order_and_goes_on_where_it_was() {
    let Some(broker) = broker(&[REGISTRY, HEARTBEAT, AUDIT]) else { return };
    let mut station = broker.start().run();
    let note = |station: &Station, from: u32, to: u32| {
        for number in from..to {
            let sql =
                "INSERT INTO audit (at, who, cluster_id, action, details) VALUES (?1, 'admin', 'a', 'x', ?2)";
            file(station).execute(sql, (1_761_213_900_000_i64, format!("{{\"n\":{number}}}"))).unwrap();
        }
    };
    note(&station, 0, 3);
    until("three are there", || broker.all(AUDIT).len() == 3);
    broker.line.cut();
    note(&station, 3, 5);
    station.kill();
    broker.line.mend();
    let station = broker.after(&station).run();
    until("all are there", || broker.all(AUDIT).len() >= 5);
    let all = broker.all(AUDIT);
    assert!(all.iter().all(|it| it.key == "a"));
    assert_eq!(
        all[0].value.as_deref().unwrap(),
        r#"{"id":1,"at":"2025-10-23T10:05:00.000Z","who":"admin","client_id":"a","action":"x","details":{"n":0}}"#
    );
    let numbers: Vec<_> = all
        .iter()
        .map(|it| {
            serde_json::from_str::<Value>(it.value.as_deref().unwrap()).unwrap()["details"]["n"].clone()
        })
        .collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    assert_eq!(metric(&station, "pap_station_kafka_written_total{topic=\"audit\"}"), 2);
}

#[test]
fn memory_is_flat_and_clusters_that_had_no_room_come_in_when_there_is_some() {
    let Some(broker) = broker(&[REGISTRY, HEARTBEAT, AUDIT]) else { return };
    let ids: Vec<_> = (0..10_000).map(|number| format!("c{number:05}")).collect();
    let values: Vec<_> = ids.iter().map(|id| whole(id)).collect();
    let said: Vec<_> =
        ids.iter().zip(&values).map(|(id, value)| (id.as_str(), Some(value.as_str()))).collect();
    // The first thousand fill all places, and are then removed; as are all but the last 500.
    broker.send_all(REGISTRY, &said);
    broker.send_all(REGISTRY, &ids[..9500].iter().map(|id| (id.as_str(), None)).collect::<Vec<_>>());
    let small = broker.start().with("KAFKA_REGISTRY_TOPIC", AUDIT).run();
    let idle = small.most_memory();
    drop(small);
    let station = broker.start().run();
    assert_eq!(known(&station), ids[9500..]);
    let first = station.most_memory();
    assert!(first < idle + 24 * 1024, "{first} KiB, not much more than {idle}");
    let read =
        || ["applied", "known", "full"].iter().map(|it| records(&station, "registry", it)).sum::<u64>();
    // All of it again and again: what is remembered does not grow. The first turn may need more than
    // the reading at the start, as its records come in larger pieces.
    let mut after = Vec::new();
    for _ in 0..3 {
        let before = read();
        broker.send_all(REGISTRY, &said[..9500]);
        broker.send_all(REGISTRY, &ids[..9500].iter().map(|id| (id.as_str(), None)).collect::<Vec<_>>());
        until("all is read", || read() == before + 19_000);
        assert_eq!(known(&station), ids[9500..]);
        after.push(station.most_memory());
    }
    eprintln!("at the most after the start: {first} KiB; after each turn: {after:?}");
    assert!(after[2] < after[0] + 4 * 1024, "{first} KiB, then {after:?}");
}

#[test]
fn clusters_of_kafka_get_their_workers_lose_them_and_get_them_back() {
    let Some(broker) = broker(&[REGISTRY, HEARTBEAT]) else { return };
    if workers::image().is_none() {
        return;
    }
    let clusters = Clusters::new();
    let (one, two) = (clusters.id("one"), clusters.id("two"));
    let name = |cluster: &str| format!("builder-{cluster}");
    let template = template("builder", SLEEPS, "consumer_group = \"kg-builder-{cluster_id}\"");
    let settings = |starting: Start| {
        let starting = starting.with("HEARTBEAT_TIMEOUT", "15s").with("CLEANUP_TIMEOUT", "30s");
        with_templates(starting.with("RECONCILE_INTERVAL", "1s"), &template)
    };
    let mut station = settings(broker.start()).run();
    // The state-watcher's heartbeats.
    let beat = |id: &str| {
        let key = format!("{id}::{id}");
        let value = json!({ "client_id": id, "timestamp": "2025-10-23T10:05:00Z", "status": "healthy",
            "metrics": { "resources_sent": 0, "uptime_seconds": 30 } });
        broker.send(HEARTBEAT, &key, Some(&value.to_string()));
    };
    for id in [&one, &two] {
        broker.send(REGISTRY, id, Some(&whole(id)));
    }
    let first = await_running(&name(&one));
    await_running(&name(&two));
    let member = broker.join(&format!("kg-builder-{one}"));
    drop(member);

    // The station is killed; the first goes silent.
    station.kill();
    station = settings(broker.after(&station)).run();
    until("the first is dead", || {
        beat(&two);
        state(&station, &one) == "dead"
    });
    station.kill();
    station = settings(broker.after(&station)).run();
    until("its worker is gone", || {
        beat(&two);
        running(&name(&one)).is_none()
    });
    assert!(broker.lists(&format!("kg-builder-{one}")), "a dead cluster keeps its group");
    assert!(running(&name(&two)).is_some());

    // A heartbeat is enough.
    until("its worker is back", || {
        beat(&one);
        beat(&two);
        running(&name(&one)).is_some_and(|id| id != first)
    });

    // The chart's tombstone.
    broker.send(REGISTRY, &one, None);
    station.await_log(&format!("🪦 Cluster deregistered: {one}"));
    station.kill();
    station = settings(broker.after(&station)).run();
    await_gone(&name(&one));
    until("its group is gone", || !broker.lists(&format!("kg-builder-{one}")));
    beat(&one);
    beat(&two);
    assert_eq!(station.get(&format!("/api/clusters/{one}"), ADMIN).0, 404);
}
