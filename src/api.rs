//! What each endpoint does: from a request to an answer, as docs/contract.md
//! lists them. The event loop answers heartbeats, goodbyes and other small requests.
//! A lane answers lists, metrics and the page. Each stream gets its own thread.

mod agents;
mod auth;
mod health;
mod heartbeat;
mod origin;
mod page;
mod stream;
mod target;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pap_core::agent_id::{AgentId, IdError};
use pap_core::fanout::Topic;
use pap_core::registry::AgentView;
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
use crate::config::{Admission, Config, Goodbyes};
use crate::metrics::{Closed, Gauges, Numbers, Refusal, Route, render};
use crate::parts::Parts;
use crate::readiness::Phase;
use agents::AgentList;
use auth::Ticket;
use health::Health;
use target::{Listing, Target};

/// The subprotocol of the stream.
const PROTOCOL: &str = "pap.observe";
/// `Retry-After` for an observer beyond the maximum, in seconds.
const RETRY_WHEN_CROWDED: u32 = 30;
/// What such an observer is told.
const CROWDED: &str = "As many watch as COLLECTOR_MAX_OBSERVERS allows";

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

/// How a question is answered.
enum Work {
    /// The answer is here.
    Done(Response),
    /// A lane makes the answer, which may be big.
    Long(Box<dyn FnOnce() -> Response + Send>),
}

