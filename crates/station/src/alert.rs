//! An alert as a collector posts it: what is taken, and what is answered if it is not taken.

use pap_core::agent_id::AgentId;
use pap_core::time::Wall;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest body of an alert, in bytes.
pub const MAX_BODY: usize = 10_000;
/// The longest `event_id`, in bytes.
const MAX_EVENT_ID: usize = 256;

/// The types of alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// An agent fell silent.
    Death,
    /// An agent's mode became EMERGENCY.
    Emergency,
    /// An agent restarted.
    Restart,
    /// A dead agent is back.
    Recovered,
}

impl Type {
    /// All types.
    pub const ALL: [Self; 4] = [Self::Death, Self::Emergency, Self::Restart, Self::Recovered];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Death => "AGENT_DEATH",
            Self::Emergency => "EMERGENCY_MODE",
            Self::Restart => "RESTART_DETECTED",
            Self::Recovered => "AGENT_RECOVERED",
        }
    }

    /// The type with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }
}

/// The names of severities.
pub const SEVERITIES: [&str; 3] = ["critical", "warning", "info"];

/// An alert that is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// What happened.
    pub kind: Type,
    /// The agent.
    pub agent: String,
    /// Its name; may be empty.
    pub name: String,
    /// One of [`SEVERITIES`].
    pub severity: String,
    /// What else the collector says.
    pub details: Option<Map<String, Value>>,
    /// When it happened, by the collector's clock.
    pub timestamp: Wall,
    /// The same for every repeat of this alert.
    pub event_id: Option<String>,
}

impl Alert {
    /// A text in the details.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.details.as_ref()?.get(name)?.as_str()
    }

    /// A number in the details.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.details.as_ref()?.get(name)?.as_f64()
    }

    /// Whether this death belongs to a mass silence.
    pub fn is_of_mass_silence(&self) -> bool {
        let said = self.details.as_ref().and_then(|details| details.get("mass_silence"));
        said.and_then(Value::as_bool) == Some(true)
    }
}

/// A member of a body that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Which member.
    pub path: Vec<&'static str>,
    /// What it must be.
    pub message: String,
}

impl Fault {
    /// A fault of one member.
    pub fn of(member: &'static str, message: impl Into<String>) -> Self {
        Self { path: vec![member], message: message.into() }
    }
}

/// Why a body is no alert of this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAlert {
    /// It is of another cluster.
    Mismatch,
    /// Something is missing or wrong.
    Invalid(Vec<Fault>),
}

