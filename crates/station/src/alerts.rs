//! Alerts that were posted: stored once, and what follows from them.

use pap_core::time::Wall;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter, types};
use serde::{Deserialize as _, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::alert::{Alert, Type};
use crate::asking::{MAX_IDS, Said};
use crate::clusters::{self, Absent, Admission};
use crate::event::Event;
use crate::ids;
use crate::incidents::{self, AgentFacts, Closer, ClusterName, Subject, raw};
use crate::store::Conditions;

/// A collector posts an alert again for no longer than this, in milliseconds.
const LATEST_REPEAT: u64 = 3_600_000;
/// How far a collector's clock may be ahead of ours where the two are compared, in milliseconds.
const MOST_AHEAD: u64 = 5000;

/// An alert that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its id here.
    pub uuid: String,
    /// It was not stored before.
    pub is_new: bool,
}

/// Stores an alert and what follows from it: incidents, events and deliveries. The same
/// alert again changes nothing and has the same id.
///
/// # Errors
/// Nothing is stored.
pub fn take(
    connection: &Connection,
    now: Wall,
    cluster_id: &str,
    alert: &Alert,
    admission: Admission,
) -> rusqlite::Result<Result<Stored, Absent>> {
    let cluster = match clusters::admit(connection, now, cluster_id, admission)? {
        Ok(cluster) => cluster,
        Err(absent) => return Ok(Err(absent)),
    };
    if let Some(uuid) = known(connection, cluster.row, alert)? {
        return Ok(Ok(Stored { uuid, is_new: false }));
    }
    let incident = conclude(connection, now, &cluster, alert)?;
    let uuid = ids::uuid();
    let details = alert.details.as_ref().map(|details| Value::Object(details.clone()).to_string());
    connection
        .prepare_cached(
            "INSERT INTO alert (uuid, cluster, event_id, type, agent, agent_name, severity, details, timestamp,
             received_at, incident) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            uuid,
            cluster.row,
            alert.event_id,
            alert.kind.name(),
            alert.agent,
            alert.name,
            alert.severity,
            details,
            alert.timestamp.0,
            now.0,
            incident
        ])?;
    connection
        .prepare_cached(
            "UPDATE cluster SET last_alert_at = ?2, last_seen_at = ?2, updated_at = ?2 WHERE id = ?1",
        )?
        .execute(params![cluster.row, now.0])?;
    Ok(Ok(Stored { uuid, is_new: true }))
}

/// The id of this alert if it is stored.
fn known(connection: &Connection, cluster: i64, alert: &Alert) -> rusqlite::Result<Option<String>> {
    match &alert.event_id {
        Some(event_id) => connection
            .prepare_cached("SELECT uuid FROM alert WHERE cluster = ?1 AND event_id = ?2")?
            .query_row(params![cluster, event_id], |row| row.get(0))
            .optional(),
        None => connection
            .prepare_cached(
                "SELECT uuid FROM alert WHERE cluster = ?1 AND agent = ?2 AND type = ?3 AND timestamp = ?4
                 AND event_id IS NULL",
            )?
            .query_row(params![cluster, alert.agent, alert.kind.name(), alert.timestamp.0], |row| row.get(0))
            .optional(),
    }
}

/// What follows from an alert. Returns the incident that it belongs to.
fn conclude(
    connection: &Connection,
    now: Wall,
    cluster: &ClusterName,
    alert: &Alert,
) -> rusqlite::Result<Option<i64>> {
    let subject = Subject::Agent(Some(cluster.clone()), facts(alert));
    let details = alert.details.clone().map_or_else(|| Value::Object(serde_json::Map::new()), Value::Object);
    let is_over = |opening| close_if_older(connection, now, opening, &subject, alert.timestamp);
    match alert.kind {
        // It was on its way for so long that the agent was heard since.
        Type::Death if is_heard_since(connection, now, cluster, alert)? => Ok(None),
        Type::Death => {
            let incident = incidents::open(connection, now, Event::AgentDead, &subject, &details)?;
            if alert.is_of_mass_silence() {
                let cluster = Subject::Cluster(cluster.clone());
                incidents::open(connection, now, Event::MassSilence, &cluster, &details)?;
            }
            Ok(Some(incident))
        }
        // Each of the other alerts comes from a living agent. The original collector sends no
        // recovery, so such an alert counts as one.
        Type::Emergency => {
            is_over(Event::AgentDead)?;
            end_mass_silence(connection, now, cluster)?;
            let incident = incidents::open(connection, now, Event::AgentEmergency, &subject, &details)?;
            Ok(Some(incident))
        }
        Type::Restart | Type::Recovered => {
            let death = is_over(Event::AgentDead)?;
            end_mass_silence(connection, now, cluster)?;
            let mode = alert.text("mode");
            let emergency = if mode.is_some_and(|mode| mode != "EMERGENCY") {
                is_over(Event::AgentEmergency)?
            } else {
                None
            };
            if alert.kind == Type::Restart {
                incidents::tell(connection, now, Event::AgentRestarted, None, &subject)?;
            }
            Ok(death.or(emergency))
        }
    }
}

