//! How many agents fell silent at about the same time.
//!
//! An agent is overdue when its next heartbeat is a tenth of the interval late. The
//! agents are counted by the moment from which they are, or will be, overdue. There
//! is a ring of counts for each mode, in steps of a twentieth of its interval. A ring
//! counts the agents of all modes, because a network that fails is silent in all of
//! them. A heartbeat changes two counts in each ring, and a death looks at some 40
//! counts of one ring, whatever the number of agents.

use std::time::Duration;

use crate::heartbeat::Mode;
use crate::time::{Tick, nanos};
use crate::verdict::{dead_after, overdue_after};

/// Steps in one interval.
const STEPS: u32 = 20;
/// The most counts in one ring. If the grace is so long that more were needed, the
/// steps are longer.
const MOST: u64 = 8192;

/// Agents whose silence began within one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Together {
    /// All of them.
    pub silent: u32,
    /// Those that are dead already.
    pub dead: u32,
}

/// When an agent that was last heard at this moment becomes overdue.
fn overdue_at(mode: Mode, last_seen: Tick) -> Tick {
    last_seen + overdue_after(mode)
}

#[derive(Debug)]
struct Ring {
    step: u64,
    /// How many steps an interval has.
    interval: u64,
    /// The number of the first step that the ring holds.
    first: u64,
    /// How many steps before the present one it holds.
    past: u64,
    counts: Box<[Together]>,
}

impl Ring {
    fn new(mode: Mode, grace: Option<Duration>) -> Self {
        let longest = Mode::ALL.map(overdue_after).into_iter().max().unwrap_or_default();
        // A death looks back to an interval before its own silence began.
        let past = nanos(dead_after(mode, grace));
        let span = past + nanos(longest);
        let step = nanos(mode.interval() / STEPS).max(span / (MOST - 4));
        let interval = nanos(mode.interval()).div_ceil(step);
        let len = usize::try_from(span / step + 4).unwrap_or(usize::MAX);
        Self {
            step,
            interval,
            first: 0,
            past: past / step + 1,
            counts: vec![Together::default(); len].into(),
        }
    }

    const fn number(&self, at: Tick) -> u64 {
        at.as_nanos() / self.step
    }

    fn place(&self, number: u64) -> usize {
        usize::try_from(number % self.counts.len() as u64).unwrap_or_default()
    }

    /// The count at this moment. `None` if the ring does not reach back so far.
    fn at(&mut self, at: Tick) -> Option<&mut Together> {
        let number = self.number(at);
        debug_assert!(number < self.first + self.counts.len() as u64, "no agent is overdue so late");
        (number >= self.first).then(|| {
            let place = self.place(number);
            &mut self.counts[place]
        })
    }

    /// Forgets what is too long ago.
    fn turn(&mut self, now: Tick) {
        let first = self.number(now).saturating_sub(self.past);
        let len = self.counts.len() as u64;
        if first >= self.first + len {
            self.counts.fill(Together::default());
            self.first = first;
        }
        while self.first < first {
            let place = self.place(self.first);
            self.counts[place] = Together::default();
            self.first += 1;
        }
    }

    /// The most agents that fell silent within one interval, among them one that is
    /// overdue since `since`.
    fn most(&self, now: Tick, since: Tick) -> Together {
        let (own, last) = (self.number(since).max(self.first), self.number(now));
        let count = |number: u64| {
            let there = (self.first..=last).contains(&number);
            if there { self.counts[self.place(number)] } else { Together::default() }
        };
        let add = |sum: Together, one: Together| Together {
            silent: sum.silent + one.silent,
            dead: sum.dead + one.dead,
        };
        let from = own.saturating_sub(self.interval);
        let mut window = (from..=own).map(count).fold(Together::default(), add);
        let mut most = window;
        for begin in from..own {
            let out = count(begin);
            window = Together { silent: window.silent - out.silent, dead: window.dead - out.dead };
            window = add(window, count(begin + self.interval + 1));
            if window.silent > most.silent {
                most = window;
            }
        }
        most
    }
}

/// The rings of all modes.
#[derive(Debug)]
pub struct Silences([Ring; Mode::ALL.len()]);

