//! The admin socket, and the commands that ask a running collector.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Answer, Collector, PATIENCE, command, let_pass, said, until, uuid};

/// A folder, and the path of a socket in it.
fn place() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock").to_str().unwrap().to_owned();
    (folder, path)
}

fn connect(socket: &str) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// None where the socket does not answer.
fn ask(socket: &str, method: &str, path: &str) -> Option<Answer> {
    let mut stream = connect(socket).ok()?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    (!answer.is_empty()).then(|| Answer::parse(&answer))
}

fn get(socket: &str, path: &str) -> Answer {
    ask(socket, "GET", path).unwrap()
}

/// The exit code, standard output and standard error.
fn run(variables: &[(&str, &str)], arguments: &[&str]) -> (i32, String, String) {
    let output = command(variables).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Leaves a socket at which nobody listens. It never listened: what another thread of the test starts meanwhile
/// inherits what is open here until it is executed.
fn abandon(path: impl AsRef<Path>) {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(path).unwrap()).unwrap();
}

#[test]
fn it_answers_the_same_questions_without_a_key() {
    let (_folder, socket) = place();
    let collector = Collector::start(&[("ADMIN_SOCKET", &socket), ("COLLECTOR_API_KEY", "k")]);
    for number in 0..300 {
        collector.beat(&uuid(number), "SLEEP", 5.0);
    }
    let about = fs::symlink_metadata(&socket).unwrap();
    assert!(about.file_type().is_socket());
    assert_eq!(about.permissions().mode() & 0o777, 0o660);
    assert_eq!(collector.get("/agents").status, 401);
    let key = ["X-Collector-Key: k"];
    for path in ["/agents", &format!("/agents/{}", uuid(7)), "/"] {
        let (here, there) = (get(&socket, path), collector.request("GET", path, &key, ""));
        // The silence has grown between the two answers.
        let members = |answer: &Answer| match answer.json() {
            Value::Object(members) => members.keys().cloned().collect::<Vec<_>>(),
            _ => Vec::new(),
        };
        assert_eq!((here.status, members(&here)), (200, members(&there)), "{path}");
        assert_eq!(here.header("content-type"), there.header("content-type"));
    }
    assert_eq!(get(&socket, "/agents").json()["agents"].as_array().unwrap().len(), 300);
    assert_eq!(get(&socket, "/ready").json()["ready"], true);
    assert_eq!(get(&socket, "/health").json()["agents"]["total"], 300);
    assert!(get(&socket, "/metrics").body.contains("pap_collector_agents_total{"));
    let head = ask(&socket, "HEAD", "/ready").unwrap();
    assert!(head.status == 200 && head.body.is_empty());

    assert_eq!(get(&socket, "/agents?status=Dead").status, 400);
    assert_eq!(get(&socket, "/observe").status, 404);
    assert_eq!(ask(&socket, "POST", "/heartbeat/a").unwrap().status, 404);
    assert_eq!(ask(&socket, "PUT", "/ready").unwrap().header("allow"), Some("GET, HEAD"));
    assert_eq!(ask(&socket, "DELETE", &format!("/agents/{}", uuid(7))).unwrap().status, 200);
    assert_eq!(get(&socket, &format!("/agents/{}", uuid(7))).status, 404);
}

#[test]
fn what_a_crash_left_behind_is_replaced_and_nothing_else() {
    let (folder, socket) = place();
    let variables = [("CLUSTER_ID", "c"), ("COLLECTOR_PORT", "0"), ("ADMIN_SOCKET", socket.as_str())];
    fs::write(&socket, "mine").unwrap();
    let (code, _, trouble) = run(&variables, &[]);
    assert!(code == 78 && trouble.contains("ADMIN_SOCKET") && trouble.contains("regular file"), "{trouble}");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "mine");
    fs::remove_file(&socket).unwrap();

    abandon(&socket);
    let mut collector = Collector::start(&[("ADMIN_SOCKET", &socket)]);
    assert_eq!(get(&socket, "/ready").status, 200);
    let (code, _, trouble) = run(&variables, &[]);
    assert!(code == 78 && trouble.contains("another process listens"), "{trouble}");
    assert_eq!(get(&socket, "/ready").status, 200, "the living one goes on");
    collector.signal("TERM");
    assert_eq!(collector.wait(), Some(0));
    assert!(!Path::new(&socket).exists());

    let nowhere = folder.path().join("missing/admin.sock");
    let variables =
        [("CLUSTER_ID", "c"), ("COLLECTOR_PORT", "0"), ("ADMIN_SOCKET", nowhere.to_str().unwrap())];
    let (code, _, trouble) = run(&variables, &[]);
    assert!(code == 78 && trouble.contains("cannot listen on"), "{trouble}");
}