/// A collector was asked at some moment, and says that an agent is healthy. That closes the
/// incidents of the agent that were open at that moment. If the collector says when the agent
/// was last heard, that must be after its death: a collector that was killed and started again
/// takes every agent for alive at first.
///
/// # Errors
/// Nothing is stored.
pub fn is_healthy(
    connection: &Connection,
    now: Wall,
    asked_at: Wall,
    cluster: &ClusterName,
    agent: &str,
    said: &Said,
) -> rusqlite::Result<()> {
    // An agent that beats here may live there.
    for place in [Some(cluster), None] {
        for opening in [Event::AgentDead, Event::AgentEmergency] {
            let facts = AgentFacts {
                agent_uuid: agent.into(),
                agent_name: agent.into(),
                mode: said.mode.clone(),
                ..AgentFacts::default()
            };
            let subject = Subject::Agent(place.cloned(), facts);
            let is_other_mode = said.mode.as_deref().is_some_and(|mode| mode != "EMERGENCY");
            let is_over = opening == Event::AgentDead || is_other_mode;
            if is_over && let Some(row) = incidents::find_open(connection, opening, &subject)? {
                close_if_heard(connection, now, asked_at, (opening, row), subject, said)?;
            }
        }
    }
    end_mass_silence(connection, now, cluster)
}

fn close_if_heard(
    connection: &Connection,
    now: Wall,
    asked_at: Wall,
    (opening, row): (Event, i64),
    mut subject: Subject,
    said: &Said,
) -> rusqlite::Result<()> {
    let sql =
        "SELECT opened_at, json_extract(details, '$.last_seen'), agent_name FROM incident WHERE id = ?1";
    let (opened_at, before, name): (u64, types::Value, String) = connection
        .prepare_cached(sql)?
        .query_row([row], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let before = match before {
        types::Value::Text(text) => Wall::deserialize(Value::from(text)).ok(),
        _ => None,
    };
    // An EMERGENCY that an agent sent here is over if it has sent another mode to a collector since.
    let before = before.or_else(|| subject.cluster().is_none().then_some(Wall(opened_at)));
    // Here a collector's clock is compared with ours. No agent was heard later than now.
    let is_future = |since: Wall| subject.cluster().is_none() && since.0 > now.0 + MOST_AHEAD;
    let is_heard = match (before, said.last_seen) {
        (_, Some(since)) if is_future(since) => false,
        (Some(before), Some(since)) => since > before,
        (_, since) => since.is_some() || subject.cluster().is_some(),
    };
    if !is_heard || opened_at > asked_at.0 {
        return Ok(());
    }
    if let Subject::Agent(_, facts) = &mut subject {
        facts.agent_name = name;
    }
    incidents::close(connection, now, opening, &subject, Closer::Over).map(drop)
}

/// Some of the agents about which a cluster's collector is asked: those in the open incidents of
/// the cluster, and those that beat here, which may live there.
///
/// # Errors
/// They cannot be read.
pub fn agents_in_incidents(connection: &Connection, cluster: &ClusterName) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT agent FROM incident WHERE (cluster = ?1 OR cluster IS NULL) AND closed_at IS NULL
         AND agent <> '' ORDER BY random() LIMIT ?2",
    )?;
    let rows = statement.query_map(params![cluster.row, MAX_IDS], |row| row.get(0))?;
    rows.collect()
}

