//! An alert: what the station is told, and the JSON that is written and read.

use core::net::IpAddr;
use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::agent_id::AgentId;
use crate::heartbeat::Mode;
use crate::time::{Now, Wall};

/// The types of alert, in the order the metrics list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Kind {
    /// An agent's verdict turned dead.
    AgentDeath,
    /// An agent's mode became EMERGENCY.
    EmergencyMode,
    /// An agent restarted.
    RestartDetected,
    /// An agent is back whose death the station was told.
    AgentRecovered,
}

impl Kind {
    /// All types.
    pub const ALL: [Self; 4] =
        [Self::AgentDeath, Self::EmergencyMode, Self::RestartDetected, Self::AgentRecovered];

    /// The type's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AgentDeath => "AGENT_DEATH",
            Self::EmergencyMode => "EMERGENCY_MODE",
            Self::RestartDetected => "RESTART_DETECTED",
            Self::AgentRecovered => "AGENT_RECOVERED",
        }
    }

    /// How much the station should care.
    pub const fn severity(self) -> Severity {
        match self {
            Self::AgentDeath => Severity::Critical,
            Self::EmergencyMode => Severity::Warning,
            Self::RestartDetected | Self::AgentRecovered => Severity::Info,
        }
    }
}

/// The verdicts that the station is told. Unlike an event, a verdict stays true
/// until the next verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictKind {
    /// The agent is dead.
    Death,
    /// The agent is back.
    Recovery {
        /// How long it was dead.
        dead_for: Duration,
    },
}

impl VerdictKind {
    /// How long the agent was dead; zero for an agent that is still dead.
    pub const fn dead_for(self) -> Duration {
        match self {
            Self::Death => Duration::ZERO,
            Self::Recovery { dead_for } => dead_for,
        }
    }
}

impl From<VerdictKind> for Kind {
    fn from(verdict: VerdictKind) -> Self {
        match verdict {
            VerdictKind::Death => Self::AgentDeath,
            VerdictKind::Recovery { .. } => Self::AgentRecovered,
        }
    }
}

/// How much an alert matters. When the queue is full, the less severe alert gives
/// way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody must act.
    Critical,
}

/// The reason of a death: no heartbeat came.
pub const HEARTBEAT_TIMEOUT: &str = "heartbeat_timeout";

/// The details of an [`AgentDeath`](Kind::AgentDeath).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Death {
    /// [`HEARTBEAT_TIMEOUT`]. A newer collector may give other reasons.
    pub reason: Cow<'static, str>,
    /// For how many whole intervals of its mode the agent has been silent.
    pub missed_intervals: u64,
    /// When the agent was last heard.
    pub last_seen: Wall,
    /// The mode that the agent had announced.
    pub mode: Mode,
    /// The uptime that the agent had announced, in seconds.
    #[serde(serialize_with = "seconds")]
    pub uptime_before_death: f64,
    /// How long the agent has been silent, in milliseconds of awake time.
    pub silence_ms: u64,
    /// How many agents fell silent within the same interval, this one included.
    #[serde(default)]
    pub silent_together: u32,
    /// How many agents were not dead when that began.
    #[serde(default)]
    pub known: u32,
    /// How often this agent died in the last hour, this death included.
    #[serde(default)]
    pub deaths_last_hour: u32,
    /// Since when the collector itself was awake.
    #[serde(default)]
    pub awake_since: Wall,
    /// Whether this death belongs to a mass silence.
    #[serde(default)]
    pub mass_silence: bool,
}

/// The details of an [`EmergencyMode`](Kind::EmergencyMode).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Emergency {
    /// The mode before. `None` if this was the agent's first heartbeat.
    pub previous_mode: Option<Mode>,
    /// The uptime that the agent announced, in seconds.
    #[serde(serialize_with = "seconds")]
    pub uptime_seconds: f64,
}

