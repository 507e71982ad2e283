//! The pages in docs/ are written from the tables of settings, by the modules beside
//! this one. The programs do what the tables say.

#![allow(
    clippy::unwrap_used,
    clippy::format_push_string,
    reason = "a test ends where something is not as it should be; these files are small"
)]

mod completions;
mod man;
mod page;
mod program;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pap_process::settings::{Fallback, GoDuration, Kind, Setting};
use program::{COLLECTOR, HEARTBEAT, Program, programs};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(here(path)).unwrap()
}

/// Runs the program with only these variables.
fn run(program: &Program, variables: &[(String, String)], arguments: &[String]) -> Output {
    let path = match program.name {
        COLLECTOR => env!("CARGO_BIN_EXE_pap-collector"),
        _ => env!("CARGO_BIN_EXE_pap-heartbeat"),
    };
    let variables = variables.iter().map(|(name, value)| (name, value));
    Command::new(path).env_clear().envs(variables).args(arguments).output().unwrap()
}

#[test]
fn the_files_in_docs_are_what_the_tables_give() {
    let mut files = vec![("docs/configuration.md".to_owned(), page::write(&programs()))];
    for program in &programs() {
        let name = program.name;
        files.push((format!("docs/man/{name}.8"), man::write(program)));
        files.push((format!("docs/completions/{name}.bash"), completions::bash(program)));
        files.push((format!("docs/completions/_{name}"), completions::zsh(program)));
        files.push((format!("docs/completions/{name}.fish"), completions::fish(program)));
    }
    if std::env::var_os("PAP_WRITE_DOCS").is_some() {
        for (path, text) in &files {
            fs::create_dir_all(here(path).parent().unwrap()).unwrap();
            fs::write(here(path), text).unwrap();
        }
    }
    let differs = |(path, text): &(String, String)| {
        fs::read_to_string(here(path)).map_or(true, |present| present != *text).then(|| path.clone())
    };
    let stale: Vec<String> = files.iter().filter_map(differs).collect();
    assert!(
        stale.is_empty(),
        "{} differ from the tables of settings. To write them anew: \
         PAP_WRITE_DOCS=1 cargo test -p pap-collector --test settings",
        stale.join(", ")
    );
}

/// A value other than the default.
fn example(setting: &Setting, certificates: &str) -> String {
    match &setting.kind {
        Kind::Text(_) | Kind::Secret | Kind::SecretText => "example".into(),
        Kind::Number(range) => range.end().to_string(),
        Kind::Duration(range) => GoDuration(*range.end()).to_string(),
        Kind::Address => "127.0.0.1".into(),
        Kind::Choice(words) => (*words.last().unwrap()).into(),
        Kind::File | Kind::Socket => format!("/nowhere/{}", setting.name),
        Kind::LogFilter => "warn".into(),
        Kind::Url(_) | Kind::Link | Kind::BaseUrl => "http://example.org/x".into(),
        Kind::BaseUrls(_) => "http://example.org/x,https://example.org".into(),
        Kind::Certificates => certificates.into(),
    }
}

#[test]
fn every_setting_arrives_from_the_environment_and_as_a_flag() {
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("pem");
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap().cert;
    fs::write(&pem, certificate.pem()).unwrap();
    let pem = pem.to_str().unwrap();
    for program in &programs() {
        // Only one liveness source is allowed, and one way to be let in.
        let alternatives: &[&[&str]] = match program.name {
            COLLECTOR => &[&["ALERTMANAGER_KEY"], &["ALERTMANAGER_USER", "ALERTMANAGER_PASSWORD"]],
            _ => &[&["PAP_PID_FILE"], &["PAP_PROBE", "PAP_PROBE_TIMEOUT_MS", "PAP_EMERGENCY_AFTER"]],
        };
        let mut seen = BTreeSet::new();
        for excluded in alternatives {
            let settings: Vec<_> =
                program.table.iter().filter(|setting| !excluded.contains(&setting.name)).collect();
            let variables: Vec<(String, String)> =
                settings.iter().map(|setting| (setting.name.into(), example(setting, pem))).collect();
            let joined = settings.iter().map(|it| format!("{}={}", it.flag(), example(it, pem)));
            let apart = settings.iter().flat_map(|it| [it.flag(), example(it, pem)]);
            let outputs = [
                run(program, &variables, &["--check-config".into()]),
                run(program, &[], &joined.chain(["--check-config".into()]).collect::<Vec<_>>()),
                run(program, &[], &apart.chain(["--check-config".into()]).collect::<Vec<_>>()),
            ];
            for output in outputs {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let text = String::from_utf8(output.stdout).unwrap();
                let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
                let names = |it: &(&str, &str)| it.0.to_owned();
                let expected: Vec<String> = program.table.iter().map(|it| it.name.to_owned()).collect();
                assert_eq!(lines.iter().map(names).collect::<Vec<_>>(), expected, "in the table's order");
                for setting in &settings {
                    let shown = lines.iter().find(|(name, _)| *name == setting.name).unwrap().1;
                    let given = match setting.kind {
                        Kind::Secret | Kind::SecretText => "(hidden)".into(),
                        Kind::Certificates => "(1 certificates)".into(),
                        _ => example(setting, pem),
                    };
                    assert_eq!(shown, given, "{} of {} is read", setting.name, program.name);
                    seen.insert(setting.name);
                }
            }
        }
        assert_eq!(seen.len(), program.table.len(), "{}", program.name);
    }
}

