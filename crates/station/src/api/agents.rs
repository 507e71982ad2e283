//! Agents that beat at the station over HTTP, as the central app has it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pap_core::agent_id::AgentId;
use pap_core::heartbeat::{Heartbeat, MAX_TEXT, Mode};
use pap_core::registry::Full;
use pap_core::time::{Wall, millis};
use pap_http::response::Response;
use rusqlite::params;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::call::{Call, missing, store_failed};
use super::clusters::{end_all_keys, store_key};
use crate::access::Holder;
use crate::ids;
use crate::incidents::raw;
use crate::station::Station;

/// How far a timestamp may be ahead of our clock.
const MAX_AHEAD: u64 = 5000;
/// The most agents that are listed.
const MAX_LISTED: usize = 10_000;

/// Fields that belong to `/metrics` (PAP-RFC-001 §8.1).
const RESOURCES: [&str; 4] = ["cpu_percent", "memory_mb", "requests_handled", "custom_metrics"];

/// `POST /api/agents/:id/heartbeat`, on the event loop.
pub fn heartbeat(
    station: &Arc<Station>,
    id: &str,
    body: &[u8],
    from: Option<std::net::IpAddr>,
    now: Wall,
) -> Response {
    let Ok(agent) = AgentId::new(id) else {
        return Response::error(400, "agent id must be 1 to 128 bytes without control characters");
    };
    let members: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(members) => members,
        Err(_) => return Response::error(400, "Fields \"mode\" and \"uptime_seconds\" are required"),
    };
    let beat = match read(station, &members, now) {
        Ok(beat) => beat,
        Err(response) => return response,
    };
    match station.agents.beat(&station.clock, &agent, &beat, from) {
        Ok(received) => {
            station.metrics.heartbeat();
            if received.is_new || received.change.is_some() {
                station.news.agents();
            }
            if received.news || received.change.is_some() {
                station.agent_bell.ring();
            }
            Response::json(
                200,
                &json!({
                    "message": "Heartbeat recorded", "agent_uuid": agent, "mode": beat.mode,
                    "uptime_seconds": beat.uptime, "state_transition": null,
                    "next_heartbeat_ms": millis(beat.mode.interval()),
                }),
            )
        }
        Err(Full) => Response::error(503, "As many agents are known as MAX_AGENTS allows").retry_after(30),
    }
}

/// The heartbeat in a body, checked in the central app's order and answered in its words.
fn read<'a>(
    station: &Station,
    members: &'a Map<String, Value>,
    now: Wall,
) -> Result<Heartbeat<'a>, Response> {
    if let Some(field) = RESOURCES.iter().find(|field| members.contains_key(**field)) {
        let error = format!(
            "Field \"{field}\" not allowed in heartbeat. Use /metrics endpoint for resource telemetry."
        );
        let body = json!({
            "error": error,
            "zombie_prevention": "PAP-RFC-001 §8.1 requires strict heartbeat/metrics separation",
        });
        return Err(Response::json(400, &body));
    }
    let given = |name| members.get(name).filter(|value| !value.is_null());
    let (Some(mode), Some(uptime)) = (given("mode"), given("uptime_seconds")) else {
        return Err(Response::error(400, "Fields \"mode\" and \"uptime_seconds\" are required"));
    };
    let Some(mode) = mode.as_str().and_then(Mode::from_name) else {
        return Err(Response::error(400, "Invalid mode. Must be one of: EMERGENCY, IDLE, SLEEP"));
    };
    if let Some(timestamp) = given("timestamp") {
        check_age(station, timestamp, mode, now)?;
    }
    let uptime = uptime.as_f64().filter(|uptime| uptime.is_finite() && *uptime >= 0.0);
    let Some(uptime) = uptime else {
        return Err(Response::error(400, "uptime_seconds must be a non-negative finite number"));
    };
    let name = match given("agent_name") {
        None => None,
        Some(Value::String(name)) if name.len() <= MAX_TEXT => Some(name.as_str().into()),
        Some(_) => return Err(Response::error(400, "agent_name must be a text of at most 128 bytes")),
    };
    Ok(Heartbeat { mode, uptime, name })
}

