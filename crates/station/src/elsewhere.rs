//! Agents that are silent here may live at their collector. Before a death is told, every
//! collector that can be asked is asked: at its URL, or with the answer to its heartbeat.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pap_core::agent_id::AgentId;
use pap_core::alert::{Alert, Details};
use pap_core::time::{Uptime, Wall};
use pap_core::verdict::Verdict;
use pap_process::clock::wall;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rusqlite::Connection;
use serde::Deserialize;

use crate::api::origin;
use crate::asking::{FOLLOW_UP, Said};
use crate::clients::QUICK;
use crate::station::Station;
use crate::{agents, alerts, clusters};

/// How long the answers of collectors that are asked with their heartbeats are waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(45);
/// Threads that ask at the same time.
const ASKERS: usize = 8;
/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;
/// How often it is looked at again whether answers have come.
const LOOK_UP: Duration = Duration::from_secs(5);

/// An agent that a collector reports alive.
pub const ALIVE: &str = "elsewhere";
/// An agent of which a living collector could not be asked.
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
    /// Its collector beats here and is not silent.
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

/// What a collector says: whether the agent lives there, or nothing.
fn decide(answers: impl Iterator<Item = (Option<bool>, bool)>, waited: Duration) -> Decision {
    let mut decision = Decision::Tell;
    for (answer, is_beating) in answers {
        match (answer, is_beating) {
            (Some(true), _) => return Decision::Elsewhere(ALIVE),
            // A collector that neither answers nor beats is no witness.
            (Some(false), _) | (None, false) => {}
            (None, true) if waited < LONGEST_WAIT => decision = Decision::Wait,
            (None, true) => decision = Decision::Elsewhere(UNKNOWN),
        }
    }
    decision
}

/// A death that waits for answers.
struct Pending {
    alert: Alert,
    since: Uptime,
    /// What collectors answered at their URLs.
    answers: HashMap<String, bool>,
}

/// Tells what agents that beat here do, until the station stops.
pub fn run(station: &Station) {
    let mut pending: Vec<Pending> = Vec::new();
    while !station.stop.is_stopping() {
        let seen = station.agent_bell.count();
        let (alerts, calm) = station.agents.owed(&station.clock);
        let (deaths, others): (Vec<_>, Vec<_>) =
            alerts.into_iter().partition(|alert| matches!(alert.details, Details::Death(_)));
        if !others.is_empty() || !calm.is_empty() {
            tell(station, &others, calm);
        }
        if deaths.is_empty() && pending.is_empty() {
            station.agent_bell.wait(seen, LOOK_UP);
            continue;
        }
        match station.store.read(candidates) {
            Ok(candidates) => {
                pending.extend(begin(station, deaths, &candidates));
                settle(station, &mut pending, &candidates);
            }
            Err(error) => {
                log::error!("STATION_DB: {error}");
                station.agents.settle(&station.clock, &deaths, Vec::new(), false);
            }
        }
        if !pending.is_empty() {
            station.agent_bell.wait(seen, LOOK_UP);
        }
    }
}

/// Asks for the first time.
fn begin(station: &Station, deaths: Vec<Alert>, candidates: &[Candidate]) -> Vec<Pending> {
    let since = station.clock.uptime();
    let mut answers = ask_all(station, &deaths, candidates);
    let pending = deaths.into_iter().enumerate().map(|(number, alert)| {
        if candidates.iter().any(|candidate| candidate.is_beating) {
            station.asking.want(&alert.agent.to_string());
        }
        Pending { alert, since, answers: answers.remove(&number).unwrap_or_default() }
    });
    pending.collect()
}

/// Decides what can be decided.
fn settle(station: &Station, pending: &mut Vec<Pending>, candidates: &[Candidate]) {
    let now = station.clock.uptime();
    let mut told = Vec::new();
    pending.retain(|death| {
        let agent = &death.alert.agent;
        let id = agent.to_string();
        let is_dead =
            station.agents.view(station.clock.now(), agent).is_some_and(|view| view.status == Verdict::Dead);
        let answers = candidates.iter().map(|candidate| {
            let at_url = death.answers.get(&candidate.cluster_id).copied();
            let said = || station.asking.said(&id, &candidate.cluster_id).map(|said| said.healthy);
            (at_url.or_else(said), candidate.is_beating)
        });
        let decision = decide(answers, now.since(death.since));
        let alert = std::slice::from_ref(&death.alert);
        if !is_dead {
            // It was heard while this waited: there is nothing to tell.
            station.agents.settle(&station.clock, alert, Vec::new(), false);
        } else if decision == Decision::Wait {
            return true;
        } else if let Decision::Elsewhere(what) = decision {
            station.elsewhere.set(agent, Some(what));
            station.news.agents();
            log::info!(agent_uuid:% = agent; "silent here, {what}: not told");
            station.agents.settle(&station.clock, alert, Vec::new(), true);
        } else {
            station.elsewhere.set(agent, None);
            told.push(death.alert.clone());
        }
        station.asking.forget(&id);
        false
    });
    if !told.is_empty() {
        tell(station, &told, Vec::new());
    }
}

