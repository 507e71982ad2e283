//! Which of a client's bytes are a request (RFC 9112), and which requests are taken.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use httparse::{Error, Header, Status};

use crate::chunked::{Decoded, MAX_FRAMING, decode};
use crate::request::{Request, Version, tokens, values};

/// The largest head that is taken, in bytes, and the most header lines in it.
pub const MAX_HEAD: usize = 16 * 1024;
/// See [`MAX_HEAD`].
pub const MAX_LINES: usize = 100;
/// The longest target that is taken, in bytes.
pub const MAX_TARGET: usize = 8 * 1024;
/// The largest request with a body of at most `max_body` bytes, framing of chunks
/// included.
pub const fn max_request(max_body: usize) -> usize {
    MAX_HEAD + max_body + MAX_FRAMING
}

/// Empty lines that may stand before a request (RFC 9112 §2.2).
const MAX_EMPTY_LINES: usize = 8;

/// Why a request is not taken. We then do not know where the next request begins, or do not
/// want it: the connection ends with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 505: a version other than 1.0 and 1.1.
    Version,
    /// 400: it is not HTTP.
    Malformed,
    /// 414: its target has more than 8 KiB.
    LongTarget,
    /// 431: its head has more than 16 KiB, or more than 100 lines.
    LargeHead,
    /// 400: no `Host`, several, or one that is no authority (RFC 9112 §3.2).
    Host,
    /// 400: no number, several, or beside a transfer coding (RFC 9112 §6.3).
    Length,
    /// 400: a transfer coding that does not end in `chunked`, or in HTTP/1.0.
    Coding,
    /// 501: a transfer coding that is not known (RFC 9112 §6.1).
    UnknownCoding,
    /// 413: its body is longer than so many bytes.
    LongBody(usize),
    /// 417: the client expects something other than a 100 (RFC 9110 §10.1.1).
    Expectation,
    /// 408: it was not complete in time, or gave way to others.
    Timeout,
}

impl Refused {
    /// The status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::Host | Self::Length | Self::Coding => 400,
            Self::Timeout => 408,
            Self::LongBody(_) => 413,
            Self::LongTarget => 414,
            Self::Expectation => 417,
            Self::LargeHead => 431,
            Self::UnknownCoding => 501,
            Self::Version => 505,
        }
    }

    /// What is wrong, and what is allowed.
    pub fn words(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Version => "Only HTTP/1.0 and HTTP/1.1 are spoken",
            Self::Malformed => "This is not a request of HTTP/1.1",
            Self::LongTarget => "A target must have at most 8192 bytes",
            Self::LargeHead => "A head must have at most 16384 bytes in 100 lines",
            Self::Host => "A request of HTTP/1.1 needs exactly one Host",
            Self::Length => {
                "A body needs one Content-Length, in digits, or Transfer-Encoding: chunked, not both"
            }
            Self::Coding => "Transfer-Encoding must end in chunked, and needs HTTP/1.1",
            Self::UnknownCoding => "The only transfer coding that is understood is chunked",
            Self::LongBody(most) => return Cow::Owned(format!("A body must have at most {most} bytes")),
            Self::Expectation => "The only expectation that is understood is 100-continue",
            Self::Timeout => "The request was not complete in time",
        })
    }

    /// Which part of the request is at fault: a header, a part, or all of it.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Malformed | Self::Timeout => "request",
            Self::Version => "version",
            Self::LongTarget => "target",
            Self::LargeHead => "head",
            Self::Host => "Host",
            Self::Length => "Content-Length",
            Self::Coding | Self::UnknownCoding => "Transfer-Encoding",
            Self::LongBody(_) => "body",
            Self::Expectation => "Expect",
        }
    }
}

/// What the bytes of a connection begin with.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// A part of a request.
    Partial {
        /// The head is there, and the client waits for a 100 before it sends
        /// the body (RFC 9110 §10.1.1).
        wants_continue: bool,
    },
    /// A request that is not taken.
    Refused(Refused),
    /// A whole request.
    Whole {
        /// The request.
        request: Request<'a>,
        /// How many bytes it takes up.
        length: usize,
        /// Whether the client wants another one after it on this connection
        /// (RFC 9112 §9.3).
        persists: bool,
    },
}

