//! What decides: no I/O, no clock, no lock, no log. Time comes in as a value,
//! effects go out as values, so all of it can be simulated from a seed.
//!
//! - [`heartbeat`]: what an agent sends; [`agent_id`]: whom it is from
//! - [`verdict`]: healthy, suspect, dead, and what leads from one to another
//! - [`registry`]: who is alive, with [`due_queues`]: who falls due next
//! - [`outbox`]: what the station has still to be told, and what goes next
//! - [`alert`]: an alert as it crosses the wire; [`delivery`]: what an answer to it means
//! - [`pace`]: when an agent beats, and to whom
//! - [`fanout`]: who watches what, and what each has still to be sent
//! - [`time`]: moments as values

#![forbid(unsafe_code)]

pub mod agent_id;
pub mod alert;
pub mod delivery;
pub mod due_queues;
pub mod fanout;
pub mod heartbeat;
pub mod outbox;
pub mod pace;
pub mod registry;
pub mod time;
pub mod verdict;
