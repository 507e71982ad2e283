//! The swarm: agents that are drawn from a seed, their connections on one event
//! loop, and a judge of the deaths that the collector tells.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::unchecked_time_subtraction,
    reason = "a load generator owns its time and ends when something is wrong with itself"
)]

mod agents;
mod answer;
mod client;
mod drive;
pub mod fill;
mod judge;
mod options;
mod process;
mod report;

use std::net::TcpListener;

use crate::station::{Answer, Post, Station};
pub use options::Options;
pub use report::Report;

/// Plays the agents that the options ask for, to the end.
pub fn play(options: &Options) -> Result<Report, String> {
    let agents = agents::draw(options)?;
    client::raise_descriptor_limit(options.connection_count())?;
    let station = options.station.map(|port| start_station(options, port)).transpose();
    let station = station.map_err(|error| format!("cannot play the station: {error}"))?;
    let outcome = drive::run(options, agents, station.as_ref())?;
    let verdicts = station.map(|station| judge::judge(options, &outcome, &station.posts()));
    Ok(Report::new(options, outcome, verdicts))
}

fn start_station(options: &Options, port: u16) -> std::io::Result<Station> {
    let key = options.station_key.clone();
    let decide = move |post: &Post| Answer::Status(post.judge(&key));
    Station::listen(TcpListener::bind((options.station_address, port))?, decide, Ok)
}
