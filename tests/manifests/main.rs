//! Checks everything in `k8s/`, `charts/`, `systemd/` and `examples/compose/` against the published schemas, the tools
//! that will read the files, each other, and the program. Each check also gets a broken
//! copy, and must notice it.
//!
//! The tools are installed by `.ci/manifests`, which runs these tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be"
)]

#[path = "../support/agent.rs"]
mod agent;
mod agents;
mod chart;
mod flaws;
mod runbooks;
#[path = "../support/mod.rs"]
mod support;
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use flaws::{Known, containers, find, flaws, list, pod_of, program_of, text, value_of};
use serde_json::{Value, json};
use support::{Collector, command};
use tools::{
    against_promtool, against_schemas, against_systemd, documents, exposure, has_tools, here,
    is_of_kubernetes, render, run,
};

const MONITORING: &str = "k8s/overlays/monitoring";
const INGRESS: &str = "k8s/overlays/ingress";
const HEARTBEAT: &str = "k8s/overlays/heartbeat";
const AGENTS: &str = "k8s/overlays/agents";
const STATION: &str = "k8s/overlays/station";
const STATION_MONITORING: &str = "k8s/overlays/station-monitoring";
/// Overlays that are applied alone, each with the overlays that may be applied beside
/// it.
const APPLIED: [(&str, &[&str]); 6] = [
    ("k8s/base", &[MONITORING, INGRESS, HEARTBEAT, STATION, STATION_MONITORING]),
    ("k8s/overlays/is-plugged-in", &[MONITORING, INGRESS]),
    ("k8s/overlays/daemonset", &[MONITORING, INGRESS]),
    ("k8s/overlays/two-levels", &[MONITORING, INGRESS, HEARTBEAT]),
    ("k8s/overlays/sidecar", &[]),
    (AGENTS, &[MONITORING, INGRESS, STATION, STATION_MONITORING]),
];
/// Where the secrets are that a user makes.
const SECRETS: [&str; 3] = [
    "k8s/config/secret.example.yaml",
    "k8s/overlays/station/secret.example.yaml",
    "k8s/overlays/agents/secret.example.yaml",
];

/// All objects in the namespace after the commands of docs/kubernetes.md.
fn applied(overlay: &str, beside: &[&str]) -> Vec<Value> {
    let mut all = render(overlay);
    all.extend(beside.iter().flat_map(|overlay| render(overlay)));
    for secrets in SECRETS {
        all.extend(documents(&file(secrets)));
    }
    all
}

fn file(path: &str) -> String {
    fs::read_to_string(here(path)).unwrap()
}

/// The command that starts the station, with these variables alone; None where it is not built.
/// Another package makes it, so `.ci/manifests` builds it first.
fn station_command(variables: &[(&str, &str)]) -> Option<Command> {
    let program = tools::station();
    program.is_file().then(|| {
        let mut command = Command::new(program);
        command.env_clear().envs(variables.iter().copied());
        command
    })
}

/// The variables of our programs, as the programs themselves list them.
fn known() -> Known {
    let names = |command: &mut Command, keys: &[&str]| -> BTreeSet<String> {
        let output = command.arg("--check-config").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let names = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name.to_owned());
        // --check-config shows a key, but not the variable with the key's file.
        names.chain(keys.iter().map(|key| format!("{key}_FILE"))).collect()
    };
    let ids = [("CLUSTER_ID", "c"), ("PAP_AGENT_ID", "a"), ("PAP_COLLECTOR_URL", "http://c")];
    let collector = names(
        &mut command(&ids),
        &["COLLECTOR_API_KEY", "HEARTBEAT_API_KEY", "PAP_COLLECTOR_KEY", "STATION_ALERT_KEY"],
    );
    let heartbeat = names(
        &mut agent::command(&ids[1..], &[]),
        &["PAP_AGENT_KEY", "PAP_COLLECTOR_KEY", "STATION_ALERT_KEY"],
    );
    assert!(collector.contains("STATE_FILE") && heartbeat.contains("PAP_PROBE"));
    let mut known = Known::from([("pap-collector", collector), ("pap-heartbeat", heartbeat)]);
    if let Some(mut station) = station_command(&[]) {
        known.insert("pap-station", names(&mut station, &["PAP_COLLECTOR_API_KEY"]));
    }
    known
}

