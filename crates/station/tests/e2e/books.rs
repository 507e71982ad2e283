//! A container engine that only keeps books of its containers, and misbehaves when it is told to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{COLLECTOR, Start, Station, let_pass, until};

/// A container.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub image: String,
    /// Its image's name is another one's now: a listing shows the id.
    pub is_untagged: bool,
    pub labels: Value,
    pub state: &'static str,
}

#[derive(Clone, Default)]
pub struct Engine {
    books: Arc<Mutex<BTreeMap<String, Entry>>>,
    pub listings: Arc<AtomicUsize>,
    pub removals: Arc<AtomicUsize>,
    /// What is stopped stays there,
    pub refuses_removal: Arc<AtomicBool>,
    /// and is said to be gone.
    pub lies_of_removal: Arc<AtomicBool>,
    /// A row of each listing cannot be read.
    pub has_unread: Arc<AtomicBool>,
    /// All were just started, and each look at one takes half a second.
    pub is_slow: Arc<AtomicBool>,
    pub looks: Arc<AtomicUsize>,
    /// Nothing is made, and the error quotes what was asked for.
    pub refuses_creation: Arc<AtomicBool>,
    /// Nothing is listed, and each answer says something else.
    pub refuses_listings: Arc<AtomicBool>,
    /// No stop is allowed.
    pub refuses_stops: Arc<AtomicBool>,
    /// Stops take until this is false again,
    pub holds_stops: Arc<AtomicBool>,
    /// and so do pulls. Only what is called "i" is there without one.
    pub holds_pulls: Arc<AtomicBool>,
    pub pulls: Arc<AtomicUsize>,
    /// How often it was asked whether an image is there.
    pub images: Arc<AtomicUsize>,
}

