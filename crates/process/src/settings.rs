//! The settings of a program. Each setting is defined once, in the table that
//! [`settings!`](crate::settings!) makes. Code that reads a value, names a flag or
//! describes a setting uses this table.
//!
//! - this file: what a setting is, which values it takes, and the error for a wrong value
//! - `flags`: the settings among the arguments, and the part of `--help` about them
//! - `duration`: durations in Go's notation
//! - `reader`: values from flags and the environment, and the values in effect
//! - `client` (feature `client`): URLs and certificates

#[cfg(feature = "client")]
mod client;
mod duration;
mod flags;
mod reader;

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

pub use duration::GoDuration;
pub use flags::{Flags, describe, split};
pub use reader::{Reader, Source};

use crate::escape::for_terminal;

/// The longest key, in bytes.
const MAX_KEY: usize = 4096;

/// All settings of a program, in the order in which they are shown.
pub type Table = &'static [&'static Setting];

/// One setting: an environment variable that is also a flag.
#[derive(Debug)]
pub struct Setting {
    /// The variable's name.
    pub name: &'static str,
    /// The flag's name without dashes, if it does not follow from the variable's name.
    pub short: Option<&'static str>,
    /// Which values are allowed.
    pub kind: Kind,
    /// What holds if no value is given.
    pub fallback: Fallback,
    /// What the setting does, as in the source: with a space before each line.
    pub help: &'static str,
}

