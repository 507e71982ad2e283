//! All endpoints in one table: method, path, who may ask, and who answers.

use std::sync::Arc;

use pap_http::response::Response;

use super::call::Call;
use super::{agents, channels, clusters, incidents, machines, page, proxy, session, workers};
use crate::channels::Kind;
use crate::station::Station;

/// Answers on a lane.
pub type OnCall = fn(&Arc<Station>, &Call) -> Response;
/// Answers on a lane, for a kind of channel.
pub type OnChannel = fn(&Arc<Station>, &Call, Kind) -> Response;

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Everyone.
    Nothing,
    /// The collector of the cluster in the path, or an admin.
    Collector,
    /// The agent in the path, or an admin.
    Agent,
    /// A machine, or an admin.
    Machine,
    /// A person.
    Viewer,
    /// A person who may do everything.
    Admin,
    /// A client that has `METRICS_KEY`, a viewer or an admin; everyone if the key is not set.
    MetricsKey,
}

/// Who answers.
#[derive(Clone, Copy)]
pub enum Handler {
    /// `/health`, at once.
    Health,
    /// `/ready`, at once.
    Ready,
    /// A heartbeat of an agent, at once.
    Heartbeat,
    /// The page's stream.
    Live,
    /// `/metrics`.
    Metrics,
    /// A part of the page.
    Page(fn() -> Response),
    /// A lane, for what needs the file or waits for other programs.
    Call(OnCall),
    /// The same for a kind of channel.
    Channel(OnChannel, Kind),
}

/// An endpoint. A part of its path that begins with a colon is a name that stands for any text.
pub struct Route {
    /// Its method; GET stands for HEAD, too.
    pub method: &'static str,
    /// Its path.
    pub path: &'static str,
    /// Who may ask.
    pub need: Need,
    /// Who answers.
    pub handler: Handler,
}

const fn route(method: &'static str, path: &'static str, need: Need, handler: Handler) -> Route {
    Route { method, path, need, handler }
}

const fn call(method: &'static str, path: &'static str, need: Need, handler: OnCall) -> Route {
    route(method, path, need, Handler::Call(handler))
}

const fn channel(
    method: &'static str,
    path: &'static str,
    need: Need,
    handler: OnChannel,
    kind: Kind,
) -> Route {
    route(method, path, need, Handler::Channel(handler, kind))
}

/// All endpoints.
pub static ROUTES: &[Route] = &[
    route("GET", "/", Need::Nothing, Handler::Page(page::page)),
    route("GET", "/page.css", Need::Nothing, Handler::Page(page::style)),
    route("GET", "/page.js", Need::Nothing, Handler::Page(page::script)),
    route("GET", "/health", Need::Nothing, Handler::Health),
    route("GET", "/ready", Need::Nothing, Handler::Ready),
    route("GET", "/metrics", Need::MetricsKey, Handler::Metrics),
    route("GET", "/api/live", Need::Viewer, Handler::Live),
    call("GET", "/api/session", Need::Nothing, session::show),
    call("POST", "/api/session", Need::Nothing, session::open),
    call("DELETE", "/api/session", Need::Nothing, session::end),
    call("GET", "/api/clusters", Need::Viewer, clusters::list),
    call("POST", "/api/clusters", Need::Admin, clusters::create),
    call("GET", "/api/clusters/:id", Need::Viewer, clusters::show),
    call("PUT", "/api/clusters/:id", Need::Collector, clusters::put),
    call("DELETE", "/api/clusters/:id", Need::Collector, clusters::remove),
    call("POST", "/api/clusters/:id/heartbeat", Need::Collector, clusters::beat),
    call("POST", "/api/clusters/:id/alerts", Need::Collector, clusters::post_alert),
    call("GET", "/api/clusters/:id/alerts", Need::Viewer, clusters::alerts),
    call("GET", "/api/clusters/:id/agents", Need::Viewer, proxy::agents),
    call("GET", "/api/clusters/:id/agents/:agent", Need::Viewer, proxy::agent),
    call("POST", "/api/clusters/:id/keys", Need::Admin, clusters::make_key),
    call("DELETE", "/api/clusters/:id/keys", Need::Admin, clusters::end_keys),
    call("GET", "/api/workers", Need::Viewer, workers::list),
    call("POST", "/api/workers/prune", Need::Admin, workers::prune),
    call("POST", "/api/alerts/:uuid/ack", Need::Admin, incidents::acknowledge_alert),
    call("DELETE", "/api/alerts/:uuid/ack", Need::Admin, incidents::take_back_alert),
    call("GET", "/api/incidents", Need::Viewer, incidents::list),
    call("POST", "/api/incidents/:id/ack", Need::Admin, incidents::acknowledge_incident),
    call("DELETE", "/api/incidents/:id/ack", Need::Admin, incidents::take_back_incident),
    call("POST", "/api/incidents/:id/close", Need::Admin, incidents::close),
    route("POST", "/api/agents/:id/heartbeat", Need::Agent, Handler::Heartbeat),
    call("POST", "/api/agents/:id/lifecycle", Need::Agent, agents::lifecycle),
    call("POST", "/api/agents/:id/metrics", Need::Agent, agents::metrics),
    call("POST", "/api/agents/:id/state", Need::Agent, agents::state),
    call("GET", "/api/agents", Need::Viewer, agents::list),
    call("GET", "/api/agents/:id", Need::Viewer, agents::show),
    call("POST", "/api/agents/:id/keys", Need::Admin, agents::make_key),
    call("DELETE", "/api/agents/:id/keys", Need::Admin, agents::end_keys),
    call("POST", "/agent/register", Need::Admin, machines::register),
    call("POST", "/agent/metrics", Need::Machine, machines::report),
    call("POST", "/api/machines/:id/heartbeat", Need::Machine, machines::heartbeat),
    call("GET", "/machines", Need::Viewer, machines::list),
    call("GET", "/machines/:id", Need::Viewer, machines::show),
    call("PATCH", "/machines/:id", Need::Admin, machines::change),
    call("DELETE", "/machines/:id", Need::Admin, machines::remove),
    call("POST", "/machines/:id/disable", Need::Admin, machines::disable),
    call("POST", "/machines/:id/enable", Need::Admin, machines::enable),
    call("POST", "/machines/:id/rotate-key", Need::Admin, machines::rotate_key),
    channel("GET", "/notifications/webhooks", Need::Viewer, channels::list, Kind::Webhook),
    channel("POST", "/notifications/webhooks", Need::Admin, channels::create, Kind::Webhook),
    channel("PUT", "/notifications/webhooks/:id", Need::Admin, channels::change, Kind::Webhook),
    channel("DELETE", "/notifications/webhooks/:id", Need::Admin, channels::remove, Kind::Webhook),
    channel("POST", "/notifications/webhooks/:id/test", Need::Admin, channels::test, Kind::Webhook),
    channel(
        "GET",
        "/notifications/webhooks/:id/deliveries",
        Need::Viewer,
        channels::deliveries,
        Kind::Webhook,
    ),
    channel("GET", "/notifications/telegram", Need::Viewer, channels::list, Kind::Telegram),
    channel("POST", "/notifications/telegram", Need::Admin, channels::create, Kind::Telegram),
    channel("PUT", "/notifications/telegram/:id", Need::Admin, channels::change, Kind::Telegram),
    channel("DELETE", "/notifications/telegram/:id", Need::Admin, channels::remove, Kind::Telegram),
    channel("POST", "/notifications/telegram/:id/test", Need::Admin, channels::test, Kind::Telegram),
    channel(
        "GET",
        "/notifications/telegram/:id/deliveries",
        Need::Viewer,
        channels::deliveries,
        Kind::Telegram,
    ),
];

