//! Heartbeats: from the bytes to the answer without allocating, if the agent is known.

use pap_core::agent_id::{IdRef, IdRoom};
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

/// `Retry-After` for a new agent that found no room, in seconds.
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
    let mut room = IdRoom::default();
    let id = IdRef::from_path(id, &mut room)
        .map_err(|error| refuse((Refusal::Id, Response::error(400, &error.to_string()))))?;
    let beat = Heartbeat::from_json(request.body).map_err(|error| refuse(refusal(error)))?;
    let is_watched = parts.observers.is_watched(id);
    let taken = parts.shared.recorded(|registry, now, tape| {
        let received = registry.beat(now, id, &beat)?;
        tape.beat(now, id, &beat, &received);
        Ok((received, is_watched.then(|| registry.view(now, id)).flatten()))
    });
    let (received, view) = taken.map_err(|Full| {
        let response = Response::error(503, "As many agents are known as COLLECTOR_MAX_AGENTS allows");
        refuse((Refusal::Full, response.retry_after(RETRY_WHEN_FULL)))
    })?;
    if received.news {
        parts.shared.wake();
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

/// What a body that is no heartbeat is counted as, and the answer to it.
fn refusal(error: HeartbeatError) -> (Refusal, Response) {
    match error {
        HeartbeatError::Payload => {
            let body = json!({"error": "Invalid heartbeat payload", "required": ["mode", "uptime_seconds"]});
            (Refusal::Payload, Response::json(400, &body))
        }
        HeartbeatError::Mode => {
            let body = json!({"error": "Invalid mode", "valid": Mode::ALL});
            (Refusal::Mode, Response::json(400, &body))
        }
        HeartbeatError::Name => {
            (Refusal::Name, Response::error(400, "agent_name must be text of at most 128 bytes"))
        }
        HeartbeatError::Resource(field) => {
            let error = format!("Resource data is not allowed in a heartbeat: remove {field}");
            (Refusal::Resource, Response::error(400, &error))
        }
    }
}
