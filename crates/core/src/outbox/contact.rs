//! Whether the station takes anything at all, from how the last posts ended.

use std::time::Duration;

use crate::delivery::Outcome;
use crate::time::Tick;

/// The least time between two posts while the station takes nothing at all.
const OUTAGE_PACE: Duration = Duration::from_secs(1);

/// How the station has answered lately.
#[derive(Debug)]
pub struct Contact {
    /// So many posts in a row that fail as if nobody were there are an outage.
    patience: usize,
    /// Posts in a row that failed as if nobody were there.
    failures: u32,
    last_post: Tick,
    /// The station was away and takes alerts again: whatever stalled is due.
    is_answering: bool,
    /// It was reached once.
    was_reached: bool,
}

impl Contact {
    pub const fn new(patience: usize) -> Self {
        Self { patience, failures: 0, last_post: Tick::MIN, is_answering: false, was_reached: false }
    }

    pub const fn is_answering(&self) -> bool {
        self.is_answering
    }

    /// Whether several posts in a row failed as if nobody were there.
    pub const fn in_outage(&self) -> bool {
        self.failures as usize >= self.patience
    }

    /// Whether the last post found the station; none before the first.
    pub fn is_reachable(&self) -> Option<bool> {
        (self.was_reached || self.failures > 0).then_some(self.failures == 0)
    }

    /// The earliest moment at which anything may be posted.
    pub fn gate(&self) -> Tick {
        if self.in_outage() { self.last_post + OUTAGE_PACE } else { Tick::MIN }
    }

    /// Takes note of a post that begins.
    pub const fn posted(&mut self, now: Tick) {
        self.last_post = now;
    }

    /// Takes note of how a post ended.
    pub fn note(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Failed(failure, _) if failure.is_general() => {
                self.failures = self.failures.saturating_add(1);
                self.is_answering = false;
            }
            Outcome::Taken | Outcome::Refused(_) | Outcome::Failed(..) => {
                self.is_answering |= self.in_outage();
                self.failures = 0;
            }
        }
        self.was_reached |= matches!(outcome, Outcome::Taken | Outcome::Refused(_));
    }
}
