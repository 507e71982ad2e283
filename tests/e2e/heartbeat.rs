//! `pap-heartbeat` against the real collector and a station that listens.

use std::cell::Cell;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::agent::{Agent, ask};
use crate::support::station::{Answer as Reply, Post, Station};
use crate::support::{Collector, PATIENCE, Port, Running, is_slow_run, said, skipped, until, uuid};
use serde_json::{Value, json};

const URGENT: (&str, &str) = ("HEARTBEAT_MODE", "EMERGENCY");
const SECOND: Duration = Duration::from_secs(1);

fn station() -> Station {
    Station::start(0, |post| Reply::Status(post.judge("k"))).unwrap()
}

/// What the collector says about an agent; null if it does not know the agent.
fn shown(collector: &Collector, id: &str) -> Value {
    collector.get(&format!("/agents/{id}")).json()["agent"].clone()
}

fn is_known(collector: &Collector, id: &str) -> bool {
    collector.get(&format!("/agents/{id}")).status == 200
}

fn beats(station: &Station) -> Vec<Post> {
    let mut posts = station.posts();
    posts.retain(|post| post.path.contains("heartbeat"));
    posts
}

/// Waits until the station has taken this many heartbeats.
fn await_beats(station: &Station, count: usize) -> Vec<Post> {
    let enough = |posts: &[Post]| {
        posts.iter().filter(|post| post.path.contains("heartbeat") && post.status < 300).count() >= count
    };
    assert!(station.wait_until(PATIENCE, enough), "{:?}", station.posts());
    beats(station)
}

#[test]
fn a_crash_of_its_command_is_told_and_its_silence_is_the_agents() {
    let station = station();
    let collector = Collector::with_station(&station, &[]);
    let id = uuid(1);
    let mut agent =
        Agent::start(collector.port, &id, &[URGENT, ("PAP_AGENT_NAME", "sleeper")], &["--", "sleep", "100"]);
    collector.poll("it is known", || is_known(&collector, &id));
    let first = shown(&collector, &id);
    assert_eq!((&first["agent_name"], &first["mode"]), (&json!("sleeper"), &json!("EMERGENCY")));
    assert!(first["uptime_seconds"].as_f64().unwrap() < 60.0, "the command's own: {first}");

    agent.kill_command();
    assert_eq!(agent.running.wait(), Some(137), "as a shell tells SIGKILL");
    assert!(is_known(&collector, &id), "it said no goodbye");
    assert!(station.wait_until(PATIENCE, |posts| {
        posts.iter().any(|post| post.text("type") == "AGENT_DEATH" && post.text("agent_uuid") == id)
    }));
    let death = &station.taken("AGENT_DEATH")[0];
    assert!(
        death.body["details"]["silence_ms"].as_u64().unwrap() >= 10_500,
        "two intervals and a tenth: {death:?}"
    );
}

#[test]
fn a_planned_stop_raises_no_alert() {
    let collector = Collector::start(&[]);
    let known = |id: &str| collector.poll(&format!("{id} is known"), || is_known(&collector, id));
    // One command exits with 0, one is asked to stop, and one agent has no command.
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate");
    let script = format!("until [ -e {} ]; do sleep 0.05; done", gate.display());
    let mut ending = Agent::start(collector.port, "ending", &[URGENT], &["--", "sh", "-c", &script]);
    let mut asked = Agent::start(collector.port, "asked", &[URGENT], &["--", "sleep", "100"]);
    let mut alone = Agent::start(collector.port, "alone", &[URGENT], &[]);
    ["ending", "asked", "alone"].iter().copied().for_each(known);
    alone.running.await_log(said::NO_LIVENESS);

    fs::write(&gate, "").unwrap();
    asked.running.signal("TERM");
    alone.running.signal("TERM");
    assert_eq!(ending.running.wait(), Some(0));
    assert_eq!(asked.running.wait(), Some(143), "as a shell tells SIGTERM");
    assert_eq!(alone.running.wait(), Some(0));
    assert_eq!(collector.get("/agents").json()["stats"]["total"], 0, "all said goodbye");
    assert!(asked.ask("--check").1.contains("not beating"), "no status is left behind");
}

