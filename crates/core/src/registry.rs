//! Which agents are alive.
//!
//! Agents live in a slab. An index leads from an id to a slot. Due queues through
//! the slab ([`crate::due_queues`]) keep the agents of each mode and verdict in the
//! order in which they fall due. A heartbeat costs one look-up and a move to the
//! end of a due queue. The cost of a sweep grows with the agents that fall due, not
//! with all agents.

mod audit;
pub(crate) mod by_slot;
mod conditions;
mod hear;
mod index;
mod mass;
mod name;
mod saved;
mod silences;
mod telling;
mod twice;
mod view;

use std::time::Duration;

use slab::Slab;

use crate::agent_id::{AgentId, IdRef};
use crate::alert::Kind;
use crate::due_queues::{DueQueue, DueQueues, Linked, Links, Slot};
use crate::firing::{End, Firing, Repeat};
use crate::heartbeat::Mode;
use crate::outbox::{Dropped, Event, Limits, Outbox, What};
use crate::time::{Now, Tick, Wall, millis};
use crate::verdict::{Cue, Verdict, dead_after, suspect_after};

use by_slot::BySlot;
use index::Index;
use mass::{Died, Held, RecentDeaths};
use name::Name;
use silences::Silences;
use twice::{Restarts, has_leapt};

pub use conditions::{ByAgent, Condition, Subject, concerned};
pub use mass::{MassChange, MassSilence};
pub use saved::{Resume, SavedAgent};
pub use twice::Twice;
pub use view::{AgentView, Filter, Stats, StatsView};

/// The least time between two EMERGENCY alerts about one agent.
const EMERGENCY_ALERT_PAUSE: Duration = Duration::from_secs(60);

/// At the start, slots for at most this many agents are reserved, so that no
/// heartbeat waits while the slab moves. Reserved memory is not used memory: the
/// kernel gives it when agents come.
const MOST_RESERVED: usize = 1 << 20;

/// The rules by which the registry judges.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The most agents that the registry knows at once; at least 1.
    pub max_agents: usize,
    /// Beyond two intervals, the silence that is allowed before an agent is dead.
    /// `None` for a tenth of the interval.
    pub grace: Option<Duration>,
    /// How long the deaths of a mass silence are held back.
    pub mass_silence_hold: Duration,
    /// How long the registry remembers a dead agent.
    pub retention: Duration,
    /// Whether the station, if it was told a death, is told the recovery too.
    pub recovery_alerts: bool,
    /// The limits on alerts.
    pub outbox: Limits,
}

/// What an accepted heartbeat has changed.
#[derive(Debug)]
pub struct Received {
    /// The agent's place. A later agent may get it after this one was forgotten.
    pub slot: Slot,
    /// The agent was not known before.
    pub is_new: bool,
    /// The agent restarted after its last heartbeat.
    pub restarted: bool,
    /// The verdict that this heartbeat changed.
    pub change: Option<Change>,
    /// There is something new to tell the station.
    pub news: bool,
    /// At most once a minute: two agents probably use this id, from these addresses.
    pub used_twice: Option<Twice>,
}

/// The registry has no room for a new agent. The state is unchanged, and the known
/// agents are served as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A verdict that changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// The verdict before.
    pub was: Verdict,
    /// The agent, with its new verdict.
    pub agent: AgentView,
    /// For an agent that came back: how long it was dead.
    pub dead_for: Option<Duration>,
    /// For an agent that died: how long after the deadline the sweep found it.
    pub late: Option<Duration>,
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// The verdicts that changed, in the order of their deadlines.
    pub changes: Vec<Change>,
    /// How many dead agents the registry forgot.
    pub forgotten: usize,
    /// How many agents were due. Not all of them appear above: a death may be held back.
    pub steps: usize,
    /// A mass silence that began or ended.
    pub mass: Option<MassChange>,
    /// The budget ran out, and more is due already.
    pub more: bool,
}

/// Counts of what has happened since the start.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Accepted heartbeats, by mode.
    pub heartbeats: [u64; Mode::ALL.len()],
    /// Verdicts that turned dead.
    pub deaths: u64,
    /// Dead agents that came back.
    pub recoveries: u64,
    /// Restarts that were detected.
    pub restarts: u64,
    /// Mass silences that began.
    pub mass_silences: u64,
}

