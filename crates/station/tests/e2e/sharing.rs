//! Two stations that share a file: one acts, the other waits and takes over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{ADMIN, COLLECTOR, PATIENCE, Receiver, Station, alert, let_pass, slow, start, until};

/// How many alerts a station has of a cluster.
fn alerts(station: &Station) -> usize {
    station.seen("/api/clusters/c/alerts")["alerts"].as_array().unwrap().len()
}

#[test]
fn one_that_waits_answers_503_and_takes_over_at_once_when_the_other_ends() {
    let (mut first, receiver) = (start().run(), Receiver::new());
    first.webhook(&receiver, &json!({}));
    first.alert("c", &alert("AGENT_DEATH", "a", 1));
    let mut second = start().after(&first).stand_by();
    let (status, body) = second.get("/health", "");
    assert_eq!((status, &body["status"]), (200, &json!("standby")));
    let (status, body) = second.get("/ready", "");
    assert_eq!((status, &body["ready"]), (503, &json!(false)));
    let (status, head, _) = second.send("POST", "/api/clusters/c/alerts", &[], "{}");
    assert!(status == 503 && head.contains("Retry-After: 1"), "{head}");
    assert_eq!(first.alert("c", &alert("AGENT_DEATH", "b", 1)).0, 200, "the first acts as before");

    assert_eq!(first.stop(), 0);
    until("the second acts", || second.get("/ready", "").0 == 200);
    assert_eq!(alerts(&second), 2);
    assert_eq!(second.alert("c", &alert("AGENT_DEATH", "d", 1)).0, 200);
    assert_eq!(receiver.await_told(3).len(), 3);

    // A kill, and somebody who waits already.
    let third = start().after(&second).stand_by();
    second.kill();
    until("the third acts", || third.get("/ready", "").0 == 200);
    assert_eq!(alerts(&third), 3);

    // One that waits can be stopped, and commands that write need the file for themselves.
    let mut fourth = start().after(&third).stand_by();
    assert_eq!(fourth.stop(), 0);
    let import = third.directory.path().join("none.db");
    assert_ne!(start().after(&third).output(&["import", import.to_str().unwrap()]).0, 0);
    assert_eq!(third.get("/ready", "").0, 200);
}

#[test]
fn a_station_that_is_stopped_in_its_tracks_loses_the_file_and_does_no_harm_when_it_wakes() {
    if !slow("a lease has to expire") {
        return;
    }
    // The receiver answers late, so the first station is stopped within a delivery.
    let (asked, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, answered) = (Arc::clone(&asked), Arc::clone(&answer));
    let receiver = Receiver::that(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        let began = Instant::now();
        while answered.load(Ordering::SeqCst) == 0 && began.elapsed() < PATIENCE {
            let_pass(Duration::from_millis(20));
        }
        "200 OK\r\n".into()
    });
    let mut first = start().run();
    first.webhook(&receiver, &json!({}));
    first.alert("c", &alert("AGENT_DEATH", "a", 1));
    until("a delivery has begun", || asked.load(Ordering::SeqCst) == 1);
    let second = start().after(&first).stand_by();
    first.signal(Signal::STOP);
    answer.store(1, Ordering::SeqCst);
    // As if it were stopped within a write: the other waits on, whatever the lease says.
    let file = rusqlite::Connection::open(first.directory.path().join("station.db")).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    let_pass(Duration::from_secs(45));
    assert_eq!(second.get("/ready", "").0, 503, "{}", second.log());
    file.execute_batch("ROLLBACK").unwrap();
    until("the second acts", || second.get("/ready", "").0 == 200);
    assert!(second.log().contains("this station takes over"));
    // It repeats with the same id what it cannot know to be delivered.
    receiver.await_count(2);
    assert_eq!(receiver.told(), ["agent.dead"]);
    assert_eq!(second.alert("c", &alert("AGENT_RECOVERED", "a", 2)).0, 200);
    assert_eq!(receiver.await_told(2), ["agent.dead", "agent.recovered"]);

    // The first wakes up: it stores nothing, and ends.
    first.signal(Signal::CONT);
    assert_eq!(first.await_end(), 74);
    assert!(first.log().contains("another station has taken over STATION_DB"), "{}", first.log());
    assert_eq!(second.get("/ready", "").0, 200);
    assert_eq!(second.seen("/api/incidents?state=open")["total"], 0);
    assert_eq!(receiver.told(), ["agent.dead", "agent.recovered"]);

    // Whoever comes next waits for the second, although the first had the lock before it.
    let third = start().after(&second).stand_by();
    assert_eq!(third.get("/ready", ADMIN).0, 503);
    assert_eq!(second.ask("DELETE", "/api/clusters/c", COLLECTOR, "").0, 200);
}

#[test]
fn under_another_name_the_file_is_never_taken_over_but_when_it_is_free() {
    let mut first = start().run();
    first.alert("c", &alert("AGENT_DEATH", "a", 1));
    let (file, other) = (first.directory.path().join("station.db"), first.directory.path().join("other.db"));
    std::fs::hard_link(&file, &other).unwrap();
    let second = start().after(&first).in_file(&other).stand_by();
    second.await_log("uses it under another name");
    first.signal(Signal::STOP);
    if slow("a lease would have to expire") {
        let_pass(Duration::from_secs(45));
    }
    assert_eq!(second.get("/ready", "").0, 503, "{}", second.log());
    assert!(!other.with_file_name("other.db-wal").exists(), "it was not even opened");
    first.signal(Signal::CONT);
    assert_eq!(first.stop(), 0);
    until("the second acts", || second.get("/ready", "").0 == 200);
    assert_eq!(alerts(&second), 1);
}

#[test]
fn a_station_whose_file_was_replaced_stores_nothing_more_and_ends() {
    let mut station = start().run();
    let file = station.directory.path().join("station.db");
    let put = |station: &Station| station.ask("PUT", "/api/clusters/c", COLLECTOR, "{}").0;
    assert_eq!(put(&station), 201);
    let backup = station.directory.path().join("backup.db");
    let (code, said) = start().after(&station).output(&["backup", backup.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    std::fs::rename(&backup, &file).unwrap();
    assert!(![200, 201].contains(&put(&station)));
    assert_eq!(station.await_end(), 74);
    assert!(station.log().contains("moved or replaced"), "{}", station.log());
}