#[test]
fn exit_codes_and_signals_pass_through() {
    let variables = [("PAP_AGENT_ID", "a"), ("PAP_COLLECTOR_URL", "http://127.0.0.1:1")];
    let run = |words: &[&str]| {
        let arguments = [&["--status-file", "/nowhere/status", "--"], words].concat();
        crate::agent::command(&variables, &arguments).stderr(Stdio::null()).status().unwrap().code()
    };
    assert_eq!(run(&["sh", "-c", "exit 7"]), Some(7));
    assert_eq!(run(&["true"]), Some(0));
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(run(&["sh", "-c", "kill -40 $$"]), Some(168), "real-time signals too");
    assert_eq!(run(&["/no/such/thing"]), Some(127));
    assert_eq!(run(&["/etc/passwd"]), Some(126));

    for (name, code) in [("HUP", 1), ("INT", 2), ("TERM", 15)] {
        let script = format!("trap 'exit {code}' {name}; echo started >&2; while :; do sleep 0.05; done");
        let mut agent = Agent::spawn("a", &variables[1..], &["--", "sh", "-c", &script]);
        agent.running.await_log("started");
        agent.running.signal(name);
        assert_eq!(agent.running.wait(), Some(code), "{name}");
    }
}

#[test]
fn a_signal_that_asks_for_nothing_ends_nothing_and_the_command_has_its_own() {
    let collector = Collector::start(&[]);
    // The command ends by its own SIGALRM: it is neither blocked nor ignored there.
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate");
    let script = format!(
        "grep -E '^Sig(Blk|Ign):' /proc/self/status >&2; until [ -e {} ]; do sleep 0.05; done; kill -ALRM $$",
        gate.display()
    );
    let mut wrapper = Agent::start(collector.port, "wrapper", &[URGENT], &["--", "sh", "-c", &script]);
    let alone = Agent::start(collector.port, "alone", &[URGENT], &[]);
    for (agent, id) in [(&wrapper, "wrapper"), (&alone, "alone")] {
        collector.poll("it is known", || is_known(&collector, id));
        for name in ["ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "XFSZ"] {
            agent.running.signal(name);
            agent.running.await_log(&format!("SIG{name} {}", said::NOT_OBEYED));
        }
        let before = shown(&collector, id)["consecutive_heartbeats"].as_u64().unwrap();
        collector
            .poll("it beats on", || shown(&collector, id)["consecutive_heartbeats"].as_u64() > Some(before));
    }
    for name in ["SigBlk:", "SigIgn:"] {
        let mask = u64::from_str_radix(wrapper.running.await_log(name)[name.len()..].trim(), 16).unwrap();
        let taken = [10, 12, 14, 16, 25, 26, 27, 29, 30].map(|signal| mask >> (signal - 1) & 1);
        assert_eq!(taken, [0; 9], "{name} {mask:x}");
    }
    fs::write(&gate, "").unwrap();
    assert_eq!(wrapper.running.wait(), Some(128 + 14));
}

#[test]
fn what_it_was_started_with_does_not_matter() {
    // A shell may leave SIGCHLD ignored.
    let variables = [
        ("PAP_AGENT_ID", "a"),
        ("PAP_COLLECTOR_URL", "http://127.0.0.1:1"),
        ("PROGRAM", &crate::agent::program()),
    ];
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).envs(variables).env("PAP_STATUS_FILE", "/nowhere/status");
        command.stdin(Stdio::null());
        Running::spawn(&mut command)
    };
    assert_eq!(shell("trap '' CHLD; exec \"$PROGRAM\" -- sh -c 'exit 4'").wait(), Some(4));
    // An ignored signal stays ignored, also for the command.
    let mut running = shell(
        "trap '' INT; exec \"$PROGRAM\" -- sh -c 'kill -INT $$; echo that was one >&2; exec sleep 100'",
    );
    running.await_log("that was one");
    running.signal("INT");
    running.signal("TERM");
    assert_eq!(running.wait(), Some(143), "SIGTERM, not SIGINT");
}

