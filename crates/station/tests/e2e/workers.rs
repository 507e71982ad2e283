//! Workers of clusters, in the container engine of this machine: its Docker must answer, and a
//! static busybox is what the worker's image is made of.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::support::{ADMIN, COLLECTOR, PATIENCE, Receiver, Start, Station, missing, slow, start, until};

const SOCKET: &str = "/var/run/docker.sock";

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The image of a worker, from a static busybox; None where there is no engine or no busybox.
pub fn image() -> Option<&'static str> {
    static IMAGE: OnceLock<Option<&str>> = OnceLock::new();
    *IMAGE.get_or_init(|| {
        let answers = Command::new("docker").arg("version").output().is_ok_and(|it| it.status.success());
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let (true, Some(busybox)) = (answers, busybox) else {
            missing("a Docker Engine that answers, and a static busybox");
            return None;
        };
        let name = "pap-station-test-worker:1";
        let mut archive = tar::Builder::new(Vec::new());
        let program = std::fs::read(busybox).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(program.len() as u64);
        archive.append_data(&mut header, "bin/busybox", &program[..]).unwrap();
        let mut import = Command::new("docker")
            .args(["import", "-", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        import.stdin.take().unwrap().write_all(&archive.into_inner().unwrap()).unwrap();
        assert!(import.wait().unwrap().success(), "the image cannot be made");
        Some(name)
    })
}

/// Clusters whose names no other test has. Their containers go with it.
pub struct Clusters(String);

impl Clusters {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(format!("t{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    pub fn id(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }

    fn containers(&self) -> Vec<String> {
        let filter = format!("name={}", self.0);
        docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]).lines().map(str::to_owned).collect()
    }
}

impl Drop for Clusters {
    fn drop(&mut self) {
        for id in self.containers() {
            docker(&["rm", "-f", &id]);
        }
    }
}

/// What is said of a container; null if it is not there.
fn inspect(name: &str) -> Value {
    let all: Value = serde_json::from_str(&docker(&["inspect", name])).unwrap_or_default();
    all[0].clone()
}

/// The id of a container that runs.
pub fn running(name: &str) -> Option<String> {
    let it = inspect(name);
    (it["State"]["Running"] == true).then(|| it["Id"].as_str().unwrap().to_owned())
}

pub fn await_running(name: &str) -> String {
    until(&format!("{name} runs"), || running(name).is_some());
    running(name).unwrap()
}

pub fn await_gone(name: &str) {
    until(&format!("{name} is gone"), || inspect(name).is_null());
}

/// A template for these containers, with more lines.
pub fn template(role: &str, command: &str, more: &str) -> String {
    format!(
        "[[worker]]\nname = \"{role}-{{cluster_id}}\"\nrole = \"{role}\"\nimage = \"{}\"\npull = \"never\"\n\
         command = {command}\nstop_timeout = \"1s\"\n{more}\n",
        image().unwrap()
    )
}

pub const SLEEPS: &str = r#"["/bin/busybox", "sleep", "100000"]"#;

fn write(starting: &Start, templates: &str) -> PathBuf {
    let path = starting.database().with_file_name("workers.toml");
    std::fs::write(&path, templates).unwrap();
    path
}

pub fn with_templates(starting: Start, templates: &str) -> Start {
    let path = write(&starting, templates);
    starting.with("WORKERS_FILE", path.to_str().unwrap())
}

fn register(station: &Station, cluster: &str) {
    let path = format!("/api/clusters/{cluster}");
    let (status, body) =
        station.ask("PUT", &path, COLLECTOR, r#"{"cluster_name":"a name","version":"2.0.0"}"#);
    assert!(status == 200 || status == 201, "{status} {body}");
}

fn beat(station: &Station, cluster: &str) -> u16 {
    station.ask("POST", &format!("/api/clusters/{cluster}/heartbeat"), COLLECTOR, "{}").0
}

pub fn state(station: &Station, cluster: &str) -> String {
    station.seen(&format!("/api/clusters/{cluster}"))["cluster"]["state"].as_str().unwrap().to_owned()
}

#[test]
fn clusters_come_and_go_and_their_workers_with_them() {
    if image().is_none() {
        return;
    }
    let clusters = Clusters::new();
    let (one, two) = (clusters.id("one"), clusters.id("two"));
    let starting = start()
        .with("HEARTBEAT_TIMEOUT", "15s")
        .with("CLEANUP_TIMEOUT", "30s")
        .with("RECONCILE_INTERVAL", "1s");
    let secret = starting.database().with_file_name("pass");
    std::fs::write(&secret, "geheim\n").unwrap();
    let more = format!(
        "memory = \"16m\"\ncpus = 0.1\nnetwork = \"none\"\n[worker.env]\nCLIENT_ID = \"{{cluster_id}}\"\n\
         NAME = \"{{cluster_name}}\"\n[worker.labels]\nteam = \"of {{cluster_id}}\"\n\
         [worker.secrets]\nPASS = \"{}\"",
        secret.display()
    );
    let station = with_templates(starting, &template("builder", SLEEPS, &more)).run();
    let name = |cluster: &str| format!("builder-{cluster}");

    register(&station, &one);
    register(&station, &two);
    let first = await_running(&name(&one));
    let other = await_running(&name(&two));
    let it = inspect(&first);
    let host = &it["HostConfig"];
    assert_eq!((&host["Memory"], &host["NanoCpus"]), (&json!(16 << 20), &json!(100_000_000)));
    assert_eq!(
        (&host["NetworkMode"], &host["RestartPolicy"]["Name"]),
        (&json!("none"), &json!("unless-stopped"))
    );
    let labels = &it["Config"]["Labels"];
    assert_eq!(
        (&labels["kg.managed-by"], &labels["kg.client"], &labels["kg.role"], &labels["team"]),
        (&json!("control-plane"), &json!(one), &json!("builder"), &json!(format!("of {one}")))
    );
    let environment = it["Config"]["Env"].to_string();
    assert!(environment.contains(&format!("CLIENT_ID={one}")) && environment.contains("NAME=a name"));
    assert!(!it.to_string().contains("geheim"), "a secret is no variable");
    let read = ["exec", &first, "/bin/busybox", "cat", "/run/secrets/PASS"];
    until("the secret is there", || docker(&read) == "geheim");
    station.await_log(&format!("📝 Cluster registered: {one} (name: a name, version: 2.0.0)"));
    station.await_log(&format!("🔧 Spawning builder for cluster: {one}"));
    station.await_log(&format!("✅ Spawned builder-{one} (container: {})", &first[..12]));

    // A person stops one: it is back as another.
    docker(&["stop", "-t", "0", &first]);
    until("another one runs", || {
        beat(&station, &one);
        beat(&station, &two);
        running(&name(&one)).is_some_and(|id| id != first)
    });
    station.await_log(&format!("⚠️  Builder container stopped, respawning: {one}"));

    // The first goes silent, the second does not.
    until("the first is stale", || {
        beat(&station, &two);
        state(&station, &one) == "stale"
    });
    until("the first is dead", || {
        beat(&station, &two);
        state(&station, &one) == "dead"
    });
    until("its worker is gone", || {
        beat(&station, &two);
        inspect(&name(&one)).is_null()
    });
    station.await_log(&format!("💀 Cleaning up dead cluster: {one}"));
    station.await_log(&format!("✅ Cleaned up cluster: {one}"));
    assert_eq!(running(&name(&two)), Some(other), "the one that beats is as it was");

    // It is heard again: no registration is needed.
    assert_eq!(beat(&station, &one), 200);
    await_running(&name(&one));
    assert_eq!(state(&station, &one), "active");

    // The station sees in its next look what runs.
    for line in [
        "kg_control_plane_clusters_total{status=\\\"dead\\\"} 0",
        "kg_control_plane_spawn_operations_total 4",
        "kg_control_plane_cleanup_operations_total 1",
        "kg_control_plane_graph_builders_total 2",
        "pap_station_engine_up 1",
    ] {
        until(line, || station.get("/metrics", "").1.to_string().contains(line));
    }

    assert_eq!(station.ask("DELETE", &format!("/api/clusters/{one}"), COLLECTOR, "").0, 200);
    await_gone(&name(&one));
    station.await_log(&format!("🪦 Cluster deregistered: {one}"));
    assert_eq!(beat(&station, &one), 410);
}

#[test]
fn a_kill_at_any_of_these_moments_changes_nothing_of_the_end() {
    if image().is_none() {
        return;
    }
    let clusters = Clusters::new();
    let restart = |station: &mut Station| {
        station.kill();
        let path = station.directory.path().join("workers.toml");
        *station = start()
            .with("WORKERS_FILE", path.to_str().unwrap())
            .with("HEARTBEAT_TIMEOUT", "15s")
            .with("CLEANUP_TIMEOUT", "30s")
            .after(station)
            .run();
    };
    let mut station = with_templates(start(), &template("builder", SLEEPS, "")).run();
    let one = clusters.id("one");
    let name = format!("builder-{one}");

    register(&station, &one);
    restart(&mut station);
    beat(&station, &one);
    let id = await_running(&name);
    restart(&mut station);
    beat(&station, &one);
    until("it is listed", || station.seen("/api/workers")["workers"][0]["state"] == "running");
    assert_eq!(running(&name), Some(id.clone()), "it is adopted as it is");

    docker(&["stop", "-t", "0", &id]);
    restart(&mut station);
    until("another one runs", || {
        beat(&station, &one);
        running(&name).is_some_and(|other| other != id)
    });

    until("the cluster is dead", || state(&station, &one) == "dead");
    restart(&mut station);
    await_gone(&name);
    assert_eq!(state(&station, &one), "dead", "a start makes nobody alive");

    beat(&station, &one);
    restart(&mut station);
    until("it runs again", || {
        beat(&station, &one);
        running(&name).is_some()
    });

    assert_eq!(station.ask("DELETE", &format!("/api/clusters/{one}"), COLLECTOR, "").0, 200);
    restart(&mut station);
    await_gone(&name);
}

#[test]
fn what_is_not_ours_is_never_touched_and_people_are_told() {
    if image().is_none() {
        return;
    }
    let clusters = Clusters::new();
    let (one, two) = (clusters.id("one"), clusters.id("two"));
    let run = |name: &str, labels: &[&str]| {
        let mut arguments = vec!["run", "-d", "--name", name];
        for label in labels {
            arguments.extend(["--label", label]);
        }
        arguments.extend([image().unwrap(), "/bin/busybox", "sleep", "100000"]);
        docker(&arguments)
    };
    let foreign = run(&format!("builder-{one}"), &[]);
    let (client, other) = (format!("kg.client={two}"), "pap.station=another");
    let theirs =
        run(&format!("builder-{two}"), &["kg.managed-by=control-plane", &client, "kg.role=builder", other]);
    let receiver = Receiver::new();
    let station = with_templates(start(), &template("builder", SLEEPS, "")).run();
    station.webhook(&receiver, &json!({ "filters": { "events": ["worker.failed", "worker.back"] } }));
    register(&station, &one);
    register(&station, &two);
    let told = receiver.await_count(2);
    let of =
        |cluster: &str| told.iter().find(|it| it.body["cluster"]["cluster_id"] == cluster).unwrap().clone();
    let details = &of(&one).body["incident"]["details"];
    assert_eq!((&details["role"], of(&one).event()), (&json!("builder"), "worker.failed"));
    assert!(details["reason"].as_str().unwrap().contains("another container bears its name"), "{details}");
    assert_eq!(of(&two).event(), "worker.failed");

    docker(&["stop", "-t", "0", &foreign]);
    for cluster in [&one, &two] {
        assert_eq!(station.ask("DELETE", &format!("/api/clusters/{cluster}"), COLLECTOR, "").0, 200);
    }
    // A third cluster's worker comes after all that was decided before.
    register(&station, &clusters.id("three"));
    await_running(&format!("builder-{}", clusters.id("three")));
    assert_eq!(inspect(&foreign)["State"]["Status"], "exited", "it is there");
    assert_eq!(running(&theirs), Some(theirs.clone()));

    // Once its name is free the worker comes, and people are told when it has run for a while.
    register(&station, &one);
    docker(&["rm", "-f", &foreign]);
    await_running(&format!("builder-{one}"));
}

#[test]
fn a_running_deployment_is_taken_over_and_rolled_when_its_template_changes() {
    if image().is_none() {
        return;
    }
    let clusters = Clusters::new();
    let ids: Vec<String> = ["a", "b", "c"].iter().map(|name| clusters.id(name)).collect();
    let name = |cluster: &String| format!("builder-{cluster}");
    let made: Vec<String> = ids
        .iter()
        .enumerate()
        .map(|(number, cluster)| {
            // The last is of the original's first version, which knew no labels.
            let (client, name) = (format!("kg.client={cluster}"), name(cluster));
            let mut arguments = vec!["run", "-d", "--name", &name];
            if number < 2 {
                arguments.extend(["--label", "kg.managed-by=control-plane", "--label", &client]);
                arguments.extend(["--label", "kg.role=builder"]);
            }
            arguments.extend([image().unwrap(), "/bin/busybox", "sleep", "100000"]);
            docker(&arguments)
        })
        .collect();
    let templates = template("builder", SLEEPS, "");
    let mut station = with_templates(start().with("ADOPT_UNLABELLED", "true"), &templates).run();
    for cluster in &ids {
        register(&station, cluster);
    }
    until("all are taken over", || {
        let workers = station.seen("/api/workers")["workers"].as_array().unwrap().clone();
        workers.iter().filter(|worker| worker["state"] == "running").count() == 3
    });
    let now: Vec<_> = ids.iter().map(|cluster| running(&name(cluster)).unwrap()).collect();
    assert_eq!(now, made, "they are kept as they are");

    station.kill();
    let starting = start().with("ADOPT_UNLABELLED", "true").after(&station);
    station = with_templates(starting, &template("builder", SLEEPS, "memory = \"16m\"")).run();
    until("all are replaced", || {
        for cluster in &ids {
            beat(&station, cluster);
        }
        let replaced = ids
            .iter()
            .zip(&made)
            .filter(|(cluster, before)| running(&name(cluster)).is_some_and(|id| id != **before));
        replaced.count() == 3
    });
    assert_eq!(inspect(&name(&ids[0]))["HostConfig"]["Memory"], 16 << 20);
    // One by one: each had run for ten seconds before the next was stopped.
    let log = station.log();
    let at = |line: &str| {
        let clock = &line[11..23];
        let parts: Vec<f64> = clock.split(':').map(|part| part.parse().unwrap()).collect();
        parts[0] * 3600.0 + parts[1] * 60.0 + parts[2]
    };
    let stops: Vec<f64> = log.lines().filter(|line| line.contains("template has changed")).map(at).collect();
    assert_eq!(stops.len(), 3, "{log}");
    assert!(stops.windows(2).all(|pair| (pair[1] - pair[0]).rem_euclid(86_400.0) >= 10.0), "{stops:?}");
}

#[test]
fn a_worker_that_crashes_in_a_loop_rests_and_people_are_told() {
    if image().is_none() {
        return;
    }
    let clusters = Clusters::new();
    let one = clusters.id("one");
    let receiver = Receiver::new();
    let templates = template("builder", r#"["/bin/busybox", "false"]"#, "");
    let station = with_templates(start().with("RECONCILE_INTERVAL", "1s"), &templates).run();
    station.webhook(&receiver, &json!({ "filters": { "events": ["worker.failed"] } }));
    register(&station, &one);
    let told = receiver.await_count(1);
    let details = &told[0].body["incident"]["details"];
    assert_eq!(details["reason"], "it crashes in a loop", "{details}");
    until("it rests", || {
        let worker = &station.seen("/api/workers")["workers"][0];
        worker["state"] == "missing" && worker["next_attempt_in_ms"].as_u64().is_some_and(|it| it > 1000)
    });
    await_gone(&format!("builder-{one}"));
    assert!(station.get("/metrics", "").1.to_string().contains("pap_station_workers_in_trouble 1"));
}

/// A door to the engine that can be shut.
struct Door {
    path: PathBuf,
    is: Arc<AtomicU8>,
    /// How many clients wait before it.
    waiting: Arc<AtomicU32>,
}

const OPEN: u8 = 0;
const SILENT: u8 = 1;
const SHUT: u8 = 2;
const HELD: u8 = 3;

impl Door {
    fn new(directory: &Path) -> Self {
        let door = Self { path: directory.join("engine.sock"), is: Arc::default(), waiting: Arc::default() };
        let listener = UnixListener::bind(&door.path).unwrap();
        let (is, waiting) = (Arc::clone(&door.is), Arc::clone(&door.waiting));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (is, waiting) = (Arc::clone(&is), Arc::clone(&waiting));
                thread::spawn(move || serve(client, &is, &waiting));
            }
        });
        door
    }

    fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }
}

