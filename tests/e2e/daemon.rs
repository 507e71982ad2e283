//! The real binary over real sockets, against a station that really listens.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::station::{Answer as Reply, Post, Station};
use crate::support::{Answer, Collector, PATIENCE, Running, command, let_pass, said, stays_so, tls, uuid};
use serde_json::{Value, json};

fn judging() -> Station {
    Station::start(0, |post| Reply::Status(post.judge("k"))).unwrap()
}

fn deaths(posts: &[Post]) -> usize {
    posts.iter().filter(|post| post.text("type") == "AGENT_DEATH").count()
}

#[test]
fn the_endpoints_answer_as_the_contract_says() {
    let collector = Collector::start(&[("CLUSTER_NAME", "Test \"Cluster\"")]);
    let root = collector.get("/").json();
    assert_eq!(root["cluster"], json!({"id": "test-cluster", "name": "Test \"Cluster\""}));
    assert_eq!(collector.get("/ready").json(), json!({"ready": true}));

    let first = collector.beat("pluggedin%2Fresearch@1.2.0", "IDLE", 12.5);
    assert_eq!(
        first.json(),
        json!({"received": true, "is_new": true, "restart_detected": false, "next_heartbeat_ms": 30_000})
    );
    let second = collector.beat("pluggedin%2Fresearch@1.2.0", "SLEEP", 1.0);
    assert_eq!(
        second.json(),
        json!({"received": true, "is_new": false, "restart_detected": true, "next_heartbeat_ms": 900_000})
    );
    let body = r#"{"mode":"EMERGENCY","uptime_seconds":7,"agent_name":"é \"n\"","extra":{"x":[1]}}"#;
    let third = collector.request("POST", "/heartbeat/b", &["Content-Type: application/json"], body);
    assert_eq!(third.json()["next_heartbeat_ms"], 5_000);

    let one = collector.get("/agents/b").json();
    assert_eq!(
        (&one["cluster_id"], &one["cluster_name"]),
        (&json!("test-cluster"), &json!("Test \"Cluster\""))
    );
    let agent = &one["agent"];
    for (field, value) in [
        ("agent_uuid", json!("b")),
        ("agent_name", json!("é \"n\"")),
        ("mode", json!("EMERGENCY")),
        ("uptime_seconds", json!(7)),
        ("healthy", json!(true)),
        ("observation_mode", json!(false)),
        ("consecutive_heartbeats", json!(1)),
        ("status", json!("healthy")),
    ] {
        assert_eq!(agent[field], value, "{field}");
    }
    assert!(agent["last_seen"].as_str().unwrap().ends_with('Z') && agent["silence_ms"].is_u64());
    assert_eq!(agent["first_seen"], agent["last_seen"]);

    let all = collector.get("/agents").json();
    assert_eq!(
        all["stats"],
        json!({"total": 2, "healthy": 2, "unhealthy": 0, "observed": 0,
               "by_mode": {"EMERGENCY": 1, "IDLE": 0, "SLEEP": 1}})
    );
    let ids: Vec<&Value> =
        all["agents"].as_array().unwrap().iter().map(|agent| &agent["agent_uuid"]).collect();
    assert_eq!(ids, [&json!("b"), &json!("pluggedin/research@1.2.0")]);

    let health = collector.get("/health").json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(health["agents"], json!({"total": 2, "healthy": 2, "unhealthy": 0}));
    assert!(health["uptime"].is_u64());
    assert_eq!(health["alert_queue"]["owed"], 0);

    let missing = collector.get("/agents/nobody");
    assert_eq!(missing.status, 404);
    assert_eq!(
        missing.json(),
        json!({"error": "Agent not found", "agent_uuid": "nobody", "cluster_id": "test-cluster"})
    );
    assert_eq!(
        collector.request("DELETE", "/agents/b", &[], "").json(),
        json!({"removed": true, "agent_uuid": "b"})
    );
    assert_eq!(collector.request("DELETE", "/agents/b", &[], "").status, 404);
    let goodbye = collector.request("DELETE", "/heartbeat/pluggedin%2Fresearch@1.2.0", &[], "");
    assert_eq!(goodbye.json(), json!({"removed": true, "agent_uuid": "pluggedin/research@1.2.0"}));
    assert_eq!(collector.request("DELETE", "/heartbeat/b", &[], "").status, 404);
    assert_eq!(collector.get("/agents").json()["stats"]["total"], 0);
}

