//! Fallback heartbeats of agents (C6, C9, C10, C25, C26 of the original).

use std::time::Duration;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{ADMIN, AGENT, COLLECTOR, Receiver, Station, let_pass, start, until};

fn beat(station: &Station, agent: &str, body: &Value) -> (u16, Value) {
    station.ask("POST", &format!("/api/agents/{agent}/heartbeat"), AGENT, &body.to_string())
}

#[test]
fn what_agents_really_send_is_taken_in_the_central_apps_words() {
    let station = start().run();
    let real = json!({ "mode": "IDLE", "uptime_seconds": 12.75, "agent_name": "Compass" });
    let (status, body) = beat(&station, "compass-local", &real);
    let expected = json!({
        "message": "Heartbeat recorded", "agent_uuid": "compass-local", "mode": "IDLE", "uptime_seconds": 12.75,
        "state_transition": null, "next_heartbeat_ms": 30000,
    });
    assert_eq!((status, body), (200, expected));
    let doubled = station.ask("POST", "/api/agents/api/agents/b/heartbeat", AGENT, &real.to_string());
    assert_eq!(doubled.0, 200);
    assert_eq!(station.seen("/api/agents")["total"], 2);
    for (body, error) in [
        (json!({ "mode": "IDLE" }), "Fields \"mode\" and \"uptime_seconds\" are required"),
        (
            json!({ "mode": "BUSY", "uptime_seconds": 1 }),
            "Invalid mode. Must be one of: EMERGENCY, IDLE, SLEEP",
        ),
        (
            json!({ "mode": "IDLE", "uptime_seconds": -1 }),
            "uptime_seconds must be a non-negative finite number",
        ),
        (
            json!({ "mode": "IDLE", "uptime_seconds": 1, "timestamp": "2999-01-01T00:00:00Z" }),
            "Heartbeat timestamp is in the future",
        ),
        (
            json!({ "mode": "IDLE", "uptime_seconds": 1, "timestamp": "2020-01-01T00:00:00Z" }),
            "Heartbeat timestamp too old (potential replay attack)",
        ),
        (json!({ "mode": "IDLE", "uptime_seconds": 1, "timestamp": "today" }), "Invalid heartbeat timestamp"),
        (
            json!({ "mode": "IDLE", "uptime_seconds": 1, "cpu_percent": 7 }),
            "Field \"cpu_percent\" not allowed in heartbeat. Use /metrics endpoint for resource telemetry.",
        ),
    ] {
        let (status, answer) = beat(&station, "a", &body);
        assert_eq!((status, &answer["error"]), (400, &json!(error)), "{body}");
    }
    let (status, answer) = station.ask(
        "POST",
        "/api/agents/b/lifecycle",
        AGENT,
        r#"{"event_type":"STATE_CHANGE","to_state":"ACTIVE"}"#,
    );
    assert_eq!((status, answer), (200, json!({ "message": "Lifecycle event recorded", "agent_uuid": "b" })));
    let metrics = r#"{"cpu_percent":7.6,"memory_mb":120,"requests_handled":3,"custom_metrics":{"x":"y"}}"#;
    let (status, answer) = station.ask("POST", "/api/agents/b/metrics", AGENT, metrics);
    assert_eq!((status, &answer["cpu_percent"]), (200, &json!(8)));
    let state = r#"{"from_state":"NEW","to_state":"PROVISIONED"}"#;
    assert_eq!(station.ask("POST", "/api/agents/b/state", AGENT, state).0, 200);
    // Agents beat at their collectors, and tell this to the station.
    assert_eq!(station.ask("POST", "/api/agents/none/state", AGENT, state).0, 200);
    let reports = &station.seen("/api/agents/b")["reports"];
    assert_eq!(reports["metrics"]["body"]["custom_metrics"]["x"], "y");
    assert_eq!(reports["lifecycle"]["body"]["to_state"], "ACTIVE");
}

