//! The seven phases of docs/control-plane.md, each command as it stands there.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::{missing, program, slow, until};

/// The commands of the page, each with what it says.
fn commands(page: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut is_console = false;
    let mut heredoc = false;
    for line in page.lines() {
        match line {
            "```console" => is_console = true,
            "```" => is_console = false,
            _ if !is_console => {}
            _ if heredoc => {
                let (command, _) = commands.last_mut().unwrap();
                command.push_str(&format!("\n{line}"));
                heredoc = line != "END";
            }
            _ => match line.strip_prefix("$ ") {
                Some(command) => {
                    heredoc = command.contains("<<");
                    commands.push((command.to_owned(), String::new()));
                }
                None => commands.last_mut().unwrap().1.push_str(&format!("{line}\n")),
            },
        }
    }
    commands
}

/// A station that the page starts in the background. Containers of its clusters go with it.
struct Background(Vec<Child>);

impl Drop for Background {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
        remove_workers();
    }
}

fn remove_workers() {
    for cluster in ["af-10", "af-11"] {
        let name = format!("kg-graph-builder-{cluster}");
        let _ = Command::new("docker").args(["rm", "-f", &name]).output();
    }
}

#[test]
fn each_phase_is_as_the_page_says() {
    let answers = Command::new("docker").arg("version").output().is_ok_and(|it| it.status.success());
    if !slow("it uses the names of the page in the container engine of this machine") {
        return;
    }
    if !answers || !Path::new("/bin/busybox").exists() {
        missing("a Docker Engine that answers, and a static /bin/busybox");
        return;
    }
    let page = include_str!("../../../../docs/control-plane.md");
    let (_, phases) = page.split_once("## The seven phases").unwrap();
    let (phases, _) = phases.split_once("## Clusters").unwrap();
    remove_workers();
    let directory = TempDir::new().unwrap();
    let tools = directory.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    std::os::unix::fs::symlink(program(), tools.join("pap-station")).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let bash = |command: &str| {
        let mut bash = Command::new("bash");
        bash.arg("-c").arg(command.replace("8090", &port)).current_dir(directory.path());
        bash.env_clear().env("PATH", &path).env("HOME", directory.path()).env("STATION_PORT", &port);
        bash.stdin(Stdio::null());
        bash
    };
    let mut background = Background(Vec::new());
    let all = commands(phases);
    assert!(all.len() > 15, "the page has its phases: {}", all.len());
    for (command, said) in all {
        if let Some(command) = command.strip_suffix(" &") {
            background.0.push(bash(&format!("exec env {command}")).spawn().unwrap());
            continue;
        }
        let once = || {
            let output = bash(&command).output().unwrap();
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        };
        let is_as_said = |text: &str| match said.split_once('…') {
            Some((beginning, _)) => text.starts_with(beginning),
            None => text.trim_end() == said.trim_end(),
        };
        // What changes nothing is looked at until it is so; what changes something is done once.
        if command.contains("-X")
            || command.contains("pap-station deregister")
            || command.starts_with("docker stop")
        {
            let text = once();
            assert!(is_as_said(&text), "{command}\nsaid:\n{text}\nand not:\n{said}");
        } else {
            let mut text = String::new();
            let mut tries = 0;
            until(&format!("{command}\nsaid:\n{said}"), || {
                text = once();
                tries += 1;
                if tries % 500 == 0 {
                    eprintln!("{command}\nsays:\n{text}");
                }
                is_as_said(&text)
            });
        }
    }
}
