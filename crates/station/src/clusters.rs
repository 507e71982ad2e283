//! Clusters: registered by a person, a collector, the chart's hooks or Kafka, or known by their
//! first alert or beat.

mod registry;

use std::collections::BTreeMap;
use std::time::Duration;

use pap_core::reconcile::Standing;
use pap_core::time::Wall;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::event::Event;
use crate::incidents::{self, AgentFacts, Closer, ClusterName, Subject};
use crate::kafka::groups;

pub use registry::{
    Applied, Heard, REMEMBERED, What, Word, apply, forget_removed, holds, name_and_version, sign, whose,
    would_change,
};

/// The longest id, in bytes.
const MAX_ID: usize = 100;

/// Whether this can be a cluster's id: a letter or digit, then letters, digits, `.`, `-`
/// and `_`. It stands in paths, in names of containers and in labels.
pub fn is_id(id: &str) -> bool {
    id.len() <= MAX_ID
        && id.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// Which clusters are taken in.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// `AUTO_REGISTER`.
    pub auto_register: bool,
    /// `MAX_CLUSTERS`.
    pub max_clusters: u64,
}

/// A cluster that is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It was removed.
    Gone,
    /// Nobody has registered it.
    Unknown,
    /// There is no room for it.
    Full,
}

/// A cluster as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterView {
    cluster_id: String,
    name: String,
    description: Option<String>,
    collector_url: Option<String>,
    status: &'static str,
    /// What its signs of life say: `active`, `stale`, `dead` or `unknown`.
    state: &'static str,
    version: Option<String>,
    agent_count: u64,
    healthy_agent_count: u64,
    open_alerts: u64,
    last_alert_at: Option<Wall>,
    last_seen_at: Option<Wall>,
    created_at: Wall,
    updated_at: Wall,
    #[serde(skip)]
    has_signs: bool,
    #[serde(skip)]
    is_dead: bool,
}

/// What the signs of life of a cluster say, and its name in the API and in the metrics.
pub const STATES: [&str; 4] = ["active", "stale", "dead", "unknown"];

impl ClusterView {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.cluster_id
    }

    /// What its signs of life say.
    pub const fn state(&self) -> &'static str {
        self.state
    }

    /// Judges it by how long it has given no sign of life while this station was awake.
    pub fn judge(&mut self, silence: Option<Duration>, stale_after: Duration) {
        self.state = match silence {
            _ if self.is_dead && self.has_signs => STATES[2],
            Some(silence) if self.has_signs => STATES[usize::from(silence >= stale_after)],
            _ => STATES[3],
        };
    }
}

const COLUMNS: &str = "id, cluster_id, name, description, collector_url, version, agent_count,
    healthy_agent_count, last_alert_at, last_seen_at, created_at, updated_at,
    (SELECT count(*) FROM incident i WHERE i.cluster = cluster.id AND i.closed_at IS NULL),
    last_sign_at IS NOT NULL, died_at IS NOT NULL";

fn view(row: &Row<'_>) -> rusqlite::Result<ClusterView> {
    let wall = |column| row.get::<_, Option<u64>>(column).map(|at| at.map(Wall));
    Ok(ClusterView {
        cluster_id: row.get(1)?,
        name: row.get(2)?,
        description: row.get(3)?,
        collector_url: row.get(4)?,
        status: "ACTIVE",
        state: STATES[3],
        version: row.get(5)?,
        agent_count: row.get(6)?,
        healthy_agent_count: row.get(7)?,
        open_alerts: row.get(12)?,
        last_alert_at: wall(8)?,
        last_seen_at: wall(9)?,
        created_at: Wall(row.get(10)?),
        updated_at: Wall(row.get(11)?),
        has_signs: row.get(13)?,
        is_dead: row.get(14)?,
    })
}

