//! The configuration of `pap-heartbeat`, checked completely before anything
//! starts. A [`Config`] in hand is a valid one.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::flags::Flags;
use super::status::StatusFile;
use super::ways::{Identity, Ways};
use pap_core::beat::{AgentId, MAX_TEXT, Mode};
use pap_process::logging::LogFormat;
use pap_process::settings::ConfigError;
use pap_process::settings::{Reader, Source};

/// How often an agent beats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// The mode it announces.
    pub mode: Mode,
    /// The longest time between two heartbeats; none for the mode's own.
    pub longest: Option<Duration>,
}

impl Rhythm {
    /// From `HEARTBEAT_MODE` and `HEARTBEAT_INTERVAL`.
    ///
    /// # Errors
    /// One of them is wrong.
    pub(crate) fn read(from: &Reader<'_>, warnings: &mut Vec<String>) -> Result<Self, ConfigError> {
        let modes = [Mode::Idle, Mode::Emergency, Mode::Sleep].map(|mode| (mode.as_str(), mode));
        let mode = from.choice("HEARTBEAT_MODE", &modes)?;
        let seconds = from.number("HEARTBEAT_INTERVAL", 1..=900, 0)?;
        let longest = (seconds > 0).then(|| Duration::from_secs(seconds as u64));
        let rhythm = Self { mode, longest };
        if longest.is_some_and(|longest| longest > rhythm.interval()) {
            let own = mode.interval();
            warnings.push(format!("HEARTBEAT_INTERVAL is longer than {mode} allows: beating every {own:?}"));
        }
        Ok(rhythm)
    }

    /// The time between two heartbeats: never more than the mode promises.
    pub fn interval(&self) -> Duration {
        self.longest.unwrap_or(Duration::MAX).min(self.mode.interval())
    }
}

/// What is vouched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vouching {
    /// What answers at a URL in so much time.
    Probe(String, Duration),
    /// The process that a file names.
    PidFile(PathBuf),
    /// A command of ours and its arguments.
    Command(OsString, Vec<OsString>),
    /// Nothing else.
    Itself,
}

/// A complete, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who beats.
    pub identity: Identity,
    /// How often.
    pub rhythm: Rhythm,
    /// To whom.
    pub ways: Ways,
    /// For what.
    pub vouching: Vouching,
    /// After so many failed probes it beats in EMERGENCY; none for silence.
    pub emergency_after: Option<u32>,
    /// A file that holds the mode.
    pub mode_file: Option<PathBuf>,
    /// Where the status is kept.
    pub status_file: StatusFile,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub log_filter: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is likely a mistake, though allowed.
    pub warnings: Vec<String>,
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
        let flag = |name: &str| flags.get(name);
        let from = Reader::new(&flag, environment);
        let mut warnings = Vec::new();
        let id = agent_id(&from)?;
        let name = from.text("PAP_AGENT_NAME", MAX_TEXT)?.unwrap_or_else(|| id.to_string());
        let ways = ways(&from, &mut warnings)?;
        let vouching = vouching(&from, command)?;
        let shortest = Mode::Emergency.interval() / 2;
        if matches!(vouching, Vouching::Probe(_, patience) if patience > shortest) {
            warnings
                .push(format!("PAP_PROBE_TIMEOUT_MS is cut to half an interval: {shortest:?} in EMERGENCY"));
        }
        let emergency_after = from.number("PAP_EMERGENCY_AFTER", 1..=1000, 0)?;
        if emergency_after > 0 && !matches!(vouching, Vouching::Probe(..)) {
            let value = emergency_after.to_string();
            return Err(ConfigError::new("PAP_EMERGENCY_AFTER", Some(&value), "nothing without a probe"));
        }
        Ok(Self {
            rhythm: Rhythm::read(&from, &mut warnings)?,
            ways,
            vouching,
            emergency_after: u32::try_from(emergency_after).ok().filter(|&failures| failures > 0),
            mode_file: from.get("PAP_MODE_FILE").map(Into::into),
            status_file: from.get("PAP_STATUS_FILE").map_or_else(|| StatusFile::usual(&id), StatusFile::at),
            log_filter: from.log_filter("RUST_LOG", "info")?,
            log_format: from.choice("LOG_FORMAT", &[("text", LogFormat::Text), ("json", LogFormat::Json)])?,
            identity: Identity { id, name },
            warnings,
        })
    }

    /// Where the status is kept, whatever the rest may be: who asks for it
    /// needs no more.
    ///
    /// # Errors
    /// There is no agent's id.
    pub fn status_file(flags: &Flags, environment: &Source<'_>) -> Result<StatusFile, ConfigError> {
        let flag = |name: &str| flags.get(name);
        let from = Reader::new(&flag, environment);
        match from.get("PAP_STATUS_FILE") {
            // It is found without the id.
            Some(path) => Ok(StatusFile::at(path)),
            None => Ok(StatusFile::usual(&agent_id(&from)?)),
        }
    }

    /// The effective configuration, a line for each variable, secrets hidden.
    pub fn to_text(&self) -> String {
        let Self { identity, rhythm, ways, vouching, .. } = self;
        let path = |path: &PathBuf| path.display().to_string();
        let (station, key) = match &ways.station {
            Some((url, key)) => (url.clone(), key.as_ref().map_or("", |_| "(hidden)").to_owned()),
            None => (String::new(), String::new()),
        };
        let roots = match ways.roots.len() {
            0 => String::new(),
            count => format!("({count} certificates)"),
        };
        let (probe, patience, pid_file) = match vouching {
            Vouching::Probe(url, patience) => (url.clone(), patience.as_millis().to_string(), String::new()),
            Vouching::PidFile(file) => (String::new(), String::new(), path(file)),
            Vouching::Command(..) | Vouching::Itself => Default::default(),
        };
        let lines = [
            ("PAP_AGENT_ID", identity.id.to_string()),
            ("PAP_AGENT_NAME", identity.name.clone()),
            ("PAP_AGENT_KEY", key),
            ("PAP_COLLECTOR_URL", ways.collector.clone().unwrap_or_default()),
            ("PAP_STATION_URL", station),
            ("PAP_CA_FILE", roots),
            ("HEARTBEAT_MODE", rhythm.mode.to_string()),
            ("HEARTBEAT_INTERVAL", rhythm.interval().as_secs().to_string()),
            ("PAP_PROBE", probe),
            ("PAP_PROBE_TIMEOUT_MS", patience),
            ("PAP_PID_FILE", pid_file),
            ("PAP_EMERGENCY_AFTER", self.emergency_after.map_or_else(String::new, |after| after.to_string())),
            ("PAP_MODE_FILE", self.mode_file.as_ref().map(path).unwrap_or_default()),
            ("PAP_STATUS_FILE", self.status_file.to_string()),
            ("RUST_LOG", self.log_filter.clone()),
            ("LOG_FORMAT", self.log_format.to_string()),
        ];
        let mut text = String::new();
        for (name, value) in lines {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name}={value}");
        }
        text
    }
}

