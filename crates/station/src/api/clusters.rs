//! Clusters and alerts over HTTP.

use std::sync::Arc;

use pap_core::time::{Wall, millis};
use pap_http::response::Response;
use pap_process::url::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::call::{Call, invalid, missing, store_failed};
use crate::access::{Holder, Role};
use crate::alert::{self, Fault, MAX_BODY, NoAlert, SEVERITIES, Type};
use crate::alerts::{self, AlertView, Listing};
use crate::asking::Said;
use crate::clusters::{self, Absent, Beat, ClusterView, Registration, is_id};
use crate::ids;
use crate::incidents::ClusterName;
use crate::reach::{FORBIDDEN, literal_address};
use crate::registry;
use crate::station::Station;

/// The answer for a cluster that is not served.
fn absent(absent: Absent) -> Response {
    match absent {
        Absent::Gone => Response::error(410, "Cluster was removed"),
        Absent::Unknown => missing("Cluster"),
        Absent::Full => {
            Response::error(503, "As many clusters are known as MAX_CLUSTERS allows").retry_after(60)
        }
    }
}

const ID_RULE: &str = "must be a letter or digit, then letters, digits, '.', '-' and '_', at most 100 bytes";

#[derive(Serialize)]
struct ClustersListed {
    clusters: Vec<ClusterView>,
    total: usize,
}

/// `GET /api/clusters`
pub fn list(station: &Arc<Station>, _: &Call) -> Response {
    match station.store.read(clusters::list) {
        Ok(mut clusters) => {
            station.judge(&mut clusters);
            let total = clusters.len();
            Response::json(200, &ClustersListed { clusters, total })
        }
        Err(error) => store_failed(&error),
    }
}

/// `GET /api/clusters/:id`
pub fn show(station: &Arc<Station>, call: &Call) -> Response {
    match station.store.read(|connection| clusters::show(connection, call.parameter(0))) {
        Ok(Some(mut cluster)) => {
            station.judge([&mut cluster]);
            Response::json(200, &json!({ "cluster": cluster }))
        }
        Ok(None) => missing("Cluster"),
        Err(error) => store_failed(&error),
    }
}

/// The members of a registration, by either of the names that its senders give them.
fn registration(
    station: &Station,
    call: &Call,
    members: &Map<String, Value>,
) -> Result<Registration, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut text = |name: &'static str, least: usize, most: usize| match members.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if (least..=most).contains(&text.chars().count()) => Some(text.clone()),
        Some(_) => {
            faults.push(Fault::of(name, format!("must be a text of {least} to {most} characters")));
            None
        }
    };
    let name = text("name", 1, 255).or(text("cluster_name", 0, 255)).filter(|name| !name.is_empty());
    let description = text("description", 0, 1000);
    let (version, region) = (text("version", 0, 100), text("region", 0, 255));
    let url = text("collector_url", 1, 2048);
    let key = text("collector_key", 1, 4096);
    let metadata = members.get("metadata").and_then(Value::as_object).cloned();
    let mut collector_url = None;
    if let Some(url) = url {
        match Url::base(&url) {
            Ok(parsed) => match literal_address(&parsed) {
                Some(address) if !station.config.reach.allows(address) => {
                    if call.grants.is(Role::Admin) {
                        faults.push(Fault::of("collector_url", FORBIDDEN));
                    } else {
                        // Without it a collector works, but cannot be asked.
                        log::warn!("the collector_url of {} is left out: {FORBIDDEN}", call.parameter(0));
                    }
                }
                _ => collector_url = Some(parsed.as_str().to_owned()),
            },
            Err(why) => faults.push(Fault::of("collector_url", format!("must be a URL: {why}"))),
        }
    }
    let collector_key = match (key, call.grants.is(Role::Admin)) {
        (None, _) => None,
        (Some(_), false) => {
            faults.push(Fault::of("collector_key", "is set by an admin alone"));
            None
        }
        (Some(key), true) => {
            let url = collector_url.clone().or_else(|| {
                let known =
                    station.store.read(|connection| clusters::collector(connection, call.parameter(0)));
                known.ok().flatten()?.url
            });
            if url.is_none() {
                faults.push(Fault::of("collector_key", "needs a collector_url, to whose origin it is bound"));
            }
            url.map(|url| (key, origin(&url)))
        }
    };
    if faults.is_empty() {
        Ok(Registration { name, description, collector_url, collector_key, version, region, metadata })
    } else {
        Err(faults)
    }
}

/// Scheme, host and port of a URL.
pub fn origin(url: &str) -> String {
    let end = url.find("://").map_or(0, |at| at + 3);
    let rest = url[end..].find(['/', '?']).map_or(url.len(), |at| end + at);
    url[..rest].to_owned()
}

