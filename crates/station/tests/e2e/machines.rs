//! Machines (L1, L7, L9, L10, L12, L13, L25, L26, L33 of the original).

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::{ADMIN, COLLECTOR, Receiver, Station, VIEWER, start, until};

fn register(station: &Station, name: &str) -> (i64, String) {
    let body = json!({ "name": name, "hostname": "web-1", "description": "d" }).to_string();
    let (status, made) = station.ask("POST", "/agent/register", ADMIN, &body);
    assert_eq!(status, 201, "{made}");
    (made["id"].as_i64().unwrap(), made["api_key"].as_str().unwrap().to_owned())
}

fn report(station: &Station, key: &str) -> u16 {
    let body = r#"{"cpu_pct":12.5,"mem_used_pct":40,"disk_used_pct":70.1,"net_rx_bytes":1,"net_tx_bytes":2,"uptime_s":99.5,
        "system_info":{"hostname":"db-7","platform":"linux","cpu_cores":4,"unknown":true}}"#;
    let (status, _, body) = station.send("POST", "/agent/metrics", &[("X-API-Key", key)], body);
    assert!(status != 202 || body.is_empty());
    status
}

#[test]
fn the_original_agents_requests_get_the_originals_answers() {
    let station = start().run();
    let (status, body) = station.ask("POST", "/agent/register", ADMIN, r#"{"hostname":"x"}"#);
    assert_eq!((status, body), (400, json!({ "error": "machine name is required" })));
    let (id, key) = register(&station, "production-server");
    assert_eq!(key.len(), 44);
    assert_eq!(report(&station, &key), 202);
    assert_eq!(station.ask("POST", "/agent/metrics", &key, "{}").0, 202, "as a bearer, too");
    let (status, head, body) = station.send("POST", "/agent/metrics", &[], "{}");
    assert_eq!((status, body.as_str()), (401, "Unauthorized: API key required\n"));
    assert!(head.contains("Content-Type: text/plain; charset=utf-8"), "{head}");
    let wrong = station.send("POST", "/agent/metrics", &[("X-API-Key", "wrong")], "{}");
    assert_eq!((wrong.0, wrong.2.as_str()), (401, "Unauthorized: invalid API key\n"));
    let text = station.send("POST", "/agent/metrics", &[("X-API-Key", &key)], "nonsense");
    assert_eq!((text.0, text.2.as_str()), (400, "Invalid request body\n"));
    let (status, body) = station.ask("POST", "/agent/metrics", &key, r#"{"cpu_pct":101}"#);
    assert_eq!((status, body), (400, json!({ "error": "cpu_pct must be between 0 and 100" })));
    assert_eq!(station.ask("POST", "/agent/metrics", &key, r#"{"system_info":["x"]}"#).0, 400, "no object");

    let (_, all) = station.get("/machines", VIEWER);
    let machine = &all[0];
    assert_eq!((&machine["status"], &machine["hostname"]), (&json!("online"), &json!("db-7")));
    assert_eq!((&machine["cpu_pct"], &machine["cpu_cores"]), (&json!(12.5), &json!(4)));
    assert!(!all.to_string().contains("key") && !all.to_string().contains("hash"));
    let patched = station.ask("PATCH", &format!("/machines/{id}"), ADMIN, r#"{"description":"new"}"#);
    assert_eq!(patched, (200, json!({ "message": "Machine updated successfully" })));
    let (_, machine) = station.get(&format!("/machines/{id}"), VIEWER);
    assert_eq!((&machine["description"], &machine["name"]), (&json!("new"), &json!("production-server")));
    for (method, path) in
        [("PATCH", "/machines/99"), ("DELETE", "/machines/99"), ("POST", "/machines/99/rotate-key")]
    {
        assert_eq!(station.ask(method, path, ADMIN, "{}").0, 404, "{path}");
    }
    assert_eq!(station.ask("DELETE", "/machines/x", ADMIN, "").0, 400);

    let (status, rotated) = station.ask("POST", &format!("/machines/{id}/rotate-key"), ADMIN, "");
    assert_eq!(status, 200);
    let new = rotated["api_key"].as_str().unwrap();
    assert_eq!((report(&station, &key), report(&station, new)), (202, 202), "the former one for a while");
    assert_eq!(station.ask("DELETE", &format!("/machines/{id}"), ADMIN, "").0, 200);
    assert_eq!(report(&station, new), 401);
    assert_eq!(station.seen("/machines"), json!([]));
}

#[test]
fn a_machine_goes_offline_once_and_comes_back_once() {
    let (station, receiver) = (start().with("MACHINE_OFFLINE_THRESHOLD", "1s").run(), Receiver::new());
    station.await_log("Heartbeat monitor started (interval: 30s, threshold: 1s)");
    station.webhook(&receiver, &json!({}));
    let (_, silent) = register(&station, "never-seen");
    let (id, key) = register(&station, "production-server");
    assert_eq!(report(&station, &key), 202);
    let all = receiver.await_count(1);
    assert_eq!(
        all[0].text,
        format!(
            r#"{{"event":"machine.offline","machine":{{"id":{id},"name":"production-server","hostname":"db-7","description":"d","status":"offline","last_seen":"{}"}}}}"#,
            all[0].body["machine"]["last_seen"].as_str().unwrap()
        )
    );
    assert!(all[0].body["machine"]["last_seen"].as_str().unwrap().len() == 20, "whole seconds");
    station.await_log(&format!("Machine {id} (production-server) went offline (last seen: "));
    report(&station, &key);
    receiver.await_count(2);
    station.await_log(&format!("Machine {id} (production-server) came back online"));
    assert_eq!(receiver.events()[..2], ["machine.offline", "machine.online"]);
    let machines = station.seen("/machines");
    let of = |name: &str| machines.as_array().unwrap().iter().find(|it| it["name"] == name).unwrap().clone();
    assert_eq!(
        (&of("never-seen")["status"], &of("never-seen")["last_seen"]),
        (&json!("unknown"), &Value::Null)
    );
    // A first word of a machine is no recovery.
    report(&station, &silent);
    receiver.await_count(3);
    assert!(receiver.events()[2..].iter().all(|event| event == "machine.offline"));
}

#[test]
fn a_disabled_machine_is_silent_until_it_is_enabled_again() {
    let (station, receiver) = (start().with("MACHINE_OFFLINE_THRESHOLD", "1s").run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    let (id, key) = register(&station, "m");
    report(&station, &key);
    receiver.await_count(1);
    let (status, body) = station.ask("POST", &format!("/machines/{id}/disable"), ADMIN, "");
    assert_eq!((status, body), (200, json!({ "message": "Machine disabled successfully" })));
    receiver.await_count(2);
    assert_eq!(receiver.events(), ["machine.offline", "machine.online"], "its outage closes");
    assert_eq!(report(&station, &key), 401);
    station.ask("POST", &format!("/machines/{id}/enable"), ADMIN, "");
    assert_eq!(report(&station, &key), 202);
    // It is watched again.
    receiver.await_count(3);
    assert_eq!(receiver.events()[2], "machine.offline");
}

#[test]
fn a_heartbeat_of_a_machine_is_taken_with_its_own_key() {
    let station = start().run();
    let (id, key) = register(&station, "m");
    let (other, _) = register(&station, "n");
    let body = r#"{"hostname":"h","boot_time":"2026-01-01T00:00:00Z","uptime_seconds":5.5}"#;
    let beat = |id: i64| station.ask("POST", &format!("/api/machines/{id}/heartbeat"), &key, body);
    assert_eq!(beat(id), (200, json!({ "received": true, "next_heartbeat_ms": 10000 })));
    assert_eq!(beat(other).0, 403);
    let machine = station.seen(&format!("/machines/{id}"));
    assert_eq!(
        (&machine["last_boot_time"], &machine["uptime_s"]),
        (&json!("2026-01-01T00:00:00Z"), &json!(5.5))
    );
    until("it is counted", || {
        station.get("/metrics", "").1.as_str().unwrap().contains("pap_station_machines{status=\"online\"} 1")
    });
}

#[test]
fn machines_that_fall_silent_together_are_all_told_and_so_is_each_return() {
    let (station, receiver) = (start().with("MACHINE_OFFLINE_THRESHOLD", "1s").run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    let keys: Vec<_> = (0..20).map(|number| register(&station, &format!("m{number}")).1).collect();
    assert!(keys.iter().all(|key| report(&station, key) == 202));
    receiver.await_count(20);
    let status = |name: &str| {
        let machines = station.seen("/machines");
        let all = machines.as_array().unwrap();
        all.iter().filter(|machine| machine["status"] == name).count()
    };
    // The list knows of no other threshold.
    until("all are offline", || status("offline") == 20);
    // Nobody holds a return back because something was told just before.
    assert!(keys.iter().all(|key| report(&station, key) == 202));
    let told = |event: &str| {
        let all = receiver.all();
        let of =
            all.iter().filter(|it| it.event() == event).map(|it| it.body["machine"]["id"].as_i64().unwrap());
        of.collect::<std::collections::BTreeSet<_>>().len()
    };
    until("all are told to be back", || told("machine.online") == 20);
    assert_eq!(told("machine.offline"), 20);
}

#[test]
fn an_outage_that_nobody_could_be_told_of_is_told_after_a_kill() {
    let receiver = Receiver::that(|_, before| match before {
        0 => "503 Service Unavailable\r\n".into(),
        _ => "200 OK\r\n".into(),
    });
    let mut station = start().with("MACHINE_OFFLINE_THRESHOLD", "1s").run();
    let hook = station.webhook(&receiver, &json!({}));
    let (_, key) = register(&station, "m");
    report(&station, &key);
    receiver.await_count(1);
    station.kill();
    let station = start().after(&station).with("MACHINE_OFFLINE_THRESHOLD", "1s").run();
    let all = receiver.await_count(2);
    assert_eq!((all[1].event(), all[1].id(), &all[1].text), ("machine.offline", all[0].id(), &all[0].text));
    let path = format!("/notifications/webhooks/{hook}/deliveries");
    until("it is delivered", || station.seen(&path)["deliveries"][0]["state"] == "delivered");
    assert_eq!(station.seen("/api/incidents")["total"], 1, "the outage goes on, and is told once");
}

#[test]
fn whoever_was_online_before_a_restart_has_all_of_its_time() {
    let mut station = start().run();
    let (id, key) = register(&station, "m");
    report(&station, &key);
    station.ask("POST", "/api/clusters/old/heartbeat", COLLECTOR, "");
    assert_eq!(station.stop(), 0);
    // It was off for years.
    let file = rusqlite::Connection::open(station.directory.path().join("station.db")).unwrap();
    file.execute("UPDATE machine SET last_seen = 1000", []).unwrap();
    file.execute("UPDATE cluster SET last_seen_at = 1000, last_beat_at = 1000", []).unwrap();
    drop(file);
    let began = Timestamp::now().as_millisecond();
    let station =
        start().after(&station).with("MACHINE_OFFLINE_THRESHOLD", "3s").with("HEARTBEAT_TIMEOUT", "4s").run();
    until("both are silent", || station.seen("/api/incidents?state=open")["total"] == 2);
    for (kind, time) in [("machine.offline", 3000), ("collector.silent", 4000)] {
        let incidents = station.seen(&format!("/api/incidents?kind={kind}"));
        let opened = incidents["incidents"][0]["opened_at"].as_str().unwrap().parse::<Timestamp>().unwrap();
        let after = opened.as_millisecond() - began;
        assert!(after >= time, "{kind} after {after} ms");
    }
    assert_eq!(station.seen(&format!("/machines/{id}"))["last_seen"], "1970-01-01T00:00:01.000Z");
}

#[test]
fn a_machine_that_is_enabled_again_is_watched_also_after_a_restart() {
    let (station, receiver) = (start(), Receiver::new());
    let mut station = station.run();
    station.webhook(&receiver, &json!({}));
    let (id, key) = register(&station, "m");
    assert_eq!(report(&station, &key), 202);
    for change in ["disable", "enable"] {
        assert_eq!(station.ask("POST", &format!("/machines/{id}/{change}"), ADMIN, "").0, 200);
    }
    station.kill();
    let _station = start().after(&station).with("MACHINE_OFFLINE_THRESHOLD", "1s").run();
    receiver.await_count(1);
    assert_eq!(receiver.events(), ["machine.offline"]);
}
