//! Documents agree with what is there: links lead somewhere, versions are those of Cargo.toml, and commands
//! name what there is.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use support::pages::{block, blocks, shell, with};
use support::{Running, has_programs, said};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a directory, but for what is built or hidden.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let is_hidden = name.starts_with('.') && !matches!(name.as_str(), ".github" | ".ci");
        match entry.file_type().unwrap() {
            _ if is_hidden || name == "target" => {}
            kind if kind.is_dir() => files(&entry.path(), found),
            _ => found.push(entry.path()),
        }
    }
}

/// The text files of this repository.
fn texts() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(here(), &mut found);
    let text = |path: PathBuf| fs::read_to_string(&path).ok().map(|text| (path, text));
    found.into_iter().filter_map(text).collect()
}

/// The lines of a page that are no code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// What a heading is called in a link, by GitHub's rule.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::<String, u32>::new();
    let headings = prose(page).filter(|line| line.starts_with('#'));
    let anchors = headings.map(|line| {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let times = seen.entry(anchor.clone()).or_default();
        *times += 1;
        if *times == 1 { anchor } else { format!("{anchor}-{}", *times - 1) }
    });
    anchors.collect()
}

/// Without `.` and `..`, and without asking the disk.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, component| {
        match component {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            component => path.push(component),
        }
        path
    })
}

#[test]
fn every_link_inside_the_repository_leads_to_something() {
    let all = texts();
    let pages: BTreeMap<_, _> =
        all.iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "md")).cloned().collect();
    let (mut dead, mut checked) = (Vec::new(), 0);
    for (path, page) in &pages {
        for line in prose(page) {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                checked += 1;
                let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target =
                    if file.is_empty() { path.clone() } else { normal(&path.parent().unwrap().join(file)) };
                let is_there = target.exists()
                    && (anchor.is_empty()
                        || pages.get(&target).is_some_and(|page| anchors(page).contains(anchor)));
                if !is_there {
                    dead.push(format!("{}: {link}", path.strip_prefix(here()).unwrap().display()));
                }
            }
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere:\n{}", dead.join("\n"));
    assert!(checked > 200, "{checked} links were found");
}

