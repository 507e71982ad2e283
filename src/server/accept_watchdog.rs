//! Watching the accept loop, from outside.
//!
//! tiny_http's accept loop ends for good at the first error, and may end
//! without a word when a thread cannot be started. So once a second a request
//! is sent to our own port, like anybody's. When it is not answered, or when
//! the loop reports its end, a new loop is put on the same listener: the port
//! is never closed. The old one's connections are served on.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::{ACCEPT_GATE, Server};
use crate::parts::Parts;
use pap_core::time::Uptime;

/// How often the port is tried.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// After a new accept loop the next one waits for at least this long.
const REBUILD_PAUSE: Duration = Duration::from_millis(20);
/// A former server that has been quiet for this long has no connections: the
/// guard closes those that are.
const RETIRED: Duration = Duration::from_secs(130);
/// How often former servers are asked for requests.
const DRAIN_EVERY: Duration = Duration::from_millis(5);

/// An address of our own that leads to a listener on `ip`.
fn loopback(ip: IpAddr) -> IpAddr {
    if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip }
}

/// A server whose accept loop has ended.
pub struct Former {
    server: Arc<tiny_http::Server>,
    quiet_since: Uptime,
}

impl Server {
    /// Tries the port and repairs the accept loop, until it is stopped.
    pub fn watch(&self, trouble: &Receiver<()>) {
        let Parts { shared, readiness, stop, vitals, .. } = &*self.api.parts;
        let mut probed = Uptime::default();
        while !stop.is_stopping() {
            let due = (probed + PROBE_EVERY).since(shared.clock().uptime());
            // However often the loop ends, the port is tried each second.
            let reported = trouble.recv_timeout(due).is_ok() && !due.is_zero();
            if stop.is_stopping() {
                return;
            }
            if !reported {
                probed = shared.clock().uptime();
            }
            let started = shared.clock().uptime();
            let closed_before = ACCEPT_GATE.closed();
            let result = if reported { Err(io::Error::other("the accept loop ended")) } else { self.probe() };
            match result {
                Ok(()) => {
                    self.api.parts.metrics.self_probe.record(shared.clock().uptime().since(started));
                    readiness.set_reachable(true);
                    vitals.probed(shared.clock().uptime());
                }
                // Whoever calls while nobody is let in waits.
                Err(_) if !ACCEPT_GATE.is_open() || ACCEPT_GATE.closed() != closed_before => {}
                Err(error) => {
                    log::debug!("the port needs a new accept loop: {error}");
                    if !reported {
                        readiness.set_reachable(false);
                    }
                    self.rebuild();
                    stop.wait(REBUILD_PAUSE);
                }
            }
        }
    }

    /// Serves what comes from former servers, until it is stopped.
    pub fn drain_former(&self) {
        while !self.api.parts.stop.is_stopping() {
            let now = self.api.parts.shared.clock().uptime();
            let (mut requests, mut retired) = (Vec::new(), Vec::new());
            let mut all = self.former.lock().unwrap_or_else(PoisonError::into_inner);
            for former in all.iter_mut() {
                while let Ok(Some(request)) = former.server.try_recv() {
                    requests.push(request);
                    former.quiet_since = now;
                }
                // A worker may still be waiting there, its call taken by us.
                former.server.unblock();
            }
            retired.extend(all.extract_if(.., |former| now.since(former.quiet_since) >= RETIRED));
            let pause = if all.is_empty() { PROBE_EVERY } else { DRAIN_EVERY };
            drop(all);
            // A server that is dropped calls its own port, which may take time.
            drop(retired);
            for request in requests {
                self.begin(request);
            }
            self.api.parts.stop.wait(pause);
        }
    }

    /// Asks our own port for anything, as a client would.
    fn probe(&self) -> io::Result<()> {
        let to = |ip| TcpStream::connect_timeout(&SocketAddr::new(ip, self.address.port()), PROBE_TIMEOUT);
        let mut stream = to(loopback(self.address.ip())).or_else(|error| {
            // Somebody else may have bound it for IPv6 alone.
            if self.address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) {
                to(Ipv6Addr::LOCALHOST.into())
            } else {
                Err(error)
            }
        })?;
        stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
        stream.set_write_timeout(Some(PROBE_TIMEOUT))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: self\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 8];
        stream.read_exact(&mut start)?;
        if &start == b"HTTP/1.1" { Ok(()) } else { Err(io::Error::other("somebody else answered")) }
    }

    /// Puts a new accept loop on the listener.
    pub(super) fn rebuild(&self) {
        let shared = &self.api.parts.shared;
        self.api.parts.metrics.rebuilt();
        // tiny_http panics where it cannot start a thread. In a thread
        // without a name that ends nothing but this attempt.
        let listener = match self.listener.try_clone() {
            Ok(listener) => listener,
            Err(error) => return log::warn!("no new accept loop yet: {error}"),
        };
        if let Err(error) = ACCEPT_GATE.serve(&listener) {
            return log::warn!("no new accept loop yet: {error}");
        }
        let attempt = thread::Builder::new().spawn(move || tiny_http::Server::from_listener(listener, None));
        match attempt.map(thread::JoinHandle::join) {
            Ok(Ok(Ok(server))) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                let former = std::mem::replace(&mut *current, Arc::new(server));
                drop(current);
                (0..self.workers).for_each(|_| former.unblock());
                let quiet_since = shared.clock().uptime();
                self.former
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(Former { server: former, quiet_since });
            }
            Ok(Ok(Err(error))) => log::warn!("no new accept loop yet: {error}"),
            Ok(Err(_)) => log::warn!("no new accept loop yet: a thread could not be started"),
            Err(error) => log::warn!("no new accept loop yet: {error}"),
        }
    }
}
