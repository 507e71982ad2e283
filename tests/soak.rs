//! Random attacks from a seed, beside agents that live and die, while the collector is
//! upgraded in place every few seconds. No death is invented, none is missed, and every
//! heartbeat is answered.
//!
//! A short run has 60 agents for 6 seconds, a slow run 500 for a minute.
//! `SOAK_SECONDS` sets the length, `SOAK_SEED` repeats a run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use support::station::{Answer as Reply, Station};
use support::{Answer, Collector, PATIENCE, is_slow_run, let_pass, let_pass_until, said, uuid};

#[test]
fn a_soak_invents_no_death_and_misses_none() {
    let (usual, agents) = if is_slow_run() { (60, 500_u64) } else { (6, 60) };
    let seconds = std::env::var("SOAK_SECONDS").map_or(usual, |seconds| seconds.parse().unwrap());
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
                    let_pass(Duration::from_millis(rng.u64(0..40)));
                }
            })
        })
        .collect();
    // All agents are in EMERGENCY. Every tenth falls silent during the run.
    let started = Instant::now();
    let dies = move |agent: u64| -> Option<Duration> {
        let earliest = seconds.min(5);
        let latest = seconds.saturating_sub(16).max(earliest + 1);
        (agent.is_multiple_of(10)).then(|| Duration::from_secs(earliest + agent * 7919 % (latest - earliest)))
    };
    // Each agent has its own thread, because real agents do not wait for each other.
    let beats: Vec<_> = (0..agents)
        .map(|agent| {
            let work = move || -> Result<Duration, String> {
                let mut slowest = Duration::ZERO;
                for round in 0_u64.. {
                    let due = started + Duration::from_millis(round * 5000 + agent * 5000 / agents);
                    if dies(agent).is_some_and(|at| started + at <= due) {
                        break;
                    }
                    let_pass_until(due.min(end));
                    let began = Instant::now();
                    if began >= end {
                        say_goodbye(port, agent)?;
                        break;
                    }
                    soak_beat(port, agent, round)?;
                    slowest = slowest.max(began.elapsed());
                }
                Ok(slowest)
            };
            thread::Builder::new().stack_size(128 * 1024).spawn(work).unwrap()
        })
        .collect();
    let mut rng = fastrand::Rng::with_seed(seed);
    while Instant::now() < end {
        let_pass(Duration::from_millis(rng.u64(1000..5000)));
        collector.signal("HUP");
    }
    collector.await_log(said::UPGRADED);
    let mut slowest = Duration::ZERO;
    for beat in beats {
        match beat.join().unwrap() {
            Ok(took) => slowest = slowest.max(took),
            Err(error) => panic!("{error}; log:\n{}", collector.log().join("\n")),
        }
    }
    for attacker in attackers {
        attacker.join().unwrap();
    }
    let changes = collector.logged(said::UPGRADED);
    println!("{changes} in-place upgrades, the slowest heartbeat took {slowest:?}");
    assert!(changes > 0);
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
    let all_told = station.wait_until(PATIENCE, |posts| deaths(posts).len() >= expected.len());
    assert_eq!(
        deaths(&station.posts()),
        expected,
        "all told: {all_told}; log:\n{}",
        collector.log().join("\n")
    );
}

/// The goodbye of an agent that stops as planned.
fn say_goodbye(port: u16, agent: u64) -> Result<(), String> {
    match ask(port, "DELETE", agent, "").or_else(|_| ask(port, "DELETE", agent, "")) {
        // 404: the first attempt succeeded, and only its answer was lost.
        Ok(200 | 404) => Ok(()),
        other => Err(format!("the goodbye of agent {agent}: {other:?}")),
    }
}

fn soak_beat(port: u16, agent: u64, round: u64) -> Result<(), String> {
    match ask(port, "POST", agent, &format!(r#"{{"mode":"EMERGENCY","uptime_seconds":{}.5}}"#, round * 5)) {
        Ok(200) => Ok(()),
        Ok(status) => Err(format!("agent {agent} was answered {status}")),
        Err(error) => Err(format!("agent {agent}, round {round}: {error}")),
    }
}

/// One request as a common client sends it. A late answer would make the next
/// heartbeat late too, and so cause a death that the test does not expect.
fn ask(port: u16, method: &str, agent: u64, body: &str) -> Result<u16, String> {
    let ask = || -> std::io::Result<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let id = uuid(usize::try_from(agent).unwrap_or_default());
        stream.write_all(
            format!(
                "{method} /heartbeat/{id} HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
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
    ask().map_err(|error| error.to_string())
}

/// One random attack. Its connections may stay open in the background for a while.
fn harass(port: u16, rng: &mut fastrand::Rng) {
    let attacks: [&[u8]; 14] = [
        b"",
        b"GET / HT",
        b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: 900\r\n\r\n{",
        b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: 9000\r\n\r\n{",
        b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: 100000000000000\r\n\r\n",
        b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: -1\r\n\r\nGET / HTTP/1.1\r\nHost: c\r\n\r\nGET / HTTP/1.1\r\nHost: c\r\n\r\n",
        b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        b"POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nContent-Length: 9\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: c\r\n\r\n",
        b"GET / HTTP/3.0\r\nHost: c\r\n\r\n",
        b"\xff\xfe\x00\r\n\r\n",
        b"GET /agents HTTP/1.1\r\nHost: c\r\n\r\nGET /metrics HTTP/1.1\r\nHost: c\r\n\r\nGET /health HTTP/1.1\r\nHost: c\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: c\r\nTE: a;q=nan, b;q=1, c;q=nan\r\n\r\n",
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
            let_pass(stay);
            drop(held);
        });
    }
}
