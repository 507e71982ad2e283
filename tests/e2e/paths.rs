//! Paths in settings: what may be there, and that links are followed and kept.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use pap_collector::{config, emitter};
use pap_process::settings::Kind;
use rustix::fs::{CWD, Mode, mkfifoat};
use tempfile::TempDir;

use crate::agent;
use crate::support::{Collector, command, said, uuid};

/// A directory with one of each kind of thing in it.
struct Zoo {
    directory: TempDir,
    _listener: UnixListener,
}

impl Zoo {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("directory")).unwrap();
        fs::write(at("directory/precious"), "kept").unwrap();
        fs::write(at("file"), "kept").unwrap();
        mkfifoat(CWD, at("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        symlink("round", at("round")).unwrap();
        symlink("directory", at("link-to-directory")).unwrap();
        let listener = UnixListener::bind(at("socket")).unwrap();
        Self { directory, _listener: listener }
    }

    fn at(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// Every path in it, and the number of what is there.
    fn census(&self) -> Vec<(PathBuf, u64)> {
        let list = |directory: &Path| -> Vec<(PathBuf, u64)> {
            let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
            entries.map(|entry| (entry.path(), entry.metadata().unwrap().ino())).collect()
        };
        let mut all = [list(self.directory.path()), list(&self.directory.path().join("directory"))].concat();
        all.sort();
        all
    }
}

/// Starts a program with one variable: its name and its value.
type Start = fn(&str, &str) -> Command;

/// Every variable of both programs that names a file: whether a pipe may be there, and
/// the command that starts the program with it.
fn files() -> Vec<(String, bool, Start)> {
    let collector: Start = |name, path| {
        let own = [("CLUSTER_ID", "c"), ("COLLECTOR_PORT", "0")];
        command(&[&own[..], &[(name, path)]].concat())
    };
    let agent: Start = |name, path| {
        let own = [("PAP_AGENT_ID", "a"), ("PAP_COLLECTOR_URL", "http://127.0.0.1:1")];
        agent::command(&[&own[..], &[(name, path)]].concat(), &[])
    };
    let tables = [(config::settings::SETTINGS, collector), (emitter::settings::SETTINGS, agent)];
    let mut all = Vec::new();
    for (table, command) in tables {
        for setting in table {
            match &setting.kind {
                Kind::File => all.push((setting.name.to_owned(), false, command)),
                Kind::Certificates => all.push((setting.name.to_owned(), true, command)),
                Kind::Secret | Kind::SecretText => all.push((setting.file().unwrap().0, true, command)),
                _ => {}
            }
        }
    }
    assert!(all.len() > 10, "{}", all.len());
    all
}

#[test]
fn what_is_no_file_stops_the_start_and_is_not_touched() {
    let zoo = Zoo::new();
    let before = zoo.census();
    for (name, takes_pipes, command) in files() {
        let mut wrong = vec!["directory", "link-to-directory", "socket", "round", "file/x"];
        if !takes_pipes {
            wrong.extend(["pipe", "new/"]);
        }
        for path in wrong.into_iter().map(|name| zoo.at(name)).chain(["/dev/null".into()]) {
            let output = command(&name, &path).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{name}={path}: {text}");
            assert!(text.contains(&name) && text.contains(&path), "{text}");
        }
    }
    for path in ["directory", "file", "pipe", "round"] {
        let variables = [("CLUSTER_ID", "c"), ("ADMIN_SOCKET", &zoo.at(path))];
        let output = command(&variables).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{path}");
    }
    assert_eq!(zoo.census(), before);
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[test]
fn a_key_may_come_through_a_pipe_but_is_not_waited_for_long() {
    let zoo = Zoo::new();
    let pipe = zoo.at("pipe");
    let writer = {
        let pipe = pipe.clone();
        thread::spawn(move || fs::write(pipe, "hush\n"))
    };
    let collector = Collector::start(&[("COLLECTOR_API_KEY_FILE", &pipe)]);
    writer.join().unwrap().unwrap();
    assert_eq!(collector.get("/agents").status, 401);
    assert_eq!(collector.request("GET", "/agents", &["X-Collector-Key: hush"], "").status, 200);
    let output = command(&[("CLUSTER_ID", "c"), ("COLLECTOR_API_KEY_FILE", &pipe)]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("COLLECTOR_API_KEY_FILE") && text.contains("nobody wrote"), "{text}");
}

#[test]
fn links_to_files_are_followed_and_kept() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let link = |name: &str| {
        let (link, target) = (here.path().join(name), there.path().join(name));
        symlink(&target, &link).unwrap();
        (link.to_str().unwrap().to_owned(), target)
    };
    let (state, state_target) = link("state");
    let (trace, trace_target) = link("trace");
    let (socket, socket_target) = link("socket");
    let variables = [("STATE_FILE", &*state), ("HEARTBEAT_TRACE", &trace), ("ADMIN_SOCKET", &socket)];
    let stop = |mut collector: Collector| {
        collector.signal("TERM");
        assert_eq!(collector.child.wait().unwrap().code(), Some(0));
    };
    for round in 0..2 {
        let collector = Collector::start(&variables);
        assert!(socket_target.exists());
        if round == 1 {
            collector.await_log(said::RESTORED);
            collector.signal("HUP");
            collector.await_log(said::UPGRADED);
            assert!(socket_target.exists());
        }
        let listed =
            command(&[("ADMIN_SOCKET", &socket), ("COLLECTOR_PORT", "1")]).arg("agents").output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
        collector.beat(&uuid(round), "SLEEP", 5.0);
        stop(collector);
        assert!(!socket_target.exists(), "what was made is removed");
    }
    let replayed = command(&[]).args(["replay", &trace, "--json"]).output().unwrap();
    assert!(String::from_utf8(replayed.stdout).unwrap().contains("\"heartbeats\":2"));
    assert!(fs::metadata(&trace_target).unwrap().is_file());
    // What is broken is set aside where it is.
    fs::write(&state_target, "broken").unwrap();
    let collector = Collector::start(&variables[..1]);
    collector.await_log(said::STATE_NOT_USED);
    stop(collector);
    let names =
        |directory: &TempDir| fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names(&there).any(|name| name.to_str().unwrap().starts_with("state.broken-")));
    assert!(fs::read_to_string(&state_target).unwrap().contains("pap-collector-state"));
    assert!(names(&here).all(|name| fs::symlink_metadata(here.path().join(name)).unwrap().is_symlink()));
    assert_eq!(names(&here).count(), 3);
}

#[test]
fn a_state_file_without_a_directory_is_a_warning() {
    let collector = Collector::start(&[("STATE_FILE", "/nowhere/state"), ("STATE_INTERVAL_MS", "10")]);
    collector.beat(&uuid(1), "SLEEP", 5.0);
    collector.await_log(said::STATE_CANNOT_BE_SAVED);
    assert_eq!(collector.get("/ready").status, 200);
}
