//! State files that older versions wrote are read for ever.
//!
//! Version 1.0.0 wrote `golden/state-v1.jsonl`, and `golden/state-v1-conditions.jsonl`
//! with what an Alertmanager was told. Do not change these files: a new version of the
//! format gets a new file beside them.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::time::Duration;

use pap_collector::state_file::{Saved, read};
use pap_core::agent_id::AgentId;
use pap_core::alert::Kind;
use pap_core::delivery::Outcome;
use pap_core::firing::{AlertName, Repeat, to_json};
use pap_core::heartbeat::{Heartbeat, Mode};
use pap_core::outbox::Limits;
use pap_core::registry::{Registry, Resume, Rules, concerned};
use pap_core::time::{Now, Tick, Wall};
use pap_core::verdict::Verdict;
use serde_json::{Value, json};

const V1: &str = include_str!("golden/state-v1.jsonl");
const V1_CONDITIONS: &str = include_str!("golden/state-v1-conditions.jsonl");
/// When the state was saved, in seconds since the start of the collector that wrote
/// it.
const SAVED_AT: u64 = 55;
const START: u64 = 1_764_669_600_000;

const TOLD_DEAD: &str = "told/dead@1.2.0";
const DEAD_AGAIN: &str = "550e8400-e29b-41d4-a716-000000000002";
const BACK: &str = "550e8400-e29b-41d4-a716-000000000003";
const SUSPECT: &str = "550e8400-e29b-41d4-a716-000000000005";
const ALARMED: &str = "550e8400-e29b-41d4-a716-000000000006";
const OWED: &str = "owed death";
const RESTARTED: &str = "healthy, restarted";
const NEW: &str = "🦀 plain";

fn at(seconds: u64) -> Now {
    Now { tick: Tick::from_start(Duration::from_secs(seconds)), wall: Wall(START + seconds * 1000) }
}

fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

fn restored(saved: Saved, resume: Resume) -> Registry {
    let mut registry = Registry::new(Rules {
        max_agents: 100,
        grace: Some(Duration::from_secs(1)),
        mass_silence_hold: Duration::ZERO,
        retention: Duration::from_secs(3600),
        recovery_alerts: true,
        outbox: Limits { queue: 100, ttl: Duration::from_secs(300), senders: 1 },
    });
    registry.tell_alertmanagers(Repeat { targets: 1, every: Duration::from_secs(60) });
    registry.restore_ended(at(SAVED_AT), saved.ended);
    assert_eq!(registry.restore(at(SAVED_AT), saved.agents, resume), 0);
    registry.restore_events(at(SAVED_AT), saved.seq, saved.events);
    registry.audit();
    registry
}

#[test]
fn version_1_is_read_whole() {
    let saved = read("golden", V1.as_bytes()).unwrap();
    assert_eq!((saved.instance.as_str(), saved.seq), ("f00dcafe", 14));
    assert_eq!(saved.saved_at, START + SAVED_AT * 1000);
    assert_eq!((saved.agents.len(), saved.events.len()), (8, 4));
    let registry = restored(saved, Resume::Continued);
    assert_eq!(registry.stats().by_status, [3, 2, 3]);
    assert_eq!(registry.stats().by_mode, [5, 2, 1]);
    assert_eq!(registry.alerted(), 3, "three agents are dead as far as the station knows");
    assert_eq!((registry.outbox().owed(), registry.outbox().queued()), (4, 4));
    assert_eq!(registry.outbox().seq(), 14);
    let (emergency, idle) = (Mode::Emergency, Mode::Idle);
    for (agent, name, mode, status, uptime, first_seen, last_seen, heartbeats) in [
        (TOLD_DEAD, "töld \"dead\"", emergency, Verdict::Dead, 12.5, 0, 0, 1),
        (DEAD_AGAIN, DEAD_AGAIN, emergency, Verdict::Dead, 120.0, 0, 20, 1),
        (SUSPECT, "sus", idle, Verdict::Suspect, 3600.0, 10, 10, 1),
        (BACK, "three", idle, Verdict::Healthy, 16.0, 20, 35, 1),
        (OWED, OWED, emergency, Verdict::Dead, 7.0, 25, 25, 1),
        (RESTARTED, "restarts", Mode::Sleep, Verdict::Healthy, 2.0, 35, 40, 1),
        (ALARMED, "alarms", emergency, Verdict::Suspect, 3601.25, 44, 45, 2),
        (NEW, NEW, emergency, Verdict::Healthy, 0.0, 50, 50, 1),
    ] {
        let view = registry.view(at(SAVED_AT), &id(agent)).unwrap();
        assert_eq!((view.agent_uuid.to_string().as_str(), view.agent_name.as_str()), (agent, name));
        assert_eq!((view.mode, view.status, view.consecutive_heartbeats), (mode, status, heartbeats));
        assert!((view.uptime_seconds - uptime).abs() < f64::EPSILON, "{agent}");
        let seen = [first_seen, last_seen].map(|seconds| Wall(START + seconds * 1000));
        assert_eq!([view.first_seen, view.last_seen], seen, "{agent}");
        assert_eq!(view.silence_ms, (SAVED_AT - last_seen) * 1000, "{agent}");
    }
}