/// One agent. The registry may keep a million of them, so every byte counts. What
/// only few agents have at a time is kept beside them, in a [`BySlot`].
#[derive(Debug)]
struct Agent {
    id: AgentId,
    name: Name,
    last_seen: Tick,
    last_seen_wall: Wall,
    first_seen_wall: Wall,
    uptime: f64,
    links: Links,
    consecutive: u32,
    /// The due queue in which the agent stands. It implies the verdict.
    queue: DueQueue,
    mode: Mode,
    marks: Marks,
}

/// Two facts about an agent, in one byte.
#[derive(Clone, Copy, Debug)]
struct Marks(u8);

impl Marks {
    const fn new(told_dead: bool, was_spared: bool) -> Self {
        Self(told_dead as u8 | (was_spared as u8) << 1)
    }

    /// The station took the agent's death, and its recovery is not settled yet.
    const fn told_dead(self) -> bool {
        self.0 & 1 != 0
    }

    /// Since the agent's last heartbeat, a kill of the collector has given it a full
    /// deadline.
    const fn was_spared(self) -> bool {
        self.0 & 2 != 0
    }
}

impl Agent {
    const fn status(&self) -> Verdict {
        self.queue.status()
    }

    /// As it is counted among the [`Silences`].
    const fn silence(&self) -> (Mode, Tick, bool) {
        (self.mode, self.last_seen, matches!(self.status(), Verdict::Dead))
    }

    fn name(&self) -> String {
        self.name.get().map_or_else(|| self.id.to_string(), ToOwned::to_owned)
    }

    fn view(&self, now: Now) -> AgentView {
        AgentView {
            agent_name: self.name(),
            agent_uuid: self.id.clone(),
            mode: self.mode,
            uptime_seconds: self.uptime,
            last_seen: self.last_seen_wall,
            healthy: self.status() != Verdict::Dead,
            observation_mode: false,
            consecutive_heartbeats: self.consecutive,
            status: self.status(),
            first_seen: self.first_seen_wall,
            silence_ms: millis(now.tick.since(self.last_seen)),
        }
    }
}

impl Linked for Agent {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    fn line(&mut self) -> &mut DueQueue {
        &mut self.queue
    }
}

/// Which agents are alive, and what the station must still be told of them.
#[derive(Debug)]
pub struct Registry {
    rules: Rules,
    index: Index,
    agents: Slab<Agent>,
    queues: DueQueues,
    /// No agent's slot has ever been this high.
    slots_end: usize,
    by_status: [usize; Verdict::ALL.len()],
    by_mode: [usize; Mode::ALL.len()],
    told_dead: usize,
    /// For each dead agent: when its verdict turned dead, and what else was silent.
    died: BySlot<Died>,
    /// For each agent whose death is held back: since when.
    held: BySlot<Held>,
    /// For each agent that died in the last hour: how often.
    recent: BySlot<RecentDeaths>,
    silences: Silences,
    mass: Option<MassSilence>,
    /// When the one before a restart was found.
    former_mass: Option<Wall>,
    /// The mass silence does not end before this moment, because its agents are still
    /// falling due.
    mass_until: Tick,
    /// What the next sweep has to say of it.
    told_mass: Option<MassChange>,
    /// Dead agents whose death belongs to a mass silence.
    mass_dead: usize,
    /// Since when the collector has been awake.
    awake_since: Wall,
    /// The numbers of the deaths that are owed.
    deaths: BySlot<u64>,
    /// The numbers of the recoveries that are owed.
    recoveries: BySlot<u64>,
    /// Before this moment the agent gets no other EMERGENCY alert.
    alarms: BySlot<Tick>,
    /// The agents that restarted lately.
    restarts: BySlot<Restarts>,
    outbox: Outbox,
    firing: Firing<ByAgent>,
    /// Rises with every change that is worth saving.
    revision: u64,
    counters: Counters,
}

