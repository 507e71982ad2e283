//! The bounded queue before the senders: which alert goes next, which gives way, and
//! which has waited for too long.
//!
//! For every question there is an order that is kept up to date, so no call looks
//! through the queue while heartbeats wait for the lock. [`Tickets::file`] puts a
//! ticket into these orders, and [`Tickets::unfile`] takes it out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slab::Slab;

use super::Event;
use super::due::Due;
use crate::agent_id::AgentId;
use crate::alert::Severity;
use crate::time::Tick;

/// How an alert compares with others. The alert with the lowest value goes first, and
/// the one with the highest gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Worth {
    severity: Reverse<Severity>,
    /// How often the alert was posted in vain.
    attempts: u32,
}

impl Worth {
    pub const fn new(severity: Severity, attempts: u32) -> Self {
        Self { severity: Reverse(severity), attempts }
    }
}

/// The order in which alerts go: by worth, then by number.
type Rank = (Worth, u64);

/// The lowest of all ranks.
const FIRST: Rank = (Worth::new(Severity::Critical, 0), 0);

/// The groups of tickets that can go if their agents are not busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// At once.
    Due,
    /// If the station answers again.
    Stalled,
}

/// One place in the queue.
#[derive(Debug)]
struct Ticket {
    worth: Worth,
    /// When the alert joined the queue.
    since: Tick,
    due: Due,
    lane: usize,
    under_way: bool,
    /// The event itself. `None` for a verdict, which is in `Outbox::owed`.
    event: Option<Box<Event>>,
}

/// The tickets of one agent. Only the first ticket of each group, the head, can go
/// next. While the agent is busy, no ticket can go.
#[derive(Debug)]
struct Lane {
    agent: AgentId,
    /// How many tickets the agent has in all.
    tickets: usize,
    /// One of them is under way.
    is_busy: bool,
    waiting: BTreeSet<(Group, Rank)>,
}

impl Lane {
    fn heads(&self) -> impl Iterator<Item = (Group, Rank)> {
        let groups = [Group::Due, Group::Stalled].into_iter().filter(|_| !self.is_busy);
        groups.filter_map(|group| first_of(&self.waiting, group))
    }
}

fn first_of(set: &BTreeSet<(Group, Rank)>, group: Group) -> Option<(Group, Rank)> {
    set.range((group, FIRST)..).next().filter(|(found, _)| *found == group).copied()
}

/// The queue.
#[derive(Debug, Default)]
pub struct Tickets {
    by_seq: BTreeMap<u64, Ticket>,
    under_way: usize,
    /// All tickets by age, the oldest first.
    by_age: BTreeSet<(Tick, u64)>,
    /// All tickets that are not under way.
    waiting: BTreeSet<Rank>,
    /// The waiting tickets that are due only at a certain moment.
    timed: BTreeSet<(Tick, u64)>,
    lanes: Slab<Lane>,
    lane_of: BTreeMap<AgentId, usize>,
    /// The heads of all lanes.
    heads: BTreeSet<(Group, Rank)>,
}

impl Tickets {
    pub fn len(&self) -> usize {
        self.by_seq.len()
    }

    /// How many tickets are under way.
    pub const fn under_way(&self) -> usize {
        self.under_way
    }

    pub fn contains(&self, seq: u64) -> bool {
        self.by_seq.contains_key(&seq)
    }

    pub fn is_under_way(&self, seq: u64) -> bool {
        self.by_seq.get(&seq).is_some_and(|ticket| ticket.under_way)
    }

    /// The event with this number. `None` for a verdict.
    pub fn event(&self, seq: u64) -> Option<&Event> {
        self.by_seq.get(&seq)?.event.as_deref()
    }

    /// All events, by number, with the moments at which they joined.
    pub fn events(&self) -> impl Iterator<Item = (u64, Tick, &Event)> {
        let tickets = self.by_seq.iter();
        tickets.filter_map(|(&seq, ticket)| Some((seq, ticket.since, ticket.event.as_deref()?)))
    }

