//! The station: takes what collectors, agents and machines send, keeps it in one file (the
//! file, `STATION_DB`), and tells people.
//!
//! ```text
//!  collectors --alerts, beats-------> server --> store (one writer) --> event, deliveries
//!  machines, agents --heartbeats--->    |          ^                         |
//!                                    watch, agents |                         v
//!                                       `--- sweeper, elsewhere        notify --> people
//! ```
//!
//! - [`config`]: settings; [`app`]: starts and ends the threads; [`station`]: what they share
//! - [`store`]: the file; [`ids`]: random ids and keys; [`access`]: who may do what
//! - [`alert`]: an alert's body; [`alerts`], [`clusters`], [`machines`], [`incidents`],
//!   [`channels`]: what is stored, and what follows from it
//! - [`event`], [`words`], [`filters`]: what people are told, how, and who wants it
//! - [`watch`]: which machines and collectors are silent; [`agents`]: agents that beat here;
//!   [`elsewhere`], [`asking`]: whether they live at their collector; [`sweeper`]: waits for
//!   deadlines
//! - [`conditions`]: the open incidents, for Alertmanagers
//! - [`registry`]: what follows when clusters are registered or removed; [`kafka`]: the registry
//!   and the heartbeats in Kafka
//! - [`notify`]: delivers; [`clients`], [`reach`]: requests to others
//! - [`api`]: the endpoints; [`metrics`]: counters; [`check`]: asks a running station;
//!   [`import`]: takes over from the machine monitor

pub mod access;
pub mod agents;
pub mod alert;
pub mod alerts;
pub mod api;
pub mod app;
pub mod ask;
pub mod asking;
pub mod audit;
pub mod channels;
pub mod check;
pub mod clients;
pub mod clusters;
pub mod conditions;
pub mod config;
pub mod control;
pub mod elsewhere;
pub mod engine;
pub mod event;
pub mod filters;
pub mod ids;
pub mod import;
pub mod incidents;
pub mod kafka;
pub mod machines;
pub mod metrics;
pub mod notify;
pub mod reach;
pub mod registry;
pub mod standby;
pub mod station;
pub mod store;
pub mod sweeper;
pub mod watch;
pub mod words;
pub mod workers;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
