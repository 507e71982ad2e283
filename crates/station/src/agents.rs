//! Agents that beat at the station, because their collector does not answer. They are judged
//! by the collector's own rules.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pap_core::agent_id::AgentId;
use pap_core::alert::{Alert, Details};
use pap_core::delivery::Outcome;
use pap_core::heartbeat::{Heartbeat, Mode};
use pap_core::outbox::Limits;
use pap_core::registry::{AgentView, Filter, Full, Received, Registry, Resume, Rules, SavedAgent};
use pap_core::time::{Now, Tick, Wall};
use pap_core::verdict::Verdict;
use pap_process::clock::Clock;
use rusqlite::{Connection, params};

use crate::event::Event;
use crate::incidents::{self, AgentFacts, Closer, Subject};
use crate::store::{Store, StoreError};

/// How long a dead agent is remembered.
const RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Verdicts passed, or agents looked at, while the lock is held.
const BUDGET: usize = 256;
/// The parts that were stored together last. A station of an earlier version stores one part under
/// another name, and leaves these where they are.
const SELECT_SNAPSHOT: &str =
    "SELECT body FROM snapshot WHERE at = (SELECT max(at) FROM snapshot) ORDER BY name";

struct Guarded {
    registry: Registry,
    /// The agents in mode EMERGENCY, and those that have left it while that is not told yet.
    in_emergency: BTreeSet<AgentId>,
    calm: Vec<AgentId>,
    /// Something has changed since the agents were last stored.
    is_changed: bool,
}

/// The agents that beat at the station.
pub struct Agents(Mutex<Guarded>);

impl Agents {
    /// No agent is known yet.
    pub fn new(max_agents: usize) -> Self {
        let registry = Registry::new(Rules {
            max_agents,
            grace: None,
            mass_silence_hold: Duration::ZERO,
            retention: RETENTION,
            recovery_alerts: true,
            outbox: Limits { queue: 1000, ttl: Duration::from_secs(3600), senders: BUDGET },
        });
        let (in_emergency, calm) = (BTreeSet::new(), Vec::new());
        Self(Mutex::new(Guarded { registry, in_emergency, calm, is_changed: false }))
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        // A panic in a thread of ours ends the process.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a heartbeat.
    ///
    /// # Errors
    /// There is no room for another agent.
    pub fn beat(
        &self,
        clock: &Clock,
        id: &AgentId,
        beat: &Heartbeat<'_>,
        from: Option<IpAddr>,
    ) -> Result<Received, Full> {
        let mut guarded = self.lock();
        let received = guarded.registry.beat_from(clock.now(), id, beat, from)?;
        guarded.is_changed = true;
        if beat.mode == Mode::Emergency {
            if !guarded.in_emergency.contains(id) {
                guarded.in_emergency.insert(id.clone());
            }
        } else if guarded.in_emergency.remove(id) {
            guarded.calm.push(id.clone());
        }
        Ok(received)
    }

    /// Passes the verdicts that are due. Returns whether more are due already.
    pub fn sweep(&self, now: Now) -> bool {
        let mut guarded = self.lock();
        let swept = guarded.registry.sweep(now, BUDGET);
        guarded.is_changed |= swept.steps > 0 || swept.forgotten > 0;
        for change in &swept.changes {
            log::info!(agent_uuid:% = change.agent.agent_uuid; "an agent that beats here is {}", change.agent.status.as_str());
        }
        swept.more
    }

    /// When the next verdict is due.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.lock().registry.next_deadline()
    }

    /// One agent.
    pub fn view(&self, now: Now, id: &AgentId) -> Option<AgentView> {
        self.lock().registry.view(now, id)
    }

    /// All agents, by their ids, at most `limit`; and how many there are.
    pub fn list(&self, clock: &Clock, limit: usize) -> (Vec<AgentView>, usize) {
        let mut ids = Vec::new();
        let mut from = Some(0);
        while let Some(start) = from {
            from = self.lock().registry.scan(&Filter::default(), start, BUDGET, &mut ids);
        }
        let total = ids.len();
        ids.sort_unstable();
        ids.truncate(limit);
        (ids.iter().filter_map(|id| self.view(clock.now(), id)).collect(), total)
    }

    /// How many agents are known, and how many of them are dead.
    pub fn counts(&self) -> (usize, usize) {
        let stats = self.lock().registry.stats();
        (stats.total(), stats.unhealthy())
    }