    /// How often alert `seq` was posted in vain.
    pub fn attempts(&self, seq: u64) -> u32 {
        self.by_seq.get(&seq).map_or(0, |ticket| ticket.worth.attempts)
    }

    /// Adds a ticket that may go at once. `seq` is not in the queue before.
    pub fn join(&mut self, seq: u64, agent: &AgentId, worth: Worth, since: Tick, event: Option<Box<Event>>) {
        debug_assert!(!self.contains(seq), "alert {seq} is in the queue already");
        let lane = self.lane_of.get(agent).copied().unwrap_or_else(|| self.open_lane(agent));
        self.lanes[lane].tickets += 1;
        self.by_seq.insert(seq, Ticket { worth, since, due: Due::Now, lane, under_way: false, event });
        self.by_age.insert((since, seq));
        self.file(seq);
    }

    /// Removes a ticket, under way or not. Returns the event if it is one.
    pub fn remove(&mut self, seq: u64) -> Option<Box<Event>> {
        self.unfile(seq);
        let Some(ticket) = self.by_seq.remove(&seq) else { unreachable!("unfile has just found it") };
        self.by_age.remove(&(ticket.since, seq));
        let lane = &mut self.lanes[ticket.lane];
        lane.tickets -= 1;
        if lane.tickets == 0 {
            let lane = self.lanes.remove(ticket.lane);
            self.lane_of.remove(&lane.agent);
        }
        ticket.event
    }

    /// The next alert to go: it is due, and its agent is not busy. Call
    /// [`let_go`](Self::let_go) first, for the tickets whose moment has come.
    pub fn next(&self, answering: bool) -> Option<u64> {
        let groups = [Some(Group::Due), answering.then_some(Group::Stalled)];
        let heads = groups.into_iter().flatten().filter_map(|group| first_of(&self.heads, group));
        heads.map(|(_, rank)| rank).min().map(|(_, seq)| seq)
    }

    /// The earliest moment at which [`next`](Self::next) may return an alert.
    pub fn next_due(&self, answering: bool) -> Option<Tick> {
        match self.next(answering) {
            Some(_) => Some(Tick::MIN),
            None => self.timed.first().map(|&(moment, _)| moment),
        }
    }

    /// Makes the tickets due whose moment has come.
    pub fn let_go(&mut self, now: Tick) {
        while let Some(&(_, seq)) = self.timed.first().filter(|&&(moment, _)| moment <= now) {
            self.change(seq, |ticket| ticket.due = Due::Now);
        }
    }

    /// Takes note that the alert is being posted.
    pub fn post(&mut self, seq: u64) {
        self.change(seq, |ticket| ticket.under_way = true);
    }

    /// Takes note that the post of the alert failed. `due` says when to try again.
    pub fn failed(&mut self, seq: u64, due: Due) {
        self.change(seq, |ticket| {
            ticket.under_way = false;
            ticket.worth.attempts += 1;
            ticket.due = due;
        });
    }

    /// A waiting ticket that has been in the queue for `ttl`.
    pub fn expired(&self, now: Tick, ttl: Duration) -> Option<u64> {
        self.oldest_waiting().filter(|&(since, _)| now >= since + ttl).map(|(_, seq)| seq)
    }

    /// When the next waiting ticket will have been in the queue for `ttl`.
    pub fn next_expiry(&self, ttl: Duration) -> Option<Tick> {
        self.oldest_waiting().map(|(since, _)| since + ttl)
    }

    /// When the oldest ticket joined the queue.
    pub fn oldest(&self) -> Option<Tick> {
        self.by_age.first().map(|&(since, _)| since)
    }

    /// The waiting ticket that gives way first: the oldest of those that matter least.
    pub fn least(&self) -> Option<(Worth, u64)> {
        let &(worth, _) = self.waiting.last()?;
        self.waiting.range((worth, 0)..).next().copied()
    }

    /// The search is short: at most as many tickets are under way as there are senders.
    fn oldest_waiting(&self) -> Option<(Tick, u64)> {
        self.by_age.iter().find(|&&(_, seq)| !self.is_under_way(seq)).copied()
    }