#[test]
fn a_goodbye_outlasts_a_restart_of_the_collector() {
    let asked = Arc::new(AtomicUsize::new(0));
    let collector = Station::start(0, move |_| {
        // The collector takes a heartbeat, then fails two goodbyes.
        Reply::Status(if matches!(asked.fetch_add(1, Ordering::SeqCst), 1 | 2) { 503 } else { 200 })
    })
    .unwrap();
    let mut agent = Agent::start(collector.port, "a", &[("HEARTBEAT_MODE", "SLEEP")], &[]);
    assert!(collector.wait_until(PATIENCE, |posts| posts.len() == 1));
    agent.running.signal("TERM");
    assert_eq!(agent.running.wait(), Some(0));
    let answers: Vec<u16> = collector.posts().iter().map(|post| post.status).collect();
    assert_eq!(answers, [200, 503, 503, 200]);
}

#[test]
fn a_command_that_is_slow_to_stop_becomes_an_agent_again() {
    let collector = Collector::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate");
    let script = format!("trap '' TERM; until [ -e {} ]; do sleep 0.05; done; exit 3", gate.display());
    let mut agent = Agent::start(collector.port, "slow", &[URGENT], &["--", "sh", "-c", &script]);
    collector.poll("it is known", || is_known(&collector, "slow"));
    agent.running.signal("TERM");
    collector.poll("it said goodbye", || !is_known(&collector, "slow"));
    collector.poll("it is back, as it lives on", || is_known(&collector, "slow"));
    fs::write(&gate, "").unwrap();
    assert_eq!(agent.running.wait(), Some(3));
    assert!(!is_known(&collector, "slow"), "its end was planned, although it came late");
}

#[test]
fn the_station_takes_over_and_the_collector_takes_back() {
    let station = Station::start(0, |_| Reply::Status(200)).unwrap();
    let kept = Port::reserve();
    let port = kept.number;
    let url = format!("http://127.0.0.1:{}", station.port);
    let variables = [URGENT, ("PAP_STATION_URL", &url), ("PAP_AGENT_KEY", "hush")];
    let agent = Agent::start(port, "a/b", &variables, &[]);
    let posts = await_beats(&station, 1);
    assert_eq!(posts[0].path, "/api/agents/a%2Fb/heartbeat");
    assert_eq!(posts[0].authorization.as_deref(), Some("Bearer hush"));
    assert_eq!((&posts[0].body["mode"], &posts[0].body["agent_name"]), (&json!("EMERGENCY"), &json!("a/b")));
    assert!(posts[0].body["uptime_seconds"].is_f64());
    // The station has it a moment before the status file says so.
    station.wait_until(PATIENCE, |_| agent.ask("--check").0 == 0);
    let (code, line) = agent.ask("--check");
    assert!(code == 0 && line.starts_with("beating: the station took a heartbeat"), "{line}");
    assert!(line.contains("refused"), "it says why the collector did not take it: {line}");

    let collector = Collector::start(&[("COLLECTOR_PORT", &port.to_string())]);
    collector.poll("it is back", || is_known(&collector, "a%2Fb"));
    let so_far = || (shown(&collector, "a%2Fb")["consecutive_heartbeats"].as_u64(), beats(&station).len());
    let since = Cell::new(so_far());
    collector.poll("it stays, and the station is left alone", || {
        let (taken, by_station) = so_far();
        if by_station > since.get().1 {
            since.set((taken, by_station));
        }
        taken >= since.get().0.map(|before| before + 2)
    });
    agent.running.await_log(&format!("http://127.0.0.1:{port}/heartbeat/a%2Fb{}", said::TAKES));
}

