//! How a running collector is reached by the commands of this program.

use std::net::IpAddr;
use std::path::PathBuf;

use pap_process::settings::{ConfigError, Flags, Reader, Secret, Source};
use pap_process::url::{Url, UrlError, hide};
use ureq::tls::Certificate;

use super::settings::{
    ADMIN_SOCKET, COLLECTOR_API_KEY, COLLECTOR_BIND, COLLECTOR_PORT, SETTINGS, STATION_CA_FILE,
};

/// Where a collector with this configuration is found. Other settings are not read, so they
/// may be wrong.
#[derive(Clone, Debug)]
pub struct Access {
    /// Its URL, if it was given; then nothing else but the key matters.
    pub url: Option<Url>,
    /// Its admin socket.
    pub socket: Option<PathBuf>,
    /// The address that it listens on; None for all.
    pub bind: Option<IpAddr>,
    /// The port that it listens on.
    pub port: u16,
    /// The key that it asks for.
    pub key: Option<Secret>,
    /// Certificates trusted besides the built-in roots.
    pub roots: Vec<Certificate<'static>>,
}

impl Access {
    /// Where the collector listens, for a question that needs no key.
    ///
    /// # Errors
    /// One of its settings is wrong.
    pub fn without_key(
        flags: &Flags,
        environment: &Source<'_>,
        url: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let mut from = Reader::new(SETTINGS, flags, environment);
        let wrong = |why: UrlError| {
            let allowed = format!("an http:// or https:// URL ({why})");
            ConfigError::new("--url", Some(&hide(url.unwrap_or_default())), &allowed)
        };
        let url = url.map(Url::base).transpose().map_err(wrong)?;
        Ok(Self {
            socket: if url.is_none() { from.path(&ADMIN_SOCKET)? } else { None },
            url,
            bind: from.value_if_any(&COLLECTOR_BIND)?,
            port: from.value(&COLLECTOR_PORT)?,
            key: None,
            roots: Vec::new(),
        })
    }

    /// The same, with the key and the certificates.
    ///
    /// # Errors
    /// One of its settings is wrong.
    pub fn new(flags: &Flags, environment: &Source<'_>, url: Option<&str>) -> Result<Self, ConfigError> {
        let mut from = Reader::new(SETTINGS, flags, environment);
        let key = from.secret(&COLLECTOR_API_KEY)?;
        let roots = from.certificates(&STATION_CA_FILE)?;
        Ok(Self { key, roots, ..Self::without_key(flags, environment, url)? })
    }
}
