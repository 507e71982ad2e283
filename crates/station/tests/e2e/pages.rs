//! Commands of the documents, as they stand there but for ports, paths and keys.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::commands::{block, shell, with};
use crate::support::{ADMIN, COLLECTOR, Station, has_program, program as station_program, start, until};
use crate::together::{self, Running};

/// Starts what a page leaves running.
fn spawn(command: &mut Command) -> Running {
    Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Runs it until it says where it listens: and the port.
fn listen(command: &mut Command, says: &str, log: &Path) -> (Running, String) {
    let said = std::fs::File::create(log).unwrap();
    let running = Running(command.stdout(Stdio::null()).stderr(said).spawn().unwrap());
    let mut port = String::new();
    until("it listens", || {
        let said = std::fs::read_to_string(log).unwrap();
        let line = said.split_inclusive('\n').find(|line| line.contains(says) && line.ends_with('\n'));
        let digits = line.and_then(|line| line.trim_end().rsplit(':').next()).unwrap_or_default();
        digits.clone_into(&mut port);
        !port.is_empty()
    });
    (running, port)
}

/// Where the programs are that were built beside the station, if these two are there.
fn programs() -> Option<std::path::PathBuf> {
    let (collector, _) = (together::program("pap-collector")?, together::program("pap-heartbeat")?);
    (has_program("bash") && has_program("curl")).then(|| collector.parent().unwrap().to_owned())
}

/// What commands print.
fn output(commands: &str, programs: &Path) -> String {
    let output = shell(commands, programs).output().unwrap();
    assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn at(station: &Station) -> String {
    format!("localhost:{}", station.port)
}

#[test]
fn the_tour_of_the_station_gives_what_it_shows() {
    let Some(programs) = programs() else { return };
    let directory = tempfile::tempdir().unwrap();
    let start = block("docs/station.md", "STATION_ADMIN_KEY=an-admin");
    let [first, second] = start.lines().collect::<Vec<_>>()[..] else { panic!("{start}") };
    let first =
        with(first, &[("cargo run --release -p pap-station", &format!("exec {}", station_program()))]);
    let mut first = shell(&first, &programs);
    let first = first.current_dir(directory.path()).env("STATION_PORT", "0");
    let (_station, port) = listen(first, "listens on", &directory.path().join("station.log"));
    let at = format!("localhost:{port}");
    let second =
        with(second, &[("cargo run --release", "exec pap-collector"), ("localhost:8090", at.as_str())]);
    let mut second = shell(&second, &programs);
    let second = second.current_dir(directory.path()).env("COLLECTOR_PORT", "0");
    let (_collector, port) = listen(second, "listening on", &directory.path().join("collector.log"));
    let from = format!("localhost:{port}");
    let get = |url: &str| output(&format!("curl -s {url} || true"), &programs);
    until("the station is ready", || get(&format!("{at}/ready")).contains("true"));
    until("the collector is ready", || get(&format!("{from}/ready")).contains("true"));

    let beat = |start: &str| {
        let commands = with(&block("docs/station.md", start), &[("localhost:8080", &from)]);
        assert!(output(&commands, &programs).starts_with("{\"received\":true"), "{commands}");
    };
    let curl = "curl -s localhost:8080/heartbeat/550e8400-e29b-41d4-a716-446655440000 -d '{\"mode\":";
    beat(&format!("{curl}\"EMERGENCY\""));
    let shown = block("docs/station.md", "$ curl -s -H 'Authorization: Bearer an-admin");
    let (command, shown) = shown.strip_prefix("$ ").unwrap().split_once('\n').unwrap();
    let command = with(command, &[("localhost:8090", &at)]);
    // Without the ids, which differ, and up to where the page cuts it.
    let masked = |text: &str| {
        text.split("\"id\":\"").map(|part| part.split_once("\",").map_or(part, |it| it.1)).collect::<String>()
    };
    let shown = masked(shown.strip_suffix(", …").unwrap());
    until("the death is there as shown", || masked(&output(&command, &programs)).starts_with(&shown));
    beat(&format!("{curl}\"IDLE\""));
    let all = with(&command, &[("&kind=agent.dead", "")]);
    until("both incidents are closed", || {
        serde_json::from_str::<Value>(&output(&all, &programs)).unwrap()["total"] == 0
    });
}

#[test]
fn a_webhook_is_added() {
    let Some(programs) = programs() else { return };
    let station = start().run();
    let page =
        block("docs/station.md", "curl -s -H 'Authorization: Bearer ADMIN' localhost:8090/notifications");
    output(&with(&page, &[("ADMIN", ADMIN), ("localhost:8090", &at(&station))]), &programs);
    assert_eq!(station.seen("/notifications/webhooks")[0]["url"], "https://hooks.example/pap");
}

#[test]
fn machines_are_registered_and_beat() {
    let Some(programs) = programs() else { return };
    let station = start().run();
    let page =
        block("docs/station.md", "curl -s -H 'Authorization: Bearer ADMIN' localhost:8090/agent/register");
    let (register, run) = page.split_once('\n').unwrap();
    let made = output(&with(register, &[("ADMIN", ADMIN), ("localhost:8090", &at(&station))]), &programs);
    let key = |made: &str| {
        let made: Value = serde_json::from_str(made).unwrap();
        made["api_key"].as_str().unwrap().to_owned()
    };
    let run = with(run, &[("localhost:8090", &at(&station)), ("THE_API_KEY", &key(&made))]);
    let _first = spawn(&mut shell(&with(&run, &[("pap-heartbeat", "exec pap-heartbeat")]), &programs));

    // The other page's has the number 7, and its key in a file.
    let mut last = String::new();
    for number in 2..=7 {
        last = key(&station
            .ask("POST", "/agent/register", ADMIN, &format!("{{\"name\":\"m{number}\"}}"))
            .1
            .to_string());
    }
    let file = station.directory.path().join("machine.key");
    std::fs::write(&file, last).unwrap();
    let page = block("docs/heartbeat.md", "STATION_URL=https://station.example PAP_MACHINE_ID=7");
    let names = [
        ("https://station.example", format!("http://{}", at(&station))),
        ("/etc/pap-heartbeat/machine.key", file.display().to_string()),
        ("pap-heartbeat --machine", "exec pap-heartbeat --machine".to_owned()),
    ];
    let names: Vec<_> = names.iter().map(|(from, to)| (*from, to.as_str())).collect();
    let _seventh = spawn(&mut shell(&with(&page, &names), &programs));
    until("both are online", || {
        let machines = station.seen("/machines");
        let online = machines.as_array().unwrap().iter().filter(|it| it["status"] == "online");
        let mut online: Vec<_> = online.map(|it| it["id"].as_i64().unwrap()).collect();
        online.sort_unstable();
        online == [1, 7]
    });
}

#[test]
fn a_cluster_is_registered_and_deregistered() {
    let Some(programs) = programs() else { return };
    let station = start().run();
    let file = station.directory.path().join("station.key");
    std::fs::write(&file, COLLECTOR).unwrap();
    let page = block("docs/heartbeat.md", "export STATION_URL=");
    let (url, file) = (format!("http://{}", at(&station)), file.display().to_string());
    output(
        &with(&page, &[("https://station.example", &url), ("/etc/pap-heartbeat/station.key", &file)]),
        &programs,
    );
    for said in ["Cluster registered: prod", "Cluster deregistered: prod"] {
        station.await_log(said);
    }
}
