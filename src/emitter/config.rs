//! The configuration of `pap-heartbeat`, checked completely before anything
//! starts. A [`Config`] in hand is a valid one.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::settings::{
    HEARTBEAT_INTERVAL, HEARTBEAT_MODE, PAP_AGENT_ID, PAP_AGENT_KEY, PAP_AGENT_NAME, PAP_CA_FILE,
    PAP_COLLECTOR_KEY, PAP_COLLECTOR_URL, PAP_EMERGENCY_AFTER, PAP_MODE_FILE, PAP_PID_FILE, PAP_PROBE,
    PAP_PROBE_TIMEOUT_MS, PAP_STATION_URL, PAP_STATUS_FILE, SETTINGS,
};
use super::status::StatusFile;
use super::targets::{Identity, Targets};
use super::{machine, registration};
use pap_core::agent_id::AgentId;
use pap_core::heartbeat::Mode;
use pap_process::logging::{LOG_FORMAT, LogFormat, RUST_LOG};
use pap_process::settings::{ConfigError, Flags, Reader, Secret, Setting, Source};
use pap_process::url::Url;

/// How often an agent sends heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// The mode it announces.
    pub mode: Mode,
    /// The longest time between two heartbeats; None for the interval of the mode.
    pub longest: Option<Duration>,
}

impl Rhythm {
    /// From `HEARTBEAT_MODE` and `HEARTBEAT_INTERVAL`.
    ///
    /// # Errors
    /// One of them is wrong.
    pub(crate) fn read(from: &mut Reader<'_>, warnings: &mut Vec<String>) -> Result<Self, ConfigError> {
        let name: String = from.value(&HEARTBEAT_MODE)?;
        let mode = Mode::from_name(&name).ok_or_else(|| HEARTBEAT_MODE.wrong(&name))?;
        let longest = from.value_if_any(&HEARTBEAT_INTERVAL)?.map(Duration::from_secs);
        let rhythm = Self { mode, longest };
        if longest.is_some_and(|longest| longest > rhythm.interval()) {
            let own = mode.interval();
            warnings.push(format!(
                "HEARTBEAT_INTERVAL is longer than {mode} allows, so a heartbeat is sent every {own:?}"
            ));
        }
        from.show(&HEARTBEAT_INTERVAL, &rhythm.interval().as_secs());
        Ok(rhythm)
    }

    /// The time between two heartbeats: never more than the mode promises.
    pub fn interval(&self) -> Duration {
        self.longest.unwrap_or(Duration::MAX).min(self.mode.interval())
    }
}

/// The liveness source: what says that the agent lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// A URL that answers within this time.
    Probe(Url, Duration),
    /// The process whose number is in this file.
    PidFile(PathBuf),
    /// A command that `pap-heartbeat` runs, and its arguments.
    Command(OsString, Vec<OsString>),
    /// Nothing but that `pap-heartbeat` itself runs.
    Itself,
}

/// A complete, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agent.
    pub identity: Identity,
    /// How often it sends heartbeats.
    pub rhythm: Rhythm,
    /// Where the heartbeats go.
    pub targets: Targets,
    /// What says that the agent lives.
    pub liveness: Liveness,
    /// After this many failed probes in a row it sends heartbeats in EMERGENCY; None:
    /// a failed probe means silence.
    pub emergency_after: Option<u32>,
    /// A file that holds the mode.
    pub mode_file: Option<PathBuf>,
    /// Where the status is kept.
    pub status_file: StatusFile,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub log_filter: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is allowed but probably a mistake, for the log.
    pub warnings: Vec<String>,
    effective: String,
}

impl Config {
    /// From flags, the environment, and the command after `--`.
    ///
    /// # Errors
    /// The first variable that is wrong. Nothing has been started.
    pub fn new(
        flags: &Flags,
        environment: &Source<'_>,
        command: Option<Vec<OsString>>,
    ) -> Result<Self, ConfigError> {
        let mut from = Reader::new(SETTINGS, flags, environment);
        let mut warnings = Vec::new();
        let id = agent_id(&mut from)?;
        let name = from.value_or(&PAP_AGENT_NAME, || id.to_string())?;
        let targets = targets(&mut from, &mut warnings)?;
        let liveness = liveness(&mut from, command)?;
        let shortest = Mode::Emergency.interval() / 2;
        if matches!(liveness, Liveness::Probe(_, patience) if patience > shortest) {
            warnings
                .push(format!("PAP_PROBE_TIMEOUT_MS is longer than half an interval of EMERGENCY, so there the probe gets {shortest:?}"));
        }
        let emergency_after = from.value_if_any::<u32>(&PAP_EMERGENCY_AFTER)?;
        if let Some(failures) = emergency_after
            && !matches!(liveness, Liveness::Probe(..))
        {
            let allowed = "only with PAP_PROBE, as it counts failures of that probe: \
                           set PAP_PROBE, or leave PAP_EMERGENCY_AFTER out";
            return Err(ConfigError::new(PAP_EMERGENCY_AFTER.name, Some(&failures.to_string()), allowed));
        }
        let status_file = status_file(&mut from, |_| Ok(id.clone()))?;
        from.show(&PAP_STATUS_FILE, &status_file);
        machine::read(&mut from)?;
        registration::read(&mut from)?;
        Ok(Self {
            rhythm: Rhythm::read(&mut from, &mut warnings)?,
            targets,
            liveness,
            emergency_after,
            mode_file: from.path(&PAP_MODE_FILE)?,
            status_file,
            log_filter: from.value(&RUST_LOG)?,
            log_format: from.value(&LOG_FORMAT)?,
            identity: Identity { id, name },
            warnings,
            effective: from.effective(),
        })
    }