#[test]
fn the_schemas_of_kubernetes_are_content() {
    if !has_tools("kubectl and the schemas") {
        return;
    }
    for (overlay, beside) in APPLIED {
        against_schemas(&applied(overlay, beside)).unwrap_or_else(|error| panic!("{overlay}: {error}"));
    }
    let good = render("k8s/base");
    for (kind, pointer, value) in [
        ("Deployment", "/spec/template/spec/containers/0/ports/0/containerPort", json!("8080")),
        ("Deployment", "/spec/template/spec/containers/0/livenes", json!({})),
        ("Deployment", "/spec/selector", json!("all")),
        ("Service", "/spec/ports/0/port", json!("http")),
        ("NetworkPolicy", "/spec/podselector", json!({})),
        ("ConfigMap", "/data/cluster-id", json!(7)),
        ("ServiceAccount", "/automountServiceAccountToken", json!("no")),
    ] {
        let mut broken = good.clone();
        put(&mut broken, kind, pointer, value);
        assert!(against_schemas(&broken).is_err(), "{kind}{pointer} is not noticed");
    }
    let good = render("k8s/overlays/agents/workload");
    for (kind, pointer, value) in [
        ("Deployment", "/spec/template/spec/containers/0/lifecycle/preStop/sleep/seconds", json!("5s")),
        ("Deployment", "/spec/template/spec/topologySpreadConstraints/0/maxSkew", json!("1")),
        ("HorizontalPodAutoscaler", "/spec/metrics/0/containerResource/target/average", json!(70)),
        ("PodDisruptionBudget", "/spec/minimum", json!(2)),
    ] {
        let mut broken = good.clone();
        put(&mut broken, kind, pointer, value);
        assert!(against_schemas(&broken).is_err(), "{kind}{pointer} is not noticed");
    }
}

/// Sets a field of the first document of this kind.
fn put(documents: &mut [Value], kind: &str, pointer: &str, value: Value) {
    let document = documents.iter_mut().find(|it| text(it, "/kind") == kind).unwrap();
    let (place, field) = pointer.rsplit_once('/').unwrap();
    match document.pointer_mut(place).unwrap_or_else(|| panic!("{kind} has no {place}")) {
        Value::Array(items) => items[field.parse::<usize>().unwrap()] = value,
        place => place[field] = value,
    }
}

