//! The command line of `pap-heartbeat`: a flag for every variable, and a few
//! of its own.

use argh::FromArgs;

/// Sends the heartbeats of a PAP agent that cannot do so itself. They mean
/// that the agent lives: give one of --probe, --pid-file, or a command after
/// "--". Every option is also an environment variable of the same name
/// (PAP_AGENT_ID for --pap-agent-id; PAP_PROBE for --probe and so on); the option wins.
#[derive(FromArgs, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Flags {
    /// ask whether a heartbeat of this agent was taken within two intervals,
    /// print a line and exit with 0 or 1
    #[argh(switch)]
    pub check: bool,
    /// print what the agent's heartbeats came to
    #[argh(switch)]
    pub status: bool,
    /// print the effective configuration, secrets hidden, and exit
    #[argh(switch)]
    pub check_config: bool,
    /// print the version and exit
    #[argh(switch)]
    pub version: bool,
    /// the agent's id (required)
    #[argh(option)]
    pap_agent_id: Option<String>,
    /// its name for people (default: the id)
    #[argh(option)]
    pap_agent_name: Option<String>,
    /// its key for the station; the collector does not see it
    #[argh(option)]
    pap_agent_key: Option<String>,
    /// a file that holds that key
    #[argh(option)]
    pap_agent_key_file: Option<String>,
    /// the collector, such as `http://pap-collector.agents.svc:8080`
    #[argh(option)]
    pap_collector_url: Option<String>,
    /// the station, for when the collector takes nothing
    #[argh(option)]
    pap_station_url: Option<String>,
    /// certificates (PEM) trusted besides the built-in roots
    #[argh(option)]
    pap_ca_file: Option<String>,
    /// EMERGENCY, IDLE or SLEEP (default: IDLE)
    #[argh(option)]
    heartbeat_mode: Option<String>,
    /// seconds between two heartbeats, at most the mode's (default: the mode's)
    #[argh(option)]
    heartbeat_interval: Option<String>,
    /// a URL that answers with a 2xx as long as the agent is well
    #[argh(option)]
    probe: Option<String>,
    /// how long it may take to answer (default: 1000)
    #[argh(option)]
    probe_timeout_ms: Option<String>,
    /// a file that holds the number of the agent's process
    #[argh(option)]
    pid_file: Option<String>,
    /// with --probe, beat in EMERGENCY after so many failures in a row
    /// (default: never, the silence is to be heard)
    #[argh(option)]
    emergency_after: Option<String>,
    /// a file that holds the mode and may change
    #[argh(option)]
    mode_file: Option<String>,
    /// where the status is kept for --check (default: in /run, else in /tmp)
    #[argh(option)]
    status_file: Option<String>,
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
            "PAP_AGENT_ID" => &self.pap_agent_id,
            "PAP_AGENT_NAME" => &self.pap_agent_name,
            "PAP_AGENT_KEY" => &self.pap_agent_key,
            "PAP_AGENT_KEY_FILE" => &self.pap_agent_key_file,
            "PAP_COLLECTOR_URL" => &self.pap_collector_url,
            "PAP_STATION_URL" => &self.pap_station_url,
            "PAP_CA_FILE" => &self.pap_ca_file,
            "HEARTBEAT_MODE" => &self.heartbeat_mode,
            "HEARTBEAT_INTERVAL" => &self.heartbeat_interval,
            "PAP_PROBE" => &self.probe,
            "PAP_PROBE_TIMEOUT_MS" => &self.probe_timeout_ms,
            "PAP_PID_FILE" => &self.pid_file,
            "PAP_EMERGENCY_AFTER" => &self.emergency_after,
            "PAP_MODE_FILE" => &self.mode_file,
            "PAP_STATUS_FILE" => &self.status_file,
            "RUST_LOG" => &self.rust_log,
            "LOG_FORMAT" => &self.log_format,
            _ => &None,
        };
        flag.clone()
    }
}
