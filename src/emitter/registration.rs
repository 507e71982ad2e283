//! `pap-heartbeat --register` and `--deregister`: tell a pap-station once that a cluster
//! is there, or that it is gone. The hooks of the Helm chart run them, so what goes wrong is
//! one line that says what to do.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::process;
use std::time::Duration;

use crossbeam_channel::never;
use pap_core::agent_id::path_segment;
use pap_core::delivery::{Failure, Outcome, Reply, wait_after};
use pap_process::client::Client;
use pap_process::clock::monotonic;
use pap_process::settings::{ConfigError, Flags, Reader, Secret, Setting, Source};
use pap_process::url::Url;
use serde::Serialize;
use serde_json::{Map, Value};
use ureq::tls::Certificate;

use super::USER_AGENT;
use super::settings::{
    CLUSTER_ID, CLUSTER_METADATA, CLUSTER_NAME, CLUSTER_REGION, PAP_CA_FILE, SETTINGS, STATION_ALERT_KEY,
    STATION_TIMEOUT_MS, STATION_URL,
};
use super::targets::{Answer, contained};
use crate::VERSION;

/// The longest that one attempt takes.
const ATTEMPT: Duration = Duration::from_secs(5);
/// An attempt with less time than this is not made.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(500);
/// From this attempt on the pause between two attempts, 4 s at most, does not grow.
const LONGEST_PAUSE_AFTER: u32 = 3;

/// What the station is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The cluster is there.
    Register,
    /// The cluster is gone.
    Deregister,
}

impl Order {
    /// What to do when the hook has failed. None as `cluster_id`: the id is not known.
    pub fn advice(self, cluster_id: Option<&str>) -> String {
        match self {
            Self::Register => "to go on without it: helm upgrade --install ... --no-hooks".into(),
            Self::Deregister => format!(
                "to go on without it: helm uninstall ... --no-hooks, and where the station runs: \
                 pap-station deregister {}",
                cluster_id.unwrap_or("CLUSTER_ID")
            ),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Register => "register",
            Self::Deregister => "deregister",
        })
    }
}

/// A complete, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    station: Url,
    cluster_id: String,
    key: Secret,
    patience: Duration,
    roots: Vec<Certificate<'static>>,
    registration: Vec<u8>,
    effective: String,
}

/// What a registration says. What is not given stays at the station as it is.
#[derive(Serialize)]
struct Registration<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_name: Option<&'a str>,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: Map<String, Value>,
}

/// The settings that only `--register` and `--deregister` use, as far as they are given.
pub(super) struct Given {
    id: Option<String>,
    name: Option<String>,
    region: Option<String>,
    metadata: Map<String, Value>,
    key: Option<Secret>,
    patience: Duration,
}

impl Config {
    /// From flags and the environment.
    ///
    /// # Errors
    /// The first variable that is missing or wrong. The station was told nothing.
    pub fn new(flags: &Flags, environment: &Source<'_>) -> Result<Self, ConfigError> {
        let mut from = Reader::new(SETTINGS, flags, environment);
        let missing = |setting: &'static Setting| move || setting.missing();
        let station = from.url(&STATION_URL, str::to_owned)?.ok_or_else(missing(&STATION_URL))?;
        let Given { id, name, region, metadata, key, patience } = read(&mut from)?;
        let registration = Registration {
            cluster_name: name.as_deref(),
            version: VERSION,
            region: region.as_deref(),
            metadata,
        };
        Ok(Self {
            station,
            cluster_id: id.ok_or_else(missing(&CLUSTER_ID))?,
            key: key.ok_or_else(missing(&STATION_ALERT_KEY))?,
            patience,
            roots: from.certificates(&PAP_CA_FILE)?,
            // Text and nothing else always becomes JSON.
            registration: serde_json::to_vec(&registration).unwrap_or_default(),
            effective: from.effective(),
        })
    }

    /// The effective configuration, a line for each variable, secrets hidden.
    pub fn to_text(&self) -> &str {
        &self.effective
    }
}

