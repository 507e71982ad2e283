//! The live page in a real browser, against the real binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test ends where something is not as it should be, and may look at the time"
)]

#[path = "support/browser.rs"]
mod browser;
mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use browser::{Browser, Tab};
use crossbeam_channel::RecvTimeoutError;
use serde_json::json;
use support::station::{Answer as Reply, Station};
use support::{Collector, PATIENCE, Port, let_pass_until, uuid};

const LIVE: &str = "document.querySelector('#f-stream').textContent.includes('Live')";
const ASKED: &str = "document.querySelector('#ask')?.open";

/// Whether this many agents are in the table.
fn counts(text: &str) -> String {
    format!("document.querySelector('#count').textContent === {}", json!(text))
}

/// The names of the visible rows, from the top.
const NAMES: &str = "[...document.querySelectorAll('#rows .row:not([hidden])')]\
    .sort((a, b) => a.getAttribute('aria-rowindex') - b.getAttribute('aria-rowindex'))\
    .map(row => row.querySelector('b').textContent).join(' ')";

/// Types `text` into the search field.
fn search(tab: &mut Tab, text: &str) {
    tab.evaluate("document.querySelector('#search').focus(); document.querySelector('#search').select()");
    tab.write(text);
}

fn click(tab: &mut Tab, selector: &str) {
    tab.evaluate(&format!("document.querySelector({}).click()", json!(selector)));
}