#[test]
fn what_is_refused_says_why_and_changes_nothing() {
    let collector = Collector::start(&[]);
    let payload = |field: Option<&str>, reason: &str| {
        let (error, required) = ("Invalid heartbeat payload", ["mode", "uptime_seconds"]);
        json!({"error": error, "required": required, "field": field, "reason": reason})
    };
    let modes = "must be EMERGENCY, IDLE or SLEEP";
    let mode = json!({"error": "Invalid mode", "valid": ["EMERGENCY", "IDLE", "SLEEP"], "field": "mode", "reason": modes});
    for (body, expected) in [
        ("{", payload(None, "the body is empty, or its JSON ends too early")),
        ("{]", payload(None, "the body is not JSON that can be read")),
        ("[]", payload(None, "the body is not a JSON object")),
        (r#"{"mode":"IDLE"}"#, payload(Some("uptime_seconds"), "is missing or null")),
        (r#"{"uptime_seconds":1}"#, payload(Some("mode"), "is missing or null")),
        (r#"{"mode":"IDLE","uptime_seconds":"1"}"#, payload(Some("uptime_seconds"), "must be a number")),
        (r#"{"mode":"IDLE","uptime_seconds":-1}"#, payload(Some("uptime_seconds"), "must be at least 0")),
        (r#"{"mode":"IDLE","mode":"IDLE","uptime_seconds":1}"#, payload(Some("mode"), "is there twice")),
        (r#"{"mode":"AWAKE","uptime_seconds":1}"#, mode),
    ] {
        let answer = collector.request("POST", "/heartbeat/a", &[], body);
        assert_eq!((answer.status, &answer.json()), (400, &expected), "{body}");
    }
    let long = r#"{"mode":"IDLE","uptime_seconds":1,"agent_name":7}"#;
    for (path, body, field) in [
        ("/heartbeat/a", r#"{"mode":"IDLE","uptime_seconds":1,"memory_mb":5}"#, "memory_mb"),
        ("/heartbeat/a", long, "agent_name"),
        ("/heartbeat/%00", "{}", "agent_uuid"),
    ] {
        let answer = collector.request("POST", path, &[], body);
        let json = answer.json();
        assert_eq!((answer.status, &json["field"]), (400, &json!(field)), "{path} {body}");
        assert!(json["error"].is_string() && json["reason"].is_string(), "{json}");
    }
    let resource = r#"{"mode":"IDLE","uptime_seconds":1,"cpu_percent":5}"#;
    for (path, headers, body, status) in [
        ("/heartbeat/a", &[][..], resource, 400),
        ("/heartbeat/", &[], "{}", 400),
        ("/heartbeat/%00", &[], "{}", 400),
        ("/heartbeat/%zz", &[], "{}", 400),
        ("/heartbeat/a", &[], "", 400),
        ("/heartbeat/a", &["Transfer-Encoding: chunked"], "{}", 400),
        ("/heartbeat/a", &["Transfer-Encoding: gzip"], "", 400),
        ("/heartbeat/a", &["Content-Length: 2"], "{}", 400),
        ("/heartbeat/a", &["Content-Length: 100000000000000"], "", 413),
        ("/heartbeat/a", &["Content-Length: -1"], "", 400),
        ("/heartbeat/a", &["Expect: the worst"], "{}", 417),
        ("/heartbeat/a", &["Content-Encoding: gzip"], "{}", 415),
        ("/nowhere", &[], "", 404),
        ("/agents/a", &[], "", 405),
        ("/health/", &[], "", 405),
        ("/health//", &[], "", 404),
    ] {
        let answer = collector.request("POST", path, headers, body);
        assert_eq!(answer.status, status, "{path} {headers:?} {body}: {answer:?}");
        let json = answer.json();
        assert!(json["error"].is_string(), "{answer:?}");
        if path.starts_with("/heartbeat/") {
            assert!(json.get("field").is_some() && json["reason"].is_string(), "{answer:?}");
        }
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let long = format!(r#"{{"mode":"IDLE","uptime_seconds":1,"x":"{}"}}"#, "x".repeat(1024));
    let long = collector.request("POST", "/heartbeat/a", &[], &long);
    assert_eq!((long.status, &long.json()["field"]), (413, &json!("body")));
    for (method, path, allow) in [
        ("GET", "/heartbeat/a", "POST, DELETE"),
        ("PUT", "/agents/a", "GET, HEAD, DELETE"),
        ("POST", "/agents", "GET, HEAD"),
        ("DELETE", "/health", "GET, HEAD"),
        ("PATCH", "/", "GET, HEAD"),
    ] {
        let answer = collector.request(method, path, &[], "");
        assert_eq!((answer.status, answer.header("Allow")), (405, Some(allow)), "{method} {path}");
    }
    assert_eq!(collector.get("/agents?status=ill").status, 400);
    assert_eq!(collector.get("/agents").json()["stats"]["total"], 0);
    assert!((collector.metric("heartbeats_refused_total{reason=\"body\"}") - 8.0).abs() < 0.1);
}

#[test]
fn a_name_that_was_cut_inside_an_emoji_is_shown_with_the_replacement_character() {
    let collector = Collector::start(&[]);
    let cut = r#"{"mode":"IDLE","uptime_seconds":1,"agent_name":"x\ud83d"}"#;
    assert_eq!(collector.request("POST", "/heartbeat/a", &[], cut).status, 200);
    assert_eq!(collector.get("/agents/a").json()["agent"]["agent_name"], "x\u{fffd}");
}

#[test]
fn head_is_get_without_the_body() {
    let collector = Collector::start(&[]);
    collector.beat("a", "IDLE", 1.0);
    for path in ["/", "/health", "/ready", "/metrics", "/agents", "/agents/a"] {
        let answer = collector.request("HEAD", path, &[], "");
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
        assert_eq!(answer.header("content-type"), collector.get(path).header("content-type"));
    }
}

#[test]
fn the_key_opens_agents_and_nothing_else_needs_it() {
    let collector = Collector::start(&[("COLLECTOR_API_KEY", "sesame")]);
    assert_eq!(collector.beat("a", "IDLE", 1.0).status, 200);
    for path in ["/", "/health", "/ready", "/metrics"] {
        assert_eq!(collector.get(path).status, 200);
    }
    for path in ["/agents", "/agents/a", "/agents?limit=x", "/agents/%zz"] {
        for headers in
            [&[][..], &["X-Collector-Key: sesam"], &["Authorization: Bearer "], &["Authorization: sesame"]]
        {
            let answer = collector.request("GET", path, headers, "");
            assert_eq!(
                (answer.status, &answer.json()["error"]),
                (401, &json!("Unauthorized")),
                "{path} {headers:?}"
            );
            assert!(answer.json()["message"].is_string());
        }
    }
    assert_eq!(collector.request("DELETE", "/agents/a", &[], "").status, 401);
    for header in ["X-Collector-Key: sesame", "authorization: bearer sesame"] {
        assert_eq!(collector.request("GET", "/agents/a", &[header], "").status, 200);
    }
    assert_eq!(collector.request("DELETE", "/heartbeat/a", &[], "").status, 200, "a goodbye needs no key");
}

#[test]
fn agents_are_listed_in_pages_and_by_filter() {
    let collector = Collector::start(&[]);
    for number in 0..300 {
        collector.beat(&uuid(number), if number % 3 == 0 { "SLEEP" } else { "IDLE" }, 1.0);
    }
    let ids = |body: &Value| -> Vec<String> {
        let agents = body["agents"].as_array().unwrap().iter();
        agents.map(|agent| agent["agent_uuid"].as_str().unwrap().to_owned()).collect()
    };
    let expected: Vec<String> = (0..300).map(uuid).collect();
    assert_eq!(ids(&collector.get("/agents").json()), expected);
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = collector.get(&format!("/agents?limit=70{after}")).json();
        assert_eq!(page["stats"]["total"], 300);
        paged.extend(ids(&page));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(paged, expected);
    let exact = collector.get("/agents?limit=300").json();
    assert_eq!((ids(&exact).len(), &exact["next"]), (300, &Value::Null));
    let sleeping = collector.get("/agents?mode=SLEEP&status=healthy").json();
    assert_eq!(ids(&sleeping).len(), 100);
    assert_eq!(ids(&collector.get("/agents?status=dead").json()), Vec::<String>::new());
}

#[test]
fn beyond_the_most_agents_the_known_ones_go_on() {
    let collector = Collector::start(&[("COLLECTOR_MAX_AGENTS", "2")]);
    collector.beat("a", "IDLE", 1.0);
    collector.beat("b", "IDLE", 1.0);
    let refused = collector.beat("c", "IDLE", 1.0);
    assert_eq!(refused.status, 503);
    assert!(refused.header("Retry-After").is_some() && refused.json()["error"].is_string());
    assert_eq!(refused.json()["field"], "agent_uuid");
    assert_eq!(collector.beat("a", "IDLE", 31.0).status, 200);
    collector.request("DELETE", "/agents/b", &[], "");
    assert_eq!(collector.beat("c", "IDLE", 1.0).json()["is_new"], true);
}

#[test]
fn a_kept_connection_answers_in_order() {
    let collector = Collector::start(&[]);
    let mut stream = collector.connect();
    let body = r#"{"mode":"IDLE","uptime_seconds":1}"#;
    for number in 0..20 {
        let length = body.len();
        write!(
            stream,
            "POST /heartbeat/a{number} HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        write!(stream, "GET /agents/a{number} HTTP/1.1\r\nHost: c\r\n\r\n").unwrap();
    }
    write!(stream, "GET /ready HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200").count(), 41);
    let places: Vec<usize> =
        (0..20).map(|number| text.find(&format!("\"agent_uuid\":\"a{number}\"")).unwrap()).collect();
    assert!(places.is_sorted());
}

#[test]
fn a_death_is_told_once_and_the_next_one_too() {
    let station = judging();
    let collector = Collector::with_station(&station, &[]);
    let (id, leaver) = (uuid(1), uuid(2));
    let started = Instant::now();
    collector.beat(&leaver, "EMERGENCY", 50.0);
    collector.beat(&id, "EMERGENCY", 100.0);
    assert_eq!(collector.request("DELETE", &format!("/heartbeat/{leaver}"), &[], "").status, 200);
    collector.poll("it is suspect, and healthy", || {
        collector.get("/agents?status=suspect").json()["agents"][0]["healthy"] == true
    });

    assert!(station.wait_until(PATIENCE, |posts| deaths(posts) == 1));
    assert!(started.elapsed() >= Duration::from_millis(10_500), "accused early");
    let death = station.taken("AGENT_DEATH").remove(0).body;
    assert_eq!((&death["agent_uuid"], &death["severity"]), (&json!(id), &json!("critical")));
    let details = &death["details"];
    assert_eq!(details["reason"], "heartbeat_timeout");
    assert_eq!(details["missed_intervals"], 2);
    assert_eq!(details["mode"], "EMERGENCY");
    assert_eq!(details["uptime_before_death"], 100);
    assert!(details["silence_ms"].as_u64().unwrap() >= 10_500);
    assert!(details["event_id"].is_string() && details["seq"].is_u64() && details["last_seen"].is_string());
    collector.poll("the alert is settled", || collector.get("/health").json()["alert_queue"]["owed"] == 0);
    assert_eq!(collector.get(&format!("/agents/{id}")).json()["agent"]["status"], "dead");
    assert!((collector.metric("alerted_agents") - 1.0).abs() < 0.1);

    let back = collector.beat(&id, "EMERGENCY", 2.0).json();
    assert_eq!((&back["is_new"], &back["restart_detected"]), (&json!(false), &json!(true)));
    assert_eq!(collector.get(&format!("/agents/{id}")).json()["agent"]["consecutive_heartbeats"], 1);
    assert!(
        station
            .wait_until(PATIENCE, |posts| posts.iter().any(|post| post.text("type") == "RESTART_DETECTED"))
    );
    assert!(station.wait_until(PATIENCE, |posts| deaths(posts) == 2), "the second death is told too");
    let told = station.taken("AGENT_DEATH");
    assert_ne!(told[0].body["details"]["event_id"], told[1].body["details"]["event_id"]);
    assert!(
        told.iter().all(|post| post.text("agent_uuid") == id),
        "the end of an agent that said goodbye is not told"
    );
    assert!(station.posts().iter().all(|post| post.status == 201), "the station takes all that is sent");
    for line in [said::IS_SUSPECT, said::IS_DEAD, said::IS_BACK, "AGENT_DEATH of"] {
        collector.await_log(line);
    }
}

#[test]
fn a_recovery_is_told_where_that_is_wanted() {
    let station = Station::start(0, |_| Reply::Status(200)).unwrap();
    let collector = Collector::with_station(&station, &[("ALERT_RECOVERY", "true")]);
    collector.beat(&uuid(1), "EMERGENCY", 100.0);
    assert!(station.wait_until(PATIENCE, |posts| deaths(posts) == 1));
    collector.poll("the death is settled", || collector.get("/health").json()["alert_queue"]["owed"] == 0);
    collector.beat(&uuid(1), "IDLE", 120.0);
    assert!(
        station.wait_until(PATIENCE, |posts| posts.iter().any(|post| post.text("type") == "AGENT_RECOVERED"))
    );
    let told = station.taken("AGENT_RECOVERED").remove(0).body;
    assert_eq!((&told["severity"], &told["details"]["mode"]), (&json!("info"), &json!("IDLE")));
    assert!(told["details"]["dead_ms"].is_u64());
}

#[test]
fn an_outage_longer_than_the_ttl_loses_no_death() {
    let station = Station::start(0, |_| Reply::Status(503)).unwrap();
    let limits = [("ALERT_QUEUE_MAX_SIZE", "100"), ("ALERT_QUEUE_TTL_MS", "1500")];
    let collector = Collector::with_station(&station, &limits);
    for number in 0..300 {
        collector.beat(&uuid(number), "EMERGENCY", 100.0);
    }
    let most_queued = Cell::new(0);
    let health = || {
        let health = collector.get("/health").json();
        most_queued.set(most_queued.get().max(health["alert_queue"]["size"].as_u64().unwrap()));
        health
    };
    collector.poll("all are dead", || health()["agents"]["unhealthy"] == 300);
    // After twice the TTL every alert in the queue is too old.
    stays_so(Duration::from_secs(3), "all deaths are owed", || health()["alert_queue"]["owed"] == 300);
    station.behave(|post| Reply::Status(post.judge("k")));
    assert!(station.wait_until(PATIENCE, |posts| {
        posts.iter().filter(|post| post.text("type") == "AGENT_DEATH" && post.status == 201).count() >= 300
    }));
    let most_queued = most_queued.get();
    collector.poll("nothing is owed", || collector.get("/health").json()["alert_queue"]["owed"] == 0);
    assert!((1..=100).contains(&most_queued), "{most_queued}");
    let mut told: HashMap<String, usize> = HashMap::new();
    for post in station.taken("AGENT_DEATH") {
        *told.entry(post.text("agent_uuid").to_owned()).or_default() += 1;
    }
    assert_eq!(told.len(), 300);
    assert!(told.values().all(|times| *times == 1), "once each");
}

#[test]
fn one_alert_that_cannot_be_delivered_holds_up_no_other() {
    let (refused, hanging, failing) = (uuid(1), uuid(2), uuid(3));
    let station = {
        let (refused, hanging, failing) = (refused.clone(), hanging.clone(), failing.clone());
        let decide = move |post: &Post| match post.text("agent_uuid") {
            id if id == refused => Reply::Status(422),
            id if id == hanging => Reply::Silence(PATIENCE),
            id if id == failing => Reply::Status(500),
            _ => Reply::Status(201),
        };
        Station::start(0, decide).unwrap()
    };
    let collector = Collector::with_station(&station, &[("ALERT_SENDERS", "2")]);
    for number in 1..20 {
        collector.beat(&uuid(number), "EMERGENCY", 100.0);
    }
    // The EMERGENCY_MODE alerts of these three agents fail as well.
    assert!(station.wait_until(PATIENCE, |posts| {
        posts.iter().filter(|post| post.text("type") == "AGENT_DEATH" && post.status == 201).count() == 16
    }));
    collector.poll("the refusal is counted", || {
        collector.metric("alerts_refused_total{type=\"AGENT_DEATH\",status=\"422\"}") > 0.0
    });
    collector.await_log("refused AGENT_DEATH for good with 422");
    let attempts = station.posts().iter().filter(|post| post.text("agent_uuid") == failing).count();
    assert!(attempts >= 2, "what failed is tried again");
    assert_eq!(
        station
            .posts()
            .iter()
            .filter(|post| post.text("agent_uuid") == refused && post.text("type") == "AGENT_DEATH")
            .count(),
        1,
        "what was refused is not"
    );
}

#[test]
fn a_wrong_key_is_kept_and_explained() {
    let station = Station::start(0, |post| Reply::Status(post.judge("another key"))).unwrap();
    let collector = Collector::with_station(&station, &[]);
    collector.beat(&uuid(1), "EMERGENCY", 100.0);
    let line = collector.await_log(said::ANSWER_401);
    assert!(line.contains("STATION_ALERT_KEY") && !line.contains("another key"), "{line}");
    station.behave(|post| Reply::Status(post.judge("k")));
    assert!(station.wait_until(PATIENCE, |posts| posts.iter().any(|post| post.status == 201)));
}

#[test]
fn retry_after_is_respected() {
    let station = Station::start(0, |_| Reply::StatusWith(429, "Retry-After: 3".to_owned())).unwrap();
    let collector = Collector::with_station(&station, &[]);
    collector.beat(&uuid(1), "EMERGENCY", 100.0);
    assert!(station.wait_until(PATIENCE, |posts| posts.len() == 1));
    station.behave(|_| Reply::Status(201));
    assert!(station.wait_until(PATIENCE, |posts| posts.len() == 2));
    let posts = station.posts();
    assert!(posts[1].at - posts[0].at >= Duration::from_secs(3));
    assert_eq!(posts[0].body["details"]["event_id"], posts[1].body["details"]["event_id"], "a repeat shows");
}

/// A server that answers every request with `answer` and then goes on for ever: it sends
/// a byte now and then, and measures how long the client stays after the request.
fn endless(answer: &'static str) -> (u16, crossbeam_channel::Receiver<Duration>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, stayed) = crossbeam_channel::bounded(16);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let told = told.clone();
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 16 * 1024]).unwrap();
                let asked = Instant::now();
                let _ = stream.write_all(answer.as_bytes());
                while stream.write_all(b" ").is_ok() {
                    let_pass(Duration::from_millis(20));
                }
                told.send(asked.elapsed()).unwrap();
            });
        }
    });
    (port, stayed)
}

/// The server to compare with gives no status, so its sender waits as long as it may.
#[test]
fn a_status_settles_a_delivery_whatever_becomes_of_the_body() {
    let bodies = ["Content-Length: 1000000\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\nffff\r\n{", "\r\n{"];
    let heads = bodies.map(|body| &*format!("HTTP/1.1 200 OK\r\n{body}").leak());
    let start = |answer| {
        let (port, stayed) = endless(answer);
        let url = format!("http://127.0.0.1:{port}/");
        let variables = [("STATION_ALERT_URL", url.as_str()), ("STATION_ALERT_KEY", "k")];
        let collector = Collector::start(&variables);
        collector.beat(&uuid(1), "EMERGENCY", 1.0);
        (collector, stayed)
    };
    let silent = start("HTTP/1.1 200 OK\r\nX: ");
    let settled = heads.map(start);
    let longest = silent.1.recv_timeout(PATIENCE).unwrap();
    for (collector, stayed) in settled {
        let took = stayed.recv_timeout(PATIENCE).unwrap();
        assert!(took < longest / 2, "{took:?} with a body that never ends, {longest:?} without a status");
        collector.poll("it is taken", || {
            collector.metric("alerts_delivered_total{type=\"EMERGENCY_MODE\"}") == 1.0
        });
    }
}

/// 150 fields, one of them over several lines, and lines that are no fields.
fn odd_head() -> String {
    let many = "X: y\r\n".repeat(150);
    format!("X-Folded: a\r\n b\r\n\tc\r\nno field\r\n: x\r\n{many}Retry-After:\r\n 3")
}

#[test]
fn an_answer_with_a_long_and_folded_head_is_understood() {
    let station = Station::start(0, |_| Reply::StatusWith(429, odd_head())).unwrap();
    let collector = Collector::with_station(&station, &[]);
    collector.beat(&uuid(1), "EMERGENCY", 100.0);
    assert!(station.wait_until(PATIENCE, |posts| posts.len() == 1));
    station.behave(|_| Reply::StatusWith(201, odd_head()));
    collector
        .poll("it is taken", || collector.metric("alerts_delivered_total{type=\"EMERGENCY_MODE\"}") == 1.0);
    let posts = station.posts();
    assert_eq!(posts.len(), 2, "{posts:?}");
    assert!(posts[1].at - posts[0].at >= Duration::from_secs(3), "Retry-After is read");
}

#[test]
fn heartbeats_do_not_wait_for_a_station_that_hangs() {
    let station = Station::start(0, |_| Reply::Silence(PATIENCE)).unwrap();
    let collector = Collector::with_station(&station, &[]);
    for number in 0..50 {
        assert_eq!(collector.beat(&uuid(number), "EMERGENCY", 1.0).status, 200);
    }
    assert!(station.wait_until(PATIENCE, |posts| posts.len() == 4), "four posts are under way at once");
    for number in 0..200 {
        assert_eq!(collector.beat(&uuid(number), "EMERGENCY", 2.0).status, 200);
    }
    // If a heartbeat waited for a post, that post would time out and another one
    // would begin. A few more posts only mean that the machine is slow.
    let posts = station.posts().len();
    assert!(posts < 4 + 200 / 4, "{posts} posts during 200 heartbeats");
}

#[test]
fn alerts_reach_a_station_with_a_private_ca() {
    let (station, ca_file) = tls::station(|post| Reply::Status(post.judge("k")));
    let url = format!("https://localhost:{}/api/clusters/{{cluster_id}}/alerts", station.port);
    let variables = [("STATION_ALERT_URL", url.as_str()), ("STATION_ALERT_KEY", "k")];

    let distrusting = Collector::start(&variables);
    distrusting.beat(&uuid(1), "EMERGENCY", 1.0);
    distrusting.await_log("no answer");
    assert_eq!(station.posts().len(), 0, "without the CA nothing is told");

    let ca_file = [("STATION_CA_FILE", ca_file.path().to_str().unwrap())];
    let collector = Collector::start(&[&variables[..], &ca_file].concat());
    collector.beat(&uuid(2), "EMERGENCY", 1.0);
    assert!(station.wait_until(PATIENCE, |posts| posts.iter().any(|post| post.status == 201)));
}

#[test]
fn without_a_station_alerts_are_logged_as_json_too() {
    let collector = Collector::start(&[("LOG_FORMAT", "json")]);
    let id = uuid(1);
    let body = r#"{"mode":"EMERGENCY","uptime_seconds":1,"agent_name":"line\nbreak"}"#;
    collector.request("POST", &format!("/heartbeat/{id}"), &[], body);
    collector.await_log("AGENT_DEATH");
    for line in collector.log() {
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
        assert!(line["level"].is_string() && line["message"].is_string());
        let message = line["message"].as_str().unwrap();
        if message.contains(said::IS_DEAD) {
            assert_eq!((&line["level"], &line["agent_uuid"]), (&json!("WARN"), &json!(id)));
        }
        if message.contains("AGENT_DEATH") {
            assert_eq!((&line["level"], &line["agent_uuid"]), (&json!("ERROR"), &json!(id)));
        }
    }
}

/// Controls, the ends of lines, and the bidirectional controls.
fn is_obeyed(character: char) -> bool {
    let bidirectional = ['\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{feff}'];
    character.is_control()
        || bidirectional.contains(&character)
        || ('\u{202a}'..='\u{202e}').contains(&character)
        || ('\u{2066}'..='\u{206f}').contains(&character)
}

/// A name that a terminal or a reader of lines would obey: a colour, a line that it
/// makes up, an order of its own.
const HOSTILE: &str = "\u{9b}31m\u{85}WARN\u{2028}x\u{2029}\u{7f}\u{202e}nwod si\u{2066}\u{1b}[2J\r\nend";

#[test]
fn a_hostile_name_or_id_is_shown_and_not_obeyed() {
    let id = "gpj%E2%80%AEexe%E2%80%A8x";
    let refusing = Station::start(0, |_| Reply::Status(400)).unwrap();
    let collectors: Vec<_> = ["text", "json"]
        .into_iter()
        .flat_map(|format| {
            let variables = [("LOG_FORMAT", format), ("RUST_LOG", "debug")];
            [
                (format, Collector::with_station(&refusing, &variables), false),
                (format, Collector::start(&variables), true),
            ]
        })
        .collect();
    for (_, collector, _) in &collectors {
        let body = json!({"mode": "EMERGENCY", "uptime_seconds": 1, "agent_name": HOSTILE});
        let answer = collector.request("POST", &format!("/heartbeat/{id}"), &[], &body.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    for (format, collector, is_alone) in &collectors {
        collector.await_log(said::IS_DEAD);
        collector.await_log("AGENT_DEATH");
        for line in collector.log() {
            assert!(!line.contains(is_obeyed), "{line:?}");
            if *format == "json" {
                serde_json::from_str::<Value>(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            }
        }
        if !is_alone {
            continue;
        }
        let death = collector.await_log("alert {");
        let alert = if *format == "json" {
            let line: Value = serde_json::from_str(&death).unwrap();
            assert_eq!(line["agent_uuid"], "gpj\u{202e}exe\u{2028}x");
            line["message"].as_str().unwrap().to_owned()
        } else {
            assert!(death.ends_with(r"agent_uuid=gpj\u{202e}exe\u{2028}x"), "{death}");
            death.rsplit_once(" agent_uuid=").unwrap().0.to_owned()
        };
        let alert: Value = serde_json::from_str(&alert[alert.find('{').unwrap()..]).unwrap();
        assert_eq!(alert["agent_name"], HOSTILE, "the alert in the log is JSON, and says the same");
    }
}

/// A copied deployment: two agents with one id, from two addresses.
#[test]
fn an_id_that_is_used_twice_is_told_with_both_addresses() {
    let station = judging();
    let collector = Collector::with_station(&station, &[]);
    let (id, path) = (uuid(1), format!("/heartbeat/{}", uuid(1)));
    let connect = |host: u8| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, host], 0)).into()).unwrap();
        socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], collector.port)).into()).unwrap();
        std::net::TcpStream::from(socket)
    };
    let (mut first, mut second) = (connect(2), connect(3));
    let beat = |stream: &mut std::net::TcpStream, uptime: f64| {
        let body = format!(r#"{{"mode":"IDLE","uptime_seconds":{uptime}}}"#);
        let head = format!("POST {path} HTTP/1.1\r\nHost: c\r\nContent-Length: {}", body.len());
        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).unwrap();
        Answer::parse(&answer[..length]).json()
    };
    // Two alerts need a minute between them, which is what is tested.
    let started = Instant::now();
    while station.taken("RESTART_DETECTED").len() < 2 {
        assert!(started.elapsed() < 2 * PATIENCE, "{:?}", station.posts());
        let uptime = 5000.0 + started.elapsed().as_secs_f64();
        beat(&mut first, uptime);
        assert_eq!(beat(&mut second, uptime - 4000.0)["restart_detected"], true);
        let_pass(Duration::from_millis(500));
    }
    let told = station.taken("RESTART_DETECTED");
    assert!(told[1].at - told[0].at >= Duration::from_secs(59), "{told:?}");
    assert!(told[0].body["details"]["id_used_twice"].is_null(), "one fall may be a restart");
    let details = &told[1].body["details"];
    assert_eq!(details["id_used_twice"], true, "{details}");
    let mut addresses: Vec<_> = details["addresses"].as_array().unwrap().iter().collect();
    addresses.sort_by_key(ToString::to_string);
    assert_eq!(addresses, ["127.0.0.2", "127.0.0.3"]);
    let line = collector.await_log(said::USED_TWICE);
    assert!(line.contains("127.0.0.2") && line.contains("127.0.0.3") && line.contains(&id), "{line}");
    assert!(
        collector.metric("alerts_dropped_total{type=\"RESTART_DETECTED\",reason=\"rate_limited\"}") > 50.0
    );
}