/// What a request leads to.
pub enum Found {
    /// An endpoint, and the parts of the path where the route has names.
    Route(&'static Route, Vec<String>),
    /// A path without this method; the methods that it has.
    Methods(String),
    /// No such path.
    Nothing,
}

/// Agents that follow the central app's document have this in their paths twice: it is in their
/// setting, and they add it once more.
const DOUBLED: [&str; 2] = ["api", "agents"];

/// Where a method and a path lead.
pub fn find(method: &str, parts: &[String]) -> Found {
    let is_doubled = parts.len() > 4 && parts[..2] == DOUBLED && parts[2..4] == DOUBLED;
    let parts = if is_doubled { &parts[2..] } else { parts };
    let mut methods = Vec::new();
    for route in ROUTES {
        if let Some(parameters) = matches(route.path, parts) {
            if route.method == method {
                return Found::Route(route, parameters);
            }
            methods.push(route.method);
        }
    }
    if methods.is_empty() { Found::Nothing } else { Found::Methods(methods.join(", ")) }
}

fn matches(path: &str, parts: &[String]) -> Option<Vec<String>> {
    let mut parameters = Vec::new();
    let mut parts = parts.iter();
    for wanted in path[1..].split('/') {
        let part = parts.next()?;
        if wanted.starts_with(':') {
            if part.is_empty() {
                return None;
            }
            parameters.push(part.clone());
        } else if wanted != part {
            return None;
        }
    }
    parts.next().is_none().then_some(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(method: &str, path: &str) -> Result<(&'static str, Vec<String>), String> {
        match find(method, &super::super::call::segments(path).unwrap()) {
            Found::Route(route, parameters) => Ok((route.path, parameters)),
            Found::Methods(methods) => Err(methods),
            Found::Nothing => Err(String::new()),
        }
    }

    #[test]
    fn paths_lead_to_endpoints() {
        let to = |path: &'static str, parameters: &[&str]| {
            Ok((path, parameters.iter().map(|part| (*part).to_owned()).collect()))
        };
        assert_eq!(led("GET", "/"), to("/", &[]));
        assert_eq!(led("POST", "/api/agents/a%2Fb/heartbeat"), to("/api/agents/:id/heartbeat", &["a/b"]));
        assert_eq!(
            led("POST", "/api/agents/api/agents/x/heartbeat"),
            to("/api/agents/:id/heartbeat", &["x"])
        );
        assert_eq!(
            led("GET", "/api/clusters/c/agents/a"),
            to("/api/clusters/:id/agents/:agent", &["c", "a"])
        );
        assert_eq!(led("GET", "/machines/"), to("/machines", &[]));
        assert_eq!(led("PUT", "/api/clusters"), Err("GET, POST".into()));
        assert_eq!(led("GET", "/nothing"), Err(String::new()));
        assert_eq!(led("GET", "/api/clusters//alerts"), Err(String::new()));
    }

    #[test]
    fn everything_that_changes_something_needs_a_key() {
        for route in ROUTES {
            let is_open = route.need == Need::Nothing;
            let is_session = route.path == "/api/session";
            assert!(!is_open || is_session || route.method == "GET", "{} {}", route.method, route.path);
            assert!(route.need != Need::Viewer || route.method == "GET", "viewers only read: {}", route.path);
        }
    }
}
