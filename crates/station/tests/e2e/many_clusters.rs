//! A thousand clusters with workers, which no machine of ours runs: an engine that only keeps
//! books of its containers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::support::{COLLECTOR, slow, start, until};

/// Containers by id: name, labels, state.
type Books = Arc<Mutex<BTreeMap<String, (String, Value, &'static str)>>>;

#[derive(Clone, Default)]
struct Engine {
    books: Books,
    listings: Arc<AtomicUsize>,
}

impl Engine {
    fn listen(&self, path: &Path) {
        let (listener, engine) = (UnixListener::bind(path).unwrap(), self.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let engine = engine.clone();
                thread::spawn(move || engine.serve(client));
            }
        });
    }

    fn serve(&self, mut client: UnixStream) {
        let mut reader = BufReader::new(client.try_clone().unwrap());
        let (mut first, mut length) = (String::new(), 0);
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) <= 2 {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut words = first.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (status, answer) = self.answer(method, target, &body);
        let _ = client.write_all(
            format!(
                "HTTP/1.1 {status} X\r\nApi-Version: 1.41\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{answer}",
                answer.len()
            )
            .as_bytes(),
        );
    }

    fn answer(&self, method: &str, target: &str, body: &[u8]) -> (u16, String) {
        let mut books = self.books.lock().unwrap();
        let path = target.strip_prefix("/v1.41").unwrap_or(target);
        let id =
            |path: &str| path.trim_start_matches("/containers/").split(['/', '?']).next().unwrap().to_owned();
        match (method, path) {
            ("GET", "/_ping") => (200, "OK".into()),
            ("GET", "/containers/json?all=1") => {
                self.listings.fetch_add(1, Ordering::SeqCst);
                let all = books.iter().map(|(id, (name, labels, state))| {
                    json!({ "Id": id, "Names": [format!("/{name}")], "Labels": labels, "State": state, "Status": "Up 1 hour" })
                });
                (200, Value::from(all.collect::<Vec<_>>()).to_string())
            }
            ("POST", create) if create.starts_with("/containers/create") => {
                let name = create.split("name=").nth(1).unwrap().replace("%2D", "-");
                if books.values().any(|(known, ..)| *known == name) {
                    return (409, r#"{"message":"in use"}"#.into());
                }
                let said: Value = serde_json::from_slice(body).unwrap();
                let id = format!("{name}-id");
                books.insert(id.clone(), (name, said["Labels"].clone(), "created"));
                (201, json!({ "Id": id }).to_string())
            }
            ("POST", start) if start.ends_with("/start") => {
                let id = id(start).replace("%2D", "-");
                books.get_mut(&id).unwrap().2 = "running";
                (204, String::new())
            }
            ("POST", stop) if stop.contains("/stop") => (204, String::new()),
            ("DELETE", remove) => {
                books.remove(&id(remove).replace("%2D", "-"));
                (204, String::new())
            }
            _ => (404, r#"{"message":"unknown"}"#.into()),
        }
    }

    fn running(&self) -> usize {
        self.books.lock().unwrap().values().filter(|(_, _, state)| *state == "running").count()
    }
}

#[test]
fn a_thousand_clusters_are_seen_with_one_listing_and_ten_thousand_leave_no_trace_in_memory() {
    if !slow("twenty thousand requests, each on disk") {
        return;
    }
    let starting = start().with("HEARTBEAT_TIMEOUT", "1h").with("CLEANUP_TIMEOUT", "1h");
    let directory = starting.database().parent().unwrap().to_owned();
    let engine = Engine::default();
    engine.listen(&directory.join("engine.sock"));
    let templates = directory.join("workers.toml");
    std::fs::write(
        &templates,
        "[[worker]]\nname = \"w-{cluster_id}\"\nrole = \"w\"\nimage = \"i\"\npull = \"never\"\n",
    )
    .unwrap();
    let station = starting
        .with("WORKERS_FILE", templates.to_str().unwrap())
        .with("DOCKER_HOST", &format!("unix://{}", directory.join("engine.sock").display()))
        .with("RECONCILE_INTERVAL", "1h")
        .run();
    let put = |id: &str| station.ask("PUT", &format!("/api/clusters/{id}"), COLLECTOR, "{}").0;
    let delete = |id: &str| station.ask("DELETE", &format!("/api/clusters/{id}"), COLLECTOR, "").0;
    for number in 0..1000 {
        assert_eq!(put(&format!("c{number}")), 201);
    }
    until("all workers run", || engine.running() == 1000);
    let settled = || station.seen("/api/workers")["workers"].as_array().unwrap().clone();
    until("all are seen", || settled().iter().filter(|it| it["state"] == "running").count() == 1000);
    assert_eq!(put("one-too-many"), 503);
    let metrics = station.get("/metrics", "").1.to_string();
    let line = |name: &str| {
        let at = metrics.find(&format!("\\n{name} ")).unwrap();
        metrics[at + 3 + name.len()..].split("\\n").next().unwrap().to_owned()
    };
    let passes: usize = line("pap_station_reconcile_seconds_count").parse().unwrap();
    eprintln!("{passes} passes took {} s", line("pap_station_reconcile_seconds_sum"));
    assert!(engine.listings.load(Ordering::SeqCst) <= passes + 2, "one listing for a pass");

    // As many as may be known come and go, again and again.
    for number in 0..1000 {
        assert_eq!(delete(&format!("c{number}")), 200);
    }
    until("all workers are gone", || engine.running() == 0);
    let churn = |round: u32| {
        for number in 0..500 {
            let id = format!("r{round}-{number}");
            assert_eq!((put(&id), delete(&id)), (201, 200));
        }
    };
    (0..4).for_each(churn);
    let before = station.memory();
    (4..20).for_each(churn);
    until("all workers are gone again", || engine.running() == 0);
    let after = station.memory();
    eprintln!("resident after 3,000 and after 11,000 clusters: {before} and {after} KiB");
    assert!(after < before + 4096, "{before} KiB became {after} KiB");
}