impl Registry {
    /// A registry that knows nobody.
    pub fn new(rules: Rules) -> Self {
        debug_assert!(rules.max_agents < Slot::MAX as usize, "every agent needs a slot");
        Self {
            rules,
            index: Index::new(),
            agents: Slab::with_capacity(rules.max_agents.min(MOST_RESERVED)),
            queues: DueQueues::default(),
            slots_end: 0,
            by_status: [0; Verdict::ALL.len()],
            by_mode: [0; Mode::ALL.len()],
            told_dead: 0,
            died: BySlot::new(),
            held: BySlot::new(),
            recent: BySlot::new(),
            silences: Silences::new(rules.grace),
            mass: None,
            mass_until: Tick::MIN,
            told_mass: None,
            mass_dead: 0,
            former_mass: None,
            awake_since: Wall::default(),
            deaths: BySlot::new(),
            recoveries: BySlot::new(),
            alarms: BySlot::new(),
            restarts: BySlot::new(),
            outbox: Outbox::new(rules.outbox, 0),
            firing: Firing::new(Repeat::NONE, 0, ByAgent::new()),
            revision: 0,
            counters: Counters::default(),
        }
    }

    /// Passes the verdicts that have fallen due, and forgets the dead agents that
    /// were kept for long enough, in the order of their deadlines. It does at most
    /// `budget` of these steps (at least 1). To call it early or twice does nothing.
    pub fn sweep(&mut self, now: Now, budget: usize) -> Swept {
        debug_assert!(budget > 0, "a sweep with a budget of 0 cannot do anything");
        let mut swept = Swept::default();
        self.end_mass(now);
        while let Some((due, queue, slot)) = self.earliest().filter(|&(due, ..)| due <= now.tick) {
            if swept.steps >= budget {
                swept.more = true;
                break;
            }
            swept.steps += 1;
            self.revision += 1;
            match queue {
                DueQueue::Healthy(_) => swept.changes.push(self.pass(now, slot, Cue::Late, None)),
                DueQueue::Suspect(_) => swept.changes.extend(self.fall_silent(now, slot, due)),
                DueQueue::Held => swept.changes.push(self.hold_no_longer(now, slot, due)),
                DueQueue::Dead | DueQueue::Lingering => {
                    swept.forgotten += 1;
                    self.retire(now, slot);
                }
            }
        }
        swept.mass = self.told_mass.take();
        swept
    }

