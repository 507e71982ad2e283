//! A thousand clusters with workers, which no machine of ours runs: by an engine that only keeps
//! books.

use std::sync::atomic::Ordering;

use crate::books::{Engine, with_engine};
use crate::support::{COLLECTOR, slow, start, until};

#[test]
fn a_thousand_clusters_are_seen_with_one_listing_and_ten_thousand_leave_no_trace_in_memory() {
    if !slow("twenty thousand requests, each on disk") {
        return;
    }
    let starting = start().with("HEARTBEAT_TIMEOUT", "1h").with("CLEANUP_TIMEOUT", "1h");
    let engine = Engine::default();
    let station = with_engine(starting, &engine).with("RECONCILE_INTERVAL", "1h").run();
    let put = |id: &str| station.ask("PUT", &format!("/api/clusters/{id}"), COLLECTOR, "{}").0;
    let delete = |id: &str| station.ask("DELETE", &format!("/api/clusters/{id}"), COLLECTOR, "").0;
    for number in 0..1000 {
        assert_eq!(put(&format!("c{number}")), 201);
    }
    until("all workers run", || engine.running() == 1000);
    let settled = || station.seen("/api/workers")["workers"].as_array().unwrap().clone();
    until("all are seen", || settled().iter().filter(|it| it["state"] == "running").count() == 1000);
    assert_eq!(put("one-too-many"), 503);
    let metrics = station.get("/metrics", "").1.to_string();
    let line = |name: &str| {
        let at = metrics.find(&format!("\\n{name} ")).unwrap();
        metrics[at + 3 + name.len()..].split("\\n").next().unwrap().to_owned()
    };
    let passes: usize = line("pap_station_reconcile_seconds_count").parse().unwrap();
    eprintln!("{passes} passes took {} s", line("pap_station_reconcile_seconds_sum"));
    assert!(engine.listings.load(Ordering::SeqCst) <= passes + 2, "one listing for a pass");

    // As many as may be known come and go, again and again.
    for number in 0..1000 {
        assert_eq!(delete(&format!("c{number}")), 200);
    }
    until("all workers are gone", || engine.running() == 0);
    let churn = |round: u32| {
        for number in 0..500 {
            let id = format!("r{round}-{number}");
            assert_eq!((put(&id), delete(&id)), (201, 200));
        }
    };
    (0..4).for_each(churn);
    let before = station.memory();
    (4..20).for_each(churn);
    until("all workers are gone again", || engine.running() == 0);
    let after = station.memory();
    eprintln!("resident after 3,000 and after 11,000 clusters: {before} and {after} KiB");
    assert!(after < before + 4096, "{before} KiB became {after} KiB");
}
