//! The agents of a running collector, as its API lists them, and a table of them.

use std::fmt::Write as _;

use pap_core::agent_id::AgentId;
use pap_core::registry::{AgentView, StatsView};
use pap_core::verdict::Verdict;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use pap_process::escape::for_terminal;

use crate::ask::Collector;

/// A part of the list of agents. Each agent is an [`AgentView`] or its JSON.
#[derive(Debug, Deserialize)]
pub struct Part<A> {
    /// The cluster's id.
    pub cluster_id: String,
    /// The cluster's name for people.
    pub cluster_name: String,
    /// The agents in numbers.
    pub stats: StatsView,
    /// The agents, ordered by id.
    pub agents: Vec<A>,
    /// The id after which the list goes on.
    #[serde(default)]
    pub next: Option<AgentId>,
}

/// An agent, as the API shows it.
pub type Json = Box<RawValue>;

/// Asks for at most `limit` agents with this verdict, after the agent `after`.
///
/// # Errors
/// Nobody answers, or the answer is no list. The text is one line for people.
pub fn part<A: DeserializeOwned>(
    collector: &mut Collector,
    status: Option<Verdict>,
    limit: usize,
    after: Option<&AgentId>,
) -> Result<Part<A>, String> {
    let status = status.map(|status| format!("&status={}", status.as_str())).unwrap_or_default();
    let after = after.map(|after| format!("&after={}", after.to_path())).unwrap_or_default();
    let answer = collector.get(&format!("/agents?limit={limit}{status}{after}"))?;
    let place = &answer.place;
    match answer.status {
        200 => serde_json::from_slice(&answer.body).map_err(|error| format!("{place}: {error}")),
        401 => Err(format!("{place} asks for a key: set COLLECTOR_API_KEY")),
        status => Err(format!("{place} answers {status}")),
    }
}

/// The heading of the table.
pub const HEADING: &str = "STATUS   MODE       SILENT  UPTIME  AGENT";

/// A line of the table.
pub fn line(agent: &AgentView) -> String {
    let mut line = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        line,
        "{:8} {:9} {:>7} {:>7}  {}",
        agent.status.as_str(),
        agent.mode.as_str(),
        span(agent.silence_ms / 1000),
        span(uptime(agent)),
        for_terminal(&agent.agent_uuid.to_string()),
    );
    if agent.agent_uuid != *agent.agent_name {
        let _ = write!(line, "  {}", for_terminal(&agent.agent_name));
    }
    line
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the fraction of a second is not shown, and an uptime is not negative"
)]
fn uptime(agent: &AgentView) -> u64 {
    agent.uptime_seconds as u64
}

/// A span of time in its two largest units.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_its_two_largest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m01s"),
            (3600, "1h00m"),
            (90_061, "1d01h"),
            (8_640_000, "100d00h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