/// The details of a [`RestartDetected`](Kind::RestartDetected).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// The uptime before, in seconds.
    #[serde(serialize_with = "seconds")]
    pub previous_uptime: f64,
    /// The uptime now, in seconds.
    #[serde(serialize_with = "seconds")]
    pub new_uptime: f64,
    /// The mode that the agent announced.
    pub mode: Mode,
    /// It is probably no restart: two agents use this id. Written only if it is so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub id_used_twice: bool,
    /// The addresses from which these two send their heartbeats, as far as they are
    /// known; one if both are the same, as behind a proxy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// The details of an [`AgentRecovered`](Kind::AgentRecovered).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// How long the verdict was dead, in milliseconds of awake time.
    pub dead_ms: u64,
    /// The mode that the agent announced.
    pub mode: Mode,
}

/// What an alert says beyond its type. [`Details::read`] reads it, because it needs
/// the type.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Details {
    /// An agent is dead.
    Death(Death),
    /// An agent's mode became EMERGENCY.
    Emergency(Emergency),
    /// An agent restarted.
    Restart(Restart),
    /// An agent is back.
    Recovered(Recovered),
}

impl Details {
    /// The type of alert these details belong to.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Death(_) => Kind::AgentDeath,
            Self::Emergency(_) => Kind::EmergencyMode,
            Self::Restart(_) => Kind::RestartDetected,
            Self::Recovered(_) => Kind::AgentRecovered,
        }
    }

    /// The details of an alert of this type. Unknown fields are ignored: a newer
    /// collector may say more.
    ///
    /// # Errors
    /// A field is missing or has the wrong type.
    pub fn read(kind: Kind, details: &Value) -> serde_json::Result<Self> {
        Ok(match kind {
            Kind::AgentDeath => Self::Death(Death::deserialize(details)?),
            Kind::EmergencyMode => Self::Emergency(Emergency::deserialize(details)?),
            Kind::RestartDetected => Self::Restart(Restart::deserialize(details)?),
            Kind::AgentRecovered => Self::Recovered(Recovered::deserialize(details)?),
        })
    }
}

/// One alert. It is made when a sender can post it, from what is true then.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// The agent.
    pub agent: AgentId,
    /// The agent's name.
    pub name: String,
    /// A number that rises from alert to alert. A repeated alert keeps its number.
    pub seq: u64,
    /// How often the alert was posted in vain.
    pub attempts: u32,
    /// When it happened. Delivery times are measured in awake time, because the wall
    /// clock may step.
    pub at: Now,
    /// What happened.
    pub details: Details,
}

impl Alert {
    /// The alert's type.
    pub const fn kind(&self) -> Kind {
        self.details.kind()
    }

    /// The alert as the station takes it. `instance` is different in every run of a
    /// collector, so `event_id` is unique.
    pub fn body(&self, cluster_id: &str, instance: &str) -> Body {
        Body {
            agent_uuid: self.agent.clone(),
            agent_name: self.name.clone(),
            cluster_id: cluster_id.to_owned(),
            severity: self.kind().severity(),
            details: self.details.clone(),
            event_id: format!("{instance}-{}", self.seq),
            seq: self.seq,
            timestamp: self.at.wall,
        }
    }

    /// The JSON of [`body`](Self::body).
    ///
    /// # Errors
    /// It does not fail: all keys are text, and all numbers are finite.
    pub fn to_json(&self, cluster_id: &str, instance: &str) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&self.body(cluster_id, instance))
    }
}

/// An alert as it crosses the wire. Its details determine its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    /// The agent.
    pub agent_uuid: AgentId,
    /// The agent's name.
    pub agent_name: String,
    /// The agent's cluster.
    pub cluster_id: String,
    /// How much the alert matters.
    pub severity: Severity,
    /// What happened.
    pub details: Details,
    /// A unique id. A repeated alert keeps its id. It is written among the details.
    pub event_id: String,
    /// A number that rises from alert to alert of one collector. It is written among
    /// the details.
    pub seq: u64,
    /// When it happened.
    pub timestamp: Wall,
}

/// A [`Body`] field by field. `D` is the type of the details: [`Marked`] to write,
/// any JSON to read.
#[derive(Serialize, Deserialize)]
struct Wire<A, T, D> {
    #[serde(rename = "type")]
    kind: Kind,
    agent_uuid: A,
    agent_name: T,
    cluster_id: T,
    severity: Severity,
    details: D,
    timestamp: Wall,
}