    /// The agents that are dead, and the agents in mode EMERGENCY.
    pub fn in_trouble(&self) -> (BTreeSet<AgentId>, BTreeSet<AgentId>) {
        let guarded = self.lock();
        let (mut dead, mut from) = (Vec::new(), Some(0));
        let filter = Filter { status: Some(Verdict::Dead), ..Filter::default() };
        while let Some(start) = from {
            from = guarded.registry.scan(&filter, start, BUDGET, &mut dead);
        }
        (dead.into_iter().collect(), guarded.in_emergency.clone())
    }

    /// The alerts to tell next, and the agents that have left mode EMERGENCY.
    pub fn owed(&self, clock: &Clock) -> (Vec<Alert>, Vec<AgentId>) {
        let mut guarded = self.lock();
        let now = clock.now();
        let alerts = std::iter::from_fn(|| guarded.registry.next_alert(now)).collect();
        (alerts, std::mem::take(&mut guarded.calm))
    }

    /// Takes note of whether these were told.
    pub fn settle(&self, clock: &Clock, alerts: &[Alert], calm: Vec<AgentId>, is_told: bool) {
        let mut guarded = self.lock();
        let now = clock.now();
        let outcome = if is_told { Outcome::Taken } else { failed() };
        for alert in alerts {
            guarded.registry.settle(now, alert, outcome);
        }
        if !is_told {
            guarded.calm.extend(calm);
        }
        guarded.is_changed = true;
    }

    /// Stores the agents if something has changed.
    ///
    /// # Errors
    /// They are not stored.
    pub fn save(&self, clock: &Clock, wall: Wall, store: &Store) -> Result<(), StoreError> {
        if !std::mem::replace(&mut self.lock().is_changed, false) {
            return Ok(());
        }
        // In parts: as one text they would take their memory several times.
        let (mut parts, mut from) = (Vec::new(), Some(0));
        while let Some(start) = from {
            let mut some = Vec::new();
            from = self.lock().registry.save(clock.now(), start, BUDGET, &mut some);
            parts.push(serde_json::to_string(&some).unwrap_or_default());
        }
        let stored = store.write(move |connection| {
            connection.execute("DELETE FROM snapshot", [])?;
            let mut insert =
                connection.prepare_cached("INSERT INTO snapshot (name, at, body) VALUES (?1, ?2, ?3)")?;
            for (number, part) in parts.iter().enumerate() {
                insert.execute(params![format!("agents {number:08}"), wall.0, part])?;
            }
            Ok(())
        });
        if stored.is_err() {
            self.lock().is_changed = true;
        }
        stored.map(drop)
    }

    /// Knows the stored agents again. Each gets a full deadline.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn restore(&self, now: Now, connection: &Connection) -> rusqlite::Result<usize> {
        let mut parts = connection.prepare(SELECT_SNAPSHOT)?;
        let mut parts = parts.query([])?;
        let mut agents = Vec::new();
        while let Some(part) = parts.next()? {
            let part = part.get_ref(0)?.as_str()?;
            agents.extend(serde_json::from_str::<Vec<SavedAgent>>(part).unwrap_or_else(|error| {
                log::error!("some agents that beat here before are not known again: {error}");
                Vec::new()
            }));
        }
        let count = agents.len();
        let mut guarded = self.lock();
        let without_room = guarded.registry.restore(now, agents, Resume::Killed);
        let (mut ids, mut from) = (Vec::new(), Some(0));
        let filter = Filter { mode: Some(Mode::Emergency), ..Filter::default() };
        while let Some(start) = from {
            from = guarded.registry.scan(&filter, start, BUDGET, &mut ids);
        }
        guarded.in_emergency.extend(ids);
        Ok(count - without_room)
    }
}

fn failed() -> Outcome {
    pap_core::delivery::Reply::None.outcome()
}

fn subject(alert: &Alert) -> Subject {
    let (mode, uptime, last_seen) = match &alert.details {
        Details::Death(death) => (Some(death.mode), Some(death.uptime_before_death), Some(death.last_seen)),
        Details::Emergency(emergency) => {
            (Some(Mode::Emergency), Some(emergency.uptime_seconds), Some(alert.at.wall))
        }
        Details::Restart(restart) => (Some(restart.mode), Some(restart.new_uptime), Some(alert.at.wall)),
        Details::Recovered(recovered) => (Some(recovered.mode), None, Some(alert.at.wall)),
    };
    Subject::Agent(
        None,
        AgentFacts {
            agent_uuid: alert.agent.to_string(),
            agent_name: alert.name.clone(),
            mode: mode.map(|mode| mode.as_str().to_owned()),
            uptime_seconds: uptime,
            last_seen: last_seen.map(|at| at.to_string()),
        },
    )
}

