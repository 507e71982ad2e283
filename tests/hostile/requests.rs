//! Attacks by what a client sends: false lengths, broken heads, unknown offers to
//! upgrade.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::attack::{alone, attack, await_closed, hold};
use crate::support::{Answer, Collector, PATIENCE, said};

#[test]
fn lengths_that_lie() {
    let _alone = alone();
    attack(&[], |collector| {
        for length in [
            "100000000000000",
            "18446744073709551615",
            "99999999999999999999999",
            "+5",
            "-1",
            "0x10",
            "5 5",
            "",
        ] {
            for _ in 0..5 {
                let request = format!(
                    "POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{{}}   "
                );
                let answer = collector.raw(request.as_bytes());
                assert!([400, 411, 413].contains(&answer.status), "{length}: {answer:?}");
            }
        }
        for headers in [
            "Content-Length: 2\r\nContent-Length: 3",
            "Content-Length: 2\r\nContent-Length: 2",
            "Content-Length: 2\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 2",
            "Transfer-Encoding: gzip",
        ] {
            let request = format!(
                "POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\n{headers}\r\n\r\n{{}}"
            );
            assert!([400, 411].contains(&collector.raw(request.as_bytes()).status), "{headers}");
        }
        await_closed(hold(
            collector,
            20,
            b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnonsense\r\n",
        ));
    });
}

#[test]
fn heads_that_are_none() {
    let _alone = alone();
    attack(&[], |collector| {
        let many = "x-header: y\r\n".repeat(100_000);
        let nan = format!("TE: {}\r\n", "a;q=nan, a;q=0.1, a;q=0.5, ".repeat(40));
        let mut heads = vec![
            b"GET /health\r\n\r\n".to_vec(),
            b"GET /health HTTP/0.9\r\nHost: c\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
            (0..=255).collect(),
            "GET /heartbeat/caf\u{e9} HTTP/1.1\r\nHost: c\r\n\r\n".as_bytes().to_vec(),
            b"GET / HTTP/1.1\r\nHost: c\r\nno colon\r\n\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        ];
        heads.push(format!("GET /health HTTP/1.1\r\nHost: c\r\n{many}\r\n").into_bytes());
        for head in &heads {
            let mut stream = collector.connect();
            let _ = stream.write_all(head);
            let _ = stream.shutdown(Shutdown::Write);
            await_closed(vec![stream]);
        }
        for _ in 0..50 {
            let request = format!("GET /health HTTP/1.1\r\nHost: c\r\n{nan}Connection: close\r\n\r\n");
            assert_eq!(collector.raw(request.as_bytes()).status, 200);
        }
        // An endless head, sent as fast as possible.
        let mut stream = collector.connect();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: c\r\nx: ").unwrap();
        let started = Instant::now();
        while stream.write_all(&vec![b'y'; 64 * 1024]).is_ok() {
            assert!(started.elapsed() < PATIENCE, "the endless head is read for ever");
        }
    });
}

#[test]
fn heads_have_limits_and_requests_their_order() {
    let _alone = alone();
    attack(&[], |collector| {
        let head = |lines: usize, length: usize| {
            let lines = "a: b\r\n".repeat(lines);
            let start = format!("GET /health HTTP/1.1\r\nHost: c\r\nConnection: close\r\n{lines}x: ");
            format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4))
        };
        assert_eq!(collector.raw(head(0, 16 * 1024).as_bytes()).status, 200);
        assert_eq!(collector.raw(head(97, 1024).as_bytes()).status, 200);
        for too_big in [head(0, 16 * 1024 + 1), head(98, 1024)] {
            let answer = collector.raw(too_big.as_bytes());
            assert_eq!(answer.status, 431);
            assert!(answer.json()["error"].as_str().unwrap().contains("16384 bytes"), "{}", answer.body);
        }
        // The request before the bad one is answered first.
        let mut stream = collector.connect();
        stream
            .write_all(format!("GET /ready HTTP/1.1\r\nHost: c\r\n\r\n{}", head(0, 20_000)).as_bytes())
            .unwrap();
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers);
        let answers = String::from_utf8(answers).unwrap();
        let at = |text: &str| answers.find(text).unwrap_or_else(|| panic!("no {text} in {answers}"));
        assert!(at("HTTP/1.1 200") < at("HTTP/1.1 431"));
        // HTTP has no urgent bytes: one is a byte like any other.
        let mut stream = collector.connect();
        stream.write_all(b"GET /rea").unwrap();
        socket2::SockRef::from(&stream).send_out_of_band(b"d").unwrap();
        stream.write_all(b"y HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(Answer::parse(&answer).status, 200);
        // Answers come in the order of the requests, also if a body has an empty line.
        let body = "{\"mode\":\"IDLE\",\r\n\r\n\"uptime_seconds\":5}\r\n\r\n";
        let beat =
            format!("POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let mut stream = collector.connect();
        let last = "GET /health HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n";
        let many = "GET /nothing HTTP/1.1\r\nHost: c\r\n\r\n".repeat(500);
        stream.write_all(format!("{beat}{many}{beat}{last}").as_bytes()).unwrap();
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers);
        let answers = String::from_utf8(answers).unwrap();
        let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses.len(), 503);
        assert_eq!((statuses[0], statuses[501], statuses[502]), ("200", "200", "200"));
        assert!(statuses[1..501].iter().all(|&status| status == "404"));
    });
}

