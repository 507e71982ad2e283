//! What an Alertmanager is told: a condition, which is true for a while.

use serde::{Deserialize, Serialize};

use crate::alert::Severity;
use crate::time::Wall;

/// The alerts, by their `alertname`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertName {
    /// An agent is dead.
    AgentDead,
    /// An agent is in EMERGENCY, as far as it has said. Its death does not end that.
    AgentEmergency,
    /// So many agents fell silent at once that it may be the network.
    MassSilence,
    /// A machine is offline.
    MachineOffline,
    /// A collector is silent.
    CollectorSilent,
    /// A worker of a cluster cannot run.
    WorkerFailed,
}

impl AlertName {
    /// All of them, in the order in which the metrics list them.
    pub const ALL: [Self; 6] = [
        Self::AgentDead,
        Self::AgentEmergency,
        Self::MassSilence,
        Self::MachineOffline,
        Self::CollectorSilent,
        Self::WorkerFailed,
    ];
    /// Those that a collector tells.
    pub const OF_AGENTS: [Self; 3] = [Self::AgentDead, Self::AgentEmergency, Self::MassSilence];

    /// The label `alertname`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AgentDead => "PapAgentDead",
            Self::AgentEmergency => "PapAgentEmergency",
            Self::MassSilence => "PapCollectorMassSilence",
            Self::MachineOffline => "PapMachineOffline",
            Self::CollectorSilent => "PapCollectorSilent",
            Self::WorkerFailed => "PapWorkerFailed",
        }
    }

    /// The label `severity`.
    pub const fn severity(self) -> Severity {
        match self {
            Self::AgentDead
            | Self::MassSilence
            | Self::MachineOffline
            | Self::CollectorSilent
            | Self::WorkerFailed => Severity::Critical,
            Self::AgentEmergency => Severity::Warning,
        }
    }
}

/// Something that is true for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition<S> {
    /// Which alert tells it.
    pub alert: AlertName,
    /// Whom it concerns, as that was when it began.
    pub subject: S,
    /// When it began. For a silence: when its subject was last heard.
    pub since: Wall,
    /// How it ended, if it did.
    pub ended: Option<Ended>,
}

impl<S: PartialEq> Condition<S> {
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
    /// A heartbeat told so: who was silent is back, or the agent is in another mode.
    Heard,
    /// The agent said goodbye, or it was removed on request.
    Removed,
    /// A person closed it.
    Closed,
    /// The agent was dead for so long that the registry forgot it.
    Forgotten,
    /// The mass silence is over.
    Over,
}
