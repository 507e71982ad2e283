//! The connection behind a request.
//!
//! tiny_http gives no way to close a connection, and dropping a request with
//! an unread body waits for that body. So the connection is found among our
//! own descriptors by its two addresses, duplicated, answered and shut down;
//! after that the request has nothing left to wait for.

use std::fs::read_dir;
use std::io::Write as _;
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{BorrowedFd, RawFd};

use socket2::SockRef;
use tiny_http::Request;

use super::answer::Answer;

/// Dropping a request allocates as much as is left of its body. Beyond this
/// the request is leaked instead, with its connection's thread.
const MOST_DROPPED: usize = 1 << 20;

/// Answers a request whose body is not going to be read, and ends its
/// connection. `port` is the port we serve on.
pub fn answer_and_close(request: Request, answer: &Answer, port: u16) {
    let unread = request.body_length().unwrap_or_default();
    let peer = request.remote_addr().copied();
    let Some(stream) = peer.and_then(|peer| find(peer, port)) else {
        // Gone already; but to drop the request may still mean to wait.
        return mem::forget(request);
    };
    // The peer may be gone; then nobody waits for the answer.
    let _ = (&stream).write_all(&answer.to_bytes());
    let _ = stream.shutdown(Shutdown::Both);
    if unread > MOST_DROPPED {
        mem::forget(request);
    } else {
        drop(request);
    }
}

/// How many connections to `port` are open. Each has two descriptors.
pub fn count(port: u16) -> usize {
    descriptors().filter(|&descriptor| is_connection(descriptor, None, port)).count() / 2
}

/// A duplicate of the connection from `peer` to our `port`.
fn find(peer: SocketAddr, port: u16) -> Option<TcpStream> {
    descriptors().find_map(|descriptor| {
        if !is_connection(descriptor, Some(peer), port) {
            return None;
        }
        let stream = duplicate(descriptor)?;
        // The number may have been closed and given to another connection
        // between the two looks; the duplicate can no longer change.
        (stream.peer_addr().ok()? == peer).then_some(stream)
    })
}

/// Our own open descriptors.
fn descriptors() -> impl Iterator<Item = RawFd> {
    let entries = read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn is_connection(descriptor: RawFd, peer: Option<SocketAddr>, port: u16) -> bool {
    with_borrowed(descriptor, |borrowed| {
        let socket = SockRef::from(&borrowed);
        let address = |address: std::io::Result<socket2::SockAddr>| address.ok()?.as_socket();
        address(socket.local_addr()).is_some_and(|local| local.port() == port)
            && address(socket.peer_addr()).is_some_and(|other| peer.is_none_or(|peer| peer == other))
    })
}

fn duplicate(descriptor: RawFd) -> Option<TcpStream> {
    with_borrowed(descriptor, |borrowed| borrowed.try_clone_to_owned()).ok().map(TcpStream::from)
}

#[expect(unsafe_code, reason = "tiny_http owns the descriptor and does not lend it")]
fn with_borrowed<R>(descriptor: RawFd, look: impl FnOnce(BorrowedFd<'_>) -> R) -> R {
    // SAFETY: the number was listed as open a moment ago. If it has been
    // closed since, the calls made on it here fail with EBADF or see another
    // of our own descriptors; they only look or duplicate, and a duplicate is
    // checked before it is used.
    look(unsafe { BorrowedFd::borrow_raw(descriptor) })
}
