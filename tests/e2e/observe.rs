//! The stream to observers, over real sockets: with a WebSocket library, and byte by
//! byte.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Answer, Collector, said, slow, uuid};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::HeaderValue;
use tungstenite::{Error, Message, WebSocket};

const UPGRADE: [&str; 4] = [
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// Sends a handshake with these headers; returns the connection and the answer.
fn handshake(collector: &Collector, method: &str, path: &str, headers: &[&str]) -> (TcpStream, Answer) {
    let mut stream = collector.connect();
    let lines = headers.join("\r\n");
    let host = format!("127.0.0.1:{}", collector.port);
    stream
        .write_all(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n\r\n").as_bytes())
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let answer = Answer::parse(&head);
    (stream, answer)
}

struct Observer(WebSocket<TcpStream>);

impl Observer {
    fn open(collector: &Collector, path: &str) -> Self {
        Self::with(collector, path, &[]).unwrap()
    }

    fn with(collector: &Collector, path: &str, headers: &[(&'static str, &str)]) -> Result<Self, String> {
        let mut request = format!("ws://127.0.0.1:{}{path}", collector.port).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
        }
        let stream = collector.connect();
        tungstenite::client(request, stream).map(|(web, _)| Self(web)).map_err(|error| error.to_string())
    }

    /// The next message that is text.
    fn next(&mut self) -> Value {
        loop {
            match self.0.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// The next message of this type.
    fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next();
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// Reads until the other side closes, and returns the code.
    fn close_code(&mut self) -> u16 {
        loop {
            match self.0.read() {
                Ok(Message::Close(Some(frame))) => return frame.code.into(),
                Ok(_) => {}
                Err(error) => panic!("no goodbye: {error}"),
            }
        }
    }
}

/// One frame as a client sends it (RFC 6455 §5.2), masked with zeros.
fn frame(opcode: u8, is_last: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![opcode | if is_last { 0x80 } else { 0 }];
    if let Ok(length @ 0..=125) = u8::try_from(payload.len()) {
        frame.push(0x80 | length);
    } else {
        frame.push(0xfe);
        frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Reads frames until the close frame, and returns its code.
fn goodbye(stream: &mut TcpStream) -> u16 {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                u16::from_be_bytes(length)
            }
            length => length.into(),
        };
        let mut payload = vec![0; length.into()];
        stream.read_exact(&mut payload).unwrap();
        if head[0] == 0x88 {
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
    }
}

#[test]
fn only_a_handshake_opens_a_stream() {
    let collector = Collector::start(&[]);
    let status = |method, path, headers: &[&str]| handshake(&collector, method, path, headers).1.status;
    assert_eq!(status("GET", "/observe/a", &UPGRADE), 101);
    assert_eq!(status("GET", "/observe", &UPGRADE), 101);
    assert_eq!(status("GET", "/observe/a", &[]), 400);
    assert_eq!(status("POST", "/observe/a", &UPGRADE), 405);
    assert_eq!(status("GET", "/observe/%zz", &UPGRADE), 400);
    assert_eq!(status("GET", "/heartbeat/a", &UPGRADE), 405);
    let without =
        |name: &str| -> Vec<&str> { UPGRADE.into_iter().filter(|line| !line.starts_with(name)).collect() };
    assert_eq!(status("GET", "/observe/a", &without("Upgrade")), 400);
    assert_eq!(status("GET", "/observe/a", &without("Connection")), 400);
    assert_eq!(status("GET", "/observe/a", &without("Sec-WebSocket-Key")), 400);
    let short = [&without("Sec-WebSocket-Key")[..], &["Sec-WebSocket-Key: c2hvcnQ="]].concat();
    assert_eq!(status("GET", "/observe/a", &short), 400);
    for version in ["12", "14", "8, 13"] {
        let version = format!("Sec-WebSocket-Version: {version}");
        let (_, answer) = handshake(
            &collector,
            "GET",
            "/observe/a",
            &[&without("Sec-WebSocket-Version")[..], &[&version]].concat(),
        );
        assert_eq!((answer.status, answer.header("Sec-WebSocket-Version")), (426, Some("13")));
    }
    let (_, answer) = handshake(&collector, "GET", "/observe/a", &UPGRADE);
    assert_eq!(answer.header("Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 §1.3");
    let (_, answer) = handshake(
        &collector,
        "GET",
        "/observe/a",
        &[&UPGRADE[..], &["Sec-WebSocket-Protocol: other, pap.observe"]].concat(),
    );
    assert_eq!(answer.header("Sec-WebSocket-Protocol"), Some("pap.observe"));
    // A browser that shows a page of another site.
    let origin = |origin: &str| status("GET", "/observe", &[&UPGRADE[..], &[origin]].concat());
    assert_eq!(origin("Origin: http://evil.example"), 403);
    assert_eq!(origin("Origin: null"), 403);
    assert_eq!(origin(&format!("Origin: http://127.0.0.1:{}", collector.port)), 101);
    collector.poll("all streams are closed", || collector.metric("observers") == 0.0);
}

/// A proxy may send another `Host` than the one that the browser has asked.
#[test]
fn a_page_that_can_read_our_answers_may_observe_through_any_proxy() {
    let collector = Collector::start(&[]);
    let list = collector.get("/agents");
    let ticket = list.header("X-Collector-Ticket").unwrap();
    assert_eq!((ticket.len(), list.header("Cache-Control")), (22, Some("no-store")));
    let open = |protocol: &str| {
        let protocol = format!("Sec-WebSocket-Protocol: pap.observe, {protocol}");
        let headers = [&UPGRADE[..], &["Origin: https://pap.example", &protocol]].concat();
        handshake(&collector, "GET", "/observe", &headers).1
    };
    let opened = open(&format!("pap.ticket.{ticket}"));
    assert_eq!((opened.status, opened.header("Sec-WebSocket-Protocol")), (101, Some("pap.observe")));
    let mut other = ticket.to_owned();
    other.replace_range(..1, if ticket.starts_with('A') { "B" } else { "A" });
    for wrong in [other.as_str(), "", &ticket[..21], &format!("{ticket}A")] {
        assert_eq!(open(&format!("pap.ticket.{wrong}")).status, 403, "{wrong}");
    }
    assert_eq!(open(&format!("pap.key.{ticket}")).status, 403);
    let another = Collector::start(&[]);
    assert_ne!(another.get("/agents").header("X-Collector-Ticket"), Some(ticket));
}

#[test]
fn who_finds_no_stream_learns_why_without_a_handshake() {
    let collector = Collector::start(&[("COLLECTOR_MAX_OBSERVERS", "1")]);
    let no_upgrade = collector.get("/observe");
    assert_eq!(no_upgrade.status, 400);
    assert!(no_upgrade.body.contains("which a proxy must pass on"), "{}", no_upgrade.body);
    let _first = Observer::open(&collector, "/observe");
    let full = collector.get("/observe");
    assert_eq!(full.status, 503);
    assert!(full.body.contains("COLLECTOR_MAX_OBSERVERS"), "{}", full.body);
}

#[test]
fn with_a_key_set_only_clients_that_have_it_observe() {
    let collector = Collector::start(&[("COLLECTOR_API_KEY", "s3cret")]);
    let open = |headers: &[(&'static str, &str)]| Observer::with(&collector, "/observe", headers);
    for wrong in [
        &[][..],
        &[("X-Collector-Key", "other")],
        &[("Sec-WebSocket-Protocol", "pap.observe, pap.key.b3RoZXI")],
    ] {
        assert!(open(wrong).err().unwrap().contains("401"), "{wrong:?}");
    }
    for right in [
        ("X-Collector-Key", "s3cret"),
        ("Authorization", "Bearer s3cret"),
        // base64url of the key
        ("Sec-WebSocket-Protocol", "pap.observe, pap.key.czNjcmV0"),
    ] {
        assert_eq!(open(&[right]).unwrap().next()["type"], "initial", "{right:?}");
    }
    let list = collector.request("GET", "/agents", &["X-Collector-Key: s3cret"], "");
    assert_eq!((list.status, list.header("X-Collector-Ticket")), (200, None), "the key is the ticket");
    // A client with the key may come from any site.
    let elsewhere = [("Origin", "http://elsewhere.example"), ("X-Collector-Key", "s3cret")];
    assert!(open(&elsewhere).is_ok());
}

#[test]
fn an_observer_sees_an_agent_live_die_and_come_back() {
    let collector = Collector::start(&[]);
    let mut one = Observer::open(&collector, "/observe/a%2Fb@1");
    let mut all = Observer::open(&collector, "/observe");
    assert_eq!(
        one.next(),
        json!({"type": "initial", "cluster_id": "test-cluster", "agent": {"agent_uuid": "a/b@1", "status": "unknown"}})
    );
    assert_eq!(all.next()["stats"]["total"], 0);
    collector.beat("a%2Fb@1", "EMERGENCY", 5.5);
    let beat = one.next();
    assert_eq!((&beat["type"], &beat["cluster_id"]), (&json!("heartbeat"), &json!("test-cluster")));
    assert_eq!(beat["agent"]["uptime_seconds"], 5.5);
    assert_eq!(beat["agent"]["observation_mode"], true);
    assert!(beat["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(all.next_of("alert")["alert"]["type"], "EMERGENCY_MODE");
    let agent = collector.get("/agents/a%2Fb@1").json()["agent"].clone();
    assert_eq!(agent["observation_mode"], true);
    assert_eq!(collector.get("/agents").json()["stats"]["observed"], 1);
    assert_eq!(collector.metric("observations_active"), 1.0);
    // Silence.
    for status in ["suspect", "dead"] {
        assert_eq!(one.next_of("status")["agent"]["status"], status);
        assert_eq!(all.next_of("status")["agent"]["status"], status);
    }
    let death = all.next_of("alert")["alert"].clone();
    assert_eq!((&death["type"], &death["agent_uuid"]), (&json!("AGENT_DEATH"), &json!("a/b@1")));
    // The agent is back, is forgotten, and is back again; the observer stays.
    collector.beat("a%2Fb@1", "IDLE", 20.0);
    assert_eq!(all.next_of("status")["agent"]["status"], "healthy");
    assert_eq!(one.next_of("heartbeat")["agent"]["mode"], "IDLE");
    assert_eq!(collector.request("DELETE", "/agents/a%2Fb@1", &[], "").status, 200);
    collector.beat("a%2Fb@1", "IDLE", 1.0);
    assert_eq!(one.next_of("heartbeat")["agent"]["consecutive_heartbeats"], 1);
    drop(one);
    collector.poll("nobody watches it any more", || {
        collector.get("/agents/a%2Fb@1").json()["agent"]["observation_mode"] == false
    });
}

#[test]
fn what_a_client_sends_is_answered_or_ends_its_stream() {
    let collector = Collector::start(&[]);
    let mut observer = Observer::open(&collector, "/observe/a");
    observer.next();
    observer.0.send(Message::text(r#"{"type":"ping"}"#)).unwrap();
    assert_eq!(observer.next()["type"], "pong");
    observer.0.send(Message::text("hello")).unwrap();
    assert_eq!(observer.next()["type"], "error");
    observer.0.send(Message::Ping(b"abc".to_vec().into())).unwrap();
    assert_eq!(observer.0.read().unwrap(), Message::Pong(b"abc".to_vec().into()));
    observer.0.close(None).unwrap();
    assert!(matches!(observer.0.read(), Ok(Message::Close(_)) | Err(Error::ConnectionClosed)));

    let ends_with = |bytes: &[u8]| {
        let (mut stream, answer) = handshake(&collector, "GET", "/observe/a", &UPGRADE);
        assert_eq!(answer.status, 101);
        stream.write_all(bytes).unwrap();
        goodbye(&mut stream)
    };
    assert_eq!(ends_with(&frame(2, true, b"binary")), 1003);
    assert_eq!(ends_with(&frame(1, true, &[b'x'; 4097])), 1009);
    let pieces = [frame(1, false, &[b'x'; 4000]), frame(0, true, &[b'x'; 4000])].concat();
    assert_eq!(ends_with(&pieces), 1009, "too long in pieces");
    assert_eq!(ends_with(&frame(1, true, b"\xff\xfe")), 1007);
    assert_eq!(ends_with(&[0x81, 0x01, b'x']), 1002, "unmasked");
    assert_eq!(ends_with(&frame(0, true, b"x")), 1002, "the middle of nothing");
    assert_eq!(ends_with(&frame(11, true, b"x")), 1002, "an unknown opcode");
    assert_eq!(ends_with(&frame(9, true, &[b'x'; 126])), 1002, "a control frame that is too long");
    assert_eq!(ends_with(&[0xf1, 0x81, 0, 0, 0, 0, b'x']), 1002, "reserved bits");
    assert_eq!(ends_with(&[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]), 1009);
    collector.poll("all streams are closed", || collector.metric("observers") == 0.0);
    assert!(!collector.log().iter().any(|line| line.contains("ERROR")), "{:?}", collector.log());
}

#[test]
fn a_slow_network_and_fragments_are_no_obstacle() {
    let collector = Collector::start(&[]);
    let mut stream = collector.connect();
    let head = format!("GET /observe/a HTTP/1.1\r\nHost: c\r\n{}\r\n\r\n", UPGRADE.join("\r\n"));
    let ping =
        [frame(1, false, br#"{"type""#), frame(9, true, b"!"), frame(0, true, br#":"ping"}"#)].concat();
    for &byte in &[head.as_bytes(), &ping].concat() {
        stream.write_all(&[byte]).unwrap();
        thread::yield_now();
    }
    let mut all = Vec::new();
    let mut part = [0; 512];
    while !String::from_utf8_lossy(&all).contains(r#""pong""#) {
        let length = stream.read(&mut part).unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&all));
        all.extend(&part[..length]);
    }
    assert!(all.windows(3).any(|bytes| bytes == b"\x8a\x01!"), "the ping in between was answered too");
}

#[test]
fn as_many_watch_as_are_allowed_and_each_gets_everything() {
    let collector = Collector::start(&[]);
    let mut observers: Vec<_> = (0..64).map(|_| Observer::open(&collector, "/observe/a")).collect();
    for observer in &mut observers {
        observer.next();
    }
    assert!(Observer::with(&collector, "/observe", &[]).err().unwrap().contains("503"));
    for round in 0..50_u32 {
        assert_eq!(collector.beat("a", "IDLE", round.into()).status, 200);
    }
    for observer in &mut observers {
        for round in 0..50 {
            assert_eq!(observer.next()["agent"]["uptime_seconds"], round);
        }
    }
    drop(observers);
    collector.poll("there is room again", || Observer::with(&collector, "/observe", &[]).is_ok());
}

/// The queue of a slow observer overflows. The observer is told so, slows nobody, and
/// in the end is closed.
#[test]
fn an_observer_that_does_not_read_slows_nobody() {
    let collector = Collector::start(&[]);
    let (lazy, mut late) =
        (Observer::open(&collector, "/observe/a"), Observer::open(&collector, "/observe/a"));
    let mut quick = Observer::open(&collector, "/observe/a");
    quick.next();
    let started = Instant::now();
    let (mut beats, mut stream) = (0_u64, collector.connect());
    // More than all buffers hold.
    while collector.metric("observer_lagged_total") < 1.0 || beats < 1000 {
        for _ in 0..500 {
            let body =
                format!(r#"{{"mode":"IDLE","uptime_seconds":{beats},"agent_name":"{}"}}"#, "n".repeat(120));
            let head =
                format!("POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
            assert_eq!(quick.next()["agent"]["uptime_seconds"], beats, "who reads gets everything");
            beats += 1;
        }
        assert!(started.elapsed() < crate::support::PATIENCE, "{beats} heartbeats and nobody lags");
    }
    // An observer that reads again learns that it has missed messages.
    late.next();
    let lagged = late.next_of("lagged");
    assert!(lagged["missed"].as_u64().unwrap() > 0);
    if !slow("the other is given up after 30 seconds") {
        return;
    }
    collector.poll("the lazy one is closed", || collector.metric("observers") == 2.0);
    assert!(started.elapsed() >= Duration::from_secs(30));
    drop(lazy);
}

/// Answers that an observer does not read must not fill the collector's memory.
#[test]
fn an_observer_that_asks_and_does_not_read_is_not_answered_for_ever() {
    let collector = Collector::start(&[]);
    let (mut stream, answer) = handshake(&collector, "GET", "/observe/a", &UPGRADE);
    assert_eq!(answer.status, 101);
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let questions = frame(1, true, b"?").repeat(1000);
    // The kernel's buffers take some of them, the collector's memory does not.
    let sent = (0..20_000).take_while(|_| stream.write_all(&questions).is_ok()).count();
    assert!(sent < 20_000, "{sent} thousand questions were taken");
    assert!(collector.beat("a", "IDLE", 1.0).status == 200);
}

#[test]
fn observers_are_told_when_the_collector_upgrades_or_stops() {
    let mut collector = Collector::start(&[]);
    collector.beat(&uuid(1), "SLEEP", 1.0);
    let mut observer = Observer::open(&collector, "/observe");
    observer.next();
    collector.signal("HUP");
    assert_eq!(observer.close_code(), 1012);
    collector.await_log(said::UPGRADED);
    let mut observer = Observer::open(&collector, "/observe");
    assert_eq!(observer.next()["stats"]["total"], 1);
    collector.signal("TERM");
    assert_eq!(observer.close_code(), 1001);
    assert_eq!(collector.wait(), Some(0));
}
