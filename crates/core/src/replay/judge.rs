//! A registry that is told the trace, and its deaths, under one grace.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;

use super::Number;
use super::spread::Spread;
use crate::agent_id::AgentId;
use crate::delivery::Outcome;
use crate::heartbeat::{Heartbeat, Mode};
use crate::outbox::Limits;
use crate::registry::{Change, Registry, Resume, Rules, SavedAgent};
use crate::time::{Now, Tick};
use crate::trace::{Known, TracedRules};
use crate::verdict::Verdict;

/// Nobody is told, so one place is enough.
const OUTBOX: Limits = Limits { queue: 1, ttl: Duration::from_secs(1), senders: 1 };
/// No deadline of an agent is nearer than this after its heartbeat.
const NEAREST_DEADLINE: Duration = Mode::Emergency.interval();
/// A trace with a greater maximum was not written by a collector.
const MOST_AGENTS: usize = 10_000_000;
/// An agent whose last death is settled, or that never died.
const SETTLED: u32 = u32::MAX;

/// What the deaths come to.
#[derive(Clone, Debug, Default)]
pub struct Deaths {
    pub all: u64,
    pub untrue: u64,
    /// From the last heartbeat to the verdict, of the deaths that were not false.
    pub lateness: Spread,
}

#[derive(Debug)]
pub struct Judge {
    /// None: the recorded grace, and the recorded verdicts.
    grace: Option<Duration>,
    registry: Option<Registry>,
    /// Nothing falls due before this moment.
    quiet_until: Tick,
    deaths: Deaths,
    /// For each agent, how long it was silent when it died, in milliseconds. The death
    /// may still turn out to be false.
    open: Vec<u32>,
}

impl Judge {
    pub fn new(grace: Option<Duration>) -> Self {
        Self { grace, registry: None, quiet_until: Tick::MIN, deaths: Deaths::default(), open: Vec::new() }
    }

    /// Begins with a registry that knows nobody. Deaths may still turn out to be false.
    pub fn begin(&mut self, traced: &TracedRules) {
        let rules = Rules {
            // Under another grace other agents are dead, and forgotten at other times.
            max_agents: most_agents(traced) * if self.grace.is_some() { 2 } else { 1 },
            grace: self.grace.or_else(|| traced.grace()),
            mass_silence_hold: traced.mass_silence_hold,
            retention: traced.retention,
            recovery_alerts: false,
            outbox: OUTBOX,
        };
        self.registry = Some(Registry::new(rules));
        self.quiet_until = Tick::MIN;
    }

    /// Passes no more verdicts in this run.
    pub fn stop(&mut self) {
        self.quiet_until = Tick::from_nanos(u64::MAX);
    }

    pub fn restore(&mut self, now: Now, known: &[Known]) {
        let saved = |known: &Known| {
            // Only the fields on which verdicts depend; the others have defaults.
            let fields = json!({
                "id": known.id,
                "mode": known.mode,
                "status": known.verdict,
                "uptime": Duration::from_millis(known.uptime_ms).as_secs_f64(),
                "silence": known.silence_ms,
                "dead_for": known.dead_ms,
                "held_for": known.is_held.then_some(known.dead_ms),
                "around": known.is_held.then_some(json!({"together": 1, "known": 1, "mass": true})),
            });
            serde_json::from_value::<SavedAgent>(fields).ok()
        };
        if let Some(registry) = &mut self.registry {
            registry.restore(now, known.iter().filter_map(saved).collect(), Resume::Continued);
        }
    }

    /// Takes a heartbeat. If the agent was dead and its uptime is higher than before,
    /// then its death was false.
    pub fn hear(
        &mut self,
        now: Now,
        (number, id): (Number, &AgentId),
        beat: &Heartbeat,
        is_higher: bool,
    ) -> Option<Change> {
        if let Some(open) = self.open.get_mut(number as usize)
            && *open != SETTLED
        {
            if is_higher {
                self.deaths.untrue += 1;
            } else {
                self.deaths.lateness.record((*open).into());
            }
            *open = SETTLED;
        }
        let registry = self.registry.as_mut()?;
        let received = registry.beat(now, id, beat).ok()?;
        if received.news {
            tell(registry, now);
        }
        received.change
    }

    pub fn forget(&mut self, now: Now, id: &AgentId) {
        if let Some(registry) = &mut self.registry {
            registry.forget(now, id);
        }
    }

    /// Passes the verdicts that are due.
    pub fn pass_to(&mut self, now: Now, numbers: &HashMap<AgentId, Number>) {
        if now.tick < self.quiet_until {
            return;
        }
        let Some(registry) = &mut self.registry else { return };
        let mut all = Vec::new();
        // Every verdict is passed at its deadline, even if the next record is much later.
        while let Some(due) = registry.next_verdict().filter(|&due| due <= now.tick) {
            all.extend(registry.sweep(Now { tick: due, wall: now.wall }, usize::MAX).changes);
            tell(registry, now);
        }
        // A heartbeat from now on has no deadline before that.
        let nearest = now.tick + NEAREST_DEADLINE;
        self.quiet_until = registry.next_verdict().map_or(nearest, |due| due.min(nearest));
        self.note(&all, numbers);
    }

    /// Does what a sweep did then.
    pub fn repeat_sweep(&mut self, now: Now, steps: u64, numbers: &HashMap<AgentId, Number>) -> Vec<Change> {
        let Some(registry) = &mut self.registry else { return Vec::new() };
        let budget = usize::try_from(steps).unwrap_or(usize::MAX).max(1);
        let changes = registry.sweep(now, budget).changes;
        tell(registry, now);
        self.note(&changes, numbers);
        changes
    }

    fn note(&mut self, changes: &[Change], numbers: &HashMap<AgentId, Number>) {
        for change in changes.iter().filter(|change| change.agent.status == Verdict::Dead) {
            self.deaths.all += 1;
            let Some(&number) = numbers.get(&change.agent.agent_uuid) else { continue };
            let place = number as usize;
            if place >= self.open.len() {
                self.open.resize(place + 1, SETTLED);
            }
            // The agent may have been forgotten and have died again: nobody came back.
            if self.open[place] != SETTLED {
                self.deaths.lateness.record(self.open[place].into());
            }
            self.open[place] = u32::try_from(change.agent.silence_ms).unwrap_or(SETTLED - 1).min(SETTLED - 1);
        }
    }

    /// The deaths. Those of agents that never came back were true.
    pub fn end(mut self) -> Deaths {
        for &open in self.open.iter().filter(|&&open| open != SETTLED) {
            self.deaths.lateness.record(open.into());
        }
        self.deaths
    }
}

/// The most agents known at once, and at the same time the number of slots.
pub fn most_agents(traced: &TracedRules) -> usize {
    usize::try_from(traced.max_agents).map_or(MOST_AGENTS, |most| most.clamp(1, MOST_AGENTS))
}

/// Tells a station that takes everything, so that nothing is owed.
fn tell(registry: &mut Registry, now: Now) {
    while let Some(alert) = registry.next_alert(now) {
        registry.settle(now, &alert, Outcome::Taken);
    }
}
