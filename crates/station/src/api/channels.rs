//! Channels over HTTP, as the machine monitor has them, with filters, quiet hours and
//! deliveries.

use std::sync::Arc;

use pap_core::time::Wall;
use pap_http::response::Response;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::call::{Call, Errand, busy, empty, store_failed};
use crate::access::Role;
use crate::channels::{self, Changes, Channel, Conflict, Kind, Outcome, Record};
use crate::filters::{Filters, QuietHours};
use crate::notify::{check_secret, check_url, hidden_url};
use crate::station::Station;

#[derive(Serialize)]
struct Shown<'a> {
    id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_id: Option<&'a str>,
    is_active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_last_four: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lunasentri_signature: Option<bool>,
    filters: Option<&'a Filters>,
    quiet_hours: Option<&'a QuietHours>,
    cooldown_until: Option<Wall>,
    #[serde(flatten)]
    record: &'a Record,
}

/// A channel as it is shown. A webhook's URL may hold a secret, so viewers do not see it.
fn shown(channel: &Channel, role: Option<Role>) -> Value {
    let is_webhook = channel.kind == Kind::Webhook;
    let is_admin = role == Some(Role::Admin);
    let url = if is_admin { channel.target.clone() } else { hidden_url(&channel.target) };
    let last_four = channel.secret.as_deref().map(|secret| {
        let start = secret.char_indices().rev().nth(3).map_or(0, |(at, _)| at);
        &secret[start..]
    });
    let shown = Shown {
        id: channel.id,
        url: is_webhook.then_some(url),
        chat_id: (!is_webhook).then_some(&channel.target),
        is_active: channel.is_active,
        secret_last_four: if is_webhook { last_four.or(Some("****")) } else { None },
        lunasentri_signature: is_webhook.then_some(channel.signs_as_original),
        filters: channel.filters.as_ref(),
        quiet_hours: channel.quiet_hours.as_ref(),
        cooldown_until: None,
        record: &channel.record,
    };
    json!(shown)
}

/// What a body says of a channel, checked.
fn changes(station: &Station, call: &Call, kind: Kind, is_new: bool) -> Result<Changes, Response> {
    let wrong = |error: &str| Response::error(400, error);
    let members: Map<String, Value> = call.json().map_err(|_| wrong("Invalid request body"))?;
    let text = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(wrong("Invalid request body")),
    };
    let flag = |name: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(wrong("Invalid request body")),
    };
    let mut changes = Changes { is_active: flag("is_active")?, ..Changes::default() };
    match kind {
        Kind::Webhook => {
            match text("url")? {
                Some(url) => changes.target = Some(check_url(&station.config.reach, url).map_err(wrong)?),
                None if is_new => return Err(wrong("url is required")),
                None => {}
            }
            match text("secret")? {
                Some(secret) => {
                    check_secret(secret).map_err(wrong)?;
                    changes.secret = Some(secret.to_owned());
                }
                None if is_new => return Err(wrong("secret is required")),
                None => {}
            }
            changes.signs_as_original = flag("lunasentri_signature")?;
        }
        Kind::Telegram => match text("chat_id")?.map(str::parse::<i64>) {
            Some(Ok(id)) => changes.target = Some(id.to_string()),
            Some(Err(_)) => return Err(wrong("chat_id must be a valid numeric string")),
            None if is_new => return Err(wrong("chat_id is required")),
            None => {}
        },
    }
    changes.filters = part(&members, "filters", Filters::check)?;
    changes.quiet_hours = part(&members, "quiet_hours", QuietHours::check)?;
    Ok(changes)
}

/// A member of a body that may be null: null removes what the channel has.
#[expect(clippy::option_option, reason = "not said, taken away, and given are three things")]
fn part<T: serde::de::DeserializeOwned>(
    members: &Map<String, Value>,
    name: &str,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<Option<Option<T>>, Response> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        // For serde a list of all values, in their order, is an object as well.
        Some(Value::Array(_)) => Err(Response::error(400, &format!("{name}: it must be an object"))),
        Some(value) => {
            let part: T = serde_json::from_value(value.clone())
                .map_err(|why| Response::error(400, &format!("{name}: {why}")))?;
            check(&part).map_err(|why| Response::error(400, &format!("{name}: {why}")))?;
            Ok(Some(Some(part)))
        }
    }
}

fn conflict(kind: Kind, changes: &Changes, conflict: Conflict) -> Response {
    match (conflict, kind) {
        (Conflict::Taken, Kind::Webhook) => Response::error(409, "Webhook URL already exists for this user"),
        (Conflict::Taken, Kind::Telegram) => {
            let chat = changes.target.as_deref().unwrap_or_default();
            Response::error(409, &format!("telegram recipient with chat_id {chat} already exists"))
        }
        (Conflict::Full, _) => Response::error(409, "There are 64 channels already, which is the most"),
        (Conflict::Missing, _) => not_found(kind),
        (Conflict::Unsigned, _) => Response::error(400, "secret is required: without it nothing would sign"),
    }
}

fn not_found(kind: Kind) -> Response {
    Response::error(
        404,
        match kind {
            Kind::Webhook => "Webhook not found",
            Kind::Telegram => "telegram recipient not found",
        },
    )
}

