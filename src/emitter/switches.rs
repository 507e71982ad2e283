//! The command line of `pap-heartbeat`, besides its settings.

use argh::{ArgsInfo, FromArgs};

use super::registration::Order;

/// Sends the heartbeats of a PAP agent that cannot do so itself. Give one of
/// --probe, --pid-file, or a command after "--": it says whether the agent
/// lives.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    usage = "[SETTINGS] [--check | --status | --machine | --register | --deregister | --check-config | --version] [-- COMMAND ...]"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Switches {
    /// ask whether a heartbeat of this agent was taken within two intervals,
    /// print a line and exit with 0 or 1
    #[argh(switch)]
    pub check: bool,
    /// print the status of the agent's heartbeats
    #[argh(switch)]
    pub status: bool,
    /// send heartbeats of this machine to STATION_URL, instead of those of an agent
    #[argh(switch)]
    pub machine: bool,
    /// register the cluster CLUSTER_ID at STATION_URL once, print a line and exit
    #[argh(switch)]
    pub register: bool,
    /// remove the cluster CLUSTER_ID from STATION_URL once, print a line and exit
    #[argh(switch)]
    pub deregister: bool,
    /// print the effective configuration, secrets hidden, and exit
    #[argh(switch)]
    pub check_config: bool,
    /// print the version and exit
    #[argh(switch)]
    pub version: bool,
}

impl Switches {
    /// What the station is to be told once, if anything.
    pub const fn order(&self) -> Option<Order> {
        match (self.register, self.deregister) {
            (true, _) => Some(Order::Register),
            (false, true) => Some(Order::Deregister),
            (false, false) => None,
        }
    }

    /// Why these do not go together, if they do not.
    pub const fn misplaced(&self, has_command: bool) -> Option<&'static str> {
        if self.machine && (self.check || self.status) {
            return Some(
                "--check and --status ask about an agent; with --machine the station says what it heard",
            );
        }
        if self.machine && has_command {
            return Some("with --machine no command is run: leave out -- and what is behind it");
        }
        let is_another = self.machine || self.check || self.status || (self.register && self.deregister);
        if self.order().is_some() && (is_another || has_command) {
            return Some(
                "--register and --deregister are done alone: without each other, --machine, --check, --status and a command",
            );
        }
        None
    }
}
