//! Who may ask for agents, or speak for one: whoever has the key, where one is set.

use std::slice::from_ref;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use pap_http::request::Request;
use pap_http::response::Response;
use pap_process::settings::Secret;

/// The subprotocol that carries the key, for browsers.
const KEY_PROTOCOL: &str = "pap.key.";

/// Whether these headers carry one of the keys: `X-Collector-Key: KEY` or
/// `Authorization: Bearer KEY`. The time it takes tells nothing but lengths.
pub fn has_key(request: &Request<'_>, keys: &[Secret]) -> bool {
    let bearers = request.values("Authorization").filter_map(bearer);
    let offered = request.values("X-Collector-Key").chain(bearers);
    offered.fold(false, |found, offered| {
        keys.iter().fold(found, |found, key| found | bool::from(offered.ct_eq(key.reveal().as_bytes())))
    })
}

/// Whether the sender of a request may open a stream. Browsers can set no header,
/// so the key may come as a subprotocol, too.
///
/// # Errors
/// The answer that says why not.
pub fn may_observe(request: &Request<'_>, key: Option<&Secret>) -> Result<(), Response> {
    match key {
        Some(key) if has_key(request, from_ref(key)) || offers_key(request, key) => Ok(()),
        Some(_) => Err(unauthorized()),
        // A page from elsewhere could read the cluster through its reader's
        // browser. With a key set it would need that.
        None if request.values("Origin").next().is_some() && !is_same_origin(request) => Err(
            Response::error(403, "This page comes from another origin; set COLLECTOR_API_KEY and send it"),
        ),
        None => Ok(()),
    }
}

fn offers_key(request: &Request<'_>, key: &Secret) -> bool {
    let expected = BASE64_URL_SAFE_NO_PAD.encode(key.reveal());
    let offered = request.tokens("Sec-WebSocket-Protocol").filter_map(|name| name.strip_prefix(KEY_PROTOCOL));
    offered.fold(false, |found, offered| found | bool::from(offered.as_bytes().ct_eq(expected.as_bytes())))
}

/// Whether the one origin (RFC 6454 §7) names the host that the request went to.
fn is_same_origin(request: &Request<'_>) -> bool {
    let host = request.value("Host").unwrap_or_default();
    let authority = request.value("Origin").and_then(|origin| origin.split_once("://"));
    authority.is_some_and(|(_, authority)| !host.is_empty() && authority.eq_ignore_ascii_case(host))
}

/// What whoever has no key is told.
pub fn unauthorized() -> Response {
    let message = "Send the key as X-Collector-Key or as Authorization: Bearer";
    let body = serde_json::json!({ "error": "Unauthorized", "message": message });
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
