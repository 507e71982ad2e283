//! What a program needs for HTTP requests: URLs, and the certificates that it trusts.

use ureq::tls::{Certificate, PemItem, parse_pem};

use super::{ConfigError, Kind, Reader, Setting};
use crate::client::check_root;
use crate::url::{Url, UrlError, hide};

/// The base URLs in a list with commas, at most this many.
pub(super) fn bases(text: &str, most: usize) -> Result<Vec<Url>, UrlError> {
    let urls: Vec<_> = text.split(',').map(|part| Url::base(part.trim())).collect::<Result<_, _>>()?;
    if urls.len() > most { Err(UrlError::TOO_MANY) } else { Ok(urls) }
}

impl Reader<'_> {
    /// A URL to call. `fill` may fill in a part of it.
    ///
    /// # Errors
    /// The URL cannot be called.
    pub fn url(
        &mut self,
        setting: &'static Setting,
        fill: impl FnOnce(&str) -> String,
    ) -> Result<Option<Url>, ConfigError> {
        let Some(raw) = self.given(setting.name) else { return Ok(None) };
        let parse = match setting.kind {
            Kind::BaseUrl => Url::base,
            Kind::Link => Url::link,
            _ => Url::parse,
        };
        let url = parse(&fill(&raw)).map_err(|why| setting.wrong_as(&hide(&raw), &why))?;
        self.show(setting, &url);
        Ok(Some(url))
    }

    /// A list of base URLs; empty if none is given.
    ///
    /// # Errors
    /// There are too many, or one of them cannot be called.
    pub fn urls(&mut self, setting: &'static Setting) -> Result<Vec<Url>, ConfigError> {
        let Some(raw) = self.given(setting.name) else { return Ok(Vec::new()) };
        let most = if let Kind::BaseUrls(most) = setting.kind { most } else { 1 };
        let urls = bases(&raw, most).map_err(|why| setting.wrong_as(&hide(&raw), &why))?;
        let shown: Vec<_> = urls.iter().map(Url::as_str).collect();
        self.show(setting, &shown.join(","));
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
        let (mut certificates, mut unusable) = (Vec::new(), None);
        for item in parse_pem(&pem) {
            if let PemItem::Certificate(certificate) = item.map_err(|_| setting.wrong(&path))? {
                // A bundle may hold an odd one that nobody needs.
                match check_root(&certificate) {
                    Ok(()) => certificates.push(certificate),
                    Err(why) => unusable = Some(setting.wrong_as(&path, &why)),
                }
            }
        }
        if certificates.is_empty() {
            return Err(unusable.unwrap_or_else(|| setting.wrong(&path)));
        }
        self.show(setting, &format!("({} certificates)", certificates.len()));
        Ok(certificates)
    }
}
