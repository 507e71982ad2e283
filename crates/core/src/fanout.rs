//! Which observer watches what, and which messages wait for it.
//!
//! Every observer has a bounded queue, so a slow observer delays nobody. An observer
//! whose queue is full loses the messages that follow, and is told how many.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;

use crate::agent_id::{AgentId, IdRef};

/// The most messages that may wait for one observer.
const MOST_WAITING: usize = 256;

/// What an observer watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The verdicts on all agents, and the alerts.
    All,
    /// Everything of one agent, even if the agent is not known yet.
    One(AgentId),
}

/// Which observers get a message about an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The observers of this agent.
    Own,
    /// The observers of all agents.
    All,
    /// Both.
    Both,
}

/// What waits for an observer.
#[derive(Debug, PartialEq, Eq)]
pub struct Waiting<M: ?Sized> {
    /// The messages that wait, in their order.
    pub messages: VecDeque<Arc<M>>,
    /// How many later messages found no room.
    pub missed: u64,
}

impl<M: ?Sized> Default for Waiting<M> {
    fn default() -> Self {
        Self { messages: VecDeque::new(), missed: 0 }
    }
}

#[derive(Debug)]
struct Observer<W, M: ?Sized> {
    topic: Topic,
    waiting: Waiting<M>,
    waker: W,
}

/// All observers. `W` wakes an observer, `M` is a message.
#[derive(Debug)]
pub struct Fanout<W, M: ?Sized> {
    observers: Slab<Observer<W, M>>,
    all: Vec<usize>,
    by_agent: HashMap<AgentId, Vec<usize>, RandomState>,
    /// How many messages have found no room so far.
    missed: u64,
}

impl<W, M: ?Sized> Default for Fanout<W, M> {
    fn default() -> Self {
        Self { observers: Slab::new(), all: Vec::new(), by_agent: HashMap::default(), missed: 0 }
    }
}

impl<W: Clone, M: ?Sized> Fanout<W, M> {
    /// Adds an observer. Returns its key.
    pub fn join(&mut self, topic: Topic, waker: W) -> usize {
        let key =
            self.observers.insert(Observer { topic: topic.clone(), waiting: Waiting::default(), waker });
        match topic {
            Topic::All => self.all.push(key),
            Topic::One(id) => self.by_agent.entry(id).or_default().push(key),
        }
        key
    }

    /// Removes an observer.
    pub fn leave(&mut self, key: usize) {
        match self.observers.remove(key).topic {
            Topic::All => self.all.retain(|&other| other != key),
            Topic::One(id) => {
                if let Some(keys) = self.by_agent.get_mut(&id) {
                    keys.retain(|&other| other != key);
                    if keys.is_empty() {
                        self.by_agent.remove(&id);
                    }
                }
            }
        }
    }

    /// Queues a message about `agent`. Returns the wakers of the observers that must be
    /// woken.
    pub fn publish(&mut self, agent: &AgentId, to: Audience, message: &Arc<M>) -> Vec<W> {
        let all = if to == Audience::Own { &[] } else { self.all.as_slice() };
        let own = self.by_agent.get(agent).filter(|_| to != Audience::All);
        let of_one = own.into_iter().flatten();
        let mut wake = Vec::new();
        for &key in all.iter().chain(of_one) {
            let Observer { waiting, waker, .. } = &mut self.observers[key];
            if waiting.messages.is_empty() && waiting.missed == 0 {
                wake.push(waker.clone());
            }
            // After a gap nothing is queued until the observer has been told of the gap.
            if waiting.missed == 0 && waiting.messages.len() < MOST_WAITING {
                waiting.messages.push_back(Arc::clone(message));
            } else {
                waiting.missed += 1;
                self.missed += 1;
            }
        }
        wake
    }

    /// Takes what waits for an observer.
    pub fn take(&mut self, key: usize) -> Waiting<M> {
        std::mem::take(&mut self.observers[key].waiting)
    }

    /// Whether an observer watches `agent` alone.
    pub fn is_watched<'i>(&self, agent: impl Into<IdRef<'i>>) -> bool {
        self.by_agent.contains_key(&agent.into())
    }

    /// Whether an observer watches all agents.
    pub fn watches_all(&self) -> bool {
        !self.all.is_empty()
    }

    /// The agents that an observer watches alone.
    pub fn watched(&self) -> impl Iterator<Item = &AgentId> {
        self.by_agent.keys()
    }

    /// The wakers of all observers.
    pub fn wakers(&self) -> impl Iterator<Item = &W> {
        self.observers.iter().map(|(_, observer)| &observer.waker)
    }

    /// How many observers there are.
    pub fn len(&self) -> usize {
        self.observers.len()
    }

    /// Whether there are no observers.
    pub fn is_empty(&self) -> bool {
        self.observers.is_empty()
    }

    /// How many messages have found no room so far.
    pub const fn missed(&self) -> u64 {
        self.missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> AgentId {
        AgentId::new(text).unwrap()
    }

    #[test]
    fn each_observer_gets_what_it_watches() {
        let mut fanout = Fanout::default();
        let all = fanout.join(Topic::All, 'a');
        let one = fanout.join(Topic::One(id("x")), 'x');
        let beat: Arc<str> = "beat".into();
        let status: Arc<str> = "status".into();
        assert_eq!(fanout.publish(&id("x"), Audience::Own, &beat), ['x']);
        assert_eq!(
            fanout.publish(&id("x"), Audience::Both, &status),
            ['a'],
            "the other observer was woken before"
        );
        assert!(fanout.publish(&id("y"), Audience::Both, &status).is_empty());
        assert_eq!(fanout.take(one).messages, [Arc::clone(&beat), Arc::clone(&status)]);
        assert_eq!(fanout.take(all).messages, [Arc::clone(&status), Arc::clone(&status)]);
        assert!(fanout.is_watched(&id("x")) && !fanout.is_watched(&id("y")));
        fanout.leave(one);
        assert!(!fanout.is_watched(&id("x")));
        assert!(fanout.publish(&id("x"), Audience::Own, &beat).is_empty());
        assert_eq!(fanout.len(), 1);
    }

    #[test]
    fn a_full_queue_keeps_the_oldest_and_counts_the_rest() {
        let mut fanout = Fanout::default();
        let slow = fanout.join(Topic::One(id("x")), ());
        for number in 0..MOST_WAITING + 7 {
            fanout.publish(&id("x"), Audience::Own, &number.to_string().into());
        }
        let waiting = fanout.take(slow);
        assert_eq!((waiting.messages.len(), waiting.missed), (MOST_WAITING, 7));
        assert_eq!(&*waiting.messages[MOST_WAITING - 1], (MOST_WAITING - 1).to_string());
        assert_eq!(fanout.missed(), 7);
        assert_eq!(
            fanout.publish(&id("x"), Audience::Own, &"again".into()),
            [()],
            "the observer must be woken again"
        );
        assert_eq!(fanout.take(slow).missed, 0);
    }
}
