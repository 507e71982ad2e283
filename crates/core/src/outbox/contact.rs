//! Whether the station takes alerts at all, judged by how the last posts ended.

use std::time::Duration;

use crate::delivery::Outcome;
use crate::time::Tick;

/// The least time between two posts during an outage.
const OUTAGE_PACE: Duration = Duration::from_secs(1);

/// How the station has answered lately.
#[derive(Debug)]
pub struct Contact {
    /// This many general failures in a row are an outage.
    patience: usize,
    /// General failures in a row ([`Failure::is_general`](crate::delivery::Failure::is_general)).
    failures: u32,
    last_post: Tick,
    /// The station answers again after an outage: every stalled alert is due.
    is_answering: bool,
    /// The station has taken or refused an alert.
    was_reached: bool,
}

impl Contact {
    pub const fn new(patience: usize) -> Self {
        Self { patience, failures: 0, last_post: Tick::MIN, is_answering: false, was_reached: false }
    }

    pub const fn is_answering(&self) -> bool {
        self.is_answering
    }

    /// Whether the last posts were general failures, and enough of them for an outage.
    pub const fn in_outage(&self) -> bool {
        self.failures as usize >= self.patience
    }

    /// Whether the last post was no general failure. `None` until the station has taken
    /// or refused an alert, or the last post was a general failure.
    pub fn is_reachable(&self) -> Option<bool> {
        (self.was_reached || self.failures > 0).then_some(self.failures == 0)
    }

    /// The earliest moment for the next post.
    pub fn gate(&self) -> Tick {
        if self.in_outage() { self.last_post + OUTAGE_PACE } else { Tick::MIN }
    }

    /// Takes note that a post begins.
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
