//! A trace: what the registry was told, as bytes. It has every accepted heartbeat, every
//! pause, and when verdicts were passed. docs/trace-format.md describes the format.
//!
//! The order of the records is the order in which the registry was called, and each
//! moment is the one that the registry was given. So a program that makes the same
//! calls again gets the same verdicts: see [`crate::replay`].
//!
//! - this file: what a trace can say
//! - [`tape`]: the writing end, which is called under the registry's lock and does no I/O
//! - [`read`]: from bytes to records
//! - `wire`: numbers, blocks and check sums, for both ends

pub mod read;
pub mod tape;
mod wire;

use std::time::Duration;

use crate::agent_id::AgentId;
use crate::due_queues::Slot;
use crate::heartbeat::Mode;
use crate::time::{Tick, Wall};
use crate::verdict::Verdict;

pub use tape::Tape;
pub use wire::MAGIC;

/// The version of the format that is written. All versions up to it are read.
pub const VERSION: u8 = 1;

/// What the records that follow depend on. Each file begins with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The run of the collector: a number that no other run is likely to have.
    pub run: u64,
    /// Counts the files of the run, from 0.
    pub part: u64,
    /// When this head was written.
    pub at: Tick,
    /// The same moment for people.
    pub wall: Wall,
    /// The rules in force.
    pub rules: TracedRules,
}

/// The part of the registry's rules on which verdicts depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedRules {
    /// For each mode, in the order of [`Mode::ALL`]: the silence beyond two intervals
    /// that is allowed.
    pub graces: [Duration; Mode::ALL.len()],
    /// How long a dead agent is remembered.
    pub retention: Duration,
    /// The most agents known at once.
    pub max_agents: u64,
    /// How long the deaths of a mass silence are held back.
    pub mass_silence_hold: Duration,
}

impl TracedRules {
    /// The grace as it was set. None if it was a tenth of each interval, as it is when
    /// nothing is set.
    pub fn grace(&self) -> Option<Duration> {
        let tenths = Mode::ALL.map(|mode| mode.interval() / 10);
        (self.graces != tenths).then_some(self.graces[0])
    }
}

/// A heartbeat that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// When, as the registry was told.
    pub at: Tick,
    /// The agent. The latest [`Record::Named`] with this slot says which one it is.
    pub slot: Slot,
    /// The mode that the agent announced.
    pub mode: Mode,
    /// The uptime that the agent announced, in whole milliseconds.
    pub uptime_ms: u64,
}

/// An agent that was known when the run began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// When the run began.
    pub at: Tick,
    /// The agent.
    pub id: AgentId,
    /// The mode that the agent announced last.
    pub mode: Mode,
    /// The verdict.
    pub verdict: Verdict,
    /// The uptime that the agent announced last, in whole milliseconds.
    pub uptime_ms: u64,
    /// How long the agent has been silent, in whole milliseconds of awake time.
    pub silence_ms: u64,
    /// Its death is held back.
    pub is_held: bool,
    /// How long the agent has been dead, or its death has been held back, in whole
    /// milliseconds; else 0.
    pub dead_ms: u64,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A file or a run begins, or records were lost. The slots that were named before
    /// have no meaning any more.
    Head(Head),
    /// An agent that was known when the run began. These follow the run's first head.
    Known(Known),
    /// From here on the slot stands for this agent.
    Named {
        /// The slot.
        slot: Slot,
        /// The agent.
        id: AgentId,
    },
    /// A heartbeat was accepted.
    Beat(Beat),
    /// Verdicts were passed, or dead agents forgotten.
    Swept {
        /// When, as the registry was told.
        at: Tick,
        /// How many verdicts and forgotten agents it were.
        steps: u64,
    },
    /// An agent said goodbye or was removed.
    Forgot {
        /// When.
        at: Tick,
        /// The agent.
        id: AgentId,
    },
    /// Time passed in which nothing else happened.
    Mark {
        /// The moment until which nothing happened.
        at: Tick,
    },
    /// The collector was not awake. The awake clock stood still meanwhile.
    Paused {
        /// When it was awake again.
        at: Tick,
        /// How long it was not awake.
        time: Duration,
    },
    /// Records were lost here, because the disk was full or too slow.
    Gap {
        /// When records were written again.
        at: Tick,
        /// How many were lost, about.
        lost: u64,
    },
    /// The collector stops: it passes no verdicts from here on.
    Stopped {
        /// When.
        at: Tick,
    },
}
