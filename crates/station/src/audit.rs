//! What was done to clusters and their workers, and by whom: a table that is kept for
//! `ALERT_RETENTION`.

use pap_core::time::Wall;
use rusqlite::{Connection, params};
use serde_json::Value;

/// Writes down what was done to a cluster, and by whom.
///
/// # Errors
/// It is not written.
pub fn write(
    connection: &Connection,
    now: Wall,
    who: &str,
    cluster: &str,
    action: &str,
    details: &Value,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO audit (at, who, cluster_id, action, details) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![now.0, who, cluster, action, details.to_string()])
        .map(drop)
}
