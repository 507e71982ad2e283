//! The Helm chart: it is linted and rendered with several sets of values, by Helm 4 and by
//! Helm 3. Rendered, it is checked as the plain manifests are, and compared with them.

use std::fs;

use pap_collector::VERSION;
use serde_json::{Value, json};

use crate::flaws::{Known, containers, find, flaws, list, pod_of, text};
use crate::tools::{against_schemas, documents, has_tools, helms, here, render, run};
use crate::{MONITORING, STATION, STATION_MONITORING, configurations_taken, file, known, notices, put};

const CHART: &str = "charts/pap";
/// The sets of values: the files in `tests/manifests/values`. `defaults` is none.
const SETS: [&str; 5] = ["defaults", "daemonset", "station", "registered", "everything"];

/// What Helm does with the chart: whether it succeeded, and what it printed.
fn helm(helm: &str, words: &[&str], set: &str, more: &[&str]) -> (bool, String) {
    let values = here(&format!("tests/manifests/values/{set}.yaml"));
    let given: &[&str] = if set == "defaults" { &[] } else { &["--values", &values] };
    run(helm, &[words, &[&here(CHART), "--namespace", "agents"], given, more].concat(), "")
}

/// The objects that an install sends, hooks included. Each Helm sends the same.
fn rendered(set: &str, more: &[&str]) -> Vec<Value> {
    let mut all = helms().into_iter().map(|program| {
        let (fine, text) = helm(&program, &["template", "pap"], set, more);
        assert!(fine, "{set}: {text}");
        documents(&text)
    });
    let first = all.next().unwrap();
    assert!(all.all(|other| other == first), "{set}: the Helms differ");
    first
}

/// The same, with the secrets that must be there.
fn installed(set: &str) -> Vec<Value> {
    let secrets = ["k8s/config/secret.example.yaml", "k8s/overlays/station/secret.example.yaml"];
    let mut all: Vec<Value> = secrets.iter().flat_map(|path| documents(&file(path))).collect();
    all.extend(rendered(set, &[]));
    all
}

#[test]
fn helm_takes_the_chart() {
    if !has_tools("Helm") {
        return;
    }
    assert!(helms().len() >= 2, "Helm 4 and Helm 3");
    for set in SETS {
        for program in helms() {
            let (fine, text) = helm(&program, &["lint", "--strict"], set, &[]);
            assert!(fine, "{set}: {text}");
        }
        assert!(!rendered(set, &[]).is_empty(), "{set}");
    }
    // Helm 4 shows the notes without a cluster.
    let notes = |set| helm(&helms()[0], &["install", "pap", "--dry-run=client"], set, &[]).1;
    let said = notes("station");
    for part in
        ["http://pap-collector.agents.svc:8080", "svc/pap-station 8090", "secret generic pap-station-secrets"]
    {
        assert!(said.contains(part), "no {part}: {said}");
    }
    let said = notes("registered");
    assert!(
        said.contains("pap-station deregister prod") && !said.contains("kubectl create secret"),
        "{said}"
    );
    assert!(notes("daemonset").contains("daemonset/pap-heartbeat-collector"));
}

#[test]
fn kubernetes_and_our_programs_take_what_the_chart_makes() {
    if !has_tools("Helm and the schemas") {
        return;
    }
    let known = known();
    for set in SETS {
        let all = installed(set);
        against_schemas(&all).unwrap_or_else(|error| panic!("{set}: {error}"));
        assert_eq!(flaws(&all, &known), [""; 0], "{set}");
        assert!(configurations_taken(set, &all) > 0, "{set}");
        for document in &all {
            assert_eq!(text(document, "/metadata/namespace"), "agents", "{set}: {document}");
        }
    }
    broken_ones_are_noticed(&known);
}

