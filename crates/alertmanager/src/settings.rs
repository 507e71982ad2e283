//! The settings of the Alertmanagers.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pap_core::firing::Repeat;
use pap_process::settings::Fallback::{Value, Words};
use pap_process::settings::Kind::{BaseUrls, Certificates, Number, Secret as Key, SecretText};
use pap_process::settings::{ConfigError, Reader, Secret, Setting};
use pap_process::url::Url;
use ureq::tls::Certificate;

pap_process::settings! {
    /// Alertmanagers that are told what is wrong for as long as it is, such as which agents are dead;
    /// a path in front of /api/v2/alerts is part of the URL
    ALERTMANAGER_URL: BaseUrls(8), Words("none");
    /// the user name that is sent to each Alertmanager, with ALERTMANAGER_PASSWORD
    ALERTMANAGER_USER: SecretText, Words("none");
    /// the password of ALERTMANAGER_USER
    ALERTMANAGER_PASSWORD: SecretText, Words("none");
    /// the bearer token that is sent to each Alertmanager, instead of a user name
    ALERTMANAGER_KEY: Key, Words("none");
    /// certificates that are trusted besides the built-in roots, for the Alertmanagers: of a CA,
    /// or of the server itself
    ALERTMANAGER_CA_FILE: Certificates, Words("none");
    /// how often an Alertmanager is told again what is still true, in milliseconds; an alert
    /// that is not repeated ends after four of these times
    ALERTMANAGER_REPEAT_MS: Number(1000..=3_600_000), Value("60000");
}

/// The Alertmanagers.
#[derive(Clone, Debug)]
pub struct Alertmanagers {
    /// The whole URL of each one's alerts endpoint.
    pub urls: Vec<Url>,
    /// How often each Alertmanager is told again what is still true.
    pub every: Duration,
    /// What is sent to each to be let in.
    pub credentials: Credentials,
    /// Certificates trusted besides the built-in roots.
    pub roots: Vec<Certificate<'static>>,
}

/// The credentials that a request carries.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nothing.
    Open,
    /// A user name and a password (RFC 7617).
    Basic(Secret, Secret),
    /// A bearer token (RFC 6750).
    Bearer(Secret),
}

impl Alertmanagers {
    /// How many Alertmanagers are told everything, and how often.
    pub fn repeat(all: Option<&Self>) -> Repeat {
        all.map_or(Repeat::NONE, |all| Repeat { targets: all.urls.len(), every: all.every })
    }
}

impl Credentials {
    /// The value of `Authorization`.
    pub fn header(&self) -> Option<String> {
        match self {
            Self::Open => None,
            Self::Basic(user, password) => {
                let both = format!("{}:{}", user.reveal(), password.reveal());
                Some(format!("Basic {}", BASE64_STANDARD.encode(both)))
            }
            Self::Bearer(key) => Some(format!("Bearer {}", key.reveal())),
        }
    }
}

/// The Alertmanagers, if one is configured.
///
/// # Errors
/// One of their settings is wrong, or they contradict each other.
pub fn read(from: &mut Reader<'_>, warnings: &mut Vec<String>) -> Result<Option<Alertmanagers>, ConfigError> {
    let urls = from.urls(&ALERTMANAGER_URL)?;
    let user = from.secret(&ALERTMANAGER_USER)?;
    let password = from.secret(&ALERTMANAGER_PASSWORD)?;
    let key = from.secret(&ALERTMANAGER_KEY)?;
    let wrong =
        |setting: &Setting, allowed: &str| Err(ConfigError::new(setting.name, Some("(hidden)"), allowed));
    let credentials = match (user, password, key) {
        (None, None, None) => Credentials::Open,
        (None, None, Some(key)) => Credentials::Bearer(key),
        (Some(user), _, _) if user.reveal().contains(':') => {
            return wrong(&ALERTMANAGER_USER, "a user name without a colon");
        }
        (Some(user), Some(password), None) => Credentials::Basic(user, password),
        (Some(_), None, None) => return wrong(&ALERTMANAGER_USER, "a user name with ALERTMANAGER_PASSWORD"),
        (None, Some(_), None) => return wrong(&ALERTMANAGER_PASSWORD, "a password with ALERTMANAGER_USER"),
        (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            return wrong(&ALERTMANAGER_KEY, "either a key, or a user name and a password");
        }
    };
    let roots = from.certificates(&ALERTMANAGER_CA_FILE)?;
    let every = from.millis(&ALERTMANAGER_REPEAT_MS)?;
    if urls.is_empty() {
        if !matches!(credentials, Credentials::Open) {
            warnings.push("ALERTMANAGER_URL is not set, so no Alertmanager is told anything".into());
        }
        return Ok(None);
    }
    let urls = urls.iter().map(|url| url.join("/api/v2/alerts")).collect();
    Ok(Some(Alertmanagers { urls, every, credentials, roots }))
}
