//! A heartbeat: the mode, the uptime and the name that an agent sends. It is
//! parsed once, at the edge, so that all code behind the edge has valid values.

mod wire;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::error::Category;

use crate::text::with_whole_characters;
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
    Payload(Flaw),
    /// The `mode` is none of the three.
    Mode,
    /// The `agent_name` is not text of at most 128 bytes.
    Name,
    /// The body has a field of resource data, which has its own channel (PAP-RFC-001
    /// §6.1). This is the field's name.
    Resource(&'static str),
}

/// What is wrong with a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is no JSON, or it has a number beyond all numbers, or 128 levels.
    Syntax,
    /// It ends too early.
    End,
    /// It is JSON, but no object.
    Kind,
    /// This field is there twice.
    Twice(&'static str),
    /// This field is not there, or null.
    Missing(&'static str),
    /// `uptime_seconds` is no number.
    NoNumber,
    /// `uptime_seconds` is less than 0.
    Negative,
}

impl HeartbeatError {
    /// The field that is at fault; none if the body as a whole is.
    pub const fn field(self) -> Option<&'static str> {
        match self {
            Self::Payload(Flaw::Syntax | Flaw::End | Flaw::Kind) => None,
            Self::Payload(Flaw::Twice(field) | Flaw::Missing(field)) | Self::Resource(field) => Some(field),
            Self::Payload(Flaw::NoNumber | Flaw::Negative) => Some("uptime_seconds"),
            Self::Mode => Some("mode"),
            Self::Name => Some("agent_name"),
        }
    }

    /// What is wrong with it, for people.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Payload(Flaw::Syntax) => "the body is not JSON that can be read",
            Self::Payload(Flaw::End) => "the body is empty, or its JSON ends too early",
            Self::Payload(Flaw::Kind) => "the body is not a JSON object",
            Self::Payload(Flaw::Twice(_)) => "is there twice",
            Self::Payload(Flaw::Missing(_)) => "is missing or null",
            Self::Payload(Flaw::NoNumber) => "must be a number",
            Self::Payload(Flaw::Negative) => "must be at least 0",
            Self::Mode => "must be EMERGENCY, IDLE or SLEEP",
            Self::Name => "must be text of at most 128 bytes",
            Self::Resource(_) => "is resource data, which does not belong into a heartbeat",
        }
    }
}

impl From<serde_json::Error> for HeartbeatError {
    fn from(error: serde_json::Error) -> Self {
        Self::Payload(match error.classify() {
            Category::Data => Flaw::Kind,
            Category::Eof => Flaw::End,
            Category::Syntax | Category::Io => Flaw::Syntax,
        })
    }
}

impl<'a> Heartbeat<'a> {
    /// A heartbeat from a request's body. It allocates only for escapes, and to skip
    /// nested values.
    ///
    /// # Errors
    /// Any [`HeartbeatError`].
    pub fn from_json(body: &'a [u8]) -> Result<Self, HeartbeatError> {
        // Some clients begin every text with a byte order mark (RFC 8259 §8.1).
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let error = match serde_json::from_slice(body) {
            Ok(wire) => return Self::from_wire(wire),
            Err(error) => error,
        };
        // Half a surrogate pair is an error for the parser, and none for us.
        match with_whole_characters(body) {
            Cow::Owned(body) => Ok(Heartbeat::from_wire(serde_json::from_slice(&body)?)?.into_owned()),
            Cow::Borrowed(_) => Err(error.into()),
        }
    }

    fn from_wire(wire: Wire<'a>) -> Result<Self, HeartbeatError> {
        let flawed = |flaw| Err(HeartbeatError::Payload(flaw));
        if let Some(field) = wire.twice {
            return flawed(Flaw::Twice(field));
        }
        // What is no number at all is worse than resource data, and a negative one is not.
        let uptime = match wire.uptime_seconds {
            Member::Missing => None,
            Member::Number(uptime) => Some(uptime),
            Member::Text(_) | Member::Other => return flawed(Flaw::NoNumber),
        };
        if let Some(field) = wire.resource_data() {
            return Err(HeartbeatError::Resource(field));
        }
        let uptime = match uptime {
            None => return flawed(Flaw::Missing("uptime_seconds")),
            // The parser refuses what is not finite.
            Some(uptime) if uptime >= 0.0 && uptime.is_finite() => uptime,
            Some(_) => return flawed(Flaw::Negative),
        };
        let mode = match wire.mode {
            Member::Missing => return flawed(Flaw::Missing("mode")),
            Member::Text(name) => Mode::from_name(&name).ok_or(HeartbeatError::Mode)?,
            Member::Number(_) | Member::Other => return Err(HeartbeatError::Mode),
        };
        let name = match wire.agent_name {
            Member::Missing => None,
            Member::Text(name) if name.is_empty() => None,
            Member::Text(name) => {
                let name = without_nul(name);
                if name.len() > MAX_TEXT {
                    return Err(HeartbeatError::Name);
                }
                Some(name)
            }
            Member::Number(_) | Member::Other => return Err(HeartbeatError::Name),
        };
        Ok(Self { mode, uptime, name })
    }

