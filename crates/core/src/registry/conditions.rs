//! What Alertmanagers are told of agents: each death, and each EMERGENCY.

use serde::{Deserialize, Serialize};

use super::by_slot::BySlot;
use super::{Agent, Registry};
use crate::agent_id::AgentId;
use crate::due_queues::Slot;
use crate::firing::{self, AlertName, Concerned, End, Firing, Numbers, Repeat};
use crate::heartbeat::Mode;
use crate::time::{Now, Wall};
use crate::verdict::Verdict;

/// The agent of a condition, as it was when the condition began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The agent's id.
    pub id: AgentId,
    /// The agent's name; `None` if the id stands for it.
    pub name: Option<Box<str>>,
    /// The mode that the agent had announced.
    pub mode: Mode,
}

/// A condition of an agent, or of all of them.
pub type Condition = firing::Condition<Option<Subject>>;

/// Which condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The agent in this slot is dead.
    Dead(Slot),
    /// The agent in this slot is in EMERGENCY.
    Emergency(Slot),
    /// A mass silence lasts.
    MassSilence,
}

/// The numbers of the agents' conditions.
#[derive(Debug)]
pub struct ByAgent {
    dead: BySlot<u64>,
    emergency: BySlot<u64>,
    mass_silence: Option<u64>,
}

impl ByAgent {
    /// No condition holds.
    pub(super) fn new() -> Self {
        Self { dead: BySlot::new(), emergency: BySlot::new(), mass_silence: None }
    }
}

impl Numbers for ByAgent {
    type Key = Key;
    /// A mass silence concerns no single agent.
    type Subject = Option<Subject>;

    fn get(&self, key: &Key) -> Option<u64> {
        match *key {
            Key::Dead(slot) => self.dead.get(slot).copied(),
            Key::Emergency(slot) => self.emergency.get(slot).copied(),
            Key::MassSilence => self.mass_silence,
        }
    }

    fn insert(&mut self, key: &Key, number: u64) {
        match *key {
            Key::Dead(slot) => self.dead.insert(slot, number),
            Key::Emergency(slot) => self.emergency.insert(slot, number),
            Key::MassSilence => self.mass_silence = Some(number),
        }
    }

    fn remove(&mut self, key: &Key) -> Option<u64> {
        match *key {
            Key::Dead(slot) => self.dead.remove(slot),
            Key::Emergency(slot) => self.emergency.remove(slot),
            Key::MassSilence => self.mass_silence.take(),
        }
    }
}

/// What an alert says of the agent, or of all agents of this cluster.
pub fn concerned<'a>(cluster: &'a str, subject: Option<&'a Subject>) -> Concerned<'a> {
    let agent = subject.map(|subject| firing::Agent {
        id: subject.id.to_string().into(),
        name: subject.name.as_deref(),
        mode: Some(subject.mode.as_str()),
    });
    Concerned { cluster: Some(cluster), agent, machine: None, worker: None }
}

impl Registry {
    /// Lets Alertmanagers be told what is true. Call it while the registry is empty:
    /// what agents did before is not told.
    pub fn tell_alertmanagers(&mut self, repeat: Repeat) {
        debug_assert_eq!(self.agents.len(), 0);
        self.firing = Firing::new(repeat, self.rules.max_agents, ByAgent::new());
    }

    /// What is true and told to Alertmanagers.
    pub const fn firing(&self) -> &Firing<ByAgent> {
        &self.firing
    }

    /// The same, to take posts from it and to settle them.
    pub const fn firing_mut(&mut self) -> &mut Firing<ByAgent> {
        &mut self.firing
    }

    /// Whether a mass silence lasts, and since when. To say it again changes nothing.
    /// It is not saved: after a restart, say it again.
    pub fn tell_mass_silence(&mut self, now: Now, since: Option<Wall>) {
        if !self.firing.is_on() {
            return;
        }
        match since {
            Some(since) => {
                let alert = AlertName::MassSilence;
                let condition = Condition { alert, subject: None, since, ended: None };
                self.firing.begin(now, Key::MassSilence, condition);
            }
            None => self.firing.end(now, &Key::MassSilence, End::Over),
        }
    }

