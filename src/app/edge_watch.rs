//! The thread that asks the event loops for signs of life. `/ready`, systemd's
//! watchdog and the heartbeats of this collector depend on the answer.

use std::time::Duration;

use super::Server;
use crate::parts::Parts;

/// How often it asks them.
const EVERY: Duration = Duration::from_secs(5);
/// How long an event loop may take to end its turn after it was asked.
const LONGEST_TURN: Duration = Duration::from_secs(2);

/// Asks until the threads are to end.
pub fn run(server: &Server, parts: &Parts) {
    loop {
        server.ask();
        if parts.stop.wait(LONGEST_TURN) {
            return;
        }
        let is_alive = server.is_alive();
        parts.readiness.set_alive(is_alive);
        if is_alive {
            parts.vitals.probed(parts.shared.clock().uptime());
        } else {
            log::error!(
                "an event loop has not ended its turn within {LONGEST_TURN:?}, so /ready answers 503"
            );
        }
        if parts.stop.wait(EVERY.saturating_sub(LONGEST_TURN)) {
            return;
        }
    }
}
