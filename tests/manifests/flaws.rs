//! Checks that no schema can make: whether manifests fit each other and the program.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// The variables of each of our programs.
pub type Known = BTreeMap<&'static str, BTreeSet<String>>;

/// Which of our programs a container runs.
pub fn program_of(container: &Value) -> Option<&str> {
    let (name, _) = text(container, "/image").split_once(':')?;
    name.starts_with("pap-").then_some(name)
}

/// The flaws of manifests that are applied together.
pub fn flaws(documents: &[Value], known: &Known) -> Vec<String> {
    let mut flaws = Vec::new();
    for owner in documents {
        if let Some(pod) = pod_of(owner) {
            let name = text(owner, "/metadata/name");
            let mut found = Vec::new();
            references(pod, documents, &mut found);
            restricted(pod, asks_the_api(pod, documents), &mut found);
            agent_ids(owner, pod, &mut found);
            for container in containers(pod) {
                match program_of(container).map(|program| (program, known.get(program))) {
                    Some((_, Some(known))) => configuration(container, pod, documents, known, &mut found),
                    Some((program, None)) => found.push(format!("there is no {program}")),
                    None => {}
                }
            }
            flaws.extend(found.into_iter().map(|flaw| format!("{name}: {flaw}")));
        }
        let mut found = Vec::new();
        label_values(owner, &mut found);
        match text(owner, "/kind") {
            "Service" => service(owner, documents, &mut found),
            "NetworkPolicy" => network_policy(owner, documents, &mut found),
            "IngressRoute" => ingress_route(owner, documents, &mut found),
            "ServiceMonitor" => service_monitor(owner, documents, &mut found),
            "Certificate" => certificate(owner, documents, &mut found),
            "ClusterIssuer" => cluster_issuer(owner, documents, &mut found),
            "HorizontalPodAutoscaler" => autoscaler(owner, documents, &mut found),
            "PodDisruptionBudget" => {
                let selector = &owner["spec"]["selector"]["matchLabels"];
                if !labels(documents).any(|(labels, _)| matches(selector, labels)) {
                    found.push(format!("selects no pod: {selector}"));
                }
            }
            _ => {}
        }
        let (kind, name) = (text(owner, "/kind"), text(owner, "/metadata/name"));
        flaws.extend(found.into_iter().map(|flaw| format!("{kind} {name}: {flaw}")));
    }
    flaws
}

pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub fn find<'a>(documents: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    documents.iter().find(|it| text(it, "/kind") == kind && text(it, "/metadata/name") == name)
}

pub fn pod_of(owner: &Value) -> Option<&Value> {
    owner.pointer("/spec/template/spec")
}

pub fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "/initContainers").iter().chain(list(pod, "/containers"))
}

/// Finds names that a pod uses and that nothing defines.
fn references(pod: &Value, documents: &[Value], flaws: &mut Vec<String>) {
    let account = text(pod, "/serviceAccountName");
    if !account.is_empty() && find(documents, "ServiceAccount", account).is_none() {
        flaws.push(format!("no service account {account}"));
    }
    secret_volumes(pod, documents, flaws);
    for container in containers(pod) {
        for variable in list(container, "/env") {
            for (kind, from) in [("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")] {
                if let Some(wanted) = variable.pointer(&format!("/valueFrom/{from}"))
                    && value_of(documents, kind, wanted).is_none()
                {
                    flaws.push(format!("no {kind} has {wanted}"));
                }
            }
        }
        for variable in list(container, "/env").iter().filter(|it| it["name"] == "PAP_COLLECTOR_URL") {
            let url = text(variable, "/value");
            if !url.contains("//127.0.0.1:") && !leads_to_a_service(url, documents) {
                flaws.push(format!("nobody listens at {url}"));
            }
        }
        for from in list(container, "/envFrom") {
            for (kind, by) in [("ConfigMap", "/configMapRef/name"), ("Secret", "/secretRef/name")] {
                let name = text(from, by);
                if !name.is_empty() && find(documents, kind, name).is_none() {
                    flaws.push(format!("no {kind} {name}"));
                }
            }
        }
        for mount in list(container, "/volumeMounts") {
            if !list(pod, "/volumes").iter().any(|volume| volume["name"] == mount["name"]) {
                flaws.push(format!("no volume {}", mount["name"]));
            }
        }
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            if let Some(port) = container.pointer(&format!("/{probe}/httpGet/port"))
                && !has_port(container, port)
            {
                flaws.push(format!("{probe}: no port {port}"));
            }
        }
    }
}

