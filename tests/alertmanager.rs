//! The Alertmanager of Debian, told by the real collector. `ALERTMANAGER_SECONDS` sets
//! how long a healthy swarm is watched.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::float_cmp,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::station::{Answer as Reply, Post, Station};
use support::{
    Collector, PATIENCE, Port, Running, has_programs, let_pass_until, said, slow, stays_so, until, uuid,
};
use tempfile::TempDir;

const PROGRAM: &str = "prometheus-alertmanager";
/// An agent in EMERGENCY is dead after this silence: two intervals, and no grace.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// These tests run one after the other: they measure times.
static TURN: Mutex<()> = Mutex::new(());

/// A running Alertmanager with its own port and directory.
struct Alertmanager {
    port: Port,
    directory: TempDir,
    running: Option<Running>,
}

impl Alertmanager {
    /// Starts one under the path `/am`, that tells `webhook` what it would tell people.
    fn start(webhook: Option<&Station>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let hooks = webhook.map(|webhook| json!({"url": format!("http://127.0.0.1:{}/", webhook.port)}));
        // JSON is YAML.
        let config = json!({
            "route": {"receiver": "people", "group_by": ["alertname", "cluster"], "group_wait": "100ms",
                      "group_interval": "500ms", "repeat_interval": "1h"},
            "receivers": [{"name": "people", "webhook_configs": Vec::from_iter(hooks)}],
        });
        std::fs::write(directory.path().join("config.yml"), config.to_string()).unwrap();
        let mut alertmanager = Self { port: Port::reserve(), directory, running: None };
        alertmanager.run();
        alertmanager
    }

