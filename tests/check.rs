//! `pap-collector check`, which is how a container without a shell is asked
//! how it is.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use support::{Collector, command};

/// The exit code and what is printed.
fn check(variables: &[(&str, &str)], arguments: &[&str]) -> (i32, String) {
    let output = command(variables).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn port_of(collector: &Collector) -> String {
    collector.port.to_string()
}

/// Answers one connection with `answer`, and holds it open until the asker goes.
fn impostor(answer: impl Fn(&mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        answer(&mut stream);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    port.to_string()
}

#[test]
fn it_says_in_one_line_whether_the_collector_is_well() {
    let collector = Collector::start(&[]);
    let port = port_of(&collector);
    let well = [("COLLECTOR_PORT", port.as_str())];
    assert_eq!(check(&well, &["check"]), (0, format!("ready: 127.0.0.1:{port} answers\n")));
    assert_eq!(check(&well, &["check", "--live"]), (0, format!("live: 127.0.0.1:{port} answers\n")));
    // Flags are understood before and after it, and what it has no need of may be wrong.
    for arguments in [
        ["check", "--collector-port", &port].as_slice(),
        &["--collector-port", &port, "check"],
        &["--alert-senders", "none", "--collector-port", &port, "--live", "check"],
    ] {
        assert_eq!(check(&[], arguments).0, 0, "{arguments:?}");
    }
    drop(collector);
    let gone = format!("not ready: 127.0.0.1:{port}: nobody listens there\n");
    assert_eq!(check(&well, &["check"]), (1, gone));
    assert_eq!(check(&well, &["check", "--live"]).0, 1);
}

#[test]
fn it_asks_at_the_address_the_collector_listens_on() {
    let collector = Collector::start(&[("COLLECTOR_BIND", "127.0.0.1")]);
    let port = port_of(&collector);
    assert_eq!(check(&[("COLLECTOR_PORT", &port), ("COLLECTOR_BIND", "127.0.0.1")], &["check"]).0, 0);
    assert_eq!(check(&[("COLLECTOR_PORT", &port), ("COLLECTOR_BIND", "0.0.0.0")], &["check"]).0, 0);
    // All of 127.0.0.0/8 is this host, but nobody listens there.
    assert_eq!(check(&[("COLLECTOR_PORT", &port), ("COLLECTOR_BIND", "127.0.0.9")], &["check"]).0, 1);
}

#[test]
fn a_collector_that_drains_is_live_but_not_ready() {
    // An alert that nobody takes keeps it from ending for 5 s.
    let url = "http://127.0.0.1:1/{cluster_id}";
    let mut collector = Collector::start(&[("STATION_ALERT_URL", url), ("STATION_ALERT_KEY", "k")]);
    collector.beat("a", "EMERGENCY", 1.0);
    collector.signal("TERM");
    collector.await_log("stopping");
    let port = port_of(&collector);
    collector.poll("it drains", || collector.get("/ready").status == 503);
    let (code, line) = check(&[("COLLECTOR_PORT", &port)], &["check"]);
    assert_eq!((code, line), (1, format!("not ready: 127.0.0.1:{port} answers 503, draining\n")));
    assert_eq!(check(&[("COLLECTOR_PORT", &port)], &["check", "--live"]).0, 0);
    assert_eq!(collector.wait(), Some(0));
}

#[test]
fn neither_silence_nor_dribble_nor_a_stranger_holds_it_up() {
    let silent = impostor(|_| {});
    let dribbling = impostor(|stream| {
        while stream.write_all(b"H").is_ok() {
            let _ = crossbeam_channel::never::<()>().recv_timeout(Duration::from_millis(20));
        }
    });
    let stranger = impostor(|stream| {
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    });
    for (port, expected) in [
        (silent, "no answer within 2s"),
        (dribbling, "no answer within 2s"),
        (stranger, "does not speak HTTP"),
    ] {
        let start = Instant::now();
        let (code, line) = check(&[("COLLECTOR_PORT", &port)], &["check"]);
        assert!(code == 1 && line.contains(expected), "{code} {line}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn what_cannot_be_asked_is_said() {
    let (code, line) = check(&[("COLLECTOR_PORT", "0")], &["check"]);
    assert!(code == 1 && line.contains("COLLECTOR_PORT is 0"), "{line}");
    let (code, line) = check(&[("COLLECTOR_PORT", "http")], &["check"]);
    assert!(code == 78 && line.contains("COLLECTOR_PORT=\"http\""), "{line}");
    assert_eq!(check(&[("CLUSTER_ID", "c")], &["checks"]).0, 78);
    let (code, line) = check(&[("CLUSTER_ID", "c")], &["--live"]);
    assert!(code == 78 && line.contains("check"), "{line}");
}

#[test]
fn it_is_fast() {
    let collector = Collector::start(&[]);
    let port = port_of(&collector);
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(check(&[("COLLECTOR_PORT", &port)], &["check"]).0, 0);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("fastest {:?}, median {:?}", times[0], times[10]);
    // The fastest: others may be at work on this machine.
    assert!(times[0] < Duration::from_millis(50), "{times:?}");
}
