//! Clients that nobody here wrote, each with its defaults: they beat while the
//! collector is upgraded in place, and no post fails.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be"
)]

mod support;

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{Collector, let_pass, said, slow};

/// For how long they beat.
const SPAN: Duration = Duration::from_secs(60);
/// Between two upgrades.
const EVERY: Duration = Duration::from_secs(10);

/// The programs, each with the agents that it beats for.
const CLIENTS: [(&[&str], &[&str]); 5] = [
    (&["python3", "tests/clients/requests_client.py"], &["py-requests"]),
    (&["python3", "tests/clients/httpx_client.py"], &["py-httpx"]),
    (&["node", "tests/clients/fetch_client.mjs"], &["node-fetch", "node-agent"]),
    (&["java", "tests/clients/Client.java"], &["java"]),
    (&["sh", "tests/clients/curl_client.sh"], &["curl-1", "curl-2"]),
];

fn start(command: &[&str], url: &str) -> Child {
    Command::new(command[0])
        .args(&command[1..])
        .arg(url)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; CONTRIBUTING.md says what is needed", command[0]))
}

#[test]
fn no_post_of_a_real_client_fails_through_upgrades() {
    if !slow("python3 with requests and httpx, node, java and curl, for a minute") {
        return;
    }
    let collector = Collector::start(&[]);
    let url = format!("http://127.0.0.1:{}", collector.port);
    let clients: Vec<_> = CLIENTS.iter().map(|(command, _)| start(command, &url)).collect();
    for agent in CLIENTS.iter().flat_map(|(_, agents)| *agents) {
        collector
            .poll(&format!("{agent} is known"), || collector.get(&format!("/agents/{agent}")).status == 200);
    }
    let rounds = SPAN.as_secs() / EVERY.as_secs();
    for _ in 0..rounds {
        let_pass(EVERY);
        collector.signal("HUP");
    }
    collector.await_logs(said::UPGRADED, usize::try_from(rounds).unwrap());
    let_pass(Duration::from_secs(1));
    for (mut client, (command, _)) in clients.into_iter().zip(CLIENTS) {
        drop(client.stdin.take());
        let (mut out, mut trouble) = (String::new(), String::new());
        client.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        client.stderr.take().unwrap().read_to_string(&mut trouble).unwrap();
        client.wait().unwrap();
        println!("{command:?}: posts and failures {}", out.trim());
        let counts: Vec<u64> = out.split_whitespace().map(|count| count.parse().unwrap()).collect();
        assert!(counts[0] > 100 && counts[1] == 0, "{command:?}: {out} {trouble}");
    }
}
