//! `pap-station check`: asks a running station whether it is well, for containers without
//! curl and shell.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use pap_process::client::{agent, config, trouble};

use crate::clients::USER_AGENT;

/// How long asking and the answer may take together.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the station that listens here: whether it is ready, or only whether it runs.
///
/// # Errors
/// It is not well, or does not answer. The text is one line for people.
pub fn ask(bind: Option<IpAddr>, port: u16, is_live: bool) -> Result<String, String> {
    let host = match bind {
        Some(address) if !address.is_unspecified() => address,
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let (path, well, unwell) =
        if is_live { ("/health", "live", "not live") } else { ("/ready", "ready", "not ready") };
    let place = SocketAddr::new(host, port);
    let client = agent(config(USER_AGENT).timeout_global(Some(PATIENCE)), &[]);
    match client.get(format!("http://{place}{path}")).call() {
        Ok(response) if response.status().as_u16() == 200 => Ok(format!("{well}: {place} answers")),
        Ok(response) => Err(format!("{unwell}: {place} answers {}", response.status().as_u16())),
        Err(error) => Err(format!("{unwell}: {place}: {}", trouble(&error))),
    }
}
