//! What survives a restart: each agent with its verdict and what the station
//! knows of it, and the events that wait.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Agent, Registry};
use crate::alert::VerdictKind;
use crate::beat::{AgentId, Mode};
use crate::clock::{Now, Tick, Wall, millis};
use crate::lines::{Line, Links};
use crate::outbox::{SavedEvent, SavedVerdict, Verdict};
use crate::verdict::Status;

/// An agent as it is saved. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedAgent {
    id: AgentId,
    name: Option<Box<str>>,
    mode: Mode,
    status: Status,
    uptime: f64,
    first_seen: u64,
    last_seen: u64,
    silence: u64,
    consecutive: u32,
    dead_for: u64,
    emergency_alert_in: u64,
    told_dead: bool,
    death: Option<SavedVerdict>,
    recovery: Option<SavedVerdict>,
}

/// How the time between saving and restoring counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The process went on in another image: silence goes on as well.
    Continued,
    /// Nobody was there to hear: everyone gets a full deadline from now.
    Restarted,
}

impl Registry {
    /// Adds the agents among the next `steps` places, from place `from` on, to
    /// `out`. Returns where to go on, none at the end.
    pub fn save(&self, now: Now, from: usize, steps: usize, out: &mut Vec<SavedAgent>) -> Option<usize> {
        let end = self.slots_end.min(from + steps);
        let agents = (from..end).filter_map(|slot| self.agents.get(slot));
        out.extend(agents.map(|agent| self.saved(now.tick, agent)));
        (end < self.slots_end).then_some(end)
    }

    fn saved(&self, now: Tick, agent: &Agent) -> SavedAgent {
        let dead = agent.status == Status::Dead;
        SavedAgent {
            id: agent.id.clone(),
            name: agent.name.clone(),
            mode: agent.mode,
            status: agent.status,
            uptime: agent.uptime,
            first_seen: agent.first_seen_wall.0,
            last_seen: agent.last_seen_wall.0,
            silence: millis(now.since(agent.last_seen)),
            consecutive: agent.consecutive,
            dead_for: if dead { millis(now.since(agent.died)) } else { 0 },
            emergency_alert_in: millis(agent.next_emergency_alert.since(now)),
            told_dead: agent.told_dead,
            death: self.outbox.saved(agent.death),
            recovery: self.outbox.saved(agent.recovery),
        }
    }

    /// Fills an empty registry with what was saved. Returns how many agents
    /// found no room.
    pub fn restore(&mut self, now: Now, mut agents: Vec<SavedAgent>, resume: Resume) -> usize {
        // The lines want those first who fall due first.
        let waited = |agent: &SavedAgent| match (agent.status, resume) {
            (Status::Dead, _) => agent.dead_for,
            (Status::Healthy | Status::Suspect, Resume::Continued) => agent.silence,
            (Status::Healthy | Status::Suspect, Resume::Restarted) => 0,
        };
        agents.sort_by_key(|agent| std::cmp::Reverse(waited(agent)));
        let no_room = agents.len().saturating_sub(self.rules.max_agents);
        agents.truncate(self.rules.max_agents);
        for agent in agents {
            self.restore_one(now, agent, resume);
        }
        no_room
    }

    fn restore_one(&mut self, now: Now, saved: SavedAgent, resume: Resume) {
        if self.slot(&saved.id).is_some() {
            return;
        }
        let ago = |time| now.tick - Duration::from_millis(time);
        let line = match saved.status {
            Status::Healthy => Line::Healthy(saved.mode),
            Status::Suspect => Line::Suspect(saved.mode),
            Status::Dead => Line::Dead,
        };
        let slot = self.insert(Agent {
            id: saved.id,
            name: saved.name,
            last_seen: match (resume, saved.status) {
                (Resume::Continued, _) | (Resume::Restarted, Status::Dead) => ago(saved.silence),
                (Resume::Restarted, Status::Healthy | Status::Suspect) => now.tick,
            },
            last_seen_wall: Wall(saved.last_seen),
            first_seen_wall: Wall(saved.first_seen),
            died: ago(saved.dead_for),
            next_emergency_alert: now.tick + Duration::from_millis(saved.emergency_alert_in),
            uptime: saved.uptime,
            death: 0,
            recovery: 0,
            links: Links::new(line),
            consecutive: saved.consecutive,
            mode: saved.mode,
            status: saved.status,
            told_dead: saved.told_dead,
        });
        let Some(slot) = slot else { return };
        let agent = &mut self.agents[slot as usize];
        if let Some(recovery) = saved.recovery {
            let kind = VerdictKind::Recovery { dead_for: Duration::from_millis(recovery.span) };
            let verdict = Verdict { agent: &agent.id, slot, kind, at: Wall(recovery.at), held: false };
            agent.recovery = self.outbox.owe_again(&verdict, recovery.seq);
        }
        if let Some(death) = saved.death.filter(|_| saved.status == Status::Dead) {
            let (kind, held) = (VerdictKind::Death, agent.recovery != 0);
            let verdict = Verdict { agent: &agent.id, slot, kind, at: Wall(death.at), held };
            agent.death = self.outbox.owe_again(&verdict, death.seq);
        }
    }

    /// The events that wait, to be saved.
    pub fn save_events(&self, now: Now) -> Vec<SavedEvent> {
        self.outbox.save_events(now.tick)
    }

    /// Queues the events that were saved, and goes on counting from `seq`.
    pub fn restore_events(&mut self, now: Now, seq: u64, events: Vec<SavedEvent>) {
        self.outbox.restore_events(now.tick, seq, events);
    }
}
