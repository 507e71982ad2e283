//! Many agents, each a process of `pap-heartbeat`. `FLEET_SECONDS` sets how long the
//! collector is restarted again and again, `FLEET_SEED` repeats a run.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

#[path = "support/agent.rs"]
mod agent;
mod support;

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use agent::Agent;
use support::station::{Answer as Reply, Station};
use support::{Collector, PATIENCE, Port, is_slow_run, let_pass, slow, uuid};

const URGENT: (&str, &str) = ("HEARTBEAT_MODE", "EMERGENCY");

/// These tests run one after the other, as each uses the whole machine.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn five_hundred_that_start_at_once_spread_over_the_interval() {
    if !slow("500 processes, half a minute") {
        return;
    }
    let _turn = TURN.lock();
    let collector = Station::start(0, |_| Reply::Status(200)).unwrap();
    let first = Instant::now();
    let agents: Vec<Agent> =
        (0..500).map(|number| Agent::start(collector.port, &uuid(number), &[URGENT], &[])).collect();
    let phases = |posts: &[support::station::Post]| {
        let mut all = HashMap::<String, Vec<u128>>::new();
        for post in posts {
            all.entry(post.path.clone()).or_default().push(post.at.duration_since(first).as_millis());
        }
        // From the third heartbeat on an agent keeps its phase. A slow machine makes
        // some heartbeats late and none early, so the earliest shows the phase.
        let phase = |times: Vec<u128>| {
            let rounds = times.get(2..6)?.iter().zip(0..);
            rounds.map(|(&at, round)| at.saturating_sub(round * 5000)).min()
        };
        all.into_values().filter_map(phase).collect::<Vec<_>>()
    };
    assert!(collector.wait_until(PATIENCE, |posts| phases(posts).len() == agents.len()));
    let mut tenths = [0; 10];
    for phase in phases(&collector.posts()) {
        tenths[usize::try_from(phase % 5000 / 500).unwrap()] += 1;
    }
    println!("heartbeats in each tenth of an interval: {tenths:?}");
    // 50 are expected in each; the bounds are six standard deviations away.
    assert!(tenths.iter().all(|count| (10..90).contains(count)), "{tenths:?}");
}

#[test]
fn a_collector_in_a_restart_loop_loses_no_agent() {
    let _turn = TURN.lock();
    // The short form has few agents and few restarts, but covers every case.
    let (usual, agents, longest_run, longest_gap) =
        if is_slow_run() { (30, 200, 14_000, 4_000) } else { (4, 20, 2_000, 1_000) };
    let seconds = std::env::var("FLEET_SECONDS").map_or(usual, |seconds| seconds.parse().unwrap());
    let seed = std::env::var("FLEET_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("FLEET_SEED={seed} FLEET_SECONDS={seconds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let station = Station::start(0, |post| {
        Reply::Status(if post.path.contains("heartbeat") { 200 } else { post.judge("k") })
    })
    .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let kept = Port::reserve();
    let port = kept.number.to_string();
    let variables = [
        ("COLLECTOR_PORT", port.as_str()),
        ("STATE_FILE", state.to_str().unwrap()),
        ("STATE_INTERVAL_MS", "200"),
    ];
    let start = || Collector::with_station(&station, &variables);
    let mut collector = start();
    // Half of the agents also have the station as a target.
    let url = format!("http://127.0.0.1:{}", station.port);
    let with_station = [URGENT, ("PAP_STATION_URL", url.as_str()), ("PAP_AGENT_KEY", "k")];
    let agents: Vec<Agent> = (0..agents)
        .map(|number| {
            let variables = if number % 2 == 0 { &with_station[..1] } else { &with_station };
            Agent::start(collector.port, &uuid(number), variables, &[])
        })
        .collect();
    let everybody =
        |collector: &Collector| collector.get("/agents?limit=1").json()["stats"]["healthy"] == agents.len();
    collector.poll("everybody is known", || everybody(&collector));

    let (end, mut restarts) = (Instant::now() + Duration::from_secs(seconds), 0);
    while Instant::now() < end {
        let_pass(Duration::from_millis(random.u64(100..longest_run)));
        collector.signal(if random.bool() { "KILL" } else { "TERM" });
        collector.wait();
        let_pass(Duration::from_millis(random.u64(0..longest_gap)));
        collector = start();
        restarts += 1;
    }
    collector.poll("everybody is there", || everybody(&collector));
    println!("{restarts} restarts, {} heartbeats went to the station", {
        station.posts().iter().filter(|post| post.path.contains("heartbeat")).count()
    });
    let deaths: Vec<_> =
        station.posts().into_iter().filter(|post| post.text("type") == "AGENT_DEATH").collect();
    assert!(deaths.is_empty(), "{deaths:#?}");
}