#[test]
fn an_agent_that_beats_here_dies_and_comes_back() {
    let (station, receiver) = (start().run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    let alarm = json!({ "mode": "EMERGENCY", "uptime_seconds": 1, "agent_name": "A" });
    beat(&station, "a", &alarm);
    // Two intervals of five seconds, and a tenth of one.
    receiver.await_count(2);
    assert_eq!(receiver.events(), ["agent.emergency", "agent.dead"]);
    assert_eq!(station.seen("/api/agents/a")["agent"]["healthy"], false);
    beat(&station, "a", &json!({ "mode": "IDLE", "uptime_seconds": 20 }));
    let all = receiver.await_count(4);
    let mut back: Vec<_> = all[2..].iter().map(crate::support::Delivery::event).collect();
    back.sort_unstable();
    assert_eq!(back, ["agent.emergency_over", "agent.recovered"]);
    assert_eq!(all[1].body["cluster"], Value::Null);
    assert_eq!(all[1].body["agent"]["agent_name"], "A");
}

#[test]
fn an_agent_whose_collector_reports_it_alive_is_not_accused_here() {
    let collector = Receiver::that(|request, _| match request.path.as_str() {
        "/agents/lives" => "200 OK\r\n\r\n{\"agent\":{\"healthy\":true,\"mode\":\"EMERGENCY\"}}".into(),
        _ => "404 Not Found\r\n".into(),
    });
    let (station, receiver) = (start().run(), Receiver::new());
    station.webhook(&receiver, &json!({ "filters": { "events": ["agent.dead"] } }));
    station.ask("PUT", "/api/clusters/c", ADMIN, &json!({ "collector_url": collector.base() }).to_string());
    for agent in ["lives", "dies"] {
        beat(&station, agent, &json!({ "mode": "EMERGENCY", "uptime_seconds": 1 }));
    }
    let all = receiver.await_count(1);
    assert_eq!(all[0].body["agent"]["agent_uuid"], "dies");
    until("it lives elsewhere", || station.seen("/api/agents/lives")["agent"]["elsewhere"] == "elsewhere");
    assert_eq!(receiver.all().len(), 1);
}

#[test]
fn a_collector_behind_nat_is_asked_with_its_heartbeats() {
    let (station, receiver) = (start().run(), Receiver::new());
    station.webhook(&receiver, &json!({ "filters": { "events": ["agent.dead"] } }));
    let collector = |body: &str| station.ask("POST", "/api/clusters/c/heartbeat", COLLECTOR, body).1;
    assert_eq!(collector("")["ask"], Value::Null);
    for agent in ["lives", "dies"] {
        beat(&station, agent, &json!({ "mode": "EMERGENCY", "uptime_seconds": 1 }));
    }
    let mut asked = std::collections::BTreeSet::new();
    until("the death is told", || {
        let ask = collector("")["ask"].clone();
        asked.extend(ask.as_array().into_iter().flatten().map(|id| id.as_str().unwrap().to_owned()));
        let more = collector(r#"{"agents":[{"agent_uuid":"lives","healthy":true,"mode":"EMERGENCY"}]}"#);
        asked.extend(more["ask"].as_array().into_iter().flatten().map(|id| id.as_str().unwrap().to_owned()));
        !receiver.all().is_empty()
    });
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), ["dies", "lives"]);
    let all = receiver.await_count(1);
    assert_eq!(all[0].body["agent"]["agent_uuid"], "dies");
    until("it lives elsewhere", || station.seen("/api/agents/lives")["agent"]["elsewhere"] == "elsewhere");
}

#[test]
fn agents_are_known_again_after_a_stop() {
    let mut station = start().run();
    beat(&station, "a", &json!({ "mode": "SLEEP", "uptime_seconds": 1, "agent_name": "A" }));
    assert_eq!(station.stop(), 0);
    let station = start().after(&station).run();
    assert_eq!(station.seen("/api/agents/a")["agent"]["agent_name"], "A");
    assert_eq!(station.seen("/api/agents/a")["agent"]["healthy"], true);
}

#[test]
fn a_pause_of_the_station_accuses_nobody() {
    let (station, receiver) = (
        start().with("MACHINE_OFFLINE_THRESHOLD", "6s").with("HEARTBEAT_TIMEOUT", "6s").run(),
        Receiver::new(),
    );
    station.webhook(&receiver, &json!({}));
    let (_, machine) = station.ask("POST", "/agent/register", ADMIN, r#"{"name":"m"}"#);
    let key = machine["api_key"].as_str().unwrap();
    station.ask("POST", "/agent/metrics", key, "{}");
    station.ask("POST", "/api/clusters/c/heartbeat", COLLECTOR, "");
    station.signal(Signal::STOP);
    let_pass(Duration::from_secs(8));
    station.signal(Signal::CONT);
    station.await_log("was not awake");
    // Whoever is heard now was never silent.
    station.ask("POST", "/agent/metrics", key, "{}");
    station.ask("POST", "/api/clusters/c/heartbeat", COLLECTOR, "");
    assert_eq!(station.seen("/api/incidents")["total"], 0);
    receiver.await_count(2);
    assert_eq!(station.seen("/api/incidents")["total"], 2, "and whoever is silent after it is");
}

#[test]
fn one_collector_that_hangs_makes_nobody_dead_whom_another_has_seen() {
    let done = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&done);
    let hanging = Receiver::that(move |_, _| {
        until("the test ends", || held.load(Ordering::SeqCst));
        String::new()
    });
    let well = Receiver::that(|_, _| "200 OK\r\n\r\n{\"agent\":{\"healthy\":true,\"mode\":\"IDLE\"}}".into());
    let station = start().run();
    for (id, url) in [("bad", hanging.base()), ("good", well.base())] {
        station.ask(
            "PUT",
            &format!("/api/clusters/{id}"),
            ADMIN,
            &json!({ "collector_url": url }).to_string(),
        );
    }
    let agents: Vec<_> = (0..60).map(|number| format!("a{number}")).collect();
    for agent in &agents {
        beat(&station, agent, &json!({ "mode": "EMERGENCY", "uptime_seconds": 1 }));
    }
    until("all live elsewhere", || {
        let all = station.seen("/api/agents");
        all["agents"].as_array().unwrap().iter().all(|agent| agent["elsewhere"] == "elsewhere")
    });
    assert_eq!(station.seen("/api/incidents?kind=agent.dead")["total"], 0);
    done.store(true, Ordering::SeqCst);
}