    fn run(&mut self) {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let mut command = Command::new(PROGRAM);
        command.args([
            format!("--config.file={}", path("config.yml")),
            format!("--storage.path={}", path("data")),
            format!("--web.listen-address=127.0.0.1:{}", self.port.number),
            "--web.route-prefix=/am".into(),
            "--cluster.listen-address=".into(),
        ]);
        let running = Running::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()));
        running.await_log("Listening on");
        self.running = Some(running);
    }

    /// Ends it, and deletes all that it knows.
    fn forget(&mut self) {
        drop(self.running.take());
        std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/am", self.port.number)
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.number)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /am{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        support::Answer::parse(&answer).body
    }

    fn json(&self, path: &str) -> Value {
        let body = self.get(path);
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body}"))
    }

    /// The ids of the agents for whom an alert fires.
    fn firing(&self, alertname: &str) -> Vec<String> {
        let alerts = self.json(&format!("/api/v2/alerts?filter=alertname%3D{alertname}"));
        let mut ids: Vec<String> = alerts
            .as_array()
            .unwrap()
            .iter()
            .map(|alert| alert["labels"]["agent_uuid"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    }
}

fn collector(alertmanager: &Alertmanager, cluster: &str, repeat: &str) -> Collector {
    Collector::start(&[
        ("CLUSTER_ID", cluster),
        ("ALERTMANAGER_URL", &alertmanager.url()),
        ("ALERTMANAGER_REPEAT_MS", repeat),
        ("HEARTBEAT_GRACE_MS", "0"),
    ])
}

/// Whether this machine has an Alertmanager, and time for it.
fn is_wanted(why: &str) -> bool {
    slow(why) && has_programs(&[PROGRAM])
}

#[test]
fn a_death_shows_within_a_second_with_its_cluster_and_ends_within_a_second() {
    if !is_wanted("waits for deaths") {
        return;
    }
    let _turn = TURN.lock();
    let mut alertmanager = Alertmanager::start(None);
    let here = collector(&alertmanager, "here", "2000");
    let there = collector(&alertmanager, "there", "2000");
    let (mut shown, mut gone) = (Vec::new(), Vec::new());
    let heard: Vec<Instant> = (0..5)
        .map(|agent| {
            let_pass_until(Instant::now() + Duration::from_millis(700));
            here.beat(&uuid(agent), "EMERGENCY", 1.0);
            there.beat(&uuid(100 + agent), "EMERGENCY", 1.0);
            Instant::now()
        })
        .collect();
    for (agent, heard) in heard.into_iter().enumerate() {
        let_pass_until(heard + Duration::from_millis(9800));
        until("the death shows", || alertmanager.firing("PapAgentDead").contains(&uuid(agent)));
        shown.push(heard.elapsed().saturating_sub(DEAD_AFTER));
    }
    until("the other cluster's show too", || alertmanager.firing("PapAgentDead").len() == 10);
    let groups = alertmanager.json("/api/v2/alerts/groups");
    let group = |cluster: &str| {
        let labels = json!({"alertname": "PapAgentDead", "cluster": cluster});
        let mut groups = groups.as_array().unwrap().iter();
        groups.find(|group| group["labels"] == labels).unwrap()["alerts"].as_array().unwrap().len()
    };
    assert_eq!([group("here"), group("there")], [5, 5]);

    // It loses its memory, and is told again. Nothing that holds has ended meanwhile.
    alertmanager.forget();
    alertmanager.run();
    until("it is told again", || alertmanager.firing("PapAgentDead").len() == 10);
    assert_eq!(alertmanager.firing("PapAgentEmergency").len(), 10, "a death does not end an EMERGENCY");

    for agent in 0..5 {
        here.beat(&uuid(agent), "IDLE", 2.0);
        let back = Instant::now();
        until("the alert ends", || !alertmanager.firing("PapAgentDead").contains(&uuid(agent)));
        gone.push(back.elapsed());
    }
    until("it is not in EMERGENCY", || alertmanager.firing("PapAgentEmergency").len() == 5);
    println!("shown after the deadline: {shown:.1?}; gone after the return: {gone:.1?}");
    // A busy machine may delay some of them, but not each time.
    let least = |times: &[Duration]| times.iter().min().copied().unwrap();
    assert!(least(&shown) < Duration::from_secs(1) && least(&gone) < Duration::from_secs(1));
    // What ended stays ended, although repeats go on.
    stays_so(Duration::from_secs(5), "only the other cluster is dead", || {
        alertmanager.firing("PapAgentDead").iter().all(|id| *id >= uuid(100))
    });
}

/// Heartbeats of all these agents, many at a time on each connection.
fn beat_all(collector: &Collector, agents: std::ops::Range<usize>, uptime: u64) {
    let body = format!("{{\"mode\":\"EMERGENCY\",\"uptime_seconds\":{uptime}}}");
    let mut stream = BufReader::new(collector.connect());
    let all: Vec<usize> = agents.collect();
    for some in all.chunks(50) {
        let one = |&agent: &usize| {
            let (id, length) = (uuid(agent), body.len());
            format!("POST /heartbeat/{id} HTTP/1.1\r\nHost: c\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        stream.get_mut().write_all(some.iter().map(one).collect::<String>().as_bytes()).unwrap();
        for _ in some {
            let (mut line, mut length) = (String::new(), 0);
            stream.read_line(&mut line).unwrap();
            assert!(line.starts_with("HTTP/1.1 200"), "{line}");
            while line != "\r\n" {
                line.clear();
                stream.read_line(&mut line).unwrap();
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().unwrap();
                }
            }
            stream.read_exact(&mut vec![0; length]).unwrap();
        }
    }
}

#[test]
fn ten_thousand_deaths_at_once_arrive_in_seconds() {
    if !is_wanted("10,000 agents") {
        return;
    }
    let _turn = TURN.lock();
    let alertmanager = Alertmanager::start(None);
    let collector = collector(&alertmanager, "test-cluster", "60000");
    beat_all(&collector, 0..10_000, 1);
    assert_eq!(collector.get("/health").json()["agents"]["total"], 10_000);
    collector.await_log(said::IS_DEAD);
    let first = Instant::now();
    let dead = || collector.metric("alertmanager_alerts_firing{alertname=\"PapAgentDead\"}");
    until("all are dead", || dead() >= 10_000.0);
    let judged = first.elapsed();
    until("nothing waits", || collector.metric("alertmanager_behind_seconds{alertmanager=\"1\"}") == 0.0);
    let told = first.elapsed();
    assert_eq!(alertmanager.firing("PapAgentDead").len(), 10_000);
    let posts = collector.logged(said::ALERTS_TOLD);
    println!("10,000 deaths: all judged after {judged:.1?}, all told after {told:.1?}, {posts} posts in all");
    assert!(told < Duration::from_secs(10), "{told:?}");
    assert!((79..1000).contains(&posts), "20,000 alerts in {posts} posts");
}

#[test]
fn no_alert_of_a_steady_swarm_flaps() {
    if !is_wanted("a swarm of 2,000") {
        return;
    }
    let _turn = TURN.lock();
    let seconds = std::env::var("ALERTMANAGER_SECONDS").map_or(30, |seconds| seconds.parse().unwrap());
    let people = Station::start(0, |_| Reply::Status(200)).unwrap();
    let alertmanager = Alertmanager::start(Some(&people));
    let collector = collector(&alertmanager, "test-cluster", "1000");
    let (agents, dead) = (2000, 7);
    beat_all(&collector, 0..agents + dead, 1);
    let stop = AtomicBool::new(false);
    let resolved = |posts: &[Post]| posts.iter().any(|post| post.body.to_string().contains("\"resolved\""));
    std::thread::scope(|scope| {
        let beating = scope.spawn(|| {
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                next += Duration::from_secs(1);
                beat_all(&collector, 0..agents, 2);
                let_pass_until(next);
            }
        });
        until("the dead show", || alertmanager.firing("PapAgentDead").len() == dead);
        let begun = Instant::now();
        stays_so(Duration::from_secs(seconds), "the same alerts fire", || {
            let_pass_until(Instant::now() + Duration::from_millis(200));
            assert!(!beating.is_finished());
            alertmanager.firing("PapAgentDead").len() == dead
                && alertmanager.firing("PapAgentEmergency").len() == agents + dead
                && !resolved(&people.posts())
        });
        println!("watched for {:.0?}, {} notifications", begun.elapsed(), people.posts().len());
        stop.store(true, Ordering::Relaxed);
    });
    assert!(!people.posts().is_empty());
    assert_eq!(collector.metric("alertmanager_alerts_firing{alertname=\"PapAgentDead\"}"), 7.0);
}
