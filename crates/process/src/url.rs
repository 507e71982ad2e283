//! URLs that a program calls. They are parsed and normalised as RFC 3986 says (§6.2.2,
//! §6.2.3), so that what is shown, what is called and what was meant are the same: a
//! client that reads a URL by itself may call port 80 where the port makes no sense.

use std::fmt;

use fluent_uri::Uri;
use fluent_uri::component::Host;

/// The longest name of a host and the longest part of it between dots, in bytes
/// (RFC 1035 §2.3.4).
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// An http:// or https:// URL without a user name. Where it is shown, its query is hidden,
/// as it may hold a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

/// Why a text is no URL that can be called, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UrlError(&'static str);

impl UrlError {
    pub(crate) const TOO_MANY: Self = Self("these are too many");
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for UrlError {}

impl Url {
    /// A URL, normalised.
    ///
    /// # Errors
    /// No server can be called by it.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let url = Self::link(text)?;
        if url.0.contains('#') {
            return Err(UrlError("it has a fragment (#...), which is never sent"));
        }
        Ok(url)
    }

    /// A URL for people, normalised. It may have a fragment.
    ///
    /// # Errors
    /// It leads nowhere.
    pub fn link(text: &str) -> Result<Self, UrlError> {
        let uri = Uri::parse(text)
            .map_err(|_| UrlError("it has characters that a URL must write as %XX, or no scheme"))?;
        if !["http", "https"].iter().any(|scheme| uri.scheme().as_str().eq_ignore_ascii_case(scheme)) {
            return Err(UrlError("its scheme is neither http nor https"));
        }
        let uri = uri.normalize();
        let Some(authority) = uri.authority() else { return Err(UrlError("it has no host")) };
        if authority.has_userinfo() {
            return Err(UrlError("it has a user name or password; keys have settings of their own"));
        }
        match authority.host_parsed() {
            Host::Ipv4(_) | Host::Ipv6(_) => {}
            Host::RegName(name) if is_name(name.as_str()) => {}
            _ => return Err(UrlError("its host is no name and no IP address")),
        }
        match authority.port_to_u16() {
            Ok(None | Some(1..)) => {}
            Ok(Some(0)) | Err(_) => return Err(UrlError("its port is not from 1 to 65535")),
        }
        Ok(Self(uri.into_string()))
    }

    /// A URL at whose end paths are added. It has no query, and no slashes at its end.
    ///
    /// # Errors
    /// No server can be called by it, or it has a query.
    pub fn base(text: &str) -> Result<Self, UrlError> {
        let Self(mut text) = Self::parse(text)?;
        if text.contains('?') {
            return Err(UrlError("it has a query (?...), but paths are added at its end"));
        }
        text.truncate(text.trim_end_matches('/').len());
        Ok(Self(text))
    }

    /// The URL with `path` at its end. The path begins with a slash and is encoded.
    #[must_use]
    pub fn join(&self, path: &str) -> Self {
        Self(format!("{}{path}", self.0))
    }

    /// The whole URL, to call it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once('?') {
            None => f.write_str(&self.0),
            Some((rest, _)) => write!(f, "{rest}?(hidden)"),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// What may be shown of a text that is perhaps no URL: nothing of a query, and nothing
/// at all where there may be a password.
pub fn hide(text: &str) -> String {
    match text.split_once(['?', '#']) {
        _ if text.contains('@') => "(hidden)".into(),
        None => text.into(),
        Some((rest, _)) => format!("{rest}?(hidden)"),
    }
}

/// Whether the name of a host can be looked up. One that ends in a number would be
/// taken for an IP address (WHATWG URL, "ends in a number checker").
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !label.is_empty() && label.len() <= LONGEST_LABEL && label.bytes().all(is_allowed)
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= LONGEST_NAME
        && name.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
        && !last.starts_with("0x")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, String> {
        Url::parse(text).map(|url| url.as_str().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_url_is_normalised() {
        for (given, meant) in [
            ("http://c:8080", "http://c:8080"),
            ("HTTP://Collector.Example:80/a", "http://collector.example/a"),
            ("https://station:443/%7euser/%2f?q=%c3%a4", "https://station/~user/%2F?q=%C3%A4"),
            ("https://s/a/./b/../c", "https://s/a/c"),
            ("http://c:/x", "http://c/x"),
            ("http://[::FFFF:1]:81/", "http://[::ffff:1]:81/"),
            ("http://pap_collector.agents.svc.:8080", "http://pap_collector.agents.svc.:8080"),
            ("http://127.0.0.1:65535", "http://127.0.0.1:65535"),
        ] {
            assert_eq!(parsed(given).as_deref(), Ok(meant), "{given}");
        }
    }

    #[test]
    fn what_cannot_be_called_is_refused_with_a_reason() {
        for (given, why) in [
            ("http://127.0.0.1:99999/x", "port"),
            ("http://c:0/", "port"),
            ("http://c:8o/", "%XX"),
            ("http://:8080/", "host"),
            ("http:///x", "host"),
            ("http:x", "host"),
            ("http://1.2.3.400/", "host"),
            ("http://1.2.3/", "host"),
            ("http://a..b/", "host"),
            ("http://a%20b/", "host"),
            ("http://[v1.x]/", "host"),
            ("http://[::1/", "%XX"),
            ("http://me:hush@c/", "password"),
            ("http://@c/", "user name"),
            ("http://c/#here", "fragment"),
            ("http://c/a b", "%XX"),
            ("http://c/{id}", "%XX"),
            ("http://b\u{fc}ro/", "%XX"),
            ("ftp://c/", "scheme"),
            ("c:8080", "scheme"),
            ("/heartbeat", "scheme"),
            ("", "scheme"),
        ] {
            let error = parsed(given).unwrap_err();
            assert!(error.contains(why), "{given}: {error}");
        }
        assert!(parsed(&format!("http://{}/", "a".repeat(64))).is_err());
    }

    #[test]
    fn paths_are_added_to_a_base() {
        let joined = |base: &str| Url::base(base).map(|base| base.join("/x").as_str().to_owned());
        assert_eq!(joined("http://c").as_deref(), Ok("http://c/x"));
        assert_eq!(joined("http://c//").as_deref(), Ok("http://c/x"));
        assert_eq!(joined("http://c/low/").as_deref(), Ok("http://c/low/x"));
        assert!(joined("http://c/?token=hush").is_err());
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        let url = Url::parse("https://s/x?token=hush").unwrap();
        assert_eq!(url.as_str(), "https://s/x?token=hush");
        assert_eq!(format!("{url} {url:?}"), "https://s/x?(hidden) \"https://s/x?(hidden)\"");
        assert_eq!(Url::link("https://s/d?x=1#panel").unwrap().as_str(), "https://s/d?x=1#panel");
        assert_eq!(hide("ftp://s/x?token=hush"), "ftp://s/x?(hidden)");
        assert_eq!(hide("http://me:hu/sh@s/"), "(hidden)");
        assert_eq!(hide("tcp://10.0.0.1:80"), "tcp://10.0.0.1:80");
    }
}
