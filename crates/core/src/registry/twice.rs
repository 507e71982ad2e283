//! Restarts, and ids that two agents use.
//!
//! A copied deployment has the id of the first one. Heartbeats of the two come in turn,
//! so the uptime falls and leaps, again and again: each fall looks like a restart. An
//! agent that really restarts falls and never leaps, because no uptime grows faster than
//! time. A heartbeat that was long under way makes one leap. So an id is used twice when
//! its uptime has turned often.

use core::net::IpAddr;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Registry;
use crate::alert::Kind;
use crate::due_queues::Slot;
use crate::heartbeat::Mode;
use crate::outbox::{Dropped, What};
use crate::time::{Now, Tick};

/// The least time between two RESTART_DETECTED alerts about one agent.
const RESTART_ALERT_PAUSE: Duration = Duration::from_secs(60);
/// An uptime that grew by this much more than time did has leapt, in seconds.
const LEAP: f64 = 10.0;
/// So many turns between falling and leaping are no accident: one heartbeat that comes
/// late makes two.
const TURNS: u8 = 3;
/// A turn counts if it comes within this many intervals after the one before.
const LATEST_TURN: u32 = 4;

/// From which addresses two agents with one id send their heartbeats. Both are the same
/// behind a proxy, and then they are the proxy's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twice([Option<IpAddr>; 2]);

impl Twice {
    /// The addresses that are known, each once.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let [first, second] = self.0;
        first.into_iter().chain(second.filter(|_| first != second))
    }
}

impl fmt::Display for Twice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut addresses = self.addresses();
        match (addresses.next(), addresses.next()) {
            (Some(one), Some(other)) => write!(f, "from {one} and {other}"),
            (Some(one), None) => write!(f, "both times from {one}"),
            (None, _) => f.write_str("from unknown addresses"),
        }
    }
}

/// What is kept of an agent that restarted lately.
#[derive(Debug)]
pub(super) struct Restarts {
    /// Before this moment the agent gets no other RESTART_DETECTED alert.
    next: Tick,
    /// None for an agent whose uptime only fell.
    turns: Option<Box<Turns>>,
}

#[derive(Debug)]
struct Turns {
    count: u8,
    /// Whether the uptime fell at the last turn.
    fell: bool,
    at: Tick,
    from: Twice,
}

impl Restarts {
    pub(super) const fn new(next: Tick) -> Self {
        Self { next, turns: None }
    }