/// Stores what follows from alerts, and takes note of it.
fn tell(station: &Station, alerts: &[Alert], calm: Vec<AgentId>) {
    let (stored, left) = (alerts.to_vec(), calm.clone());
    let written = station.write(move |connection| {
        for alert in &stored {
            agents::conclude(connection, wall(), alert)?;
        }
        for agent in &left {
            agents::calm(connection, wall(), agent)?;
        }
        Ok(())
    });
    for alert in alerts.iter().filter(|alert| matches!(alert.details, Details::Recovered(_))) {
        station.elsewhere.set(&alert.agent, None);
    }
    station.agents.settle(&station.clock, alerts, calm, written.is_ok());
    if written.is_err() {
        station.stop.wait(Duration::from_secs(1));
    }
}

/// Asks collectors of agents whose incidents are open, until the station stops. Those that
/// have no URL are asked with the answers to their heartbeats.
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
        for (candidate, cluster, agents) in asked.unwrap_or_default() {
            let mut well = Vec::new();
            let began = station.clock.uptime();
            for agent in agents {
                if station.stop.is_stopping() || station.clock.uptime().since(began) > FOLLOW_UP {
                    break;
                }
                let Ok(id) = AgentId::new(&agent) else { continue };
                match ask(station, &candidate, &id) {
                    Some(Lives { healthy: true, mode, last_seen }) => {
                        well.push((agent, Said { healthy: true, mode, last_seen }));
                    }
                    Some(_) => {}
                    // It does not answer: the others are asked next time.
                    None => break,
                }
            }
            if !well.is_empty() {
                // An error is in the log; they are asked again.
                let _ = station.write(move |connection| {
                    well.iter().try_for_each(|(agent, said)| {
                        alerts::is_healthy(connection, wall(), &cluster, agent, said)
                    })
                });
            }
        }
    }
}

/// Asks the collectors that have URLs, within [`QUICK`] in all. Returns what each said of
/// each death, by its number.
fn ask_all(
    station: &Station,
    deaths: &[Alert],
    candidates: &[Candidate],
) -> HashMap<usize, HashMap<String, bool>> {
    let questions: Vec<_> = (0..deaths.len())
        .flat_map(|number| candidates.iter().map(move |candidate| (number, candidate)))
        .filter(|(_, candidate)| candidate.url.is_some())
        .collect();
    let began = station.clock.uptime();
    let next = Mutex::new(questions.iter());
    let answers = Mutex::new(HashMap::<usize, HashMap<String, bool>>::new());
    std::thread::scope(|scope| {
        for _ in 0..ASKERS.min(questions.len()) {
            scope.spawn(|| {
                while station.clock.uptime().since(began) < QUICK {
                    let question = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(&(number, candidate)) = question else { return };
                    if let Some(lives) = ask(station, candidate, &deaths[number].agent) {
                        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                        let of_death = answers.entry(number).or_default();
                        of_death.insert(candidate.cluster_id.clone(), lives.healthy);
                    }
                }
            });
        }
    });
    answers.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Deserialize)]
struct Answer {
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

/// What a collector reports of an agent; None if it does not answer.
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
            serde_json::from_reader::<_, Answer>(body).ok().map(|answer| answer.agent)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_accused_whom_a_witness_has_seen() {
        let now = |answers: &[(Option<bool>, bool)]| decide(answers.iter().copied(), Duration::ZERO);
        assert_eq!(now(&[]), Decision::Tell);
        assert_eq!(now(&[(Some(false), true), (None, false)]), Decision::Tell);
        assert_eq!(now(&[(None, true), (Some(true), false)]), Decision::Elsewhere(ALIVE));
        assert_eq!(now(&[(None, true), (Some(false), true)]), Decision::Wait);
        let later = decide([(None, true)].into_iter(), LONGEST_WAIT);
        assert_eq!(later, Decision::Elsewhere(UNKNOWN));
    }
}
