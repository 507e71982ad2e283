//! The configuration: settings in, valid values out.

pub mod settings;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use pap_alertmanager::settings::Alertmanagers;
use pap_core::reconcile::Limits;
use pap_process::logging::{LOG_FORMAT, LogFormat, RUST_LOG};
use pap_process::settings::{ConfigError, Flags, GoDuration, Reader, Secret, Source};
use pap_process::url::Url;
use ureq::tls::Certificate;

use crate::ask::Running;
use crate::clusters::Admission;
use crate::engine::{Client, Host};
use crate::kafka::{self, settings::Kafka};
use crate::reach::Reach;
use crate::workers::{self, Template};
use settings::{
    ADOPT_UNLABELLED, AGENT_API_KEY, ALERT_RETENTION, ALLOW_PRIVATE_TARGETS, AUTO_REGISTER, CLEANUP_TIMEOUT,
    DOCKER_CERT_PATH, DOCKER_HOST, HEARTBEAT_TIMEOUT, MACHINE_HEARTBEAT_CHECK_INTERVAL,
    MACHINE_OFFLINE_THRESHOLD, MAX_AGENTS, MAX_CLUSTERS, MAX_CONTAINERS, METRICS_KEY, PAP_COLLECTOR_API_KEY,
    RECONCILE_INTERVAL, SETTINGS, STATION_ADMIN_KEY, STATION_BIND, STATION_CA_FILE, STATION_DB,
    STATION_EXTERNAL_URL, STATION_MAX_CONNECTIONS, STATION_PORT, STATION_VIEWER_KEY, TELEGRAM_API_URL,
    TELEGRAM_BOT_TOKEN, TRUST_PROXY, WORKERS_FILE,
};

/// A key of fewer bytes may be guessed: it brings a warning.
const SHORT_KEY: usize = 16;

/// Takes what collectors, agents and machines send, and tells people.
#[derive(FromArgs, ArgsInfo, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch")]
#[argh(
    usage = "[SETTINGS] [--check-config | --version | check [--live] | clusters [--json | --prune] | deregister ID | backup FILE | import FILE]"
)]
pub struct Switches {
    /// what the program does instead of running a station: "check" asks a running station
    /// whether it is well, "clusters" lists what it knows of clusters and their workers,
    /// "deregister ID" removes a cluster, "backup FILE" copies STATION_DB to a file that is not there yet,
    /// "import FILE" takes over machines, webhooks and Telegram chats from LunaSentri's file
    #[argh(positional, arg_name = "command")]
    pub command: Vec<String>,
    /// with "check", ask only whether the station runs, not whether it is ready
    #[argh(switch)]
    pub live: bool,
    /// with "clusters", print the station's JSON
    #[argh(switch)]
    pub json: bool,
    /// with "clusters", remove the workers of clusters that the station does not know
    #[argh(switch)]
    pub prune: bool,
    /// print the effective configuration, secrets hidden, and exit
    #[argh(switch)]
    pub check_config: bool,
    /// print the version and exit
    #[argh(switch)]
    pub version: bool,
}

