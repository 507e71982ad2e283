//! What a request is for, from its method and its URL.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::metrics::Route;
use pap_core::agent_id::{AgentId, IdError};
use pap_core::heartbeat::Mode;
use pap_core::registry::Filter;
use pap_core::verdict::Verdict;

/// The most agents that one request may ask for.
pub const MOST_LISTED: usize = 100_000;

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `POST /heartbeat/:agentId`; the id is as it stands in the path, so that a
    /// known agent's is read without allocating
    Heartbeat(&'a str),
    /// `DELETE /heartbeat/:agentId`
    Goodbye(Result<AgentId, IdError>),
    /// `GET /agents`
    Agents(Result<Listing, &'static str>),
    /// `GET /agents/:agentId`
    Agent(Result<AgentId, IdError>),
    /// `DELETE /agents/:agentId`
    Remove(Result<AgentId, IdError>),
    /// `GET /health`
    Health,
    /// `GET /ready`
    Ready,
    /// `GET /metrics`
    Metrics,
    /// `GET /`
    Root,
    /// `WS /observe/:agentId`, or `WS /observe` for all agents.
    Observe(Option<Result<AgentId, IdError>>),
    /// A known path with a method that it does not have: the methods that it has, and its
    /// route.
    WrongMethod(&'static str, Route),
    /// A path that is not known.
    Unknown,
}

/// Which agents to list, and how many of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Which agents are listed.
    pub filter: Filter,
    /// How many at most; None for all.
    pub limit: Option<usize>,
}

impl<'a> Target<'a> {
    /// The target of a request. HEAD is GET without the body.
    pub fn parse(method: &str, url: &'a str) -> Self {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let get = matches!(method, "GET" | "HEAD");
        // One slash at the end is ignored here and below.
        let path =
            if let "/health/" | "/ready/" | "/metrics/" = path { &path[..path.len() - 1] } else { path };
        match path {
            "/" if get => Self::Root,
            "/health" if get => Self::Health,
            "/ready" if get => Self::Ready,
            "/metrics" if get => Self::Metrics,
            "/agents" | "/agents/" if get => Self::Agents(listing(query)),
            "/observe" | "/observe/" if get => Self::Observe(None),
            "/" => Self::WrongMethod("GET, HEAD", Route::Root),
            "/health" => Self::WrongMethod("GET, HEAD", Route::Health),
            "/ready" => Self::WrongMethod("GET, HEAD", Route::Ready),
            "/metrics" => Self::WrongMethod("GET, HEAD", Route::Metrics),
            "/agents" | "/agents/" => Self::WrongMethod("GET, HEAD", Route::Agents),
            "/observe" | "/observe/" => Self::WrongMethod("GET", Route::Observe),
            _ => Self::of_agent(method, path),
        }
    }

    fn of_agent(method: &str, path: &'a str) -> Self {
        // The same for one slash after an id.
        let without_slash = |segment: &'a str| segment.strip_suffix('/').unwrap_or(segment);
        let id = |segment| AgentId::from_path(without_slash(segment));
        if let Some(segment) = path.strip_prefix("/heartbeat/") {
            return match method {
                "POST" => Self::Heartbeat(without_slash(segment)),
                "DELETE" => Self::Goodbye(id(segment)),
                _ => Self::WrongMethod("POST, DELETE", Route::Heartbeat),
            };
        }
        if let Some(segment) = path.strip_prefix("/agents/") {
            return match method {
                "GET" | "HEAD" => Self::Agent(id(segment)),
                "DELETE" => Self::Remove(id(segment)),
                _ => Self::WrongMethod("GET, HEAD, DELETE", Route::Agent),
            };
        }
        if let Some(segment) = path.strip_prefix("/observe/") {
            return match method {
                "GET" | "HEAD" => Self::Observe(Some(id(segment))),
                _ => Self::WrongMethod("GET", Route::Observe),
            };
        }
        Self::Unknown
    }

    /// Whether it needs the key where one is set.
    pub const fn is_protected(&self) -> bool {
        matches!(self.route(), Route::Agents | Route::Agent | Route::Observe)
    }

    /// Its name in the metrics.
    pub const fn route(&self) -> Route {
        match self {
            Self::Heartbeat(_) => Route::Heartbeat,
            Self::Goodbye(_) => Route::Goodbye,
            Self::Agents(_) => Route::Agents,
            Self::Agent(_) | Self::Remove(_) => Route::Agent,
            Self::Health => Route::Health,
            Self::Ready => Route::Ready,
            Self::Metrics => Route::Metrics,
            Self::Root => Route::Root,
            Self::Observe(_) => Route::Observe,
            Self::WrongMethod(_, route) => *route,
            Self::Unknown => Route::Other,
        }
    }
}

fn listing(query: &str) -> Result<Listing, &'static str> {
    let mut listing = Listing::default();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value).ok_or("a parameter is not percent-encoded UTF-8")?;
        match name {
            "status" => {
                let status = Verdict::from_name(&value).ok_or("status must be healthy, suspect or dead")?;
                listing.filter.status = Some(status);
            }
            "mode" => {
                let mode = Mode::from_name(&value).ok_or("mode must be EMERGENCY, IDLE or SLEEP")?;
                listing.filter.mode = Some(mode);
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MOST_LISTED).contains(limit));
                listing.limit = Some(limit.ok_or("limit must be a whole number from 1 to 100000")?);
            }
            "after" => {
                let after = AgentId::new(&value).map_err(|_| "after must be an agent id")?;
                listing.filter.after = Some(after);
            }
            // A parameter that is unknown here may be for a cache or a proxy.
            _ => {}
        }
    }
    Ok(listing)
}

