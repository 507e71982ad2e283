//! PURE: first-in, first-out lines through the registry's slab.
//!
//! There are only three intervals, so all agents of one mode and verdict fall
//! due in the order in which they were last heard. A line keeps that order
//! with two links in each agent: joining, leaving and finding the next one
//! due take constant time, whatever the number of agents, and a line needs no
//! memory of its own. That is why there is no heap of deadlines.

use slab::Slab;

use crate::heartbeat::Mode;
use crate::verdict::Verdict;

/// A place in the registry's slab.
pub type Slot = u32;

const NONE: Slot = Slot::MAX;

/// The lines an agent can stand in; it always stands in exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DueQueue {
    /// Healthy, in this mode.
    Healthy(Mode),
    /// Suspect, in this mode.
    Suspect(Mode),
    /// Dead, until it has been kept long enough.
    Dead,
    /// Dead and kept long enough, but its death is still owed to the station.
    Lingering,
}

impl DueQueue {
    /// All lines, in the order of their indices.
    pub const ALL: [Self; 8] = [
        Self::Healthy(Mode::Emergency),
        Self::Healthy(Mode::Idle),
        Self::Healthy(Mode::Sleep),
        Self::Suspect(Mode::Emergency),
        Self::Suspect(Mode::Idle),
        Self::Suspect(Mode::Sleep),
        Self::Dead,
        Self::Lingering,
    ];

    /// The line of an agent with this verdict, in this mode.
    pub const fn of(status: Verdict, mode: Mode) -> Self {
        match status {
            Verdict::Healthy => Self::Healthy(mode),
            Verdict::Suspect => Self::Suspect(mode),
            Verdict::Dead => Self::Dead,
        }
    }

    /// The verdict on the agents in it.
    pub const fn status(self) -> Verdict {
        match self {
            Self::Healthy(_) => Verdict::Healthy,
            Self::Suspect(_) => Verdict::Suspect,
            Self::Dead | Self::Lingering => Verdict::Dead,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Healthy(mode) => mode as usize,
            Self::Suspect(mode) => Mode::ALL.len() + mode as usize,
            Self::Dead => 2 * Mode::ALL.len(),
            Self::Lingering => 2 * Mode::ALL.len() + 1,
        }
    }
}

/// An agent's place in its line: who stands before it and who behind it.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    previous: Slot,
    next: Slot,
}

impl Links {
    /// The links of an agent that is about to join its first line.
    pub const NONE: Self = Self { previous: NONE, next: NONE };
}

/// What can stand in a line. The line is not among the links: there it would
/// take four bytes.
pub trait Linked {
    /// Its links.
    fn links(&mut self) -> &mut Links;
    /// The line it stands in.
    fn line(&mut self) -> &mut DueQueue;
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: Slot,
    last: Slot,
}

/// The two ends of every line.
#[derive(Debug)]
pub struct DueQueues([Ends; DueQueue::ALL.len()]);

impl Default for DueQueues {
    /// DueQueues with nobody in them.
    fn default() -> Self {
        Self([Ends { first: NONE, last: NONE }; DueQueue::ALL.len()])
    }
}

impl DueQueues {
    /// Who stands first in `line`: the one that has waited longest.
    pub const fn first(&self, line: DueQueue) -> Option<Slot> {
        match self.0[line.index()].first {
            NONE => None,
            slot => Some(slot),
        }
    }

    /// Who stands last in `line`: the one that came most recently.
    pub const fn last(&self, line: DueQueue) -> Option<Slot> {
        match self.0[line.index()].last {
            NONE => None,
            slot => Some(slot),
        }
    }

    /// Puts the agent in `slot`, which stands in no line, at the end of `line`.
    pub fn join<T: Linked>(&mut self, agents: &mut Slab<T>, slot: Slot, line: DueQueue) {
        let ends = &mut self.0[line.index()];
        let previous = ends.last;
        ends.last = slot;
        if previous == NONE {
            ends.first = slot;
        } else {
            agents[previous as usize].links().next = slot;
        }
        let agent = &mut agents[slot as usize];
        *agent.links() = Links { previous, next: NONE };
        *agent.line() = line;
    }

    /// Takes the agent in `slot` out of the line it stands in.
    pub fn leave<T: Linked>(&mut self, agents: &mut Slab<T>, slot: Slot) {
        let Links { previous, next } = *agents[slot as usize].links();
        let line = *agents[slot as usize].line();
        let ends = &mut self.0[line.index()];
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

    /// Moves the agent in `slot` from where it stands to the end of `line`.
    pub fn move_to<T: Linked>(&mut self, agents: &mut Slab<T>, slot: Slot, line: DueQueue) {
        self.leave(agents, slot);
        self.join(agents, slot, line);
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

    fn order(lines: &mut DueQueues, members: &mut Slab<Member>, line: DueQueue) -> Vec<Slot> {
        let mut order = Vec::new();
        while let Some(slot) = lines.first(line) {
            lines.leave(members, slot);
            order.push(slot);
        }
        order
    }

    #[test]
    fn indices_follow_the_list_of_all_lines() {
        for (index, line) in DueQueue::ALL.into_iter().enumerate() {
            assert_eq!(line.index(), index);
            if let DueQueue::Healthy(mode) | DueQueue::Suspect(mode) = line {
                assert_eq!(DueQueue::of(line.status(), mode), line);
            }
        }
    }

    #[test]
    fn those_who_joined_first_stand_first() {
        let (mut lines, mut members) = (DueQueues::default(), Slab::new());
        let line = DueQueue::Healthy(Mode::Idle);
        for slot in 0..5 {
            members.insert(Member(Links::NONE, line));
            lines.join(&mut members, slot, line);
        }
        lines.move_to(&mut members, 2, line);
        lines.move_to(&mut members, 0, line);
        lines.move_to(&mut members, 4, DueQueue::Dead);
        assert_eq!(lines.last(line), Some(0));
        assert_eq!(order(&mut lines, &mut members, line), [1, 3, 2, 0]);
        assert_eq!(order(&mut lines, &mut members, DueQueue::Dead), [4]);
        assert_eq!(lines.first(line), None);
        assert_eq!(lines.last(line), None);
    }
}
