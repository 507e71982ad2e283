//! Agents that are silent here may live at their collector. Before a death is told, the station
//! asks every collector that it can: at its URL, or with the answer to its beat.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pap_core::agent_id::AgentId;
use pap_core::alert::{Alert, Details};
use pap_core::heartbeat::Mode;
use pap_core::time::{Uptime, Wall, millis};
use pap_core::verdict::Verdict;
use pap_process::clock::wall;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rusqlite::Connection;
use serde::Deserialize;

use crate::api::origin;
use crate::asking::{FOLLOW_UP, Said};
use crate::clients::QUICK;
use crate::event::Event;
use crate::incidents::Closer;
use crate::station::Station;
use crate::{agents, alerts, clusters};

/// How long the station waits for collectors that it asks with the answers to their beats.
const LONGEST_WAIT: Duration = Duration::from_secs(45);
/// Threads that ask at the same time.
const ASKERS: usize = 8;
/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;
/// How often the station looks whether answers have come.
const LOOK_UP: Duration = Duration::from_secs(5);

/// An agent that a collector reports alive.
pub const ALIVE: &str = "elsewhere";
/// An agent about which a collector that beats here could not be asked.
pub const UNKNOWN: &str = "elsewhere?";

/// Where agents that are silent here live.
#[derive(Default)]
pub struct Elsewhere(Mutex<HashMap<AgentId, &'static str>>);

impl Elsewhere {
    /// What is known of an agent: [`ALIVE`], [`UNKNOWN`] or nothing.
    pub fn of(&self, agent: &AgentId) -> Option<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(agent).copied()
    }

    fn set(&self, agent: &AgentId, what: Option<&'static str>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match what {
            Some(what) => all.insert(agent.clone(), what),
            None => all.remove(agent),
        };
    }
}

/// A cluster that may know an agent.
#[derive(Clone, Debug)]
struct Candidate {
    cluster_id: String,
    url: Option<String>,
    key: Option<String>,
    /// Its collector beats here, and is not silent.
    is_beating: bool,
}

fn candidates(connection: &Connection) -> rusqlite::Result<Vec<Candidate>> {
    let mut statement = connection.prepare_cached(
        "SELECT cluster_id, collector_url, collector_key, collector_key_origin, last_beat_at IS NOT NULL AND NOT EXISTS
             (SELECT 1 FROM incident i WHERE i.cluster = cluster.id AND i.agent = ''
              AND i.kind = 'collector.silent' AND i.closed_at IS NULL)
         FROM cluster WHERE deleted_at IS NULL",
    )?;
    let rows = statement.query_map([], |row| {
        let (url, key_origin): (Option<String>, Option<String>) = (row.get(1)?, row.get(3)?);
        let is_for_it = url.as_deref().map(origin) == key_origin;
        Ok(Candidate {
            cluster_id: row.get(0)?,
            url,
            key: if is_for_it { row.get(2)? } else { None },
            is_beating: row.get(4)?,
        })
    })?;
    let all = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(all.into_iter().filter(|candidate| candidate.url.is_some() || candidate.is_beating).collect())
}

/// What is to be done with a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Tell,
    Wait,
    Elsewhere(&'static str),
}

/// What a collector answered about an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Lives,
    /// It is dead there, or not known.
    No,
    /// It was asked and did not answer.
    Failed,
    /// It was not asked yet, or has not answered yet.
    Open,
}

/// What follows from the answers of collectors, each with whether it beats here.
fn decide(answers: impl Iterator<Item = (Answer, bool)>, waited: Duration) -> Decision {
    let mut decision = Decision::Tell;
    for (answer, is_beating) in answers {
        match (answer, is_beating) {
            (Answer::Lives, _) => return Decision::Elsewhere(ALIVE),
            (Answer::Failed | Answer::Open, true) if waited >= LONGEST_WAIT => {
                decision = Decision::Elsewhere(UNKNOWN);
            }
            (Answer::Open, _) | (Answer::Failed, true) if waited < LONGEST_WAIT => decision = Decision::Wait,
            // A collector that neither answers nor beats decides nothing.
            (Answer::No | Answer::Failed | Answer::Open, _) => {}
        }
    }
    decision
}

/// A death that is not told yet.
struct Pending {
    since: Uptime,
    /// What collectors answered at their URLs.
    answers: HashMap<String, Answer>,
}