#[test]
fn they_fit_each_other_and_the_program() {
    if !has_tools("kubectl") {
        return;
    }
    let known = known();
    for (overlay, beside) in APPLIED {
        assert_eq!(flaws(&applied(overlay, beside), &known), [""; 0], "{overlay}");
    }
    let good = applied("k8s/base", &[MONITORING, INGRESS]);
    let container = "/spec/template/spec/containers/0";
    for (kind, pointer, value, flaw) in [
        ("Deployment", "/env/0/name", json!("CLUSTER"), "knows no CLUSTER"),
        ("Deployment", "/env/0/valueFrom/configMapKeyRef/key", json!("id"), "no ConfigMap has"),
        ("Deployment", "/env/3/valueFrom/secretKeyRef/name", json!("secrets"), "no Secret has"),
        ("Deployment", "/livenessProbe/httpGet/port", json!("web"), "no port \"web\""),
        ("Deployment", "/ports/0/containerPort", json!(8081), "no container has port 8080"),
        ("Deployment", "/volumeMounts/0/mountPath", json!("/var/lib/other"), "cannot be written"),
        ("Deployment", "/volumeMounts/0/name", json!("disk"), "no volume \"disk\""),
        ("Deployment", "/securityContext/readOnlyRootFilesystem", json!(false), "read-only root"),
        ("Deployment", "/securityContext/capabilities/drop", json!([]), "capabilities"),
        ("Deployment", "/resources/limits", json!({}), "memory limit"),
    ] {
        let mut broken = good.clone();
        put(&mut broken, kind, &format!("{container}{pointer}"), value);
        notices(&broken, &known, flaw);
    }
    for (kind, pointer, value, flaw) in [
        ("Deployment", "/spec/template/spec/serviceAccountName", json!("nobody"), "no service account"),
        ("Deployment", "/spec/template/spec/securityContext/runAsNonRoot", json!(false), "runAsNonRoot"),
        ("Deployment", "/spec/template/spec/enableServiceLinks", json!(true), "service links"),
        ("Deployment", "/spec/template/spec/hostNetwork", json!(true), "hostNetwork"),
        ("Deployment", "/spec/template/metadata/labels/app", json!("other"), "selects no pod"),
        ("ConfigMap", "/metadata/name", json!("config"), "no ConfigMap has"),
        ("Service", "/spec/ports/0/targetPort", json!(80), "no container has port 80"),
        ("Service", "/metadata/labels", json!({}), "selects 0 services"),
        ("NetworkPolicy", "/spec/ingress/0/ports/0/port", json!(80), "nobody listens"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels/app", json!("collector"), "selects no pod"),
        ("IngressRoute", "/spec/tls/secretName", json!("tls"), "no certificate makes tls"),
        ("IngressRoute", "/spec/routes/0/services/0/port", json!(80), "with port 80"),
        ("IngressRoute", "/spec/routes/0/middlewares/0/name", json!("limit"), "no middleware"),
        ("IngressRoute", "/spec/routes/0/match", json!("Host(`other`)"), "no certificate for other"),
        ("ServiceMonitor", "/spec/endpoints/0/port", json!("metrics"), "no port \"metrics\""),
    ] {
        let mut broken = good.clone();
        put(&mut broken, kind, pointer, value);
        notices(&broken, &known, flaw);
    }
}

#[test]
fn the_station_has_one_pod_and_a_disk_of_its_own() {
    if !has_tools("kubectl") {
        return;
    }
    let known = known();
    let good = applied("k8s/base", &[STATION]);
    let station = find(&good, "Deployment", "pap-station").unwrap();
    assert_eq!((&station["spec"]["replicas"], text(station, "/spec/strategy/type")), (&json!(1), "Recreate"));
    let rest: Vec<Value> =
        good.iter().filter(|it| text(it, "/metadata/name") == "pap-station").cloned().collect();
    let secrets = documents(&file("k8s/overlays/station/secret.example.yaml"));
    let alone = [rest, secrets].concat();
    assert_eq!(flaws(&alone, &known), [""; 0]);
    let container = "/spec/template/spec/containers/0";
    for (kind, pointer, value, flaw) in [
        ("PersistentVolumeClaim", "/metadata/name", json!("disk"), "cannot be written"),
        ("Secret", "/metadata/name", json!("secrets"), "no Secret has"),
        ("Service", "/spec/selector/app", json!("station"), "selects no pod"),
        ("Deployment", &format!("{container}/env/0/name"), json!("STATION_FILE"), "knows no STATION_FILE"),
        ("Deployment", &format!("{container}/env/0/value"), json!("/tmp/station.db"), "cannot be written"),
        (
            "Deployment",
            &format!("{container}/securityContext/readOnlyRootFilesystem"),
            json!(false),
            "read-only root",
        ),
    ] {
        let mut broken = alone.clone();
        put(&mut broken, kind, pointer, value);
        notices(&broken, &known, flaw);
    }
}

#[test]
fn whoever_beats_has_somebody_to_beat_to() {
    if !has_tools("kubectl") {
        return;
    }
    let known = known();
    let good = applied("k8s/overlays/two-levels", &[HEARTBEAT]);
    let set = |kind: &str, container: &str, name: &str, value: &str| {
        let mut broken = good.clone();
        let owner = broken.iter_mut().rfind(|it| text(it, "/kind") == kind).unwrap();
        let pointer = format!("/spec/template/spec/{container}/0/env");
        let variables = owner.pointer_mut(&pointer).and_then(Value::as_array_mut).unwrap();
        variables.iter_mut().find(|it| it["name"] == name).unwrap()["value"] = json!(value);
        broken
    };
    let url = "PAP_COLLECTOR_URL";
    for wrong in ["http://pap-collector-above.agents.svc:80", "http://above.agents.svc:8080", "pap-collector"]
    {
        notices(&set("DaemonSet", "containers", url, wrong), &known, &format!("nobody listens at {wrong}"));
    }
    let wrong = "http://pap-collector.default.svc:8080";
    notices(&set("Deployment", "initContainers", url, wrong), &known, "nobody listens at");
    // The nodes share the cluster's id, but each needs its own agent id.
    let daemon_set = find(&good, "DaemonSet", "pap-heartbeat-collector").unwrap();
    let id = list(daemon_set, "/spec/template/spec/containers/0/env")
        .iter()
        .find(|it| it["name"] == "PAP_AGENT_ID")
        .unwrap();
    assert_eq!(text(id, "/valueFrom/fieldRef/fieldPath"), "metadata.uid");
}

fn notices(broken: &[Value], known: &Known, flaw: &str) {
    let found = flaws(broken, known);
    assert!(found.iter().any(|it| it.contains(flaw)), "\"{flaw}\" is not noticed: {found:?}");
}

#[test]
fn the_program_takes_each_configuration() {
    if !has_tools("kubectl") {
        return;
    }
    for (overlay, beside) in APPLIED {
        assert!(configurations_taken(overlay, &applied(overlay, beside)) > 0, "{overlay}");
    }
}

/// Gives each of our programs what its container gives it, and returns how many there were. What is
/// mounted there is not here, so the certificates are left out.
fn configurations_taken(source: &str, all: &[Value]) -> usize {
    let ours = all.iter().filter_map(pod_of).flat_map(containers);
    let mut seen = 0;
    for (container, program) in ours.filter_map(|it| Some((it, program_of(it)?))) {
        let run = |variables: &[(&str, &str)], arguments: &[&str]| match program {
            "pap-heartbeat" => agent::command(variables, arguments).output().unwrap(),
            "pap-station" => station_command(variables).unwrap().args(arguments).output().unwrap(),
            _ => command(variables).args(arguments).output().unwrap(),
        };
        let mut variables = BTreeMap::new();
        let is_mounted = |variable: &&Value| text(variable, "/name").ends_with("_CA_FILE");
        for variable in list(container, "/env").iter().filter(|variable| !is_mounted(variable)) {
            let value = match &variable["valueFrom"] {
                Value::Null => text(variable, "/value"),
                from if from.get("fieldRef").is_some() => "node-1",
                from => [("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")]
                    .into_iter()
                    .find_map(|(kind, by)| value_of(all, kind, from.get(by)?))
                    .unwrap(),
            };
            variables.insert(text(variable, "/name"), value);
        }
        let pairs: Vec<(&str, &str)> = variables.into_iter().collect();
        let own = list(container, "/args").iter().filter_map(Value::as_str);
        let output = run(&pairs, &own.chain(["--check-config"]).collect::<Vec<_>>());
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            // The command of an exec probe must be one that the program understands.
            let words: Vec<&str> =
                list(container, &format!("/{probe}/exec/command")).iter().filter_map(Value::as_str).collect();
            if let Some((first, arguments)) = words.split_first() {
                assert_eq!(*first, program, "{source}: {words:?}");
                let output = run(&[("COLLECTOR_PORT", "1"), ("PAP_AGENT_ID", "a")], arguments);
                assert_eq!(output.status.code(), Some(1), "{source}: {words:?}");
            }
        }
        seen += 1;
    }
    seen
}

