//! A heartbeat: the mode, the uptime and the name that an agent sends. It is
//! parsed once, at the edge, so that all code behind the edge has valid values.

use std::fmt;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

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

/// One valid heartbeat.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// The mode that the agent announces. It decides after how long a silence the
    /// agent is suspect, and dead.
    pub mode: Mode,
    /// Seconds since the agent started: finite, at least 0.
    pub uptime: f64,
    /// A name for people, at most 128 bytes. Without one, the id is shown.
    pub name: Option<Box<str>>,
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

impl<'a> From<&'a Heartbeat> for HeartbeatBody<'a> {
    fn from(beat: &'a Heartbeat) -> Self {
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

/// The fields of a heartbeat as they come. Of a forbidden field only its presence
/// matters.
#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each says whether a field was there")]
struct Wire {
    #[serde(default)]
    mode: serde_json::Value,
    uptime_seconds: Option<f64>,
    #[serde(default)]
    agent_name: serde_json::Value,
    #[serde(default, deserialize_with = "present")]
    cpu_percent: bool,
    #[serde(default, deserialize_with = "present")]
    memory_mb: bool,
    #[serde(default, deserialize_with = "present")]
    requests_handled: bool,
    #[serde(default, deserialize_with = "present")]
    custom_metrics: bool,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl Heartbeat {
    /// A heartbeat from a request's body.
    ///
    /// # Errors
    /// Any [`HeartbeatError`].
    pub fn from_json(body: &[u8]) -> Result<Self, HeartbeatError> {
        // Some clients begin every text with a byte order mark (RFC 8259 §8.1).
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        // Without this check serde would take an array for an object, field by field.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(HeartbeatError::Payload);
        }
        let wire: Wire = serde_json::from_slice(body).map_err(|_| HeartbeatError::Payload)?;
        let forbidden = [
            (wire.cpu_percent, "cpu_percent"),
            (wire.memory_mb, "memory_mb"),
            (wire.requests_handled, "requests_handled"),
            (wire.custom_metrics, "custom_metrics"),
        ];
        if let Some((_, field)) = forbidden.iter().find(|(present, _)| *present) {
            return Err(HeartbeatError::Resource(field));
        }
        let uptime = match wire.uptime_seconds {
            Some(uptime) if uptime.is_finite() && uptime >= 0.0 => uptime,
            _ => return Err(HeartbeatError::Payload),
        };
        let mode = match &wire.mode {
            serde_json::Value::Null => return Err(HeartbeatError::Payload),
            serde_json::Value::String(name) => Mode::from_name(name).ok_or(HeartbeatError::Mode)?,
            _ => return Err(HeartbeatError::Mode),
        };
        let name = match wire.agent_name {
            serde_json::Value::Null => None,
            serde_json::Value::String(name) if name.is_empty() => None,
            serde_json::Value::String(name) if name.len() <= MAX_TEXT => Some(name.into()),
            _ => return Err(HeartbeatError::Name),
        };
        Ok(Self { mode, uptime, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn beat(json: &str) -> Result<Heartbeat, HeartbeatError> {
        Heartbeat::from_json(json.as_bytes())
    }

    #[test]
    fn a_fractional_uptime_and_extra_fields_are_fine() {
        let parsed = beat(r#"{"mode":"IDLE","uptime_seconds":3.25,"agent_name":"a","x":[{}]}"#);
        let expected = Heartbeat { mode: Mode::Idle, uptime: 3.25, name: Some("a".into()) };
        assert_eq!(parsed, Ok(expected));
        assert_eq!(beat(r#"{"mode":"SLEEP","uptime_seconds":0,"agent_name":null}"#).unwrap().name, None);
        assert_eq!(beat(r#"{"mode":"SLEEP","uptime_seconds":0,"agent_name":""}"#).unwrap().name, None);
        let marked = beat("\u{feff}{\"mode\":\"SLEEP\",\"uptime_seconds\":0}");
        assert_eq!(
            marked,
            beat(r#"{"mode":"SLEEP","uptime_seconds":0}"#),
            "a byte order mark is none of the JSON"
        );
        assert!(beat("\u{feff}\u{feff}{}").is_err() && beat("\u{feff}").is_err());
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
            let parsed = Heartbeat::from_json(json.to_string().as_bytes());
            let good = Mode::from_name(&mode).is_some() && uptime.is_finite() && uptime >= 0.0 && name.len() <= MAX_TEXT;
            prop_assert_eq!(parsed.is_ok(), good);
        }
    }
}