/// All clusters, the newest first; [`ClusterView::judge`] is still to be asked.
///
/// # Errors
/// They cannot be read.
pub fn list(connection: &Connection) -> rusqlite::Result<Vec<ClusterView>> {
    let sql =
        format!("SELECT {COLUMNS} FROM cluster WHERE deleted_at IS NULL ORDER BY created_at DESC, id DESC");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([], view)?;
    rows.collect()
}

/// One cluster as it is shown; [`ClusterView::judge`] is still to be asked.
///
/// # Errors
/// It cannot be read.
pub fn show(connection: &Connection, cluster_id: &str) -> rusqlite::Result<Option<ClusterView>> {
    let sql = format!("SELECT {COLUMNS} FROM cluster WHERE cluster_id = ?1 AND deleted_at IS NULL");
    connection.prepare_cached(&sql)?.query_row([cluster_id], view).optional()
}

/// A cluster's row and name, and whether it was removed.
///
/// # Errors
/// It cannot be read.
pub fn find(connection: &Connection, cluster_id: &str) -> rusqlite::Result<Option<(ClusterName, bool)>> {
    connection
        .prepare_cached(
            "SELECT id, cluster_id, name, deleted_at IS NOT NULL FROM cluster WHERE cluster_id = ?1",
        )?
        .query_row([cluster_id], |row| {
            let name = ClusterName { row: row.get(0)?, cluster_id: row.get(1)?, name: row.get(2)? };
            Ok((name, row.get(3)?))
        })
        .optional()
}

/// The cluster of an alert or a beat. If it is not known, it is taken in if that is allowed.
///
/// # Errors
/// It cannot be stored.
pub fn admit(
    connection: &Connection,
    now: Wall,
    cluster_id: &str,
    admission: Admission,
) -> rusqlite::Result<Result<ClusterName, Absent>> {
    match find(connection, cluster_id)? {
        Some((name, false)) => return Ok(Ok(name)),
        Some((_, true)) => return Ok(Err(Absent::Gone)),
        None if !admission.auto_register => return Ok(Err(Absent::Unknown)),
        None if is_full(connection, admission)? => return Ok(Err(Absent::Full)),
        None => {}
    }
    insert(connection, now, cluster_id, cluster_id, false)?;
    let row = connection.last_insert_rowid();
    Ok(Ok(ClusterName { row, cluster_id: cluster_id.into(), name: cluster_id.into() }))
}

fn is_full(connection: &Connection, admission: Admission) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) FROM cluster WHERE deleted_at IS NULL";
    let count: u64 = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    Ok(count >= admission.max_clusters)
}

fn insert(
    connection: &Connection,
    now: Wall,
    cluster_id: &str,
    name: &str,
    is_registered: bool,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO cluster (cluster_id, name, is_registered, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?4)",
        )?
        .execute(params![cluster_id, name, is_registered, now.0])?;
    Ok(())
}

/// What a registration says of a cluster. What it does not say stays as it was.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// Its name.
    pub name: Option<String>,
    /// What people say about it.
    pub description: Option<String>,
    /// Where its collector answers.
    pub collector_url: Option<String>,
    /// The key with which its collector is asked, and the origin that the key is for.
    pub collector_key: Option<(String, String)>,
    /// The version of what registers it.
    pub version: Option<String>,
    /// Where it is.
    pub region: Option<String>,
    /// What else is said.
    pub metadata: Option<Map<String, Value>>,
}

/// The moment of a registration or a removal that comes over HTTP now: it is later than all that
/// is known of the cluster, even if the clock was set back.
fn moment(connection: &Connection, now: Wall, cluster_id: &str) -> rusqlite::Result<Wall> {
    let known: Option<u64> = connection
        .prepare_cached("SELECT registry_at FROM cluster WHERE cluster_id = ?1")?
        .query_row([cluster_id], |row| row.get(0))
        .optional()?
        .flatten();
    Ok(Wall(known.map_or(now.0, |known| now.0.max(known + 1))))
}

