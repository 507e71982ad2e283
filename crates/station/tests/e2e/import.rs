//! Taking over from the machine monitor, as a user does it: stop, import, start.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use ring::hmac;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::commands::{block, shell, with};
use crate::support::{ADMIN, Delivery, Receiver, Start, Station, VIEWER, alert, program, start, until};

/// The original's tables as its migrations leave them, up to the tenth and to the last one.
const FIRST: &str = "
    CREATE TABLE migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, version TEXT UNIQUE NOT NULL,
        applied_at DATETIME DEFAULT CURRENT_TIMESTAMP);
    CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT UNIQUE NOT NULL,
        password_hash TEXT NOT NULL, created_at DATETIME DEFAULT CURRENT_TIMESTAMP);
    CREATE TABLE webhooks (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id INTEGER NOT NULL, url TEXT NOT NULL,
        secret_hash TEXT NOT NULL, is_active BOOLEAN DEFAULT 1 NOT NULL, failure_count INTEGER DEFAULT 0 NOT NULL,
        last_success_at DATETIME, last_error_at DATETIME, created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        updated_at DATETIME DEFAULT CURRENT_TIMESTAMP, FOREIGN KEY(user_id) REFERENCES users(id) ON DELETE CASCADE,
        UNIQUE(user_id, url));
    CREATE TABLE machines (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id INTEGER NOT NULL, name TEXT NOT NULL,
        hostname TEXT, api_key TEXT UNIQUE NOT NULL, status TEXT DEFAULT 'offline', last_seen TIMESTAMP,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE);
    INSERT INTO users (email, password_hash) VALUES ('a@example.com', 'x'), ('b@example.com', 'x');
    INSERT INTO migrations (version) VALUES ('001_create_users_table'), ('006_webhooks'), ('010_machines');";
const LAST: &str = "
    ALTER TABLE users ADD COLUMN is_admin BOOLEAN DEFAULT 0 NOT NULL;
    CREATE TABLE alert_rules (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, metric TEXT NOT NULL,
        threshold_pct REAL NOT NULL, comparison TEXT NOT NULL, trigger_after INTEGER NOT NULL,
        created_at DATETIME DEFAULT CURRENT_TIMESTAMP, updated_at DATETIME DEFAULT CURRENT_TIMESTAMP);
    ALTER TABLE webhooks ADD COLUMN cooldown_until DATETIME;
    ALTER TABLE webhooks ADD COLUMN last_attempt_at DATETIME;
    CREATE TABLE telegram_recipients (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id INTEGER NOT NULL,
        chat_id TEXT NOT NULL, is_active BOOLEAN DEFAULT 1, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        last_attempt_at TIMESTAMP, last_success_at TIMESTAMP, last_error_at TIMESTAMP, failure_count INTEGER DEFAULT 0,
        cooldown_until TIMESTAMP, FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE,
        UNIQUE(user_id, chat_id));
    ALTER TABLE machines ADD COLUMN platform TEXT;
    ALTER TABLE machines ADD COLUMN platform_version TEXT;
    ALTER TABLE machines ADD COLUMN kernel_version TEXT;
    ALTER TABLE machines ADD COLUMN cpu_cores INTEGER;
    ALTER TABLE machines ADD COLUMN memory_total_mb INTEGER;
    ALTER TABLE machines ADD COLUMN disk_total_gb INTEGER;
    ALTER TABLE machines ADD COLUMN last_boot_time TIMESTAMP;
    ALTER TABLE machines ADD COLUMN description TEXT;
    CREATE TABLE machine_offline_notifications (machine_id INTEGER PRIMARY KEY, notified_at TIMESTAMP NOT NULL,
        FOREIGN KEY (machine_id) REFERENCES machines(id) ON DELETE CASCADE);
    ALTER TABLE machines ADD COLUMN is_enabled BOOLEAN DEFAULT 1 NOT NULL;
    CREATE TABLE machine_api_keys (id INTEGER PRIMARY KEY AUTOINCREMENT, machine_id INTEGER NOT NULL,
        api_key_hash TEXT NOT NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, revoked_at TIMESTAMP,
        FOREIGN KEY (machine_id) REFERENCES machines(id) ON DELETE CASCADE);
    INSERT INTO migrations (version) VALUES ('015_machine_credential_management');";

