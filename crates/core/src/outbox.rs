//! PURE: what the station has still to be told, and which of it goes next.
//!
//! Two kinds of news wait here. A **verdict** (a death, or a recovery where
//! those are told) is *owed*: it is kept until the station took it, refused it
//! for good, or it stopped being true. An **event** (a restart, an emergency)
//! has no lasting truth behind it; it is kept in the bounded queue while there
//! is room and while it is fresh.
//!
//! Whatever is due passes through the queue, most severe first and oldest
//! first, and from there to the senders. A verdict that fails leaves the queue
//! and rests outside it, so one that cannot be delivered holds up no other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::alert::{Alert, Kind, Severity};
use crate::beat::AgentId;
use crate::delivery::{Failure, Outcome, wait_after};
use crate::lines::Slot;
use crate::registry::{SavedEvent, SavedVerdict};
use crate::time::{Now, Tick, Wall, millis};

/// The least time between two posts while the station takes nothing at all.
const OUTAGE_PACE: Duration = Duration::from_secs(1);

/// How long a verdict steps aside that finds the queue full of what matters more.
const FULL_QUEUE_WAIT: Duration = Duration::from_secs(1);

/// What bounds the outbox.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most alerts in the queue, those under way included; at least 1.
    pub queue: usize,
    /// The longest an alert waits in the queue.
    pub ttl: Duration,
    /// The most alerts under way at once; at least 1.
    pub senders: usize,
}

/// Why an alert will never be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// The queue was full of what matters as much or more.
    QueueFull,
    /// It waited longer than it stays fresh.
    Expired,
    /// It stopped being true before it was told: a death with its recovery.
    Cancelled,
    /// Its agent said goodbye or was removed.
    Removed,
    /// The agent had the same alert less than a minute before.
    RateLimited,
}

impl Dropped {
    /// The reason's name in the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Removed => "removed",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// How many alerts ended in which way.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Taken by the station, by type.
    pub delivered: BTreeMap<Kind, u64>,
    /// Refused for good, by type and status code.
    pub refused: BTreeMap<(Kind, u16), u64>,
    /// Never to be told, by type and reason.
    pub dropped: BTreeMap<(Kind, Dropped), u64>,
}

impl Tally {
    /// Counts one alert that will never be told.
    pub fn drop_one(&mut self, kind: Kind, why: Dropped) {
        *self.dropped.entry((kind, why)).or_default() += 1;
    }
}

/// The next alert to post.
#[derive(Debug)]
pub enum Next {
    /// A verdict; the alert is to be made from what is true now.
    Verdict {
        /// Its number.
        seq: u64,
        /// Where the agent is.
        slot: Slot,
        /// A death or a recovery.
        kind: Kind,
        /// When it happened.
        at: Wall,
        /// For a recovery: how long the agent was dead.
        span: Duration,
        /// How often it was tried in vain.
        attempts: u32,
    },
    /// An event, as it happened.
    Event(Alert),
}

/// What had become of an alert by the time its post ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It was an event, which concerns nobody else.
    Event,
    /// It was a verdict, and is still the agent's.
    Current(Slot, Kind),
    /// It was a verdict, and the agent has moved on since.
    Over(Slot, Kind),
}

/// Where an owed verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Behind another verdict of the same agent.
    Held,
    /// Outside the queue, never tried.
    Fresh,
    /// Outside the queue, until this moment.
    Resting(Tick),
    /// Outside the queue, until this moment or until the station takes anything.
    Stalled(Tick),
    /// In the queue.
    Queued,
}

#[derive(Debug)]
struct Owed {
    agent: AgentId,
    slot: Slot,
    kind: Kind,
    at: Wall,
    span: Duration,
    attempts: u32,
    place: Place,
}

/// A verdict to be owed.
#[derive(Debug)]
pub struct Verdict<'a> {
    /// The agent it is on.
    pub agent: &'a AgentId,
    /// Where the agent is.
    pub slot: Slot,
    /// A death or a recovery.
    pub kind: Kind,
    /// For a recovery: how long the agent was dead.
    pub span: Duration,
    /// Whether it waits for [`Outbox::release`].
    pub held: bool,
}