#[test]
fn it_goes_along_in_an_upgrade() {
    let (_folder, socket) = place();
    let collector = Collector::start(&[("ADMIN_SOCKET", &socket)]);
    collector.beat("a", "SLEEP", 5.0);
    let before = fs::symlink_metadata(&socket).unwrap().ino();
    for round in 1..=2 {
        collector.signal("HUP");
        collector.await_logs(said::UPGRADED, round);
        assert_eq!(get(&socket, "/agents/a").status, 200);
        assert_eq!(fs::symlink_metadata(&socket).unwrap().ino(), before);
    }
}

#[test]
fn without_descriptors_it_pauses_and_heartbeats_do_not() {
    let (_folder, socket) = place();
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -n 128; exec \"$0\"", &crate::support::program()]).env_clear();
    limited.envs([("CLUSTER_ID", "test-cluster"), ("COLLECTOR_PORT", "0"), ("ADMIN_SOCKET", &socket)]);
    let collector = Collector::spawn(limited.stdin(Stdio::null()).stdout(Stdio::null()));
    let crowd: Vec<_> = (0..200).map_while(|_| connect(&socket).ok()).collect();
    assert!(crowd.len() >= 128, "{}", crowd.len());
    // The library's thread has used up the descriptors and has ended.
    until("no connection is accepted", || {
        let mut probe = connect(&socket).unwrap();
        probe.write_all(b"GET /ready HTTP/1.1\r\nHost: c\r\n\r\n").unwrap();
        probe.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        probe.read(&mut [0]).is_err()
    });
    drop(crowd);
    assert_eq!(collector.beat("a", "SLEEP", 5.0).status, 200);
    let answers = || ask(&socket, "GET", "/ready").is_some_and(|answer| answer.status == 200);
    collector.poll("it answers again", answers);
    assert_eq!(collector.beat("a", "SLEEP", 6.0).json()["is_new"], false);
}

#[test]
fn agents_and_check_ask_at_the_socket_the_port_or_a_url() {
    let (folder, socket) = place();
    let collector = Collector::start(&[("ADMIN_SOCKET", &socket), ("COLLECTOR_API_KEY", "k")]);
    for number in 0..1200 {
        collector.beat(&uuid(number), "SLEEP", 90_061.5);
    }
    let body = "{\"mode\":\"EMERGENCY\",\"uptime_seconds\":1,\"agent_name\":\"\u{9b}2J\\u001b[2J\u{202e}\"}";
    collector.request("POST", "/heartbeat/pluggedin%2Fx@1", &[], body);
    let (port, url) = (collector.port.to_string(), format!("http://127.0.0.1:{}/", collector.port));
    let by_socket = [("ADMIN_SOCKET", socket.as_str())];
    let by_port = [("COLLECTOR_PORT", port.as_str()), ("COLLECTOR_API_KEY", "k")];

    let (code, text, trouble) = run(&by_socket, &["agents"]);
    assert_eq!((code, trouble.as_str()), (0, ""), "{text}");
    assert!(text.starts_with("STATUS ") && text.lines().count() == 1202, "{text}");
    assert!(text.contains("1d01h") && !text.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{text}");
    for (variables, arguments) in [
        (&by_port, &["agents"][..]),
        (&[by_port[1], ("ADMIN_SOCKET", "/nowhere/admin.sock")], &["agents", "--url", &url]),
    ] {
        let (code, same, trouble) = run(variables, arguments);
        assert_eq!((code, same.lines().count()), (0, 1202), "{trouble}");
    }
    let (code, text, _) = run(&by_socket, &["agents", "--json", "--status=healthy"]);
    assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "what a terminal would obey is escaped");
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, list["agents"].as_array().unwrap().len()), (0, 1201));
    assert_eq!((&list["stats"]["total"], &list["cluster_id"]), (&1201.into(), &"test-cluster".into()));
    assert_eq!(run(&by_socket, &["agents", "--status", "dead"]).1.lines().count(), 1);

    let (code, text, trouble) = run(&by_port[..1], &["agents"]);
    assert!(code == 1 && text.is_empty() && trouble.contains("COLLECTOR_API_KEY"), "{trouble}");
    assert_eq!(run(&by_socket, &["check"]), (0, format!("ready: {socket} answers\n"), String::new()));
    assert_eq!(run(&[], &["check", "--url", &url]).0, 0);
    // A socket that nobody serves is passed by.
    let stale = folder.path().join("stale.sock");
    abandon(&stale);
    let both = [("ADMIN_SOCKET", stale.to_str().unwrap()), ("COLLECTOR_PORT", port.as_str())];
    assert_eq!(run(&both, &["check"]).1, format!("ready: 127.0.0.1:{port} answers\n"));
    for wrong in [
        &["--json"] as &[&str],
        &["check", "--status", "dead"],
        &["agents", "--status", "ill"],
        &["--url", "x"],
    ] {
        let (code, _, trouble) = run(&[("CLUSTER_ID", "c")], wrong);
        assert!(code == 78 && trouble.lines().count() <= 2, "{wrong:?}: {trouble}");
    }
}

