//! What survives a restart: each agent, its verdict, what the station knows of the
//! agent, and the events that wait.
//!
//! A missing field gets the value that accuses no agent. Only the id and the mode
//! are required: without a mode there is no deadline.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::conditions::Condition;
use super::mass::{Around, Died, Held, RecentDeaths};
use super::{Agent, BySlot, Marks, Name, Registry, Restarts};
use crate::agent_id::AgentId;
use crate::alert::VerdictKind;
use crate::due_queues::{DueQueue, Links, Slot};
use crate::heartbeat::Mode;
use crate::outbox::{SavedEvent, SavedVerdict, ToOwe};
use crate::time::{Now, Tick, Wall, millis};
use crate::verdict::{Verdict, dead_after};

/// An agent as it is saved. The uptime is in seconds, as in a heartbeat. All other
/// times are in milliseconds: `first_seen` and `last_seen` since 1970, `silence` and
/// `dead_for` up to the moment of saving, `…_alert_in` from that moment on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedAgent {
    /// Required.
    id: AgentId,
    /// `None` if the id stands for it.
    #[serde(default)]
    name: Option<Box<str>>,
    /// Required.
    mode: Mode,
    #[serde(default = "healthy")]
    status: Verdict,
    #[serde(default)]
    uptime: f64,
    /// If it is missing: the moment of restoring.
    #[serde(default)]
    first_seen: Option<u64>,
    /// If it is missing: the moment of restoring.
    #[serde(default)]
    last_seen: Option<u64>,
    #[serde(default)]
    silence: u64,
    #[serde(default)]
    consecutive: u32,
    #[serde(default)]
    dead_for: u64,
    /// What else was silent when its deadline passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    around: Option<Around>,
    /// If its death is held back: for how long it has been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_for: Option<u64>,
    /// How often it died in the last hour, in steps of five minutes, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recent_deaths: Vec<u8>,
    /// For the death: since when the collector was awake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    awake_since: Option<u64>,
    /// Since its last heartbeat a kill has given it a full deadline ([`Resume::Killed`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    was_spared: bool,
    #[serde(default)]
    emergency_alert_in: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    restart_alert_in: u64,
    #[serde(default)]
    told_dead: bool,
    #[serde(default)]
    death: Option<SavedVerdict>,
    #[serde(default)]
    recovery: Option<SavedVerdict>,
    /// What Alertmanagers are told of it; nothing where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    firing: Vec<Condition>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(time: &u64) -> bool {
    *time == 0
}

impl SavedAgent {
    /// Gives an agent that may have been heard after this was saved a full deadline.
    const fn spare(&mut self) {
        let is_waiting = !matches!(self.status, Verdict::Dead) && self.held_for.is_none();
        if is_waiting && !self.was_spared {
            (self.silence, self.was_spared) = (0, true);
        }
    }

    /// No death is held back before its deadline, which may be a later one under
    /// another grace.
    fn hold_no_longer_than_due(&mut self, now: Tick, grace: Option<Duration>) {
        // No moment is earlier than Tick::MIN.
        let silence = now.since(now - Duration::from_millis(self.silence));
        let longest = silence.checked_sub(dead_after(self.mode, grace)).map(millis);
        self.held_for = self.held_for.zip(longest).map(|(held_for, longest)| held_for.min(longest));
    }
}

const fn healthy() -> Verdict {
    Verdict::Healthy
}

/// What happened between saving and restoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// An in-place upgrade. No heartbeat was missed, and the silence of every agent
    /// goes on.
    Continued,
    /// A restart. The collector saved its state as the last thing before it stopped, so
    /// the silence goes on as it was then. The time without a collector does not count.
    Stopped,
    /// A restart after a kill. The collector may have heard agents after it saved its
    /// state, so every agent that is not dead gets a full deadline, but only once until
    /// its next heartbeat.
    Killed,
}

impl Registry {
    /// Adds the agents in the next `steps` slots, from slot `from` on, to `out`.
    /// Returns the slot at which to go on, and `None` at the end.
    pub fn save(&self, now: Now, from: usize, steps: usize, out: &mut Vec<SavedAgent>) -> Option<usize> {
        let end = self.slots_end.min(from + steps);
        let slots = (from..end).filter_map(|place| Slot::try_from(place).ok());
        let agents = slots.filter_map(|slot| Some((slot, self.agents.get(slot as usize)?)));
        out.extend(agents.map(|agent| self.saved(now.tick, agent)));
        (end < self.slots_end).then_some(end)
    }

    fn saved(&self, now: Tick, (slot, agent): (Slot, &Agent)) -> SavedAgent {
        let alarm = self.alarms.get(slot);
        let (died, held) = (self.died.get(slot), self.held.get(slot));
        let recent = self.recent.get(slot).map(|recent| recent.counts(now));
        let owed = |numbers: &BySlot<u64>| numbers.get(slot).and_then(|&seq| self.outbox.saved(seq));
        SavedAgent {
            id: agent.id.clone(),
            name: agent.name.get().map(Into::into),
            mode: agent.mode,
            status: agent.status(),
            uptime: agent.uptime,
            first_seen: Some(agent.first_seen_wall.0),
            last_seen: Some(agent.last_seen_wall.0),
            silence: millis(now.since(agent.last_seen)),
            consecutive: agent.consecutive,
            dead_for: died.map_or(0, |died| millis(now.since(died.at))),
            around: died.map(|died| died.around).or(held.map(|held| held.around)),
            held_for: held.map(|held| millis(now.since(held.at))),
            recent_deaths: recent
                .filter(|counts| counts.iter().any(|&count| count > 0))
                .map_or_else(Vec::new, Into::into),
            awake_since: died.map(|died| died.awake_since.0),
            was_spared: agent.marks.was_spared(),
            emergency_alert_in: alarm.map_or(0, |alarm| millis(alarm.since(now))),
            restart_alert_in: self.restarts.get(slot).map_or(0, |restarts| restarts.pause_ms(now)),
            told_dead: agent.marks.told_dead(),
            death: owed(&self.deaths),
            recovery: owed(&self.recoveries),
            firing: self.saved_conditions(slot),
        }
    }