#[test]
fn a_kill_just_after_a_death_tells_no_return_and_what_a_person_closed_stays_closed() {
    let (mut station, receiver) = (start().run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    let alarm = json!({ "mode": "EMERGENCY", "uptime_seconds": 1 });
    assert_eq!(beat(&station, "a", &alarm).0, 200);
    receiver.await_told(2);
    station.kill();
    let mut station = start().after(&station).run();
    until("it is dead again", || station.seen("/api/agents/a")["agent"]["status"] == "dead");
    assert_eq!(receiver.told(), ["agent.emergency", "agent.dead"]);
    let open = station.seen("/api/incidents?state=open");
    assert_eq!(open["total"], 2);
    for incident in open["incidents"].as_array().unwrap() {
        let path = format!("/api/incidents/{}/close", incident["id"].as_str().unwrap());
        assert_eq!(station.ask("POST", &path, ADMIN, "").0, 200);
    }
    receiver.await_told(4);
    assert_eq!(station.stop(), 0);
    let station = start().after(&station).run();
    // The thread that would tell it tells this first, and then that.
    beat(&station, "other", &alarm);
    receiver.await_told(5);
    beat(&station, "other", &json!({ "mode": "IDLE", "uptime_seconds": 2 }));
    receiver.await_told(6);
    assert_eq!(receiver.told()[4..], ["agent.emergency", "agent.emergency_over"]);
    assert_eq!(station.seen("/api/incidents?state=open")["total"], 0);
}

#[test]
fn who_comes_back_after_a_kill_is_back() {
    let (mut station, receiver) = (start().run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    assert_eq!(beat(&station, "a", &json!({ "mode": "EMERGENCY", "uptime_seconds": 1 })).0, 200);
    receiver.await_told(2);
    station.kill();
    let station = start().after(&station).run();
    assert_eq!(beat(&station, "a", &json!({ "mode": "IDLE", "uptime_seconds": 20 })).0, 200);
    receiver.await_told(4);
    assert_eq!(station.seen("/api/incidents?state=open")["total"], 0);
    let events = receiver.told();
    assert!(events[2..].contains(&"agent.recovered".into()), "{events:?}");
    assert!(events[2..].contains(&"agent.emergency_over".into()), "{events:?}");
}

#[test]
fn an_emergency_of_an_agent_that_a_kill_made_unknown_ends_with_its_next_word() {
    let (mut station, receiver) = (start().run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    assert_eq!(beat(&station, "new", &json!({ "mode": "EMERGENCY", "uptime_seconds": 1 })).0, 200);
    receiver.await_told(1);
    station.kill();
    let station = start().after(&station).run();
    assert_eq!(beat(&station, "new", &json!({ "mode": "IDLE", "uptime_seconds": 2 })).0, 200);
    until("it is over", || station.seen("/api/incidents?state=open")["total"] == 0);
    assert_eq!(receiver.await_told(2)[1], "agent.emergency_over");
}

#[test]
fn nobody_was_heard_later_than_now() {
    let station = start().run();
    assert_eq!(beat(&station, "victim", &json!({ "mode": "EMERGENCY", "uptime_seconds": 1 })).0, 200);
    let open = || station.seen("/api/incidents?state=open&kind=agent.emergency")["total"].clone();
    until("it is open", || open() == 1);
    let collector =
        |body: Value| station.ask("POST", "/api/clusters/other/heartbeat", COLLECTOR, &body.to_string()).1;
    assert_eq!(collector(json!({}))["ask"], json!(["victim"]));
    let said = |seen: &str| json!({ "agents": [{ "agent_uuid": "victim", "healthy": true, "mode": "IDLE", "last_seen": seen }] });
    collector(said("2099-01-01T00:00:00.000Z"));
    assert_eq!(open(), 1);
}
