//! An answer, and how it becomes bytes (RFC 9112 §4, §6 and §7).

use std::fmt::Write as _;
use std::io::Read;
use std::time::SystemTime;

use httpdate::HttpDate;
use serde::Serialize;

use crate::parse::Refused;

/// What follows the head.
pub enum Content {
    /// A body that is there as a whole.
    Whole(Vec<u8>),
    /// A body that is made while it is sent; only a lane can wait for it.
    Stream(Box<dyn Read + Send>),
}

/// An answer to a request.
pub struct Response {
    /// The status code.
    pub status: u16,
    content_type: &'static str,
    /// What follows the head.
    pub content: Content,
    headers: Vec<(&'static str, String)>,
    /// Called when a lane has sent it, or has failed to.
    pub(crate) then: Option<Box<dyn FnOnce() + Send>>,
}

impl Response {
    /// JSON.
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body);
        debug_assert!(body.is_ok(), "what is answered has text keys and finite numbers");
        let content = Content::Whole(body.unwrap_or_default());
        Self { status, content_type: JSON, content, headers: Vec::new(), then: None }
    }

    /// JSON with an `error` that a person can act on.
    pub fn error(status: u16, error: &str) -> Self {
        Self::json(status, &ErrorBody { error })
    }

    /// The same, with which field is at fault and what it must be.
    pub fn fault(status: u16, error: &str, field: &str, reason: &str) -> Self {
        Self::json(status, &FaultBody { error, field, reason })
    }

    /// A 200 with JSON that is made while it is sent.
    pub fn stream(content: impl Read + Send + 'static) -> Self {
        let content = Content::Stream(Box::new(content));
        Self { status: 200, content_type: JSON, content, headers: Vec::new(), then: None }
    }

    /// A 200 with text of another type.
    pub fn text(content_type: &'static str, text: String) -> Self {
        Self {
            status: 200,
            content_type,
            content: Content::Whole(text.into_bytes()),
            headers: Vec::new(),
            then: None,
        }
    }

    /// Nothing but a status (RFC 9110 §15.3.5).
    pub fn no_content() -> Self {
        Self {
            status: 204,
            content_type: "",
            content: Content::Whole(Vec::new()),
            headers: Vec::new(),
            then: None,
        }
    }

    /// With another header. The value must not come from a client: it is not
    /// checked for line breaks.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Asks the client to come back after so many seconds.
    pub fn retry_after(self, seconds: u32) -> Self {
        self.with("Retry-After", seconds.to_string())
    }

    /// With something to do when a lane has sent it, or has failed to.
    pub fn then(mut self, act: impl FnOnce() + Send + 'static) -> Self {
        self.then = Some(Box::new(act));
        self
    }

    /// The header lines but for those of the content's length. The type comes first.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let content_type = Some(self.content_type).filter(|it| !it.is_empty());
        let content_type = content_type.map(|it| ("Content-Type", it));
        content_type.into_iter().chain(self.headers.iter().map(|(name, value)| (*name, value.as_str())))
    }

    /// What is to be done when it has been sent.
    pub fn take_then(&mut self) -> Option<Box<dyn FnOnce() + Send>> {
        self.then.take()
    }

    /// The answer to a request that is not taken.
    pub fn refusal(why: Refused) -> Self {
        Self::fault(why.status(), &why.words(), why.field(), &why.words())
    }
}

/// The type of most answers.
pub const JSON: &str = "application/json";

#[derive(Serialize)]
struct FaultBody<'a> {
    error: &'a str,
    field: &'a str,
    reason: &'a str,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

/// What the connection does after an answer, as its head says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It goes on, as the client's version has it by default.
    Open,
    /// It goes on, as a client of HTTP/1.0 has asked for.
    KeepAlive,
    /// It ends.
    Close,
}

/// How a head says where its content ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After this many bytes.
    Known(usize),
    /// After the last chunk.
    Chunked,
    /// At the end of the connection, or there is no content.
    Unsaid,
}