/// Registers a cluster or refreshes it; a removed cluster lives again. `is_sign` says whether
/// that is a sign of life: a `POST` is none. Returns whether it is new or lives again.
///
/// # Errors
/// It cannot be stored.
pub fn register(
    connection: &Connection,
    now: Wall,
    cluster_id: &str,
    registration: &Registration,
    admission: Admission,
    is_sign: bool,
) -> rusqlite::Result<Result<bool, Absent>> {
    let at = moment(connection, now, cluster_id)?;
    register_at(connection, now, cluster_id, registration, admission, (at, is_sign.then_some(now)))
}

/// The same for a registration of the moment `at`, which may be a sign of life of the moment `sign`.
fn register_at(
    connection: &Connection,
    now: Wall,
    cluster_id: &str,
    registration: &Registration,
    admission: Admission,
    (at, sign): (Wall, Option<Wall>),
) -> rusqlite::Result<Result<bool, Absent>> {
    let found = find(connection, cluster_id)?;
    let is_new = found.as_ref().is_none_or(|(_, is_gone)| *is_gone);
    if is_new && is_full(connection, admission)? {
        return Ok(Err(Absent::Full));
    }
    if found.is_none() {
        insert(connection, now, cluster_id, cluster_id, true)?;
    }
    let Registration { name, description, collector_url, collector_key, version, region, metadata } =
        registration;
    let (key, origin) = collector_key.as_ref().map(|(key, origin)| (key, origin)).unzip();
    connection
        .prepare_cached(
            "UPDATE cluster SET is_registered = 1, deleted_at = NULL, updated_at = ?2,
             created_at = iif(deleted_at IS NULL, created_at, ?2), name = ifnull(?3, name),
             description = ifnull(?4, description), collector_url = ifnull(?5, collector_url),
             collector_key = ifnull(?6, collector_key), collector_key_origin = ifnull(?7, collector_key_origin),
             version = ifnull(?8, version), region = ifnull(?9, region), metadata = ifnull(?10, metadata),
             registry_at = ?11, last_sign_at = nullif(max(ifnull(last_sign_at, 0), ifnull(?12, 0)), 0),
             died_at = iif(?12 IS NULL, died_at, NULL)
             WHERE cluster_id = ?1",
        )?
        .execute(params![
            cluster_id,
            now.0,
            name,
            description,
            collector_url,
            key,
            origin,
            version,
            region,
            metadata.as_ref().map(|it| Value::Object(it.clone()).to_string()),
            at.0,
            sign.map(|sign| sign.0),
        ])?;
    groups::cancel(connection, cluster_id)?;
    Ok(Ok(is_new))
}

/// Removes a cluster: its incidents close, its keys end, and it is remembered as removed.
/// Returns whether it was there.
///
/// # Errors
/// It cannot be stored.
pub fn remove(connection: &Connection, now: Wall, cluster_id: &str) -> rusqlite::Result<bool> {
    let at = moment(connection, now, cluster_id)?;
    remove_at(connection, now, cluster_id, at)
}

/// The same for a tombstone of the moment `at`.
fn remove_at(connection: &Connection, now: Wall, cluster_id: &str, at: Wall) -> rusqlite::Result<bool> {
    let Some((cluster, false)) = find(connection, cluster_id)? else { return Ok(false) };
    close_some(connection, now, &cluster, u32::MAX)?;
    connection.execute("DELETE FROM key WHERE kind = 'cluster' AND subject = ?1", [cluster_id])?;
    connection.execute(
        "UPDATE cluster SET deleted_at = ?2, updated_at = ?2, last_beat_at = NULL, last_sign_at = NULL,
         died_at = NULL, collector_url = NULL,
         collector_key = NULL, collector_key_origin = NULL, version = NULL, region = NULL, metadata = NULL,
         agent_count = 0, healthy_agent_count = 0, registry_at = ?3
         WHERE id = ?1",
        params![cluster.row, now.0, at.0],
    )?;
    Ok(true)
}