#[test]
fn the_base_upgrades_the_original_in_place() {
    if !has_tools("kubectl") {
        return;
    }
    let all = applied("k8s/base", &[]);
    for (kind, name) in [
        ("Namespace", "agents"),
        ("ConfigMap", "pap-collector-config"),
        ("Secret", "pap-collector-secrets"),
        ("Deployment", "pap-heartbeat-collector"),
        ("Service", "pap-collector"),
    ] {
        let found = find(&all, kind, name).unwrap_or_else(|| panic!("no {kind} {name}"));
        assert!(kind == "Namespace" || text(found, "/metadata/namespace") == "agents", "{kind} {name}");
    }
    let config = find(&all, "ConfigMap", "pap-collector-config").unwrap();
    for key in ["cluster-id", "cluster-name", "station-alert-url"] {
        assert!(config["data"][key].is_string(), "{key}");
    }
    let deployment = find(&all, "Deployment", "pap-heartbeat-collector").unwrap();
    let app = json!({"matchLabels": {"app": "pap-heartbeat-collector"}});
    // Kubernetes does not let a deployment's selector change.
    assert_eq!(deployment["spec"]["selector"], app);
    assert_eq!(text(deployment, "/spec/template/spec/containers/0/name"), "collector");
    let service = find(&all, "Service", "pap-collector").unwrap();
    assert_eq!(service["spec"]["ports"][0]["port"], 8080);
    // The daemon set replaces the deployment.
    let daemons = render("k8s/overlays/daemonset");
    assert!(find(&daemons, "Deployment", "pap-heartbeat-collector").is_none());
    assert_eq!(
        text(find(&daemons, "Service", "pap-collector").unwrap(), "/spec/internalTrafficPolicy"),
        "Local"
    );
}

