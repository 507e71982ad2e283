//! What a trace says of a grace: which agents would have been dead, which of these
//! deaths would have been false, and how late the true ones would have been told.
//!
//! The records go through a real registry. The recorded verdicts come back exactly,
//! because the registry is called with the same moments in the same order. What the
//! station took is not in a trace: the replay forgets a dead agent after its retention
//! even where the collector kept it, because its death was still owed. Under another
//! grace, verdicts are passed at their deadlines.
//!
//! - this file: which agent each record is about, and what all agents have in common
//! - `judge`: a registry and its deaths, under one grace
//! - `spread`: counts of durations
//! - [`report`]: the result

mod judge;
pub mod report;
mod spread;

use std::collections::HashMap;
use std::time::Duration;

use crate::agent_id::AgentId;
use crate::due_queues::Slot;
use crate::heartbeat::{Heartbeat, Mode};
use crate::registry::Change;
use crate::time::{Now, Tick, Wall, millis, nanos};
use crate::trace::{Beat, Head, Known, Record};
use crate::verdict::dead_after;

use judge::{Judge, most_agents};
use report::{Bucket, Irregular, Recorded, Report};
use spread::{Jitter, Spread};

/// The number of an agent in a replay.
type Number = u32;

/// An agent of the trace.
#[derive(Debug)]
struct Agent {
    id: AgentId,
    /// When the agent was last heard; None if records were lost since.
    heard: Option<Tick>,
    mode: Mode,
    uptime_ms: u64,
    /// The longest silence beyond two intervals in which the agent was alive, in
    /// nanoseconds; None if it was never silent for so long.
    excess: Option<u64>,
}

/// A replay in progress. Give it the records in their order.
#[derive(Debug)]
pub struct Replay {
    asked: Option<Duration>,
    head: Option<Head>,
    /// The deaths under the recorded rules.
    recorded: Judge,
    /// The deaths under the grace that was asked for, if one was.
    other: Option<Judge>,
    /// Agents that were known when the run began, and when that was.
    known: Vec<Known>,
    /// Which agent stands in a slot.
    slots: Vec<Option<Number>>,
    numbers: HashMap<AgentId, Number>,
    agents: Vec<Agent>,
    heartbeats: u64,
    jitter: Jitter,
    /// The last pause or start.
    interrupted: Tick,
    paused: Duration,
    pauses: u64,
    lost: u64,
    first: Option<Wall>,
    last: Wall,
}

impl Replay {
    /// A replay under the recorded rules and, if it is given, under another grace.
    pub fn new(asked: Option<Duration>) -> Self {
        Self {
            asked,
            head: None,
            recorded: Judge::new(None),
            other: asked.map(|grace| Judge::new(Some(grace))),
            known: Vec::new(),
            slots: Vec::new(),
            numbers: HashMap::new(),
            agents: Vec::new(),
            heartbeats: 0,
            jitter: Jitter::default(),
            interrupted: Tick::MIN,
            paused: Duration::ZERO,
            pauses: 0,
            lost: 0,
            first: None,
            last: Wall(0),
        }
    }

    /// Takes the next record. Returns the verdicts that changed under the rules of
    /// then.
    pub fn take(&mut self, record: &Record) -> Vec<Change> {
        match record {
            Record::Known(known) => {
                self.know(known);
                return Vec::new();
            }
            Record::Head(head) => {
                self.begin(*head);
                return Vec::new();
            }
            Record::Named { slot, id } => {
                let number = self.number(id);
                self.name(*slot, number);
                return Vec::new();
            }
            Record::Beat(_)
            | Record::Swept { .. }
            | Record::Forgot { .. }
            | Record::Mark { .. }
            | Record::Paused { .. }
            | Record::Gap { .. }
            | Record::Stopped { .. } => {}
        }
        self.restore();
        match record {
            Record::Beat(beat) => return self.beat(beat).into_iter().collect(),
            Record::Swept { at, steps } => {
                let now = self.pass_to(*at);
                return self.recorded.repeat_sweep(now, *steps, &self.numbers);
            }
            Record::Forgot { at, id } => {
                let now = self.pass_to(*at);
                self.forget(now, id);
            }
            Record::Mark { at } => drop(self.pass_to(*at)),
            Record::Paused { at, time } => {
                self.pass_to(*at);
                self.interrupted = *at;
                self.paused = self.paused.saturating_add(*time);
                self.pauses += 1;
            }
            Record::Gap { lost, .. } => self.lose(*lost),
            Record::Stopped { at } => {
                self.pass_to(*at);
                self.other.iter_mut().for_each(Judge::stop);
            }
            Record::Named { .. } | Record::Head(_) | Record::Known(_) => {}
        }
        Vec::new()
    }

