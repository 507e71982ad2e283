//! A heartbeat: the mode, the uptime and the name that an agent sends. It is
//! parsed once, at the edge, so that all code behind the edge has valid values.

mod wire;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use wire::{Member, Wire};

/// The most bytes an agent's id or name may have.
pub const MAX_TEXT: usize = 128;

/// How often an agent promises a heartbeat (PAP-RFC-001 §8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    /// Every 5 seconds.
    Emergency,
    /// Every 30 seconds.
    Idle,
    /// Every 15 minutes.
    Sleep,
}

impl Mode {
    /// All modes, in the order the API lists them.
    pub const ALL: [Self; 3] = [Self::Emergency, Self::Idle, Self::Sleep];

    /// The mode's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Emergency => "EMERGENCY",
            Self::Idle => "IDLE",
            Self::Sleep => "SLEEP",
        }
    }

    /// The time between two heartbeats in this mode.
    pub const fn interval(self) -> Duration {
        match self {
            Self::Emergency => Duration::from_secs(5),
            Self::Idle => Duration::from_secs(30),
            Self::Sleep => Duration::from_secs(15 * 60),
        }
    }

    /// The mode with this exact name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One valid heartbeat. It borrows from the bytes that the agent sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat<'a> {
    /// The mode that the agent announces. It decides after how long a silence the
    /// agent is suspect, and dead.
    pub mode: Mode,
    /// Seconds since the agent started: finite, at least 0.
    pub uptime: f64,
    /// A name for people, at most 128 bytes. Without one, the id is shown.
    pub name: Option<Cow<'a, str>>,
}

/// A heartbeat's body as an agent sends it (PAP-RFC-001 §8.1).
/// [`Heartbeat::from_json`] reads it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeartbeatBody<'a> {
    /// The mode that the agent announces.
    pub mode: Mode,
    /// Seconds since the agent started: finite, at least 0.
    pub uptime_seconds: f64,
    /// A name for people, at most 128 bytes. Without one, the id is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<&'a str>,
}

impl<'a> From<&'a Heartbeat<'_>> for HeartbeatBody<'a> {
    fn from(beat: &'a Heartbeat<'_>) -> Self {
        Self { mode: beat.mode, uptime_seconds: beat.uptime, agent_name: beat.name.as_deref() }
    }
}

/// Why a body is not a heartbeat. The state is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatError {
    /// The body is not an object with a `mode`, and with an `uptime_seconds` that is
    /// finite and not negative.
    Payload,
    /// The `mode` is none of the three.
    Mode,
    /// The `agent_name` is not text of at most 128 bytes.
    Name,
    /// The body has a field of resource data, which has its own channel (PAP-RFC-001
    /// §6.1). This is the field's name.
    Resource(&'static str),
}

