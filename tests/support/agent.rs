//! `pap-heartbeat`, run for a test.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{Running, said};

/// One agent: the real `pap-heartbeat`, with its own status file.
pub struct Agent {
    pub running: Running,
    files: TempDir,
}

/// The program under test: the one just built, or the one that
/// `PAP_HEARTBEAT_PROGRAM` names.
pub fn program() -> String {
    std::env::var("PAP_HEARTBEAT_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_pap-heartbeat").into())
}

/// The command that starts it with only `PATH` of our environment, and with default
/// signals.
pub fn command(variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    // The tests may run with ignored signals, as under nohup(1).
    let mut command = Command::new("env");
    command.args(["--default-signal", &program()]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).envs(variables.iter().copied());
    command.args(arguments).stdin(Stdio::null());
    command
}

impl Agent {
    /// Starts agent `id` for the collector on `port`.
    pub fn start(port: u16, id: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let url = format!("http://127.0.0.1:{port}");
        Self::spawn(id, &[&[("PAP_COLLECTOR_URL", url.as_str())], variables].concat(), arguments)
    }

    /// The same without a collector, unless the variables name one.
    pub fn spawn(id: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let status = files.path().join("status");
        let own = [("PAP_AGENT_ID", id), ("PAP_STATUS_FILE", status.to_str().unwrap())];
        let running = Running::spawn(command(&[&own, variables].concat(), arguments).stdout(Stdio::null()));
        Self { running, files }
    }

    /// What `--check` (or another flag) exits with and prints.
    pub fn ask(&self, flag: &str) -> (i32, String) {
        ask(self.files.path().join("status").to_str().unwrap(), flag)
    }

    /// The process number of the command that it runs.
    pub fn command_pid(&self) -> i32 {
        let line = self.running.await_log(said::LIVENESS);
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Kills that process.
    pub fn kill_command(&self) {
        kill_process(Pid::from_raw(self.command_pid()).unwrap(), Signal::KILL).unwrap();
    }
}

/// What `--check` (or another flag) exits with and prints for a status file.
pub fn ask(status: &str, flag: &str) -> (i32, String) {
    let output = command(&[("PAP_STATUS_FILE", status)], &[flag]).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), text)
}
