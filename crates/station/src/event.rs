//! The events that people are told, by name.

use pap_core::alert::Severity;
use pap_core::firing::AlertName;

/// What happened. Most open or close an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// An agent fell silent.
    AgentDead,
    /// A dead agent is back.
    AgentRecovered,
    /// An agent is in mode EMERGENCY.
    AgentEmergency,
    /// An agent left mode EMERGENCY.
    AgentEmergencyOver,
    /// An agent restarted. It opens nothing.
    AgentRestarted,
    /// A machine fell silent.
    MachineOffline,
    /// An offline machine is back.
    MachineOnline,
    /// A collector that has beaten here fell silent.
    CollectorSilent,
    /// A silent collector is back.
    CollectorBack,
    /// A worker of a cluster cannot run.
    WorkerFailed,
    /// A worker that could not run runs again.
    WorkerBack,
    /// Many agents of a cluster fell silent together.
    MassSilence,
    /// The last incident of these agents has closed.
    MassSilenceOver,
}

impl Event {
    /// All events.
    pub const ALL: [Self; 13] = [
        Self::AgentDead,
        Self::AgentRecovered,
        Self::AgentEmergency,
        Self::AgentEmergencyOver,
        Self::AgentRestarted,
        Self::MachineOffline,
        Self::MachineOnline,
        Self::CollectorSilent,
        Self::CollectorBack,
        Self::WorkerFailed,
        Self::WorkerBack,
        Self::MassSilence,
        Self::MassSilenceOver,
    ];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AgentDead => "agent.dead",
            Self::AgentRecovered => "agent.recovered",
            Self::AgentEmergency => "agent.emergency",
            Self::AgentEmergencyOver => "agent.emergency_over",
            Self::AgentRestarted => "agent.restarted",
            Self::MachineOffline => "machine.offline",
            Self::MachineOnline => "machine.online",
            Self::CollectorSilent => "collector.silent",
            Self::CollectorBack => "collector.back",
            Self::WorkerFailed => "worker.failed",
            Self::WorkerBack => "worker.back",
            Self::MassSilence => "mass_silence",
            Self::MassSilenceOver => "mass_silence.over",
        }
    }

    /// The event with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.name() == name)
    }

    /// How much it matters. A closing matters as much as its incident.
    pub const fn severity(self) -> Severity {
        match self {
            Self::AgentDead
            | Self::AgentRecovered
            | Self::MachineOffline
            | Self::MachineOnline
            | Self::CollectorSilent
            | Self::CollectorBack
            | Self::WorkerFailed
            | Self::WorkerBack
            | Self::MassSilence
            | Self::MassSilenceOver => Severity::Critical,
            Self::AgentEmergency | Self::AgentEmergencyOver => Severity::Warning,
            Self::AgentRestarted => Severity::Info,
        }
    }

    /// The event that closes what this one opened; None if it opens nothing.
    pub const fn closing(self) -> Option<Self> {
        match self {
            Self::AgentDead => Some(Self::AgentRecovered),
            Self::AgentEmergency => Some(Self::AgentEmergencyOver),
            Self::MachineOffline => Some(Self::MachineOnline),
            Self::CollectorSilent => Some(Self::CollectorBack),
            Self::WorkerFailed => Some(Self::WorkerBack),
            Self::MassSilence => Some(Self::MassSilenceOver),
            _ => None,
        }
    }

    /// The alert that fires at Alertmanagers while the incident that this event opened is open.
    pub const fn alert(self) -> Option<AlertName> {
        match self {
            Self::AgentDead => Some(AlertName::AgentDead),
            Self::AgentEmergency => Some(AlertName::AgentEmergency),
            Self::MachineOffline => Some(AlertName::MachineOffline),
            Self::CollectorSilent => Some(AlertName::CollectorSilent),
            Self::WorkerFailed => Some(AlertName::WorkerFailed),
            Self::MassSilence => Some(AlertName::MassSilence),
            _ => None,
        }
    }

    /// Whether it closes an incident.
    pub fn is_closing(self) -> bool {
        Self::ALL.iter().any(|opening| opening.closing() == Some(self))
    }

    /// The sign with which a message begins.
    pub fn sign(self) -> char {
        if self.is_closing() { '\u{1f7e2}' } else { '\u{1f534}' }
    }
}

/// The name of a severity.
pub const fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_a_closing_matters_as_its_opening() {
        for event in Event::ALL {
            assert_eq!(Event::from_name(event.name()), Some(event));
            if let Some(closing) = event.closing() {
                assert_eq!(closing.severity(), event.severity());
                assert!(closing.is_closing() && !event.is_closing());
            }
            assert_eq!(event.alert().is_some(), event.closing().is_some(), "all that opens is told");
            assert!(event.alert().is_none_or(|alert| alert.severity() == event.severity()));
        }
    }
}