#[test]
fn the_patches_of_the_page_do_what_they_say() {
    if !has_tools("kubectl") {
        return;
    }
    let page = file("docs/kubernetes.md");
    let patches: Vec<&str> =
        page.split("kubectl patch ").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(patches.len(), 2, "{patches:?}");
    let directory = tempfile::tempdir().unwrap();
    let apply = |command: &str, original: Value| {
        let path = directory.path().join("original.json");
        fs::write(&path, original.to_string()).unwrap();
        let change = command.split('\'').nth_back(1).unwrap();
        let arguments =
            ["patch", "--local", "-f", path.to_str().unwrap(), "--type=json", "-o", "json", "-p", change];
        let (fine, output) = run("kubectl", &arguments, "");
        assert!(fine, "{output}");
        serde_json::from_str::<Value>(&output).unwrap()
    };
    let policy = apply(
        patches[0],
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
               "metadata": {"name": "agent-isolation", "namespace": "agents"},
               "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
                        "ingress": [{"ports": [{"port": 1}]}], "egress": [{"ports": [{"port": 1}]}]}}),
    );
    against_schemas(std::slice::from_ref(&policy)).unwrap();
    assert_eq!(text(&policy, "/spec/egress/1/to/0/podSelector/matchLabels/app"), "pap-heartbeat-collector");
    assert_eq!(policy["spec"]["egress"][1]["ports"][0]["port"], 8080);
    assert_eq!(policy["spec"]["ingress"][1]["ports"][0]["port"], 8080);
    let agent = apply(
        patches[1],
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "agents"},
               "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": {
                   "metadata": {"labels": {"app": "a"}},
                   "spec": {"containers": [{"name": "a", "image": "a", "env": [{"name": "A", "value": "b"}]}]}}}}),
    );
    let variable = &agent["spec"]["template"]["spec"]["containers"][0]["env"][1];
    assert_eq!(
        variable,
        &json!({"name": "PAP_COLLECTOR_URL", "value": "http://pap-collector.agents.svc:8080"})
    );
}

#[test]
fn prometheus_takes_the_rules_and_they_fire_when_they_should() {
    if !has_tools("kubectl and promtool") {
        return;
    }
    let (monitoring, of_station) = (render(MONITORING), render(STATION_MONITORING));
    let rules = find(&monitoring, "PrometheusRule", "pap-collector").unwrap();
    let station = find(&of_station, "PrometheusRule", "pap-station").unwrap();
    for (rules, test) in [(rules, "rules.yaml"), (station, "station-rules.yaml")] {
        let test = file(&format!("tests/manifests/{test}"));
        against_promtool(rules, None).unwrap();
        against_promtool(rules, Some(&test)).unwrap();
        for rule in list(rules, "/spec/groups/0/rules") {
            let name = text(rule, "/alert");
            assert!(test.contains(&format!("alertname: {name}")), "{name} is not tested");
        }
    }
    for dashboard in dashboards() {
        let title = text(&dashboard, "/title");
        let expressions = as_rules(&dashboard);
        against_promtool(&expressions, None).unwrap_or_else(|error| panic!("{title}: {error}"));
        let mut broken = dashboard.clone();
        let panels = broken["panels"].as_array_mut().unwrap();
        panels.last_mut().unwrap()["targets"][0]["expr"] =
            json!("rate(pap_station_workers[$__rate_interval]");
        assert!(against_promtool(&as_rules(&broken), None).is_err(), "{title}");
    }
    let test = file("tests/manifests/rules.yaml");
    let mut broken = rules.clone();
    broken["spec"]["groups"][0]["rules"][1]["expr"] = json!("pap_collector_alerts_owed >");
    assert!(against_promtool(&broken, None).is_err());
    broken["spec"]["groups"][0]["rules"][1]["expr"] = json!("pap_collector_alerts_owed > 100");
    assert!(against_promtool(&broken, Some(&test)).is_err());
}

