//! What survives a restart of the outbox. Verdicts are saved with their agents, and
//! events by themselves.
//!
//! A missing field gets the value that accuses no agent. Only the fields marked as
//! required must be there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Event, Outbox, What};
use crate::agent_id::AgentId;
use crate::time::{Now, Tick, Wall, millis};

/// A verdict that is owed, as it is saved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedVerdict {
    /// The alert's number, which it keeps. Required.
    pub seq: u64,
    /// When it happened, in milliseconds since 1970. Required.
    pub at: u64,
    /// For a recovery: how long the agent was dead, in milliseconds.
    #[serde(default)]
    pub span: u64,
}

/// An event that waits, as it is saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedEvent {
    /// The alert's number, which it keeps. Required.
    seq: u64,
    /// How long the event has waited, in milliseconds.
    #[serde(default)]
    age: u64,
    /// Required.
    agent: AgentId,
    /// `None` stands for the id.
    #[serde(default)]
    name: Option<String>,
    /// When it happened, in milliseconds since 1970. Required.
    at: u64,
    /// Required.
    what: What,
}

impl Outbox {
    /// Verdict `seq` as it is saved, if it is owed.
    pub fn saved(&self, seq: u64) -> Option<SavedVerdict> {
        let owed = self.owed.get(seq)?;
        Some(SavedVerdict { seq, at: owed.at.wall.0, span: millis(owed.kind.dead_for()) })
    }

    /// The events that wait, as they are saved.
    pub fn save_events(&self, now: Tick) -> Vec<SavedEvent> {
        let saved = self.queue.events().map(|(seq, since, event)| SavedEvent {
            seq,
            age: millis(now.since(since)),
            agent: event.agent.clone(),
            name: Some(event.name.clone()),
            at: event.at.wall.0,
            what: event.what,
        });
        saved.collect()
    }

    /// Queues the saved events, and numbers new alerts from `seq` on.
    pub fn restore_events(&mut self, now: Tick, seq: u64, events: Vec<SavedEvent>) {
        self.seq = self.seq.max(seq);
        for saved in events {
            let since = now - Duration::from_millis(saved.age);
            let seq = self.number_again(saved.seq);
            let name = saved.name.unwrap_or_else(|| saved.agent.to_string());
            let at = Now { tick: since, wall: Wall(saved.at) };
            let event = Event { agent: saved.agent, name, at, what: saved.what };
            self.queue_event(now, since, seq, event);
        }
    }
}
