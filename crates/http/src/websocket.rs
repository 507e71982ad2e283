//! The opening of a WebSocket (RFC 6455 §4.2).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tungstenite::handshake::derive_accept_key;

use crate::request::{Request, Version};
use crate::response::Response;

/// The one version there is.
const VERSION: &str = "13";

/// What an accepted handshake is answered with.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    accept: String,
    protocol: Option<&'static str>,
}

impl Accepted {
    /// The whole answer, a 101.
    pub fn to_bytes(&self) -> Vec<u8> {
        let protocol =
            self.protocol.map_or_else(String::new, |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n{protocol}\r\n",
            self.accept
        )
        .into_bytes()
    }
}

/// Whether a request opens a WebSocket. `protocol` is the subprotocol that is
/// chosen where the client offers it.
///
/// # Errors
/// The answer that says why it does not.
pub fn accept(request: &Request<'_>, protocol: &'static str) -> Result<Accepted, Response> {
    let wrong = |why: &str| Err(Response::error(400, &format!("Not a WebSocket handshake: {why}")));
    if request.method != "GET" || request.version < Version::Http11 {
        return wrong("it must be a GET of HTTP/1.1, also from a proxy");
    }
    if !request.has_token("Upgrade", "websocket") || !request.has_token("Connection", "upgrade") {
        return wrong("it needs Upgrade: websocket and Connection: Upgrade, which a proxy must pass on");
    }
    if request.value("Sec-WebSocket-Version") != Some(VERSION) {
        let answer = Response::error(426, "Only version 13 of the WebSocket protocol is spoken");
        return Err(answer.with("Sec-WebSocket-Version", VERSION).with("Upgrade", "websocket"));
    }
    match request.value("Sec-WebSocket-Key") {
        Some(nonce) if BASE64_STANDARD.decode(nonce).is_ok_and(|nonce| nonce.len() == 16) => Ok(Accepted {
            accept: derive_accept_key(nonce.as_bytes()),
            protocol: request
                .tokens("Sec-WebSocket-Protocol")
                .any(|offered| offered == protocol)
                .then_some(protocol),
        }),
        _ => wrong("Sec-WebSocket-Key must be 16 bytes in base64"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Parsed, Room, parse};

    fn asked(lines: &str) -> Result<String, u16> {
        let text = format!("GET /observe HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let mut body = [];
        let mut room = Room::new(&mut body);
        let Parsed::Whole { request, .. } = parse(text.as_bytes(), &mut room) else { panic!("a request") };
        let accepted = accept(&request, "p").map_err(|answer| answer.status)?;
        Ok(String::from_utf8(accepted.to_bytes()).unwrap())
    }

    #[test]
    fn the_rfcs_own_handshake_is_accepted_and_others_say_why_not() {
        let lines = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        assert!(asked(lines).unwrap().contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"));
        let offered = asked(&format!("{lines}Sec-WebSocket-Protocol: o, p\r\n")).unwrap();
        assert!(offered.contains("Sec-WebSocket-Protocol: p\r\n"));
        assert_eq!(asked(""), Err(400));
        assert_eq!(asked(&lines.replace("Upgrade\r\n", "x\r\n")), Err(400));
        assert_eq!(asked(&lines.replace("13", "8")), Err(426));
        assert_eq!(asked(&lines.replace("dGhl", "")), Err(400));
    }
}