/// Room for what a request borrows.
pub struct Room<'a> {
    headers: [MaybeUninit<Header<'a>>; MAX_LINES],
    body: &'a mut [u8],
}

impl<'a> Room<'a> {
    /// Room for requests whose bodies are no longer than `body`.
    pub fn new(body: &'a mut [u8]) -> Self {
        Self { headers: [const { MaybeUninit::uninit() }; MAX_LINES], body }
    }
}

/// How the body of a request is framed.
enum Framing {
    Length(usize),
    Chunked,
}

/// Looks at the bytes that a connection has sent and that are not answered.
pub fn parse<'a>(bytes: &'a [u8], room: &'a mut Room<'a>) -> Parsed<'a> {
    let Room { headers: slots, body: content } = room;
    let Some(start) = empty_lines(bytes) else { return Parsed::Refused(Refused::Malformed) };
    let text = &bytes[start..];
    let mut head = httparse::Request::new(&mut []);
    let result = head.parse_with_uninit_headers(text, slots);
    let head_length = match result {
        Ok(Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(Status::Partial) if text.len() <= MAX_HEAD => return partial_head(text),
        Err(Error::Version) => return Parsed::Refused(Refused::Version),
        Ok(_) | Err(Error::TooManyHeaders) => return Parsed::Refused(too_large(text)),
        Err(_) => return Parsed::Refused(Refused::Malformed),
    };
    let refused = |why| Parsed::Refused(why);
    // httparse takes a bare LF for the end of a line.
    if has_bare_lf(&text[..head_length]) {
        return refused(Refused::Malformed);
    }
    let (Some(method), Some(target), Some(version)) = (head.method, head.path, head.version) else {
        return refused(Refused::Malformed);
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    let headers: &[Header<'_>] = head.headers;
    if target.len() > MAX_TARGET {
        return refused(Refused::LongTarget);
    }
    let Some(target) = origin_form(method, target) else { return refused(Refused::Malformed) };
    if !is_host_right(headers, version) {
        return refused(Refused::Host);
    }
    let max_body = content.len();
    let framing = match framing(headers, version, max_body) {
        Ok(framing) => framing,
        Err(why) => return refused(why),
    };
    let expects = values(headers, "Expect").next().is_some() && version == Version::Http11;
    if expects && !tokens(headers, "Expect").all(|token| token.eq_ignore_ascii_case("100-continue")) {
        return refused(Refused::Expectation);
    }
    let rest = &text[head_length..];
    let partial = || Parsed::Partial { wants_continue: expects && rest.is_empty() };
    let (body, consumed) = match framing {
        Framing::Length(length) if rest.len() < length => return partial(),
        Framing::Length(length) => (&rest[..length], length),
        Framing::Chunked => match decode(rest, content) {
            Decoded::Partial => return partial(),
            Decoded::TooLong => return refused(Refused::LongBody(max_body)),
            Decoded::Malformed => return refused(Refused::Malformed),
            Decoded::Whole { consumed, length } => (&content[..length], consumed),
        },
    };
    let says = |word| tokens(headers, "Connection").any(|token| token.eq_ignore_ascii_case(word));
    let persists = !says("close") && (version == Version::Http11 || says("keep-alive"));
    let request = Request { method, target, version, headers, body, peer: None };
    Parsed::Whole { request, length: start + head_length + consumed, persists }
}

/// Where the request begins, after empty lines; None if there are too many.
fn empty_lines(bytes: &[u8]) -> Option<usize> {
    let lines = bytes.chunks_exact(2).take_while(|line| line == b"\r\n").count();
    (lines <= MAX_EMPTY_LINES).then_some(lines * 2)
}

/// A head that is not complete. If something is wrong already, the request is refused at once.
fn partial_head<'a>(text: &[u8]) -> Parsed<'a> {
    let is_line_complete = text.contains(&b'\n');
    if has_bare_lf(text) {
        Parsed::Refused(Refused::Malformed)
    } else if !is_line_complete && text.len() > MAX_TARGET + 64 {
        Parsed::Refused(Refused::LongTarget)
    } else {
        Parsed::Partial { wants_continue: false }
    }
}

fn too_large(text: &[u8]) -> Refused {
    let first_line = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
    if first_line > MAX_TARGET { Refused::LongTarget } else { Refused::LargeHead }
}

fn has_bare_lf(text: &[u8]) -> bool {
    text.iter().enumerate().any(|(at, &byte)| byte == b'\n' && (at == 0 || text[at - 1] != b'\r'))
}

/// The path and query of a target (RFC 9112 §3.2); None if it is no target of ours.
fn origin_form<'a>(method: &str, target: &'a str) -> Option<&'a str> {
    if !target.is_ascii() {
        return None;
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Some(target);
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    match rest.find(['/', '?']) {
        Some(0) => None,
        Some(at) if rest.as_bytes()[at] == b'/' => Some(&rest[at..]),
        // A query without a path: nobody sends it, and the root answers.
        _ => Some("/"),
    }
}

fn is_host_right(headers: &[Header<'_>], version: Version) -> bool {
    let mut hosts = values(headers, "Host");
    match (hosts.next(), hosts.next()) {
        (None, _) => version == Version::Http10,
        (Some(host), None) => host
            .iter()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'@' | b'\\' | b',')),
        (Some(_), Some(_)) => false,
    }
}