#[derive(Serialize)]
struct Marked<'a> {
    #[serde(flatten)]
    details: &'a Details,
    event_id: &'a str,
    seq: u64,
}

#[derive(Deserialize)]
struct Marks {
    event_id: String,
    seq: u64,
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wire = Wire {
            kind: self.details.kind(),
            agent_uuid: &self.agent_uuid,
            agent_name: self.agent_name.as_str(),
            cluster_id: self.cluster_id.as_str(),
            severity: self.severity,
            details: Marked { details: &self.details, event_id: &self.event_id, seq: self.seq },
            timestamp: self.timestamp,
        };
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire: Wire<AgentId, String, Value> = Wire::deserialize(deserializer)?;
        let details = Details::read(wire.kind, &wire.details).map_err(serde::de::Error::custom)?;
        let Marks { event_id, seq } = Marks::deserialize(&wire.details).map_err(serde::de::Error::custom)?;
        let (agent_uuid, agent_name, cluster_id) = (wire.agent_uuid, wire.agent_name, wire.cluster_id);
        let (severity, timestamp) = (wire.severity, wire.timestamp);
        Ok(Self { agent_uuid, agent_name, cluster_id, severity, details, event_id, seq, timestamp })
    }
}

/// Writes seconds as the agent sent them: a whole number has no fraction.
///
/// # Errors
/// The serializer's own.
pub fn seconds<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    /// Below this, a double holds every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && *value < EXACT {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an uptime is never negative, and below EXACT nothing is cut"
        )]
        serializer.serialize_u64(*value as u64)
    } else {
        serializer.serialize_f64(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Tick;
    use proptest::prelude::*;

    #[test]
    fn the_json_is_what_the_station_checks() {
        let alert = Alert {
            agent: AgentId::new("550e8400-e29b-41d4-a716-446655440000").unwrap(),
            name: "a \"quoted\" name".to_owned(),
            attempts: 0,
            seq: 7,
            at: Now { tick: Tick::MIN, wall: Wall(1_764_669_600_000) },
            details: Details::Death(Death {
                reason: HEARTBEAT_TIMEOUT.into(),
                missed_intervals: 2,
                last_seen: Wall(1_764_669_590_000),
                mode: Mode::Emergency,
                uptime_before_death: 100.0,
                silence_ms: 10_001,
                silent_together: 12,
                known: 20,
                deaths_last_hour: 3,
                awake_since: Wall(1_764_669_500_000),
                mass_silence: true,
            }),
        };
        let json: Value = serde_json::from_slice(&alert.to_json("c1", "f00d").unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "AGENT_DEATH",
                "agent_uuid": "550e8400-e29b-41d4-a716-446655440000",
                "agent_name": "a \"quoted\" name",
                "cluster_id": "c1",
                "severity": "critical",
                "details": {
                    "reason": "heartbeat_timeout", "missed_intervals": 2,
                    "last_seen": "2025-12-02T09:59:50.000Z", "mode": "EMERGENCY",
                    "uptime_before_death": 100, "silence_ms": 10_001,
                    "silent_together": 12, "known": 20, "deaths_last_hour": 3,
                    "awake_since": "2025-12-02T09:58:20.000Z", "mass_silence": true,
                    "event_id": "f00d-7", "seq": 7,
                },
                "timestamp": "2025-12-02T10:00:00.000Z",
            })
        );
    }

    #[test]
    fn uptimes_are_written_as_they_came() {
        #[derive(Serialize)]
        struct Uptime(#[serde(serialize_with = "seconds")] f64);
        for (value, text) in [(0.0, "0"), (3600.0, "3600"), (12.5, "12.5"), (1e300, "1e+300")] {
            assert_eq!(serde_json::to_string(&Uptime(value)).unwrap(), text);
        }
    }

    #[test]
    fn the_details_are_read_by_the_type_and_more_of_them_does_no_harm() {
        let body = |kind: &str, details: &str| {
            let json = format!(
                r#"{{"type":"{kind}","agent_uuid":"a","agent_name":"a","cluster_id":"c","severity":"info",
                    "details":{details},"timestamp":"2025-12-02T10:00:00.000Z","tenant":"new"}}"#
            );
            serde_json::from_str::<Body>(&json)
        };
        // All fields of all types: only `type` can tell which type it is.
        let all = r#"{"reason":"killed","missed_intervals":2,"last_seen":"2025-12-02T10:00:00.000Z","mode":"IDLE",
            "uptime_before_death":1.5,"silence_ms":3,"neighbours":[1],"previous_mode":null,
            "uptime_seconds":2,"previous_uptime":3,"new_uptime":4,"dead_ms":5,"event_id":"i-7","seq":7}"#;
        for kind in Kind::ALL {
            let body = body(kind.as_str(), all).unwrap();
            assert_eq!((body.details.kind(), body.event_id.as_str(), body.seq), (kind, "i-7", 7));
            if let Details::Death(death) = body.details {
                assert_eq!(death.reason, "killed");
            }
        }
        assert!(body("AGENT_VANISHED", all).is_err());
        assert!(body("AGENT_RECOVERED", r#"{"dead_ms":5,"mode":"IDLE","seq":7}"#).is_err(), "no event_id");
        assert!(
            body("AGENT_RECOVERED", r#"{"mode":"IDLE","event_id":"i-7","seq":7}"#).is_err(),
            "no dead_ms"
        );
    }

    /// An uptime as agents announce it: seconds, with or without milliseconds.
    fn uptime() -> impl Strategy<Value = f64> {
        (any::<u32>(), 0..1000_u32).prop_map(|(whole, millis)| f64::from(whole) + f64::from(millis) / 1000.0)
    }

    fn details() -> impl Strategy<Value = Details> {
        let mode = || proptest::sample::select(Mode::ALL.as_slice());
        let wall = (0..253_402_300_800_000_u64).prop_map(Wall);
        prop_oneof![
            ("[a-z_]{1,20}", any::<(u64, u64, u32, u32, u32, bool)>(), wall, mode(), uptime()).prop_map(
                |(reason, numbers, last_seen, mode, uptime_before_death)| {
                    let (
                        missed_intervals,
                        silence_ms,
                        silent_together,
                        known,
                        deaths_last_hour,
                        mass_silence,
                    ) = numbers;
                    let reason = reason.into();
                    Details::Death(Death {
                        reason,
                        missed_intervals,
                        last_seen,
                        mode,
                        uptime_before_death,
                        silence_ms,
                        silent_together,
                        known,
                        deaths_last_hour,
                        awake_since: last_seen,
                        mass_silence,
                    })
                }
            ),
            (proptest::option::of(mode()), uptime()).prop_map(|(previous_mode, uptime_seconds)| {
                Details::Emergency(Emergency { previous_mode, uptime_seconds })
            }),
            (uptime(), uptime(), mode(), any::<bool>(), any::<Vec<IpAddr>>()).prop_map(
                |(previous_uptime, new_uptime, mode, id_used_twice, addresses)| {
                    Details::Restart(Restart { previous_uptime, new_uptime, mode, id_used_twice, addresses })
                }
            ),
            (any::<u64>(), mode())
                .prop_map(|(dead_ms, mode)| Details::Recovered(Recovered { dead_ms, mode })),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            agent in "[a-z0-9é/@]{1,40}", name in ".{0,40}", at in 0..253_402_300_800_000_u64,
            seq in any::<u64>(), details in details(),
        ) {
            let agent = AgentId::new(&agent).unwrap();
            let alert = Alert { agent, name, seq, attempts: 3, at: Now { tick: Tick::MIN, wall: Wall(at) }, details };
            let json = alert.to_json("c \"1\"", "f00d").unwrap();
            let body: Body = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(&body, &alert.body("c \"1\"", "f00d"));
            prop_assert_eq!(serde_json::to_vec(&body).unwrap(), json);
        }
    }
}
