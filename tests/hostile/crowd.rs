//! Many connections at once: idle ones, unfinished ones, more than there may be, and
//! many in an in-place upgrade.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::attack::{alone, attack, hold, usage};
use crate::support::{Answer, Collector, PATIENCE, said, skipped, slow, uuid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's limit on descriptors. Returns whether there are as many.
fn has_descriptors(wanted: u64) -> bool {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let has = most.is_none_or(|most| most >= wanted);
    if !has {
        skipped(&format!("there are fewer than {wanted} descriptors (ulimit -Hn)"));
    }
    has
}

/// An agent that keeps its connection.
struct Kept {
    stream: TcpStream,
    agent: String,
    request: Vec<u8>,
}

impl Kept {
    fn new(collector: &Collector, number: usize) -> Self {
        let agent = uuid(number);
        let body = r#"{"mode":"IDLE","uptime_seconds":5}"#;
        let head = format!("POST /heartbeat/{agent} HTTP/1.1\r\nHost: c\r\nContent-Length: {}", body.len());
        let request = format!("{head}\r\n\r\n{body}").into_bytes();
        let mut kept = Self { stream: collector.connect(), agent, request };
        kept.beat();
        kept
    }

    /// One heartbeat. The connection must stay, and the answer must be a 200.
    fn beat(&mut self) {
        self.stream.write_all(&self.request).unwrap();
        self.take_answer();
    }

    /// The first bytes of a heartbeat, and the rest.
    fn write_half(&mut self, is_rest: bool) {
        let (first, rest) = self.request.split_at(self.request.len() / 2);
        self.stream.write_all(if is_rest { rest } else { first }).unwrap();
    }

    fn take_answer(&mut self) {
        let mut answer = [0; 1024];
        let length = self.stream.read(&mut answer).unwrap();
        assert_eq!(Answer::parse(&answer[..length]).status, 200, "{}", self.agent);
    }
}

#[test]
fn ten_thousand_idle_connections() {
    if !slow("20,000 descriptors") || !has_descriptors(12_000) {
        return;
    }
    let _alone = alone();
    attack(&[], |collector| {
        let before = usage(collector).2;
        let held = hold(collector, 10_000, b"");
        let mut agents: Vec<_> = (0..50).map(|number| Kept::new(collector, number)).collect();
        for _ in 0..20 {
            agents.iter_mut().for_each(Kept::beat);
        }
        collector.poll("all are open", || collector.metric("connections") >= 10_050.0);
        let each = (usage(collector).2 - before) * 1024 / 10_050;
        println!("{each} bytes of ours for each connection");
        assert!(each < 1024, "{each} bytes of ours for each connection");
        drop(held);
    });
}

#[test]
fn five_thousand_heads_that_come_slowly() {
    if !slow("5,000 connections for ten seconds") || !has_descriptors(7_000) {
        return;
    }
    let _alone = alone();
    attack(&[], |collector| {
        let mut held = hold(collector, 5000, b"POST /heartbeat/slow HTTP/1.1\r\n");
        for round in 0..5 {
            for stream in &mut held {
                // It may have been closed.
                let _ = stream.write_all(format!("X-{round}: 1\r\n").as_bytes());
            }
        }
        collector.poll("all of them get a 408", || {
            let refused = collector.metric("connections_closed_total{reason=\"refused\"}");
            let stalled = collector.metric("connections_closed_total{reason=\"stalled\"}");
            refused + stalled >= 5000.0
        });
        let mut answer = Vec::new();
        held[0].set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = held[0].read_to_end(&mut answer);
        assert_eq!(Answer::parse(&answer).status, 408);
    });
}

#[test]
fn a_flood_beyond_the_limit_resets_no_agent_that_keeps_its_connection() {
    let _alone = alone();
    attack(&[("COLLECTOR_MAX_CONNECTIONS", "400")], |collector| {
        let mut agents: Vec<_> = (0..200).map(|number| Kept::new(collector, number)).collect();
        for round in 1..=10 {
            let flood = hold(collector, 500, b"");
            // Two hundred have room; the others wait until somebody gives way.
            let surplus = || collector.metric("connections_closed_total{reason=\"surplus\"}");
            collector.poll("the flood is beyond the limit", || surplus() >= f64::from(round) * 200.0);
            agents.iter_mut().for_each(Kept::beat);
            drop(flood);
        }
        agents.iter_mut().for_each(Kept::beat);
    });
}

/// Each round sends one heartbeat on each connection in two parts, so an upgrade comes
/// between the parts of many.
#[test]
fn upgrades_with_five_thousand_busy_connections_lose_no_heartbeat() {
    const AGENTS: usize = 5000;
    const THREADS: usize = 4;
    if !slow("10,000 descriptors") || !has_descriptors(7_000) {
        return;
    }
    let _alone = alone();
    attack(&[], |collector| {
        let (stop, rounds) = (AtomicBool::new(false), [(); THREADS].map(|()| AtomicUsize::new(0)));
        let slowest = thread::scope(|scope| {
            let threads: [_; THREADS] = std::array::from_fn(|number| {
                let (stop, count) = (&stop, &rounds[number]);
                scope.spawn(move || {
                    let numbers = (0..AGENTS).skip(number).step_by(THREADS);
                    let mut agents: Vec<_> = numbers.map(|number| Kept::new(collector, number)).collect();
                    let mut slowest = Duration::ZERO;
                    while !stop.load(Ordering::SeqCst) {
                        let started = Instant::now();
                        for is_rest in [false, true] {
                            for agent in &mut agents {
                                agent.write_half(is_rest);
                            }
                        }
                        agents.iter_mut().for_each(Kept::take_answer);
                        slowest = slowest.max(started.elapsed());
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    slowest
                })
            });
            for upgrades in 1..=5 {
                let before = rounds.each_ref().map(|count| count.load(Ordering::SeqCst));
                // A thread that has failed makes no more rounds.
                collector.poll("all of them have beaten again", || {
                    let beaten =
                        rounds.iter().zip(before).all(|(now, before)| now.load(Ordering::SeqCst) > before);
                    beaten || threads.iter().any(thread::ScopedJoinHandle::is_finished)
                });
                collector.signal("HUP");
                collector.await_logs(said::UPGRADED, upgrades);
            }
            stop.store(true, Ordering::SeqCst);
            threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
        });
        let rounds = rounds.map(AtomicUsize::into_inner);
        println!("{rounds:?} rounds of {} agents, the slowest took {slowest:.1?}", AGENTS / THREADS);
        let known = collector.get("/agents").json();
        let known: HashMap<_, _> = known["agents"]
            .as_array()
            .unwrap()
            .iter()
            .map(|agent| {
                (agent["agent_uuid"].as_str().unwrap(), agent["consecutive_heartbeats"].as_u64().unwrap())
            })
            .collect();
        for number in 0..AGENTS {
            // The first heartbeat comes before the rounds.
            let sent = 1 + rounds[number % THREADS] as u64;
            assert_eq!(known[uuid(number).as_str()], sent, "heartbeats of agent {number}");
        }
    });
}
