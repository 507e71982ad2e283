//! What of a client's bytes is a request, and which requests are taken.
//!
//! tiny_http waits for a client wherever it reads, asks for as much memory as
//! a `Content-Length` says, and leaks what it does not understand. So it gets
//! to see whole requests only, head and body, and none that it cannot bear.

use httparse::{EMPTY_HEADER, Error, Header, Status};
use tiny_http::Method;

use super::answer::Answer;
use super::target::Target;
use crate::metrics::Route;

/// The longest body that is taken, in bytes: one that is longer tiny_http does
/// not read together with the head.
pub const MAX_BODY: usize = 1024;
/// The largest head that is taken, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// And the most header lines in it: each costs tiny_http more than its bytes.
const MAX_LINES: usize = 100;
/// Few heads have more, and what this takes of the stack every connection keeps.
const USUAL_LINES: usize = 24;
/// The largest request that is taken, in bytes.
pub const MAX_REQUEST: usize = MAX_HEAD + MAX_BODY;

/// Why a request is not taken. What follows it on its connection is not known,
/// or not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is not HTTP (RFC 9112).
    Malformed,
    /// Of a version other than 1.0 and 1.1.
    Version,
    /// Its head has more than 16 KiB, or more than 100 lines.
    LargeHead,
    /// Its body is longer than 1,024 bytes.
    TooLong,
    /// The length of its body is no number, or there are several.
    BadLength,
    /// Its body is sent in chunks.
    Chunked,
    /// The client waits for a 100 before it sends the body, or for something
    /// else that tiny_http would answer by itself.
    Expects,
}

impl Refused {
    /// The answer that goes with it.
    pub fn answer(self) -> Answer {
        match self {
            Self::Malformed => Answer::error(400, "This is not a request of HTTP/1.1"),
            Self::Version => Answer::error(505, "Only HTTP/1.0 and HTTP/1.1 are spoken"),
            Self::LargeHead => Answer::error(431, "A head must have at most 16384 bytes in 100 lines"),
            Self::Chunked => Answer::error(411, "A body needs a Content-Length, chunks are not taken"),
            Self::TooLong => Answer::error(413, "A body must have at most 1024 bytes"),
            Self::BadLength => Answer::error(400, "A body needs exactly one Content-Length, in digits"),
            Self::Expects => Answer::error(417, "Expect is not supported, send the body at once"),
        }
    }
}

/// Finds the request that `bytes` begin with: its length, body and all; none
/// where more of it is to come.
///
/// # Errors
/// It is not taken; and what was asked for, as far as that is known.
pub fn frame(bytes: &[u8]) -> Result<Option<usize>, (Refused, Route)> {
    match frame_with::<USUAL_LINES>(bytes) {
        Err((Refused::LargeHead, _)) => frame_with::<MAX_LINES>(bytes),
        framed => framed,
    }
}