impl Engine {
    /// Listens at a path.
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
        let target = target.strip_prefix("/v1.41").unwrap_or(target).replace("%2D", "-");
        let id =
            |path: &str| path.trim_start_matches("/containers/").split(['/', '?']).next().unwrap().to_owned();
        match (method, target.as_str()) {
            ("GET", "/_ping") => (200, "OK".into()),
            ("GET", "/containers/json?all=1") if self.refuses_listings.load(Ordering::SeqCst) => {
                let number = self.listings.fetch_add(1, Ordering::SeqCst);
                (500, json!({ "message": format!("request {number} failed") }).to_string())
            }
            ("GET", "/containers/json?all=1") => (200, self.list()),
            ("GET", "/images/i/json") => (200, "{}".into()),
            ("GET", image) if image.starts_with("/images/") => {
                self.images.fetch_add(1, Ordering::SeqCst);
                (404, "{}".into())
            }
            ("GET", one) => {
                self.looks.fetch_add(1, Ordering::SeqCst);
                if self.is_slow.load(Ordering::SeqCst) {
                    let_pass(Duration::from_millis(500));
                }
                let image = self.books().get(&id(one)).unwrap().image.clone();
                (200, json!({ "RestartCount": 0, "Config": { "Image": image } }).to_string())
            }
            ("POST", pull) if pull.starts_with("/images/create") => {
                self.pulls.fetch_add(1, Ordering::SeqCst);
                until("pulls go on", || !self.holds_pulls.load(Ordering::SeqCst));
                (200, String::new())
            }
            ("POST", create) if create.starts_with("/containers/create") => {
                let name = create.split("name=").nth(1).unwrap().to_owned();
                if self.refuses_creation.load(Ordering::SeqCst) {
                    let message = format!("no: {}", String::from_utf8_lossy(body));
                    return (400, json!({ "message": message }).to_string());
                }
                if self.books().values().any(|known| known.name == name) {
                    return (409, r#"{"message":"in use"}"#.into());
                }
                let said: Value = serde_json::from_slice(body).unwrap();
                let (labels, image) = (said["Labels"].clone(), said["Image"].as_str().unwrap());
                (201, json!({ "Id": self.add(&name, image, labels, "created") }).to_string())
            }
            ("POST", start) if start.ends_with("/start") => {
                self.books().get_mut(&id(start)).unwrap().state = "running";
                (204, String::new())
            }
            ("POST", stop) if stop.contains("/stop") => {
                until("stops go on", || !self.holds_stops.load(Ordering::SeqCst));
                if self.refuses_stops.load(Ordering::SeqCst) {
                    return (500, r#"{"message":"permission denied"}"#.into());
                }
                (204, String::new())
            }
            ("DELETE", _) if self.refuses_removal.load(Ordering::SeqCst) => {
                self.removals.fetch_add(1, Ordering::SeqCst);
                (500, r#"{"message":"device or resource busy"}"#.into())
            }
            ("DELETE", _) if self.lies_of_removal.load(Ordering::SeqCst) => {
                self.removals.fetch_add(1, Ordering::SeqCst);
                (204, String::new())
            }
            ("DELETE", remove) => {
                self.books().remove(&id(remove));
                (204, String::new())
            }
            _ => (404, r#"{"message":"unknown"}"#.into()),
        }
    }

    /// All containers, and a row that makes little sense.
    fn list(&self) -> String {
        self.listings.fetch_add(1, Ordering::SeqCst);
        let status = if self.is_slow.load(Ordering::SeqCst) { "Up 5 seconds" } else { "Up 1 hour" };
        let books = self.books();
        let all = books.iter().map(|(id, it)| {
            let image = if it.is_untagged { "sha256:0123456789abcdef" } else { &it.image };
            json!({ "Id": id, "Names": [format!("/{}", it.name)], "Image": image, "Labels": it.labels,
                    "State": it.state, "Status": status })
        });
        let strange = json!({ "Id": "x", "Names": null, "Image": 7, "Labels": { "a": null }, "State": {} });
        let unread = self.has_unread.load(Ordering::SeqCst).then(|| json!({ "Id": 7, "Names": ["/y"] }));
        Value::from(unread.into_iter().chain([strange]).chain(all).collect::<Vec<_>>()).to_string()
    }

    /// What it knows.
    pub fn books(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.books.lock().unwrap()
    }

    /// Adds a container. Returns its id.
    pub fn add(&self, name: &str, image: &str, labels: Value, state: &'static str) -> String {
        let id = format!("{name}-id");
        let (name, image) = (name.into(), image.into());
        self.books().insert(id.clone(), Entry { name, image, is_untagged: false, labels, state });
        id
    }

    pub fn stop_all(&self) {
        self.books().values_mut().for_each(|it| it.state = "exited");
    }

    pub fn runs(&self, name: &str) -> bool {
        self.books().values().any(|it| it.name == name && it.state == "running")
    }

    pub fn running(&self) -> usize {
        self.books().values().filter(|it| it.state == "running").count()
    }
}

/// The template of a worker of this role, by an image that is there.
pub const TEMPLATE: &str = "[[worker]]\nname = \"w-{cluster_id}\"\nrole = \"w\"\nimage = \"i\"\n";

/// Settings for workers by this engine, which listens beside the file.
pub fn with_engine(starting: Start, engine: &Engine) -> Start {
    with_templates(starting, engine, TEMPLATE)
}

/// The same with other templates.
pub fn with_templates(starting: Start, engine: &Engine, templates: &str) -> Start {
    let directory = starting.database().parent().unwrap().to_owned();
    let (socket, file) = (directory.join("engine.sock"), directory.join("workers.toml"));
    if !socket.exists() {
        engine.listen(&socket);
    }
    std::fs::write(&file, templates).unwrap();
    starting
        .with("WORKERS_FILE", file.to_str().unwrap())
        .with("DOCKER_HOST", &format!("unix://{}", socket.display()))
        .with("RECONCILE_INTERVAL", "1s")
}

pub fn put(station: &Station, id: &str) {
    let (status, body) = station.ask("PUT", &format!("/api/clusters/{id}"), COLLECTOR, "{}");
    assert!(status == 200 || status == 201, "{body}");
}

pub fn delete(station: &Station, id: &str) {
    assert_eq!(station.ask("DELETE", &format!("/api/clusters/{id}"), COLLECTOR, "").0, 200);
}

pub fn beat(station: &Station, id: &str) {
    assert_eq!(station.ask("POST", &format!("/api/clusters/{id}/heartbeat"), COLLECTOR, "{}").0, 200);
}