impl Silences {
    pub fn new(grace: Option<Duration>) -> Self {
        Self(Mode::ALL.map(|mode| Ring::new(mode, grace)))
    }

    /// An agent is known, and is dead or not.
    pub fn add(&mut self, now: Tick, (mode, last_seen, is_dead): (Mode, Tick, bool)) {
        for ring in &mut self.0 {
            ring.turn(now);
            if let Some(count) = ring.at(overdue_at(mode, last_seen)) {
                count.silent += 1;
                count.dead += u32::from(is_dead);
            }
        }
    }

    /// Takes off an agent as it was added last.
    pub fn take_off(&mut self, (mode, last_seen, is_dead): (Mode, Tick, bool)) {
        for ring in &mut self.0 {
            if let Some(count) = ring.at(overdue_at(mode, last_seen)) {
                debug_assert!(count.silent > 0 && count.dead >= u32::from(is_dead), "it was added");
                count.silent -= 1;
                count.dead -= u32::from(is_dead);
            }
        }
    }

    /// An agent turned dead.
    pub fn died(&mut self, mode: Mode, last_seen: Tick) {
        for ring in &mut self.0 {
            if let Some(count) = ring.at(overdue_at(mode, last_seen)) {
                count.dead += 1;
            }
        }
    }

    /// How many agents fell silent within the same interval as one that was last heard
    /// at `last_seen`, itself included.
    pub fn together(&mut self, now: Tick, mode: Mode, last_seen: Tick) -> Together {
        let ring = &mut self.0[mode as usize];
        ring.turn(now);
        let together = ring.most(now, overdue_at(mode, last_seen));
        // An agent whose silence is longer than the ring was restored so.
        Together { silent: together.silent.max(1), ..together }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_start(Duration::from_millis(millis))
    }

    #[test]
    fn those_of_one_interval_are_counted_and_no_others() {
        for grace in
            [None, Some(Duration::ZERO), Some(Duration::from_secs(100)), Some(Duration::from_secs(86_400))]
        {
            let mut silences = Silences::new(grace);
            // One agent each second for 90 s, of which the first 60 are silent afterwards.
            for second in 0..90 {
                silences.add(at(second * 1000), (Mode::Idle, at(second * 1000), false));
            }
            let now = at(40_000) + dead_after(Mode::Idle, grace);
            for second in 60..90 {
                let seen = at(second * 1000);
                silences.take_off((Mode::Idle, seen, false));
                silences.add(now, (Mode::Idle, now, false));
            }
            let together = silences.together(now, Mode::Idle, at(40_000));
            let coarse = if grace == Some(Duration::from_secs(86_400)) { 60 } else { 32 };
            // With no grace, those of the last tenth of the interval are not overdue yet.
            assert!((27..=coarse).contains(&together.silent), "{grace:?}: {together:?}");
            silences.died(Mode::Idle, at(40_000));
            assert_eq!(silences.together(now, Mode::Idle, at(41_000)).dead, 1, "{grace:?}");
        }
    }

    #[test]
    fn those_in_other_modes_count_too() {
        let mut silences = Silences::new(None);
        // At 1000 s the network breaks.
        for number in 0..100 {
            silences.add(at(999_000), (Mode::Emergency, at(995_000 + number * 50), false));
            silences.add(at(999_000), (Mode::Idle, at(970_000 + number * 300), false));
            silences.add(at(999_000), (Mode::Sleep, at(100_000 + number * 9000), false));
        }
        let first = silences.together(at(995_000 + 10_500), Mode::Emergency, at(995_000));
        assert!((100..130).contains(&first.silent), "{first:?}");
        let first = silences.together(at(970_000 + 63_000), Mode::Idle, at(970_000));
        assert!((190..210).contains(&first.silent), "{first:?}");
        let first = silences.together(at(100_000 + 1_890_000), Mode::Sleep, at(100_000));
        assert!((280..=300).contains(&first.silent), "{first:?}");
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut silences = Silences::new(None);
        let agent = (Mode::Emergency, at(0), false);
        silences.add(at(0), agent);
        silences.add(at(100_000_000), (Mode::Emergency, at(100_000_000), false));
        silences.take_off(agent);
        assert_eq!(silences.together(at(100_010_500), Mode::Emergency, at(100_000_000)).silent, 1);
    }
}
