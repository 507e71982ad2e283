//! What follows when a cluster is registered or removed, by a request or by a record in Kafka.

use pap_core::time::Wall;
use rusqlite::Connection;
use serde_json::json;

use crate::access::{self, Holder};
use crate::kafka::{groups, outbox};
use crate::station::Station;
use crate::store::StoreError;
use crate::{audit, clusters};

/// The name in the audit for a cluster that was registered.
pub const REGISTERED: &str = "cluster.registered";
/// The name in the audit for a cluster that was removed.
pub const REMOVED: &str = "cluster.removed";

/// How many incidents of a cluster that is removed close in one transaction.
const CLOSED_AT_ONCE: u32 = 250;

/// Writes a registration or a removal that came over HTTP into the audit, and owes it to Kafka's
/// registry if Kafka is used.
///
/// # Errors
/// It cannot be stored.
pub fn said(
    connection: &Connection,
    (now, who, is_used): (Wall, &str, bool),
    cluster_id: &str,
    action: Option<&str>,
) -> rusqlite::Result<()> {
    if let Some(action) = action {
        audit::write(connection, now, who, cluster_id, action, &json!({}))?;
    }
    if is_used { outbox::owe(connection, cluster_id) } else { Ok(()) }
}

/// What follows when it is stored that a cluster was registered, or registered again. `is_sign`
/// says whether that is a sign of life.
pub fn registered(station: &Station, cluster_id: &str, is_sign: bool) {
    if is_sign {
        station.heard_cluster(cluster_id);
    } else {
        station.await_cluster(cluster_id);
    }
    station.news.clusters();
    station.reconcile();
    station.kafka.bell.ring();
    let known = station.store.read(|connection| clusters::name_and_version(connection, cluster_id));
    // A cluster that was removed meanwhile has a line of its own.
    if let Ok(Some((name, version))) = known {
        let version = version.as_deref().unwrap_or("unknown");
        log::info!("📝 Cluster registered: {cluster_id} (name: {name}, version: {version})");
    }
}

/// Removes a cluster as `who` asks for. Returns whether it was there.
///
/// # Errors
/// It is not removed. Some of its incidents may be closed.
pub fn remove(station: &Station, now: Wall, cluster_id: &str, who: &str) -> Result<bool, StoreError> {
    close_incidents(station, now, cluster_id)?;
    let (id, by, is_used) = (cluster_id.to_owned(), who.to_owned(), station.kafka.is_used());
    let (groups, admission) = (station.consumer_groups(cluster_id), station.config.admission);
    let is_removed = station.write(move |connection| {
        let is_removed = clusters::remove(connection, now, &id)?;
        if is_removed {
            clusters::forget_removed(connection, admission)?;
            said(connection, (now, &by, is_used), &id, Some(REMOVED))?;
            groups::owe(connection, &id, &groups, now)?;
        }
        Ok(is_removed)
    })?;
    if is_removed {
        removed(station, cluster_id, who);
    }
    Ok(is_removed)
}

/// Closes the incidents of a cluster that is to be removed, some in each transaction. So other work
/// does not wait for the writer for long.
///
/// # Errors
/// Some may still be open.
pub fn close_incidents(station: &Station, now: Wall, cluster_id: &str) -> Result<(), StoreError> {
    loop {
        let id = cluster_id.to_owned();
        let closed = station.write(move |connection| match clusters::find(connection, &id)? {
            Some((cluster, false)) => clusters::close_some(connection, now, &cluster, CLOSED_AT_ONCE),
            _ => Ok(0),
        })?;
        if closed < CLOSED_AT_ONCE as usize {
            return Ok(());
        }
    }
}

/// What follows when it is stored that `who` has removed a cluster.
pub fn removed(station: &Station, cluster_id: &str, who: &str) {
    let holder = Holder::Cluster(cluster_id.into());
    station.forget_cluster(cluster_id);
    station.keys.end(&holder);
    // It may be registered again by now, and `registered` may have run before this.
    let again = station.store.read(|connection| {
        let is_there = clusters::show(connection, cluster_id)?.is_some();
        Ok((is_there, if is_there { access::keys_of(connection, cluster_id)? } else { Vec::new() }))
    });
    let (is_there, keys) = again.unwrap_or_default();
    if is_there {
        station.await_cluster(cluster_id);
        for key in keys {
            station.keys.add(key, holder.clone());
        }
    }
    station.reconcile();
    station.news.clusters();
    station.kafka.bell.ring();
    log::info!("🪦 Cluster deregistered: {cluster_id} (by {who})");
}
