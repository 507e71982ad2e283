//! What a heartbeat is: the agent's id, its mode and its uptime, parsed once
//! at the edge so that everything behind it holds only valid values.

use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// The most bytes an agent's id or name may have.
pub const MAX_TEXT: usize = 128;

/// What is encoded in a path segment (RFC 3986 §3.3): all but the unreserved.
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Text as a path segment of a URL, percent-encoded (RFC 3986 §2.1).
pub fn path_segment(text: &str) -> String {
    utf8_percent_encode(text, PATH_SEGMENT).to_string()
}

/// How often an agent promises to speak (PAP-RFC-001 §8.1).
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

/// An agent's id: 1 to 128 bytes of text without control characters.
///
/// Most ids are UUIDs, and those take 16 bytes instead of 36. Only the
/// canonical spelling is shortened, so that an id is given back exactly as it
/// came. Ids are ordered by their text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AgentId(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Uuid([u8; 16]),
    Text(Box<str>),
}

/// Why a text is no agent id. Nothing has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdError {
    /// The id is empty or has more than 128 bytes.
    Length,
    /// A `%` is not followed by two hexadecimal digits, or the bytes are not UTF-8.
    Encoding,
    /// The id has a control character in it.
    Control,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "agent id must be 1 to 128 bytes",
            Self::Encoding => "agent id must be percent-encoded UTF-8",
            Self::Control => "agent id must not contain control characters",
        })
    }
}

impl AgentId {
    /// An id from plain text.
    ///
    /// # Errors
    /// [`IdError::Length`] and [`IdError::Control`] as they say.
    pub fn new(text: &str) -> Result<Self, IdError> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(IdError::Length);
        }
        if text.chars().any(char::is_control) {
            return Err(IdError::Control);
        }
        if let Ok(uuid) = Uuid::try_parse(text)
            && uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text
        {
            return Ok(Self(Repr::Uuid(uuid.into_bytes())));
        }
        Ok(Self(Repr::Text(text.into())))
    }

    /// An id from a percent-encoded path segment (RFC 3986 §2.1).
    ///
    /// # Errors
    /// Every [`IdError`], as they say.
    pub fn from_path(segment: &str) -> Result<Self, IdError> {
        let mut rest = segment.as_bytes();
        while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
            match rest.get(at + 1..at + 3) {
                Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => rest = &rest[at + 3..],
                _ => return Err(IdError::Encoding),
            }
        }
        let text = percent_decode_str(segment).decode_utf8().map_err(|_| IdError::Encoding)?;
        Self::new(&text)
    }

    /// The id as a path segment: what [`from_path`](Self::from_path) reads.
    pub fn to_path(&self) -> String {
        self.with_text(path_segment)
    }

    /// Runs `f` on the id's text, without allocating.
    fn with_text<R>(&self, f: impl FnOnce(&str) -> R) -> R {
        match &self.0 {
            Repr::Uuid(bytes) => {
                let mut buffer = [0; Hyphenated::LENGTH];
                f(Uuid::from_bytes(*bytes).hyphenated().encode_lower(&mut buffer))
            }
            Repr::Text(text) => f(text),
        }
    }
}

/// Whether it is this text. No memory is taken to find out.
impl PartialEq<str> for AgentId {
    fn eq(&self, text: &str) -> bool {
        match &self.0 {
            Repr::Uuid(_) if text.len() != Hyphenated::LENGTH => false,
            Repr::Uuid(_) | Repr::Text(_) => self.with_text(|own| own == text),
        }
    }
}

impl Ord for AgentId {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            // Lower-case hexadecimal digits sort as the bytes they stand for.
            (Repr::Uuid(a), Repr::Uuid(b)) => a.cmp(b),
            _ => self.with_text(|a| other.with_text(|b| a.cmp(b))),
        }
    }
}

impl PartialOrd for AgentId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.pad(text))
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for AgentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

impl<'de> Deserialize<'de> for AgentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// One valid heartbeat.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// The mode it announces, which sets when silence becomes suspect.
    pub mode: Mode,
    /// Seconds since the agent started: finite, at least 0.
    pub uptime: f64,
    /// A name for people, at most 128 bytes; the id where it is missing.
    pub name: Option<Box<str>>,
}