impl<'a> Heartbeat<'a> {
    /// A heartbeat from a request's body. It allocates only for escapes, and to read over
    /// nested values.
    ///
    /// # Errors
    /// Any [`HeartbeatError`].
    pub fn from_json(body: &'a [u8]) -> Result<Self, HeartbeatError> {
        let wire: Wire<'_> = serde_json::from_slice(body).map_err(|_| HeartbeatError::Payload)?;
        // What is no number at all is worse than resource data, and a number out of range is not.
        let uptime = match wire.uptime_seconds {
            Member::Missing => None,
            Member::Number(uptime) => Some(uptime),
            Member::Text(_) | Member::Other => return Err(HeartbeatError::Payload),
        };
        if let Some(field) = wire.resource_data() {
            return Err(HeartbeatError::Resource(field));
        }
        let uptime = uptime.filter(|uptime| uptime.is_finite() && *uptime >= 0.0);
        let uptime = uptime.ok_or(HeartbeatError::Payload)?;
        let mode = match wire.mode {
            Member::Missing => return Err(HeartbeatError::Payload),
            Member::Text(name) => Mode::from_name(&name).ok_or(HeartbeatError::Mode)?,
            Member::Number(_) | Member::Other => return Err(HeartbeatError::Mode),
        };
        let name = match wire.agent_name {
            Member::Missing => None,
            Member::Text(name) if name.is_empty() => None,
            Member::Text(name) if name.len() <= MAX_TEXT => Some(name),
            Member::Text(_) | Member::Number(_) | Member::Other => return Err(HeartbeatError::Name),
        };
        Ok(Self { mode, uptime, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn beat(json: &str) -> Result<Heartbeat<'_>, HeartbeatError> {
        Heartbeat::from_json(json.as_bytes())
    }

    #[test]
    fn a_fractional_uptime_and_extra_fields_are_fine() {
        let parsed = beat(r#"{"mode":"IDLE","uptime_seconds":3.25,"agent_name":"a","x":[{}]}"#);
        let expected = Heartbeat { mode: Mode::Idle, uptime: 3.25, name: Some("a".into()) };
        assert_eq!(parsed, Ok(expected));
        let escaped = r#"{"mo\u0064e":"ID\u004CE","uptime_seconds":3.25,"agent_name":"\u0061","x":"\ud83d"}"#;
        assert_eq!(beat(escaped), Ok(Heartbeat { mode: Mode::Idle, uptime: 3.25, name: Some("a".into()) }));
        assert_eq!(beat(r#"{"mode":"SLEEP","uptime_seconds":0,"agent_name":null}"#).unwrap().name, None);
        assert_eq!(beat(r#"{"mode":"SLEEP","uptime_seconds":0,"agent_name":""}"#).unwrap().name, None);
    }

    #[test]
    fn what_is_no_heartbeat_is_refused_by_its_reason() {
        for (json, error) in [
            ("", HeartbeatError::Payload),
            ("[]", HeartbeatError::Payload),
            (r#"["IDLE",1]"#, HeartbeatError::Payload),
            (r#"{"mode":"IDLE"}"#, HeartbeatError::Payload),
            (r#"{"uptime_seconds":1}"#, HeartbeatError::Payload),
            (r#"{"mode":null,"uptime_seconds":1}"#, HeartbeatError::Payload),
            (r#"{"mode":"IDLE","uptime_seconds":null}"#, HeartbeatError::Payload),
            (r#"{"mode":"IDLE","uptime_seconds":"1"}"#, HeartbeatError::Payload),
            (r#"{"mode":"IDLE","uptime_seconds":-0.1}"#, HeartbeatError::Payload),
            (r#"{"mode":"IDLE","uptime_seconds":1e999}"#, HeartbeatError::Payload),
            (r#"{"mode":"IDLE","uptime_seconds":1,"uptime_seconds":2}"#, HeartbeatError::Payload),
            (r#"{"mode":"IDLE","uptime_seconds":1} x"#, HeartbeatError::Payload),
            (
                r#"{"cpu_percent":1,"mode":"IDLE","uptime_seconds":1,"cpu_percent":2}"#,
                HeartbeatError::Payload,
            ),
            (r#"{"mode":"IDLE","uptime_seconds":[],"cpu_percent":1}"#, HeartbeatError::Payload),
            (r#"{"mode":[1e999],"uptime_seconds":1}"#, HeartbeatError::Payload),
            (r#"{"mode":{"a":{"a":[]},"a":1},"uptime_seconds":1}"#, HeartbeatError::Mode),
            (r#"{"mode":true,"uptime_seconds":1,"agent_name":7}"#, HeartbeatError::Mode),
            (r#"{"mode":7,"uptime_seconds":-1,"memory_mb":1}"#, HeartbeatError::Resource("memory_mb")),
            (r#"{"custom_metrics":1,"memory_mb":1}"#, HeartbeatError::Resource("memory_mb")),
            (r#"{"mode":"idle","uptime_seconds":1}"#, HeartbeatError::Mode),
            (r#"{"mode":7,"uptime_seconds":1}"#, HeartbeatError::Mode),
            (r#"{"mode":"IDLE","uptime_seconds":1,"agent_name":7}"#, HeartbeatError::Name),
            (
                r#"{"mode":"IDLE","uptime_seconds":1,"cpu_percent":null}"#,
                HeartbeatError::Resource("cpu_percent"),
            ),
            (
                r#"{"mode":"IDLE","uptime_seconds":1,"custom_metrics":{}}"#,
                HeartbeatError::Resource("custom_metrics"),
            ),
        ] {
            assert_eq!(beat(json), Err(error), "{json}");
        }
        let long = "é".repeat(65);
        let json = format!(r#"{{"mode":"IDLE","uptime_seconds":1,"agent_name":"{long}"}}"#);
        assert_eq!(beat(&json), Err(HeartbeatError::Name));
    }

    proptest! {
        #[test]
        fn what_an_agent_sends_is_what_is_heard(
            mode in proptest::sample::select(Mode::ALL.as_slice()), millis in any::<u32>(), name in ".{0,32}",
        ) {
            let name = Some(name).filter(|name| !name.is_empty()).map(Into::into);
            let beat = Heartbeat { mode, uptime: f64::from(millis) / 1000.0, name };
            let json = serde_json::to_vec(&HeartbeatBody::from(&beat)).unwrap();
            prop_assert_eq!(Heartbeat::from_json(&json), Ok(beat));
        }

        #[test]
        fn any_body_is_a_heartbeat_or_a_reason(body in proptest::collection::vec(any::<u8>(), 0..1024)) {
            let _ = Heartbeat::from_json(&body);
        }

        #[test]
        fn near_heartbeats_parse_as_they_should(mode in "EMERGENCY|IDLE|SLEEP|idle|", uptime in any::<f64>(), name in "\\PC{0,70}") {
            let json = serde_json::json!({"mode": mode, "uptime_seconds": uptime, "agent_name": name});
            let json = json.to_string();
            let parsed = Heartbeat::from_json(json.as_bytes());
            let good = Mode::from_name(&mode).is_some() && uptime.is_finite() && uptime >= 0.0 && name.len() <= MAX_TEXT;
            prop_assert_eq!(parsed.is_ok(), good);
        }
    }
}
