//! The thread that waits for the earliest deadline and passes the verdicts
//! that fall due.

use std::time::Duration;

use crossbeam_channel::Sender;
use pap_core::alert::Alert;
use pap_core::registry::Swept;

use crate::dispatch::dispatch;
use crate::news;
use crate::parts::Parts;
use crate::readiness::Phase;

/// The sweeper renews the lease on awake time at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// The most verdicts passed while the lock is held.
const BUDGET: usize = 256;
/// A pause of this process that is longer is logged, and deaths say when it ended.
const NOTABLE_PAUSE: Duration = Duration::from_secs(1);

/// Sweeps until it is told to stop. The deaths of a mass silence are held back for
/// `hold`.
pub fn run(parts: &Parts, senders: &Sender<Alert>, longest_sleep: Duration, hold: Duration) {
    let Parts { shared, metrics, vitals, observers, .. } = parts;
    let clock = shared.clock();
    let longest_sleep = longest_sleep.min(LONGEST_SLEEP);
    let mut paused = clock.paused();
    while !parts.stop.is_stopping() {
        let started = clock.uptime();
        vitals.swept(started);
        let passes_verdicts = parts.readiness.phase() != Phase::Draining;
        let swept = shared.with_renewed(|registry, now, tape| {
            if clock.paused().saturating_sub(paused) > NOTABLE_PAUSE {
                registry.woke_up(now.wall);
            }
            let swept = if passes_verdicts { registry.sweep(now, BUDGET) } else { Swept::default() };
            tape.swept(now, &swept);
            swept
        });
        metrics.sweep.record(clock.uptime().since(started));
        // Alerts go to the senders first. Observers then hear of the changes, and of
        // the alerts that follow from them, in this order.
        let alerts = dispatch(shared, senders);
        if let Some(change) = &swept.mass {
            news::tell_mass(change, hold);
        }
        for change in &swept.changes {
            if let Some(late) = change.late {
                metrics.detection_lag.record(late);
            }
            news::tell(change, observers);
        }
        for alert in &alerts {
            observers.alert(alert);
        }
        let pause = clock.paused().saturating_sub(paused);
        if pause > NOTABLE_PAUSE {
            log::warn!(
                "this collector was not awake for {pause:.1?}; this time does not count as silence of agents"
            );
        }
        paused += pause;
        if swept.forgotten > 0 {
            log::info!("forgot {} agents that were dead for longer than AGENT_RETENTION_MS", swept.forgotten);
        }
        if !swept.more {
            shared.sleep(longest_sleep, passes_verdicts);
        }
    }
}
