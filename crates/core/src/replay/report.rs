//! What a replay found. As JSON it is what `pap-collector replay --json` prints.

use serde::Serialize;

use crate::agent_id::AgentId;

/// The result of a replay. Deaths are those under the grace that was asked for, or
/// else the recorded ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The agents in the trace.
    pub agents: usize,
    /// The accepted heartbeats in the trace.
    pub heartbeats: u64,
    /// How often an agent was dead.
    pub deaths: u64,
    /// How many of these deaths were false: the agent came back with a higher uptime.
    pub false_deaths: u64,
    /// The same under the recorded rules.
    pub recorded: Recorded,
    /// How late the deaths that were not false were told.
    pub lateness_ms: Lateness,
    /// How far heartbeats were from the moment at which they were expected.
    pub jitter: Vec<Bucket>,
    /// The agents that were silent for two intervals or more while they lived; the
    /// longest silence comes first.
    pub irregular: Vec<Irregular>,
}

/// The deaths under the recorded rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Recorded {
    /// The grace when the trace ended, in milliseconds; None if each mode had its own,
    /// a tenth of the interval.
    pub grace_ms: Option<u64>,
    /// How often an agent was dead.
    pub deaths: u64,
    /// How many of these deaths were false.
    pub false_deaths: u64,
}

/// From the last heartbeat to the verdict, in milliseconds, exact to a thousandth; None
/// if there was no such death.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lateness {
    /// Half of them.
    pub p50: Option<u64>,
    /// All but one in a hundred.
    pub p99: Option<u64>,
    /// All of them.
    pub max: Option<u64>,
}

/// A part of the heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// At most this far, in milliseconds, and farther than the bucket before; None for
    /// everything beyond.
    pub upto_ms: Option<u64>,
    /// How many.
    pub count: u64,
}

/// An agent whose heartbeats are irregular.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Irregular {
    /// The agent.
    pub agent_uuid: AgentId,
    /// The least grace under which it would never have been falsely dead, in
    /// milliseconds.
    pub least_grace_ms: u64,
}
