//! Every setting of `pap-collector`. To add one, write it here and read it in
//! `config.rs`; flags, `--help`, `--check-config` and what is in docs/ follow.

use pap_alertmanager::settings::{
    ALERTMANAGER_CA_FILE, ALERTMANAGER_KEY, ALERTMANAGER_PASSWORD, ALERTMANAGER_REPEAT_MS, ALERTMANAGER_URL,
    ALERTMANAGER_USER,
};
use pap_core::heartbeat::MAX_TEXT;
use pap_process::logging::{LOG_FORMAT, RUST_LOG};
use pap_process::settings::Fallback::{Required, Value, Words};
use pap_process::settings::Kind::{
    Address, BaseUrl, Certificates, Choice, File, Link, Number, Secret, Socket, Text, Url,
};

use crate::emitter::settings::{HEARTBEAT_INTERVAL, HEARTBEAT_MODE};

pap_process::settings! {
    /// the id by which the station knows this cluster
    CLUSTER_ID: Text(MAX_TEXT), Required;
    /// the cluster's name for people
    CLUSTER_NAME: Text(MAX_TEXT), Words("CLUSTER_ID");
    /// the port to listen on; 0 picks a free one, and the log says which
    COLLECTOR_PORT: Number(0..=65_535), Value("8080");
    /// the address to listen on
    COLLECTOR_BIND: Address, Words("all, IPv4 and IPv6");
    /// the key that /agents and /observe ask for
    COLLECTOR_API_KEY: Secret, Words("none, everyone may ask");
    /// the key that heartbeats and goodbyes must carry; several keys, separated by commas, are
    /// all taken, so that one can be replaced without a gap
    HEARTBEAT_API_KEY: Secret, Words("none, everyone may send them");
    /// whose goodbyes are taken: everyone's, those with HEARTBEAT_API_KEY, or none (off); with
    /// off, an agent that stops is found dead
    GOODBYE: Choice(&["open", "key", "off"]), Words("key if HEARTBEAT_API_KEY is set, else open");
    /// a pap-station, where the collector registers, beats, and posts its alerts unless
    /// STATION_ALERT_URL is set; it needs STATION_ALERT_KEY
    STATION_URL: BaseUrl, Words("none");
    /// where alerts are posted; without this URL or without STATION_ALERT_KEY, and without ALERTMANAGER_URL,
    /// they are only logged
    STATION_ALERT_URL: Url(", in which {cluster_id} is filled in"), Words("a path below STATION_URL, or none");
    /// the key that the collector sends to the station, with each alert and to STATION_URL
    STATION_ALERT_KEY: Secret, Words("none");
    /// certificates that are trusted besides the built-in roots, for the station and
    /// for a parent collector: of a CA, or of the server itself
    STATION_CA_FILE: Certificates, Words("none");
    /// the URL at which people reach this collector; alerts at an Alertmanager link to it
    COLLECTOR_URL: Link, Words("http://, this host's name and COLLECTOR_PORT");
    /// kept for compatibility: the longest that the collector waits before it looks for
    /// silence; it sleeps at most one second in any case, so values from 1000 on change nothing
    ZOMBIE_CHECK_INTERVAL_MS: Number(1..=3_600_000), Value("10000");
    /// how much longer than two intervals an agent may be silent before it is dead, in milliseconds
    HEARTBEAT_GRACE_MS: Number(0..=86_400_000), Words("a tenth of the interval: 500, 3000 or 90000");
    /// how long deaths are held back when at least ten agents and half of the known ones fall
    /// silent at once, in milliseconds; an agent that is back by then was never dead
    MASS_SILENCE_HOLD_MS: Number(0..=3_600_000), Value("0");
    /// the most alerts that the queue holds
    ALERT_QUEUE_MAX_SIZE: Number(1..=10_000), Value("100");
    /// the longest that an alert waits in the queue, in milliseconds; a death is not dropped
    /// after it
    ALERT_QUEUE_TTL_MS: Number(1..=86_400_000), Value("300000");
    /// whether to post AGENT_RECOVERED when an agent is back whose death was told
    ALERT_RECOVERY: Choice(&["false", "true"]), Words("false; true if alerts go to STATION_URL");
    /// the most alerts that are posted at the same time; never two for one agent
    ALERT_SENDERS: Number(1..=64), Value("4");
    /// how long a dead agent is remembered, in milliseconds
    AGENT_RETENTION_MS: Number(1..=31_536_000_000), Value("86400000");
    /// the most agents known at once; a new agent beyond it gets 503, known agents are served
    COLLECTOR_MAX_AGENTS: Number(1..=10_000_000), Value("100000");
    /// the most observers at once; an observer beyond it gets 503
    COLLECTOR_MAX_OBSERVERS: Number(0..=1000), Value("64");
    /// the most connections at once, or fewer where the limit on descriptors is lower; near
    /// it answers say Connection: close; beyond it the collector first closes connections
    /// that never sent a request, then the longest-idle ones
    COLLECTOR_MAX_CONNECTIONS: Number(8..=1_000_000), Words("what the container's memory allows, at most 65536");
    /// threads that answer requests, each with its own event loop
    COLLECTOR_HTTP_WORKERS: Number(1..=256), Words("the CPUs, 2 to 4");
    /// the longest that heartbeats are served on after SIGTERM, in milliseconds; two seconds
    /// without a heartbeat end it too, and 0 ends it at once
    SHUTDOWN_GRACE_MS: Number(0..=60_000), Value("10000");
    /// a Unix socket that answers questions about the agents without a key; the file's owner
    /// and group may ask
    ADMIN_SOCKET: Socket, Words("none");
    /// the file in which the state survives a restart
    STATE_FILE: File, Words("none, it does not survive");
    /// how often the state is saved when something changed, in milliseconds
    STATE_INTERVAL_MS: Number(10..=3_600_000), Value("5000");
    /// a file that records every accepted heartbeat, for pap-collector replay
    HEARTBEAT_TRACE: File, Words("none, nothing is recorded");
    /// the most that HEARTBEAT_TRACE and its rotated files take together, in units of a
    /// million bytes
    HEARTBEAT_TRACE_MAX_MB: Number(1..=1_000_000), Value("256");
    /// a parent collector, to which this collector sends heartbeats as an agent
    PAP_COLLECTOR_URL: BaseUrl, Words("none");
    /// the key that the parent collector asks for: one of its HEARTBEAT_API_KEY
    PAP_COLLECTOR_KEY: Secret, Words("none");
    /// the id that this collector has at the parent collector
    PAP_AGENT_ID: Text(MAX_TEXT), Words("collector/CLUSTER_ID");
    shared HEARTBEAT_MODE, HEARTBEAT_INTERVAL, ALERTMANAGER_URL, ALERTMANAGER_USER, ALERTMANAGER_PASSWORD, ALERTMANAGER_KEY,
        ALERTMANAGER_CA_FILE, ALERTMANAGER_REPEAT_MS, RUST_LOG, LOG_FORMAT;
}
