//! The command line of `pap-collector`, besides its settings.

use argh::{ArgsInfo, FromArgValue, FromArgs};

use crate::replay_command::ReplayCommand;

/// What the program does instead of running a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromArgValue)]
pub enum Task {
    /// Ask a running collector whether it is well.
    Check,
}

/// What the program does instead, with flags of its own.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Subcommand {
    /// Replay a record of heartbeats.
    Replay(ReplayCommand),
}

/// Takes the heartbeats of PAP agents, finds agents that fell silent, and tells
/// the station.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(usage = "[SETTINGS] [--check-config | --version | check [--live] | replay FILE [--json]]")]
pub struct Switches {
    /// with "check", ask the collector that runs on this configuration's port
    /// whether it is ready, print a line and exit with 0 or 1
    #[argh(positional)]
    pub task: Option<Task>,
    /// what else the program does
    #[argh(subcommand)]
    pub subcommand: Option<Subcommand>,
    /// with "check", ask only whether the collector runs
    #[argh(switch)]
    pub live: bool,
    /// print the effective configuration, secrets hidden, and exit
    #[argh(switch)]
    pub check_config: bool,
    /// print the version and exit
    #[argh(switch)]
    pub version: bool,
}