fn broken_ones_are_noticed(known: &Known) {
    let good = installed("registered");
    let container = "/spec/template/spec/containers/0";
    for (pointer, value, flaw) in [
        ("/env/0/name", json!("STATION"), "knows no STATION"),
        ("/env/4/valueFrom/secretKeyRef/key", json!("key"), "no Secret has"),
        ("/securityContext/readOnlyRootFilesystem", json!(false), "read-only root"),
        ("/resources/limits", json!({}), "memory limit"),
    ] {
        let mut broken = good.clone();
        put(&mut broken, "Job", &format!("{container}{pointer}"), value);
        notices(&broken, known, flaw);
    }
    let mut broken = good;
    put(&mut broken, "Job", "/spec/backofflimit", json!(0));
    assert!(against_schemas(&broken).is_err());
}

/// What Helm and the chart add, and nothing else takes part in, is left out: labels of objects but
/// `app` and those for Grafana, annotations, and the order of variables.
fn normalised(documents: &[Value]) -> Vec<Value> {
    let mut all: Vec<Value> = documents.iter().filter(|it| it["kind"] != "Namespace").cloned().collect();
    for document in &mut all {
        for pointer in ["/metadata", "/spec/template/metadata"] {
            let Some(metadata) = document.pointer_mut(pointer).and_then(Value::as_object_mut) else {
                continue;
            };
            metadata.remove("annotations");
            if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
                labels.retain(|name, _| matches!(name.as_str(), "app" | "grafana_dashboard"));
                if labels.is_empty() {
                    metadata.remove("labels");
                }
            }
        }
        for pointer in ["/spec/template/spec/containers/0/env", "/spec/template/spec/initContainers/0/env"] {
            if let Some(variables) = document.pointer_mut(pointer).and_then(Value::as_array_mut) {
                variables.sort_by_key(|variable| text(variable, "/name").to_owned());
            }
        }
    }
    all.sort_by_key(|it| (text(it, "/kind").to_owned(), text(it, "/metadata/name").to_owned()));
    all
}

/// How two lists of objects differ.
fn differences(plain: &[Value], chart: &[Value]) -> Vec<String> {
    let (plain, chart) = (normalised(plain), normalised(chart));
    let lacks =
        |all: &[Value], it: &Value| find(all, text(it, "/kind"), text(it, "/metadata/name")).is_none();
    let name = |it: &Value| format!("{} {}", text(it, "/kind"), text(it, "/metadata/name"));
    let missing = plain.iter().filter(|it| lacks(&chart, it)).map(|it| format!("no {}", name(it)));
    let more = chart.iter().filter(|it| lacks(&plain, it));
    let more = more.map(|it| format!("{} is more", name(it)));
    let other = plain.iter().filter_map(|it| {
        let ours = find(&chart, text(it, "/kind"), text(it, "/metadata/name"))?;
        (ours != it).then(|| format!("{}:\n{it}\n{ours}", name(it)))
    });
    missing.chain(more).chain(other).collect()
}

#[test]
fn the_chart_is_what_the_plain_manifests_are() {
    if !has_tools("Helm and kubectl") {
        return;
    }
    let base = render("k8s/base");
    assert_eq!(differences(&base, &rendered("defaults", &[])), [""; 0]);
    assert_eq!(differences(&render("k8s/overlays/daemonset"), &rendered("daemonset", &[])), [""; 0]);

    // With a station: the collector posts there.
    let overlays = ["k8s/base", MONITORING, STATION, STATION_MONITORING];
    let mut plain: Vec<Value> = overlays.iter().flat_map(|overlay| render(overlay)).collect();
    put(
        &mut plain,
        "Deployment",
        "/spec/template/spec/containers/0/env/2",
        json!({
            "name": "STATION_URL",
            "valueFrom": { "configMapKeyRef": { "name": "pap-collector-config", "key": "station-url" } },
        }),
    );
    put(
        &mut plain,
        "ConfigMap",
        "/data",
        json!({
            "cluster-id": "my-cluster", "cluster-name": "My cluster", "station-url": "http://pap-station.agents.svc:8090",
        }),
    );
    assert_eq!(differences(&plain, &rendered("station", &[])), [""; 0]);

    for (change, kind) in [
        ("collector.resources.limits.memory=64Mi", "Deployment"),
        ("collector.image.tag=1.0.1", "Deployment"),
        ("collector.env.LOG_FORMAT=text", "Deployment"),
        ("serviceAccount.create=false", "no ServiceAccount"),
        ("networkPolicy.enabled=false", "no NetworkPolicy"),
        ("station.alertUrl=https://station.example:8443/", "NetworkPolicy"),
        ("cluster.name=Other", "ConfigMap"),
        ("monitoring.enabled=true", "PrometheusRule pap-collector is more"),
    ] {
        let found = differences(&base, &rendered("defaults", &["--set", change]));
        assert!(found.iter().any(|it| it.starts_with(kind)), "{change} is not noticed: {found:?}");
    }
}

