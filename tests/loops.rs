//! The heartbeat loops of docs/clients.md, each by its own runtime against the real collector.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be"
)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use percent_encoding::percent_decode_str;
use support::station::{Answer, Station};
use support::{Collector, Port, Running, command, has_programs, skipped, slow, until};

/// The files, with what compiles each to the path after it, what runs it, and the signal for EMERGENCY.
struct Loop {
    file: &'static str,
    compile: &'static [&'static str],
    run: &'static [&'static str],
    alarm: Option<&'static str>,
}

const LOOPS: [Loop; 6] = [
    Loop { file: "agent.py", compile: &[], run: &["python3"], alarm: Some("USR1") },
    Loop { file: "agent.mjs", compile: &[], run: &["node"], alarm: Some("USR1") },
    Loop { file: "agent.sh", compile: &[], run: &["sh"], alarm: Some("USR1") },
    // The JVM has USR1 for itself.
    Loop { file: "Agent.java", compile: &[], run: &["java"], alarm: Some("USR2") },
    Loop { file: "agent.go", compile: &["go", "build", "-o"], run: &[], alarm: Some("USR1") },
    Loop { file: "Agent.cs", compile: &["mcs", "-r:System.Net.Http", "-out:"], run: &["mono"], alarm: None },
];

impl Loop {
    fn path(&self) -> String {
        format!("{}/examples/clients/{}", env!("CARGO_MANIFEST_DIR"), self.file)
    }

    /// What runs it, or None where it cannot be run.
    fn command(&self, directory: &Path) -> Option<Vec<String>> {
        let tools = self.compile.first().into_iter().chain(self.run.first());
        let is_there =
            |tool: &str| Command::new("which").arg(tool).stdout(Stdio::null()).status().unwrap().success();
        if let Some(missing) = tools.copied().find(|tool| !is_there(tool)) {
            skipped(&format!("{} needs {missing}", self.file));
            return None;
        }
        let mut program = self.path();
        if let Some((compiler, arguments)) = self.compile.split_first() {
            program = format!("{}/{}", directory.display(), self.file.replace('.', "-"));
            let mut arguments: Vec<String> = arguments.iter().map(|&it| it.to_owned()).collect();
            match arguments.last_mut() {
                Some(last) if last.ends_with(':') => last.push_str(&program),
                _ => arguments.push(program.clone()),
            }
            let mut compile = Command::new(compiler);
            compile.args(arguments).arg(self.path()).current_dir(directory);
            assert!(compile.status().unwrap().success(), "{} does not compile", self.file);
        }
        Some(self.run.iter().map(|&word| word.to_owned()).chain([program]).collect())
    }
}

fn spawn(words: &[String], id: &str, mode: &str, collector: u16, station: u16) -> Running {
    let mut agent = Command::new(&words[0]);
    agent.args(&words[1..]).env("PAP_AGENT_ID", id).env("HEARTBEAT_MODE", mode).env("PAP_AGENT_KEY", "a-key");
    agent.env("PAP_COLLECTOR_URL", format!("http://127.0.0.1:{collector}"));
    agent.env("PAP_STATION_URL", format!("http://127.0.0.1:{station}"));
    // Java reads variables in the locale's encoding.
    Running::spawn(agent.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()))
}

