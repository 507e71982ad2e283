//! The thread that waits for deadlines: of machines, of collectors, of clusters, and of agents
//! that beat here. It renews the lease on awake time, so it never waits for long.

use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pap_core::time::{Uptime, Wall};
use pap_process::clock::wall;
use pap_process::settings::GoDuration;
use rusqlite::{Connection, params};

use crate::event::Event;
use crate::incidents::{self, Subject};
use crate::station::Station;
use crate::watch::Watch;
use crate::{clusters, machines};

/// The longest sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// The shortest: deadlines that are this close pass together.
const SHORTEST_SLEEP: Duration = Duration::from_millis(5);
/// How many that fell silent are stored in one write.
const BATCH: usize = 256;
/// A pause of this process that is longer is logged.
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
        let machines = lose(station, |station| &station.machines, lose_machine);
        if machines == Ok(true) {
            station.news.machines();
        }
        let collectors = lose(station, |station| &station.collectors, lose_collector);
        if collectors == Ok(true) {
            station.news.clusters();
        }
        let lives = lose(station, |station| &station.lives, lose_cluster);
        if lives == Ok(true) {
            station.news.clusters();
            station.reconcile();
        }
        let is_stored = machines.is_ok() && collectors.is_ok() && lives.is_ok();
        let due = station.next_deadline().map_or(longest, |due| due.since(clock.now().tick));
        sleep = match (more, is_stored) {
            (true, _) => Duration::ZERO,
            (_, true) => due.clamp(SHORTEST_SLEEP, longest),
            // What is due could not be stored: try again after the longest sleep.
            (_, false) => longest,
        };
        clock.renew(sleep);
    }
}