#[inline(never)]
fn frame_with<const LINES: usize>(bytes: &[u8]) -> Result<Option<usize>, (Refused, Route)> {
    let mut lines = [EMPTY_HEADER; LINES];
    let mut request = httparse::Request::new(&mut lines);
    let refused = |why| Err((why, Route::Other));
    // Before a request it would pass over empty lines, as tiny_http does not.
    if bytes.first().is_some_and(u8::is_ascii_whitespace) {
        return refused(Refused::Malformed);
    }
    let length = match request.parse(bytes) {
        Ok(Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(Status::Partial) if bytes.len() <= MAX_HEAD => return Ok(None),
        Ok(_) | Err(Error::TooManyHeaders) => return refused(Refused::LargeHead),
        Err(Error::Version) => return refused(Refused::Version),
        Err(_) => return refused(Refused::Malformed),
    };
    let head = &bytes[..length];
    // It takes a bare LF for the end of a line, and text that is not ASCII.
    let has_bare_lf = head.iter().zip(&head[1..]).any(|(&before, &byte)| byte == b'\n' && before != b'\r');
    if has_bare_lf || !head.is_ascii() {
        return refused(Refused::Malformed);
    }
    let route = || {
        let method: Option<Method> = request.method.and_then(|method| method.parse().ok());
        method.map_or(Route::Other, |it| Target::parse(&it, request.path.unwrap_or("")).route())
    };
    match body(request.headers) {
        Ok(body) if bytes.len() - length < body => Ok(None),
        Ok(body) => Ok(Some(length + body)),
        Err(why) => Err((why, route())),
    }
}

/// How long the body is that follows these header lines.
fn body(lines: &[Header<'_>]) -> Result<usize, Refused> {
    let has = |name: &str| lines.iter().any(|line| line.name.eq_ignore_ascii_case(name));
    let mut lengths = lines.iter().filter(|line| line.name.eq_ignore_ascii_case("Content-Length"));
    let length = lengths.next().map(|line| line.value);
    if has("Transfer-Encoding") {
        return Err(if length.is_some() { Refused::BadLength } else { Refused::Chunked });
    }
    if has("Expect") {
        return Err(Refused::Expects);
    }
    let Some(length) = length else { return Ok(0) };
    if lengths.next().is_some() || length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
        return Err(Refused::BadLength);
    }
    match std::str::from_utf8(length).map(str::parse::<usize>) {
        Ok(Ok(0)) => Ok(0),
        Ok(Ok(length @ 1..=MAX_BODY)) => Ok(length),
        // Too long, or too long even to be a number.
        _ => Err(Refused::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn post(body: &str) -> String {
        format!("POST /heartbeat/a HTTP/1.1\r\nContent-LENGTH: {}\r\nX: 7\r\n\r\n{body}", body.len())
    }

    fn with(lines: &[&str]) -> Result<Option<usize>, Refused> {
        let head = format!("POST /heartbeat/a HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
        let framed = frame(head.as_bytes());
        framed.map_err(|(why, route)| {
            assert_eq!(route, if why == Refused::Malformed { Route::Other } else { Route::Heartbeat });
            why
        })
    }

    #[test]
    fn a_request_is_its_head_and_its_body() {
        assert_eq!(frame(b""), Ok(None));
        assert_eq!(frame(GET.as_bytes()), Ok(Some(GET.len())));
        assert_eq!(frame(GET.repeat(3).as_bytes()), Ok(Some(GET.len())));
        let whole = post("{\r\n\r\n}");
        assert_eq!(frame(format!("{whole}{GET}").as_bytes()), Ok(Some(whole.len())));
        assert_eq!(frame(&whole.as_bytes()[..whole.len() - 1]), Ok(None), "the body is not complete");
        let upgrade = ["Content-Length: 5", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"];
        assert_eq!(with(&upgrade), Ok(None), "its body is waited for like any other");
    }

    #[test]
    fn only_a_short_body_of_known_length_is_taken() {
        for (line, length) in
            [("Content-Length: 0", 0), ("content-length:17", 17), ("Content-Length:   1024  ", 1024)]
        {
            let head = format!("POST / HTTP/1.1\r\n{line}\r\n\r\n");
            let whole = format!("{head}{}", "x".repeat(2000));
            assert_eq!(frame(whole.as_bytes()), Ok(Some(head.len() + length)), "{line}");
        }
        for (lines, refused) in [
            (&["Content-Length: 1025"][..], Refused::TooLong),
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
            (&["Expect: the worst"], Refused::Expects),
        ] {
            assert_eq!(with(lines), Err(refused), "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (bytes, refused) in [
            ("\r\nGET / HTTP/1.1\r\n\r\n", Refused::Malformed),
            ("GET / HTTP/1.1\n\n", Refused::Malformed),
            ("GET / HTTP/1.1\r\nX: 1\n\r\n", Refused::Malformed),
            ("GET /  HTTP/1.1\r\n\r\n", Refused::Version),
            ("GET / HTTP/1.1\r\nX : 1\r\n\r\n", Refused::Malformed),
            ("GET / HTTP/1.1\r\nX: \u{fc}\r\n\r\n", Refused::Malformed),
            ("GET / HTTP/1.1\r\nX: 1\r\n 2\r\n\r\n", Refused::Malformed),
            ("GET / HTTP/2.0\r\n\r\n", Refused::Version),
            ("GET / HTTP/0.9\r\n\r\n", Refused::Version),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused::Version),
        ] {
            assert_eq!(frame(bytes.as_bytes()), Err((refused, Route::Other)), "{bytes}");
        }
    }

    #[test]
    fn a_head_ends_at_its_limits() {
        let (start, end) = ("GET / HTTP/1.1\r\nX: ", "\r\n\r\n");
        let filled = |more| format!("{start}{}{end}", "x".repeat(MAX_HEAD - start.len() - end.len() + more));
        assert_eq!(frame(filled(0).as_bytes()), Ok(Some(MAX_HEAD)));
        assert_eq!(frame(filled(1).as_bytes()), Err((Refused::LargeHead, Route::Other)));
        let begun = &filled(9)[..];
        assert_eq!(frame(&begun.as_bytes()[..MAX_HEAD]), Ok(None));
        assert_eq!(frame(&begun.as_bytes()[..=MAX_HEAD]), Err((Refused::LargeHead, Route::Other)));
        let lines = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(count));
        assert_eq!(frame(lines(MAX_LINES).as_bytes()), Ok(Some(lines(MAX_LINES).len())));
        assert_eq!(frame(lines(MAX_LINES + 1).as_bytes()), Err((Refused::LargeHead, Route::Other)));
    }

    proptest! {
        /// However many bytes of it are there, a request is found whole or not
        /// at all, and nothing of what follows it is taken for it.
        #[test]
        fn all_of_it_or_nothing(body in prop::option::of("[ -~\r\n]{0,60}"), next in "[ -~\r\n]{0,60}") {
            let request = body.as_deref().map_or_else(|| GET.to_owned(), post);
            let text = format!("{request}{next}");
            for end in 0..=text.len() {
                let expected = (end >= request.len()).then_some(request.len());
                prop_assert_eq!(frame(&text.as_bytes()[..end]), Ok(expected), "of {} bytes", end);
            }
        }

        #[test]
        fn whatever_is_taken_is_short(value in "[0-9]{1,6}|[0-9]{1,24}|[ -~]{0,24}") {
            let head = format!("POST / HTTP/1.1\r\nContent-Length: {value}\r\n\r\n");
            let text = format!("{head}{}", "x".repeat(2 * MAX_BODY));
            if let Ok(length) = frame(text.as_bytes()) {
                let length = length.unwrap() - head.len();
                prop_assert!(length <= MAX_BODY);
                prop_assert_eq!(value.trim().parse::<usize>(), Ok(length));
            }
        }
    }
}
