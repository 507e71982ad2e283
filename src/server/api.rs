//! What each endpoint does: from a target and a body to an answer. The
//! contract's table, in code.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use serde_json::json;
use tiny_http::Header;

use super::agents::AgentList;
use super::answer::Answer;
use super::auth;
use super::page;
use super::target::{Listing, Target};
use crate::VERSION;
use crate::config::Config;
use crate::metrics::{Gauges, Numbers, Refusal, render};
use crate::news;
use crate::parts::Parts;
use crate::readiness::Phase;
use pap_core::heartbeat::{AgentId, Heartbeat, HeartbeatError, IdError, Mode};
use pap_core::registry::{AgentView, Full};
use pap_core::time::millis;
use pap_process::settings::Secret;

/// A new agent that found no room may try again after so many seconds.
const RETRY_WHEN_FULL: u32 = 30;

/// The answer to an accepted heartbeat.
#[derive(Serialize)]
struct Accepted {
    received: bool,
    is_new: bool,
    restart_detected: bool,
    next_heartbeat_ms: u64,
}

/// The answer to an agent that is forgotten.
#[derive(Serialize)]
struct Removed<'a> {
    removed: bool,
    agent_uuid: &'a AgentId,
}

/// The answer to an id that is not known.
#[derive(Serialize)]
struct NotFound<'a> {
    error: &'a str,
    agent_uuid: &'a AgentId,
    cluster_id: &'a str,
}

/// The answer to `/health`.
#[derive(Serialize)]
struct Health<'a> {
    status: &'a str,
    version: &'a str,
    cluster_id: &'a str,
    cluster_name: &'a str,
    uptime: u64,
    agents: HealthAgents,
    alert_queue: HealthQueue,
    station: HealthStation,
}

#[derive(Serialize)]
struct HealthAgents {
    total: usize,
    healthy: usize,
    unhealthy: usize,
}

#[derive(Serialize)]
struct HealthQueue {
    size: usize,
    oldest_age_ms: Option<u64>,
    owed: usize,
}

#[derive(Serialize)]
struct HealthStation {
    configured: bool,
    /// None until something was posted.
    reachable: Option<bool>,
}

/// What the endpoints need.
pub struct Api {
    /// What all threads share.
    pub parts: Arc<Parts>,
    /// Whether there is a station to tell.
    pub has_station: bool,
    /// The id the station knows this cluster by.
    pub cluster_id: String,
    /// The cluster's name for people.
    pub cluster_name: String,
    /// What `/agents` asks for.
    pub api_key: Option<Secret>,
    /// How many connections are open.
    pub connections: AtomicUsize,
    /// How many were closed and are still held.
    pub leaked: AtomicUsize,
}

impl Api {
    /// The endpoints of a collector with this configuration.
    pub fn new(config: &Config, parts: Arc<Parts>) -> Self {
        Self {
            parts,
            has_station: config.station.is_some(),
            cluster_id: config.cluster_id.clone(),
            cluster_name: config.cluster_name.clone(),
            api_key: config.api_key.clone(),
            connections: AtomicUsize::new(0),
            leaked: AtomicUsize::new(0),
        }
    }

    /// The answer to a request. It waits for nothing but the lock.
    pub fn answer(&self, target: &Target, headers: &[Header], body: &[u8]) -> Answer {
        let key = self.api_key.as_ref().filter(|_| target.is_protected());
        if key.is_some_and(|key| !auth::has_key(headers, key)) {
            return auth::unauthorized();
        }
        match target {
            Target::Heartbeat(id) => self.heartbeat(id.as_ref(), body),
            Target::Goodbye(id) | Target::Remove(id) => with_id(id.as_ref(), |id| self.remove(id)),
            Target::Agents(Ok(listing)) => self.agents(listing),
            Target::Agents(Err(error)) => Answer::error(400, error),
            Target::Agent(id) => with_id(id.as_ref(), |id| self.agent(id)),
            Target::Health => self.health(),
            Target::Ready => self.ready(),
            Target::Metrics => self.metrics(),
            Target::Root if page::is_preferred(headers) => page::page(),
            Target::Root => self.root(),
            // The server has seen to it that this is no handshake.
            Target::Observe(Some(Err(error))) => Answer::error(400, &error.to_string()),
            Target::Observe(_) => Answer::error(400, "Not a WebSocket handshake"),
            Target::WrongMethod(allowed, _) => {
                Answer::error(405, &format!("Method not allowed, use {allowed}")).with("Allow", *allowed)
            }
            Target::Unknown => Answer::error(404, "Not found, see / for the endpoints"),
        }
    }