#[test]
fn sigterm_finishes_what_is_in_hand() {
    let station = Station::start(0, |_| Reply::Status(503)).unwrap();
    let mut busy = Collector::with_station(&station, &[]);
    busy.beat(&uuid(1), "EMERGENCY", 1.0);
    busy.signal("INT");
    busy.poll("it is draining", || busy.get("/ready").status == 503);
    assert_eq!(busy.get("/ready").json()["reason"], "draining");
    assert_eq!(busy.beat(&uuid(1), "EMERGENCY", 6.0).status, 200, "heartbeats are taken to the end");
    station.behave(|_| Reply::Status(201));
    assert_eq!(busy.wait(), Some(0));
    assert!(station.posts().iter().any(|post| post.status == 201), "the alert went out first");
}

/// The collector to compare with has to wait for the station as long as it may.
#[test]
fn a_collector_with_nothing_in_hand_or_told_twice_stops_at_once() {
    let station = Station::start(0, |_| Reply::Silence(PATIENCE)).unwrap();
    let busy = || {
        let collector = Collector::with_station(&station, &[]);
        collector.beat(&uuid(1), "EMERGENCY", 1.0);
        collector
    };
    let (mut idle, mut waiting, mut hurried) = (Collector::start(&[]), busy(), busy());
    assert!(station.wait_until(PATIENCE, |posts| posts.len() == 2));
    let stop = |collector: &mut Collector, times: usize| {
        let started = Instant::now();
        for _ in 0..times {
            collector.signal("TERM");
            collector.await_log(said::STOPPING);
        }
        assert_eq!(collector.wait(), Some(0));
        started.elapsed()
    };
    let (idle, hurried, waited) = thread::scope(|scope| {
        let waited = scope.spawn(|| stop(&mut waiting, 1));
        let idle = scope.spawn(|| stop(&mut idle, 1));
        let hurried = stop(&mut hurried, 2);
        (idle.join().unwrap(), hurried, waited.join().unwrap())
    });
    println!("idle {idle:.1?}, told twice {hurried:.1?}, waiting {waited:.1?}");
    waiting.await_log(said::STILL_OWED);
    assert!(idle < waited / 2, "with nothing to wait for it took {idle:?}, with something {waited:?}");
    assert!(hurried < waited / 2, "with a second signal it took {hurried:?}, without one {waited:?}");
}

