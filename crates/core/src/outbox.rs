//! What the station must still be told, and which alert goes next.
//!
//! Two kinds of alerts wait here. A **verdict** is a death, or a recovery if
//! recoveries are told. A verdict is *owed*: the outbox keeps it until the station
//! took it, refused it for good, or it stopped being true. An **event** is a restart
//! or an emergency. It happened once, so the bounded queue keeps it only while there
//! is room and while it is fresh.
//!
//! Every alert that is due passes through the queue, the most severe first and then
//! the oldest first, and from there to the senders. A verdict that failed leaves the
//! queue and waits outside, so it holds up no other alert.
//!
//! Callers hold the lock that heartbeats need. So the cost of a call grows with the
//! logarithm of what waits, and no call looks through all of it.

mod contact;
mod due;
mod event;
mod owed;
mod saved;
mod tally;
mod tickets;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::alert::{Alert, Details, Kind, Severity, VerdictKind};
use crate::delivery::{Outcome, wait_after};
use crate::due_queues::Slot;
use crate::time::{Now, Tick};

use contact::Contact;
use due::Due;
use owed::{Owed, Place, Verdicts};
use tickets::{Tickets, Worth};

pub use event::{Event, What};
pub use owed::ToOwe;
pub use saved::{SavedEvent, SavedVerdict};
pub use tally::{Dropped, Tally};

/// If the queue is full of alerts that matter more, a verdict waits for this long.
const FULL_QUEUE_WAIT: Duration = Duration::from_secs(1);

/// The limits of the outbox.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most alerts in the queue, those under way included; at least 1.
    pub queue: usize,
    /// The longest time that an alert waits in the queue.
    pub ttl: Duration,
    /// The most alerts under way at once; at least 1.
    pub senders: usize,
}

/// The next alert to post.
#[derive(Debug)]
pub enum Next {
    /// A verdict. The registry makes the alert from what is true now.
    Verdict {
        /// The alert's number.
        seq: u64,
        /// The agent's slot.
        slot: Slot,
        /// A death or a recovery.
        kind: VerdictKind,
        /// When it happened.
        at: Now,
        /// How often the alert was posted in vain.
        attempts: u32,
    },
    /// An event, as it happened.
    Event(Alert),
}

/// What an alert was when its post ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// An event.
    Event,
    /// A verdict that is still true.
    Current(Slot, VerdictKind),
    /// A verdict that was withdrawn while it was under way.
    Over(Slot),
}

/// Everything that the station must still be told.
#[derive(Debug)]
pub struct Outbox {
    limits: Limits,
    seq: u64,
    owed: Verdicts,
    queue: Tickets,
    /// Verdicts that were withdrawn while they were under way. There are at most as
    /// many as senders.
    over: BTreeMap<u64, Owed>,
    contact: Contact,
    tally: Tally,
}

impl Outbox {
    /// An empty outbox. Its first alert gets the number `seq + 1`.
    pub fn new(limits: Limits, seq: u64) -> Self {
        debug_assert!(
            limits.queue > 0 && limits.senders > 0,
            "with a limit of 0 the station is never told anything"
        );
        Self {
            limits,
            seq,
            owed: Verdicts::default(),
            queue: Tickets::default(),
            over: BTreeMap::new(),
            contact: Contact::new(limits.senders),
            tally: Tally::default(),
        }
    }

    /// Owes a verdict. Returns its number.
    pub fn owe(&mut self, verdict: &ToOwe<'_>) -> u64 {
        let seq = self.number();
        self.owed.insert(seq, verdict);
        seq
    }

    /// Owes a verdict that was owed as `seq` before a restart. Returns its number.
    pub fn owe_again(&mut self, verdict: &ToOwe<'_>, seq: u64) -> u64 {
        let seq = self.number_again(seq);
        self.owed.insert(seq, verdict);
        seq
    }

    /// The number of the newest alert.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether an alert is being posted.
    pub const fn is_posting(&self) -> bool {
        self.queue.under_way() > 0
    }

    /// Whether alert `seq` is being posted.
    pub fn is_under_way(&self, seq: u64) -> bool {
        self.queue.is_under_way(seq)
    }

    /// Lets a held verdict go to the station.
    pub fn release(&mut self, seq: u64) {
        self.owed.release(seq);
    }

