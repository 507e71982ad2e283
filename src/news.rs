//! Tells the log and the observers when a verdict changes.

use std::time::Duration;

use pap_core::registry::{Change, MassChange};
use pap_core::verdict::Verdict;

use crate::observers::Observers;

/// Tells one change of a verdict.
pub fn tell(change: &Change, observers: &Observers) {
    log_change(change);
    observers.status(&change.agent);
}

/// Tells that a mass silence began or ended. Its deaths are held back for `hold`.
pub fn tell_mass(change: &MassChange, hold: Duration) {
    match change {
        MassChange::Began(mass) => {
            let then = if hold.is_zero() {
                "their deaths are told at once; MASS_SILENCE_HOLD_MS would hold them back".to_owned()
            } else {
                format!("their deaths are held back for {hold:.0?}")
            };
            log::warn!(
                "mass silence: {} of {} known agents fell silent within one interval, so look at the network first; {then}",
                mass.silent,
                mass.known
            );
        }
        MassChange::Ended { lasted, dead } => {
            log::info!("the mass silence is over after {lasted:.1?}; {dead} of its agents are still dead");
        }
    }
}

fn log_change(change: &Change) {
    let agent = &change.agent;
    let silence = Duration::from_millis(agent.silence_ms);
    let (id, name, mode) = (&agent.agent_uuid, agent.agent_name.escape_debug(), agent.mode);
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
