//! Which bodies are read, and which are refused unread.
//!
//! tiny_http has already read a body of up to 1,024 bytes when the request
//! reaches us; to read any other body would be to wait for a client. So those
//! are refused, and because what follows on the connection is then unknown,
//! the connection is closed.

use std::io::Read as _;

use tiny_http::{Header, Request};

use super::answer::Answer;

/// The longest body that is taken, in bytes.
pub const MAX_BODY: usize = 1024;

/// A body that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// It is in memory, with this many bytes.
    Buffered(usize),
    /// It has this many bytes, which may still be on their way: the client
    /// offers to change the protocol (to HTTP/2, as some do by default).
    Unbuffered(usize),
}

/// Why a body is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It has no length, and one is needed (RFC 9110 §15.5.12).
    NoLength,
    /// Its length is longer than 1,024 bytes.
    TooLong,
    /// Its length is no number, or there are several.
    BadLength,
    /// It is sent in chunks.
    Chunked,
    /// The client waits for a 100 before it sends the body.
    Expects,
}

impl Refused {
    /// The answer that goes with it.
    pub fn answer(self) -> Answer {
        match self {
            Self::NoLength => Answer::error(411, "A heartbeat needs a Content-Length"),
            Self::Chunked => Answer::error(411, "A body needs a Content-Length, chunks are not taken"),
            Self::TooLong => Answer::error(413, "A body must have at most 1024 bytes"),
            Self::BadLength => Answer::error(400, "A body needs exactly one Content-Length, in digits"),
            Self::Expects => Answer::error(417, "Expect is not supported, send the body at once"),
        }
    }

    /// Whether a body may follow that nobody is going to read.
    pub const fn leaves_body(self) -> bool {
        !matches!(self, Self::NoLength)
    }
}

/// What body follows these headers.
///
/// # Errors
/// One that is not taken.
pub fn body(headers: &[Header], wanted: bool) -> Result<Body, Refused> {
    let mut lengths = headers.iter().filter(|header| header.field.equiv("Content-Length"));
    let length = lengths.next().map(|header| header.value.as_str());
    let has = |name| headers.iter().any(|header| header.field.equiv(name));
    let upgrade = headers.iter().filter(|header| header.field.equiv("Connection"));
    let upgrade = upgrade.map(|header| header.value.as_str().to_ascii_lowercase());
    if has("Transfer-Encoding") {
        return Err(if length.is_some() { Refused::BadLength } else { Refused::Chunked });
    }
    let Some(length) = length else {
        return if wanted { Err(Refused::NoLength) } else { Ok(Body::None) };
    };
    if lengths.next().is_some() || length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refused::BadLength);
    }
    match length.parse::<usize>() {
        Ok(0) => Ok(Body::None),
        Ok(1..=MAX_BODY) if has("Expect") => Err(Refused::Expects),
        Ok(length @ 1..=MAX_BODY) if upgrade.into_iter().any(|value| value.contains("upgrade")) => {
            Ok(Body::Unbuffered(length))
        }
        Ok(length @ 1..=MAX_BODY) => Ok(Body::Buffered(length)),
        // Too long, or too long even to be a number.
        Ok(_) | Err(_) => Err(Refused::TooLong),
    }
}

/// Takes a body that is in memory.
pub fn read(request: &mut Request, body: Body) -> Vec<u8> {
    let (Body::Buffered(length) | Body::Unbuffered(length)) = body else { return Vec::new() };
    let mut body = Vec::with_capacity(length);
    // A body that ends too early fails as a heartbeat.
    let _ = request.as_reader().take(length as u64).read_to_end(&mut body);
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(headers: &[&str], wanted: bool) -> Result<Body, Refused> {
        let headers: Vec<Header> = headers.iter().map(|header| header.parse().unwrap()).collect();
        body(&headers, wanted)
    }

    #[test]
    fn only_a_short_body_of_known_length_is_taken() {
        assert_eq!(of(&["Content-Length: 17"], true), Ok(Body::Buffered(17)));
        assert_eq!(of(&["content-length: 1024"], true), Ok(Body::Buffered(1024)));
        assert_eq!(of(&["Content-Length: 0"], true), Ok(Body::None));
        assert_eq!(of(&["Content-Length: 1", "Connection: keep-alive"], true), Ok(Body::Buffered(1)));
        assert_eq!(of(&[], false), Ok(Body::None));
        assert_eq!(of(&["Connection: Upgrade", "Upgrade: h2c"], false), Ok(Body::None));
        let upgrade = ["Content-Length: 5", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"];
        assert_eq!(of(&upgrade, true), Ok(Body::Unbuffered(5)));
        for (headers, refused) in [
            (&[][..], Refused::NoLength),
            (&["Content-Length: 1025"], Refused::TooLong),
            (&["Content-Length: 100000000000000"], Refused::TooLong),
            (&["Content-Length: 99999999999999999999999"], Refused::TooLong),
            (&["Content-Length: +5"], Refused::BadLength),
            (&["Content-Length: -5"], Refused::BadLength),
            (&["Content-Length:"], Refused::BadLength),
            (&["Content-Length: 5, 5"], Refused::BadLength),
            (&["Content-Length: 5", "Content-Length: 5"], Refused::BadLength),
            (&["Content-Length: 5", "Transfer-Encoding: chunked"], Refused::BadLength),
            (&["Transfer-Encoding: identity"], Refused::Chunked),
            (&["Content-Length: 5", "Expect: 100-continue"], Refused::Expects),
        ] {
            assert_eq!(of(headers, true), Err(refused), "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_buffered_is_short(value in "[0-9]{1,6}|[0-9]{1,24}|[ -~]{0,24}", wanted: bool) {
            let headers = [Header::from_bytes("Content-Length", value.as_bytes()).unwrap()];
            if let Ok(Body::Buffered(length)) = body(&headers, wanted) {
                prop_assert!((1..=MAX_BODY).contains(&length));
                prop_assert_eq!(value.parse::<usize>(), Ok(length));
            }
        }
    }
}
