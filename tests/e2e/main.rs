//! The real programs over real sockets, as their users have them. In one
//! program, so that tests which wait for a deadline of ten seconds wait side by
//! side.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::float_cmp,
    clippy::cast_precision_loss,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

#[path = "../support/agent.rs"]
mod agent;
#[allow(dead_code, reason = "the tests use a part of it")]
#[path = "../../examples/swarm/play/mod.rs"]
mod play;
#[path = "../support/mod.rs"]
mod support;

mod admin;
mod alertmanager;
mod check;
mod daemon;
mod heartbeat;
mod http;
mod idle;
mod keys;
mod machine;
mod mass;
mod observe;
mod pages;
mod paths;
mod readme;
mod registration;
mod replay;
mod restart;
mod station_link;
mod swarm;
mod tls;
mod upgrade;
mod urls;

use support::station;