fn serve(mut client: UnixStream, is: &AtomicU8, waiting: &AtomicU32) {
    match is.load(Ordering::SeqCst) {
        HELD => {
            waiting.fetch_add(1, Ordering::SeqCst);
            until("the door is opened", || is.load(Ordering::SeqCst) != HELD);
        }
        SHUT => return,
        SILENT => {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = client.read_to_end(&mut Vec::new());
            return;
        }
        _ => {}
    }
    let mut engine = UnixStream::connect(SOCKET).unwrap();
    let (mut from, mut to) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut engine, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

#[test]
fn an_engine_that_is_not_seen_costs_no_worker() {
    if image().is_none() {
        return;
    }
    let clusters = Clusters::new();
    let one = clusters.id("one");
    let name = format!("builder-{one}");
    let starting = start().with("HEARTBEAT_TIMEOUT", "15s").with("CLEANUP_TIMEOUT", "30s");
    let door = Door::new(starting.database().parent().unwrap());
    let starting = starting.with("DOCKER_HOST", &door.url()).with("RECONCILE_INTERVAL", "1s");
    let station = with_templates(starting, &template("builder", SLEEPS, "")).run();
    register(&station, &one);
    let id = await_running(&name);
    door.is.store(SHUT, Ordering::SeqCst);
    let engine = || station.seen("/api/workers")["engine"].clone();
    until("it is said", || engine()["reachable"] == false);
    until("the cluster is dead", || state(&station, &one) == "dead");
    assert_eq!(running(&name), Some(id.clone()));
    // It is heard before the engine is: its worker was never to be touched.
    beat(&station, &one);
    door.is.store(SILENT, Ordering::SeqCst);
    until("a silent engine is waited for", || {
        beat(&station, &one);
        engine()["error"].as_str().is_some_and(|why| why.contains("timeout"))
    });
    assert_eq!(station.get("/ready", "").0, 200, "alerts are taken all the same");
    door.is.store(OPEN, Ordering::SeqCst);
    until("it answers again", || {
        beat(&station, &one);
        engine()["reachable"] == true
    });
    beat(&station, &one);
    assert_eq!(running(&name), Some(id), "{}", station.log());
    assert_eq!(station.ask("DELETE", &format!("/api/clusters/{one}"), COLLECTOR, "").0, 200);
    await_gone(&name);
}

/// Certificates of a private CA for an engine on `localhost` and for its client, as files in a
/// directory; and what the engine's server needs of them.
fn certificates(directory: &Path) -> rustls::ServerConfig {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let made = || {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    let (client, client_key) = made();
    std::fs::create_dir(directory).unwrap();
    for (name, text) in [
        ("ca.pem", ca_certificate.pem()),
        ("cert.pem", client.pem()),
        ("key.pem", client_key.serialize_pem()),
    ] {
        std::fs::write(directory.join(name), text).unwrap();
    }
    let mut roots = RootCertStore::empty();
    roots.add(ca_certificate.der().clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let (server, key) = made();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![server.der().clone()], key)
        .unwrap()
}

#[test]
fn an_engine_is_spoken_to_by_tls_with_a_certificate_of_our_own() {
    if image().is_none() {
        return;
    }
    let clusters = Clusters::new();
    let one = clusters.id("one");
    let starting = start().with("RECONCILE_INTERVAL", "1s");
    let directory = starting.database().with_file_name("certificates");
    let tls = Arc::new(certificates(&directory));
    let listener = TcpListener::bind("localhost:0").unwrap();
    let host = format!("tcp://localhost:{}", listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let session = ServerConnection::new(Arc::clone(&tls)).unwrap();
            thread::spawn(move || {
                let mut client = StreamOwned::new(session, socket);
                let mut engine = UnixStream::connect(SOCKET).unwrap();
                let mut request = vec![0; 64 << 10];
                // A request of ours comes in one or two pieces, and its answer ends the connection.
                engine.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                loop {
                    let read = client.read(&mut request).unwrap_or(0);
                    if read == 0 {
                        return;
                    }
                    engine.write_all(&request[..read]).unwrap();
                    let mut answer = vec![0; 1 << 20];
                    while let Ok(read @ 1..) = engine.read(&mut answer) {
                        if client.write_all(&answer[..read]).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    let starting = starting.with("DOCKER_HOST", &host);
    let trusting = directory.to_str().unwrap().to_owned();
    let station =
        with_templates(starting.with("DOCKER_CERT_PATH", &trusting), &template("builder", SLEEPS, "")).run();
    register(&station, &one);
    await_running(&format!("builder-{one}"));
    let shown = station.seen("/api/workers")["engine"].clone();
    assert_eq!((&shown["host"], &shown["reachable"]), (&json!(host), &json!(true)));

    // Without a certificate of its own a station is not let in, and one that cannot be used is said.
    let other = with_templates(start().with("DOCKER_HOST", &host), &template("builder", SLEEPS, "")).run();
    until("it is not let in", || other.seen("/api/workers")["engine"]["reachable"] == false);
    std::fs::write(directory.join("key.pem"), "no key").unwrap();
    let starting = start().with("DOCKER_HOST", &host).with("DOCKER_CERT_PATH", &trusting);
    let (code, said) = with_templates(starting, &template("builder", SLEEPS, "")).output(&["--check-config"]);
    assert!(code == 78 && said.contains("DOCKER_CERT_PATH"), "{code} {said}");
}

#[test]
fn a_person_lists_removes_and_prunes() {
    if image().is_none() {
        return;
    }
    let clusters = Clusters::new();
    let one = clusters.id("one");
    let name = format!("builder-{one}");
    let station = with_templates(start(), &template("builder", SLEEPS, "")).run();
    register(&station, &one);
    await_running(&name);
    let command = |arguments: &[&str]| {
        start().after(&station).with("STATION_PORT", &station.port.to_string()).output(arguments)
    };
    until("the worker is listed", || command(&["clusters"]).1.contains("1/1"));
    let (code, table) = command(&["clusters"]);
    assert!(code == 0 && table.starts_with("CLUSTER") && table.contains(&one), "{table}");
    let (code, json) = command(&["clusters", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["clusters"][0]["cluster_id"]), (0, &json!(one)));

    // A cluster of which the file knows nothing any more.
    let file = rusqlite::Connection::open(station.directory.path().join("station.db")).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    file.execute("UPDATE cluster SET cluster_id = 'other'", []).unwrap();
    assert_eq!(station.ask("PUT", &format!("/api/clusters/{}", clusters.id("two")), COLLECTOR, "{}").0, 201);
    await_running(&format!("builder-{}", clusters.id("two")));
    until("it is counted", || station.seen("/api/workers")["of_unknown_clusters"] == 1);
    assert!(running(&name).is_some(), "it is left");
    let (code, said) = command(&["clusters", "--prune"]);
    assert!(code == 0 && said.contains("1 workers"), "{said}");
    await_gone(&name);

    assert_eq!(command(&["deregister", &clusters.id("two")]).0, 0);
    let (code, said) = command(&["deregister", &clusters.id("two")]);
    assert!(code == 1 && said.contains("no cluster"), "{code} {said}");
    await_gone(&format!("builder-{}", clusters.id("two")));
    docker(&["rm", "-f", "builder-other"]);
    let (code, said) = start().with("STATION_PORT", "1").output(&["clusters"]);
    assert!(code == 1 && said.contains("no station answers"), "{said}");
    assert_eq!(start().output(&["--prune"]).0, 78);
    let (status, body) = start().run().ask("POST", "/api/workers/prune", ADMIN, "");
    assert_eq!(status, 409, "{body}");
}

#[test]
fn an_image_that_is_not_there_is_told_and_the_next_attempt_comes_later() {
    if image().is_none() {
        return;
    }
    let clusters = Clusters::new();
    let one = clusters.id("one");
    let templates = "[[worker]]\nname = \"builder-{cluster_id}\"\nrole = \"builder\"\nimage = \"pap-no-such-image:1\"\n\
        pull = \"never\"\n";
    let receiver = Receiver::new();
    let station = with_templates(start(), templates).run();
    station.webhook(&receiver, &json!({ "filters": { "events": ["worker.failed"] } }));
    register(&station, &one);
    let told = receiver.await_count(1);
    let reason = told[0].body["incident"]["details"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("404") && reason.contains("pap-no-such-image"), "{reason}");
    let shown = station.seen("/api/workers");
    assert_eq!(
        (&shown["engine"]["reachable"], &shown["workers"][0]["state"]),
        (&json!(true), &json!("missing"))
    );
}

#[test]
fn a_station_that_is_stopped_within_a_call_to_the_engine_does_no_harm_when_it_wakes() {
    if image().is_none() || !slow("a lease has to expire") {
        return;
    }
    // Within making one, and within removing one.
    for removes in [false, true] {
        let clusters = Clusters::new();
        let one = clusters.id("one");
        let name = format!("builder-{one}");
        // The second gives the workers of removed clusters their time: the file may be a backup's.
        let timed = || start().with("HEARTBEAT_TIMEOUT", "30s").with("CLEANUP_TIMEOUT", "30s");
        let starting = timed();
        let door = Door::new(starting.database().parent().unwrap());
        let starting = starting.with("DOCKER_HOST", &door.url());
        let mut first = with_templates(starting, &template("builder", SLEEPS, "")).run();
        if removes {
            register(&first, &one);
            await_running(&name);
        }
        // What comes to the door waits there until it is opened again.
        door.is.store(HELD, Ordering::SeqCst);
        if removes {
            assert_eq!(first.ask("DELETE", &format!("/api/clusters/{one}"), COLLECTOR, "").0, 200);
        } else {
            register(&first, &one);
        }
        until("a call waits", || door.waiting.load(Ordering::SeqCst) > 0);
        first.signal(Signal::STOP);
        let path = first.directory.path().join("workers.toml");
        let second = timed().with("WORKERS_FILE", path.to_str().unwrap()).after(&first).stand_by();
        until("the second acts", || second.get("/ready", "").0 == 200);
        if removes {
            await_gone(&name);
            register(&second, &one);
        }
        let id = await_running(&name);
        // The late call arrives, and the first wakes up.
        door.is.store(OPEN, Ordering::SeqCst);
        first.signal(Signal::CONT);
        assert_eq!(first.await_end(), 74);
        until("the second has looked", || second.seen("/api/workers")["workers"][0]["state"] == "running");
        assert_eq!(running(&name), Some(id), "{}", second.log());
        assert_eq!(clusters.containers().len(), 1);
    }
}
