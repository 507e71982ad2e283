//! Whose heartbeats and goodbyes a collector takes.

use pap_process::settings::{ConfigError, Reader, Secret};

use super::settings::{GOODBYE, HEARTBEAT_API_KEY};

/// Whose goodbyes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbyes {
    /// Everyone's.
    Open,
    /// Those with a key.
    Key,
    /// None.
    Off,
}

/// Whose heartbeats and whose goodbyes are taken.
#[derive(Clone, Debug)]
pub struct Admission {
    /// A heartbeat must carry one of these keys; empty if everyone's heartbeats are taken.
    pub keys: Vec<Secret>,
    /// Whose goodbyes are taken.
    pub goodbyes: Goodbyes,
}

impl Admission {
    /// From `HEARTBEAT_API_KEY` and `GOODBYE`.
    ///
    /// # Errors
    /// One of them is wrong, or goodbyes need a key and there is none.
    pub(super) fn read(from: &mut Reader<'_>, warnings: &mut Vec<String>) -> Result<Self, ConfigError> {
        let keys = from.secrets(&HEARTBEAT_API_KEY)?;
        let usual = if keys.is_empty() { "open" } else { "key" };
        let goodbyes = match from.value_or(&GOODBYE, || usual.to_owned())?.as_str() {
            "key" if keys.is_empty() => {
                let allowed = "open or off, or key together with HEARTBEAT_API_KEY";
                return Err(ConfigError::new(GOODBYE.name, Some("key"), allowed));
            }
            "key" => Goodbyes::Key,
            "off" => Goodbyes::Off,
            _ => Goodbyes::Open,
        };
        if goodbyes == Goodbyes::Open && !keys.is_empty() {
            warnings.push(
                "GOODBYE=open: heartbeats need a key and goodbyes do not, so everyone who reaches this port can \
                 hide a death; leave GOODBYE out to ask for the key"
                    .into(),
            );
        }
        Ok(Self { keys, goodbyes })
    }
}
