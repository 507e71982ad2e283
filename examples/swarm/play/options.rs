//! What may be asked of the swarm.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use argh::FromArgs;
use pap_core::heartbeat::Mode;

/// Plays many agents against a collector.
#[derive(FromArgs, Clone, Debug)]
pub struct Options {
    /// the collector (default: http://127.0.0.1:8080)
    #[argh(option, default = "String::from(\"http://127.0.0.1:8080\")")]
    pub collector: String,
    /// how many agents (default: 1000)
    #[argh(option, default = "1000")]
    pub agents: usize,
    /// for how many seconds (default: 60)
    #[argh(option, default = "60")]
    pub seconds: u64,
    /// parts in EMERGENCY, IDLE and SLEEP (default: 10:85:5)
    #[argh(option, default = "String::from(\"10:85:5\")")]
    pub mix: String,
    /// seconds between two heartbeats of an agent, instead of its mode's interval
    #[argh(option)]
    pub every: Option<f64>,
    /// how many agents in EMERGENCY die on the way (default: 0)
    #[argh(option, default = "0")]
    pub die: usize,
    /// how many agents restart on the way (default: 0)
    #[argh(option, default = "0")]
    pub restart: usize,
    /// how many agents in IDLE go to EMERGENCY on the way, with a heartbeat at once (default: 0)
    #[argh(option, default = "0")]
    pub alarm: usize,
    /// the second at which all of --alarm do so together (default: spread over the run)
    #[argh(option)]
    pub alarm_at: Option<u64>,
    /// how far the time between two heartbeats is off the interval, at most, in percent of it (default: 5)
    #[argh(option, default = "5")]
    pub jitter: u32,
    /// how many heartbeats are lost on the way, in percent, never two in a row (default: 0)
    #[argh(option, default = "0")]
    pub lose: u32,
    /// lose two in a row instead, never three
    #[argh(switch)]
    pub lose_two: bool,
    /// send a heartbeat that got no answer again after a second, as pap-heartbeat does
    #[argh(switch)]
    pub retry: bool,
    /// how many connections the agents share (default: one for each agent)
    #[argh(option)]
    pub connections: Option<usize>,
    /// open a fresh connection for every heartbeat
    #[argh(switch)]
    pub fresh: bool,
    /// the collector's HEARTBEAT_GRACE_MS, if it is set
    #[argh(option)]
    pub grace_ms: Option<u64>,
    /// the collector's process; the table then says what it uses, after ten seconds
    #[argh(option)]
    pub pid: Option<u32>,
    /// play the station on this port too, with the key --station-key
    #[argh(option)]
    pub station: Option<u16>,
    /// the address on which to play it (default: 127.0.0.1)
    #[argh(option, default = "Ipv4Addr::LOCALHOST.into()")]
    pub station_address: IpAddr,
    /// the key the station expects (default: k)
    #[argh(option, default = "String::from(\"k\")")]
    pub station_key: String,
    /// the seed of everything that is drawn by chance (default: 1)
    #[argh(option, default = "1")]
    pub seed: u64,
    /// only make this many agents in SLEEP known, as fast as possible, and end
    #[argh(option)]
    pub fill: Option<usize>,
}

impl Options {
    pub fn connection_count(&self) -> usize {
        self.connections.unwrap_or(self.agents).max(1)
    }

    /// The time between two heartbeats, without jitter.
    pub fn interval(&self, mode: Mode) -> Duration {
        self.every.map_or(mode.interval(), |seconds| Duration::from_secs_f64(seconds.max(0.01)))
    }

    /// The silence after which an agent is dead: two intervals and the grace, as the
    /// contract says. The collector's own code is not asked.
    pub fn dead_after(&self, mode: Mode) -> Duration {
        2 * mode.interval() + self.grace_ms.map_or(default_grace(mode), Duration::from_millis)
    }
}

/// The collector's grace when `HEARTBEAT_GRACE_MS` is not set.
fn default_grace(mode: Mode) -> Duration {
    mode.interval() / 10
}
