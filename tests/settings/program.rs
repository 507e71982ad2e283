//! What is said of each of the two programs beside its settings.

use argh::{ArgsInfo as _, CommandInfoWithArgs, FlagInfoKind};
use pap_collector::{config, emitter};
use pap_process::cli::{BAD_CONFIG, BUG, IO_ERROR, STOPPED, UNWELL};
use pap_process::settings::{Kind, Setting, Table};

pub const COLLECTOR: &str = "pap-collector";
pub const HEARTBEAT: &str = "pap-heartbeat";

pub struct Program {
    pub name: &'static str,
    /// What it is, in a line.
    pub summary: &'static str,
    /// What it does, a paragraph each.
    pub description: &'static [&'static str],
    /// How it is called, a line each.
    pub synopsis: &'static [&'static str],
    /// Its arguments beside the settings.
    pub own: CommandInfoWithArgs,
    pub table: Table,
    /// Exit codes, each with what it means.
    pub codes: Vec<(String, &'static str)>,
    pub signals: &'static [(&'static str, &'static str)],
    pub files: &'static [(&'static str, &'static str)],
    pub see_also: &'static str,
}

impl Program {
    /// The flags that take no value, each with what it does.
    pub fn switches(&self) -> Vec<(&'static str, String)> {
        let mut flags = self.own.flags.to_vec_of_switches();
        if !flags.iter().any(|(flag, _)| *flag == "--help") {
            flags.push(("--help", "print what can be given, and exit".into()));
        }
        flags
    }
}

trait Switches {
    fn to_vec_of_switches(&self) -> Vec<(&'static str, String)>;
}

impl Switches for &'static [argh::FlagInfo<'static>] {
    fn to_vec_of_switches(&self) -> Vec<(&'static str, String)> {
        let switches = self.iter().filter(|flag| matches!(flag.kind, FlagInfoKind::Switch));
        switches.map(|flag| (flag.long, one_line(flag.description))).collect()
    }
}

/// Text as one line.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What completes the value of a setting.
pub enum Values {
    Words(&'static [&'static str]),
    Files,
    Unknown,
}

pub fn values(setting: &Setting) -> Values {
    match setting.kind {
        Kind::Choice(words) => Values::Words(words),
        Kind::Path | Kind::Certificates => Values::Files,
        Kind::Text(_) | Kind::Number(_) | Kind::Address | Kind::LogFilter | Kind::Secret | Kind::Url(_) => {
            Values::Unknown
        }
    }
}

/// Both programs.
pub fn programs() -> [Program; 2] {
    let common = |stopped, unwell| {
        [
            (STOPPED, stopped),
            (UNWELL, unwell),
            (BUG, "It ended because of a bug."),
            (IO_ERROR, "It could not listen, write, or start a thread."),
            (BAD_CONFIG, "Its configuration is wrong; one line on standard error names the variable, the value, and what is allowed. Nothing was started."),
        ]
        .map(|(code, text)| (code.to_string(), text))
    };
    let collector = Program {
        name: COLLECTOR,
        summary: "takes the heartbeats of PAP agents and tells who fell silent",
        description: &[
            "pap-collector takes heartbeats over HTTP, keeps in memory which agents are alive, and notices silence, restarts and emergencies by itself. It tells the central station only when something is wrong.",
            "It needs no configuration file. Each setting is a flag or an environment variable.",
            "With check it asks the collector that runs on this host with the same COLLECTOR_PORT whether it is ready, prints a line and exits with 0 or 1; with check --live it asks only whether it runs.",
        ],
        synopsis: &[
            "[SETTINGS]",
            "[SETTINGS] --check-config",
            "[SETTINGS] check [--live]",
            "--help | --version",
        ],
        own: config::Switches::get_args_info(),
        table: config::settings::SETTINGS,
        codes: common(
            "It was stopped by a signal; or, with check, the collector is well.",
            "With check: the collector is not well, or nobody answers.",
        )
        .into(),
        signals: &[
            (
                "SIGTERM, SIGINT",
                "/ready turns 503, requests in hand are answered, and alerts get 5 seconds to go out. A second signal ends it at once.",
            ),
            (
                "SIGHUP",
                "It goes on in the program that is now at the same path, with the port open and nothing forgotten: the way to upgrade in place.",
            ),
        ],
        files: &[
            (
                "/etc/pap-collector/environment",
                "The settings, where the systemd unit that comes with it is used.",
            ),
            (
                "/var/lib/pap-collector/state",
                "The state, where that unit is used; elsewhere STATE_FILE says where, or that there is none.",
            ),
        ],
        see_also: "pap-heartbeat(8), systemd.service(5)",
    };
    let mut codes = vec![("the command's".to_owned(), "The command after -- ended by itself.")];
    codes.push(("128 + N".into(), "Signal N ended the command."));
    codes.push(("126, 127".into(), "The command could not be run, or was not found."));
    codes.extend(common(
        "It was stopped by a signal; or, with --check, a heartbeat was taken within two intervals.",
        "With --check or --status: no heartbeat was taken in time, or nothing beats.",
    ));
    let heartbeat = Program {
        name: HEARTBEAT,
        summary: "sends the heartbeats of a PAP agent that cannot do so itself",
        description: &[
            "pap-heartbeat posts heartbeats to PAP_COLLECTOR_URL, and to PAP_STATION_URL when the collector takes nothing. A heartbeat means that the agent lives: give one of --probe, --pid-file, or a command after --. Without any of them it vouches for itself alone.",
            "With a command it runs the command, passes signals on and exits with the command's code, so it can be process 1 of a container.",
            "A planned stop says goodbye, and no alert follows: the command ended with 0, or a signal asked for the stop.",
        ],
        synopsis: &[
            "[SETTINGS] [-- COMMAND [ARGUMENT ...]]",
            "[SETTINGS] --check-config",
            "[SETTINGS] --check | --status",
            "--help | --version",
        ],
        own: emitter::switches::Switches::get_args_info(),
        table: emitter::settings::SETTINGS,
        codes,
        signals: &[
            (
                "SIGTERM, SIGINT, SIGQUIT, SIGHUP",
                "Passed on to the command. Without a command, SIGTERM, SIGINT and SIGQUIT say goodbye and end it.",
            ),
            (
                "SIGUSR1, SIGUSR2, SIGWINCH",
                "The mode becomes EMERGENCY, IDLE or SLEEP. A command does not hear of these three.",
            ),
        ],
        files: &[
            (
                "/run/pap-heartbeat-ID.json, /tmp/pap-heartbeat-ID.json",
                "The status, which --check and --status read, unless PAP_STATUS_FILE names another place.",
            ),
            (
                "/etc/pap-heartbeat/NAME",
                "The settings of pap-heartbeat@NAME, where the systemd unit that comes with it is used.",
            ),
        ],
        see_also: "pap-collector(8), systemd.service(5)",
    };
    [collector, heartbeat]
}