const SECRET: &str = "0123456789abcdef";
/// As Go prints a time.
const SEEN: &str = "2025-10-11 14:00:00.123456789 +0200 CEST m=+7.654321";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What the original keeps of keys and secrets.
fn hashed(text: &str) -> String {
    hex(digest(&SHA256, text.as_bytes()).as_ref())
}

/// The original's database, which is to be filled.
struct Original(PathBuf, Connection);

impl Original {
    fn beside(starting: &Start, schema: &[&str]) -> Self {
        let path = starting.database().with_file_name("lunasentri of #1%.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(&schema.concat()).unwrap();
        Self(path, connection)
    }

    fn machine(&self, id: i64, name: &str, keys: &[(&str, bool)], status: &str, seen: Option<&str>) {
        let sql =
            "INSERT INTO machines (id, user_id, name, hostname, description, api_key, status, last_seen)
                   VALUES (?1, 1, ?2, 'vm', 'of ' || ?2, ?3, ?4, ?5)";
        // The first key stays in its column, also when it is none any more.
        let first = hashed(keys.first().unwrap().0);
        self.1.execute(sql, rusqlite::params![id, name, first, status, seen]).unwrap();
        for (key, is_revoked) in keys {
            let sql = "INSERT INTO machine_api_keys (machine_id, api_key_hash, revoked_at)
                       VALUES (?1, ?2, iif(?3, CURRENT_TIMESTAMP, NULL))";
            self.1.execute(sql, rusqlite::params![id, hashed(key), is_revoked]).unwrap();
        }
    }

    fn webhook(&self, user: i64, url: &str, secret: &str, is_active: bool) {
        let sql = "INSERT INTO webhooks (user_id, url, secret_hash, is_active) VALUES (?1, ?2, ?3, ?4)";
        self.1.execute(sql, rusqlite::params![user, url, hashed(secret), is_active]).unwrap();
    }

    fn run(&self, sql: &str) {
        self.1.execute_batch(sql).unwrap();
    }

    /// Imports it: the code and what is said.
    fn import(&self, starting: &Start) -> (i32, String) {
        starting.output(&["import", self.0.to_str().unwrap()])
    }
}

/// All rows of the station's file.
fn rows(database: &Path) -> Vec<String> {
    let connection = Connection::open(database).unwrap();
    let mut all = Vec::new();
    for table in ["machine", "channel"] {
        let mut statement = connection.prepare(&format!("SELECT * FROM {table} ORDER BY id")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            all.push(format!("{:?}", (0..columns).map(|at| row.get_ref(at).unwrap()).collect::<Vec<_>>()));
        }
    }
    all
}

fn report(station: &Station, key: &str) -> u16 {
    let metrics = r#"{"cpu_pct":1,"mem_used_pct":2,"disk_used_pct":3}"#;
    station.ask("POST", "/agent/metrics", key, metrics).0
}

fn is_signed_by_the_original(delivery: &Delivery) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, digest(&SHA256, SECRET.as_bytes()).as_ref());
    let signature = hex(hmac::sign(&key, delivery.text.as_bytes()).as_ref());
    delivery.headers.get("x-lunasentri-signature") == Some(&format!("sha256={signature}"))
}

fn other_signatures(delivery: &Delivery) -> usize {
    delivery.headers.keys().filter(|name| name.contains("signature")).count() - 1
}

