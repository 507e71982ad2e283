//! The verdicts that the station must still be told. Some of them wait outside the
//! queue; this file knows when each may join it.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;

use super::due::Due;
use super::tickets::Worth;
use crate::agent_id::AgentId;
use crate::alert::{Kind, VerdictKind};
use crate::due_queues::Slot;
use crate::time::{Now, Tick};

/// Where an owed verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind another verdict of the same agent.
    Held,
    /// Outside the queue, until it is due.
    Outside(Due),
    /// In the queue.
    Queued,
}

/// A verdict to be owed.
#[derive(Debug)]
pub struct ToOwe<'a> {
    /// The agent.
    pub agent: &'a AgentId,
    /// The agent's slot.
    pub slot: Slot,
    /// A death or a recovery.
    pub kind: VerdictKind,
    /// When it happened.
    pub at: Now,
    /// Whether the verdict waits for `Outbox::release`.
    pub held: bool,
}

/// A verdict that the station must still be told.
#[derive(Debug)]
pub struct Owed {
    pub agent: AgentId,
    pub slot: Slot,
    pub kind: VerdictKind,
    pub at: Now,
    pub attempts: u32,
    place: Place,
}

impl Owed {
    fn new(verdict: &ToOwe<'_>) -> Self {
        let &ToOwe { agent, slot, kind, at, .. } = verdict;
        Self { agent: agent.clone(), slot, kind, at, attempts: 0, place: Place::Held }
    }

    pub fn worth(&self) -> Worth {
        Worth::new(Kind::from(self.kind).severity(), self.attempts)
    }
}

/// All verdicts that are owed, by their numbers.
#[derive(Debug, Default)]
pub struct Verdicts {
    owed: BTreeMap<u64, Owed>,
    /// The verdicts whose place is [`Place::Outside`].
    outside: BTreeSet<(Due, u64)>,
}

impl Verdicts {
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    pub fn get(&self, seq: u64) -> Option<&Owed> {
        self.owed.get(&seq)
    }

    /// Owes a verdict. No other verdict is owed as `seq`.
    pub fn insert(&mut self, seq: u64, verdict: &ToOwe<'_>) {
        let former = self.owed.insert(seq, Owed::new(verdict));
        debug_assert!(former.is_none(), "verdict {seq} is owed already");
        if !verdict.held {
            self.move_to(seq, Place::Outside(Due::Now));
        }
    }

    /// Removes a verdict, if it is owed.
    pub fn remove(&mut self, seq: u64) -> Option<Owed> {
        let owed = self.owed.remove(&seq)?;
        if let Place::Outside(due) = owed.place {
            self.outside.remove(&(due, seq));
        }
        Some(owed)
    }

    /// Lets a verdict go, if it is held.
    pub fn release(&mut self, seq: u64) {
        if self.get(seq).is_some_and(|owed| owed.place == Place::Held) {
            self.move_to(seq, Place::Outside(Due::Now));
        }
    }

    /// Gives a verdict that is owed another place.
    pub fn move_to(&mut self, seq: u64, place: Place) {
        let Some(owed) = self.owed.get_mut(&seq) else { unreachable!("verdict {seq} is not owed") };
        if let Place::Outside(due) = owed.place {
            self.outside.remove(&(due, seq));
        }
        if let Place::Outside(due) = place {
            self.outside.insert((due, seq));
        }
        owed.place = place;
    }

    /// Takes note that one more post failed.
    pub fn failed(&mut self, seq: u64, due: Due) {
        self.move_to(seq, Place::Outside(due));
        self.owed.entry(seq).and_modify(|owed| owed.attempts += 1);
    }

    /// The verdict that joins the queue next, if one is due.
    pub fn next(&self, now: Tick, answering: bool) -> Option<(u64, &Owed)> {
        let (_, seq) = self.firsts().find(|(due, _)| due.moment(answering) <= now)?;
        Some((seq, &self.owed[&seq]))
    }

    /// The earliest moment at which [`next`](Self::next) returns a verdict.
    pub fn next_due(&self, answering: bool) -> Option<Tick> {
        self.firsts().map(|(due, _)| due.moment(answering)).min()
    }

    /// The first verdict outside the queue of each kind of [`Due`].
    fn firsts(&self) -> impl Iterator<Item = (Due, u64)> {
        Due::KINDS.into_iter().filter_map(|kind| {
            let first = self.outside.range((kind, 0)..).next();
            first.filter(|(due, _)| discriminant(due) == discriminant(&kind)).copied()
        })
    }

    /// Checks that every verdict is where its place says; for tests. Returns how many
    /// are in the queue.
    ///
    /// # Panics
    /// A place is wrong.
    pub fn audit(&self, is_queued: impl Fn(u64) -> bool) -> usize {
        let (mut outside, mut queued) = (BTreeSet::new(), 0);
        for (&seq, owed) in &self.owed {
            assert_eq!(owed.place == Place::Queued, is_queued(seq), "{owed:?}");
            match owed.place {
                Place::Held => {}
                Place::Outside(due) => drop(outside.insert((due, seq))),
                Place::Queued => queued += 1,
            }
        }
        assert_eq!(outside, self.outside);
        queued
    }
}
