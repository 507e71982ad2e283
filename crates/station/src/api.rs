//! What each endpoint does, as docs/station.md lists them. The event loop answers
//! heartbeats of agents, `/health` and `/ready`; a lane answers what needs the file or
//! another program.

mod agents;
mod call;
mod channels;
mod clusters;
mod health;
mod incidents;
mod live;
mod machines;
mod page;
mod proxy;
mod routes;
mod session;
mod workers;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use pap_core::time::{Tick, Wall};
use pap_http::parse::Refused;
use pap_http::request::Request;
use pap_http::response::Response;
use pap_http::service::{Closed, Next, Reply, Service, States};
use pap_http::websocket;
use pap_process::clock::wall;
use pap_process::settings::Secret;

use crate::access::{Credentials, Role, offered};
use crate::ids::hash;
use crate::station::Station;
use call::{Call, plain, query, segments};
pub use clusters::origin;
use routes::{Found, Handler, Route};
pub use routes::{Need, ROUTES};

/// The subprotocol of the page's stream.
const PROTOCOL: &str = "pap.live";

/// The station's API.
pub struct Api {
    station: Arc<Station>,
    /// Counts the connections; set once the server is made.
    connections: OnceLock<Box<dyn Fn() -> States + Send + Sync>>,
}

impl Api {
    /// The endpoints of a station.
    pub fn new(station: Arc<Station>) -> Self {
        Self { station, connections: OnceLock::new() }
    }

    /// Sets the function that counts the connections.
    pub fn count_connections(&self, count: impl Fn() -> States + Send + Sync + 'static) {
        let set = self.connections.set(Box::new(count));
        debug_assert!(set.is_ok(), "there is one server");
    }

    /// The address of the client, as far as it is known.
    fn from(&self, request: &Request<'_>) -> Option<IpAddr> {
        let forwarded = || request.tokens("X-Forwarded-For").last()?.trim().parse().ok();
        if self.station.config.trust_proxy { forwarded().or(request.peer) } else { request.peer }
    }

    fn is_secure(&self, request: &Request<'_>) -> bool {
        self.station.config.trust_proxy && request.has_token("X-Forwarded-Proto", "https")
    }

