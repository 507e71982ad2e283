//! Bodies that may still be on their way: those of clients that offer to change
//! the protocol, as some do by default. tiny_http does not read them ahead, so
//! a thread looks at all of them in turn and waits for none.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::net::TcpStream;
use std::time::Duration;

use crossbeam_channel::Receiver;
use tiny_http::Request;

use super::answer::Answer;
use super::flow::Lane;
use super::target::Target;
use super::{Server, socket};
use crate::metrics::Closed;

/// How long a body may take.
const LONGEST: Duration = Duration::from_secs(5);
/// Bodies that are waited for at once.
pub const MOST: usize = 256;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// A request whose body is not complete.
pub struct Late {
    pub(super) request: Request,
    length: usize,
    arrived: Duration,
    body: Vec<u8>,
    stream: Option<TcpStream>,
}

impl Late {
    /// Of this many bytes nothing has been read yet.
    pub fn new(request: Request, length: usize, arrived: Duration) -> Self {
        Self { request, length, arrived, body: Vec::with_capacity(length), stream: None }
    }

    /// Reads what is there. Returns whether that is all.
    fn read(&mut self) -> io::Result<bool> {
        let stream = self.stream.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        // It is the connection that does not block, by whichever descriptor.
        stream.set_nonblocking(true)?;
        let missing = (self.length - self.body.len()) as u64;
        let read = self.request.as_reader().take(missing).read_to_end(&mut self.body);
        stream.set_nonblocking(false)?;
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            // One that ends too early fails as a heartbeat.
            Ok(_) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Server {
    /// Waits for bodies until it is stopped.
    pub fn bodies(&self, late: &Receiver<Box<Late>>) {
        let clock = self.api.shared.clock();
        let mut all: Vec<Box<Late>> = Vec::new();
        while !self.api.shared.is_stopping() {
            if all.is_empty() {
                all.extend(late.recv_timeout(Duration::from_millis(100)));
            } else {
                self.api.shared.pause(PAUSE);
            }
            all.extend(late.try_iter());
            if all.iter().any(|one| one.stream.is_none()) {
                self.find_streams(&mut all);
            }
            let surplus = all.len().saturating_sub(MOST);
            for (at, mut one) in std::mem::take(&mut all).into_iter().enumerate() {
                let is_late = at < surplus || clock.uptime().saturating_sub(one.arrived) > LONGEST;
                match one.read() {
                    Ok(true) => self.answer_late(one),
                    Ok(false) if !is_late => all.push(one),
                    Ok(false) | Err(_) => {
                        let route = Target::parse(one.request.method(), one.request.url()).route();
                        let answer = Answer::error(408, "The body did not arrive in time");
                        self.refuse(one.request, answer, route, one.arrived, Closed::Stalled);
                    }
                }
            }
        }
        // One that is dropped as it is waits for its client, or panics.
        for one in all {
            std::mem::forget(one.request);
        }
    }

    /// Finds those of new ones, with one look at the descriptors.
    fn find_streams(&self, all: &mut [Box<Late>]) {
        let connections = socket::connections(self.address.port()).into_iter();
        let by_peer: HashMap<_, _> = connections.map(|connection| (connection.peer, connection)).collect();
        for one in all.iter_mut().filter(|one| one.stream.is_none()) {
            let connection = one.request.remote_addr().and_then(|peer| by_peer.get(peer));
            one.stream = connection.and_then(socket::Connection::stream);
        }
    }

    fn answer_late(&self, late: Box<Late>) {
        let Late { request, arrived, body, .. } = *late;
        let target = Target::parse(request.method(), request.url());
        let peer = request.remote_addr().copied();
        let answer = self.api.answer(&target, request.headers(), &body);
        self.send(request, answer, target.route(), arrived);
        if let Some(peer) = peer {
            self.done(peer, Lane::Body);
        }
    }
}