/// A complete, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The port to listen on; 0 lets the system pick one.
    pub port: u16,
    /// The address to listen on; None for all.
    pub bind: Option<IpAddr>,
    /// The file that holds everything.
    pub db: PathBuf,
    /// The keys of collectors; all are taken.
    pub collector_keys: Vec<Secret>,
    /// The keys of agents; all are taken.
    pub agent_keys: Vec<Secret>,
    /// The admin's key; None to make one.
    pub admin_key: Option<Secret>,
    /// The viewer's key.
    pub viewer_key: Option<Secret>,
    /// The key for the metrics.
    pub metrics_key: Option<Secret>,
    /// Which clusters are taken in.
    pub admission: Admission,
    /// The most agents that beat here.
    pub max_agents: usize,
    /// The most connections.
    pub max_connections: usize,
    /// How long alerts, closed incidents, removed clusters and the audit are kept.
    pub retention: Duration,
    /// After how much silence an incident of a collector opens,
    pub collector_patience: Duration,
    /// a cluster is dead,
    pub cleanup_timeout: Duration,
    /// and a machine is offline.
    pub machine_patience: Duration,
    /// The workers of clusters; None without templates.
    pub control: Option<Workers>,
    /// The longest sleep between two looks for machines that went offline.
    pub check_interval: Duration,
    /// The token of the Telegram bot.
    pub telegram_token: Option<Secret>,
    /// Where the Bot API is.
    pub telegram_url: Url,
    /// The Alertmanagers; None without one.
    pub alertmanagers: Option<Alertmanagers>,
    /// The URL at which people reach this station, if it is known.
    pub external_url: Option<Url>,
    /// Which private addresses may be connected to.
    pub reach: Reach,
    /// The Kafka with the registry; None without Kafka.
    pub kafka: Option<Kafka>,
    /// Certificates that are trusted besides the built-in roots.
    pub roots: Vec<Certificate<'static>>,
    /// A proxy stands in front.
    pub trust_proxy: bool,
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
    /// The first setting that is wrong. Nothing has been started.
    pub fn new(flags: &Flags, environment: &Source<'_>) -> Result<Self, ConfigError> {
        let mut from = Reader::new(SETTINGS, flags, environment);
        let collector_keys = from.secrets(&PAP_COLLECTOR_API_KEY)?;
        let agent_keys = from.secrets(&AGENT_API_KEY)?;
        let (admin_key, viewer_key) = (from.secret(&STATION_ADMIN_KEY)?, from.secret(&STATION_VIEWER_KEY)?);
        let mut warnings = Vec::new();
        for (setting, keys) in [
            (&PAP_COLLECTOR_API_KEY, &collector_keys[..]),
            (&AGENT_API_KEY, &agent_keys),
            (&STATION_ADMIN_KEY, admin_key.as_slice()),
            (&STATION_VIEWER_KEY, viewer_key.as_slice()),
        ] {
            if keys.iter().any(|key| key.reveal().len() < SHORT_KEY) {
                warnings.push(format!(
                    "{}: a key has fewer than {SHORT_KEY} bytes and can be guessed",
                    setting.name
                ));
            }
        }
        let reach = reach(&mut from)?;
        let collector_patience = from.duration(&HEARTBEAT_TIMEOUT)?;
        let cleanup_timeout = from.duration(&CLEANUP_TIMEOUT)?;
        if cleanup_timeout < collector_patience {
            let why = "it is shorter than HEARTBEAT_TIMEOUT, after which a cluster is stale";
            return Err(CLEANUP_TIMEOUT.wrong_as(&GoDuration(cleanup_timeout).to_string(), &why));
        }
        let control = workers(&mut from, &mut warnings)?;
        let alertmanagers = pap_alertmanager::settings::read(&mut from, &mut warnings)?;
        let db = from.path(&STATION_DB)?.unwrap_or_default();
        let telegram_url = from.url(&TELEGRAM_API_URL, str::to_owned)?;
        let telegram_url = match telegram_url {
            Some(url) => url,
            None => default_url(&mut from)?,
        };
        Ok(Self {
            port: from.value(&STATION_PORT)?,
            bind: from.value_if_any(&STATION_BIND)?,
            db,
            collector_keys,
            agent_keys,
            admin_key,
            viewer_key,
            metrics_key: from.secret(&METRICS_KEY)?,
            admission: Admission {
                auto_register: from.value(&AUTO_REGISTER)?,
                max_clusters: from.value(&MAX_CLUSTERS)?,
            },
            max_agents: from.value(&MAX_AGENTS)?,
            max_connections: from.value(&STATION_MAX_CONNECTIONS)?,
            retention: from.duration(&ALERT_RETENTION)?,
            collector_patience,
            cleanup_timeout,
            control,
            machine_patience: from.duration(&MACHINE_OFFLINE_THRESHOLD)?,
            check_interval: from.duration(&MACHINE_HEARTBEAT_CHECK_INTERVAL)?,
            telegram_token: from.secret(&TELEGRAM_BOT_TOKEN)?,
            telegram_url,
            alertmanagers,
            kafka: kafka::settings::read(&mut from)?,
            external_url: from.url(&STATION_EXTERNAL_URL, str::to_owned)?,
            reach,
            roots: from.certificates(&STATION_CA_FILE)?,
            trust_proxy: from.value(&TRUST_PROXY)?,
            log_filter: from.value(&RUST_LOG)?,
            log_format: from.value(&LOG_FORMAT)?,
            warnings,
            effective: from.effective(),
        })
    }

    /// The effective configuration, a line for each setting, secrets hidden.
    pub fn to_text(&self) -> &str {
        &self.effective
    }
}

