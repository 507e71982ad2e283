//! Where heartbeats go, and how one is posted.

use std::time::Duration;

use percent_encoding::utf8_percent_encode;
use serde::Serialize;
use ureq::tls::Certificate;

use super::pace::{Taken, Tries};
use crate::beat::{AgentId, Mode};
use crate::client;
use crate::config::Secret;
use crate::config::value::PATH_SEGMENT;
use crate::delivery::{Failure, Outcome, Reply};
use crate::panics;

/// How long a goodbye may take.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is tried.
const GOODBYES: u32 = 2;

/// Who beats.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The agent's id.
    pub id: AgentId,
    /// Its name for people, at most 128 bytes.
    pub name: String,
}

/// To whom. One of the two is there.
#[derive(Clone, Debug)]
pub struct Ways {
    /// The collector's URL.
    pub collector: Option<String>,
    /// The station's URL and key, for when the collector takes nothing.
    pub station: Option<(String, Option<Secret>)>,
    /// Certificates trusted besides the built-in roots.
    pub roots: Vec<Certificate<'static>>,
}

/// What is posted (PAP-RFC-001 §8.1).
#[derive(Serialize)]
struct Body<'a> {
    mode: Mode,
    uptime_seconds: f64,
    agent_name: &'a str,
}

/// How a heartbeat ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Who took it.
    pub taken: Taken,
    /// What the others said, or why there was no answer; empty if nobody was
    /// asked in vain.
    pub trouble: String,
}

/// Posts the heartbeats of one agent.
pub struct Sender {
    agent: ureq::Agent,
    name: String,
    collector: Option<String>,
    station: Option<(String, Option<String>)>,
}

impl Sender {
    /// For this agent and these ways.
    pub fn new(identity: &Identity, ways: &Ways) -> Self {
        let id = identity.id.to_string();
        let id = utf8_percent_encode(&id, PATH_SEGMENT);
        let collector =
            ways.collector.as_ref().map(|url| format!("{}/heartbeat/{id}", url.trim_end_matches('/')));
        let station = ways.station.as_ref().map(|(url, key)| {
            let url = url.trim_end_matches('/');
            let agents = if url.ends_with("/api/agents") { "" } else { "/api/agents" };
            let authorization = key.as_ref().map(|key| format!("Bearer {}", key.reveal()));
            (format!("{url}{agents}/{id}/heartbeat"), authorization)
        });
        // A connection that was kept from one heartbeat to the next may be
        // dead by then, and the post would be lost with it.
        let agent = client::config(concat!("pap-heartbeat/", env!("CARGO_PKG_VERSION")), &ways.roots)
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
            .build()
            .new_agent();
        Self { agent, name: identity.name.clone(), collector, station }
    }

    /// Whether there is a collector.
    pub const fn has_collector(&self) -> bool {
        self.collector.is_some()
    }

    /// The collector's URL, if there is one.
    pub fn collector_url(&self) -> Option<&str> {
        self.collector.as_deref()
    }

    /// Posts one heartbeat: to the collector first, then to the station. None
    /// when it was `interrupted` between two tries: then nobody has taken it.
    pub fn send(
        &self,
        mode: Mode,
        uptime: Duration,
        tries: Tries,
        interrupted: &dyn Fn() -> bool,
    ) -> Option<Sent> {
        let body = Body { mode, uptime_seconds: uptime.as_secs_f64(), agent_name: &self.name };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut trouble = String::new();
        for attempt in 0..tries.collector {
            if attempt > 0 && interrupted() {
                return None;
            }
            let Some(url) = &self.collector else { break };
            match self.post(url, None, &body, tries.collector_patience) {
                Ok(()) => return Some(Sent { taken: Taken::Collector, trouble: String::new() }),
                Err((again, why)) => {
                    trouble = format!("the collector: {why}");
                    if !again {
                        break;
                    }
                }
            }
        }
        let (Some((url, authorization)), Some(patience)) = (&self.station, tries.station_patience) else {
            return Some(Sent { taken: Taken::Nobody, trouble });
        };
        if interrupted() {
            return None;
        }
        Some(match self.post(url, authorization.as_deref(), &body, patience) {
            Ok(()) => Sent { taken: Taken::Station, trouble },
            Err((_, why)) => {
                let both = if trouble.is_empty() { "" } else { "; " };
                Sent { taken: Taken::Nobody, trouble: format!("{trouble}{both}the station: {why}") }
            }
        })
    }

    /// Says goodbye to the collector.
    ///
    /// # Errors
    /// Why it did not hear it; it will think that the agent died.
    pub fn goodbye(&self) -> Result<(), String> {
        let Some(url) = &self.collector else { return Ok(()) };
        let mut result = Ok(());
        for _ in 0..GOODBYES {
            let request = self.agent.delete(url).config().timeout_global(Some(GOODBYE_PATIENCE)).build();
            result = match contained(|| request.call()) {
                // It does not know us: nothing is to be undone.
                Ok((200..=299 | 404, _)) => return Ok(()),
                Ok((code, words)) => Err(format!("it answers {code}: {words}")),
                Err(why) => Err(why),
            };
        }
        result
    }

    /// One post. On failure: whether it is worth another try at once, and why.
    fn post(
        &self,
        url: &str,
        authorization: Option<&str>,
        body: &[u8],
        patience: Duration,
    ) -> Result<(), (bool, String)> {
        let mut request = self.agent.post(url).header("Content-Type", "application/json");
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization);
        }
        let request = request.config().timeout_global(Some(patience)).build();
        let (code, words) = contained(|| request.send(body)).map_err(|why| (true, why))?;
        match (Reply::Status { code, retry_after: None }).outcome() {
            Outcome::Taken => Ok(()),
            Outcome::Failed(Failure::Unreachable | Failure::Busy, _) => {
                Err((true, format!("it answers {code}: {words}")))
            }
            Outcome::Failed(Failure::Misconfigured(_), _) | Outcome::Refused(_) => {
                Err((false, format!("it answers {code}: {words}")))
            }
        }
    }
}

/// The status and the words of an answer. The client panics where it cannot
/// start a thread.
fn contained(
    call: impl FnOnce() -> Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<(u16, String), String> {
    let answer = panics::contain(|| call().map(|answer| (answer.status().as_u16(), client::excerpt(answer))));
    answer?.map_err(|error| client::trouble(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_made_as_the_collector_and_the_station_expect_them() {
        let identity = Identity { id: AgentId::new("pluggedin/research@1.2.0").unwrap(), name: "r".into() };
        let sender = |collector: &str, station: &str| {
            let ways = Ways {
                collector: Some(collector.into()),
                station: Some((station.into(), None)),
                roots: Vec::new(),
            };
            let sender = Sender::new(&identity, &ways);
            (sender.collector.unwrap(), sender.station.unwrap().0)
        };
        let id = "pluggedin%2Fresearch%401.2.0";
        let expected =
            (format!("http://c:8080/heartbeat/{id}"), format!("https://s/api/agents/{id}/heartbeat"));
        assert_eq!(sender("http://c:8080", "https://s"), expected);
        assert_eq!(sender("http://c:8080/", "https://s/"), expected);
        assert_eq!(sender("http://c:8080//", "https://s/api/agents"), expected);
        assert_eq!(sender("http://c:8080", "https://s/api/agents/"), expected);
        assert_eq!(sender("http://c/low", "https://s/x").0, format!("http://c/low/heartbeat/{id}"));
    }
}
