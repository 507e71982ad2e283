//! The link of a collector to a pap-station: the collector registers its cluster there,
//! and then sends beats, which say that it lives. This file decides what follows from an
//! answer and how long to wait before it. It reads no clock.

mod said;

use std::time::Duration;

use crate::delivery::{Failure, Outcome, Reply, wait_after};
pub use said::{MOST_ASKED, Said};

/// The time between two beats, unless the station asks for another.
pub const EVERY: Duration = Duration::from_secs(30);
/// The shortest and the longest time between two beats that a station may ask for.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Who this cluster is.
    Register,
    /// That its collector lives.
    Beat,
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The station took it.
    Taken,
    /// The station does not know this cluster, which registers again. (One that knows it by its beats
    /// alone takes them, and says so.)
    Unknown,
    /// The cluster was removed at the station. This is news.
    Removed,
    /// The same, and it was said before.
    StillRemoved,
    /// The station refused it with this status. It is sent again, as the station may change.
    Refused(u16),
    /// The station did not take it this time.
    Failed(Failure),
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// What the answer means.
    pub meaning: Meaning,
    /// How long to wait before the next step.
    pub wait: Duration,
}

/// How far the link is.
#[derive(Clone, Debug)]
pub struct Link {
    step: Step,
    /// The time between two beats.
    every: Duration,
    /// Requests in a row that were not taken.
    failures: u32,
    /// Registrations in a row after which the station still did not know this cluster.
    forgotten: u32,
    /// The station said that the cluster was removed.
    is_removed: bool,
    /// The next beat answers a question of the station.
    is_asked: bool,
    salt: u64,
}

impl Link {
    /// A link that begins with a registration. `salt` makes the jitter differ between
    /// collectors.
    pub const fn new(salt: u64) -> Self {
        Self {
            step: Step::Register,
            every: EVERY,
            failures: 0,
            forgotten: 0,
            is_removed: false,
            is_asked: false,
            salt,
        }
    }

    /// What to send next.
    pub const fn step(&self) -> Step {
        self.step
    }

    /// Notes the answer to the present step. `said` is what the answer to a beat says.
    pub fn settle(&mut self, reply: &Reply, said: &Said) -> Next {
        match (self.step, reply.outcome()) {
            (Step::Register, Outcome::Taken) => {
                self.step = Step::Beat;
                (self.failures, self.is_removed) = (0, false);
                Next { meaning: Meaning::Taken, wait: Duration::ZERO }
            }
            (Step::Beat, Outcome::Taken) if said.registered == Some(false) => {
                self.register_again(Meaning::Taken)
            }
            (Step::Beat, Outcome::Taken) => self.beat_taken(said),
            (Step::Beat, Outcome::Refused(404)) => self.register_again(Meaning::Unknown),
            (Step::Register | Step::Beat, Outcome::Refused(410)) => {
                let was_removed = std::mem::replace(&mut self.is_removed, true);
                let meaning = if was_removed { Meaning::StillRemoved } else { Meaning::Removed };
                Next { meaning, wait: LONGEST }
            }
            (Step::Register | Step::Beat, Outcome::Refused(code)) => {
                Next { meaning: Meaning::Refused(code), wait: self.again(None) }
            }
            (Step::Register | Step::Beat, Outcome::Failed(failure, asked)) => {
                Next { meaning: Meaning::Failed(failure), wait: self.again(asked) }
            }
        }
    }

    /// The station has forgotten who this cluster is.
    fn register_again(&mut self, meaning: Meaning) -> Next {
        self.step = Step::Register;
        // One that forgets it again and again gets no hot loop.
        let wait = match self.forgotten {
            0 => Duration::ZERO,
            times => wait_after(None, times, self.salt).min(self.every),
        };
        self.forgotten = self.forgotten.saturating_add(1);
        Next { meaning, wait }
    }

    fn beat_taken(&mut self, said: &Said) -> Next {
        (self.failures, self.forgotten, self.is_removed) = (0, 0, false);
        let every = said.next_heartbeat_ms.map_or(EVERY, Duration::from_millis);
        self.every = every.clamp(SHORTEST, LONGEST);
        let is_asked = !said.ask.is_empty();
        let wait = match (is_asked, std::mem::replace(&mut self.is_asked, is_asked)) {
            (true, false) => Duration::ZERO,
            // A station that asks in every answer gets no hot loop.
            (true, true) => SHORTEST,
            (false, _) => self.every,
        };
        Next { meaning: Meaning::Taken, wait }
    }

