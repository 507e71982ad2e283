//! Whose heartbeats and goodbyes are taken: `HEARTBEAT_API_KEY`, `GOODBYE`, and who
//! sends `PAP_COLLECTOR_KEY`.

use std::fs;

use crate::agent::Agent;
use crate::support::station::{Answer as Reply, Station};
use crate::support::{Answer, Collector, PATIENCE, command};
use serde_json::json;

const BEAT: &str = r#"{"mode":"IDLE","uptime_seconds":1}"#;
const URGENT: (&str, &str) = ("HEARTBEAT_MODE", "EMERGENCY");

fn post(collector: &Collector, path: &str, headers: &[&str]) -> Answer {
    collector.request("POST", path, headers, BEAT)
}

fn goodbye(collector: &Collector, headers: &[&str]) -> Answer {
    collector.request("DELETE", "/heartbeat/a", headers, "")
}

fn is_known(collector: &Collector, id: &str) -> bool {
    collector.get(&format!("/agents/{id}")).status == 200
}

fn refused(collector: &Collector) -> f64 {
    collector.metric("heartbeats_refused_total{reason=\"key\"}")
}

#[test]
fn heartbeats_and_goodbyes_need_one_of_the_keys() {
    let collector = Collector::start(&[("HEARTBEAT_API_KEY", "new,old")]);
    let wrong: [&[&str]; 7] = [
        &[],
        &["X-Collector-Key: ne"],
        &["X-Collector-Key: new,old"],
        &["X-Collector-Key:"],
        &["Authorization: Bearer newer"],
        &["Authorization: Bearer "],
        &["Authorization: old"],
    ];
    for headers in wrong {
        let answer = post(&collector, "/heartbeat/a", headers);
        assert_eq!((answer.status, &answer.json()["error"]), (401, &json!("Unauthorized")), "{headers:?}");
        assert!(answer.json()["message"].is_string() && answer.header("www-authenticate").is_some());
        assert_eq!(answer.json()["field"], "Authorization");
    }
    assert_eq!(post(&collector, "/heartbeat/%zz", &[]).status, 401, "the key is asked for first");
    assert!(!is_known(&collector, "a"));
    for header in ["X-Collector-Key: new", "Authorization: Bearer old", "authorization: bearer new"] {
        assert_eq!(post(&collector, "/heartbeat/a", &[header]).status, 200, "{header}");
    }
    for headers in wrong {
        assert_eq!(goodbye(&collector, headers).status, 401, "{headers:?}");
    }
    assert!(is_known(&collector, "a"));
    assert!((refused(&collector) - 15.0).abs() < 0.1, "{}", refused(&collector));
    assert_eq!(goodbye(&collector, &["X-Collector-Key: old"]).status, 200);
    // What is not about a heartbeat needs no heartbeat's key.
    assert_eq!(post(&collector, "/heartbeat/a", &["X-Collector-Key: old"]).status, 200);
    assert_eq!(collector.request("OPTIONS", "/heartbeat/a", &[], "").status, 204);
    assert_eq!(collector.request("DELETE", "/agents/a", &[], "").status, 200);
}

#[test]
fn the_two_keys_are_for_two_things() {
    let collector = Collector::start(&[("HEARTBEAT_API_KEY", "beats"), ("COLLECTOR_API_KEY", "reads")]);
    assert_eq!(post(&collector, "/heartbeat/a", &["X-Collector-Key: reads"]).status, 401);
    assert_eq!(post(&collector, "/heartbeat/a", &["X-Collector-Key: beats"]).status, 200);
    for (method, key, status) in
        [("GET", "beats", 401), ("DELETE", "beats", 401), ("GET", "reads", 200), ("DELETE", "reads", 200)]
    {
        let header = format!("X-Collector-Key: {key}");
        assert_eq!(collector.request(method, "/agents/a", &[&header], "").status, status, "{method} {key}");
    }
}

