//! Whether the station is well, and what it counts.

use std::sync::Arc;

use pap_http::response::Response;
use pap_http::service::States;
use rusqlite::Connection;
use serde_json::json;

use super::call::{Call, store_failed};
use crate::VERSION;
use crate::channels;
use crate::clusters::{self, STATES};
use crate::control;
use crate::kafka::outbox;
use crate::metrics::Gauges;
use crate::station::Station;

/// `GET /health`
pub fn health(station: &Station) -> Response {
    let (agents, dead) = station.agents.counts();
    let (configured, reachable) = station.conditions.reachable(station.clock.now());
    Response::json(
        200,
        &json!({
            "status": "healthy", "version": VERSION, "uptime": station.clock.uptime().reading().as_secs(),
            "agents": { "total": agents, "dead": dead }, "telegram": station.notifier.has_telegram(),
            "alertmanagers": { "configured": configured, "reachable": reachable },
        }),
    )
}

/// `GET /ready`
pub fn ready(station: &Station) -> Response {
    match station.trouble() {
        None => Response::json(200, &json!({ "ready": true })),
        Some(reason) => Response::json(503, &json!({ "ready": false, "reason": reason })),
    }
}

/// `GET /metrics`
pub fn metrics(station: &Arc<Station>, _: &Call, connections: States) -> Response {
    let gauges = station.store.read(|connection| {
        let count = |sql: &str| connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, u64>(0));
        Ok(Gauges {
            uptime: station.clock.uptime().reading().as_secs(),
            connections,
            clusters: count("SELECT count(*) FROM cluster WHERE deleted_at IS NULL")?,
            incidents: count("SELECT count(*) FROM incident WHERE closed_at IS NULL")?,
            owed: count(channels::OWED)?,
            agents: station.agents.counts(),
            machines: [
                count("SELECT count(*) FROM machine WHERE status = 'unknown'")?,
                count("SELECT count(*) FROM machine WHERE status = 'online'")?,
                count("SELECT count(*) FROM machine WHERE status = 'offline'")?,
            ],
        })
    });
    let counted = gauges.and_then(|gauges| {
        let read = |connection: &Connection| {
            let owed: u64 = connection.prepare_cached(outbox::OWED)?.query_row([], |row| row.get(0))?;
            Ok((clusters::list(connection)?, owed))
        };
        Ok((gauges, station.store.read(read)?))
    });
    match counted {
        Ok((gauges, (mut clusters, owed))) => {
            station.judge(&mut clusters);
            let count = |state| clusters.iter().filter(|cluster| cluster.state() == state).count() as u64;
            let mut text = station.metrics.render(&gauges, station.conditions.counted(station.clock.now()));
            text.push_str(&control::metrics::write(station.control.as_ref(), STATES.map(count)));
            text.push_str(&station.kafka.metrics(owed));
            Response::text("text/plain; version=0.0.4; charset=utf-8", text)
        }
        Err(error) => store_failed(&error),
    }
}
