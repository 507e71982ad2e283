//! What survives: kills, pauses, upgrades, broken files; and what systemd is
//! told. Against the real binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::station::{Answer as Reply, Post, Station};
use support::{Collector, PATIENCE, command, uuid, wait};

fn judging() -> Station {
    Station::start(0, |post| Reply::Status(post.judge("k"))).unwrap()
}

fn dead(posts: &[Post]) -> Vec<String> {
    let deaths = posts.iter().filter(|post| post.text("type") == "AGENT_DEATH");
    let mut ids: Vec<String> = deaths.map(|post| post.text("agent_uuid").to_owned()).collect();
    ids.sort();
    ids
}

/// A port that is free now.
fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

#[test]
fn a_kill_in_the_middle_loses_nobody_and_accuses_nobody() {
    let station = judging();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    let port = free_port();
    let variables =
        [("STATE_FILE", file.to_str().unwrap()), ("STATE_INTERVAL_MS", "200"), ("COLLECTOR_PORT", &port)];
    let mut collector = Collector::with_station(&station, &variables);
    let agents = 60;
    let beat = |collector: &Collector, round: usize, alive: &dyn Fn(usize) -> bool| {
        for agent in (0..agents).filter(|&agent| alive(agent)) {
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            let answer = collector.beat(&uuid(agent), "EMERGENCY", (round * 5) as f64 + 100.0);
            assert_eq!(answer.status, 200);
        }
    };
    beat(&collector, 0, &|_| true);
    // One has died and was told before the kill.
    let started = Instant::now();
    for round in 1..4 {
        wait((started + Duration::from_secs(round * 4)).saturating_duration_since(Instant::now()));
        beat(&collector, usize::try_from(round).unwrap(), &|agent| agent != 0);
    }
    assert!(station.wait_until(PATIENCE, |posts| dead(posts) == [uuid(0)]));
    collector.poll("what was told is saved", || {
        let state = std::fs::read_to_string(&file).unwrap_or_default();
        state.contains("\"told_dead\":true") && collector.get("/health").json()["alert_queue"]["owed"] == 0
    });
    let stats = collector.get("/agents").json()["stats"].clone();
    collector.signal("KILL");
    collector.wait();
    drop(collector);

    let collector = Collector::with_station(&station, &variables);
    collector.await_log("restored 60 agents");
    assert_eq!(collector.get("/agents").json()["stats"], stats, "nobody is lost, and verdicts are kept");
    assert_eq!(collector.beat(&uuid(5), "EMERGENCY", 200.0).json()["is_new"], false);
    // Two never come back, the others do.
    let restarted = Instant::now();
    for round in 1..4 {
        wait((restarted + Duration::from_secs(round * 4)).saturating_duration_since(Instant::now()));
        beat(&collector, 30 + usize::try_from(round).unwrap(), &|agent| ![0, 7, 8].contains(&agent));
    }
    assert!(station.wait_until(PATIENCE, |posts| dead(posts).len() >= 3));
    assert_eq!(dead(&station.posts()), [uuid(0), uuid(7), uuid(8)], "each once, and no other");
    let seqs: Vec<u64> = station
        .taken("AGENT_DEATH")
        .iter()
        .map(|post| post.body["details"]["seq"].as_u64().unwrap())
        .collect();
    // The two after the restart were posted side by side.
    assert!(seqs[1..].iter().all(|&seq| seq > seqs[0]), "seq goes on rising: {seqs:?}");
}

#[test]
fn an_upgrade_in_place_keeps_the_port_the_process_and_the_silence() {
    let station = judging();
    let mut collector = Collector::with_station(&station, &[]);
    let (silent, sleeping) = (uuid(1), uuid(2));
    collector.beat(&sleeping, "SLEEP", 5.0);
    let last = Instant::now();
    collector.beat(&silent, "EMERGENCY", 5.0);
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, url) = (Arc::clone(&stop), collector.url("/ready"));
    // Somebody asks all the time, on fresh connections.
    let asking = thread::spawn(move || {
        let client = ureq::Agent::config_builder().max_idle_connections(0).proxy(None).build().new_agent();
        let (mut slowest, mut asked) = (Duration::ZERO, 0);
        while !stopped.load(Ordering::Relaxed) {
            let started = Instant::now();
            let status =
                client.get(&url).header("Connection", "close").call().map(|answer| answer.status().as_u16());
            assert_eq!(status.expect("every request is answered"), 200);
            slowest = slowest.max(started.elapsed());
            asked += 1;
        }
        (slowest, asked)
    });
    let id = collector.child.id();
    for round in 1..=3 {
        wait(Duration::from_millis(2500));
        collector.signal("HUP");
        collector.poll("it goes on", || {
            collector.log().iter().filter(|line| line.contains("going on where")).count() == round
        });
    }
    stop.store(true, Ordering::Relaxed);
    let (slowest, asked) = asking.join().unwrap();
    println!("three upgrades beside {asked} requests: the slowest answer took {slowest:.1?}");
    assert!(station.wait_until(PATIENCE, |posts| !dead(posts).is_empty()));
    let silence = last.elapsed();
    assert!(silence >= Duration::from_secs(10), "accused early: {silence:?}");
    assert!(silence < Duration::from_secs(17), "its silence began anew: {silence:?}");
    assert_eq!(dead(&station.posts()), [silent]);
    assert_eq!(collector.child.id(), id);
    assert_eq!(collector.get(&format!("/agents/{sleeping}")).json()["agent"]["consecutive_heartbeats"], 1);
    assert_eq!(station.posts().iter().filter(|post| post.text("type") == "EMERGENCY_MODE").count(), 1);
    collector.signal("TERM");
    assert_eq!(collector.wait(), Some(0));
}