/// Finds mounted secrets that nobody makes.
fn secret_volumes(pod: &Value, documents: &[Value], flaws: &mut Vec<String>) {
    for volume in list(pod, "/volumes") {
        let name = text(volume, "/secret/secretName");
        let makes = |it: &Value| text(it, "/kind") == "Certificate" && text(it, "/spec/secretName") == name;
        if !name.is_empty() && find(documents, "Secret", name).is_none() && !documents.iter().any(makes) {
            flaws.push(format!("nobody makes the secret {name}"));
        }
    }
}

/// Whether `http://NAME.NAMESPACE.svc:PORT` is one of the services.
fn leads_to_a_service(url: &str, documents: &[Value]) -> bool {
    documents.iter().filter(|it| text(it, "/kind") == "Service").any(|service| {
        let (name, namespace) = (text(service, "/metadata/name"), text(service, "/metadata/namespace"));
        list(service, "/spec/ports")
            .iter()
            .any(|port| url == format!("http://{name}.{namespace}.svc:{}", port["port"]))
    })
}

/// The value that a reference names.
pub fn value_of<'a>(documents: &'a [Value], kind: &str, wanted: &Value) -> Option<&'a str> {
    let owner = find(documents, kind, text(wanted, "/name"))?;
    let key = text(wanted, "/key");
    ["data", "stringData"].into_iter().find_map(|place| owner.get(place)?.get(key)?.as_str())
}

fn has_port(container: &Value, port: &Value) -> bool {
    list(container, "/ports").iter().any(|it| it["name"] == *port || it["containerPort"] == *port)
}

/// Finds breaches of the restricted level of the Pod Security Standards, and a few
/// more.
fn restricted(pod: &Value, asks_the_api: bool, flaws: &mut Vec<String>) {
    let mut want = |what: &str, is_so: bool| {
        if !is_so {
            flaws.push(format!("not restricted: {what}"));
        }
    };
    want("runAsNonRoot", pod.pointer("/securityContext/runAsNonRoot") == Some(&json!(true)));
    want("seccomp", text(pod, "/securityContext/seccompProfile/type") == "RuntimeDefault");
    want("token", pod.get("automountServiceAccountToken") == Some(&json!(asks_the_api)));
    want("service links", pod.get("enableServiceLinks") == Some(&json!(false)));
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        want(host, pod.get(host).is_none());
    }
    want("volumes", list(pod, "/volumes").iter().all(|volume| volume.get("hostPath").is_none()));
    for container in containers(pod) {
        let context = &container["securityContext"];
        want("escalation", context["allowPrivilegeEscalation"] == false);
        want("read-only root", context["readOnlyRootFilesystem"] == true);
        want("capabilities", context["capabilities"]["drop"] == json!(["ALL"]));
        want("privileged", context.get("privileged").is_none());
        want("memory limit", container.pointer("/resources/limits/memory").is_some());
    }
}

/// Whether the pod's account has a role, and so needs its token.
fn asks_the_api(pod: &Value, documents: &[Value]) -> bool {
    let account = text(pod, "/serviceAccountName");
    documents
        .iter()
        .filter(|it| text(it, "/kind").ends_with("RoleBinding"))
        .flat_map(|it| list(it, "/subjects"))
        .any(|subject| text(subject, "/name") == account && !account.is_empty())
}

