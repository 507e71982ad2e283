//! `pap-collector check`, which asks a collector whether it is well, in a container
//! without a shell.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Collector, PATIENCE, Port, command, let_pass, said};

/// The exit code and the printed text.
fn check(variables: &[(&str, &str)], arguments: &[&str]) -> (i32, String) {
    let output = command(variables).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn port_of(collector: &Collector) -> String {
    collector.port.to_string()
}

/// Answers one connection with `answer`, and holds it open until the client closes.
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
    let kept = Port::reserve();
    let port = kept.number.to_string();
    let collector = Collector::start(&[("COLLECTOR_PORT", &port)]);
    let well = [("COLLECTOR_PORT", port.as_str())];
    assert_eq!(check(&well, &["check"]), (0, format!("ready: 127.0.0.1:{port} answers\n")));
    assert_eq!(check(&well, &["check", "--live"]), (0, format!("live: 127.0.0.1:{port} answers\n")));
    // Flags may stand before and after "check". Settings that it does not need may be
    // wrong.
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
    // An alert that the station does not take keeps the collector from ending for 5 s.
    let url = "http://127.0.0.1:1/{cluster_id}";
    let mut collector = Collector::start(&[("STATION_ALERT_URL", url), ("STATION_ALERT_KEY", "k")]);
    collector.beat("a", "EMERGENCY", 1.0);
    collector.signal("TERM");
    collector.await_log(said::STOPPING);
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
        // Each byte comes in time, but the whole answer never does.
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && stream.write_all(b"H").is_ok() {
            let_pass(Duration::from_millis(20));
        }
    });
    let stranger = impostor(|stream| {
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    for (port, expected) in [
        (silent, "no answer within 2s"),
        (dribbling, "no answer within 2s"),
        (stranger, "does not speak HTTP"),
    ] {
        let (code, line) = check(&[("COLLECTOR_PORT", &port)], &["check"]);
        assert!(code == 1 && line.contains(expected), "{code} {line}");
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

/// A check may cost one connection with one short question. How long that takes
/// depends on the machine.
#[test]
fn it_asks_one_question_and_leaves() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let answering = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = Vec::new();
        while !question.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            question.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut more = Vec::new();
        stream.read_to_end(&mut more).unwrap();
        (String::from_utf8(question).unwrap(), more, listener)
    });
    assert_eq!(check(&[("COLLECTOR_PORT", &port)], &["check"]).0, 0);
    let (question, more, listener) = answering.join().unwrap();
    assert!(question.starts_with("GET /ready HTTP/1.0\r\n") && question.len() < 200, "{question}");
    assert!(question.contains("Connection: close\r\n"), "{question}");
    assert_eq!(more, b"", "it says nothing more");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "it has made no other connection");
}

#[test]
fn a_list_at_a_url_may_take_longer_than_the_answer_to_an_alert() {
    let port = impostor(|stream| {
        let _ = stream.read(&mut [0; 1024]);
        let list = r#"{"cluster_id":"c","cluster_name":"c","stats":{"total":0,"healthy":0,"unhealthy":0,"by_mode":{"EMERGENCY":0,"IDLE":0,"SLEEP":0},"observed":0},"agents":[]}"#;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", list.len());
        let _ = stream.write_all(format!("{head}{}", &list[..20]).as_bytes());
        let_pass(Duration::from_millis(1500));
        let _ = stream.write_all(&list.as_bytes()[20..]);
    });
    let (code, text) = check(&[], &["agents", "--url", &format!("http://127.0.0.1:{port}")]);
    assert_eq!(code, 0, "{text}");
}
