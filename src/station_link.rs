//! The thread that keeps the link to a pap-station: it registers this cluster there and sends
//! beats, which say that the collector lives and answer what the station asks about agents.
//! [`Link`] decides what is sent and when; this file sends it.

use std::hash::{BuildHasher as _, RandomState};
use std::io::Read as _;
use std::process;

use pap_core::agent_id::AgentId;
use pap_core::delivery::{Failure, Reply};
use pap_core::heartbeat::Mode;
use pap_core::link::{Link, Meaning, Next, Said, Step};
use pap_core::registry::StatsView;
use pap_core::time::Wall;
use pap_process::throttle::Throttle;
use pap_process::url::Url;
use pap_process::{client, panics};
use serde::Serialize;

use crate::config::{Config, StationAccess};
use crate::metrics::BeatResult;
use crate::parts::Parts;
use crate::{USER_AGENT, VERSION};

/// The most that is read of an answer, in bytes. A thousand ids of agents fit.
const MOST_READ: u64 = 256 * 1024;
/// The most of an answer that the log shows, in bytes.
const EXCERPT: usize = 300;
/// Agents looked at while the lock is held.
const LOOK_STEP: usize = 128;

/// The station, and this cluster as it is registered there.
pub struct StationLink {
    agent: ureq::Agent,
    /// The cluster's URL.
    url: Url,
    heartbeat: Url,
    authorization: String,
    registration: Vec<u8>,
    /// What was last wrong, by the status of the answer; limits the log.
    troubles: Throttle<(Step, Option<u16>)>,
}

/// What a registration says.
#[derive(Serialize)]
struct Registration<'a> {
    cluster_name: &'a str,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    collector_url: Option<&'a str>,
}

/// What a beat says.
#[derive(Serialize)]
struct Beat {
    status: &'static str,
    stats: StatsView,
    version: &'static str,
    /// The agents that the station asked about and that are known here; None if it did not
    /// ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    agents: Option<Vec<AsKnown>>,
}

/// An agent that the station asked about.
#[derive(Serialize)]
struct AsKnown {
    agent_uuid: AgentId,
    healthy: bool,
    mode: Mode,
    last_seen: Wall,
}

/// How a request ended.
struct Answered {
    reply: Reply,
    /// The answer's body, or what went wrong.
    body: Vec<u8>,
}

impl Answered {
    fn nothing(why: String) -> Self {
        Self { reply: Reply::None, body: why.into_bytes() }
    }
}

impl StationLink {
    /// The link of this cluster to the station in `access`.
    pub fn new(config: &Config, access: &StationAccess) -> Self {
        let registration = Registration {
            cluster_name: &config.cluster_name,
            version: VERSION,
            collector_url: config.collector_url.as_ref().map(Url::as_str),
        };
        Self {
            agent: client::posting_agent(USER_AGENT, &access.roots, 1),
            heartbeat: access.url.join("/heartbeat"),
            url: access.url.clone(),
            authorization: format!("Bearer {}", access.key.reveal()),
            // Text and nothing else always becomes JSON.
            registration: serde_json::to_vec(&registration).unwrap_or_default(),
            troubles: Throttle::default(),
        }
    }

    /// Registers and beats until the collector stops.
    pub fn run(&self, parts: &Parts) {
        let mut link = Link::new(RandomState::new().hash_one(process::id()));
        let mut asked = Vec::new();
        let mut is_in_trouble = false;
        loop {
            let step = link.step();
            let answered =
                panics::contain(|| self.send(parts, step, &asked)).unwrap_or_else(Answered::nothing);
            // The station has taken the beat even if its answer cannot be read.
            let said: Said = serde_json::from_slice(&answered.body).unwrap_or_default();
            let next = link.settle(&answered.reply, &said);
            if step == Step::Beat {
                parts.metrics.station_beat(result(next.meaning));
            }
            if next.meaning == Meaning::Taken {
                let was_in_trouble = std::mem::take(&mut is_in_trouble);
                match step {
                    Step::Register => log::info!("registered at the station: {}", self.url),
                    Step::Beat => {
                        self.troubles.clear();
                        if was_in_trouble {
                            log::info!("the station takes beats again");
                        }
                        asked = said.ask;
                    }
                }
            } else {
                is_in_trouble = true;
                if let Meaning::Refused(_) = next.meaning {
                    // The station may refuse the beat because of these answers.
                    asked.clear();
                }
                self.complain(parts, step, next, &answered);
            }
            if parts.stop.wait(next.wait) {
                return;
            }
        }
    }