/// Runs a collector that loses the first `missed` posts. Returns all posts until one
/// was taken, and the agent that sent them.
fn losing(missed: usize, mode: &str) -> (Vec<Post>, Agent) {
    let count = Arc::new(AtomicUsize::new(0));
    let lose = move |_: &Post| match count.fetch_add(1, Ordering::SeqCst) {
        number if number < missed => Reply::Silence(Duration::ZERO),
        _ => Reply::Status(200),
    };
    let collector = Station::start(0, lose).unwrap();
    let agent =
        Agent::start(collector.port, "a", &[("HEARTBEAT_MODE", mode), ("PAP_AGENT_KEY", "hush")], &[]);
    assert!(collector.wait_until(PATIENCE, |posts| posts.iter().any(|post| post.status == 200)));
    let posts = collector.posts();
    assert!(posts.iter().all(|post| post.authorization.is_none() && post.path == "/heartbeat/a"));
    (posts, agent)
}

#[test]
fn the_key_is_for_the_station_alone_and_a_lost_post_is_tried_again_at_once() {
    // The next heartbeat is due at any moment of the next fifteen minutes.
    let (posts, _agent) = losing(1, "SLEEP");
    assert_eq!(posts.iter().map(|post| post.status).collect::<Vec<_>>(), [0, 200]);
    // If the second post is lost too, the next follows within a quarter of the
    // interval, well before two intervals of silence.
    let (posts, _agent) = losing(2, "IDLE");
    assert_eq!(posts.iter().map(|post| post.status).collect::<Vec<_>>(), [0, 0, 200]);
    let gap = posts[2].at - posts[1].at;
    // The emitter promises 7.5 of 30 s; the rest is slack for a slow machine.
    assert!(gap < 15 * SECOND, "{gap:?}");
}

#[test]
fn a_collector_that_hangs_or_has_no_room_costs_no_heartbeat() {
    let station = Station::start(0, |_| Reply::Status(200)).unwrap();
    let url = format!("http://127.0.0.1:{}/api/agents", station.port);
    let variables = [URGENT, ("PAP_STATION_URL", url.as_str()), ("PAP_AGENT_KEY", "k")];
    let collector = Collector::start(&[("COLLECTOR_MAX_AGENTS", "1")]);
    let first = Agent::start(collector.port, "first", &variables, &[]);
    // An agent with only the station shows what this machine can do.
    let _control = Agent::spawn("control", &variables, &[]);
    collector.poll("it is known", || is_known(&collector, "first"));

    let second = Agent::start(collector.port, "second", &variables, &[]);
    second.running.await_log(&format!("{}it answers 503", said::IN_THE_COLLECTORS_PLACE));
    let path = "/api/agents/second/heartbeat";
    assert!(station.wait_until(PATIENCE, |posts| posts.iter().any(|post| post.path == path)));

    collector.signal("STOP");
    first.running.await_log(&format!("{}timeout", said::IN_THE_COLLECTORS_PLACE));
    let of = |posts: &[Post], id: &str| -> Vec<Instant> {
        posts.iter().filter(|post| post.path.contains(id)).map(|post| post.at).collect()
    };
    let enough = if is_slow_run() { 4 } else { 2 };
    assert!(station.wait_until(PATIENCE, |posts| of(posts, "first").len() >= enough));
    assert!(station.wait_until(PATIENCE, |posts| of(posts, "control").len() >= 2));
    let posts = station.posts();
    let longest = |id: &str| of(&posts, id).windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    // A silence of two intervals would be a death.
    let most = (10 * SECOND).max(2 * longest("control"));
    assert!(longest("first") < most, "{:?}, at most {most:?}", longest("first"));
    let log = first.running.log();
    let untold = |line: &String| line.contains(said::NOBODY_TAKES) && !line.contains("; the station: ");
    assert!(!log.iter().any(untold), "the station was not asked: {log:?}");
    collector.signal("CONT");
    let before = shown(&collector, "first")["consecutive_heartbeats"].as_u64();
    collector.poll("it is back", || shown(&collector, "first")["consecutive_heartbeats"].as_u64() > before);
    assert!(
        (collector.metric("deaths_total") - 0.0).abs() < 0.1,
        "a pause of the collector is not an agent's death"
    );
}

