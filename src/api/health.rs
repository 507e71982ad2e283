//! The answer to `/health`: that the collector runs, and what it counts.

use std::collections::BTreeMap;

use pap_core::heartbeat::Mode;
use pap_core::time::millis;
use pap_core::verdict::dead_after;
use serde::Serialize;

use super::Endpoints;
use crate::VERSION;

/// The answer to `/health`.
#[derive(Serialize)]
pub struct Health<'a> {
    status: &'a str,
    version: &'a str,
    cluster_id: &'a str,
    cluster_name: &'a str,
    uptime: u64,
    agents: Agents,
    alert_queue: Queue,
    station: Station,
    alertmanagers: Alertmanagers,
    state: State,
    /// For each mode, the silence after which an agent is dead.
    dead_after_ms: BTreeMap<Mode, u64>,
    mass_silence: bool,
}

#[derive(Serialize)]
struct Agents {
    total: usize,
    healthy: usize,
    unhealthy: usize,
}

#[derive(Serialize)]
struct Queue {
    size: usize,
    oldest_age_ms: Option<u64>,
    owed: usize,
}

#[derive(Serialize)]
struct Station {
    configured: bool,
    /// None until something was posted.
    reachable: Option<bool>,
}

#[derive(Serialize)]
struct Alertmanagers {
    configured: usize,
    /// How many Alertmanagers answered the last post, by taking or refusing it.
    reachable: usize,
}

#[derive(Serialize)]
struct State {
    configured: bool,
    /// None until the state was to be saved.
    saved: Option<bool>,
}

impl<'a> Health<'a> {
    /// The present counts.
    pub fn new(of: &'a Endpoints) -> Self {
        let parts = &of.parts;
        let (stats, alert_queue, reachable, alertmanagers, mass_silence) =
            parts.shared.with(|registry, now| {
                let outbox = registry.outbox();
                let queue = Queue {
                    size: outbox.queued(),
                    oldest_age_ms: outbox.oldest(now.tick).map(millis),
                    owed: outbox.owed(),
                };
                let tallies = || registry.firing().tallies(now.tick);
                let alertmanagers = Alertmanagers {
                    configured: tallies().count(),
                    reachable: tallies().filter(|(tally, _)| tally.is_reachable == Some(true)).count(),
                };
                let mass_silence = registry.mass_silence().is_some();
                (registry.stats(), queue, outbox.is_reachable(), alertmanagers, mass_silence)
            });
        let saving = parts.keeper.saving();
        Self {
            status: "healthy",
            version: VERSION,
            cluster_id: &of.cluster_id,
            cluster_name: &of.cluster_name,
            uptime: parts.shared.clock().uptime().reading().as_secs(),
            agents: Agents { total: stats.total(), healthy: stats.healthy(), unhealthy: stats.unhealthy() },
            alert_queue,
            station: Station { configured: of.has_station, reachable: reachable.filter(|_| of.has_station) },
            alertmanagers,
            state: State { configured: saving.is_configured, saved: saving.is_saved },
            dead_after_ms: Mode::ALL.map(|mode| (mode, millis(dead_after(mode, of.grace)))).into(),
            mass_silence,
        }
    }
}
