//! Due queues: first-in, first-out lists through the registry's slab.
//!
//! There are only three intervals, so all agents of one mode and verdict fall
//! due in the order in which they were last heard. A due queue keeps that order
//! with two links in each agent. To join, to leave and to find the next agent
//! that falls due take constant time, whatever the number of agents. A due queue
//! needs no memory of its own. That is why there is no heap of deadlines.

use slab::Slab;

use crate::heartbeat::Mode;
use crate::verdict::Verdict;

/// A place in the registry's slab.
pub type Slot = u32;

const NONE: Slot = Slot::MAX;

/// The due queues. Every agent stands in exactly one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DueQueue {
    /// Healthy, in this mode.
    Healthy(Mode),
    /// Suspect, in this mode.
    Suspect(Mode),
    /// Suspect, and past the deadline: the death is held back.
    Held,
    /// Dead, until the registry has kept the agent for long enough.
    Dead,
    /// Dead and kept for long enough, but a verdict on the agent is still owed to the
    /// station.
    Lingering,
}

impl DueQueue {
    /// All due queues, in the order of their indices.
    pub const ALL: [Self; 9] = [
        Self::Healthy(Mode::Emergency),
        Self::Healthy(Mode::Idle),
        Self::Healthy(Mode::Sleep),
        Self::Suspect(Mode::Emergency),
        Self::Suspect(Mode::Idle),
        Self::Suspect(Mode::Sleep),
        Self::Held,
        Self::Dead,
        Self::Lingering,
    ];

    /// The due queue of an agent with this verdict, in this mode.
    pub const fn of(status: Verdict, mode: Mode) -> Self {
        match status {
            Verdict::Healthy => Self::Healthy(mode),
            Verdict::Suspect => Self::Suspect(mode),
            Verdict::Dead => Self::Dead,
        }
    }

    /// The verdict on the agents in this due queue.
    pub const fn status(self) -> Verdict {
        match self {
            Self::Healthy(_) => Verdict::Healthy,
            Self::Suspect(_) | Self::Held => Verdict::Suspect,
            Self::Dead | Self::Lingering => Verdict::Dead,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Healthy(mode) => mode as usize,
            Self::Suspect(mode) => Mode::ALL.len() + mode as usize,
            Self::Held => 2 * Mode::ALL.len(),
            Self::Dead => 2 * Mode::ALL.len() + 1,
            Self::Lingering => 2 * Mode::ALL.len() + 2,
        }
    }
}

/// An agent's place in its due queue: the agent before it and the agent behind it.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    previous: Slot,
    next: Slot,
}

impl Links {
    /// The links of an agent that is about to join its first due queue.
    pub const NONE: Self = Self { previous: NONE, next: NONE };
}

/// What can stand in a due queue. The name of the due queue is not one of the
/// [`Links`]: there it would take four bytes.
pub trait Linked {
    /// The links to its neighbours.
    fn links(&mut self) -> &mut Links;
    /// The due queue in which it stands.
    fn line(&mut self) -> &mut DueQueue;
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: Slot,
    last: Slot,
}

/// The two ends of every due queue.
#[derive(Debug)]
pub struct DueQueues([Ends; DueQueue::ALL.len()]);

impl Default for DueQueues {
    /// Due queues without agents.
    fn default() -> Self {
        Self([Ends { first: NONE, last: NONE }; DueQueue::ALL.len()])
    }
}

impl DueQueues {
    /// The first agent in `queue`: the one that has waited longest.
    pub const fn first(&self, queue: DueQueue) -> Option<Slot> {
        match self.0[queue.index()].first {
            NONE => None,
            slot => Some(slot),
        }
    }

    /// The last agent in `queue`: the one that joined most recently.
    pub const fn last(&self, queue: DueQueue) -> Option<Slot> {
        match self.0[queue.index()].last {
            NONE => None,
            slot => Some(slot),
        }
    }

    /// Puts the agent in `slot` at the end of `queue`. The agent stands in no due
    /// queue before.
    pub fn join<T: Linked>(&mut self, agents: &mut Slab<T>, slot: Slot, queue: DueQueue) {
        let ends = &mut self.0[queue.index()];
        let previous = ends.last;
        ends.last = slot;
        if previous == NONE {
            ends.first = slot;
        } else {
            agents[previous as usize].links().next = slot;
        }
        let agent = &mut agents[slot as usize];
        *agent.links() = Links { previous, next: NONE };
        *agent.line() = queue;
    }

    /// Takes the agent in `slot` out of its due queue.
    pub fn leave<T: Linked>(&mut self, agents: &mut Slab<T>, slot: Slot) {
        let Links { previous, next } = *agents[slot as usize].links();
        let queue = *agents[slot as usize].line();
        let ends = &mut self.0[queue.index()];
        if previous == NONE {
            ends.first = next;
        } else {
            agents[previous as usize].links().next = next;
        }
        if next == NONE {
            ends.last = previous;
        } else {
            agents[next as usize].links().previous = previous;
        }
    }

    /// Moves the agent in `slot` from its due queue to the end of `queue`.
    pub fn move_to<T: Linked>(&mut self, agents: &mut Slab<T>, slot: Slot, queue: DueQueue) {
        self.leave(agents, slot);
        self.join(agents, slot, queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Member(Links, DueQueue);

    impl Linked for Member {
        fn links(&mut self) -> &mut Links {
            &mut self.0
        }

        fn line(&mut self) -> &mut DueQueue {
            &mut self.1
        }
    }

    fn order(queues: &mut DueQueues, members: &mut Slab<Member>, queue: DueQueue) -> Vec<Slot> {
        let mut order = Vec::new();
        while let Some(slot) = queues.first(queue) {
            queues.leave(members, slot);
            order.push(slot);
        }
        order
    }

    #[test]
    fn indices_follow_the_list_of_all_due_queues() {
        for (index, queue) in DueQueue::ALL.into_iter().enumerate() {
            assert_eq!(queue.index(), index);
            if let DueQueue::Healthy(mode) | DueQueue::Suspect(mode) = queue {
                assert_eq!(DueQueue::of(queue.status(), mode), queue);
            }
        }
    }

    #[test]
    fn agents_that_joined_first_stand_first() {
        let (mut queues, mut members) = (DueQueues::default(), Slab::new());
        let queue = DueQueue::Healthy(Mode::Idle);
        for slot in 0..5 {
            members.insert(Member(Links::NONE, queue));
            queues.join(&mut members, slot, queue);
        }
        queues.move_to(&mut members, 2, queue);
        queues.move_to(&mut members, 0, queue);
        queues.move_to(&mut members, 4, DueQueue::Dead);
        assert_eq!(queues.last(queue), Some(0));
        assert_eq!(order(&mut queues, &mut members, queue), [1, 3, 2, 0]);
        assert_eq!(order(&mut queues, &mut members, DueQueue::Dead), [4]);
        assert_eq!(queues.first(queue), None);
        assert_eq!(queues.last(queue), None);
    }
}
