//! Registrations and tombstones that came over HTTP and that Kafka's registry does not have yet:
//! the last one of each cluster, since that is what a compacted topic keeps. They stay in the file
//! until Kafka has acknowledged them.

use pap_core::time::Wall;
use rusqlite::{Connection, params};
use serde::Serialize;
use serde_json::value::RawValue;

/// How many are owed.
pub const OWED: &str = "SELECT count(*) FROM registry_outbox";

/// A registration, its members in the order in which the clients of kg-control-plane write them.
#[derive(Serialize)]
struct Record<'a> {
    client_id: &'a str,
    cluster_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    registered_at: Wall,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
}

/// Owes what is stored of a cluster: its registration or its tombstone.
///
/// # Errors
/// It cannot be stored.
pub fn owe(connection: &Connection, cluster_id: &str) -> rusqlite::Result<()> {
    let (at, value) = connection
        .prepare_cached(
            "SELECT registry_at, deleted_at IS NOT NULL, name, version, region, metadata FROM cluster
             WHERE cluster_id = ?1 AND registry_at IS NOT NULL",
        )?
        .query_row([cluster_id], |row| {
            let (at, is_gone): (u64, bool) = (row.get(0)?, row.get(1)?);
            let metadata = row.get::<_, Option<String>>(5)?;
            let record = Record {
                client_id: cluster_id,
                cluster_name: row.get(2)?,
                version: row.get(3)?,
                region: row.get(4)?,
                registered_at: Wall(at),
                metadata: metadata.and_then(|it| RawValue::from_string(it).ok()),
            };
            // Text and JSON that was read from JSON can be written as JSON.
            Ok((at, (!is_gone).then(|| serde_json::to_string(&record).unwrap_or_default())))
        })?;
    connection
        .prepare_cached(
            "INSERT INTO registry_outbox (cluster_id, at, value) VALUES (?1, ?2, ?3)
             ON CONFLICT (cluster_id) DO UPDATE SET at = ?2, value = ?3",
        )?
        .execute(params![cluster_id, at, value])
        .map(drop)
}

/// A registration or a tombstone that is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Its cluster.
    pub cluster_id: String,
    /// The moment at which it counts.
    pub at: Wall,
    /// A registration; None for a tombstone.
    pub value: Option<String>,
}

/// The oldest that are owed, at most `most`.
///
/// # Errors
/// They cannot be read.
pub fn owed(connection: &Connection, most: u32) -> rusqlite::Result<Vec<Owed>> {
    let mut statement = connection
        .prepare_cached("SELECT cluster_id, at, value FROM registry_outbox ORDER BY at LIMIT ?1")?;
    let rows = statement.query_map([most], |row| {
        Ok(Owed { cluster_id: row.get(0)?, at: Wall(row.get(1)?), value: row.get(2)? })
    })?;
    rows.collect()
}

/// Kafka has acknowledged this one. A later one of the cluster is still owed.
///
/// # Errors
/// It is still owed.
pub fn paid(connection: &Connection, owed: &Owed) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM registry_outbox WHERE cluster_id = ?1 AND at = ?2")?
        .execute(params![owed.cluster_id, owed.at.0])
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clusters::{Admission, Registration, register, remove};

    #[test]
    fn the_last_word_of_each_cluster_is_owed_until_it_is_acknowledged() {
        let file = Connection::open_in_memory().unwrap();
        for sql in [include_str!("../store/0001.sql"), include_str!("../store/0002.sql")] {
            file.execute_batch(sql).unwrap();
        }
        let admission = Admission { auto_register: true, max_clusters: 9 };
        let metadata = serde_json::json!({ "namespace": "n", "a": 1 });
        let said = Registration {
            name: Some("A \"x\"".into()),
            version: Some("1.0".into()),
            metadata: metadata.as_object().cloned(),
            ..Registration::default()
        };
        register(&file, Wall(1000), "a", &said, admission, true).unwrap().unwrap();
        owe(&file, "a").unwrap();
        let first = owed(&file, 9).unwrap();
        assert_eq!(
            first[0].value.as_deref().unwrap(),
            r#"{"client_id":"a","cluster_name":"A \"x\"","version":"1.0","registered_at":"1970-01-01T00:00:01.000Z","metadata":{"a":1,"namespace":"n"}}"#
        );
        // In the same millisecond.
        assert!(remove(&file, Wall(1000), "a").unwrap());
        owe(&file, "a").unwrap();
        paid(&file, &first[0]).unwrap();
        let second = owed(&file, 9).unwrap();
        assert_eq!(second, [Owed { cluster_id: "a".into(), at: Wall(1001), value: None }]);
        paid(&file, &second[0]).unwrap();
        assert_eq!(owed(&file, 9).unwrap(), []);
    }
}
