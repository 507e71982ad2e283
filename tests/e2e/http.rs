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

/// A row of the page, and whether it is so.
type Row = (&'static str, bool);

/// Whether `text` is answered with these statuses, in this order.
fn is(collector: &Collector, text: &str, expected: &[u16]) -> bool {
    let answer = exchange(collector, text.as_bytes());
    let is = statuses(&answer) == expected;
    if !is {
        eprintln!("{text:?} is answered {answer}");
    }
    is
}

fn answer_to(collector: &Collector, text: &str) -> Answer {
    Answer::parse(exchange(collector, text.as_bytes()).as_bytes())
}

/// Whether the connection goes on after `text`.
fn goes_on(collector: &Collector, text: &str) -> bool {
    is(collector, &format!("{text}{}", get("")), &[200, 200])
}

fn get(lines: &str) -> String {
    format!("{GET}Connection: close\r\n{lines}\r\n")
}

fn length() -> String {
    format!("Content-Length: {}\r\n", BEAT.len())
}

/// Whether a body that waits for its 100 is asked for and taken.
fn waits_for_100(collector: &Collector) -> bool {
    let mut stream = collector.connect();
    stream.write_all(post("1.1", &format!("Expect: 100-continue\r\n{}", length()), "").as_bytes()).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    stream.write_all(BEAT.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    &interim == b"HTTP/1.1 100 Continue\r\n\r\n" && statuses(&answer) == [200]
}

/// Whether bytes behind the last request do not cost its answer.
fn answers_before_what_is_behind(collector: &Collector) -> bool {
    let mut stream = collector.connect();
    stream.write_all(format!("{}{}", get(""), "x".repeat(20_000)).as_bytes()).unwrap();
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = String::new();
    // A reset would be an error here.
    stream.read_to_string(&mut answer).is_ok() && statuses(&answer) == [200]
}

/// Rows of the start line and of the header.
fn rows_of_the_head(collector: &Collector) -> Vec<Row> {
    let long = "x".repeat(8200);
    vec![
        ("H1", is(collector, &format!("\r\n\r\n{}", get("")), &[200])),
        ("H2", is(collector, "GET / HTTP/2.0\r\nHost: c\r\n\r\n", &[505])),
        (
            "H3",
            [
                "GET / HTTP/1.1\nHost: c\n\n",
                "GET / HTTP/1.1\r\nX: \0\r\n\r\n",
                "GET / HTTP/1.1\r\nX : 1\r\n\r\n",
            ]
            .iter()
            .all(|text| is(collector, text, &[400])),
        ),
        ("H4", is(collector, &format!("GET /{long} HTTP/1.1\r\nHost: c\r\n\r\n"), &[414])),
        (
            "H5",
            is(collector, "GET /ready HTTP/1.1\r\n\r\n", &[400])
                && is(collector, &get("Host: c\r\n"), &[400])
                && is(collector, "GET /ready HTTP/1.0\r\n\r\n", &[200]),
        ),
        (
            "H6",
            is(collector, "GET http://c:1/ready HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n", &[200]),
        ),
        ("H7", {
            let path =
                answer_to(collector, "OPTIONS /agents HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n");
            let all = answer_to(collector, "OPTIONS * HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n");
            path.status == 204
                && path.header("allow") == Some("GET, HEAD, OPTIONS")
                && all.status == 204
                && all.header("allow").is_some()
        }),
        ("H8", {
            let answer = answer_to(collector, "PUT /ready HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n");
            answer.status == 405 && answer.header("allow") == Some("GET, HEAD")
        }),
        ("H9", {
            let answer = answer_to(collector, "HEAD /ready HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n");
            answer.status == 200 && answer.body.is_empty() && answer.header("content-length") == Some("14")
        }),
        ("H10", is(collector, &get("X: caf\u{e9}\r\n"), &[200])),
        ("H11", is(collector, &get("X: 1\r\n 2\r\n"), &[400])),
        (
            "H12",
            is(collector, &get(&format!("X: {long}{long}\r\n")), &[431])
                && is(collector, &get(&"X: 1\r\n".repeat(100)), &[431]),
        ),
    ]
}

/// Rows of the body.
fn rows_of_the_body(collector: &Collector) -> Vec<Row> {
    let length = length();
    let chunks = format!("{:x};x=y\r\n{BEAT}\r\n0\r\nX: 1\r\n\r\n", BEAT.len());
    vec![
        (
            "H13",
            is(collector, &post("1.1", &format!("{length}{length}"), BEAT), &[400])
                && is(
                    collector,
                    &post("1.1", &format!("{length}Transfer-Encoding: chunked\r\n"), &chunks),
                    &[400],
                ),
        ),
        ("H14", is(collector, &post("1.1", "Transfer-Encoding: chunked\r\n", &chunks), &[200])),
        (
            "H15",
            is(collector, &post("1.1", "Transfer-Encoding: gzip, chunked\r\n", &chunks), &[501])
                && is(collector, &post("1.1", "Transfer-Encoding: gzip\r\n", &chunks), &[400]),
        ),
        (
            "H16",
            is(collector, &post("1.1", "Content-Length: 1025\r\n", ""), &[413])
                && is(collector, &post("1.1", "Transfer-Encoding: chunked\r\n", "401\r\n"), &[413]),
        ),
    ]
}

/// Rows of the connection.
fn rows_of_the_connection(collector: &Collector) -> Vec<Row> {
    let length = length();
    vec![
        (
            "H17",
            waits_for_100(collector)
                && is(collector, &post("1.1", &format!("Expect: x\r\n{length}"), BEAT), &[417]),
        ),
        ("H18", {
            let answer = answer_to(collector, &format!("{GET}Connection: x\r\nConnection: y, CLOSE\r\n\r\n"));
            answer.status == 200 && answer.header("connection") == Some("close")
        }),
        ("H19", {
            let once = answer_to(collector, "GET /ready HTTP/1.0\r\n\r\n");
            let kept = "GET /ready HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
            once.header("connection") == Some("close") && goes_on(collector, kept)
        }),
        (
            "H20",
            is(
                collector,
                &format!("{GET}\r\nGET /nothing HTTP/1.1\r\nHost: c\r\n\r\n{}", get("")),
                &[200, 404, 200],
            ),
        ),
        (
            "H21",
            goes_on(
                collector,
                &format!(
                    "{GET}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n"
                ),
            ),
        ),
        ("H22", answers_before_what_is_behind(collector)),
        ("H23", {
            let coded =
                answer_to(collector, &post("1.1", &format!("Content-Encoding: gzip\r\n{length}"), BEAT));
            let plain = format!("Content-Encoding: Identity\r\n{length}");
            coded.status == 415
                && coded.header("accept-encoding") == Some("identity")
                && coded.json()["error"].as_str().is_some_and(|error| error.contains("gzip"))
                && is(collector, &post("1.1", &plain, BEAT), &[200])
                && collector.metric("heartbeats_refused_total{reason=\"body\"}") >= 1.0
        }),
    ]
}

#[test]
fn every_row_of_the_page_is_so() {
    let collector = Collector::start(&[]);
    let rows =
        [rows_of_the_head(&collector), rows_of_the_body(&collector), rows_of_the_connection(&collector)]
            .concat();
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
