//! Environment and flags, checked completely before anything starts. A
//! [`Config`] in hand is a valid one.

mod access;
mod admission;
pub mod settings;
mod station;
mod switches;

use std::net::IpAddr;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use ureq::tls::Certificate;

use crate::emitter::config::collector;
use crate::emitter::{Identity, Rhythm, Targets};
use pap_alertmanager::settings::Alertmanagers;
use pap_core::agent_id::AgentId;
use pap_core::outbox::Limits;
use pap_core::registry::Rules;
use pap_process::logging::{LOG_FORMAT, LogFormat, RUST_LOG};
use pap_process::settings::{ConfigError, Flags, Reader, Secret, Source};
use pap_process::url::Url;
use settings::{
    ADMIN_SOCKET, AGENT_RETENTION_MS, ALERT_QUEUE_MAX_SIZE, ALERT_QUEUE_TTL_MS, ALERT_SENDERS, CLUSTER_ID,
    CLUSTER_NAME, COLLECTOR_API_KEY, COLLECTOR_BIND, COLLECTOR_HTTP_WORKERS, COLLECTOR_MAX_AGENTS,
    COLLECTOR_MAX_CONNECTIONS, COLLECTOR_MAX_OBSERVERS, COLLECTOR_PORT, COLLECTOR_URL, HEARTBEAT_GRACE_MS,
    HEARTBEAT_TRACE, HEARTBEAT_TRACE_MAX_MB, MASS_SILENCE_HOLD_MS, PAP_AGENT_ID, PAP_COLLECTOR_KEY,
    PAP_COLLECTOR_URL, SETTINGS, SHUTDOWN_GRACE_MS, STATE_FILE, STATE_INTERVAL_MS, STATION_CA_FILE,
    ZOMBIE_CHECK_INTERVAL_MS,
};
use station::Station;

pub use access::Access;
pub use admission::{Admission, Goodbyes};
pub use station::StationAccess;
pub use switches::{Replay, Subcommand, Switches, Task};

/// Where the state survives a restart.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// The file.
    pub path: PathBuf,
    /// How often it is saved when something changed.
    pub interval: Duration,
}

/// The trace, in which heartbeats are recorded.
#[derive(Clone, Debug)]
pub struct TraceConfig {
    /// The file. Its rotated files are beside it.
    pub path: PathBuf,
    /// The most bytes of all these files together.
    pub most: u64,
}

/// This collector as an agent of another one.
#[derive(Clone, Debug)]
pub struct Parent {
    /// `collector/<CLUSTER_ID>`, or another id, and the cluster's name.
    pub identity: Identity,
    /// How often it sends a heartbeat.
    pub rhythm: Rhythm,
    /// Where its heartbeats go.
    pub targets: Targets,
}

/// A complete, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The id the station knows this cluster by.
    pub cluster_id: String,
    /// The cluster's name for people.
    pub cluster_name: String,
    /// The port to listen on; 0 lets the system pick one.
    pub port: u16,
    /// The address to listen on; None for all, IPv4 and IPv6.
    pub bind: Option<IpAddr>,
    /// The key that `/agents` and `/observe` ask for; None leaves them open.
    pub api_key: Option<Secret>,
    /// Whose heartbeats and goodbyes are taken.
    pub admission: Admission,
    /// Where alerts are posted; None when no alert is posted to a station.
    pub station: Option<StationAccess>,
    /// This cluster at a pap-station, where the collector registers and beats; None
    /// without one.
    pub cluster: Option<StationAccess>,
    /// The Alertmanagers; None without one.
    pub alertmanagers: Option<Alertmanagers>,
    /// Where people reach this collector, if that is set.
    pub collector_url: Option<Url>,
    /// The longest the sweeper sleeps.
    pub longest_sleep: Duration,
    /// The rules by which the registry judges agents.
    pub rules: Rules,
    /// Threads that run an event loop each.
    pub http_workers: usize,
    /// The most connections, if it is set; beyond it, connections without a request are closed
    /// first, then those that are idle for longest.
    pub max_connections: Option<usize>,
    /// The most observers.
    pub max_observers: usize,
    /// How long the collector goes on serving heartbeats after SIGTERM, at most.
    pub shutdown_grace: Duration,
    /// Where the admin socket is; None without one.
    pub admin_socket: Option<PathBuf>,
    /// Where the state survives a restart; None if it does not.
    pub state: Option<StateConfig>,
    /// The trace; None if heartbeats are not recorded.
    pub trace: Option<TraceConfig>,
    /// The parent: a collector to which this one is an agent; None without one.
    pub parent: Option<Parent>,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub log_filter: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is allowed but probably a mistake, for the log.
    pub warnings: Vec<String>,
    effective: String,
}

