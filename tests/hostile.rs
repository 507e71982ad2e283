//! What a bad neighbour can send, against the real binary. While each attack
//! runs, honest heartbeats on fresh connections are answered within a second;
//! after it threads, descriptors and memory are back near where they were.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use support::{Answer, Collector, PATIENCE, command, uuid, wait};

/// What an honest heartbeat may take while somebody attacks.
const HONEST: Duration = Duration::from_secs(1);
/// One in twenty may meet a moment at which the machine does something else, as
/// long as a client would wait.
const LONGEST: Duration = Duration::from_secs(5);

/// An attack is measured against what an idle machine can do, so these tests
/// run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Beats honestly, each time on a fresh connection, until told to stop.
struct Honest {
    stop: Arc<AtomicBool>,
    beats: Arc<AtomicUsize>,
    thread: JoinHandle<Result<Duration, String>>,
}

impl Honest {
    fn start(port: u16) -> Self {
        let (stop, beats) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&beats));
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                times.push(honest_beat(port)?);
                counted.fetch_add(1, Ordering::Relaxed);
                wait(Duration::from_millis(10));
            }
            times.sort_unstable();
            if times[times.len() * 19 / 20] > HONEST {
                return Err(format!("honest heartbeats took long: {times:?}"));
            }
            Ok(times[times.len() - 1])
        });
        Self { stop, beats, thread }
    }

    /// Lets it beat `more` times, then ends it. Nothing may have gone wrong.
    fn finish(self, more: usize) -> Duration {
        let target = self.beats.load(Ordering::Relaxed) + more;
        let give_up = Instant::now() + PATIENCE;
        while self.beats.load(Ordering::Relaxed) < target && !self.thread.is_finished() {
            assert!(Instant::now() < give_up);
            wait(Duration::from_millis(5));
        }
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap()
    }
}

fn honest_beat(port: u16) -> Result<Duration, String> {
    let started = Instant::now();
    let beat = || -> std::io::Result<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = r#"{"mode":"IDLE","uptime_seconds":5}"#;
        stream.write_all(format!("POST /heartbeat/honest HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(Answer::parse(&answer).status)
    };
    let status = beat().map_err(|error| format!("an honest heartbeat failed: {error}"))?;
    let took = started.elapsed();
    if status != 200 {
        return Err(format!("an honest heartbeat was answered {status}"));
    }
    if took > LONGEST {
        return Err(format!("an honest heartbeat took {took:?}"));
    }
    Ok(took)
}

/// The first number of a line of proc_pid_status(5).
fn status(collector: &Collector, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", collector.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Threads, descriptors and kilobytes of memory of a process.
fn usage(collector: &Collector) -> (usize, usize, usize) {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", collector.child.id())).unwrap().count();
    (status(collector, "Threads:"), descriptors, status(collector, "VmRSS:"))
}

/// By how many descriptors the collector holds the connection from this port:
/// `/proc/net/tcp`, whose tenth field is the socket's inode.
fn holds(collector: &Collector, client: u16) -> usize {
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/net/{table}")).unwrap());
    let mut rows = tables.iter().flat_map(|table| table.lines().skip(1)).map(str::split_ascii_whitespace);
    let ends = [collector.port, client].map(|port| format!(":{port:04X}"));
    let is_it = |row: &[&str]| row[1].ends_with(&ends[0]) && row[2].ends_with(&ends[1]);
    let inode = rows.find_map(|row| {
        let row: Vec<_> = row.collect();
        is_it(&row).then(|| format!("socket:[{}]", row[9]))
    });
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", collector.child.id())).unwrap();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_str() == inode.as_deref()).count()
}

/// Runs an attack beside honest heartbeats, then waits until things are as
/// they were.
fn attack(variables: &[(&str, &str)], attack: impl FnOnce(&Collector)) {
    let collector = Collector::start(&[&[("RUST_LOG", "info,pap_collector=info")], variables].concat());
    under_attack(&collector, attack);
}

fn under_attack(collector: &Collector, attack: impl FnOnce(&Collector)) {
    let honest = Honest::start(collector.port);
    wait_for(|| honest.beats.load(Ordering::Relaxed) > 5);
    let before = usage(collector);
    attack(collector);
    let slowest = honest.finish(20);
    println!("the slowest honest heartbeat took {slowest:.1?}");
    let most = (before.0 + 24, before.1 + 48, before.2 + 24 * 1024);
    println!("threads, descriptors and kilobytes: {before:?} before, {:?} now", usage(collector));
    collector.poll(&format!("no more than {most:?} are in use"), || {
        let now = usage(collector);
        now.0 <= most.0 && now.1 <= most.1 && now.2 <= most.2
    });
    assert_eq!(collector.get("/ready").status, 200);
}

fn wait_for(done: impl Fn() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < give_up, "waited in vain");
        wait(Duration::from_millis(5));
    }
}

