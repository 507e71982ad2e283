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
    usage = "[SETTINGS] [--check-config | --version | check [--live] | agents [--status S] [--json] | top]"
)]
pub struct Switches {
    /// ask a running collector, on its admin socket or else on its port: "check" whether
    /// it is well, "agents" for a list, "top" for a view that refreshes
    #[argh(positional)]
    pub task: Option<Task>,
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

impl Task {
    /// All of them: what is typed, and what it does.
    pub const ALL: [(&'static str, &'static str); 3] = [
        ("check", "ask a running collector whether it is well"),
        ("agents", "list the agents of a running collector"),
        ("top", "watch a running collector"),
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