    /// The same with a name of its own.
    fn into_owned(self) -> Heartbeat<'static> {
        Heartbeat {
            mode: self.mode,
            uptime: self.uptime,
            name: self.name.map(|name| name.into_owned().into()),
        }
    }
}

/// Databases take no NUL: a station that answers an error to it would never hear of the
/// agent's death.
fn without_nul(name: Cow<'_, str>) -> Cow<'_, str> {
    if name.contains('\0') { name.replace('\0', "\u{fffd}").into() } else { name }
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
        let marked = beat("\u{feff}{\"mode\":\"SLEEP\",\"uptime_seconds\":0}");
        assert_eq!(
            marked,
            beat(r#"{"mode":"SLEEP","uptime_seconds":0}"#),
            "a byte order mark is none of the JSON"
        );
        assert!(beat("\u{feff}\u{feff}{}").is_err() && beat("\u{feff}").is_err());
    }

    #[test]
    fn a_name_that_was_cut_between_two_units_is_a_name() {
        let named = |json: &str| beat(json).unwrap().name.map(Cow::into_owned);
        let cut = r#"{"agent_name":"x\ud83d","mode":"IDLE","uptime_seconds":1}"#;
        assert_eq!(named(cut).as_deref(), Some("x\u{fffd}"));
        let nul = r#"{"agent_name":"x\u0000","mode":"IDLE","uptime_seconds":1}"#;
        assert_eq!(named(nul).as_deref(), Some("x\u{fffd}"));
        let key = r#"{"\udc00":"\ud83d","agent_name":"\ud83d\ude00","mode":"IDLE","uptime_seconds":1}"#;
        assert_eq!(named(key).as_deref(), Some("\u{1f600}"));
        // A replacement character has three bytes.
        let long = |count| beat(&cut.replace("\"x", &format!("\"{}", "x".repeat(count)))).map(|_| ());
        assert_eq!(long(125), Ok(()));
        assert_eq!(long(126), Err(HeartbeatError::Name));
    }

    #[test]
    fn what_is_no_heartbeat_is_refused_by_its_reason() {
        for (json, error) in [
            ("", HeartbeatError::Payload(Flaw::End)),
            ("[]", HeartbeatError::Payload(Flaw::Kind)),
            (r#"["IDLE",1]"#, HeartbeatError::Payload(Flaw::Kind)),
            (r#"{"mode":"IDLE"}"#, HeartbeatError::Payload(Flaw::Missing("uptime_seconds"))),
            (r#"{"uptime_seconds":1}"#, HeartbeatError::Payload(Flaw::Missing("mode"))),
            (r#"{"mode":null,"uptime_seconds":1}"#, HeartbeatError::Payload(Flaw::Missing("mode"))),
            (
                r#"{"mode":"IDLE","uptime_seconds":null}"#,
                HeartbeatError::Payload(Flaw::Missing("uptime_seconds")),
            ),
            (r#"{"mode":"IDLE","uptime_seconds":"1"}"#, HeartbeatError::Payload(Flaw::NoNumber)),
            (r#"{"mode":"IDLE","uptime_seconds":-0.1}"#, HeartbeatError::Payload(Flaw::Negative)),
            (r#"{"mode":"IDLE","uptime_seconds":1e999}"#, HeartbeatError::Payload(Flaw::Syntax)),
            (
                r#"{"mode":"IDLE","uptime_seconds":1,"uptime_seconds":2}"#,
                HeartbeatError::Payload(Flaw::Twice("uptime_seconds")),
            ),
            (r#"{"mode":"IDLE","uptime_seconds":1} x"#, HeartbeatError::Payload(Flaw::Syntax)),
            (
                r#"{"cpu_percent":1,"mode":"IDLE","uptime_seconds":1,"cpu_percent":2}"#,
                HeartbeatError::Payload(Flaw::Twice("cpu_percent")),
            ),
            (
                r#"{"mode":"IDLE","uptime_seconds":[],"cpu_percent":1}"#,
                HeartbeatError::Payload(Flaw::NoNumber),
            ),
            (r#"{"mode":[1e999],"uptime_seconds":1}"#, HeartbeatError::Payload(Flaw::Syntax)),
            (r#"{"mode":{"a":{"a":[]},"a":1},"uptime_seconds":1}"#, HeartbeatError::Mode),
            (r#"{"mode":true,"uptime_seconds":1,"agent_name":7}"#, HeartbeatError::Mode),
            (r#"{"mode":7,"uptime_seconds":-1,"memory_mb":1}"#, HeartbeatError::Resource("memory_mb")),
            (r#"{"custom_metrics":1,"memory_mb":1}"#, HeartbeatError::Resource("memory_mb")),
            (r#"{"mode":"idle","uptime_seconds":1}"#, HeartbeatError::Mode),
            (r#"{"mode":7,"uptime_seconds":1}"#, HeartbeatError::Mode),
            (r#"{"mode":"IDLE\ud83d","uptime_seconds":1}"#, HeartbeatError::Mode),
            (r#"{"mode":"IDLE\ud83d""#, HeartbeatError::Payload(Flaw::End)),
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
            mode in proptest::sample::select(Mode::ALL.as_slice()), millis in any::<u32>(), name in "[^\\x00]{0,32}",
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