/// However little of it has come: it waits where any image finds it.
#[test]
fn a_request_on_its_way_survives_a_change_of_image() {
    let collector = Collector::start(&[]);
    let body = r#"{"mode":"SLEEP","uptime_seconds":5}"#;
    let beat = |number: usize| {
        let length = body.len();
        format!(
            "POST /heartbeat/{} HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\n\r\n{body}",
            uuid(number)
        )
    };
    let head = beat(0).len() - body.len();
    let mut streams: Vec<_> = [1, 20, head - 1, head, head + 1, beat(0).len() - 1]
        .into_iter()
        .flat_map(|length| [(length, false), (length, true)])
        .map(|(length, has_been_heard)| {
            let mut stream = collector.connect();
            if has_been_heard {
                stream.write_all(beat(99).as_bytes()).unwrap();
                assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
            }
            (length, stream)
        })
        .collect();
    for (number, (length, stream)) in streams.iter_mut().enumerate() {
        stream.write_all(&beat(number).as_bytes()[..*length]).unwrap();
    }
    for round in 1..=2 {
        collector.signal("HUP");
        collector.poll("it goes on", || {
            collector.log().iter().filter(|line| line.contains("going on where")).count() == round
        });
    }
    for (number, (length, stream)) in streams.iter_mut().enumerate() {
        stream.write_all(&beat(number).as_bytes()[*length..]).unwrap();
        let mut answer = [0; 1024];
        let count = stream.read(&mut answer).unwrap();
        assert!(
            answer[..count].starts_with(b"HTTP/1.1 200"),
            "{length} bytes: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    let stats = &collector.get("/agents").json()["stats"];
    assert_eq!(stats["by_mode"]["SLEEP"], streams.len() + 1);
}

#[test]
fn an_upgrade_to_something_broken_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("pap-collector");
    std::fs::copy(support::program(), &program).unwrap();
    let mut started = Command::new(&program);
    started.env_clear().env("CLUSTER_ID", "test-cluster").env("COLLECTOR_PORT", "0").stdout(Stdio::null());
    let collector = Collector::spawn(&mut started);
    collector.beat("a", "SLEEP", 1.0);
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "no program at all").unwrap();
    collector.signal("HUP");
    collector.await_log("cannot go on in");
    collector.poll("the port is open again", || collector.beat("a", "SLEEP", 901.0).status == 200);
    assert_eq!(collector.get("/agents/a").json()["agent"]["consecutive_heartbeats"], 2);
    // The program itself can still be had.
    std::fs::remove_file(&program).unwrap();
    collector.signal("HUP");
    collector.await_log("going on where");
    collector.poll("it is ready again", || collector.get("/ready").status == 200);
    assert_eq!(collector.get("/agents/a").json()["agent"]["consecutive_heartbeats"], 2);
}

/// Whenever it comes, also between two images: an order to stop is obeyed, and
/// an order to go on ends nothing.
#[test]
fn no_signal_is_lost_between_two_images() {
    for millis in 0..24 {
        let mut collector = Collector::start(&[]);
        collector.signal("HUP");
        collector.await_log("going on in");
        wait(Duration::from_millis(millis));
        collector.signal("HUP");
        wait(Duration::from_millis(millis / 3));
        collector.signal("TERM");
        assert_eq!(collector.wait(), Some(0), "after {millis} ms; log:\n{}", collector.log().join("\n"));
        assert!(collector.log().iter().any(|line| line.contains("stopping")), "it stops in order");
    }
}

/// Its agents may be talking to the next one already.
#[test]
fn who_is_silent_while_the_collector_stops_is_not_accused() {
    let station = Station::start(0, |_| Reply::Status(500)).unwrap();
    let mut collector = Collector::with_station(&station, &[]);
    let started = Instant::now();
    collector.beat(&uuid(1), "EMERGENCY", 5.0);
    wait((started + Duration::from_secs(6)).saturating_duration_since(Instant::now()));
    // What the station does not take is waited for, 5 seconds long.
    collector.signal("TERM");
    assert_eq!(collector.wait(), Some(0));
    assert!(started.elapsed() > Duration::from_secs(10), "it was there when the agent was due");
    assert_eq!(dead(&station.posts()), [] as [String; 0]);
}