/// Closes an incident that opened with an older alert.
fn close_if_older(
    connection: &Connection,
    now: Wall,
    opening: Event,
    subject: &Subject,
    timestamp: Wall,
) -> rusqlite::Result<Option<i64>> {
    let Some(row) = incidents::find_open(connection, opening, subject)? else { return Ok(None) };
    let newest: Option<u64> = connection
        .prepare_cached("SELECT max(min(timestamp, received_at)) FROM alert WHERE incident = ?1")?
        .query_row([row], |row| row.get(0))?;
    if newest.is_some_and(|newest| newest > timestamp.0.min(now.0)) {
        return Ok(None);
    }
    incidents::close(connection, now, opening, subject, Closer::Over)
}

/// Whether a later alert shows that the agent lived. A timestamp is by the collector's clock, and
/// counts as no later than the alert's receipt here.
fn is_heard_since(
    connection: &Connection,
    now: Wall,
    cluster: &ClusterName,
    alert: &Alert,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM alert WHERE cluster = ?1 AND agent = ?2
             AND timestamp > ?3 AND min(timestamp, received_at) > ?3 AND type <> 'AGENT_DEATH' AND received_at > ?4)",
        )?
        .query_row(
            params![
                cluster.row,
                alert.agent,
                alert.timestamp.0.min(now.0),
                now.0.saturating_sub(LATEST_REPEAT)
            ],
            |row| row.get(0),
        )
}

/// Closes the mass silence of a cluster when the last of its deaths is closed.
///
/// # Errors
/// Nothing is stored.
pub fn end_mass_silence(connection: &Connection, now: Wall, cluster: &ClusterName) -> rusqlite::Result<()> {
    let subject = Subject::Cluster(cluster.clone());
    if incidents::find_open(connection, Event::MassSilence, &subject)?.is_none() {
        return Ok(());
    }
    let is_on: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM incident WHERE cluster = ?1 AND kind = 'agent.dead'
             AND closed_at IS NULL AND json_extract(details, '$.mass_silence'))",
        )?
        .query_row([cluster.row], |row| row.get(0))?;
    if !is_on {
        incidents::close(connection, now, Event::MassSilence, &subject, Closer::Over)?;
    }
    Ok(())
}

fn facts(alert: &Alert) -> AgentFacts {
    let mode = match alert.kind {
        Type::Emergency => Some("EMERGENCY"),
        _ => alert.text("mode"),
    };
    let uptime = match alert.kind {
        Type::Death => alert.number("uptime_before_death"),
        Type::Restart => alert.number("new_uptime"),
        Type::Emergency | Type::Recovered => alert.number("uptime_seconds"),
    };
    let last_seen = match alert.kind {
        Type::Death => alert.text("last_seen").map(Into::into),
        _ => Some(alert.timestamp.to_string()),
    };
    AgentFacts {
        agent_uuid: alert.agent.clone(),
        agent_name: alert.name.clone(),
        mode: mode.map(Into::into),
        uptime_seconds: uptime,
        last_seen,
    }
}

/// Which alerts are listed.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// How many at most.
    pub limit: u32,
    /// Only alerts that are older than this one.
    pub after: Option<String>,
    /// Only acknowledged ones, or only others.
    pub acknowledged: Option<bool>,
    /// Only of this severity.
    pub severity: Option<String>,
    /// Only of this type.
    pub kind: Option<String>,
    /// Only alerts whose incident is open, or only others.
    pub open: Option<bool>,
}

/// An alert as it is shown.
#[derive(Debug, Serialize)]
pub struct AlertView {
    uuid: String,
    alert_type: String,
    agent_uuid: String,
    agent_name: String,
    severity: String,
    details: Option<Box<RawValue>>,
    event_id: Option<String>,
    incident: Option<String>,
    open: bool,
    acknowledged: bool,
    acknowledged_by: Option<String>,
    acknowledged_at: Option<Wall>,
    note: Option<String>,
    alert_timestamp: Wall,
    created_at: Wall,
}