impl Config {
    /// The configuration from flags and from the environment; a flag wins.
    ///
    /// # Errors
    /// The first variable that is wrong. Nothing has been started.
    pub fn new(flags: &Flags, environment: &Source<'_>) -> Result<Self, ConfigError> {
        let mut from = Reader::new(SETTINGS, flags, environment);
        let cluster_id: String = from.value(&CLUSTER_ID)?;
        let cluster_name = from.value_or(&CLUSTER_NAME, || cluster_id.clone())?;
        let mut warnings = Vec::new();
        let api_key = from.secret(&COLLECTOR_API_KEY)?;
        if api_key.is_none() {
            warnings.push(
                "COLLECTOR_API_KEY is not set: everyone who reaches this port can read /agents and /observe; set it to ask for a key".into(),
            );
        }
        let admission = Admission::read(&mut from, &mut warnings)?;
        let roots = from.certificates(&STATION_CA_FILE)?;
        let parent = parent(&mut from, &cluster_id, &cluster_name, &roots, &mut warnings)?;
        let alertmanagers = pap_alertmanager::settings::read(&mut from, &mut warnings)?;
        let has_alertmanager = alertmanagers.is_some();
        let station = Station::read(&mut from, &cluster_id, &roots, has_alertmanager, &mut warnings)?;
        let interval = from.millis(&STATE_INTERVAL_MS)?;
        let state = from.path(&STATE_FILE)?.map(|path| StateConfig { path, interval });
        let most = from.value::<u64>(&HEARTBEAT_TRACE_MAX_MB)? * 1_000_000;
        let trace = from.path(&HEARTBEAT_TRACE)?.map(|path| TraceConfig { path, most });
        if let (Some(state), Some(trace)) = (&state, &trace)
            && state.path == trace.path
        {
            let path = trace.path.to_string_lossy();
            return Err(HEARTBEAT_TRACE.wrong_as(&path, &"it is STATE_FILE; give each its own"));
        }
        let cpus = || available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4));
        Ok(Self {
            port: from.value(&COLLECTOR_PORT)?,
            bind: from.value_if_any(&COLLECTOR_BIND)?,
            api_key,
            admission,
            station: station.alerts,
            cluster: station.cluster,
            alertmanagers,
            collector_url: from.url(&COLLECTOR_URL, str::to_owned)?,
            longest_sleep: from.millis(&ZOMBIE_CHECK_INTERVAL_MS)?,
            rules: Rules {
                max_agents: from.value(&COLLECTOR_MAX_AGENTS)?,
                grace: from.value_if_any(&HEARTBEAT_GRACE_MS)?.map(Duration::from_millis),
                mass_silence_hold: from.millis(&MASS_SILENCE_HOLD_MS)?,
                retention: from.millis(&AGENT_RETENTION_MS)?,
                recovery_alerts: station.recoveries,
                outbox: Limits {
                    queue: from.value(&ALERT_QUEUE_MAX_SIZE)?,
                    ttl: from.millis(&ALERT_QUEUE_TTL_MS)?,
                    senders: from.value(&ALERT_SENDERS)?,
                },
            },
            http_workers: from.value_or(&COLLECTOR_HTTP_WORKERS, cpus)?,
            max_observers: from.value(&COLLECTOR_MAX_OBSERVERS)?,
            max_connections: from.value_if_any(&COLLECTOR_MAX_CONNECTIONS)?,
            shutdown_grace: from.millis(&SHUTDOWN_GRACE_MS)?,
            admin_socket: from.path(&ADMIN_SOCKET)?,
            state,
            trace,
            parent,
            log_filter: from.value(&RUST_LOG)?,
            log_format: from.value(&LOG_FORMAT)?,
            cluster_id,
            cluster_name,
            warnings,
            effective: from.effective(),
        })
    }

    /// The effective configuration, a line for each variable, secrets hidden.
    pub fn to_text(&self) -> &str {
        &self.effective
    }
}

