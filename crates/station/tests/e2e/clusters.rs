//! Clusters: registered, asked, silent, removed (C1, C5, C12 to C15, C19 of the original).

use serde_json::{Value, json};

use crate::support::{ADMIN, COLLECTOR, Receiver, VIEWER, alert, start, until};

#[test]
fn clusters_are_registered_by_hand_by_themselves_and_by_a_first_word() {
    let station = start().with("MAX_CLUSTERS", "3").run();
    let post = |body: &str| station.ask("POST", "/api/clusters", ADMIN, body);
    let (status, made) = post(
        r#"{"cluster_id":"a","name":"A","description":"d","collector_url":"http://127.0.0.1:1/x/","unknown":1}"#,
    );
    assert_eq!((status, &made["cluster"]["name"]), (201, &json!("A")));
    assert_eq!(made["cluster"]["collector_url"], json!("http://127.0.0.1:1/x"));
    let (status, body) = post(r#"{"cluster_id":"a","name":"A"}"#);
    assert_eq!((status, &body["error"]), (409, &json!("Cluster already exists")));
    let (status, body) = post(r#"{"cluster_id":"a/b","collector_url":"ftp://x"}"#);
    assert_eq!((status, &body["error"]), (400, &json!("Invalid cluster data")));
    let paths: Vec<_> =
        body["details"].as_array().unwrap().iter().map(|it| it["path"][0].as_str().unwrap()).collect();
    assert_eq!(paths, ["cluster_id", "name", "collector_url"]);
    let long = format!(r#"{{"cluster_id":"long","name":"{}"}}"#, "x".repeat(256));
    let (status, body) = post(&long);
    assert_eq!((status, &body["details"][0]["path"]), (400, &json!(["name"])), "{body}");
    assert_eq!(station.ask("POST", "/api/clusters/a/heartbeat", COLLECTOR, " []").0, 400, "no object");
    assert_eq!(station.ask("POST", "/api/clusters", VIEWER, "{}").0, 403);
    assert_eq!(station.ask("POST", "/api/clusters", COLLECTOR, "{}").0, 403);

    // What a producer of the registry sends.
    let said = r#"{"client_id":"b","cluster_name":"B","version":"2.1.2","registered_at":"2026-01-01T00:00:00Z","metadata":{"namespace":"n"}}"#;
    assert_eq!(station.ask("PUT", "/api/clusters/b", COLLECTOR, said).0, 201);
    assert_eq!(station.ask("PUT", "/api/clusters/b", COLLECTOR, said).0, 200);
    assert_eq!(station.ask("PUT", "/api/clusters/other", COLLECTOR, said).0, 400);
    assert_eq!(station.alert("c", &alert("AGENT_DEATH", "x", 1)).0, 200);
    let (status, full) = station.ask("POST", "/api/clusters/d/heartbeat", COLLECTOR, "");
    assert_eq!(status, 503, "{full}");
    assert_eq!(station.seen("/api/clusters")["total"], 3);

    let strict = start().with("AUTO_REGISTER", "false").run();
    assert_eq!(strict.alert("c", &alert("AGENT_DEATH", "x", 1)).0, 404);
    assert_eq!(strict.ask("POST", "/api/clusters/c/heartbeat", COLLECTOR, "").0, 404);
    assert_eq!(strict.seen("/api/clusters")["total"], 0);
}

#[test]
fn a_cluster_that_was_heard_dies_and_one_that_was_not_is_unknown() {
    let station = start().with("HEARTBEAT_TIMEOUT", "1s").with("CLEANUP_TIMEOUT", "1s").run();
    assert_eq!(station.ask("POST", "/api/clusters", ADMIN, r#"{"cluster_id":"a","name":"A"}"#).0, 201);
    assert_eq!(station.ask("PUT", "/api/clusters/b", COLLECTOR, "{}").0, 201);
    let state = |id: &str| station.seen(&format!("/api/clusters/{id}"))["cluster"]["state"].clone();
    // A collector of another make, which posts alerts and never beats.
    assert_eq!(state("a"), "unknown");
    until("the one that was heard is dead", || state("b") == "dead");
    station.await_log("cluster a is not heard");
    assert_eq!(state("a"), "unknown", "nobody says that it has died");
    assert_eq!(station.ask("POST", "/api/clusters/a/heartbeat", COLLECTOR, "{}").0, 200);
}

#[test]
fn a_removed_cluster_is_gone_until_it_is_registered_again() {
    let (station, receiver) = (start().run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    assert_eq!(station.ask("DELETE", "/api/clusters/c", COLLECTOR, "").0, 200);
    assert_eq!(station.ask("DELETE", "/api/clusters/c", COLLECTOR, "").0, 404);
    assert_eq!(station.alert("c", &alert("AGENT_DEATH", "b", 1)).0, 410);
    assert_eq!(station.ask("POST", "/api/clusters/c/heartbeat", COLLECTOR, "").0, 410);
    assert_eq!(station.get("/api/clusters/c/alerts", ADMIN).0, 404);
    assert_eq!(station.seen("/api/incidents?state=open")["total"], 0);
    let all = receiver.await_count(2);
    assert_eq!(all[1].body["incident"]["details"]["closed_by"], "removed");
    assert_eq!(station.ask("PUT", "/api/clusters/c", COLLECTOR, "{}").0, 201);
    assert_eq!(station.ask("POST", "/api/clusters/c/heartbeat", COLLECTOR, "").0, 200);
}

#[test]
fn a_collector_that_falls_silent_is_told_once_and_told_when_it_is_back() {
    let (station, receiver) = (start().with("HEARTBEAT_TIMEOUT", "1s").run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    let beat = |body: &str| station.ask("POST", "/api/clusters/c/heartbeat", COLLECTOR, body);
    let (status, body) = beat(r#"{"stats":{"total":7,"healthy":5,"unhealthy":2},"version":"1.0.0"}"#);
    let expected = json!({ "received": true, "next_heartbeat_ms": 250, "registered": false });
    assert_eq!((status, body), (200, expected));
    let cluster = &station.seen("/api/clusters")["clusters"][0];
    assert_eq!((&cluster["agent_count"], &cluster["healthy_agent_count"]), (&json!(7), &json!(5)));
    receiver.await_count(1);
    assert_eq!(station.seen("/api/clusters")["clusters"][0]["state"], "stale");
    assert_eq!(beat("").0, 200);
    receiver.await_count(2);
    assert_eq!(receiver.events()[..2], ["collector.silent", "collector.back"]);
    assert_eq!(beat(r#"{"client_id":"other"}"#).0, 400);
    for odd in [r#"{"stats":7}"#, r#"{"agents":null,"stats":{"total":9223372036854775808,"healthy":-1}}"#] {
        assert_eq!(beat(odd).0, 200, "a living collector is heard, whatever it says: {odd}");
    }
    assert_eq!(station.get("/ready", "").0, 200);
}

#[test]
fn a_collector_is_asked_of_the_agents_in_its_incidents() {
    let station = start().run();
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    let (_, body) = station.ask("POST", "/api/clusters/c/heartbeat", COLLECTOR, "");
    assert_eq!(body["ask"], json!(["a"]));
    let answer = |last_seen: &str| {
        let said = json!({ "agents": [{ "agent_uuid": "a", "healthy": true, "mode": "IDLE", "last_seen": last_seen }] });
        let (_, body) = station.ask("POST", "/api/clusters/c/heartbeat", COLLECTOR, &said.to_string());
        assert_eq!(body["ask"], json!(null));
    };
    // A collector that was started again takes everyone for alive at first.
    answer("2026-01-31T12:00:00.000Z");
    assert_eq!(station.seen("/api/incidents?state=open")["total"], 1);
    answer("2026-01-31T12:00:09.000Z");
    assert_eq!(station.seen("/api/incidents?state=open")["total"], 0);
}

#[test]
fn the_agents_of_a_cluster_are_asked_of_its_collector_with_its_own_key() {
    let list = r#"{"cluster_id":"c","stats":{"total":3,"healthy":2,"unhealthy":1},"agents":[]}"#;
    let collector = Receiver::that(move |request, _| match request.path.as_str() {
        "/agents" => format!("200 OK\r\n\r\n{list}"),
        "/agents/a%2Fb" => "200 OK\r\n\r\n{\"agent\":1}".into(),
        "/agents/big" => format!("200 OK\r\n\r\n{}", "x".repeat(1024 * 1024 + 1)),
        "/agents/moved" => format!("302 Found\r\nLocation: http://{}/", "127.0.0.1:1"),
        "/agents/broken" => "500 Internal Server Error\r\n".into(),
        _ => "404 Not Found\r\n".into(),
    });
    let station = start().run();
    let put = |body: String| station.ask("PUT", "/api/clusters/c", ADMIN, &body);
    let (url, key) = (collector.base(), "a-key-of-the-collector");
    assert_eq!(put(format!(r#"{{"collector_url":"{url}","collector_key":"{key}"}}"#)).0, 201);
    let get = |path: &str| station.get(&format!("/api/clusters/c/agents{path}"), VIEWER);
    assert_eq!(get("").1.to_string().len(), serde_json::from_str::<Value>(list).unwrap().to_string().len());
    assert_eq!(station.seen("/api/clusters")["clusters"][0]["agent_count"], 3);
    assert_eq!(get("/a%2Fb"), (200, json!({ "agent": 1 })));
    assert_eq!(get("/none"), (404, json!({ "error": "Agent not found in collector" })));
    assert_eq!(get("/big"), (502, json!({ "error": "Collector response too large" })));
    assert_eq!(get("/moved"), (502, json!({ "error": "Collector unavailable", "status": 302 })));
    assert_eq!(get("/broken"), (502, json!({ "error": "Collector unavailable", "status": 500 })));
    assert!(collector.all().iter().all(|request| request.headers["x-collector-key"] == key));
    assert!(collector.all().iter().all(|request| !request.headers.contains_key("authorization")));
    assert!(!station.seen("/api/clusters").to_string().contains(key));

    // A collector that announces another address does not get the key there.
    let other = Receiver::that(|_, _| "200 OK\r\n\r\n{}".into());
    let said = format!(r#"{{"collector_url":"{}"}}"#, other.base());
    assert_eq!(station.ask("PUT", "/api/clusters/c", COLLECTOR, &said).0, 200);
    assert_eq!(get("").0, 200);
    assert!(!other.all()[0].headers.contains_key("x-collector-key"));
    let (status, body) = station.ask("PUT", "/api/clusters/c", COLLECTOR, r#"{"collector_key":"x"}"#);
    assert_eq!(status, 400, "{body}");

    for path in ["agents", "agents/a"] {
        let answer = station.get(&format!("/api/clusters/none/{path}"), VIEWER);
        assert_eq!(answer, (404, json!({ "error": "Cluster not found" })));
    }
    station.ask("PUT", "/api/clusters/d", ADMIN, "{}");
    assert_eq!(
        station.get("/api/clusters/d/agents", VIEWER),
        (503, json!({ "error": "Cluster has no collector configured" }))
    );
}

#[test]
fn no_private_address_is_asked_unless_it_is_allowed() {
    let collector = Receiver::that(|_, _| "200 OK\r\n\r\n{}".into());
    let station = start().with("ALLOW_PRIVATE_TARGETS", "10.0.0.0/8").run();
    let put = |url: &str| {
        station.ask("PUT", "/api/clusters/c", ADMIN, &json!({ "collector_url": url }).to_string()).0
    };
    assert_eq!(put("http://127.0.0.1:1"), 400);
    assert_eq!(put("http://[::ffff:7f00:1]:1"), 400);
    assert_eq!(put("http://169.254.169.254"), 400);
    // A collector that announces one is taken in without it.
    let (status, taken) =
        station.ask("PUT", "/api/clusters/own", COLLECTOR, r#"{"collector_url":"http://127.0.0.1:1"}"#);
    assert_eq!((status, &taken["cluster"]["collector_url"]), (201, &json!(null)));
    assert_eq!(put("http://10.1.2.3:1"), 201);
    // A name is judged by the addresses that it has when it is connected to.
    let port = collector.base().rsplit(':').next().unwrap().to_owned();
    assert_eq!(put(&format!("http://localhost:{port}")), 200);
    assert_eq!(station.get("/api/clusters/c/agents", ADMIN).0, 502);
    assert!(collector.all().is_empty());
    let hook = |url: &str| {
        let body = json!({ "url": url, "secret": "0123456789abcdef" }).to_string();
        station.ask("POST", "/notifications/webhooks", ADMIN, &body)
    };
    assert_eq!(hook("https://127.0.0.1/x").0, 400);
    let (status, made) = hook(&format!("http://localhost:{port}/x"));
    assert_eq!(status, 201, "{made}");
    station.alert("d", &{
        let mut death = alert("AGENT_DEATH", "a", 1);
        death["cluster_id"] = json!("d");
        death
    });
    let path = format!("/notifications/webhooks/{}/deliveries", made["id"]);
    until("it is said why", || {
        station.seen(&path)["deliveries"][0]["last_error"]
            .as_str()
            .is_some_and(|why| why.contains("ALLOW_PRIVATE_TARGETS"))
    });
    assert!(collector.all().is_empty());
}

#[test]
fn a_removed_cluster_closes_all_it_has_and_leaves_nothing_to_the_next() {
    let station = start().run();
    let body = json!({ "cluster_id": "c", "name": "C", "collector_url": "http://127.0.0.1:9" });
    assert_eq!(station.ask("POST", "/api/clusters", ADMIN, &body.to_string()).0, 201);
    for number in 0..600 {
        assert_eq!(station.alert("c", &alert("AGENT_DEATH", &format!("a{number}"), 1)).0, 200);
    }
    assert_eq!(station.seen("/api/incidents?state=open")["total"], 600);
    assert_eq!(station.ask("DELETE", "/api/clusters/c", ADMIN, "").0, 200);
    assert_eq!(station.seen("/api/incidents?state=open")["total"], 0);
    assert_eq!(station.ask("PUT", "/api/clusters/c", ADMIN, "{}").0, 201);
    assert_eq!(station.seen("/api/clusters/c")["cluster"]["collector_url"], Value::Null);
}

#[test]
fn a_cluster_that_is_registered_while_it_is_removed_is_watched() {
    let station = start().with("HEARTBEAT_TIMEOUT", "3s").with("CLEANUP_TIMEOUT", "4s").run();
    let ids: Vec<_> = (0..200).map(|number| format!("c{number}")).collect();
    for all in ids.chunks(10) {
        std::thread::scope(|scope| {
            for id in all {
                let path = format!("/api/clusters/{id}");
                assert_eq!(station.ask("PUT", &path, COLLECTOR, "{}").0, 201);
                let (station, removed) = (&station, path.clone());
                scope.spawn(move || station.ask("DELETE", &removed, COLLECTOR, ""));
                scope.spawn(move || station.ask("PUT", &path, COLLECTOR, "{}"));
            }
        });
    }
    until("all that are registered are dead", || {
        let clusters = station.seen("/api/clusters")["clusters"].clone();
        clusters.as_array().unwrap().iter().all(|it| it["state"] == "dead")
    });
    assert!(station.seen("/api/clusters")["total"].as_u64().unwrap() > 0, "some were registered last");
}
