//! Plays many agents over real HTTP against a running collector, and with
//! `--station` the station as well. It shows how a deployment of this size would
//! perform, and ends with 1 when a death was missed, false, early or told twice.
//!
//! ```sh
//! STATION_ALERT_URL='http://127.0.0.1:9100/api/clusters/{cluster_id}/alerts' STATION_ALERT_KEY=k \
//!     CLUSTER_ID=dev cargo run --release &
//! cargo run --release --example swarm -- --agents 2000 --die 50 --station 9100
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a load generator owns its time and ends when something is wrong with itself"
)]

mod play;
#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../../tests/support/station.rs"]
mod station;

use std::process::ExitCode;

use play::Options;

fn main() -> ExitCode {
    let options: Options = argh::from_env();
    let result = match options.fill {
        Some(count) => play::fill::fill(&options, count).map(|()| true),
        None => play::play(&options).map(|report| {
            report.print();
            report.is_good()
        }),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("swarm: {error}");
            ExitCode::from(2)
        }
    }
}
