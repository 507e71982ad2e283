//! The conditions that Alertmanagers are told: the open incidents. They are read from the stored
//! events. So the code that opens and closes incidents need not know of Alertmanagers, and what
//! an Alertmanager is told is on disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use pap_alertmanager::metrics::Numbers as Counted;
use pap_alertmanager::settings::Alertmanagers;
use pap_core::firing::{self, Agent, AlertName, Concerned, ENDS_AFTER, End, Ended, Firing, Machine, Numbers};
use pap_core::time::{Now, Uptime, Wall, millis};
use pap_process::clock::wall;
use pap_process::metrics::{Histogram, SLOW};
use pap_process::stop::Stop;
use rusqlite::{Connection, Row, params};
use serde::Deserialize as _;
use serde_json::Value;

use crate::event::Event;
use crate::station::Station;

/// The longest time between two looks at the events.
const LOOK_UP: Duration = Duration::from_secs(60);
/// The most events that are read at once.
const STEP: usize = 1000;
/// The most ended conditions.
const MOST_ENDED: usize = 100_000;

/// The subject of an incident, as it was when the incident opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    cluster: Option<String>,
    /// An agent's id, name and mode.
    agent: Option<(String, String, Option<String>)>,
    /// A machine's id and name.
    machine: Option<(i64, String)>,
    /// The role of a worker.
    worker: Option<String>,
}

/// At most one incident of a key is open at a time: its alert, the rows of its cluster and
/// machine, and its agent's id or its worker's role.
type Key = (AlertName, Option<i64>, Option<i64>, String);
type Condition = firing::Condition<Subject>;

/// The numbers of the open incidents.
#[derive(Debug, Default)]
pub struct ByIncident(HashMap<Key, u64>);

impl Numbers for ByIncident {
    type Key = Key;
    type Subject = Subject;

    fn get(&self, key: &Key) -> Option<u64> {
        self.0.get(key).copied()
    }

    fn insert(&mut self, key: &Key, number: u64) {
        self.0.insert(key.clone(), number);
    }

    fn remove(&mut self, key: &Key) -> Option<u64> {
        self.0.remove(key)
    }
}

/// The conditions, and the bells of the threads that wait for news of them.
pub struct Conditions {
    firing: Mutex<Firing<ByIncident>>,
    bells: Vec<(Sender<()>, Receiver<()>)>,
    /// From the closing or opening of an incident until an Alertmanager took it.
    delivery: Histogram,
}

impl Conditions {
    /// No condition is known yet.
    pub fn new(alertmanagers: Option<&Alertmanagers>) -> Self {
        let repeat = Alertmanagers::repeat(alertmanagers);
        Self {
            firing: Mutex::new(Firing::new(repeat, MOST_ENDED, ByIncident::default())),
            bells: (0..repeat.targets).map(|_| bounded(1)).collect(),
            delivery: Histogram::new(&SLOW),
        }
    }

    /// Runs `work` under the lock, and wakes the threads that post if there is something new.
    fn with<R>(&self, work: impl FnOnce(&mut Firing<ByIncident>) -> R) -> R {
        // A panic in a thread of ours ends the process.
        let mut firing = self.firing.lock().unwrap_or_else(PoisonError::into_inner);
        let told = firing.newest();
        let result = work(&mut firing);
        let is_news = firing.newest() != told;
        drop(firing);
        if is_news {
            for (bell, _) in &self.bells {
                // A bell that rings already is enough.
                let _ = bell.try_send(());
            }
        }
        result
    }

    /// How many Alertmanagers there are, and how many of them took or refused the last post.
    pub fn reachable(&self, now: Now) -> (usize, usize) {
        self.with(|firing| {
            let tallies = || firing.tallies(now.tick);
            (tallies().count(), tallies().filter(|(tally, _)| tally.is_reachable == Some(true)).count())
        })
    }

    /// What is counted; None without an Alertmanager.
    pub fn counted(&self, now: Now) -> Option<(Counted, &Histogram)> {
        let counted = self.with(|firing| Counted::of(firing, &AlertName::ALL, now.tick));
        counted.map(|counted| (counted, &self.delivery))
    }
}

