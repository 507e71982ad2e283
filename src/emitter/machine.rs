//! `pap-heartbeat --machine`: heartbeats of this machine, to a pap-station. No agent, no
//! collector and no liveness source is concerned: a machine that sends heartbeats lives.

use std::fs;
use std::time::Duration;

use crossbeam_channel::never;
use pap_core::time::{SinceBoot, Wall, millis};
use pap_process::cli::{IO_ERROR, STOPPED};
use pap_process::client::Client;
use pap_process::clock::{Clock, since_boot, wall};
use pap_process::logging::{LOG_FORMAT, Log, LogFormat, RUST_LOG};
use pap_process::settings::{ConfigError, Flags, Reader, Secret, Setting, Source};
use pap_process::signals::{Signal, Signals, UNASKED};
use pap_process::threads;
use pap_process::throttle::Throttle;
use pap_process::url::Url;
use serde::Serialize;
use ureq::tls::Certificate;

use super::program::end_on_panic;
use super::settings::{PAP_CA_FILE, PAP_MACHINE_ID, PAP_MACHINE_KEY, SETTINGS, STATION_URL};
use super::targets::{Target, post};
use super::{USER_AGENT, command};
use crate::VERSION;

/// The time between two heartbeats.
const EVERY: Duration = Duration::from_secs(10);
/// How long the station may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A complete, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the heartbeats of this machine are posted.
    pub url: Url,
    /// The machine's key.
    pub key: Secret,
    /// Certificates trusted besides the built-in roots.
    pub roots: Vec<Certificate<'static>>,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub log_filter: String,
    /// How log lines look.
    pub log_format: LogFormat,
    effective: String,
}

/// The settings that only `--machine` uses, as far as they are given.
type Given = (Option<Url>, Option<u64>, Option<Secret>);

impl Config {
    /// From flags and the environment.
    ///
    /// # Errors
    /// The first variable that is missing or wrong. Nothing has been started.
    pub fn new(flags: &Flags, environment: &Source<'_>) -> Result<Self, ConfigError> {
        let mut from = Reader::new(SETTINGS, flags, environment);
        let (url, id, key) = read(&mut from)?;
        let missing = |setting: &'static Setting| move || setting.missing();
        let url = url.ok_or_else(missing(&STATION_URL))?;
        let id = id.ok_or_else(missing(&PAP_MACHINE_ID))?;
        Ok(Self {
            url: url.join(&format!("/api/machines/{id}/heartbeat")),
            key: key.ok_or_else(missing(&PAP_MACHINE_KEY))?,
            roots: from.certificates(&PAP_CA_FILE)?,
            log_filter: from.value(&RUST_LOG)?,
            log_format: from.value(&LOG_FORMAT)?,
            effective: from.effective(),
        })
    }

    /// The effective configuration, a line for each variable, secrets hidden.
    pub fn to_text(&self) -> &str {
        &self.effective
    }
}

/// Reads the settings that only `--machine` uses. Without it they may be missing, but not
/// wrong.
///
/// # Errors
/// One of them is wrong.
pub(super) fn read(from: &mut Reader<'_>) -> Result<Given, ConfigError> {
    let url = from.url(&STATION_URL, str::to_owned)?;
    Ok((url, from.value_if_any(&PAP_MACHINE_ID)?, from.secret(&PAP_MACHINE_KEY)?))
}

/// Sends heartbeats until a signal asks for the stop. Returns the exit code.
pub fn run(config: &Config, log: &Log, signals: &Signals) -> i32 {
    end_on_panic(log);
    log::info!("pap-heartbeat {VERSION} for this machine, every {EVERY:?} to {}", config.url);
    let target = Target::new(config.url.clone(), Some(&config.key), PAP_MACHINE_KEY.name);
    let client = Client::new(USER_AGENT, &config.roots);
    // This thread is not joined: a post that is under way must not delay the stop.
    if let Err(error) = threads::spawn("machine", move || beat(client, &target)) {
        log::error!("cannot start a thread: {error}; check the limit on processes");
        return IO_ERROR;
    }
    loop {
        let caught = signals.next(|_| ());
        match caught.signal {
            // Process 1 of a container inherits the orphans of others.
            Signal::SIGCHLD => drop(command::reap(None)),
            Signal::SIGWINCH => {}
            signal if UNASKED.contains(&signal) => command::not_obeyed(signal),
            // As without --machine: it asks to reload, and there is nothing to reload.
            Signal::SIGHUP if caught.by_process => {}
            _ => return STOPPED,
        }
    }
}