    /// A part of the trace is damaged. Nobody is judged over it.
    pub fn damaged(&mut self) {
        self.slots.clear();
        self.lose(0);
    }

    fn begin(&mut self, head: Head) {
        self.slots.clear();
        let continues = self.head.is_some_and(|before| {
            before.run == head.run
                && (before.part == head.part || before.part.checked_add(1) == Some(head.part))
        });
        self.head = Some(head);
        if !continues {
            self.restore();
            self.forget_all();
            self.interrupted = head.at;
            self.recorded.begin(&head.rules);
            self.other.iter_mut().for_each(|judge| judge.begin(&head.rules));
            self.first.get_or_insert(head.wall);
        }
        self.last = self.last.max(head.wall);
    }

    /// Notes an agent that was known when the run began.
    fn know(&mut self, known: &Known) {
        let number = self.number(&known.id);
        let agent = &mut self.agents[number as usize];
        agent.heard = Some(known.at - Duration::from_millis(known.silence_ms));
        agent.mode = known.mode;
        agent.uptime_ms = known.uptime_ms;
        self.known.push(known.clone());
    }

    /// Fills the registries with the agents that were known.
    fn restore(&mut self) {
        let Some(at) = self.known.first().map(|known| known.at) else { return };
        let now = self.now(at);
        for judge in [Some(&mut self.recorded), self.other.as_mut()].into_iter().flatten() {
            judge.restore(now, &self.known);
        }
        self.known.clear();
    }

    fn beat(&mut self, beat: &Beat) -> Option<Change> {
        let Some(&Some(number)) = self.slots.get(beat.slot as usize) else { return None };
        let now = self.pass_to(beat.at);
        self.heartbeats += 1;
        let agent = &mut self.agents[number as usize];
        let is_higher = beat.uptime_ms > agent.uptime_ms;
        if let Some(heard) = agent.heard.filter(|_| is_higher) {
            let silence = beat.at.since(heard);
            let allowed = dead_after(agent.mode, Some(Duration::ZERO));
            if silence >= allowed {
                agent.excess = agent.excess.max(Some(nanos(silence.saturating_sub(allowed))));
            }
            // Around a pause and a change of mode heartbeats come when they can.
            if agent.mode == beat.mode && heard >= self.interrupted {
                self.jitter.record(silence.abs_diff(agent.mode.interval()));
            }
        }
        agent.heard = Some(beat.at);
        agent.mode = beat.mode;
        agent.uptime_ms = beat.uptime_ms;
        #[expect(clippy::cast_precision_loss, reason = "2^53 milliseconds are more than any uptime")]
        let heartbeat = Heartbeat { mode: beat.mode, uptime: beat.uptime_ms as f64 / 1000.0, name: None };
        if let Some(judge) = &mut self.other {
            judge.hear(now, (number, &agent.id), &heartbeat, is_higher);
        }
        self.recorded.hear(now, (number, &agent.id), &heartbeat, is_higher)
    }

    fn forget(&mut self, now: Now, id: &AgentId) {
        let Some(&number) = self.numbers.get(id) else { return };
        self.agents[number as usize].heard = None;
        self.recorded.forget(now, id);
        self.other.iter_mut().for_each(|judge| judge.forget(now, id));
    }

    /// Records were lost: nobody is judged by a silence in which heartbeats may be
    /// missing.
    fn lose(&mut self, lost: u64) {
        self.lost = self.lost.saturating_add(lost);
        self.known.clear();
        self.forget_all();
        if let Some(head) = self.head {
            self.recorded.begin(&head.rules);
            self.other.iter_mut().for_each(|judge| judge.begin(&head.rules));
        }
    }