#[test]
fn what_version_1_owed_is_told() {
    let saved = read("golden", V1.as_bytes()).unwrap();
    let mut registry = restored(saved, Resume::Continued);
    let mut told = Vec::new();
    while let Some(alert) = registry.next_alert(at(SAVED_AT)) {
        registry.settle(at(SAVED_AT), &alert, Outcome::Taken);
        told.push((alert.seq, alert.kind(), alert.agent.to_string(), (alert.at.wall.0 - START) / 1000));
    }
    let expected = [
        (11, Kind::AgentDeath, OWED, 37),
        (7, Kind::EmergencyMode, OWED, 25),
        (13, Kind::EmergencyMode, ALARMED, 45),
        (14, Kind::EmergencyMode, NEW, 50),
        (5, Kind::AgentRecovered, DEAD_AGAIN, 20),
        // Its second death had to wait until its first recovery was told.
        (8, Kind::AgentDeath, DEAD_AGAIN, 32),
        (10, Kind::AgentRecovered, BACK, 35),
        (12, Kind::RestartDetected, RESTARTED, 40),
    ];
    assert_eq!(told, expected.map(|(seq, kind, agent, at)| (seq, kind, agent.to_owned(), at)));
    assert_eq!(registry.alerted(), 3);
    assert!(registry.outbox().is_empty());
    registry.audit();
}

#[test]
fn after_a_restart_the_living_of_version_1_are_heard_before_they_are_dead() {
    let saved = read("golden", V1.as_bytes()).unwrap();
    assert!(!saved.is_last, "version 1 does not say so, so heartbeats may be missing");
    let mut registry = restored(saved, Resume::Killed);
    // Those in EMERGENCY may have been heard after it was saved.
    assert!(registry.sweep(at(SAVED_AT + 10), 100).changes.iter().all(|change| change.agent.healthy));
    let swept = registry.sweep(at(SAVED_AT + 11), 100).changes;
    let dead = swept.iter().filter(|change| !change.agent.healthy);
    let mut dead: Vec<_> = dead.map(|change| change.agent.agent_uuid.to_string()).collect();
    dead.sort_unstable();
    assert_eq!(dead, [ALARMED, NEW]);
}

#[test]
fn an_emergency_alert_of_version_1_still_counts_against_the_next() {
    let saved = read("golden", V1.as_bytes()).unwrap();
    let mut registry = restored(saved, Resume::Continued);
    let mut beat = |mode, seconds| {
        let beat = Heartbeat { mode, uptime: 3700.0, name: Some("alarms".into()) };
        registry.beat(at(seconds), &id(ALARMED), &beat).unwrap();
        registry.outbox().queued()
    };
    let queued = beat(Mode::Idle, 60);
    assert_eq!(beat(Mode::Emergency, 104), queued, "the one at 45 s was less than a minute before");
    beat(Mode::Idle, 104);
    assert_eq!(beat(Mode::Emergency, 105), queued + 1);
}

/// What an Alertmanager is told next: for each alert its name, its agent's name, its
/// beginning, and its end if that is not ahead.
fn told(registry: &mut Registry, now: Now) -> Vec<[Value; 4]> {
    let batch = registry.firing_mut().next(now, 0).unwrap();
    registry.firing_mut().settle(now.tick, &batch, Outcome::Taken);
    let body = to_json(&batch.alerts, "http://c/", |subject| concerned("golden", subject.as_ref())).unwrap();
    let alerts: Value = serde_json::from_slice(&body).unwrap();
    let mut all: Vec<_> = alerts
        .as_array()
        .unwrap()
        .iter()
        .zip(&batch.alerts)
        .map(|(alert, told)| {
            let labels = &alert["labels"];
            let ended = told.condition.ended.map_or(Value::Null, |_| alert["endsAt"].clone());
            [labels["alertname"].clone(), labels["agent_name"].clone(), alert["startsAt"].clone(), ended]
        })
        .collect();
    all.sort_by_key(|alert| (alert[0].to_string(), alert[1].to_string()));
    all
}

#[test]
fn what_an_alertmanager_was_told_goes_on_and_ends_with_the_same_labels() {
    let saved = read("golden", V1_CONDITIONS.as_bytes()).unwrap();
    let mut registry = restored(saved, Resume::Killed);
    let emergency = "PapAgentEmergency";
    let (dead_since, since) = ("2026-11-26T02:37:46.958Z", "2026-11-26T02:37:53.024Z");
    let expected = [
        json!(["PapAgentDead", "dead", dead_since, null]),
        json!([emergency, "calm", "2026-11-26T02:37:53.079Z", "2026-11-26T02:37:58.529Z"]),
        json!([emergency, "dead", dead_since, null]),
        json!([emergency, "gone", "2026-11-26T02:37:53.062Z", "2026-11-26T02:37:58.545Z"]),
        json!([emergency, "old", since, null]),
    ];
    assert_eq!(json!(told(&mut registry, at(SAVED_AT))), json!(expected));
    assert_eq!(registry.firing().ended(), 0);
    let beat = Heartbeat { mode: Mode::Idle, uptime: 20.0, name: Some("newest".into()) };
    let now = Now { wall: Wall(1_795_660_700_000), ..at(SAVED_AT) };
    registry.beat(now, &id("renamed"), &beat).unwrap();
    let end = json!([[emergency, "old", since, "2026-11-26T02:38:20.000Z"]]);
    assert_eq!(json!(told(&mut registry, now)), end);
    registry.audit();
}

#[test]
fn a_state_without_conditions_has_those_of_its_agents() {
    let saved = read("golden", V1.as_bytes()).unwrap();
    let mut registry = restored(saved, Resume::Killed);
    assert_eq!(AlertName::OF_AGENTS.map(|alert| registry.firing().holding(alert)), [3, 5, 0]);
    let all = told(&mut registry, at(SAVED_AT));
    assert_eq!(json!(all[1]), json!(["PapAgentDead", OWED, "2025-12-02T10:00:25.000Z", null]));
}