fn wrong_id(kind: Kind) -> Response {
    Response::error(
        400,
        match kind {
            Kind::Webhook => "Invalid webhook ID",
            Kind::Telegram => "Invalid recipient ID",
        },
    )
}

/// `GET /notifications/…`
pub fn list(station: &Arc<Station>, call: &Call, kind: Kind) -> Response {
    match station.store.read(|connection| channels::list(connection, kind)) {
        Ok(all) => {
            let shown: Vec<_> = all.iter().map(|channel| shown(channel, call.grants.role)).collect();
            Response::json(200, &shown)
        }
        Err(error) => store_failed(&error),
    }
}

/// `POST /notifications/…`
pub fn create(station: &Arc<Station>, call: &Call, kind: Kind) -> Response {
    let changes = match changes(station, call, kind, true) {
        Ok(changes) => changes,
        Err(response) => return response,
    };
    let (now, stored) = (call.now, changes.clone());
    match station.write(move |connection| channels::create(connection, now, kind, &stored)) {
        Ok(Ok(id)) => one(station, call, id, 201),
        Ok(Err(why)) => conflict(kind, &changes, why),
        Err(error) => store_failed(&error),
    }
}

/// `PUT /notifications/…/:id`
pub fn change(station: &Arc<Station>, call: &Call, kind: Kind) -> Response {
    let Some(id) = call.id(0) else { return wrong_id(kind) };
    let changes = match changes(station, call, kind, false) {
        Ok(changes) => changes,
        Err(response) => return response,
    };
    let (now, stored) = (call.now, changes.clone());
    match station.write(move |connection| channels::change(connection, now, (kind, id), &stored)) {
        Ok(Ok(())) => one(station, call, id, 200),
        Ok(Err(why)) => conflict(kind, &changes, why),
        Err(error) => store_failed(&error),
    }
}

fn one(station: &Station, call: &Call, id: i64, status: u16) -> Response {
    station.news.channels();
    match station.store.read(|connection| channels::find(connection, id)) {
        Ok(Some(channel)) => Response::json(status, &shown(&channel, call.grants.role)),
        Ok(None) => Response::error(404, "The channel was removed meanwhile"),
        Err(error) => store_failed(&error),
    }
}

/// `DELETE /notifications/…/:id`
pub fn remove(station: &Arc<Station>, call: &Call, kind: Kind) -> Response {
    let Some(id) = call.id(0) else { return wrong_id(kind) };
    match station.write(move |connection| channels::remove(connection, kind, id)) {
        Ok(true) => {
            station.news.channels();
            empty(204)
        }
        Ok(false) => not_found(kind),
        Err(error) => store_failed(&error),
    }
}

/// `GET /notifications/…/:id/deliveries`
pub fn deliveries(station: &Arc<Station>, call: &Call, kind: Kind) -> Response {
    let (Some(id), limit) = (call.id(0), call.limit()) else { return wrong_id(kind) };
    let limit = match limit {
        Ok(limit) => limit,
        Err(response) => return response,
    };
    let listed = station.store.read(|connection| match channels::find(connection, id)? {
        Some(channel) if channel.kind == kind => channels::deliveries(connection, id, limit).map(Some),
        _ => Ok(None),
    });
    match listed {
        Ok(Some((all, total))) => Response::json(200, &json!({ "deliveries": all, "total": total })),
        Ok(None) => not_found(kind),
        Err(error) => store_failed(&error),
    }
}

/// `POST /notifications/…/:id/test`: one attempt, which belongs to no event.
pub fn test(station: &Arc<Station>, call: &Call, kind: Kind) -> Response {
    let Some(id) = call.id(0) else { return wrong_id(kind) };
    let channel = match station.store.read(|connection| channels::find(connection, id)) {
        Ok(Some(channel)) if channel.kind == kind => channel,
        Ok(_) => return not_found(kind),
        Err(error) => return store_failed(&error),
    };
    if !channel.is_active {
        return Response::error(
            400,
            match kind {
                Kind::Webhook => "Webhook must be active to send a test payload",
                Kind::Telegram => "The recipient must be active to send a test message",
            },
        );
    }
    if kind == Kind::Telegram && !station.notifier.has_telegram() {
        return Response::error(503, "Telegram notifier is not configured");
    }
    let body = r#"{"event":"test","incident":null,"cluster":null,"agent":null}"#;
    let text = "\u{1f7e2} This is a test of pap-station: messages arrive here";
    let Some(_errand) = Errand::begin(station) else { return busy() };
    let why = match station.notifier.test(&channel, body, text) {
        Outcome::Delivered => {
            return Response::json(
                200,
                &match kind {
                    Kind::Webhook => json!({ "status": "sent", "webhook_id": id, "triggered_at": call.now }),
                    Kind::Telegram => json!({ "success": true, "message": "Test message sent successfully" }),
                },
            );
        }
        Outcome::Refused(why) | Outcome::Gone(why) | Outcome::Failed(why) => why,
    };
    match kind {
        Kind::Webhook => Response::error(502, &format!("Failed to send test webhook: {why}")),
        Kind::Telegram => Response::error(500, &format!("Failed to send test message: {why}")),
    }
}
