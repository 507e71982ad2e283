//! What survives kills, pauses, upgrades and broken files, and what systemd is
//! told; with the real binary.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::station::{Answer as Reply, Post, Station};
use crate::support::{Collector, PATIENCE, Port, command, let_pass, let_pass_until, said, uuid};
use serde_json::json;

fn judging() -> Station {
    Station::start(0, |post| Reply::Status(post.judge("k"))).unwrap()
}

fn dead(posts: &[Post]) -> Vec<String> {
    let deaths = posts.iter().filter(|post| post.text("type") == "AGENT_DEATH");
    let mut ids: Vec<String> = deaths.map(|post| post.text("agent_uuid").to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn a_kill_in_the_middle_loses_no_agent_and_invents_no_death() {
    let station = judging();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    let kept = Port::reserve();
    let port = kept.number.to_string();
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
    // One agent has died, and its death was told, before the kill.
    let started = Instant::now();
    let_pass_until(started + Duration::from_secs(5));
    beat(&collector, 1, &|agent| agent != 0);
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
    collector.await_log(&format!("{}60 agents", said::RESTORED));
    assert_eq!(collector.get("/agents").json()["stats"], stats, "nobody is lost, and verdicts are kept");
    assert_eq!(collector.beat(&uuid(5), "EMERGENCY", 200.0).json()["is_new"], false);
    // Two agents never come back, the others do.
    // From here on the others may be silent for longer than those two.
    for agent in (0..agents).filter(|agent| ![0, 7, 8].contains(agent)) {
        assert_eq!(collector.beat(&uuid(agent), "IDLE", 250.0).status, 200);
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
    let shown = || collector.get(&format!("/agents/{silent}")).json()["agent"].clone();
    let last_seen = shown()["last_seen"].clone();
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, url) = (Arc::clone(&stop), collector.url("/ready"));
    // A client asks all the time, on fresh connections.
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
        let_pass(Duration::from_millis(2500));
        let before = shown()["silence_ms"].as_u64().unwrap();
        collector.signal("HUP");
        collector.await_logs(said::UPGRADED, round);
        let after = shown()["silence_ms"].as_u64().unwrap();
        assert!(after >= before, "its silence began anew: {before} ms, then {after} ms");
    }
    stop.store(true, Ordering::Relaxed);
    let (slowest, asked) = asking.join().unwrap();
    println!("three upgrades beside {asked} requests: the slowest answer took {slowest:.1?}");
    assert!(station.wait_until(PATIENCE, |posts| !dead(posts).is_empty()));
    let silence = last.elapsed();
    assert!(silence >= Duration::from_millis(10_500), "dead too early: {silence:?}");
    let details = station.taken("AGENT_DEATH")[0].body["details"].clone();
    assert_eq!(details["last_seen"], last_seen);
    assert!(details["awake_since"].as_str() < last_seen.as_str(), "nothing slept in the upgrades: {details}");
    assert_eq!(dead(&station.posts()), [silent]);
    assert_eq!(collector.child.id(), id);
    assert_eq!(collector.get(&format!("/agents/{sleeping}")).json()["agent"]["consecutive_heartbeats"], 1);
    assert_eq!(station.posts().iter().filter(|post| post.text("type") == "EMERGENCY_MODE").count(), 1);
    collector.signal("TERM");
    assert_eq!(collector.wait(), Some(0));
}

/// However small the part that has come: it goes along with the upgrade.
#[test]
fn an_unfinished_request_survives_an_in_place_upgrade() {
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
        collector.await_logs(said::UPGRADED, round);
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
    std::fs::copy(crate::support::program(), &program).unwrap();
    let mut started = Command::new(&program);
    started.env_clear().env("CLUSTER_ID", "test-cluster").env("COLLECTOR_PORT", "0").stdout(Stdio::null());
    let collector = Collector::spawn(&mut started);
    collector.beat("a", "SLEEP", 1.0);
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "no program at all").unwrap();
    collector.signal("HUP");
    collector.await_log(said::UPGRADE_FAILED);
    collector.poll("the port is open again", || collector.beat("a", "SLEEP", 901.0).status == 200);
    assert_eq!(collector.get("/agents/a").json()["agent"]["consecutive_heartbeats"], 2);
    // The running program itself still works.
    std::fs::remove_file(&program).unwrap();
    collector.signal("HUP");
    collector.await_log(said::UPGRADED);
    collector.poll("it is ready again", || collector.get("/ready").status == 200);
    assert_eq!(collector.get("/agents/a").json()["agent"]["consecutive_heartbeats"], 2);
}