/// Tells what agents that beat here do, until the station stops.
pub fn run(station: &Station) {
    let (mut pending, mut unsettled) = match station.store.read(last_incidents) {
        Ok(last) => catch_up(station, &last),
        Err(error) => {
            log::error!("STATION_DB: {error}");
            (HashMap::new(), Unsettled::new())
        }
    };
    while !station.stop.is_stopping() {
        let seen = station.agent_bell.count();
        settle_former(station, &mut unsettled);
        let (alerts, calm) = station.agents.owed(&station.clock);
        let (deaths, others): (Vec<_>, Vec<_>) =
            alerts.into_iter().partition(|alert| matches!(alert.details, Details::Death(_)));
        if !others.is_empty() || !calm.is_empty() {
            tell(station, &others, calm);
        }
        // From here on this list owes these deaths. After a crash the list is made again.
        station.agents.settle(&station.clock, &deaths, Vec::new(), true);
        let since = station.clock.uptime();
        for death in deaths {
            pending.entry(death.agent).or_insert_with(|| Pending { since, answers: HashMap::new() });
        }
        if !pending.is_empty() {
            match station.store.read(candidates) {
                Ok(candidates) => {
                    ask_all(station, &mut pending, &candidates);
                    settle(station, &mut pending, &candidates);
                }
                Err(error) => log::error!("STATION_DB: {error}"),
            }
        }
        station.agent_bell.wait(seen, LOOK_UP);
    }
}

/// The last incident of an agent that beats here, of one kind.
struct LastIncident {
    opened_at: Wall,
    /// None while it is open.
    closed_by: Option<String>,
}

type LastIncidents = HashMap<(AgentId, Event), LastIncident>;