    fn open_lane(&mut self, agent: &AgentId) -> usize {
        let agent = agent.clone();
        let waiting = BTreeSet::new();
        let lane = self.lanes.insert(Lane { agent: agent.clone(), tickets: 0, is_busy: false, waiting });
        self.lane_of.insert(agent, lane);
        lane
    }

    fn change(&mut self, seq: u64, change: impl FnOnce(&mut Ticket)) {
        self.unfile(seq);
        self.by_seq.get_mut(&seq).map(change);
        self.file(seq);
    }

    /// Puts a ticket into all orders but `by_age`.
    fn file(&mut self, seq: u64) {
        let ticket = &self.by_seq[&seq];
        let (lane, rank) = (ticket.lane, (ticket.worth, seq));
        if ticket.under_way {
            debug_assert!(!self.lanes[lane].is_busy, "two alerts of one agent are under way");
            self.under_way += 1;
            return self.change_lane(lane, |lane| lane.is_busy = true);
        }
        self.waiting.insert(rank);
        if let Due::WhenAnswering(moment) | Due::At(moment) = ticket.due {
            self.timed.insert((moment, seq));
        }
        if let Some(group) = group(ticket.due) {
            self.change_lane(lane, |lane| lane.waiting.extend([(group, rank)]));
        }
    }

    /// Takes a ticket out of all orders but `by_age`.
    fn unfile(&mut self, seq: u64) {
        let ticket = &self.by_seq[&seq];
        let (lane, rank) = (ticket.lane, (ticket.worth, seq));
        if ticket.under_way {
            self.under_way -= 1;
            return self.change_lane(lane, |lane| lane.is_busy = false);
        }
        self.waiting.remove(&rank);
        if let Due::WhenAnswering(moment) | Due::At(moment) = ticket.due {
            self.timed.remove(&(moment, seq));
        }
        if let Some(group) = group(ticket.due) {
            self.change_lane(lane, |lane| {
                let was_there = lane.waiting.remove(&(group, rank));
                debug_assert!(was_there, "alert {seq} is not in its lane");
            });
        }
    }

    fn change_lane(&mut self, lane: usize, change: impl FnOnce(&mut Lane)) {
        let lane = &mut self.lanes[lane];
        for head in lane.heads() {
            self.heads.remove(&head);
        }
        change(lane);
        self.heads.extend(lane.heads());
    }

    /// Checks that the orders and the tickets agree; for tests.
    ///
    /// # Panics
    /// An order is wrong.
    pub fn audit(&self) {
        let is_waiting = |(_, ticket): &(&u64, &Ticket)| !ticket.under_way;
        let waiting = || self.by_seq.iter().filter(is_waiting);
        assert_eq!(self.under_way, self.by_seq.len() - waiting().count());
        assert_eq!(self.by_age, self.by_seq.iter().map(|(&seq, ticket)| (ticket.since, seq)).collect());
        assert_eq!(self.waiting, waiting().map(|(&seq, ticket)| (ticket.worth, seq)).collect());
        let moments = waiting().filter(|(_, ticket)| ticket.due != Due::Now);
        assert_eq!(self.timed, moments.map(|(&seq, ticket)| (ticket.due.moment(false), seq)).collect());
        assert_eq!(self.heads, self.lanes.iter().flat_map(|(_, lane)| lane.heads()).collect());
        assert_eq!(self.lanes.len(), self.lane_of.len());
        assert_eq!(self.lanes.iter().map(|(_, lane)| lane.tickets).sum::<usize>(), self.by_seq.len());
        let in_groups = waiting().filter(|(_, ticket)| group(ticket.due).is_some()).count();
        assert_eq!(self.lanes.iter().map(|(_, lane)| lane.waiting.len()).sum::<usize>(), in_groups);
    }
}

const fn group(due: Due) -> Option<Group> {
    match due {
        Due::Now => Some(Group::Due),
        Due::WhenAnswering(_) => Some(Group::Stalled),
        Due::At(_) => None,
    }
}
