//! HTTP clients for collectors.

use std::time::Duration;

use pap_process::client::{agent_with, config};

use crate::config::Config;
use crate::reach::Guarded;

/// What the station calls itself.
pub const USER_AGENT: &str = concat!("pap-station/", env!("CARGO_PKG_VERSION"));
/// How long a collector may take to answer a person's question,
const PATIENCE: Duration = Duration::from_secs(10);
/// and a question of the station.
pub const QUICK: Duration = Duration::from_secs(2);

/// Clients that keep no connection open: a collector is asked now and then.
pub struct Clients {
    /// For questions that people ask.
    pub collectors: ureq::Agent,
    /// For questions that the station asks.
    pub quick: ureq::Agent,
}

impl Clients {
    /// With these settings.
    pub fn new(settings: &Config) -> Self {
        let client = |patience| {
            // A list may be long, and all of it is read.
            let config = config(USER_AGENT)
                .timeout_global(Some(patience))
                .timeout_recv_body(None)
                .max_idle_connections(0)
                .max_idle_connections_per_host(0);
            agent_with(config, &settings.roots, Guarded::new(settings.reach.clone()))
        };
        Self { collectors: client(PATIENCE), quick: client(QUICK) }
    }
}
