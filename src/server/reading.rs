//! Reading from connections, for tiny_http.
//!
//! It reads as fast as a client sends, queues every request it finds, and keeps
//! what has come of one until the rest comes: a hundred clients could fill our
//! memory, and a fresh image of the process could not go on where the former
//! stopped. It offers no way to read for it; but what it calls in the end is
//! `recv`, and a program may bring its own. This one looks at what has come,
//! and leaves it to the kernel to keep; it hands out whole requests, one at a
//! time, the next when the former is answered, and refuses what tiny_http
//! cannot bear. Reads of our own threads are passed on to the kernel.

use std::cell::RefCell;
use std::mem::{self, MaybeUninit};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use libc::{c_int, c_void, size_t, ssize_t};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv as look, send};
use socket2::SockRef;

use super::ACCEPT_GATE;
use super::framing::{MAX_REQUEST, Refused, frame};
use super::pipeline::Pipeline;
use super::socket::set_low_water;
use crate::metrics::{Closed, Metrics, Refusal, Route};
use crate::parts::Parts;
use pap_process::clock::monotonic;

/// How long a refused client may go on sending before it hears a reset, which
/// may cost it the answer (RFC 9112 §9.6), and how many bytes.
const LINGER: Duration = Duration::from_secs(1);
const MOST_DISCARDED: usize = 64 * 1024;
/// Where the kernel is short of memory it calls without need; then so often.
const SHORT_OF_MEMORY: Duration = Duration::from_millis(10);

/// Who is to be asked and told. There is one, as there is one `recv`.
static SERVER: OnceLock<(Arc<Pipeline>, Arc<Parts>)> = OnceLock::new();

/// From now on tiny_http reads in turn.
pub fn keep_order(pipeline: Arc<Pipeline>, parts: Arc<Parts>) {
    // Set once: there is one server.
    let _ = SERVER.set((pipeline, parts));
}

thread_local! {
    /// The connection that this thread of tiny_http reads: it has one at a
    /// time. None in threads of ours, which have names.
    static READER: Option<RefCell<RequestReader>> =
        thread::current().name().is_none().then(RefCell::default);
}

#[derive(Default)]
struct RequestReader {
    /// The kernel's own number for the socket, never used twice.
    cookie: u64,
    peer: Option<SocketAddr>,
    /// Bytes of the present request that may be read.
    granted: usize,
    /// A request was read of a client that was gone from the beginning.
    is_over: bool,
}

