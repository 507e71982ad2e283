//! The code that decides. The whole crate is pure: no I/O, no clock, no lock, no
//! log. Time comes in as a value, and effects go out as values, so a test can
//! simulate all of it from a seed.
//!
//! - [`heartbeat`]: what an agent sends; [`agent_id`]: the id of the agent that sends it
//! - [`verdict`]: healthy, suspect or dead, and what changes one into another
//! - [`registry`]: which agents are alive; [`due_queues`]: which agent falls due next
//! - [`outbox`]: what the station must still be told, and which alert goes next
//! - [`alert`]: an alert as it crosses the wire; [`delivery`]: what the station's answer to it means
//! - [`firing`]: what is true and told to Alertmanagers again and again
//! - [`reconcile`]: which workers of clusters are made, started and removed
//! - [`link`]: when a collector registers at a pap-station, and when it sends its next beat
//! - [`pace`]: when an agent sends its next heartbeat, and to which targets
//! - [`fanout`]: which observer watches what, and which messages wait for it
//! - [`trace`]: what the registry was told, as bytes; [`replay`]: what a trace says of a grace
//! - [`time`]: moments as values

#![forbid(unsafe_code)]

pub mod agent_id;
pub mod alert;
pub mod delivery;
pub mod due_queues;
pub mod fanout;
pub mod firing;
pub mod heartbeat;
pub mod link;
pub mod outbox;
pub mod pace;
pub mod reconcile;
pub mod registry;
pub mod replay;
pub mod text;
pub mod time;
pub mod trace;
pub mod verdict;
