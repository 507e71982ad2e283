//! HTTP/1.1 as the RFCs have it: a test for each row of docs/http.md.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use crate::support::{Answer, Collector};

const BEAT: &str = r#"{"mode":"SLEEP","uptime_seconds":5}"#;
const GET: &str = "GET /ready HTTP/1.1\r\nHost: c\r\n";

/// All that comes back until the connection ends.
fn exchange(collector: &Collector, bytes: &[u8]) -> String {
    let mut stream = collector.connect();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn statuses(text: &str) -> Vec<u16> {
    text.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)?.parse().ok()).collect()
}

fn post(version: &str, lines: &str, body: &str) -> String {
    format!("POST /heartbeat/a HTTP/{version}\r\nHost: c\r\nConnection: close\r\n{lines}\r\n{body}")
}

/// What is done for each row, and whether it is so.
fn rows(collector: &Collector) -> Vec<(&'static str, bool)> {
    let ask = |text: &str| exchange(collector, text.as_bytes());
    let is = |text: &str, expected: &[u16]| {
        let answer = ask(text);
        let is = statuses(&answer) == expected;
        if !is {
            eprintln!("{text:?} is answered {answer}");
        }
        is
    };
    let get = |lines: &str| format!("{GET}Connection: close\r\n{lines}\r\n");
    let length = format!("Content-Length: {}\r\n", BEAT.len());
    let chunks = format!("{:x};x=y\r\n{BEAT}\r\n0\r\nX: 1\r\n\r\n", BEAT.len());
    let head = |lines: &str| Answer::parse(ask(lines).as_bytes());
    let goes_on = |text: &str| is(&format!("{text}{}", get("")), &[200, 200]);
    let expecting = || {
        let mut stream = collector.connect();
        stream.write_all(post("1.1", &format!("Expect: 100-continue\r\n{length}"), "").as_bytes()).unwrap();
        let mut interim = [0; 25];
        stream.read_exact(&mut interim).unwrap();
        stream.write_all(BEAT.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        &interim == b"HTTP/1.1 100 Continue\r\n\r\n" && statuses(&answer) == [200]
    };
    let behind = || {
        let mut stream = collector.connect();
        stream.write_all(format!("{}{}", get(""), "x".repeat(20_000)).as_bytes()).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = String::new();
        // A reset would be an error here.
        stream.read_to_string(&mut answer).is_ok() && statuses(&answer) == [200]
    };
    let long = "x".repeat(8200);
    vec![
        ("H1", is(&format!("\r\n\r\n{}", get("")), &[200])),
        ("H2", is("GET / HTTP/2.0\r\nHost: c\r\n\r\n", &[505])),
        (
            "H3",
            [
                "GET / HTTP/1.1\nHost: c\n\n",
                "GET / HTTP/1.1\r\nX: \0\r\n\r\n",
                "GET / HTTP/1.1\r\nX : 1\r\n\r\n",
            ]
            .iter()
            .all(|text| is(text, &[400])),
        ),
        ("H4", is(&format!("GET /{long} HTTP/1.1\r\nHost: c\r\n\r\n"), &[414])),
        (
            "H5",
            is("GET /ready HTTP/1.1\r\n\r\n", &[400])
                && is(&get("Host: c\r\n"), &[400])
                && is("GET /ready HTTP/1.0\r\n\r\n", &[200]),
        ),
        ("H6", is("GET http://c:1/ready HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n", &[200])),
        ("H7", {
            let path = head("OPTIONS /agents HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n");
            let all = head("OPTIONS * HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n");
            path.status == 204
                && path.header("allow") == Some("GET, HEAD, OPTIONS")
                && all.status == 204
                && all.header("allow").is_some()
        }),
        ("H8", {
            let answer = head("PUT /ready HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n");
            answer.status == 405 && answer.header("allow") == Some("GET, HEAD")
        }),
        ("H9", {
            let answer = head("HEAD /ready HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n");
            answer.status == 200 && answer.body.is_empty() && answer.header("content-length") == Some("14")
        }),
        ("H10", is(&get("X: caf\u{e9}\r\n"), &[200])),
        ("H11", is(&get("X: 1\r\n 2\r\n"), &[400])),
        (
            "H12",
            is(&get(&format!("X: {long}{long}\r\n")), &[431]) && is(&get(&"X: 1\r\n".repeat(100)), &[431]),
        ),
        (
            "H13",
            is(&post("1.1", &format!("{length}{length}"), BEAT), &[400])
                && is(&post("1.1", &format!("{length}Transfer-Encoding: chunked\r\n"), &chunks), &[400]),
        ),
        ("H14", is(&post("1.1", "Transfer-Encoding: chunked\r\n", &chunks), &[200])),
        (
            "H15",
            is(&post("1.1", "Transfer-Encoding: gzip, chunked\r\n", &chunks), &[501])
                && is(&post("1.1", "Transfer-Encoding: gzip\r\n", &chunks), &[400]),
        ),
        (
            "H16",
            is(&post("1.1", "Content-Length: 1025\r\n", ""), &[413])
                && is(&post("1.1", "Transfer-Encoding: chunked\r\n", "401\r\n"), &[413]),
        ),
        ("H17", expecting() && is(&post("1.1", &format!("Expect: x\r\n{length}"), BEAT), &[417])),
        ("H18", {
            let answer = head(&format!("{GET}Connection: x\r\nConnection: y, CLOSE\r\n\r\n"));
            answer.status == 200 && answer.header("connection") == Some("close")
        }),
        ("H19", {
            let once = head("GET /ready HTTP/1.0\r\n\r\n");
            let kept = "GET /ready HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
            once.header("connection") == Some("close") && goes_on(kept)
        }),
        (
            "H20",
            is(&format!("{GET}\r\nGET /nothing HTTP/1.1\r\nHost: c\r\n\r\n{}", get("")), &[200, 404, 200]),
        ),
        (
            "H21",
            goes_on(&format!(
                "{GET}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n"
            )),
        ),
        ("H22", behind()),
    ]
}

#[test]
fn every_row_of_the_page_is_so() {
    let collector = Collector::start(&[]);
    let rows = rows(&collector);
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/http.md")).unwrap();
    let named = page.lines().filter_map(|line| line.strip_prefix("| H")?.split(' ').next());
    let named: Vec<String> = named.map(|number| format!("H{number}")).collect();
    assert_eq!(
        rows.iter().map(|(row, _)| *row).collect::<Vec<_>>(),
        named,
        "a row without a test, or a test without a row"
    );
    let wrong: Vec<_> = rows.iter().filter(|(_, is_so)| !is_so).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