/// How the body is framed (RFC 9112 §6.3).
fn framing(headers: &[Header<'_>], version: Version, max_body: usize) -> Result<Framing, Refused> {
    let mut lengths = values(headers, "Content-Length");
    let (length, another) = (lengths.next(), lengths.next());
    let has_coding = values(headers, "Transfer-Encoding").next().is_some();
    if another.is_some() || (has_coding && length.is_some()) {
        return Err(Refused::Length);
    }
    if has_coding {
        return coding(headers, version).map(|()| Framing::Chunked);
    }
    let Some(length) = length else { return Ok(Framing::Length(0)) };
    if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
        return Err(Refused::Length);
    }
    // Too long, or too long even to be a number.
    let length = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok());
    length.filter(|&length| length <= max_body).map(Framing::Length).ok_or(Refused::LongBody(max_body))
}

fn coding(headers: &[Header<'_>], version: Version) -> Result<(), Refused> {
    let is_chunked = |coding: &str| coding.eq_ignore_ascii_case("chunked");
    let mut codings = tokens(headers, "Transfer-Encoding").peekable();
    let is_text = values(headers, "Transfer-Encoding").all(<[u8]>::is_ascii);
    let (mut is_last_chunked, mut others, mut chunked) = (false, 0, 0);
    while let Some(coding) = codings.next() {
        is_last_chunked = codings.peek().is_none() && is_chunked(coding);
        if is_chunked(coding) { chunked += 1 } else { others += 1 }
    }
    if version == Version::Http10 || !is_text || !is_last_chunked || chunked > 1 {
        Err(Refused::Coding)
    } else if others > 0 {
        Err(Refused::UnknownCoding)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// What is taken: the target, the body and the length.
    type Taken = (String, Vec<u8>, usize);

    fn take(bytes: &[u8]) -> Result<Option<Taken>, Refused> {
        match parse(bytes, &mut Room::new(&mut [0; 1024])) {
            Parsed::Partial { .. } => Ok(None),
            Parsed::Refused(why) => Err(why),
            Parsed::Whole { request, length, .. } => {
                Ok(Some((request.target.to_owned(), request.body.to_vec(), length)))
            }
        }
    }

    fn length(text: &str) -> Result<Option<usize>, Refused> {
        take(text.as_bytes()).map(|taken| taken.map(|(.., length)| length))
    }

    fn post(body: &str) -> String {
        format!(
            "POST /heartbeat/a HTTP/1.1\r\nHost: a\r\nContent-LENGTH: {}\r\nX: 7\r\n\r\n{body}",
            body.len()
        )
    }

    fn with(lines: &[&str]) -> Result<Option<usize>, Refused> {
        length(&format!("POST /heartbeat/a HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", lines.join("\r\n")))
    }

    #[test]
    fn a_request_is_its_head_and_its_body() {
        assert_eq!(length(""), Ok(None));
        assert_eq!(length(GET), Ok(Some(GET.len())));
        assert_eq!(length(&GET.repeat(3)), Ok(Some(GET.len())));
        let whole = post("{\r\n\r\n}");
        assert_eq!(length(&format!("{whole}{GET}")), Ok(Some(whole.len())));
        assert_eq!(length(&whole[..whole.len() - 1]), Ok(None), "the body is not complete");
        let upgrade = ["Content-Length: 5", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"];
        assert_eq!(with(&upgrade), Ok(None), "its body is waited for like any other");
        assert_eq!(length(&format!("{}{GET}", "\r\n".repeat(8))), Ok(Some(GET.len() + 16)));
        assert_eq!(length(&format!("{}{GET}", "\r\n".repeat(9))), Err(Refused::Malformed));
    }

    #[test]
    fn only_a_short_body_of_known_length_is_taken() {
        for (line, taken) in
            [("Content-Length: 0", 0), ("content-length:17", 17), ("Content-Length:   1024  ", 1024)]
        {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
            assert_eq!(
                length(&format!("{head}{}", "x".repeat(2000))),
                Ok(Some(head.len() + taken)),
                "{line}"
            );
        }
        for (lines, refused) in [
            (&["Content-Length: 1025"][..], Refused::LongBody(1024)),
            (&["Content-Length: 100000000000000"], Refused::LongBody(1024)),
            (&["Content-Length: 99999999999999999999999"], Refused::LongBody(1024)),
            (&["Content-Length: +5"], Refused::Length),
            (&["Content-Length: -5"], Refused::Length),
            (&["Content-Length:"], Refused::Length),
            (&["Content-Length: 5, 5"], Refused::Length),
            (&["Content-Length: 5", "Content-Length: 5"], Refused::Length),
            (&["Content-Length: 5", "Transfer-Encoding: chunked"], Refused::Length),
            (&["Transfer-Encoding: identity"], Refused::Coding),
            (&["Transfer-Encoding: gzip"], Refused::Coding),
            (&["Transfer-Encoding: chunked, gzip"], Refused::Coding),
            (&["Transfer-Encoding: chunked, chunked"], Refused::Coding),
            (&["Transfer-Encoding:"], Refused::Coding),
            (&["Transfer-Encoding: gzip, chunked"], Refused::UnknownCoding),
            (&["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"], Refused::UnknownCoding),
            (&["Expect: the worst"], Refused::Expectation),
        ] {
            assert_eq!(with(lines), Err(refused), "{lines:?}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        assert_eq!(length(old), Err(Refused::Coding));
    }

    #[test]
    fn chunks_are_decoded() {
        let whole =
            "POST /heartbeat/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        let taken = take(format!("{whole}{GET}").as_bytes()).unwrap().unwrap();
        assert_eq!(taken, ("/heartbeat/a".into(), b"{}".to_vec(), whole.len()));
        assert_eq!(length(&whole[..whole.len() - 1]), Ok(None));
    }

    #[test]
    fn a_100_is_wanted_where_the_body_is_waited_for() {
        let wants = |bytes: &str| match parse(bytes.as_bytes(), &mut Room::new(&mut [0; 1024])) {
            Parsed::Partial { wants_continue } => wants_continue,
            _ => panic!("a part of a request"),
        };
        let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n";
        assert!(wants(head));
        assert!(!wants(&head[..head.len() - 1]), "its head is not complete");
        assert!(!wants(&format!("{head}1")), "the body is on its way (RFC 9110 section 10.1.1)");
        assert!(!wants(&head.replace("1.1", "1.0")));
    }

    #[test]
    fn targets_lose_their_scheme_and_authority() {
        let target = |line: &str| {
            take(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).map(|taken| taken.unwrap().0)
        };
        assert_eq!(target("GET http://c:8080/metrics?x=1").unwrap(), "/metrics?x=1");
        assert_eq!(target("GET HTTPS://c").unwrap(), "/");
        assert_eq!(target("OPTIONS *").unwrap(), "*");
        for line in ["GET *", "GET a", "CONNECT c:80", "GET ftp://a/", "GET http:///x", "GET /\u{fc}"] {
            assert_eq!(target(line), Err(Refused::Malformed), "{line}");
        }
        assert_eq!(target(&format!("GET /{}", "x".repeat(MAX_TARGET))), Err(Refused::LongTarget));
    }

    #[test]
    fn a_host_is_there_once() {
        let hosts =
            |lines: &str, version: &str| length(&format!("GET / HTTP/{version}\r\n{lines}\r\n")).map(|_| ());
        assert_eq!(hosts("", "1.0"), Ok(()));
        assert_eq!(hosts("Host:\r\n", "1.1"), Ok(()));
        assert_eq!(hosts("Host: [::1]:80\r\n", "1.1"), Ok(()));
        for wrong in [
            "",
            "Host: a\r\nhost: a\r\n",
            "Host: a b\r\n",
            "Host: a/b\r\n",
            "Host: a, b\r\n",
            "Host: u@a\r\n",
        ] {
            assert_eq!(hosts(wrong, "1.1"), Err(Refused::Host), "{wrong}");
        }
    }

    #[test]
    fn connections_persist_as_their_client_wants() {
        let persists = |version: &str, lines: &str| {
            let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
            matches!(
                parse(text.as_bytes(), &mut Room::new(&mut [0; 1024])),
                Parsed::Whole { persists: true, .. }
            )
        };
        assert!(persists("1.1", "") && persists("1.1", "Connection: Upgrade, HTTP2-Settings\r\n"));
        assert!(!persists("1.1", "Connection: x\r\nConnection: y, CLOSE\r\n"));
        assert!(persists("1.1", "Connection: disclose\r\n"), "it is another token");
        assert!(!persists("1.0", "") && persists("1.0", "Connection: Keep-Alive\r\n"));
        assert!(!persists("1.0", "Connection: keep-alive, close\r\n"));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (bytes, refused) in [
            ("GET / HTTP/1.1\n\n", Refused::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\n", Refused::Malformed),
            ("GET /  HTTP/1.1\r\n\r\n", Refused::Version),
            ("GET / HTTP/1.1\r\nX : 1\r\n\r\n", Refused::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", Refused::Malformed),
            ("GET / HTTP/1.1\r\nX: a\0\r\n\r\n", Refused::Malformed),
            ("GET / HTTP/2.0\r\n\r\n", Refused::Version),
            ("GET / HTTP/0.9\r\n\r\n", Refused::Version),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused::Version),
            ("\u{16}\u{3}\u{1}", Refused::Malformed),
        ] {
            assert_eq!(length(bytes), Err(refused), "{bytes:?}");
        }
        assert_eq!(with(&["X: \u{fc}"]).unwrap().map(|_| ()), Some(()), "obs-text (RFC 9110 section 5.5)");
    }

    #[test]
    fn a_head_ends_at_its_limits() {
        let (start, end) = ("GET / HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n");
        let filled = |more| format!("{start}{}{end}", "x".repeat(MAX_HEAD - start.len() - end.len() + more));
        assert_eq!(length(&filled(0)), Ok(Some(MAX_HEAD)));
        assert_eq!(length(&filled(1)), Err(Refused::LargeHead));
        assert_eq!(length(&filled(9)[..MAX_HEAD]), Ok(None));
        assert_eq!(length(&filled(9)[..=MAX_HEAD]), Err(Refused::LargeHead));
        let lines = |count| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(count));
        assert_eq!(length(&lines(MAX_LINES - 1)), Ok(Some(lines(MAX_LINES - 1).len())));
        assert_eq!(length(&lines(MAX_LINES)), Err(Refused::LargeHead));
        assert_eq!(length(&format!("GET /{}", "x".repeat(MAX_TARGET + 100))), Err(Refused::LongTarget));
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
                prop_assert_eq!(length(&text[..end]), Ok(expected), "of {} bytes", end);
            }
        }

        #[test]
        fn any_bytes_are_a_request_or_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = take(&bytes);
        }
    }
}