/// The alerts of a cluster, the newest first.
///
/// # Errors
/// They cannot be read.
pub fn list(connection: &Connection, cluster: i64, listing: &Listing) -> rusqlite::Result<Vec<AlertView>> {
    let mut conditions = Conditions::default();
    conditions.and_with("a.cluster = ?", cluster);
    if let Some(after) = &listing.after {
        conditions.and_with("a.id < ifnull((SELECT id FROM alert WHERE uuid = ?), 0)", after.clone());
    }
    match listing.acknowledged {
        Some(true) => conditions.and("a.acknowledged_at IS NOT NULL"),
        Some(false) => conditions.and("a.acknowledged_at IS NULL"),
        None => {}
    }
    if let Some(severity) = &listing.severity {
        conditions.and_with("a.severity = ?", severity.clone());
    }
    if let Some(kind) = &listing.kind {
        conditions.and_with("a.type = ?", kind.clone());
    }
    match listing.open {
        Some(true) => conditions.and("i.uuid IS NOT NULL AND i.closed_at IS NULL"),
        Some(false) => conditions.and("(i.uuid IS NULL OR i.closed_at IS NOT NULL)"),
        None => {}
    }
    let limit = conditions.value(listing.limit);
    let sql = format!(
        "SELECT a.uuid, a.type, a.agent, a.agent_name, a.severity, a.details, a.event_id, i.uuid,
         i.uuid IS NOT NULL AND i.closed_at IS NULL, a.acknowledged_at, a.acknowledged_by, a.note,
         a.timestamp, a.received_at FROM alert a LEFT JOIN incident i ON i.id = a.incident
         WHERE {} ORDER BY a.id DESC LIMIT {limit}",
        conditions.text()
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params_from_iter(conditions.values()), |row| {
        let acknowledged_at = row.get::<_, Option<u64>>(9)?.map(Wall);
        let has_details = row.get_ref(5)? != types::ValueRef::Null;
        Ok(AlertView {
            uuid: row.get(0)?,
            alert_type: row.get(1)?,
            agent_uuid: row.get(2)?,
            agent_name: row.get(3)?,
            severity: row.get(4)?,
            details: if has_details { Some(raw(row, 5)?) } else { None },
            event_id: row.get(6)?,
            incident: row.get(7)?,
            open: row.get(8)?,
            acknowledged: acknowledged_at.is_some(),
            acknowledged_by: row.get(10)?,
            acknowledged_at,
            note: row.get(11)?,
            alert_timestamp: Wall(row.get(12)?),
            created_at: Wall(row.get(13)?),
        })
    })?;
    rows.collect()
}

/// Who acknowledges, when, and with which note; None takes the acknowledgement back.
pub type Acknowledgement = Option<(String, Wall, Option<String>)>;

/// Acknowledges an alert, and its incident with it. Returns whether there is such an alert.
///
/// # Errors
/// It cannot be stored.
pub fn acknowledge(
    connection: &Connection,
    uuid: &str,
    acknowledgement: &Acknowledgement,
) -> rusqlite::Result<bool> {
    let (by, at, note) = split(acknowledgement);
    let changed = connection.execute(
        "UPDATE alert SET acknowledged_by = ?2, acknowledged_at = ?3, note = ?4 WHERE uuid = ?1",
        params![uuid, by, at, note],
    )?;
    connection.execute(
        "UPDATE incident SET acknowledged_by = ?2, acknowledged_at = ?3, note = ?4
         WHERE id = (SELECT incident FROM alert WHERE uuid = ?1)",
        params![uuid, by, at, note],
    )?;
    Ok(changed > 0)
}

/// Acknowledges an incident, and its alerts with it. Returns whether there is such an
/// incident.
///
/// # Errors
/// It cannot be stored.
pub fn acknowledge_incident(
    connection: &Connection,
    uuid: &str,
    acknowledgement: &Acknowledgement,
) -> rusqlite::Result<bool> {
    let (by, at, note) = split(acknowledgement);
    let changed = connection.execute(
        "UPDATE incident SET acknowledged_by = ?2, acknowledged_at = ?3, note = ?4 WHERE uuid = ?1",
        params![uuid, by, at, note],
    )?;
    connection.execute(
        "UPDATE alert SET acknowledged_by = ?2, acknowledged_at = ?3, note = ?4
         WHERE incident = (SELECT id FROM incident WHERE uuid = ?1)",
        params![uuid, by, at, note],
    )?;
    Ok(changed > 0)
}

fn split(acknowledgement: &Acknowledgement) -> (Option<&str>, Option<u64>, Option<&str>) {
    match acknowledgement {
        Some((by, at, note)) => (Some(by), Some(at.0), note.as_deref()),
        None => (None, None, None),
    }
}
