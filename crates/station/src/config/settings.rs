//! Every setting of `pap-station`. To add one, write it here and read it in
//! `config.rs`; flags, `--help`, `--check-config` and what is in docs/ follow.

use std::time::Duration;

use pap_alertmanager::settings::{
    ALERTMANAGER_CA_FILE, ALERTMANAGER_KEY, ALERTMANAGER_PASSWORD, ALERTMANAGER_REPEAT_MS, ALERTMANAGER_URL,
    ALERTMANAGER_USER,
};
use pap_process::logging::{LOG_FORMAT, RUST_LOG};
use pap_process::settings::Fallback::{Value, Words};
use pap_process::settings::Kind::{
    self, Address, BaseUrl, Certificates, Choice, File, Link, Number, Secret, Text,
};

use crate::kafka::settings::{
    KAFKA_AUDIT_TOPIC, KAFKA_BROKERS, KAFKA_CA_FILE, KAFKA_CERT_FILE, KAFKA_HEARTBEAT_TOPIC, KAFKA_KEY_FILE,
    KAFKA_REGISTRY_TOPIC, KAFKA_SASL_MECHANISM, KAFKA_SASL_PASSWORD, KAFKA_SASL_USER, KAFKA_TLS,
};

/// A duration from so many seconds to so many hours.
const fn between(seconds: u64, hours: u64) -> Kind {
    Kind::Duration(Duration::from_secs(seconds)..=Duration::from_secs(hours * 3600))
}

pap_process::settings! {
    /// the port to listen on; 0 picks a free one, and the log says which
    STATION_PORT: Number(0..=65_535), Value("8090");
    /// the address to listen on
    STATION_BIND: Address, Words("all, IPv4 and IPv6");
    /// the file that holds everything; -wal and -shm files stand beside it while the station runs
    STATION_DB: File, Value("pap-station.db");
    /// the key with which collectors of all clusters post alerts, register and beat; several keys,
    /// separated by commas, are all taken
    PAP_COLLECTOR_API_KEY: Secret, Words("none, only keys of single clusters");
    /// the key with which agents send their fallback heartbeats; several keys, separated by commas,
    /// are all taken
    AGENT_API_KEY: Secret, Words("none, only keys of single agents");
    /// the key of people and programs that may do everything
    STATION_ADMIN_KEY: Secret, Words("admin.key beside STATION_DB, written at the first start");
    /// the key of people and programs that may read everything
    STATION_VIEWER_KEY: Secret, Words("none");
    /// whether a cluster that nobody has registered is taken in with its first alert or heartbeat
    AUTO_REGISTER: Choice(&["false", "true"]), Value("true");
    /// the most clusters known at once
    MAX_CLUSTERS: Number(1..=100_000), Value("1000");
    /// the most agents that beat here known at once
    MAX_AGENTS: Number(1..=1_000_000), Value("100000");
    /// the most connections at once, or fewer where the limit on descriptors is lower
    STATION_MAX_CONNECTIONS: Number(8..=1_000_000), Value("16384");
    /// how long alerts, closed incidents and ended deliveries are kept, counted from their receipt
    ALERT_RETENTION: between(3600, 87_600), Value("4320h");
    /// a collector that has beaten here is silent after this time
    HEARTBEAT_TIMEOUT: between(1, 24), Value("2m");
    /// a cluster is dead after this time without a sign of life: its workers are removed until it is
    /// heard again
    CLEANUP_TIMEOUT: between(1, 720), Value("5m");
    /// the templates of the workers that each registered cluster gets, in TOML
    WORKERS_FILE: File, Words("none, no container engine is spoken to");
    /// where the container engine listens: unix:///path or tcp://host:port
    DOCKER_HOST: Text(4096), Value("unix:///var/run/docker.sock");
    /// a directory with ca.pem, cert.pem and key.pem; an engine on tcp:// is then spoken to by TLS
    DOCKER_CERT_PATH: Text(4096), Words("none, no TLS");
    /// the longest time between two looks at all workers; on a change they are looked at at once
    RECONCILE_INTERVAL: between(1, 24), Value("30s");
    /// the most containers of workers
    MAX_CONTAINERS: Number(1..=100_000), Value("3000");
    /// whether a container without labels that bears a worker's name is taken for that worker
    ADOPT_UNLABELLED: Choice(&["false", "true"]), Value("false");
    /// a machine is offline so long after its last word
    MACHINE_OFFLINE_THRESHOLD: between(1, 720), Value("2m");
    /// the longest that the station sleeps before it looks for machines that went offline; it looks
    /// as soon as one is due in any case
    MACHINE_HEARTBEAT_CHECK_INTERVAL: between(1, 24), Value("30s");
    /// the token of the Telegram bot that sends messages
    TELEGRAM_BOT_TOKEN: Secret, Words("none, no Telegram");
    /// where the Bot API is
    TELEGRAM_API_URL: BaseUrl, Value("https://api.telegram.org");
    /// whether URLs that come by the API may lead to private addresses: no, any, or networks such as
    /// 10.0.0.0/8,192.168.7.0/24; link-local ones only where they are listed
    ALLOW_PRIVATE_TARGETS: Text(4096), Value("false");
    /// certificates that are trusted besides the built-in roots: of a CA, or of a server itself
    STATION_CA_FILE: Certificates, Words("none");
    /// the key that /metrics asks for
    METRICS_KEY: Secret, Words("none, everyone may ask");
    /// whether a proxy stands in front: the last address in X-Forwarded-For is then the client's,
    /// and X-Forwarded-Proto says whether it came by TLS
    TRUST_PROXY: Choice(&["false", "true"]), Value("false");
    /// the URL at which people reach this station; alerts at an Alertmanager link to it
    STATION_EXTERNAL_URL: Link, Words("http://, this host's name and STATION_PORT");
    shared ALERTMANAGER_URL, ALERTMANAGER_USER, ALERTMANAGER_PASSWORD, ALERTMANAGER_KEY,
        ALERTMANAGER_CA_FILE, ALERTMANAGER_REPEAT_MS, KAFKA_BROKERS, KAFKA_REGISTRY_TOPIC,
        KAFKA_HEARTBEAT_TOPIC, KAFKA_AUDIT_TOPIC, KAFKA_TLS, KAFKA_CA_FILE, KAFKA_CERT_FILE, KAFKA_KEY_FILE,
        KAFKA_SASL_MECHANISM, KAFKA_SASL_USER, KAFKA_SASL_PASSWORD, RUST_LOG, LOG_FORMAT;
}
