//! The files in docs/ about the station are written from its table of settings, by the modules
//! that write those of the collector. The program does what its table says, and what is shipped
//! names only what there is.

#![allow(
    clippy::unwrap_used,
    clippy::format_push_string,
    reason = "a test ends where something is not as it should be; these files are small"
)]

#[path = "../../../tests/settings/checks.rs"]
mod checks;
#[path = "../../../tests/settings/completions.rs"]
mod completions;
#[path = "../../../tests/settings/man.rs"]
mod man;
#[path = "../../../tests/settings/page.rs"]
mod page;
#[path = "../../../tests/settings/program.rs"]
mod program;

use std::fs;
use std::path::{Path, PathBuf};

use argh::ArgsInfo as _;
use checks::{complete, is_name, names, yaml_files};
use pap_process::clock::Clock;
use pap_process::settings::Flags;
use pap_station::conditions::Conditions;
use pap_station::config::{Config, Switches, settings};
use pap_station::event::Event;
use pap_station::kafka::Link;
use pap_station::metrics::{Gauges, Metrics};
use program::{Program, common};

const START: &str = "\
# Configuration of pap-station

<!-- Made from crates/station/src/config/settings.rs:
     PAP_WRITE_DOCS=1 cargo test -p pap-station --test settings -->

Each setting is an environment variable and a flag: `STATION_PORT=8090`, `--station-port 8090` and `--station-port=8090` mean the same. A flag
wins over the environment. An empty value counts as not set. [pap-station](station.md) says what they are for.

- **A key** also comes from a file, which `..._FILE` names: other users of the machine can see flags, and often variables, but not the file.
- **A wrong value** stops the start with exit code 78, before anything runs. One line on standard error names the variable, the value and
  what is allowed. So do an unknown flag and a flag without a value.
- **A duration** is written as Go writes it: `30s`, `1m30s`, `4320h`.
- **What is in effect** is printed by `--check-config`, keys hidden; it ends with 0 when the configuration is good.
";

/// A certificate that signs nothing.
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBfDCCASGgAwIBAgIUNJOOyhap8YV7KQ0Z/lJI92o7WgAwCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHZXhhbXBsZTAgFw0yNjExMjYxMjAxMjdaGA8yMTI2MTEwMjEy
MDEyN1owEjEQMA4GA1UEAwwHZXhhbXBsZTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABD/4SNYyu+7nUiEzzxKOhFqYmoWCeKd7javzM5tDQr8US4iMZ/71j0Z0gQgJ
4xr/bGfhyGft2zdcIJVbfKSh2hCjUzBRMB0GA1UdDgQWBBQgwH90hDKQxKidObJj
JNrmNmJ39DAfBgNVHSMEGDAWgBQgwH90hDKQxKidObJjJNrmNmJ39DAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYCIQDBsZgbbnPfzlZPSK4qZxwd+v50
VmCWJxoDux4gq1e0ugIhAIQINgzC4CURg+ZHXt+06sgfi4eKbVsQFR/rWKvBGGQA
-----END CERTIFICATE-----
";

/// The path of something in this repository.
fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(here(path)).unwrap()
}