    /// Withdraws a verdict that is no longer true, if it is still owed. A verdict that
    /// is under way cannot be called back: [`settle`](Self::settle) will return
    /// [`Settled::Over`] for it.
    pub fn withdraw(&mut self, seq: u64, why: Dropped) {
        let Some(owed) = self.owed.remove(seq) else { return };
        if self.is_under_way(seq) {
            self.over.insert(seq, owed);
            return;
        }
        if self.queue.contains(seq) {
            self.queue.remove(seq);
        }
        self.tally.drop_one(owed.kind.into(), why);
    }

    /// Gives an event its number, and queues it. Returns whether there was room.
    pub fn event(&mut self, now: Tick, event: Event) -> bool {
        let seq = self.number();
        self.queue_event(now, now, seq, event)
    }

    fn queue_event(&mut self, now: Tick, since: Tick, seq: u64, event: Event) -> bool {
        let kind = event.what.kind();
        let worth = Worth::new(kind.severity(), 0);
        if !self.make_room(now, worth) {
            self.tally.drop_one(kind, Dropped::QueueFull);
            return false;
        }
        let agent = event.agent.clone();
        self.queue.join(seq, &agent, worth, since, Some(Box::new(event)));
        true
    }

    /// The next alert to post, if one may go now. The alert is under way until
    /// [`settle`](Self::settle). At most one alert about an agent is under way.
    pub fn next(&mut self, now: Tick) -> Option<Next> {
        self.expire(now);
        self.fill(now);
        self.queue.let_go(now);
        if self.queue.under_way() >= self.limits.senders || self.contact.gate() > now {
            return None;
        }
        let seq = self.queue.next(self.contact.is_answering())?;
        let attempts = self.queue.attempts(seq);
        let next = if let Some(Event { agent, name, at, what }) = self.queue.event(seq) {
            let (agent, name, details) = (agent.clone(), name.clone(), Details::from(*what));
            Next::Event(Alert { agent, name, seq, attempts, at: *at, details })
        } else {
            let Some(&Owed { slot, kind, at, .. }) = self.owed.get(seq) else {
                unreachable!("alert {seq} waits in the queue, and is neither an event nor owed");
            };
            Next::Verdict { seq, slot, kind, at, attempts }
        };
        self.queue.post(seq);
        self.contact.posted(now);
        debug_assert!(self.queue.under_way() <= self.limits.senders);
        Some(next)
    }

    /// Takes note of how the post of alert `seq` ended. Returns `None` if no such alert
    /// was under way.
    pub fn settle(&mut self, now: Tick, seq: u64, outcome: Outcome) -> Option<Settled> {
        if !self.queue.is_under_way(seq) {
            return None;
        }
        self.contact.note(outcome);
        let attempts = self.queue.attempts(seq);
        let event = self.queue.event(seq).map(|event| event.what.kind());
        let verdict = self.owed.get(seq).or_else(|| self.over.get(&seq));
        let verdict = verdict.map(|owed| (owed.slot, owed.kind));
        let Some(kind) = event.or_else(|| verdict.map(|(_, kind)| kind.into())) else {
            unreachable!("alert {seq} is neither an event nor a verdict");
        };
        match outcome {
            Outcome::Taken => *self.tally.delivered.entry(kind).or_default() += 1,
            Outcome::Refused(code) => *self.tally.refused.entry((kind, code)).or_default() += 1,
            Outcome::Failed(..) => {}
        }
        let Some((slot, verdict)) = verdict else {
            match retry(now, seq, attempts + 1, outcome) {
                Some(due) => self.queue.failed(seq, due),
                None => drop(self.queue.remove(seq)),
            }
            return Some(Settled::Event);
        };
        self.queue.remove(seq);
        if self.over.remove(&seq).is_some() {
            if let Outcome::Failed(..) = outcome {
                self.tally.drop_one(kind, Dropped::Cancelled);
            }
            return Some(Settled::Over(slot));
        }
        match retry(now, seq, attempts + 1, outcome) {
            Some(due) => self.owed.failed(seq, due),
            None => drop(self.owed.remove(seq)),
        }
        Some(Settled::Current(slot, verdict))
    }

    /// When to call [`next`](Self::next) again, if nothing else happens before. To call
    /// it early does no harm.
    pub fn next_due(&self) -> Option<Tick> {
        let expiry = self.queue.next_expiry(self.limits.ttl);
        if self.queue.under_way() >= self.limits.senders {
            return expiry;
        }
        let queued = self.queue.next_due(self.contact.is_answering());
        let has_room = self.queue.len() < self.limits.queue;
        let outside = self.owed.next_due(self.contact.is_answering()).filter(|_| has_room);
        let posting = queued.into_iter().chain(outside).map(|due| due.max(self.contact.gate()));
        posting.chain(expiry).min()
    }

