//! `pap-heartbeat --register` and `--deregister` against a small station that does not do
//! what is wanted. Against a pap-station they are in its own tests.

use std::time::Instant;

use pap_collector::VERSION;
use serde_json::json;

use crate::agent::command;
use crate::support::station::{Answer as Reply, Station};
use crate::support::{PATIENCE, Port, slow};

const REGISTER: &[&str] = &["--register"];
const DEREGISTER: &[&str] = &["--deregister"];

/// The exit code, standard output and standard error.
fn run(port: u16, variables: &[(&str, &str)], arguments: &[&str]) -> (i32, String, String) {
    let url = format!("http://127.0.0.1:{port}/");
    let own = [("STATION_URL", url.as_str()), ("CLUSTER_ID", "a b/c"), ("STATION_ALERT_KEY", "hush")];
    let output = command(&[&own, variables].concat(), arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Runs it in vain, and returns the one line that it says.
fn fails(port: u16, variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let (code, out, line) = run(port, variables, arguments);
    assert_eq!((code, out.as_str(), line.lines().count()), (1, "", 1), "{line}");
    assert!(!line.contains("hush") && line.contains("--no-hooks"), "{line}");
    line
}

#[test]
fn it_says_who_the_cluster_is_and_ends() {
    let station = Station::start(0, |_| Reply::Status(201)).unwrap();
    let variables =
        [("CLUSTER_NAME", "Test"), ("CLUSTER_REGION", "eu-1"), ("CLUSTER_METADATA", "namespace=agents")];
    let (code, out, error) = run(station.port, &variables, REGISTER);
    let url = format!("http://127.0.0.1:{}", station.port);
    assert_eq!((code, out, error.as_str()), (0, format!("registered cluster a b/c at {url}\n"), ""));
    let (code, out, _) = run(station.port, &[], DEREGISTER);
    assert_eq!((code, out), (0, format!("deregistered cluster a b/c at {url}\n")));

    let posts = station.posts();
    let [put, delete] = &posts[..] else { panic!("{posts:?}") };
    let said = json!({
        "cluster_name": "Test", "version": VERSION, "region": "eu-1", "metadata": { "namespace": "agents" }
    });
    assert_eq!((put.method.as_str(), &put.body), ("PUT", &said));
    assert_eq!((delete.method.as_str(), delete.length), ("DELETE", 0));
    for post in &posts {
        assert_eq!(post.path, "/api/clusters/a%20b%2Fc");
        assert_eq!(post.authorization.as_deref(), Some("Bearer hush"));
    }
}

#[test]
fn a_cluster_that_is_not_there_is_gone() {
    for code in [404, 410] {
        let station = Station::start(0, move |_| Reply::Status(code)).unwrap();
        let (exit, out, error) = run(station.port, &[], DEREGISTER);
        assert_eq!((exit, out.lines().count(), error.as_str()), (0, 1, ""), "{out}");
        assert!(out.contains(&format!("not registered at http://127.0.0.1:{}", station.port)), "{out}");
        let line = fails(station.port, &[], REGISTER);
        assert!(line.contains(&format!("it answers {code}")), "{line}");
    }
}

#[test]
fn a_refusal_ends_it_at_once_and_says_what_to_do() {
    for (code, advice) in [
        (400, ""),
        (401, "check STATION_ALERT_KEY"),
        (403, "check STATION_ALERT_KEY"),
        (405, "check STATION_URL"),
        (409, ""),
    ] {
        let station = Station::start(0, move |_| Reply::Status(code)).unwrap();
        for arguments in [REGISTER, DEREGISTER] {
            let line = fails(station.port, &[], arguments);
            assert!(line.contains(&format!("it answers {code}: {{\"error\":\"no\"}}; {advice}")), "{line}");
        }
        assert_eq!(station.posts().len(), 2, "each was told once");
        let line = fails(station.port, &[], DEREGISTER);
        assert!(line.contains("pap-station deregister a b/c"), "{line}");
    }
    // The key goes nowhere else.
    let other = Station::start(0, |_| Reply::Status(200)).unwrap();
    let location = format!("Location: http://127.0.0.1:{}/", other.port);
    let station = Station::start(0, move |_| Reply::StatusWith(307, location.clone())).unwrap();
    assert!(fails(station.port, &[], REGISTER).contains("it answers 307"));
    assert!(other.posts().is_empty());
}

#[test]
fn a_station_that_cannot_take_it_now_is_told_again() {
    let times = std::sync::atomic::AtomicUsize::new(0);
    let station =
        Station::start(0, move |_| match times.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => Reply::Status(503),
            1 => Reply::StatusWith(429, "Retry-After: 2".into()),
            _ => Reply::Status(200),
        })
        .unwrap();
    let (code, out, error) = run(station.port, &[], REGISTER);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let posts = station.posts();
    assert_eq!(posts.len(), 3);
    assert!((posts[2].at - posts[1].at).as_secs_f64() >= 2.0, "it asked for two seconds");
    // It does not wait for longer than it has time.
    station.behave(|_| Reply::StatusWith(503, "Retry-After: 60".into()));
    let line = fails(station.port, &[], DEREGISTER);
    assert!(line.contains("it answers 503") && line.contains("again in 60s"), "{line}");
    assert_eq!(station.posts().len(), 4);
}

#[test]
fn a_station_that_never_answers_ends_it_when_its_time_is_over() {
    let silent = Station::start(0, |_| Reply::Silence(PATIENCE)).unwrap();
    let nobody = Port::reserve();
    let own = [("STATION_TIMEOUT_MS", "1500")];
    for port in [silent.port, nobody.number] {
        for arguments in [REGISTER, DEREGISTER] {
            let line = fails(port, &own, arguments);
            assert!(line.contains("in 1.5s; check STATION_URL"), "{line}");
        }
    }
    assert!(fails(nobody.number, &own, REGISTER).contains("refused"));
    if slow("waits for 30 s") {
        let began = Instant::now();
        fails(silent.port, &[], DEREGISTER);
        let took = began.elapsed().as_secs();
        assert!((20..=40).contains(&took), "{took} s");
    }
}

#[test]
fn what_is_missing_or_does_not_go_together_is_one_line_and_78() {
    let own = [("STATION_URL", "http://127.0.0.1:1"), ("CLUSTER_ID", "c"), ("STATION_ALERT_KEY", "k")];
    for (variables, arguments, expected) in [
        (&own[1..], REGISTER, "STATION_URL is not set"),
        (&own[..2], REGISTER, "--no-hooks"),
        (&own[..2], DEREGISTER, "pap-station deregister CLUSTER_ID"),
        (&own, &["--register", "--deregister"], "alone"),
        (&own, &["--register", "--machine"], "alone"),
        (&own, &["--deregister", "--check"], "alone"),
        (&own, &["--register", "--", "true"], "alone"),
    ] {
        let output = command(variables, arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(78), 1), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    let output = command(&own, &["--deregister", "--check-config"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("STATION_ALERT_KEY=(hidden)\n"), "{text}");
}