    /// Where the status is kept, for `--check` and `--status`. Other settings are not read, so
    /// they may be wrong.
    ///
    /// # Errors
    /// Neither a status file nor an agent's id is set, or one of them is wrong.
    pub fn status_file(flags: &Flags, environment: &Source<'_>) -> Result<StatusFile, ConfigError> {
        let mut from = Reader::new(SETTINGS, flags, environment);
        status_file(&mut from, agent_id)
    }

    /// The effective configuration, a line for each variable, secrets hidden.
    pub fn to_text(&self) -> &str {
        &self.effective
    }
}

/// The status file. The agent's id is only needed for the usual places.
fn status_file(
    from: &mut Reader<'_>,
    id: impl FnOnce(&mut Reader<'_>) -> Result<AgentId, ConfigError>,
) -> Result<StatusFile, ConfigError> {
    match from.path(&PAP_STATUS_FILE)? {
        Some(path) => Ok(StatusFile::at(path)),
        None => Ok(StatusFile::usual(&id(from)?)),
    }
}

fn agent_id(from: &mut Reader<'_>) -> Result<AgentId, ConfigError> {
    let id: String = from.value(&PAP_AGENT_ID)?;
    AgentId::new(&id).map_err(|_| PAP_AGENT_ID.wrong(&id))
}

/// The URL of a collector and the key that is sent to it, from these two settings.
///
/// # Errors
/// One of them is wrong.
pub(crate) fn collector(
    from: &mut Reader<'_>,
    url: &'static Setting,
    key: &'static Setting,
    warnings: &mut Vec<String>,
) -> Result<(Option<Url>, Option<Secret>), ConfigError> {
    let address = from.url(url, str::to_owned)?;
    let mut keys = from.secrets(key)?;
    if keys.len() > 1 {
        // The collector may take several keys; this program sends one.
        return Err(ConfigError::new(key.name, Some("(hidden)"), "one key, without a comma"));
    }
    if address.is_none() && !keys.is_empty() {
        warnings.push(format!(
            "{} is only sent to the collector, and {} is not set: set it too, or leave the key out",
            key.name, url.name
        ));
    }
    Ok((address, keys.pop()))
}

fn targets(from: &mut Reader<'_>, warnings: &mut Vec<String>) -> Result<Targets, ConfigError> {
    let (collector, collector_key) = collector(from, &PAP_COLLECTOR_URL, &PAP_COLLECTOR_KEY, warnings)?;
    let station = from.url(&PAP_STATION_URL, str::to_owned)?;
    let key = from.secret(&PAP_AGENT_KEY)?;
    match (&collector, &station, &key) {
        (None, None, _) => {
            let needed = "an http:// or https:// URL, or PAP_STATION_URL";
            return Err(ConfigError::new(PAP_COLLECTOR_URL.name, None, needed));
        }
        (None, Some(_), _) => {
            warnings.push("PAP_COLLECTOR_URL is not set, so heartbeats go to the station alone".into());
        }
        _ => {}
    }
    if station.is_none() && key.is_some() {
        warnings.push(
            "PAP_AGENT_KEY is only sent to the station, and PAP_STATION_URL is not set: \
             set PAP_STATION_URL, or leave PAP_AGENT_KEY out"
                .into(),
        );
    }
    if station.is_some() && key.is_none() {
        warnings.push(
            "PAP_AGENT_KEY is not set, so the station may refuse our heartbeats; set it to the agent's key"
                .into(),
        );
    }
    let roots = from.certificates(&PAP_CA_FILE)?;
    Ok(Targets { collector, collector_key, station: station.map(|url| (url, key)), roots })
}

fn liveness(from: &mut Reader<'_>, command: Option<Vec<OsString>>) -> Result<Liveness, ConfigError> {
    let probe = from.url(&PAP_PROBE, str::to_owned)?;
    let patience = from.millis(&PAP_PROBE_TIMEOUT_MS)?;
    let only_one = |variable: &str, value: &str| {
        ConfigError::new(
            variable,
            Some(value),
            "only one of --probe, --pid-file and a command after --, not two",
        )
    };
    let command = command.map(|words| {
        let mut words = words.into_iter();
        let program = words.next();
        let missing = || ConfigError::new("--", None, "the command to run and its arguments");
        Ok(Liveness::Command(program.ok_or_else(missing)?, words.collect()))
    });
    match (probe, from.path(&PAP_PID_FILE)?, command.transpose()?) {
        (Some(_), Some(path), _) | (None, Some(path), Some(_)) => {
            Err(only_one(PAP_PID_FILE.name, &path.to_string_lossy()))
        }
        (Some(url), None, Some(_)) => Err(only_one(PAP_PROBE.name, &url.to_string())),
        (Some(url), None, None) => Ok(Liveness::Probe(url, patience)),
        (None, Some(path), None) => Ok(Liveness::PidFile(path)),
        (None, None, Some(command)) => Ok(command),
        (None, None, None) => Ok(Liveness::Itself),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)], command: &[&str]) -> Result<Config, String> {
        let flags = Flags::default();
        let defaults = [("PAP_AGENT_ID", "a"), ("PAP_COLLECTOR_URL", "http://c")];
        let environment = |name: &str| {
            let mut all = defaults.iter().chain(variables);
            all.rfind(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let command = (!command.is_empty()).then(|| command.iter().map(Into::into).collect());
        Config::new(&flags, &environment, command).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (variables, command, expected) in [
            (&[("PAP_AGENT_ID", "")] as &[_], &[] as &[_], "PAP_AGENT_ID is not set"),
            (&[("PAP_AGENT_ID", "a\nb")], &[], "PAP_AGENT_ID=\"a\\nb\" is wrong"),
            (&[("PAP_COLLECTOR_URL", "")], &[], "PAP_COLLECTOR_URL is not set; needed: an http:// or"),
            (&[("PAP_COLLECTOR_URL", "c:8080")], &[], "PAP_COLLECTOR_URL=\"c:8080\" is wrong"),
            (&[("PAP_STATION_URL", "https://u:p@s")], &[], "PAP_STATION_URL=(hidden) is wrong"),
            (&[("HEARTBEAT_MODE", "idle")], &[], "allowed: IDLE, EMERGENCY, SLEEP"),
            (&[("HEARTBEAT_INTERVAL", "0")], &[], "HEARTBEAT_INTERVAL=\"0\" is wrong"),
            (&[("PAP_PROBE", "http://p"), ("PAP_PID_FILE", "/p")], &[], "PAP_PID_FILE=\"/p\" is wrong"),
            (&[("PAP_PROBE", "http://p")], &["sleep"], "not two"),
            (&[("PAP_PID_FILE", "/p")], &["sleep"], "not two"),
            (
                &[("PAP_EMERGENCY_AFTER", "3")],
                &[],
                "PAP_EMERGENCY_AFTER=\"3\" is wrong; allowed: only with PAP_PROBE",
            ),
        ] {
            let error = config(variables, command).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn no_interval_is_longer_than_the_mode_promises() {
        let rhythm = |mode: &str, seconds: &str| {
            let config = config(&[("HEARTBEAT_MODE", mode), ("HEARTBEAT_INTERVAL", seconds)], &[]).unwrap();
            (config.rhythm.interval().as_secs(), config.warnings.len())
        };
        assert_eq!(rhythm("", ""), (30, 0));
        assert_eq!(rhythm("SLEEP", ""), (900, 0));
        assert_eq!(rhythm("IDLE", "10"), (10, 0));
        assert_eq!(rhythm("EMERGENCY", "30"), (5, 1));
    }

    #[test]
    fn a_key_without_a_station_is_warned_of() {
        let config = config(&[("PAP_AGENT_KEY", "hush")], &[]).unwrap();
        assert!(config.warnings[0].starts_with("PAP_AGENT_KEY is only sent to the station"), "{config:?}");
    }

    #[test]
    fn a_key_without_a_collector_is_warned_of_and_two_keys_are_refused() {
        let station =
            [("PAP_COLLECTOR_URL", ""), ("PAP_STATION_URL", "https://s"), ("PAP_COLLECTOR_KEY", "hush")];
        let alone = config(&station, &[]).unwrap();
        let is_warned =
            |warning: &String| warning.starts_with("PAP_COLLECTOR_KEY is only sent to the collector");
        assert!(alone.warnings.iter().any(is_warned), "{alone:?}");
        let error = config(&[("PAP_COLLECTOR_KEY", "new,old")], &[]).unwrap_err();
        assert!(error.starts_with("PAP_COLLECTOR_KEY=(hidden) is wrong; allowed: one key"), "{error}");
    }

    #[test]
    fn the_effective_configuration_hides_the_key() {
        let variables =
            [("PAP_STATION_URL", "https://s"), ("PAP_AGENT_KEY", "hush"), ("PAP_PROBE", "http://p")];
        let config = config(&variables, &[]).unwrap();
        let text = config.to_text();
        assert!(text.contains("PAP_AGENT_KEY=(hidden)\n") && !text.contains("hush"), "{text}");
        assert!(text.contains("PAP_PROBE=http://p\nPAP_PROBE_TIMEOUT_MS=1000\n"), "{text}");
        assert!(
            text.contains("PAP_STATUS_FILE=/run/pap-heartbeat-a.json or /tmp/pap-heartbeat-a.json\n"),
            "{text}"
        );
    }
}
