//! Signing in: a key becomes a cookie.

use std::sync::Arc;

use pap_http::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::call::{Call, empty, store_failed};
use crate::access::{COOKIE, Role, SESSION};
use crate::station::Station;

#[derive(Deserialize)]
struct Key {
    key: String,
}

/// `GET /api/session`
pub fn show(_: &Arc<Station>, call: &Call) -> Response {
    Response::json(200, &json!({ "role": call.grants.role.map(Role::name) }))
}

/// `POST /api/session`
pub fn open(station: &Arc<Station>, call: &Call) -> Response {
    let Ok(Key { key }) = call.json::<Key>() else {
        return Response::error(400, "key must be a text");
    };
    let role = station.keys.of_key(key.as_bytes(), call.now).and_then(|grants| grants.role);
    let Some(role) = role else { return super::wrong_key(station, call.from) };
    let (token, session) = station.keys.open_session(&key, role, call.now);
    let now = call.now;
    if let Err(error) = station.store.write(move |connection| session.store(connection, now)) {
        return store_failed(&error);
    }
    log::info!("somebody has signed in as {}", role.name());
    let secure = if call.is_secure { "; Secure" } else { "" };
    let seconds = SESSION.as_secs();
    empty(204).with(
        "Set-Cookie",
        format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}"),
    )
}

/// `DELETE /api/session`
pub fn end(station: &Arc<Station>, call: &Call) -> Response {
    if let Some(hash) = call.ended_session {
        let ended = station
            .store
            .write(move |connection| connection.execute("DELETE FROM session WHERE hash = ?1", [hash]));
        if let Err(error) = ended {
            return store_failed(&error);
        }
    }
    empty(204).with("Set-Cookie", format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"))
}