/// Many connections that each send these bytes and then wait.
fn hold(collector: &Collector, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    (0..count)
        .map(|_| {
            let mut stream = collector.connect();
            // It may be refused and closed at once.
            let _ = stream.write_all(bytes);
            stream
        })
        .collect()
}

/// Waits until the other side has closed all of them.
fn await_closed(streams: Vec<TcpStream>) {
    for mut stream in streams {
        let mut rest = Vec::new();
        // Closed with an answer, without one or with a reset: closed.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it was not closed");
        }
    }
}

#[test]
fn stalled_heads_bodies_and_chunks() {
    let _alone = alone();
    attack(&[], |collector| {
        let mut held = hold(collector, 30, b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Le");
        held.extend(hold(
            collector,
            30,
            b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: 500\r\n\r\n{",
        ));
        held.extend(hold(
            collector,
            30,
            b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: 5000\r\n\r\n{",
        ));
        held.extend(hold(
            collector,
            30,
            b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        ));
        held.extend(hold(
            collector,
            30,
            b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        ));
        held.extend(hold(
            collector,
            4,
            b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: 9\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n",
        ));
        await_closed(held);
    });
}

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
        // An endless head, as fast as it goes.
        let mut stream = collector.connect();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: c\r\nx: ").unwrap();
        let started = Instant::now();
        while stream.write_all(&vec![b'y'; 64 * 1024]).is_ok() {
            assert!(started.elapsed() < PATIENCE, "it is read for ever");
        }
    });
}

