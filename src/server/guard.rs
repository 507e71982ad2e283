//! Which connections are closed, by rule.
//!
//! tiny_http waits for every client for ever. The guard looks at all
//! connections many times a second, from the kernel's own counters, and names
//! those that have used up their time, their bytes or their place.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::socket::Traffic;
use crate::metrics::Closed;
use pap_core::time::Tick;

/// How long a connection may be open without a word: longer than the longest
/// pause of an agent that keeps its connection, 30 s.
const IDLE: Duration = Duration::from_secs(100);
/// How long a request may take to arrive, and its answer to be taken.
const STALLED: Duration = Duration::from_secs(10);
/// What may arrive between two answers.
const FLOOD: u64 = 64 * 1024;

/// A request may be on its way for so long before it counts as held back.
const FRESH: Duration = Duration::from_millis(300);

/// Who goes first where there are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It has never said a word.
    Silent,
    /// It holds something back.
    Waiting,
    /// It has had its answers.
    Idle,
    /// It has just asked, or it is our turn.
    Asking,
}

/// What is remembered of a connection.
#[derive(Clone, Copy, Debug)]
struct Track {
    acknowledged: u64,
    /// What had been received when the peer last took an answer.
    answered: u64,
    /// Since when there is something unanswered.
    unanswered_since: Option<Tick>,
}

/// Judges connections by what the kernel counts.
#[derive(Debug, Default)]
pub struct Guard {
    tracks: HashMap<u64, Track>,
}

impl Guard {
    /// Looks at all connections, given by their cookies, and names those to
    /// close. At most `most` are left, the longest quiet go first; but who is
    /// asking stays: others can wait outside until it is answered.
    pub fn look(&mut self, now: Tick, all: &[(u64, Traffic)], most: usize) -> Vec<(u64, Closed)> {
        self.note(now, all);
        let mut close = Vec::new();
        let mut left = Vec::with_capacity(all.len());
        for (cookie, traffic) in all {
            let Some(track) = self.tracks.get(cookie) else { continue };
            match track.verdict(now, traffic) {
                Some(why) => close.push((*cookie, why)),
                None => left.push((track.rank(now, traffic), Reverse(traffic.quiet), *cookie)),
            }
        }
        let others = left.iter().filter(|(rank, ..)| *rank < Rank::Asking).count();
        let surplus = left.len().saturating_sub(most).min(others);
        if surplus > 0 {
            left.sort_unstable();
            close.extend(left[..surplus].iter().map(|&(_, _, cookie)| (cookie, Closed::Surplus)));
        }
        close
    }

    fn note(&mut self, now: Tick, all: &[(u64, Traffic)]) {
        let track = |(cookie, traffic): &(u64, Traffic)| {
            let track = self.tracks.get(cookie).copied().unwrap_or_else(|| Track::new(traffic));
            (*cookie, track.after(now, traffic))
        };
        self.tracks = all.iter().map(track).collect();
    }
}

impl Track {
    fn new(traffic: &Traffic) -> Self {
        // The peer's acknowledgement of the handshake counts as one byte.
        let read = traffic.received.saturating_sub(traffic.unread);
        let answered = if traffic.acknowledged > 1 { read } else { 0 };
        Self { acknowledged: traffic.acknowledged, answered, unanswered_since: None }
    }

    fn after(mut self, now: Tick, traffic: &Traffic) -> Self {
        if traffic.acknowledged > self.acknowledged {
            self.acknowledged = traffic.acknowledged;
            // What nobody has read cannot have been answered.
            self.answered = traffic.received.saturating_sub(traffic.unread);
            self.unanswered_since = None;
        }
        if traffic.received > self.answered || traffic.pending {
            self.unanswered_since.get_or_insert(now);
        }
        self
    }

    fn rank(&self, now: Tick, traffic: &Traffic) -> Rank {
        match self.unanswered_since {
            _ if traffic.watches => Rank::Asking,
            _ if traffic.received == 0 => Rank::Silent,
            None => Rank::Idle,
            _ if traffic.in_hand => Rank::Asking,
            Some(since) if now.since(since) < FRESH => Rank::Asking,
            Some(_) => Rank::Waiting,
        }
    }