/// The dashboards, as Grafana is given them.
fn dashboards() -> [Value; 3] {
    let three = [
        (MONITORING, "pap-collector"),
        (STATION_MONITORING, "pap-station"),
        (STATION_MONITORING, "control-plane"),
    ];
    three.map(|(overlay, name)| {
        let all = render(overlay);
        let object = format!("pap-{}-dashboard", name.trim_start_matches("pap-"));
        let map = find(&all, "ConfigMap", &object).unwrap_or_else(|| panic!("no {object}"));
        serde_json::from_str(text(map, &format!("/data/{name}.json"))).unwrap()
    })
}

/// The panels of a dashboard that show something; the others are headings.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(dashboard, "/panels").iter().filter(|panel| panel["type"] != "row")
}

/// Rules that record what a dashboard's panels ask for. What Grafana fills in is filled in.
fn as_rules(dashboard: &Value) -> Value {
    let targets = panels(dashboard).flat_map(|panel| list(panel, "/targets"));
    let rules: Vec<Value> = targets
        .enumerate()
        .map(|(number, target)| {
            let mut expression = text(target, "/expr").replace("$__rate_interval", "1m");
            for variable in list(dashboard, "/templating/list") {
                expression = expression.replace(&format!("${}", text(variable, "/name")), "one|other");
            }
            assert!(!expression.is_empty() && !expression.contains('$'), "{expression}");
            json!({ "record": format!("dashboard:{number}"), "expr": expression })
        })
        .collect();
    json!({ "spec": { "groups": [{ "name": "dashboard", "rules": rules }] } })
}

#[test]
fn a_dashboard_says_what_its_numbers_are_and_no_panel_covers_another() {
    if !has_tools("kubectl") {
        return;
    }
    for dashboard in dashboards() {
        let mut covered = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in list(&dashboard, "/panels") {
            let title = text(panel, "/title");
            assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()), "{title}");
            let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{title}");
            for (x, y) in (0..at("w")).flat_map(|x| (0..at("h")).map(move |y| (x, y))) {
                assert!(covered.insert((at("x") + x, at("y") + y)), "{title} covers another panel");
            }
        }
        for panel in panels(&dashboard) {
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(!list(panel, "/targets").is_empty(), "{panel}");
            assert!(defaults["unit"].is_string() || defaults["mappings"].is_array(), "{panel}");
            assert!(!text(panel, "/description").is_empty(), "{panel}");
        }
    }
}