/// Stores what follows from an alert about an agent that beats here.
///
/// # Errors
/// Nothing is stored.
pub fn conclude(connection: &Connection, now: Wall, alert: &Alert) -> rusqlite::Result<()> {
    let subject = subject(alert);
    let details = serde_json::to_value(&alert.details).unwrap_or_default();
    match &alert.details {
        // `died` tells it, when no collector says that the agent lives.
        Details::Death(_) => Ok(()),
        Details::Emergency(_) => {
            incidents::open(connection, now, Event::AgentEmergency, &subject, &details).map(drop)
        }
        Details::Restart(_) => incidents::tell(connection, now, Event::AgentRestarted, None, &subject),
        Details::Recovered(_) => {
            incidents::close(connection, now, Event::AgentDead, &subject, Closer::Over).map(drop)
        }
    }
}

fn seen(agent: &AgentView) -> Subject {
    Subject::Agent(
        None,
        AgentFacts {
            agent_uuid: agent.agent_uuid.to_string(),
            agent_name: agent.agent_name.clone(),
            mode: Some(agent.mode.as_str().to_owned()),
            uptime_seconds: Some(agent.uptime_seconds),
            last_seen: Some(agent.last_seen.to_string()),
        },
    )
}

/// Stores that an agent that beat here is dead.
///
/// # Errors
/// Nothing is stored.
pub fn died(connection: &Connection, now: Wall, agent: &AgentView) -> rusqlite::Result<()> {
    let details = serde_json::json!({
        "last_seen": agent.last_seen, "mode": agent.mode, "uptime_before_death": agent.uptime_seconds,
        "silence_ms": agent.silence_ms,
    });
    incidents::open(connection, now, Event::AgentDead, &seen(agent), &details).map(drop)
}

/// Stores that an agent that beats here is in mode EMERGENCY.
///
/// # Errors
/// Nothing is stored.
pub fn alarm(connection: &Connection, now: Wall, agent: &AgentView) -> rusqlite::Result<()> {
    let details = serde_json::json!({ "uptime_seconds": agent.uptime_seconds });
    incidents::open(connection, now, Event::AgentEmergency, &seen(agent), &details).map(drop)
}

/// Closes an incident of an agent that beats here.
///
/// # Errors
/// Nothing is stored.
pub fn end(connection: &Connection, now: Wall, opening: Event, id: &AgentId) -> rusqlite::Result<()> {
    let facts =
        AgentFacts { agent_uuid: id.to_string(), agent_name: id.to_string(), ..AgentFacts::default() };
    incidents::close(connection, now, opening, &Subject::Agent(None, facts), Closer::Over).map(drop)
}

#[cfg(test)]
mod tests {
    use pap_process::clock::wall;

    use super::*;

    /// As many agents beat, are stored, and are known again.
    fn known_again(store: &Store, count: usize) -> usize {
        let (clock, agents) = (Clock::start(), Agents::new(10_000));
        for number in 0..count {
            let id = AgentId::new(&format!("agent-{number}")).unwrap();
            let beat = Heartbeat { mode: Mode::Idle, uptime: 1.0, name: None };
            agents.beat(&clock, &id, &beat, None).unwrap();
        }
        agents.save(&clock, wall(), store).unwrap();
        store.read(|connection| Agents::new(10_000).restore(clock.now(), connection)).unwrap()
    }

    #[test]
    fn all_that_were_stored_last_are_known_again_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let (store, writer) = Store::open(&directory.path().join("db")).unwrap();
        std::thread::spawn(move || writer.run(&crossbeam_channel::never()));
        assert_eq!(known_again(&store, 3 * BUDGET + 1), 3 * BUDGET + 1);
        assert_eq!(known_again(&store, BUDGET), BUDGET, "fewer parts than before");
        // As an earlier version stores them, beside ours.
        let in_one = |connection: &Connection| {
            connection.execute(
                "INSERT INTO snapshot SELECT 'agents', at + 1, body FROM snapshot WHERE name = 'agents 00000000'",
                [],
            )
        };
        assert_eq!(store.write(in_one).unwrap(), 1);
        let restored = store.read(|it| Agents::new(10_000).restore(Clock::start().now(), it)).unwrap();
        assert_eq!(restored, BUDGET, "each once");
        let restored = store.read(|it| Agents::new(10).restore(Clock::start().now(), it)).unwrap();
        assert_eq!(restored, 10, "as many as there is room for");
        assert_eq!(known_again(&store, 1), 1);
    }
}
