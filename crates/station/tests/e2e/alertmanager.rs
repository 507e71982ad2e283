//! What Alertmanagers are told of open incidents.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{ADMIN, COLLECTOR, Receiver, Start, Station, alert, has_program, start, until};
use crate::together::{Running, collector, free_port, program, spawn};

fn telling(receiver: &Receiver) -> Start {
    start().with("ALERTMANAGER_URL", &format!("{}/am", receiver.base()))
}

/// All alerts in posts so far.
fn posted(receiver: &Receiver) -> Vec<Value> {
    receiver.all().iter().flat_map(|post| post.body.as_array().cloned().unwrap_or_default()).collect()
}

fn is_over(alert: &Value) -> bool {
    alert["annotations"]["description"].as_str().unwrap().contains("This ended at")
}

/// The labels of alerts by whether they are over, once there are so many.
fn await_labels(receiver: &Receiver, firing: usize, over: usize) -> (Vec<Value>, Vec<Value>) {
    let mut parts = Default::default();
    until(&format!("{firing} alerts fire, {over} are over"), || {
        let (ended, began): (Vec<_>, Vec<_>) = posted(receiver).into_iter().partition(is_over);
        let labels = |all: &[Value]| all.iter().map(|alert| alert["labels"].clone()).collect::<Vec<_>>();
        parts = (labels(&began), labels(&ended));
        parts.0.len() >= firing && parts.1.len() >= over
    });
    assert_eq!((parts.0.len(), parts.1.len()), (firing, over), "{:#?}", posted(receiver));
    parts
}

fn beat(station: &Station, agent: &str, mode: &str, name: &str) {
    let body = json!({ "mode": mode, "uptime_seconds": 1, "agent_name": name }).to_string();
    assert_eq!(station.ask("POST", &format!("/api/agents/{agent}/heartbeat"), ADMIN, &body).0, 200);
}