#[test]
fn requests_and_heads_fill_no_memory() {
    let _alone = alone();
    attack(&[], |collector| {
        let before = usage(collector).2;
        let line = |length: usize| format!("GET /health HTTP/1.1\r\nHost: c\r\nx: {}", "x".repeat(length));
        for bytes in [
            "GET /health HTTP/1.1\r\nHost: c\r\n\r\n".repeat(1600),
            format!("GET /health HTTP/1.1\r\nHost: c\r\n{}", "a:b\r\n".repeat(11_000)),
            line(55_000),
            line(16_000),
        ] {
            let held = hold(collector, 200, bytes.as_bytes());
            assert_eq!(collector.get("/ready").status, 200);
            drop(held);
        }
        let most = status(collector, "VmHWM:");
        println!("{before} KB before, {most} KB at most");
        assert!(most < before + 24 * 1024, "{before} KB before, {most} KB at most");
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
        // What was asked before is answered before.
        let mut stream = collector.connect();
        stream
            .write_all(format!("GET /ready HTTP/1.1\r\nHost: c\r\n\r\n{}", head(0, 20_000)).as_bytes())
            .unwrap();
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers);
        let answers = String::from_utf8(answers).unwrap();
        let at = |text: &str| answers.find(text).unwrap_or_else(|| panic!("no {text} in {answers}"));
        assert!(at("HTTP/1.1 200") < at("HTTP/1.1 431"));
        // HTTP has no urgent bytes.
        let mut stream = collector.connect();
        stream.write_all(b"GET /rea").unwrap();
        socket2::SockRef::from(&stream).send_out_of_band(b"d").unwrap();
        stream.write_all(b"y HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(Answer::parse(&answer).status, 400);
        // Each comes in its turn, also where a body has an empty line.
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

/// Clients that do not wait for an answer.
#[test]
fn who_sends_and_resets_at_once_is_heard() {
    let _alone = alone();
    let collector = Collector::start(&[]);
    let beat = |agent: &str| {
        let body = r#"{"mode":"SLEEP","uptime_seconds":5}"#;
        format!("POST /heartbeat/{agent} HTTP/1.1\r\nHost: c\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    for number in 0..20 {
        let mut stream = collector.connect();
        let client = stream.local_addr().unwrap().port();
        collector.poll("the library holds it by two descriptors", || holds(&collector, client) == 2);
        if number >= 10 {
            // One that has been heard before.
            stream.write_all(beat("known").as_bytes()).unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        }
        // When it is read, the client is gone already.
        collector.signal("STOP");
        stream.write_all(beat(&uuid(number)).as_bytes()).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        collector.signal("CONT");
        let path = format!("/agents/{}", uuid(number));
        collector.poll("it is heard", || collector.get(&path).status == 200);
    }
}

/// What was closed a quarter of a second ago and is still held is leaked.
fn none_is_held(collector: &Collector) {
    wait(Duration::from_millis(600));
    collector.poll("none is held", || collector.metric("connections_leaked") < 1.0);
}

/// Each of these would block a thread of tiny_http for ever.
#[test]
fn what_the_library_would_leak_never_reaches_it() {
    let _alone = alone();
    attack(&[], |collector| {
        for _ in 0..300 {
            let long = b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: 100000000000000\r\n\r\n";
            assert_eq!(collector.raw(long).status, 413);
            assert_eq!(collector.raw(b"GET / HTTP/2.0\r\nHost: c\r\nConnection: close\r\n\r\n").status, 505);
        }
        none_is_held(collector);
        assert!(!collector.log().iter().any(|line| line.contains("going on")), "nothing is left to free");
    });
}

/// Behind an answer whose end is the end of the connection.
#[test]
fn what_is_sent_behind_the_last_answer_is_not_heard() {
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
        // The clients go on holding their ends.
        none_is_held(collector);
        drop(held);
        assert_eq!(collector.get("/agents/behind").status, 404);
    });
}

/// Offers to change the protocol, with and without a body, from clients that
/// then stay: behind those tiny_http would read for ever.
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
            assert!(stream.read(&mut [0; 512]).unwrap() > 0, "it is answered while it stays");
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

#[test]
fn resets_before_and_after_accept() {
    let _alone = alone();
    attack(&[], |collector| {
        for round in 0..400 {
            let mut stream = collector.connect();
            if round % 2 == 0 {
                let _ = stream.write_all(b"GET /agents HTTP/1.1\r\nHost: c\r\n\r\nPOST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: -1\r\n\r\nGET / HTTP/1.1\r\nHost: c\r\n\r\n");
            }
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
}

#[test]
fn pipelining_without_reading() {
    let _alone = alone();
    attack(&[], |collector| {
        for number in 0..200 {
            collector.beat(&uuid(number), "SLEEP", 1.0);
        }
        let many = |request: &str| request.repeat(2000).into_bytes();
        let mut held = hold(collector, 3, &many("GET /agents HTTP/1.1\r\nHost: c\r\n\r\n"));
        held.extend(hold(collector, 3, &many("GET /health HTTP/1.1\r\nHost: c\r\n\r\n")));
        let mixed = "GET /agents HTTP/1.1\r\nHost: c\r\n\r\nGET /health HTTP/1.1\r\nHost: c\r\n\r\nPOST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: -1\r\n\r\n";
        held.extend(hold(collector, 3, &many(mixed)));
        // Of the big ones only what fits into buffers is taken.
        collector.poll("those are given up", || collector.metric("connections") < 8.0);
        drop(held);
    });
}

/// The page is small enough for a worker, but a few of them fill a buffer.
#[test]
fn pages_that_nobody_takes_hold_up_nobody() {
    let _alone = alone();
    attack(&[("COLLECTOR_HTTP_WORKERS", "2")], |collector| {
        let page = "GET / HTTP/1.1\r\nHost: c\r\nAccept: text/html\r\n\r\n";
        let held = hold(collector, 12, page.repeat(200).as_bytes());
        let ask = |_: usize| {
            let started = Instant::now();
            assert_eq!(collector.get("/ready").status, 200);
            started.elapsed()
        };
        let times: Vec<_> = (0..40).map(ask).collect();
        // Once the machine may do something else.
        assert!(times.iter().filter(|&&took| took > HONEST).count() <= 1, "{times:?}");
        assert!(times.iter().all(|&took| took < LONGEST), "{times:?}");
        drop(held);
    });
}

#[test]
fn bodies_that_do_not_come_hold_up_no_other() {
    let _alone = alone();
    attack(&[], |collector| {
        let h2c =
            "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
        let head = format!("POST /heartbeat/late HTTP/1.1\r\nHost: c\r\n{h2c}Content-Length: 34\r\n\r\n");
        let empty = hold(collector, 200, head.as_bytes());
        let mut slow = collector.connect();
        slow.write_all(format!("{head}{{\"mode\":\"IDLE\",").as_bytes()).unwrap();
        let started = Instant::now();
        let whole = format!("{head}{}", r#"{"mode":"IDLE","uptime_seconds":5}"#);
        assert_eq!(collector.raw(whole.as_bytes()).status, 200);
        // Those that do not come are closed after 10 s.
        assert!(started.elapsed() < 3 * HONEST, "{:?}", started.elapsed());
        slow.write_all(br#""uptime_seconds":5}"#).unwrap();
        let mut answer = Vec::new();
        slow.read_to_end(&mut answer).unwrap();
        assert_eq!(Answer::parse(&answer).status, 200, "one that comes in pieces");
        await_closed(empty);
    });
}

#[test]
fn who_reads_slowly_makes_room_for_others() {
    let _alone = alone();
    attack(&[], |collector| {
        let mut stream = collector.connect();
        for number in 0..4000 {
            let body = r#"{"mode":"SLEEP","uptime_seconds":5}"#;
            let head = format!(
                "POST /heartbeat/{} HTTP/1.1\r\nHost: c\r\nContent-Length: {}",
                uuid(number),
                body.len()
            );
            stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        }
        let slow: Vec<_> = (0..12).map(|_| slow_reader(collector)).collect();
        collector.poll("the slow ones are being answered", || {
            slow.iter().filter(|stream| stream.peek(&mut [0]).is_ok()).count() >= 4
        });
        // They do take something, and so are not stalled.
        let enough = AtomicBool::new(false);
        let answer = thread::scope(|scope| {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    for mut stream in &slow {
                        let _ = stream.read(&mut [0; 512]);
                    }
                    wait(Duration::from_millis(100));
                }
            });
            let answer = collector.get("/agents");
            enough.store(true, Ordering::Relaxed);
            answer
        });
        assert_eq!(answer.json()["stats"]["total"], 4001, "{}", answer.status);
    });
}

/// Nothing behind a handshake is read, and what is not read asks for nothing.
#[test]
fn what_is_sent_behind_a_handshake_is_let_go_of() {
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
        assert!(!collector.log().iter().any(|line| line.contains("bug in")), "{:?}", collector.log());
    });
}

#[test]
fn bodies_are_not_waited_for_where_the_slow_lanes_are_full() {
    let _alone = alone();
    attack(&[], |collector| {
        let mut all = Vec::new();
        for round in 0..40 {
            all.extend(hold(collector, 10, "GET /metrics HTTP/1.1\r\nHost: c\r\n\r\n".repeat(50).as_bytes()));
            let length = ["60000", "18446744073709551615", "2000"][round % 3];
            let bytes = format!("GET /metrics HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\n\r\n");
            all.extend(hold(collector, 4, bytes.as_bytes()));
        }
        assert!(!collector.log().iter().any(|line| line.contains("bug in")), "{:?}", collector.log());
        drop(all);
    });
}

/// Asks for all agents and takes next to nothing of the answer.
fn slow_reader(collector: &Collector) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], collector.port));
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET /agents HTTP/1.1\r\nHost: c\r\n\r\n").unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

