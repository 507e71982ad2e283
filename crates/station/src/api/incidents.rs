//! Incidents over HTTP, and acknowledging.

use std::sync::Arc;

use pap_core::time::Wall;
use pap_http::response::Response;
use rusqlite::params_from_iter;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::call::{Call, missing, store_failed};
use crate::alerts::{self, Acknowledgement};
use crate::incidents::{self, Closer, ClusterName, raw};
use crate::station::Station;
use crate::store::Conditions;

/// The longest note, in characters.
const MAX_NOTE: usize = 1000;

#[derive(Serialize)]
struct IncidentView {
    id: String,
    kind: String,
    severity: String,
    state: &'static str,
    cluster: Option<ClusterName>,
    agent: Option<Value>,
    machine: Option<Value>,
    details: Box<RawValue>,
    opened_at: Wall,
    closed_at: Option<Wall>,
    closed_by: Option<String>,
    acknowledged_at: Option<Wall>,
    acknowledged_by: Option<String>,
    note: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    incidents: Vec<IncidentView>,
    total: u64,
}

/// `GET /api/incidents`
pub fn list(station: &Arc<Station>, call: &Call) -> Response {
    let limit = match call.limit() {
        Ok(limit) => limit,
        Err(response) => return response,
    };
    let mut conditions = Conditions::default();
    match call.asked("state") {
        None | Some("all") => {}
        Some("open") => conditions.and("i.closed_at IS NULL"),
        Some("closed") => conditions.and("i.closed_at IS NOT NULL"),
        Some(_) => return Response::error(400, "state must be one of open, closed, all"),
    }
    match call.flag("acknowledged") {
        Ok(None) => {}
        Ok(Some(true)) => conditions.and("i.acknowledged_at IS NOT NULL"),
        Ok(Some(false)) => conditions.and("i.acknowledged_at IS NULL"),
        Err(response) => return response,
    }
    for (name, condition) in [("kind", "i.kind = ?"), ("cluster", "c.cluster_id = ?")] {
        if let Some(value) = call.asked(name) {
            conditions.and_with(condition, value.to_owned());
        }
    }
    let listed = station.store.read(|connection| {
        let from = "FROM incident i LEFT JOIN cluster c ON c.id = i.cluster";
        let count = format!("SELECT count(*) {from} WHERE {}", conditions.text());
        let total: u64 = connection
            .prepare_cached(&count)?
            .query_row(params_from_iter(conditions.values()), |row| row.get(0))?;
        if let Some(after) = call.asked("after") {
            let before = "i.id < ifnull((SELECT id FROM incident WHERE uuid = ?), 0)";
            conditions.and_with(before, after.to_owned());
        }
        let limit = conditions.value(limit);
        let sql = format!(
            "SELECT i.uuid, i.kind, i.severity, i.agent, i.agent_name, i.details, i.opened_at, i.closed_at,
             i.closed_by, i.acknowledged_at, i.acknowledged_by, i.note, c.id, c.cluster_id, c.name, m.id, m.name
             {from} LEFT JOIN machine m ON m.id = i.machine WHERE {} ORDER BY i.id DESC LIMIT {limit}",
            conditions.text()
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(conditions.values()), view)?;
        Ok((rows.collect::<rusqlite::Result<Vec<_>>>()?, total))
    });
    match listed {
        Ok((incidents, total)) => Response::json(200, &Listed { incidents, total }),
        Err(error) => store_failed(&error),
    }
}

