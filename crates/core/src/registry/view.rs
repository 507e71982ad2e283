//! What the API shows of the registry. The steps are small, because the API takes
//! them under the lock.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Registry;
use crate::agent_id::{AgentId, IdRef};
use crate::alert::seconds;
use crate::heartbeat::Mode;
use crate::time::{Now, Wall};
use crate::verdict::Verdict;

/// An agent as the API shows it, and as a station reads it. Unknown fields are
/// ignored: a newer collector may show more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// The agent's id.
    pub agent_uuid: AgentId,
    /// The agent's name, or its id if it gave no name.
    pub agent_name: String,
    /// The mode that the agent announced.
    pub mode: Mode,
    /// The uptime that the agent announced, in seconds.
    #[serde(serialize_with = "seconds")]
    pub uptime_seconds: f64,
    /// When the agent was last heard.
    pub last_seen: Wall,
    /// `true` unless the agent is dead.
    pub healthy: bool,
    /// Whether an observer watches this agent.
    pub observation_mode: bool,
    /// Heartbeats since the agent was first heard, restarted or came back.
    pub consecutive_heartbeats: u32,
    /// The verdict.
    pub status: Verdict,
    /// When the agent was first heard.
    pub first_seen: Wall,
    /// How long the agent has been silent, in milliseconds of awake time.
    pub silence_ms: u64,
}

/// The agents in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Agents by verdict, in the order of [`Verdict::ALL`].
    pub by_status: [usize; Verdict::ALL.len()],
    /// Agents by mode, in the order of [`Mode::ALL`].
    pub by_mode: [usize; Mode::ALL.len()],
}

impl Stats {
    /// All agents.
    pub fn total(&self) -> usize {
        self.by_mode.iter().sum()
    }

    /// The agents that are dead.
    pub const fn unhealthy(&self) -> usize {
        self.by_status[Verdict::Dead as usize]
    }

    /// The agents that are not dead.
    pub fn healthy(&self) -> usize {
        self.total() - self.unhealthy()
    }
}

/// The agents in numbers, as the API shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsView {
    /// All agents.
    pub total: usize,
    /// The agents that are not dead.
    pub healthy: usize,
    /// The agents that are dead.
    pub unhealthy: usize,
    /// All agents, by mode.
    pub by_mode: BTreeMap<Mode, usize>,
    /// The agents that an observer watches.
    pub observed: usize,
}

/// Which agents to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only agents with this verdict.
    pub status: Option<Verdict>,
    /// Only agents in this mode.
    pub mode: Option<Mode>,
    /// Only agents whose id sorts after this one.
    pub after: Option<AgentId>,
}

impl Registry {
    /// The agents in numbers. The counts are kept, so this looks at no agent.
    pub const fn stats(&self) -> Stats {
        Stats { by_status: self.by_status, by_mode: self.by_mode }
    }

    /// One agent.
    pub fn view<'i>(&self, now: Now, id: impl Into<IdRef<'i>>) -> Option<AgentView> {
        self.slot(id).map(|slot| self.agents[slot as usize].view(now))
    }

    /// How long an agent has been dead; None if it is not dead, or not known.
    pub fn dead_for(&self, now: Now, id: &AgentId) -> Option<Duration> {
        let died = self.died.get(self.slot(id)?)?;
        Some(now.tick.since(died.at))
    }

    /// How long the death of an agent has been held back. None if it is not.
    pub fn held_for(&self, now: Now, id: &AgentId) -> Option<Duration> {
        let held = self.held.get(self.slot(id)?)?;
        Some(now.tick.since(held.at))
    }

    /// The agents in numbers, as the API shows them. Observers watch the agents in
    /// `watched`.
    pub fn stats_view(&self, watched: &[AgentId]) -> StatsView {
        let stats = self.stats();
        StatsView {
            total: stats.total(),
            healthy: stats.healthy(),
            unhealthy: stats.unhealthy(),
            by_mode: Mode::ALL.into_iter().zip(stats.by_mode).collect(),
            observed: watched.iter().filter(|id| self.slot(*id).is_some()).count(),
        }
    }

    /// Adds the ids that pass `filter` in the next `steps` slots, from slot `from`
    /// on, to `ids`. Returns the slot at which to go on, and `None` at the end.
    pub fn scan(&self, filter: &Filter, from: usize, steps: usize, ids: &mut Vec<AgentId>) -> Option<usize> {
        let end = self.slots_end.min(from + steps);
        let agents = (from..end).filter_map(|slot| self.agents.get(slot));
        let passing = agents.filter(|agent| {
            filter.status.is_none_or(|status| agent.status() == status)
                && filter.mode.is_none_or(|mode| agent.mode == mode)
                && filter.after.as_ref().is_none_or(|after| agent.id > *after)
        });
        ids.extend(passing.map(|agent| agent.id.clone()));
        (end < self.slots_end).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read() {
        for status in Verdict::ALL {
            let view = AgentView {
                agent_uuid: AgentId::new("550e8400-e29b-41d4-a716-446655440000").unwrap(),
                agent_name: "näme".into(),
                mode: Mode::Sleep,
                uptime_seconds: 12.5,
                last_seen: Wall(1_764_669_600_123),
                healthy: status != Verdict::Dead,
                observation_mode: true,
                consecutive_heartbeats: 7,
                status,
                first_seen: Wall(1_764_669_600_000),
                silence_ms: 1000,
            };
            let json = serde_json::to_string(&view).unwrap();
            assert_eq!(serde_json::from_str::<AgentView>(&json).unwrap(), view);
            let newer = json.replacen('{', "{\"tenant\":1,", 1);
            assert_eq!(serde_json::from_str::<AgentView>(&newer).unwrap(), view);
        }
        let by_mode = Mode::ALL.into_iter().zip([1, 2, 3]).collect();
        let stats = StatsView { total: 6, healthy: 4, unhealthy: 2, by_mode, observed: 5 };
        let json = serde_json::to_string(&stats).unwrap();
        assert_eq!(serde_json::from_str::<StatsView>(&json).unwrap(), stats);
    }
}
