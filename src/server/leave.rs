//! Leaving the connections to another image of the process: what was begun is
//! finished, and what was not goes along.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::time::Duration;

use super::Server;
use super::socket::{self, Connection, Traffic};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);
/// So many looks that find nothing begun mean that nothing is.
const QUIET_LOOKS: u32 = 2;
/// A request of which more does not come within this is none.
const STALE: Duration = Duration::from_millis(250);

/// More than any request that we take, and than anybody reads at once.
const FROZEN: i32 = 64 * 1024;

impl Server {
    /// Waits until nothing is in hand and nothing that came a moment ago is
    /// unanswered, at most for `longest`. To be called while the door is closed.
    pub fn finish_begun(&self, longest: Duration) {
        let clock = self.api.shared.clock();
        let (started, mut quiet_looks) = (clock.uptime(), 0);
        while quiet_looks < QUIET_LOOKS && clock.uptime().saturating_sub(started) < longest {
            self.api.shared.pause(PAUSE);
            quiet_looks = if self.is_asked() { 0 } else { quiet_looks + 1 };
        }
    }

    /// Lets nobody read anything new from the connections: it waits in the
    /// kernel for the next image.
    pub fn freeze(&self) {
        socket::connections(self.address.port())
            .iter()
            .for_each(|connection| connection.set_low_water(FROZEN));
    }

    /// Goes on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        socket::connections(self.address.port()).iter().for_each(|connection| connection.set_low_water(1));
    }

    /// Whether an answer is ours to give, or something has come a moment ago.
    pub fn is_asked(&self) -> bool {
        self.survey().iter().any(|one| {
            one.unanswered.is_some_and(|age| age < STALE)
                || self.pipeline.is_our_turn(one.connection.peer) && !one.is_full
        })
    }

    /// The connections of which nothing is in hand, nor read without an answer.
    pub fn not_begun(&self) -> Vec<OwnedFd> {
        let all = self.survey().into_iter();
        let left = all.filter(|one| !one.is_begun && !self.pipeline.is_busy(one.connection.peer));
        left.filter_map(|one| one.connection.stream()).map(OwnedFd::from).collect()
    }

    fn survey(&self) -> Vec<Seen> {
        let all = socket::connections(self.address.port()).into_iter();
        let all: Vec<_> = all.filter_map(|connection| Some((connection, connection.traffic()?))).collect();
        let traffic: Vec<_> = all.iter().map(|(connection, seen)| (connection.cookie, *seen)).collect();
        let now = self.api.shared.clock().now().tick;
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        guard.note(now, &traffic);
        let look = |(connection, traffic): (Connection, Traffic)| Seen {
            connection,
            unanswered: guard.unanswered(now, connection.cookie),
            is_begun: guard.is_begun(connection.cookie, &traffic),
            is_full: traffic.pending,
        };
        all.into_iter().map(look).collect()
    }
}

/// A connection, and what it waits for.
struct Seen {
    connection: Connection,
    /// For how long something has been unanswered.
    unanswered: Option<Duration>,
    /// Something has been read that is not answered.
    is_begun: bool,
    /// The client does not take what it is sent.
    is_full: bool,
}
