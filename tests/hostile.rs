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

use support::station::{Answer as Reply, Station};
use support::{Answer, Collector, PATIENCE, command, uuid};

/// What an honest heartbeat may take while somebody attacks.
const HONEST: Duration = Duration::from_secs(1);

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
            let mut slowest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                slowest = slowest.max(honest_beat(port)?);
                counted.fetch_add(1, Ordering::Relaxed);
                wait(Duration::from_millis(10));
            }
            Ok(slowest)
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
    if took > HONEST {
        return Err(format!("an honest heartbeat took {took:?}"));
    }
    Ok(took)
}

fn wait(time: Duration) {
    let _ = crossbeam_channel::never::<()>().recv_timeout(time);
}

/// Threads, descriptors and kilobytes of memory of a process.
fn usage(collector: &Collector) -> (usize, usize, usize) {
    let id = collector.child.id();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let field = |name: &str| -> usize {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let descriptors = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    (field("Threads:"), descriptors, field("VmRSS:"))
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
    let (threads, descriptors, memory) = usage(collector);
    attack(collector);
    let slowest = honest.finish(20);
    println!("the slowest honest heartbeat took {slowest:.1?}");
    collector.poll("threads and descriptors are back", || {
        let (now_threads, now_descriptors, now_memory) = usage(collector);
        now_threads <= threads + 24 && now_descriptors <= descriptors + 48 && now_memory <= memory + 24 * 1024
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
        let mut held = hold(collector, 30, b"POST /heartbeat/a HTTP/1.1\r\nContent-Le");
        held.extend(hold(collector, 30, b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: 500\r\n\r\n{"));
        held.extend(hold(collector, 30, b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: 5000\r\n\r\n{"));
        held.extend(hold(
            collector,
            30,
            b"POST /heartbeat/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        ));
        held.extend(hold(
            collector,
            30,
            b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        ));
        held.extend(hold(
            collector,
            4,
            b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: 9\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
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
                let request =
                    format!("POST /heartbeat/a HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{{}}   ");
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
            let request = format!("POST /heartbeat/a HTTP/1.1\r\n{headers}\r\n\r\n{{}}");
            assert!([400, 411].contains(&collector.raw(request.as_bytes()).status), "{headers}");
        }
        await_closed(hold(
            collector,
            20,
            b"POST /heartbeat/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnonsense\r\n",
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
            b"GET /health HTTP/0.9\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
            (0..=255).collect(),
            "GET /heartbeat/caf\u{e9} HTTP/1.1\r\n\r\n".as_bytes().to_vec(),
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        ];
        heads.push(format!("GET /health HTTP/1.1\r\n{many}\r\n").into_bytes());
        for head in &heads {
            let mut stream = collector.connect();
            let _ = stream.write_all(head);
            let _ = stream.shutdown(Shutdown::Write);
            await_closed(vec![stream]);
        }
        for _ in 0..50 {
            let request = format!("GET /health HTTP/1.1\r\n{nan}Connection: close\r\n\r\n");
            assert_eq!(collector.raw(request.as_bytes()).status, 200);
        }
        // An endless head, as fast as it goes.
        let mut stream = collector.connect();
        stream.write_all(b"GET / HTTP/1.1\r\nx: ").unwrap();
        let started = Instant::now();
        while stream.write_all(&vec![b'y'; 64 * 1024]).is_ok() {
            assert!(started.elapsed() < PATIENCE, "it is read for ever");
        }
    });
}

#[test]
fn what_tiny_http_leaks_is_freed_by_a_fresh_image() {
    let _alone = alone();
    let mut collector = Collector::start(&[]);
    for number in 0..20 {
        collector.beat(&uuid(number), "SLEEP", 7.0);
    }
    let id = collector.child.id();
    under_attack(&collector, |collector| {
        for _ in 0..300 {
            let answer =
                collector.raw(b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: 100000000000000\r\n\r\n");
            assert_eq!(answer.status, 413);
        }
        // Each of these blocks a thread of tiny_http for ever.
        await_closed(hold(collector, 150, b"GET / HTTP/2.0\r\n\r\n"));
        collector.await_log("going on where the former image stopped");
    });
    assert_eq!(collector.child.id(), id);
    assert_eq!(collector.get("/agents").json()["stats"]["by_mode"]["SLEEP"], 20, "the state is kept");
    assert!(collector.child.try_wait().unwrap().is_none());
}

#[test]
fn upgrades_that_are_not_ours() {
    let _alone = alone();
    attack(&[], |collector| {
        let body = r#"{"mode":"IDLE","uptime_seconds":1}"#;
        for _ in 0..20 {
            let h2c = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"];
            assert_eq!(collector.request("GET", "/health", &h2c, "").status, 200);
            let length = body.len();
            let headers = h2c.join("\r\n");
            let request = format!(
                "POST /heartbeat/java HTTP/1.1\r\n{headers}\r\nContent-Length: {length}\r\n\r\n{body}"
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
                let _ = stream.write_all(b"GET /agents HTTP/1.1\r\n\r\nPOST /heartbeat/a HTTP/1.1\r\nContent-Length: -1\r\n\r\nGET / HTTP/1.1\r\n\r\n");
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
        held.extend(hold(collector, 3, &many("GET /health HTTP/1.1\r\n\r\n")));
        let mixed = "GET /agents HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\n\r\nPOST /heartbeat/a HTTP/1.1\r\nContent-Length: -1\r\n\r\n";
        held.extend(hold(collector, 3, &many(mixed)));
        // Of the big ones only what fits into buffers is taken.
        collector.poll("those are given up", || collector.metric("connections") < 8.0);
        drop(held);
    });
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

#[test]
fn a_system_without_threads() {
    let _alone = alone();
    // Limits on threads do not hold for root, so this runs as somebody else.
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root, so no other user can be had");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("pap-collector");
    std::fs::copy(env!("CARGO_BIN_EXE_pap-collector"), &program).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let mut limited = std::process::Command::new(&program);
    limited.env_clear().envs([
        ("CLUSTER_ID", "test-cluster"),
        ("COLLECTOR_PORT", "0"),
        ("COLLECTOR_BIND", "127.0.0.1"),
    ]);
    limit(&mut limited, rustix::process::Resource::Nproc, 80);
    limited.uid(54_321).gid(54_321).stdin(Stdio::null()).stdout(Stdio::null());
    let collector = Collector::spawn(&mut limited);
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
                        "POST /heartbeat/flood-{number} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}"
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

/// All attacks at random beside agents that live and die.
#[test]
#[ignore = "a minute at full load: cargo test --test hostile soak -- --ignored"]
fn a_soak_invents_no_death_and_misses_none() {
    let _alone = alone();
    let seconds = std::env::var("SOAK_SECONDS").map_or(60, |seconds| seconds.parse().unwrap());
    let seed = std::env::var("SOAK_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("SOAK_SEED={seed}");
    let station = Station::start(0, |post| Reply::Status(post.judge("k"))).unwrap();
    let collector = Collector::with_station(&station, &[("RUST_LOG", "info,pap_collector=info")]);
    let port = collector.port;
    let end = Instant::now() + Duration::from_secs(seconds);
    let attackers: Vec<_> = (0..2)
        .map(|number| {
            let mut rng = fastrand::Rng::with_seed(seed + number);
            thread::spawn(move || {
                while Instant::now() < end {
                    harass(port, &mut rng);
                    wait(Duration::from_millis(rng.u64(0..40)));
                }
            })
        })
        .collect();
    // 500 agents in EMERGENCY; every tenth falls silent on the way.
    let started = Instant::now();
    let agents = 500_u64;
    let dies = move |agent: u64| -> Option<Duration> {
        let latest = seconds.saturating_sub(16).max(6);
        (agent.is_multiple_of(10)).then(|| Duration::from_secs(5 + agent * 7919 % (latest - 5)))
    };
    let beats: Vec<_> = (0..8_u64)
        .map(|lane| {
            thread::spawn(move || -> Result<(), String> {
                for round in 0_u64.. {
                    for agent in (0..agents).filter(|agent| agent % 8 == lane) {
                        let due = started + Duration::from_millis(round * 5000 + agent * 5000 / agents);
                        wait(due.saturating_duration_since(Instant::now()));
                        if Instant::now() >= end {
                            return Ok(());
                        }
                        if dies(agent).is_some_and(|at| started + at <= due) {
                            continue;
                        }
                        soak_beat(port, agent, round)?;
                    }
                }
                Ok(())
            })
        })
        .collect();
    for beat in beats {
        if let Err(error) = beat.join().unwrap() {
            panic!("{error}; log:\n{}", collector.log().join("\n"));
        }
    }
    for attacker in attackers {
        attacker.join().unwrap();
    }
    let deaths = |posts: &[support::station::Post]| -> Vec<String> {
        let deaths = posts.iter().filter(|post| post.text("type") == "AGENT_DEATH");
        let mut ids: Vec<String> = deaths.map(|post| post.text("agent_uuid").to_owned()).collect();
        ids.sort();
        ids
    };
    let mut expected: Vec<String> = (0..agents)
        .filter(|&agent| dies(agent).is_some())
        .map(|agent| uuid(usize::try_from(agent).unwrap()))
        .collect();
    expected.sort();
    // Those who live have just stopped, and would be dead in 10 seconds.
    for agent in (0..agents).filter(|&agent| dies(agent).is_none()) {
        let path = format!("/heartbeat/{}", uuid(usize::try_from(agent).unwrap()));
        assert_eq!(collector.request("DELETE", &path, &[], "").status, 200);
    }
    let all_told = station.wait_until(PATIENCE, |posts| deaths(posts).len() >= expected.len());
    assert_eq!(
        deaths(&station.posts()),
        expected,
        "all told: {all_told}; log:\n{}",
        collector.log().join("\n")
    );
}

/// One heartbeat as a common client sends it: 5 s for an answer.
fn soak_beat(port: u16, agent: u64, round: u64) -> Result<(), String> {
    let beat = || -> std::io::Result<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let body = format!(r#"{{"mode":"EMERGENCY","uptime_seconds":{}.5}}"#, round * 5);
        let id = uuid(usize::try_from(agent).unwrap_or_default());
        stream.write_all(
            format!(
                "POST /heartbeat/{id} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        if answer.is_empty() {
            return Err(std::io::Error::other(format!("no answer on {}", stream.local_addr()?)));
        }
        Ok(Answer::parse(&answer).status)
    };
    match beat() {
        Ok(200) => Ok(()),
        Ok(status) => Err(format!("agent {agent} was answered {status}")),
        Err(error) => Err(format!("agent {agent}, round {round}: {error}")),
    }
}

/// One attack of any kind. Connections go on in the background for a while.
fn harass(port: u16, rng: &mut fastrand::Rng) {
    let attacks: [&[u8]; 14] = [
        b"",
        b"GET / HT",
        b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: 900\r\n\r\n{",
        b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: 9000\r\n\r\n{",
        b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: 100000000000000\r\n\r\n",
        b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: -1\r\n\r\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"POST /heartbeat/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: 9\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/3.0\r\n\r\n",
        b"\xff\xfe\x00\r\n\r\n",
        b"GET /agents HTTP/1.1\r\n\r\nGET /metrics HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nTE: a;q=nan, b;q=1, c;q=nan\r\n\r\n",
    ];
    let bytes = attacks[rng.usize(0..attacks.len())].repeat(if rng.usize(0..10) == 0 { 200 } else { 1 });
    let mut held = Vec::new();
    for _ in 0..rng.usize(1..30) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return };
        let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
        let _ = stream.write_all(&bytes);
        if rng.usize(0..4) == 0 {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        } else {
            held.push(stream);
        }
    }
    if rng.bool() {
        let stay = Duration::from_millis(rng.u64(0..3000));
        thread::spawn(move || {
            wait(stay);
            drop(held);
        });
    }
}
