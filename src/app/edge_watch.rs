//! Asks the event loops for signs of life. Whoever beats for this collector, and
//! the service manager, go by the answer.

use std::time::Duration;

use super::Server;
use crate::parts::Parts;

/// How often they are asked.
const EVERY: Duration = Duration::from_secs(5);
/// How long an event loop may take to end its turn after that.
const LONGEST_TURN: Duration = Duration::from_secs(2);

/// Asks until the threads are to end.
pub fn run(server: &Server, parts: &Parts) {
    loop {
        server.ask();
        if parts.stop.wait(LONGEST_TURN) {
            return;
        }
        let is_alive = server.is_alive();
        parts.readiness.set_reachable(is_alive);
        if is_alive {
            parts.vitals.probed(parts.shared.clock().uptime());
        } else {
            log::error!("an event loop has not ended its turn within {LONGEST_TURN:?}");
        }
        if parts.stop.wait(EVERY.saturating_sub(LONGEST_TURN)) {
            return;
        }
    }
}
