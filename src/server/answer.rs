//! An answer, and how it becomes a response.

use std::io::{self, Read};

use serde::Serialize;
use tiny_http::{Header, Request, Response, StatusCode};

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
    /// Never a client's text: values are not checked for line breaks below us.
    headers: Vec<(&'static str, String)>,
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

    /// Sends it. A head over one kilobyte aside, a small answer is one packet.
    pub fn send(self, request: Request) -> io::Result<()> {
        let fields = [("Server", "pap-collector".to_owned()), ("Content-Type", self.content_type.to_owned())];
        let fields = fields.into_iter().chain(self.headers);
        let headers = fields.filter_map(|(name, value)| Header::from_bytes(name, value).ok()).collect();
        let status = StatusCode(self.status);
        match self.content {
            Content::Whole(body) => {
                let length = Some(body.len());
                let response = Response::new(status, headers, io::Cursor::new(body), length, None);
                request.respond(response.with_chunked_threshold(usize::MAX))
            }
            Content::Stream(body) => request.respond(Response::new(status, headers, body, None, None)),
        }
    }

    /// The same as bytes, for a connection that is closed right after.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body: &[u8] = match &self.content {
            Content::Whole(body) => body,
            Content::Stream(_) => &[],
        };
        let reason = StatusCode(self.status);
        let reason = reason.default_reason_phrase();
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\nServer: pap-collector\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.status, self.content_type, body.len(),
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }
}