    /// How long the agent gets no other alert, in milliseconds. It is rounded up, so that
    /// saving makes no pause shorter.
    pub(super) fn pause_ms(&self, now: Tick) -> u64 {
        u64::try_from(self.next.since(now).as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    fn turn(&mut self, now: Tick, fell: bool, mode: Mode, from: Option<IpAddr>) {
        let longest = (LATEST_TURN * mode.interval()).max(RESTART_ALERT_PAUSE);
        match &mut self.turns {
            Some(turns) if now.since(turns.at) <= longest => {
                turns.count = turns.count.saturating_add(u8::from(turns.fell != fell));
                (turns.fell, turns.at) = (fell, now);
                turns.from.0[usize::from(fell)] = from;
            }
            _ if fell => self.turns = None,
            _ => self.turns = Some(Box::new(Turns { count: 1, fell, at: now, from: Twice([from, None]) })),
        }
    }

    fn twice(&self) -> Option<Twice> {
        self.turns.as_ref().filter(|turns| turns.count >= TURNS).map(|turns| turns.from)
    }
}

/// Whether an uptime grew faster than time: from `before` to `after`, both in seconds,
/// within `elapsed`.
pub(super) fn has_leapt(before: f64, after: f64, elapsed: Duration) -> bool {
    after - before > elapsed.as_secs_f64() + LEAP
}

impl Registry {
    /// Takes note of a leap. Only after a restart it means something.
    pub(super) fn leapt(&mut self, now: Now, slot: Slot, from: Option<IpAddr>) {
        let mode = self.agents[slot as usize].mode;
        if let Some(restarts) = self.restarts.get_mut(slot) {
            restarts.turn(now.tick, false, mode, from);
        }
    }

    /// Queues the alert about a restart, at most one a minute. Returns whether it was
    /// queued; and once a minute, that the agent's id is probably used twice.
    pub(super) fn alert_restart(
        &mut self,
        now: Now,
        slot: Slot,
        previous_uptime: f64,
        from: Option<IpAddr>,
    ) -> (bool, Option<Twice>) {
        let (mode, uptime) = (self.agents[slot as usize].mode, self.agents[slot as usize].uptime);
        let next = now.tick + RESTART_ALERT_PAUSE;
        let twice = if let Some(restarts) = self.restarts.get_mut(slot) {
            restarts.turn(now.tick, true, mode, from);
            if now.tick < restarts.next {
                self.outbox.tally_mut().drop_one(Kind::RestartDetected, Dropped::RateLimited);
                return (false, None);
            }
            restarts.next = next;
            restarts.twice()
        } else {
            // Beyond this time neither the pause nor a turn matters.
            let longest = LATEST_TURN * Mode::Sleep.interval();
            let is_worth_keeping = |other: &Restarts| now.tick < other.next + longest;
            self.restarts.insert_among(slot, Restarts::new(next), is_worth_keeping);
            None
        };
        (self.alert(now, slot, What::Restart { previous_uptime, uptime, mode, twice }), twice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_id::AgentId;
    use crate::alert::{Alert, Details, Restart};
    use crate::heartbeat::Heartbeat;
    use crate::outbox::Limits;
    use crate::registry::Rules;
    use crate::time::Wall;

    fn at(seconds: u64) -> Now {
        Now { tick: Tick::from_start(Duration::from_secs(seconds)), wall: Wall(seconds * 1000) }
    }

    fn registry() -> Registry {
        Registry::new(Rules {
            max_agents: 10,
            grace: Some(Duration::ZERO),
            mass_silence_hold: Duration::ZERO,
            retention: Duration::from_secs(3600),
            recovery_alerts: false,
            outbox: Limits { queue: 100, ttl: Duration::from_secs(100_000), senders: 100 },
        })
    }

    /// Heartbeats at these seconds, with these uptimes, from 10.0.0.n. Returns the alerts
    /// about restarts, and how often it was said that the id is used twice.
    fn play(mode: Mode, beats: impl IntoIterator<Item = (u64, f64, u8)>) -> (Vec<Restart>, Vec<Twice>) {
        let (mut registry, id) = (registry(), AgentId::new("a").unwrap());
        let (mut alerts, mut said) = (Vec::new(), Vec::new());
        for (second, uptime, host) in beats {
            let from = Some(IpAddr::from([10, 0, 0, host]));
            let beat = Heartbeat { mode, uptime, name: None };
            said.extend(registry.beat_from(at(second), &id, &beat, from).unwrap().used_twice);
            registry.audit();
            // Each alert is settled at once: at most one about an agent is under way.
            while let Some(alert) = registry.next_alert(at(second)) {
                registry.settle(at(second), &alert, crate::delivery::Outcome::Taken);
                if let Alert { details: Details::Restart(restart), .. } = alert {
                    alerts.push(restart);
                }
            }
        }
        (alerts, said)
    }

    /// Two agents, one two hours older, each with a heartbeat every `interval`.
    fn two(interval: u64, count: u64) -> impl Iterator<Item = (u64, f64, u8)> {
        (0..count).flat_map(move |number| {
            let (first, second) = (1 + number * interval, 1 + number * interval + interval / 2);
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            [(first, 7200.0 + first as f64, 1), (second, second as f64, 2)]
        })
    }

    #[test]
    fn two_agents_with_one_id_are_told_once_a_minute_with_their_addresses() {
        for (mode, interval) in [(Mode::Emergency, 5), (Mode::Idle, 30), (Mode::Sleep, 900)] {
            let minutes = 30.max(interval / 2);
            let (alerts, said) = play(mode, two(interval, minutes * 60 / interval));
            let most = usize::try_from(minutes + 1).unwrap();
            assert!(alerts.len() <= most && said.len() >= alerts.len() - 2, "{mode}: {alerts:?}");
            assert!(!alerts[0].id_used_twice && alerts[0].addresses.is_empty(), "one fall says nothing");
            let last = alerts.last().unwrap();
            let mut addresses = last.addresses.clone();
            addresses.sort();
            assert!(last.id_used_twice, "{mode}: {alerts:?}");
            assert_eq!(addresses, [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]);
        }
    }

    #[test]
    fn one_agent_is_never_called_two() {
        // A crash loop: it lives for anything up to half a minute.
        let crashes = (0..2000_u32).map(|number| (1 + u64::from(number) * 30, f64::from(number * 7 % 25), 1));
        // It restarts, and a minute later comes one heartbeat of the former process. So
        // it seems to restart once more, when an alert may be sent again.
        let late = (0..50).flat_map(|number| {
            let second = 1 + number * 1000;
            [(second, 500.0, 1), (second + 30, 2.0, 1), (second + 95, 520.0, 1), (second + 100, 72.0, 1)]
        });
        for (alerts, said) in [play(Mode::Idle, crashes), play(Mode::Idle, late)] {
            assert!(alerts.len() >= 50, "they restarted: {}", alerts.len());
            assert!(alerts.iter().all(|alert| !alert.id_used_twice) && said.is_empty());
        }
    }

    #[test]
    fn when_one_of_the_two_goes_a_restart_is_a_restart_again() {
        let beats = two(30, 20).chain([
            (700, 700.0, 2),
            (1000, 1000.0, 2),
            (1030, 1.0, 2),
            (1060, 2.0, 2),
            (1090, 1.0, 2),
        ]);
        let (alerts, _) = play(Mode::Idle, beats);
        let last = alerts.last().unwrap();
        assert_eq!((last.previous_uptime, last.id_used_twice), (2.0, false), "{alerts:?}");
    }

    #[test]
    fn the_pause_survives_a_restart_of_the_collector() {
        let (mut registry, id) = (registry(), AgentId::new("a").unwrap());
        let beat = |registry: &mut Registry, second, uptime| {
            registry.beat(at(second), &id, &Heartbeat { mode: Mode::Idle, uptime, name: None }).unwrap().news
        };
        beat(&mut registry, 1, 100.0);
        assert!(beat(&mut registry, 2, 1.0));
        let mut saved = Vec::new();
        registry.save(at(3), 0, 10, &mut saved);
        let mut again = tests::registry();
        again.restore(at(3), saved, crate::registry::Resume::Continued);
        assert!(!beat(&mut again, 30, 0.5) && beat(&mut again, 62, 0.1));
    }

    #[test]
    fn it_is_said_from_where() {
        let address = |host| Some(IpAddr::from([10, 0, 0, host]));
        for (from, text) in [
            ([address(1), address(2)], "from 10.0.0.1 and 10.0.0.2"),
            ([address(1), address(1)], "both times from 10.0.0.1"),
            ([None, None], "from unknown addresses"),
        ] {
            assert_eq!(Twice(from).to_string(), text);
        }
    }
}
