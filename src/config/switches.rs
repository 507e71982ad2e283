//! The command line of `pap-collector`, besides its settings.

use argh::{ArgsInfo, FromArgValue, FromArgs};
use pap_core::verdict::Verdict;

/// What the program does instead of running a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromArgValue)]
pub enum Task {
    /// Ask a running collector whether it is well.
    Check,
    /// List the agents that a running collector knows.
    Agents,
    /// Watch a running collector.
    Top,
}

/// Takes the heartbeats of PAP agents, finds agents that fell silent, and tells
/// the station.
#[derive(FromArgs, ArgsInfo, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[argh(
    usage = "[SETTINGS] [--check-config | --version | check [--live] | agents [--status S] [--json] | top | replay FILE [--json]]"
)]
pub struct Switches {
    /// ask a running collector, on its admin socket or else on its port: "check" whether
    /// it is well, "agents" for a list, "top" for a view that refreshes
    #[argh(positional)]
    pub task: Option<Task>,
    /// what the program does with flags of its own
    #[argh(subcommand)]
    pub subcommand: Option<Subcommand>,
    /// with "check", ask only whether the collector runs, not whether it is ready
    #[argh(switch)]
    pub live: bool,
    /// with "agents", only agents that are healthy, suspect or dead
    #[argh(option, arg_name = "verdict", from_str_fn(verdict))]
    pub status: Option<Verdict>,
    /// with "agents", print JSON
    #[argh(switch)]
    pub json: bool,
    /// with "check", "agents" and "top", ask the collector at this URL
    #[argh(option, arg_name = "url")]
    pub url: Option<String>,
    /// print the effective configuration, secrets hidden, and exit
    #[argh(switch)]
    pub check_config: bool,
    /// print the version and exit
    #[argh(switch)]
    pub version: bool,
}

/// What the program does with flags of its own.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Subcommand {
    /// Replay what a collector recorded.
    Replay(Replay),
}

/// Run a record of heartbeats (HEARTBEAT_TRACE) through the rules again, and say which
/// deaths there were and which of them were false. With --heartbeat-grace-ms it also
/// says what would have happened under that grace.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "replay")]
pub struct Replay {
    /// the file that HEARTBEAT_TRACE names; its rotated files are read first
    #[argh(positional)]
    pub file: String,
    /// print one JSON object
    #[argh(switch)]
    pub json: bool,
}

impl Task {
    /// All tasks and subcommands: what is typed, and what it does.
    pub const ALL: [(&'static str, &'static str); 4] = [
        ("check", "ask a running collector whether it is well"),
        ("agents", "list the agents of a running collector"),
        ("top", "watch a running collector"),
        ("replay", "say which deaths a record of heartbeats has, and has under another grace"),
    ];
}

impl Switches {
    /// Why these do not go together, if they do not.
    pub fn misplaced(&self) -> Option<&'static str> {
        if self.live && self.task != Some(Task::Check) {
            return Some("--live goes with check");
        }
        if (self.json || self.status.is_some()) && self.task != Some(Task::Agents) {
            return Some("--json and --status go with agents");
        }
        if self.url.is_some() && self.task.is_none() {
            return Some("--url goes with check, agents and top");
        }
        None
    }
}

fn verdict(name: &str) -> Result<Verdict, String> {
    Verdict::from_name(name).ok_or_else(|| "a verdict is healthy, suspect or dead".to_owned())
}