    /// How many alerts are in the queue, those under way included.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How long the oldest alert has been in the queue.
    pub fn oldest(&self, now: Tick) -> Option<Duration> {
        self.queue.oldest().map(|since| now.since(since))
    }

    /// How many verdicts are owed.
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.queue.len() == 0 && self.owed.is_empty()
    }

    /// Whether as many posts in a row as there are senders failed in a way that concerns
    /// all alerts.
    pub const fn in_outage(&self) -> bool {
        self.contact.in_outage()
    }

    /// Whether the station answers. `None` until a post has shown it.
    pub fn is_reachable(&self) -> Option<bool> {
        self.contact.is_reachable()
    }

    /// How the alerts have ended so far.
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The tally, to count alerts that are dropped before they come here.
    pub const fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// Checks the limits, and that every alert is in its place; for tests. It looks at
    /// everything that waits.
    ///
    /// # Panics
    /// A limit or a place is wrong.
    pub fn audit(&self) {
        self.queue.audit();
        assert!(self.queue.len() <= self.limits.queue && self.queue.under_way() <= self.limits.senders);
        let verdicts = self.owed.audit(|seq| self.queue.contains(seq)) + self.over.len();
        assert_eq!(verdicts + self.queue.events().count(), self.queue.len());
        assert!(self.over.keys().all(|&seq| self.queue.is_under_way(seq)));
    }

    /// The next alert's number.
    const fn number(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// The number of an alert that had `seq` before a restart. It is the same, unless
    /// the state file has it twice, because somebody wrote the file by hand.
    fn number_again(&mut self, seq: u64) -> u64 {
        if self.owed.get(seq).is_some() || self.queue.contains(seq) {
            return self.number();
        }
        self.seq = self.seq.max(seq);
        seq
    }

    /// Drops events that are no longer fresh. A verdict that has waited for as long
    /// leaves the queue, and may join it again at once.
    fn expire(&mut self, now: Tick) {
        while let Some(seq) = self.queue.expired(now, self.limits.ttl) {
            self.leave_queue(now, seq, Dropped::Expired);
        }
    }

    /// Takes an alert out of the queue before the station was told. An event is lost. A
    /// verdict waits outside the queue.
    fn leave_queue(&mut self, now: Tick, seq: u64, why: Dropped) {
        match self.queue.remove(seq) {
            Some(event) => self.tally.drop_one(event.what.kind(), why),
            None => self.owed.move_to(seq, Place::Outside(Due::At(now))),
        }
    }

    /// Makes room for one alert, if the queue has room or holds an alert of less worth.
    /// Returns whether there is room.
    fn make_room(&mut self, now: Tick, worth: Worth) -> bool {
        if self.queue.len() < self.limits.queue {
            return true;
        }
        let Some((_, least)) = self.queue.least().filter(|&(least, _)| least > worth) else { return false };
        self.leave_queue(now, least, Dropped::QueueFull);
        true
    }

    /// Moves the verdicts that are due into the queue. Those that were never posted go
    /// first.
    fn fill(&mut self, now: Tick) {
        while let Some((seq, owed)) = self.owed.next(now, self.contact.is_answering()) {
            let (agent, worth, kind) = (owed.agent.clone(), owed.worth(), Kind::from(owed.kind));
            if self.make_room(now, worth) {
                self.owed.move_to(seq, Place::Queued);
                self.queue.join(seq, &agent, worth, now, None);
            } else if kind.severity() == Severity::Critical {
                return;
            } else {
                // No alert gives way to this verdict. It steps aside, because behind it
                // may be a verdict to which an alert does give way.
                self.owed.move_to(seq, Place::Outside(Due::At(now + FULL_QUEUE_WAIT)));
            }
        }
    }
}

/// When to post an alert again that has now failed `attempts` times. `None` if it did
/// not fail.
fn retry(now: Tick, seq: u64, attempts: u32, outcome: Outcome) -> Option<Due> {
    let Outcome::Failed(failure, asked) = outcome else { return None };
    let until = now + wait_after(asked, attempts, seq);
    // If the station asked for a time, the alert waits even if the station takes others.
    let is_stalled = failure.is_general() && asked.is_none();
    Some(if is_stalled { Due::WhenAnswering(until) } else { Due::At(until) })
}

#[cfg(test)]
mod tests;