/// Reads the settings that only `--register` and `--deregister` use. Without these flags the
/// settings may be missing, but not wrong.
///
/// # Errors
/// One of them is wrong.
pub(super) fn read(from: &mut Reader<'_>) -> Result<Given, ConfigError> {
    let id = from.value_if_any(&CLUSTER_ID)?;
    let name = from.value_if_any(&CLUSTER_NAME)?;
    let region = from.value_if_any(&CLUSTER_REGION)?;
    let pairs = from.value_if_any::<String>(&CLUSTER_METADATA)?.unwrap_or_default();
    let metadata = metadata(&pairs).ok_or_else(|| {
        let allowed = "NAME=VALUE, or several with commas between them, each name once";
        ConfigError::new(CLUSTER_METADATA.name, Some(&pairs), allowed)
    })?;
    let key = from.secret(&STATION_ALERT_KEY)?;
    let patience = from.millis(&STATION_TIMEOUT_MS)?;
    Ok(Given { id, name, region, metadata, key, patience })
}

/// `NAME=VALUE,NAME=VALUE`, or None if it is something else.
fn metadata(pairs: &str) -> Option<Map<String, Value>> {
    let mut metadata = Map::new();
    for pair in pairs.split(',').filter(|_| !pairs.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        if name.is_empty() || metadata.insert(name.to_owned(), value.into()).is_some() {
            return None;
        }
    }
    Some(metadata)
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The station took it.
    Done,
    /// There is no such cluster at the station, as was wanted.
    Absent,
    /// The station will not take it, however often it is told.
    Refused,
    /// The station is told again after this pause.
    Again(Duration),
    /// The station asks for a longer pause than there is time.
    TooLong(Duration),
    /// The time is over.
    Over,
}

/// What follows from the answer to attempt number `attempt` (1 is the first), with so much
/// time left.
fn next(order: Order, reply: &Reply, attempt: u32, left: Duration, salt: u64) -> Next {
    match reply.outcome() {
        Outcome::Taken => Next::Done,
        Outcome::Refused(404 | 410) if order == Order::Deregister => Next::Absent,
        Outcome::Refused(_) | Outcome::Failed(Failure::Misconfigured(_), _) => Next::Refused,
        Outcome::Failed(Failure::Busy | Failure::Unreachable, asked) => {
            let pause = wait_after(asked, attempt.min(LONGEST_PAUSE_AFTER), salt);
            if pause + SHORTEST_ATTEMPT <= left {
                Next::Again(pause)
            } else {
                asked.map_or(Next::Over, Next::TooLong)
            }
        }
    }
}

/// Tells the station, and returns what to say about it.
///
/// # Errors
/// Why the station did not take it, and what to do, in one line.
pub fn tell(config: &Config, order: Order) -> Result<String, String> {
    let Config { station, cluster_id, patience, .. } = config;
    let url = station.join(&format!("/api/clusters/{}", path_segment(cluster_id)));
    let salt = RandomState::new().hash_one(process::id());
    let end = monotonic() + *patience;
    let mut client = Client::new(USER_AGENT, &config.roots);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let within = ATTEMPT.min(end.since(monotonic()));
        let answer = send(&client.within(within), &url, order, config);
        let (reply, said) = match answer {
            Ok(Answer { code, retry_after, words }) => {
                let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
                (Reply::Status { code, retry_after }, format!("it answers {code}: {words}"))
            }
            Err(why) => (Reply::None, why),
        };
        let why = match next(order, &reply, attempt, end.since(monotonic()), salt) {
            Next::Done => return Ok(format!("{order}ed cluster {cluster_id} at {station}")),
            Next::Absent => {
                return Ok(format!("cluster {cluster_id} is not registered at {station}, as wanted: {said}"));
            }
            Next::Again(pause) => {
                let _ = never::<()>().recv_timeout(pause);
                continue;
            }
            Next::Refused => format!("{said}{}", check(&reply)),
            Next::TooLong(asked) => format!("{said}; it asks to be told again in {asked:?}"),
            Next::Over => format!("{said}; tried {attempt} times in {patience:?}{}", check(&reply)),
        };
        return Err(format!(
            "cannot {order} cluster {cluster_id} at {station}: {why}; {}",
            order.advice(Some(cluster_id))
        ));
    }
}

/// One request.
fn send(agent: &ureq::Agent, url: &Url, order: Order, config: &Config) -> Result<Answer, String> {
    let authorization = format!("Bearer {}", config.key.reveal());
    let answer = match order {
        Order::Register => {
            let request = agent.put(url.as_str()).header("Content-Type", "application/json");
            contained(|| request.header("Authorization", &authorization).send(&config.registration))
        }
        Order::Deregister => {
            contained(|| agent.delete(url.as_str()).header("Authorization", &authorization).call())
        }
    };
    answer.map_err(|(_, why)| why)
}

