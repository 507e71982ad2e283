//! Channels and deliveries (L1 to L6, L8, L11, L15, L16, L19 to L23 of the original).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::{ADMIN, Receiver, VIEWER, alert, has_program, start, until};

#[test]
fn webhooks_are_made_shown_changed_and_tested() {
    let (station, receiver) = (start().run(), Receiver::new());
    let post = |body: Value| station.ask("POST", "/notifications/webhooks", ADMIN, &body.to_string());
    for (body, error) in [
        (json!({}), "url is required"),
        (json!({ "url": "nonsense" }), "invalid url format"),
        (json!({ "url": receiver.url() }), "secret is required"),
        (json!({ "url": receiver.url(), "secret": "short" }), "secret must be between 16 and 128 characters"),
        (json!({ "url": 7 }), "Invalid request body"),
    ] {
        assert_eq!(post(body.clone()), (400, json!({ "error": error })), "{body}");
    }
    for filters in [json!({ "events": ["x"] }), json!([null])] {
        let wrong = json!({ "url": receiver.url(), "secret": "0123456789abcdef", "filters": filters });
        assert_eq!(post(wrong).0, 400);
    }
    let id = station.webhook(&receiver, &json!({}));
    let (status, body) = post(json!({ "url": receiver.url(), "secret": "0123456789abcdef" }));
    assert_eq!((status, body), (409, json!({ "error": "Webhook URL already exists for this user" })));

    let shown = &station.seen("/notifications/webhooks")[0];
    assert_eq!((&shown["secret_last_four"], &shown["is_active"]), (&json!("cdef"), &json!(true)));
    assert!(!shown.to_string().contains("0123456789"));
    // The path may be a secret.
    let (_, seen) = station.get("/notifications/webhooks", VIEWER);
    assert!(!seen.to_string().contains("/hook"), "{seen}");

    let path = format!("/notifications/webhooks/{id}");
    let (status, tested) = station.ask("POST", &format!("{path}/test"), ADMIN, "");
    assert_eq!((status, &tested["status"], &tested["webhook_id"]), (200, &json!("sent"), &json!(id)));
    assert_eq!(receiver.all()[0].text, r#"{"event":"test","incident":null,"cluster":null,"agent":null}"#);
    let (status, changed) = station.ask("PUT", &path, ADMIN, r#"{"is_active":false}"#);
    assert_eq!((status, &changed["is_active"]), (200, &json!(false)));
    assert_eq!(station.ask("POST", &format!("{path}/test"), ADMIN, "").0, 400);
    assert_eq!(station.ask("PUT", "/notifications/webhooks/99", ADMIN, "{}").0, 404);
    assert_eq!(station.ask("DELETE", &path, ADMIN, "").0, 204);
    assert_eq!(station.ask("DELETE", &path, ADMIN, "").0, 404);
    let public = start().with("ALLOW_PRIVATE_TARGETS", "false").run();
    let body = json!({ "url": "http://example.com/x", "secret": "0123456789abcdef" }).to_string();
    let answer = public.ask("POST", "/notifications/webhooks", ADMIN, &body);
    assert_eq!(answer, (400, json!({ "error": "url must use HTTPS" })));
}

#[test]
fn a_receiver_that_fails_gets_it_again_with_the_same_id_and_in_order() {
    let receiver = Receiver::that(|_, before| match before {
        0 => "500 Internal Server Error\r\n".into(),
        1 => String::new(),
        _ => "200 OK\r\n".into(),
    });
    let station = start().run();
    let id = station.webhook(&receiver, &json!({}));
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    station.alert("c", &alert("AGENT_RECOVERED", "a", 2));
    let all = receiver.await_count(4);
    let events: Vec<_> = all.iter().map(crate::support::Delivery::event).collect();
    assert_eq!(events, ["agent.dead", "agent.dead", "agent.dead", "agent.recovered"]);
    assert!(all[0].id() == all[1].id() && all[1].id() == all[2].id() && all[2].id() != all[3].id());
    assert_eq!(all[0].text, all[2].text);
    let deliveries = format!("/notifications/webhooks/{id}/deliveries");
    until("both are delivered", || {
        let shown = station.seen(&deliveries);
        let states: Vec<_> =
            shown["deliveries"].as_array().unwrap().iter().map(|it| it["state"].clone()).collect();
        states == ["delivered", "delivered"]
    });
    assert_eq!(station.seen(&deliveries)["deliveries"][1]["attempts"], 3);
}

#[test]
fn what_is_refused_for_good_is_shown_and_its_closing_is_not_told() {
    let receiver = Receiver::that(|_, _| "404 Not Found\r\n\r\nno such hook".into());
    let station = start().run();
    let id = station.webhook(&receiver, &json!({}));
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    let first = || station.seen(&format!("/notifications/webhooks/{id}/deliveries"))["deliveries"][0].clone();
    until("it is refused", || first()["state"] == "refused");
    assert_eq!(first()["last_error"], "answer 404: no such hook");
    station.alert("c", &alert("AGENT_RECOVERED", "a", 2));
    // Something else is told, so the closing would have been, too.
    station.alert("c", &alert("AGENT_DEATH", "b", 1));
    receiver.await_count(2);
    assert_eq!(receiver.events(), ["agent.dead", "agent.dead"]);
}

#[test]
fn a_receiver_that_is_gone_turns_its_channel_off() {
    let receiver = Receiver::that(|_, _| "410 Gone\r\n".into());
    let station = start().run();
    station.webhook(&receiver, &json!({}));
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    until("it is off", || station.seen("/notifications/webhooks")[0]["is_active"] == false);
    assert!(station.seen("/notifications/webhooks")[0]["last_error"].as_str().unwrap().contains("410"));
    station.await_log("is turned off");
}

#[test]
fn a_channel_that_hangs_delays_nobody_else_and_redirects_are_not_followed() {
    let other = Receiver::new();
    let target = other.url();
    let moved = Receiver::that(move |_, _| format!("307 Temporary Redirect\r\nLocation: {target}"));
    let open = Arc::new(AtomicBool::new(true));
    let held = Arc::clone(&open);
    let hanging = Receiver::that(move |_, _| {
        until("the test ends", || !held.load(Ordering::SeqCst));
        String::new()
    });
    let (station, well) = (start().run(), Receiver::new());
    for receiver in [&hanging, &moved, &well] {
        station.webhook(receiver, &json!({}));
    }
    for number in 0..5 {
        station.alert("c", &alert("AGENT_DEATH", &number.to_string(), 1));
    }
    well.await_count(5);
    assert_eq!(hanging.all().len(), 1);
    moved.await_count(1);
    assert!(other.all().is_empty());
    open.store(false, Ordering::SeqCst);
}

#[test]
fn filters_and_hours_of_quiet_hold_for_each_channel() {
    let (station, some, quiet) = (start().run(), Receiver::new(), Receiver::new());
    station.webhook(&some, &json!({ "filters": { "clusters": ["d"], "severities": ["critical"] } }));
    let id = station.webhook(
        &quiet,
        &json!({ "quiet_hours": { "from": "00:00", "to": "23:59", "timezone": "Etc/GMT+12" } }),
    );
    let id = format!("/notifications/webhooks/{id}");
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    for kind in ["EMERGENCY_MODE", "AGENT_DEATH"] {
        let mut it = alert(kind, "a", 1);
        it["cluster_id"] = json!("d");
        station.alert("d", &it);
    }
    let all = some.await_count(1);
    assert_eq!((all[0].event(), &all[0].body["cluster"]["cluster_id"]), ("agent.dead", &json!("d")));
    // Held, not lost: they come when the quiet ends. (It is never quiet for a minute a day.)
    if quiet.all().is_empty() {
        assert_eq!(station.seen(&format!("{id}/deliveries"))["deliveries"][0]["state"], "owed");
    }
    station.ask("PUT", &id, ADMIN, r#"{"quiet_hours":null}"#);
    quiet.await_count(3);
    assert_eq!(some.all().len(), 1);
    for wrong in [
        json!({ "quiet_hours": { "from": "25:00", "to": "07:00", "timezone": "UTC" } }),
        json!({ "quiet_hours": { "from": "22:00", "to": "07:00", "timezone": "Nowhere" } }),
        json!({ "filters": { "severity": ["critical"] } }),
    ] {
        assert_eq!(station.ask("PUT", &id, ADMIN, &wrong.to_string()).0, 400, "{wrong}");
    }
}

#[test]
fn telegram_gets_plain_text_obeys_and_counts_a_storm() {
    let token = "123456:a-token-nobody-may-see";
    let go_on = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&go_on);
    let api = Receiver::that(move |_, before| {
        if before > 0 {
            return "200 OK\r\n\r\n{\"ok\":true}".into();
        }
        until("the storm has come", || held.load(Ordering::SeqCst));
        let too_many =
            json!({ "ok": false, "description": "Too Many Requests", "parameters": { "retry_after": 1 } });
        format!("429 Too Many Requests\r\n\r\n{too_many}")
    });
    let station = start().with("TELEGRAM_BOT_TOKEN", token).with("TELEGRAM_API_URL", &api.base()).run();
    let post = |body: &str| station.ask("POST", "/notifications/telegram", ADMIN, body);
    assert_eq!(post("{}"), (400, json!({ "error": "chat_id is required" })));
    assert_eq!(
        post(r#"{"chat_id":"me"}"#),
        (400, json!({ "error": "chat_id must be a valid numeric string" }))
    );
    let (status, made) = post(r#"{"chat_id":"-1001234"}"#);
    assert_eq!((status, &made["chat_id"]), (201, &json!("-1001234")));
    let (status, body) = post(r#"{"chat_id":"-1001234"}"#);
    assert_eq!(
        (status, body),
        (409, json!({ "error": "telegram recipient with chat_id -1001234 already exists" }))
    );

    station.alert("c", &alert("AGENT_DEATH", "first", 1));
    api.await_count(1);
    for number in 0..12 {
        station.alert("c", &alert("AGENT_DEATH", &number.to_string(), 1));
    }
    go_on.store(true, Ordering::SeqCst);
    let all = api.await_count(2);
    assert_eq!(all[0].path, format!("/bot{token}/sendMessage"));
    assert_eq!(all[0].body["chat_id"], "-1001234");
    let text = |number: usize| all[number].body["text"].as_str().unwrap().to_owned();
    assert!(text(0).starts_with(
        "\u{1f534} Agent name of first of cluster c is dead\nLast seen: 2026-01-31 12:00:00 UTC\n"
    ));
    assert!(text(1).starts_with("\u{1f534} 13 events\n") && text(1).ends_with("and 3 more"), "{}", text(1));
    assert_eq!(all[0].body.as_object().unwrap().len(), 2, "no parse_mode");
    until("all are delivered", || {
        station.get("/metrics", "").1.as_str().unwrap().contains("pap_station_deliveries_owed 0")
    });
    assert!(!station.log().contains(token));
    let none = start().run();
    none.ask("POST", "/notifications/telegram", ADMIN, r#"{"chat_id":"7"}"#);
    let tested = none.ask("POST", "/notifications/telegram/1/test", ADMIN, "");
    assert_eq!(tested, (503, json!({ "error": "Telegram notifier is not configured" })));
    none.alert("c", &alert("AGENT_DEATH", "a", 1));
    until("it is said why nothing is sent", || {
        let shown = none.seen("/notifications/telegram/1/deliveries");
        shown["deliveries"][0]["last_error"] == "TELEGRAM_BOT_TOKEN is not set"
    });
}

#[test]
fn signatures_are_valid_for_a_receiver() {
    if !has_program("python3") {
        return;
    }
    let (station, receiver) = (start().run(), Receiver::new());
    station.webhook(&receiver, &json!({ "lunasentri_signature": true }));
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    let delivery = receiver.await_count(1)[0].clone();
    let script = r#"
import base64, hashlib, hmac, json, sys
it = json.load(sys.stdin); secret = b"0123456789abcdef"; body = it["text"].encode(); h = it["headers"]
sha = lambda key: "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
assert h["x-webhook-signature"] == sha(secret)
assert h["x-lunasentri-signature"] == sha(hashlib.sha256(secret).digest())
signed = (h["webhook-id"] + "." + h["webhook-timestamp"] + ".").encode() + body
assert h["webhook-signature"] == "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
assert h["user-agent"].startswith("pap-station/") and h["content-type"] == "application/json"
"#;
    use std::io::Write as _;
    let mut python = std::process::Command::new("python3")
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!({ "text": delivery.text, "headers": delivery.headers }).to_string();
    python.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(python.wait().unwrap().success());
}

#[test]
fn what_a_former_url_answers_does_not_turn_a_changed_channel_off() {
    let go_on = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&go_on);
    let former = Receiver::that(move |_, _| {
        until("the channel is changed", || held.load(Ordering::SeqCst));
        "410 Gone\r\n".into()
    });
    let (station, receiver) = (start().run(), Receiver::new());
    let id = station.webhook(&former, &json!({}));
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    former.await_count(1);
    let path = format!("/notifications/webhooks/{id}");
    assert_eq!(station.ask("PUT", &path, ADMIN, &json!({ "url": receiver.url() }).to_string()).0, 200);
    go_on.store(true, Ordering::SeqCst);
    assert_eq!(receiver.await_count(1)[0].id(), former.all()[0].id());
    assert_eq!(station.seen("/notifications/webhooks")[0]["is_active"], true);
}

#[test]
fn a_late_answer_of_a_channel_that_is_gone_settles_nothing_of_another() {
    let release = Arc::new(AtomicBool::new(false));
    let released = Arc::clone(&release);
    let gone = Receiver::that(move |_, _| {
        until("it may answer", || released.load(Ordering::SeqCst));
        "200 OK\r\n".into()
    });
    let other = Receiver::that(|_, before| {
        if before == 0 { "500 Internal Server Error\r\n" } else { "200 OK\r\n" }.into()
    });
    let station = start().run();
    let id = station.webhook(&gone, &json!({}));
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    gone.await_count(1);
    assert_eq!(station.ask("DELETE", &format!("/notifications/webhooks/{id}"), ADMIN, "").0, 204);
    station.webhook(&other, &json!({}));
    station.alert("c", &alert("AGENT_DEATH", "b", 1));
    other.await_count(1);
    release.store(true, Ordering::SeqCst);
    let all = other.await_count(2);
    assert_eq!(all[0].id(), all[1].id(), "it is tried again");
}
