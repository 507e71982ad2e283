//! Whether a program does what its table of settings says, and the files in docs/ say it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pap_process::settings::{Fallback, GoDuration, Kind, Setting};

use crate::program::Program;
use crate::{completions, here, man};

/// Runs the program with only these variables.
pub fn run(program: &Program, variables: &[(String, String)], arguments: &[String]) -> Output {
    let variables = variables.iter().map(|(name, value)| (name, value));
    Command::new(program.path).env_clear().envs(variables).args(arguments).output().unwrap()
}

/// The files in docs/ about one program alone.
pub fn files(program: &Program) -> Vec<(String, String)> {
    let name = program.name;
    vec![
        (format!("docs/man/{name}.8"), man::write(program)),
        (format!("docs/completions/{name}.bash"), completions::bash(program)),
        (format!("docs/completions/_{name}"), completions::zsh(program)),
        (format!("docs/completions/{name}.fish"), completions::fish(program)),
    ]
}

/// Compares files with what they should hold, or writes them with `PAP_WRITE_DOCS`.
pub fn compare(files: &[(String, String)], writes_docs: &str) {
    if std::env::var_os("PAP_WRITE_DOCS").is_some() {
        for (path, text) in files {
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
        "{} differ from the tables of settings. To write them anew: {writes_docs}",
        stale.join(", ")
    );
}

/// A value other than the default.
fn example(setting: &Setting, certificates: &str) -> String {
    match &setting.kind {
        // Text with a form of its own.
        Kind::Text(_) if setting.name == "ALLOW_PRIVATE_TARGETS" => "10.0.0.0/8".into(),
        Kind::Text(_) if setting.name == "DOCKER_HOST" => "unix:///nowhere/engine.sock".into(),
        Kind::File if setting.name == "WORKERS_FILE" => {
            here("examples/workers/graph-builder.toml").display().to_string()
        }
        Kind::Text(_) if setting.name == "CLUSTER_METADATA" => "release=example".into(),
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

/// Every setting arrives from the environment and as a flag. Settings that exclude each other are
/// `alternatives`: in each turn one of the lists is left out. Those that this build refuses are always
/// left out.
pub fn every_setting_arrives(program: &Program, alternatives: &[&[&str]], refused: &[&str], pem: &str) {
    let mut seen: BTreeSet<_> = refused.iter().copied().collect();
    for excluded in alternatives {
        let is_left_out = |name: &str| excluded.contains(&name) || refused.contains(&name);
        let settings: Vec<_> = program.table.iter().filter(|setting| !is_left_out(setting.name)).collect();
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

/// Every default and every choice is taken, and no other. Without the `required` ones nothing starts.
pub fn every_default_and_choice_is_taken(program: &Program, required: &[(String, String)]) {
    let taken = |name: &str, value: &str| {
        let own = (name.to_owned(), value.to_owned());
        let variables = [required, &[own]].concat();
        let output = run(program, &variables, &["--check-config".into()]);
        assert!([Some(0), Some(78)].contains(&output.status.code()), "{output:?}");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), text)
    };
    let defaults = taken("", "").1;
    for setting in program.table {
        if let Fallback::Value(value) = setting.fallback {
            // A duration is shown in full: 2m as 2m0s.
            let end = if matches!(setting.kind, Kind::Duration(_)) { "" } else { "\n" };
            assert!(defaults.contains(&format!("{}={value}{end}", setting.name)), "{defaults}");
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

/// `--help` describes every setting and switch.
pub fn help_describes_everything(program: &Program) {
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

/// A mistake in the flags is one line, and 78.
pub fn a_mistake_is_one_line_and_78(program: &Program) {
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
        assert!(error.contains(expected) && error.contains("--help") && !error.contains("hush"), "{error}");
    }
}

/// The variables of a program, with those that name a file with a key.
pub fn names(program: &Program) -> BTreeSet<String> {
    let files = program.table.iter().filter_map(|setting| setting.file().map(|(name, _)| name));
    program.table.iter().map(|setting| setting.name.to_owned()).chain(files).collect()
}

pub fn is_name(text: &str) -> bool {
    text.contains('_') && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

/// The YAML files below a folder.
pub fn yaml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

/// What bash offers after these words.
pub fn complete(program: &str, words: &str) -> String {
    let script = format!(
        "source docs/completions/{program}.bash; COMP_WORDS=({program} {words}); \
         COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _{} 2>/dev/null; echo \"${{COMPREPLY[*]}}\"",
        program.replace('-', "_")
    );
    let output = Command::new("bash").args(["-c", &script]).current_dir(here("")).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
