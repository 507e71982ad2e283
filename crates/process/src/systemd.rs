//! Messages to systemd (sd_notify(3)): datagrams to the socket that it names.

use std::env;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Sends messages to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Within this time the service manager expects the next message that we are well.
    pub watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_environment() -> Self {
        let address = env::var("NOTIFY_SOCKET").ok().and_then(|name| match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(name).ok(),
        });
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        let for_us = env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let micros = env::var("WATCHDOG_USEC").ok().and_then(|micros| micros.parse().ok()).filter(|_| for_us);
        Self { socket, watchdog: micros.map(Duration::from_micros) }
    }

    /// Whether there is a service manager to send to.
    pub const fn is_on(&self) -> bool {
        self.socket.is_some()
    }

    /// Sends a message: lines of `NAME=value`.
    pub fn say(&self, state: &str) {
        if let Some((socket, address)) = &self.socket {
            // If a message is lost, the service manager acts as if we had not sent it.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}
