//! What a program needs for HTTP requests: URLs, and the certificates that it trusts.

use ureq::tls::{Certificate, PemItem, parse_pem};

use super::{ConfigError, Kind, Reader, Setting};
use crate::client::check_root;
use crate::url::{Url, UrlError, hide};

/// The URL in a value of this kind; for [`Kind::BaseUrls`] all that are in the list.
pub(super) fn urls(kind: &Kind, raw: &str) -> Result<Vec<Url>, UrlError> {
    let one = |url| vec![url];
    match kind {
        Kind::Link => Url::link(raw).map(one),
        Kind::BaseUrl => Url::base(raw).map(one),
        Kind::BaseUrls(most) => {
            let urls = raw.split(',').map(|part| Url::base(part.trim())).collect::<Result<Vec<_>, _>>()?;
            if urls.len() > *most { Err(UrlError::TOO_MANY) } else { Ok(urls) }
        }
        _ => Url::parse(raw).map(one),
    }
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
        Ok(self.filled_urls(setting, fill)?.pop())
    }

    /// A list of base URLs; empty if none is given.
    ///
    /// # Errors
    /// There are too many, or one of them cannot be called.
    pub fn urls(&mut self, setting: &'static Setting) -> Result<Vec<Url>, ConfigError> {
        self.filled_urls(setting, str::to_owned)
    }

    fn filled_urls(
        &mut self,
        setting: &'static Setting,
        fill: impl FnOnce(&str) -> String,
    ) -> Result<Vec<Url>, ConfigError> {
        let Some(raw) = self.given(setting.name) else { return Ok(Vec::new()) };
        let urls = urls(&setting.kind, &fill(&raw)).map_err(|why| setting.wrong_as(&hide(&raw), &why))?;
        let shown: Vec<_> = urls.iter().map(ToString::to_string).collect();
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