#[test]
fn three_thousand_connections_with_a_thousand_descriptors() {
    let _alone = alone();
    let mut limited = command(&[("CLUSTER_ID", "test-cluster"), ("COLLECTOR_PORT", "0")]);
    limit(&mut limited, rustix::process::Resource::Nofile, 1024);
    let collector = Collector::spawn(limited.stdout(Stdio::null()));
    // This process needs descriptors of its own.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let raised = rustix::process::Rlimit { current: most, maximum: most };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    under_attack(&collector, |collector| {
        for _ in 0..3 {
            let held = hold(collector, 3000, b"");
            drop(held);
        }
    });
}

/// A collector of a user that may have so many threads and no more. None where
/// we are not root: limits on threads do not hold for root, so it must run as
/// somebody else.
fn with_few_threads(most: u64) -> Option<(Collector, tempfile::TempDir)> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root, so no other user can be had");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("pap-collector");
    std::fs::copy(support::program(), &program).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let mut limited = std::process::Command::new(&program);
    limited.env_clear().envs([
        ("CLUSTER_ID", "test-cluster"),
        ("COLLECTOR_PORT", "0"),
        ("COLLECTOR_BIND", "127.0.0.1"),
    ]);
    limit(&mut limited, rustix::process::Resource::Nproc, most);
    // The limit counts all that a user runs: this one is ours alone.
    let user = 50_000 + std::process::id() % 10_000;
    limited.uid(user).gid(user).stdin(Stdio::null()).stdout(Stdio::null());
    Some((Collector::spawn(&mut limited), directory))
}

