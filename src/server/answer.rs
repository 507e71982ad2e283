//! An answer, and how it becomes a response.
//!
//! The response is written by us, through the request's own writer:
//! tiny_http's way looks at the request's `TE` header again, can be made to
//! panic by it, and collects a stream in memory for HTTP/1.0.

use std::io::{self, Read, Write};

use serde::Serialize;
use tiny_http::{HTTPVersion, Method, Request, StatusCode};

use pap_process::clock::wall;

/// What is read from a stream at once.
const CHUNK: usize = 16 * 1024;

/// What is sent after the head.
pub enum Content {
    /// It is complete.
    Whole(Vec<u8>),
    /// It is made while it is sent.
    Stream(Box<dyn Read + Send>),
}

/// An answer to a request.
pub struct Answer {
    status: u16,
    content_type: &'static str,
    content: Content,
    /// Never a client's text: values are not checked for line breaks.
    headers: Vec<(&'static str, String)>,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It can have another request.
    Open,
    /// Its end is the end of the answer.
    Close,
    /// tiny_http ends it by itself: the client has said that it is over.
    Over,
}

impl Answer {
    /// A JSON answer.
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        // What we serialize has text keys and finite numbers: it cannot fail.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self { status, content_type: "application/json", content: Content::Whole(body), headers: Vec::new() }
    }

    /// A JSON answer with an `error` a person can act on.
    pub fn error(status: u16, error: &str) -> Self {
        Self::json(status, &serde_json::json!({ "error": error }))
    }

    /// A 200 with JSON that is made while it is sent.
    pub fn stream(content: impl Read + Send + 'static) -> Self {
        let content = Content::Stream(Box::new(content));
        Self { status: 200, content_type: "application/json", content, headers: Vec::new() }
    }

    /// A 200 with text of another type.
    pub fn text(content_type: &'static str, text: String) -> Self {
        Self { status: 200, content_type, content: Content::Whole(text.into_bytes()), headers: Vec::new() }
    }

    /// With another header, whose value must not come from a client.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Asks the client to come back after so many seconds.
    pub fn retry_after(self, seconds: u32) -> Self {
        self.with("Retry-After", seconds.to_string())
    }

    /// Sends it; a small one is one packet.
    ///
    /// # Errors
    /// The client is gone, or did not take it in time. Part of it may have
    /// been sent.
    pub fn send(self, request: Request) -> io::Result<After> {
        let is_head = *request.method() == Method::Head;
        let is_old = *request.http_version() < HTTPVersion(1, 1);
        // tiny_http goes by the first of them.
        let connection = request.headers().iter().find(|header| header.field.equiv("Connection"));
        let connection = connection.map(|header| header.value.as_str().to_ascii_lowercase());
        let says = |word| connection.as_ref().is_some_and(|value| value.contains(word));
        let (keeps_alive, is_over) = (says("keep-alive"), says("close") || says("upgrade"));
        let framing = match &self.content {
            Content::Whole(body) => format!("Content-Length: {}\r\n", body.len()),
            Content::Stream(_) if is_old => String::new(),
            Content::Stream(_) => "Transfer-Encoding: chunked\r\n".to_owned(),
        };
        let ends = is_old && (!keeps_alive || framing.is_empty());
        let connection = match (ends, is_old) {
            (true, _) => "Connection: close\r\n",
            (false, true) => "Connection: keep-alive\r\n",
            (false, false) => "",
        };
        let mut bytes = self.head(&framing, connection);
        let mut writer = request.into_writer();
        match self.content {
            _ if is_head => writer.write_all(&bytes)?,
            Content::Whole(body) => {
                bytes.extend_from_slice(&body);
                writer.write_all(&bytes)?;
            }
            Content::Stream(body) => {
                writer.write_all(&bytes)?;
                stream(body, &mut writer, !is_old)?;
            }
        }
        writer.flush()?;
        Ok(match (ends, is_over) {
            (true, _) => After::Close,
            (false, true) => After::Over,
            (false, false) => After::Open,
        })
    }

    /// How many bytes it has, besides its head; none where they are still to be
    /// made.
    pub const fn length(&self) -> Option<usize> {
        match &self.content {
            Content::Whole(body) => Some(body.len()),
            Content::Stream(_) => None,
        }
    }

    /// The whole of it as bytes, for a connection that is closed right after.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body: &[u8] = match &self.content {
            Content::Whole(body) => body,
            Content::Stream(_) => &[],
        };
        let mut bytes = self.head(&format!("Content-Length: {}\r\n", body.len()), "Connection: close\r\n");
        bytes.extend_from_slice(body);
        bytes
    }

    fn head(&self, framing: &str, connection: &str) -> Vec<u8> {
        let (status, reason) = (self.status, StatusCode(self.status).default_reason_phrase());
        let date = httpdate::fmt_http_date(wall().into());
        let mut head = format!(
            "HTTP/1.1 {status} {reason}\r\nDate: {date}\r\nServer: pap-collector\r\nContent-Type: {}\r\n{framing}{connection}",
            self.content_type
        );
        for (name, value) in &self.headers {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// Sends what a stream makes, in chunks where the client knows them
/// (RFC 9112 §7.1).
fn stream(mut body: Box<dyn Read + Send>, writer: &mut impl Write, chunked: bool) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = body.read(&mut chunk)?;
        if chunked {
            write!(writer, "{length:x}\r\n")?;
        }
        writer.write_all(&chunk[..length])?;
        if chunked {
            writer.write_all(b"\r\n")?;
        }
        if length == 0 {
            return Ok(());
        }
    }
}