    /// The wait after a request that was not taken: no longer than between two beats,
    /// unless the station asked for more.
    fn again(&mut self, asked: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let wait = wait_after(asked, self.failures, self.salt);
        if asked.is_some() { wait } else { wait.min(self.every) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_id::AgentId;

    const SECOND: Duration = Duration::from_secs(1);

    fn status(code: u16) -> Reply {
        Reply::Status { code, retry_after: None }
    }

    fn said(next_heartbeat_ms: Option<u64>, asked: usize) -> Said {
        let ask = (0..asked).map(|number| AgentId::new(&format!("a{number}")).unwrap()).collect();
        Said { next_heartbeat_ms, ask, ..Said::default() }
    }

    /// A link whose registration was taken.
    fn registered() -> Link {
        let mut link = Link::new(1);
        assert_eq!(link.step(), Step::Register);
        let next = link.settle(&status(201), &Said::default());
        assert_eq!((next, link.step()), (Next { meaning: Meaning::Taken, wait: Duration::ZERO }, Step::Beat));
        link
    }

    #[test]
    fn a_registration_is_tried_with_growing_waits_until_it_is_taken() {
        let mut link = Link::new(1);
        let waits: Vec<_> =
            (0..9).map(|_| link.settle(&Reply::None, &Said::default()).wait.as_secs_f64()).collect();
        assert!(waits.iter().all(|&wait| wait <= 30.0), "{waits:?}");
        assert!(waits[0] <= 1.0 && waits[3] >= 4.0 && waits[8] >= 30.0, "{waits:?}");
        for (code, meaning) in [
            (400, Meaning::Refused(400)),
            (404, Meaning::Refused(404)),
            (401, Meaning::Failed(Failure::Misconfigured(401))),
            (503, Meaning::Failed(Failure::Unreachable)),
        ] {
            let next = link.settle(&status(code), &Said::default());
            assert_eq!((next.meaning, link.step()), (meaning, Step::Register));
        }
        let busy = Reply::Status { code: 429, retry_after: Some(100 * SECOND) };
        assert!(link.settle(&busy, &Said::default()).wait >= 100 * SECOND, "what is asked for is given");
        link.settle(&status(200), &Said::default());
        assert_eq!(link.step(), Step::Beat);
    }

    #[test]
    fn the_station_says_when_the_next_beat_comes_within_limits() {
        let mut link = registered();
        let mut wait = |ms| link.settle(&status(200), &said(ms, 0)).wait;
        assert_eq!(wait(None), 30 * SECOND);
        assert_eq!(wait(Some(5000)), 5 * SECOND);
        assert_eq!(wait(Some(0)), SECOND);
        assert_eq!(wait(Some(u64::MAX)), 900 * SECOND);
        assert_eq!(wait(None), 30 * SECOND, "what it asked for once is not kept");
    }

    #[test]
    fn a_question_is_answered_at_once_but_not_in_a_hot_loop() {
        let mut link = registered();
        let mut wait = |asked| link.settle(&status(200), &said(None, asked)).wait;
        assert_eq!(wait(3), Duration::ZERO);
        assert_eq!(wait(3), SECOND);
        assert_eq!(wait(0), 30 * SECOND);
        assert_eq!(wait(1), Duration::ZERO);
    }

    #[test]
    fn a_cluster_that_is_unknown_registers_again() {
        let mut link = registered();
        let next = link.settle(&status(404), &Said::default());
        assert_eq!((next.meaning, next.wait), (Meaning::Unknown, Duration::ZERO));
        assert_eq!(link.step(), Step::Register);
        link.settle(&status(200), &Said::default());
        let next = link.settle(&status(404), &Said::default());
        assert!(next.wait >= SECOND / 2, "no hot loop: {next:?}");
        link.settle(&status(200), &Said::default());
        link.settle(&status(200), &Said::default());
        assert_eq!(
            link.settle(&status(404), &Said::default()).wait,
            Duration::ZERO,
            "a beat was taken between"
        );
    }

    #[test]
    fn a_cluster_that_is_only_heard_registers_again_and_beats_on() {
        let mut link = registered();
        let heard = Said { registered: Some(false), ..Said::default() };
        for number in 0..20 {
            let next = link.settle(&status(200), &heard);
            assert_eq!((next.meaning, link.step()), (Meaning::Taken, Step::Register));
            assert!((next.wait == Duration::ZERO) == (number == 0) && next.wait <= 30 * SECOND, "{next:?}");
            link.settle(&status(200), &Said::default());
            assert_eq!(link.step(), Step::Beat);
        }
        let known = Said { registered: Some(true), ..Said::default() };
        link.settle(&status(200), &known);
        assert_eq!((link.step(), link.settle(&status(200), &heard).wait), (Step::Beat, Duration::ZERO));
    }

    #[test]
    fn a_cluster_that_was_removed_goes_on_slowly_and_says_so_once() {
        let mut link = registered();
        let mut settle = |code| {
            let next = link.settle(&status(code), &Said::default());
            (next.meaning, next.wait, link.step())
        };
        assert_eq!(settle(410), (Meaning::Removed, 900 * SECOND, Step::Beat));
        assert_eq!(settle(410), (Meaning::StillRemoved, 900 * SECOND, Step::Beat));
        assert_eq!(settle(200), (Meaning::Taken, 30 * SECOND, Step::Beat));
        assert_eq!(settle(410).0, Meaning::Removed);
    }

    #[test]
    fn a_beat_that_fails_is_tried_again_no_later_than_the_next_one() {
        let mut link = registered();
        link.settle(&status(200), &said(Some(2000), 0));
        for _ in 0..20 {
            let next = link.settle(&status(403), &Said::default());
            assert_eq!(next.meaning, Meaning::Failed(Failure::Misconfigured(403)));
            assert!(next.wait >= SECOND / 2 && next.wait <= 2 * SECOND, "{next:?}");
        }
    }
}