/// Posts heartbeats for ever. A heartbeat that fails is not tried again: the next one says
/// more.
fn beat(mut client: Client, target: &Target) {
    let (clock, troubles) = (Clock::start(), Throttle::default());
    // None until there was an answer.
    let mut is_taken = None;
    loop {
        let began = clock.uptime();
        let body = Heartbeat::new(host_name(), wall(), since_boot());
        // Text and numbers always become JSON.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        match post(&client.within(PATIENCE), target, &body) {
            Ok(()) => {
                if is_taken.replace(true) != Some(true) {
                    log::info!("{} takes our heartbeats", target.url);
                }
                troubles.clear();
            }
            Err(failed) => {
                is_taken = Some(false);
                let level =
                    if troubles.is_news((), clock.uptime()) { log::Level::Warn } else { log::Level::Debug };
                log::log!(level, "{} did not take a heartbeat of this machine: {}", target.url, failed.why);
            }
        }
        let _ = never::<()>().recv_timeout(EVERY.saturating_sub(clock.uptime().since(began)));
    }
}

/// What a heartbeat says.
#[derive(Debug, Serialize)]
struct Heartbeat {
    hostname: String,
    /// In whole seconds: the two clocks are not read at the same moment, and a machine
    /// that runs on should not seem to have started anew.
    boot_time: Wall,
    uptime_seconds: f64,
}

impl Heartbeat {
    fn new(hostname: String, now: Wall, up: SinceBoot) -> Self {
        let booted = now.0.saturating_sub(millis(up.reading()));
        Self { hostname, boot_time: Wall(booted / 1000 * 1000), uptime_seconds: up.reading().as_secs_f64() }
    }
}

/// This machine's name, or else "localhost".
fn host_name() -> String {
    // The same name as uname(2) gives.
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(name.trim()).filter(|name| !name.is_empty()).unwrap_or("localhost").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, String> {
        let given = |name: &str| {
            let found = variables.iter().rfind(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::new(&Flags::default(), &given).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_and_no_agent_is_needed() {
        let all = [("STATION_URL", "https://s/x/"), ("PAP_MACHINE_ID", "7"), ("PAP_MACHINE_KEY", "hush")];
        let good = config(&all).unwrap();
        assert_eq!(good.url.as_str(), "https://s/x/api/machines/7/heartbeat");
        assert!(good.to_text().contains("PAP_MACHINE_KEY=(hidden)\n"), "{}", good.to_text());
        for missing in 0..all.len() {
            let some = [&all[..missing], &all[missing + 1..]].concat();
            let error = config(&some).unwrap_err();
            assert!(error.starts_with(&format!("{} is not set", all[missing].0)), "{error}");
        }
        for wrong in ["0", "-1", "7/x", "machine"] {
            let error = config(&[all[0], ("PAP_MACHINE_ID", wrong), all[2]]).unwrap_err();
            assert!(error.contains("PAP_MACHINE_ID") && error.contains("a whole number"), "{error}");
        }
    }

    #[test]
    fn a_heartbeat_says_when_the_machine_started() {
        let now = Wall(1_764_669_600_123);
        let heartbeat = Heartbeat::new("m".into(), now, SinceBoot::new(Duration::from_millis(100_500)));
        assert_eq!(
            serde_json::to_string(&heartbeat).unwrap(),
            r#"{"hostname":"m","boot_time":"2025-12-02T09:58:19.000Z","uptime_seconds":100.5}"#
        );
    }
}