#[test]
fn top_shows_the_silent_first_and_what_happens() {
    let (_folder, socket) = place();
    let collector = Collector::start(&[("ADMIN_SOCKET", &socket)]);
    let text = || run(&[("ADMIN_SOCKET", &socket)], &["top"]).1;
    assert!(text().contains("cluster test-cluster"), "plain text where there is no terminal");
    collector.beat("a-sleeper", "SLEEP", 5.0);
    collector.beat("the-silent", "EMERGENCY", 5.0);
    // script(1) gives it a terminal.
    let program = format!("exec {} top", crate::support::program());
    let mut script = Command::new("script");
    script.args(["-qfec", &program, "/dev/null"]).env_clear().env("ADMIN_SOCKET", &socket);
    script.env("PATH", std::env::var("PATH").unwrap()).env("SHELL", "/bin/sh");
    let mut top = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = top.stdout.take().unwrap();
    let mut seen = String::new();
    // What was seen up to this text is forgotten.
    let mut read_until = |what: &str| {
        let mut piece = [0; 4096];
        while !seen.contains(what) {
            let length = out.read(&mut piece).unwrap();
            assert!(length > 0, "no {what} in {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
        let end = seen.find(what).unwrap() + what.len();
        seen.drain(..end).collect::<String>()
    };
    assert!(read_until("2 agents, 0 dead").starts_with("\u{1b}[?1049h"));
    read_until("the-silent is suspect");
    let screen = read_until("the-silent is dead");
    let last = screen.rsplit("\u{1b}[H").next().unwrap();
    assert!(last.find("the-silent").unwrap() < last.find("a-sleeper").unwrap(), "{last}");
    collector.beat("the-silent", "SLEEP", 25.0);
    read_until("the-silent is back");
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", top.id())).unwrap();
    let pid = Pid::from_raw(children.trim().parse().unwrap());
    // Ctrl-Z gives the terminal back, and fg takes it again. script(1) stands still with
    // the program and must be told to go on.
    let (script, is_over) =
        (Pid::from_raw(i32::try_from(top.id()).unwrap()), Arc::new(AtomicBool::new(false)));
    let going_on = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                kill(script, Signal::SIGCONT).unwrap();
                let_pass(Duration::from_millis(20));
            }
        })
    };
    kill(pid, Signal::SIGTSTP).unwrap();
    read_until("\u{1b}[?1049l");
    read_until("\u{1b}[?1049h");
    read_until("2 agents, 0 dead");
    is_over.store(true, Ordering::SeqCst);
    going_on.join().unwrap();
    kill(pid, Signal::SIGINT).unwrap();
    read_until("\u{1b}[?1049l");
    assert!(top.wait().unwrap().success());
}
