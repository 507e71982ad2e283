//! Tells systemd, the service manager, whether this collector is well.

use std::sync::Arc;
use std::time::Duration;

use pap_process::systemd::Notifier;

use crate::parts::Parts;

/// How often systemd is told, unless its watchdog needs to be told more often.
const EVERY: Duration = Duration::from_secs(5);

/// Reports until the threads are to end. Resets systemd's watchdog only while none
/// of our threads is stuck; otherwise systemd restarts the collector.
pub fn report(notifier: &Arc<Notifier>, parts: &Parts) {
    let every = notifier.watchdog.map_or(EVERY, |watchdog| (watchdog / 3).min(EVERY));
    loop {
        let (stats, owed) = parts.shared.with(|registry, _| (registry.stats(), registry.outbox().owed()));
        let summary = format!("STATUS={} agents, {} dead, {owed} owed", stats.total(), stats.unhealthy());
        match parts.vitals.check(parts.shared.clock().uptime()) {
            Ok(()) => notifier.say(&format!("WATCHDOG=1\n{summary}")),
            Err(who) => {
                log::error!("systemd's watchdog is not reset, so systemd may restart this collector: {who}");
                notifier.say(&format!("{summary}; {who}"));
            }
        }
        if parts.stop.wait(every) {
            return;
        }
    }
}
