//! What a heartbeat changes: of an agent that is new, and of one that is known.

use core::net::IpAddr;
use std::time::Duration;

use super::{Agent, Change, Full, Marks, Name, Received, Registry, has_leapt};
use crate::agent_id::{AgentId, IdRef};
use crate::due_queues::{DueQueue, Links, Slot};
use crate::heartbeat::{Heartbeat, Mode};
use crate::time::{Now, Tick};
use crate::verdict::{Cue, Verdict, is_restart};

impl Registry {
    /// Takes in a heartbeat from an unknown address: see [`beat_from`](Self::beat_from).
    ///
    /// # Errors
    /// [`Full`] when the agent is new and there is no room for it.
    pub fn beat<'i>(
        &mut self,
        now: Now,
        id: impl Into<IdRef<'i>>,
        beat: &Heartbeat<'_>,
    ) -> Result<Received, Full> {
        self.beat_from(now, id, beat, None)
    }

    /// Takes in a heartbeat. The address is kept only while two agents seem to use the id.
    ///
    /// # Errors
    /// [`Full`] when the agent is new and there is no room for it.
    pub fn beat_from<'i>(
        &mut self,
        now: Now,
        id: impl Into<IdRef<'i>>,
        beat: &Heartbeat<'_>,
        from: Option<IpAddr>,
    ) -> Result<Received, Full> {
        let id = id.into();
        let received = match self.slot(id) {
            Some(slot) => self.hear(now, slot, beat, from),
            None => self.welcome(now, id, beat)?,
        };
        self.counters.heartbeats[beat.mode as usize] += 1;
        self.revision += 1;
        Ok(received)
    }

    fn welcome(&mut self, now: Now, id: IdRef<'_>, beat: &Heartbeat<'_>) -> Result<Received, Full> {
        if self.agents.len() >= self.rules.max_agents {
            return Err(Full);
        }
        let id = AgentId::from(id);
        let slot = self.insert(
            now.tick,
            Agent {
                name: Name::new(&id, beat.name.as_deref()),
                id,
                last_seen: now.tick,
                last_seen_wall: now.wall,
                first_seen_wall: now.wall,
                uptime: beat.uptime,
                links: Links::NONE,
                consecutive: 1,
                queue: DueQueue::Healthy(beat.mode),
                mode: beat.mode,
                marks: Marks::new(false, false),
            },
        );
        let news = beat.mode == Mode::Emergency && self.alert_emergency(now, slot, None);
        self.note_heard(now, slot, None);
        Ok(Received { slot, is_new: true, restarted: false, change: None, news, used_twice: None })
    }

    /// Gives an agent a slot, an entry in the index, and a place at the end of its due
    /// queue.
    pub(super) fn insert(&mut self, now: Tick, agent: Agent) -> Slot {
        let Ok(slot) = Slot::try_from(self.agents.vacant_key()) else {
            unreachable!("Rules::max_agents is less than the number of slots");
        };
        let queue = agent.queue;
        self.by_status[agent.status() as usize] += 1;
        self.by_mode[agent.mode as usize] += 1;
        self.told_dead += usize::from(agent.marks.told_dead());
        self.silences.add(now, agent.silence());
        self.agents.insert(agent);
        self.slots_end = self.slots_end.max(slot as usize + 1);
        self.index.insert(&self.agents, slot);
        self.queues.join(&mut self.agents, slot, queue);
        slot
    }

    fn hear(&mut self, now: Now, slot: Slot, beat: &Heartbeat<'_>, from: Option<IpAddr>) -> Received {
        let agent = &mut self.agents[slot as usize];
        // The agent went on running while the collector was paused, so that time counts.
        let by_wall = Duration::from_millis(now.wall.0.saturating_sub(agent.last_seen_wall.0));
        let elapsed = now.tick.since(agent.last_seen).max(by_wall);
        let restarted = is_restart(agent.uptime, beat.uptime, elapsed);
        let (was_mode, was_uptime) = (agent.mode, agent.uptime);
        self.silences.take_off(agent.silence());
        self.silences.add(now.tick, (beat.mode, now.tick, false));
        if agent.queue == DueQueue::Held {
            self.held.remove(slot);
        }
        if !agent.name.is(&agent.id, beat.name.as_deref()) {
            agent.name = Name::new(&agent.id, beat.name.as_deref());
        }
        agent.mode = beat.mode;
        agent.uptime = beat.uptime;
        agent.last_seen = now.tick;
        agent.last_seen_wall = now.wall;
        agent.marks = Marks::new(agent.marks.told_dead(), false);
        agent.consecutive = if restarted || agent.status() == Verdict::Dead {
            1
        } else {
            agent.consecutive.saturating_add(1)
        };
        self.by_mode[was_mode as usize] -= 1;
        self.by_mode[beat.mode as usize] += 1;
        let was = self.turn(slot, Cue::Heard);
        self.note_heard(now, slot, Some((was, was_mode)));
        let (mut news, mut dead_for, mut used_twice) = (false, None, None);
        if was == Verdict::Dead {
            let died = self.take_dead(slot);
            debug_assert!(died.is_some(), "a dead agent has a moment of death");
            let time = died.map_or(Duration::ZERO, |died| now.tick.since(died.at));
            dead_for = Some(time);
            self.counters.recoveries += 1;
            news |= self.owe_recovery(now, slot, time);
        }
        if restarted {
            self.counters.restarts += 1;
            let (is_queued, twice) = self.alert_restart(now, slot, was_uptime, from);
            news |= is_queued;
            used_twice = twice;
        } else if has_leapt(was_uptime, beat.uptime, elapsed) {
            self.leapt(now, slot, from);
        }
        if beat.mode == Mode::Emergency && was_mode != Mode::Emergency {
            news |= self.alert_emergency(now, slot, Some(was_mode));
        }
        let change = (was != Verdict::Healthy).then(|| Change {
            was,
            agent: self.agents[slot as usize].view(now),
            dead_for,
            late: None,
        });
        Received { slot, is_new: false, restarted, change, news, used_twice }
    }
}
