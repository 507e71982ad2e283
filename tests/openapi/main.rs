//! docs/openapi/collector.yaml against the real program: it has every route, and no other.
//! `.ci/openapi` checks the rest of it: schemas, examples, and answers to thousands of requests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be"
)]

mod description;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use description::{Operation, operations, version};
use pap_collector::metrics::Route;
use support::{Answer, Collector};

const DESCRIPTION: &str = include_str!("../../docs/openapi/collector.yaml");
const COLLECTOR_KEY: &str = "a-key-of-people";
const HEARTBEAT_KEY: &str = "a-key-of-agents";
/// All methods that a description can have, but for those that every path has.
const METHODS: [&str; 6] = ["GET", "PUT", "POST", "DELETE", "PATCH", "TRACE"];

fn start() -> Collector {
    Collector::start(&[("COLLECTOR_API_KEY", COLLECTOR_KEY), ("HEARTBEAT_API_KEY", HEARTBEAT_KEY)])
}

fn ask(collector: &Collector, method: &str, path: &str, key: &str) -> Answer {
    let path = path.replace("{agentId}", "a");
    let body = if method == "POST" { r#"{"mode":"SLEEP","uptime_seconds":5}"# } else { "" };
    collector.request(method, &path, &[&format!("X-Collector-Key: {key}")], body)
}

fn list(text: &str) -> BTreeSet<&str> {
    text.split(", ").collect()
}

#[test]
fn every_described_operation_is_there_with_its_statuses_and_its_key() {
    let collector = start();
    let operations = operations(DESCRIPTION);
    assert!(operations.len() > 10, "{operations:?}");
    for Operation { method, path, keys, statuses } in &operations {
        let operation = format!("{method} {path}");
        assert_eq!(ask(&collector, "POST", "/heartbeat/{agentId}", HEARTBEAT_KEY).status, 200);
        let status = |key| ask(&collector, method, path, key).status;
        let expected = match keys.iter().next().map(String::as_str) {
            None => [true, true, true],
            Some("collectorBearer") => [false, false, true],
            Some("heartbeatBearer") => [false, true, false],
            Some(other) => panic!("{operation}: {other}"),
        };
        for (key, is_right) in ["nobodys", HEARTBEAT_KEY, COLLECTOR_KEY].into_iter().zip(expected) {
            let status = status(key);
            assert!(statuses.contains(&status), "{operation}: {status} is not described");
            assert_eq!(status != 401, is_right, "{operation}: {status} with {key}");
            assert!(![404, 405].contains(&status), "{operation} is not there: {status}");
        }
    }
}

#[test]
fn every_path_has_the_described_methods_and_no_other() {
    let collector = start();
    let operations = operations(DESCRIPTION);
    let paths: BTreeSet<_> = operations.iter().map(|operation| operation.path.as_str()).collect();
    for path in paths {
        let of_path = operations.iter().filter(|operation| operation.path == path);
        let mut described: BTreeSet<_> = of_path.map(|operation| operation.method.as_str()).collect();
        for method in METHODS.into_iter().filter(|method| !described.contains(method)) {
            let statuses =
                [COLLECTOR_KEY, HEARTBEAT_KEY].map(|key| ask(&collector, method, path, key).status);
            assert!(statuses.contains(&405), "{method} {path}: {statuses:?}");
        }
        // A stream has no head that could be asked for alone.
        if described.contains("GET") && !path.starts_with("/observe") {
            described.insert("HEAD");
        }
        described.insert("OPTIONS");
        let answer = ask(&collector, "OPTIONS", path, "");
        assert_eq!((answer.status, list(answer.header("Allow").unwrap())), (204, described), "{path}");
    }
}

#[test]
fn every_route_of_the_program_is_described() {
    let collector = start();
    let operations = operations(DESCRIPTION);
    let described: BTreeSet<_> =
        operations.iter().map(|Operation { method, path, .. }| format!("{method} {path}")).collect();
    let root = collector.get("/").json();
    let said = root["endpoints"].as_object().unwrap().values().map(|said| said.as_str().unwrap());
    let mut said: BTreeSet<_> =
        said.map(|said| said.replace("WS ", "GET ").replace(":agentId", "{agentId}")).collect();
    said.insert("GET /".into());
    assert_eq!(said, described);

    // Every kind of request that the program counts is one that is described.
    for Operation { method, path, keys, .. } in &operations {
        let is_of_agent = keys.iter().any(|key| key.starts_with("heartbeat"));
        ask(&collector, method, path, if is_of_agent { HEARTBEAT_KEY } else { COLLECTOR_KEY });
    }
    let metrics = collector.get("/metrics").body;
    for route in Route::ALL.iter().filter(|route| **route != Route::Other) {
        let start = "pap_collector_http_request_duration_seconds_count{cluster=\"test-cluster\",route=";
        let series = format!("{start}\"{}\"}} ", route.as_str());
        let count = metrics.lines().find_map(|line| line.strip_prefix(&series));
        assert!(count.is_some_and(|count| count != "0"), "{}: {count:?}", route.as_str());
    }
}

#[test]
fn the_description_is_of_this_version() {
    assert_eq!(version(DESCRIPTION), Some(pap_collector::VERSION));
}
