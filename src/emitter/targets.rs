//! The targets: where heartbeats go, and how one heartbeat is posted.

use std::time::Duration;

use crossbeam_channel::never;
use ureq::tls::Certificate;

use super::USER_AGENT;
use super::settings::{PAP_AGENT_KEY, PAP_COLLECTOR_KEY};
use pap_core::agent_id::AgentId;
use pap_core::delivery::{Failure, Outcome, Reply};
use pap_core::heartbeat::{HeartbeatBody, Mode};
use pap_core::pace::{Taken, Tries};
use pap_process::client::{self, Client};
use pap_process::clock::monotonic;
use pap_process::panics;
use pap_process::settings::Secret;
use pap_process::url::Url;

/// How long one try of a goodbye may take.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two tries of a goodbye.
const GOODBYE_PAUSE: Duration = Duration::from_millis(250);

/// The agent whose heartbeats these are.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The agent's id.
    pub id: AgentId,
    /// Its name for people, at most 128 bytes.
    pub name: String,
}

/// Where heartbeats go. At least one of the two targets is set.
#[derive(Clone, Debug)]
pub struct Targets {
    /// The collector's URL.
    pub collector: Option<Url>,
    /// The key that is sent to the collector.
    pub collector_key: Option<Secret>,
    /// The station's URL and key. The station gets the heartbeats that the collector does not
    /// take.
    pub station: Option<(Url, Option<Secret>)>,
    /// Certificates trusted besides the built-in roots.
    pub roots: Vec<Certificate<'static>>,
}

/// The outcome of a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Who took it.
    pub taken: Taken,
    /// Why the other targets did not take it; empty if none was tried in vain.
    pub trouble: String,
}

/// One target, for one agent or for this machine.
pub(super) struct Target {
    /// Where the heartbeats are posted.
    pub url: Url,
    /// What is sent as `Authorization`.
    authorization: Option<String>,
    /// The setting to look at when the target does not know who we are.
    key_name: &'static str,
}

impl Target {
    pub fn new(url: Url, key: Option<&Secret>, key_name: &'static str) -> Self {
        Self { url, authorization: key.map(|key| format!("Bearer {}", key.reveal())), key_name }
    }

    /// Why an answer with this status is no success, for people.
    fn refusal(&self, code: u16, words: &str) -> String {
        match code {
            401 | 403 => format!("it answers {code}: {words}; check {}", self.key_name),
            _ => format!("it answers {code}: {words}"),
        }
    }
}

/// Posts the heartbeats of one agent.
pub struct Sender {
    client: Client,
    name: String,
    collector: Option<Target>,
    station: Option<Target>,
    /// The collector did not answer a heartbeat in time, so it may still take it later.
    is_unanswered: bool,
}

impl Sender {
    /// A sender for this agent and these targets.
    pub fn new(identity: &Identity, targets: &Targets) -> Self {
        let id = identity.id.to_path();
        let collector = targets.collector.as_ref().map(|url| {
            let url = url.join(&format!("/heartbeat/{id}"));
            Target::new(url, targets.collector_key.as_ref(), PAP_COLLECTOR_KEY.name)
        });
        let station = targets.station.as_ref().map(|(url, key)| {
            let agents = if url.as_str().ends_with("/api/agents") { "" } else { "/api/agents" };
            Target::new(url.join(&format!("{agents}/{id}/heartbeat")), key.as_ref(), PAP_AGENT_KEY.name)
        });
        let client = Client::new(USER_AGENT, &targets.roots);
        Self { client, name: identity.name.clone(), collector, station, is_unanswered: false }
    }

    /// Whether there is a collector.
    pub const fn has_collector(&self) -> bool {
        self.collector.is_some()
    }

    /// The collector's URL, if there is one.
    pub fn collector_url(&self) -> Option<&Url> {
        self.collector.as_ref().map(|target| &target.url)
    }

    /// Posts one heartbeat: to the collector first, then to the station. Returns None
    /// if `interrupted` became true between two tries; then no target has answered
    /// that it took the heartbeat.
    pub fn send(
        &mut self,
        mode: Mode,
        uptime: Duration,
        tries: Tries,
        interrupted: &dyn Fn() -> bool,
    ) -> Option<Sent> {
        let (uptime_seconds, agent_name) = (uptime.as_secs_f64(), Some(self.name.as_str()));
        let body = HeartbeatBody { mode, uptime_seconds, agent_name };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut trouble = String::new();
        for attempt in 0..tries.collector {
            if attempt > 0 && interrupted() {
                return None;
            }
            let Some(collector) = &self.collector else { break };
            let result =
                post(&self.client.within(tries.collector_patience / (attempt + 1)), collector, &body);
            self.is_unanswered |= result.as_ref().is_err_and(|failure| failure.is_timeout);
            match result {
                Ok(()) => {
                    self.is_unanswered = false;
                    return Some(Sent { taken: Taken::Collector, trouble: String::new() });
                }
                Err(failure) => {
                    trouble = format!("the collector: {}", failure.why);
                    if !failure.is_passing {
                        break;
                    }
                }
            }
        }
        let (Some(station), Some(patience)) = (&self.station, tries.station_patience) else {
            return Some(Sent { taken: Taken::Nobody, trouble });
        };
        if interrupted() {
            return None;
        }
        Some(match post(&self.client.within(patience), station, &body) {
            Ok(()) => Sent { taken: Taken::Station, trouble },
            Err(Failed { why, .. }) => {
                let both = if trouble.is_empty() { "" } else { "; " };
                Sent { taken: Taken::Nobody, trouble: format!("{trouble}{both}the station: {why}") }
            }
        })
    }