fn station() -> Program {
    let name = env!("CARGO_PKG_NAME");
    Program {
        name,
        package: name,
        path: env!("CARGO_BIN_EXE_pap-station"),
        summary: "receives what PAP collectors, agents and machines send, and tells people",
        description: &[
            "pap-station takes the alerts and beats of collectors, the heartbeats of agents whose collector does not answer, and the heartbeats of machines. It keeps them in one SQLite file, serves a page, and tells people by webhook, by Telegram and by Alertmanager.",
            "It needs no configuration file. Each setting is a flag or an environment variable. Without STATION_ADMIN_KEY it writes a key for an admin into admin.key beside STATION_DB at its first start.",
            "check prints a line that says whether the station on STATION_PORT of this host is ready, or with --live whether it runs, and exits with 0 or 1.",
            "backup copies STATION_DB to a file that is not there yet, while a station runs or not. The copy holds everything that STATION_DB holds, secrets too. To restore it, stop the station, put the copy in the place of STATION_DB, and remove the files beside it that end with -wal and -shm.",
            "import takes over from the machine monitor LunaSentri: machines with the hashes of their keys, webhooks with the hashes of their secrets, and Telegram chats. FILE is its database, and is only read. Stop LunaSentri and the station first. What is in STATION_DB already stays as it is, and STATION_DB is made if it is not there yet.",
        ],
        synopsis: &[
            "[SETTINGS]",
            "[SETTINGS] --check-config",
            "[SETTINGS] check [--live]",
            "[SETTINGS] backup FILE",
            "[SETTINGS] import FILE",
            "--help | --version",
        ],
        own: Switches::get_args_info(),
        table: settings::SETTINGS,
        tasks: &[
            ("check", "ask a running station whether it is well"),
            ("backup", "copy STATION_DB to the file that follows"),
            ("import", "take over from the file of LunaSentri that follows"),
        ],
        tasks_with_file: &["backup", "import"],
        runs_a_command: false,
        codes: common(
            "It was stopped by a signal; or, with check, the station is well; or, with clusters and deregister, it did as it was asked; or, with backup, the file is copied; or, with import, all is taken over that can be.",
            "With check: the station is not well, or nobody answers; with clusters and deregister: it refused, or nobody answers.",
        )
        .map(|(code, text)| match code.as_str() {
            "74" => (code, "STATION_DB is damaged or cannot be opened, or another station has taken it over, or it was moved or replaced, or admin.key cannot be used; or it could not listen, log or start a thread; or, with backup, the copy failed; or, with import, FILE cannot be read."),
            "78" => (code, "Its configuration is wrong, and one line on standard error names the variable, the value, and what is allowed; or STATION_DB is a file of another program or of a newer station, or another station uses it on a network file system; or, with import, FILE is no database of LunaSentri, or LunaSentri still writes it. Nothing was started."),
            _ => (code, text),
        })
        .into(),
        signals: &[(
            "SIGTERM, SIGINT",
            "/ready turns 503, requests in hand are answered, and what waits is written. A second signal ends it at once.",
        )],
        files: &[
            (
                "pap-station.db, pap-station.db-wal, pap-station.db-shm, pap-station.db-lock",
                "What the station knows. STATION_DB names the first; the others stand beside it and belong to it.",
            ),
            ("admin.key", "The key of an admin, beside STATION_DB, unless STATION_ADMIN_KEY is set."),
            (
                "/etc/pap-station/environment, /var/lib/pap-station",
                "The settings and STATION_DB, with the systemd unit that comes with the program.",
            ),
        ],
        see_also: "pap-collector(8), pap-heartbeat(8), systemd.service(5)",
    }
}

#[test]
fn the_files_in_docs_are_what_the_table_gives() {
    let station = [station()];
    let mut files = vec![("docs/station-configuration.md".to_owned(), page::write(START, &station))];
    files.extend(checks::files(&station[0]));
    checks::compare(&files, &station[0].writes_docs());
}

#[test]
fn every_setting_arrives_from_the_environment_and_as_a_flag() {
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("pem");
    fs::write(&pem, CERTIFICATE).unwrap();
    // Only one way to be let in is allowed.
    let alternatives: &[&[&str]] = &[&["ALERTMANAGER_KEY"], &["ALERTMANAGER_USER", "ALERTMANAGER_PASSWORD"]];
    // With brokers the rest needs a program that was built for it; the other settings arrive without.
    let refused: &[&str] = if cfg!(feature = "kafka-tls") { &[] } else { &["KAFKA_BROKERS"] };
    checks::every_setting_arrives(&station(), alternatives, refused, pem.to_str().unwrap());
}

#[test]
fn every_default_and_every_choice_is_taken_and_no_other() {
    checks::every_default_and_choice_is_taken(&station(), &[]);
}

#[test]
fn help_describes_every_setting_and_switch() {
    checks::help_describes_everything(&station());
}

#[test]
fn a_mistake_in_the_flags_is_one_line_and_78() {
    checks::a_mistake_is_one_line_and_78(&station());
}

