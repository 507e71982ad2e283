//! One value at a time: where it comes from, and whether it is allowed.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

#[cfg(feature = "client")]
use ureq::{
    http::Uri,
    tls::{Certificate, PemItem, parse_pem},
};

/// The longest key, in bytes.
const MAX_KEY: usize = 4096;

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A variable that is missing or wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    variable: String,
    value: Option<String>,
    allowed: String,
}

impl ConfigError {
    /// An error about `variable`, whose value may be shown, none if it is not set.
    pub fn new(variable: &str, value: Option<&str>, allowed: &str) -> Self {
        Self { variable: variable.into(), value: value.map(Into::into), allowed: allowed.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable, value, allowed } = self;
        match value.as_deref() {
            None => write!(f, "{variable} is not set; needed: {allowed}"),
            Some("(hidden)") => write!(f, "{variable}=(hidden) is wrong; allowed: {allowed}"),
            Some(value) => {
                write!(f, "{variable}=\"{}\" is wrong; allowed: {allowed}", value.escape_debug())?;
                if value.starts_with("tcp://") {
                    f.write_str(" (a Kubernetes service set it: use enableServiceLinks: false)")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// Where raw values come from, by the name of their variable.
pub type Source<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Reads values by the name of their variable.
pub struct Reader<'a> {
    flags: &'a Source<'a>,
    environment: &'a Source<'a>,
}

impl<'a> Reader<'a> {
    /// A flag wins over the environment.
    pub fn new(flags: &'a Source<'a>, environment: &'a Source<'a>) -> Self {
        Self { flags, environment }
    }

    /// The raw value; an empty one counts as not set.
    pub fn get(&self, variable: &str) -> Option<String> {
        (self.flags)(variable).or_else(|| (self.environment)(variable)).filter(|value| !value.is_empty())
    }

    /// Text without control characters.
    ///
    /// # Errors
    /// It is longer than `longest` bytes, or has control characters.
    pub fn text(&self, variable: &str, longest: usize) -> Result<Option<String>, ConfigError> {
        let allowed = format!("1 to {longest} bytes of text without control characters");
        self.checked(variable, &allowed, |raw| {
            (raw.len() <= longest && !raw.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER))
                .then(|| raw.to_owned())
        })
    }

    /// A whole number.
    ///
    /// # Errors
    /// It is not, or out of range.
    pub fn number(
        &self,
        variable: &str,
        allowed: RangeInclusive<usize>,
        default: usize,
    ) -> Result<usize, ConfigError> {
        let number = self.whole_number(variable, *allowed.start() as u64..=*allowed.end() as u64)?;
        Ok(number.and_then(|number| usize::try_from(number).ok()).unwrap_or(default))
    }

    /// A duration in whole milliseconds.
    ///
    /// # Errors
    /// It is not, or out of range.
    pub fn millis(
        &self,
        variable: &str,
        allowed: RangeInclusive<u64>,
        default: u64,
    ) -> Result<Duration, ConfigError> {
        let millis = self.whole_number(variable, allowed)?;
        Ok(Duration::from_millis(millis.unwrap_or(default)))
    }

    /// A TCP port.
    ///
    /// # Errors
    /// It is none.
    pub fn port(&self, variable: &str, default: u16) -> Result<u16, ConfigError> {
        let port = self.whole_number(variable, 0..=u64::from(u16::MAX))?;
        Ok(port.and_then(|port| u16::try_from(port).ok()).unwrap_or(default))
    }

    fn whole_number(&self, variable: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, ConfigError> {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.checked(variable, &allowed, |raw| {
            let digits = raw.bytes().all(|byte| byte.is_ascii_digit());
            raw.parse().ok().filter(|number| digits && range.contains(number))
        })
    }

    /// An IP address; none for all.
    ///
    /// # Errors
    /// It is none.
    pub fn address(&self, variable: &str) -> Result<Option<IpAddr>, ConfigError> {
        self.checked(variable, "an IP address such as 127.0.0.1 or ::1, or nothing for all", |raw| {
            raw.parse().ok()
        })
    }

    /// One of the named values; the first is the default.
    ///
    /// # Errors
    /// It is none of them.
    pub fn choice<T: Copy>(&self, variable: &str, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let find = |raw: &str| choices.iter().find(|(name, _)| *name == raw).map(|(_, value)| *value);
        Ok(self.checked(variable, &names.join(", "), find)?.unwrap_or(choices[0].1))
    }

    /// What is logged, in the syntax of `RUST_LOG`.
    ///
    /// # Errors
    /// It is not in that syntax.
    pub fn log_filter(&self, variable: &str, default: &str) -> Result<String, ConfigError> {
        let allowed = "off, error, warn, info, debug or trace, or a list such as info,pap_collector=debug";
        let valid = |raw: &str| {
            raw.split(',').all(|directive| {
                let level = directive.rsplit('=').next().unwrap_or_default().trim();
                level.parse::<log::LevelFilter>().is_ok()
            })
        };
        let filter = self.checked(variable, allowed, |raw| valid(raw).then(|| raw.to_owned()))?;
        Ok(filter.unwrap_or_else(|| default.to_owned()))
    }

    /// A key, from its own variable or from the file that `<variable>_FILE` names.
    ///
    /// # Errors
    /// Both are set, the file cannot be read, or it holds no key.
    pub fn secret(&self, variable: &str) -> Result<Option<Secret>, ConfigError> {
        let file_variable = format!("{variable}_FILE");
        let (named, raw) = match (self.get(variable), self.file(&file_variable)?) {
            (Some(_), Some((path, _))) => {
                let allowed = format!("either {variable} or {file_variable}, not both");
                return Err(ConfigError::new(&file_variable, Some(&path), &allowed));
            }
            (Some(raw), None) => (variable, raw),
            (None, Some((path, bytes))) => {
                let text = String::from_utf8(bytes).unwrap_or_default();
                let key = text.trim_end_matches(['\r', '\n']).to_owned();
                if key.is_empty() {
                    return Err(ConfigError::new(&file_variable, Some(&path), "a file that holds a key"));
                }
                (file_variable.as_str(), key)
            }
            (None, None) => return Ok(None),
        };
        if raw.len() > MAX_KEY || !raw.bytes().all(|byte| byte.is_ascii_graphic()) {
            let allowed = format!("1 to {MAX_KEY} visible ASCII characters");
            return Err(ConfigError::new(named, Some("(hidden)"), &allowed));
        }
        Ok(Some(Secret(raw)))
    }

    /// A URL of ours to call, in which `fill` may put something.
    ///
    /// # Errors
    /// It cannot be called.
    #[cfg(feature = "client")]
    pub fn url(
        &self,
        variable: &str,
        also: &str,
        fill: impl FnOnce(String) -> String,
    ) -> Result<Option<String>, ConfigError> {
        let Some(raw) = self.get(variable) else { return Ok(None) };
        // What stands before an @ may be a password.
        let shown = if raw.contains('@') { "(hidden)".to_owned() } else { raw.clone() };
        let url = fill(raw);
        let is_good = url.parse::<Uri>().is_ok_and(|uri| {
            let authority = uri.authority().map(ureq::http::uri::Authority::as_str);
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
                && authority.is_none_or(|text| !text.contains('@'))
        });
        if is_good {
            return Ok(Some(url));
        }
        let allowed = format!("an http:// or https:// URL with a host and no user name{also}");
        Err(ConfigError::new(variable, Some(&shown), &allowed))
    }

    /// The certificates in the PEM file that a variable names.
    ///
    /// # Errors
    /// The file cannot be read, or holds none.
    #[cfg(feature = "client")]
    pub fn certificates(&self, variable: &str) -> Result<Vec<Certificate<'static>>, ConfigError> {
        let Some((path, pem)) = self.file(variable)? else { return Ok(Vec::new()) };
        let wrong = || ConfigError::new(variable, Some(&path), "a file of PEM certificates, at least one");
        let mut certificates = Vec::new();
        for item in parse_pem(&pem) {
            if let PemItem::Certificate(certificate) = item.map_err(|_| wrong())? {
                certificates.push(certificate);
            }
        }
        if certificates.is_empty() { Err(wrong()) } else { Ok(certificates) }
    }

    /// The path and the content of the file that a variable names.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn file(&self, variable: &str) -> Result<Option<(String, Vec<u8>)>, ConfigError> {
        let Some(path) = self.get(variable) else { return Ok(None) };
        match std::fs::read(&path) {
            Ok(content) => Ok(Some((path, content))),
            Err(error) => {
                let allowed = format!("a file that can be read ({error})");
                Err(ConfigError::new(variable, Some(&path), &allowed))
            }
        }
    }

    fn checked<T>(
        &self,
        variable: &str,
        allowed: &str,
        check: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(raw) = self.get(variable) else { return Ok(None) };
        match check(&raw) {
            Some(value) => Ok(Some(value)),
            None => Err(ConfigError::new(variable, Some(&raw), allowed)),
        }
    }
}
