//! Receivers on bad days: they hang, fail for long, redirect, or answer without end. Each is told
//! late, no other waits for it, and the station keeps its memory.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::{ADMIN, Delivery, PATIENCE, Receiver, Station, alert, let_pass, start, until};

const TOKEN: &str = "123456:a-token-nobody-may-see";

/// Answers nothing until the door opens, then takes everything.
fn behind(door: &Arc<AtomicBool>) -> Receiver {
    let door = Arc::clone(door);
    Receiver::that(move |_, _| {
        if door.load(Ordering::SeqCst) {
            return "200 OK\r\n\r\n{\"ok\":true}".into();
        }
        // For longer than anybody waits, this test too.
        while !door.load(Ordering::SeqCst) {
            let_pass(Duration::from_millis(20));
        }
        String::new()
    })
}

fn deliveries(station: &Station, kind: &str, id: i64) -> serde_json::Value {
    station.seen(&format!("/notifications/{kind}/{id}/deliveries"))["deliveries"].clone()
}

fn chat(station: &Station) -> i64 {
    let (status, made) = station.ask("POST", "/notifications/telegram", ADMIN, r#"{"chat_id":"7"}"#);
    assert_eq!(status, 201, "{made}");
    made["id"].as_i64().unwrap()
}

#[test]
fn who_hangs_is_told_late_and_nobody_else_is() {
    let door = Arc::new(AtomicBool::new(false));
    let (hook, api, well) = (behind(&door), behind(&door), Receiver::new());
    let station = start().with("TELEGRAM_BOT_TOKEN", TOKEN).with("TELEGRAM_API_URL", &api.base()).run();
    let (hanging, chat) = (station.webhook(&hook, &json!({})), chat(&station));
    station.webhook(&well, &json!({}));
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    hook.await_count(1);
    api.await_count(1);
    // Both hang now. Others are told meanwhile, and so is who asks.
    for number in 0..20 {
        assert_eq!(station.alert("c", &alert("AGENT_DEATH", &number.to_string(), 1)).0, 200);
    }
    well.await_count(21);
    for (kind, id) in [("webhooks", hanging), ("telegram", chat)] {
        let all = deliveries(&station, kind, id);
        assert!(all.as_array().unwrap().iter().all(|it| it["state"] == "owed"), "{all}");
    }
    // An attempt is given up, counted, and made again.
    let failed = |kind: &str, id: i64| {
        let channels = station.seen(&format!("/notifications/{kind}"));
        let of = channels.as_array().unwrap().iter().find(|channel| channel["id"] == id).unwrap();
        of["failure_count"].as_u64().unwrap() > 0
    };
    until("both have failed", || failed("webhooks", hanging) && failed("telegram", chat));
    assert_eq!(well.all().len(), 21, "nobody else is told twice");
    door.store(true, Ordering::SeqCst);
    let is_told = |kind: &str, id: i64| {
        let all = deliveries(&station, kind, id);
        all.as_array().unwrap().iter().filter(|it| it["state"] == "delivered").count() == 21
    };
    until("both are told late", || is_told("webhooks", hanging) && is_told("telegram", chat));
    let first: Vec<_> = hook.all().iter().filter(|it| it.id() == hook.all()[0].id()).cloned().collect();
    assert!(first.len() > 1 && first.iter().all(|it| it.text == first[0].text), "the same again");
    assert!(!station.log().contains(TOKEN) && !station.log().contains("/hook"), "{}", station.log());
}

#[test]
fn who_fails_for_long_or_redirects_is_told_when_it_takes_it_and_nobody_else_waits() {
    // Three failures take ten seconds and more, with the waits between them.
    let other = Receiver::new();
    let target = other.url();
    let failing = Receiver::that(|_, before| match before {
        0..3 => "500 Internal Server Error\r\n\r\nnot today".into(),
        _ => "200 OK\r\n".into(),
    });
    let moved = Receiver::that(move |_, before| match before {
        0 => format!("308 Permanent Redirect\r\nLocation: {target}"),
        _ => "200 OK\r\n".into(),
    });
    let (station, well) = (start().run(), Receiver::new());
    for receiver in [&failing, &moved, &well] {
        station.webhook(receiver, &json!({}));
    }
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    station.alert("c", &alert("AGENT_RECOVERED", "a", 2));
    well.await_count(2);
    assert!(failing.events().iter().all(|event| event == "agent.dead"), "its order holds");
    for (receiver, attempts) in [(&failing, 4), (&moved, 2)] {
        let all = receiver.await_count(attempts + 1);
        let ids: Vec<_> = all[..attempts].iter().map(Delivery::id).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(all[attempts].event(), "agent.recovered");
    }
    assert!(other.all().is_empty(), "nobody is told where a redirect leads");
}

/// A server whose answers never end. It counts the bytes that were taken from it.
fn endless(status: &'static str) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, taken) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&taken);
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let counted = Arc::clone(&counted);
            thread::spawn(move || pour(socket, status, &counted));
        }
    });
    (port, taken)
}

fn pour(mut socket: TcpStream, status: &str, taken: &AtomicU64) {
    // The request is short. What is left of it is of no interest.
    let _ = socket.read(&mut [0; 4096]);
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
    let _ = socket.write_all(head.as_bytes());
    let block = ["10000\r\n", &" ".repeat(0x10000), "\r\n"].concat();
    while socket.write_all(block.as_bytes()).is_ok() {
        taken.fetch_add(0x10000, Ordering::SeqCst);
    }
}

