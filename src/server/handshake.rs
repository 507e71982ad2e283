//! The opening of a WebSocket (RFC 6455 §4.2): whether a request is one, and
//! whether its sender may watch.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq as _;
use tiny_http::{HTTPVersion, Header, Method, Request};
use tungstenite::handshake::derive_accept_key;

use super::answer::Answer;
use super::auth;
use pap_process::settings::Secret;

/// The subprotocol of the stream.
pub const PROTOCOL: &str = "pap.observe";
/// The subprotocol that carries the key, for browsers, which can set no header.
const KEY_PROTOCOL: &str = "pap.key.";
/// The one version there is.
const VERSION: &str = "13";

/// What an accepted handshake is answered with.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    /// `Sec-WebSocket-Accept`.
    pub accept: String,
    /// Whether the client offered [`PROTOCOL`].
    pub has_protocol: bool,
}

/// Looks at a request for a stream. `key` is what it must have, if one is set.
///
/// # Errors
/// The answer that says why not.
pub fn check(request: &Request, key: Option<&Secret>) -> Result<Accepted, Answer> {
    let headers = request.headers();
    let protocols: Vec<&str> = tokens(headers, "Sec-WebSocket-Protocol").collect();
    if let Some(key) = key
        && !auth::has_key(headers, key)
        && !offers_key(&protocols, key)
    {
        return Err(auth::unauthorized());
    }
    // A page from elsewhere could read the cluster through its reader's
    // browser. With a key set it would need that.
    if key.is_none() && value(headers, "Origin").is_some_and(|origin| !is_same_origin(headers, origin)) {
        return Err(Answer::error(
            403,
            "This page comes from another origin; set COLLECTOR_API_KEY and send it",
        ));
    }
    let wrong = |why: &str| Err(Answer::error(400, &format!("Not a WebSocket handshake: {why}")));
    if *request.method() != Method::Get || *request.http_version() < HTTPVersion(1, 1) {
        return wrong("it must be a GET of HTTP/1.1");
    }
    let has = |name, token: &str| tokens(headers, name).any(|other| other.eq_ignore_ascii_case(token));
    // tiny_http goes by the first; behind any other it would read on.
    let connection = headers.iter().find(|header| header.field.equiv("Connection"));
    let upgrades = connection.is_some_and(|header| {
        header.value.as_str().split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
    });
    if !has("Upgrade", "websocket") || !upgrades {
        return wrong("it needs Upgrade: websocket and Connection: Upgrade");
    }
    if value(headers, "Sec-WebSocket-Version") != Some(VERSION) {
        let answer = Answer::error(426, "Only version 13 of the WebSocket protocol is spoken");
        return Err(answer.with("Sec-WebSocket-Version", VERSION).with("Upgrade", "websocket"));
    }
    match value(headers, "Sec-WebSocket-Key") {
        Some(nonce) if BASE64_STANDARD.decode(nonce).is_ok_and(|nonce| nonce.len() == 16) => Ok(Accepted {
            accept: derive_accept_key(nonce.as_bytes()),
            has_protocol: protocols.contains(&PROTOCOL),
        }),
        _ => wrong("Sec-WebSocket-Key must be 16 bytes in base64"),
    }
}

fn offers_key(protocols: &[&str], key: &Secret) -> bool {
    let expected = BASE64_URL_SAFE_NO_PAD.encode(key.reveal());
    let offered = protocols.iter().filter_map(|protocol| protocol.strip_prefix(KEY_PROTOCOL));
    offered.fold(false, |found, offered| found | bool::from(offered.as_bytes().ct_eq(expected.as_bytes())))
}

/// Whether an origin (RFC 6454 §7) names the host that the request went to.
fn is_same_origin(headers: &[Header], origin: &str) -> bool {
    let host = value(headers, "Host").unwrap_or_default();
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_some_and(|authority| !host.is_empty() && authority.eq_ignore_ascii_case(host))
}

/// The value of a header that must come once; none where it comes twice.
fn value<'a>(headers: &'a [Header], name: &'static str) -> Option<&'a str> {
    let mut values = headers.iter().filter(|header| header.field.equiv(name));
    let first = values.next()?.value.as_str().trim();
    // Two origins are none of ours, whatever they say.
    if values.next().is_some() { Some("") } else { Some(first) }
}

fn tokens<'a>(headers: &'a [Header], name: &'static str) -> impl Iterator<Item = &'a str> {
    let values = headers.iter().filter(move |header| header.field.equiv(name));
    values.flat_map(|header| header.value.as_str().split(',')).map(str::trim)
}