/// How workers are made.
#[derive(Clone, Debug)]
pub struct Workers {
    /// The templates.
    pub templates: Vec<Template>,
    /// How the container engine is reached.
    pub client: Client,
    /// How many containers are made at most, and which are adopted.
    pub limits: Limits,
    /// The longest time between two passes.
    pub interval: Duration,
}

/// How workers are made, if there are templates.
fn workers(from: &mut Reader<'_>, warnings: &mut Vec<String>) -> Result<Option<Workers>, ConfigError> {
    let file = from.path(&WORKERS_FILE)?;
    let raw: String = from.value(&DOCKER_HOST)?;
    let certificates = from.value_if_any::<String>(&DOCKER_CERT_PATH)?;
    let limits = Limits {
        max_containers: from.value(&MAX_CONTAINERS)?,
        adopt_unlabelled: from.value(&ADOPT_UNLABELLED)?,
    };
    let interval = from.duration(&RECONCILE_INTERVAL)?;
    let Some(file) = file else { return Ok(None) };
    let host = Host::parse(&raw)
        .ok_or_else(|| DOCKER_HOST.wrong_as(&raw, &"it is neither unix:///path nor tcp://host:port"))?;
    let client = Client::new(host, certificates.as_deref().map(Path::new))
        .map_err(|why| DOCKER_CERT_PATH.wrong_as(certificates.as_deref().unwrap_or_default(), &why))?;
    let (templates, more) =
        workers::read(&file).map_err(|why| WORKERS_FILE.wrong_as(&file.display().to_string(), &why))?;
    warnings.extend(more);
    Ok(Some(Workers { templates, client, limits, interval }))
}

/// The default of the table of settings.
fn default_url(from: &mut Reader<'_>) -> Result<Url, ConfigError> {
    let raw: String = from.value(&TELEGRAM_API_URL)?;
    Url::base(&raw).map_err(|why| TELEGRAM_API_URL.wrong_as(&raw, &why))
}

/// Which private addresses may be connected to.
fn reach(from: &mut Reader<'_>) -> Result<Reach, ConfigError> {
    let raw: String = from.value(&ALLOW_PRIVATE_TARGETS)?;
    Reach::parse(&raw).ok_or_else(|| {
        let why = "it is neither false nor true nor a list of networks such as 10.0.0.0/8,fd00::/8";
        ALLOW_PRIVATE_TARGETS.wrong_as(&raw, &why)
    })
}

/// Where the file is, for commands that need nothing else.
///
/// # Errors
/// The setting is wrong.
pub fn database(flags: &Flags, environment: &Source<'_>) -> Result<PathBuf, ConfigError> {
    Ok(Reader::new(SETTINGS, flags, environment).path(&STATION_DB)?.unwrap_or_default())
}

/// Where the file is and where webhooks may lead, for a command that makes channels.
///
/// # Errors
/// A setting is wrong.
pub fn database_and_reach(flags: &Flags, environment: &Source<'_>) -> Result<(PathBuf, Reach), ConfigError> {
    let mut from = Reader::new(SETTINGS, flags, environment);
    Ok((from.path(&STATION_DB)?.unwrap_or_default(), reach(&mut from)?))
}

/// The station that runs with this configuration, for commands that ask it.
///
/// # Errors
/// A setting is wrong.
pub fn running(flags: &Flags, environment: &Source<'_>) -> Result<Running, ConfigError> {
    let mut from = Reader::new(SETTINGS, flags, environment);
    Ok(Running {
        bind: from.value_if_any(&STATION_BIND)?,
        port: from.value(&STATION_PORT)?,
        key: from.secret(&STATION_ADMIN_KEY)?,
        db: from.path(&STATION_DB)?.unwrap_or_default(),
    })
}

/// Where a running station is asked, for commands that need nothing else.
///
/// # Errors
/// A setting is wrong.
pub fn address(flags: &Flags, environment: &Source<'_>) -> Result<(Option<IpAddr>, u16), ConfigError> {
    let mut from = Reader::new(SETTINGS, flags, environment);
    Ok((from.value_if_any(&STATION_BIND)?, from.value(&STATION_PORT)?))
}
