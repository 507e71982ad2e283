//! What a program needs for HTTP requests: a URL, and the certificates that it trusts.

use ureq::http::{Uri, uri::Authority};
use ureq::tls::{Certificate, PemItem, parse_pem};

use super::{ConfigError, Reader, Setting};

/// Whether the text is a URL that can be called, without a user name or password.
pub(super) fn is_url(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| {
        let authority = uri.authority().map(Authority::as_str);
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && authority.is_none_or(|text| !text.contains('@'))
    })
}

/// The URLs in a list with commas, without slashes at their ends; `None` if one of
/// them cannot be the beginning of URLs to call.
pub(super) fn urls(text: &str) -> Option<Vec<String>> {
    let is_base = |url: &str| is_url(url) && !url.contains(['?', '#']);
    let url = |part: &str| {
        let url = part.trim().trim_end_matches('/');
        is_base(url).then(|| url.to_owned())
    };
    text.split(',').map(url).collect()
}

/// The text, unless it may hold a password: the text before an @ may be one.
fn without_password(raw: &str) -> String {
    if raw.contains('@') { "(hidden)".to_owned() } else { raw.to_owned() }
}

impl Reader<'_> {
    /// A URL to call. `fill` may fill in a part of it.
    ///
    /// # Errors
    /// The URL cannot be called.
    pub fn url(
        &mut self,
        setting: &'static Setting,
        fill: impl FnOnce(String) -> String,
    ) -> Result<Option<String>, ConfigError> {
        let Some(raw) = self.given(setting.name) else { return Ok(None) };
        let shown = without_password(&raw);
        let url = fill(raw);
        if !setting.takes(&url) {
            return Err(setting.wrong(&shown));
        }
        self.show(setting, &url);
        Ok(Some(url))
    }

    /// A list of URLs, without slashes at their ends; empty if none is given.
    ///
    /// # Errors
    /// There are too many, or one of them cannot be the beginning of URLs to call.
    pub fn urls(&mut self, setting: &'static Setting) -> Result<Vec<String>, ConfigError> {
        let Some(raw) = self.given(setting.name) else { return Ok(Vec::new()) };
        let urls = urls(&raw).filter(|_| setting.takes(&raw));
        let urls = urls.ok_or_else(|| setting.wrong(&without_password(&raw)))?;
        self.show(setting, &urls.join(","));
        Ok(urls)
    }

    /// The certificates in the PEM file that a setting names.
    ///
    /// # Errors
    /// The file cannot be read, is not PEM, or holds no certificate.
    pub fn certificates(
        &mut self,
        setting: &'static Setting,
    ) -> Result<Vec<Certificate<'static>>, ConfigError> {
        let Some((path, pem)) = self.file(setting.name)? else { return Ok(Vec::new()) };
        let mut certificates = Vec::new();
        for item in parse_pem(&pem) {
            if let PemItem::Certificate(certificate) = item.map_err(|_| setting.wrong(&path))? {
                certificates.push(certificate);
            }
        }
        if certificates.is_empty() {
            return Err(setting.wrong(&path));
        }
        self.show(setting, &format!("({} certificates)", certificates.len()));
        Ok(certificates)
    }
}