/// Closes at most this many open incidents of a cluster that is to be removed. So other work does
/// not wait for the writer for long. Returns how many.
///
/// # Errors
/// None is closed.
pub fn close_some(
    connection: &Connection,
    now: Wall,
    cluster: &ClusterName,
    most: u32,
) -> rusqlite::Result<usize> {
    let mut open = connection.prepare_cached(
        "SELECT kind, agent, agent_name, worker FROM incident
         WHERE cluster = ?1 AND closed_at IS NULL LIMIT ?2",
    )?;
    let open = open.query_map(params![cluster.row, most], |row| {
        let text = |column| row.get::<_, String>(column);
        Ok((text(0)?, text(1)?, text(2)?, text(3)?))
    })?;
    let open = open.collect::<rusqlite::Result<Vec<_>>>()?;
    let count = open.len();
    for incident in open {
        let (kind, agent_uuid, agent_name, worker) = incident;
        let Some(opening) = Event::from_name(&kind) else { continue };
        let subject = if !worker.is_empty() {
            Subject::Worker(cluster.clone(), worker)
        } else if agent_uuid.is_empty() {
            Subject::Cluster(cluster.clone())
        } else {
            let facts = AgentFacts { agent_uuid, agent_name, ..AgentFacts::default() };
            Subject::Agent(Some(cluster.clone()), facts)
        };
        incidents::close(connection, now, opening, &subject, Closer::Removed)?;
    }
    Ok(count)
}

/// What a collector's beat says.
#[derive(Clone, Debug, Default)]
pub struct Beat {
    /// How many agents it knows, and how many of them are healthy.
    pub agents: Option<(u64, u64)>,
    /// Its version.
    pub version: Option<String>,
}

/// Takes a collector's beat; an open `collector.silent` closes. Returns whether it is the
/// cluster's first sign of life, or the first since the cluster was dead.
///
/// # Errors
/// It cannot be stored.
pub fn beat(
    connection: &Connection,
    now: Wall,
    cluster: &ClusterName,
    beat: &Beat,
) -> rusqlite::Result<bool> {
    let is_news = connection
        .prepare_cached("SELECT last_sign_at IS NULL OR died_at IS NOT NULL FROM cluster WHERE id = ?1")?
        .query_row([cluster.row], |row| row.get(0))?;
    let (total, healthy) = beat.agents.unzip();
    connection
        .prepare_cached(
            "UPDATE cluster SET last_seen_at = ?2, last_beat_at = ?2, last_sign_at = ?2, died_at = NULL,
             agent_count = ifnull(?3, agent_count),
             healthy_agent_count = ifnull(?4, healthy_agent_count), version = ifnull(?5, version) WHERE id = ?1",
        )?
        .execute(params![cluster.row, now.0, total, healthy, beat.version])?;
    incidents::close(
        connection,
        now,
        Event::CollectorSilent,
        &Subject::Cluster(cluster.clone()),
        Closer::Over,
    )?;
    Ok(is_news)
}

/// Takes note that a cluster has given no sign of life for too long. Returns whether it ever gave
/// one; else it is not dead, but `unknown`. None if there is nothing to note.
///
/// # Errors
/// It cannot be stored.
pub fn die(connection: &Connection, now: Wall, cluster_id: &str) -> rusqlite::Result<Option<bool>> {
    connection
        .prepare_cached(
            "UPDATE cluster SET died_at = ?2
             WHERE cluster_id = ?1 AND deleted_at IS NULL AND died_at IS NULL
             RETURNING last_sign_at IS NOT NULL",
        )?
        .query_row(params![cluster_id, now.0], |row| row.get(0))
        .optional()
}

/// The ids of the clusters that may become dead: those that are registered, or whose collectors
/// have beaten. Dead clusters are among them, and have their full time again after a start: the
/// file may be older than what runs.
///
/// # Errors
/// They cannot be read.
pub fn alive(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT cluster_id FROM cluster WHERE deleted_at IS NULL AND (is_registered OR last_sign_at IS NOT NULL)",
    )?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect()
}