#[test]
fn goodbyes_are_taken_as_it_is_said() {
    let open = Collector::start(&[("HEARTBEAT_API_KEY", "k"), ("GOODBYE", "open")]);
    assert_eq!(post(&open, "/heartbeat/a", &["X-Collector-Key: k"]).status, 200);
    assert_eq!(goodbye(&open, &[]).status, 200);
    open.await_log("GOODBYE=open");

    for key in [&[][..], &[("HEARTBEAT_API_KEY", "k")]] {
        let off = Collector::start(&[&[("GOODBYE", "off")], key].concat());
        assert_eq!(post(&off, "/heartbeat/a", &["X-Collector-Key: k"]).status, 200);
        let answer = goodbye(&off, &["X-Collector-Key: k"]);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
        assert!(answer.json()["error"].as_str().unwrap().contains("GOODBYE=off"), "{answer:?}");
        assert!(is_known(&off, "a"));
        let options = off.request("OPTIONS", "/heartbeat/a", &[], "");
        assert_eq!(options.header("allow"), Some("POST, OPTIONS"));
        assert_eq!(off.request("DELETE", "/agents/a", &[], "").status, 200);
    }

    let id = ("CLUSTER_ID", "c");
    let output = command(&[id, ("GOODBYE", "key")]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("GOODBYE=\"key\"") && error.contains("HEARTBEAT_API_KEY"), "{error}");
    let shown = command(&[id, ("HEARTBEAT_API_KEY", "hush,hush2")]).arg("--check-config").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("HEARTBEAT_API_KEY=(hidden)\nGOODBYE=key\n") && !shown.contains("hush"),
        "{shown}"
    );
}

#[test]
fn pap_heartbeat_sends_the_collectors_key_and_says_which_setting_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    fs::write(&file, "sesame\n").unwrap();
    let collector = Collector::start(&[("HEARTBEAT_API_KEY", "other,sesame")]);
    let key = ("PAP_COLLECTOR_KEY_FILE", file.to_str().unwrap());
    let mut agent = Agent::start(collector.port, "a", &[URGENT, key, ("RUST_LOG", "trace")], &[]);
    collector.poll("it is known", || is_known(&collector, "a"));
    agent.running.signal("TERM");
    assert_eq!(agent.running.wait(), Some(0));
    assert!(!is_known(&collector, "a"), "its goodbye was taken");
    assert!(!agent.running.log().join("\n").contains("sesame"));

    let stranger = Agent::start(collector.port, "b", &[URGENT], &[]);
    let line = stranger.running.await_log("it answers 401");
    assert!(line.contains("check PAP_COLLECTOR_KEY"), "{line}");
    assert!(!is_known(&collector, "b"));
}

#[test]
fn each_target_gets_its_own_key_and_a_refused_goodbye_is_not_repeated() {
    let station = Station::start(0, |_| Reply::Status(200)).unwrap();
    let collector = Station::start(0, |_| Reply::Status(403)).unwrap();
    let url = format!("http://127.0.0.1:{}", station.port);
    let variables = [
        URGENT,
        ("PAP_STATION_URL", url.as_str()),
        ("PAP_AGENT_KEY", "agents"),
        ("PAP_COLLECTOR_KEY", "collectors"),
    ];
    let mut agent = Agent::start(collector.port, "a", &variables, &[]);
    assert!(station.wait_until(PATIENCE, |posts| !posts.is_empty()));
    agent.running.signal("TERM");
    assert_eq!(agent.running.wait(), Some(0));
    let keys = |station: &Station| {
        let mut keys: Vec<_> = station.posts().into_iter().filter_map(|post| post.authorization).collect();
        keys.dedup();
        keys
    };
    assert_eq!(keys(&station), ["Bearer agents"]);
    assert_eq!(keys(&collector), ["Bearer collectors"], "the goodbye too");
    let goodbyes = collector.posts().iter().filter(|post| post.body.is_null()).count();
    assert_eq!(goodbyes, 1, "{:?}", collector.posts());
}

#[test]
fn a_collector_sends_the_key_of_the_one_above() {
    let above = Collector::start(&[("HEARTBEAT_API_KEY", "sesame")]);
    let url = format!("http://127.0.0.1:{}", above.port);
    let variables =
        [("CLUSTER_ID", "low"), ("PAP_COLLECTOR_URL", &url), ("PAP_COLLECTOR_KEY", "sesame"), URGENT];
    let mut below = Collector::start(&variables);
    above.poll("it is known", || is_known(&above, "collector%2Flow"));
    below.signal("TERM");
    assert_eq!(below.wait(), Some(0));
    assert!(!is_known(&above, "collector%2Flow"), "its goodbye was taken");
}
