//! Plays many agents over real HTTP against a running collector, and with
//! `--station` the station as well. It shows how a deployment of this size would
//! perform, and ends with 1 when a death was missed, invented or told twice.
//!
//! ```sh
//! STATION_ALERT_URL='http://127.0.0.1:9100/api/clusters/{cluster_id}/alerts' STATION_ALERT_KEY=k \
//!     CLUSTER_ID=dev cargo run --release &
//! cargo run --release --example swarm -- --agents 2000 --die 50 --station 9100
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::unchecked_time_subtraction,
    reason = "a load generator owns its time and ends when something is wrong with itself"
)]

mod agents;
mod drive;
mod report;
#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../../tests/support/station.rs"]
mod station;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::ExitCode;

use argh::FromArgs;

/// Plays many agents against a collector.
#[derive(FromArgs, Clone, Debug)]
pub struct Options {
    /// the collector (default: http://127.0.0.1:8080)
    #[argh(option, default = "String::from(\"http://127.0.0.1:8080\")")]
    collector: String,
    /// how many agents (default: 1000)
    #[argh(option, default = "1000")]
    agents: usize,
    /// for how many seconds (default: 60)
    #[argh(option, default = "60")]
    seconds: u64,
    /// parts in EMERGENCY, IDLE and SLEEP (default: 10:85:5)
    #[argh(option, default = "String::from(\"10:85:5\")")]
    mix: String,
    /// how many agents in EMERGENCY die on the way (default: 0)
    #[argh(option, default = "0")]
    die: usize,
    /// how many agents restart on the way (default: 0)
    #[argh(option, default = "0")]
    restart: usize,
    /// how many agents in IDLE go to EMERGENCY on the way (default: 0)
    #[argh(option, default = "0")]
    alarm: usize,
    /// how far a heartbeat is off its interval, in percent of it (default: 10)
    #[argh(option, default = "10")]
    jitter: u32,
    /// keep connections open instead of a fresh one for every heartbeat
    #[argh(switch)]
    keep_alive: bool,
    /// requests under way at once (default: 64)
    #[argh(option, default = "64")]
    workers: usize,
    /// play the station on this port too, with the key --station-key
    #[argh(option)]
    station: Option<u16>,
    /// the address on which to play it (default: 127.0.0.1)
    #[argh(option, default = "Ipv4Addr::LOCALHOST.into()")]
    station_address: IpAddr,
    /// the key the station expects (default: k)
    #[argh(option, default = "String::from(\"k\")")]
    station_key: String,
    /// the seed of everything that is drawn by chance (default: 1)
    #[argh(option, default = "1")]
    seed: u64,
}

fn main() -> ExitCode {
    let options: Options = argh::from_env();
    let agents = match agents::draw(&options) {
        Ok(agents) => agents,
        Err(error) => {
            eprintln!("swarm: {error}");
            return ExitCode::from(2);
        }
    };
    let key = options.station_key.clone();
    let decide = move |post: &station::Post| station::Answer::Status(post.judge(&key));
    let start =
        |port| station::Station::listen(TcpListener::bind((options.station_address, port))?, decide, Ok);
    let station = match options.station.map(start).transpose() {
        Ok(station) => station,
        Err(error) => {
            eprintln!("swarm: cannot play the station: {error}");
            return ExitCode::from(2);
        }
    };
    let outcome = drive::run(&options, agents, station.as_ref());
    if report::print(&options, &outcome, station.as_ref()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
