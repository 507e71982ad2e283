//! What each endpoint does: from a request to an answer, as docs/contract.md
//! lists them. The event loop answers heartbeats, goodbyes and other small requests.
//! A lane answers lists, metrics and the page. Each stream gets its own thread.

mod agents;
mod auth;
mod page;
mod stream;
mod target;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pap_core::agent_id::{AgentId, IdError};
use pap_core::fanout::Topic;
use pap_core::heartbeat::{Heartbeat, HeartbeatError, Mode};
use pap_core::registry::{AgentView, Full};
use pap_core::time::{Tick, Uptime, Wall, millis};
use pap_http::parse::Refused;
use pap_http::request::Request;
use pap_http::response::Response;
use pap_http::service::{self, Next, Reply, Service, States};
use pap_http::websocket;
use pap_process::clock::wall;
use pap_process::settings::Secret;
use serde::Serialize;
use serde_json::json;

use crate::VERSION;
use crate::config::Config;
use crate::metrics::{Closed, Gauges, Numbers, Refusal, Route, render};
use crate::news;
use crate::parts::Parts;
use crate::readiness::Phase;
use agents::AgentList;
use target::{Listing, Target};

/// The subprotocol of the stream.
const PROTOCOL: &str = "pap.observe";
/// `Retry-After` for an observer that found no room, in seconds.
const RETRY_WHEN_CROWDED: u32 = 30;

/// `Retry-After` for a new agent that found no room, in seconds.
const RETRY_WHEN_FULL: u32 = 30;

/// The answer to an accepted heartbeat.
#[derive(Serialize)]
struct Taken {
    received: bool,
    is_new: bool,
    restart_detected: bool,
    next_heartbeat_ms: u64,
}

/// The answer to a goodbye, or to the removal of an agent.
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
    state: HealthState,
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

#[derive(Serialize)]
struct HealthState {
    configured: bool,
    /// None until the state was to be saved.
    saved: Option<bool>,
}

/// What the endpoints need.
pub struct Endpoints {
    /// What all threads share.
    parts: Arc<Parts>,
    /// Whether a station is configured.
    has_station: bool,
    /// The id the station knows this cluster by.
    cluster_id: String,
    /// The cluster's name for people.
    cluster_name: String,
    /// The key that `/agents` and `/observe` ask for.
    api_key: Option<Secret>,
    /// Counts the connections by state; set once the server is made.
    connections: OnceLock<Box<dyn Fn() -> States + Send + Sync>>,
    /// When the last heartbeat or goodbye came, in milliseconds of uptime.
    heard: AtomicU64,
}

/// The collector's API.
pub struct Api(Arc<Endpoints>);

impl Api {
    /// The endpoints of a collector with this configuration.
    pub fn new(config: &Config, parts: Arc<Parts>) -> Self {
        Self(Arc::new(Endpoints {
            parts,
            has_station: config.station.is_some(),
            cluster_id: config.cluster_id.clone(),
            cluster_name: config.cluster_name.clone(),
            api_key: config.api_key.clone(),
            connections: OnceLock::new(),
            heard: AtomicU64::new(0),
        }))
    }

    /// When the last heartbeat or goodbye came.
    pub fn last_heard(&self) -> Uptime {
        Uptime::new(Duration::from_millis(self.0.heard.load(Ordering::Relaxed)))
    }

    /// Sets the function that counts the connections.
    pub fn count_connections(&self, count: impl Fn() -> States + Send + Sync + 'static) {
        let set = self.0.connections.set(Box::new(count));
        debug_assert!(set.is_ok(), "there is one server");
    }
}

impl Service for Api {
    const NAME: &'static str = "pap-collector";