/// The names of all series that a program may have, by what its metrics say.
fn series(metrics: &str) -> BTreeSet<String> {
    metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .flat_map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            let parts = if kind == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
            parts.iter().map(|part| format!("{name}{part}")).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn rules_and_dashboards_name_only_metrics_that_exist() {
    if !has_tools("kubectl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(place("workers.toml"), "[[worker]]\nname = \"w-{cluster_id}\"\nrole = \"w\"\nimage = \"w\"\n")
        .unwrap();
    // No engine is there: what is counted is named all the same.
    let mut station = station_command(&[
        ("STATION_PORT", "0"),
        ("STATION_BIND", "127.0.0.1"),
        ("STATION_DB", &place("station.db")),
        ("STATION_ADMIN_KEY", "a-key-of-a-test"),
        ("WORKERS_FILE", &place("workers.toml")),
        ("DOCKER_HOST", &format!("unix://{}", place("no-engine.sock"))),
        ("ALERTMANAGER_URL", "http://127.0.0.1:1"),
    ])
    .expect(".ci/manifests builds the station");
    let programs = [
        Collector::start(&[("ALERTMANAGER_URL", "http://127.0.0.1:1")]),
        Collector::spawn_saying(station.stdout(Stdio::null()), "listens on "),
    ];
    let exist: BTreeSet<String> =
        programs.iter().flat_map(|program| series(&program.get("/metrics").body)).collect();
    assert!(exist.contains("kg_control_plane_clusters_total") && exist.contains("pap_station_engine_up"));
    let rules = [(MONITORING, "pap-collector"), (STATION_MONITORING, "pap-station")]
        .map(|(overlay, name)| find(&render(overlay), "PrometheusRule", name).unwrap().to_string());
    for text in rules.into_iter().chain(dashboards().map(|it| it.to_string())) {
        assert_eq!(missing(&text, &exist), [""; 0]);
    }
    for name in ["pap_collector_heartbeat_total", "pap_station_worker", "kg_control_plane_clusters"] {
        assert_eq!(missing(&format!("rate({name}[1m])"), &exist), [name]);
    }
}

/// The names of metrics in a text that look like ours but do not exist.
fn missing(text: &str, exist: &BTreeSet<String>) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = |word: &str| {
        ["pap_collector_", "pap_station_", "kg_control_plane_"].iter().any(|it| word.starts_with(it))
    };
    words.filter(|word| ours(word) && !exist.contains(*word)).map(ToOwned::to_owned).collect()
}

#[test]
fn kinds_that_kubernetes_does_not_know_have_the_fields_they_need() {
    if !has_tools("kubectl") {
        return;
    }
    // Operators bring the schemas of these kinds, so only the fields we use are checked.
    let fields = |kind: &str| match kind {
        "ServiceMonitor" => (&["selector", "endpoints"][..], &[][..]),
        "PrometheusRule" => (&["groups"][..], &[][..]),
        "IngressRoute" => (&["routes"][..], &["entryPoints", "tls"][..]),
        "Middleware" => (&[][..], &["rateLimit", "forwardAuth"][..]),
        "ClusterIssuer" => (&["acme"][..], &[][..]),
        "Schedule" => (&["schedule", "template"][..], &[][..]),
        "Certificate" => {
            (&["secretName", "issuerRef", "dnsNames"][..], &["duration", "renewBefore", "privateKey"][..])
        }
        other => panic!("an unknown kind: {other}"),
    };
    let check = |document: &Value| {
        let (needed, allowed) = fields(text(document, "/kind"));
        let spec = document["spec"].as_object().unwrap();
        !spec.is_empty()
            && needed.iter().all(|field| spec.contains_key(*field))
            && spec.keys().all(|field| needed.contains(&field.as_str()) || allowed.contains(&field.as_str()))
    };
    let mut seen = 0;
    for document in [render(MONITORING), render(INGRESS), render(AGENTS)].concat() {
        if !is_of_kubernetes(&document) {
            assert!(check(&document), "{document}");
            let mut broken = document.clone();
            broken["spec"]["port"] = json!(1);
            assert!(!check(&broken));
            seen += 1;
        }
    }
    assert_eq!(seen, 12);
}

