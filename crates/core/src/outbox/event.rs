//! Events: what happened to an agent once. Unlike a verdict, an event does not last.

use serde::{Deserialize, Serialize};

use crate::agent_id::AgentId;
use crate::alert::{Details, Emergency, Kind, Restart};
use crate::heartbeat::Mode;
use crate::registry::Twice;
use crate::time::Now;

/// Something that happened to an agent once.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The agent.
    pub agent: AgentId,
    /// The agent's name.
    pub name: String,
    /// When it happened.
    pub at: Now,
    /// What happened.
    pub what: What,
}

/// What an event is. This is also how it is saved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// The agent's mode became EMERGENCY.
    Emergency {
        /// The mode before. `None` if this was the agent's first heartbeat.
        #[serde(default)]
        previous_mode: Option<Mode>,
        /// The uptime that the agent announced, in seconds.
        #[serde(default)]
        uptime: f64,
    },
    /// The agent restarted.
    Restart {
        /// The uptime before, in seconds.
        #[serde(default)]
        previous_uptime: f64,
        /// The uptime now, in seconds.
        #[serde(default)]
        uptime: f64,
        /// The mode that the agent announced.
        mode: Mode,
        /// Two agents probably use this id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        twice: Option<Twice>,
    },
}

impl What {
    /// The type of alert that it becomes.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Emergency { .. } => Kind::EmergencyMode,
            Self::Restart { .. } => Kind::RestartDetected,
        }
    }
}

impl From<What> for Details {
    fn from(what: What) -> Self {
        match what {
            What::Emergency { previous_mode, uptime } => {
                Self::Emergency(Emergency { previous_mode, uptime_seconds: uptime })
            }
            What::Restart { previous_uptime, uptime, mode, twice } => Self::Restart(Restart {
                previous_uptime,
                new_uptime: uptime,
                mode,
                id_used_twice: twice.is_some(),
                addresses: twice.into_iter().flat_map(Twice::addresses).collect(),
            }),
        }
    }
}