/// The alert in a body that was posted for this cluster.
///
/// # Errors
/// Why the body is no alert of this cluster.
pub fn parse(cluster_id: &str, body: &[u8]) -> Result<Alert, NoAlert> {
    let members: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
        NoAlert::Invalid(vec![Fault { path: Vec::new(), message: format!("must be a JSON object: {error}") }])
    })?;
    match members.get("cluster_id").and_then(Value::as_str) {
        Some(other) if other != cluster_id => return Err(NoAlert::Mismatch),
        _ => {}
    }
    let mut faults = Vec::new();
    let mut demand = |member: &'static str, is_right: bool, message: &str| {
        if !is_right {
            faults.push(Fault::of(member, message));
        }
    };
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let kind = text("type").and_then(Type::from_name);
    demand("type", kind.is_some(), &format!("must be one of {}", Type::ALL.map(Type::name).join(", ")));
    let agent = text("agent_uuid").filter(|id| AgentId::new(id).is_ok());
    demand("agent_uuid", agent.is_some(), "must be a text of 1 to 128 bytes without control characters");
    let name = text("agent_name");
    demand("agent_name", name.is_some(), "must be a text");
    demand("cluster_id", text("cluster_id").is_some(), "must be a text");
    let severity = text("severity").filter(|it| SEVERITIES.contains(it));
    demand("severity", severity.is_some(), &format!("must be one of {}", SEVERITIES.join(", ")));
    let details = match members.get("details") {
        None => Some(None),
        Some(Value::Object(details)) => Some(Some(details.clone())),
        Some(_) => None,
    };
    demand("details", details.is_some(), "must be an object, or left out");
    let timestamp = members.get("timestamp").and_then(|value| Wall::deserialize(value).ok());
    demand("timestamp", timestamp.is_some(), "must be a moment such as 2026-01-31T12:00:00.000Z");
    let event_id = match members.get("event_id") {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(id)) if (1..=MAX_EVENT_ID).contains(&id.len()) => Some(Some(id.clone())),
        Some(_) => None,
    };
    demand("event_id", event_id.is_some(), "must be a text of 1 to 256 bytes, or left out");
    match (kind, agent, name, severity, details, timestamp, event_id) {
        (
            Some(kind),
            Some(agent),
            Some(name),
            Some(severity),
            Some(details),
            Some(timestamp),
            Some(event_id),
        ) if faults.is_empty() => Ok(Alert {
            kind,
            agent: agent.into(),
            name: name.into(),
            severity: severity.into(),
            details,
            timestamp,
            event_id,
        }),
        _ => Err(NoAlert::Invalid(faults)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn original() -> Value {
        json!({
            "type": "AGENT_DEATH", "agent_uuid": "5a1bb1a3-46a9-4a3c-9d4b-4a3c9d4b46a9", "agent_name": "",
            "cluster_id": "c", "severity": "critical",
            "details": {"missed_intervals": 2, "last_seen": "2026-01-31T12:00:00.000Z", "mode": "IDLE"},
            "timestamp": "2026-01-31T12:01:05.123Z"
        })
    }

    fn parsed(value: &Value) -> Result<Alert, NoAlert> {
        parse("c", value.to_string().as_bytes())
    }

    fn faults(value: &Value) -> Vec<&'static str> {
        match parsed(value) {
            Err(NoAlert::Invalid(faults)) => faults.into_iter().flat_map(|fault| fault.path).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_originals_alert_is_taken_and_so_is_ours() {
        let alert = parsed(&original()).unwrap();
        assert_eq!(
            (alert.kind, alert.text("mode"), alert.event_id.clone()),
            (Type::Death, Some("IDLE"), None)
        );
        assert!(!alert.is_of_mass_silence());
        let mut ours = original();
        ours["type"] = json!("AGENT_RECOVERED");
        ours["agent_uuid"] = json!("compass-local");
        ours["event_id"] = json!("x-7");
        ours["details"] = json!({"mass_silence": true, "dead_ms": 7});
        ours["seq"] = json!(7);
        let alert = parsed(&ours).unwrap();
        assert_eq!((alert.kind, alert.number("dead_ms")), (Type::Recovered, Some(7.0)));
        assert!(alert.is_of_mass_silence());
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        assert_eq!(
            faults(&json!({})),
            ["type", "agent_uuid", "agent_name", "cluster_id", "severity", "timestamp"]
        );
        for (member, wrong) in [
            ("type", json!("MODE_CHANGE")),
            ("agent_uuid", json!("")),
            ("agent_uuid", json!("x".repeat(129))),
            ("agent_name", json!(7)),
            ("severity", json!("fatal")),
            ("details", json!(null)),
            ("details", json!([])),
            ("timestamp", json!("2026-01-31T12:01:05+01:00")),
            ("timestamp", json!(1_700_000_000)),
            ("event_id", json!("")),
            ("cluster_id", json!(7)),
        ] {
            let mut value = original();
            value[member] = wrong;
            assert_eq!(faults(&value), [member], "{value}");
        }
        assert_eq!(parse("d", original().to_string().as_bytes()), Err(NoAlert::Mismatch));
        assert!(matches!(parse("c", b"{"), Err(NoAlert::Invalid(_))));
        assert!(matches!(parse("c", b"[]"), Err(NoAlert::Invalid(_))));
    }
}