#[test]
fn a_failing_probe_stops_the_heartbeats_or_makes_them_urgent() {
    let collector = Collector::start(&[]);
    let agent = Station::start(0, |_| Reply::Status(200)).unwrap();
    let url = format!("http://127.0.0.1:{}/ready", agent.port);
    let silent = Agent::start(collector.port, "silent", &[URGENT], &["--probe", &url]);
    let loud = Agent::start(
        collector.port,
        "loud",
        &[("HEARTBEAT_INTERVAL", "4")],
        &["--probe", &url, "--emergency-after", "2"],
    );
    for id in ["silent", "loud"] {
        collector.poll("it is known", || is_known(&collector, id));
    }
    agent.behave(|_| Reply::Status(503));
    silent.running.await_log(&format!("{}the probe answers 503", said::NOT_BEATING));
    collector.poll("it beats in EMERGENCY", || shown(&collector, "loud")["mode"] == "EMERGENCY");
    loud.running.await_log("beating in EMERGENCY: the probe answers 503");
    collector.poll("the silence is heard", || shown(&collector, "silent")["status"] == "dead");
    assert_eq!(shown(&collector, "loud")["status"], "healthy");
    // The collector and the agent count from different moments.
    collector.poll("the agent says it too", || {
        let (code, line) = silent.ask("--check");
        code == 1 && line.contains("more than 10s; the probe answers 503")
    });
    assert_eq!(loud.ask("--check").0, 0);

    agent.behave(|_| Reply::Status(204));
    collector.poll("it is well again", || shown(&collector, "silent")["status"] == "healthy");
    collector.poll("it is calm again", || shown(&collector, "loud")["mode"] == "IDLE");
    collector.poll("the agent says it too", || silent.ask("--check").0 == 0);
}

/// 150 fields, one of them over several lines.
#[test]
fn an_answer_with_a_long_and_folded_head_is_understood() {
    let odd = || {
        let many = "X: y\r\n".repeat(150);
        format!("X-Folded: a\r\n b\r\n{many}X-Last: z")
    };
    let probed = Station::start(0, move |_| Reply::StatusWith(200, odd())).unwrap();
    let collector = Station::start(0, move |_| Reply::StatusWith(503, odd())).unwrap();
    let station = Station::start(0, move |_| Reply::StatusWith(200, odd())).unwrap();
    let (probe, url) =
        (format!("http://127.0.0.1:{}", probed.port), format!("http://127.0.0.1:{}", station.port));
    let agent = Agent::start(collector.port, "a", &[("PAP_STATION_URL", &url)], &["--probe", &probe]);
    agent.running.await_log(&format!("{}it answers 503", said::IN_THE_COLLECTORS_PLACE));
    assert_eq!(beats(&collector)[0].status, 503);
    assert_eq!(beats(&station).len(), 1);
}

#[test]
fn a_pid_file_stands_for_its_process() {
    let collector = Collector::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let mut process = Command::new("sleep").arg("100").spawn().unwrap();
    let arguments = ["--pid-file", file.to_str().unwrap()];
    let agent = Agent::start(collector.port, "daemon", &[URGENT], &arguments);
    agent.running.await_log(said::NOT_BEATING);
    assert!(!is_known(&collector, "daemon"));
    fs::write(&file, process.id().to_string()).unwrap();
    collector.poll("it is known", || is_known(&collector, "daemon"));
    process.kill().unwrap();
    process.wait().unwrap();
    collector.poll("it is dead", || shown(&collector, "daemon")["status"] == "dead");
}

