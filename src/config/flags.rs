//! The command line: a flag for every variable, and a few of its own.

use argh::{FromArgValue, FromArgs};

/// What is to be done instead of running a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromArgValue)]
pub enum Task {
    /// Ask a running collector how it is.
    Check,
}

/// Heartbeat collector for PAP agents. Every option is also an environment
/// variable of the same name (CLUSTER_ID for --cluster-id); the option wins.
#[derive(FromArgs, Debug)]
pub struct Flags {
    /// with "check", ask the collector that runs on this configuration's port
    /// whether it is ready, print a line and exit with 0 or 1
    #[argh(positional)]
    pub task: Option<Task>,
    /// with "check", ask only whether it runs
    #[argh(switch)]
    pub live: bool,
    /// print the effective configuration, secrets hidden, and exit
    #[argh(switch)]
    pub check_config: bool,
    /// print the version and exit
    #[argh(switch)]
    pub version: bool,
    /// the id the station knows this cluster by (required)
    #[argh(option)]
    cluster_id: Option<String>,
    /// the cluster's name for people (default: the id)
    #[argh(option)]
    cluster_name: Option<String>,
    /// the port to listen on, 0 for any free one (default: 8080)
    #[argh(option)]
    collector_port: Option<String>,
    /// the address to listen on (default: all, IPv4 and IPv6)
    #[argh(option)]
    collector_bind: Option<String>,
    /// the key that /agents asks for (default: none)
    #[argh(option)]
    collector_api_key: Option<String>,
    /// a file that holds that key
    #[argh(option)]
    collector_api_key_file: Option<String>,
    /// where alerts are posted; {{cluster_id}} is filled in (default: only logged)
    #[argh(option)]
    station_alert_url: Option<String>,
    /// the key for it
    #[argh(option)]
    station_alert_key: Option<String>,
    /// a file that holds that key
    #[argh(option)]
    station_alert_key_file: Option<String>,
    /// certificates (PEM) trusted besides the built-in roots
    #[argh(option)]
    station_ca_file: Option<String>,
    /// the longest the sweeper sleeps, at most a second in any case (default: 10000)
    #[argh(option)]
    zombie_check_interval_ms: Option<String>,
    /// slack on top of two intervals before silence is death (default: 0)
    #[argh(option)]
    heartbeat_grace_ms: Option<String>,
    /// the most alerts in the queue (default: 100)
    #[argh(option)]
    alert_queue_max_size: Option<String>,
    /// the longest an alert waits in the queue (default: 300000)
    #[argh(option)]
    alert_queue_ttl_ms: Option<String>,
    /// whether to tell that a told death is over: true or false (default: false)
    #[argh(option)]
    alert_recovery: Option<String>,
    /// posts under way at once (default: 4)
    #[argh(option)]
    alert_senders: Option<String>,
    /// how long a dead agent is remembered (default: 86400000)
    #[argh(option)]
    agent_retention_ms: Option<String>,
    /// the most agents known at once (default: 100000)
    #[argh(option)]
    collector_max_agents: Option<String>,
    /// the most watchers at once (default: 64)
    #[argh(option)]
    collector_max_observers: Option<String>,
    /// beyond it the longest-idle connections are closed (default: 1024)
    #[argh(option)]
    collector_max_connections: Option<String>,
    /// threads that answer requests (default: the CPUs, at least 2)
    #[argh(option)]
    collector_http_workers: Option<String>,
    /// where the state survives a restart (default: it does not)
    #[argh(option)]
    state_file: Option<String>,
    /// how often it is saved when something changed (default: 5000)
    #[argh(option)]
    state_interval_ms: Option<String>,
    /// a collector above this one, to which this one beats (default: none)
    #[argh(option)]
    pap_collector_url: Option<String>,
    /// the id under which it does so (default: collector/CLUSTER_ID)
    #[argh(option)]
    pap_agent_id: Option<String>,
    /// the mode in which it does so: EMERGENCY, IDLE or SLEEP (default: IDLE)
    #[argh(option)]
    heartbeat_mode: Option<String>,
    /// seconds between two of those heartbeats (default: the mode's)
    #[argh(option)]
    heartbeat_interval: Option<String>,
    /// what is logged (default: info)
    #[argh(option)]
    rust_log: Option<String>,
    /// text or json (default: text)
    #[argh(option)]
    log_format: Option<String>,
}

impl Flags {
    /// The flag that goes with an environment variable.
    pub(super) fn get(&self, variable: &str) -> Option<String> {
        let flag = match variable {
            "CLUSTER_ID" => &self.cluster_id,
            "CLUSTER_NAME" => &self.cluster_name,
            "COLLECTOR_PORT" => &self.collector_port,
            "COLLECTOR_BIND" => &self.collector_bind,
            "COLLECTOR_API_KEY" => &self.collector_api_key,
            "COLLECTOR_API_KEY_FILE" => &self.collector_api_key_file,
            "STATION_ALERT_URL" => &self.station_alert_url,
            "STATION_ALERT_KEY" => &self.station_alert_key,
            "STATION_ALERT_KEY_FILE" => &self.station_alert_key_file,
            "STATION_CA_FILE" => &self.station_ca_file,
            "ZOMBIE_CHECK_INTERVAL_MS" => &self.zombie_check_interval_ms,
            "HEARTBEAT_GRACE_MS" => &self.heartbeat_grace_ms,
            "ALERT_QUEUE_MAX_SIZE" => &self.alert_queue_max_size,
            "ALERT_QUEUE_TTL_MS" => &self.alert_queue_ttl_ms,
            "ALERT_RECOVERY" => &self.alert_recovery,
            "ALERT_SENDERS" => &self.alert_senders,
            "AGENT_RETENTION_MS" => &self.agent_retention_ms,
            "COLLECTOR_MAX_AGENTS" => &self.collector_max_agents,
            "COLLECTOR_MAX_OBSERVERS" => &self.collector_max_observers,
            "COLLECTOR_MAX_CONNECTIONS" => &self.collector_max_connections,
            "COLLECTOR_HTTP_WORKERS" => &self.collector_http_workers,
            "STATE_FILE" => &self.state_file,
            "STATE_INTERVAL_MS" => &self.state_interval_ms,
            "PAP_COLLECTOR_URL" => &self.pap_collector_url,
            "PAP_AGENT_ID" => &self.pap_agent_id,
            "HEARTBEAT_MODE" => &self.heartbeat_mode,
            "HEARTBEAT_INTERVAL" => &self.heartbeat_interval,
            "RUST_LOG" => &self.rust_log,
            "LOG_FORMAT" => &self.log_format,
            _ => &None,
        };
        flag.clone()
    }
}