    fn verdict(&self, now: Tick, traffic: &Traffic) -> Option<Closed> {
        let unanswered = traffic.received.saturating_sub(self.answered);
        if traffic.watches {
            (traffic.quiet >= IDLE).then_some(Closed::Idle)
        } else if unanswered > FLOOD {
            Some(Closed::Flood)
        } else if !traffic.in_hand && self.unanswered_since.is_some_and(|since| now.since(since) >= STALLED) {
            Some(Closed::Stalled)
        } else if traffic.quiet >= IDLE {
            Some(Closed::Idle)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_start(Duration::from_millis(millis))
    }

    fn traffic(received: u64, acknowledged: u64, quiet: u64) -> Traffic {
        let quiet = Duration::from_millis(quiet);
        Traffic { received, unread: 0, acknowledged, pending: false, quiet, in_hand: false, watches: false }
    }

    #[test]
    fn a_request_that_does_not_arrive_is_closed_after_ten_seconds() {
        let mut guard = Guard::default();
        for millis in (0..10_000).step_by(100) {
            // A byte now and then keeps nothing alive.
            let look = guard.look(at(millis), &[(1, traffic(10 + millis / 100, 1, 50))], 100);
            assert_eq!(look, [], "{millis}");
        }
        assert_eq!(guard.look(at(10_200), &[(1, traffic(111, 1, 50))], 100), [(1, Closed::Stalled)]);
    }

    #[test]
    fn a_connection_that_is_answered_lives_on() {
        let mut guard = Guard::default();
        for second in 0..600 {
            // A heartbeat every 30 seconds, answered before the next look.
            let beats = second / 30 + 1;
            let quiet = (second % 30) * 1000;
            assert_eq!(
                guard.look(at(second * 1000), &[(1, traffic(200 * beats, 1 + 150 * beats, quiet))], 100),
                []
            );
        }
    }

    #[test]
    fn a_peer_that_does_not_take_its_answer_is_closed() {
        let mut guard = Guard::default();
        let stuck = Traffic { pending: true, ..traffic(200, 50_000, 0) };
        guard.look(at(0), &[(1, stuck)], 100);
        assert_eq!(guard.look(at(5_000), &[(1, stuck)], 100), []);
        let in_hand = Traffic { in_hand: true, ..stuck };
        assert_eq!(guard.look(at(15_100), &[(1, in_hand)], 100), [], "it is our turn");
        assert_eq!(guard.look(at(15_100), &[(1, stuck)], 100), [(1, Closed::Stalled)]);
    }

    #[test]
    fn an_endless_head_is_a_flood_and_silence_is_idle() {
        let mut guard = Guard::default();
        let all = [(1, traffic(65_536, 1, 0)), (2, traffic(65_537, 1, 0)), (3, traffic(0, 1, 100_000))];
        assert_eq!(guard.look(at(0), &all, 100), [(2, Closed::Flood), (3, Closed::Idle)]);
    }

    #[test]
    fn who_has_just_asked_stays() {
        let mut guard = Guard::default();
        let all = [(1, traffic(90, 1, 30)), (2, traffic(200, 150, 20)), (3, traffic(0, 1, 5))];
        guard.look(at(0), &all, 100);
        assert_eq!(guard.look(at(50), &all, 2), [(3, Closed::Surplus)]);
        assert_eq!(guard.look(at(150), &all, 0), [(3, Closed::Surplus), (2, Closed::Surplus)]);
        let in_hand = [(1, Traffic { in_hand: true, ..all[0].1 })];
        assert_eq!(guard.look(at(600), &in_hand, 0), [], "it is our turn");
        assert_eq!(guard.look(at(650), &all[..1], 0), [(1, Closed::Surplus)], "it is held back");
    }

    #[test]
    fn a_watcher_is_only_closed_for_silence() {
        let mut guard = Guard::default();
        let watcher =
            |received, quiet| Traffic { watches: true, pending: true, ..traffic(received, 500, quiet) };
        guard.look(at(0), &[(1, watcher(300, 0))], 0);
        // It talks, and nothing has to be answered.
        assert_eq!(guard.look(at(60_000), &[(1, watcher(100_000, 10))], 0), []);
        assert_eq!(guard.look(at(160_000), &[(1, watcher(100_000, 100_000))], 9), [(1, Closed::Idle)]);
    }

    #[test]
    fn of_too_many_the_longest_quiet_go_first() {
        let mut guard = Guard::default();
        let all: Vec<_> = (0..10).map(|cookie| (cookie, traffic(0, 1, cookie * 10))).collect();
        let mut closed = guard.look(at(0), &all, 7);
        closed.sort_unstable_by_key(|(cookie, _)| *cookie);
        assert_eq!(closed, [(7, Closed::Surplus), (8, Closed::Surplus), (9, Closed::Surplus)]);
    }
}
