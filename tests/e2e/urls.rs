//! URLs in settings: what cannot be called is refused at the start, and what may be
//! secret in a URL is called but never shown.

use std::process::Command;

use pap_collector::{config, emitter};
use pap_process::settings::{Kind, Setting};

use crate::agent::{self, Agent};
use crate::support::station::{Answer as Reply, Station};
use crate::support::{Collector, PATIENCE, command, said, uuid};

/// Checks a program's configuration with these variables.
type Check = fn(&[(&str, &str)]) -> Command;

/// Every URL of both programs, with the command that checks its configuration.
fn urls() -> Vec<(&'static Setting, Check)> {
    let is_url = |setting: &&&Setting| {
        matches!(setting.kind, Kind::Url(_) | Kind::Link | Kind::BaseUrl | Kind::BaseUrls(_))
    };
    let collector: Check = |variables| {
        let mut command = command(&[&[("CLUSTER_ID", "c"), ("STATION_ALERT_KEY", "k")], variables].concat());
        command.arg("--check-config");
        command
    };
    let agent: Check = |variables| {
        let own = [("PAP_AGENT_ID", "a"), ("PAP_COLLECTOR_URL", "http://c")];
        agent::command(&[&own, variables].concat(), &["--check-config"])
    };
    let of_collector = config::settings::SETTINGS.iter().filter(is_url).map(|setting| (*setting, collector));
    let of_agent = emitter::settings::SETTINGS.iter().filter(is_url).map(|setting| (*setting, agent));
    let all: Vec<_> = of_collector.chain(of_agent).collect();
    assert!(all.len() >= 7, "{}", all.len());
    all
}

/// The exit code, and everything that was printed.
fn run(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn what_cannot_be_called_is_refused_and_not_shown() {
    for (setting, command) in urls() {
        for bad in [
            "http://127.0.0.1:99999/x",
            "http://127.0.0.1:0/x",
            "http://127.0.0.1:/x y",
            "http://:80/x",
            "http://1.2.3.400/x",
            "http://me:hush@host/x",
            "https://host/x#here",
            "ftp://host/x?token=hush",
            "host:8080",
        ] {
            if bad.contains('#') && matches!(setting.kind, Kind::Link) {
                continue;
            }
            let (code, text) = run(&mut command(&[(setting.name, bad)]));
            assert_eq!(code, 78, "{}={bad}: {text}", setting.name);
            assert!(text.contains(setting.name) && !text.contains("hush"), "{text}");
        }
        let (code, text) = run(&mut command(&[(setting.name, "HTTP://Host.Example:80/a/../%7eb")]));
        assert_eq!(code, 0, "{}: {text}", setting.name);
        assert!(text.contains(&format!("{}=http://host.example/~b", setting.name)), "{text}");
        let (code, text) = run(&mut command(&[(setting.name, "https://host/x?token=hush")]));
        let takes_a_query = matches!(setting.kind, Kind::Url(_) | Kind::Link);
        assert_eq!(code, if takes_a_query { 0 } else { 78 }, "{}: {text}", setting.name);
        assert!(!text.contains("hush"), "{text}");
    }
    for arguments in [["check", "--url", "http://me:hush@host"], ["agents", "--url", "http://host:99999"]] {
        let (code, text) = run(command(&[]).args(arguments));
        assert_eq!(code, 78, "{text}");
        assert!(text.contains("--url") && !text.contains("hush"), "{text}");
    }
}

#[test]
fn a_query_is_sent_and_never_logged() {
    let station = Station::start(0, |_| Reply::Status(201)).unwrap();
    let url = format!("http://LOCALHOST:{}/alerts?cluster={{cluster_id}}&token=hush", station.port);
    let variables =
        [("STATION_ALERT_URL", url.as_str()), ("STATION_ALERT_KEY", "secret"), ("RUST_LOG", "trace")];
    let collector = Collector::start(&variables);
    collector.beat(&uuid(1), "EMERGENCY", 1.0);
    assert!(station.wait_until(PATIENCE, |posts| !posts.is_empty()));
    assert_eq!(station.posts()[0].path, "/alerts?cluster=test-cluster&token=hush");
    station.behave(|_| Reply::Status(404));
    collector.beat(&uuid(2), "EMERGENCY", 1.0);
    collector.await_log("refused");
    let log = collector.log();
    assert!(log.iter().any(|line| line.contains("/alerts?(hidden)")), "{log:?}");
    let told = log.iter().find(|line| line.contains("hush") || line.contains("secret"));
    assert_eq!(told, None);
}

#[test]
fn a_probe_may_have_a_query_that_is_not_shown() {
    let collector = Collector::start(&[]);
    let probe = format!("http://127.0.0.1:{}/health?token=hush", collector.port);
    let agent = Agent::start(collector.port, "a", &[("PAP_PROBE", &probe), ("RUST_LOG", "trace")], &[]);
    agent.running.await_log(said::LIVENESS);
    collector.poll("the agent is known", || collector.get("/agents/a").status == 200);
    let (_, status) = agent.ask("--status");
    let log = agent.running.log();
    let told = log.iter().find(|line| line.contains("hush"));
    assert!(told.is_none() && !status.contains("hush"), "{told:?} {status}");
}