/// One place in the queue.
#[derive(Debug)]
struct Ticket {
    seq: u64,
    kind: Kind,
    agent: AgentId,
    slot: Slot,
    /// When it joined the queue.
    since: Tick,
    /// Not to be posted before this moment.
    due: Tick,
    /// Whether it only waits for the station to take anything.
    stalled: bool,
    under_way: bool,
    /// How often it was tried in vain.
    attempts: u32,
    /// For an event: itself.
    event: Option<Box<Alert>>,
}

impl Ticket {
    const fn severity(&self) -> Severity {
        self.kind.severity()
    }
}

/// Everything the station has still to be told.
#[derive(Debug)]
pub struct Outbox {
    limits: Limits,
    seq: u64,
    owed: BTreeMap<u64, Owed>,
    /// Never tried. They go before those that were, so that what cannot be
    /// delivered does not stand before what can.
    fresh: BTreeSet<u64>,
    resting: BTreeSet<(Tick, u64)>,
    stalled: BTreeSet<(Tick, u64)>,
    queue: Vec<Ticket>,
    under_way: usize,
    /// Posts in a row that failed as if nobody were there.
    failures: u32,
    last_post: Tick,
    /// The station was away and takes alerts again: whatever stalled is due.
    answering: bool,
    tally: Tally,
}

impl Outbox {
    /// An empty outbox whose first alert will have the number `seq + 1`.
    pub fn new(limits: Limits, seq: u64) -> Self {
        Self {
            limits,
            seq,
            owed: BTreeMap::new(),
            fresh: BTreeSet::new(),
            resting: BTreeSet::new(),
            stalled: BTreeSet::new(),
            queue: Vec::new(),
            under_way: 0,
            failures: 0,
            last_post: Tick::default(),
            answering: false,
            tally: Tally::default(),
        }
    }

    /// Owes a verdict, and returns its number.
    pub fn owe(&mut self, now: Now, verdict: &Verdict<'_>) -> u64 {
        self.seq += 1;
        let place = if verdict.held { Place::Held } else { self.freshen(self.seq) };
        let owed = Owed {
            agent: verdict.agent.clone(),
            slot: verdict.slot,
            kind: verdict.kind,
            at: now.wall,
            span: verdict.span,
            attempts: 0,
            place,
        };
        self.owed.insert(self.seq, owed);
        self.seq
    }

    /// Owes a verdict again that was owed before a restart.
    pub fn owe_again(&mut self, verdict: &Verdict<'_>, saved: SavedVerdict) {
        self.seq = self.seq.max(saved.seq);
        let place = if verdict.held { Place::Held } else { self.freshen(saved.seq) };
        let owed = Owed {
            agent: verdict.agent.clone(),
            slot: verdict.slot,
            kind: verdict.kind,
            at: Wall(saved.at),
            span: verdict.span,
            attempts: 0,
            place,
        };
        self.owed.insert(saved.seq, owed);
    }

    /// A verdict to be saved, if it is owed.
    pub fn saved(&self, seq: u64) -> Option<SavedVerdict> {
        let owed = self.owed.get(&seq)?;
        Some(SavedVerdict { seq, at: owed.at.0, span: millis(owed.span) })
    }

    /// The events that wait, to be saved.
    pub fn save_events(&self, now: Tick) -> Vec<SavedEvent> {
        let events = self.queue.iter().filter_map(|ticket| Some((ticket.event.as_ref()?, ticket.since)));
        events.filter_map(|(alert, since)| SavedEvent::of(alert, now.since(since))).collect()
    }

    /// Queues the events that were saved, and goes on counting from `seq`.
    pub fn restore_events(&mut self, now: Tick, seq: u64, events: Vec<SavedEvent>) {
        self.seq = self.seq.max(seq);
        for event in events {
            let since = now - Duration::from_millis(event.age);
            let alert = event.into_alert();
            self.seq = self.seq.max(alert.seq);
            self.queue_event(now, since, alert);
        }
    }

    /// The number of the newest alert.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether anything is being posted.
    pub const fn is_posting(&self) -> bool {
        self.under_way > 0
    }

    /// Whether alert `seq` is being posted.
    pub fn is_under_way(&self, seq: u64) -> bool {
        self.position(seq).is_some_and(|at| self.queue[at].under_way)
    }

