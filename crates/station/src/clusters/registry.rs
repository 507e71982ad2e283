//! What comes about clusters by Kafka: heartbeats, which are signs of life, and registrations and
//! tombstones. Of two about one cluster the later one holds.

use std::time::Duration;

use pap_core::time::Wall;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Admission, Registration, register_at, remove_at};

/// What a record of the registry says of a cluster.
#[derive(Clone, Debug)]
pub enum What {
    /// A registration.
    Registered(Box<Registration>),
    /// A tombstone: the cluster was removed.
    Removed,
}

/// A registration or a tombstone of a cluster.
#[derive(Clone, Debug)]
pub struct Word {
    /// The cluster's id.
    pub cluster_id: String,
    /// When it was written. Of two the later one holds, whichever is read first.
    pub at: Wall,
    /// What it says.
    pub what: What,
}

/// What followed from a registration or a tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing: this one, or a later one, was known.
    Nothing,
    /// The cluster is registered; whether it is new or lives again.
    Registered(bool),
    /// The cluster was there and is removed.
    Removed,
    /// The station did not know the cluster, and remembers that it was removed.
    Remembered,
    /// There is no room for it.
    Full,
}

/// Whether a registration or a tombstone holds against the last one that is known: when that one
/// was written, and whether the cluster is removed. If both are of one moment, the cluster is
/// removed, whichever is read first.
pub fn holds(at: Wall, what: &What, known_at: Option<Wall>, is_gone: bool) -> bool {
    let is_removal = matches!(what, What::Removed);
    known_at.is_none_or(|known_at| at > known_at || (at == known_at && is_removal && !is_gone))
}

/// Whether this registration or tombstone would change anything.
///
/// # Errors
/// It cannot be read.
pub fn would_change(connection: &Connection, word: &Word) -> rusqlite::Result<bool> {
    let known = connection
        .prepare_cached("SELECT registry_at, deleted_at IS NOT NULL FROM cluster WHERE cluster_id = ?1")?
        .query_row([&word.cluster_id], |row| Ok((row.get::<_, Option<u64>>(0)?.map(Wall), row.get(1)?)))
        .optional()?;
    Ok(known.is_none_or(|(known_at, is_gone)| holds(word.at, &word.what, known_at, is_gone)))
}

/// Takes a registration or a tombstone from Kafka: it holds if it is later than what is known. A
/// registration that is younger than `lively` is a sign of life.
///
/// # Errors
/// It cannot be stored.
pub fn apply(
    connection: &Connection,
    now: Wall,
    word: &Word,
    admission: Admission,
    lively: Duration,
) -> rusqlite::Result<Applied> {
    if !would_change(connection, word)? {
        return Ok(Applied::Nothing);
    }
    let (id, at) = (&word.cluster_id, word.at);
    match &word.what {
        What::Registered(registration) => {
            let sign = (now.since(at.into()) < lively).then_some(at);
            let registered = register_at(connection, now, id, registration, admission, (at, sign))?;
            Ok(registered.map_or(Applied::Full, Applied::Registered))
        }
        What::Removed => {
            if remove_at(connection, now, id, at)? {
                return Ok(Applied::Removed);
            }
            remember_removal(connection, now, id, at)?;
            Ok(Applied::Remembered)
        }
    }
}

/// Remembers the tombstone of a cluster that the station did not know: an older registration of
/// the cluster may still come.
fn remember_removal(connection: &Connection, now: Wall, cluster_id: &str, at: Wall) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO cluster (cluster_id, name, is_registered, deleted_at, registry_at, created_at, updated_at)
             VALUES (?1, ?1, 0, ?2, ?3, ?2, ?2) ON CONFLICT (cluster_id) DO UPDATE SET registry_at = ?3",
        )?
        .execute(params![cluster_id, now.0, at.0])
        .map(drop)
}

/// So many removed clusters are remembered for each cluster that may be known.
pub const REMEMBERED: u64 = 10;

/// Forgets the clusters that were removed first, if more are remembered than is allowed.
///
/// # Errors
/// None is forgotten.
pub fn forget_removed(connection: &Connection, admission: Admission) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "DELETE FROM cluster WHERE deleted_at IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM incident i WHERE i.cluster = cluster.id)
             AND id IN (SELECT id FROM cluster WHERE deleted_at IS NOT NULL
                 ORDER BY registry_at DESC LIMIT -1 OFFSET ?1)",
        )?
        .execute([admission.max_clusters.saturating_mul(REMEMBERED)])
}

/// What the station knows of the cluster whose sign of life it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The cluster is registered.
    Registered,
    /// Nobody has registered it.
    Unregistered,
    /// It was removed.
    Removed,
}

/// What the station knows of a cluster that gives a sign of life.
///
/// # Errors
/// It cannot be read.
pub fn whose(connection: &Connection, cluster_id: &str) -> rusqlite::Result<Heard> {
    let found = connection
        .prepare_cached("SELECT deleted_at IS NOT NULL, is_registered FROM cluster WHERE cluster_id = ?1")?
        .query_row([cluster_id], |row| Ok((row.get::<_, bool>(0)?, row.get::<_, bool>(1)?)))
        .optional()?;
    Ok(match found {
        Some((true, _)) => Heard::Removed,
        Some((false, true)) => Heard::Registered,
        Some((false, false)) | None => Heard::Unregistered,
    })
}

/// Takes a sign of life of a registered cluster that is no beat. Returns whether it is the first
/// one of the cluster, or the first since the cluster was dead.
///
/// # Errors
/// It cannot be stored.
pub fn sign(connection: &Connection, now: Wall, cluster_id: &str) -> rusqlite::Result<bool> {
    let is_news = connection
        .prepare_cached(
            "SELECT 1 FROM cluster WHERE cluster_id = ?1 AND (last_sign_at IS NULL OR died_at IS NOT NULL)",
        )?
        .exists([cluster_id])?;
    connection
        .prepare_cached(
            "UPDATE cluster SET last_sign_at = ?2, last_seen_at = ?2, died_at = NULL
             WHERE cluster_id = ?1 AND is_registered AND deleted_at IS NULL",
        )?
        .execute(params![cluster_id, now.0])?;
    Ok(is_news)
}

/// A cluster's name and version.
///
/// # Errors
/// They cannot be read.
pub fn name_and_version(
    connection: &Connection,
    cluster_id: &str,
) -> rusqlite::Result<Option<(String, Option<String>)>> {
    connection
        .prepare_cached("SELECT name, version FROM cluster WHERE cluster_id = ?1 AND deleted_at IS NULL")?
        .query_row([cluster_id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}