/// What is known of all clusters, or of one, for their workers. A cluster that is not registered gets
/// no workers, but those that run go on while it is heard.
///
/// # Errors
/// It cannot be read.
pub fn standings(
    connection: &Connection,
    only: Option<&str>,
) -> rusqlite::Result<BTreeMap<String, Standing>> {
    let which = only.map_or("", |_| "WHERE cluster_id = ?1");
    let mut statement = connection.prepare_cached(&format!(
        "SELECT cluster_id, deleted_at IS NOT NULL, died_at IS NOT NULL, last_sign_at IS NOT NULL, is_registered
         FROM cluster {which}"
    ))?;
    let rows = statement.query_map(params_from_iter(only), standing)?;
    rows.collect()
}

fn standing(row: &Row<'_>) -> rusqlite::Result<(String, Standing)> {
    let standing = match (row.get(1)?, row.get(4)?, row.get(2)?, row.get(3)?) {
        (true, ..) => Standing::Removed,
        // It was silent for long, or only an alert names it.
        (_, false, true, _) | (_, false, _, false) => Standing::Unknown,
        (_, false, ..) => Standing::Quiet,
        (_, _, true, _) => Standing::Parked,
        (.., true) => Standing::Live,
        _ => Standing::Quiet,
    };
    Ok((row.get(0)?, standing))
}

/// A cluster, if its collector has beaten here.
///
/// # Errors
/// It cannot be read.
pub fn find_beating(connection: &Connection, cluster_id: &str) -> rusqlite::Result<Option<ClusterName>> {
    let sql = "SELECT id, cluster_id, name FROM cluster
        WHERE cluster_id = ?1 AND last_beat_at IS NOT NULL AND deleted_at IS NULL";
    connection
        .prepare_cached(sql)?
        .query_row([cluster_id], |row| {
            Ok(ClusterName { row: row.get(0)?, cluster_id: row.get(1)?, name: row.get(2)? })
        })
        .optional()
}

/// The ids of the clusters whose collectors beat here.
///
/// # Errors
/// They cannot be read.
pub fn beating(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection
        .prepare("SELECT cluster_id FROM cluster WHERE last_beat_at IS NOT NULL AND deleted_at IS NULL")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect()
}

/// Where a cluster's collector answers, and with which key it is asked; the key is used only if it
/// was set for this origin.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    /// Its URL.
    pub url: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// The origin that the key is for.
    pub key_origin: Option<String>,
}

/// Where a cluster's collector answers; None if there is no such cluster.
///
/// # Errors
/// It cannot be read.
pub fn collector(connection: &Connection, cluster_id: &str) -> rusqlite::Result<Option<Collector>> {
    connection
        .prepare_cached(
            "SELECT collector_url, collector_key, collector_key_origin FROM cluster
             WHERE cluster_id = ?1 AND deleted_at IS NULL",
        )?
        .query_row([cluster_id], |row| {
            Ok(Collector { url: row.get(0)?, key: row.get(1)?, key_origin: row.get(2)? })
        })
        .optional()
}

/// Takes note of the counts that a collector answered with.
///
/// # Errors
/// They cannot be stored.
pub fn counted(
    connection: &Connection,
    now: Wall,
    cluster_id: &str,
    (total, healthy): (u64, u64),
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE cluster SET agent_count = ?2, healthy_agent_count = ?3, last_seen_at = ?4
             WHERE cluster_id = ?1 AND deleted_at IS NULL",
        )?
        .execute(params![cluster_id, total, healthy, now.0])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_can_stand_anywhere() {
        for id in ["a", "is.plugged.in", "af-10", "A_1", &"x".repeat(100)] {
            assert!(is_id(id), "{id}");
        }
        for id in ["", ".a", "-a", "a b", "a/b", "\u{fc}", "a:b", &"x".repeat(101)] {
            assert!(!is_id(id), "{id}");
        }
    }
}