/// The setting to look at after such an answer.
fn check(reply: &Reply) -> &'static str {
    match reply {
        Reply::Status { code: 401 | 403, .. } => "; check STATION_ALERT_KEY",
        Reply::None | Reply::Status { code: 300..=399 | 404 | 405, .. } => "; check STATION_URL",
        Reply::Status { .. } => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Duration = Duration::from_secs(30);

    fn status(code: u16) -> Reply {
        Reply::Status { code, retry_after: None }
    }

    fn config(variables: &[(&str, &str)]) -> Result<Config, String> {
        let all = [("STATION_URL", "https://s/x/"), ("CLUSTER_ID", "a b"), ("STATION_ALERT_KEY", "hush")];
        let given = |name: &str| {
            let found = all.iter().chain(variables).rfind(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::new(&Flags::default(), &given).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for name in ["STATION_URL", "CLUSTER_ID", "STATION_ALERT_KEY"] {
            let error = config(&[(name, "")]).unwrap_err();
            assert!(error.starts_with(&format!("{name} is not set")), "{error}");
        }
        for wrong in ["release", "=x", "a=1,a=2", "a=1,", ","] {
            let error = config(&[("CLUSTER_METADATA", wrong)]).unwrap_err();
            assert!(error.starts_with("CLUSTER_METADATA=") && error.contains("NAME=VALUE"), "{error}");
        }
        let text = config(&[]).unwrap().to_text().to_owned();
        assert!(text.contains("STATION_ALERT_KEY=(hidden)\nSTATION_TIMEOUT_MS=30000\n"), "{text}");
    }

    #[test]
    fn a_registration_says_what_is_given_and_no_more() {
        let said =
            |variables: &[(&str, &str)]| String::from_utf8(config(variables).unwrap().registration).unwrap();
        assert_eq!(said(&[]), format!(r#"{{"version":"{VERSION}"}}"#));
        let all = [
            ("CLUSTER_NAME", "The \"test\""),
            ("CLUSTER_REGION", "eu-1"),
            ("CLUSTER_METADATA", "release=pap, note=a=b"),
        ];
        let expected = format!(
            r#"{{"cluster_name":"The \"test\"","version":"{VERSION}","region":"eu-1","metadata":{{"note":"a=b","release":"pap"}}}}"#
        );
        assert_eq!(said(&all), expected);
    }

    #[test]
    fn refusals_end_at_once_and_what_may_pass_is_told_again() {
        use Order::{Deregister, Register};
        for order in [Register, Deregister] {
            let next = |reply: &Reply| next(order, reply, 1, PLENTY, 7);
            for code in [200, 201, 204] {
                assert_eq!(next(&status(code)), Next::Done);
            }
            for code in [301, 307, 400, 401, 403, 405, 409, 413, 422] {
                assert_eq!(next(&status(code)), Next::Refused, "{code}");
            }
            for reply in [408, 425, 429, 500, 502, 503, 504].map(status).into_iter().chain([Reply::None]) {
                assert!(matches!(next(&reply), Next::Again(_)), "{reply:?}");
            }
        }
        for code in [404, 410] {
            assert_eq!(next(Register, &status(code), 1, PLENTY, 7), Next::Refused);
            assert_eq!(next(Deregister, &status(code), 1, PLENTY, 7), Next::Absent);
        }
    }

    #[test]
    fn pauses_end_in_time_and_are_as_long_as_the_station_asks() {
        for attempt in 1..100 {
            let Next::Again(pause) = next(Order::Register, &Reply::None, attempt, PLENTY, 7) else {
                panic!()
            };
            assert!(pause <= Duration::from_secs(4), "{pause:?}");
        }
        let short = Duration::from_millis(900);
        assert_eq!(next(Order::Register, &Reply::None, 1, short, 7), Next::Over);
        let asks = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            next(Order::Register, &Reply::Status { code: 429, retry_after }, 1, PLENTY, 7)
        };
        assert!(matches!(asks(7), Next::Again(pause) if pause >= Duration::from_secs(7)));
        assert_eq!(asks(60), Next::TooLong(Duration::from_secs(60)));
    }
}
