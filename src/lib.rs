//! The collector, and `pap-heartbeat`, the half that beats for an agent.
//!
//! ```text
//!  agents --HTTP--> server --Heartbeat--> registry --Change--> log, observers
//!                   (pool)           (mutex)  \
//!                                      ^       `--Alert--> bounded channel --> alerters --HTTPS--> station
//!                                   sweeper                                    (owed again when not taken)
//! ```
//!
//! Heartbeats flow from left to right; nothing on the right can make the left
//! wait. What decides is in `pap-core`; here are the threads that perform:
//! [`app`] starts and ends them, [`parts`] is what they share, [`shared`] their
//! one mutex. [`server`] takes requests, [`sweeper`] waits for deadlines,
//! [`dispatch`] hands out alerts, [`alerter`] and [`alert_client`] post them,
//! [`observers`] are told what happens, [`emitter`] beats.

pub mod alert_client;
pub mod alerter;
pub mod api;
pub mod app;
pub mod check;
pub mod config;
pub mod dispatch;
pub mod emitter;
pub mod limits;
pub mod metrics;
pub mod news;
pub mod observers;
pub mod parts;
pub mod readiness;
pub mod shared;
pub mod state_file;
pub mod state_keeper;
pub mod sweeper;
pub mod vitals;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