#[test]
fn agents_and_receivers_go_on_as_before() {
    let (starting, receiver) = (start().with("MACHINE_OFFLINE_THRESHOLD", "1s"), Receiver::new());
    let original = Original::beside(&starting, &[FIRST, LAST]);
    original.machine(3, "first", &[("key of first", false)], "online", Some(SEEN));
    original.machine(5, "rotated", &[("old key", true), ("new key", false)], "offline", Some(SEEN));
    original.machine(6, "never seen", &[("key of never seen", false)], "offline", None);
    original.run(
        "UPDATE machines SET platform = 'linux', cpu_cores = 4, last_boot_time = last_seen WHERE id = 3",
    );
    original.webhook(1, &receiver.url(), SECRET, true);
    original.webhook(1, "https://off.example/hook", SECRET, false);
    original.run("INSERT INTO telegram_recipients (user_id, chat_id) VALUES (1, '-1001234')");
    let before = fs::read(&original.0).unwrap();
    // As docs/station.md has it.
    let page = block("docs/station.md", "$ STATION_DB=pap-station.db pap-station import");
    let (command, summary) = page.strip_prefix("$ ").unwrap().split_once('\n').unwrap();
    let names = [
        ("STATION_DB=pap-station.db pap-station", format!("STATION_DB=\"$STATION_DB\" {}", program())),
        ("/data/lunasentri.db", format!("'{}'", original.0.display())),
    ];
    let command = with(command, &names.each_ref().map(|(from, to)| (*from, to.as_str())));
    let output = shell(&command, Path::new("/"))
        .env("STATION_DB", starting.database())
        .env("ALLOW_PRIVATE_TARGETS", "true")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), summary);
    assert_eq!(fs::read(&original.0).unwrap(), before, "it is only read");

    let station = starting.run();
    let machines = station.seen("/machines");
    let machine = |id: i64| machines.as_array().unwrap().iter().find(|it| it["id"] == id).unwrap().clone();
    assert_eq!((machine(3)["name"].as_str(), machine(3)["status"].as_str()), (Some("first"), Some("online")));
    assert_eq!((&machine(3)["description"], &machine(3)["hostname"]), (&json!("of first"), &json!("vm")));
    assert_eq!((&machine(3)["platform"], &machine(3)["cpu_cores"]), (&json!("linux"), &json!(4)));
    for time in ["last_seen", "last_boot_time"] {
        assert_eq!(machine(3)[time], "2025-10-11T12:00:00.123Z");
    }
    assert_eq!(
        (machine(5)["status"].as_str(), machine(6)["status"].as_str()),
        (Some("offline"), Some("unknown"))
    );
    let channels = station.get("/notifications/webhooks", VIEWER).1;
    assert_eq!(
        (&channels[0]["secret_last_four"], &channels[1]["is_active"]),
        (&json!("****"), &json!(false))
    );
    assert_eq!(station.seen("/notifications/telegram")[0]["chat_id"], "-1001234");

    // Nobody was told here that these two were offline, so nobody is told that they are back.
    assert_eq!((report(&station, "new key"), report(&station, "key of never seen")), (202, 202));
    assert_eq!(report(&station, "old key"), 401, "it was revoked");
    // All three have their time after the start, and then each is told once.
    let all = receiver.await_count(3);
    let mut told: Vec<_> = all.iter().map(|it| (it.event(), it.body["machine"]["id"].as_i64())).collect();
    told.sort_unstable();
    assert_eq!(told, [3, 5, 6].map(|id| ("machine.offline", Some(id))));
    assert_eq!(report(&station, "key of first"), 202);
    let back = &receiver.await_count(4)[3];
    assert_eq!((back.event(), &back.body["machine"]["name"]), ("machine.online", &json!("first")));
    for delivery in receiver.all() {
        assert!(is_signed_by_the_original(&delivery), "{delivery:?}");
        assert_eq!(other_signatures(&delivery), 0, "{delivery:?}");
    }
}

