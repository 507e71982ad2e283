//! Whether the page that opens a stream comes from the address at which its browser reaches
//! this collector (RFC 6454). A browser lets no page set `Origin`, `Host` or `X-Forwarded-…` of a
//! WebSocket, so what they say is the browser's word, or a proxy's.

use std::net::Ipv6Addr;

use pap_http::request::Request;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// A host name in lower or upper case, an IPv4 address, or an IPv6 literal.
enum Host<'a> {
    Name(&'a str),
    V6(Ipv6Addr),
}

/// An origin (RFC 6454 §4).
struct Origin<'a> {
    scheme: Scheme,
    host: Host<'a>,
    port: u16,
}

/// Whether the one `Origin` of a request names its `Host`, or the `X-Forwarded-Host`
/// that a proxy has added. A request does not say how the browser spoke with a
/// proxy; where a proxy tells (`X-Forwarded-Proto`), the schemes must be the same.
pub fn is_ours(request: &Request<'_>) -> bool {
    let Some(origin) = request.value("Origin").and_then(Origin::parse) else { return false };
    let mut schemes = request.tokens("X-Forwarded-Proto").map(Scheme::parse).peekable();
    let is_scheme_ours = schemes.peek().is_none() || schemes.any(|scheme| scheme == Some(origin.scheme));
    let mut hosts = request.value("Host").into_iter().chain(request.tokens("X-Forwarded-Host"));
    is_scheme_ours && hosts.any(|host| origin.is_at(host))
}

impl<'a> Origin<'a> {
    /// The origin in this text, which is `null` or `scheme://host[:port]` (RFC 6454 §7).
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = Scheme::parse(scheme)?;
        let (host, port) = authority_of(authority)?;
        Some(Self { scheme, host, port: port.unwrap_or(scheme.port()) })
    }

    /// Whether an authority names this host and port. One without a port has the
    /// default port of the scheme.
    fn is_at(&self, authority: &str) -> bool {
        authority_of(authority)
            .is_some_and(|(host, port)| self.host == host && self.port == port.unwrap_or(self.scheme.port()))
    }
}

impl Scheme {
    /// A scheme; some proxies say `ws` or `wss` for a WebSocket.
    fn parse(text: &str) -> Option<Self> {
        let is = |name| text.eq_ignore_ascii_case(name);
        if is("http") || is("ws") {
            Some(Self::Http)
        } else {
            (is("https") || is("wss")).then_some(Self::Https)
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Host<'_>) -> bool {
        match (self, other) {
            (Host::Name(one), Host::Name(other)) => one.eq_ignore_ascii_case(other),
            (Host::V6(one), Host::V6(other)) => one == other,
            (Host::Name(_), Host::V6(_)) | (Host::V6(_), Host::Name(_)) => false,
        }
    }
}

/// The host and the port of an authority without a user (RFC 3986 §3.2).
fn authority_of(text: &str) -> Option<(Host<'_>, Option<u16>)> {
    let (host, rest) = if let Some(literal) = text.strip_prefix('[') {
        let (address, rest) = literal.split_once(']')?;
        (Host::V6(address.parse().ok()?), rest)
    } else {
        let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
        if name.is_empty() || name.contains(|c: char| !c.is_alphanumeric() && !"-._~".contains(c)) {
            return None;
        }
        (Host::Name(name), rest)
    };
    let port = match rest.strip_prefix(':') {
        Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        None if rest.is_empty() => None,
        Some(_) | None => return None,
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pap_http::parse::{Parsed, Room, parse};

    /// Whether a handshake with these lines comes from a page of ours.
    fn ours(lines: &str) -> bool {
        let text = format!("GET /observe HTTP/1.1\r\n{}\r\n\r\n", lines.replace('\n', "\r\n"));
        let mut body = [];
        let mut room = Room::new(&mut body);
        let Parsed::Whole { request, .. } = parse(text.as_bytes(), &mut room) else { panic!("{lines}") };
        is_ours(&request)
    }

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port() {
        for (host, origin) in [
            ("pap.example:8080", "http://pap.example:8080"),
            ("PAP.example:8080", "HTTP://pap.EXAMPLE:8080"),
            ("pap.example", "http://pap.example"),
            ("pap.example", "https://pap.example"),
            ("pap.example:80", "http://pap.example"),
            ("pap.example:443", "https://pap.example"),
            ("pap.example", "http://pap.example:80"),
            ("pap.example:", "http://pap.example"),
            ("[::1]:8080", "http://[::1]:8080"),
            ("[::1]", "http://[0:0:0:0:0:0:0:1]:80"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ] {
            assert!(ours(&format!("Host: {host}\nOrigin: {origin}")), "{host} {origin}");
        }
        for (host, origin) in [
            ("pap.example:8080", "http://evil.example:8080"),
            ("pap.example", "http://pap.example:8080"),
            ("pap.example:8080", "http://pap.example"),
            ("pap.example:80", "https://pap.example"),
            ("pap.example:443", "http://pap.example"),
            ("pap.example", "http://pap.example.evil.example"),
            ("pap.example", "http://evil.example#pap.example"),
            ("pap.example", "http://pap.example@evil.example"),
            ("pap.example", "http://pap.example/"),
            ("pap.example", "chrome-extension://pap.example"),
            ("pap.example", "pap.example"),
            ("pap.example", "null"),
            ("null", "null"),
            ("", "http://"),
            ("[::1]:8080", "http://[::2]:8080"),
            ("[::1]x", "http://[::1]"),
            ("pap.example:x", "http://pap.example:x"),
            ("pap.example:+80", "http://pap.example"),
            ("pap.example:65616", "http://pap.example"),
        ] {
            assert!(!ours(&format!("Host: {host}\nOrigin: {origin}")), "{host} {origin}");
        }
        assert!(!ours("Host: a\nOrigin: http://b\nOrigin: http://a"), "one of two");
        assert!(!ours("Host: a"));
    }

    #[test]
    fn what_a_proxy_says_of_its_own_address_counts() {
        let rewritten = "Host: 127.0.0.1:8080\nOrigin: https://pap.example";
        assert!(!ours(rewritten));
        assert!(ours(&format!("{rewritten}\nX-Forwarded-Host: pap.example")));
        assert!(ours(&format!(
            "{rewritten}\nX-Forwarded-Host: pap.example, inner\nX-Forwarded-Proto: https"
        )));
        assert!(!ours(&format!("{rewritten}\nX-Forwarded-Host: evil.example")));
        let kept = "Host: pap.example\nOrigin: https://pap.example";
        assert!(ours(&format!("{kept}\nX-Forwarded-Proto: wss")));
        assert!(!ours(&format!("{kept}\nX-Forwarded-Proto: http")), "another scheme is another origin");
        assert!(!ours(&format!("{kept}\nX-Forwarded-Proto: gopher")));
    }
}
