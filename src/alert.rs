//! PURE: what the station is told, and its JSON.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::beat::{AgentId, Mode};
use crate::clock::Wall;

/// The types of alert, in the order the metrics list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Kind {
    /// An agent's verdict turned dead.
    AgentDeath,
    /// An agent's mode became EMERGENCY.
    EmergencyMode,
    /// An agent started anew.
    RestartDetected,
    /// A death that was told is over.
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

/// The verdicts that are told. Unlike an event, a verdict lasts until the next
/// one.
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
    /// How long the agent was dead; nothing for one that still is.
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

/// How much an alert matters; when room is short, less gives way to more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody must act.
    Critical,
}

/// What an alert says beyond its type.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Details {
    /// For [`Kind::AgentDeath`].
    Death {
        /// Always `heartbeat_timeout`.
        reason: &'static str,
        /// How many intervals of its mode the agent has been silent for.
        missed_intervals: u64,
        /// When it was last heard.
        last_seen: Wall,
        /// The mode it had announced.
        mode: Mode,
        /// The uptime it had announced, in seconds.
        #[serde(serialize_with = "seconds")]
        uptime_before_death: f64,
        /// How long it has been silent, in milliseconds of awake time.
        silence_ms: u64,
    },
    /// For [`Kind::EmergencyMode`].
    Emergency {
        /// The mode before, none at first contact.
        previous_mode: Option<Mode>,
        /// The uptime it announced, in seconds.
        #[serde(serialize_with = "seconds")]
        uptime_seconds: f64,
    },
    /// For [`Kind::RestartDetected`].
    Restart {
        /// The uptime before, in seconds.
        #[serde(serialize_with = "seconds")]
        previous_uptime: f64,
        /// The uptime now, in seconds.
        #[serde(serialize_with = "seconds")]
        new_uptime: f64,
        /// The mode it announced.
        mode: Mode,
    },
    /// For [`Kind::AgentRecovered`].
    Recovered {
        /// How long the verdict was dead, in milliseconds of awake time.
        dead_ms: u64,
        /// The mode it announced.
        mode: Mode,
    },
}

impl Details {
    /// The type of alert these details belong to.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Death { .. } => Kind::AgentDeath,
            Self::Emergency { .. } => Kind::EmergencyMode,
            Self::Restart { .. } => Kind::RestartDetected,
            Self::Recovered { .. } => Kind::AgentRecovered,
        }
    }
}

/// One alert, made when there is room to send it, from what is true then.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// The agent it is about.
    pub agent: AgentId,
    /// The agent's name.
    pub name: String,
    /// Rises from alert to alert. A repeat of the same alert has the same.
    pub seq: u64,
    /// How often it was posted in vain.
    pub attempts: u32,
    /// When it happened.
    pub at: Wall,
    /// What happened.
    pub details: Details,
}

impl Alert {
    /// The alert's type.
    pub const fn kind(&self) -> Kind {
        self.details.kind()
    }

    /// The alert as the station takes it. `instance` tells this collector's
    /// `seq` from that of another run, so that `event_id` is unique.
    ///
    /// # Errors
    /// None in fact: all its keys are text and its numbers finite.
    pub fn to_json(&self, cluster_id: &str, instance: &str) -> serde_json::Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(rename = "type")]
            kind: Kind,
            agent_uuid: &'a AgentId,
            agent_name: &'a str,
            cluster_id: &'a str,
            severity: Severity,
            details: Marked<'a>,
            timestamp: Wall,
        }
        #[derive(Serialize)]
        struct Marked<'a> {
            #[serde(flatten)]
            details: &'a Details,
            event_id: String,
            seq: u64,
        }
        serde_json::to_vec(&Body {
            kind: self.kind(),
            agent_uuid: &self.agent,
            agent_name: &self.name,
            cluster_id,
            severity: self.kind().severity(),
            details: Marked {
                details: &self.details,
                event_id: format!("{instance}-{}", self.seq),
                seq: self.seq,
            },
            timestamp: self.at,
        })
    }
}

/// Writes seconds without a fraction where there is none, as they came.
///
/// # Errors
/// The serializer's own.
pub fn seconds<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    /// Up to here a double holds every whole number.
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

    #[test]
    fn the_json_is_what_the_station_checks() {
        let alert = Alert {
            agent: AgentId::new("550e8400-e29b-41d4-a716-446655440000").unwrap(),
            name: "a \"quoted\" name".to_owned(),
            attempts: 0,
            seq: 7,
            at: Wall(1_764_669_600_000),
            details: Details::Death {
                reason: "heartbeat_timeout",
                missed_intervals: 2,
                last_seen: Wall(1_764_669_590_000),
                mode: Mode::Emergency,
                uptime_before_death: 100.0,
                silence_ms: 10_001,
            },
        };
        let json: serde_json::Value = serde_json::from_slice(&alert.to_json("c1", "f00d").unwrap()).unwrap();
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
}
