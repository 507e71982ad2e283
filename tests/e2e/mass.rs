//! Half of the agents fall silent at once, as when a network fails.

use serde_json::Value;

use crate::support::station::{Answer as Reply, Station};
use crate::support::{Collector, PATIENCE, said, uuid};

#[test]
fn a_mass_silence_is_held_back_and_said_and_loses_no_death() {
    let station = Station::start(0, |post| Reply::Status(post.judge("k"))).unwrap();
    let collector = Collector::with_station(&station, &[("MASS_SILENCE_HOLD_MS", "4000")]);
    // In one write: on a busy machine fourteen connections may take longer than an interval.
    let body = r#"{"mode":"EMERGENCY","uptime_seconds":100}"#;
    let beat = |agent| {
        let close = if agent == 13 { "Connection: close\r\n" } else { "" };
        let length = body.len();
        let head = format!("POST /heartbeat/{} HTTP/1.1\r\nHost: c\r\n{close}", uuid(agent));
        format!("{head}Content-Length: {length}\r\n\r\n{body}")
    };
    collector.raw((0..14).map(beat).collect::<String>().as_bytes());
    assert_eq!(collector.get("/health").json()["agents"]["total"], 14);
    assert_eq!(collector.get("/health").json()["mass_silence"], false);
    let said = collector.await_log(said::MASS_SILENCE);
    assert!(said.contains("14 of 14 known agents") && said.contains("held back for 4s"), "{said}");
    let health = collector.get("/health").json();
    assert_eq!((&health["mass_silence"], &health["agents"]["unhealthy"]), (&true.into(), &0.into()));
    assert!((collector.metric("mass_silence") - 1.0).abs() < 0.1);
    assert!(collector.metric("deaths_held") > 0.9);

    // Seven come back within the hold.
    (0..7).for_each(|agent| drop(collector.beat(&uuid(agent), "SLEEP", 115.0)));
    assert!(station.wait_until(PATIENCE, |posts| {
        posts.iter().filter(|post| post.text("type") == "AGENT_DEATH" && post.status == 201).count() >= 7
    }));
    collector.await_log(said::MASS_SILENCE_ENDS);
    assert_eq!(collector.get("/health").json()["mass_silence"], false);
    let mut dead = Vec::new();
    for post in station.taken("AGENT_DEATH") {
        let details = &post.body["details"];
        assert_eq!(details["mass_silence"], true, "{details}");
        assert_eq!((&details["silent_together"], &details["known"]), (&Value::from(14), &Value::from(14)));
        assert_eq!(details["deaths_last_hour"], 1);
        assert!(details["silence_ms"].as_u64().unwrap() >= 14_500, "{details}");
        assert!(details["awake_since"].as_str().unwrap() <= details["last_seen"].as_str().unwrap());
        dead.push(post.text("agent_uuid").to_owned());
    }
    dead.sort();
    assert_eq!(dead, (7..14).map(uuid).collect::<Vec<_>>(), "none of those that came back");
    assert!((collector.metric("deaths_total") - 7.0).abs() < 0.1);
    assert!(collector.metric("recoveries_total") < 0.1, "who came back was never dead");
}