    fn forget_all(&mut self) {
        for agent in &mut self.agents {
            agent.heard = None;
        }
    }

    /// Passes the verdicts that are due under the other grace.
    fn pass_to(&mut self, at: Tick) -> Now {
        let now = self.now(at);
        if let Some(judge) = &mut self.other {
            judge.pass_to(now, &self.numbers);
        }
        self.last = self.last.max(now.wall);
        now
    }

    /// A moment of the present run, on both clocks.
    fn now(&self, tick: Tick) -> Now {
        let (start, wall) = self.head.map_or((Tick::MIN, Wall(0)), |head| (head.at, head.wall));
        Now { tick: tick.max(start), wall: Wall(wall.0.saturating_add(millis(tick.since(start)))) }
    }

    /// The number of an agent; a new one if it was not seen before.
    fn number(&mut self, id: &AgentId) -> Number {
        if let Some(&number) = self.numbers.get(id) {
            return number;
        }
        let Ok(number) = Number::try_from(self.agents.len()) else {
            unreachable!("a trace with so many agents does not fit into memory");
        };
        self.agents.push(Agent { id: id.clone(), heard: None, mode: Mode::Idle, uptime_ms: 0, excess: None });
        self.numbers.insert(id.clone(), number);
        number
    }

    fn name(&mut self, slot: Slot, number: Number) {
        let place = slot as usize;
        if self.head.is_none_or(|head| place >= most_agents(&head.rules)) {
            return;
        }
        if place >= self.slots.len() {
            self.slots.resize(place + 1, None);
        }
        self.slots[place] = Some(number);
    }

    /// The time that the trace covers, for people.
    pub fn time(&self) -> Duration {
        Duration::from_millis(self.last.0.saturating_sub(self.first.unwrap_or(self.last).0))
    }

    /// The heartbeats so far.
    pub const fn heartbeats(&self) -> u64 {
        self.heartbeats
    }

    /// How often and for how long the collector was not awake.
    pub const fn pauses(&self) -> (u64, Duration) {
        (self.pauses, self.paused)
    }

    /// How many records the collector could not write.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Ends the replay. None if there was no trace.
    pub fn end(mut self) -> Option<Report> {
        self.restore();
        let head = self.head?;
        let grace_ms = match head.rules.graces {
            [one, two, three] if one == two && two == three => Some(millis(one)),
            _ => None,
        };
        let recorded = self.recorded.end();
        // Under the same grace the recorded verdicts are the better answer.
        let asked = match self.other {
            Some(judge) if grace_ms != self.asked.map(millis) => judge.end(),
            _ => recorded.clone(),
        };
        let least = |agent: Agent| {
            // At the deadline itself the agent is dead.
            let least_grace_ms = agent.excess? / 1_000_000 + 1;
            Some(Irregular { agent_uuid: agent.id, least_grace_ms })
        };
        let agents = self.agents.len();
        let mut irregular: Vec<Irregular> = self.agents.into_iter().filter_map(least).collect();
        irregular.sort_unstable_by(|a, b| {
            (b.least_grace_ms, &a.agent_uuid).cmp(&(a.least_grace_ms, &b.agent_uuid))
        });
        Some(Report {
            agents,
            heartbeats: self.heartbeats,
            deaths: asked.all,
            false_deaths: asked.untrue,
            recorded: Recorded { grace_ms, deaths: recorded.all, false_deaths: recorded.untrue },
            lateness_ms: asked.lateness.into(),
            jitter: self.jitter.into_buckets(),
            irregular,
        })
    }
}

impl From<Spread> for report::Lateness {
    fn from(spread: Spread) -> Self {
        Self { p50: spread.quantile(0.5), p99: spread.quantile(0.99), max: spread.max() }
    }
}

impl Jitter {
    fn into_buckets(self) -> Vec<Bucket> {
        self.counts().map(|(upto_ms, count)| Bucket { upto_ms, count }).collect()
    }
}
