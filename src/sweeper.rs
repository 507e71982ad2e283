//! The thread that waits for the earliest deadline, passes the verdicts that
//! fall due and hands the next alerts to the senders.

use std::time::Duration;

use crossbeam_channel::Sender;

use crate::alert::Alert;
use crate::metrics::Metrics;
use crate::observers::Observers;
use crate::registry::{Change, Swept};
use crate::shared::{Phase, Shared};
use crate::verdict::Status;
use crate::vitals::Vitals;

/// The sweeper renews the lease on awake time at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// The most verdicts passed while the lock is held.
const BUDGET: usize = 256;
/// Between two looks for alerts while the process is to stop.
const DRAINING_PAUSE: Duration = Duration::from_millis(20);
/// From here on a pause of ours is worth a line in the log.
const NOTABLE_PAUSE: Duration = Duration::from_secs(1);

/// Sweeps until told to stop.
pub fn run(
    shared: &Shared,
    metrics: &Metrics,
    vitals: &Vitals,
    observers: &Observers,
    alerts: &Sender<Alert>,
    longest_sleep: Duration,
) {
    let longest_sleep = longest_sleep.min(LONGEST_SLEEP);
    let mut paused = shared.clock().paused();
    while !shared.is_stopping() {
        let started = shared.clock().uptime();
        vitals.swept(started);
        // Who is silent while we are stopping may well be talking to the one
        // that takes our place: no verdict is passed any more.
        let is_draining = shared.phase() == Phase::Draining;
        let swept =
            shared.with_renewed(
                |registry, now| {
                    if is_draining { Swept::default() } else { registry.sweep(now, BUDGET) }
                },
            );
        metrics.sweep.record(shared.clock().uptime().saturating_sub(started));
        // The station comes first; watchers hear of it in the order of events.
        let next = shared.next_alerts();
        for alert in &next {
            // There is room: the channel holds as many as may be under way.
            if alerts.try_send(alert.clone()).is_err() {
                log::error!("an alert found no sender");
            }
        }
        for change in &swept.changes {
            if let Some(late) = change.late {
                metrics.detection_lag.record(late);
            }
            log_change(change);
            observers.status(&change.agent);
        }
        for alert in &next {
            observers.alert(alert);
        }
        let now_paused = shared.clock().paused();
        let pause = now_paused.saturating_sub(paused);
        if pause > NOTABLE_PAUSE {
            log::warn!("this collector was not awake for {pause:.1?}; it counts as nobody's silence");
        }
        paused = now_paused;
        if swept.forgotten > 0 {
            log::info!("forgot {} agents that were dead for long", swept.forgotten);
        }
        if is_draining {
            // A verdict that is due must not keep us awake.
            shared.pause(DRAINING_PAUSE);
        } else if !swept.more {
            shared.sleep(longest_sleep);
        }
    }
}

/// Logs one change of a verdict.
pub fn log_change(change: &Change) {
    let agent = &change.agent;
    let silence = Duration::from_millis(agent.silence_ms);
    let (id, name, mode) = (&agent.agent_uuid, agent.agent_name.escape_debug(), agent.mode);
    match (agent.status, change.dead_for) {
        (Status::Dead, _) => {
            log::warn!(agent_uuid:% = id; "{name} is dead: silent for {silence:.1?} in {mode}");
        }
        (Status::Suspect, _) => {
            log::info!(agent_uuid:% = id; "{name} is suspect: silent for {silence:.1?} in {mode}");
        }
        (Status::Healthy, None) => log::info!(agent_uuid:% = id; "{name} is healthy again"),
        (Status::Healthy, Some(dead_for)) => {
            log::info!(agent_uuid:% = id; "{name} is back after being dead for {dead_for:.1?}");
        }
    }
}