fn members(call: &Call) -> Result<Map<String, Value>, Response> {
    call.json().map_err(|why| {
        let fault = Fault { path: Vec::new(), message: format!("must be a JSON object: {why}") };
        invalid("Invalid cluster data", &[fault])
    })
}

/// A cluster was registered, which may be a sign of life.
fn registered(station: &Station, status: u16, mut cluster: Option<ClusterView>, is_sign: bool) -> Response {
    if let Some(cluster) = &mut cluster {
        registry::registered(station, cluster.id(), is_sign);
        station.judge([cluster]);
    }
    Response::json(status, &json!({ "cluster": cluster }))
}

/// `POST /api/clusters`
pub fn create(station: &Arc<Station>, call: &Call) -> Response {
    let members = match members(call) {
        Ok(members) => members,
        Err(response) => return response,
    };
    let id = members.get("cluster_id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut faults = Vec::new();
    if !is_id(&id) {
        faults.push(Fault::of("cluster_id", ID_RULE));
    }
    if members.get("name").is_none_or(Value::is_null) {
        faults.push(Fault::of("name", "must be a text of 1 to 255 characters"));
    }
    let registration = match registration(station, call, &members) {
        Ok(registration) if faults.is_empty() => registration,
        Ok(_) => return invalid("Invalid cluster data", &faults),
        Err(more) => {
            faults.extend(more);
            return invalid("Invalid cluster data", &faults);
        }
    };
    let (admission, now, who) = (station.config.admission, call.now, call.who());
    let is_used = station.kafka.is_used();
    let stored = station.write(move |connection| {
        // One that is only heard is not registered.
        if clusters::whose(connection, &id)? == clusters::Heard::Registered {
            return Ok(None);
        }
        let registered = clusters::register(connection, now, &id, &registration, admission, false)?;
        if registered.is_ok() {
            registry::said(connection, (now, who, is_used), &id, Some(registry::REGISTERED))?;
        }
        Ok(Some((registered, clusters::show(connection, &id)?)))
    });
    match stored {
        Ok(Some((Ok(_), cluster))) => registered(station, 201, cluster, false),
        Ok(Some((Err(why), _))) => absent(why),
        Ok(None) => Response::error(409, "Cluster already exists"),
        Err(error) => store_failed(&error),
    }
}

/// `PUT /api/clusters/:id`
pub fn put(station: &Arc<Station>, call: &Call) -> Response {
    let id = call.parameter(0).to_owned();
    let members = match members(call) {
        Ok(members) => members,
        Err(response) => return response,
    };
    let mut faults = Vec::new();
    if !is_id(&id) {
        faults.push(Fault::of("cluster_id", ID_RULE));
    }
    for name in ["client_id", "cluster_id"] {
        if members.get(name).is_some_and(|said| said.as_str() != Some(&id)) {
            faults.push(Fault::of("cluster_id", format!("{name} differs from the path")));
        }
    }
    let registration = match registration(station, call, &members) {
        Ok(registration) if faults.is_empty() => registration,
        Ok(_) => return invalid("Invalid cluster data", &faults),
        Err(more) => {
            faults.extend(more);
            return invalid("Invalid cluster data", &faults);
        }
    };
    let (admission, now, who) = (station.config.admission, call.now, call.who());
    let is_used = station.kafka.is_used();
    let stored = station.write(move |connection| {
        let registered = clusters::register(connection, now, &id, &registration, admission, true)?;
        if let Ok(is_new) = registered {
            let action = is_new.then_some(registry::REGISTERED);
            registry::said(connection, (now, who, is_used), &id, action)?;
        }
        Ok((registered, clusters::show(connection, &id)?))
    });
    match stored {
        Ok((Ok(is_new), cluster)) => registered(station, if is_new { 201 } else { 200 }, cluster, true),
        Ok((Err(why), _)) => absent(why),
        Err(error) => store_failed(&error),
    }
}

/// `DELETE /api/clusters/:id`
pub fn remove(station: &Arc<Station>, call: &Call) -> Response {
    let id = call.parameter(0);
    match registry::remove(station, call.now, id, call.who()) {
        Ok(true) => Response::json(200, &json!({ "removed": true, "cluster_id": id })),
        Ok(false) => missing("Cluster"),
        Err(error) => store_failed(&error),
    }
}

/// `POST /api/clusters/:id/keys`: the key is shown once.
pub fn make_key(station: &Arc<Station>, call: &Call) -> Response {
    let (id, now) = (call.parameter(0).to_owned(), call.now);
    let key = ids::key();
    let hash = ids::hash(key.as_bytes());
    let stored = station.store.write(move |connection| {
        if clusters::show(connection, &id)?.is_none() {
            return Ok(false);
        }
        store_key(connection, "cluster", &id, hash, now)?;
        Ok(true)
    });
    match stored {
        Ok(true) => {
            station.keys.add(hash, Holder::Cluster(call.parameter(0).into()));
            Response::json(201, &json!({ "cluster_id": call.parameter(0), "key": key }))
                .with("Cache-Control", "no-store")
        }
        Ok(false) => missing("Cluster"),
        Err(error) => store_failed(&error),
    }
}

/// Keeps the hash of a key.
///
/// # Errors
/// It cannot be stored.
pub fn store_key(
    connection: &rusqlite::Connection,
    kind: &'static str,
    subject: &str,
    hash: ids::KeyHash,
    now: Wall,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO key (hash, kind, subject, created_at) VALUES (?1, ?2, ?3, ?4)";
    connection.execute(sql, rusqlite::params![hash, kind, subject, now.0]).map(drop)
}

/// `DELETE /api/clusters/:id/keys`: all keys of the cluster end.
pub fn end_keys(station: &Arc<Station>, call: &Call) -> Response {
    end_all_keys(station, "cluster", call, &Holder::Cluster(call.parameter(0).into()))
}

/// Ends all keys of a holder.
pub fn end_all_keys(station: &Arc<Station>, kind: &'static str, call: &Call, holder: &Holder) -> Response {
    let subject = call.parameter(0).to_owned();
    let ended = station.store.write(move |connection| {
        let sql = "DELETE FROM key WHERE kind = ?1 AND subject = ?2";
        connection.execute(sql, rusqlite::params![kind, subject])
    });
    match ended {
        Ok(count) => {
            station.keys.end(holder);
            Response::json(200, &json!({ "ended": count }))
        }
        Err(error) => store_failed(&error),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Heartbeat {
    client_id: Option<Value>,
    version: Option<Value>,
    stats: Option<Value>,
    /// The agents that `ask` in the last answer was about; None if the collector does not answer
    /// that.
    agents: Option<Vec<Value>>,
}

/// The longest version that is kept, in characters.
const MAX_VERSION: usize = 100;

/// A count as the file can hold it.
fn number(members: &Value, name: &str) -> Option<u64> {
    members[name].as_u64().filter(|&number| i64::try_from(number).is_ok())
}

#[derive(Deserialize)]
struct Answer {
    agent_uuid: String,
    healthy: bool,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    last_seen: Option<Wall>,
}

/// `POST /api/clusters/:id/heartbeat`: a collector's beat.
pub fn beat(station: &Arc<Station>, call: &Call) -> Response {
    let id = call.parameter(0).to_owned();
    if !is_id(&id) {
        return invalid("Invalid heartbeat", &[Fault::of("cluster_id", ID_RULE)]);
    }
    let said: Heartbeat = match call.json() {
        Ok(said) => said,
        Err(why) => return invalid("Invalid heartbeat", &[Fault { path: Vec::new(), message: why }]),
    };
    if said.client_id.as_ref().is_some_and(|client| client.as_str() != Some(&id)) {
        return invalid("Invalid heartbeat", &[Fault::of("client_id", "differs from the path")]);
    }
    let answers = said.agents.map(|all| {
        let known = all.into_iter().filter_map(|it| serde_json::from_value::<Answer>(it).ok());
        let said = known.map(|Answer { agent_uuid, healthy, mode, last_seen }| {
            (agent_uuid, Said { healthy, mode, last_seen })
        });
        said.collect::<Vec<_>>()
    });
    if let Some(answers) = &answers {
        station.asking.answer(&id, answers);
    }
    let answers = answers.unwrap_or_default();
    let stats = said.stats.unwrap_or_default();
    let version = said.version.as_ref().and_then(Value::as_str);
    let beat = Beat {
        agents: number(&stats, "total").zip(number(&stats, "healthy")),
        version: version.map(|version| version.chars().take(MAX_VERSION).collect()),
    };
    let asked_at = station.asking.asked_at(&id).unwrap_or_default();
    let (admission, now, cluster_id) = (station.config.admission, call.now, id.clone());
    let stored = station.write(move |connection| {
        let cluster = match clusters::admit(connection, now, &cluster_id, admission)? {
            Ok(cluster) => cluster,
            Err(why) => return Ok(Err(why)),
        };
        let is_news = clusters::beat(connection, now, &cluster, &beat)?;
        let is_registered = clusters::whose(connection, &cluster_id)? == clusters::Heard::Registered;
        for (agent, said) in answers.iter().filter(|(_, said)| said.healthy) {
            alerts::is_healthy(connection, now, asked_at, &cluster, agent, said)?;
        }
        Ok(Ok((cluster, is_news, is_registered)))
    });
    match stored {
        Ok(Ok((cluster, is_news, is_registered))) => {
            station.heard_collector(&id);
            if is_news {
                station.reconcile();
            }
            station.metrics.beat();
            station.news.clusters();
            station.agent_bell.ring();
            let next = (millis(station.config.collector_patience) / 4).clamp(1, 30_000);
            let uptime = station.clock.uptime();
            let mut of_incidents = Vec::new();
            if station.asking.is_due(&id, uptime) {
                let read = station.store.read(|connection| alerts::agents_in_incidents(connection, &cluster));
                of_incidents = read.unwrap_or_default();
            }
            let ask = station.asking.questions(&id, of_incidents, (uptime, now));
            let mut body = json!({ "received": true, "next_heartbeat_ms": next });
            if !ask.is_empty() {
                body["ask"] = json!(ask);
            }
            if !is_registered {
                body["registered"] = json!(false);
            }
            Response::json(200, &body)
        }
        Ok(Err(why)) => absent(why),
        Err(error) => store_failed(&error),
    }
}

/// `POST /api/clusters/:id/alerts`
pub fn post_alert(station: &Arc<Station>, call: &Call) -> Response {
    let id = call.parameter(0).to_owned();
    let refuse = |response| {
        station.metrics.refused_alert();
        response
    };
    if call.body.len() > MAX_BODY {
        return refuse(Response::error(413, "Request body too large"));
    }
    let alert = match alert::parse(&id, &call.body) {
        Ok(alert) if is_id(&id) => alert,
        Ok(_) => return refuse(invalid("Invalid alert payload", &[Fault::of("cluster_id", ID_RULE)])),
        Err(NoAlert::Mismatch) => return refuse(Response::error(400, "Cluster ID mismatch")),
        Err(NoAlert::Invalid(details)) => return refuse(invalid("Invalid alert payload", &details)),
    };
    let (admission, now, kind, name) = (station.config.admission, call.now, alert.kind, alert.name.clone());
    let name = if name.is_empty() { alert.agent.clone() } else { name };
    let cluster_id = id.clone();
    match station.write(move |connection| alerts::take(connection, now, &cluster_id, &alert, admission)) {
        Ok(Ok(stored)) => {
            station.metrics.alert(kind, stored.is_new);
            if stored.is_new {
                station.news.clusters();
                log::info!("[Clusters] Alert received: {} for agent {name} in cluster {id}", kind.name());
            }
            Response::json(200, &json!({ "received": true, "alert_uuid": stored.uuid }))
        }
        Ok(Err(why)) => refuse(absent(why)),
        Err(error) => store_failed(&error),
    }
}

#[derive(Serialize)]
struct AlertsListed {
    cluster_id: String,
    cluster_name: String,
    alerts: Vec<AlertView>,
    total: usize,
}

/// `GET /api/clusters/:id/alerts`
pub fn alerts(station: &Arc<Station>, call: &Call) -> Response {
    let listing = match listing(call) {
        Ok(listing) => listing,
        Err(response) => return response,
    };
    let listed = station.store.read(|connection| match clusters::find(connection, call.parameter(0))? {
        Some((cluster, false)) => {
            let alerts = alerts::list(connection, cluster.row, &listing)?;
            Ok(Some((cluster, alerts)))
        }
        _ => Ok(None),
    });
    match listed {
        Ok(Some((ClusterName { cluster_id, name, .. }, alerts))) => {
            let total = alerts.len();
            Response::json(200, &AlertsListed { cluster_id, cluster_name: name, alerts, total })
        }
        Ok(None) => missing("Cluster"),
        Err(error) => store_failed(&error),
    }
}

fn listing(call: &Call) -> Result<Listing, Response> {
    let severity = call.asked("severity");
    if severity.is_some_and(|it| !SEVERITIES.contains(&it)) {
        return Err(Response::error(400, "severity must be one of critical, warning, info"));
    }
    let kind = call.asked("type");
    if kind.is_some_and(|it| Type::from_name(it).is_none()) {
        let names = Type::ALL.map(Type::name).join(", ");
        return Err(Response::error(400, &format!("type must be one of {names}")));
    }
    Ok(Listing {
        limit: call.limit()?,
        after: call.asked("after").map(Into::into),
        acknowledged: call.flag("acknowledged")?,
        severity: severity.map(Into::into),
        kind: kind.map(Into::into),
        open: call.flag("open")?,
    })
}