/// The station, for the threads that post.
pub struct Owner(pub Arc<Station>);

impl pap_alertmanager::Owner for Owner {
    type Numbers = ByIncident;

    fn with<R>(&self, work: impl FnOnce(&mut Firing<ByIncident>, Now) -> R) -> R {
        self.0.conditions.with(|firing| work(firing, self.0.clock.now()))
    }

    fn concerned<'a>(&'a self, subject: &'a Subject) -> Concerned<'a> {
        Concerned {
            cluster: subject.cluster.as_deref(),
            agent: subject.agent.as_ref().map(|(id, name, mode)| Agent {
                id: id.into(),
                name: Some(name.as_str()).filter(|name| !name.is_empty()),
                mode: mode.as_deref(),
            }),
            machine: subject.machine.as_ref().map(|(id, name)| Machine { id: *id, name }),
            worker: subject.worker.as_deref(),
        }
    }

    fn bell(&self, target: usize) -> &Receiver<()> {
        &self.0.conditions.bells[target].1
    }

    fn uptime(&self) -> Uptime {
        self.0.clock.uptime()
    }

    fn stop(&self) -> &Stop {
        &self.0.stop
    }

    fn may_post(&self) -> bool {
        self.0.store.lease().covers(Duration::from_secs(10))
    }

    fn delivery(&self) -> &Histogram {
        &self.0.conditions.delivery
    }
}

/// Follows the events until the station stops.
pub fn run(station: &Station) {
    let mut follower = Follower::default();
    let mut is_started = false;
    while !station.stop.is_stopping() {
        let seen = station.bell.count();
        let read = station.store.read(|connection| {
            if is_started { read_events(connection, follower.last) } else { read_all(connection, station) }
        });
        match read {
            Ok(changes) => {
                is_started = true;
                let more = changes.more;
                let now = station.clock.now();
                station.conditions.with(|firing| follower.apply(firing, now, changes));
                if more {
                    continue;
                }
            }
            Err(error) => log::error!("what Alertmanagers are told cannot be read: {error}"),
        }
        station.bell.wait(seen, LOOK_UP);
    }
}

/// What was read.
#[derive(Debug, Default)]
struct Changes {
    incidents: Vec<Incident>,
    /// They are from before this start of the station.
    is_past: bool,
    /// The last event that was read.
    last: i64,
    /// There are more events.
    more: bool,
}

