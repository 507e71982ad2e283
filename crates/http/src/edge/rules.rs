//! Which connection is closed, and when: time-outs, too many connections, too many bytes.

use std::sync::atomic::Ordering;

use pap_core::time::Tick;

use super::Edge;
use crate::common::Handle;
use crate::order::{Queue, Slot};
use crate::parse::Refused;
use crate::patience::{Wait, may_give_way};
use crate::service::{Closed, Service};

/// Unfinished requests and unsent answers of all connections, in bytes.
const MOST_HELD: usize = 8 * 1024 * 1024;

/// Connections that are looked at when one has to give way.
const MOST_CANDIDATES: usize = 16;

impl<S: Service> Edge<S> {
    /// Which connection gives way next, other than `except`. While there are newcomers, in
    /// other event loops too, no idle connection does.
    pub(super) fn candidate(&self, except: Option<Slot>) -> Option<Slot> {
        let first = self.order.first(Queue::Newcomers);
        if let Some(slot) = first.filter(|&slot| Some(slot) != except) {
            return (self.may_go(slot) <= self.common.service.now()).then_some(slot);
        }
        // Of this loop's newcomers at most `except` is left.
        let others = self.common.newcomers.load(Ordering::SeqCst) - usize::from(first.is_some());
        if others > 0 { None } else { self.order.first(Queue::Idle) }
    }

    /// From when on a newcomer gives way.
    fn may_go(&self, slot: Slot) -> Tick {
        may_give_way(self.entries[slot as usize].since)
    }

    /// When the first newcomer may give way.
    pub(super) fn next_candidate(&self) -> Option<Tick> {
        self.order.first(Queue::Newcomers).map(|slot| self.may_go(slot))
    }

    /// Closes a connection of this loop, other than `except`, to make room. Returns whether
    /// there was one.
    pub(super) fn give_way(&mut self, except: Option<Slot>) -> bool {
        for _ in 0..MOST_CANDIDATES {
            let Some(slot) = self.candidate(except) else { return false };
            let (queue, since) =
                (self.entries[slot as usize].links.queue(), self.entries[slot as usize].since);
            // Its request may have come, and nobody has looked at it yet.
            self.attend(slot);
            let Some(entry) = self.entries.get(slot as usize) else { return true };
            if entry.links.queue() == queue && entry.since == since {
                self.close(slot, Closed::Surplus);
                return true;
            }
        }
        false
    }

    pub(super) fn make_room_for_others(&mut self) {
        while self.common.wanted.load(Ordering::SeqCst) > 0 && self.common.is_full() {
            if !self.give_way(None) {
                return;
            }
            self.common.wanted.fetch_sub(1, Ordering::SeqCst);
            self.common.edges().iter().for_each(Handle::wake);
        }
        if !self.common.is_full() {
            self.common.wanted.store(0, Ordering::SeqCst);
        }
    }

    /// Ends connections that have taken too long, after a last look at each.
    pub(super) fn expire(&mut self) {
        let now = self.common.service.now();
        while let Some(&(due, slot)) = self.deadlines.first() {
            if due > now {
                break;
            }
            let entry = &self.entries[slot as usize];
            if entry.lingered.is_some() {
                self.remove_ended(slot);
                continue;
            }
            self.attend(slot);
            // A connection that has moved on has another deadline.
            let Some(entry) = self.entries.get(slot as usize) else { continue };
            if entry.deadline != Some(due) {
                continue;
            }
            if entry.unsent_since.is_some() {
                self.close(slot, Closed::Stalled);
            } else {
                self.refuse(slot, Refused::Timeout);
            }
        }
        for queue in [Queue::Newcomers, Queue::Idle] {
            while let Some(slot) = self.order.first(queue) {
                let since = self.entries[slot as usize].since;
                if Wait::Idle(since).until() > now {
                    break;
                }
                self.attend(slot);
                if self
                    .entries
                    .get(slot as usize)
                    .is_some_and(|entry| entry.since == since && entry.links.queue() == queue)
                {
                    self.close(slot, Closed::Idle);
                }
            }
        }
    }

    /// Gives up unfinished requests, the biggest first, while all of them
    /// together hold too much.
    pub(super) fn keep_to_budget(&mut self) {
        while self.common.held.load(Ordering::Relaxed) > MOST_HELD {
            let biggest = self.deadlines.iter().max_by_key(|&&(_, slot)| self.entries[slot as usize].held);
            let Some(&(_, slot)) = biggest else { return };
            let entry = &self.entries[slot as usize];
            if entry.held == 0 {
                return;
            }
            if entry.unsent_since.is_some() {
                self.close(slot, Closed::Stalled);
            } else {
                self.refuse(slot, Refused::Timeout);
            }
        }
    }
}
