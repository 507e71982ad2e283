//! Leaving the connections to another image of the process: what was begun is
//! finished, and what was not goes along.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::time::Duration;

use super::{Server, socket};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);
/// So many looks that find nothing begun mean that nothing is.
const QUIET_LOOKS: u32 = 2;
/// A request of which more does not come within this is none.
const STALE: Duration = Duration::from_millis(100);

impl Server {
    /// Waits until nothing is in hand, and nothing was begun a moment ago, at
    /// most for `longest`. To be called while the door is closed.
    pub fn finish_begun(&self, longest: Duration) {
        let clock = self.api.shared.clock();
        let (started, mut quiet_looks) = (clock.uptime(), 0);
        while quiet_looks < QUIET_LOOKS && clock.uptime().saturating_sub(started) < longest {
            self.api.shared.pause(PAUSE);
            let is_begun = !self.pipeline.is_idle()
                || self.survey().iter().any(|(_, begun)| begun.is_some_and(|age| age < STALE));
            quiet_looks = if is_begun { 0 } else { quiet_looks + 1 };
        }
    }

    /// The connections of which nothing is in hand, nor read without an answer.
    pub fn not_begun(&self) -> Vec<OwnedFd> {
        let mut all = self.survey();
        all.retain(|(connection, begun)| begun.is_none() && !self.pipeline.is_busy(connection.peer));
        all.iter().filter_map(|(connection, _)| connection.stream()).map(OwnedFd::from).collect()
    }

    /// All connections, and for how long something of a request has been read
    /// without an answer.
    fn survey(&self) -> Vec<(socket::Connection, Option<Duration>)> {
        let all = socket::connections(self.address.port());
        let seen = |connection: &socket::Connection| Some((connection.cookie, connection.traffic()?));
        let traffic: Vec<_> = all.iter().filter_map(seen).collect();
        let now = self.api.shared.clock().now().tick;
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        guard.note(now, &traffic);
        let begun = traffic.iter().map(|(cookie, seen)| (cookie, guard.begun(now, *cookie, seen)));
        let begun: std::collections::HashMap<_, _> = begun.collect();
        // One without traffic has gone.
        all.into_iter().filter_map(|connection| Some((connection, *begun.get(&connection.cookie)?))).collect()
    }
}