    /// Fills an empty registry with saved agents. Returns how many agents found no
    /// room.
    pub fn restore(&mut self, now: Now, mut agents: Vec<SavedAgent>, resume: Resume) -> usize {
        let waited = |agent: &SavedAgent| match (agent.status, agent.held_for) {
            (Verdict::Dead, _) => agent.dead_for,
            (Verdict::Suspect, Some(held_for)) => held_for,
            (Verdict::Healthy | Verdict::Suspect, _) => agent.silence,
        };
        if resume == Resume::Killed {
            agents.iter_mut().for_each(SavedAgent::spare);
        }
        let grace = self.rules.grace;
        for agent in &mut agents {
            agent.hold_no_longer_than_due(now.tick, grace);
        }
        // The agent that falls due first must join its due queue first.
        agents.sort_by_key(|agent| std::cmp::Reverse(waited(agent)));
        let no_room = agents.len().saturating_sub(self.rules.max_agents);
        agents.truncate(self.rules.max_agents);
        for agent in agents {
            self.restore_one(now, agent);
        }
        self.resume_mass(now);
        no_room
    }

    fn restore_one(&mut self, now: Now, saved: SavedAgent) {
        if self.slot(&saved.id).is_some() {
            return;
        }
        let ago = |time| now.tick - Duration::from_millis(time);
        let wall = |saved: Option<u64>| saved.map_or(now.wall, Wall);
        let held = saved.held_for.zip(saved.around).filter(|_| saved.status == Verdict::Suspect);
        let slot = self.insert(
            now.tick,
            Agent {
                name: Name::new(&saved.id, saved.name.as_deref()),
                id: saved.id,
                last_seen: ago(saved.silence),
                last_seen_wall: wall(saved.last_seen),
                first_seen_wall: wall(saved.first_seen),
                uptime: saved.uptime,
                links: Links::NONE,
                consecutive: saved.consecutive,
                queue: if held.is_some() { DueQueue::Held } else { DueQueue::of(saved.status, saved.mode) },
                mode: saved.mode,
                marks: Marks::new(saved.told_dead, saved.was_spared),
            },
        );
        if saved.status == Verdict::Dead {
            // Who wrote the file may not have known what else was silent.
            let around = saved.around.unwrap_or(Around { together: 1, known: 1, mass: false });
            let recent: u32 = saved.recent_deaths.iter().copied().map(u32::from).sum();
            let awake_since = saved.awake_since.map_or(now.wall, Wall);
            let died = Died { at: ago(saved.dead_for), around, last_hour: recent.max(1), awake_since };
            self.put_dead(slot, died);
        }
        if let Some((held_for, around)) = held {
            self.held.insert(slot, Held { at: ago(held_for), around });
        }
        if !saved.recent_deaths.is_empty() {
            self.recent.insert(slot, RecentDeaths::restored(now.tick, &saved.recent_deaths));
        }
        if saved.emergency_alert_in > 0 {
            self.alarms.insert(slot, now.tick + Duration::from_millis(saved.emergency_alert_in));
        }
        if saved.restart_alert_in > 0 {
            let next = now.tick + Duration::from_millis(saved.restart_alert_in);
            self.restarts.insert(slot, Restarts::new(next));
        }
        self.restore_conditions(now, slot, saved.firing);
        let agent = &self.agents[slot as usize].id;
        if let Some(recovery) = saved.recovery {
            let kind = VerdictKind::Recovery { dead_for: Duration::from_millis(recovery.span) };
            let verdict =
                ToOwe { agent, slot, kind, at: Now { tick: now.tick, wall: Wall(recovery.at) }, held: false };
            self.recoveries.insert(slot, self.outbox.owe_again(&verdict, recovery.seq));
        }
        if let Some(death) = saved.death.filter(|_| saved.status == Verdict::Dead) {
            let (kind, held) = (VerdictKind::Death, saved.recovery.is_some());
            let verdict = ToOwe {
                agent,
                slot,
                kind,
                at: Now { tick: ago(saved.dead_for), wall: Wall(death.at) },
                held,
            };
            self.deaths.insert(slot, self.outbox.owe_again(&verdict, death.seq));
        }
    }

    /// The events that wait, as they are saved.
    pub fn save_events(&self, now: Now) -> Vec<SavedEvent> {
        self.outbox.save_events(now.tick)
    }

    /// Queues the saved events, and numbers new alerts from `seq` on.
    pub fn restore_events(&mut self, now: Now, seq: u64, events: Vec<SavedEvent>) {
        self.outbox.restore_events(now.tick, seq, events);
    }
}
