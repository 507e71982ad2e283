//! The pages in docs/ are written from the tables of settings, by the modules beside
//! this one. The programs do what the tables say.

#![allow(
    clippy::unwrap_used,
    clippy::format_push_string,
    reason = "a test ends where something is not as it should be; these files are small"
)]

mod checks;
mod completions;
mod man;
mod page;
mod program;
mod programs;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use checks::{complete, is_name, names, yaml_files};
use programs::{COLLECTOR, HEARTBEAT, START, programs};

/// The path of something in this repository.
fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(here(path)).unwrap()
}

#[test]
fn the_files_in_docs_are_what_the_tables_give() {
    let programs = programs();
    let mut files = vec![("docs/configuration.md".to_owned(), page::write(START, &programs))];
    files.extend(programs.iter().flat_map(checks::files));
    checks::compare(&files, &programs[0].writes_docs());
}

#[test]
fn every_setting_arrives_from_the_environment_and_as_a_flag() {
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("pem");
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap().cert;
    fs::write(&pem, certificate.pem()).unwrap();
    for program in &programs() {
        // Only one liveness source is allowed, and one way to be let in.
        let alternatives: &[&[&str]] = match program.name {
            COLLECTOR => &[&["ALERTMANAGER_KEY"], &["ALERTMANAGER_USER", "ALERTMANAGER_PASSWORD"]],
            _ => &[&["PAP_PID_FILE"], &["PAP_PROBE", "PAP_PROBE_TIMEOUT_MS", "PAP_EMERGENCY_AFTER"]],
        };
        checks::every_setting_arrives(program, alternatives, &[], pem.to_str().unwrap());
    }
}

#[test]
fn every_default_and_every_choice_is_taken_and_no_other() {
    let required = [
        ("CLUSTER_ID", "c"),
        ("PAP_AGENT_ID", "a"),
        ("PAP_COLLECTOR_URL", "http://c"),
        ("PAP_PROBE", "http://p"),
        // GOODBYE=key needs one.
        ("HEARTBEAT_API_KEY", "k"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    for program in programs() {
        checks::every_default_and_choice_is_taken(&program, &required);
    }
}

#[test]
fn help_describes_every_setting_and_switch() {
    programs().iter().for_each(checks::help_describes_everything);
}

#[test]
fn a_mistake_in_the_flags_is_one_line_and_78() {
    programs().iter().for_each(checks::a_mistake_is_one_line_and_78);
}

#[test]
fn what_is_shipped_names_only_settings_that_exist() {
    let [collector, heartbeat] = programs();
    let mut named: Vec<(String, String, BTreeSet<String>)> = Vec::new();
    for (path, program) in [
        ("systemd/environment.example", &collector),
        ("systemd/pap-collector.service", &collector),
        ("systemd/heartbeat.example", &heartbeat),
        ("systemd/pap-heartbeat@.service", &heartbeat),
    ] {
        for line in read(path).lines() {
            let line = line.strip_prefix("Environment=").unwrap_or(line);
            if let Some((name, _)) = line.split_once('=').filter(|(name, _)| is_name(name)) {
                named.push((path.into(), name.into(), names(program)));
            }
        }
    }
    let both = || &names(&collector) | &names(&heartbeat);
    let mut manifests = Vec::new();
    yaml_files(&here("k8s"), &mut manifests);
    // The station's are looked at by its own package.
    manifests.retain(|path| !path.starts_with(here("k8s/overlays/station")));
    for path in &manifests {
        for line in fs::read_to_string(path).unwrap().lines() {
            let name = line.trim_start().trim_start_matches("- ").strip_prefix("name: ").unwrap_or_default();
            if is_name(name) {
                named.push((path.display().to_string(), name.into(), both()));
            }
        }
    }
    // The keys of the ConfigMap are the flags without dashes.
    let config_map = read("k8s/config/configmap.yaml");
    let (_, entries) = config_map.split_once("\ndata:\n").unwrap();
    for (key, _) in entries.lines().filter_map(|line| line.trim().split_once(": ")) {
        if !key.starts_with('#') {
            let name = key.to_uppercase().replace('-', "_");
            named.push(("k8s/config/configmap.yaml".into(), name, names(&collector)));
        }
    }
    for (path, name, known) in &named {
        assert!(known.contains(name), "{path} names {name}, which is in no table of settings");
    }
    for path in ["environment.example", "heartbeat.example", "configmap.yaml", "deployment.yaml"] {
        assert!(named.iter().any(|(at, _, _)| at.ends_with(path)), "{path} was looked at");
    }
}

#[test]
fn bash_completes_flags_choices_and_files() {
    assert_eq!(complete(COLLECTOR, "--cluster"), "--cluster-id --cluster-name");
    assert_eq!(complete(COLLECTOR, "--alert-recovery = t"), "true");
    assert_eq!(complete(COLLECTOR, "--alert-recovery ''"), "false true");
    assert_eq!(complete(COLLECTOR, "--state-file Cargo.t"), "Cargo.toml");
    assert_eq!(complete(COLLECTOR, "--cluster-id ''"), "");
    assert_eq!(complete(COLLECTOR, "che"), "check");
    assert_eq!(complete(COLLECTOR, "repl"), "replay");
    assert_eq!(complete(COLLECTOR, "replay Cargo.t"), "Cargo.toml");
    assert_eq!(complete(COLLECTOR, "agents --status d"), "dead");
    assert_eq!(complete(HEARTBEAT, "--prob"), "--probe --probe-timeout-ms");
    assert_eq!(complete(HEARTBEAT, "-- ls Cargo.t"), "Cargo.toml");
}
