//! In-place upgrades between programs that know different hand-overs: from and to a
//! former program, and to scripts that stand in for other programs.
//!
//! `.ci/former` builds the former program and prints its path, which these tests
//! expect in `PAP_FORMER_PROGRAM`.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use crate::support::station::{Answer as Reply, Station};
use crate::support::{self, Answer, Collector, PATIENCE, program, said, uuid};
use tempfile::TempDir;

const BEAT: &str = r#"{"mode":"SLEEP","uptime_seconds":5}"#;

/// A path whose program the tests replace while it runs.
struct Place {
    directory: TempDir,
    path: PathBuf,
}

impl Place {
    fn new(program: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Self { path: directory.path().join("pap-collector"), directory };
        place.put_program(program);
        place
    }

    /// Puts another program there by a rename, as a package manager does. cp(1) writes
    /// the file. If this process wrote it, a child that another test has just forked
    /// would keep it open for writing, and the kernel does not run such a file.
    fn put_program(&self, program: &Path) {
        let new = self.directory.path().join("new");
        assert!(Command::new("cp").arg(program).arg(&new).status().unwrap().success());
        fs::rename(new, &self.path).unwrap();
    }

    /// Puts a script there. `$real` is the program under test.
    fn put_script(&self, lines: &str) {
        let draft = self.directory.path().join("draft");
        fs::write(&draft, format!("#!/usr/bin/env bash\nreal={}\n{lines}\n", program())).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        self.put_program(&draft);
    }

    fn start(&self, variables: &[(&str, &str)]) -> Collector {
        let mut command = Command::new(&self.path);
        command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("CLUSTER_ID", "test-cluster");
        command.env("COLLECTOR_PORT", "0").envs(variables.iter().copied());
        Collector::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()))
    }

    /// Upgrades and waits until the process runs `program` and is ready.
    fn upgrade(&self, collector: &Collector, program: &Path) {
        let former = executable(collector);
        collector.signal("HUP");
        collector.poll("it runs the other program", || {
            let now = executable(collector);
            now != former && (now == program || now == self.path)
        });
        collector
            .poll("it is ready", || try_get(collector.port, "/ready").is_some_and(|it| it.status == 200));
    }
}

/// The program that the process runs now.
fn executable(collector: &Collector) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", collector.child.id())).unwrap()
}

/// The targets of its descriptors from 3 up.
fn descriptors(collector: &Collector) -> Vec<String> {
    let folder = format!("/proc/{}/fd", collector.child.id());
    let names = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let names = names.filter(|name| name.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap() > 2);
    names.filter_map(|name| fs::read_link(name).ok()).map(|name| name.display().to_string()).collect()
}

/// The former program; None if it was not built.
fn former() -> Option<PathBuf> {
    let former = std::env::var_os("PAP_FORMER_PROGRAM").map(PathBuf::from);
    if former.is_none() {
        println!("skipped: PAP_FORMER_PROGRAM is not set; .ci/former builds that program");
    }
    former
}

/// A request that may be cut off, but must not be refused.
fn try_get(port: u16, path: &str) -> Option<Answer> {
    let connected = TcpStream::connect(("127.0.0.1", port));
    assert!(
        connected.as_ref().err().is_none_or(|error| error.kind() != ErrorKind::ConnectionRefused),
        "the port is closed"
    );
    let mut stream = connected.ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    (!answer.is_empty()).then(|| Answer::parse(&answer))
}

fn beat(agent: &str) -> String {
    format!("POST /heartbeat/{agent} HTTP/1.1\r\nHost: c\r\nContent-Length: {}\r\n\r\n{BEAT}", BEAT.len())
}

/// A connection on which one request was answered and a part of another one was
/// sent.
fn half_a_request(collector: &Collector, agent: &str) -> TcpStream {
    let mut stream = collector.connect();
    stream.write_all(beat(agent).as_bytes()).unwrap();
    assert!(answer(&mut stream).starts_with("HTTP/1.1 200"));
    stream.write_all(&beat(agent).as_bytes()[..20]).unwrap();
    stream
}

fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 1024];
    // A connection that is cut off gives no answer.
    let count = stream.read(&mut bytes).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

fn is_agent_known(collector: &Collector, agent: &str) -> bool {
    collector.get(&format!("/agents/{agent}")).status == 200
}

#[test]
fn check_config_says_which_hand_overs_the_program_takes() {
    let mut command = support::command(&[("CLUSTER_ID", "c")]);
    let output = command.arg("--check-config").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(text.lines().any(|line| line == "# hand-over versions: 1 2"), "{text}");
}