/// A collector in the middle of an in-place upgrade: the process runs a script that
/// has stopped itself, and that starts the program when the process continues.
fn between_two_programs(directory: &Path) -> Collector {
    let path = directory.join("pap-collector");
    std::fs::copy(crate::support::program(), &path).unwrap();
    let mut started = Command::new(&path);
    started.env_clear().env("CLUSTER_ID", "test-cluster").env("COLLECTOR_PORT", "0");
    let collector = Collector::spawn(started.stdin(Stdio::null()).stdout(Stdio::null()));
    let program = directory.join("next");
    std::fs::rename(&path, &program).unwrap();
    let script = format!(
        "#!/bin/sh\ncase $1 in --check-config) ;; *) kill -STOP $$ ;; esac\nexec {} \"$@\"\n",
        program.display()
    );
    // Not by this process: a thread of another test may start something meanwhile, which inherits what is
    // open here until it is executed, and what is open for writing cannot be executed.
    let write = ["-c", "printf %s \"$1\" >\"$2\" && chmod 755 \"$2\"", "sh", &script];
    assert!(Command::new("sh").args(write).arg(&path).status().unwrap().success());
    collector.beat("a", "SLEEP", 1.0);
    collector.signal("HUP");
    collector.poll("it is between two programs", || collector.state() == 'T');
    assert_eq!(collector.logged(said::UPGRADED), 0);
    collector
}

#[test]
fn an_order_to_stop_between_two_programs_is_obeyed() {
    for orders in [&["TERM"][..], &["HUP", "TERM"], &["TERM", "HUP"], &["HUP", "INT"]] {
        let directory = tempfile::tempdir().unwrap();
        let mut collector = between_two_programs(directory.path());
        for order in orders {
            collector.signal(order);
        }
        collector.signal("CONT");
        assert_eq!(collector.wait(), Some(0), "{orders:?}; log:\n{}", collector.log().join("\n"));
        assert_eq!(collector.logged(said::STOPPING), 1, "{orders:?}: it stops in order");
    }
}

#[test]
fn an_order_to_upgrade_between_two_programs_is_obeyed() {
    let directory = tempfile::tempdir().unwrap();
    let collector = between_two_programs(directory.path());
    collector.signal("HUP");
    collector.signal("CONT");
    collector.await_logs(said::UPGRADED, 2);
    collector.poll("it is ready again", || collector.get("/ready").status == 200);
    assert_eq!(collector.get("/agents/a").status, 200);
}

/// The collector waits up to 3 s for a client that reads a big answer slowly.
#[test]
fn an_order_to_stop_before_the_re_exec_is_obeyed_without_it() {
    let mut collector = Collector::start(&[]);
    for number in 0..4000 {
        collector.beat(&uuid(number), "SLEEP", 1.0);
    }
    // The answer is bigger than all buffers, and the client reads only its beginning.
    let mut slow = collector.connect();
    slow.write_all(b"GET /agents HTTP/1.1\r\nHost: c\r\n\r\n".repeat(20).as_slice()).unwrap();
    assert!(slow.read(&mut [0; 64]).unwrap() > 0);
    collector.signal("HUP");
    collector.await_log(said::UPGRADE_BEGINS);
    collector.signal("TERM");
    assert_eq!(collector.wait(), Some(0), "log:\n{}", collector.log().join("\n"));
    assert_eq!(collector.logged(said::STOPPING), 1, "it stops in order");
    assert_eq!(collector.logged(said::UPGRADED), 0, "there was no re-exec");
}

/// The agents may already send their heartbeats to the next collector.
#[test]
fn an_agent_that_is_silent_while_the_collector_stops_is_not_dead() {
    let station = Station::start(0, |_| Reply::Status(500)).unwrap();
    let mut collector = Collector::with_station(&station, &[]);
    let started = Instant::now();
    collector.beat(&uuid(1), "EMERGENCY", 5.0);
    let_pass_until(started + Duration::from_secs(6));
    // The collector waits 5 seconds for a station that takes nothing.
    collector.signal("TERM");
    assert_eq!(collector.wait(), Some(0));
    assert!(started.elapsed() > Duration::from_secs(10), "it was there when the agent was due");
    assert_eq!(dead(&station.posts()), [] as [String; 0]);
}