    /// Lets a held verdict go.
    pub fn release(&mut self, seq: u64) {
        if self.owed.get(&seq).is_some_and(|owed| owed.place == Place::Held) {
            let place = self.freshen(seq);
            self.set_place(seq, place);
        }
    }

    /// Takes back a verdict that is no longer true. One that is under way
    /// cannot be called back: [`settle`](Self::settle) will say it is over.
    pub fn withdraw(&mut self, seq: u64, why: Dropped) {
        let Some(owed) = self.owed.remove(&seq) else { return };
        match owed.place {
            Place::Held => {}
            Place::Fresh => drop(self.fresh.remove(&seq)),
            Place::Resting(until) => drop(self.resting.remove(&(until, seq))),
            Place::Stalled(until) => drop(self.stalled.remove(&(until, seq))),
            Place::Queued => match self.position(seq) {
                Some(at) if self.queue[at].under_way => return,
                Some(at) => drop(self.queue.remove(at)),
                None => {}
            },
        }
        self.tally.drop_one(owed.kind, why);
    }

    /// Queues an event, giving it its number. Returns whether there was room.
    pub fn event(&mut self, now: Tick, mut alert: Alert) -> bool {
        self.seq += 1;
        alert.seq = self.seq;
        self.queue_event(now, now, alert)
    }

    fn queue_event(&mut self, now: Tick, since: Tick, alert: Alert) -> bool {
        let kind = alert.kind();
        if !self.make_room(now, kind.severity(), 0) {
            self.tally.drop_one(kind, Dropped::QueueFull);
            return false;
        }
        self.queue.push(Ticket {
            seq: alert.seq,
            kind,
            agent: alert.agent.clone(),
            slot: Slot::MAX,
            since,
            due: since,
            stalled: false,
            under_way: false,
            attempts: 0,
            event: Some(Box::new(alert)),
        });
        true
    }

    /// The next alert to post now, if any; it is under way until
    /// [`settle`](Self::settle). At most one is under way for an agent.
    pub fn next(&mut self, now: Tick) -> Option<Next> {
        self.expire(now);
        self.fill(now);
        if self.under_way >= self.limits.senders || self.gate() > now {
            return None;
        }
        let busy = self.busy_agents();
        let at = (0..self.queue.len())
            .filter(|&at| self.due(&self.queue[at]) <= now && may_go(&self.queue[at], &busy))
            .max_by_key(|&at| {
                let ticket = &self.queue[at];
                (ticket.severity(), Reverse(ticket.attempts), Reverse(ticket.seq))
            })?;
        let ticket = &mut self.queue[at];
        ticket.under_way = true;
        self.under_way += 1;
        self.last_post = now;
        let (seq, attempts) = (ticket.seq, ticket.attempts);
        if let Some(alert) = &ticket.event {
            return Some(Next::Event(Alert { attempts, ..(**alert).clone() }));
        }
        let owed = self.owed.get(&seq)?;
        Some(Next::Verdict { seq, slot: owed.slot, kind: owed.kind, at: owed.at, span: owed.span, attempts })
    }

    /// Takes note of how the post of alert `seq` ended. Returns nothing when
    /// no such alert was under way.
    pub fn settle(&mut self, now: Tick, seq: u64, outcome: Outcome) -> Option<Settled> {
        let at = self.position(seq).filter(|&at| self.queue[at].under_way)?;
        self.under_way -= 1;
        self.note_station(outcome);
        let kind = self.queue[at].kind;
        match outcome {
            Outcome::Taken => *self.tally.delivered.entry(kind).or_default() += 1,
            Outcome::Refused(code) => *self.tally.refused.entry((kind, code)).or_default() += 1,
            Outcome::Failed(failure, asked) if self.queue[at].event.is_some() => {
                self.retry_event(now, at, failure, asked);
                return Some(Settled::Event);
            }
            Outcome::Failed(..) => {}
        }
        let ticket = self.queue.remove(at);
        if ticket.event.is_some() {
            return Some(Settled::Event);
        }
        let still_owed = self.owed.contains_key(&seq);
        match outcome {
            Outcome::Failed(failure, asked) if still_owed => self.retry_verdict(now, seq, failure, asked),
            Outcome::Failed(..) => self.tally.drop_one(kind, Dropped::Cancelled),
            Outcome::Taken | Outcome::Refused(_) => drop(self.owed.remove(&seq)),
        }
        Some(if still_owed { Settled::Current(ticket.slot, kind) } else { Settled::Over(ticket.slot, kind) })
    }