#[test]
fn the_programs_take_what_compose_gives_them() {
    if !has_tools("python3") {
        return;
    }
    let dockerfile = file("Dockerfile.distroless");
    let all = documents(&file("examples/compose/compose.yaml"));
    let services = all[0]["services"].as_object().unwrap();
    for (name, service) in services {
        let target = text(service, "/build/target");
        assert!(
            target.is_empty() || dockerfile.contains(&format!(" AS {target}\n")),
            "{name}: no target {target}"
        );
        let variables: Vec<(&str, &str)> = service["environment"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
            // Keys come from the one who starts it.
            .map(|(name, value)| (name, if value.starts_with("${") { "a-key-of-a-test" } else { value }))
            .collect();
        let (program, mut command) = match target {
            "" => ("pap-collector", command(&variables)),
            "heartbeat" => ("pap-heartbeat", agent::command(&variables, &[])),
            _ => ("pap-station", station_command(&variables).unwrap()),
        };
        let known = &known()[program];
        let unknown: Vec<_> = variables.iter().filter(|(name, _)| !known.contains(*name)).collect();
        assert!(unknown.is_empty(), "{name}: {program} knows no {unknown:?}");
        let output = command.arg("--check-config").output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(services.len(), 3);
}

#[test]
fn systemd_takes_the_units() {
    if !has_tools("systemd") {
        return;
    }
    let (service, socket) = (file("systemd/pap-collector.service"), file("systemd/pap-collector.socket"));
    let verify = |service: &str, socket: &str| {
        against_systemd(&[("pap-collector.service", service), ("pap-collector.socket", socket)])
    };
    verify(&service, &socket).unwrap();
    for (good, bad) in [
        ("Type=notify", "Type=notfy"),
        ("WatchdogSec=15", "WatchdogSecs=15"),
        ("DynamicUser=yes", "DynamicUser=maybe"),
        ("ExecStart=/usr/local/bin/pap-collector", "ExecStart=/usr/local/bin/collector"),
    ] {
        assert!(verify(&service.replace(good, bad), &socket).is_err(), "{bad} is not noticed");
    }
    assert!(verify(&service, &socket.replace("ListenStream=8080", "ListenStream=x:y:z")).is_err());
    let beside = file("systemd/pap-heartbeat@.service");
    let verify = |text: &str| against_systemd(&[("pap-heartbeat@nginx.service", text)]);
    verify(&beside).unwrap();
    assert!(verify(&beside.replace("RuntimeDirectory=", "RunDirectory=")).is_err());
    let station = file("systemd/pap-station.service");
    let verify = |text: &str| against_systemd(&[("pap-station.service", text)]);
    verify(&station).unwrap();
    assert!(verify(&station.replace("StateDirectory=", "StateFolder=")).is_err());

    for unit in
        ["systemd/pap-collector.service", "systemd/pap-heartbeat@.service", "systemd/pap-station.service"]
    {
        let start_limit = file(unit).lines().filter(|&line| line == "StartLimitIntervalSec=0").count();
        assert_eq!(start_limit, 1, "{unit}: a trouble of seconds must not end it for good");
        let exposed = exposure(Path::new(&here(unit)));
        println!("{unit}: exposure {exposed}");
        assert!(exposed <= 1.5, "{exposed}");
    }
    let open = tempfile::tempdir().unwrap();
    let broken = open.path().join("pap-collector.service");
    fs::write(&broken, service.replace("CapabilityBoundingSet=\n", "").replace("DynamicUser=yes\n", ""))
        .unwrap();
    assert!(exposure(&broken) > 1.5);
}

#[test]
fn the_units_set_only_variables_that_the_program_knows() {
    let known = known();
    let unknown = |program: &str, text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.strip_prefix("Environment=").unwrap_or(line));
        let names = lines.filter_map(|line| line.split_once('=')).map(|(name, _)| name);
        let ours = |name: &&str| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        names.filter(ours).filter(|name| !known[program].contains(*name)).map(ToOwned::to_owned).collect()
    };
    assert_eq!(unknown("pap-collector", &file("systemd/pap-collector.service")), [""; 0]);
    assert_eq!(unknown("pap-collector", &file("systemd/environment.example")), [""; 0]);
    assert_eq!(unknown("pap-heartbeat", &file("systemd/pap-heartbeat@.service")), [""; 0]);
    assert_eq!(unknown("pap-heartbeat", &file("systemd/heartbeat.example")), [""; 0]);
    // The station's are looked at by its own package too (crates/station/tests/settings.rs).
    if known.contains_key("pap-station") {
        assert_eq!(unknown("pap-station", &file("systemd/pap-station.service")), [""; 0]);
        assert_eq!(unknown("pap-station", &file("systemd/station.example")), [""; 0]);
    }
    assert_eq!(unknown("pap-collector", "Environment=STATE=/x\nCLUSTER=y"), ["STATE", "CLUSTER"]);
}
