//! What a collector says to a pap-station at `STATION_URL`, with the real binary and a
//! small station.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pap_collector::VERSION;
use serde_json::{Value, json};

use crate::support::station::{Answer as Reply, Post, Station};
use crate::support::{Collector, PATIENCE, command, said, stays_so, until, uuid};

fn is_beat(post: &Post) -> bool {
    post.method == "POST" && post.path.ends_with("/heartbeat")
}

/// A station that takes everything but beats, which `answer` decides about. It gets the
/// number of the beat, from 0.
fn station(answer: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Station {
    let beats = AtomicUsize::new(0);
    Station::start(0, move |post| match (post.method.as_str(), is_beat(post)) {
        (_, true) => answer(beats.fetch_add(1, Ordering::Relaxed)),
        ("PUT", _) => Reply::Status(201),
        _ => Reply::Status(200),
    })
    .unwrap()
}

/// Takes a beat and wants the next one a second later.
fn soon() -> Reply {
    Reply::Json(json!({"received": true, "next_heartbeat_ms": 1000}))
}

fn start(station: &Station, variables: &[(&str, &str)]) -> Collector {
    let url = format!("http://127.0.0.1:{}/", station.port);
    Collector::start(&[&[("STATION_URL", url.as_str()), ("STATION_ALERT_KEY", "k")], variables].concat())
}

/// Waits until so many posts were like this, and returns them.
fn await_posts(station: &Station, count: usize, is_so: fn(&Post) -> bool) -> Vec<Post> {
    let enough = |posts: &[Post]| posts.iter().filter(|post| is_so(post)).count() >= count;
    assert!(station.wait_until(PATIENCE, enough), "{:#?}", station.posts());
    station.posts().into_iter().filter(is_so).collect()
}

fn beats_of(collector: &Collector, result: &str) -> f64 {
    collector.metric(&format!("station_beats_total{{result=\"{result}\"}}"))
}

#[test]
fn it_registers_and_then_beats_with_its_counts() {
    let station = station(|_| soon());
    let variables = [("CLUSTER_NAME", "The \"test\""), ("COLLECTOR_URL", "https://agents.example/")];
    let mut collector = start(&station, &variables);
    await_posts(&station, 1, is_beat);
    collector.beat(&uuid(1), "IDLE", 1.0);
    let stats = collector.get("/agents").json()["stats"].clone();
    assert!(station.wait_until(PATIENCE, |posts| posts.last().unwrap().body["stats"] == stats));
    until("they are counted", || beats_of(&collector, "taken") >= 2.0);

    let posts = station.posts();
    let expected = json!({"cluster_name": "The \"test\"", "version": VERSION, "collector_url": "https://agents.example/"});
    assert_eq!((posts[0].method.as_str(), posts[0].path.as_str()), ("PUT", "/api/clusters/test-cluster"));
    assert_eq!(posts[0].body, expected);
    for beat in &posts[1..] {
        assert!(is_beat(beat) && beat.path == "/api/clusters/test-cluster/heartbeat", "{beat:?}");
    }
    let last = posts.last().unwrap();
    assert_eq!(last.body, json!({"status": "healthy", "stats": stats, "version": VERSION}));
    assert!(posts.iter().all(|post| post.authorization.as_deref() == Some("Bearer k")), "{posts:?}");

    collector.signal("TERM");
    assert_eq!(collector.wait(), Some(0));
    assert!(station.posts()[1..].iter().all(is_beat), "a stop is not told");
}

#[test]
fn alerts_follow_from_the_stations_url_and_recoveries_are_told() {
    let station = station(|_| Reply::Status(200));
    let collector = start(&station, &[("CLUSTER_ID", "a b/c")]);
    await_posts(&station, 1, is_beat);
    collector.beat("x", "EMERGENCY", 1.0);
    await_posts(&station, 1, |post| post.text("type") == "AGENT_DEATH");
    collector.beat("x", "IDLE", 20.0);
    let told = await_posts(&station, 1, |post| post.text("type") == "AGENT_RECOVERED");
    assert_eq!(told[0].path, "/api/clusters/a%20b%2Fc/alerts");
    assert_eq!(told[0].authorization.as_deref(), Some("Bearer k"));
    let registration = &station.posts()[0];
    assert_eq!(registration.path, "/api/clusters/a%20b%2Fc");
    let unset = registration.body.as_object().unwrap();
    assert!(!unset.contains_key("collector_url"), "it is only said where it is set: {unset:?}");
}

#[test]
fn with_an_alert_url_alerts_go_there_and_beats_to_the_station() {
    let (beats, alerts) = (station(|_| Reply::Status(200)), station(|_| Reply::Status(200)));
    let url = format!("http://127.0.0.1:{}/x", alerts.port);
    let collector = start(&beats, &[("STATION_ALERT_URL", &url)]);
    collector.beat("x", "EMERGENCY", 1.0);
    let told = await_posts(&alerts, 1, |post| post.text("type") == "EMERGENCY_MODE");
    assert_eq!(told[0].path, "/x");
    await_posts(&beats, 1, is_beat);
    assert!(beats.posts().iter().all(|post| post.text("type").is_empty()), "{:?}", beats.posts());
}

#[test]
fn what_the_station_asks_is_answered_at_once() {
    let station = Station::start(0, |post| match &post.body["agents"] {
        _ if !is_beat(post) => Reply::Status(200),
        Value::Null if post.body["stats"]["total"] == json!(2) => {
            let ask = json!([uuid(2), "nobody", uuid(1)]);
            Reply::Json(json!({"received": true, "next_heartbeat_ms": 600_000, "ask": ask}))
        }
        Value::Null => soon(),
        _ => Reply::Json(json!({"next_heartbeat_ms": 600_000})),
    })
    .unwrap();
    let collector = start(&station, &[]);
    collector.beat(&uuid(1), "SLEEP", 1.0);
    collector.beat(&uuid(2), "IDLE", 1.0);
    let answered = await_posts(&station, 1, |post| post.body["agents"].is_array());
    let mut agents = answered[0].body["agents"].clone();
    for agent in agents.as_array_mut().unwrap() {
        assert!(agent["last_seen"].take().as_str().unwrap().ends_with('Z'));
    }
    let expected = json!([{"agent_uuid": uuid(2), "healthy": true, "mode": "IDLE", "last_seen": null},
                          {"agent_uuid": uuid(1), "healthy": true, "mode": "SLEEP", "last_seen": null}]);
    assert_eq!(agents, expected);
}

#[test]
fn a_station_that_forgot_the_cluster_is_told_again() {
    let station = station(|number| if number == 1 { Reply::Status(404) } else { soon() });
    let collector = start(&station, &[]);
    await_posts(&station, 3, is_beat);
    let order: Vec<_> = station.posts().iter().take(5).map(|post| post.method.clone()).collect();
    assert_eq!(order, ["PUT", "POST", "POST", "PUT", "POST"]);
    assert_eq!(beats_of(&collector, "refused"), 1.0);
}

#[test]
fn a_registration_that_is_not_taken_is_tried_again_and_the_key_is_named() {
    let station = station(|_| soon());
    station.behave(|_| Reply::Status(401));
    let collector = start(&station, &[("STATION_ALERT_KEY", "hush")]);
    let line = collector.await_log(said::ANSWER_401);
    assert!(line.contains("WARN") && line.contains("check STATION_ALERT_KEY"), "{line}");
    await_posts(&station, 2, |post| post.method == "PUT");
    assert_eq!(collector.logged(said::ANSWER_401), 1, "once a minute");
    assert!(!station.posts().iter().any(is_beat), "it is not registered yet");
    station.behave(|_| Reply::Status(200));
    await_posts(&station, 1, is_beat);
    collector.await_log("registered at the station");
    assert!(!collector.log().join("\n").contains("hush"));
}

#[test]
fn a_cluster_that_was_removed_says_so_once_and_beats_slowly() {
    let station = station(|number| if number == 0 { soon() } else { Reply::Status(410) });
    let collector = start(&station, &[]);
    let line = collector.await_log("was removed at the station");
    assert!(line.contains("WARN"), "{line}");
    stays_so(Duration::from_millis(1500), "no beat follows soon", || station.posts().len() == 3);
    assert_eq!(beats_of(&collector, "refused"), 1.0);
}

#[test]
fn an_upgrade_in_place_registers_again() {
    let station = station(|_| Reply::Status(200));
    let collector = start(&station, &[]);
    await_posts(&station, 1, is_beat);
    collector.signal("HUP");
    collector.await_log(said::UPGRADED);
    await_posts(&station, 2, |post| post.method == "PUT");
    await_posts(&station, 2, is_beat);
}

#[test]
fn a_station_without_a_key_or_with_a_wrong_url_stops_the_start() {
    for (variables, expected) in [
        (
            &[("STATION_URL", "http://s")] as &[_],
            "STATION_ALERT_KEY is not set; needed: the key of STATION_URL",
        ),
        (&[("STATION_URL", "s:80"), ("STATION_ALERT_KEY", "k")], "STATION_URL=\"s:80\" is wrong"),
        (&[("STATION_URL", "http://s/?x"), ("STATION_ALERT_KEY", "k")], "STATION_URL="),
    ] {
        let output = command(&[&[("CLUSTER_ID", "c")], variables].concat()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(78), 1), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}
