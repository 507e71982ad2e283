//! Every setting of `pap-heartbeat`. To add one, write it here and read it in
//! `config.rs`; flags, `--help`, `--check-config` and what is in docs/ follow.

use pap_core::heartbeat::{MAX_TEXT, Mode};
use pap_process::logging::{LOG_FORMAT, RUST_LOG};
use pap_process::settings::Fallback::{Required, Value, Words};
use pap_process::settings::Kind::{BaseUrl, Certificates, Choice, File, Number, Secret, Text, Url};

pap_process::settings! {
    /// the agent's id
    PAP_AGENT_ID: Text(MAX_TEXT), Required;
    /// the agent's name for people
    PAP_AGENT_NAME: Text(MAX_TEXT), Words("PAP_AGENT_ID");
    /// the agent's key, sent only to the station
    PAP_AGENT_KEY: Secret, Words("none");
    /// the collector, such as http://pap-collector.agents.svc:8080
    PAP_COLLECTOR_URL: BaseUrl, Words("none; this or PAP_STATION_URL is required");
    /// the key that the collector asks for, one of its HEARTBEAT_API_KEY; sent only to it
    PAP_COLLECTOR_KEY: Secret, Words("none");
    /// the station, which gets the heartbeats that the collector does not take, at
    /// URL/api/agents/ID/heartbeat; the URL may already end with /api/agents
    PAP_STATION_URL: BaseUrl, Words("none");
    /// certificates that are trusted besides the built-in roots: of a CA, or of the server itself
    PAP_CA_FILE: Certificates, Words("none");
    /// the mode that the heartbeats of this program say
    HEARTBEAT_MODE: Choice(&[Mode::Idle.as_str(), Mode::Emergency.as_str(), Mode::Sleep.as_str()]),
        Value(Mode::Idle.as_str());
    /// seconds between two heartbeats of this program; never more than the mode allows
    HEARTBEAT_INTERVAL: Number(1..=900), Words("the mode's: 30 for IDLE, 5 for EMERGENCY, 900 for SLEEP");
    /// the agent lives while this URL answers with a 2xx
    PAP_PROBE as "probe": Url(""), Words("none");
    /// how long the probe may take to answer, in milliseconds; half an interval at most
    PAP_PROBE_TIMEOUT_MS as "probe-timeout-ms": Number(1..=60_000), Value("1000");
    /// the agent lives while the process lives whose number is in this file
    PAP_PID_FILE as "pid-file": File, Words("none");
    /// send heartbeats in EMERGENCY after this many failures of the probe in a row
    PAP_EMERGENCY_AFTER as "emergency-after": Number(1..=1000), Words("never; while the probe fails, no heartbeat is sent");
    /// a file that holds the mode; the program reads it twice a second
    PAP_MODE_FILE as "mode-file": File, Words("none");
    /// where the status is kept for --check and --status
    PAP_STATUS_FILE as "status-file": File, Words("a file in /run, else in /tmp, named after the agent");
    /// with --machine, --register and --deregister, the pap-station
    STATION_URL: BaseUrl, Words("none; these three need it");
    /// with --machine, the id that this machine has at the station
    PAP_MACHINE_ID: Number(1..=i64::MAX.unsigned_abs()), Words("none; --machine needs it");
    /// with --machine, the key of this machine, sent only to STATION_URL
    PAP_MACHINE_KEY: Secret, Words("none; --machine needs it");
    /// with --register and --deregister, the id by which the station knows the cluster
    CLUSTER_ID: Text(MAX_TEXT), Words("none; these two need it");
    /// with --register, the cluster's name for people
    CLUSTER_NAME: Text(MAX_TEXT), Words("the one that the station knows, or else CLUSTER_ID");
    /// with --register, where the cluster is
    CLUSTER_REGION: Text(MAX_TEXT), Words("the one that the station knows, or none");
    /// with --register, what the station is to keep about the cluster besides, as NAME=VALUE,NAME=VALUE
    CLUSTER_METADATA: Text(1000), Words("what the station knows, or nothing");
    /// with --register and --deregister, a key that the station takes from collectors, sent only to STATION_URL
    STATION_ALERT_KEY: Secret, Words("none; these two need it");
    /// how long --register and --deregister try, in milliseconds
    STATION_TIMEOUT_MS: Number(1000..=600_000), Value("30000");
    shared RUST_LOG, LOG_FORMAT;
}