/// Whoever sends heartbeats may learn late that we stop.
#[test]
fn after_sigterm_heartbeats_are_served_on_until_nobody_sends_any() {
    let mut collector = Collector::start(&[("SHUTDOWN_GRACE_MS", "60000")]);
    assert_eq!(collector.beat("a", "SLEEP", 1.0).status, 200);
    collector.signal("TERM");
    collector.poll("it says so", || collector.get("/ready").status == 503);
    let kept = || {
        let mut stream = collector.connect();
        let body = r#"{"mode":"SLEEP","uptime_seconds":2}"#;
        let head = format!("POST /heartbeat/late HTTP/1.1\r\nHost: c\r\nContent-Length: {}", body.len());
        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        Answer::parse(&answer)
    };
    for _ in 0..6 {
        let answer = kept();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        let_pass(Duration::from_millis(500));
    }
    assert_eq!(collector.wait(), Some(0), "log:\n{}", collector.log().join("\n"));
}

#[test]
fn a_signal_that_asks_for_nothing_ends_nothing() {
    let mut collector = Collector::start(&[]);
    collector.beat("a", "SLEEP", 1.0);
    let names = ["USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "XFSZ"];
    for name in names {
        collector.signal(name);
        // On Linux, SIGIO is SIGPOLL (signal(7)).
        collector.await_log(&format!("SIG{name} {}", said::NOT_OBEYED));
    }
    assert_eq!(collector.get("/agents/a").status, 200, "the same process goes on");
    collector.signal("TERM");
    assert_eq!(collector.wait(), Some(0));
}

#[test]
fn what_env_logger_takes_is_taken() {
    for filter in
        ["pap_collector", "info,hyper", "info/ready", "info, pap_collector=debug,", "warn,pap_collector="]
    {
        let mut collector = Running::spawn(&mut command(&[
            ("CLUSTER_ID", "c"),
            ("COLLECTOR_PORT", "0"),
            ("RUST_LOG", filter),
            // Two warnings and the errors of the state file are said with each filter.
            ("STATE_FILE", "/nowhere/ready"),
        ]));
        let line = if filter.contains('/') { "ready" } else { "WARN" };
        collector.await_log(line);
        collector.signal("TERM");
        assert_eq!(collector.wait(), Some(0), "{filter}");
    }
    for filter in
        ["info,pap_collector=loud", "a=b=c", "info/a/b", "=info", "pap collector", "a=info=debug", "verbose"]
    {
        let output = command(&[("CLUSTER_ID", "c"), ("RUST_LOG", filter)]).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{filter}");
    }
}

#[test]
fn what_is_wrong_at_the_start_has_its_exit_code_and_one_line() {
    let run = |variables: &[(&str, &str)], arguments: &[&str]| {
        let output = command(variables).args(arguments).output().unwrap();
        let (out, error) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        (output.status.code(), out, error)
    };
    let id = ("CLUSTER_ID", "c");
    for (variables, arguments, word) in [
        (&[][..], &[][..], "CLUSTER_ID"),
        (&[id, ("COLLECTOR_PORT", "http")], &[], "COLLECTOR_PORT=\"http\""),
        (&[id, ("ALERT_QUEUE_TTL_MS", "0")], &["--check-config"], "ALERT_QUEUE_TTL_MS=\"0\""),
        (&[id], &["--alert-senders", "0"], "ALERT_SENDERS=\"0\""),
        (&[id], &["--no-such-flag"], "--no-such-flag"),
    ] {
        let (code, out, error) = run(variables, arguments);
        assert_eq!((code, out.as_str()), (Some(78), ""), "{variables:?} {arguments:?}");
        assert!(error.contains(word), "{error}");
        assert!(word == "--no-such-flag" || error.lines().count() == 1, "{error}");
    }
    let (code, out, _) =
        run(&[id, ("COLLECTOR_API_KEY", "hush"), ("COLLECTOR_PORT", "1")], &["--check-config"]);
    assert_eq!(code, Some(0));
    assert!(
        out.contains("COLLECTOR_PORT=1\n")
            && out.contains("COLLECTOR_API_KEY=(hidden)")
            && !out.contains("hush")
    );
    let (code, out, _) = run(&[], &["--version"]);
    assert_eq!((code, out.trim()), (Some(0), concat!("pap-collector ", env!("CARGO_PKG_VERSION"))));
    let (code, out, _) = run(&[], &["--help"]);
    assert!(code == Some(0) && out.contains("--station-alert-url"));

    let taken = Collector::start(&[]);
    let (code, _, error) = run(&[id, ("COLLECTOR_PORT", &taken.port.to_string())], &[]);
    assert_eq!(code, Some(74));
    assert!(error.contains("COLLECTOR_PORT"), "{error}");
}

#[test]
fn no_secret_reaches_the_log_at_any_level() {
    let station = judging();
    let url = format!("http://127.0.0.1:{}/api/clusters/test-cluster/alerts", station.port);
    let variables = [
        ("STATION_ALERT_URL", url.as_str()),
        ("STATION_ALERT_KEY", "hush-station"),
        ("COLLECTOR_API_KEY", "hush-agents"),
        ("HEARTBEAT_API_KEY", "hush-new,hush-old"),
        ("RUST_LOG", "trace"),
    ];
    let collector = Collector::start(&variables);
    let beat = r#"{"mode":"EMERGENCY","uptime_seconds":1}"#;
    let path = format!("/heartbeat/{}", uuid(1));
    assert_eq!(collector.request("POST", &path, &["X-Collector-Key: hush"], beat).status, 401);
    assert_eq!(collector.request("POST", &path, &["X-Collector-Key: hush-old"], beat).status, 200);
    collector.request("GET", "/agents", &["Authorization: Bearer hush-agents"], "");
    collector.await_log(said::ANSWER_401);
    let log = collector.log().join("\n");
    assert!(log.contains("TRACE") || log.contains("DEBUG"));
    assert!(!log.contains("hush"), "{log}");
}

#[test]
fn a_reader_of_the_log_that_stalls_stops_nothing() {
    // The pipe is never read, and every heartbeat writes a line.
    let mut child =
        command(&[("CLUSTER_ID", "test-cluster"), ("COLLECTOR_PORT", "0"), ("RUST_LOG", "debug")]);
    let mut child = child.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut log = String::new();
    let port: u16 = loop {
        let mut chunk = [0; 512];
        let length = stderr.read(&mut chunk).unwrap();
        log.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
        let line = log.lines().find(|line| line.contains(said::LISTENING.trim()));
        if let Some(port) = line.and_then(|line| line.rsplit(':').next()).and_then(|port| port.parse().ok()) {
            break port;
        }
    };
    let body = r#"{"mode":"IDLE","uptime_seconds":1}"#;
    let request =
        format!("POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..10_000 {
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 512];
        let length = stream.read(&mut answer).unwrap();
        assert_eq!(Answer::parse(&answer[..length]).status, 200);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