/// Finds several pods that send heartbeats under one id.
fn agent_ids(owner: &Value, pod: &Value, flaws: &mut Vec<String>) {
    let is_one = text(owner, "/kind") == "Deployment" && owner.pointer("/spec/replicas") == Some(&json!(1));
    let ids = containers(pod).flat_map(|it| list(it, "/env")).filter(|it| it["name"] == "PAP_AGENT_ID");
    for id in ids {
        if !is_one && !matches!(text(id, "/valueFrom/fieldRef/fieldPath"), "metadata.uid" | "metadata.name") {
            flaws.push(format!("its pods share an agent id: {id}"));
        }
    }
}

/// Finds labels that the API server refuses. The schemas allow any text.
fn label_values(owner: &Value, flaws: &mut Vec<String>) {
    let is_end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    for pointer in ["/metadata/labels", "/spec/template/metadata/labels"] {
        for value in owner.pointer(pointer).and_then(Value::as_object).into_iter().flat_map(|it| it.values())
        {
            let bytes = value.as_str().unwrap_or_default().as_bytes();
            let is_fine = bytes.len() <= 63
                && is_end(bytes.first())
                && is_end(bytes.last())
                && bytes.iter().all(|it| it.is_ascii_alphanumeric() || b"-_.".contains(it));
            if !is_fine {
                flaws.push(format!("{value} is no value of a label"));
            }
        }
    }
}

/// Finds variables that the program does not know, and paths where it cannot write.
fn configuration(
    container: &Value,
    pod: &Value,
    documents: &[Value],
    known: &BTreeSet<String>,
    flaws: &mut Vec<String>,
) {
    for variable in list(container, "/env") {
        let name = text(variable, "/name");
        if !known.contains(name) {
            flaws.push(format!("the program knows no {name}"));
        }
        if matches!(name, "STATE_FILE" | "PAP_STATUS_FILE" | "STATION_DB") {
            let path = text(variable, "/value");
            let mount = list(container, "/volumeMounts")
                .iter()
                .find(|mount| path.starts_with(&format!("{}/", text(mount, "/mountPath"))));
            let volume = mount.and_then(|mount| {
                list(pod, "/volumes").iter().find(|volume| volume["name"] == mount["name"])
            });
            // What the station knows must outlive its pod.
            let is_writable = volume.is_some_and(|volume| match name {
                "STATION_DB" => {
                    let claim = text(volume, "/persistentVolumeClaim/claimName");
                    find(documents, "PersistentVolumeClaim", claim).is_some()
                }
                _ => volume.get("emptyDir").is_some(),
            });
            if !is_writable {
                flaws.push(format!("{path} cannot be written"));
            }
        }
    }
}

fn labels(pods: &[Value]) -> impl Iterator<Item = (&Value, &Value)> {
    pods.iter().filter_map(|owner| Some((owner.pointer("/spec/template/metadata/labels")?, pod_of(owner)?)))
}

