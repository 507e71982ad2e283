//! A request as the service sees it.

use std::net::IpAddr;

use httparse::Header;

/// The version of HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// One whole request. It borrows from the bytes that the client sent.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method, as it was sent: methods are case-sensitive (RFC 9110 §9.1).
    pub method: &'a str,
    /// The path with its query, or `*`. An absolute target has lost its
    /// scheme and authority (RFC 9112 §3.2.2).
    pub target: &'a str,
    /// The client's version.
    pub version: Version,
    /// The header lines; a value may hold any byte but CR, LF and NUL.
    pub headers: &'a [Header<'a>],
    /// The body, decoded.
    pub body: &'a [u8],
    /// Who is at the other end of the connection: the client, or a proxy. None if the
    /// socket has no IP address.
    pub peer: Option<IpAddr>,
}

impl<'a> Request<'a> {
    /// Whether the client wants only the head of the answer.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// The values of a header in the order of their lines, trimmed.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        values(self.headers, name)
    }

    /// The one value of a header as text; None if there is no value, several, or one that is
    /// not UTF-8.
    pub fn value(&self, name: &str) -> Option<&'a str> {
        let mut values = self.values(name);
        let first = values.next()?;
        if values.next().is_some() { None } else { std::str::from_utf8(first).ok() }
    }

    /// The elements of a comma-separated header over all of its lines
    /// (RFC 9110 §5.6.1); what is not UTF-8 is left out.
    pub fn tokens(&self, name: &str) -> impl Iterator<Item = &'a str> {
        tokens(self.headers, name)
    }

    /// Whether a comma-separated header holds this token, in any case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|other| other.eq_ignore_ascii_case(token))
    }
}

/// The values of a header in the order of their lines, trimmed.
pub(crate) fn values<'a>(headers: &'a [Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value.trim_ascii())
}

/// The elements of a comma-separated header over all of its lines.
pub(crate) fn tokens<'a>(headers: &'a [Header<'a>], name: &str) -> impl Iterator<Item = &'a str> {
    let text = values(headers, name).filter_map(|value| std::str::from_utf8(value).ok());
    text.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}