/// Takes the machines, collectors or clusters that are silent, and stores what follows for up to
/// [`BATCH`] of them at once. `lose` returns a line for the log, if it is news to people. Returns whether any
/// was taken.
///
/// # Errors
/// What follows cannot be stored, and some are still to be taken.
fn lose<K: Clone + Ord + Hash + Send + 'static>(
    station: &Arc<Station>,
    watch: fn(&Station) -> &Mutex<Watch<K>>,
    lose: fn(&Connection, Wall, &K) -> rusqlite::Result<Option<String>>,
) -> Result<bool, ()> {
    let mut is_any = false;
    loop {
        let now = station.clock.renew(LONGEST_SLEEP).tick;
        station.vitals.swept(station.clock.uptime());
        let due = watch(station).lock().unwrap_or_else(PoisonError::into_inner).overdue(now, BATCH);
        if due.is_empty() || station.stop.is_stopping() {
            return Ok(is_any);
        }
        let (shared, all) = (Arc::clone(station), due.clone());
        let written = station.write(move |connection| {
            let mut lines = Vec::new();
            let mut is_any = false;
            for who in &all {
                // One that was heard while this waited for the writer is not silent.
                let tick = shared.clock.now().tick;
                if watch(&shared).lock().unwrap_or_else(PoisonError::into_inner).take(who, tick) {
                    is_any = true;
                    lines.extend(lose(connection, wall(), who)?);
                }
            }
            Ok((lines, is_any))
        });
        let Ok((lines, were_any)) = written else {
            // They are taken in a later turn.
            let mut watch = watch(station).lock().unwrap_or_else(PoisonError::into_inner);
            for who in &due {
                watch.give_back(who);
            }
            return Err(());
        };
        is_any |= were_any;
        for line in lines {
            log::warn!("{line}");
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "collectors have ids that are no numbers")]
fn lose_machine(connection: &Connection, now: Wall, id: &i64) -> rusqlite::Result<Option<String>> {
    let lost = machines::lose(connection, now, *id)?;
    Ok(lost.map(|machine| {
        let ago = machine.last_seen.map_or(Duration::ZERO, |seen| now.since(seen.into()));
        let ago = GoDuration(Duration::from_secs(ago.as_secs()));
        format!("Machine {} ({}) went offline (last seen: {ago} ago)", machine.id, machine.name)
    }))
}

fn lose_cluster(connection: &Connection, now: Wall, id: &String) -> rusqlite::Result<Option<String>> {
    let was_heard = clusters::die(connection, now, id)?;
    Ok(was_heard.map(|was_heard| {
        let what = if was_heard { "dead" } else { "not heard" };
        format!("cluster {id} is {what}: no heartbeat came within CLEANUP_TIMEOUT")
    }))
}

fn lose_collector(connection: &Connection, now: Wall, id: &String) -> rusqlite::Result<Option<String>> {
    let Some(cluster) = clusters::find_beating(connection, id)? else { return Ok(None) };
    let line = format!("the collector of cluster {id} ({}) is silent", cluster.name);
    let last_beat: Option<u64> = connection
        .prepare_cached("SELECT last_beat_at FROM cluster WHERE id = ?1")?
        .query_row([cluster.row], |row| row.get(0))?;
    let details = serde_json::json!({ "last_seen": last_beat.map(Wall) });
    incidents::open(connection, now, Event::CollectorSilent, &Subject::Cluster(cluster), &details)?;
    Ok(Some(line))
}

/// How often what is older than `ALERT_RETENTION` is removed, and the agents are stored.
const TIDY_EVERY: Duration = Duration::from_secs(600);
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Rows that are removed at once.
const MAX_REMOVED: u32 = 1000;

/// Stores the agents that beat here, and removes what is old, until it is told to stop.
pub fn keep(station: &Station) {
    let mut tidied: Option<Uptime> = None;
    while !station.stop.wait(SAVE_EVERY) {
        save(station);
        if !station.store.is_well() {
            // If nobody else writes, this finds out whether the disk is well again.
            let sql = "INSERT INTO about (name, value) VALUES ('probe', '') ON CONFLICT (name) DO UPDATE SET value = ''";
            let _ = station.store.write(move |connection| connection.execute(sql, []));
        }
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

/// Removes what is older than `ALERT_RETENTION`, a little at a time.
fn tidy(station: &Station) {
    let before = Wall(wall().0.saturating_sub(pap_core::time::millis(station.config.retention)));
    let now = wall();
    let closed = station.write(move |connection| incidents::close_older(connection, now, before));
    match closed {
        Ok(0) => {}
        Ok(count) => log::info!("closed {count} incidents that were open for longer than ALERT_RETENTION"),
        Err(_) => return,
    }
    for sql in [
        "DELETE FROM alert WHERE id IN (SELECT id FROM alert WHERE received_at < ?1 LIMIT ?2)",
        "DELETE FROM incident WHERE id IN
            (SELECT id FROM incident i WHERE closed_at IS NOT NULL AND closed_at < ?1 AND NOT EXISTS (
                SELECT 1 FROM event e JOIN delivery d ON d.event = e.id JOIN channel c ON c.id = d.channel
                WHERE e.incident = i.id AND d.state = 'owed' AND c.is_active)
            AND id IS NOT (SELECT incident FROM event ORDER BY id DESC LIMIT 1) LIMIT ?2)",
        // The last event stays, so that no number is given again: numbers say what was read.
        "DELETE FROM event WHERE id IN (SELECT id FROM event e WHERE at < ?1 AND incident IS NULL
            AND id < (SELECT max(id) FROM event)
            AND NOT EXISTS (SELECT 1 FROM delivery d JOIN channel c ON c.id = d.channel
                WHERE d.event = e.id AND d.state = 'owed' AND c.is_active) LIMIT ?2)",
        "DELETE FROM cluster WHERE id IN
            (SELECT id FROM cluster WHERE deleted_at IS NOT NULL AND deleted_at < ?1 AND NOT EXISTS (
                SELECT 1 FROM incident i WHERE i.cluster = cluster.id) LIMIT ?2)",
        "DELETE FROM report WHERE at < ?1 AND ?2 > 0",
        "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ?1 LIMIT ?2)",
        "DELETE FROM consumer_group WHERE removed_at < ?1 AND ?2 > 0",
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