    /// When [`next`](Self::next) should be asked again, if nothing else
    /// happens before. Asking early does no harm.
    pub fn next_due(&self) -> Option<Tick> {
        let expiry = self.queue.iter().filter(|ticket| !ticket.under_way);
        let expiry = expiry.map(|ticket| ticket.since + self.limits.ttl);
        if self.under_way >= self.limits.senders {
            return expiry.min();
        }
        let busy = self.busy_agents();
        let queued = self.queue.iter().filter(|ticket| may_go(ticket, &busy));
        let queued = queued.map(|ticket| self.due(ticket).max(self.gate()));
        let has_room = self.queue.len() < self.limits.queue;
        let outside = [
            self.fresh.first().map(|_| Tick::default()),
            self.resting.first().map(|&(until, _)| until),
            self.stalled.first().map(|&(until, _)| if self.answering { Tick::default() } else { until }),
        ];
        let outside = outside.into_iter().flatten().filter(|_| has_room);
        expiry.chain(queued).chain(outside.map(|due| due.max(self.gate()))).min()
    }

    /// How many alerts are in the queue, those under way included.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How long the oldest alert has been in the queue.
    pub fn oldest(&self, now: Tick) -> Option<Duration> {
        self.queue.iter().map(|ticket| now.since(ticket.since)).max()
    }

