//! Leaving the connections to another image of the process: what was begun is
//! finished, and what was not goes along.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::time::Duration;

use super::Server;
use super::socket::{self, Connection, Traffic};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);
/// So many looks that find nothing begun mean that little is.
const LOOKS_BEFORE: u32 = 2;
/// And so many that nothing is, where nothing new is read.
const LOOKS_AFTER: u32 = 10;
/// A thread that was woken runs within this.
const WAKING: Duration = Duration::from_millis(200);
/// A request of which more does not come within this is none.
const STALE: Duration = Duration::from_millis(250);

/// More than any request that we take, and than anybody reads at once.
const FROZEN: i32 = 64 * 1024;

impl Server {
    /// Waits until nothing is in hand and nothing that came a moment ago is
    /// unanswered, at most for `longest`. Then lets nobody read anything new:
    /// it waits in the kernel, for the next image or for [`thaw`](Self::thaw).
    /// To be called while the door is closed.
    pub fn freeze(&self, longest: Duration) {
        let clock = self.api.shared.clock();
        let started = clock.uptime();
        let left = || longest.saturating_sub(clock.uptime().saturating_sub(started));
        self.await_quiet(LOOKS_BEFORE, left());
        self.set_low_water(FROZEN);
        // What was there before may still be read, by a thread that was woken
        // and has not run since.
        let unread = self.survey().into_iter().filter(|one| one.unread > 0);
        let unread: HashMap<u64, u64> = unread.map(|one| (one.connection.cookie, one.read)).collect();
        let frozen = clock.uptime();
        while clock.uptime().saturating_sub(frozen) < WAKING.min(left())
            && self.survey().iter().any(|one| unread.get(&one.connection.cookie) == Some(&one.read))
        {
            self.api.shared.pause(PAUSE);
        }
        // What was read in the last moment is under way to a worker.
        self.await_quiet(LOOKS_AFTER, left());
    }

    fn set_low_water(&self, bytes: i32) {
        for connection in socket::connections(self.address.port()) {
            connection.set_low_water(bytes);
        }
    }

    fn await_quiet(&self, looks: u32, longest: Duration) {
        let clock = self.api.shared.clock();
        let (started, mut quiet_looks, mut answered_before) = (clock.uptime(), 0, 0);
        while quiet_looks < looks && clock.uptime().saturating_sub(started) < longest {
            self.api.shared.pause(PAUSE);
            let all = self.survey();
            let answered = all.iter().map(|one| one.answered).sum();
            let is_quiet = !self.any_asks(&all) && answered == answered_before;
            (quiet_looks, answered_before) = (if is_quiet { quiet_looks + 1 } else { 0 }, answered);
        }
    }

    /// Goes on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.set_low_water(1);
    }

    /// Whether an answer is ours to give, or something has come a moment ago.
    pub fn is_asked(&self) -> bool {
        self.any_asks(&self.survey())
    }

    fn any_asks(&self, all: &[Seen]) -> bool {
        all.iter().any(|one| {
            // What nobody has read can wait for the next image.
            one.is_begun && one.unanswered.is_some_and(|age| age < STALE)
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
            answered: traffic.acknowledged,
            unread: traffic.unread,
            read: traffic.received.saturating_sub(traffic.unread),
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
    /// Bytes of ours that it has taken.
    answered: u64,
    /// Bytes of it that nobody has read.
    unread: u64,
    /// Bytes of it that somebody has read.
    read: u64,
}