#[test]
fn a_change_of_mode_is_told_at_once() {
    let collector = Collector::start(&[]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mode");
    let mode_file = ["--mode-file", file.to_str().unwrap()];
    let agent = Agent::start(collector.port, "a", &[("HEARTBEAT_MODE", "SLEEP")], &mode_file);
    let await_mode = |mode: &str| {
        collector.poll(&format!("it is in {mode}"), || shown(&collector, "a")["mode"] == mode);
    };
    await_mode("SLEEP");
    for (signal, mode) in [("USR1", "EMERGENCY"), ("WINCH", "SLEEP"), ("USR2", "IDLE"), ("WINCH", "SLEEP")] {
        agent.running.signal(signal);
        await_mode(mode);
    }
    for mode in ["IDLE", "EMERGENCY", "SLEEP"] {
        fs::write(&file, mode).unwrap();
        await_mode(mode);
    }
    fs::write(&file, "AWAKE").unwrap();
    agent.running.await_log("holds \"AWAKE\"");
    // In SLEEP the next heartbeat is 15 minutes away: what came, came at once.
    assert!(shown(&collector, "a")["consecutive_heartbeats"].as_u64() >= Some(8));
    assert!(agent.ask("--status").1.contains("SLEEP, every 900s"), "{}", agent.ask("--status").1);
}

#[test]
fn check_says_how_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("status");
    let path = path.to_str().unwrap();
    let (code, line) = ask(path, "--check");
    assert!(code == 1 && line.contains(said::NOT_BEATING) && line.contains("No such file"), "{line}");
    fs::write(path, "{").unwrap();
    let (code, line) = ask(path, "--check");
    assert!(code == 1 && line.contains("EOF"), "{line}");

    let agent = Agent::start(1, "a", &[URGENT], &[]);
    agent.running.await_log(said::NOBODY_TAKES);
    agent.running.poll("its status says it", || {
        let (code, line) = agent.ask("--check");
        let one = line.lines().count() == 1;
        code == 1 && one && line.contains("nobody has taken a heartbeat yet; the collector: ")
    });

    let collector = Collector::start(&[]);
    let agent = Agent::start(collector.port, "a", &[URGENT], &["--pap-agent-name", "demo"]);
    collector.poll("it beats", || agent.ask("--check").0 == 0);
    let (code, text) = agent.ask("--status");
    assert!(code == 0 && text.starts_with("agent      demo (a)\nliveness   this process alone\n"), "{text}");
    drop(collector);
    agent.running.await_log(said::NOBODY_TAKES);
    until("a silence of two intervals is noticed", || agent.ask("--check").0 != 0);
    assert!(agent.ask("--check").1.contains("more than 10s; the collector: "));
}

/// Its name, its id and the words of its probe are shown and not obeyed.
#[test]
fn what_it_shows_is_not_obeyed_by_a_terminal() {
    let is_obeyed = |c: char| (c != '\n' && c.is_control()) || ('\u{2028}'..='\u{202e}').contains(&c);
    let command = [
        "--pap-agent-name",
        "n\u{2028}\u{202e}x",
        "--pap-collector-url",
        "http://127.0.0.1:1",
        "--",
        "sh",
        "-c",
        "sleep 100 # \u{9b}31m\r\u{85}\u{2029}",
    ];
    let named = Agent::spawn("a\u{202d}b", &[], &command);
    named.running.await_log(said::NOBODY_TAKES);
    let (_, shown) = named.ask("--status");
    assert!(shown.contains(r"n\u{2028}\u{202e}x (a\u{202d}b)"), "{shown}");
    assert_eq!(shown.lines().count(), 6, "{shown}");

    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("p\u{9b}31m\u{202e}\n");
    fs::copy("/bin/sleep", &program).unwrap();
    let agent = Agent::spawn(
        "a",
        &[("PAP_COLLECTOR_URL", "http://127.0.0.1:1")],
        &["--", program.to_str().unwrap(), "100"],
    );
    agent.running.await_log(said::NOBODY_TAKES);
    agent.running.poll("its status is written", || agent.ask("--status").1.contains(r"p\u{9b}31m\u{202e}\n"));
    let status = agent.ask("--status").1;
    let texts =
        [named.running.log(), agent.running.log(), vec![shown, status, agent.ask("--check").1]].concat();
    for text in texts {
        assert!(!text.contains(is_obeyed), "{text:?}");
    }
    let wrong = ask("/tmp/\u{9b}31m\u{202e}/no", "--check").1;
    assert!(!wrong.contains(is_obeyed) && wrong.contains(r"\u{9b}31m"), "{wrong:?}");
}