#[test]
fn what_is_shipped_names_only_settings_that_exist() {
    let known = names(&station());
    let mut named = Vec::new();
    for path in ["systemd/station.example", "systemd/pap-station.service"] {
        for line in read(path).lines() {
            let line = line.strip_prefix("Environment=").unwrap_or(line).trim_start_matches("# ");
            if let Some((name, _)) = line.split_once('=').filter(|(name, _)| is_name(name)) {
                named.push((path.to_owned(), name.to_owned()));
            }
        }
    }
    let mut manifests = Vec::new();
    yaml_files(&here("k8s/overlays/station"), &mut manifests);
    for path in &manifests {
        for line in fs::read_to_string(path).unwrap().lines() {
            let name = line.trim_start().trim_start_matches("- ").strip_prefix("name: ").unwrap_or_default();
            if is_name(name) {
                named.push((path.display().to_string(), name.to_owned()));
            }
        }
    }
    for (path, name) in &named {
        assert!(known.contains(name), "{path} names {name}, which is in no table of settings");
    }
    for path in ["station.example", "pap-station.service", "deployment.yaml"] {
        assert!(named.iter().any(|(at, _)| at.ends_with(path)), "{path} was looked at");
    }
}

#[test]
fn the_page_names_all_settings_metrics_and_events_that_matter() {
    let page = read("docs/station.md");
    let from = |name: &str| (name == "ALERTMANAGER_URL").then(|| "http://a".to_owned());
    let config = Config::new(&Flags::default(), &from).unwrap();
    let conditions = Conditions::new(config.alertmanagers.as_ref());
    let metrics = Metrics::default().render(&Gauges::default(), conditions.counted(Clock::start().now()));
    let metrics = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE pap_station_"));
    let metrics = metrics.filter_map(|line| line.split(' ').next());
    for name in metrics.chain(Event::ALL.iter().map(|event| event.name())) {
        let is_there = ["`", "{"].iter().any(|end| page.contains(&format!("`{name}{end}")));
        assert!(is_there, "docs/station.md does not name {name}");
    }
    let known = names(&station());
    // Settings of the station's neighbours.
    let others = [
        "CLUSTER_ID",
        "COLLECTOR_URL",
        "COLLECTOR_API_KEY",
        "STATION_URL",
        "STATION_ALERT_KEY",
        "STATE_FILE",
        "STATE_INTERVAL_MS",
        "PAP_STATION_URL",
        "PAP_AGENT_KEY",
        "PAP_MACHINE_ID",
        "PAP_MACHINE_KEY",
    ];
    for word in page.split(|c: char| !c.is_ascii_uppercase() && c != '_') {
        if !is_name(word) || word == "_" {
            continue;
        }
        let is_known =
            known.contains(word) || others.contains(&word) || word == "_FILE" || word == "THE_API_KEY";
        assert!(is_known, "docs/station.md names {word}, which is in no table of settings");
    }
}

#[test]
fn the_page_on_kafka_names_its_settings_and_metrics() {
    let page = read("docs/kafka.md");
    let link = Link::new(true);
    let metrics = link.metrics(0);
    let metrics = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE pap_station_"));
    for name in metrics.filter_map(|line| line.split(' ').next()) {
        let is_there = ["`", "{"].iter().any(|end| page.contains(&format!("`{name}{end}")));
        assert!(is_there, "docs/kafka.md does not name {name}");
    }
    let known = names(&station());
    for name in known.iter().filter(|name| name.starts_with("KAFKA_") && !name.ends_with("_FILE")) {
        assert!(page.contains(&format!("`{name}")), "docs/kafka.md does not name {name}");
    }
    for word in
        page.split(|c: char| !c.is_ascii_uppercase() && c != '_').filter(|word| word.starts_with("KAFKA_"))
    {
        assert!(known.contains(word), "docs/kafka.md names {word}, which is in no table of settings");
    }
}

#[test]
fn bash_completes_flags_choices_and_files() {
    assert_eq!(complete("pap-station", "--station-p"), "--station-port");
    assert_eq!(complete("pap-station", "--auto-register = t"), "true");
    assert_eq!(complete("pap-station", "--station-db Cargo.t"), "Cargo.toml");
    assert_eq!(complete("pap-station", "back"), "backup");
    assert_eq!(complete("pap-station", "backup Cargo.t"), "Cargo.toml");
    assert_eq!(complete("pap-station", "imp"), "import");
    assert_eq!(complete("pap-station", "import Cargo.t"), "Cargo.toml");
}
