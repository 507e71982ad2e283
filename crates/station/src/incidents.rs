//! Incidents: opened once, closed once, each with its event and the deliveries of it,
//! in the transaction of what caused them.

use pap_core::time::Wall;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::event::{Event, severity_name};
use crate::filters::{Filters, Place};
use crate::{ids, words};

/// The parts of a cluster that events need.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterName {
    /// Its row.
    #[serde(skip)]
    pub row: i64,
    /// Its id on the wire.
    pub cluster_id: String,
    /// Its name.
    pub name: String,
}

/// What is known of an agent when something happens to it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AgentFacts {
    /// Its id.
    pub agent_uuid: String,
    /// Its name.
    pub agent_name: String,
    /// Its mode.
    pub mode: Option<String>,
    /// The uptime that it announced, in seconds.
    pub uptime_seconds: Option<f64>,
    /// When it was last heard.
    pub last_seen: Option<String>,
}

/// A machine, its members in the order in which the machine monitor writes them.
#[derive(Clone, Debug, Serialize)]
pub struct MachineFacts {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// What people say about it.
    pub description: String,
    /// `online` or `offline`.
    pub status: &'static str,
    /// When it was last heard, in whole seconds.
    pub last_seen: Option<String>,
}

/// To whom something happened.
#[derive(Clone, Debug)]
pub enum Subject {
    /// An agent of a cluster, or one that beats here.
    Agent(Option<ClusterName>, AgentFacts),
    /// A cluster, or its collector.
    Cluster(ClusterName),
    /// A machine.
    Machine(MachineFacts),
    /// The worker of a cluster that has this role.
    Worker(ClusterName, String),
}

impl Subject {
    /// Its cluster.
    pub fn cluster(&self) -> Option<&ClusterName> {
        match self {
            Self::Agent(cluster, _) => cluster.as_ref(),
            Self::Cluster(cluster) | Self::Worker(cluster, _) => Some(cluster),
            Self::Machine(_) => None,
        }
    }

    fn agent(&self) -> Option<&AgentFacts> {
        match self {
            Self::Agent(_, agent) => Some(agent),
            _ => None,
        }
    }

    /// What tells it from others: the rows of its cluster and machine, its agent's id, and its
    /// worker's role.
    fn key(&self) -> (Option<i64>, Option<i64>, &str, &str) {
        let cluster = self.cluster().map(|cluster| cluster.row);
        match self {
            Self::Machine(machine) => (None, Some(machine.id), "", ""),
            Self::Worker(_, role) => (cluster, None, "", role),
            _ => (cluster, None, self.agent().map_or("", |agent| &agent.agent_uuid), ""),
        }
    }

    fn place(&self) -> Place<'_> {
        match self {
            Self::Machine(machine) => Place::Machine(machine.id),
            _ => self.cluster().map_or(Place::Station, |cluster| Place::Cluster(&cluster.cluster_id)),
        }
    }

    /// Deliveries with the same text go to a channel in order.
    fn order(&self) -> String {
        match (self, self.key()) {
            (Self::Machine(machine), _) => format!("machine {}", machine.id),
            (Self::Worker(cluster, role), _) => format!("worker {} {role}", cluster.row),
            (_, (cluster, _, agent, _)) => format!("cluster {} {agent}", cluster.unwrap_or_default()),
        }
    }
}

/// Why an incident closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer<'a> {
    /// It is over: an agent, a machine or a collector was heard again, an agent left EMERGENCY, or
    /// a worker runs again.
    Over,
    /// A person with this role closed it.
    Person(&'a str),
    /// Its cluster or its machine was removed.
    Removed,
    /// It was open for longer than `ALERT_RETENTION`.
    Retention,
}

impl<'a> Closer<'a> {
    /// The name under which it is stored.
    pub const fn name(self) -> &'a str {
        match self {
            Self::Over => "over",
            Self::Person(role) => role,
            Self::Removed => "removed",
            Self::Retention => "retention",
        }
    }
}

/// Opens an incident and tells of it, unless the same incident is open already. Returns its row.
///
/// # Errors
/// It cannot be stored.
pub fn open(
    connection: &Connection,
    now: Wall,
    opening: Event,
    subject: &Subject,
    details: &Value,
) -> rusqlite::Result<i64> {
    let (cluster, machine, agent, worker) = subject.key();
    if let Some(row) = find_open(connection, opening, subject)? {
        return Ok(row);
    }
    let name = subject.agent().map_or("", |agent| &agent.agent_name);
    connection
        .prepare_cached(
            "INSERT INTO incident (uuid, kind, severity, cluster, machine, agent, agent_name, details, opened_at,
             worker) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            ids::uuid(),
            opening.name(),
            severity_name(opening.severity()),
            cluster,
            machine,
            agent,
            name,
            details.to_string(),
            now.0,
            worker
        ])?;
    let row = connection.last_insert_rowid();
    tell(connection, now, opening, Some(row), subject)?;
    Ok(row)
}