#[test]
fn every_kind_of_incident_is_told_while_it_is_open_and_ends_with_the_same_labels() {
    let receiver = Receiver::new();
    let station = telling(&receiver)
        .with("ALERTMANAGER_KEY", "hush")
        .with("STATION_EXTERNAL_URL", "https://station.example/")
        .with("HEARTBEAT_TIMEOUT", "1s")
        .with("MACHINE_OFFLINE_THRESHOLD", "1s")
        .run();
    assert_eq!(station.alert("c", &alert("AGENT_DEATH", "a", 1)).0, 200);
    beat(&station, "b", "EMERGENCY", "old name");
    let dead = json!({"alertname": "PapAgentDead", "cluster": "c", "agent_uuid": "a", "agent_name": "name of a",
                      "mode": "IDLE", "severity": "critical"});
    let emergency = json!({"alertname": "PapAgentEmergency", "agent_uuid": "b", "agent_name": "old name",
                           "mode": "EMERGENCY", "severity": "warning"});
    let mut firing = await_labels(&receiver, 2, 0).0;
    firing.sort_by_key(ToString::to_string);
    assert_eq!(firing, [dead.clone(), emergency]);
    beat(&station, "b", "EMERGENCY", "new name");
    let first = &receiver.all()[0];
    assert_eq!(
        (first.path.as_str(), first.headers["authorization"].as_str()),
        ("/am/api/v2/alerts", "Bearer hush")
    );
    let one = posted(&receiver).into_iter().find(|alert| alert["labels"] == dead).unwrap();
    assert_eq!(
        (&one["generatorURL"], &one["startsAt"]),
        (&json!("https://station.example/"), &json!("2026-01-31T12:00:00.000Z"))
    );

    assert_eq!(station.ask("POST", "/api/clusters/d/heartbeat", COLLECTOR, "{}").0, 200);
    let (_, machine) = station.ask("POST", "/agent/register", ADMIN, r#"{"name":"m"}"#);
    assert_eq!(station.ask("POST", "/agent/metrics", machine["api_key"].as_str().unwrap(), "{}").0, 202);
    let mut mass = alert("AGENT_DEATH", "z", 2);
    mass["cluster_id"] = json!("e");
    mass["details"]["mass_silence"] = json!(true);
    assert_eq!(station.alert("e", &mass).0, 200);
    let firing = await_labels(&receiver, 6, 0).0;
    let id = machine["id"].as_i64().unwrap().to_string();
    for labels in [
        json!({"alertname": "PapMachineOffline", "machine_id": id, "machine_name": "m", "severity": "critical"}),
        json!({"alertname": "PapCollectorSilent", "cluster": "d", "severity": "critical"}),
        json!({"alertname": "PapCollectorMassSilence", "cluster": "e", "severity": "critical"}),
    ] {
        assert!(firing.contains(&labels), "{labels} in {firing:#?}");
    }

    assert_eq!(station.alert("c", &alert("AGENT_RECOVERED", "a", 3)).0, 200);
    beat(&station, "b", "IDLE", "third name");
    for path in ["/api/clusters/d", "/api/clusters/e"] {
        assert_eq!(station.ask("DELETE", path, ADMIN, "").0, 200);
    }
    assert_eq!(station.ask("DELETE", &format!("/machines/{id}"), ADMIN, "").0, 200);
    let over = await_labels(&receiver, 6, 6).1;
    assert!(firing.iter().all(|labels| over.contains(labels)), "{over:#?}");
    let (_, text) = (station.send("GET", "/metrics", &[], "").0, station.send("GET", "/metrics", &[], "").2);
    assert!(
        text.contains("pap_station_alertmanager_alerts_firing{alertname=\"PapAgentDead\"} 0\n"),
        "{text}"
    );
    assert!(
        text.contains("pap_station_alertmanager_alerts_total{alertmanager=\"1\",result=\"taken\"} 12\n"),
        "{text}"
    );
    assert_eq!(station.seen("/health")["alertmanagers"], json!({ "configured": 1, "reachable": 1 }));
}

#[test]
fn what_opened_and_closed_while_nobody_took_it_is_told_after_a_kill() {
    let gone = Receiver::that(|_, _| String::new());
    let mut station = telling(&gone).run();
    assert_eq!(station.alert("c", &alert("AGENT_DEATH", "stays", 1)).0, 200);
    assert_eq!(station.alert("c", &alert("AGENT_DEATH", "back", 1)).0, 200);
    assert_eq!(station.alert("c", &alert("AGENT_DEATH", "twice", 1)).0, 200);
    gone.await_count(1);
    assert_eq!(station.alert("c", &alert("AGENT_RECOVERED", "back", 2)).0, 200);
    assert_eq!(station.alert("c", &alert("AGENT_RECOVERED", "twice", 2)).0, 200);
    assert_eq!(station.alert("c", &alert("AGENT_DEATH", "twice", 3)).0, 200);
    station.kill();
    let receiver = Receiver::new();
    let station = telling(&receiver).after(&station).run();
    let (firing, over) = await_labels(&receiver, 2, 1);
    let mut names: Vec<_> = firing.iter().map(|labels| labels["agent_uuid"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["stays", "twice"], "one that is dead again does not end");
    assert_eq!(over[0]["agent_uuid"], "back");
    assert_eq!(station.alert("c", &alert("AGENT_RECOVERED", "stays", 4)).0, 200);
    await_labels(&receiver, 2, 2);
}

#[test]
fn what_is_open_is_told_again_and_a_refusal_is_said() {
    let receiver =
        Receiver::that(|_, before| if before == 0 { "403 Forbidden\r\n" } else { "200 OK\r\n" }.into());
    let station = telling(&receiver).with("ALERTMANAGER_REPEAT_MS", "1000").run();
    assert_eq!(station.alert("c", &alert("AGENT_DEATH", "a", 1)).0, 200);
    let line = station.await_log("check ALERTMANAGER_KEY");
    assert!(line.contains("403") && line.contains("WARN"), "{line}");
    station.await_log("takes alerts again");
    let all = receiver.await_count(4);
    assert!(all.iter().all(|post| post.body[0]["labels"] == all[0].body[0]["labels"]));
    let ends = |post: usize| all[post].body[0]["endsAt"].as_str().unwrap().to_owned();
    assert!(ends(3) > ends(1), "each repeat moves the end: {} {}", ends(1), ends(3));
}

/// The Alertmanager of Debian, on a port of its own.
struct Alertmanager {
    port: u16,
    _running: Running,
    _directory: tempfile::TempDir,
}

impl Alertmanager {
    fn start() -> Option<Self> {
        const PROGRAM: &str = "prometheus-alertmanager";
        if !has_program(PROGRAM) {
            return None;
        }
        let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
        let path = |name: &str| directory.path().join(name).display().to_string();
        // JSON is YAML.
        let config = json!({ "route": { "receiver": "people" }, "receivers": [{ "name": "people" }] });
        std::fs::write(path("config.yml"), config.to_string()).unwrap();
        let arguments = [
            format!("--config.file={}", path("config.yml")),
            format!("--storage.path={}", path("data")),
            format!("--web.listen-address=127.0.0.1:{port}"),
            "--cluster.listen-address=".into(),
        ];
        let running = spawn(Path::new(PROGRAM), &[], &arguments.each_ref().map(String::as_str));
        let alertmanager = Self { port, _running: running, _directory: directory };
        until("the Alertmanager is ready", || alertmanager.get("/-/ready").is_some());
        Some(alertmanager)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn get(&self, path: &str) -> Option<String> {
        let answer = ureq::get(format!("{}{path}", self.url())).call();
        answer.ok().and_then(|mut answer| answer.body_mut().read_to_string().ok())
    }

    /// The labels of the alerts that fire.
    fn firing(&self) -> Vec<Value> {
        let alerts: Vec<Value> = serde_json::from_str(&self.get("/api/v2/alerts").unwrap()).unwrap();
        alerts.iter().map(|alert| alert["labels"].clone()).collect()
    }
}

#[test]
fn a_collector_and_the_station_tell_a_real_alertmanager_one_alert() {
    let (Some(program), Some(alertmanager)) = (program("pap-collector"), Alertmanager::start()) else {
        return;
    };
    let url = alertmanager.url();
    let station = start().with("ALERTMANAGER_URL", &url).with("ALERTMANAGER_REPEAT_MS", "1000").run();
    let (port, state) = (free_port(), station.directory.path().join("state"));
    let own = [("ALERTMANAGER_URL", url.as_str()), ("ALERTMANAGER_REPEAT_MS", "1000")];
    let running = collector(&program, port, &station, &state, &own);
    crate::together::beat(port, "alarmed", "EMERGENCY", 10);
    until("the station has it", || {
        station.seen("/api/incidents?state=open&kind=agent.emergency")["total"] == 1
    });
    until("both have told it", || {
        let text = station.send("GET", "/metrics", &[], "").2;
        text.contains("pap_station_alertmanager_alerts_firing{alertname=\"PapAgentEmergency\"} 1\n")
            && !text
                .contains("pap_station_alertmanager_alerts_total{alertmanager=\"1\",result=\"taken\"} 0\n")
            && !alertmanager.firing().is_empty()
    });
    let labels = json!({"alertname": "PapAgentEmergency", "cluster": "prod", "agent_uuid": "alarmed",
                        "agent_name": "alarmed", "mode": "EMERGENCY", "severity": "warning"});
    let expected = vec![labels];
    assert_eq!(alertmanager.firing(), expected, "one alert, not two");
    // The collector goes: the station keeps it firing for longer than the collector's word lasts.
    drop(running);
    let posted = |station: &Station| {
        let text = station.send("GET", "/metrics", &[], "").2;
        let line =
            text.lines().find(|line| line.contains("alerts_total{alertmanager=\"1\",result=\"taken\"}"));
        line.and_then(|line| line.rsplit(' ').next()).unwrap().parse::<u64>().unwrap()
    };
    let before = posted(&station);
    until("it was repeated", || posted(&station) > before + 5);
    assert_eq!(alertmanager.firing(), expected);
    assert_eq!(station.alert("prod", &calm("alarmed")).0, 200);
    until("it is over", || alertmanager.firing().is_empty());
}

/// An agent of a collector has left EMERGENCY.
fn calm(agent: &str) -> Value {
    let mut alert = alert("AGENT_RECOVERED", agent, 0);
    alert["cluster_id"] = json!("prod");
    alert["timestamp"] = serde_json::to_value(pap_process::clock::wall()).unwrap();
    alert
}

#[test]
fn an_alert_with_odd_details_hides_no_other() {
    let receiver = Receiver::new();
    let mut station = telling(&receiver).run();
    let mut odd = alert("AGENT_DEATH", "odd", 1);
    odd["details"] = json!({ "mode": 5, "last_seen": true, "machine_id": "x", "machine_name": "y" });
    for body in [alert("AGENT_DEATH", "before", 1), odd, alert("AGENT_DEATH", "after", 1)] {
        assert_eq!(station.alert("c", &body).0, 200);
    }
    let labels = await_labels(&receiver, 3, 0).0;
    let odd = labels.iter().find(|labels| labels["agent_uuid"] == "odd").unwrap();
    assert_eq!((&odd["mode"], &odd["machine_name"]), (&Value::Null, &Value::Null));
    station.kill();
    let receiver = Receiver::new();
    let _station = telling(&receiver).after(&station).run();
    await_labels(&receiver, 3, 0);
}

#[test]
fn what_opens_after_all_events_have_become_too_old_is_told() {
    let mut station = start().run();
    for agent in ["a", "b"] {
        assert_eq!(station.alert("c", &alert("AGENT_DEATH", agent, 1)).0, 200);
        assert_eq!(station.alert("c", &alert("AGENT_RECOVERED", agent, 2)).0, 200);
    }
    assert_eq!(station.stop(), 0);
    let file = rusqlite::Connection::open(station.directory.path().join("station.db")).unwrap();
    file.execute_batch("UPDATE event SET at = 1000; UPDATE incident SET opened_at = 1000, closed_at = 2000;")
        .unwrap();
    drop(file);
    let receiver = Receiver::new();
    let station = telling(&receiver).after(&station).with("ALERT_RETENTION", "1h").run();
    until("what is old is gone, but for the last", || {
        station.seen("/api/incidents?state=closed")["total"] == 1
    });
    assert_eq!(station.alert("c", &alert("AGENT_DEATH", "new", 3)).0, 200);
    assert_eq!(await_labels(&receiver, 1, 0).0[0]["agent_uuid"], "new");
}

#[test]
fn a_machine_that_is_renamed_or_removed_ends_with_the_name_it_had() {
    let receiver = Receiver::new();
    let mut station = telling(&receiver).with("MACHINE_OFFLINE_THRESHOLD", "1s").run();
    let (_, machine) = station.ask("POST", "/agent/register", ADMIN, r#"{"name":"first"}"#);
    let (id, key) = (machine["id"].to_string(), machine["api_key"].as_str().unwrap().to_owned());
    assert_eq!(station.ask("POST", "/agent/metrics", &key, "{}").0, 202);
    await_labels(&receiver, 1, 0);
    let renamed = station.ask("PATCH", &format!("/machines/{id}"), ADMIN, r#"{"name":"second"}"#);
    assert_eq!(renamed.0, 200);
    station.kill();
    let receiver = Receiver::new();
    let mut station = telling(&receiver).after(&station).run();
    let labels = await_labels(&receiver, 1, 0).0;
    assert_eq!((&labels[0]["machine_name"], &labels[0]["machine_id"]), (&json!("first"), &json!(id)));
    station.kill();
    let station = start().after(&station).run();
    assert_eq!(station.ask("DELETE", &format!("/machines/{id}"), ADMIN, "").0, 200);
    let mut station = station;
    station.kill();
    let receiver = Receiver::new();
    let _station = telling(&receiver).after(&station).run();
    assert_eq!(await_labels(&receiver, 0, 1).1, labels);
}
