//! Workers over HTTP.

use std::sync::Arc;

use pap_core::reconcile::View;
use pap_core::time::{Tick, millis};
use pap_http::response::Response;
use serde_json::{Value, json};

use super::call::Call;
use crate::control::Control;
use crate::control::metrics::state;
use crate::station::Station;

/// `GET /api/workers`
pub fn list(station: &Arc<Station>, _: &Call) -> Response {
    let Some(control) = &station.control else {
        return Response::json(200, &json!({ "workers": [], "total": 0, "engine": null }));
    };
    let seen = control.seen();
    let now = station.clock.now().tick;
    let workers: Vec<Value> = seen.workers.iter().map(|worker| view(worker, now)).collect();
    let (total, counts) = (workers.len(), seen.counts);
    Response::json(
        200,
        &json!({
            "workers": workers,
            "total": total,
            "containers": counts.ours,
            "outdated": counts.outdated,
            "of_unknown_clusters": counts.unknown,
            "engine": engine(control, seen.is_reached, seen.trouble.as_deref()),
        }),
    )
}

fn engine(control: &Control, is_reached: Option<bool>, trouble: Option<&str>) -> Value {
    json!({
        "host": control.engine().host().to_string(),
        "api_version": control.engine().version(),
        "reachable": is_reached,
        "error": trouble,
    })
}

fn view(worker: &View, now: Tick) -> Value {
    let (id, name) = worker.container.as_ref().map(|(id, name)| (id, name)).unzip();
    json!({
        "cluster_id": worker.key.cluster,
        "role": worker.key.role,
        "container": id,
        "name": name,
        "state": worker.is.map_or("missing", state),
        "trouble": worker.trouble,
        "next_attempt_in_ms": worker.again.map(|at| millis(at.since(now))),
    })
}

/// `POST /api/workers/prune`: workers of clusters that are not known are removed.
pub fn prune(station: &Arc<Station>, call: &Call) -> Response {
    match &station.control {
        Some(control) => {
            log::info!("{} asked to remove the workers of clusters that are not known", call.who());
            Response::json(202, &json!({ "found": control.prune() }))
        }
        None => Response::error(409, "WORKERS_FILE is not set, so there are no workers"),
    }
}