    /// Says goodbye to the collector. Tries for `longest`, and returns at most two
    /// seconds after that.
    ///
    /// # Errors
    /// Why the collector did not take the goodbye. The collector will report a death.
    pub fn goodbye(&mut self, longest: Duration) -> Result<(), String> {
        let Some(collector) = &self.collector else { return Ok(()) };
        let give_up = monotonic() + longest;
        loop {
            let mut request = self.client.within(GOODBYE_PATIENCE).delete(collector.url.as_str());
            if let Some(authorization) = &collector.authorization {
                request = request.header("Authorization", authorization);
            }
            let (result, is_final) = match contained(|| request.call()) {
                // With 404 the collector does not know the agent, so no death follows either.
                Ok(Answer { code: 200..=299 | 404, .. }) => (Ok(()), false),
                Ok(Answer { code, words, .. }) => (Err(collector.refusal(code, &words)), !is_passing(code)),
                Err((_, why)) => (Err(why), false),
            };
            // The collector may take an unanswered heartbeat after the goodbye, so say it
            // once more.
            let is_done = result.is_ok() && !std::mem::take(&mut self.is_unanswered);
            if is_done || is_final || monotonic() + GOODBYE_PAUSE >= give_up {
                return result;
            }
            let _ = never::<()>().recv_timeout(GOODBYE_PAUSE);
        }
    }
}

/// Why a post was not taken.
pub(super) struct Failed {
    /// Whether another try at once may succeed.
    is_passing: bool,
    /// No answer came in time, so the target may still take it.
    is_timeout: bool,
    pub why: String,
}

/// One post.
pub(super) fn post(agent: &ureq::Agent, target: &Target, body: &[u8]) -> Result<(), Failed> {
    let mut request = agent.post(target.url.as_str()).header("Content-Type", "application/json");
    if let Some(authorization) = &target.authorization {
        request = request.header("Authorization", authorization);
    }
    let Answer { code, words, .. } = contained(|| request.send(body))
        .map_err(|(is_timeout, why)| Failed { is_passing: true, is_timeout, why })?;
    if matches!(code, 200..=299) {
        return Ok(());
    }
    Err(Failed { is_passing: is_passing(code), is_timeout: false, why: target.refusal(code, &words) })
}

/// Whether a request that got this status may succeed at another try.
fn is_passing(code: u16) -> bool {
    let outcome = (Reply::Status { code, retry_after: None }).outcome();
    matches!(outcome, Outcome::Failed(Failure::Unreachable | Failure::Busy, _))
}

/// The parts of an answer that are used.
pub(super) struct Answer {
    pub code: u16,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    /// The beginning of the body, for people.
    pub words: String,
}

/// The answer; or else whether it timed out, and what happened. The HTTP client panics if
/// it cannot start a thread, so this catches it.
pub(super) fn contained(
    call: impl FnOnce() -> Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Answer, (bool, String)> {
    let answer = panics::contain(|| {
        call().map(|answer| Answer {
            code: answer.status().as_u16(),
            retry_after: client::retry_after(answer.headers()),
            words: client::excerpt(answer),
        })
    });
    let is_timeout = |error: &ureq::Error| matches!(error, ureq::Error::Timeout(_));
    answer.map_err(|why| (false, why))?.map_err(|error| (is_timeout(&error), client::trouble(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_made_as_the_collector_and_the_station_expect_them() {
        let identity = Identity { id: AgentId::new("pluggedin/research@1.2.0").unwrap(), name: "r".into() };
        let sender = |collector: &str, station: &str| {
            let targets = Targets {
                collector: Some(Url::base(collector).unwrap()),
                collector_key: None,
                station: Some((Url::base(station).unwrap(), None)),
                roots: Vec::new(),
            };
            let sender = Sender::new(&identity, &targets);
            [sender.collector, sender.station].map(|target| target.unwrap().url.as_str().to_owned())
        };
        let id = "pluggedin%2Fresearch%401.2.0";
        let expected =
            [format!("http://c:8080/heartbeat/{id}"), format!("https://s/api/agents/{id}/heartbeat")];
        assert_eq!(sender("http://c:8080", "https://s"), expected);
        assert_eq!(sender("http://c:8080/", "https://s/"), expected);
        assert_eq!(sender("http://c:8080//", "https://s/api/agents"), expected);
        assert_eq!(sender("http://c:8080", "https://s/api/agents/"), expected);
        assert_eq!(sender("http://c/low", "https://s/x")[0], format!("http://c/low/heartbeat/{id}"));
    }
}
