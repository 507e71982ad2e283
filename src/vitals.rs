//! Signs of life of our own threads, for systemd's watchdog and for the parent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pap_core::time::{Uptime, millis};

/// A sweeper without a sign of life for this long is stuck.
const STUCK: Duration = Duration::from_secs(5);
/// The same for the event loops, which are asked every five seconds.
const STUCK_EDGE: Duration = Duration::from_secs(12);
/// A post that takes this long is stuck: its own timeouts are shorter.
const STUCK_POST: Duration = Duration::from_secs(30);

/// When each thread last gave a sign of life, in milliseconds since the start.
#[derive(Debug)]
pub struct Vitals {
    sweeper: AtomicU64,
    edge: AtomicU64,
    /// When each sender began its post, 0 while it has none.
    posts: Vec<AtomicU64>,
}

impl Vitals {
    /// For this many senders.
    pub fn new(senders: usize) -> Self {
        Self {
            sweeper: AtomicU64::new(0),
            edge: AtomicU64::new(0),
            posts: (0..senders).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Notes that the sweeper is awake.
    pub fn swept(&self, now: Uptime) {
        self.sweeper.store(millis(now.reading()), Ordering::Relaxed);
    }

    /// Notes that every event loop has given a sign of life.
    pub fn probed(&self, now: Uptime) {
        self.edge.store(millis(now.reading()), Ordering::Relaxed);
    }

    /// Notes that a sender begins a post.
    pub fn posting(&self, sender: usize, now: Uptime) {
        self.posts[sender].store(millis(now.reading()).max(1), Ordering::Relaxed);
    }

    /// Notes that a sender is done with its post.
    pub fn posted(&self, sender: usize) {
        self.posts[sender].store(0, Ordering::Relaxed);
    }

    /// Whether all threads are well.
    ///
    /// # Errors
    /// Which thread is stuck.
    pub fn check(&self, now: Uptime) -> Result<(), &'static str> {
        let late = |since: &AtomicU64, allowed: Duration| {
            millis(now.reading()).saturating_sub(since.load(Ordering::Relaxed)) > millis(allowed)
        };
        if late(&self.sweeper, STUCK) {
            Err("the sweeper is stuck")
        } else if late(&self.edge, STUCK_EDGE) {
            Err("an event loop is stuck")
        } else if self.posts.iter().any(|post| post.load(Ordering::Relaxed) > 0 && late(post, STUCK_POST)) {
            Err("a post is stuck")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_thread_is_named() {
        let at = |seconds| Uptime::new(Duration::from_secs(seconds));
        let vitals = Vitals::new(2);
        assert_eq!(vitals.check(at(4)), Ok(()));
        vitals.probed(at(10));
        assert_eq!(vitals.check(at(10)), Err("the sweeper is stuck"));
        vitals.swept(at(10));
        vitals.posting(1, at(0));
        assert_eq!(vitals.check(at(12)), Ok(()));
        vitals.swept(at(40));
        assert_eq!(vitals.check(at(40)), Err("an event loop is stuck"));
        vitals.probed(at(40));
        assert_eq!(vitals.check(at(40)), Err("a post is stuck"));
        vitals.posted(1);
        assert_eq!(vitals.check(at(40)), Ok(()));
    }
}