    /// How many verdicts are owed.
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.owed.is_empty()
    }

    /// Whether the station has taken nothing for several posts in a row.
    pub fn in_outage(&self) -> bool {
        self.failures as usize >= self.limits.senders
    }

    /// Whether the last post found the station; none before the first.
    pub fn is_reachable(&self) -> Option<bool> {
        let was_answered = !self.tally.delivered.is_empty() || !self.tally.refused.is_empty();
        (was_answered || self.failures > 0).then_some(self.failures == 0)
    }

    /// How the alerts so far have ended.
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The same, to count what is dropped before it comes here.
    pub const fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// The earliest moment at which anything may be posted.
    fn gate(&self) -> Tick {
        if self.in_outage() { self.last_post + OUTAGE_PACE } else { Tick::default() }
    }

    fn due(&self, ticket: &Ticket) -> Tick {
        if ticket.stalled && self.answering { Tick::default() } else { ticket.due }
    }

    /// The agents with an alert under way, at most as many as there are senders.
    fn busy_agents(&self) -> Vec<&AgentId> {
        let under_way = self.queue.iter().filter(|ticket| ticket.under_way);
        under_way.map(|ticket| &ticket.agent).collect()
    }

    fn position(&self, seq: u64) -> Option<usize> {
        self.queue.iter().position(|ticket| ticket.seq == seq)
    }

    fn freshen(&mut self, seq: u64) -> Place {
        self.fresh.insert(seq);
        Place::Fresh
    }

    fn rest_until(&mut self, until: Tick, seq: u64) -> Place {
        self.resting.insert((until, seq));
        Place::Resting(until)
    }

    fn set_place(&mut self, seq: u64, place: Place) {
        if let Some(owed) = self.owed.get_mut(&seq) {
            owed.place = place;
        }
    }

    /// Drops events that are no longer fresh; verdicts go to the end of the line.
    fn expire(&mut self, now: Tick) {
        let ttl = self.limits.ttl;
        let stale = |ticket: &mut Ticket| !ticket.under_way && now >= ticket.since + ttl;
        for ticket in self.queue.extract_if(.., stale).collect::<Vec<_>>() {
            self.leave_queue(now, &ticket, Dropped::Expired);
        }
    }

    /// Finds a new place for what had to leave the queue untold.
    fn leave_queue(&mut self, now: Tick, ticket: &Ticket, why: Dropped) {
        if ticket.event.is_some() {
            self.tally.drop_one(ticket.kind, why);
        } else {
            let place = self.rest_until(now, ticket.seq);
            self.set_place(ticket.seq, place);
        }
    }

    /// Makes room for one alert: for what matters more, or for what was tried
    /// less often in vain.
    fn make_room(&mut self, now: Tick, severity: Severity, attempts: u32) -> bool {
        if self.queue.len() < self.limits.queue {
            return true;
        }
        let worth = |ticket: &Ticket| (ticket.severity(), Reverse(ticket.attempts));
        let least = (0..self.queue.len())
            .filter(|&at| !self.queue[at].under_way && worth(&self.queue[at]) < (severity, Reverse(attempts)))
            .min_by_key(|&at| (worth(&self.queue[at]), self.queue[at].seq));
        let Some(at) = least else { return false };
        let ticket = self.queue.remove(at);
        self.leave_queue(now, &ticket, Dropped::QueueFull);
        true
    }

    /// Moves the verdicts that are due into the queue: those never tried first.
    fn fill(&mut self, now: Tick) {
        while let Some((seq, place)) = self.next_outside(now) {
            let Some(owed) = self.owed.get(&seq) else { return };
            let (kind, agent, slot, attempts) = (owed.kind, owed.agent.clone(), owed.slot, owed.attempts);
            let room = self.make_room(now, kind.severity(), attempts);
            if !room && kind.severity() == Severity::Critical {
                return;
            }
            match place {
                Place::Resting(until) => drop(self.resting.remove(&(until, seq))),
                Place::Stalled(until) => drop(self.stalled.remove(&(until, seq))),
                Place::Held | Place::Fresh | Place::Queued => drop(self.fresh.remove(&seq)),
            }
            if !room {
                // Nothing gives way to this one, but it must not stand before
                // those that something gives way to.
                let place = self.rest_until(now + FULL_QUEUE_WAIT, seq);
                self.set_place(seq, place);
                continue;
            }
            self.set_place(seq, Place::Queued);
            self.queue.push(Ticket {
                seq,
                kind,
                agent,
                slot,
                since: now,
                due: now,
                stalled: false,
                under_way: false,
                attempts,
                event: None,
            });
        }
    }

    /// The next verdict that is due outside the queue.
    fn next_outside(&self, now: Tick) -> Option<(u64, Place)> {
        if let Some(&seq) = self.fresh.first() {
            return Some((seq, Place::Fresh));
        }
        let stalled = self.stalled.first().filter(|&&(until, _)| self.answering || until <= now);
        let stalled = stalled.map(|&(until, seq)| (seq, Place::Stalled(until)));
        let resting = self.resting.first().filter(|&&(until, _)| until <= now);
        stalled.or_else(|| resting.map(|&(until, seq)| (seq, Place::Resting(until))))
    }

    fn retry_event(&mut self, now: Tick, at: usize, failure: Failure, asked: Option<Duration>) {
        let ticket = &mut self.queue[at];
        ticket.under_way = false;
        ticket.attempts += 1;
        ticket.stalled = failure.is_general() && asked.is_none();
        ticket.due = now + wait_after(asked, ticket.attempts, ticket.seq);
    }

    fn retry_verdict(&mut self, now: Tick, seq: u64, failure: Failure, asked: Option<Duration>) {
        let Some(owed) = self.owed.get_mut(&seq) else { return };
        owed.attempts += 1;
        let until = now + wait_after(asked, owed.attempts, seq);
        // Who was asked to wait does so even when the station takes others.
        let place = if failure.is_general() && asked.is_none() {
            self.stalled.insert((until, seq));
            Place::Stalled(until)
        } else {
            self.rest_until(until, seq)
        };
        self.set_place(seq, place);
    }

    /// Keeps track of whether the station takes anything at all.
    fn note_station(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Failed(failure, _) if failure.is_general() => {
                self.failures = self.failures.saturating_add(1);
                self.answering = false;
            }
            Outcome::Taken | Outcome::Refused(_) | Outcome::Failed(..) => {
                self.answering |= self.in_outage();
                self.failures = 0;
            }
        }
    }
}

fn may_go(ticket: &Ticket, busy: &[&AgentId]) -> bool {
    !ticket.under_way && !busy.contains(&&ticket.agent)
}

#[cfg(test)]
mod tests;