#[test]
fn a_system_without_threads() {
    let _alone = alone();
    let Some((collector, _directory)) = with_few_threads(80) else { return };
    under_attack(&collector, |collector| {
        for _ in 0..10 {
            drop(hold(collector, 300, b"GET / HTT"));
        }
    });
}

fn limit(command: &mut std::process::Command, resource: rustix::process::Resource, most: u64) {
    let limits = rustix::process::Rlimit { current: Some(most), maximum: Some(most) };
    let set = move || rustix::process::setrlimit(resource, limits).map_err(std::io::Error::from);
    #[expect(unsafe_code, reason = "limits are set between fork and exec")]
    // SAFETY: setrlimit is one system call, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(set);
    }
}

/// Where threads are short again and again, accept loops end and are replaced;
/// what they leave behind is freed.
#[test]
fn what_piles_up_is_freed_by_a_fresh_image() {
    let _alone = alone();
    let Some((mut collector, _directory)) = with_few_threads(400) else { return };
    for number in 0..20 {
        collector.beat(&uuid(number), "SLEEP", 7.0);
    }
    // Only its own user may set it.
    let allow = |most: u32| {
        let (id, limit) = (collector.child.id().to_string(), format!("--nproc={most}:400"));
        let user = u32::try_from(status(&collector, "Uid:")).unwrap();
        let mut prlimit = std::process::Command::new("prlimit");
        assert!(prlimit.args(["--pid", &id, &limit]).uid(user).gid(user).status().unwrap().success());
    };
    let count = |text: &str| collector.log().iter().filter(|line| line.contains(text)).count();
    for round in 1.. {
        // More connections than there are idle threads.
        allow(1);
        let held = hold(&collector, 6, b"");
        collector.poll("an accept loop ends", || count("no new accept loop yet") >= round);
        allow(400);
        collector.poll("it is replaced", || collector.get("/ready").status == 200);
        drop(held);
        if count("going on where") > 0 {
            break;
        }
        assert!(round < 30, "nothing is freed; log:\n{}", collector.log().join("\n"));
    }
    collector
        .poll("the state is kept", || collector.get("/agents").json()["stats"]["by_mode"]["SLEEP"] == 20);
    assert!(collector.child.try_wait().unwrap().is_none());
}

#[test]
fn more_agents_than_allowed() {
    let _alone = alone();
    attack(&[("COLLECTOR_MAX_AGENTS", "1000")], |collector| {
        let mut stream = collector.connect();
        let body = r#"{"mode":"IDLE","uptime_seconds":1}"#;
        let (mut taken, mut refused) = (0, 0);
        for number in 0..20_000 {
            let length = body.len();
            stream
                .write_all(
                    format!(
                        "POST /heartbeat/flood-{number} HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\n\r\n{body}"
                    )
                    .as_bytes(),
                )
                .unwrap();
            let mut answer = [0; 1024];
            let length = stream.read(&mut answer).unwrap();
            match Answer::parse(&answer[..length]).status {
                200 => taken += 1,
                503 => refused += 1,
                other => panic!("{other}"),
            }
        }
        assert_eq!((taken, refused), (999, 19_001), "the honest one is the thousandth");
    });
}

#[test]
fn beyond_the_most_connections_the_longest_idle_go() {
    let _alone = alone();
    attack(&[("COLLECTOR_MAX_CONNECTIONS", "50")], |collector| {
        let held = hold(collector, 400, b"");
        // The guard looks now and then; until it has, the gauge is old.
        let closed = || collector.metric("connections_closed_total{reason=\"surplus\"}");
        collector
            .poll("the surplus is closed", || closed() > 300.0 && collector.metric("connections") <= 60.0);
        drop(held);
    });
}