/// Writes a head. `stamp` is what all heads of this second share: the lines
/// `Date` and `Server`.
pub fn write_head<'a>(
    out: &mut Vec<u8>,
    (status, content_type): (u16, &str),
    stamp: &str,
    (length, after): (Length, After),
    headers: impl Iterator<Item = (&'static str, &'a str)>,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(out, usize::from(status));
    for part in [" ", reason(status), "\r\n", stamp] {
        out.extend_from_slice(part.as_bytes());
    }
    if !content_type.is_empty() {
        write_line(out, "Content-Type", content_type);
    }
    match length {
        Length::Known(length) => {
            out.extend_from_slice(b"Content-Length: ");
            write_number(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Length::Chunked => write_line(out, "Transfer-Encoding", "chunked"),
        Length::Unsaid => {}
    }
    match after {
        After::Open => {}
        After::KeepAlive => write_line(out, "Connection", "keep-alive"),
        After::Close => write_line(out, "Connection", "close"),
    }
    for (name, value) in headers {
        write_line(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes an answer whose content is there, or only its head.
pub fn write_whole(out: &mut Vec<u8>, response: &Response, stamp: &str, after: After, is_head: bool) {
    let content: &[u8] = match &response.content {
        Content::Whole(content) => content,
        Content::Stream(_) => &[],
    };
    let headers = response.headers.iter().map(|(name, value)| (*name, value.as_str()));
    // RFC 9110 §8.6: none with a 204.
    let length = if response.status == 204 { Length::Unsaid } else { Length::Known(content.len()) };
    write_head(out, (response.status, response.content_type), stamp, (length, after), headers);
    if !is_head {
        out.extend_from_slice(content);
    }
}

/// Writes the head of an answer whose content is still to be made.
pub fn write_stream_head(out: &mut Vec<u8>, response: &Response, stamp: &str, length: Length, after: After) {
    let headers = response.headers.iter().map(|(name, value)| (*name, value.as_str()));
    write_head(out, (response.status, response.content_type), stamp, (length, after), headers);
}

/// Replaces the lines that all heads of one second share by those of this second.
pub fn write_stamp(stamp: &mut String, server: &str, now: SystemTime) {
    stamp.clear();
    // Writing to a String cannot fail.
    let _ = write!(stamp, "Date: {}\r\nServer: {server}\r\n", HttpDate::from(now));
}

fn write_line(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn write_number(out: &mut Vec<u8>, number: usize) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The reason phrases of the statuses that are used here (RFC 9110 §15).
const fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(response: &Response, after: After, is_head: bool) -> String {
        let mut out = Vec::new();
        write_whole(&mut out, response, "Date: today\r\nServer: s\r\n", after, is_head);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_says_its_length_and_what_becomes_of_the_connection() {
        let error = Response::error(405, "no").with("Allow", "GET, HEAD");
        let head = "HTTP/1.1 405 Method Not Allowed\r\nDate: today\r\nServer: s\r\nContent-Type: application/json\r\nContent-Length: 14\r\n";
        assert_eq!(
            text(&error, After::Open, false),
            format!("{head}Allow: GET, HEAD\r\n\r\n{{\"error\":\"no\"}}")
        );
        assert_eq!(
            text(&error, After::Close, true),
            format!("{head}Connection: close\r\nAllow: GET, HEAD\r\n\r\n")
        );
        assert!(text(&error, After::KeepAlive, true).contains("\r\nConnection: keep-alive\r\n"));
        let nothing = text(&Response::no_content().with("Allow", "GET"), After::Open, false);
        assert_eq!(nothing, "HTTP/1.1 204 No Content\r\nDate: today\r\nServer: s\r\nAllow: GET\r\n\r\n");
    }

    #[test]
    fn numbers_are_written_in_digits() {
        for number in [0, 7, 10, 1024, usize::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