/// What the endpoints need.
pub struct Endpoints {
    /// What all threads share.
    parts: Arc<Parts>,
    /// Whether a station is configured.
    has_station: bool,
    /// `HEARTBEAT_GRACE_MS`, if it is set.
    grace: Option<Duration>,
    /// The id the station knows this cluster by.
    cluster_id: String,
    /// The cluster's name for people.
    cluster_name: String,
    /// The key that `/agents` and `/observe` ask for.
    api_key: Option<Secret>,
    /// Whose heartbeats and goodbyes are taken.
    admission: Admission,
    /// Opens a stream for our own page behind any proxy; none where a key is set.
    ticket: Option<Ticket>,
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
            grace: config.rules.grace,
            cluster_id: config.cluster_id.clone(),
            cluster_name: config.cluster_name.clone(),
            api_key: config.api_key.clone(),
            admission: config.admission.clone(),
            ticket: if config.api_key.is_none() { Ticket::new() } else { None },
            connections: OnceLock::new(),
            heard: AtomicU64::new(0),
        }))
    }

    /// The endpoints, for the admin socket.
    pub fn endpoints(&self) -> Arc<Endpoints> {
        Arc::clone(&self.0)
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
    const MAX_BODY: usize = 1024;
    const LANES: usize = 4;
    const MAX_WAITING: usize = 32;

    fn call(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Next {
        let arrived = self.0.uptime();
        let target = Target::parse(request.method, request.target);
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
        | Refused::LongBody(_)
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
    /// Answers a request at the port.
    fn answer(
        self: &Arc<Self>,
        target: &Target<'_>,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
        arrived: Uptime,
    ) -> Next {
        let is_of_agent = matches!(target, Target::Heartbeat(_) | Target::Goodbye(_));
        let keys = self.keys(target, request.method);
        if !keys.is_empty() && !auth::has_key(request, keys) {
            if is_of_agent {
                self.parts.metrics.refusal(Refusal::Key);
            }
            reply.send(&auth::unauthorized());
            return Next::Answered;
        }
        if is_of_agent {
            self.heard.store(millis(arrived.reading()), Ordering::Relaxed);
        }
        let response = match target {
            Target::Heartbeat(id) => match heartbeat::take(&self.parts, id, request) {
                Ok(taken) => {
                    reply.json(200, &taken);
                    return Next::Answered;
                }
                Err(response) => response,
            },
            Target::Root if page::is_preferred(request) => {
                return self.on_lane(Route::Root, arrived, page::page);
            }
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
            Target::Unknown if request.target == "*" => {
                Response::no_content().with("Allow", "GET, HEAD, POST, DELETE, OPTIONS")
            }
            target => match self.question(target, request.method) {
                Work::Done(response) => response,
                Work::Long(work) => return self.on_lane(target.route(), arrived, work),
            },
        };
        reply.send(&response);
        Next::Answered
    }

    /// The keys for this target. A request must carry one of them; if there are none, it needs
    /// no key.
    fn keys(&self, target: &Target<'_>, method: &str) -> &[Secret] {
        match target {
            Target::Heartbeat(_) => &self.admission.keys,
            Target::Goodbye(_) if self.admission.goodbyes == Goodbyes::Key => &self.admission.keys,
            // The key for a stream may also come as a subprotocol.
            Target::Observe(None | Some(Ok(_))) => &[],
            // Which methods a path has is no secret.
            Target::WrongMethod(..) if method == "OPTIONS" => &[],
            target if target.is_protected() => self.api_key.as_slice(),
            _ => &[],
        }
    }

    /// The methods that a path has.
    fn allowed(&self, methods: &'static str, route: Route) -> &'static str {
        let takes_goodbyes = self.admission.goodbyes != Goodbyes::Off;
        if route == Route::Heartbeat && !takes_goodbyes { "POST" } else { methods }
    }

    /// Answers what the port and the admin socket are both asked: all but heartbeats, streams
    /// and the page.
    fn question(self: &Arc<Self>, target: &Target<'_>, method: &str) -> Work {
        Work::Done(match target {
            Target::Goodbye(_) if self.admission.goodbyes == Goodbyes::Off => {
                let error =
                    "This collector takes no goodbyes (GOODBYE=off): an agent that stops is found dead";
                Response::error(405, error).with("Allow", self.allowed("", Route::Heartbeat))
            }
            Target::Goodbye(id) | Target::Remove(id) => with_id(id.as_ref(), |id| self.remove(id)),
            Target::Agents(Ok(listing)) => {
                let (endpoints, listing) = (Arc::clone(self), listing.clone());
                return Work::Long(Box::new(move || endpoints.agents(&listing)));
            }
            Target::Agents(Err(error)) => Response::error(400, error),
            Target::Agent(id) => with_id(id.as_ref(), |id| self.agent(id)),
            Target::Health => self.health(),
            Target::Ready => self.ready(),
            Target::Metrics => {
                let endpoints = Arc::clone(self);
                return Work::Long(Box::new(move || endpoints.metrics()));
            }
            Target::Root => self.root(),
            Target::WrongMethod(methods, route) if method == "OPTIONS" => {
                let allowed = self.allowed(methods, *route);
                Response::no_content().with("Allow", format!("{allowed}, OPTIONS"))
            }
            Target::WrongMethod(methods, route) => {
                let allowed = self.allowed(methods, *route);
                Response::error(405, &format!("Method not allowed, use {allowed}")).with("Allow", allowed)
            }
            Target::Heartbeat(_) | Target::Observe(_) => {
                Response::error(404, "Heartbeats and streams are taken at the collector's port only")
            }
            Target::Unknown => Response::error(404, "Not found, see / for the endpoints"),
        })
    }

    /// Answers a request at the admin socket. A client that reaches it needs no key.
    pub fn admin(self: &Arc<Self>, method: &str, url: &str) -> Response {
        let arrived = self.uptime();
        let target = Target::parse(method, url);
        let response = match self.question(&target, method) {
            Work::Done(response) => response,
            Work::Long(work) => work(),
        };
        let (endpoints, route) = (Arc::clone(self), target.route());
        response.then(move || endpoints.count(route, arrived))
    }

    /// Leaves an answer to a lane. The request is counted when the lane has sent the answer.
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
        auth::may_observe(request, self.api_key.as_ref(), self.ticket.as_ref())?;
        let full = |why| Response::error(503, why).retry_after(RETRY_WHEN_CROWDED);
        // A client that sends no valid handshake must learn of this too.
        if self.parts.observers.is_full() {
            return Err(full(CROWDED));
        }
        let accepted = websocket::accept(request, PROTOCOL)?;
        let observation = match self.parts.observers.join(topic.clone()) {
            Ok(Some(observation)) if !observation.is_ending() => observation,
            Ok(Some(_)) | Err(_) => return Err(full("No stream can be opened now")),
            Ok(None) => return Err(full(CROWDED)),
        };
        let endpoints = Arc::clone(self);
        Ok(Next::Stream(Box::new(move |upgraded| {
            stream::serve(&endpoints, upgraded, &accepted, &observation, &topic);
        })))
    }

    fn remove(&self, id: &AgentId) -> Response {
        let was_known = self.parts.shared.recorded(|registry, now, tape| {
            let was_known = registry.forget(now, id);
            if was_known {
                tape.forgot(now, id);
            }
            was_known
        });
        if !was_known {
            return self.not_found(id);
        }
        self.parts.shared.wake();
        log::info!(agent_uuid:% = id; "removed on request");
        Response::json(200, &Removed { removed: true, agent_uuid: id })
    }

    fn agents(&self, listing: &Listing) -> Response {
        let parts = Arc::clone(&self.parts);
        match AgentList::new(parts, &self.cluster_id, &self.cluster_name, listing) {
            Ok(list) => {
                let response = Response::stream(list);
                match &self.ticket {
                    Some(ticket) => ticket.give(response),
                    None => response,
                }
            }
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
        Response::json(200, &Health::new(self))
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
        let numbers = self.parts.shared.with(|registry, now| Numbers::of(registry, now));
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