#[test]
fn absurd_lengths_and_versions_leave_nothing_behind() {
    let _alone = alone();
    attack(&[], |collector| {
        for _ in 0..300 {
            let long = b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: 100000000000000\r\n\r\n";
            assert_eq!(collector.raw(long).status, 413);
            assert_eq!(collector.raw(b"GET / HTTP/2.0\r\nHost: c\r\nConnection: close\r\n\r\n").status, 505);
        }
        none_is_held(collector);
    });
}

/// Only the client that asks and the honest client are connected.
fn none_is_held(collector: &Collector) {
    collector.poll("none is held", || collector.metric("connections") <= 2.0);
}

/// The request stands behind one whose answer ends the connection.
#[test]
fn a_request_after_the_last_one_is_not_answered() {
    let _alone = alone();
    attack(&[], |collector| {
        let last = "GET /agents HTTP/1.0\r\nHost: c\r\nConnection: close\r\n\r\n";
        let behind = "POST /heartbeat/behind HTTP/1.1\r\nHost: c\r\nContent-Length: 34\r\n\r\n";
        let bytes = format!("{last}{behind}{}", r#"{"mode":"IDLE","uptime_seconds":5}"#);
        let mut held = hold(collector, 30, bytes.as_bytes());
        for stream in &mut held {
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert_eq!(Answer::parse(&answer).status, 200);
        }
        // The clients keep their ends open.
        none_is_held(collector);
        drop(held);
        assert_eq!(collector.get("/agents/behind").status, 404);
    });
}

/// Bytes after a handshake are frames: they are not read as a request.
#[test]
fn a_request_after_a_handshake_is_dropped() {
    let _alone = alone();
    let poison = format!("TE: {}\r\n", "a;q=nan, a;q=0.1, a;q=0.5, ".repeat(30));
    attack(&[], |collector| {
        let open = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        for length in ["18446744073709551615", "100000000000000", "60000"] {
            for connection in ["Connection: keep-alive\r\nConnection: Upgrade\r\n", "Connection: Upgrade\r\n"]
            {
                let behind =
                    format!("POST /heartbeat/x HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\n\r\n");
                let bytes = format!("GET /observe HTTP/1.1\r\nHost: c\r\n{connection}{open}\r\n{behind}");
                drop(hold(collector, 20, bytes.as_bytes()));
                let poisoned =
                    format!("GET /observe HTTP/1.1\r\nHost: c\r\n{connection}{open}{poison}\r\n{behind}");
                for stream in hold(collector, 20, poisoned.as_bytes()) {
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                }
            }
        }
        assert!(collector.logged(said::BUG_IN) == 0, "{:?}", collector.log());
    });
}

/// Clients offer to change the protocol, with and without a body, and then keep the
/// connection open.
#[test]
fn offers_to_upgrade_hold_up_nobody() {
    let _alone = alone();
    attack(&[], |collector| {
        let upgrade = "Connection: Upgrade\r\nUpgrade: h2c\r\n";
        let mut held =
            hold(collector, 20, format!("GET /health HTTP/1.1\r\nHost: c\r\n{upgrade}\r\n").as_bytes());
        let without = format!("POST /heartbeat/a HTTP/1.1\r\nHost: c\r\n{upgrade}\r\n");
        held.extend(hold(collector, 20, without.as_bytes()));
        for stream in &mut held {
            assert!(
                stream.read(&mut [0; 512]).unwrap() > 0,
                "the request is answered while the client stays connected"
            );
        }
    });
}

#[test]
fn upgrades_that_are_not_ours() {
    let _alone = alone();
    attack(&[], |collector| {
        let body = r#"{"mode":"IDLE","uptime_seconds":1}"#;
        for _ in 0..20 {
            let h2c =
                ["Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"];
            assert_eq!(collector.request("GET", "/health", &h2c, "").status, 200);
            let length = body.len();
            let headers = h2c.join("\r\n");
            let request = format!(
                "POST /heartbeat/java HTTP/1.1\r\nHost: c\r\n{headers}\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            assert_eq!(
                collector.raw(request.as_bytes()).status,
                200,
                "a client that would rather have HTTP/2"
            );
        }
        let websocket = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"];
        assert_eq!(collector.request("GET", "/heartbeat/a", &websocket, "").status, 405);
    });
}
