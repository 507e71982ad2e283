//! The page in a real Chromium.
//!
//! A program of its own: a browser ends its requests when a network interface comes or goes, as those of the
//! containers of other tests do.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::format_push_string,
    clippy::needless_pass_by_value,
    clippy::items_after_statements,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

#[path = "../e2e/books.rs"]
mod books;
#[path = "../../../../tests/support/browser.rs"]
mod browser;
#[path = "../e2e/support.rs"]
mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::browser::{Browser, Tab};
use crate::support::{ADMIN, AGENT, COLLECTOR, Receiver, Station, VIEWER, alert, start};

fn signed_in(browser: &Browser, station: &Station, key: &str) -> Tab {
    let mut tab = browser.tab();
    tab.open(&format!("http://127.0.0.1:{}/", station.port));
    tab.poll("it asks for a key", "document.querySelector('#sign-in').getBoundingClientRect().height > 0");
    tab.evaluate("document.querySelector('#key').focus()");
    tab.write(key);
    tab.key("Enter");
    tab.poll("it is signed in", "document.querySelector('#f-live').textContent.includes('Live')");
    tab
}

#[test]
fn a_person_signs_in_sees_what_is_down_and_acknowledges_it() {
    let Some(browser) = Browser::start() else { return };
    let (station, receiver) = (start().run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    let mut tab = signed_in(&browser, &station, ADMIN);
    assert_eq!(tab.complaints(), [""; 0]);
    // It is told, and asks for nothing in between.
    station.alert("c", &alert("AGENT_DEATH", "<b>a</b>", 1));
    tab.poll("the death is shown", "document.querySelectorAll('#incidents tr').length === 1");
    tab.poll("the title counts", "document.title.startsWith('(1')");
    assert!(tab.text("#incidents").contains("<b>a</b>"), "names are text");
    assert_eq!(tab.evaluate("document.querySelectorAll('#incidents b b').length"), json!(0));
    tab.evaluate("document.querySelector('#incidents [data-do=ack]').click()");
    tab.poll("a note may be given", "document.querySelector('#act').open");
    tab.evaluate("document.querySelector('#act-note').focus()");
    tab.write("looking at it");
    tab.evaluate("document.querySelector('#act-do').click()");
    tab.poll(
        "it is acknowledged",
        "document.querySelector('#incidents').innerText.includes('looking at it')",
    );
    assert_eq!(station.seen("/api/incidents")["incidents"][0]["acknowledged_by"], "admin");
    station.alert("c", &alert("AGENT_RECOVERED", "<b>a</b>", 2));
    tab.poll("it is over", "document.querySelectorAll('#incidents tr').length === 0");
    assert_eq!(tab.complaints(), [""; 0]);

    // Tabs of one browser share the session.
    tab.evaluate("document.querySelector('#sign-out').click()");
    tab.poll("it asks for a key", "document.querySelector('#sign-in').getBoundingClientRect().height > 0");
    let mut viewer = signed_in(&browser, &station, VIEWER);
    station.alert("c", &alert("AGENT_DEATH", "b", 1));
    viewer.poll("the death is shown", "document.querySelectorAll('#incidents tr').length === 1");
    let buttons = "[...document.querySelectorAll('#incidents [data-do=ack], #incidents [data-do=close]')].filter(it => it.offsetParent).length";
    assert_eq!(viewer.evaluate(buttons), json!(0), "a viewer changes nothing");
    viewer.evaluate("document.querySelector('#sign-out').click()");
    viewer.poll("it asks for a key", "document.querySelector('#sign-in').getBoundingClientRect().height > 0");
}

#[test]
fn it_says_when_the_station_is_out_of_reach_and_comes_back() {
    let Some(browser) = Browser::start() else { return };
    let mut station = start().run();
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    let mut tab = signed_in(&browser, &station, ADMIN);
    tab.poll("the death is shown", "document.querySelectorAll('#incidents tr').length === 1");
    let port = station.port.to_string();
    station.kill();
    tab.poll("it is said", "document.querySelector('#page').classList.contains('stale')");
    let station = start().after(&station).with("STATION_PORT", &port).run();
    station.alert("c", &alert("AGENT_DEATH", "b", 1));
    tab.poll("it is back", "document.querySelectorAll('#incidents tr').length === 2 && !document.querySelector('#page').classList.contains('stale')");
}

#[test]
fn it_fits_a_phone_and_is_photographed() {
    let Some(browser) = Browser::start() else { return };
    let folder = std::env::var_os("PAP_SCREENSHOTS").map(PathBuf::from);
    let starting = start().with("HEARTBEAT_TIMEOUT", "24h").with("CLEANUP_TIMEOUT", "48h");
    let (station, receiver) = (starting.run(), Receiver::new());
    station.webhook(&receiver, &json!({}));
    for (id, name, total, healthy) in [
        ("prod-eu-1", "Production Europe", 240, 236),
        ("prod-us-1", "Production US", 118, 118),
        ("lab", "Laboratory", 12, 9),
    ] {
        station.ask("PUT", &format!("/api/clusters/{id}"), ADMIN, &json!({ "name": name }).to_string());
        let stats =
            json!({ "stats": { "total": total, "healthy": healthy }, "version": "1.0.0" }).to_string();
        station.ask("POST", &format!("/api/clusters/{id}/heartbeat"), COLLECTOR, &stats);
    }
    for (cluster, kind, agent, name) in [
        ("prod-eu-1", "AGENT_DEATH", "planner-02", "planner-02"),
        ("prod-eu-1", "EMERGENCY_MODE", "billing-01", "billing-01"),
        ("lab", "AGENT_DEATH", "judge-03", "judge-03"),
    ] {
        let mut it = alert(kind, agent, 1);
        it["cluster_id"] = json!(cluster);
        it["agent_name"] = json!(name);
        assert_eq!(station.alert(cluster, &it).0, 200);
    }
    let (_, machine) =
        station.ask("POST", "/agent/register", ADMIN, r#"{"name":"production-server","hostname":"web-1"}"#);
    station.ask("POST", "/agent/metrics", machine["api_key"].as_str().unwrap(), r#"{"cpu_pct":12.5}"#);
    let beat = r#"{"mode":"IDLE","uptime_seconds":4711,"agent_name":"compass"}"#;
    station.ask("POST", "/api/agents/compass-local/heartbeat", AGENT, beat);
    let mut tab = signed_in(&browser, &station, ADMIN);
    tab.poll(
        "all is shown",
        "document.querySelectorAll('#incidents tr').length === 3 && document.querySelectorAll('#clusters tr').length === 3 && document.querySelectorAll('#machines tr').length === 1",
    );
    for (name, width, height, dark) in
        [("light", 1280, 900, false), ("dark", 1280, 900, true), ("phone", 390, 844, false)]
    {
        tab.resize(width, height);
        tab.dark(dark);
        let overflow = tab.evaluate("document.documentElement.scrollWidth - innerWidth");
        assert!(overflow.as_i64().unwrap() <= 0, "{name}: {overflow} pixels stand over");
        if let Some(folder) = &folder {
            tab.evaluate("document.activeElement.blur()");
            tab.screenshot(&folder.join(format!("station-{name}.png")));
        }
    }
}

/// A container engine on a Unix socket: it makes what it is asked for, but none whose name contains
/// `refused`, and shows what it has made as running.
struct FakeEngine {
    path: PathBuf,
    /// While it is gone, it closes each connection.
    is_gone: Arc<AtomicBool>,
}

impl FakeEngine {
    fn new(directory: &Path, refused: &'static str) -> Self {
        let engine = Self { path: directory.join("engine.sock"), is_gone: Arc::default() };
        let listener = UnixListener::bind(&engine.path).unwrap();
        let (is_gone, made) = (Arc::clone(&engine.is_gone), Arc::new(Mutex::new(Vec::new())));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !is_gone.load(Ordering::SeqCst) {
                    let made = Arc::clone(&made);
                    thread::spawn(move || Self::serve(client, refused, &made));
                }
            }
        });
        engine
    }

    /// One request on a connection; the station asks for no more.
    fn serve(client: UnixStream, refused: &str, made: &Mutex<Vec<Value>>) {
        let mut reader = BufReader::new(client);
        let (mut line, mut length) = (String::new(), 0);
        reader.read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let &[method, path, _] = &words[..] else { return };
        let mut header = String::new();
        while reader.read_line(&mut header).is_ok_and(|read| read > 2) {
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            header.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut made = made.lock().unwrap();
        let is_refused = path.contains(&refused.replace('-', "%2D"));
        let (status, answer) = match (method, path.strip_prefix("/v1.41/containers/")) {
            ("GET", Some("json?all=1")) => ("200 OK", json!(*made).to_string()),
            ("POST", Some(_)) if is_refused => {
                ("404 Not Found", json!({ "message": "No such image: example-worker:7" }).to_string())
            }
            ("POST", Some(rest)) if rest.starts_with("create?name=") => {
                let name = rest.replace("create?name=", "/").replace("%2D", "-");
                let id = format!("{:064x}", made.len() + 1);
                let asked: Value = serde_json::from_slice(&body).unwrap();
                made.push(json!({
                    "Id": id, "Names": [name], "Labels": asked["Labels"], "State": "running", "Status": "Up 2 hours",
                }));
                ("201 Created", json!({ "Id": id }).to_string())
            }
            // Starts, stops and removals, of which nothing is seen here.
            _ => ("200 OK", String::new()),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nApi-Version: 1.41\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
            answer.len()
        );
        // The station may have gone.
        let _ = reader.get_mut().write_all(answer.as_bytes());
    }
}

#[test]
fn it_shows_the_workers_of_clusters_and_what_is_wrong_with_them() {
    let Some(browser) = Browser::start() else { return };
    let starting = start()
        .with("HEARTBEAT_TIMEOUT", "10s")
        .with("CLEANUP_TIMEOUT", "20s")
        .with("RECONCILE_INTERVAL", "1s");
    let directory = starting.database().parent().unwrap().to_owned();
    let engine = FakeEngine::new(&directory, "indexer-lab");
    let template = |role: &str| {
        format!(
            "[[worker]]\nname = \"{role}-{{cluster_id}}\"\nrole = \"{role}\"\nimage = \"example-worker:7\"\npull = \"never\"\n"
        )
    };
    let path = directory.join("workers.toml");
    std::fs::write(&path, ["graph-builder", "indexer", "pruner"].map(template).concat()).unwrap();
    let station = starting
        .with("WORKERS_FILE", path.to_str().unwrap())
        .with("DOCKER_HOST", &format!("unix://{}", engine.path.display()))
        .run();
    let beat = |cluster: &str| {
        let stats = r#"{"stats":{"total":12,"healthy":12},"version":"1.0.0"}"#;
        station.ask("POST", &format!("/api/clusters/{cluster}/heartbeat"), COLLECTOR, stats).0
    };
    for (cluster, name) in [("prod", "Production Europe"), ("lab", "Laboratory")] {
        let body = json!({ "cluster_name": name }).to_string();
        assert_eq!(station.ask("PUT", &format!("/api/clusters/{cluster}"), COLLECTOR, &body).0, 201);
        assert_eq!(beat(cluster), 200);
    }
    let folder = std::env::var_os("PAP_SCREENSHOTS").map(PathBuf::from);
    let mut tab = signed_in(&browser, &station, ADMIN);
    let row = |cluster: &str| format!("document.querySelector('#clusters [data-key={cluster}]')");
    let says = |cluster: &str, words: &str| format!("{}.innerText.includes({})", row(cluster), json!(words));
    tab.poll("all run", &says("prod", "Workers: 3 of 3 run"));
    tab.poll("one is refused", &says("lab", "Workers: 2 of 3 run, 1 in trouble"));
    tab.poll("it is in trouble", &format!("{}.classList.contains('warn')", row("lab")));
    assert_eq!(tab.evaluate(&format!("{}.className", row("prod"))), json!(""));
    tab.poll("the engine answers", "document.querySelector('#engine-said').textContent === ''");

    tab.evaluate(&format!("{}.querySelector('[data-do=open]').click()", row("lab")));
    let of = |role: &str| format!("document.querySelector('#one-workers [data-key={role}]')");
    tab.poll(
        "its reason is shown",
        &format!("{}.innerText.includes('No such image: example-worker:7')", of("indexer")),
    );
    tab.poll("when it is tried again", &format!("{}.querySelector('time') !== null", of("indexer")));
    let shown = tab.text("#one-workers");
    assert!(shown.contains("Missing") && shown.contains("Running"), "{shown}");
    assert!(shown.contains("graph-builder-lab"), "{shown}");
    for (name, width, height, dark) in [
        ("workers-light", 1280, 900, false),
        ("workers-dark", 1280, 900, true),
        ("workers-phone", 390, 844, false),
    ] {
        tab.resize(width, height);
        tab.dark(dark);
        let overflow = tab.evaluate(
            "document.querySelector('#cluster').scrollWidth - document.querySelector('#cluster').clientWidth",
        );
        assert!(overflow.as_i64().unwrap() <= 0, "{name}: {overflow} pixels stand over");
        if let Some(folder) = &folder {
            tab.screenshot(&folder.join(format!("station-{name}.png")));
        }
    }
    assert_eq!([beat("prod"), beat("lab")], [200; 2]);

    // The engine goes: what it showed stays, and the page says so.
    engine.is_gone.store(true, Ordering::SeqCst);
    tab.poll(
        "it is said in the dialog",
        "document.querySelector('#one-workers-said').textContent.includes('Nothing is done to workers')",
    );
    tab.evaluate("document.querySelector('#cluster [data-close]').click()");
    tab.poll("it is said", "document.querySelector('#engine-said').innerText.includes('did not answer')");
    assert_eq!(tab.evaluate(&says("prod", "Workers: 3 of 3 run")), json!(true));
    engine.is_gone.store(false, Ordering::SeqCst);
    tab.poll("it answers again", "document.querySelector('#engine-said').textContent === ''");

    // A cluster that is silent for long is dead, and its row is as one that is bad.
    tab.poll("it is dead", &format!("{}.classList.contains('bad')", row("lab")));
    assert!(tab.text("#clusters [data-key=lab]").contains("Dead"));
    // The browser complains of one thing: these clusters' collectors have no URL to be asked at.
    let others: Vec<String> = tab.complaints().into_iter().filter(|it| !it.contains("/lab/agents")).collect();
    assert_eq!(others, [""; 0]);
}

#[test]
fn it_says_nothing_of_workers_where_there_are_none() {
    let Some(browser) = Browser::start() else { return };
    let station = start().run();
    assert_eq!(station.ask("PUT", "/api/clusters/prod", COLLECTOR, "{}").0, 201);
    let mut tab = signed_in(&browser, &station, VIEWER);
    tab.poll("the cluster is shown", "document.querySelectorAll('#clusters tr').length === 1");
    assert!(!tab.text("#clusters").contains("Workers"));
    tab.evaluate("document.querySelector('#clusters [data-do=open]').click()");
    tab.poll("it is open", "document.querySelector('#cluster').open");
    assert_eq!(tab.evaluate("document.querySelector('#cluster-workers').hidden"), json!(true));
    assert_eq!(tab.evaluate("document.querySelector('#engine-said').textContent"), json!(""));
}