#[test]
fn every_version_of_ours_is_that_of_cargo_toml() {
    let version = env!("CARGO_PKG_VERSION");
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (path, text) in texts() {
        let path = path.strip_prefix(here()).unwrap().to_owned();
        let is_history = path.starts_with("docs/decisions") || path.ends_with("CHANGELOG.md");
        if is_history || path.starts_with("tests") || path.starts_with("crates") {
            continue;
        }
        for program in ["pap-collector:", "pap-heartbeat:", "pap-station:"] {
            for rest in text.split(program).skip(1) {
                let tag: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
                if tag.matches('.').count() >= 2 {
                    checked += 1;
                    if tag.trim_end_matches('.') != version {
                        wrong.push(format!("{}: {program}{tag}", path.display()));
                    }
                }
            }
        }
    }
    let line = |path: &str, line: String| {
        let text = fs::read_to_string(here().join(path)).unwrap();
        assert!(text.lines().any(|it| it == line), "{path} has no line {line:?}");
    };
    line("charts/pap/Chart.yaml", format!("version: {version}"));
    line("charts/pap/Chart.yaml", format!("appVersion: \"{version}\""));
    line("Dockerfile.distroless", format!("ARG VERSION={version}"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 10, "{checked} tags were found");
}

/// Where the commands of the pages are run as they stand there (but for names of hosts, ports, paths and keys):
/// a page, how blocks of it begin, and what runs them, which names the page.
const RUN: [(&str, &str, &str); 32] = [
    ("README.md", "CLUSTER_ID=dev cargo run", ".ci/run"),
    ("README.md", "$ ", "tests/e2e/readme.rs"),
    ("CONTRIBUTING.md", "cargo test", ".ci/run"),
    ("docs/alertmanager.md", "CLUSTER_ID=prod ALERTMANAGER_URL", "tests/documents.rs"),
    ("docs/alertmanager.md", "STATION_DB=", "tests/documents.rs"),
    ("docs/api.md", "python3 -m websockets", "tests/e2e/pages.rs"),
    ("docs/clients.md", "#!/bin/sh", "tests/loops.rs"),
    ("docs/containers.md", "docker build -f Dockerfile.distroless -t", ".ci/container"),
    ("docs/containers.md", "docker build -f Dockerfile.distroless --target station", ".ci/container"),
    ("docs/containers.md", "install -d", ".ci/container"),
    ("docs/containers.md", "rustup target", ".ci/slow-pages"),
    ("docs/control-plane.md", "$ ", "crates/station/tests/e2e/phases.rs"),
    ("docs/control-plane.md", "docker run", ".ci/container"),
    ("docs/debian.md", ".ci/static", ".ci/deb-test"),
    ("docs/debian.md", "editor /etc/pap-collector", ".ci/deb-test"),
    ("docs/debian.md", "install -m 600 /usr/share/doc/pap-heartbeat", ".ci/deb-test"),
    ("docs/debian.md", "editor /etc/pap-station", ".ci/deb-test"),
    ("docs/debian.md", "rm -f /usr/local/bin/pap-collector", ".ci/deb-test"),
    ("docs/heartbeat.md", "export PAP_AGENT_ID", "tests/e2e/pages.rs"),
    ("docs/heartbeat.md", "STATION_URL=", "crates/station/tests/e2e/pages.rs"),
    ("docs/heartbeat.md", "export STATION_URL", "crates/station/tests/e2e/pages.rs"),
    ("docs/kafka.md", "cargo build", ".ci/slow-pages"),
    ("docs/performance.md", ".ci/beside-nginx", ".ci/slow-pages"),
    ("docs/sidecar.md", "docker network", ".ci/container"),
    ("docs/sizing.md", "CLUSTER_ID=dev", ".ci/run"),
    ("docs/sizing.md", "cargo run --release --example swarm", ".ci/run"),
    ("docs/station.md", "STATION_ADMIN_KEY=", "crates/station/tests/e2e/pages.rs"),
    ("docs/station.md", "curl ", "crates/station/tests/e2e/pages.rs"),
    ("docs/station.md", "$ curl", "crates/station/tests/e2e/pages.rs"),
    ("docs/station.md", "$ STATION_DB=", "crates/station/tests/e2e/import.rs"),
    ("docs/systemd.md", "install -m 755 target/static/pap-collector", ".ci/deb-test"),
    ("docs/systemd.md", "install -m 755 target/static/pap-station", ".ci/deb-test"),
];

/// What is not run: a page, how blocks of it begin, and why.
const CLUSTER: &str = "a cluster of Kubernetes; .ci/manifests checks what it applies";
const NOT_RUN: [(&str, &str, &str); 6] = [
    ("charts/pap/README.md", "", CLUSTER),
    ("docs/agents-on-kubernetes.md", "", CLUSTER),
    ("docs/control-plane.md", "helm install", CLUSTER),
    ("docs/kubernetes.md", "", CLUSTER),
    ("docs/runbooks.md", "", CLUSTER),
    ("docs/kafka.md", "kafka-topics", "Kafka's own tools; kafka.rs makes the topics at a broker for tests"),
];

#[test]
fn every_command_is_run_or_it_is_known_why_not() {
    let mut unused: BTreeSet<_> =
        RUN.iter().chain(&NOT_RUN).map(|(page, start, _)| (*page, *start)).collect();
    let mut open = Vec::new();
    for (path, text) in texts().into_iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "md"))
    {
        let page = path.strip_prefix(here()).unwrap().to_str().unwrap();
        for block in blocks(&text) {
            let is = |(of, start, _): &&(&str, &str, &str)| *of == page && block.starts_with(start);
            match RUN.iter().chain(&NOT_RUN).find(is) {
                Some((page, start, _)) => drop(unused.remove(&(*page, *start))),
                None => open.push(format!("{page}: {}", block.lines().next().unwrap_or_default())),
            }
        }
    }
    assert!(open.is_empty(), "neither run nor known why not:\n{}", open.join("\n"));
    assert!(unused.is_empty(), "no block begins so: {unused:?}");
    for (page, start, by) in RUN {
        let text = fs::read_to_string(here().join(by)).unwrap();
        let name = page.rsplit('/').next().unwrap();
        // Of the loops whole files are compared with the page.
        let is_named = text.contains(start) || by == "tests/loops.rs";
        assert!(text.contains(name) && is_named, "{by} does not run what begins with {start:?} in {page}");
    }
}

#[test]
fn every_command_parses_and_names_what_is_there() {
    if !has_programs(&["bash"]) {
        return;
    }
    let mut checked = 0;
    for (page, text) in texts().into_iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "md"))
    {
        let page = page.strip_prefix(here()).unwrap().display().to_string();
        for block in blocks(&text).into_iter().filter(|block| !block.starts_with("$ ")) {
            checked += 1;
            let parsed = Command::new("bash").args(["-nc", block]).output().unwrap();
            assert!(parsed.status.success(), "{page}: {}", String::from_utf8_lossy(&parsed.stderr));
            for word in block.split_whitespace().map(|word| word.trim_matches(['"', '\''])) {
                let is_ours = ["k8s/", "systemd/", "examples/", "charts/", ".ci/", "crates/", "tests/"];
                if is_ours.iter().any(|start| word.starts_with(start)) {
                    assert!(here().join(word).exists(), "{page}: {word} is not there");
                }
            }
        }
    }
    assert!(checked > 30, "{checked} blocks were found");
}

#[test]
fn what_tells_alertmanagers_starts_as_the_page_says() {
    if !has_programs(&["bash"]) {
        return;
    }
    let programs = Path::new(env!("CARGO_BIN_EXE_pap-collector")).parent().unwrap();
    for (start, program, directory, listening) in [
        ("CLUSTER_ID=prod ALERTMANAGER_URL", "pap-collector", "/var/lib/pap-collector", said::LISTENING),
        ("STATION_DB=", "pap-station", "/var/lib/pap-station", "listens on"),
    ] {
        // Another package makes the station.
        if !programs.join(program).is_file() {
            continue;
        }
        let own = tempfile::tempdir().unwrap();
        let line = block("docs/alertmanager.md", start);
        let line = with(&line, &[(directory, own.path().to_str().unwrap())]);
        let mut started = shell(&format!("exec env {line}"), programs);
        let started = started.env("COLLECTOR_PORT", "0").env("STATION_PORT", "0").stdout(Stdio::null());
        Running::spawn(started).await_log(listening);
    }
}