#[test]
fn what_is_wrong_stops_the_start() {
    let exit = |variables: &[(&str, &str)], arguments: &[&str]| {
        let output = crate::agent::command(variables, arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, line) = exit(&[("PAP_COLLECTOR_URL", "http://c")], &[]);
    assert!(code == 78 && line.starts_with("pap-heartbeat: PAP_AGENT_ID is not set"), "{line}");
    let (code, line) = exit(&[("PAP_AGENT_ID", "a"), ("PAP_COLLECTOR_URL", "http://c")], &["--"]);
    assert!(code == 78 && line.contains("the command to run"), "{line}");
    let (code, line) = exit(&[], &["--check"]);
    assert!(code == 78 && line.contains("PAP_AGENT_ID"), "{line}");
    let (code, line) = exit(&[], &["sleep"]);
    assert!(code == 78 && line.contains("sleep"), "{line}");
}

#[test]
fn it_is_a_good_first_process() {
    // As process 1 of its own namespace, which not every machine allows.
    let unshare = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc"]).args(words);
        command
    };
    if !unshare(&["true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return skipped("process 1 needs the right to make a namespace");
    }
    let collector = Collector::start(&[]);
    let url = format!("http://127.0.0.1:{}", collector.port);
    // The script leaves an orphan that ends, and waits until somebody has reaped it.
    let script = "trap 'exit 9' TERM; (sleep 0.1 & ) ; sleep 0.3; \
                  while grep -qs ') Z 1 ' /proc/[0-9]*/stat; do sleep 0.05; done; \
                  echo tidy >&2; while :; do sleep 0.05; done";
    let mut command = unshare(&[crate::agent::program().as_str(), "--", "sh", "-c", script]);
    let variables = [("PAP_AGENT_ID", "one"), ("PAP_COLLECTOR_URL", &url), URGENT];
    let mut running = Running::spawn(
        command.envs(variables).env("PAP_STATUS_FILE", "/nowhere/status").stdin(Stdio::null()),
    );
    running.await_log(said::STATUS_CANNOT_BE_KEPT);
    running.await_log("tidy");
    collector.poll("it is known", || is_known(&collector, "one"));
    // The signal goes to process 1 of the namespace, the only child of unshare.
    let children = format!("/proc/{0}/task/{0}/children", running.child.id());
    let first: i32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(first).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(running.wait(), Some(9));
    assert!(!is_known(&collector, "one"));
}

#[test]
fn a_collector_is_an_agent_of_the_one_above() {
    let station = Station::start(0, |_| Reply::Status(201)).unwrap();
    let above = Collector::with_station(&station, &[]);
    let url = format!("http://127.0.0.1:{}", above.port);
    let below = |cluster: &str| {
        Collector::start(&[
            ("CLUSTER_ID", cluster),
            ("CLUSTER_NAME", "node 7"),
            ("PAP_COLLECTOR_URL", &url),
            URGENT,
        ])
    };
    let (mut leaving, dying) = (below("leaving"), below("dying"));
    for id in ["collector%2Fleaving", "collector%2Fdying"] {
        above.poll("it is known", || is_known(&above, id));
    }
    assert_eq!(shown(&above, "collector%2Fdying")["agent_name"], "node 7");

    // A re-exec is not a restart for the parent.
    leaving.signal("HUP");
    leaving.await_log(said::UPGRADED);
    let before = shown(&above, "collector%2Fleaving")["consecutive_heartbeats"].as_u64();
    above.poll("it beats on", || {
        shown(&above, "collector%2Fleaving")["consecutive_heartbeats"].as_u64() > before
    });
    assert!(above.metric("restarts_total").abs() < 0.1);

    leaving.signal("TERM");
    assert_eq!(leaving.wait(), Some(0));
    assert!(!is_known(&above, "collector%2Fleaving"), "a planned stop");
    dying.signal("KILL");
    assert!(station.wait_until(PATIENCE, |posts| {
        posts
            .iter()
            .any(|post| post.text("type") == "AGENT_DEATH" && post.text("agent_uuid") == "collector/dying")
    }));
    assert_eq!(station.taken("AGENT_DEATH").len(), 1);
}