#[test]
fn a_new_secret_signs_in_all_ways_and_something_always_signs() {
    let (starting, receiver) = (start(), Receiver::new());
    let original = Original::beside(&starting, &[FIRST, LAST]);
    original.webhook(1, &receiver.url(), "a secret that nobody knows here", true);
    assert_eq!(original.import(&starting), (0, "1 webhook is taken over\n".into()));
    let database = starting.database();
    let station = starting.run();
    let put = |body: Value| station.ask("PUT", "/notifications/webhooks/1", ADMIN, &body.to_string());
    let (status, body) = put(json!({ "lunasentri_signature": false }));
    assert!(status == 400 && body["error"].as_str().unwrap().starts_with("secret is required"), "{body}");
    let (status, body) = put(json!({ "secret": SECRET }));
    assert_eq!((status, &body["secret_last_four"]), (200, &json!("cdef")));
    station.alert("c", &alert("AGENT_DEATH", "a", 1));
    let delivery = receiver.await_count(1)[0].clone();
    assert!(is_signed_by_the_original(&delivery) && other_signatures(&delivery) == 2, "{delivery:?}");
    let kept = "SELECT count(*) FROM channel WHERE original_key IS NULL AND secret IS NOT NULL";
    let kept: i64 = Connection::open(database).unwrap().query_row(kept, [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 1, "the former key is forgotten");
    assert_eq!(put(json!({ "lunasentri_signature": false })).0, 200);
}

#[test]
fn a_second_import_changes_nothing_and_what_is_new_is_added() {
    let starting = start();
    let original = Original::beside(&starting, &[FIRST, LAST]);
    original.machine(1, "one", &[("key one", false)], "online", Some(SEEN));
    original.webhook(1, "https://hooks.example/a", SECRET, true);
    assert_eq!(original.import(&starting), (0, "1 machine and 1 webhook are taken over\n".into()));
    let before = rows(&starting.database());
    let again = "nothing is taken over; 1 machine and 1 webhook were there already\n";
    assert_eq!(original.import(&starting), (0, again.into()));
    assert_eq!(rows(&starting.database()), before);

    // The original went on for a while: a new key, and another machine.
    original.run("UPDATE machine_api_keys SET revoked_at = CURRENT_TIMESTAMP");
    original.run(&format!(
        "INSERT INTO machine_api_keys (machine_id, api_key_hash) VALUES (1, '{}')",
        hashed("a newer key")
    ));
    original.machine(2, "two", &[("key two", false)], "online", Some(SEEN));
    let (code, text) = original.import(&starting);
    assert_eq!(code, 0);
    assert!(
        text.contains("machine 1 (one) is there already, and its newest key of LunaSentri is left"),
        "{text}"
    );
    assert!(
        text.ends_with("1 machine is taken over; 1 machine and 1 webhook were there already\n"),
        "{text}"
    );
    assert_eq!(rows(&starting.database())[0], before[0]);
}

#[test]
fn what_has_no_place_is_said_and_left() {
    let starting = start().with("ALLOW_PRIVATE_TARGETS", "false");
    let mut station = start().in_file(&starting.database()).run();
    let (_, made) = station.ask("POST", "/agent/register", ADMIN, r#"{"name":"here before"}"#);
    assert_eq!(made["id"], 1);
    for number in 0..60 {
        let body = json!({ "url": format!("https://h.example/{number}"), "secret": SECRET }).to_string();
        assert_eq!(station.ask("POST", "/notifications/webhooks", ADMIN, &body).0, 201);
    }
    let original = Original::beside(&starting, &[FIRST, LAST]);
    let (code, text) = original.import(&starting);
    assert!(code == 78 && text.contains("another pap-station uses it"), "{code} {text}");
    station.stop();

    let long = "n".repeat(300);
    original.machine(1, "same id", &[("k1", false)], "online", Some(SEEN));
    original.machine(2, &long, &[("k2 old", false), ("k2 new", false)], "online", Some(SEEN));
    original.machine(4, "no key", &[("k4", true)], "online", Some(SEEN));
    original.machine(7, "off", &[("k7", false)], "online", Some(SEEN));
    original.run("UPDATE machines SET is_enabled = 0, user_id = 2 WHERE id = 7");
    original.webhook(1, "https://twice.example/hook", SECRET, false);
    original.webhook(2, "https://twice.example:443/hook", "another secret of it", true);
    original.webhook(1, "http://plain.example/hook", SECRET, true);
    original.webhook(1, "https://10.1.2.3/hook", SECRET, true);
    original.webhook(1, "https://user:pass@h.example/secret", SECRET, true);
    original.webhook(1, "https://bad-hash.example/hook", SECRET, true);
    original.run("UPDATE webhooks SET secret_hash = 'none' WHERE id = 6");
    original.run(
        "INSERT INTO telegram_recipients (user_id, chat_id, is_active)
             VALUES (1, '7', NULL), (2, '7', 1), (1, 'x', 1), (1, '8', 0), (2, '9', 1), (2, '10', 1), (1, '11', 1);
         INSERT INTO alert_rules (name, metric, threshold_pct, comparison, trigger_after)
             VALUES ('cpu', 'cpu_pct', 80, 'above', 3)",
    );
    let (code, text) = original.import(&starting);
    assert_eq!(code, 0, "{text}");
    for line in [
        "machine 1 (same id) has the id 8 here: another machine has or had its id",
        "1 older key of machine 2",
        "machine 4 (no key) is left: LunaSentri takes no key of it; register it anew",
        "webhook 1 (https://twice.example/\u{2026}) is left: another user's webhook 2 (https://twice.example/\u{2026})",
        "webhook 3 (http://plain.example/\u{2026}) is left: url must use HTTPS",
        "webhook 4 (https://10.1.2.3/\u{2026}) is left: it leads to a private address",
        "webhook 5 is left: invalid url format",
        "webhook 6 (https://bad-hash.example/\u{2026}) is left: LunaSentri has no hash of its secret",
        "Telegram chat 7 is left: another user's Telegram chat 7 leads to the same place",
        "Telegram chat x is left: its id is no number",
        "Telegram chat 8 is left: there are 64 channels already",
        "left: 1 alert rule of LunaSentri",
        "LunaSentri told each of its users",
        "3 machines, 1 webhook and 3 Telegram chats are taken over",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
    assert!(!text.contains("/hook") && !text.contains("pass"), "{text}");

    let station = start().in_file(&starting.database()).run();
    let machines = station.seen("/machines");
    let machine = |id: i64| machines.as_array().unwrap().iter().find(|it| it["id"] == id).unwrap().clone();
    assert_eq!(machine(2)["name"].as_str().unwrap().len(), 255);
    assert_eq!((&machine(7)["is_enabled"], &machine(7)["status"]), (&json!(false), &json!("unknown")));
    let keys = ["k1", "k2 new", "k2 old", "k7"];
    assert_eq!(keys.map(|key| report(&station, key)), [202, 202, 401, 401]);
}

#[test]
fn an_older_original_is_taken_as_it_was() {
    let starting = start();
    let original = Original::beside(&starting, &[FIRST]);
    original.run(&format!(
        "INSERT INTO machines (user_id, name, api_key, last_seen) VALUES (1, 'old', '{}', '2025-10-11 12:00:00')",
        hashed("an old key")
    ));
    original.webhook(1, "https://hooks.example/a", SECRET, true);
    assert_eq!(original.import(&starting), (0, "1 machine and 1 webhook are taken over\n".into()));
    // Before there were machines and webhooks.
    let elsewhere = start();
    let older = Original::beside(&elsewhere, &[FIRST]);
    older.run("DROP TABLE machines; DROP TABLE webhooks");
    assert_eq!(older.import(&starting), (0, "nothing is taken over\n".into()));
    let station = starting.run();
    assert_eq!(station.seen("/machines")[0]["last_seen"], "2025-10-11T12:00:00.000Z");
    assert_eq!(report(&station, "an old key"), 202);
}

#[test]
fn a_file_that_was_not_closed_is_read_with_what_stands_beside_it() {
    // In the first case the machine is only in the file beside. In the second one the file holds
    // half of what was never committed, and the file beside says what was there before.
    for mode in ["WAL", "DELETE"] {
        let starting = start();
        let original = Original::beside(&starting, &[FIRST, LAST]);
        original.run(&format!("PRAGMA journal_mode = {mode}; PRAGMA wal_autocheckpoint = 0"));
        original.machine(1, "one", &[("a key", false)], "online", Some(SEEN));
        if mode == "DELETE" {
            original.run(
                "PRAGMA cache_size = 1; BEGIN;
                 WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                 INSERT INTO machines (user_id, name, api_key) SELECT 1, 'not committed', i FROM n",
            );
        }
        // As a crash leaves it; another process with the same files would find them locked.
        let crashed = starting.database().with_file_name("crashed");
        fs::create_dir(&crashed).unwrap();
        for end in ["", "-wal", "-journal"] {
            let mut from = original.0.clone().into_os_string();
            from.push(end);
            if fs::copy(&from, crashed.join(format!("db{end}"))).is_ok() {
                let read_only = fs::Permissions::from_mode(0o400);
                fs::set_permissions(crashed.join(format!("db{end}")), read_only).unwrap();
            }
        }
        fs::set_permissions(&crashed, fs::Permissions::from_mode(0o500)).unwrap();
        let names = || {
            let mut all: Vec<_> = fs::read_dir(&crashed).unwrap().map(|it| it.unwrap().file_name()).collect();
            all.sort();
            all
        };
        let before = names();
        assert_eq!(before.len(), 2, "{before:?}");
        let (code, text) = starting.output(&["import", crashed.join("db").to_str().unwrap()]);
        assert_eq!((code, text.as_str()), (0, "1 machine is taken over\n"), "{mode}");
        assert_eq!(names(), before);
        let left = fs::read_dir(starting.database().parent().unwrap()).unwrap();
        let left: Vec<_> = left.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        assert!(!left.iter().any(|name| name.contains("-import-")), "{left:?}");
        fs::set_permissions(&crashed, fs::Permissions::from_mode(0o700)).unwrap();
    }
    // Closed in WAL mode: nothing stands beside it, and nothing may be made there.
    let starting = start();
    let original = Original::beside(&starting, &[FIRST, LAST]);
    original.run("PRAGMA journal_mode = WAL");
    original.machine(1, "one", &[("a key", false)], "online", Some(SEEN));
    let Original(path, connection) = original;
    connection.close().unwrap();
    let (code, text) = starting.output(&["import", path.to_str().unwrap()]);
    assert_eq!((code, text.as_str()), (0, "1 machine is taken over\n"));
    assert!(!path.with_extension("db-shm").exists() && !path.with_extension("db-wal").exists());
}

#[test]
fn files_that_are_not_the_originals_change_nothing() {
    let starting = start();
    let directory = starting.database().parent().unwrap().to_owned();
    let original = Original::beside(&starting, &[FIRST, LAST]);
    let keys: Vec<_> = (0..200).map(|number| format!("key {number}")).collect();
    for (number, key) in (1..).zip(&keys) {
        original.machine(number, "of many", &[(key, false)], "online", Some(SEEN));
    }
    let whole = fs::read(&original.0).unwrap();
    let file = |name: &str, content: &[u8]| {
        fs::write(directory.join(name), content).unwrap();
        directory.join(name)
    };
    let foreign = directory.join("foreign");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE machines (id)").unwrap();
    // The root page of a table is nonsense, and so is the end of the file.
    let mut damaged = whole.clone();
    let page = 4096;
    damaged[page * 3..].fill(0x5a);
    let cases = [
        (directory.join("missing"), 74, "No such file"),
        (directory.clone(), 78, "no database of LunaSentri"),
        (file("text", "no database ".repeat(1000).as_bytes()), 78, "no database of LunaSentri"),
        (file("empty", b""), 78, "no database of LunaSentri"),
        (foreign, 78, "no database of LunaSentri"),
        (file("damaged", &damaged), 74, "malformed"),
    ];
    for is_there in [false, true] {
        if is_there {
            assert_eq!(original.import(&starting).0, 0);
        }
        let before = fs::read(starting.database()).ok();
        assert_eq!(before.is_some(), is_there);
        for (path, wanted, why) in &cases {
            let (code, text) = starting.output(&["import", path.to_str().unwrap()]);
            assert!(code == *wanted && text.contains(why), "{}: {code} {text}", path.display());
            assert_eq!(fs::read(starting.database()).ok(), before, "{}", path.display());
        }
    }
    // The two files in each other's places.
    let (code, text) = starting.output(&["import", starting.database().to_str().unwrap()]);
    assert!(code == 78 && text.contains("no database of LunaSentri"), "{text}");
    let before = fs::read(&original.0).unwrap();
    let (code, text) = original.import(&start().in_file(&original.0));
    assert!(code == 78 && text.contains("another program"), "{text}");
    assert_eq!(fs::read(&original.0).unwrap(), before);
    let (code, text) = starting.output(&["import"]);
    assert!(code == 78 && text.contains("import FILE"), "{text}");
    until("a station starts with what was imported", || start().in_file(&starting.database()).run().port > 0);
}
