//! What the file keeps of workers: which were adopted, and whose failures people were told.

use std::collections::{BTreeSet, HashMap};

use pap_core::reconcile::{Adopted, Key, Notice};
use pap_core::time::Wall;
use pap_process::clock::wall;
use rusqlite::{Connection, params};
use serde_json::json;

use crate::event::Event;
use crate::incidents::{self, Closer, Subject};
use crate::station::Station;
use crate::{audit, clusters};

pub fn tell(connection: &Connection, now: Wall, notice: &Notice) -> rusqlite::Result<()> {
    let Key { cluster, role } = notice.key();
    let Some((name, is_gone)) = clusters::find(connection, cluster)? else { return Ok(()) };
    let subject = Subject::Worker(name, role.clone());
    let what = match notice {
        // Its cluster was removed since the pass has looked at it.
        Notice::Failed(..) if is_gone => return Ok(()),
        Notice::Failed(_, why) | Notice::Stuck(_, why) => {
            let why = match notice {
                Notice::Stuck(..) => &format!("its container cannot be removed: {why}"),
                _ => why,
            };
            let details = json!({ "role": role, "reason": why });
            incidents::open(connection, now, Event::WorkerFailed, &subject, &details)?;
            audit::write(connection, now, "station", cluster, "worker.failed", &details)?;
            return Ok(());
        }
        Notice::Back(_) => Closer::Over,
        Notice::Unwanted(_) => Closer::Removed,
    };
    incidents::close(connection, now, Event::WorkerFailed, &subject, what)?;
    audit::write(
        connection,
        now,
        "station",
        cluster,
        "worker.back",
        &json!({ "role": role, "by": what.name() }),
    )
}

pub fn adopted(connection: &Connection) -> rusqlite::Result<HashMap<String, Adopted>> {
    let mut statement = connection.prepare("SELECT container, cluster_id, role, hash FROM adopted")?;
    let rows = statement.query_map([], |row| {
        let key = Key { cluster: row.get(1)?, role: row.get(2)? };
        Ok((row.get(0)?, Adopted { key, hash: row.get(3)? }))
    })?;
    rows.collect()
}

/// Stores which containers are adopted.
pub fn store_adopted(connection: &Connection, adopted: &HashMap<String, Adopted>) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM adopted", [])?;
    let sql = "INSERT INTO adopted (container, cluster_id, role, hash) VALUES (?1, ?2, ?3, ?4)";
    for (container, Adopted { key, hash }) in adopted {
        connection.execute(sql, params![container, key.cluster, key.role, hash])?;
    }
    Ok(())
}

/// Without templates there are no workers, and nothing of them is open.
pub fn close_all(station: &Station) {
    let now = wall();
    let closed = station.write(move |connection| {
        for key in failed(connection)? {
            tell(connection, now, &Notice::Unwanted(key))?;
        }
        Ok(())
    });
    if let Err(error) = closed {
        log::error!("what is open of workers is not closed: {error}");
    }
}

/// The workers whose failure people were told.
pub fn failed(connection: &Connection) -> rusqlite::Result<BTreeSet<Key>> {
    let mut statement = connection.prepare_cached(
        "SELECT c.cluster_id, i.worker FROM incident i JOIN cluster c ON c.id = i.cluster
         WHERE i.kind = 'worker.failed' AND i.closed_at IS NULL",
    )?;
    let rows = statement.query_map([], |row| Ok(Key { cluster: row.get(0)?, role: row.get(1)? }))?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pap_core::reconcile::Standing;

    use crate::clusters::{Admission, Registration, register, remove};
    use crate::store::Store;

    #[test]
    fn of_a_cluster_that_was_removed_since_nothing_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (store, writer) = Store::open(&directory.path().join("db")).unwrap();
        std::thread::spawn(move || writer.run(&crossbeam_channel::never()));
        let told = |is_gone| {
            let told = store.write(move |connection| {
                let admission = Admission { auto_register: false, max_clusters: 9 };
                let registered =
                    register(connection, Wall(1), "c", &Registration::default(), admission, true)?;
                assert!(registered.is_ok());
                if is_gone {
                    remove(connection, Wall(2), "c")?;
                }
                let key = Key { cluster: "c".into(), role: "r".into() };
                tell(connection, Wall(3), &Notice::Failed(key, "why".into()))?;
                failed(connection)
            });
            told.unwrap().len()
        };
        assert_eq!((told(true), told(false)), (0, 1));
        // One that only an alert names is as one that is not known.
        let standings = store.write(|connection| {
            let admission = Admission { auto_register: true, max_clusters: 9 };
            assert!(clusters::admit(connection, Wall(4), "x", admission)?.is_ok());
            clusters::standings(connection, None)
        });
        assert_eq!(standings.unwrap()["x"], Standing::Unknown);
    }
}
