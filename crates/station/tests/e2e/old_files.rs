//! A station on a file that knows less than what runs: after a restart, and from a backup.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::books::{Engine, beat, delete, put, with_engine};
use crate::support::{ADMIN, COLLECTOR, Station, let_pass, start, until};
use crate::together::{collector, free_port, program};

fn copy(station: &Station) -> PathBuf {
    let copy = station.directory.path().join("copy.db");
    assert_eq!(start().after(station).output(&["backup", copy.to_str().unwrap()]).0, 0);
    copy
}

#[test]
fn a_file_from_a_backup_costs_no_worker_of_a_cluster_that_lives() {
    let engine = Engine::default();
    let starting = start().with("HEARTBEAT_TIMEOUT", "3s").with("CLEANUP_TIMEOUT", "5s");
    let mut station = with_engine(starting, &engine).run();
    put(&station, "c");
    let is_dead = || station.seen("/api/clusters/c")["cluster"]["state"] == "dead";
    until("it is dead", is_dead);
    until("its worker is gone", || engine.running() == 0);
    let copy = copy(&station);
    until("its worker is back", || {
        beat(&station, "c");
        engine.running() == 1
    });
    station.kill();
    let starting = start().with("HEARTBEAT_TIMEOUT", "30s").with("CLEANUP_TIMEOUT", "30s");
    let starting = starting.after(&station).in_file(&copy);
    let station = with_engine(starting, &engine).run();
    until("it was looked at", || station.seen("/api/workers")["workers"][0]["state"] == "running");
    let_pass(Duration::from_secs(3));
    assert_eq!(engine.running(), 1, "{}", station.log());
    beat(&station, "c");
    assert!(!station.log().contains("Stopping"));
}

#[test]
fn a_removal_that_was_taken_back_after_the_backup_costs_no_worker_at_once() {
    let engine = Engine::default();
    let mut station = with_engine(start(), &engine).run();
    put(&station, "c");
    until("the worker runs", || engine.running() == 1);
    delete(&station, "c");
    until("it is gone", || engine.running() == 0);
    let copy = copy(&station);
    put(&station, "c");
    until("it is back", || engine.running() == 1);
    station.kill();
    let starting = start().with("HEARTBEAT_TIMEOUT", "5s").with("CLEANUP_TIMEOUT", "8s");
    let station = with_engine(starting.after(&station).in_file(&copy), &engine).run();
    until("it was looked at", || station.seen("/api/workers")["workers"][0]["state"] == "running");
    let_pass(Duration::from_secs(3));
    assert_eq!(engine.running(), 1, "{}", station.log());
    put(&station, "d");
    until("a second worker runs", || engine.running() == 2);
    delete(&station, "d");
    until("what is removed now goes now", || !engine.runs("w-d"));
    until("nobody has said that it is back", || engine.running() == 0);
}

#[test]
fn a_dead_cluster_whose_time_is_over_is_looked_at_then() {
    let engine = Engine::default();
    let short = || start().with("HEARTBEAT_TIMEOUT", "2s").with("CLEANUP_TIMEOUT", "3s");
    let mut station = with_engine(short(), &engine).run();
    engine.holds_stops.store(true, std::sync::atomic::Ordering::SeqCst);
    put(&station, "c");
    until("the worker runs", || engine.running() == 1);
    until("it is dead", || station.log().contains("cluster c is dead"));
    station.kill();
    engine.holds_stops.store(false, std::sync::atomic::Ordering::SeqCst);
    // Whether the held stop has ended or not: the container is there when the station starts.
    until("the stop has ended", || engine.running() <= 1);
    let labels = json!({ "kg.managed-by": "control-plane", "kg.client": "c", "kg.role": "w" });
    engine.books().clear();
    engine.add("w-c", "i", labels, "running");
    let starting = with_engine(short().after(&station), &engine).with("RECONCILE_INTERVAL", "10m");
    let _station = starting.run();
    until("it is gone in time", || engine.running() == 0);
}

#[test]
fn a_cluster_that_is_heard_and_not_registered_is_asked_to_register() {
    let Some(program) = program("pap-collector") else { return };
    let engine = Engine::default();
    let mut station = with_engine(start(), &engine).with("HEARTBEAT_TIMEOUT", "4s").run();
    // A backup of a time when nobody knew the cluster.
    let copy = copy(&station);
    let state = station.directory.path().join("collector.state");
    let _collector = collector(&program, free_port(), &station, &state, &[]);
    until("its worker runs", || engine.runs("w-prod"));
    until("it has beaten", || station.seen("/api/clusters/prod")["cluster"]["agent_count"] == 0);
    let port = station.port.to_string();
    station.kill();
    engine.stop_all();
    let starting = start().with("HEARTBEAT_TIMEOUT", "4s").with("STATION_PORT", &port);
    let station = with_engine(starting.after(&station).in_file(&copy), &engine).run();
    until("its worker runs again", || {
        engine.runs("w-prod") && station.seen("/api/clusters/prod")["cluster"]["name"] == "Production"
    });

    // One that only beats is told so each time, and its workers are those of an unknown cluster once it is silent.
    let (_, body) = station.ask("POST", "/api/clusters/x/heartbeat", COLLECTOR, "{}");
    assert_eq!(body["registered"], false);
    put(&station, "x");
    let (_, body) = station.ask("POST", "/api/clusters/x/heartbeat", COLLECTOR, "{}");
    assert_eq!(body.get("registered"), None);
}

#[test]
fn workers_of_a_cluster_that_is_not_registered_can_be_pruned_once_it_is_silent() {
    let engine = Engine::default();
    let starting = start().with("HEARTBEAT_TIMEOUT", "2s").with("CLEANUP_TIMEOUT", "3s");
    let station = with_engine(starting, &engine).run();
    put(&station, "c");
    until("the worker runs", || engine.running() == 1);
    let mut labels = engine.books()["w-c-id"].labels.clone();
    labels["kg.client"] = json!("x");
    engine.add("w-x", "i", labels, "running");
    let unknown = || station.seen("/api/workers")["of_unknown_clusters"].clone();
    until("nobody knows it", || unknown() == 1);
    until("it is heard", || {
        beat(&station, "x");
        unknown() == 0
    });
    until("it is silent", || unknown() == 1);
    assert!(engine.runs("w-x"));
    assert_eq!(station.ask("POST", "/api/workers/prune", ADMIN, "").0, 202);
    until("it is gone", || !engine.runs("w-x"));
}
