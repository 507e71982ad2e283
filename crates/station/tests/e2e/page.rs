//! The page in a real Chromium.

use std::path::PathBuf;

use serde_json::json;

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
    let (station, receiver) = (start().with("HEARTBEAT_TIMEOUT", "24h").run(), Receiver::new());
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