#[test]
fn the_hooks_tell_the_station_and_only_where_there_is_one() {
    if !has_tools("Helm") {
        return;
    }
    let jobs = |set: &str, more: &[&str]| -> Vec<Value> {
        rendered(set, more).into_iter().filter(|it| it["kind"] == "Job").collect()
    };
    for set in ["defaults", "daemonset", "station"] {
        assert_eq!(jobs(set, &[]), [Value::Null; 0], "{set}");
    }
    assert_eq!(jobs("registered", &["--set", "station.register=false"]), [Value::Null; 0]);
    for set in ["registered", "everything"] {
        let jobs = jobs(set, &[]);
        assert_eq!(jobs.len(), 2);
        for (name, hooks, argument) in [
            ("pap-register", "post-install,post-upgrade", "--register"),
            ("pap-deregister", "pre-delete", "--deregister"),
        ] {
            let job = find(&jobs, "Job", name).unwrap();
            let annotations = &job["metadata"]["annotations"];
            assert_eq!(annotations["helm.sh/hook"], hooks);
            assert_eq!(annotations["helm.sh/hook-delete-policy"], "before-hook-creation,hook-succeeded");
            assert_eq!(job["spec"]["backoffLimit"], 0);
            let pod = pod_of(job).unwrap();
            assert_eq!(text(pod, "/restartPolicy"), "Never");
            let container = containers(pod).next().unwrap();
            assert_eq!(container["args"], json!([argument]));
            let set_to = |name: &str| {
                let found = list(container, "/env").iter().find(|it| it["name"] == name);
                found.map(|it| text(it, "/value")).unwrap_or_default()
            };
            assert_eq!(set_to("CLUSTER_ID"), "prod");
            assert!(set_to("CLUSTER_METADATA").starts_with("namespace=agents,"), "{container}");
            // The program gives up before Kubernetes does.
            let patience: u64 = set_to("STATION_TIMEOUT_MS").parse().unwrap();
            assert!(job["spec"]["activeDeadlineSeconds"].as_u64().unwrap() * 1000 > patience + 120_000);
        }
    }
}

#[test]
fn wrong_values_are_refused() {
    if !has_tools("Helm") {
        return;
    }
    for (wrong, named) in [
        ("clusterr.id=x", "clusterr"),
        ("cluster.idd=x", "idd"),
        ("cluster.id=a/b", "id"),
        ("cluster.metadata.a=b\\,c", "metadata"),
        ("collector.kind=StatefulSet", "kind"),
        ("collector.env.STATE_FILE=/tmp/state", "STATE_FILE"),
        ("collector.env.lower=x", "lower"),
        ("collector.env.COLLECTOR_MAX_AGENTS=5", "COLLECTOR_MAX_AGENTS"),
        ("collector.resources.limit=x", "limit"),
        ("collector.replicas=2", "replicas"),
        ("collector.image.pullPolicy=Sometimes", "pullPolicy"),
        ("collector.collectorApiKey=k", "collector.stationAlertKey"),
        ("station.url=station.example", "url"),
        ("station.url=https://station.example", "set cluster.id"),
        ("station.enabled=yes", "enabled"),
        ("station.storage.size=big", "size"),
        ("hooks.timeoutSeconds=0", "timeoutSeconds"),
        ("networkPolicy.extraEgress=all", "extraEgress"),
        ("monitoring.label.a=b", "label"),
    ] {
        for program in helms() {
            let (fine, text) = helm(&program, &["template", "pap"], "defaults", &["--set", wrong]);
            assert!(!fine && text.contains(named), "{wrong}: {text}");
        }
    }
    let both = ["--set", "collector.existingSecret=mine,collector.stationAlertKey=k"];
    for program in helms() {
        let (fine, text) = helm(&program, &["template", "pap"], "defaults", &both);
        assert!(!fine && text.contains("stationAlertKey"), "{text}");
    }
}