#[test]
fn every_default_and_every_choice_is_taken_and_no_other() {
    for program in &programs() {
        let required: Vec<(String, String)> = [
            ("CLUSTER_ID", "c"),
            ("PAP_AGENT_ID", "a"),
            ("PAP_COLLECTOR_URL", "http://c"),
            ("PAP_PROBE", "http://p"),
            // GOODBYE=key needs one.
            ("HEARTBEAT_API_KEY", "k"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let taken = |name: &str, value: &str| {
            let own = (name.to_owned(), value.to_owned());
            let variables = [required.as_slice(), &[own]].concat();
            let output = run(program, &variables, &["--check-config".into()]);
            assert!([Some(0), Some(78)].contains(&output.status.code()), "{output:?}");
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            (output.status.success(), text)
        };
        let defaults = taken("", "").1;
        for setting in program.table {
            if let Fallback::Value(value) = setting.fallback {
                assert!(defaults.contains(&format!("{}={value}\n", setting.name)), "{defaults}");
            }
            let (good, bad) = match &setting.kind {
                Kind::Choice(words) => (words.iter().map(ToString::to_string).collect(), vec!["x".into()]),
                Kind::Number(range) => {
                    let (from, to) = (*range.start(), *range.end());
                    let below = from.checked_sub(1).map_or("-1".into(), |below| below.to_string());
                    (vec![from.to_string(), to.to_string()], vec![below, (to + 1).to_string()])
                }
                _ => (vec![], vec!["\u{fffd}".to_owned()]),
            };
            for value in good {
                assert!(taken(setting.name, &value).0, "{}={value}", setting.name);
            }
            for value in bad {
                let (is_taken, text) = taken(setting.name, &value);
                assert!(!is_taken && text.contains(setting.name), "{}={value}: {text}", setting.name);
                assert!(
                    matches!(setting.kind, Kind::Certificates) || text.contains(&setting.allowed()),
                    "{text}"
                );
            }
        }
    }
}

#[test]
fn help_describes_every_setting_and_switch() {
    for program in &programs() {
        let output = run(program, &[], &["--help".into()]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        for setting in program.table {
            assert!(text.contains(&format!("  {} VALUE, {}\n", setting.flag(), setting.name)), "{text}");
        }
        for (flag, ..) in program.options() {
            assert!(text.contains(&format!("  {flag} ")), "{flag} in\n{text}");
        }
        for (flag, _) in program.switches() {
            let is_there = [" ", ","].iter().any(|end| text.contains(&format!("  {flag}{end}")));
            assert!(is_there, "{flag} in\n{text}");
        }
    }
}

#[test]
fn a_mistake_in_the_flags_is_one_line_and_78() {
    for program in &programs() {
        for (arguments, expected) in [
            (&["--no-such-flag"] as &[&str], "--no-such-flag"),
            (&["--no-such-flag=hush"], "--no-such-flag takes no value, or is not known"),
            (&["--rust-log"], "--rust-log has no value"),
            (&["--rust-log", "--version"], "--rust-log has no value"),
            (&["--rust-log", "info", "--rust-log=info"], "--rust-log is given twice"),
        ] {
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            let output = run(program, &[], &arguments);
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), error.lines().count()), (Some(78), 1), "{error}");
            assert!(
                error.contains(expected) && error.contains("--help") && !error.contains("hush"),
                "{error}"
            );
        }
    }
}

/// The variables of a program, with those that name a file with a key.
fn names(program: &Program) -> BTreeSet<String> {
    let files = program.table.iter().filter_map(|setting| setting.file().map(|(name, _)| name));
    program.table.iter().map(|setting| setting.name.to_owned()).chain(files).collect()
}

fn is_name(text: &str) -> bool {
    text.contains('_') && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

fn yaml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
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
    // Rows of the README's table of settings.
    let readme = read("README.md");
    let (_, part) = readme.split_once("\n## Configuration\n").unwrap();
    for row in part.split("\n## ").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `")) {
        named.push(("README.md".into(), row.split('`').next().unwrap().into(), names(&collector)));
    }
    for (path, name, known) in &named {
        assert!(known.contains(name), "{path} names {name}, which is in no table of settings");
    }
    for path in ["environment.example", "heartbeat.example", "configmap.yaml", "deployment.yaml", "README.md"]
    {
        assert!(named.iter().any(|(at, _, _)| at.ends_with(path)), "{path} was looked at");
    }
}

#[test]
fn bash_completes_flags_choices_and_files() {
    let complete = |program: &str, words: &str| {
        let script = format!(
            "source docs/completions/{program}.bash; COMP_WORDS=({program} {words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _{} 2>/dev/null; echo \"${{COMPREPLY[*]}}\"",
            program.replace('-', "_")
        );
        let output = Command::new("bash").args(["-c", &script]).current_dir(here("")).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
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
