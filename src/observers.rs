//! The observers, as the rest of the program sees them: when something happens, the
//! observers of its topic are told.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use serde::Serialize;

use crate::state_file::Owner;
use pap_core::agent_id::{AgentId, IdRef};
use pap_core::alert::{Alert, Body};
use pap_core::fanout::{Audience, Fanout, Topic, Waiting};
use pap_core::registry::AgentView;
use pap_core::time::Wall;
use pap_process::clock::wall;

/// Something that happened. Each observer's own thread turns it into JSON, so no
/// other thread waits for that.
#[derive(Debug)]
pub enum News {
    /// A heartbeat was taken.
    Heartbeat(AgentView, Wall),
    /// A verdict has changed.
    Status(AgentView, Wall),
    /// An alert is posted.
    Alert(Alert, Wall),
}

/// A message about an agent.
#[derive(Serialize)]
struct OfAgent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    cluster_id: &'a str,
    agent: &'a AgentView,
    timestamp: Wall,
}

/// A message about an alert.
#[derive(Serialize)]
struct OfAlert<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    cluster_id: &'a str,
    alert: &'a Body,
    timestamp: Wall,
}

/// All observers.
pub struct Observers {
    owner: Owner,
    most: usize,
    /// How many observers are in `fanout`; read without taking its lock.
    count: AtomicUsize,
    ending: AtomicBool,
    fanout: Mutex<Fanout<Arc<OwnedFd>, News>>,
    /// Notified when an observer is gone.
    gone: Condvar,
}

impl Observers {
    /// No observers yet, and at most `most` at once.
    pub fn new(owner: Owner, most: usize) -> Self {
        let (count, ending) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { owner, most, count, ending, fanout: Mutex::default(), gone: Condvar::new() }
    }

    /// Adds an observer; None if there are as many as allowed.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn join(self: &Arc<Self>, topic: Topic) -> io::Result<Option<Observation>> {
        let waker = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let mut fanout = self.lock();
        if fanout.len() >= self.most {
            return Ok(None);
        }
        let key = fanout.join(topic, Arc::clone(&waker));
        self.count.store(fanout.len(), Ordering::SeqCst);
        drop(fanout);
        Ok(Some(Observation { observers: Arc::clone(self), key, waker }))
    }

    /// Whether somebody observes exactly this agent. Without any observers it reads
    /// one number and takes no lock.
    pub fn is_watched<'i>(&self, agent: impl Into<IdRef<'i>>) -> bool {
        self.count() > 0 && self.lock().is_watched(agent)
    }

    /// The agents that have an observer of their own.
    pub fn watched(&self) -> Vec<AgentId> {
        if self.count() == 0 { Vec::new() } else { self.lock().watched().cloned().collect() }
    }

    /// How many observers there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Whether there are as many observers as allowed.
    pub fn is_full(&self) -> bool {
        self.count() >= self.most
    }

    /// How many messages were dropped because an observer was too slow.
    pub fn missed(&self) -> u64 {
        self.lock().missed()
    }

    /// A heartbeat was taken from an agent that has an observer.
    pub fn heartbeat(&self, mut agent: AgentView) {
        agent.observation_mode = true;
        let id = agent.agent_uuid.clone();
        self.publish(&id, Audience::Own, News::Heartbeat(agent, wall()));
    }

    /// The verdict on an agent has changed.
    pub fn status(&self, agent: &AgentView) {
        if self.count() > 0 {
            let view = AgentView { observation_mode: self.is_watched(&agent.agent_uuid), ..agent.clone() };
            self.publish(&agent.agent_uuid, Audience::Both, News::Status(view, wall()));
        }
    }

    /// An alert is about to be posted. Observers are told of the first attempt only.
    pub fn alert(&self, alert: &Alert) {
        if self.count() > 0 && alert.attempts == 0 {
            self.publish(&alert.agent, Audience::All, News::Alert(alert.clone(), wall()));
        }
    }

    /// Asks all observers' threads to end their streams.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.lock().wakers().for_each(|waker| wake(waker));
    }

    /// Waits until all observers have gone, at most for `longest`.
    pub fn await_end(&self, longest: Duration) {
        let gone = self.gone.wait_timeout_while(self.lock(), longest, |fanout| !fanout.is_empty());
        drop(gone);
    }

    /// Lets observers join again after [`end`](Self::end).
    pub fn resume(&self) {
        self.ending.store(false, Ordering::SeqCst);
    }

    /// The message for an observer, as JSON.
    pub fn to_json(&self, news: &News) -> String {
        let cluster_id = &self.owner.cluster_id;
        let of_agent = |kind, agent, &timestamp: &Wall| {
            serde_json::to_string(&OfAgent { kind, cluster_id, agent, timestamp })
        };
        let text = match news {
            News::Heartbeat(agent, at) => of_agent("heartbeat", agent, at),
            News::Status(agent, at) => of_agent("status", agent, at),
            News::Alert(alert, at) => {
                let alert = &alert.body(cluster_id, &self.owner.instance);
                serde_json::to_string(&OfAlert { kind: "alert", cluster_id, alert, timestamp: *at })
            }
        };
        debug_assert!(text.is_ok(), "news has text keys and finite numbers");
        text.unwrap_or_default()
    }

    fn publish(&self, agent: &AgentId, to: Audience, news: News) {
        let woken = self.lock().publish(agent, to, &Arc::new(news));
        for waker in woken {
            wake(&waker);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Fanout<Arc<OwnedFd>, News>> {
        self.fanout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: &OwnedFd) {
    // A write fails only if the counter is full, and then the thread wakes anyway.
    let _ = rustix::io::write(waker, &1_u64.to_ne_bytes());
}

/// One observer's place among the observers. Dropping it gives the place up.
pub struct Observation {
    observers: Arc<Observers>,
    key: usize,
    waker: Arc<OwnedFd>,
}

impl Observation {
    /// Takes the messages that wait for this observer.
    pub fn take(&self) -> Waiting<News> {
        // Reset first: a message that comes after this line wakes the thread again.
        let _ = rustix::io::read(&*self.waker, &mut [0; 8]);
        self.observers.lock().take(self.key)
    }

    /// The observers to which this one belongs.
    pub fn observers(&self) -> &Observers {
        &self.observers
    }

    /// Whether this observer is asked to end.
    pub fn is_ending(&self) -> bool {
        self.observers.ending.load(Ordering::SeqCst)
    }
}

impl AsFd for Observation {
    /// Becomes readable when a message waits, or when this observer is asked to end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let mut fanout = self.observers.lock();
        fanout.leave(self.key);
        self.observers.count.store(fanout.len(), Ordering::SeqCst);
        drop(fanout);
        self.observers.gone.notify_all();
    }
}