fn agent_id(from: &Reader<'_>) -> Result<AgentId, ConfigError> {
    let raw = from.get("PAP_AGENT_ID");
    let allowed = format!("the agent's id, 1 to {MAX_TEXT} bytes of text without control characters");
    let id = raw.as_deref().ok_or_else(|| ConfigError::new("PAP_AGENT_ID", None, &allowed))?;
    AgentId::new(id).map_err(|_| ConfigError::new("PAP_AGENT_ID", Some(id), &allowed))
}

fn ways(from: &Reader<'_>, warnings: &mut Vec<String>) -> Result<Ways, ConfigError> {
    let collector = from.url("PAP_COLLECTOR_URL", "", |raw| raw)?;
    let station = from.url("PAP_STATION_URL", "", |raw| raw)?;
    let key = from.secret("PAP_AGENT_KEY")?;
    match (&collector, &station, &key) {
        (None, None, _) => {
            let needed = "an http:// or https:// URL, or PAP_STATION_URL";
            return Err(ConfigError::new("PAP_COLLECTOR_URL", None, needed));
        }
        (None, Some(_), _) => {
            warnings.push("PAP_COLLECTOR_URL is not set: beating to the station alone".into());
        }
        _ => {}
    }
    if station.is_none() && key.is_some() {
        warnings.push("PAP_STATION_URL is not set: PAP_AGENT_KEY is for nobody".into());
    }
    if station.is_some() && key.is_none() {
        warnings.push("PAP_AGENT_KEY is not set: the station may refuse our heartbeats".into());
    }
    let roots = from.certificates("PAP_CA_FILE")?;
    Ok(Ways { collector, station: station.map(|url| (url, key)), roots })
}

fn vouching(from: &Reader<'_>, command: Option<Vec<OsString>>) -> Result<Vouching, ConfigError> {
    let probe = from.url("PAP_PROBE", "", |raw| raw)?;
    let patience = from.millis("PAP_PROBE_TIMEOUT_MS", 1..=60_000, 1000)?;
    let only_one = |variable: &str, value: &str| {
        ConfigError::new(variable, Some(value), "one of --probe, --pid-file and a command, not two")
    };
    let command = command.map(|words| {
        let mut words = words.into_iter();
        let program = words.next();
        let missing = || ConfigError::new("--", None, "the command to run and its arguments");
        Ok(Vouching::Command(program.ok_or_else(missing)?, words.collect()))
    });
    match (probe, from.get("PAP_PID_FILE"), command.transpose()?) {
        (Some(_), Some(path), _) | (None, Some(path), Some(_)) => Err(only_one("PAP_PID_FILE", &path)),
        (Some(url), None, Some(_)) => Err(only_one("PAP_PROBE", &url)),
        (Some(url), None, None) => Ok(Vouching::Probe(url, patience)),
        (None, Some(path), None) => Ok(Vouching::PidFile(path.into())),
        (None, None, Some(command)) => Ok(command),
        (None, None, None) => Ok(Vouching::Itself),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)], command: &[&str]) -> Result<Config, String> {
        let flags: Flags = pap_process::cli::parse("pap-heartbeat", &[]).unwrap();
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
            (&[("PAP_EMERGENCY_AFTER", "3")], &[], "nothing without a probe"),
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
    fn the_effective_configuration_hides_the_key() {
        let variables =
            [("PAP_STATION_URL", "https://s"), ("PAP_AGENT_KEY", "hush"), ("PAP_PROBE", "http://p")];
        let text = config(&variables, &[]).unwrap().to_text();
        assert!(text.contains("PAP_AGENT_KEY=(hidden)\n") && !text.contains("hush"), "{text}");
        assert!(text.contains("PAP_PROBE=http://p\nPAP_PROBE_TIMEOUT_MS=1000\n"), "{text}");
        assert!(
            text.contains("PAP_STATUS_FILE=/run/pap-heartbeat-a.json or /tmp/pap-heartbeat-a.json\n"),
            "{text}"
        );
    }
}
