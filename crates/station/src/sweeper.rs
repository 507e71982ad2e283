//! The thread that waits for deadlines: of machines, of collectors, of agents that beat
//! here. It renews the lease on awake time, so it never waits for long.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pap_core::time::{Uptime, Wall};
use pap_process::clock::wall;
use pap_process::settings::GoDuration;
use rusqlite::params;

use crate::event::Event;
use crate::incidents::{self, Subject};
use crate::station::Station;
use crate::{clusters, machines};

/// The longest sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// The shortest: deadlines that are this close pass together.
const SHORTEST_SLEEP: Duration = Duration::from_millis(5);
/// A pause of this process is logged if it is longer.
const NOTABLE_PAUSE: Duration = Duration::from_secs(1);

/// Sweeps until it is told to stop.
pub fn run(station: &Arc<Station>) {
    log::info!(
        "Heartbeat monitor started (interval: {}, threshold: {})",
        GoDuration(station.config.check_interval),
        GoDuration(station.config.machine_patience)
    );
    let clock = &station.clock;
    let longest = LONGEST_SLEEP.min(station.config.check_interval);
    let mut paused = clock.paused();
    let mut sleep = Duration::ZERO;
    while !station.stop.wait(sleep) {
        let now = clock.renew(Duration::ZERO);
        station.vitals.swept(clock.uptime());
        let pause = clock.paused().saturating_sub(paused);
        if pause > NOTABLE_PAUSE {
            log::warn!("this station was not awake for {pause:.1?}; this time does not count as silence");
        }
        paused += pause;
        let more = station.agents.sweep(now);
        station.agent_bell.ring();
        lose_machines(station);
        lose_collectors(station);
        let due = station.next_deadline().map_or(longest, |due| due.since(clock.now().tick));
        sleep = if more { Duration::ZERO } else { due.clamp(SHORTEST_SLEEP, longest) };
        clock.renew(sleep);
    }
}

fn lose_machines(station: &Arc<Station>) {
    loop {
        let now = station.clock.renew(LONGEST_SLEEP).tick;
        let due = {
            let watch = station.machines.lock().unwrap_or_else(PoisonError::into_inner);
            watch.overdue(now).copied()
        };
        let Some(machine) = due else { return };
        let shared = Arc::clone(station);
        let lost = station.write(move |connection| {
            // Whoever was heard while this waited for the writer is not accused.
            let tick = shared.clock.now().tick;
            if !shared.machines.lock().unwrap_or_else(PoisonError::into_inner).take(&machine, tick) {
                return Ok(None);
            }
            machines::lose(connection, wall(), machine)
        });
        match lost {
            Ok(Some(lost)) => {
                station.news.machines();
                let ago = lost.last_seen.map_or(Duration::ZERO, |seen| wall().since(seen.into()));
                let ago = GoDuration(Duration::from_secs(ago.as_secs()));
                log::warn!("Machine {} ({}) went offline (last seen: {ago} ago)", lost.id, lost.name);
            }
            Ok(None) => {}
            Err(_) => {
                // It is tried again in the next turn.
                station.machines.lock().unwrap_or_else(PoisonError::into_inner).give_back(&machine);
                return;
            }
        }
    }
}

fn lose_collectors(station: &Arc<Station>) {
    loop {
        let now = station.clock.renew(LONGEST_SLEEP).tick;
        let due = {
            let watch = station.collectors.lock().unwrap_or_else(PoisonError::into_inner);
            watch.overdue(now).cloned()
        };
        let Some(cluster_id) = due else { return };
        let (shared, id) = (Arc::clone(station), cluster_id.clone());
        let lost = station.write(move |connection| {
            let tick = shared.clock.now().tick;
            if !shared.collectors.lock().unwrap_or_else(PoisonError::into_inner).take(&id, tick) {
                return Ok(None);
            }
            let Some((cluster, false)) = clusters::find(connection, &id)? else { return Ok(None) };
            let (name, subject) = (cluster.name.clone(), Subject::Cluster(cluster));
            let details = serde_json::json!({});
            incidents::open(connection, wall(), Event::CollectorSilent, &subject, &details)?;
            Ok(Some(name))
        });
        match lost {
            Ok(Some(name)) => {
                station.news.clusters();
                log::warn!("the collector of cluster {cluster_id} ({name}) is silent");
            }
            Ok(None) => {}
            Err(_) => {
                station.collectors.lock().unwrap_or_else(PoisonError::into_inner).give_back(&cluster_id);
                return;
            }
        }
    }
}

/// How often what is older than `ALERT_RETENTION` is removed, and the agents are stored.
const TIDY_EVERY: Duration = Duration::from_secs(600);
const SAVE_EVERY: Duration = Duration::from_secs(15);
/// Rows that are removed at once.
const MAX_REMOVED: u32 = 1000;

/// Stores the agents that beat here, and removes what is old, until it is told to stop.
pub fn keep(station: &Station) {
    let mut tidied: Option<Uptime> = None;
    while !station.stop.wait(SAVE_EVERY) {
        save(station);
        let now = station.clock.uptime();
        if tidied.is_none_or(|at| now.since(at) >= TIDY_EVERY) {
            tidied = Some(now);
            tidy(station);
        }
    }
    save(station);
}

fn save(station: &Station) {
    if let Err(error) = station.agents.save(&station.clock, wall(), &station.store) {
        log::error!("the agents that beat here are not stored: {error}");
    }
}

/// Removes what is older than is kept, a little at a time.
fn tidy(station: &Station) {
    let before = Wall(wall().0.saturating_sub(pap_core::time::millis(station.config.retention)));
    for sql in [
        "DELETE FROM alert WHERE id IN (SELECT id FROM alert WHERE received_at < ?1 LIMIT ?2)",
        "DELETE FROM incident WHERE id IN
            (SELECT id FROM incident WHERE closed_at IS NOT NULL AND closed_at < ?1 LIMIT ?2)",
        "DELETE FROM event WHERE id IN (SELECT id FROM event e WHERE at < ?1 AND incident IS NULL
            AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.event = e.id AND d.state = 'owed') LIMIT ?2)",
        "DELETE FROM cluster WHERE id IN
            (SELECT id FROM cluster WHERE deleted_at IS NOT NULL AND deleted_at < ?1 LIMIT ?2)",
        "DELETE FROM report WHERE at < ?1 AND ?2 > 0",
    ] {
        loop {
            let removed = station
                .store
                .write(move |connection| connection.execute(sql, params![before.0, MAX_REMOVED]));
            match removed {
                Ok(count) if count >= MAX_REMOVED as usize && !station.stop.is_stopping() => {}
                Ok(_) => break,
                Err(error) => {
                    log::error!("what is older than ALERT_RETENTION is not removed: {error}");
                    return;
                }
            }
        }
    }
}
