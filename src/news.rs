//! Tells the log and the observers when a verdict changes.

use std::time::Duration;

use pap_core::registry::Change;
use pap_core::verdict::Verdict;

use crate::observers::Observers;

/// Tells one change of a verdict.
pub fn tell(change: &Change, observers: &Observers) {
    log_change(change);
    observers.status(&change.agent);
}

fn log_change(change: &Change) {
    let agent = &change.agent;
    let silence = Duration::from_millis(agent.silence_ms);
    let (id, name, mode) = (&agent.agent_uuid, &agent.agent_name, agent.mode);
    match (agent.status, change.dead_for) {
        (Verdict::Dead, _) => {
            log::warn!(agent_uuid:% = id; "{name} is dead: silent for {silence:.1?} in {mode}");
        }
        (Verdict::Suspect, _) => {
            log::info!(agent_uuid:% = id; "{name} is suspect: silent for {silence:.1?} in {mode}");
        }
        (Verdict::Healthy, None) => log::info!(agent_uuid:% = id; "{name} is healthy again"),
        (Verdict::Healthy, Some(dead_for)) => {
            log::info!(agent_uuid:% = id; "{name} is back after being dead for {dead_for:.1?}");
        }
    }
}
