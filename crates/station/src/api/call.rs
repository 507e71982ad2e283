//! A request as the endpoints see it, and answers that many of them give.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use pap_core::time::Wall;
use pap_http::response::Response;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::access::{Grants, Role};
use crate::alert::Fault;
use crate::station::Station;
use crate::store::StoreError;

/// A request that may wait: it borrows nothing.
#[derive(Debug)]
pub struct Call {
    /// The parts of the path where the route has names, decoded.
    pub parameters: Vec<String>,
    /// The query, decoded, in its order.
    pub query: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What its sender may do.
    pub grants: Grants,
    /// When it came.
    pub now: Wall,
    /// The address that it comes from.
    pub from: Option<IpAddr>,
    /// The session that this request has ended, by its token's hash; it is still stored.
    pub ended_session: Option<crate::ids::KeyHash>,
    /// It came by TLS to a trusted proxy.
    pub is_secure: bool,
}

impl Call {
    /// A part of the path.
    pub fn parameter(&self, number: usize) -> &str {
        self.parameters.get(number).map_or("", String::as_str)
    }

    /// A number in the path.
    pub fn id(&self, number: usize) -> Option<i64> {
        self.parameter(number).parse().ok()
    }

    /// A member of the query.
    pub fn asked(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// How many entries of a list the client asks for.
    ///
    /// # Errors
    /// The answer that says what is allowed.
    pub fn limit(&self) -> Result<u32, Response> {
        match self.asked("limit") {
            None => Ok(50),
            Some(text) => match text.parse() {
                Ok(limit @ 1..=500) => Ok(limit),
                _ => Err(Response::error(400, "limit must be a whole number from 1 to 500")),
            },
        }
    }

    /// A member of the query that is `true` or `false`.
    ///
    /// # Errors
    /// The answer that says what is allowed.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Response> {
        match self.asked(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(Response::error(400, &format!("{name} must be true or false"))),
        }
    }

    /// The JSON object in the body; an empty body is an empty object.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, String> {
        let body = if self.body.is_empty() { b"{}" } else { &self.body[..] };
        // For serde a list of all values, in their order, is an object as well.
        if body.trim_ascii_start().first() == Some(&b'[') {
            return Err("it must be an object".into());
        }
        serde_json::from_slice(body).map_err(|error| error.to_string())
    }

    /// The role of the person who asks, for what is written down.
    pub fn who(&self) -> &'static str {
        self.grants.role.map_or("collector", Role::name)
    }
}

/// The parts of a path between its slashes, decoded; None if one of them is not UTF-8.
pub fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').map(|part| Some(percent_decode_str(part).decode_utf8().ok()?.into_owned())).collect()
}

/// The members of a query, decoded; what is not UTF-8 is left out.
pub fn query(text: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter_map(|(name, value)| Some((decode(name)?, decode(value)?))).collect()
}

/// How many requests may wait for other programs at the same time. The other lanes are left to
/// requests that only need the file.
const MAX_ERRANDS: usize = 8;

/// A request that waits for another program.
pub struct Errand<'a>(&'a Station);

impl<'a> Errand<'a> {
    /// Begins one; None if there are too many already.
    pub fn begin(station: &'a Station) -> Option<Self> {
        let begun = station.errands.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
            (count < MAX_ERRANDS).then_some(count + 1)
        });
        begun.ok().map(|_| Self(station))
    }
}

impl Drop for Errand<'_> {
    fn drop(&mut self) {
        self.0.errands.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The answer when there are too many [`Errand`]s.
pub fn busy() -> Response {
    Response::error(503, "Too many requests wait for other programs, try again").retry_after(2)
}

/// The answer when something could not be stored or read.
pub fn store_failed(error: &StoreError) -> Response {
    log::error!("STATION_DB: {error}");
    Response::error(503, "The station cannot use its database now").retry_after(5)
}

/// The answer to a body that is not what it must be, in the central app's form.
pub fn invalid(error: &str, details: &[Fault]) -> Response {
    Response::json(400, &json!({ "error": error, "details": details }))
}

/// The answer when what the path names is not there.
pub fn missing(what: &str) -> Response {
    Response::error(404, &format!("{what} not found"))
}

/// A text in plain, as the machine monitor's errors are.
pub fn plain(status: u16, text: &str) -> Response {
    let mut response = Response::text("text/plain; charset=utf-8", format!("{text}\n"));
    response.status = status;
    response
}

/// Nothing but a status.
pub fn empty(status: u16) -> Response {
    let mut response = Response::no_content();
    response.status = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_decoded() {
        assert_eq!(segments("/api/agents/a%2Fb/").unwrap(), ["api", "agents", "a/b"]);
        assert_eq!(segments("/").unwrap(), [""]);
        assert_eq!(segments("/%ff"), None);
        assert_eq!(
            query("a=1&b=x%20y+z&c&&=d"),
            [("a", "1"), ("b", "x y z"), ("c", ""), ("", "d")].map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }
}