#[test]
fn answers_without_end_are_not_read_and_take_no_memory() {
    /// What the kernel holds of a connection may have been taken, too.
    const MOST_TAKEN: u64 = 64 << 20;
    const MOST_MEMORY: u64 = 100 << 10;
    let (hook, of_hook) = endless("200 OK");
    let (failing, of_failing) = endless("500 Internal Server Error");
    let (api, of_api) = endless("200 OK");
    let (collector, of_collector) = endless("200 OK");
    let base = |port: u16| format!("http://127.0.0.1:{port}");
    let station = start().with("TELEGRAM_BOT_TOKEN", TOKEN).with("TELEGRAM_API_URL", &base(api)).run();
    let well = Receiver::new();
    station.webhook(&well, &json!({}));
    let add = |port: u16| {
        let body = json!({ "url": base(port), "secret": "0123456789abcdef" }).to_string();
        station.ask("POST", "/notifications/webhooks", ADMIN, &body).1["id"].as_i64().unwrap()
    };
    let (taking, failed, chat) = (add(hook), add(failing), chat(&station));
    station.ask("PUT", "/api/clusters/c", ADMIN, &json!({ "collector_url": base(collector) }).to_string());
    let before = station.most_memory();
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    for (kind, id, is_so) in [
        ("webhooks", taking, ("state", json!("delivered"))),
        ("telegram", chat, ("state", json!("delivered"))),
        ("webhooks", failed, ("attempts", json!(1))),
    ] {
        until("it is answered", || deliveries(&station, kind, id)[0][is_so.0] == is_so.1);
    }
    let why = deliveries(&station, "webhooks", failed)[0]["last_error"].as_str().unwrap().to_owned();
    assert!(why.starts_with("answer 500: ") && why.len() < 1000, "{}", why.len());
    for path in ["", "/a"] {
        let answer = station.get(&format!("/api/clusters/c/agents{path}"), ADMIN);
        assert_eq!(answer, (502, json!({ "error": "Collector response too large" })));
    }
    well.await_count(1);
    let taken = [of_hook, of_failing, of_api, of_collector].map(|taken| taken.load(Ordering::SeqCst));
    assert!(taken.iter().all(|taken| *taken < MOST_TAKEN), "{taken:?}");
    let more = station.most_memory() - before;
    assert!(more < MOST_MEMORY, "{more} KiB more");
}

#[test]
fn a_collector_that_hangs_or_drips_is_given_up() {
    let dripping = TcpListener::bind("127.0.0.1:0").unwrap();
    let drips = format!("http://{}", dripping.local_addr().unwrap());
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    thread::spawn(move || {
        for mut socket in dripping.incoming().map_while(Result::ok) {
            let ended = Arc::clone(&ended);
            thread::spawn(move || {
                let _ = socket.read(&mut [0; 4096]);
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
                until("nobody listens", || ended.load(Ordering::SeqCst) || socket.write_all(b" ").is_err());
            });
        }
    });
    let hanging = Receiver::that({
        let over = Arc::clone(&over);
        move |_, _| {
            while !over.load(Ordering::SeqCst) {
                let_pass(Duration::from_millis(20));
            }
            String::new()
        }
    });
    let station = start().run();
    for (id, url) in [("hangs", hanging.base()), ("drips", drips)] {
        let body = json!({ "collector_url": url }).to_string();
        station.ask("PUT", &format!("/api/clusters/{id}"), ADMIN, &body);
    }
    thread::scope(|scope| {
        for id in ["hangs", "drips"] {
            let station = &station;
            scope.spawn(move || {
                let answer = station.get(&format!("/api/clusters/{id}/agents"), ADMIN);
                assert_eq!(answer, (504, json!({ "error": "Collector request timed out" })), "{id}");
            });
        }
    });
    over.store(true, Ordering::SeqCst);
    assert!(PATIENCE.as_secs() > 10, "the station gives up before the client does");
}

#[test]
fn no_error_shows_a_token_or_a_path() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", silent.local_addr().unwrap());
    // Nobody listens there any more.
    drop(silent);
    let station = start().with("TELEGRAM_BOT_TOKEN", TOKEN).with("TELEGRAM_API_URL", &base).run();
    let chat = chat(&station);
    let body = json!({ "url": format!("{base}/services/a-secret-path"), "secret": "0123456789abcdef" });
    let (_, hook) = station.ask("POST", "/notifications/webhooks", ADMIN, &body.to_string());
    let hook = hook["id"].as_i64().unwrap();
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    for (kind, id) in [("telegram", chat), ("webhooks", hook)] {
        until("an attempt has failed", || deliveries(&station, kind, id)[0]["attempts"].as_u64() > Some(0));
        let (_, tested) = station.ask("POST", &format!("/notifications/{kind}/{id}/test"), ADMIN, "");
        for text in [tested, deliveries(&station, kind, id), json!(station.log())] {
            let text = text.to_string();
            assert!(
                text.contains("no answer") && !text.contains(TOKEN) && !text.contains("a-secret-path"),
                "{text}"
            );
        }
    }
}
