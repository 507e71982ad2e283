//! Machines over HTTP, as the machine monitor has it, without its leaks: no list shows a
//! key or a hash of one, and what is not there is 404.

use std::sync::{Arc, PoisonError};

use pap_http::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::call::{Call, empty, plain, store_failed};
use crate::access::{FORMER_KEY, Holder};
use crate::ids::hash;
use crate::machines::{self, About, Heard, MAX_TEXT, Report, SystemInfo};
use crate::station::Station;

/// How often a machine is to say that it lives, in milliseconds.
const NEXT: u64 = 10_000;

fn not_found() -> Response {
    Response::error(404, "Machine not found")
}

fn unauthorized() -> Response {
    plain(401, "Unauthorized: invalid API key").with("WWW-Authenticate", "Bearer")
}

/// `GET /machines`
pub fn list(station: &Arc<Station>, _: &Call) -> Response {
    match station.store.read(machines::list) {
        Ok(machines) => Response::json(200, &machines),
        Err(error) => store_failed(&error),
    }
}

/// `GET /machines/:id`
pub fn show(station: &Arc<Station>, call: &Call) -> Response {
    let Some(id) = call.id(0) else { return plain(400, "Invalid machine ID") };
    match station.store.read(|connection| machines::find(connection, id)) {
        Ok(Some(machine)) => Response::json(200, &machine),
        Ok(None) => not_found(),
        Err(error) => store_failed(&error),
    }
}

/// `POST /agent/register`
pub fn register(station: &Arc<Station>, call: &Call) -> Response {
    let Ok(about) = call.json::<About>() else { return plain(400, "Invalid request body") };
    let name = about.name.clone().unwrap_or_default();
    if name.trim().is_empty() {
        return Response::error(400, "machine name is required");
    }
    if let Some(response) = too_long(&about) {
        return response;
    }
    let now = call.now;
    let stored = station.write(move |connection| {
        let (id, key) = machines::register(connection, now, &about)?;
        Ok((machines::find(connection, id)?, key))
    });
    match stored {
        Ok((Some(machine), key)) => {
            station.keys.add(hash(key.as_bytes()), Holder::Machine(machine.id));
            station.news.machines();
            let body = json!({
                "id": machine.id, "name": machine.name, "hostname": machine.hostname,
                "description": machine.description, "api_key": key, "created_at": now,
            });
            Response::json(201, &body).with("Cache-Control", "no-store")
        }
        Ok((None, _)) => not_found(),
        Err(error) => store_failed(&error),
    }
}

fn too_long(about: &About) -> Option<Response> {
    let texts = [&about.name, &about.hostname, &about.description];
    let is_long = texts.into_iter().flatten().any(|text| text.chars().count() > MAX_TEXT);
    is_long.then(|| Response::error(400, "name, hostname and description have at most 255 characters"))
}

/// `PATCH /machines/:id`
pub fn change(station: &Arc<Station>, call: &Call) -> Response {
    let Some(id) = call.id(0) else { return plain(400, "Invalid machine ID") };
    let Ok(about) = call.json::<About>() else { return plain(400, "Invalid JSON") };
    if about.name.as_ref().is_some_and(|name| name.trim().is_empty()) {
        return Response::error(400, "machine name is required");
    }
    if let Some(response) = too_long(&about) {
        return response;
    }
    done(
        station,
        "Machine updated successfully",
        station.write(move |connection| machines::change(connection, id, &about)),
    )
}

/// `DELETE /machines/:id`
pub fn remove(station: &Arc<Station>, call: &Call) -> Response {
    let Some(id) = call.id(0) else { return plain(400, "Invalid machine ID") };
    let now = call.now;
    let removed = station.write(move |connection| machines::remove(connection, now, id));
    if matches!(removed, Ok(true)) {
        station.machines.lock().unwrap_or_else(PoisonError::into_inner).forget(&id);
        station.keys.end(&Holder::Machine(id));
    }
    done(station, "Machine deleted successfully", removed)
}

/// `POST /machines/:id/disable`
pub fn disable(station: &Arc<Station>, call: &Call) -> Response {
    enable_or_not(station, call, false)
}

/// `POST /machines/:id/enable`
pub fn enable(station: &Arc<Station>, call: &Call) -> Response {
    enable_or_not(station, call, true)
}