/// Whether a heartbeat's timestamp is recent. If our own clock was stepped lately, no timestamp is
/// judged.
fn check_age(station: &Station, timestamp: &Value, mode: Mode, now: Wall) -> Result<(), Response> {
    let at = match timestamp {
        Value::String(text) => text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond),
        Value::Number(number) => number.as_i64(),
        _ => None,
    };
    let Some(at) = at.and_then(|at| u64::try_from(at).ok()) else {
        return Err(Response::error(400, "Invalid heartbeat timestamp"));
    };
    let longest = mode.interval() * 2;
    if station.steps.since(station.clock.uptime()).is_some_and(|ago: Duration| ago < longest) {
        return Ok(());
    }
    if at > now.0 + MAX_AHEAD {
        return Err(Response::error(400, "Heartbeat timestamp is in the future"));
    }
    let age = now.0.saturating_sub(at);
    if age > millis(longest) {
        let body = json!({
            "error": "Heartbeat timestamp too old (potential replay attack)",
            "max_age_ms": millis(longest), "received_age_ms": age,
        });
        return Err(Response::json(400, &body));
    }
    Ok(())
}

/// `POST /api/agents/:id/lifecycle`
pub fn lifecycle(station: &Arc<Station>, call: &Call) -> Response {
    let members = match members(call) {
        Ok(members) if members.get("event_type").is_some_and(Value::is_string) => members,
        Ok(_) => return Response::error(400, "Field \"event_type\" is required"),
        Err(response) => return response,
    };
    keep(
        station,
        call,
        "lifecycle",
        &members,
        |agent| json!({ "message": "Lifecycle event recorded", "agent_uuid": agent }),
    )
}

/// `POST /api/agents/:id/metrics`
pub fn metrics(station: &Arc<Station>, call: &Call) -> Response {
    let members = match members(call) {
        Ok(members) => members,
        Err(response) => return response,
    };
    for name in ["cpu_percent", "memory_mb", "requests_handled"] {
        match members.get(name).map(Value::as_f64) {
            Some(Some(number)) if number >= 0.0 => {}
            None => {
                let all = "Fields \"cpu_percent\", \"memory_mb\" and \"requests_handled\" are required";
                return Response::error(400, all);
            }
            Some(_) => return Response::error(400, &format!("{name} must be a non-negative number")),
        }
    }
    let rounded = |name: &str| members.get(name).and_then(Value::as_f64).unwrap_or_default().round();
    let (cpu, memory) = (rounded("cpu_percent"), rounded("memory_mb"));
    let requests = members.get("requests_handled").cloned();
    keep(station, call, "metrics", &members, move |agent| {
        json!({
            "message": "Metrics recorded", "agent_uuid": agent, "cpu_percent": whole(cpu),
            "memory_mb": whole(memory), "requests_handled": requests,
        })
    })
}

/// A rounded number without a fraction.
#[expect(clippy::cast_possible_truncation, reason = "it is rounded, and huge ones saturate")]
fn whole(number: f64) -> i64 {
    number as i64
}

const STATES: [&str; 6] = ["NEW", "PROVISIONED", "ACTIVE", "DRAINING", "TERMINATED", "KILLED"];

/// `POST /api/agents/:id/state`
pub fn state(station: &Arc<Station>, call: &Call) -> Response {
    let members = match members(call) {
        Ok(members) => members,
        Err(response) => return response,
    };
    let of = |name| members.get(name).and_then(Value::as_str);
    let (Some(from), Some(to)) = (of("from_state"), of("to_state")) else {
        return Response::error(400, "Fields \"from_state\" and \"to_state\" are required");
    };
    if !STATES.contains(&from) || !STATES.contains(&to) {
        return Response::error(400, &format!("Invalid state. Must be one of: {}", STATES.join(", ")));
    }
    let (from, to) = (from.to_owned(), to.to_owned());
    keep(station, call, "state", &members, move |agent| {
        json!({
            "message": "State change recorded", "agent_uuid": agent, "from_state": from, "to_state": to,
            "current_state": to,
        })
    })
}

fn members(call: &Call) -> Result<Map<String, Value>, Response> {
    call.json().map_err(|why| Response::error(400, &format!("Invalid JSON: {why}")))
}

