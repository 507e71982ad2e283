//! Who may ask for agents, or send an agent's heartbeats: a client that has the key, where one
//! is set.

use std::slice::from_ref;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use pap_http::request::Request;
use pap_http::response::Response;
use pap_process::settings::Secret;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::origin;

/// The subprotocol that carries the key, for browsers.
const KEY_PROTOCOL: &str = "pap.key.";
/// The subprotocol that carries a ticket.
const TICKET_PROTOCOL: &str = "pap.ticket.";

/// What proves that a page can read our answers, and so may open a stream, where no
/// key is set. A browser lets a page of another origin send requests, but not read
/// their answers. A proxy may change `Host`, so the origin alone cannot tell.
pub struct Ticket(String);

impl Ticket {
    /// A random ticket; None if the system has no random bytes.
    pub fn new() -> Option<Self> {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).ok()?;
        Some(Self(BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// With the ticket in a header, for the page's script.
    pub fn give(&self, response: Response) -> Response {
        response.with("X-Collector-Ticket", self.0.as_str()).with("Cache-Control", "no-store")
    }
}

/// Whether these headers carry one of the keys: `X-Collector-Key: KEY` or
/// `Authorization: Bearer KEY`. How long the check takes shows nothing but lengths.
pub fn has_key(request: &Request<'_>, keys: &[Secret]) -> bool {
    let bearers = request.values("Authorization").filter_map(bearer);
    let offered = request.values("X-Collector-Key").chain(bearers);
    offered.fold(false, |found, offered| {
        keys.iter().fold(found, |found, key| found | bool::from(offered.ct_eq(key.reveal().as_bytes())))
    })
}

/// Whether the sender of a request may open a stream. Browsers can set no header,
/// so the key may come as a subprotocol, too. Without a key a page must be of our own
/// origin, or have a ticket: else a page from elsewhere could read the cluster through the
/// browser of its reader.
///
/// # Errors
/// The answer that says why not.
pub fn may_observe(
    request: &Request<'_>,
    key: Option<&Secret>,
    ticket: Option<&Ticket>,
) -> Result<(), Response> {
    match key {
        Some(key) if has_key(request, from_ref(key)) => Ok(()),
        Some(key) if offers(request, KEY_PROTOCOL, &BASE64_URL_SAFE_NO_PAD.encode(key.reveal())) => Ok(()),
        Some(_) => Err(unauthorized()),
        None if request.values("Origin").next().is_none() || origin::is_ours(request) => Ok(()),
        None if ticket.is_some_and(|ticket| offers(request, TICKET_PROTOCOL, &ticket.0)) => Ok(()),
        None => Err(Response::error(
            403,
            "This page comes from another origin than Host and X-Forwarded-Host name; set COLLECTOR_API_KEY and send it",
        )),
    }
}

/// Whether one of the offered subprotocols is `kind` with this secret behind it.
fn offers(request: &Request<'_>, kind: &str, secret: &str) -> bool {
    let offered = request.tokens("Sec-WebSocket-Protocol").filter_map(|name| name.strip_prefix(kind));
    offered.fold(false, |found, offered| found | bool::from(offered.as_bytes().ct_eq(secret.as_bytes())))
}

/// The answer to a client without a key.
pub fn unauthorized() -> Response {
    let message = "Send the key as X-Collector-Key or as Authorization: Bearer";
    let (field, reason) = ("Authorization", "must carry the key, or X-Collector-Key must");
    let body =
        serde_json::json!({ "error": "Unauthorized", "message": message, "field": field, "reason": reason });
    Response::json(401, &body).with("WWW-Authenticate", "Bearer")
}

/// The token of a bearer credential; the scheme's case does not matter
/// (RFC 9110 §11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let at = value.iter().position(|&byte| byte == b' ')?;
    value[..at].eq_ignore_ascii_case(b"Bearer").then(|| value[at..].trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens_are_found_in_any_case() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"Basic abc"), None);
        assert_eq!(bearer(b"abc"), None);
    }
}
