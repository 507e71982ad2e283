//! The collector, and `pap-heartbeat`, which sends the heartbeats of an agent.
//!
//! ```text
//!  agents --HTTP--> server --Heartbeat--> registry --Change--> log, observers
//!               (event loops)        (mutex)  \
//!                                      ^       `--Alert--> bounded channel --> senders --HTTPS--> station
//!                                   sweeper                                    (still owed if not taken)
//! ```
//!
//! Heartbeats flow from left to right; nothing on the right can make the left
//! wait. The code that decides is in `pap-core`; the threads that perform are here.
//! [`app`] starts and ends the threads, [`parts`] holds what they share, [`shared`]
//! has their one mutex. [`pap_http`] takes requests and [`api`] answers them,
//! [`sweeper`] waits for deadlines, [`dispatch`] hands out alerts, [`alerter`] and
//! [`alert_client`] post them, [`conditions`] tells Alertmanagers what is true,
//! [`station_link`] registers the cluster at a pap-station and sends it beats,
//! [`observers`] tells the observers what happens,
//! [`emitter`] sends heartbeats.

pub mod admin;
pub mod alert_client;
pub mod alerter;
pub mod api;
pub mod app;
pub mod ask;
pub mod commands;
pub mod conditions;
pub mod config;
pub mod dispatch;
pub mod emitter;
pub mod metrics;
pub mod news;
pub mod observers;
pub mod parts;
pub mod readiness;
pub mod shared;
pub mod state_file;
pub mod state_keeper;
pub mod station_link;
pub mod sweeper;
pub mod trace_writer;
pub mod vitals;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the collector calls itself in its requests.
pub const USER_AGENT: &str = concat!("pap-collector/", env!("CARGO_PKG_VERSION"));
