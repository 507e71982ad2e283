//! Many connections at once: idle ones, unfinished ones, and more than there may be.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::attack::{alone, attack, hold, usage};
use crate::support::{Answer, Collector, PATIENCE, skipped, slow, uuid};
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
}

impl Kept {
    fn new(collector: &Collector, number: u32) -> Self {
        let mut kept = Self { stream: collector.connect(), agent: uuid(number as usize) };
        kept.beat();
        kept
    }

    /// One heartbeat. The connection must stay, and the answer must be a 200.
    fn beat(&mut self) {
        let body = r#"{"mode":"IDLE","uptime_seconds":5}"#;
        let head =
            format!("POST /heartbeat/{} HTTP/1.1\r\nHost: c\r\nContent-Length: {}", self.agent, body.len());
        self.stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
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
        for _ in 0..10 {
            let flood = hold(collector, 500, b"");
            agents.iter_mut().for_each(Kept::beat);
            drop(flood);
        }
        agents.iter_mut().for_each(Kept::beat);
        assert!(collector.metric("connections_closed_total{reason=\"surplus\"}") > 1000.0);
    });
}