fn matches(selector: &Value, labels: &Value) -> bool {
    selector
        .as_object()
        .is_some_and(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

fn service(service: &Value, documents: &[Value], flaws: &mut Vec<String>) {
    let selector = &service["spec"]["selector"];
    let Some((_, pod)) = labels(documents).find(|(labels, _)| matches(selector, labels)) else {
        return flaws.push(format!("selects no pod: {selector}"));
    };
    for port in list(service, "/spec/ports") {
        if !containers(pod).any(|container| has_port(container, &port["targetPort"])) {
            flaws.push(format!("no container has port {}", port["targetPort"]));
        }
    }
}

fn network_policy(policy: &Value, documents: &[Value], flaws: &mut Vec<String>) {
    let selector = &policy["spec"]["podSelector"]["matchLabels"];
    let Some((_, pod)) = labels(documents).find(|(labels, _)| matches(selector, labels)) else {
        return flaws.push(format!("selects no pod: {selector}"));
    };
    for port in list(policy, "/spec/ingress").iter().flat_map(|rule| list(rule, "/ports")) {
        if !containers(pod).any(|container| has_port(container, &port["port"])) {
            flaws.push(format!("lets in to port {}, where nobody listens", port["port"]));
        }
    }
}

fn ingress_route(route: &Value, documents: &[Value], flaws: &mut Vec<String>) {
    let secret = text(route, "/spec/tls/secretName");
    let certificate = documents.iter().find(|it| {
        text(it, "/kind") == "Certificate" && text(it, "/spec/secretName") == secret && !secret.is_empty()
    });
    if certificate.is_none() {
        flaws.push(format!("no certificate makes {secret}"));
    }
    for rule in list(route, "/spec/routes") {
        let host = text(rule, "/match").split('`').nth(1).unwrap_or_default();
        let names = certificate.map_or(&[][..], |it| list(it, "/spec/dnsNames"));
        if !names.iter().filter_map(Value::as_str).any(|name| covers(name, host)) {
            flaws.push(format!("no certificate for {host}"));
        }
        for middleware in list(rule, "/middlewares") {
            if find(documents, "Middleware", text(middleware, "/name")).is_none() {
                flaws.push(format!("no middleware {}", middleware["name"]));
            }
        }
        for target in list(rule, "/services") {
            let service = find(documents, "Service", text(target, "/name"));
            let ports = service.map_or(&[][..], |service| list(service, "/spec/ports"));
            if !ports.iter().any(|port| port["port"] == target["port"]) {
                flaws.push(format!("no service {} with port {}", target["name"], target["port"]));
            }
        }
    }
}

/// Whether a name of a certificate is good for the host. A wildcard stands for one label.
fn covers(name: &str, host: &str) -> bool {
    let parent = host.split_once('.').map(|(_, parent)| parent);
    name == host || name.strip_prefix("*.").is_some_and(|rest| Some(rest) == parent)
}

fn certificate(certificate: &Value, documents: &[Value], flaws: &mut Vec<String>) {
    // Where there is an issuer, it must be the one that is meant.
    let issuer = text(certificate, "/spec/issuerRef/name");
    let mut issuers = documents.iter().filter(|it| text(it, "/kind") == "ClusterIssuer").peekable();
    if issuers.peek().is_some() && !issuers.any(|it| text(it, "/metadata/name") == issuer) {
        flaws.push(format!("no issuer {issuer}"));
    }
}

fn cluster_issuer(issuer: &Value, documents: &[Value], flaws: &mut Vec<String>) {
    for solver in list(issuer, "/spec/acme/solvers") {
        let wanted = &solver["dns01"]["rfc2136"]["tsigSecretSecretRef"];
        if value_of(documents, "Secret", wanted).is_none() {
            flaws.push(format!("no Secret has {wanted}"));
        }
    }
}

fn autoscaler(scaler: &Value, documents: &[Value], flaws: &mut Vec<String>) {
    let target = &scaler["spec"]["scaleTargetRef"];
    let Some(owner) = find(documents, text(target, "/kind"), text(target, "/name")) else {
        return flaws.push(format!("there is no {target}"));
    };
    if owner["spec"].get("replicas").is_some() {
        flaws.push(format!("each apply of {target} undoes what it did"));
    }
    for metric in list(scaler, "/spec/metrics") {
        let (name, resource) =
            (text(metric, "/containerResource/container"), text(metric, "/containerResource/name"));
        let requests = pod_of(owner)
            .into_iter()
            .flat_map(containers)
            .filter(|it| text(it, "/name") == name)
            .find_map(|it| it.pointer(&format!("/resources/requests/{resource}")));
        if requests.is_none() {
            flaws.push(format!("no container {name} requests {resource}"));
        }
    }
}

fn service_monitor(monitor: &Value, documents: &[Value], flaws: &mut Vec<String>) {
    let selector = &monitor["spec"]["selector"]["matchLabels"];
    let services: Vec<&Value> = documents
        .iter()
        .filter(|it| text(it, "/kind") == "Service" && matches(selector, &it["metadata"]["labels"]))
        .collect();
    // With two services, Prometheus would count everything twice.
    let [service] = services[..] else {
        return flaws.push(format!("selects {} services", services.len()));
    };
    for endpoint in list(monitor, "/spec/endpoints") {
        if !list(service, "/spec/ports").iter().any(|port| port["name"] == endpoint["port"]) {
            flaws.push(format!("the service has no port {}", endpoint["port"]));
        }
    }
}
