//! The two programs of this package.

use argh::ArgsInfo as _;
use pap_collector::{config, emitter};

use crate::program::{Program, common};

pub const COLLECTOR: &str = "pap-collector";
pub const HEARTBEAT: &str = "pap-heartbeat";

/// How docs/configuration.md begins.
pub const START: &str = "\
# Configuration

<!-- Made from src/config/settings.rs and src/emitter/settings.rs:
     PAP_WRITE_DOCS=1 cargo test -p pap-collector --test settings -->

Each setting is an environment variable and a flag: `CLUSTER_ID=dev`, `--cluster-id dev` and `--cluster-id=dev` mean the same. A flag
wins over the environment. An empty value counts as not set.

- **A key** also comes from a file, which `..._FILE` names: other users of the machine can see flags, and often variables, but not the file.
- **A wrong value** stops the start with exit code 78, before anything runs. One line on standard error names the variable, the value and
  what is allowed. So do an unknown flag and a flag without a value.
- **What is in effect** is printed by `--check-config`, keys hidden; it ends with 0 when the configuration is good.
";

/// Both programs.
pub fn programs() -> [Program; 2] {
    [collector(), heartbeat()]
}

fn collector() -> Program {
    Program {
        name: COLLECTOR,
        package: COLLECTOR,
        path: env!("CARGO_BIN_EXE_pap-collector"),
        summary: "takes the heartbeats of PAP agents and reports agents that fell silent",
        description: &[
            "pap-collector takes heartbeats over HTTP, keeps in memory which agents are alive, and notices silence, restarts and emergencies by itself. It tells the central station only when something is wrong.",
            "It needs no configuration file. Each setting is a flag or an environment variable.",
            "With check, agents or top it asks a running collector: at ADMIN_SOCKET if that is set and there, else at COLLECTOR_PORT on this host, or at --url. agents and top send COLLECTOR_API_KEY if it is set.",
            "check prints a line that says whether the collector is ready, or with --live whether it runs, and exits with 0 or 1. agents prints a table of the agents, or JSON. top shows counts, the silent agents first, and what happens; where there is no terminal it prints one view as plain text.",
            "replay reads the record of heartbeats that HEARTBEAT_TRACE made, its rotated files first, and says which deaths there were, which of them were false, how far heartbeats came from the moment at which they were expected, and with --heartbeat-grace-ms what would have happened under that grace.",
        ],
        synopsis: &[
            "[SETTINGS]",
            "[SETTINGS] --check-config",
            "[SETTINGS] check [--live] [--url URL]",
            "[SETTINGS] agents [--status VERDICT] [--json] [--url URL]",
            "[SETTINGS] top [--url URL]",
            "replay FILE [--heartbeat-grace-ms N] [--json]",
            "--help | --version",
        ],
        own: config::Switches::get_args_info(),
        table: config::settings::SETTINGS,
        tasks: &config::Task::ALL,
        tasks_with_file: &["replay"],
        runs_a_command: false,
        codes: common(
            "It was stopped by a signal; or, with check, the collector is well; or, with agents or top, it answered.",
            "With check, agents or top: the collector is not well, or nobody answers, or it asks for another key.",
        )
        .into(),
        signals: &[
            (
                "SIGTERM, SIGINT",
                "/ready turns 503, requests in hand are answered, and alerts get 5 seconds to go out. After SIGTERM it also serves heartbeats for up to SHUTDOWN_GRACE_MS. A second signal ends it at once.",
            ),
            (
                "SIGHUP",
                "In-place upgrade: the process replaces itself by the program that is now at the same path. The port stays open, and the agents, the owed alerts and the connections are kept.",
            ),
        ],
        files: &[
            (
                "/run/pap-collector/admin.sock",
                "The admin socket, with the systemd unit that comes with the program. Otherwise ADMIN_SOCKET names it; without it there is none.",
            ),
            (
                "/etc/pap-collector/environment",
                "The settings, with the systemd unit that comes with the program.",
            ),
            (
                "/var/lib/pap-collector/state",
                "The state, with that unit. Otherwise STATE_FILE names the file; without it there is none.",
            ),
        ],
        see_also: "pap-heartbeat(8), systemd.service(5)",
    }
}

fn heartbeat() -> Program {
    let mut codes = vec![("the command's".to_owned(), "The command after -- ended by itself.")];
    codes.push(("128 + N".into(), "Signal N ended the command."));
    codes.push(("126, 127".into(), "The command could not be run, or was not found."));
    codes.extend(common(
        "It was stopped by a signal; or, with --check, a heartbeat was taken within two intervals; or, with --register or --deregister, it is done.",
        "With --check or --status: no heartbeat was taken in time, or no pap-heartbeat runs for this agent. With --register or --deregister: the station did not take it.",
    ));
    Program {
        name: HEARTBEAT,
        package: COLLECTOR,
        path: env!("CARGO_BIN_EXE_pap-heartbeat"),
        summary: "sends the heartbeats of a PAP agent that cannot do so itself",
        description: &[
            "pap-heartbeat posts heartbeats to PAP_COLLECTOR_URL, and to PAP_STATION_URL when the collector takes nothing. It sends a heartbeat only while the agent lives. To know that, it needs a liveness source: --probe, --pid-file, or a command after --. Without one, a heartbeat only means that pap-heartbeat itself runs.",
            "With a command it runs the command, passes signals on and exits with the command's code, so it can be process 1 of a container.",
            "Before a planned stop it says goodbye to the collector, so no alert follows. A stop is planned if the command ended with 0, or if a signal asked for it.",
            "With --machine it sends heartbeats of this machine instead, every 10 seconds, to the pap-station at STATION_URL, as PAP_MACHINE_ID and with PAP_MACHINE_KEY. It needs no agent and no collector then.",
            "With --register or --deregister it tells the pap-station at STATION_URL once that the cluster CLUSTER_ID is there or gone, with STATION_ALERT_KEY. It prints one line and ends. It tries again for STATION_TIMEOUT_MS while nobody answers or the station cannot take it; a refusal ends it at once. A cluster that the station does not know counts as deregistered.",
        ],
        synopsis: &[
            "[SETTINGS] [-- COMMAND [ARGUMENT ...]]",
            "[SETTINGS] --check-config",
            "[SETTINGS] --check | --status",
            "[SETTINGS] --machine [--check-config]",
            "[SETTINGS] --register | --deregister [--check-config]",
            "--help | --version",
        ],
        own: emitter::switches::Switches::get_args_info(),
        table: emitter::settings::SETTINGS,
        tasks: &[],
        tasks_with_file: &[],
        runs_a_command: true,
        codes,
        signals: &[
            (
                "SIGTERM, SIGINT, SIGQUIT, SIGHUP",
                "They are passed on to the command. Without a command, SIGTERM, SIGINT and SIGQUIT make pap-heartbeat say goodbye and end.",
            ),
            (
                "SIGUSR1, SIGUSR2, SIGWINCH",
                "The mode becomes EMERGENCY, IDLE or SLEEP. These three are not passed on to the command.",
            ),
        ],
        files: &[
            (
                "/run/pap-heartbeat-ID.json, /tmp/pap-heartbeat-ID.json",
                "The status, which --check and --status read, unless PAP_STATUS_FILE names another place.",
            ),
            (
                "/etc/pap-heartbeat/NAME",
                "The settings of pap-heartbeat@NAME, with the systemd unit that comes with the program.",
            ),
        ],
        see_also: "pap-collector(8), systemd.service(5)",
    }
}