#[test]
fn the_chart_has_the_version_of_the_programs_and_copies_of_the_rules() {
    let chart = file("charts/pap/Chart.yaml");
    assert!(chart.contains(&format!("\nversion: {VERSION}\n")), "{chart}");
    assert!(chart.contains(&format!("\nappVersion: \"{VERSION}\"\n")), "{chart}");
    for (original, copy) in [
        ("k8s/overlays/monitoring/prometheusrule.yaml", "charts/pap/rules/pap-collector.yaml"),
        ("k8s/overlays/station-monitoring/prometheusrule.yaml", "charts/pap/rules/pap-station.yaml"),
        ("k8s/overlays/monitoring/dashboard.json", "charts/pap/dashboards/pap-collector.json"),
        ("k8s/overlays/station-monitoring/dashboard.json", "charts/pap/dashboards/control-plane.json"),
        ("k8s/overlays/station-monitoring/station.json", "charts/pap/dashboards/pap-station.json"),
    ] {
        assert!(file(original) == file(copy), "{copy} differs: cp {original} {copy}");
    }
    for dashboard in fs::read_dir(here("charts/pap/dashboards")).unwrap() {
        let path = dashboard.unwrap().path();
        let parsed: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert!(!list(&parsed, "/panels").is_empty(), "{}", path.display());
    }
}

/// A table of the values in `values.yaml`: each with its default and its comment.
fn table_of_values() -> String {
    let yaml = file("charts/pap/values.yaml");
    let lines: Vec<&str> = yaml.lines().collect();
    let depth = |line: &str| (line.len() - line.trim_start().len()) / 2;
    let mut rows = vec!["| Value | Default | Meaning |\n|---|---|---|\n".to_owned()];
    let (mut path, mut comment) = (Vec::new(), Vec::new());
    // Lines that are deeper are a part of the value that was last.
    let mut last = usize::MAX;
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
        if let Some(words) = line.trim().strip_prefix('#') {
            comment.push(words.trim());
        } else if let Some((name, value)) = line.trim().split_once(':').filter(|_| depth(line) <= last) {
            path.truncate(depth(line));
            path.push(name);
            // A map is one value where its user names the members.
            let is_map = matches!(name, "env" | "resources");
            last = if is_map { depth(line) } else { usize::MAX };
            let members = lines[number + 1..].iter().take_while(|below| is_map && depth(below) > depth(line));
            let members: Vec<&str> = members.map(|line| line.trim()).collect();
            let default = if is_map { members.join(", ").replace(":, ", ": ") } else { value.trim().into() };
            if !default.is_empty() {
                rows.push(format!("| `{}` | `{default}` | {} |\n", path.join("."), comment.join(" ")));
            }
            comment.clear();
        }
    }
    rows.concat()
}

#[test]
fn the_readme_of_the_chart_names_every_value() {
    let readme = file("charts/pap/README.md");
    let (start, end) = ("<!-- the values: made from values.yaml -->\n", "<!-- the end of the values -->");
    let (before, rest) = readme.split_once(start).unwrap();
    let (present, after) = rest.split_once(end).unwrap();
    let table = table_of_values();
    assert!(
        table.lines().count() > 50
            && table.contains("| `collector.env` | `COLLECTOR_MAX_AGENTS: \"20000\", LOG")
    );
    if present == table {
        return;
    }
    let unsaid: Vec<&str> = table.lines().filter(|row| row.ends_with("|  |")).collect();
    assert_eq!(unsaid, [""; 0], "values.yaml says nothing of them");
    let again = "PAP_WRITE_DOCS=1 cargo test --test manifests chart::";
    assert!(std::env::var_os("PAP_WRITE_DOCS").is_some(), "the table differs; to write it anew: {again}");
    fs::write(here("charts/pap/README.md"), [before, start, &table, end, after].concat()).unwrap();
}