    fn call(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Next {
        let arrived = self.0.uptime();
        let target = Target::parse(request.method, request.target);
        if let Target::Heartbeat(_) | Target::Goodbye(_) = target {
            self.0.heard.store(millis(arrived.reading()), Ordering::Relaxed);
        }
        let next = self.0.answer(&target, request, reply, arrived);
        if matches!(next, Next::Answered) {
            self.0.count(target.route(), arrived);
        }
        next
    }

    fn now(&self) -> Tick {
        self.0.parts.shared.clock().now().tick
    }

    fn wall(&self) -> Wall {
        wall()
    }

    fn refused(&self, why: Refused) {
        if let Refused::Length
        | Refused::Coding
        | Refused::UnknownCoding
        | Refused::LongBody
        | Refused::Expectation = why
        {
            // Only heartbeats have bodies, so a refused body is a refused heartbeat.
            self.0.parts.metrics.refusal(Refusal::Body);
        }
    }

    fn closed(&self, why: service::Closed) {
        self.0.parts.metrics.closed(match why {
            service::Closed::Refused => Closed::Refused,
            service::Closed::Done => Closed::Done,
            service::Closed::Idle => Closed::Idle,
            service::Closed::Stalled => Closed::Stalled,
            service::Closed::Surplus => Closed::Surplus,
            service::Closed::Stopping => Closed::Stopping,
        });
    }
}

impl Endpoints {
    fn answer(
        self: &Arc<Self>,
        target: &Target,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
        arrived: Uptime,
    ) -> Next {
        let key = self.api_key.as_ref().filter(|_| target.is_protected());
        let is_stream = matches!(target, Target::Observe(None | Some(Ok(_))));
        // The key for a stream may also come as a subprotocol.
        if !is_stream && key.is_some_and(|key| !auth::has_key(request, key)) {
            reply.send(&auth::unauthorized());
            return Next::Answered;
        }
        let response = match target {
            Target::Heartbeat(id) => match self.heartbeat(id.as_ref(), request) {
                Ok(taken) => {
                    reply.json(200, &taken);
                    return Next::Answered;
                }
                Err(response) => response,
            },
            Target::Goodbye(id) | Target::Remove(id) => with_id(id.as_ref(), |id| self.remove(id)),
            Target::Agents(Ok(listing)) => {
                let (endpoints, listing) = (Arc::clone(self), listing.clone());
                return self.on_lane(Route::Agents, arrived, move || endpoints.agents(&listing));
            }
            Target::Agents(Err(error)) => Response::error(400, error),
            Target::Agent(id) => with_id(id.as_ref(), |id| self.agent(id)),
            Target::Health => self.health(),
            Target::Ready => self.ready(),
            Target::Metrics => {
                let endpoints = Arc::clone(self);
                return self.on_lane(Route::Metrics, arrived, move || endpoints.metrics());
            }
            Target::Root if page::is_preferred(request) => {
                return self.on_lane(Route::Root, arrived, page::page);
            }
            Target::Root => self.root(),
            Target::Observe(Some(Err(error))) => Response::error(400, &error.to_string()),
            Target::Observe(agent) => {
                let topic = match agent {
                    Some(Ok(id)) => Topic::One(id.clone()),
                    _ => Topic::All,
                };
                match self.observe(request, topic) {
                    Ok(next) => {
                        self.count(Route::Observe, arrived);
                        return next;
                    }
                    Err(response) => response,
                }
            }
            Target::WrongMethod(allowed, _) if request.method == "OPTIONS" => {
                Response::no_content().with("Allow", format!("{allowed}, OPTIONS"))
            }
            Target::WrongMethod(allowed, _) => {
                Response::error(405, &format!("Method not allowed, use {allowed}")).with("Allow", *allowed)
            }
            Target::Unknown if request.target == "*" => {
                Response::no_content().with("Allow", "GET, HEAD, POST, DELETE, OPTIONS")
            }
            Target::Unknown => Response::error(404, "Not found, see / for the endpoints"),
        };
        reply.send(&response);
        Next::Answered
    }

    /// Leaves an answer to a lane. It is counted when the lane has sent it.
    fn on_lane(
        self: &Arc<Self>,
        route: Route,
        arrived: Uptime,
        work: impl FnOnce() -> Response + Send + 'static,
    ) -> Next {
        let endpoints = Arc::clone(self);
        Next::Lane(Box::new(move || work().then(move || endpoints.count(route, arrived))))
    }

    fn count(&self, route: Route, arrived: Uptime) {
        self.parts.metrics.request(route, self.uptime().since(arrived));
    }

    fn uptime(&self) -> Uptime {
        self.parts.shared.clock().uptime()
    }

    /// Opens a stream, or says why not.
    fn observe(self: &Arc<Self>, request: &Request<'_>, topic: Topic) -> Result<Next, Response> {
        auth::may_observe(request, self.api_key.as_ref())?;
        let accepted = websocket::accept(request, PROTOCOL)?;
        let full = |why| Response::error(503, why).retry_after(RETRY_WHEN_CROWDED);
        let observation = match self.parts.observers.join(topic.clone()) {
            Ok(Some(observation)) if !observation.is_ending() => observation,
            Ok(Some(_)) | Err(_) => return Err(full("No stream can be opened now")),
            Ok(None) => return Err(full("As many watch as COLLECTOR_MAX_OBSERVERS allows")),
        };
        let endpoints = Arc::clone(self);
        Ok(Next::Stream(Box::new(move |upgraded| {
            stream::serve(&endpoints, upgraded, &accepted, &observation, &topic);
        })))
    }