    fn send(&self, parts: &Parts, step: Step, asked: &[AgentId]) -> Answered {
        let (request, body) = match step {
            Step::Register => (self.agent.put(self.url.as_str()), self.registration.clone()),
            Step::Beat => match serde_json::to_vec(&beat(parts, asked)) {
                Ok(body) => (self.agent.post(self.heartbeat.as_str()), body),
                Err(error) => return Answered::nothing(error.to_string()),
            },
        };
        let request = request.header("Content-Type", "application/json");
        match request.header("Authorization", &self.authorization).send(&body) {
            Ok(response) => {
                let code = response.status().as_u16();
                let reply = Reply::Status { code, retry_after: client::retry_after(response.headers()) };
                let mut body = Vec::new();
                // If this fails, the part that has come is used.
                let _ = response.into_body().into_reader().take(MOST_READ).read_to_end(&mut body);
                Answered { reply, body }
            }
            Err(error) => Answered::nothing(client::trouble(&error)),
        }
    }

    /// Logs why the station did not take something, each kind of trouble once a minute.
    fn complain(&self, parts: &Parts, step: Step, next: Next, answered: &Answered) {
        let words = String::from_utf8_lossy(&answered.body[..answered.body.len().min(EXCERPT)]);
        let (code, advice) = match next.meaning {
            Meaning::Taken => return,
            Meaning::StillRemoved => return log::debug!("the cluster is still removed at the station"),
            Meaning::Removed => {
                return log::warn!(
                    "this cluster was removed at the station, which takes neither beats nor alerts of it now: {words}; \
                     add it there again, or restart this collector, which registers it; the next beat is in {:?}",
                    next.wait
                );
            }
            Meaning::Unknown => (Some(404), "; registering again"),
            Meaning::Refused(code @ (404 | 405)) => (Some(code), "; check STATION_URL"),
            Meaning::Refused(code) => (Some(code), ""),
            Meaning::Failed(Failure::Misconfigured(code @ (401 | 403))) => {
                (Some(code), "; check STATION_ALERT_KEY")
            }
            Meaning::Failed(Failure::Misconfigured(code)) => (Some(code), "; check STATION_URL"),
            Meaning::Failed(Failure::Busy | Failure::Unreachable) => match answered.reply {
                Reply::Status { code, .. } => (Some(code), ""),
                Reply::None => (None, ""),
            },
        };
        let what = match step {
            Step::Register => "the registration",
            Step::Beat => "a beat",
        };
        let is_news = self.troubles.is_news((step, code), parts.shared.clock().uptime());
        let level = if is_news { log::Level::Warn } else { log::Level::Debug };
        let answer = code.map_or_else(|| "no answer".to_owned(), |code| format!("answer {code}"));
        log::log!(
            level,
            "the station {} did not take {what}, and will be told again: {answer}: {words}{advice}",
            self.url
        );
    }
}

/// What the collector says of itself now, and of the agents that the station asked about.
fn beat(parts: &Parts, asked: &[AgentId]) -> Beat {
    let watched = parts.observers.watched();
    let mut known = Vec::new();
    for ids in asked.chunks(LOOK_STEP) {
        known.extend(parts.shared.with(|registry, now| {
            let views = ids.iter().filter_map(|id| registry.view(now, id));
            let as_known = views.map(|view| AsKnown {
                agent_uuid: view.agent_uuid,
                healthy: view.healthy,
                mode: view.mode,
                last_seen: view.last_seen,
            });
            as_known.collect::<Vec<_>>()
        }));
    }
    Beat {
        status: "healthy",
        stats: parts.shared.with(|registry, _| registry.stats_view(&watched)),
        version: VERSION,
        agents: (!asked.is_empty()).then_some(known),
    }
}

/// How a beat is counted.
const fn result(meaning: Meaning) -> BeatResult {
    match meaning {
        Meaning::Taken => BeatResult::Taken,
        Meaning::Unknown
        | Meaning::Removed
        | Meaning::StillRemoved
        | Meaning::Refused(_)
        | Meaning::Failed(Failure::Misconfigured(_)) => BeatResult::Refused,
        Meaning::Failed(Failure::Busy | Failure::Unreachable) => BeatResult::Failed,
    }
}