/// Closes an open incident, and tells the channels that the opening went to or still is to go to.
/// Returns its row; None if none is open.
///
/// # Errors
/// It cannot be stored.
pub fn close(
    connection: &Connection,
    now: Wall,
    opening: Event,
    subject: &Subject,
    by: Closer<'_>,
) -> rusqlite::Result<Option<i64>> {
    let Some(row) = find_open(connection, opening, subject)? else { return Ok(None) };
    connection
        .prepare_cached(
            "UPDATE incident SET closed_at = ?2, closed_by = ?3,
             details = json_set(details, '$.closed_by', ?3) WHERE id = ?1",
        )?
        .execute(params![row, now.0, by.name()])?;
    if let Some(closing) = opening.closing() {
        tell_closing(connection, now, (closing, by), row, subject)?;
    }
    Ok(Some(row))
}

/// The open incident of this kind.
///
/// # Errors
/// It cannot be read.
pub fn find_open(
    connection: &Connection,
    opening: Event,
    subject: &Subject,
) -> rusqlite::Result<Option<i64>> {
    let (cluster, machine, agent, worker) = subject.key();
    connection
        .prepare_cached(
            "SELECT id FROM incident WHERE kind = ?1 AND ifnull(cluster, 0) = ifnull(?2, 0)
             AND ifnull(machine, 0) = ifnull(?3, 0) AND agent = ?4 AND worker = ?5 AND closed_at IS NULL",
        )?
        .query_row(params![opening.name(), cluster, machine, agent, worker], |row| row.get(0))
        .optional()
}