    fn heartbeat(&self, id: Result<&AgentId, &IdError>, request: &Request<'_>) -> Result<Taken, Response> {
        let refuse = |why, response| {
            self.parts.metrics.refusal(why);
            Err(response)
        };
        let id = match id {
            Ok(id) => id,
            Err(error) => return refuse(Refusal::Id, Response::error(400, &error.to_string())),
        };
        let beat = match Heartbeat::from_json(request.body) {
            Ok(beat) => beat,
            Err(HeartbeatError::Payload) => {
                let body =
                    json!({"error": "Invalid heartbeat payload", "required": ["mode", "uptime_seconds"]});
                return refuse(Refusal::Payload, Response::json(400, &body));
            }
            Err(HeartbeatError::Mode) => {
                let body = json!({"error": "Invalid mode", "valid": Mode::ALL});
                return refuse(Refusal::Mode, Response::json(400, &body));
            }
            Err(HeartbeatError::Name) => {
                let response = Response::error(400, "agent_name must be text of at most 128 bytes");
                return refuse(Refusal::Name, response);
            }
            Err(HeartbeatError::Resource(field)) => {
                let error = format!("Resource data is not allowed in a heartbeat: remove {field}");
                return refuse(Refusal::Resource, Response::error(400, &error));
            }
        };
        let is_watched = self.parts.observers.is_watched(id);
        let taken = self.parts.shared.with(|registry, now| {
            let received = registry.beat_from(now, id, &beat, request.peer)?;
            Ok::<_, Full>((received, is_watched.then(|| registry.view(now, id)).flatten()))
        });
        let Ok((received, view)) = taken else {
            let response = Response::error(503, "As many agents are known as COLLECTOR_MAX_AGENTS allows");
            return refuse(Refusal::Full, response.retry_after(RETRY_WHEN_FULL));
        };
        if received.news {
            self.parts.shared.wake();
        }
        if let Some(twice) = received.used_twice {
            log::warn!(
                agent_uuid:% = id;
                "this id is probably used twice, {twice}: its uptime falls and leaps by turns; give each agent an id of its own"
            );
        }
        if let Some(change) = &received.change {
            news::tell(change, &self.parts.observers);
        }
        if let Some(view) = view {
            self.parts.observers.heartbeat(view);
        }
        log::debug!(agent_uuid:% = id; "heartbeat in {}{}", beat.mode, if received.is_new { ", the first" } else { "" });
        Ok(Taken {
            received: true,
            is_new: received.is_new,
            restart_detected: received.restarted,
            next_heartbeat_ms: millis(beat.mode.interval()),
        })
    }

    fn remove(&self, id: &AgentId) -> Response {
        if !self.parts.shared.with(|registry, _| registry.forget(id)) {
            return self.not_found(id);
        }
        self.parts.shared.wake();
        log::info!(agent_uuid:% = id; "removed on request");
        Response::json(200, &Removed { removed: true, agent_uuid: id })
    }

    fn agents(&self, listing: &Listing) -> Response {
        let parts = Arc::clone(&self.parts);
        match AgentList::new(parts, &self.cluster_id, &self.cluster_name, listing) {
            Ok(list) => Response::stream(list),
            Err(error) => Response::error(500, &error.to_string()),
        }
    }

    fn agent(&self, id: &AgentId) -> Response {
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
                Response::json(200, &Body { cluster_id, cluster_name, agent })
            }
            None => self.not_found(id),
        }
    }

    fn not_found(&self, id: &AgentId) -> Response {
        let body = NotFound { error: "Agent not found", agent_uuid: id, cluster_id: &self.cluster_id };
        Response::json(404, &body)
    }

    fn health(&self) -> Response {
        let (stats, queued, oldest, owed, reachable) = self.parts.shared.with(|registry, now| {
            let outbox = registry.outbox();
            (registry.stats(), outbox.queued(), outbox.oldest(now.tick), outbox.owed(), outbox.is_reachable())
        });
        let saving = self.parts.keeper.saving();
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
            state: HealthState { configured: saving.is_configured, saved: saving.is_saved },
        };
        Response::json(200, &body)
    }

    fn ready(&self) -> Response {
        let reason = match self.parts.readiness.phase() {
            Phase::Ready if self.parts.readiness.is_alive() => {
                return Response::json(200, &json!({ "ready": true }));
            }
            Phase::Ready => "an event loop does not answer",
            Phase::Starting => "starting",
            Phase::Draining => "draining",
        };
        Response::json(
            503,
            &json!({ "ready": false, "reason": reason, "error": format!("Not ready: {reason}") }),
        )
    }

    fn metrics(&self) -> Response {
        let numbers = self.parts.shared.with(|registry, _| Numbers::of(registry));
        let gauges = Gauges {
            connections: self.connections.get().map_or_else(States::default, |count| count()),
            watched: self.parts.observers.watched().len(),
            observers: self.parts.observers.count(),
            missed: self.parts.observers.missed(),
            saving: self.parts.keeper.saving(),
        };
        let text =
            render(&self.cluster_id, &numbers, &self.parts.metrics, self.parts.shared.clock(), &gauges);
        Response::text("text/plain; version=0.0.4; charset=utf-8", text)
    }

    fn root(&self) -> Response {
        Response::json(
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

fn with_id(id: Result<&AgentId, &IdError>, answer: impl FnOnce(&AgentId) -> Response) -> Response {
    match id {
        Ok(id) => answer(id),
        Err(error) => Response::error(400, &error.to_string()),
    }
}
