//! The agents of a cluster: its collector is asked for them.

use std::io::Read as _;
use std::sync::Arc;

use pap_http::response::Response;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;

use super::call::{Call, Errand, busy, missing, store_failed};
use super::clusters::origin;
use crate::clusters;
use crate::station::Station;

/// Where a collector lists its agents.
const LIST: &str = "/agents";
/// The longest answer of a collector, for all agents and for one, in bytes.
const MAX_LIST: usize = 5 * 1024 * 1024;
const MAX_ONE: usize = 1024 * 1024;

/// The part of a collector's list that the station keeps.
#[derive(Deserialize)]
struct Counted {
    stats: Stats,
}

#[derive(Deserialize)]
struct Stats {
    total: u64,
    healthy: u64,
}

/// `GET /api/clusters/:id/agents`
pub fn agents(station: &Arc<Station>, call: &Call) -> Response {
    match ask(station, call.parameter(0), LIST, MAX_LIST) {
        Ok(body) => {
            if let Ok(Counted { stats }) = serde_json::from_slice(&body)
                && i64::try_from(stats.total.max(stats.healthy)).is_ok()
            {
                let (id, now) = (call.parameter(0).to_owned(), call.now);
                let counts = (stats.total, stats.healthy);
                let stored =
                    station.store.write(move |connection| clusters::counted(connection, now, &id, counts));
                if let Err(error) = stored {
                    log::error!("STATION_DB: {error}");
                }
            }
            as_it_came(body)
        }
        Err(response) => response,
    }
}

/// `GET /api/clusters/:id/agents/:agentId`
pub fn agent(station: &Arc<Station>, call: &Call) -> Response {
    let path = format!("{LIST}/{}", utf8_percent_encode(call.parameter(1), NON_ALPHANUMERIC));
    match ask(station, call.parameter(0), &path, MAX_ONE) {
        Ok(body) => as_it_came(body),
        Err(response) => response,
    }
}

fn as_it_came(body: Vec<u8>) -> Response {
    match String::from_utf8(body) {
        Ok(text) => Response::text(pap_http::response::JSON, text),
        Err(_) => Response::error(502, "Collector answered with what is no text"),
    }
}

/// Asks a cluster's collector.
fn ask(station: &Station, cluster_id: &str, path: &str, longest: usize) -> Result<Vec<u8>, Response> {
    let collector = station
        .store
        .read(|connection| clusters::collector(connection, cluster_id))
        .map_err(|error| store_failed(&error))?
        .ok_or_else(|| missing("Cluster"))?;
    let Some(url) = collector.url else {
        return Err(Response::error(503, "Cluster has no collector configured"));
    };
    let Some(_errand) = Errand::begin(station) else { return Err(busy()) };
    let mut request = station.clients.collectors.get(format!("{url}{path}"));
    if let Some(key) = collector.key.filter(|_| collector.key_origin.as_deref() == Some(&origin(&url))) {
        request = request.header("X-Collector-Key", key);
    }
    let response = match request.call() {
        Ok(response) => response,
        Err(ureq::Error::Timeout(_)) => return Err(Response::error(504, "Collector request timed out")),
        Err(error) => {
            log::info!("the collector of cluster {cluster_id} cannot be asked: {error}");
            return Err(Response::error(502, "Failed to contact collector"));
        }
    };
    let status = response.status().as_u16();
    if !(200..300).contains(&status) {
        return Err(if status == 404 && path != LIST {
            Response::error(404, "Agent not found in collector")
        } else {
            Response::json(502, &json!({ "error": "Collector unavailable", "status": status }))
        });
    }
    let mut body = Vec::new();
    // The bytes that are read are counted; the announced length is not believed.
    let read = response.into_body().into_reader().take(longest as u64 + 1).read_to_end(&mut body);
    match read {
        Ok(_) if body.len() > longest => Err(Response::error(502, "Collector response too large")),
        Ok(_) => Ok(body),
        Err(error) if is_timeout(&error) => Err(Response::error(504, "Collector request timed out")),
        Err(_) => Err(Response::error(502, "Failed to contact collector")),
    }
}

/// Whether the time for an answer was over before its end.
fn is_timeout(error: &std::io::Error) -> bool {
    // The client hands its own errors on inside.
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(ureq::Error::Timeout(_))) || error.kind() == std::io::ErrorKind::TimedOut
}
