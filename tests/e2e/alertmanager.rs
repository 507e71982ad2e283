//! What Alertmanagers are told, with the real binary and small servers in their place.
//! `tests/alertmanager.rs` has the real Alertmanager.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pap_core::time::Wall;
use pap_process::clock::wall;
use serde_json::{Value, json};

use crate::support::station::{Answer as Reply, Post, Station};
use crate::support::{Collector, PATIENCE, said, stays_so, tls, until, uuid};

fn taking() -> Station {
    Station::start(0, |_| Reply::Status(200)).unwrap()
}

fn url(station: &Station) -> String {
    format!("http://127.0.0.1:{}", station.port)
}

fn start(alertmanagers: &[&Station], variables: &[(&str, &str)]) -> Collector {
    let urls: Vec<String> = alertmanagers.iter().map(|&station| url(station)).collect();
    Collector::start(&[&[("ALERTMANAGER_URL", urls.join(",").as_str())], variables].concat())
}

/// The alerts in posts that were taken.
fn taken(posts: &[Post]) -> Vec<Value> {
    let taken = posts.iter().filter(|post| post.status == 200);
    taken.flat_map(|post| post.body.as_array().cloned().unwrap_or_default()).collect()
}

/// Waits until so many alerts were taken, and returns them.
fn await_taken(station: &Station, count: usize) -> Vec<Value> {
    assert!(station.wait_until(PATIENCE, |posts| taken(posts).len() >= count), "{:#?}", station.posts());
    taken(&station.posts())
}

fn named(collector: &Collector, agent: &str, mode: &str, name: &str) {
    let body = json!({"mode": mode, "uptime_seconds": 1, "agent_name": name}).to_string();
    assert_eq!(collector.request("POST", &format!("/heartbeat/{agent}"), &[], &body).status, 200);
}

/// The end of an alert that fires is ahead.
fn is_resolved(alert: &Value) -> bool {
    serde_json::from_value::<Wall>(alert["endsAt"].clone()).unwrap() <= wall()
}

#[test]
fn each_alertmanager_gets_the_same_with_its_path_and_its_credentials() {
    let (first, second) = (taking(), taking());
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "p:w\n").unwrap();
    let urls = format!("{}/team/am/, {}", url(&first), url(&second));
    let collector = Collector::start(&[
        ("ALERTMANAGER_URL", &urls),
        ("ALERTMANAGER_USER", "me"),
        ("ALERTMANAGER_PASSWORD_FILE", password.path().to_str().unwrap()),
        ("COLLECTOR_URL", "https://agents.example/"),
    ]);
    let id = uuid(1);
    named(&collector, &id, "EMERGENCY", "old \"name\"");
    named(&collector, &id, "EMERGENCY", "new name");
    let labels = json!({"alertname": "PapAgentEmergency", "cluster": "test-cluster", "agent_uuid": id,
                        "agent_name": "old \"name\"", "mode": "EMERGENCY", "severity": "warning"});
    let mut since = Value::Null;
    for (station, path) in [(&first, "/team/am/api/v2/alerts"), (&second, "/api/v2/alerts")] {
        let alert = &await_taken(station, 1)[0];
        assert_eq!(alert["labels"], labels);
        assert_eq!(alert["generatorURL"], "https://agents.example/");
        assert!(alert["annotations"]["summary"].as_str().unwrap().contains("is in EMERGENCY"), "{alert}");
        assert!(!is_resolved(alert), "{alert}");
        since = alert["startsAt"].clone();
        let post = &station.posts()[0];
        assert_eq!((post.path.as_str(), post.authorization.as_deref()), (path, Some("Basic bWU6cDp3")));
    }
    assert_eq!(collector.request("DELETE", &format!("/heartbeat/{id}"), &[], "").status, 200);
    for station in [&first, &second] {
        let alert = &await_taken(station, 2)[1];
        assert_eq!((&alert["labels"], &alert["startsAt"]), (&labels, &since));
        assert!(is_resolved(alert), "{alert}");
    }
    for place in 1..=2 {
        let taken = format!("alertmanager_alerts_total{{alertmanager=\"{place}\",result=\"taken\"}}");
        until("both are counted", || collector.metric(&taken) == 2.0);
    }
    assert_eq!(collector.metric("alertmanager_alerts_firing{alertname=\"PapAgentEmergency\"}"), 0.0);
    assert_eq!(collector.metric("alertmanager_alerts_resolving"), 0.0);
    assert_eq!(collector.get("/health").json()["alertmanagers"], json!({"configured": 2, "reachable": 2}));
    assert_eq!(
        collector.logged("EMERGENCY_MODE"),
        0,
        "what an Alertmanager is told is not an alert in the log"
    );
}

#[test]
fn one_that_hangs_or_refuses_disturbs_no_other() {
    let hangs = Station::start(0, |_| Reply::Silence(PATIENCE)).unwrap();
    let refuses = Station::start(0, |_| Reply::Status(400)).unwrap();
    let takes = taking();
    let collector = start(&[&hangs, &refuses, &takes], &[("ALERTMANAGER_REPEAT_MS", "1000")]);
    for agent in 0..20 {
        named(&collector, &uuid(agent), "EMERGENCY", "x");
    }
    // Each at least once, and again a second later, although one hangs for ten seconds.
    await_taken(&takes, 60);
    assert_eq!(hangs.posts().len(), 1, "one post is under way");
    let line = collector.await_log("refused");
    assert!(line.contains("with 400") && line.contains("no") && line.contains("ERROR"), "{line}");
    assert!(refuses.wait_until(PATIENCE, |posts| posts.len() >= 3), "what holds is told again");
    assert!(collector.logged("with 400") == 1, "and logged once");
    assert!(collector.metric("alertmanager_alerts_total{alertmanager=\"2\",result=\"refused\"}") >= 20.0);
    assert!(collector.metric("alertmanager_behind_seconds{alertmanager=\"1\"}") > 0.0);
    let lag = "alertmanager_behind_seconds{alertmanager=\"3\"}";
    until("the third is told", || collector.metric(lag) == 0.0);
}