/// Keeps the last report of each kind.
fn keep(
    station: &Arc<Station>,
    call: &Call,
    kind: &'static str,
    members: &Map<String, Value>,
    answer: impl FnOnce(&AgentId) -> Value,
) -> Response {
    let Ok(agent) = AgentId::new(call.parameter(0)) else {
        return Response::error(400, "agent id must be 1 to 128 bytes without control characters");
    };
    let (id, json, now) = (agent.to_string(), Value::Object(members.clone()).to_string(), call.now);
    let most = station.config.max_agents;
    let stored = station.store.write(move |connection| {
        let is_known = "SELECT EXISTS (SELECT 1 FROM report WHERE agent = ?1)";
        if !connection.prepare_cached(is_known)?.query_row([&id], |row| row.get::<_, bool>(0))? {
            let count = "SELECT count(DISTINCT agent) FROM report";
            if connection.prepare_cached(count)?.query_row([], |row| row.get::<_, usize>(0))? >= most {
                return Ok(false);
            }
        }
        connection.execute(
            "INSERT INTO report (agent, kind, body, at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (agent, kind) DO UPDATE SET body = ?3, at = ?4",
            params![id, kind, json, now.0],
        )?;
        Ok(true)
    });
    match stored {
        Ok(true) => Response::json(200, &answer(&agent)),
        Ok(false) => Response::error(503, "As many agents are known as MAX_AGENTS allows").retry_after(30),
        Err(error) => store_failed(&error),
    }
}

/// An agent, and whether it may live elsewhere.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    agent: pap_core::registry::AgentView,
    #[serde(skip_serializing_if = "Option::is_none")]
    elsewhere: Option<&'static str>,
}

/// `GET /api/agents`
pub fn list(station: &Arc<Station>, _: &Call) -> Response {
    let (agents, total) = station.agents.list(&station.clock, MAX_LISTED);
    let agents: Vec<_> = agents
        .into_iter()
        .map(|agent| Shown { elsewhere: station.elsewhere.of(&agent.agent_uuid), agent })
        .collect();
    Response::json(200, &json!({ "agents": agents, "total": total }))
}

/// `GET /api/agents/:id`
pub fn show(station: &Arc<Station>, call: &Call) -> Response {
    let agent = AgentId::new(call.parameter(0)).ok();
    let view = agent.and_then(|agent| station.agents.view(station.clock.now(), &agent));
    let Some(agent) = view else { return missing("Agent") };
    let reports = station.store.read(|connection| {
        let mut statement =
            connection.prepare_cached("SELECT kind, body, at FROM report WHERE agent = ?1")?;
        let rows = statement.query_map([agent.agent_uuid.to_string()], |row| {
            let body: Box<RawValue> = raw(row, 1)?;
            Ok((row.get::<_, String>(0)?, json!({ "body": body, "at": Wall(row.get(2)?) })))
        })?;
        rows.collect::<rusqlite::Result<Map<String, Value>>>()
    });
    match reports {
        Ok(reports) => {
            let elsewhere = station.elsewhere.of(&agent.agent_uuid);
            Response::json(200, &json!({ "agent": Shown { agent, elsewhere }, "reports": reports }))
        }
        Err(error) => store_failed(&error),
    }
}

/// `POST /api/agents/:id/keys`: the key is shown once.
pub fn make_key(station: &Arc<Station>, call: &Call) -> Response {
    let id = call.parameter(0).to_owned();
    if AgentId::new(&id).is_err() {
        return Response::error(400, "agent id must be 1 to 128 bytes without control characters");
    }
    let (key, now) = (ids::key(), call.now);
    let hash = ids::hash(key.as_bytes());
    match station.store.write(move |connection| store_key(connection, "agent", &id, hash, now)) {
        Ok(()) => {
            let id = call.parameter(0);
            station.keys.add(hash, Holder::Agent(id.into()));
            Response::json(201, &json!({ "agent_uuid": id, "key": key })).with("Cache-Control", "no-store")
        }
        Err(error) => store_failed(&error),
    }
}

/// `DELETE /api/agents/:id/keys`: all keys of the agent end.
pub fn end_keys(station: &Arc<Station>, call: &Call) -> Response {
    end_all_keys(station, "agent", call, &Holder::Agent(call.parameter(0).into()))
}