#[test]
fn a_pause_of_the_collector_invents_no_death() {
    let station = judging();
    let collector = Collector::with_station(&station, &[]);
    for agent in 0..20 {
        collector.beat(&uuid(agent), "EMERGENCY", 100.0);
    }
    collector.signal("STOP");
    let_pass(Duration::from_secs(12));
    collector.signal("CONT");
    let resumed = Instant::now();
    collector.await_log(said::WAS_NOT_AWAKE);
    assert_eq!(collector.get("/health").json()["agents"]["unhealthy"], 0);
    // All agents but one come back before their deadlines.
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
    collector.await_log(said::STATE_NOT_USED);
    assert_eq!(std::fs::read_to_string(&aside()[0]).unwrap(), "precious, but no state");
    collector.beat("a", "SLEEP", 1.0);
    collector.signal("TERM");
    assert_eq!(collector.wait(), Some(0));
    // The state that it saved at its end is good, but not for another cluster.
    let again = Collector::start(&variables);
    assert_eq!(again.get("/agents/a").status, 200);
    drop(again);
    let foreign = Collector::start(&[&variables[..], &[("CLUSTER_ID", "another")]].concat());
    foreign.await_log("it belongs to another collector or program: cluster test-cluster");
    assert_eq!(foreign.get("/agents/a").status, 404);
    assert_eq!(aside().len(), 2);
    drop(foreign);
    // A collector runs even if it cannot write its state.
    let nowhere = Collector::start(&[("STATE_FILE", "/nowhere/state"), ("STATE_INTERVAL_MS", "50")]);
    nowhere.beat("a", "IDLE", 1.0);
    nowhere.await_log(said::STATE_CANNOT_BE_SAVED);
    assert_eq!(nowhere.get("/ready").status, 200);
}

/// Files may not grow (`ulimit -f`), and the kernel sends SIGXFSZ as well.
#[test]
fn a_state_that_cannot_be_saved_is_shown_and_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "ulimit -f \"$BLOCKS\"; exec \"$0\"", &crate::support::program()]);
    let variables = [("CLUSTER_ID", "test-cluster"), ("COLLECTOR_PORT", "0"), ("STATE_INTERVAL_MS", "50")];
    shell.env_clear().envs(variables).env("STATE_FILE", &file).env("BLOCKS", "8");
    let collector = Collector::spawn(shell.stdin(Stdio::null()).stdout(Stdio::null()));
    let state = || collector.get("/health").json()["state"].clone();
    assert_eq!(state(), json!({"configured": true, "saved": null}));
    assert_eq!(collector.metric("state_unsaved"), 0.0);
    collector.beat("a", "SLEEP", 1.0);
    collector.poll("it is saved", || state()["saved"] == true);
    // More than 8 blocks of 512 bytes.
    for number in 0..100 {
        collector.beat(&uuid(number), "SLEEP", 1.0);
    }
    collector.poll("it cannot be saved any more", || state()["saved"] == false);
    collector.await_log(said::STATE_CANNOT_BE_SAVED);
    assert_eq!(collector.metric("state_unsaved"), 1.0);
    collector.poll("it goes on trying", || collector.metric("state_saves_total{result=\"failed\"}") > 2.0);
    assert!(collector.metric("state_saves_total{result=\"saved\"}") >= 1.0);
    for number in 0..100 {
        collector.request("DELETE", &format!("/heartbeat/{}", uuid(number)), &[], "");
    }
    collector.poll("it is saved again", || state()["saved"] == true);
    assert_eq!(collector.metric("state_unsaved"), 0.0);
    let without = Collector::start(&[]);
    assert_eq!(without.get("/health").json()["state"], json!({"configured": false, "saved": null}));
}

#[test]
fn systemd_is_told_whether_the_collector_is_well() {
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
    let collector = Collector::on_socket(listener, &[]);
    assert_eq!(collector.port, port);
    assert_eq!(collector.beat("a", "IDLE", 1.0).json()["received"], json!(true));
    collector.signal("HUP");
    collector.await_log(said::UPGRADED);
    collector.poll("it is ready again", || collector.get("/ready").status == 200);
    assert_eq!(collector.get("/agents/a").status, 200);
}

#[test]
fn without_a_state_a_restart_forgets_and_says_so() {
    let collector = Collector::spawn(
        command(&[("CLUSTER_ID", "test-cluster"), ("COLLECTOR_PORT", "0")]).stdout(Stdio::null()),
    );
    collector.await_log(said::NOT_SAVED);
}

#[test]
fn two_collectors_on_one_state_file_are_told_and_the_first_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let variables = [("STATE_FILE", path.to_str().unwrap()), ("STATE_INTERVAL_MS", "10")];
    let is_saved = |collector: &Collector| collector.get("/health").json()["state"]["saved"].clone();
    let first = Collector::start(&variables);
    first.beat("a", "SLEEP", 5.0);
    first.poll("it is saved", || is_saved(&first) == true);
    let second = Collector::start(&variables);
    second.beat("b", "SLEEP", 5.0);
    second.await_log("another collector uses this STATE_FILE");
    assert_eq!(is_saved(&second), false);
    let saved = std::fs::read_to_string(&path).unwrap();
    assert!(saved.contains(r#""id":"a""#) && !saved.contains(r#""id":"b""#), "{saved}");
    // When the first has gone, the second has the file.
    drop(first);
    second.poll("it is saved", || is_saved(&second) == true);
    assert!(std::fs::read_to_string(&path).unwrap().contains(r#""id":"b""#));
}