fn enable_or_not(station: &Arc<Station>, call: &Call, is_enabled: bool) -> Response {
    let Some(id) = call.id(0) else { return Response::error(400, "Invalid machine ID") };
    let (now, who) = (call.now, call.who());
    let changed = station.write(move |connection| machines::enable(connection, now, id, is_enabled, who));
    if matches!(changed, Ok(true)) {
        let mut watch = station.machines.lock().unwrap_or_else(PoisonError::into_inner);
        // Another request may have changed it since. If it cannot be read, it is watched: the
        // writer looks at a machine once more before it is offline.
        let is_enabled = station.store.read(|connection| machines::find(connection, id));
        if is_enabled.is_ok_and(|machine| machine.is_none_or(|machine| !machine.is_enabled)) {
            watch.forget(&id);
        } else {
            // It has its full time to send something.
            watch.hear(&id, station.clock.now().tick);
        }
    }
    let words = if is_enabled { "Machine enabled successfully" } else { "Machine disabled successfully" };
    done(station, words, changed)
}

fn done(station: &Station, words: &str, changed: Result<bool, crate::store::StoreError>) -> Response {
    match changed {
        Ok(true) => {
            station.news.machines();
            Response::json(200, &json!({ "message": words }))
        }
        Ok(false) => not_found(),
        Err(error) => store_failed(&error),
    }
}

/// `POST /machines/:id/rotate-key`
pub fn rotate_key(station: &Arc<Station>, call: &Call) -> Response {
    let Some(id) = call.id(0) else { return Response::error(400, "Invalid machine ID") };
    let now = call.now;
    match station.store.write(move |connection| machines::rotate(connection, now, id)) {
        Ok(Some(key)) => {
            let holder = Holder::Machine(id);
            station.keys.end_at(&holder, pap_core::time::Wall(now.0 + pap_core::time::millis(FORMER_KEY)));
            station.keys.add(hash(key.as_bytes()), holder);
            let body = json!({ "message": "API key rotated successfully", "api_key": key });
            Response::json(200, &body).with("Cache-Control", "no-store")
        }
        Ok(None) => not_found(),
        Err(error) => store_failed(&error),
    }
}

/// `POST /agent/metrics`
pub fn report(station: &Arc<Station>, call: &Call) -> Response {
    let Some(id) = call.grants.machine else { return unauthorized() };
    let Ok(report) = call.json::<Report>() else { return plain(400, "Invalid request body") };
    if let Some(name) = report.wrong_percentage() {
        return Response::error(400, &format!("{name} must be between 0 and 100"));
    }
    match hear(station, call, id, report) {
        Ok(true) => empty(202),
        Ok(false) => unauthorized(),
        Err(response) => response,
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Heartbeat {
    hostname: Option<String>,
    boot_time: Option<String>,
    uptime_seconds: Option<f64>,
}

/// `POST /api/machines/:id/heartbeat`
pub fn heartbeat(station: &Arc<Station>, call: &Call) -> Response {
    let Some(id) = call.id(0) else { return Response::error(400, "Invalid machine ID") };
    if call.grants.machine.is_some_and(|machine| machine != id) {
        return Response::error(403, "This key is another machine's");
    }
    let said: Heartbeat = match call.json() {
        Ok(said) => said,
        Err(why) => return Response::error(400, &format!("Invalid heartbeat: {why}")),
    };
    let info =
        SystemInfo { hostname: said.hostname, last_boot_time: said.boot_time, ..SystemInfo::default() };
    let report = Report { uptime_s: said.uptime_seconds, system_info: Some(info), ..Report::default() };
    match hear(station, call, id, report) {
        Ok(true) => Response::json(200, &json!({ "received": true, "next_heartbeat_ms": NEXT })),
        Ok(false) => not_found(),
        Err(response) => response,
    }
}

/// Takes a heartbeat or a report of a machine. Returns whether there is such a machine that is
/// watched.
fn hear(station: &Arc<Station>, call: &Call, id: i64, report: Report) -> Result<bool, Response> {
    let now = call.now;
    let heard = station.store.write(move |connection| machines::hear(connection, now, id, &report));
    match heard {
        Ok(Heard::Yes(was_offline)) => {
            station.heard_machine(id);
            station.metrics.machine_report();
            station.news.machines();
            if let Some(name) = was_offline {
                station.bell.ring();
                station.news.incidents();
                log::info!("Machine {id} ({name}) came back online");
            }
            Ok(true)
        }
        Ok(Heard::No) => Ok(false),
        Err(error) => Err(store_failed(&error)),
    }
}
