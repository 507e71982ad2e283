//! PURE: who is alive. No I/O, no clock, no lock, no log: time comes in as an
//! argument, effects go out as values, so that a test can own both.
//!
//! Agents live in a slab; an index leads from an id to a place in it; lines
//! through the slab ([`crate::lines`]) keep the agents of each mode and verdict
//! in the order in which they fall due. A heartbeat costs one look-up and a
//! move to the end of a line; a sweep costs what falls due, not what there is.

mod index;
mod saved;
mod telling;
mod view;

use std::time::Duration;

use slab::Slab;

use crate::alert::Kind;
use crate::beat::{AgentId, Beat, Mode};
use crate::clock::{Now, Tick, Wall, millis};
use crate::lines::{Line, Lines, Linked, Links, Slot};
use crate::metrics::Histogram;
use crate::outbox::{Dropped, Event, Limits, Outbox, What};
use crate::verdict::{Cue, Status, dead_after, is_restart, suspect_after};

use index::Index;

pub use saved::{Resume, SavedAgent};
pub use view::{AgentView, Filter, Stats, StatsView};

/// An agent's EMERGENCY alerts are at least this far apart.
const EMERGENCY_ALERT_PAUSE: Duration = Duration::from_secs(60);

/// Places for at most this many agents are reserved at the start, so that no
/// heartbeat waits while they move. Reserved is not used: the memory is taken
/// when agents come.
const MOST_RESERVED: usize = 1 << 20;

/// By what the registry judges.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The most agents it knows at once; at least 1.
    pub max_agents: usize,
    /// Slack on top of two intervals before silence is death.
    pub grace: Duration,
    /// How long a dead agent is remembered.
    pub retention: Duration,
    /// Whether the end of a told death is told too.
    pub recovery_alerts: bool,
    /// What bounds the alerts.
    pub outbox: Limits,
}

/// What became of an accepted heartbeat.
#[derive(Debug)]
pub struct Received {
    /// The agent was not known before.
    pub is_new: bool,
    /// The agent was started anew since its last heartbeat.
    pub restarted: bool,
    /// The verdict this heartbeat changed.
    pub change: Option<Change>,
    /// There is something new to tell the station.
    pub news: bool,
}

/// A new agent cannot be taken in: there are as many as allowed. Nothing has
/// been changed, and the known agents go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A verdict that changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// The verdict before.
    pub was: Status,
    /// The agent, with its new verdict.
    pub agent: AgentView,
    /// How long it was dead, when it came back.
    pub dead_for: Option<Duration>,
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// The verdicts that changed, in the order of their deadlines.
    pub changes: Vec<Change>,
    /// How many dead agents were forgotten.
    pub forgotten: usize,
    /// The budget ran out: more is due already.
    pub more: bool,
}

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Accepted heartbeats, by mode.
    pub heartbeats: [u64; Mode::ALL.len()],
    /// Verdicts that turned dead.
    pub deaths: u64,
    /// Dead agents that came back.
    pub recoveries: u64,
    /// Restarts seen.
    pub restarts: u64,
}

/// One agent. A million of them are kept, so every field is worth its bytes.
#[derive(Debug)]
struct Agent {
    id: AgentId,
    /// None where it is the id.
    name: Option<Box<str>>,
    last_seen: Tick,
    last_seen_wall: Wall,
    first_seen_wall: Wall,
    /// When the verdict turned dead, while it is.
    died: Tick,
    /// An EMERGENCY alert before this moment would be one too many.
    next_emergency_alert: Tick,
    uptime: f64,
    /// The number of its death in the outbox, 0 when none is owed.
    death: u64,
    /// The number of its recovery in the outbox, 0 when none is owed.
    recovery: u64,
    links: Links,
    consecutive: u32,
    mode: Mode,
    status: Status,
    /// The station took its death, and has not been told better.
    told_dead: bool,
}

impl Agent {
    fn view(&self, now: Now) -> AgentView {
        AgentView {
            agent_name: self.name.as_ref().map_or_else(|| self.id.to_string(), ToString::to_string),
            agent_uuid: self.id.clone(),
            mode: self.mode,
            uptime_seconds: self.uptime,
            last_seen: self.last_seen_wall,
            healthy: self.status != Status::Dead,
            observation_mode: false,
            consecutive_heartbeats: self.consecutive,
            status: self.status,
            first_seen: self.first_seen_wall,
            silence_ms: millis(now.tick.since(self.last_seen)),
        }
    }
}

