//! What an Alertmanager is told: a condition, which is true for a while.

use serde::{Deserialize, Serialize};

use crate::agent_id::AgentId;
use crate::alert::Severity;
use crate::heartbeat::Mode;
use crate::time::Wall;

/// The alerts, by their `alertname`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertName {
    /// An agent is dead.
    AgentDead,
    /// An agent is in EMERGENCY, as far as it has said. Its death does not end that.
    AgentEmergency,
    /// So many agents fell silent at once that it may be the network.
    MassSilence,
}

impl AlertName {
    /// All of them, in the order in which the metrics list them.
    pub const ALL: [Self; 3] = [Self::AgentDead, Self::AgentEmergency, Self::MassSilence];

    /// The label `alertname`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AgentDead => "PapAgentDead",
            Self::AgentEmergency => "PapAgentEmergency",
            Self::MassSilence => "PapCollectorMassSilence",
        }
    }

    /// The label `severity`.
    pub const fn severity(self) -> Severity {
        match self {
            Self::AgentDead | Self::MassSilence => Severity::Critical,
            Self::AgentEmergency => Severity::Warning,
        }
    }
}

/// The agent of a condition, as it was when the condition began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The agent's id.
    pub id: AgentId,
    /// The agent's name; `None` if the id stands for it.
    pub name: Option<Box<str>>,
    /// The mode that the agent had announced.
    pub mode: Mode,
}

/// Something that is true for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Which alert tells it.
    pub alert: AlertName,
    /// The agent. A mass silence has none.
    pub subject: Option<Subject>,
    /// When it began. For a death: the last heartbeat.
    pub since: Wall,
    /// How it ended, if it did.
    pub ended: Option<Ended>,
}

impl Condition {
    pub(super) fn has_labels_of(&self, other: &Self) -> bool {
        self.alert == other.alert && self.subject == other.subject
    }
}

/// The end of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When it ended; not before its beginning.
    pub at: Wall,
    /// Why.
    pub why: End,
}

/// Why a condition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// A heartbeat told so: the agent is back, or in another mode.
    Heard,
    /// The agent said goodbye, or was removed on request.
    Removed,
    /// The agent was dead for so long that the registry forgot it.
    Forgotten,
    /// The mass silence is over.
    Over,
}