#[derive(Debug)]
struct Incident {
    row: i64,
    key: Key,
    condition: Condition,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Follower {
    last: i64,
    /// The keys of the conditions that hold, by the incidents' rows. After the start some events
    /// are read twice: the end of a former incident must not end the present one of the same key.
    open: HashMap<i64, Key>,
}

impl Follower {
    fn apply(&mut self, firing: &mut Firing<ByIncident>, now: Now, changes: Changes) {
        self.last = self.last.max(changes.last);
        for Incident { row, key, condition } in changes.incidents {
            match (condition.ended, changes.is_past) {
                (None, false) => firing.begin(now, key.clone(), condition),
                (None, true) => firing.resume(now, key.clone(), condition),
                (Some(ended), _) => {
                    if let Some(key) = self.open.remove(&row) {
                        firing.end(now, &key, ended.why);
                    } else if changes.is_past {
                        firing.resume_ended(now, key, condition);
                    }
                    continue;
                }
            }
            self.open.insert(row, key);
        }
    }
}

/// An incident with its subject; its columns come first.
const INCIDENT: &str = "i.id, i.kind, i.opened_at, i.closed_at, i.closed_by, i.agent, i.agent_name,
    json_extract(i.details, '$.mode'), json_extract(i.details, '$.last_seen'),
    ifnull(json_extract(i.details, '$.machine_id'), i.machine),
    ifnull(json_extract(i.details, '$.machine_name'), (SELECT name FROM machine WHERE id = i.machine)),
    c.id, c.cluster_id, i.worker";
const CLUSTER: &str = "LEFT JOIN cluster c ON c.id = i.cluster";

/// The open incidents, and those that closed so lately that an Alertmanager may not know it.
fn read_all(connection: &Connection, station: &Station) -> rusqlite::Result<Changes> {
    // Read first: an incident that opens meanwhile is read twice, which changes nothing.
    let last: Option<i64> = connection.query_row("SELECT max(id) FROM event", [], |row| row.get(0))?;
    let every = Alertmanagers::repeat(station.config.alertmanagers.as_ref()).every;
    let since = wall().0.saturating_sub(millis(every * ENDS_AFTER));
    let sql = format!(
        "SELECT {INCIDENT} FROM incident i {CLUSTER} WHERE i.closed_at IS NULL OR i.closed_at > ?1 ORDER BY i.id"
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([since])?;
    let mut incidents = Vec::new();
    while let Some(row) = rows.next()? {
        incidents.extend(readable(row));
    }
    Ok(Changes { incidents, is_past: true, last: last.unwrap_or_default(), more: false })
}

/// The next events that opened or closed an incident.
fn read_events(connection: &Connection, last: i64) -> rusqlite::Result<Changes> {
    let sql = format!(
        "SELECT {INCIDENT}, e.id FROM event e LEFT JOIN incident i ON i.id = e.incident {CLUSTER}
         WHERE e.id > ?1 ORDER BY e.id LIMIT ?2"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![last, STEP])?;
    let mut changes = Changes { last, ..Changes::default() };
    let mut read = 0;
    while let Some(row) = rows.next()? {
        read += 1;
        changes.last = row.get(14)?;
        if row.get::<_, Option<i64>>(0)?.is_some() {
            changes.incidents.extend(readable(row));
        }
    }
    changes.more = read == STEP;
    Ok(changes)
}

/// An incident as a condition. If it cannot be read, it is None, so that it hides no other.
fn readable(row: &Row<'_>) -> Option<Incident> {
    incident(row).unwrap_or_else(|error| {
        log::error!("an incident that Alertmanagers should be told cannot be read: {error}");
        None
    })
}

/// A column that is text. What clients send as details may be anything.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(row.get_ref(column)?.as_str().ok().map(Into::into))
}

/// An incident as a condition; None if no alert tells it.
fn incident(row: &Row<'_>) -> rusqlite::Result<Option<Incident>> {
    let kind = Event::from_name(row.get_ref(1)?.as_str()?);
    let Some(alert) = kind.and_then(Event::alert) else { return Ok(None) };
    let opened_at = Wall(row.get(2)?);
    let (agent, name): (String, String) = (row.get(5)?, row.get(6)?);
    let worker: String = row.get(13)?;
    let mode = match alert {
        AlertName::AgentEmergency => Some("EMERGENCY".to_owned()),
        _ => text(row, 7)?,
    };
    let last_seen = text(row, 8)?.and_then(|text| Wall::deserialize(Value::from(text)).ok());
    let since = last_seen.map_or(opened_at, |seen| seen.min(opened_at));
    // As it was when the incident opened: the machine may have another name now, or be removed.
    // Details of other incidents come from clients, and their members mean nothing here.
    let machine = match alert {
        AlertName::MachineOffline => row.get::<_, Option<i64>>(9)?.zip(text(row, 10)?),
        _ => None,
    };
    let subject = Subject {
        cluster: row.get(12)?,
        agent: Some((agent.clone(), name, mode)).filter(|_| !agent.is_empty()),
        machine: machine.clone(),
        worker: Some(worker.clone()).filter(|_| alert == AlertName::WorkerFailed),
    };
    let closed_by: Option<String> = row.get(4)?;
    let ended = row.get::<_, Option<u64>>(3)?.map(|at| Ended {
        at: Wall(at).max(since),
        why: match closed_by.as_deref() {
            Some("over") if matches!(alert, AlertName::MassSilence | AlertName::WorkerFailed) => End::Over,
            Some("over") => End::Heard,
            Some("removed") => End::Removed,
            _ => End::Closed,
        },
    });
    let condition = Condition { alert, subject, since, ended };
    let key = (alert, row.get(11)?, machine.map(|(id, _)| id), format!("{agent}{worker}"));
    Ok(Some(Incident { row: row.get(0)?, key, condition }))
}