/// Which values a setting takes.
#[derive(Debug)]
pub enum Kind {
    /// At most this many bytes of text, without control characters.
    Text(usize),
    /// A whole number in this range.
    Number(RangeInclusive<u64>),
    /// A duration in this range, in Go's notation.
    Duration(RangeInclusive<Duration>),
    /// An IP address.
    Address,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The path of a regular file, or of none yet.
    File,
    /// The path of a Unix socket, or of none yet.
    Socket,
    /// What is logged, in the syntax of `RUST_LOG`.
    LogFilter,
    /// A key, never shown. It may also come from the file that `<NAME>_FILE` names.
    Secret,
    /// A user name or a password: as a key, but of any text.
    SecretText,
    /// An http:// or https:// URL. The text is added to the description of this kind.
    #[cfg(feature = "client")]
    Url(&'static str),
    /// An http:// or https:// URL for people.
    #[cfg(feature = "client")]
    Link,
    /// An http:// or https:// URL at whose end paths are added.
    #[cfg(feature = "client")]
    BaseUrl,
    /// From one to this many such URLs, with commas between them.
    #[cfg(feature = "client")]
    BaseUrls(usize),
    /// The path of a file of PEM certificates.
    #[cfg(feature = "client")]
    Certificates,
}

/// What holds if no value is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The program does not start.
    Required,
    /// This value holds.
    Value(&'static str),
    /// The program works the value out, as these words say.
    Words(&'static str),
}

/// Defines a program's settings. Each becomes a static with the variable's name, and
/// `SETTINGS` becomes the table of all. Settings after `shared` are defined elsewhere.
///
/// ```
/// use pap_process::logging::LOG_FORMAT;
/// use pap_process::settings::{Fallback, Kind};
///
/// pap_process::settings! {
///     /// the port to listen on
///     PORT: Kind::Number(0..=65_535), Fallback::Value("8080");
///     /// a file that holds the mode
///     PAP_MODE_FILE as "mode-file": Kind::File, Fallback::Words("none");
///     shared LOG_FORMAT;
/// }
/// assert_eq!((PORT.flag().as_str(), PAP_MODE_FILE.flag().as_str()), ("--port", "--mode-file"));
/// assert_eq!((PORT.help(), SETTINGS.len()), ("the port to listen on", 3));
/// ```
#[macro_export]
macro_rules! settings {
    (
        $($(#[doc = $help:literal])+ $name:ident $(as $short:literal)?: $kind:expr, $fallback:expr;)+
        $(shared $($shared:path),+;)?
    ) => {
        $(
            $(#[doc = $help])+
            pub static $name: $crate::settings::Setting = $crate::settings::Setting {
                name: stringify!($name),
                short: $crate::settings!(@first $($short)?),
                kind: $kind,
                fallback: $fallback,
                help: concat!($($help),+),
            };
        )+
        /// Every setting, in the order in which they are shown.
        pub static SETTINGS: $crate::settings::Table = &[$(&$name,)+ $($(&$shared,)+)?];
    };
    (@first) => { None };
    (@first $short:literal) => { Some($short) };
}

impl Setting {
    /// The flag, such as `--cluster-id`.
    pub fn flag(&self) -> String {
        match self.short {
            Some(short) => format!("--{short}"),
            None => format!("--{}", self.name.to_ascii_lowercase().replace('_', "-")),
        }
    }

    /// What the setting does, as part of a sentence.
    pub fn help(&self) -> &'static str {
        self.help.trim_start()
    }

    /// The variable that names a file with the value, and the flag of this variable.
    /// Only keys have them.
    pub fn file(&self) -> Option<(String, String)> {
        matches!(self.kind, Kind::Secret | Kind::SecretText)
            .then(|| (format!("{}_FILE", self.name), format!("{}-file", self.flag())))
    }

    /// Which values are allowed, in words.
    pub fn allowed(&self) -> String {
        match &self.kind {
            Kind::Text(longest) => format!("1 to {longest} bytes of text without control characters"),
            Kind::Number(range) => format!("a whole number from {} to {}", range.start(), range.end()),
            Kind::Duration(range) => format!(
                "a duration such as 1m30s, from {} to {}",
                GoDuration(*range.start()),
                GoDuration(*range.end())
            ),
            Kind::Address => "an IP address such as 127.0.0.1 or ::1, or nothing for all".into(),
            Kind::Choice(words) => words.join(", "),
            Kind::File => "the path of a regular file, or of none yet; links are followed".into(),
            Kind::Socket => "the path of a Unix socket, or of none yet; links are followed".into(),
            Kind::LogFilter => "off, error, warn, info, debug or trace, targets, or a list such as \
                                info,pap_collector=debug; with /text behind it, only lines with this text"
                .into(),
            Kind::Secret => format!("1 to {MAX_KEY} visible ASCII characters"),
            Kind::SecretText => format!("1 to {MAX_KEY} bytes of text without control characters"),
            #[cfg(feature = "client")]
            Kind::Url(also) => {
                format!("an http:// or https:// URL with neither user name nor fragment{also}")
            }
            #[cfg(feature = "client")]
            Kind::Link => "an http:// or https:// URL without a user name".into(),
            #[cfg(feature = "client")]
            Kind::BaseUrl => "an http:// or https:// URL without user name, query and fragment".into(),
            #[cfg(feature = "client")]
            Kind::BaseUrls(most) => format!(
                "1 to {most} http:// or https:// URLs, comma separated, without user name, query and fragment"
            ),
            #[cfg(feature = "client")]
            Kind::Certificates => "a file of PEM certificates, at least one".into(),
        }
    }

    /// Whether `raw` is allowed. What is at a path is not looked at.
    pub fn takes(&self, raw: &str) -> bool {
        let is_text = !raw.contains([char::REPLACEMENT_CHARACTER, '\0']);
        match &self.kind {
            Kind::Text(longest) => is_text && raw.len() <= *longest && !raw.chars().any(char::is_control),
            Kind::Number(range) => {
                let digits = raw.bytes().all(|byte| byte.is_ascii_digit());
                digits && raw.parse().is_ok_and(|number| range.contains(&number))
            }
            Kind::Duration(range) => {
                raw.parse::<GoDuration>().is_ok_and(|GoDuration(duration)| range.contains(&duration))
            }
            Kind::Address => raw.parse::<IpAddr>().is_ok(),
            Kind::Choice(words) => words.contains(&raw),
            Kind::File | Kind::Socket => is_text,
            Kind::LogFilter => is_log_filter(raw),
            Kind::Secret => raw.len() <= MAX_KEY && raw.bytes().all(|byte| byte.is_ascii_graphic()),
            Kind::SecretText => is_text && raw.len() <= MAX_KEY && !raw.chars().any(char::is_control),
            #[cfg(feature = "client")]
            Kind::Url(_) | Kind::Link | Kind::BaseUrl | Kind::BaseUrls(_) => {
                client::urls(&self.kind, raw).is_ok()
            }
            #[cfg(feature = "client")]
            Kind::Certificates => is_text,
        }
    }

    /// The error for a `value` that is not allowed.
    pub fn wrong(&self, value: &str) -> ConfigError {
        ConfigError::new(self.name, Some(value), &self.allowed())
    }

    /// The same, with the reason.
    pub fn wrong_as(&self, value: &str, why: &dyn fmt::Display) -> ConfigError {
        ConfigError::new(self.name, Some(value), &format!("{} ({why})", self.allowed()))
    }

    /// The error for a value that is missing.
    pub fn missing(&self) -> ConfigError {
        ConfigError::new(self.name, None, &format!("{}, {}", self.help(), self.allowed()))
    }
}

/// Whether `env_logger` takes all of this filter: levels, targets, or `target=level`, with
/// commas between them, and after a slash a text. Of what it does not take it drops a
/// part, and says so where nobody looks. A filter of other programs' targets alone is
/// taken for a level that is misspelled: nothing at all would be logged.
fn is_log_filter(raw: &str) -> bool {
    let (directives, text) = raw.split_once('/').unwrap_or((raw, ""));
    let directives: Vec<_> = directives.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
    let is_level = |text: &str| text.trim().parse::<log::LevelFilter>().is_ok();
    let is_target = |text: &str| {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ':');
        !text.is_empty() && text.chars().all(is_part)
    };
    let is_taken = |directive: &&str| match directive.split_once('=') {
        Some((target, level)) => is_target(target) && (level.trim().is_empty() || is_level(level)),
        None => is_target(directive),
    };
    let is_foreign = |text: &&str| !is_level(text) && !text.contains('=') && !text.starts_with("pap_");
    let says_nothing = !directives.is_empty() && directives.iter().all(is_foreign);
    !text.contains('/') && !says_nothing && directives.iter().all(is_taken)
}

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
    /// An error about `variable`. The error shows `value`; `None` if it is not set.
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
                write!(f, "{variable}=\"{}\" is wrong; allowed: {allowed}", for_terminal(value))?;
                if value.starts_with("tcp://") {
                    f.write_str(" (a Kubernetes service set it: use enableServiceLinks: false)")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}