#[test]
fn what_fails_is_tried_again_and_a_wrong_key_is_named() {
    let count = AtomicUsize::new(0);
    let station = Station::start(0, move |post| {
        if post.authorization.as_deref() != Some("Bearer k") {
            return Reply::Status(401);
        }
        match count.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::Status(503),
            1 => Reply::StatusWith(429, "Retry-After: 2".into()),
            _ => Reply::Status(200),
        }
    })
    .unwrap();
    let wrong = start(&[&station], &[("ALERTMANAGER_KEY", "hush")]);
    named(&wrong, "a", "EMERGENCY", "x");
    let line = wrong.await_log(said::ANSWER_401);
    assert!(line.contains("check ALERTMANAGER_KEY") && line.contains("WARN"), "{line}");
    assert!(!wrong.log().join("\n").contains("hush"));
    drop(wrong);

    let collector = start(&[&station], &[("ALERTMANAGER_KEY", "k")]);
    named(&collector, "a", "EMERGENCY", "x");
    collector.await_log(said::TAKES_AGAIN);
    let posts: Vec<Post> = station
        .posts()
        .into_iter()
        .filter(|post| post.authorization.as_deref() == Some("Bearer k"))
        .collect();
    assert_eq!(posts.iter().map(|post| post.status).collect::<Vec<_>>(), [503, 429, 200]);
    assert!(posts[2].at.duration_since(posts[1].at) >= Duration::from_secs(2), "Retry-After is respected");
    assert_eq!(collector.metric("alertmanager_posts_failed_total{alertmanager=\"1\"}"), 2.0);
    stays_so(Duration::from_millis(300), "it is not told twice", || {
        station.posts().iter().filter(|post| post.status == 200).count() == 1
    });
}

#[test]
fn a_restart_tells_all_again_with_the_same_labels() {
    let station = taking();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let variables = [("STATE_FILE", state.to_str().unwrap()), ("STATE_INTERVAL_MS", "20")];
    let mut collector = start(&[&station], &variables);
    named(&collector, "a", "EMERGENCY", "old");
    named(&collector, "a", "EMERGENCY", "new");
    named(&collector, "b", "EMERGENCY", "other");
    let first = await_taken(&station, 2);
    collector.poll("it is saved", || {
        let text = std::fs::read_to_string(&state).unwrap_or_default();
        text.contains("\"firing\":[{") && text.contains("\"name\":\"new\"") && text.contains("other")
    });
    collector.signal("KILL");
    collector.wait();
    drop(collector);

    let mut collector = start(&[&station], &variables);
    let told = await_taken(&station, 4);
    for before in &first {
        let again = told[2..].iter().find(|alert| alert["labels"] == before["labels"]);
        assert_eq!(again.unwrap()["startsAt"], before["startsAt"]);
    }
    // Nobody can be told of the end before the next restart.
    station.behave(|_| Reply::Status(503));
    named(&collector, "a", "IDLE", "newer");
    assert_eq!(collector.request("DELETE", "/agents/b", &[], "").status, 200);
    collector.signal("TERM");
    assert_eq!(collector.wait(), Some(0));
    drop(collector);
    station.behave(|_| Reply::Status(200));

    let _collector = start(&[&station], &variables);
    let told = await_taken(&station, 6);
    for before in &first {
        let end = told[4..].iter().find(|alert| alert["labels"] == before["labels"]).unwrap();
        assert!(is_resolved(end), "{end}");
        assert_eq!(end["startsAt"], before["startsAt"]);
    }
}

#[test]
fn an_upgrade_in_place_goes_on_with_the_same_alerts() {
    let station = taking();
    let collector = start(&[&station], &[]);
    named(&collector, "a", "EMERGENCY", "old");
    named(&collector, "a", "EMERGENCY", "new");
    let first = await_taken(&station, 1);
    collector.signal("HUP");
    collector.await_log(said::UPGRADED);
    named(&collector, "a", "SLEEP", "new");
    let told = await_taken(&station, 2);
    let end = told.last().unwrap();
    assert_eq!((&end["labels"], &end["startsAt"]), (&first[0]["labels"], &first[0]["startsAt"]));
    until("it has ended", || taken(&station.posts()).last().is_some_and(is_resolved));
}

#[test]
fn an_alertmanager_may_have_a_private_ca() {
    let (station, ca_file) = tls::station(|_| Reply::Status(200));
    let url = format!("https://localhost:{}/", station.port);
    let distrusting = Collector::start(&[("ALERTMANAGER_URL", &url)]);
    named(&distrusting, "a", "EMERGENCY", "x");
    distrusting.await_log("no answer");
    assert_eq!(station.posts().len(), 0, "without the CA nothing is told");
    let ca_file = ca_file.path().to_str().unwrap();
    let collector = Collector::start(&[("ALERTMANAGER_URL", &url), ("ALERTMANAGER_CA_FILE", ca_file)]);
    named(&collector, "a", "EMERGENCY", "x");
    await_taken(&station, 1);
}