fn view(row: &rusqlite::Row<'_>) -> rusqlite::Result<IncidentView> {
    let wall = |column| row.get::<_, Option<u64>>(column).map(|at| at.map(Wall));
    let (agent, agent_name): (String, String) = (row.get(3)?, row.get(4)?);
    let closed_at = wall(7)?;
    let cluster = match row.get::<_, Option<i64>>(12)? {
        Some(id) => Some(ClusterName { row: id, cluster_id: row.get(13)?, name: row.get(14)? }),
        None => None,
    };
    let machine = match row.get::<_, Option<i64>>(15)? {
        Some(id) => Some(json!({ "id": id, "name": row.get::<_, String>(16)? })),
        None => None,
    };
    Ok(IncidentView {
        id: row.get(0)?,
        kind: row.get(1)?,
        severity: row.get(2)?,
        state: if closed_at.is_some() { "closed" } else { "open" },
        cluster,
        agent: (!agent.is_empty()).then(|| json!({ "agent_uuid": agent, "agent_name": agent_name })),
        machine,
        details: raw(row, 5)?,
        opened_at: Wall(row.get(6)?),
        closed_at,
        closed_by: row.get(8)?,
        acknowledged_at: wall(9)?,
        acknowledged_by: row.get(10)?,
        note: row.get(11)?,
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Note {
    note: Option<String>,
}

fn acknowledgement(call: &Call) -> Result<Acknowledgement, Response> {
    match call.json::<Note>() {
        Ok(Note { note }) if note.as_ref().is_none_or(|note| note.chars().count() <= MAX_NOTE) => {
            Ok(Some((call.who().to_owned(), call.now, note)))
        }
        _ => Err(Response::error(400, "note must be a text of at most 1000 characters, or left out")),
    }
}

/// What is acknowledged.
#[derive(Clone, Copy)]
enum What {
    Alert,
    Incident,
}

fn acknowledge(
    station: &Arc<Station>,
    call: &Call,
    what: What,
    acknowledgement: Acknowledgement,
) -> Response {
    let uuid = call.parameter(0).to_owned();
    let body = json!({ "acknowledged": acknowledgement.is_some() });
    let done = station.store.write(move |connection| match what {
        What::Alert => alerts::acknowledge(connection, &uuid, &acknowledgement),
        What::Incident => alerts::acknowledge_incident(connection, &uuid, &acknowledgement),
    });
    match done {
        Ok(true) => {
            station.news.incidents();
            Response::json(200, &body)
        }
        Ok(false) => missing(match what {
            What::Alert => "Alert",
            What::Incident => "Incident",
        }),
        Err(error) => store_failed(&error),
    }
}

/// `POST /api/alerts/:uuid/ack`
pub fn acknowledge_alert(station: &Arc<Station>, call: &Call) -> Response {
    match acknowledgement(call) {
        Ok(it) => acknowledge(station, call, What::Alert, it),
        Err(response) => response,
    }
}

/// `DELETE /api/alerts/:uuid/ack`
pub fn take_back_alert(station: &Arc<Station>, call: &Call) -> Response {
    acknowledge(station, call, What::Alert, None)
}

/// `POST /api/incidents/:id/ack`
pub fn acknowledge_incident(station: &Arc<Station>, call: &Call) -> Response {
    match acknowledgement(call) {
        Ok(it) => acknowledge(station, call, What::Incident, it),
        Err(response) => response,
    }
}

/// `DELETE /api/incidents/:id/ack`
pub fn take_back_incident(station: &Arc<Station>, call: &Call) -> Response {
    acknowledge(station, call, What::Incident, None)
}

/// `POST /api/incidents/:id/close`
pub fn close(station: &Arc<Station>, call: &Call) -> Response {
    let (uuid, now, who) = (call.parameter(0).to_owned(), call.now, call.who());
    let closed = station.write(move |connection| {
        let Some((opening, subject)) = incidents::find(connection, &uuid)? else { return Ok(None) };
        let closed = incidents::close(connection, now, opening, &subject, Closer::Person(who))?;
        if let Some(cluster) = subject.cluster() {
            alerts::end_mass_silence(connection, now, cluster)?;
        }
        Ok(Some(closed))
    });
    match closed {
        Ok(Some(_)) => Response::json(200, &json!({ "closed": true })),
        Ok(None) => missing("Incident"),
        Err(error) => store_failed(&error),
    }
}