#[test]
fn from_the_former_program_everything_goes_along() {
    let Some(former) = former() else { return };
    let willing = Arc::new(AtomicBool::new(false));
    let takes = Arc::clone(&willing);
    let station = Station::start(0, move |post| {
        Reply::Status(if takes.load(Ordering::SeqCst) { post.judge("k") } else { 503 })
    })
    .unwrap();
    let place = Place::new(&former);
    let url = format!("http://127.0.0.1:{}/api/clusters/{{cluster_id}}/alerts", station.port);
    let collector = place.start(&[("STATION_ALERT_URL", &url), ("STATION_ALERT_KEY", "k")]);
    let (silent, kept) = (uuid(1), uuid(2));
    collector.beat(&silent, "EMERGENCY", 5.0);
    collector.poll("a verdict is owed", || collector.get("/health").json()["alert_queue"]["owed"] == 1);
    let mut stream = half_a_request(&collector, &kept);
    place.put_program(Path::new(&program()));
    place.upgrade(&collector, &place.path);
    stream.write_all(&beat(&kept).as_bytes()[20..]).unwrap();
    assert!(answer(&mut stream).starts_with("HTTP/1.1 200"), "the connection was kept");
    assert_eq!(collector.get(&format!("/agents/{kept}")).json()["agent"]["consecutive_heartbeats"], 2);
    assert_eq!(collector.get("/health").json()["agents"]["unhealthy"], 1);
    assert_eq!(collector.get("/health").json()["alert_queue"]["owed"], 1);
    willing.store(true, Ordering::SeqCst);
    assert!(station.wait_until(PATIENCE, |posts| {
        posts.iter().any(|post| post.text("type") == "AGENT_DEATH" && post.text("agent_uuid") == silent)
    }));
    collector.poll("nothing is owed", || collector.get("/health").json()["alert_queue"]["owed"] == 0);
    assert!(!descriptors(&collector).iter().any(|name| name.contains("memfd:")), "memory is given back");
}

#[test]
fn to_the_former_program_the_port_stays_open_and_agents_come_from_the_file() {
    let Some(former) = former() else { return };
    let place = Place::new(Path::new(&program()));
    let file = place.directory.path().join("state");
    // The only save is the one for the upgrade.
    let collector = place.start(&[("STATE_FILE", file.to_str().unwrap()), ("STATE_INTERVAL_MS", "3600000")]);
    collector.beat("a", "SLEEP", 5.0);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let asking = thread::spawn({
        let (stop, asked, port) = (Arc::clone(&stop), Arc::clone(&asked), collector.port);
        move || {
            while !stop.load(Ordering::SeqCst) {
                // A client that is cut off asks again.
                let answers = try_get(port, "/health").is_some_and(|answer| answer.status == 200);
                asked.fetch_add(u32::from(answers), Ordering::SeqCst);
            }
        }
    });
    place.put_program(&former);
    place.upgrade(&collector, &place.path);
    let before = asked.load(Ordering::SeqCst);
    collector.poll("it answers", || asked.load(Ordering::SeqCst) > before + 10);
    stop.store(true, Ordering::SeqCst);
    asking.join().expect("nobody is refused");
    assert!(is_agent_known(&collector, "a"));
    collector.await_log("does not read the hand-over of this program (version 2)");
    // The former program knows the hand-over of its kind, and ours reads it.
    place.put_program(Path::new(&program()));
    place.upgrade(&collector, &place.path);
    assert!(is_agent_known(&collector, "a"));
}

#[test]
fn a_program_without_our_hand_over_gets_the_listener_and_nothing_else() {
    let place = Place::new(Path::new(&program()));
    let collector = place.start(&[]);
    collector.beat("a", "SLEEP", 5.0);
    let mut stream = half_a_request(&collector, "b");
    let seen = place.directory.path().join("seen");
    place.put_script(&format!(
        r##"if [[ $1 == --check-config ]]; then echo "# hand-over versions: 9000"; exit; fi
        echo "$LISTEN_FDS $((LISTEN_PID == $$)) ${{PAP_COLLECTOR_HANDOVER-none}}" >{}
        exec "$real" "$@""##,
        seen.display()
    ));
    place.upgrade(&collector, Path::new(&program()));
    assert_eq!(fs::read_to_string(seen).unwrap(), "1 1 none\n");
    let why = collector.await_log("does not read the hand-over of this program (version 2)");
    assert!(why.contains("connections are closed") && why.contains("STATE_FILE"), "{why}");
    assert!(!is_agent_known(&collector, "a"));
    assert_eq!(answer(&mut stream), "", "the connection is closed, not forgotten");
}

#[test]
fn what_the_state_file_does_not_hold_is_not_given_up() {
    let place = Place::new(Path::new(&program()));
    let collector = place.start(&[("STATE_FILE", "/nowhere/state")]);
    let mut stream = half_a_request(&collector, "a");
    place.put_script(
        r#"if [[ $1 == --check-config ]]; then exit; fi
        exec "$real" "$@""#,
    );
    collector.signal("HUP");
    collector.await_log(said::UPGRADE_FAILED);
    stream.write_all(&beat("a").as_bytes()[20..]).unwrap();
    assert!(answer(&mut stream).starts_with("HTTP/1.1 200"));
    assert_eq!(collector.get("/agents/a").json()["agent"]["consecutive_heartbeats"], 2);
}