fn last_incidents(connection: &Connection) -> rusqlite::Result<LastIncidents> {
    let mut statement = connection.prepare(
        "SELECT agent, kind, opened_at, closed_by FROM incident WHERE cluster IS NULL AND agent <> '' ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    let mut last = HashMap::new();
    while let Some(row) = rows.next()? {
        let agent = AgentId::new(row.get_ref(0)?.as_str()?).ok();
        let Some(key) = agent.zip(Event::from_name(row.get_ref(1)?.as_str()?)) else { continue };
        last.insert(key, LastIncident { opened_at: Wall(row.get(2)?), closed_by: row.get(3)? });
    }
    Ok(last)
}

/// Open incidents of agents that were neither dead nor in EMERGENCY when the agents were stored.
/// Either the agents were stored before the incident opened, or the agent was heard after that:
/// its next heartbeat shows which.
type Unsettled = Vec<(AgentId, Event, Wall)>;

/// What happened just before the last run of the station ended may not be told. So what the agents
/// are now is compared with their last incidents. Returns the deaths that are owed, and the
/// incidents that are not settled.
fn catch_up(station: &Station, last: &LastIncidents) -> (HashMap<AgentId, Pending>, Unsettled) {
    let (dead, alarmed) = station.agents.in_trouble();
    let (now, since) = (station.clock.now(), station.clock.uptime());
    // An older death may have been told, and its incident removed since.
    let oldest = now.wall.0.saturating_sub(millis(station.config.retention));
    let mut pending = HashMap::new();
    let mut unsaid = Vec::new();
    for agent in &dead {
        let Some(view) = station.agents.view(now, agent) else { continue };
        let incident = last.get(&(agent.clone(), Event::AgentDead));
        // This death was told, whoever closed its incident.
        let is_told = incident.is_some_and(|it| it.closed_by.is_none() || it.opened_at >= view.last_seen);
        if !is_told && view.last_seen.0 >= oldest {
            pending.insert(agent.clone(), Pending { since, answers: HashMap::new() });
        }
    }
    for agent in &alarmed {
        // A person may have closed the incident while the EMERGENCY lasts.
        let incident = last.get(&(agent.clone(), Event::AgentEmergency));
        let is_told = incident.is_some_and(|it| it.closed_by.as_deref() != Some(Closer::Over.name()));
        if !is_told {
            unsaid.extend(station.agents.view(now, agent));
        }
    }
    if !unsaid.is_empty() {
        // An error is in the log.
        let _ = station.write(move |connection| {
            unsaid.iter().try_for_each(|agent| agents::alarm(connection, wall(), agent))
        });
    }
    let open = last.iter().filter(|(_, incident)| incident.closed_by.is_none());
    let unsettled = open
        .filter(|((agent, opening), _)| {
            let troubled = if *opening == Event::AgentDead { &dead } else { &alarmed };
            !troubled.contains(agent)
        })
        .map(|((agent, opening), incident)| (agent.clone(), *opening, incident.opened_at))
        .collect();
    (pending, unsettled)
}

/// Closes unsettled incidents whose agents have been heard since and are well.
fn settle_former(station: &Station, unsettled: &mut Unsettled) {
    let now = station.clock.now();
    let mut over = Vec::new();
    unsettled.retain(|(agent, opening, opened_at)| {
        // An agent that was first heard after the agents were stored may be heard again.
        let Some(view) = station.agents.view(now, agent) else { return true };
        let is_in_trouble = match opening {
            Event::AgentDead => view.status == Verdict::Dead,
            _ => view.mode == Mode::Emergency,
        };
        if is_in_trouble {
            // From here on it is an incident like any other.
            return false;
        }
        let is_heard = view.last_seen > *opened_at;
        if is_heard {
            over.push((agent.clone(), *opening, *opened_at));
        }
        !is_heard
    });
    if over.is_empty() {
        return;
    }
    let again = over.clone();
    let stored = station.write(move |connection| {
        over.iter().try_for_each(|(agent, opening, _)| agents::end(connection, wall(), *opening, agent))
    });
    if stored.is_err() {
        unsettled.extend(again);
    }
}

/// Decides what can be decided.
fn settle(station: &Station, pending: &mut HashMap<AgentId, Pending>, candidates: &[Candidate]) {
    let uptime = station.clock.uptime();
    let mut told = Vec::new();
    pending.retain(|agent, death| {
        let id = agent.to_string();
        let view = station.agents.view(station.clock.now(), agent);
        let Some(view) = view.filter(|view| view.status == Verdict::Dead) else {
            // The agent was heard while this waited: there is nothing to tell.
            station.elsewhere.set(agent, None);
            station.asking.forget(&id);
            return false;
        };
        let answers = candidates.iter().map(|candidate| {
            let at_url = death.answers.get(&candidate.cluster_id).copied();
            let answer = match at_url {
                Some(answer @ (Answer::Lives | Answer::No)) => answer,
                _ => match station.asking.said(&id, &candidate.cluster_id) {
                    Some(said) => {
                        if said.healthy {
                            Answer::Lives
                        } else {
                            Answer::No
                        }
                    }
                    None => at_url.unwrap_or(Answer::Open),
                },
            };
            (answer, candidate.is_beating)
        });
        match decide(answers, uptime.since(death.since)) {
            Decision::Wait => return true,
            Decision::Elsewhere(UNKNOWN) => {
                // It is decided when that collector answers, or falls silent too.
                station.elsewhere.set(agent, Some(UNKNOWN));
                return true;
            }
            Decision::Elsewhere(what) => {
                log::info!(agent_uuid:% = agent; "silent here, alive at its collector: not told");
                station.elsewhere.set(agent, Some(what));
            }
            Decision::Tell => {
                told.push(view);
                // The death stays on the list until it is stored.
                return true;
            }
        }
        station.news.agents();
        station.asking.forget(&id);
        false
    });
    if told.is_empty() {
        return;
    }
    let stored = told.clone();
    let written = station
        .write(move |connection| stored.iter().try_for_each(|agent| agents::died(connection, wall(), agent)));
    if written.is_ok() {
        for agent in told {
            station.elsewhere.set(&agent.agent_uuid, None);
            station.asking.forget(&agent.agent_uuid.to_string());
            pending.remove(&agent.agent_uuid);
        }
    }
}

/// Stores what follows from alerts that are no deaths, and takes note of it.
fn tell(station: &Station, alerts: &[Alert], calm: Vec<AgentId>) {
    let (stored, left) = (alerts.to_vec(), calm.clone());
    let written = station.write(move |connection| {
        for alert in &stored {
            agents::conclude(connection, wall(), alert)?;
        }
        left.iter().try_for_each(|agent| agents::end(connection, wall(), Event::AgentEmergency, agent))
    });
    for alert in alerts.iter().filter(|alert| matches!(alert.details, Details::Recovered(_))) {
        station.elsewhere.set(&alert.agent, None);
    }
    station.agents.settle(&station.clock, alerts, calm, written.is_ok());
    if written.is_err() {
        station.stop.wait(Duration::from_secs(1));
    }
}

/// Has `work` done for each of these by a few threads, for [`QUICK`] in all. Those whose work has
/// not begun by then are left out.
fn by_threads<T: Sync>(station: &Station, all: &[T], work: impl Fn(&T, &dyn Fn() -> bool) + Sync) {
    let began = station.clock.uptime();
    let has_time = || station.clock.uptime().since(began) < QUICK && !station.stop.is_stopping();
    let next = Mutex::new(all.iter());
    std::thread::scope(|scope| {
        for _ in 0..ASKERS.min(all.len()) {
            scope.spawn(|| {
                while has_time() {
                    let Some(it) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
                    work(it, &has_time);
                }
            });
        }
    });
}

/// Asks each collector that has a URL about the agents about which it was not asked yet. A
/// collector that fails once is not asked again in this turn.
fn ask_all(station: &Station, pending: &mut HashMap<AgentId, Pending>, candidates: &[Candidate]) {
    if candidates.iter().any(|candidate| candidate.is_beating) {
        for agent in pending.keys() {
            station.asking.want(&agent.to_string());
        }
    }
    let mut with_url: Vec<_> = candidates.iter().filter(|candidate| candidate.url.is_some()).collect();
    // A collector that is last in one turn may be first in the next.
    fastrand::shuffle(&mut with_url);
    let answers = Mutex::new(Vec::new());
    by_threads(station, &with_url, |candidate, has_time| {
        for (agent, death) in pending.iter() {
            if death.answers.contains_key(&candidate.cluster_id) {
                continue;
            }
            if !has_time() {
                return;
            }
            let answer = match ask(station, candidate, agent) {
                Some(Lives { healthy: true, .. }) => Answer::Lives,
                Some(_) => Answer::No,
                None => Answer::Failed,
            };
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.push((agent.clone(), candidate.cluster_id.clone(), answer));
            if answer == Answer::Failed {
                return;
            }
        }
    });
    for (agent, cluster_id, answer) in answers.into_inner().unwrap_or_else(PoisonError::into_inner) {
        if let Some(death) = pending.get_mut(&agent) {
            death.answers.insert(cluster_id, answer);
        }
    }
}

/// Asks collectors about agents whose incidents are open, until the station stops. Collectors
/// without a URL are asked with the answers to their beats.
pub fn follow_up(station: &Station) {
    while !station.stop.wait(FOLLOW_UP) {
        let asked = station.store.read(|connection| {
            let mut asked = Vec::new();
            for candidate in candidates(connection)?.into_iter().filter(|candidate| candidate.url.is_some()) {
                if let Some((cluster, false)) = clusters::find(connection, &candidate.cluster_id)? {
                    let agents = alerts::agents_in_incidents(connection, &cluster)?;
                    if !agents.is_empty() {
                        asked.push((candidate, cluster, agents));
                    }
                }
            }
            Ok(asked)
        });
        let mut asked = asked.unwrap_or_default();
        fastrand::shuffle(&mut asked);
        by_threads(station, &asked, |(candidate, cluster, agents), has_time| {
            for agent in agents {
                let Ok(id) = AgentId::new(agent) else { continue };
                let asked_at = wall();
                let Some(lives) = ask(station, candidate, &id) else { return };
                if let Lives { healthy: true, mode, last_seen } = lives {
                    let said = Said { healthy: true, mode, last_seen };
                    let (cluster, agent) = (cluster.clone(), agent.clone());
                    // An error is in the log, and the collector is asked again.
                    let _ = station.write(move |connection| {
                        alerts::is_healthy(connection, wall(), asked_at, &cluster, &agent, &said)
                    });
                }
                if !has_time() {
                    return;
                }
            }
        });
    }
}

#[derive(Deserialize)]
struct Body {
    agent: Lives,
}

#[derive(Deserialize)]
struct Lives {
    healthy: bool,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    last_seen: Option<Wall>,
}

/// What a collector reports about an agent; None if it does not answer.
fn ask(station: &Station, candidate: &Candidate, agent: &AgentId) -> Option<Lives> {
    let id = agent.to_string();
    let path = utf8_percent_encode(&id, NON_ALPHANUMERIC);
    let mut request = station.clients.quick.get(format!("{}/agents/{path}", candidate.url.as_ref()?));
    if let Some(key) = &candidate.key {
        request = request.header("X-Collector-Key", key);
    }
    let response = request.call().ok()?;
    match response.status().as_u16() {
        404 => Some(Lives { healthy: false, mode: None, last_seen: None }),
        200 => {
            let body = response.into_body().into_reader().take(MAX_ANSWER);
            serde_json::from_reader::<_, Body>(body).ok().map(|body| body.agent)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_accused_whom_a_witness_has_seen() {
        let now = |answers: &[(Answer, bool)]| decide(answers.iter().copied(), Duration::ZERO);
        assert_eq!(now(&[]), Decision::Tell);
        assert_eq!(now(&[(Answer::No, true), (Answer::Failed, false)]), Decision::Tell);
        assert_eq!(now(&[(Answer::Open, true), (Answer::Lives, false)]), Decision::Elsewhere(ALIVE));
        assert_eq!(now(&[(Answer::Failed, true), (Answer::No, true)]), Decision::Wait);
        assert_eq!(now(&[(Answer::Open, false)]), Decision::Wait, "it was not asked yet");
        let later = |answers: &[(Answer, bool)]| decide(answers.iter().copied(), LONGEST_WAIT);
        assert_eq!(later(&[(Answer::Failed, true)]), Decision::Elsewhere(UNKNOWN));
        assert_eq!(later(&[(Answer::Open, false)]), Decision::Tell);
    }
}
