//! What happened to an agent and leaves no lasting truth.

use serde::{Deserialize, Serialize};

use crate::agent_id::AgentId;
use crate::alert::{Details, Emergency, Kind, Restart};
use crate::heartbeat::Mode;
use crate::time::Now;

/// Something that happened to an agent and leaves no lasting truth.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The agent.
    pub agent: AgentId,
    /// Its name.
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
        /// The mode before, none at first contact.
        #[serde(default)]
        previous_mode: Option<Mode>,
        /// The uptime it announced, in seconds.
        #[serde(default)]
        uptime: f64,
    },
    /// The agent was started anew.
    Restart {
        /// The uptime before, in seconds.
        #[serde(default)]
        previous_uptime: f64,
        /// The uptime now, in seconds.
        #[serde(default)]
        uptime: f64,
        /// The mode it announced.
        mode: Mode,
    },
}

impl What {
    /// The type of alert it becomes.
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
            What::Restart { previous_uptime, uptime, mode } => {
                Self::Restart(Restart { previous_uptime, new_uptime: uptime, mode })
            }
        }
    }
}
