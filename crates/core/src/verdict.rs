//! The verdict on an agent, and what changes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::heartbeat::Mode;

/// What the collector says of an agent: healthy, suspect or dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The agent was heard in time.
    Healthy,
    /// The agent is silent for 1.5 intervals. The API shows it; no alert is sent.
    Suspect,
    /// The agent is silent for 2 intervals and the grace.
    Dead,
}

impl Verdict {
    /// All verdicts, in the order the metrics list them.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Suspect, Self::Dead];

    /// The verdict's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        }
    }

    /// The verdict with this exact name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// The verdict after `cue`.
    pub const fn after(self, cue: Cue) -> Self {
        match (self, cue) {
            (Self::Healthy | Self::Suspect | Self::Dead, Cue::Heard) => Self::Healthy,
            (Self::Healthy | Self::Suspect, Cue::Late) => Self::Suspect,
            (Self::Healthy | Self::Suspect | Self::Dead, Cue::Silent) | (Self::Dead, Cue::Late) => Self::Dead,
        }
    }
}

/// What can change a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cue {
    /// A heartbeat was accepted.
    Heard,
    /// The silence reached [`suspect_after`].
    Late,
    /// The silence reached [`dead_after`].
    Silent,
}

/// The silence after which an agent in `mode` is suspect: 1.5 intervals.
pub fn suspect_after(mode: Mode) -> Duration {
    mode.interval() * 3 / 2
}

/// The silence after which the next heartbeat of an agent in `mode` is a tenth of the
/// interval late.
pub fn overdue_after(mode: Mode) -> Duration {
    mode.interval() * 11 / 10
}

/// The silence after which an agent in `mode` is dead: 2 intervals and the grace. If
/// no grace is set, it is a tenth of the interval: the second heartbeat after one
/// that was lost falls due at 2 intervals, and has this long to arrive.
pub fn dead_after(mode: Mode, grace: Option<Duration>) -> Duration {
    2 * mode.interval() + grace.unwrap_or(mode.interval() / 10)
}

/// Whether an agent restarted between two heartbeats. The first announced the uptime
/// `before`; the second came `elapsed` later and announced the uptime `after`, both in
/// seconds. A fall of more than 10 s is a restart. Any fall to an uptime of at most
/// `elapsed` is a restart too, as in a crash loop. Any other fall means that one
/// heartbeat overtook the other.
pub fn is_restart(before: f64, after: f64, elapsed: Duration) -> bool {
    before - after > 10.0 || (after < before && after <= elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thresholds_are_those_of_the_contract() {
        let graces = [None, Some(Duration::ZERO), Some(Duration::from_secs(1))];
        let millis =
            |mode| (suspect_after(mode).as_millis(), graces.map(|grace| dead_after(mode, grace).as_millis()));
        assert_eq!(millis(Mode::Emergency), (7_500, [10_500, 10_000, 11_000]));
        assert_eq!(millis(Mode::Idle), (45_000, [63_000, 60_000, 61_000]));
        assert_eq!(millis(Mode::Sleep), (1_350_000, [1_890_000, 1_800_000, 1_801_000]));
    }

    #[test]
    fn a_restart_is_not_a_heartbeat_out_of_order() {
        let restart = |before, after, silence| is_restart(before, after, Duration::from_secs(silence));
        assert!(restart(1000.0, 3.0, 30));
        assert!(restart(100.0, 89.0, 1), "a fall of more than 10 s");
        assert!(!restart(100.0, 90.0, 1), "10 s is not more than 10 s");
        assert!(restart(5.0, 4.9, 5), "a crash loop");
        assert!(!restart(8.0, 4.0, 1), "an overtaken heartbeat");
        assert!(!restart(5.0, 5.0, 30));
        assert!(!restart(5.0, 35.0, 30));
    }
}