#[test]
fn a_pause_of_the_collector_accuses_nobody() {
    let station = judging();
    let collector = Collector::with_station(&station, &[]);
    for agent in 0..20 {
        collector.beat(&uuid(agent), "EMERGENCY", 100.0);
    }
    collector.signal("STOP");
    wait(Duration::from_secs(13));
    collector.signal("CONT");
    let resumed = Instant::now();
    collector.await_log("was not awake for");
    assert_eq!(collector.get("/health").json()["agents"]["unhealthy"], 0);
    // All but one come back within what is left of their time.
    for agent in 1..20 {
        collector.beat(&uuid(agent), "EMERGENCY", 118.0);
    }
    assert!(station.wait_until(PATIENCE, |posts| !dead(posts).is_empty()));
    assert!(resumed.elapsed() > Duration::from_secs(6), "the pause was counted: {:?}", resumed.elapsed());
    assert_eq!(dead(&station.posts())[0], uuid(0));
    assert!(collector.metric("paused_seconds_total") > 10.0);
}

#[test]
fn a_file_that_cannot_be_used_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    let path = file.to_str().unwrap().to_owned();
    let variables = [("STATE_FILE", path.as_str()), ("STATE_INTERVAL_MS", "50")];
    let aside = || {
        let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|name| name.to_str().unwrap().contains(".broken-")).collect::<Vec<_>>()
    };
    std::fs::write(&file, "precious, but no state").unwrap();
    let mut collector = Collector::start(&variables);
    collector.await_log("the state file is not used");
    assert_eq!(std::fs::read_to_string(&aside()[0]).unwrap(), "precious, but no state");
    collector.beat("a", "SLEEP", 1.0);
    collector.signal("TERM");
    assert_eq!(collector.wait(), Some(0));
    // What it saved at its end is good, but not for another cluster.
    let again = Collector::start(&variables);
    assert_eq!(again.get("/agents/a").status, 200);
    drop(again);
    let foreign = Collector::start(&[&variables[..], &[("CLUSTER_ID", "another")]].concat());
    foreign.await_log("it is of cluster test-cluster");
    assert_eq!(foreign.get("/agents/a").status, 404);
    assert_eq!(aside().len(), 2);
    drop(foreign);
    // A place that cannot be written to is no reason not to run.
    let nowhere = Collector::start(&[("STATE_FILE", "/nowhere/state"), ("STATE_INTERVAL_MS", "50")]);
    nowhere.beat("a", "IDLE", 1.0);
    nowhere.await_log("the state cannot be saved");
    assert_eq!(nowhere.get("/ready").status, 200);
}

#[test]
fn systemd_hears_how_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = |word: &str| {
        let mut buffer = [0; 512];
        loop {
            let length = manager.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|line| line.starts_with(word)) {
                return text;
            }
        }
    };
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "900000")];
    let mut collector = Collector::start(&variables);
    hear("READY=1");
    assert!(hear("WATCHDOG=1").contains("STATUS=0 agents"));
    collector.signal("HUP");
    assert!(hear("RELOADING=1").contains("MONOTONIC_USEC="));
    hear("READY=1");
    hear("WATCHDOG=1");
    collector.signal("TERM");
    hear("STOPPING=1");
    assert_eq!(collector.wait(), Some(0));
}

#[test]
fn a_socket_of_systemd_is_served() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let program = support::program();
    // The shell puts the descriptor where systemd puts it.
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let mut shell = Command::new("bash");
    let descriptor = listener.as_raw_fd();
    shell.args(["-c", &format!("LISTEN_PID=$$ exec {program} 3<&{descriptor}")]);
    shell.env_clear().env("CLUSTER_ID", "test-cluster").env("LISTEN_FDS", "1").stdout(Stdio::null());
    let collector = Collector::spawn(&mut shell);
    assert_eq!(collector.port, port);
    assert_eq!(collector.beat("a", "IDLE", 1.0).json()["received"], json!(true));
    drop(listener);
    collector.signal("HUP");
    collector.await_log("going on where");
    collector.poll("it is ready again", || collector.get("/ready").status == 200);
    assert_eq!(collector.get("/agents/a").status, 200);
}

#[test]
fn without_a_state_a_restart_forgets_and_says_so() {
    let collector = Collector::spawn(
        command(&[("CLUSTER_ID", "test-cluster"), ("COLLECTOR_PORT", "0")]).stdout(Stdio::null()),
    );
    collector.await_log("not saved, a restart forgets");
}