/// The parent collector, if one is configured.
fn parent(
    from: &mut Reader<'_>,
    cluster_id: &str,
    cluster_name: &str,
    roots: &[Certificate<'static>],
    warnings: &mut Vec<String>,
) -> Result<Option<Parent>, ConfigError> {
    let (url, collector_key) = collector(from, &PAP_COLLECTOR_URL, &PAP_COLLECTOR_KEY, warnings)?;
    let Some(url) = url else { return Ok(None) };
    let rhythm = Rhythm::read(from, warnings)?;
    let id = from.value_or(&PAP_AGENT_ID, || format!("collector/{cluster_id}"))?;
    let id = AgentId::new(&id).map_err(|_| PAP_AGENT_ID.wrong(&id))?;
    let targets = Targets { collector: Some(url), collector_key, station: None, roots: roots.to_vec() };
    Ok(Some(Parent { identity: Identity { id, name: cluster_name.to_owned() }, rhythm, targets }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)], arguments: &[&str]) -> Result<Config, ConfigError> {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let (_, flags) = pap_process::cli::parse::<Switches>("pap-collector", SETTINGS, &arguments).unwrap();
        Config::new(&flags, &|name| {
            variables.iter().rfind(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn error(variables: &[(&str, &str)]) -> String {
        let mut all = vec![("CLUSTER_ID", "c")];
        all.extend(variables);
        config(&all, &[]).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_the_contracts() {
        let config = config(&[("CLUSTER_ID", "c")], &[]).unwrap();
        let text = config.to_text();
        for line in [
            "CLUSTER_ID=c\n",
            "CLUSTER_NAME=c\n",
            "COLLECTOR_PORT=8080\n",
            "ZOMBIE_CHECK_INTERVAL_MS=10000\n",
            "MASS_SILENCE_HOLD_MS=0\n",
            "ALERT_QUEUE_MAX_SIZE=100\n",
            "ALERT_QUEUE_TTL_MS=300000\n",
            "ALERT_RECOVERY=false\n",
            "ALERT_SENDERS=4\n",
            "AGENT_RETENTION_MS=86400000\n",
            "COLLECTOR_MAX_AGENTS=100000\n",
            "RUST_LOG=info\n",
            "LOG_FORMAT=text\n",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(config.station.is_none());
        assert_eq!(config.rules.grace, None, "a tenth of the interval");
        assert!(config.http_workers >= 2);
    }

    #[test]
    fn a_flag_wins_over_the_environment_in_both_spellings() {
        let environment = [("CLUSTER_ID", "c"), ("COLLECTOR_PORT", "1")];
        assert_eq!(config(&environment, &["--collector-port", "2"]).unwrap().port, 2);
        assert_eq!(config(&environment, &["--collector-port=3", "--cluster-id=x"]).unwrap().port, 3);
        assert_eq!(config(&environment, &[]).unwrap().port, 1);
    }

    #[test]
    fn what_is_wrong_names_the_variable_the_value_and_what_is_allowed() {
        assert!(config(&[], &[]).unwrap_err().to_string().starts_with("CLUSTER_ID is not set"));
        assert_eq!(
            error(&[("COLLECTOR_PORT", "70000")]),
            "COLLECTOR_PORT=\"70000\" is wrong; allowed: a whole number from 0 to 65535"
        );
        assert!(error(&[("COLLECTOR_PORT", "tcp://10.0.0.1:80")]).contains("enableServiceLinks"));
        assert!(error(&[("COLLECTOR_BIND", "localhost")]).contains("an IP address"));
        assert!(error(&[("ALERT_RECOVERY", "yes")]).contains("allowed: false, true"));
        assert!(error(&[("ALERT_QUEUE_MAX_SIZE", "0")]).contains("from 1 to 10000"));
        assert!(error(&[("ALERT_QUEUE_TTL_MS", "-5")]).contains("ALERT_QUEUE_TTL_MS=\"-5\""));
        assert!(error(&[("LOG_FORMAT", "xml")]).contains("text, json"));
        assert!(error(&[("RUST_LOG", "verbose")]).contains("RUST_LOG"));
        assert!(error(&[("CLUSTER_ID", "a\nb")]).contains("CLUSTER_ID=\"a\\nb\""));
        assert!(error(&[("STATION_ALERT_URL", "ftp://x/")]).contains("http://"));
        assert!(error(&[("STATION_CA_FILE", "/nowhere")]).contains("/nowhere"));
    }

    #[test]
    fn the_state_and_the_trace_are_two_files() {
        let bad = error(&[("STATE_FILE", "/nowhere/x"), ("HEARTBEAT_TRACE", "/nowhere/x")]);
        assert!(bad.starts_with("HEARTBEAT_TRACE=") && bad.contains("STATE_FILE"), "{bad}");
    }

    #[test]
    fn no_secret_is_shown() {
        let bad = error(&[("STATION_ALERT_KEY", "hush\nhush")]);
        assert!(bad.contains("STATION_ALERT_KEY") && !bad.contains("hush"), "{bad}");
        let bad = error(&[("STATION_ALERT_URL", "https://me:hush@station/")]);
        assert!(!bad.contains("hush"), "{bad}");
        let good = [
            ("CLUSTER_ID", "c"),
            ("COLLECTOR_API_KEY", "hush1"),
            ("STATION_ALERT_KEY", "hush2"),
            ("STATION_ALERT_URL", "https://station/api/clusters/{cluster_id}/alerts"),
        ];
        let config = config(&good, &[]).unwrap();
        assert!(!config.to_text().contains("hush"));
        assert!(!format!("{config:?}").contains("hush"));
        assert_eq!(config.station.unwrap().url.as_str(), "https://station/api/clusters/c/alerts");
    }

    #[test]
    fn an_alertmanagers_password_may_be_any_text() {
        let alertmanager = [
            ("CLUSTER_ID", "c"),
            ("ALERTMANAGER_URL", "http://a"),
            ("ALERTMANAGER_USER", "night watch"),
            ("ALERTMANAGER_PASSWORD", "p\u{e4}ss w\u{f6}rd"),
        ];
        let header = config(&alertmanager, &[]).unwrap().alertmanagers.unwrap().credentials.header();
        assert_eq!(header.as_deref(), Some("Basic bmlnaHQgd2F0Y2g6cMOkc3Mgd8O2cmQ="));
        let bad = error(&[("ALERTMANAGER_URL", "http://a"), ("ALERTMANAGER_PASSWORD", "hu\tsh")]);
        assert!(bad.starts_with("ALERTMANAGER_PASSWORD=(hidden) is wrong"), "{bad}");
    }

    #[test]
    fn heartbeats_need_one_of_the_keys_and_goodbyes_as_it_is_said() {
        let admission = |extra: &[(&str, &str)]| {
            let config = config(&[&[("CLUSTER_ID", "c")], extra].concat(), &[]).unwrap();
            let keys: Vec<_> = config.admission.keys.iter().map(|key| key.reveal().to_owned()).collect();
            let effective =
                config.to_text().lines().find_map(|line| line.strip_prefix("GOODBYE=")).map(str::to_owned);
            (keys.join(" "), config.admission.goodbyes, effective.unwrap())
        };
        let keys = ("HEARTBEAT_API_KEY", "new,old");
        assert_eq!(admission(&[]), (String::new(), Goodbyes::Open, "open".into()));
        assert_eq!(admission(&[keys]), ("new old".into(), Goodbyes::Key, "key".into()));
        assert_eq!(admission(&[keys, ("GOODBYE", "open")]).1, Goodbyes::Open);
        assert_eq!(admission(&[("GOODBYE", "off")]).1, Goodbyes::Off);
        let bad = error(&[("GOODBYE", "key")]);
        assert!(bad.starts_with("GOODBYE=\"key\" is wrong") && bad.contains("HEARTBEAT_API_KEY"), "{bad}");
        for wrong in [",", "a,", "a,,b", "a b"] {
            let bad = error(&[("HEARTBEAT_API_KEY", wrong)]);
            assert!(bad.starts_with("HEARTBEAT_API_KEY=(hidden) is wrong"), "{bad}");
        }
        let url = ("PAP_COLLECTOR_URL", "http://above");
        let bad = error(&[url, ("PAP_COLLECTOR_KEY", "new,old")]);
        assert!(bad.starts_with("PAP_COLLECTOR_KEY=(hidden) is wrong"), "{bad}");
        let open = config(&[("CLUSTER_ID", "c"), keys, ("GOODBYE", "open")], &[]).unwrap();
        assert!(open.warnings.iter().any(|warning| warning.starts_with("GOODBYE=open")), "{open:?}");
    }

    #[test]
    fn a_key_comes_from_a_file_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "hush\n").unwrap();
        let path = path.to_str().unwrap();
        let api_key = |extra: &[(&str, &str)]| {
            let variables = [&[("CLUSTER_ID", "c"), ("COLLECTOR_API_KEY_FILE", path)], extra].concat();
            config(&variables, &[])
        };
        assert_eq!(api_key(&[]).unwrap().api_key.unwrap().reveal(), "hush");
        let both = api_key(&[("COLLECTOR_API_KEY", "x")]).unwrap_err().to_string();
        assert!(both.contains("COLLECTOR_API_KEY_FILE"), "{both}");
    }
}