fn beat(collector: &Collector, agent: &str, name: &str, mode: &str, uptime: u32) {
    let body = json!({"mode": mode, "uptime_seconds": uptime, "agent_name": name}).to_string();
    let path = format!(
        "/heartbeat/{}",
        percent_encoding::utf8_percent_encode(agent, percent_encoding::NON_ALPHANUMERIC)
    );
    let answer = collector.request("POST", &path, &[], &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Opens a tab with the page of this collector, and waits until its stream is open.
fn watching(browser: &Browser, collector: &Collector) -> Tab {
    let mut tab = browser.tab();
    tab.resize(1280, 800);
    tab.open(&collector.url("/"));
    tab.poll("the stream is open", LIVE);
    tab
}

#[test]
fn it_loads_without_a_complaint_and_says_how_to_begin() {
    let Some(browser) = Browser::start() else { return };
    let collector = Collector::start(&[("CLUSTER_NAME", "Night <b>watch</b>")]);
    let mut tab = watching(&browser, &collector);
    tab.poll("the hint is there", "!document.querySelector('#empty').hidden");
    assert!(tab.text("#curl").starts_with(&format!("curl {}", collector.url("/heartbeat/"))));
    assert!(tab.text("#cluster").starts_with("Night <b>watch</b>"));

    beat(&collector, &uuid(1), "first", "IDLE", 1);
    tab.poll("the first agent is shown", &counts("1 agent"));
    assert_eq!(tab.evaluate(NAMES), "first");
    tab.poll("the station is spoken of", "document.querySelector('#f-station').textContent.includes('log')");
    click(&mut tab, "#rows .row");
    tab.poll("the agent is opened", "document.querySelector('#one').open");
    beat(&collector, &uuid(1), "first", "IDLE", 2);
    tab.poll("its heartbeats are drawn", "document.querySelectorAll('#strip .beat').length >= 2");
    assert_eq!(tab.complaints(), [""; 0]);
}

#[test]
fn a_death_is_shown_by_the_stream_alone() {
    let Some(browser) = Browser::start() else { return };
    let collector = Collector::start(&[]);
    let (id, path) = (uuid(7), format!("/agents/{}", uuid(7)));
    beat(&collector, &id, "canary", "EMERGENCY", 100);
    let mut tab = watching(&browser, &collector);
    tab.poll("the agent is shown", &counts("1 agent"));
    // The agent is alive now, however long the page took to load.
    beat(&collector, &id, "canary", "EMERGENCY", 101);
    // From here on the page can learn of changes only from the stream.
    tab.evaluate("window.fetch = () => new Promise(() => {}); 0");
    let (told, shown) = thread::scope(|scope| {
        let told = scope.spawn(|| {
            collector.poll("it is dead", || collector.get(&path).json()["agent"]["status"] == "dead");
            Instant::now()
        });
        let row = "document.querySelector('#rows .row.dead')?.textContent.includes('dead')";
        let total = "document.querySelector('.tile.dead b').textContent === '1'";
        let title = "document.title.startsWith('(1 dead)')";
        let feed = "document.querySelector('#feed').textContent.includes('canary died')";
        let shown = tab.poll("the death is shown", &format!("!!({row} && {total} && {title} && {feed})"));
        (told.join().unwrap(), shown)
    });
    let late = shown.saturating_duration_since(told);
    println!("shown {} ms after the API said so", late.as_millis());

    beat(&collector, &id, "canary", "EMERGENCY", 115);
    let back = "document.querySelector('#feed').textContent.includes('canary came back')";
    tab.poll("the return is shown", &format!("{back} && !document.title.includes('dead')"));
}

#[test]
fn it_filters_searches_sorts_and_obeys_the_keyboard() {
    let Some(browser) = Browser::start() else { return };
    let collector = Collector::start(&[]);
    for (number, (name, mode)) in
        [("Anton", "IDLE"), ("berta", "IDLE"), ("Caesar", "SLEEP"), ("dora", "EMERGENCY")].iter().enumerate()
    {
        beat(&collector, &uuid(number + 1), name, mode, 50);
    }
    let mut tab = watching(&browser, &collector);
    tab.poll("all are shown", &counts("4 agents"));
    assert_eq!(tab.evaluate(NAMES), "dora Anton berta Caesar", "what is urgent comes first");

    click(&mut tab, "[data-mode=IDLE]");
    assert_eq!(tab.evaluate(NAMES), "Anton berta");
    assert_eq!(tab.text("#count"), "2 of 4 agents");
    search(&mut tab, "BERT");
    assert_eq!(tab.evaluate(NAMES), "berta");
    search(&mut tab, "nobody");
    assert_eq!((tab.evaluate(NAMES), tab.text("#nomatch")), (json!(""), "No agent matches.".to_owned()));
    click(&mut tab, "#clear");
    assert_eq!(tab.text("#count"), "4 agents");
    search(&mut tab, &uuid(3)[24..]);
    assert_eq!(tab.evaluate(NAMES), "Caesar", "an id is found too");
    click(&mut tab, "#clear");
    // On a slow machine dora would be suspect by now.
    beat(&collector, &uuid(4), "dora", "EMERGENCY", 51);
    click(&mut tab, "[data-status=healthy]");
    tab.poll("all are healthy", &counts("4 of 4 agents"));
    click(&mut tab, "[data-status=healthy]");

    click(&mut tab, "[data-sort=name] button");
    assert_eq!(tab.evaluate(NAMES), "Anton berta Caesar dora");
    click(&mut tab, "[data-sort=name] button");
    assert_eq!(tab.evaluate(NAMES), "dora Caesar berta Anton");
    assert_eq!(
        tab.evaluate("document.querySelector('[data-sort=name]').getAttribute('aria-sort')"),
        "descending"
    );

    tab.evaluate("document.activeElement.blur()");
    tab.key("/");
    assert_eq!(tab.evaluate("document.activeElement.id"), "search");
    tab.evaluate("document.querySelector('#grid').focus()");
    tab.key("ArrowDown");
    tab.key("ArrowDown");
    let active = "document.querySelector('#grid').getAttribute('aria-activedescendant')";
    let name = format!("document.getElementById({active}).querySelector('b').textContent");
    assert_eq!(tab.evaluate(&name), "Caesar");
    tab.key("Enter");
    tab.poll("the agent is opened", "document.querySelector('#one').open");
    assert_eq!(tab.text("#one-name"), "Caesar");
    tab.key("Escape");
    tab.poll("the agent is closed", "!document.querySelector('#one').open");
    assert_eq!(tab.evaluate("document.activeElement.id"), "grid", "the focus is where it was");
    assert_eq!(tab.complaints(), [""; 0]);
}

#[test]
fn it_survives_a_restart_of_the_collector() {
    let Some(browser) = Browser::start() else { return };
    let kept = Port::reserve();
    let port = kept.number.to_string();
    let variables = [("COLLECTOR_PORT", port.as_str())];
    let mut collector = Collector::start(&variables);
    beat(&collector, &uuid(1), "before", "IDLE", 50);
    let mut tab = watching(&browser, &collector);
    tab.poll("the agent is shown", &counts("1 agent"));
    assert_eq!(tab.evaluate("document.querySelector('#banner').hidden"), true);

    collector.signal("KILL");
    collector.wait();
    drop(collector);
    tab.poll("the banner is there", "!document.querySelector('#banner').hidden");
    tab.poll("it says so", "document.querySelector('#b-text').textContent.includes('out of reach')");
    let frozen = "document.querySelector('#page').classList.contains('stale')";
    assert_eq!(tab.evaluate(frozen), true, "what is old looks old");
    assert_eq!(tab.evaluate(NAMES), "before", "and is still there to be read");

    let collector = Collector::start(&variables);
    tab.poll("the banner is gone", &format!("document.querySelector('#banner').hidden && {LIVE}"));
    tab.poll("who vanished is gone", "!document.querySelector('#empty').hidden");
    beat(&collector, &uuid(2), "after", "IDLE", 50);
    tab.poll("who is new is there", &counts("1 agent"));
    assert_eq!(tab.evaluate(NAMES), "after");
    assert_eq!(tab.evaluate(frozen), false);
}

#[test]
fn names_and_ids_are_text_and_never_markup() {
    let Some(browser) = Browser::start() else { return };
    let collector = Collector::start(&[]);
    let evil = "<img src=x onerror=\"window.hacked=1\">";
    let id = "<script>window.hacked=2</script>";
    beat(&collector, id, evil, "IDLE", 1000);
    let mut tab = watching(&browser, &collector);
    tab.poll("it is shown", &counts("1 agent"));
    assert_eq!(tab.text("#rows .row b"), evil);
    click(&mut tab, "#rows .row");
    tab.poll("the agent is opened", "document.querySelector('#one').open");
    assert_eq!((tab.text("#one-name"), tab.text("#one-id")), (evil.to_owned(), id.to_owned()));
    // A restart of the agent shows its name in the feed and in the alerts.
    beat(&collector, id, evil, "IDLE", 3);
    tab.poll("the feed tells", "document.querySelector('#feed').textContent.includes('restarted')");
    assert!(tab.text("#feed .link").contains(evil));
    let alert = "document.querySelector('#one-alerts').textContent.includes('restart detected')";
    tab.poll("the alert is listed", alert);
    assert_eq!(tab.evaluate("document.images.length + document.scripts.length"), 1, "only our script");
    assert_eq!(tab.evaluate("typeof window.hacked"), "undefined");
    assert_eq!(tab.complaints(), [""; 0], "nothing was even tried");
}

/// Posts a heartbeat of each agent in `numbers`, all on one connection.
fn fill(collector: &Collector, numbers: std::ops::Range<usize>) {
    let mut stream = collector.connect();
    stream.set_nodelay(true).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    for number in numbers {
        let body =
            format!(r#"{{"mode":"SLEEP","uptime_seconds":{number},"agent_name":"Agent-{number:05}"}}"#);
        let head = format!("POST /heartbeat/{} HTTP/1.1\r\nHost: c\r\n", uuid(number));
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let (mut line, mut length) = (String::new(), 0);
        answers.read_line(&mut line).unwrap();
        assert!(line.contains(" 200 "), "{line}");
        while line != "\r\n" {
            line.clear();
            assert_ne!(answers.read_line(&mut line).unwrap(), 0, "the connection stays open");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        answers.read_exact(&mut vec![0; length]).unwrap();
    }
}

#[test]
fn it_holds_twenty_thousand_agents_and_searches_them_at_once() {
    let Some(browser) = Browser::start() else { return };
    let collector = Collector::start(&[]);
    thread::scope(|scope| {
        for part in 0..4 {
            let collector = &collector;
            scope.spawn(move || fill(collector, part * 5_000..(part + 1) * 5_000));
        }
    });
    let mut tab = watching(&browser, &collector);
    tab.poll("all are there", &counts("20,000 agents"));
    let rows = tab.evaluate("document.querySelectorAll('#rows .row').length").as_u64().unwrap();
    assert!((10..60).contains(&rows), "{rows} rows exist");
    // Measures the time from an input event until the rows are laid out, for several
    // searches; and, to compare, how long this machine takes to scan as many names.
    let measured = tab.evaluate(
        "(() => {
            const field = document.querySelector('#search'), best = [];
            const names = Array.from({length: 20000}, (_, number) => `agent-${number} ${number * 7919}`);
            const looks = [];
            for (let round = 0; round < 5; round++) {
                const started = performance.now();
                names.filter(name => name.toLowerCase().includes('9x')).sort();
                looks.push(performance.now() - started);
            }
            const measure = Math.min(...looks);
            for (const [text, first] of [['a', 'Agent-00000'], ['agent-1999', 'Agent-19990'], ['4e1f', 'Agent-19999'], ['19 97 agent', 'Agent-00197']]) {
                const times = [];
                for (let round = 0; round < 5; round++) {
                    field.value = '';
                    field.dispatchEvent(new Event('input'));
                    field.value = text;
                    const started = performance.now();
                    field.dispatchEvent(new Event('input'));
                    document.querySelector('#rows').getBoundingClientRect();
                    times.push(performance.now() - started);
                }
                const rows = [...document.querySelectorAll('#rows .row:not([hidden])')];
                const top = rows.find(row => row.getAttribute('aria-rowindex') === '2');
                best.push([text, Math.min(...times) / Math.max(measure, 0.1), top.querySelector('b').textContent === first]);
            }
            return best;
        })()",
    );
    println!("search, best of 5, in looks through 20,000 names: {measured}");
    for search in measured.as_array().unwrap() {
        assert_eq!(search[2], true, "the right rows: {search}");
        assert!(search[1].as_f64().unwrap() < 50.0, "too slow: {search}");
    }
    click(&mut tab, "#clear");
    tab.evaluate("document.querySelector('#grid').scrollTop = 1e9; 0");
    let last = format!("{NAMES}.endsWith('Agent-19999')");
    tab.poll("the last one is in sight", &last);
    assert_eq!(tab.complaints(), [""; 0]);
}

#[test]
fn the_key_is_asked_for_and_kept_for_the_tab_only() {
    let Some(browser) = Browser::start() else { return };
    let collector = Collector::start(&[("COLLECTOR_API_KEY", "open-sesame/+~")]);
    beat(&collector, &uuid(1), "secretive", "IDLE", 50);
    let mut tab = browser.tab();
    tab.open(&collector.url("/"));
    tab.poll("the key is asked for", ASKED);
    let give = |tab: &mut Tab, key: &str| {
        tab.evaluate("document.querySelector('#ask-key').focus()");
        tab.write(key);
        tab.key("Enter");
    };
    give(&mut tab, "wrong");
    tab.poll(
        "it is refused",
        "document.querySelector('#ask-wrong').textContent.includes('not the right one')",
    );
    assert_eq!(tab.evaluate("sessionStorage.length"), 0, "a wrong key is not kept");
    give(&mut tab, "open-sesame/+~");
    tab.poll("it opens", &format!("{} && {LIVE}", counts("1 agent")));
    let kept = tab.evaluate("[sessionStorage.length, localStorage.length, document.cookie]");
    assert_eq!(kept, json!([1, 0, ""]));
    let urls = tab.evaluate("performance.getEntries().map(entry => entry.name).join(' ') + location.href");
    assert!(!urls.as_str().unwrap().contains("sesame"), "a key never travels in a URL: {urls}");

    click(&mut tab, "#rows .row");
    beat(&collector, &uuid(1), "secretive", "IDLE", 51);
    tab.poll("one agent's stream opens too", "document.querySelectorAll('#strip .beat').length >= 2");
    tab.open(&collector.url("/?again"));
    tab.poll("it is still known", &format!("{} && {LIVE} && !{ASKED}", counts("1 agent")));
    let mut other = browser.tab();
    other.open(&collector.url("/"));
    other.poll("another tab is asked", ASKED);

    tab.load(|tab| click(tab, "#forget"));
    tab.poll("it is asked for again", ASKED);
    assert_eq!(tab.evaluate("sessionStorage.length"), 0);
    assert!(!tab.text("body").contains("secretive"), "what it had opened is gone");
}

#[test]
fn it_fits_a_phone_and_is_photographed() {
    let Some(browser) = Browser::start() else { return };
    let folder = std::env::var_os("PAP_SCREENSHOTS").map(PathBuf::from);
    let station = Station::start(0, |post| Reply::Status(post.judge("k"))).unwrap();
    let collector = Collector::with_station(
        &station,
        &[
            ("CLUSTER_ID", "prod-eu-1"),
            ("CLUSTER_NAME", "Production Europe"),
            ("HEARTBEAT_GRACE_MS", "10000"),
        ],
    );
    let roles = ["ingest", "planner", "research", "billing", "mailer", "search", "judge", "writer"];
    let agent = |number: usize, mode: &str, uptime: usize| {
        let name = format!("{}-{:02}", roles[number % roles.len()], number / roles.len() + 1);
        let uptime = u32::try_from(3_000 + number * 4_711 % 900_000 + uptime).unwrap();
        beat(&collector, &uuid(number * 7_919 + 1_000_003), &name, mode, uptime);
    };
    (0..240).for_each(|number| agent(number, if number % 5 == 0 { "SLEEP" } else { "IDLE" }, 0));
    let long = "a-name-that-is-as-long-as-a-name-may-be".repeat(3);
    beat(&collector, &long, &long, "IDLE", 50);
    let mut tab = watching(&browser, &collector);
    tab.poll("all are shown", &counts("241 agents"));
    // Of ten agents in EMERGENCY three die, two become suspect and five live.
    let emergency = |numbers: std::ops::Range<usize>, uptime| {
        numbers.for_each(|number| agent(number * 11 + 6, "EMERGENCY", uptime));
    };
    let started = Instant::now();
    let total =
        |status: &str, n: u32| format!("document.querySelector('.tile.{status} b').textContent === '{n}'");
    emergency(0..10, 5);
    for second in [4, 8] {
        let_pass_until(started + Duration::from_secs(second));
        emergency(3..10, 5 + usize::try_from(second).unwrap());
    }
    beat(&collector, &uuid(8 * 7_919 + 1_000_003), "ingest-02", "IDLE", 2);
    // The grace makes them dead after 20 s, and the page shows it: first the three, later the two.
    let (done, is_done) = crossbeam_channel::bounded::<()>(0);
    let mut tab = thread::scope(|scope| {
        scope.spawn(|| {
            for second in 9.. {
                emergency(5..10, 5 + second);
                if is_done.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        tab.poll(
            "three are dead and two suspect",
            &format!("{} && {}", total("dead", 3), total("suspect", 2)),
        );
        drop(done);
        tab
    });
    let shoot = |tab: &mut Tab, name: &str| {
        if let Some(folder) = &folder {
            std::fs::create_dir_all(folder).unwrap();
            tab.screenshot(&folder.join(name));
        }
    };
    shoot(&mut tab, "page-light.png");
    tab.dark(true);
    shoot(&mut tab, "page-dark.png");
    tab.resize(390, 844);
    shoot(&mut tab, "page-phone.png");
    let wide = "document.documentElement.scrollWidth <= innerWidth \
        && document.querySelector('#grid').scrollWidth <= document.querySelector('#grid').clientWidth";
    for width in [360, 390, 800, 1280] {
        tab.resize(width, 740);
        let sideways = format!("innerWidth === {width} && {wide}");
        tab.poll(&format!("nothing is cut off at {width}"), &sideways);
    }
    tab.resize(1280, 800);
    tab.dark(false);
    search(&mut tab, "search-08");
    click(&mut tab, "#rows .row");
    tab.poll("its heartbeats are drawn", "document.querySelectorAll('#strip .beat').length >= 3");
    shoot(&mut tab, "page-agent.png");
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(tab.complaints(), [""; 0]);
}