/// A heartbeat's body as an agent sends it (PAP-RFC-001 §8.1), the other end of
/// [`Heartbeat::from_json`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeartbeatBody<'a> {
    /// The mode it announces.
    pub mode: Mode,
    /// Seconds since the agent started: finite, at least 0.
    pub uptime_seconds: f64,
    /// A name for people, at most 128 bytes; the id where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<&'a str>,
}

impl<'a> From<&'a Heartbeat> for HeartbeatBody<'a> {
    fn from(beat: &'a Heartbeat) -> Self {
        Self { mode: beat.mode, uptime_seconds: beat.uptime, agent_name: beat.name.as_deref() }
    }
}

/// Why a body is no heartbeat. Nothing has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatError {
    /// Not an object with a `mode` and an `uptime_seconds` that is finite and not negative.
    Payload,
    /// A `mode` that is none of the three.
    Mode,
    /// An `agent_name` that is not text of at most 128 bytes.
    Name,
    /// Resource data, which has its own channel (PAP-RFC-001 §6.1); the field's name.
    Resource(&'static str),
}

/// The fields of a heartbeat as they come. What is `present` only matters by being there.
#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each says that a field was there")]
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
    /// Every [`HeartbeatError`], as they say.
    pub fn from_json(body: &[u8]) -> Result<Self, HeartbeatError> {
        // Without this look an array would pass for an object, field by field.
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

    #[test]
    fn ids_are_decoded_and_checked() {
        let id = |path: &str| AgentId::from_path(path).map(|id| id.to_string());
        assert_eq!(id("pluggedin%2Fresearch@1.2.0").unwrap(), "pluggedin/research@1.2.0");
        assert_eq!(id("caf%C3%A9").unwrap(), "café");
        assert_eq!(id(""), Err(IdError::Length));
        assert_eq!(id(&"a".repeat(129)), Err(IdError::Length));
        assert_eq!(id(&"a".repeat(128)).unwrap().len(), 128);
        assert_eq!(id("a%"), Err(IdError::Encoding));
        assert_eq!(id("a%2"), Err(IdError::Encoding));
        assert_eq!(id("a%zz"), Err(IdError::Encoding));
        assert_eq!(id("%ff"), Err(IdError::Encoding));
        assert_eq!(id("a%0Ab"), Err(IdError::Control));
        assert_eq!(id("a%C2%85b"), Err(IdError::Control));
    }

    #[test]
    fn a_uuid_is_small_and_keeps_its_spelling() {
        let lower = "550e8400-e29b-41d4-a716-446655440000";
        let id = AgentId::new(lower).unwrap();
        assert!(matches!(id.0, Repr::Uuid(_)));
        assert_eq!(id.to_string(), lower);
        assert_eq!(size_of::<AgentId>(), 24);
        for other in [lower.to_uppercase(), lower.replace('-', ""), format!("{{{lower}}}")] {
            let id = AgentId::new(&other).unwrap();
            assert!(matches!(id.0, Repr::Text(_)), "{other}");
            assert_eq!(id.to_string(), other);
        }
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
        fn any_path_is_an_id_or_a_reason(path in "\\PC{0,200}") {
            if let Ok(id) = AgentId::from_path(&path) {
                let text = id.to_string();
                prop_assert!((1..=MAX_TEXT).contains(&text.len()));
                prop_assert!(!text.chars().any(char::is_control));
            }
        }

        #[test]
        fn an_encoded_id_comes_back(text in "\\PC{1,32}") {
            match AgentId::from_path(&path_segment(&text)) {
                Ok(id) => {
                    prop_assert_eq!(id.to_path(), path_segment(&text));
                    prop_assert_eq!(id.to_string(), text);
                }
                Err(error) => prop_assert_eq!(Err(error), AgentId::new(&text).map(|_| ())),
            }
        }

        #[test]
        fn ids_sort_by_their_text(a in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[ -~]{1,40}",
                                  b in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[ -~]{1,40}") {
            let order = AgentId::new(&a).unwrap().cmp(&AgentId::new(&b).unwrap());
            prop_assert_eq!(order, a.cmp(&b));
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