#[test]
fn each_loop_beats_falls_back_comes_back_and_says_goodbye() {
    if !slow("python3, node, java and sh with curl; go and mono where they are there") {
        return;
    }
    assert!(has_programs(&["python3", "node", "java", "curl"]), "CONTRIBUTING.md says what is needed");
    let directory = tempfile::tempdir().unwrap();
    let commands: Vec<_> =
        LOOPS.iter().filter_map(|it| it.command(directory.path()).map(|words| (it, words))).collect();
    assert!(commands.len() >= 4);
    let station = Station::start(0, |_| Answer::Status(200)).unwrap();
    let port = Port::reserve();
    let number = port.number.to_string();
    let start = || {
        let variables =
            [("CLUSTER_ID", "test-cluster"), ("COLLECTOR_PORT", &*number), ("COLLECTOR_BIND", "127.0.0.1")];
        Collector::spawn(command(&variables).stdout(Stdio::null()))
    };
    let collector = start();
    // A path must not hold it as it is.
    let id = |it: &Loop| format!("team/{} é", it.file);
    let path = |it: &Loop| format!("/agents/team%2F{}%20%C3%A9", it.file);
    let mut agents: Vec<_> = commands
        .iter()
        .map(|(it, words)| (*it, spawn(words, &id(it), "EMERGENCY", port.number, station.port)))
        .collect();
    // These sleep until their mode is changed.
    let sleepers: Vec<_> = commands
        .iter()
        .filter_map(|(it, words)| {
            Some((*it, it.alarm?, spawn(words, it.file, "SLEEP", port.number, station.port)))
        })
        .collect();
    let mode = |collector: &Collector, path: &str| {
        let answer = collector.get(path);
        (answer.status == 200).then(|| answer.json()["agent"]["mode"].as_str().unwrap().to_owned())
    };
    for (it, _) in &agents {
        until(&format!("{} beats", it.file), || mode(&collector, &path(it)).as_deref() == Some("EMERGENCY"));
    }
    for (it, alarm, agent) in &sleepers {
        let path = format!("/agents/{}", it.file);
        until(&format!("{} sleeps", it.file), || mode(&collector, &path).as_deref() == Some("SLEEP"));
        agent.signal(alarm);
        until(&format!("{} is in EMERGENCY", it.file), || {
            mode(&collector, &path).as_deref() == Some("EMERGENCY")
        });
    }
    // Nobody is suspect who beats every 5 seconds.
    let beats =
        |it: &Loop| collector.get(&path(it)).json()["agent"]["consecutive_heartbeats"].as_u64().unwrap();
    for (it, _) in &agents {
        until(&format!("{} goes on", it.file), || beats(it) >= 4);
    }
    assert_eq!(collector.get("/agents?status=dead").json()["agents"].as_array().unwrap().len(), 0);

    drop(collector);
    for (it, _) in &agents {
        let path = format!("/api/agents/{}/heartbeat", id(it));
        let is_fallback = |post: &support::station::Post| {
            percent_decode_str(&post.path).decode_utf8_lossy() == path
                && post.text("mode") == "EMERGENCY"
                && post.body["uptime_seconds"].as_f64() < Some(600.0)
        };
        until(&format!("{} falls back", it.file), || station.posts().iter().any(is_fallback));
        let taken = station.posts().into_iter().find(is_fallback).unwrap();
        assert_eq!(taken.authorization.as_deref(), Some("Bearer a-key"), "{}", it.file);
    }
    let collector = start();
    for (it, _) in &agents {
        until(&format!("{} comes back", it.file), || collector.get(&path(it)).status == 200);
    }
    // A planned stop is no death, a crash is one.
    for (it, agent) in &mut agents {
        if it.alarm.is_none() {
            // Mono does not tell a program of signals, as .NET does.
            continue;
        }
        agent.signal("TERM");
        agent.wait();
        assert_eq!(collector.get(&path(it)).status, 404, "{} said no goodbye", it.file);
    }
    for (it, _, agent) in sleepers {
        let path = format!("/agents/{}", it.file);
        until(&format!("{} beats again", it.file), || collector.get(&path).status == 200);
        drop(agent);
        until(&format!("{} is dead", it.file), || collector.get(&path).json()["agent"]["status"] == "dead");
    }
}

#[test]
fn the_page_shows_the_files() {
    let page = fs::read_to_string(format!("{}/docs/clients.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    for it in LOOPS {
        let code = fs::read_to_string(it.path()).unwrap();
        assert!(page.contains(&format!("\n{code}```")), "docs/clients.md does not show {} as it is", it.file);
    }
}
