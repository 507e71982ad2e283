//! `pap-heartbeat --machine` against a small station.

use std::fs;

use pap_core::time::Wall;
use pap_process::clock::{since_boot, wall};

use crate::agent::command;
use crate::support::station::{Answer as Reply, Station};
use crate::support::{PATIENCE, Running, said};

/// This machine, which sends its heartbeats to `station`.
fn start(station: &Station) -> Running {
    let url = format!("http://127.0.0.1:{}/", station.port);
    let variables = [("STATION_URL", url.as_str()), ("PAP_MACHINE_ID", "7"), ("PAP_MACHINE_KEY", "hush")];
    Running::spawn(&mut command(&variables, &["--machine"]))
}

#[test]
fn it_says_who_it_is_and_when_it_started_and_ends_when_it_is_asked() {
    let station = Station::start(0, |_| Reply::Status(204)).unwrap();
    let mut machine = start(&station);
    assert!(station.wait_until(PATIENCE, |posts| posts.len() >= 2), "again after a while");
    machine.await_log(said::TAKES);
    let post = &station.posts()[0];
    assert_eq!((post.method.as_str(), post.path.as_str()), ("POST", "/api/machines/7/heartbeat"));
    assert_eq!(post.authorization.as_deref(), Some("Bearer hush"));
    let fields: Vec<_> = post.body.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["boot_time", "hostname", "uptime_seconds"]);
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(post.text("hostname"), name.trim());
    let up = since_boot().reading().as_secs_f64();
    let uptime = post.body["uptime_seconds"].as_f64().unwrap();
    assert!(uptime > 0.0 && uptime < up, "{uptime} of {up}");
    let booted: Wall = serde_json::from_value(post.body["boot_time"].clone()).unwrap();
    let expected = wall().0 as f64 / 1000.0 - up;
    assert!((booted.0 as f64 / 1000.0 - expected).abs() < 5.0, "{booted} and {expected}");

    machine.signal("TERM");
    assert_eq!(machine.wait(), Some(0));
    assert!(!machine.log().join("\n").contains("hush"));
}

#[test]
fn a_station_that_hangs_or_refuses_is_logged_and_delays_no_stop() {
    let station = Station::start(0, |_| Reply::Status(401)).unwrap();
    let mut machine = start(&station);
    let line = machine.await_log("it answers 401");
    assert!(line.contains("WARN") && line.contains("check PAP_MACHINE_KEY"), "{line}");
    station.behave(|_| Reply::Silence(PATIENCE));
    assert!(station.wait_until(PATIENCE, |posts| posts.len() == 2), "it is tried again");
    machine.signal("INT");
    assert_eq!(machine.wait(), Some(0));
    assert_eq!(station.posts().len(), 2, "the answer was not waited for");
}

#[test]
fn what_is_missing_or_does_not_go_together_is_one_line_and_78() {
    let id = ("PAP_MACHINE_ID", "7");
    let key = ("PAP_MACHINE_KEY", "k");
    let url = ("STATION_URL", "http://127.0.0.1:1");
    for (variables, arguments, expected) in [
        (&[id, key] as &[_], &["--machine"] as &[_], "STATION_URL is not set"),
        (&[url, key], &["--machine"], "PAP_MACHINE_ID is not set"),
        (&[url, id], &["--machine"], "PAP_MACHINE_KEY is not set"),
        (&[url, id, key], &["--machine", "--", "true"], "no command is run"),
        (&[url, id, key], &["--machine", "--check"], "the station says what it heard"),
    ] {
        let output = command(variables, arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(78), 1), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    let output = command(&[url, id, key], &["--machine", "--check-config"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("PAP_MACHINE_KEY=(hidden)\n"), "{text}");
}