    fn answer(&self, request: &Request<'_>) -> Result<Next, Response> {
        let station = &self.station;
        let (path, asked) = request.target.split_once('?').unwrap_or((request.target, ""));
        if request.target == "*" {
            return Err(Response::no_content().with("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        let parts = segments(path).ok_or_else(|| Response::error(400, "The path must be UTF-8"))?;
        let method = if request.is_head() { "GET" } else { request.method };
        let (route, parameters) = match routes::find(method, &parts) {
            Found::Route(route, parameters) => (route, parameters),
            Found::Methods(methods) if request.method == "OPTIONS" => {
                return Err(Response::no_content().with("Allow", format!("{methods}, OPTIONS")));
            }
            Found::Methods(methods) => {
                let error = format!("Method not allowed, use {methods}");
                return Err(Response::error(405, &error).with("Allow", methods));
            }
            Found::Nothing => return Err(Response::error(404, "Not found")),
        };
        let now = wall();
        let credentials = station.keys.judge(request, now);
        let from = self.from(request);
        self.admit(route, &parameters, request, &credentials, from)?;
        self.note_heard(route, &parameters, &credentials);
        let heartbeat = |station: &Arc<Station>| {
            agents::heartbeat(station, &parameters[0], request.body, request.peer, now)
        };
        let handler = match route.handler {
            Handler::Health => return Err(health::health(station)),
            Handler::Ready => return Err(health::ready(station)),
            Handler::Heartbeat => return Err(heartbeat(station)),
            Handler::Live => return self.live(request),
            Handler::Metrics => {
                let states = self.connections.get().map_or_else(States::default, |count| count());
                Lane::Metrics(states)
            }
            Handler::Page(page) => Lane::Page(page),
            Handler::Call(handler) => Lane::Call(handler),
            Handler::Channel(handler, kind) => Lane::Channel(handler, kind),
        };
        let ends_session = route.method == "DELETE" && route.path == "/api/session";
        let call = Call {
            parameters,
            query: query(asked),
            body: request.body.to_vec(),
            grants: credentials.grants,
            now,
            from,
            ended_session: if ends_session { station.keys.end_session(request) } else { None },
            is_secure: self.is_secure(request),
        };
        let station = Arc::clone(station);
        Ok(Next::Lane(Box::new(move || match handler {
            Lane::Metrics(states) => health::metrics(&station, &call, states),
            Lane::Page(page) => page(),
            Lane::Call(handler) => handler(&station, &call),
            Lane::Channel(handler, kind) => handler(&station, &call, kind),
        })))
    }

    /// A request of a watched machine or collector counts as heard now, before it waits for a lane
    /// and is stored. So none is accused that has sent something in time.
    fn note_heard(&self, route: &Route, parameters: &[String], credentials: &Credentials) {
        let named = || parameters.first().and_then(|id| id.parse().ok());
        match route.need {
            Need::Machine => {
                if let Some(machine) = credentials.grants.machine.or_else(named) {
                    self.station.refresh_machine(machine);
                }
            }
            Need::Collector if route.path.ends_with("/heartbeat") || route.method == "PUT" => {
                self.station.refresh_collector(&parameters[0]);
            }
            _ => {}
        }
    }

    /// Whether the sender of a request may ask for this.
    ///
    /// # Errors
    /// The answer that says why not.
    fn admit(
        &self,
        route: &Route,
        parameters: &[String],
        request: &Request<'_>,
        credentials: &Credentials,
        from: Option<IpAddr>,
    ) -> Result<(), Response> {
        let grants = &credentials.grants;
        let subject = parameters.first().map_or("", String::as_str);
        let is_allowed = match route.need {
            Need::Nothing => true,
            Need::Collector => grants.may_speak_for_cluster(subject),
            Need::Agent => grants.may_speak_for_agent(subject),
            Need::Machine => grants.machine.is_some() || grants.is(Role::Admin),
            Need::Viewer => grants.is(Role::Viewer),
            Need::Admin => grants.is(Role::Admin),
            Need::MetricsKey => match &self.station.config.metrics_key {
                None => true,
                Some(key) => grants.is(Role::Viewer) || has_key(request, key),
            },
        };
        if !is_allowed {
            if credentials.has_wrong_key {
                self.station.metrics.wrong_key();
                if let Some(response) = too_many(&self.station, from) {
                    return Err(response);
                }
            }
            return Err(refusal(route.need, credentials));
        }
        // A browser sends a cookie by itself, so another site's page could act with it.
        if credentials.is_by_cookie && route.method != "GET" && !is_same_site(request) {
            return Err(Response::error(403, "This request comes from a page of another site"));
        }
        Ok(())
    }

    fn live(&self, request: &Request<'_>) -> Result<Next, Response> {
        if !is_same_site(request) {
            return Err(Response::error(403, "This request comes from a page of another site"));
        }
        let accepted = websocket::accept(request, PROTOCOL)?;
        let Some(place) = live::Place::take(&self.station) else {
            return Err(Response::error(503, "As many pages watch as may").retry_after(30));
        };
        let station = Arc::clone(&self.station);
        Ok(Next::Stream(Box::new(move |upgraded| live::serve(&station, upgraded, &accepted, place))))
    }
}

/// What a lane does.
enum Lane {
    Metrics(States),
    Page(fn() -> Response),
    Call(routes::OnCall),
    Channel(routes::OnChannel, crate::channels::Kind),
}

impl Service for Api {
    const NAME: &'static str = "pap-station";
    const MAX_BODY: usize = 64 * 1024;
    /// So many alerts can be committed together.
    const LANES: usize = 32;
    const MAX_WAITING: usize = 512;

    fn call(&self, request: &Request<'_>, reply: &mut Reply<'_>) -> Next {
        match self.answer(request) {
            Ok(next) => next,
            Err(response) => {
                reply.send(&response);
                Next::Answered
            }
        }
    }

    fn now(&self) -> Tick {
        self.station.clock.now().tick
    }

    fn wall(&self) -> Wall {
        wall()
    }

    fn refused(&self, _: Refused) {}

    fn closed(&self, _: Closed) {}
}

/// Whether the metrics' key is among those that a request brings.
fn has_key(request: &Request<'_>, key: &Secret) -> bool {
    // Hashes are compared, so how long it takes shows nothing of the key.
    let wanted = hash(key.reveal().as_bytes());
    offered(request).any(|key| hash(key) == wanted)
}

/// Whether a request comes from our own page, or from no page at all (Fetch Metadata; for
/// browsers that do not send it, the origin must be the host's).
fn is_same_site(request: &Request<'_>) -> bool {
    match request.value("Sec-Fetch-Site") {
        Some(site) => site == "same-origin" || site == "none",
        None => request.value("Origin").is_none_or(|origin| {
            let host = request.value("Host").unwrap_or_default();
            origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
        }),
    }
}

/// The answer to one wrong key too many.
fn too_many(station: &Station, from: Option<IpAddr>) -> Option<Response> {
    let wait = station.attempts.wrong(from?, station.clock.uptime())?;
    let seconds = u32::try_from(wait.as_secs() + 1).unwrap_or(60);
    Some(Response::error(429, "Too many wrong keys, try again later").retry_after(seconds))
}

/// The answer to a key in a body that is nobody's.
fn wrong_key(station: &Station, from: Option<IpAddr>) -> Response {
    station.metrics.wrong_key();
    too_many(station, from).unwrap_or_else(|| {
        Response::error(401, "This is no key of a person").with("WWW-Authenticate", "Bearer")
    })
}

/// The answer to a client that may not do something, in the words of the program that the
/// station takes over from.
fn refusal(need: Need, credentials: &Credentials) -> Response {
    let is_somebody = credentials.grants != crate::access::Grants::default();
    let response = match need {
        Need::Collector => Response::error(401, "Invalid or missing collector API key"),
        Need::Agent if credentials.has_wrong_key => Response::error(401, "Invalid API key"),
        Need::Agent => Response::error(401, "Authorization header with Bearer token is required"),
        Need::Machine if credentials.has_wrong_key => plain(401, "Unauthorized: invalid API key"),
        Need::Machine => plain(401, "Unauthorized: API key required"),
        _ if is_somebody => return Response::error(403, "This key may not do that"),
        _ => Response::error(401, "Unauthorized"),
    };
    response.with("WWW-Authenticate", "Bearer")
}
