//! The station with a real collector and a real `pap-heartbeat`.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::support::{ADMIN, COLLECTOR, Receiver, Station, missing, start, until};

/// A program that was built beside the station.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_pap-station")).with_file_name(name);
    if path.is_file() {
        return Some(path);
    }
    missing(&format!("{}, which is to be built first", path.display()));
    None
}

pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn spawn(program: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Running {
    let mut command = Command::new(program);
    command.env_clear().envs(variables.iter().copied()).args(arguments);
    Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// A port that is free now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn collector(
    program: &Path,
    port: u16,
    station: &Station,
    state: &Path,
    more: &[(&str, &str)],
) -> Running {
    let (port_text, url) = (port.to_string(), format!("http://127.0.0.1:{}", station.port));
    let own = format!("http://127.0.0.1:{port}");
    let variables = [
        ("CLUSTER_ID", "prod"),
        ("CLUSTER_NAME", "Production"),
        ("COLLECTOR_PORT", port_text.as_str()),
        ("COLLECTOR_BIND", "127.0.0.1"),
        ("COLLECTOR_URL", &own),
        ("STATION_URL", &url),
        ("STATION_ALERT_KEY", COLLECTOR),
        ("STATE_FILE", state.to_str().unwrap()),
        ("STATE_INTERVAL_MS", "50"),
    ];
    let running = spawn(program, &[&variables, more].concat(), &[]);
    until("the collector listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    running
}

pub fn beat(port: u16, agent: &str, mode: &str, uptime: u32) {
    use std::io::{Read as _, Write as _};
    let body = json!({ "mode": mode, "uptime_seconds": uptime, "agent_name": agent }).to_string();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head = format!(
        "POST /heartbeat/{agent} HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: {}",
        body.len()
    );
    socket.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn fifty_deaths_and_recoveries_survive_kills_of_both() {
    let Some(program) = program("pap-collector") else { return };
    let receiver = Receiver::new();
    let mut station = start().run();
    station.webhook(&receiver, &json!({ "filters": { "events": ["agent.dead", "agent.recovered"] } }));
    let state = station.directory.path().join("collector.state");
    let port = free_port();
    let mut running = collector(&program, port, &station, &state, &[]);
    until("it has registered and beaten", || {
        let clusters = station.seen("/api/clusters");
        clusters["clusters"][0]["state"] == "active" && clusters["clusters"][0]["name"] == "Production"
    });
    let agents: Vec<_> = (0..50).map(|number| format!("agent-{number}")).collect();
    for agent in &agents {
        beat(port, agent, "EMERGENCY", 1);
    }
    // Its collector and the station are killed while they die.
    let station_port = station.port.to_string();
    let events = |name: &str| -> BTreeSet<String> {
        let all = receiver.all();
        let named = all.iter().filter(|it| it.event() == name);
        named.map(|it| it.body["agent"]["agent_uuid"].as_str().unwrap().to_owned()).collect()
    };
    until("the first are dead", || !events("agent.dead").is_empty());
    drop(running);
    station.kill();
    station = start().after(&station).with("STATION_PORT", &station_port).run();
    running = collector(&program, port, &station, &state, &[]);
    until("all are dead", || events("agent.dead").len() == 50);
    assert_eq!(station.seen("/api/incidents?kind=agent.dead&state=open")["total"], 50);
    // The live list comes from the collector.
    assert_eq!(station.seen("/api/clusters/prod/agents")["stats"]["total"], 50);

    for agent in &agents {
        beat(port, agent, "IDLE", 30);
    }
    until("the first are back", || !events("agent.recovered").is_empty());
    station.kill();
    station = start().after(&station).with("STATION_PORT", &station_port).run();
    until("all are back", || events("agent.recovered").len() == 50);
    assert_eq!(station.seen("/api/incidents?kind=agent.dead&state=open")["total"], 0);
    let mut ids = BTreeSet::new();
    let mut dead = BTreeSet::new();
    for delivery in receiver.all() {
        ids.insert(delivery.id().to_owned());
        let agent = delivery.body["agent"]["agent_uuid"].as_str().unwrap().to_owned();
        match delivery.event() {
            "agent.dead" => drop(dead.insert(agent)),
            _ => assert!(dead.contains(&agent), "{agent} is back before its death"),
        }
    }
    assert_eq!(ids.len(), 100, "each is told once, if perhaps repeated with the same id");
    drop(running);
}

#[test]
fn a_machine_beats_by_itself() {
    let Some(program) = program("pap-heartbeat") else { return };
    let station = start().run();
    let (_, machine) = station.ask("POST", "/agent/register", ADMIN, r#"{"name":"m"}"#);
    let (url, id) = (format!("http://127.0.0.1:{}", station.port), machine["id"].to_string());
    let variables = [
        ("STATION_URL", url.as_str()),
        ("PAP_MACHINE_ID", &id),
        ("PAP_MACHINE_KEY", machine["api_key"].as_str().unwrap()),
    ];
    let _running = spawn(&program, &variables, &["--machine"]);
    until("it is online", || station.seen("/machines")[0]["status"] == "online");
    let shown = &station.seen("/machines")[0];
    assert!(
        shown["uptime_s"].as_f64().unwrap() > 0.0 && !shown["hostname"].as_str().unwrap().is_empty(),
        "{shown}"
    );
    assert!(shown["last_boot_time"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn the_hooks_of_a_chart_register_and_remove_a_cluster() {
    let Some(program) = program("pap-heartbeat") else { return };
    let station = start().run();
    let url = format!("http://127.0.0.1:{}", station.port);
    let run = |id: &str, key: &str, argument: &str| {
        let variables = [
            ("STATION_URL", url.as_str()),
            ("CLUSTER_ID", id),
            ("CLUSTER_NAME", "Production"),
            ("CLUSTER_METADATA", "namespace=agents,release=pap"),
            ("STATION_ALERT_KEY", key),
        ];
        let output = Command::new(&program).env_clear().envs(variables).arg(argument).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        (output.status.code().unwrap(), text)
    };
    let beat = || station.ask("POST", "/api/clusters/prod/heartbeat", COLLECTOR, "{}").0;
    // A release is installed, upgraded, uninstalled, and installed again.
    for _ in 0..2 {
        for _ in 0..2 {
            assert_eq!(
                run("prod", COLLECTOR, "--register"),
                (0, format!("registered cluster prod at {url}\n"))
            );
            let cluster = &station.seen("/api/clusters/prod")["cluster"];
            assert_eq!(
                (&cluster["name"], &cluster["version"]),
                (&json!("Production"), &json!(env!("CARGO_PKG_VERSION")))
            );
            assert_eq!(beat(), 200);
        }
        assert_eq!(
            run("prod", COLLECTOR, "--deregister"),
            (0, format!("deregistered cluster prod at {url}\n"))
        );
        assert_eq!(beat(), 410);
        let (code, text) = run("prod", COLLECTOR, "--deregister");
        assert!(code == 0 && text.contains("is not registered"), "{text}");
    }
    for argument in ["--register", "--deregister"] {
        let (code, text) = run("prod", "another-key-of-a-test", argument);
        assert!(
            code == 1 && text.contains("it answers 401") && text.contains("check STATION_ALERT_KEY"),
            "{text}"
        );
    }
    let (code, text) = run("not an id", COLLECTOR, "--register");
    assert!(
        code == 1 && text.contains("it answers 400") && text.contains("must be a letter or digit"),
        "{text}"
    );
}