    fn heartbeat(&self, id: Result<&AgentId, &IdError>, body: &[u8]) -> Answer {
        let refuse = |why, answer| {
            self.parts.metrics.refusal(why);
            answer
        };
        let id = match id {
            Ok(id) => id,
            Err(error) => return refuse(Refusal::Id, Answer::error(400, &error.to_string())),
        };
        let beat = match Heartbeat::from_json(body) {
            Ok(beat) => beat,
            Err(HeartbeatError::Payload) => {
                let body =
                    json!({"error": "Invalid heartbeat payload", "required": ["mode", "uptime_seconds"]});
                return refuse(Refusal::Payload, Answer::json(400, &body));
            }
            Err(HeartbeatError::Mode) => {
                let body = json!({"error": "Invalid mode", "valid": Mode::ALL});
                return refuse(Refusal::Mode, Answer::json(400, &body));
            }
            Err(HeartbeatError::Name) => {
                let answer = Answer::error(400, "agent_name must be text of at most 128 bytes");
                return refuse(Refusal::Name, answer);
            }
            Err(HeartbeatError::Resource(field)) => {
                let error = format!("Resource data is not allowed in a heartbeat: remove {field}");
                return refuse(Refusal::Resource, Answer::error(400, &error));
            }
        };
        let is_watched = self.parts.observers.is_watched(id);
        let taken = self.parts.shared.with(|registry, now| {
            let received = registry.beat(now, id, &beat)?;
            Ok::<_, Full>((received, is_watched.then(|| registry.view(now, id)).flatten()))
        });
        let Ok((received, view)) = taken else {
            let answer = Answer::error(503, "As many agents are known as COLLECTOR_MAX_AGENTS allows");
            return refuse(Refusal::Full, answer.retry_after(RETRY_WHEN_FULL));
        };
        if received.news {
            self.parts.shared.wake();
        }
        if let Some(change) = &received.change {
            news::tell(change, &self.parts.observers);
        }
        if let Some(view) = view {
            self.parts.observers.heartbeat(view);
        }
        log::debug!(agent_uuid:% = id; "heartbeat in {}{}", beat.mode, if received.is_new { ", the first" } else { "" });
        let body = Accepted {
            received: true,
            is_new: received.is_new,
            restart_detected: received.restarted,
            next_heartbeat_ms: millis(beat.mode.interval()),
        };
        Answer::json(200, &body)
    }

    fn remove(&self, id: &AgentId) -> Answer {
        if !self.parts.shared.with(|registry, _| registry.forget(id)) {
            return self.not_found(id);
        }
        self.parts.shared.wake();
        log::info!(agent_uuid:% = id; "removed on request");
        Answer::json(200, &Removed { removed: true, agent_uuid: id })
    }

    fn agents(&self, listing: &Listing) -> Answer {
        let parts = Arc::clone(&self.parts);
        match AgentList::new(parts, &self.cluster_id, &self.cluster_name, listing) {
            Ok(list) => Answer::stream(list),
            Err(error) => Answer::error(500, &error.to_string()),
        }
    }

    fn agent(&self, id: &AgentId) -> Answer {
        #[derive(Serialize)]
        struct Body<'a> {
            cluster_id: &'a str,
            cluster_name: &'a str,
            agent: AgentView,
        }
        match self.parts.shared.with(|registry, now| registry.view(now, id)) {
            Some(mut agent) => {
                agent.observation_mode = self.parts.observers.is_watched(id);
                let (cluster_id, cluster_name) = (&self.cluster_id, &self.cluster_name);
                Answer::json(200, &Body { cluster_id, cluster_name, agent })
            }
            None => self.not_found(id),
        }
    }

    fn not_found(&self, id: &AgentId) -> Answer {
        let body = NotFound { error: "Agent not found", agent_uuid: id, cluster_id: &self.cluster_id };
        Answer::json(404, &body)
    }

    fn health(&self) -> Answer {
        let (stats, queued, oldest, owed, reachable) = self.parts.shared.with(|registry, now| {
            let outbox = registry.outbox();
            (registry.stats(), outbox.queued(), outbox.oldest(now.tick), outbox.owed(), outbox.is_reachable())
        });
        let body = Health {
            status: "healthy",
            version: VERSION,
            cluster_id: &self.cluster_id,
            cluster_name: &self.cluster_name,
            uptime: self.parts.shared.clock().uptime().reading().as_secs(),
            agents: HealthAgents {
                total: stats.total(),
                healthy: stats.healthy(),
                unhealthy: stats.unhealthy(),
            },
            alert_queue: HealthQueue { size: queued, oldest_age_ms: oldest.map(millis), owed },
            station: HealthStation {
                configured: self.has_station,
                reachable: reachable.filter(|_| self.has_station),
            },
        };
        Answer::json(200, &body)
    }

    fn ready(&self) -> Answer {
        let reason = match self.parts.readiness.phase() {
            Phase::Ready if self.parts.readiness.is_reachable() => {
                return Answer::json(200, &json!({ "ready": true }));
            }
            Phase::Ready => "cannot reach its own port",
            Phase::Starting => "starting",
            Phase::Draining => "draining",
        };
        Answer::json(
            503,
            &json!({ "ready": false, "reason": reason, "error": format!("Not ready: {reason}") }),
        )
    }

    fn metrics(&self) -> Answer {
        let numbers = self.parts.shared.with(|registry, _| Numbers::of(registry));
        let gauges = Gauges {
            connections: self.connections.load(Ordering::Relaxed),
            leaked: self.leaked.load(Ordering::Relaxed),
            watched: self.parts.observers.watched().len(),
            observers: self.parts.observers.count(),
            missed: self.parts.observers.missed(),
        };
        let text =
            render(&self.cluster_id, &numbers, &self.parts.metrics, self.parts.shared.clock(), &gauges);
        Answer::text("text/plain; version=0.0.4; charset=utf-8", text)
    }

    fn root(&self) -> Answer {
        Answer::json(
            200,
            &json!({
                "service": "pap-heartbeat-collector",
                "version": VERSION,
                "cluster": { "id": self.cluster_id, "name": self.cluster_name },
                "endpoints": {
                    "heartbeat": "POST /heartbeat/:agentId",
                    "goodbye": "DELETE /heartbeat/:agentId",
                    "agents": "GET /agents",
                    "agent": "GET /agents/:agentId",
                    "remove": "DELETE /agents/:agentId",
                    "observe": "WS /observe/:agentId",
                    "observe_all": "WS /observe",
                    "health": "GET /health",
                    "ready": "GET /ready",
                    "metrics": "GET /metrics",
                },
            }),
        )
        .with("Vary", "Accept")
    }
}

fn with_id(id: Result<&AgentId, &IdError>, answer: impl FnOnce(&AgentId) -> Answer) -> Answer {
    match id {
        Ok(id) => answer(id),
        Err(error) => Answer::error(400, &error.to_string()),
    }
}
