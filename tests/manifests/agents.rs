//! Checks the overlay of the agents: what belongs together there, and what is elsewhere.

use serde_json::json;

use crate::flaws::{find, flaws, text};
use crate::tools::{has_tools, render};
use crate::{AGENTS, applied, known, notices};

#[test]
fn the_agents_have_ids_names_and_certificates_of_their_own() {
    if !has_tools("kubectl") {
        return;
    }
    let known = known();
    let good = render(AGENTS);
    let namespace = find(&good, "Namespace", "agents").unwrap();
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    // What is elsewhere is not moved into the agents' namespace.
    for (kind, name, at) in [
        ("Deployment", "external-dns", "external-dns"),
        ("Schedule", "agents-daily", "velero"),
        ("ClusterIssuer", "letsencrypt-dns01", ""),
    ] {
        assert_eq!(text(find(&good, kind, name).unwrap(), "/metadata/namespace"), at, "{kind} {name}");
    }
    let good = applied(AGENTS, &[]);
    assert_eq!(flaws(&good, &known), [""; 0]);
    let place = |kind: &str, name: &str| {
        good.iter().position(|it| text(it, "/kind") == kind && text(it, "/metadata/name") == name).unwrap()
    };
    let id = "/spec/template/spec/initContainers/0/env/0/valueFrom/fieldRef/fieldPath";
    let (agent, issuer) = ("research-agent", "letsencrypt-dns01");
    for (kind, name, pointer, value, flaw) in [
        ("Deployment", agent, id, json!("spec.nodeName"), "share an agent id"),
        (
            "Deployment",
            agent,
            "/metadata/labels/app",
            json!("pluggedin/research@1.2.0"),
            "no value of a label",
        ),
        (
            "Deployment",
            agent,
            "/spec/template/spec/volumes/0/secret/secretName",
            json!("tls"),
            "nobody makes",
        ),
        (
            "Deployment",
            agent,
            "/spec/template/spec/containers/0/envFrom/0/configMapRef/name",
            json!("a"),
            "no ConfigMap a",
        ),
        ("Deployment", agent, "/spec/template/spec/automountServiceAccountToken", json!(true), "token"),
        (
            "Deployment",
            "external-dns",
            "/spec/template/spec/automountServiceAccountToken",
            json!(false),
            "token",
        ),
        (
            "Deployment",
            "external-dns",
            "/spec/template/spec/containers/0/envFrom/0/secretRef/name",
            json!("a"),
            "no Secret a",
        ),
        (
            "Deployment",
            agent,
            "/spec/template/spec/containers/0/resources/requests",
            json!({}),
            "requests cpu",
        ),
        ("HorizontalPodAutoscaler", agent, "/spec/scaleTargetRef/name", json!("agent"), "there is no"),
        ("PodDisruptionBudget", agent, "/spec/selector/matchLabels/app", json!("agent"), "selects no pod"),
        (
            "Certificate",
            "wildcard-us-east",
            "/spec/dnsNames/0",
            json!("*.a.plugged.in"),
            "no certificate for research",
        ),
        (
            "Certificate",
            "wildcard-us-east",
            "/spec/issuerRef/name",
            json!("letsencrypt"),
            "no issuer letsencrypt",
        ),
        (
            "ClusterIssuer",
            issuer,
            "/spec/acme/solvers/0/dns01/rfc2136/tsigSecretSecretRef/key",
            json!("key"),
            "no Secret has",
        ),
        ("Middleware", "auth-oauth", "/metadata/name", json!("auth"), "no middleware"),
    ] {
        let mut broken = good.clone();
        *broken[place(kind, name)].pointer_mut(pointer).unwrap() = value;
        notices(&broken, &known, flaw);
    }
    let mut broken = good.clone();
    broken[place("Deployment", agent)]["spec"]["replicas"] = json!(3);
    notices(&broken, &known, "each apply");
}
