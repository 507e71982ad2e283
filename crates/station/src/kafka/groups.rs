//! The consumer groups of the workers of removed clusters, which Kafka is to delete.

use pap_core::time::Wall;
use rusqlite::{Connection, params};

/// Owes the deletion of the groups of a cluster that was removed.
///
/// # Errors
/// It cannot be stored.
pub fn owe(connection: &Connection, cluster_id: &str, names: &[String], now: Wall) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO consumer_group (name, cluster_id, removed_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET cluster_id = ?2, removed_at = ?3",
    )?;
    names.iter().try_for_each(|name| statement.execute(params![name, cluster_id, now.0]).map(drop))
}

/// The cluster is registered again: its groups are not deleted any more.
///
/// # Errors
/// It cannot be stored.
pub fn cancel(connection: &Connection, cluster_id: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM consumer_group WHERE cluster_id = ?1")?
        .execute([cluster_id])
        .map(drop)
}

/// Groups to delete, at most `most`. Groups that were not tried for longest come first. Groups of
/// clusters that are there are left out.
///
/// # Errors
/// They cannot be read.
pub fn due(connection: &Connection, most: u32) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(
        "SELECT name FROM consumer_group g WHERE NOT EXISTS (
             SELECT 1 FROM cluster c WHERE c.cluster_id = g.cluster_id AND c.deleted_at IS NULL)
         ORDER BY tried_at, name LIMIT ?1",
    )?;
    let rows = statement.query_map([most], |row| row.get(0))?;
    rows.collect()
}

/// Takes note that these groups were tried, and for each whether it is gone from Kafka.
///
/// # Errors
/// It cannot be stored.
pub fn tried(connection: &Connection, now: Wall, tried: &[(String, bool)]) -> rusqlite::Result<()> {
    let mut gone = connection.prepare_cached("DELETE FROM consumer_group WHERE name = ?1")?;
    let mut again = connection.prepare_cached("UPDATE consumer_group SET tried_at = ?2 WHERE name = ?1")?;
    tried.iter().try_for_each(|(name, is_gone)| {
        if *is_gone {
            gone.execute([name])?
        } else {
            again.execute(params![name, now.0])?
        };
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clusters::{Admission, Registration, register, remove};

    #[test]
    fn groups_are_due_only_while_their_cluster_is_removed() {
        let file = Connection::open_in_memory().unwrap();
        for sql in [include_str!("../store/0001.sql"), include_str!("../store/0002.sql")] {
            file.execute_batch(sql).unwrap();
        }
        let admission = Admission { auto_register: true, max_clusters: 9 };
        let (said, names) = (Registration::default(), ["g1".to_owned(), "g2".to_owned()]);
        register(&file, Wall(1), "a", &said, admission, true).unwrap().unwrap();
        owe(&file, "a", &names, Wall(2)).unwrap();
        assert!(due(&file, 9).unwrap().is_empty(), "never of a cluster that is there");
        assert!(remove(&file, Wall(3), "a").unwrap());
        assert_eq!(due(&file, 9).unwrap(), names);
        tried(&file, Wall(4), &[("g1".into(), false)]).unwrap();
        assert_eq!(due(&file, 1).unwrap(), ["g2"], "those first that were not tried for longest");
        tried(&file, Wall(5), &[("g2".into(), true)]).unwrap();
        assert_eq!(due(&file, 9).unwrap(), ["g1"]);
        register(&file, Wall(6), "a", &said, admission, true).unwrap().unwrap();
        assert!(remove(&file, Wall(7), "a").unwrap());
        assert!(due(&file, 9).unwrap().is_empty(), "a registration has cancelled it");
    }
}