    /// When the next verdict or the next alert falls due, if no heartbeat comes
    /// before.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.next_verdict().into_iter().chain(self.outbox.next_due()).min()
    }

    /// When the next verdict falls due, or a mass silence ends, if no heartbeat comes
    /// before.
    pub fn next_verdict(&self) -> Option<Tick> {
        self.earliest().map(|(due, ..)| due).into_iter().chain(self.mass_ends()).min()
    }

    /// Forgets an agent, and withdraws the verdicts that were owed about it. Returns
    /// whether the agent was known.
    pub fn forget(&mut self, now: Now, id: &AgentId) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        for seq in [self.deaths.remove(slot), self.recoveries.remove(slot)].into_iter().flatten() {
            self.outbox.withdraw(seq, Dropped::Removed);
        }
        self.remove(now, slot, End::Removed);
        self.revision += 1;
        true
    }

    /// A number that rises with every change that is worth saving.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Counts of what has happened since the start.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What the station must still be told.
    pub const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn slot<'i>(&self, id: impl Into<IdRef<'i>>) -> Option<Slot> {
        self.index.find(&self.agents, id.into())
    }

    /// The earliest deadline, with the due queue and the slot of its agent.
    fn earliest(&self) -> Option<(Tick, DueQueue, Slot)> {
        let due = |queue| {
            let slot = self.queues.first(queue)?;
            let agent = &self.agents[slot as usize];
            let due = match queue {
                DueQueue::Healthy(mode) => agent.last_seen + suspect_after(mode),
                DueQueue::Suspect(mode) => agent.last_seen + dead_after(mode, self.rules.grace),
                DueQueue::Held => match self.held.get(slot) {
                    Some(held) => held.at + self.rules.mass_silence_hold,
                    None => unreachable!("what stands in this due queue is held"),
                },
                DueQueue::Dead => match self.died.get(slot) {
                    Some(died) => died.at + self.rules.retention,
                    None => unreachable!("a dead agent has a moment of death"),
                },
                DueQueue::Lingering => return None,
            };
            Some((due, queue, slot))
        };
        DueQueue::ALL.into_iter().filter_map(due).min_by_key(|&(due, ..)| due)
    }

    /// Gives an agent the verdict that follows from `cue`, and moves it to the due
    /// queue of that verdict. Returns the verdict before.
    fn turn(&mut self, slot: Slot, cue: Cue) -> Verdict {
        let agent = &self.agents[slot as usize];
        let was = agent.status();
        let status = was.after(cue);
        let queue = DueQueue::of(status, agent.mode);
        self.by_status[was as usize] -= 1;
        self.by_status[status as usize] += 1;
        self.queues.move_to(&mut self.agents, slot, queue);
        was
    }

    /// Passes the verdict that follows from a silence.
    fn pass(&mut self, now: Now, slot: Slot, cue: Cue, late: Option<Duration>) -> Change {
        let was = self.turn(slot, cue);
        let agent = &self.agents[slot as usize];
        debug_assert!(
            agent.status() != Verdict::Dead
                || now.tick.since(agent.last_seen) >= dead_after(agent.mode, self.rules.grace),
            "no agent is dead before its silence reaches the deadline"
        );
        Change { was, agent: agent.view(now), dead_for: None, late }
    }

    /// Forgets an agent that was dead for long enough. While a verdict on the agent
    /// is owed, the agent lingers instead.
    fn retire(&mut self, now: Now, slot: Slot) {
        if self.deaths.get(slot).is_none() && self.recoveries.get(slot).is_none() {
            self.remove(now, slot, End::Forgotten);
        } else {
            self.queues.move_to(&mut self.agents, slot, DueQueue::Lingering);
        }
    }

    /// Forgets an agent about which nothing is owed.
    fn remove(&mut self, now: Now, slot: Slot, why: End) {
        debug_assert!(self.deaths.get(slot).is_none() && self.recoveries.get(slot).is_none());
        self.end_conditions(now, slot, why);
        self.queues.leave(&mut self.agents, slot);
        let agent = self.agents.remove(slot as usize);
        self.index.remove(&agent.id, slot);
        self.silences.take_off(agent.silence());
        self.take_dead(slot);
        self.held.remove(slot);
        self.recent.remove(slot);
        self.alarms.remove(slot);
        self.restarts.remove(slot);
        self.by_status[agent.status() as usize] -= 1;
        self.by_mode[agent.mode as usize] -= 1;
        self.told_dead -= usize::from(agent.marks.told_dead());
    }

    fn alert(&mut self, now: Now, slot: Slot, what: What) -> bool {
        let agent = &self.agents[slot as usize];
        let name = agent.name();
        self.outbox.event(now.tick, Event { agent: agent.id.clone(), name, at: now, what })
    }

    fn alert_emergency(&mut self, now: Now, slot: Slot, previous_mode: Option<Mode>) -> bool {
        if self.alarms.get(slot).is_some_and(|&next| now.tick < next) {
            self.outbox.tally_mut().drop_one(Kind::EmergencyMode, Dropped::RateLimited);
            return false;
        }
        let uptime = self.agents[slot as usize].uptime;
        let queued = self.alert(now, slot, What::Emergency { previous_mode, uptime });
        if queued {
            let next = now.tick + EMERGENCY_ALERT_PAUSE;
            self.alarms.insert_among(slot, next, |&other| now.tick < other);
        }
        queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a slab keeps in one slot: an agent, or the number of the next vacant slot.
    enum Entry {
        #[expect(dead_code, reason = "only its size matters")]
        Vacant(usize),
        #[expect(dead_code, reason = "only its size matters")]
        Occupied(Agent),
    }

    #[test]
    fn an_agent_takes_96_bytes() {
        assert_eq!((size_of::<AgentId>(), size_of::<Name>(), size_of::<Links>()), (24, 24, 8));
        assert_eq!(size_of::<Agent>(), 96);
        assert_eq!(size_of::<Entry>(), 96);
    }
}
