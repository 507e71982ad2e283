//! What Alertmanagers are told of agents: each death, and each EMERGENCY.

use super::{Agent, Registry};
use crate::due_queues::Slot;
use crate::firing::{AlertName, Condition, End, Firing, Key, Repeat, Subject};
use crate::heartbeat::Mode;
use crate::time::{Now, Wall};
use crate::verdict::Verdict;

impl Registry {
    /// Lets Alertmanagers be told what is true. Call it while the registry is empty:
    /// what agents did before is not told.
    pub fn tell_alertmanagers(&mut self, repeat: Repeat) {
        debug_assert_eq!(self.agents.len(), 0);
        self.firing = Firing::new(repeat, self.rules.max_agents);
    }

    /// What is true and told to Alertmanagers.
    pub const fn firing(&self) -> &Firing {
        &self.firing
    }

    /// The same, to take posts from it and to settle them.
    pub const fn firing_mut(&mut self) -> &mut Firing {
        &mut self.firing
    }

    /// Whether a mass silence lasts, and since when. To say it again changes nothing.
    /// It is not saved: after a restart, say it again.
    pub fn tell_mass_silence(&mut self, now: Now, since: Option<Wall>) {
        match since {
            Some(since) => self.firing.begin(now, Key::MassSilence, None, since),
            None => self.firing.end(now, Key::MassSilence, End::Over),
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
            self.firing.resume_ended(now, condition);
        }
    }

    /// An agent's verdict has just turned dead.
    pub(super) fn begin_death(&mut self, now: Now, slot: Slot) {
        if self.firing.is_on() {
            let agent = &self.agents[slot as usize];
            self.firing.begin(now, Key::Dead(slot), Some(agent.subject()), agent.last_seen_wall);
        }
    }

    /// An agent was heard: it is not dead, and its mode may have changed.
    pub(super) fn note_heard(&mut self, now: Now, slot: Slot, was: Option<(Verdict, Mode)>) {
        if !self.firing.is_on() {
            return;
        }
        if was.is_some_and(|(verdict, _)| verdict == Verdict::Dead) {
            self.firing.end(now, Key::Dead(slot), End::Heard);
        }
        let agent = &self.agents[slot as usize];
        let was_emergency = was.is_some_and(|(_, mode)| mode == Mode::Emergency);
        match (was_emergency, agent.mode == Mode::Emergency) {
            (false, true) => {
                self.firing.begin(now, Key::Emergency(slot), Some(agent.subject()), agent.last_seen_wall);
            }
            (true, false) => self.firing.end(now, Key::Emergency(slot), End::Heard),
            (true, true) | (false, false) => {}
        }
    }

    /// An agent is no longer known.
    pub(super) fn end_conditions(&mut self, now: Now, slot: Slot, why: End) {
        self.firing.end(now, Key::Dead(slot), why);
        self.firing.end(now, Key::Emergency(slot), why);
    }

    /// The conditions of an agent, as they are saved.
    pub(super) fn saved_conditions(&self, slot: Slot) -> Vec<Condition> {
        let keys = [Key::Dead(slot), Key::Emergency(slot)];
        keys.into_iter().filter_map(|key| self.firing.condition(key).cloned()).collect()
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
            let (subject, since) = (Some(agent.subject()), agent.last_seen_wall);
            let place = saved.iter().position(|saved| saved.alert == alert && saved.ended.is_none());
            let condition = match place {
                Some(place) => saved.swap_remove(place),
                None => Condition { alert, subject, since, ended: None },
            };
            self.firing.resume(now, key, condition);
        }
    }
}

impl Agent {
    fn subject(&self) -> Subject {
        Subject { id: self.id.clone(), name: self.name.get().map(Into::into), mode: self.mode }
    }
}