/// An incident's kind and subject.
///
/// # Errors
/// It cannot be read.
pub fn find(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<(Event, Subject)>> {
    let sql = "SELECT i.kind, i.agent, i.agent_name, c.id, c.cluster_id, c.name, m.id, m.name, m.hostname,
        m.description, m.last_seen, i.worker FROM incident i LEFT JOIN cluster c ON c.id = i.cluster
        LEFT JOIN machine m ON m.id = i.machine WHERE i.uuid = ?1";
    connection
        .query_row(sql, params![uuid], |row| {
            let opening = Event::from_name(row.get_ref(0)?.as_str()?);
            let cluster = match row.get::<_, Option<i64>>(3)? {
                Some(id) => Some(ClusterName { row: id, cluster_id: row.get(4)?, name: row.get(5)? }),
                None => None,
            };
            let (agent_uuid, agent_name): (String, String) = (row.get(1)?, row.get(2)?);
            let worker: String = row.get(11)?;
            let subject = match (row.get::<_, Option<i64>>(6)?, cluster) {
                (Some(id), _) => Subject::Machine(MachineFacts {
                    id,
                    name: row.get(7)?,
                    hostname: row.get(8)?,
                    description: row.get(9)?,
                    status: "offline",
                    last_seen: row.get::<_, Option<u64>>(10)?.map(|at| whole_seconds(Wall(at))),
                }),
                (None, Some(cluster)) if !worker.is_empty() => Subject::Worker(cluster, worker),
                (None, Some(cluster)) if agent_uuid.is_empty() => Subject::Cluster(cluster),
                (None, cluster) => {
                    Subject::Agent(cluster, AgentFacts { agent_uuid, agent_name, ..AgentFacts::default() })
                }
            };
            Ok(opening.map(|opening| (opening, subject)))
        })
        .optional()
        .map(Option::flatten)
}

/// Closes at most 1,000 incidents that are open for longer than `ALERT_RETENTION`. Returns how
/// many.
///
/// # Errors
/// They stay open.
pub fn close_older(connection: &Connection, now: Wall, before: Wall) -> rusqlite::Result<usize> {
    let mut old = connection.prepare_cached(
        "SELECT uuid FROM incident WHERE closed_at IS NULL AND opened_at < ?1 ORDER BY id LIMIT 1000",
    )?;
    let old =
        old.query_map([before.0], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    for uuid in &old {
        if let Some((opening, subject)) = find(connection, uuid)? {
            close(connection, now, opening, &subject, Closer::Retention)?;
        }
    }
    Ok(old.len())
}

/// Tells of an event that closes nothing.
///
/// # Errors
/// It cannot be stored.
pub fn tell(
    connection: &Connection,
    now: Wall,
    event: Event,
    incident: Option<i64>,
    subject: &Subject,
) -> rusqlite::Result<()> {
    write_event(connection, now, event, incident, subject, &words::happened(event, subject, now))
}

fn tell_closing(
    connection: &Connection,
    now: Wall,
    (closing, by): (Event, Closer<'_>),
    incident: i64,
    subject: &Subject,
) -> rusqlite::Result<()> {
    let message = match by {
        Closer::Over => words::happened(closing, subject, now),
        // Nobody was heard again.
        by => words::closed(closing, subject, by.name()),
    };
    write_event(connection, now, closing, Some(incident), subject, &message)
}

/// Writes an event and a delivery of it for each channel that wants it.
fn write_event(
    connection: &Connection,
    now: Wall,
    event: Event,
    incident: Option<i64>,
    subject: &Subject,
    message: &str,
) -> rusqlite::Result<()> {
    let told = incident.map(|row| said(connection, row)).transpose()?;
    connection
        .prepare_cached("INSERT INTO event (name, incident, body, line, at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![event.name(), incident, body(event, told.as_ref(), subject), message, now.0])?;
    let row = connection.last_insert_rowid();
    for (channel, filters) in active_channels(connection)? {
        if filters.pass(event, subject.place())
            && (!event.is_closing() || was_told(connection, incident, channel)?)
        {
            connection
                .prepare_cached(
                    "INSERT INTO delivery (uuid, event, channel, subject) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![ids::uuid(), row, channel, subject.order()])?;
        }
    }
    Ok(())
}

fn active_channels(connection: &Connection) -> rusqlite::Result<Vec<(i64, Filters)>> {
    let mut channels = connection.prepare_cached("SELECT id, filters FROM channel WHERE is_active")?;
    let rows = channels.query_map([], |row| {
        let filters: Option<String> = row.get(1)?;
        // They were checked when they were stored.
        let filters = filters.and_then(|json| serde_json::from_str(&json).ok());
        Ok((row.get(0)?, filters.unwrap_or_default()))
    })?;
    rows.collect()
}

/// Whether the opening went to a channel, or still is to go there.
fn was_told(connection: &Connection, incident: Option<i64>, channel: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM event e JOIN delivery d ON d.event = e.id
             WHERE e.incident = ?1 AND d.channel = ?2 AND d.state IN ('owed', 'delivered'))",
        )?
        .query_row(params![incident, channel], |row| row.get(0))
}

/// An incident as a webhook says it.
#[derive(Serialize)]
struct Said {
    id: String,
    kind: String,
    state: &'static str,
    severity: String,
    opened_at: Wall,
    closed_at: Option<Wall>,
    details: Box<RawValue>,
}

fn said(connection: &Connection, row: i64) -> rusqlite::Result<Said> {
    connection
        .prepare_cached(
            "SELECT uuid, kind, severity, opened_at, closed_at, details FROM incident WHERE id = ?1",
        )?
        .query_row([row], |row| {
            let closed_at = row.get::<_, Option<u64>>(4)?.map(Wall);
            Ok(Said {
                id: row.get(0)?,
                kind: row.get(1)?,
                state: if closed_at.is_some() { "closed" } else { "open" },
                severity: row.get(2)?,
                opened_at: Wall(row.get(3)?),
                closed_at,
                details: raw(row, 5)?,
            })
        })
}

/// JSON that a column holds, as it is.
///
/// # Errors
/// It is not JSON.
pub fn raw(row: &Row<'_>, column: usize) -> rusqlite::Result<Box<RawValue>> {
    RawValue::from_string(row.get(column)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    })
}

/// The body of a webhook.
fn body(event: Event, incident: Option<&Said>, subject: &Subject) -> String {
    #[derive(Serialize)]
    struct OfMachine<'a> {
        event: &'static str,
        machine: &'a MachineFacts,
    }
    #[derive(Serialize)]
    struct OfOthers<'a> {
        event: &'static str,
        incident: Option<&'a Said>,
        cluster: Option<&'a ClusterName>,
        agent: Option<&'a AgentFacts>,
    }
    let event = event.name();
    let body = if let Subject::Machine(machine) = subject {
        serde_json::to_string(&OfMachine { event, machine })
    } else {
        let (cluster, agent) = (subject.cluster(), subject.agent());
        serde_json::to_string(&OfOthers { event, incident, cluster, agent })
    };
    debug_assert!(body.is_ok(), "keys are text and numbers are finite");
    body.unwrap_or_default()
}

/// RFC 3339 in whole seconds, as the machine monitor's webhooks have it.
pub fn whole_seconds(at: Wall) -> String {
    let text = Wall(at.0 / 1000 * 1000).to_string();
    text.replace(".000Z", "Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_payload_is_the_documents_to_the_byte() {
        let machine = MachineFacts {
            id: 1,
            name: "production-server".into(),
            hostname: "web-1".into(),
            description: "Main production server".into(),
            status: "offline",
            last_seen: Some(whole_seconds(Wall(1_760_000_000_987))),
        };
        let subject = Subject::Machine(machine);
        assert_eq!(
            body(Event::MachineOffline, None, &subject),
            r#"{"event":"machine.offline","machine":{"id":1,"name":"production-server","hostname":"web-1","description":"Main production server","status":"offline","last_seen":"2025-10-09T08:53:20Z"}}"#
        );
    }
}
