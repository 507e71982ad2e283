//! Heartbeats: from the bytes to the answer without allocating, if the agent is known.

use pap_core::agent_id::{IdError, IdRef, IdRoom};
use pap_core::heartbeat::{Heartbeat, HeartbeatError, Mode};
use pap_core::registry::Full;
use pap_core::time::millis;
use pap_http::request::Request;
use pap_http::response::Response;
use serde::Serialize;
use serde_json::json;

use crate::metrics::Refusal;
use crate::news;
use crate::parts::Parts;

/// `Retry-After` for a new agent beyond the maximum, in seconds.
const RETRY_WHEN_FULL: u32 = 30;

/// The answer to an accepted heartbeat.
#[derive(Serialize)]
pub struct Taken {
    received: bool,
    is_new: bool,
    restart_detected: bool,
    next_heartbeat_ms: u64,
}

/// Takes a heartbeat of the agent with this id, as it stands in the path.
///
/// # Errors
/// The answer that says why not. It is counted, and nothing has changed.
pub fn take(parts: &Parts, id: &str, request: &Request<'_>) -> Result<Taken, Response> {
    let refuse = |(why, response)| {
        parts.metrics.refusal(why);
        response
    };
    let mut codings = request.tokens("Content-Encoding");
    if let Some(coding) = codings.find(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err(refuse(coded(coding)));
    }
    let mut room = IdRoom::default();
    let id = IdRef::from_path(id, &mut room).map_err(|error| refuse(wrong_id(error)))?;
    let beat = Heartbeat::from_json(request.body).map_err(|error| refuse(refusal(error)))?;
    let is_watched = parts.observers.is_watched(id);
    let taken = parts.shared.recorded(|registry, now, tape| {
        let received = registry.beat_from(now, id, &beat, request.peer)?;
        tape.beat(now, id, &beat, &received);
        Ok((received, is_watched.then(|| registry.view(now, id)).flatten()))
    });
    let (received, view) = taken.map_err(|Full| {
        let error = "As many agents are known as COLLECTOR_MAX_AGENTS allows";
        let response =
            Response::fault(503, error, "agent_uuid", "must be known already, as there is no room");
        refuse((Refusal::Full, response.retry_after(RETRY_WHEN_FULL)))
    })?;
    if received.news {
        parts.shared.wake();
    }
    if let Some(twice) = received.used_twice {
        log::warn!(
            agent_uuid:% = id;
            "this id is probably used twice, {twice}: its uptime falls and leaps by turns; give each agent an id of its own"
        );
    }
    if let Some(change) = &received.change {
        news::tell(change, &parts.observers);
    }
    if let Some(view) = view {
        parts.observers.heartbeat(view);
    }
    log::debug!(agent_uuid:% = id; "heartbeat in {}{}", beat.mode, if received.is_new { ", the first" } else { "" });
    Ok(Taken {
        received: true,
        is_new: received.is_new,
        restart_detected: received.restarted,
        next_heartbeat_ms: millis(beat.mode.interval()),
    })
}

/// As what a body that is no heartbeat is counted, and the answer to it.
fn refusal(error: HeartbeatError) -> (Refusal, Response) {
    let (field, reason) = (error.field(), error.reason());
    let refused = |error: &str| json!({"error": error, "field": field, "reason": reason});
    let (why, body) = match error {
        HeartbeatError::Payload(_) => {
            let mut body = refused("Invalid heartbeat payload");
            body["required"] = json!(["mode", "uptime_seconds"]);
            (Refusal::Payload, body)
        }
        HeartbeatError::Mode => {
            let mut body = refused("Invalid mode");
            body["valid"] = json!(Mode::ALL);
            (Refusal::Mode, body)
        }
        HeartbeatError::Name => (Refusal::Name, refused(&format!("agent_name {reason}"))),
        HeartbeatError::Resource(field) => {
            let error = format!("Resource data is not allowed in a heartbeat: remove {field}");
            (Refusal::Resource, refused(&error))
        }
    };
    (why, Response::json(400, &body))
}

/// The answer to text that is no id.
fn wrong_id(error: IdError) -> (Refusal, Response) {
    let error = error.to_string();
    let reason = error.trim_start_matches("agent id ");
    (Refusal::Id, Response::fault(400, &error, "agent_uuid", reason))
}

/// The answer to a body with a content coding (RFC 9110 §15.5.16).
fn coded(coding: &str) -> (Refusal, Response) {
    let error = format!("Content-Encoding {coding} is not understood: send the heartbeat's JSON as it is");
    let response = Response::fault(415, &error, "Content-Encoding", "must be identity, or left out");
    (Refusal::Body, response.with("Accept-Encoding", "identity"))
}