    /// The ended conditions in the next `steps`, as they are saved, from number `from`
    /// on. Returns the number at which to go on, and `None` at the end.
    pub fn save_ended(&self, from: u64, steps: usize, out: &mut Vec<Condition>) -> Option<u64> {
        self.firing.save_ended(from, steps, out)
    }

    /// Takes back saved conditions that have ended. Call it before
    /// [`restore`](Self::restore): what still holds is newer.
    pub fn restore_ended(&mut self, now: Now, ended: Vec<Condition>) {
        for condition in ended {
            // Its agent may be gone, so it has no slot. No agent has this one.
            let slot = Slot::MAX;
            let key = if condition.alert == AlertName::AgentEmergency {
                Key::Emergency(slot)
            } else {
                Key::Dead(slot)
            };
            self.firing.resume_ended(now, key, condition);
        }
    }

    /// An agent's verdict has just turned dead.
    pub(super) fn begin_death(&mut self, now: Now, slot: Slot) {
        if self.firing.is_on() {
            let condition = self.agents[slot as usize].condition(AlertName::AgentDead);
            self.firing.begin(now, Key::Dead(slot), condition);
        }
    }

    /// An agent was heard: it is not dead, and its mode may have changed.
    pub(super) fn note_heard(&mut self, now: Now, slot: Slot, was: Option<(Verdict, Mode)>) {
        if !self.firing.is_on() {
            return;
        }
        if was.is_some_and(|(verdict, _)| verdict == Verdict::Dead) {
            self.firing.end(now, &Key::Dead(slot), End::Heard);
        }
        let agent = &self.agents[slot as usize];
        let was_emergency = was.is_some_and(|(_, mode)| mode == Mode::Emergency);
        match (was_emergency, agent.mode == Mode::Emergency) {
            (false, true) => {
                self.firing.begin(now, Key::Emergency(slot), agent.condition(AlertName::AgentEmergency));
            }
            (true, false) => self.firing.end(now, &Key::Emergency(slot), End::Heard),
            (true, true) | (false, false) => {}
        }
    }

    /// An agent is no longer known.
    pub(super) fn end_conditions(&mut self, now: Now, slot: Slot, why: End) {
        self.firing.end(now, &Key::Dead(slot), why);
        self.firing.end(now, &Key::Emergency(slot), why);
    }

    /// The conditions of an agent, as they are saved.
    pub(super) fn saved_conditions(&self, slot: Slot) -> Vec<Condition> {
        let keys = [Key::Dead(slot), Key::Emergency(slot)];
        keys.into_iter().filter_map(|key| self.firing.condition(&key).cloned()).collect()
    }

    /// Takes back the conditions of an agent. A state that was saved without
    /// Alertmanagers has none, so they are made from the agent as it is.
    pub(super) fn restore_conditions(&mut self, now: Now, slot: Slot, mut saved: Vec<Condition>) {
        let agent = &self.agents[slot as usize];
        let (is_dead, is_emergency) = (agent.status() == Verdict::Dead, agent.mode == Mode::Emergency);
        let holding = [
            (is_dead, AlertName::AgentDead, Key::Dead(slot)),
            (is_emergency, AlertName::AgentEmergency, Key::Emergency(slot)),
        ];
        for (_, alert, key) in holding.into_iter().filter(|&(holds, ..)| holds) {
            let place = saved.iter().position(|saved| saved.alert == alert && saved.ended.is_none());
            let condition = match place {
                Some(place) => saved.swap_remove(place),
                None => agent.condition(alert),
            };
            self.firing.resume(now, key, condition);
        }
    }
}

impl Agent {
    /// A condition of the agent that begins with its last heartbeat.
    fn condition(&self, alert: AlertName) -> Condition {
        let subject = Subject { id: self.id.clone(), name: self.name.get().map(Into::into), mode: self.mode };
        Condition { alert, subject: Some(subject), since: self.last_seen_wall, ended: None }
    }
}
