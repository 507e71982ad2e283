//! Checks that all counts and links of a registry agree, for tests.

use super::Registry;
use super::conditions::Key;
use crate::due_queues::DueQueue;
use crate::heartbeat::Mode;
use crate::verdict::Verdict;

impl Registry {
    /// Checks all counts and links; for tests. It looks at every agent.
    ///
    /// # Panics
    /// A count or a link is wrong.
    pub fn audit(&self) {
        assert_eq!(self.index.len(), self.agents.len());
        assert!(self.agents.len() <= self.rules.max_agents);
        self.outbox.audit();
        self.firing.audit();
        let (mut by_status, mut by_mode) = ([0; Verdict::ALL.len()], [0; Mode::ALL.len()]);
        let (mut told_dead, mut died, mut owed, mut held, mut mass_dead) = (0, 0, 0, 0, 0);
        for (place, agent) in &self.agents {
            let slot = self.slot(&agent.id);
            assert_eq!(slot.map(|slot| slot as usize), Some(place));
            let slot = slot.unwrap_or_default();
            by_status[agent.status() as usize] += 1;
            by_mode[agent.mode as usize] += 1;
            told_dead += usize::from(agent.marks.told_dead());
            let is_dead = agent.status() == Verdict::Dead;
            died += usize::from(is_dead);
            assert_eq!(self.died.get(slot).is_some(), is_dead);
            let death = self.deaths.get(slot);
            assert!(death.is_none() || is_dead);
            if self.firing.is_on() {
                let holds =
                    [Key::Dead(slot), Key::Emergency(slot)].map(|key| self.firing.condition(&key).is_some());
                assert_eq!(holds, [is_dead, agent.mode == Mode::Emergency]);
            }
            owed += usize::from(death.is_some()) + usize::from(self.recoveries.get(slot).is_some());
            assert_eq!(self.held.get(slot).is_some(), agent.queue == DueQueue::Held);
            held += usize::from(agent.queue == DueQueue::Held);
            mass_dead += usize::from(self.died.get(slot).is_some_and(|died| died.around.mass));
            assert!(
                agent.queue == DueQueue::of(agent.status(), agent.mode)
                    || matches!(agent.queue, DueQueue::Lingering | DueQueue::Held)
            );
        }
        assert_eq!((by_status, by_mode), (self.by_status, self.by_mode));
        assert_eq!((told_dead, died), (self.told_dead, self.died.len()));
        assert_eq!((held, mass_dead), (self.held.len(), self.mass_dead));
        assert_eq!((owed, owed), (self.outbox.owed(), self.deaths.len() + self.recoveries.len()));
        assert!(self.alarms.len() <= self.slots_end && self.restarts.len() <= self.slots_end);
    }
}