impl Linked for Agent {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// Who is alive, and what of it the station has still to be told.
#[derive(Debug)]
pub struct Registry {
    rules: Rules,
    index: Index,
    agents: Slab<Agent>,
    lines: Lines,
    /// No agent's slot has ever been this high.
    slots_end: usize,
    by_status: [usize; Status::ALL.len()],
    by_mode: [usize; Mode::ALL.len()],
    told_dead: usize,
    outbox: Outbox,
    /// Counts what is worth saving.
    revision: u64,
    counters: Counters,
    /// From the deadline of a death to the moment its alert was owed.
    detection_lag: Histogram,
}

impl Registry {
    /// A registry that knows nobody.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            index: Index::new(),
            agents: Slab::with_capacity(rules.max_agents.min(MOST_RESERVED)),
            lines: Lines::default(),
            slots_end: 0,
            by_status: [0; Status::ALL.len()],
            by_mode: [0; Mode::ALL.len()],
            told_dead: 0,
            outbox: Outbox::new(rules.outbox, 0),
            revision: 0,
            counters: Counters::default(),
            detection_lag: Histogram::new(&crate::metrics::FAST),
        }
    }

    /// Takes in a heartbeat.
    ///
    /// # Errors
    /// [`Full`] when the agent is new and there is no room for it.
    pub fn beat(&mut self, now: Now, id: &AgentId, beat: &Beat) -> Result<Received, Full> {
        let received = match self.slot(id) {
            Some(slot) => self.hear(now, slot, beat),
            None => self.welcome(now, id, beat)?,
        };
        self.counters.heartbeats[beat.mode as usize] += 1;
        self.revision += 1;
        Ok(received)
    }

    fn welcome(&mut self, now: Now, id: &AgentId, beat: &Beat) -> Result<Received, Full> {
        if self.agents.len() >= self.rules.max_agents {
            return Err(Full);
        }
        let slot = self.insert(Agent {
            id: id.clone(),
            name: name_beside(id, beat),
            last_seen: now.tick,
            last_seen_wall: now.wall,
            first_seen_wall: now.wall,
            died: now.tick,
            next_emergency_alert: Tick::default(),
            uptime: beat.uptime,
            death: 0,
            recovery: 0,
            links: Links::new(Line::Healthy(beat.mode)),
            consecutive: 1,
            mode: beat.mode,
            status: Status::Healthy,
            told_dead: false,
        });
        let slot = slot.ok_or(Full)?;
        let news = beat.mode == Mode::Emergency && self.alert_emergency(now, slot, None);
        Ok(Received { is_new: true, restarted: false, change: None, news })
    }

    /// Gives an agent a place, in the index and at the end of its line.
    fn insert(&mut self, agent: Agent) -> Option<Slot> {
        // With at most ten million agents (config.rs) a slot always fits.
        let slot = Slot::try_from(self.agents.vacant_key()).ok()?;
        let line = agent.links.line();
        self.by_status[agent.status as usize] += 1;
        self.by_mode[agent.mode as usize] += 1;
        self.told_dead += usize::from(agent.told_dead);
        self.agents.insert(agent);
        self.slots_end = self.slots_end.max(slot as usize + 1);
        self.index.insert(&self.agents, slot);
        self.lines.join(&mut self.agents, slot, line);
        Some(slot)
    }

    fn hear(&mut self, now: Now, slot: Slot, beat: &Beat) -> Received {
        let agent = &mut self.agents[slot as usize];
        // Time in which we were paused counts for the agent all the same.
        let by_wall = Duration::from_millis(now.wall.0.saturating_sub(agent.last_seen_wall.0));
        let elapsed = now.tick.since(agent.last_seen).max(by_wall);
        let restarted = is_restart(agent.uptime, beat.uptime, elapsed);
        let (was_mode, was_uptime) = (agent.mode, agent.uptime);
        if agent.name.as_deref() != beat.name.as_deref() {
            agent.name = name_beside(&agent.id, beat);
        }
        agent.mode = beat.mode;
        agent.uptime = beat.uptime;
        agent.last_seen = now.tick;
        agent.last_seen_wall = now.wall;
        agent.consecutive =
            if restarted || agent.status == Status::Dead { 1 } else { agent.consecutive.saturating_add(1) };
        self.by_mode[was_mode as usize] -= 1;
        self.by_mode[beat.mode as usize] += 1;
        let dead_for = now.tick.since(agent.died);
        let was = self.turn(slot, Cue::Heard);
        let mut news = false;
        if was == Status::Dead {
            self.counters.recoveries += 1;
            news |= self.owe_recovery(now, slot, dead_for);
        }
        if restarted {
            self.counters.restarts += 1;
            let (previous_uptime, uptime, mode) = (was_uptime, beat.uptime, beat.mode);
            news |= self.alert(now, slot, What::Restart { previous_uptime, uptime, mode });
        }
        if beat.mode == Mode::Emergency && was_mode != Mode::Emergency {
            news |= self.alert_emergency(now, slot, Some(was_mode));
        }
        let change = (was != Status::Healthy).then(|| Change {
            was,
            agent: self.agents[slot as usize].view(now),
            dead_for: (was == Status::Dead).then_some(dead_for),
        });
        Received { is_new: false, restarted, change, news }
    }

    /// Passes the verdicts that have fallen due, at most `budget` of them, in
    /// the order of their deadlines. Calling it early or twice does nothing.
    pub fn sweep(&mut self, now: Now, budget: usize) -> Swept {
        let mut swept = Swept::default();
        loop {
            let Some((due, line, slot)) = self.earliest().filter(|&(due, ..)| due <= now.tick) else {
                return swept;
            };
            if swept.changes.len() + swept.forgotten >= budget {
                swept.more = true;
                return swept;
            }
            self.revision += 1;
            match line {
                Line::Healthy(_) => swept.changes.push(self.pass(now, slot, Cue::Late)),
                Line::Suspect(_) => {
                    self.detection_lag.record(now.tick.since(due));
                    self.counters.deaths += 1;
                    swept.changes.push(self.pass(now, slot, Cue::Silent));
                    self.agents[slot as usize].died = now.tick;
                    self.owe_death(now, slot);
                }
                Line::Dead | Line::Lingering => {
                    swept.forgotten += 1;
                    self.retire(slot);
                }
            }
        }
    }

    /// When the next verdict or the next alert falls due, if nothing is heard
    /// before.
    pub fn next_deadline(&self) -> Option<Tick> {
        let verdict = self.earliest().map(|(due, ..)| due);
        verdict.into_iter().chain(self.outbox.next_due()).min()
    }

    /// Forgets an agent, with whatever was owed about it. Returns whether it
    /// was known.
    pub fn forget(&mut self, id: &AgentId) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        let agent = &self.agents[slot as usize];
        for seq in [agent.death, agent.recovery] {
            self.outbox.withdraw(seq, Dropped::Removed);
        }
        self.remove(slot);
        self.revision += 1;
        true
    }

    /// Rises with everything that is worth saving.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// What has happened so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How late deaths were found.
    pub const fn detection_lag(&self) -> &Histogram {
        &self.detection_lag
    }

    /// What the station has still to be told.
    pub const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Checks that everything counted or linked is so; for tests. It looks at
    /// every agent.
    ///
    /// # Panics
    /// When it is not.
    pub fn audit(&self) {
        assert_eq!(self.index.len(), self.agents.len());
        assert!(self.agents.len() <= self.rules.max_agents);
        self.outbox.audit();
        let (mut by_status, mut by_mode) = ([0; Status::ALL.len()], [0; Mode::ALL.len()]);
        let (mut told_dead, mut owed) = (0, 0);
        for (slot, agent) in &self.agents {
            assert_eq!(self.slot(&agent.id).map(|slot| slot as usize), Some(slot));
            by_status[agent.status as usize] += 1;
            by_mode[agent.mode as usize] += 1;
            told_dead += usize::from(agent.told_dead);
            owed += usize::from(agent.death != 0) + usize::from(agent.recovery != 0);
            assert!(agent.death == 0 || agent.status == Status::Dead);
            let line = match agent.status {
                Status::Healthy => vec![Line::Healthy(agent.mode)],
                Status::Suspect => vec![Line::Suspect(agent.mode)],
                Status::Dead => vec![Line::Dead, Line::Lingering],
            };
            assert!(line.contains(&agent.links.line()));
        }
        assert_eq!((by_status, by_mode), (self.by_status, self.by_mode));
        assert_eq!((told_dead, owed), (self.told_dead, self.outbox.owed()));
    }

    fn slot(&self, id: &AgentId) -> Option<Slot> {
        self.index.find(&self.agents, id)
    }

    /// The earliest deadline of a verdict, and whose it is.
    fn earliest(&self) -> Option<(Tick, Line, Slot)> {
        let due = |line| {
            let slot = self.lines.first(line)?;
            let agent = &self.agents[slot as usize];
            let due = match line {
                Line::Healthy(mode) => agent.last_seen + suspect_after(mode),
                Line::Suspect(mode) => agent.last_seen + dead_after(mode, self.rules.grace),
                Line::Dead => agent.died + self.rules.retention,
                Line::Lingering => return None,
            };
            Some((due, line, slot))
        };
        Line::ALL.into_iter().filter_map(due).min_by_key(|&(due, ..)| due)
    }

    /// Gives an agent the verdict that follows from `cue` and the place in
    /// line that goes with it. Returns the verdict before.
    fn turn(&mut self, slot: Slot, cue: Cue) -> Status {
        let agent = &mut self.agents[slot as usize];
        let was = agent.status;
        agent.status = was.after(cue);
        let line = match agent.status {
            Status::Healthy => Line::Healthy(agent.mode),
            Status::Suspect => Line::Suspect(agent.mode),
            Status::Dead => Line::Dead,
        };
        self.by_status[was as usize] -= 1;
        self.by_status[agent.status as usize] += 1;
        self.lines.move_to(&mut self.agents, slot, line);
        was
    }

    fn pass(&mut self, now: Now, slot: Slot, cue: Cue) -> Change {
        let was = self.turn(slot, cue);
        Change { was, agent: self.agents[slot as usize].view(now), dead_for: None }
    }

    /// Forgets an agent that was dead for long enough, or lets it linger while
    /// its death is still owed.
    fn retire(&mut self, slot: Slot) {
        let agent = &self.agents[slot as usize];
        if agent.death == 0 && agent.recovery == 0 {
            self.remove(slot);
        } else {
            self.lines.move_to(&mut self.agents, slot, Line::Lingering);
        }
    }

    fn remove(&mut self, slot: Slot) {
        self.lines.leave(&mut self.agents, slot);
        let agent = self.agents.remove(slot as usize);
        self.index.remove(&agent.id, slot);
        self.by_status[agent.status as usize] -= 1;
        self.by_mode[agent.mode as usize] -= 1;
        self.told_dead -= usize::from(agent.told_dead);
    }

    fn alert(&mut self, now: Now, slot: Slot, what: What) -> bool {
        let agent = &self.agents[slot as usize];
        let name = agent.view(now).agent_name;
        self.outbox.event(now.tick, Event { agent: agent.id.clone(), name, at: now.wall, what })
    }

    fn alert_emergency(&mut self, now: Now, slot: Slot, previous_mode: Option<Mode>) -> bool {
        let agent = &self.agents[slot as usize];
        if now.tick < agent.next_emergency_alert {
            self.outbox.tally_mut().drop_one(Kind::EmergencyMode, Dropped::RateLimited);
            return false;
        }
        let uptime = agent.uptime;
        let queued = self.alert(now, slot, What::Emergency { previous_mode, uptime });
        if queued {
            self.agents[slot as usize].next_emergency_alert = now.tick + EMERGENCY_ALERT_PAUSE;
        }
        queued
    }
}

/// The name worth keeping: none where it is missing or is the id itself.
fn name_beside(id: &AgentId, beat: &Beat) -> Option<Box<str>> {
    beat.name.clone().filter(|name| **name != *id.to_string())
}