impl RequestReader {
    /// How many bytes may be read now; waits until there are any. None at all:
    /// the connection is to end.
    fn grant(&mut self, socket: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> usize {
        let known = SockRef::from(&socket);
        let Ok(cookie) = known.cookie() else { return 0 };
        if self.cookie != cookie {
            // One that has reset the connection has no address any more.
            let peer = known.peer_addr().ok().and_then(|address| address.as_socket());
            *self = Self { cookie, peer, ..Self::default() };
            ACCEPT_GATE.picked_up(cookie);
        }
        let Some((pipeline, parts)) = SERVER.get() else { return usize::MAX };
        if self.granted == 0 {
            let request = loop {
                match await_request(socket, buffer) {
                    Err(Errno::INTR) => {}
                    request => break request,
                }
            };
            self.granted = match (request, self.peer) {
                // The client has gone, or it stopped on the way.
                (Err(_) | Ok(Ok(0)), _) => 0,
                (Ok(Ok(length)), Some(peer)) if pipeline.await_turn(peer, cookie) => length,
                // A heartbeat may be sent and the connection reset at once.
                (Ok(Ok(length)), None) if !mem::replace(&mut self.is_over, true) => {
                    pipeline.await_thaw();
                    length
                }
                (Ok(Err(refused)), Some(peer)) if pipeline.await_turn(peer, cookie) => {
                    refuse(socket, refused, &parts.metrics);
                    pipeline.end(peer, cookie);
                    linger(socket);
                    0
                }
                (Ok(_), _) => 0,
            };
        }
        self.granted
    }
}

/// Waits until a whole request has come, and says how long it is; 0 where no
/// more will come. The `buffer` is lent to look at what there is: while it
/// waits, the kernel alone keeps that.
fn await_request(
    socket: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
) -> Result<Result<usize, (Refused, Route)>, Errno> {
    let ((come, _), _) = look(socket, buffer, RecvFlags::PEEK)?;
    let (mut seen, mut framed, mut has_waited) = (come.len(), frame(come), false);
    let whole = loop {
        match framed {
            Ok(Some(length)) => break Ok(length),
            Err(refused) => break Err(refused),
            Ok(None) if seen == 0 || !await_more(socket, seen)? => break Ok(0),
            Ok(None) => {}
        }
        has_waited = true;
        let mut all = vec![0; MAX_REQUEST + 1];
        let before =
            mem::replace(&mut seen, look(socket, &mut all[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0);
        if seen <= before {
            // An urgent byte is in the way: HTTP has none.
            break Err((Refused::Malformed, Route::Other));
        }
        framed = frame(&all[..seen]);
    };
    if has_waited {
        set_low_water(socket, 1);
    }
    Ok(whole)
}

/// Waits until more than `seen` bytes are there. Returns whether that is so.
fn await_more(socket: BorrowedFd<'_>, seen: usize) -> Result<bool, Errno> {
    set_low_water(socket, i32::try_from(seen + 1).unwrap_or(i32::MAX));
    loop {
        let mut ready = [PollFd::from_borrowed_fd(socket, PollFlags::IN | PollFlags::RDHUP)];
        poll(&mut ready, None)?;
        let there = rustix::io::ioctl_fionread(socket)?;
        if there > seen as u64 {
            return Ok(true);
        }
        if ready[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR) {
            return Ok(false);
        }
        thread::park_timeout(SHORT_OF_MEMORY);
    }
}

/// Answers a client whose connection is to end.
fn refuse(socket: BorrowedFd<'_>, (why, route): (Refused, Route), metrics: &Metrics) {
    if route == Route::Heartbeat {
        metrics.refusal(Refusal::Body);
    }
    metrics.request(route, Duration::ZERO);
    metrics.closed(match why {
        Refused::Malformed | Refused::Version => Closed::Malformed,
        Refused::LargeHead => Closed::Flood,
        Refused::TooLong | Refused::BadLength | Refused::Chunked | Refused::Expects => Closed::Body,
    });
    // The client may be gone; then nobody waits for the answer.
    let _ = send(socket, &why.answer().to_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

/// Takes what the client goes on sending, for a while.
fn linger(socket: BorrowedFd<'_>) {
    let _ = SockRef::from(&socket).shutdown(Shutdown::Write);
    let (end, mut discarded, mut some) = (monotonic() + LINGER, 0, vec![0; MAX_REQUEST]);
    while discarded < MOST_DISCARDED {
        match look(socket, &mut some[..], RecvFlags::DONTWAIT) {
            Ok((1.., count)) => discarded += count,
            Err(Errno::AGAIN | Errno::INTR) => {
                let left = end.since(monotonic());
                let longest = Timespec::try_from(left).ok();
                let mut ready = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
                if left.is_zero() || poll(&mut ready, longest.as_ref()).is_err() {
                    return;
                }
            }
            Ok(_) | Err(_) => return,
        }
    }
}

/// `recv(2)` as the standard library calls it.
///
/// # Safety
/// As for the system call: `length` bytes may be written to `buffer`.
#[expect(unsafe_code, reason = "it takes the place of a function of the C library")]
#[unsafe(no_mangle)]
unsafe extern "C" fn recv(socket: c_int, buffer: *mut c_void, length: size_t, flags: c_int) -> ssize_t {
    let null = std::ptr::null_mut;
    // SAFETY: the arguments are the caller's, who keeps to the rules of the
    // call; `length` is never more than the caller's.
    let read = |length| unsafe { libc::recvfrom(socket, buffer, length, flags, null(), null().cast()) };
    if flags != 0 {
        return read(length);
    }
    let in_turn = READER.try_with(|reader| {
        let mut reader = reader.as_ref()?.try_borrow_mut().ok()?;
        // SAFETY: the caller lends both for as long as the call takes.
        let (socket, buffer) = unsafe {
            (BorrowedFd::borrow_raw(socket), std::slice::from_raw_parts_mut(buffer.cast(), length))
        };
        let granted = reader.grant(socket, buffer).min(length);
        let count = if granted == 0 { 0 } else { read(granted) };
        reader.granted = reader.granted.saturating_sub(usize::try_from(count).unwrap_or(0));
        Some(count)
    });
    in_turn.ok().flatten().unwrap_or_else(|| read(length))
}
