//! The list of agents, made in bounded steps while it is sent. So the lock is never held
//! for long, and the whole text is never in memory.

use std::io::{self, Read};
use std::sync::Arc;

use serde::Serialize;

use super::target::Listing;
use crate::parts::Parts;
use crate::shared::Shared;
use pap_core::agent_id::AgentId;
use pap_core::registry::{AgentView, Filter, StatsView};

/// Places looked at while the lock is held.
const SCAN_STEP: usize = 4096;
/// Agents copied while the lock is held.
const COPY_STEP: usize = 128;

/// A list of agents while it is sent.
pub struct AgentList {
    parts: Arc<Parts>,
    ids: std::vec::IntoIter<AgentId>,
    next: Option<AgentId>,
    is_first: bool,
    is_done: bool,
    text: io::Cursor<Vec<u8>>,
}

impl AgentList {
    /// The agents that `listing` asks for, ordered by id.
    pub fn new(
        parts: Arc<Parts>,
        cluster_id: &str,
        cluster_name: &str,
        listing: &Listing,
    ) -> io::Result<Self> {
        #[derive(Serialize)]
        struct Head<'a> {
            cluster_id: &'a str,
            cluster_name: &'a str,
            stats: StatsView,
        }
        let mut ids = matching(&parts.shared, &listing.filter, listing.limit);
        let mut next = None;
        if let Some(limit) = listing.limit.filter(|&limit| ids.len() > limit) {
            ids.truncate(limit);
            next = ids.last().cloned();
        }
        let watched = parts.observers.watched();
        let stats = parts.shared.with(|registry, _| registry.stats_view(&watched));
        let mut text = serde_json::to_vec(&Head { cluster_id, cluster_name, stats })?;
        // Without its last brace: the agents follow.
        text.pop();
        text.extend_from_slice(b",\"agents\":[");
        let text = io::Cursor::new(text);
        Ok(Self { parts, ids: ids.into_iter(), next, is_first: true, is_done: false, text })
    }

    fn refill(&mut self) -> io::Result<()> {
        let ids: Vec<AgentId> = self.ids.by_ref().take(COPY_STEP).collect();
        let mut views: Vec<AgentView> = self.parts.shared.with(|registry, now| {
            // An agent that was forgotten meanwhile is no longer listed.
            ids.iter().filter_map(|id| registry.view(now, id)).collect()
        });
        for view in &mut views {
            view.observation_mode = self.parts.observers.is_watched(&view.agent_uuid);
        }
        let mut text = std::mem::take(self.text.get_mut());
        text.clear();
        for view in &views {
            if !std::mem::take(&mut self.is_first) {
                text.push(b',');
            }
            serde_json::to_writer(&mut text, view)?;
        }
        if ids.len() < COPY_STEP {
            self.is_done = true;
            text.push(b']');
            if let Some(next) = self.next.take() {
                text.extend_from_slice(b",\"next\":");
                serde_json::to_writer(&mut text, &next)?;
            }
            text.push(b'}');
        }
        self.text = io::Cursor::new(text);
        Ok(())
    }
}

impl Read for AgentList {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.text.position() == self.text.get_ref().len() as u64 && !self.is_done {
            self.refill()?;
        }
        self.text.read(out)
    }
}

/// The ids that pass the filter, in order: all of them, or at most one more than `limit`.
fn matching(shared: &Shared, filter: &Filter, limit: Option<usize>) -> Vec<AgentId> {
    let mut ids = Vec::new();
    let mut from = Some(0);
    while let Some(place) = from {
        from = shared.with(|registry, _| registry.scan(filter, place, SCAN_STEP, &mut ids));
        if let Some(limit) = limit.filter(|limit| ids.len() > 2 * limit + SCAN_STEP) {
            ids.select_nth_unstable(limit);
            ids.truncate(limit + 1);
        }
    }
    ids.sort_unstable();
    ids.truncate(limit.map_or(usize::MAX, |limit| limit + 1));
    ids
}