/// Decodes a form value, in which a space may be a plus.
fn decode(value: &str) -> Option<String> {
    let spaced = if value.contains('+') { Cow::Owned(value.replace('+', " ")) } else { Cow::Borrowed(value) };
    Some(percent_decode_str(&spaced).decode_utf8().ok()?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(url: &str) -> Target<'_> {
        Target::parse("GET", url)
    }

    fn id(text: &str) -> Result<AgentId, IdError> {
        AgentId::new(text)
    }

    #[test]
    fn paths_and_methods_lead_to_targets() {
        assert_eq!(get("/"), Target::Root);
        assert_eq!(get("/health?x=1"), Target::Health);
        assert_eq!(Target::parse("HEAD", "/ready"), Target::Ready);
        assert_eq!(Target::parse("GET", "/health/?x"), Target::Health);
        assert_eq!(Target::parse("GET", "/metrics/"), Target::Metrics);
        assert_eq!(Target::parse("GET", "/metrics//"), Target::Unknown);
        assert_eq!(get("/agents/a%2Fb@1/"), Target::Agent(id("a/b@1")));
        assert_eq!(Target::parse("POST", "/heartbeat/a%2Fb/?x"), Target::Heartbeat("a%2Fb"));
        assert_eq!(Target::parse("DELETE", "/heartbeat/a"), Target::Goodbye(id("a")));
        assert_eq!(Target::parse("DELETE", "/agents/a"), Target::Remove(id("a")));
        assert_eq!(Target::parse("POST", "/heartbeat/"), Target::Heartbeat(""));
        assert_eq!(get("/heartbeat/a"), Target::WrongMethod("POST, DELETE", Route::Heartbeat));
        assert_eq!(Target::parse("PUT", "/agents/a"), Target::WrongMethod("GET, HEAD, DELETE", Route::Agent));
        assert_eq!(Target::parse("OPTIONS", "/agents"), Target::WrongMethod("GET, HEAD", Route::Agents));
        assert_eq!(get("/heartbeat"), Target::Unknown);
        assert_eq!(get("/agentsx"), Target::Unknown);
        assert_eq!(get("*"), Target::Unknown);
    }

    #[test]
    fn the_query_filters_and_pages() {
        let Target::Agents(Ok(listing)) = get("/agents?status=dead&mode=IDLE&limit=5&after=a%2Fb+c&_=1")
        else {
            panic!("a listing");
        };
        assert_eq!(listing.filter.status, Some(Verdict::Dead));
        assert_eq!(listing.filter.mode, Some(Mode::Idle));
        assert_eq!(listing.limit, Some(5));
        assert_eq!(listing.filter.after, Some(AgentId::new("a/b c").unwrap()));
        assert_eq!(get("/agents?"), Target::Agents(Ok(Listing::default())));
        for wrong in [
            "status=Dead",
            "mode=idle",
            "limit=0",
            "limit=-1",
            "limit=100001",
            "limit",
            "after=",
            "after=%ff",
        ] {
            assert!(matches!(get(&format!("/agents?{wrong}")), Target::Agents(Err(_))), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_url_has_a_target(url in "[ -~]{0,80}") {
            for method in ["GET", "POST", "DELETE", "OPTIONS"] {
                let _ = Target::parse(method, &url);
            }
        }
    }
}
