//! Tools that read manifests: kustomize, Helm, the schemas of Kubernetes, promtool and
//! systemd-analyze. `.ci/manifests` installs them.

use std::env;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{is_slow_run, skipped};

/// The version of Kubernetes whose schemas are used.
const KUBERNETES: &str = "1.34";

/// Whether this run has the tools that a test needs. It has them in a slow run that
/// `.ci/manifests` started, as that script installs them all.
pub fn has_tools(which: &str) -> bool {
    let has_tools = is_slow_run() && env::var_os("MANIFESTS_PYTHON").is_some();
    if !has_tools {
        skipped(&format!("needs PAP_SLOW_TESTS=1 and {which}: run .ci/manifests"));
    }
    has_tools
}

/// Runs a program. Returns whether it succeeded, and what it printed.
pub fn run(program: &str, arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; .ci/manifests installs it"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// The path of something in this repository.
pub fn here(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// The objects that `kubectl apply -k` would send.
pub fn render(overlay: &str) -> Vec<Value> {
    let (fine, text) = run("kubectl", &["kustomize", &here(overlay)], "");
    assert!(fine, "{overlay}: {text}");
    documents(&text)
}

/// The programs of Helm: of version 4, and of version 3.
pub fn helms() -> Vec<String> {
    let named = env::var("MANIFESTS_HELM").expect(".ci/manifests names them");
    named.split(':').map(ToOwned::to_owned).collect()
}

/// The documents of a YAML file.
pub fn documents(yaml: &str) -> Vec<Value> {
    let to_json =
        "import json, sys, yaml; print(json.dumps([d for d in yaml.safe_load_all(sys.stdin) if d]))";
    let (fine, json) = run(&python(), &["-c", to_json], yaml);
    assert!(fine, "{json}");
    serde_json::from_str(&json).unwrap()
}

fn python() -> String {
    env::var("MANIFESTS_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Checks documents against the published schemas of Kubernetes; kinds that are not
/// part of Kubernetes have none.
pub fn against_schemas(documents: &[Value]) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (number, document) in documents.iter().enumerate().filter(|(_, document)| is_of_kubernetes(document))
    {
        let path = directory.path().join(format!("{number}.yaml"));
        fs::write(&path, document.to_string()).unwrap();
        files.push(path.to_str().unwrap().to_owned());
    }
    let mut arguments = vec!["-m", "kubernetes_validate", "--strict", "-k", KUBERNETES];
    arguments.extend(files.iter().map(String::as_str));
    let (fine, text) = run(&python(), &arguments, "");
    // The tool only warns about a kind that it does not know.
    if fine && !text.contains("WARN") { Ok(()) } else { Err(text) }
}

/// Whether Kubernetes itself knows the kind, so that there is a published schema of it.
pub fn is_of_kubernetes(document: &Value) -> bool {
    let group = document["apiVersion"].as_str().and_then(|version| version.split_once('/'));
    group.is_none_or(|(group, _)| !group.contains('.') || group.ends_with(".k8s.io"))
}

/// Checks the rules with promtool, alone or with their test.
pub fn against_promtool(rules: &Value, test: Option<&str>) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yaml");
    fs::write(&file, rules["spec"].to_string()).unwrap();
    let (passed, output) = match test {
        None => run("promtool", &["check", "rules", file.to_str().unwrap()], ""),
        Some(test) => {
            let path = directory.path().join("test.yaml");
            fs::write(&path, test).unwrap();
            run("promtool", &["test", "rules", path.to_str().unwrap()], "")
        }
    };
    if passed { Ok(()) } else { Err(output) }
}

/// Checks units with `systemd-analyze verify`, with our programs where the units expect
/// them.
pub fn against_systemd(units: &[(&str, &str)]) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let put = |(name, text): &(&str, &str)| {
        let path = directory.path().join(name);
        let text = text.replace("/usr/local/bin/pap-collector", env!("CARGO_BIN_EXE_pap-collector"));
        let text = text.replace("/usr/local/bin/pap-heartbeat", env!("CARGO_BIN_EXE_pap-heartbeat"));
        let text = text.replace("/usr/local/bin/pap-station", station().to_str().unwrap());
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let files: Vec<String> = units.iter().map(put).collect();
    let arguments: Vec<&str> = ["verify"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let (fine, text) = run("systemd-analyze", &arguments, "");
    if fine && text.is_empty() { Ok(()) } else { Err(text) }
}

/// Where the station is built, if it is: beside the collector.
pub fn station() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_pap-collector")).with_file_name("pap-station")
}

/// The exposure of a service by `systemd-analyze security`, from 0 to 10.
pub fn exposure(service: &Path) -> f64 {
    let (_, text) =
        run("systemd-analyze", &["security", "--offline=true", "--no-pager", service.to_str().unwrap()], "");
    let (_, rest) = text.rsplit_once("exposure level for").unwrap();
    rest.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
}