#[test]
fn from_an_unknown_hand_over_the_listener_is_taken_and_the_rest_closed() {
    for named in ["", "unset LISTEN_FDS LISTEN_PID"] {
        let place = Place::new(Path::new(&program()));
        let collector = place.start(&[]);
        let mut stream = half_a_request(&collector, "a");
        place.put_script(&format!(
            r#"if [[ $1 != --check-config ]]; then
            {named}
            export PAP_COLLECTOR_HANDOVER=9000:$$:${{PAP_COLLECTOR_HANDOVER##*:}}
            fi
            exec "$real" "$@""#
        ));
        place.upgrade(&collector, Path::new(&program()));
        collector.await_log("version 9000");
        assert!(!is_agent_known(&collector, "a"));
        assert_eq!(answer(&mut stream), "", "the connection is closed, not forgotten");
        assert!(!descriptors(&collector).iter().any(|name| name.contains("memfd:")), "memory is given back");
        // The next upgrade, to a program that knows the hand-over, keeps everything.
        collector.beat("b", "SLEEP", 5.0);
        collector.signal("HUP");
        collector.await_log(said::UPGRADED);
        assert!(is_agent_known(&collector, "b"));
    }
}

#[test]
fn after_a_failed_re_exec_no_descriptor_is_left_for_others() {
    let place = Place::new(Path::new(&program()));
    let collector = place.start(&[]);
    let mut stream = half_a_request(&collector, "a");
    place.put_script(r#"rm "$0"; exec "$real" "$@""#);
    collector.signal("HUP");
    collector.await_log(said::UPGRADE_FAILED);
    stream.write_all(&beat("a").as_bytes()[20..]).unwrap();
    assert!(answer(&mut stream).starts_with("HTTP/1.1 200"));
    let folder = format!("/proc/{}/fdinfo", collector.child.id());
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let number = entry.file_name().into_string().unwrap();
        // Another thread may have closed it meanwhile.
        let Ok(what) = fs::read_link(format!("/proc/{}/fd/{number}", collector.child.id())) else { continue };
        let Ok(about) = fs::read_to_string(entry.path()) else { continue };
        let flags = about.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let is_inherited = u32::from_str_radix(flags.trim(), 8).unwrap() & 0o2_000_000 == 0;
        let what = what.to_str().unwrap();
        let is_of_ours = ["socket:", "anon_inode:", "/memfd:"].iter().any(|kind| what.starts_with(kind));
        // The process that started the tests may have passed other files on.
        let is_standard = number.parse::<u32>().unwrap() < 3;
        assert!(is_standard || !is_of_ours || !is_inherited, "{number} would be inherited: {what}");
    }
    place.put_program(Path::new(&program()));
    place.upgrade(&collector, &place.path);
    assert_eq!(collector.get("/agents/a").json()["agent"]["consecutive_heartbeats"], 2);
}

#[test]
fn who_asks_all_the_time_for_what_a_lane_answers_loses_nothing() {
    let collector = Collector::start(&[]);
    let (port, is_over) = (collector.port, Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut asked = 0;
                while !is_over.load(Ordering::SeqCst) {
                    // The second is answered by the edge, behind the lane's answer.
                    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: c\r\n\r\n");
                    stream.write_all((get("/metrics") + &get("/ready")).as_bytes()).unwrap();
                    let mut seen = Vec::new();
                    while !String::from_utf8_lossy(&seen).contains("\"ready\":true") {
                        let mut piece = [0; 4096];
                        let read = stream.read(&mut piece).unwrap();
                        assert_ne!(
                            read,
                            0,
                            "closed after {asked} answers: {}",
                            String::from_utf8_lossy(&seen)
                        );
                        seen.extend_from_slice(&piece[..read]);
                    }
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    for round in 1..=6 {
        collector.signal("HUP");
        collector.await_logs(said::UPGRADED, round);
    }
    is_over.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.join().unwrap() > 0);
    }
}

#[test]
fn a_client_is_told_to_go_on_once_also_across_an_upgrade() {
    let collector = Collector::start(&[]);
    let mut stream = TcpStream::connect(("127.0.0.1", collector.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = BEAT.len();
    let head = format!(
        "POST /heartbeat/a HTTP/1.1\r\nHost: c\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100 "));
    collector.signal("HUP");
    collector.await_log(said::UPGRADED);
    assert_eq!(collector.get("/ready").status, 200);
    stream.write_all(BEAT.as_bytes()).unwrap();
    let answer = answer(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn two_sockets_of_systemd_are_both_served_and_go_along() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
    // As standard input and output: what this process let any child inherit, the
    // collectors of the other tests would have too.
    let [first, second] = listeners.map(OwnedFd::from);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "LISTEN_PID=$$ exec \"$0\" 3<&0 4<&1 </dev/null >/dev/null", &program()]);
    shell.env_clear().envs([("CLUSTER_ID", "test-cluster"), ("LISTEN_FDS", "2")]);
    let collector = Collector::spawn(shell.stdin(first).stdout(second));
    for round in 1..3 {
        for port in ports {
            assert_eq!(try_get(port, "/ready").unwrap().status, 200, "round {round}");
        }
        collector.signal("HUP");
        collector.await_logs(said::UPGRADED, 2 * round);
    }
}
