//! Reading from connections, for tiny_http.
//!
//! It reads as fast as a client sends, queues every request it finds, and takes
//! a head of any size: a hundred clients that pipeline could fill our memory.
//! It offers no limit; but what it calls in the end is `recv`, and a program
//! may bring its own. This one hands out one request at a time, the next when
//! the former is answered, and no head that is too big. Reads of our own
//! threads are passed on to the kernel.

use std::cell::RefCell;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};
use std::thread;

use libc::{c_int, c_void, size_t, ssize_t};
use socket2::SockRef;

use super::answer::Answer;
use super::framing::MAX_BODY;
use super::pipeline::Pipeline;
use crate::metrics::{Closed, Metrics};

/// The largest head that is taken, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// And the most lines in it: each costs tiny_http more than its bytes.
const MAX_LINES: usize = 100;

/// Who is to be asked and told. There is one, as there is one `recv`.
static SERVER: OnceLock<(Arc<Pipeline>, Arc<Metrics>)> = OnceLock::new();

/// From now on tiny_http reads in turn.
pub fn keep_order(pipeline: Arc<Pipeline>, metrics: Arc<Metrics>) {
    // Set once: there is one server.
    let _ = SERVER.set((pipeline, metrics));
}

thread_local! {
    /// The connection that this thread of tiny_http reads: it has one at a
    /// time. None in threads of ours, which have names.
    static READER: Option<RefCell<Reader>> =
        thread::current().name().is_none().then(RefCell::default);
}

#[derive(Default)]
struct Reader {
    /// The kernel's own number for the socket, never used twice.
    cookie: u64,
    peer: Option<SocketAddr>,
    head: Head,
    /// A request was read of a client that was gone from the beginning.
    is_over: bool,
}

/// How far a request has been handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    bytes: usize,
    lines: usize,
    /// Bytes of the current line.
    line: usize,
    after_cr: bool,
    /// The current line begins like one that gives the body's length.
    is_length: bool,
    length: usize,
    /// Bytes of the body that follow.
    body: usize,
}

/// What may be handed out of what has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    /// So many bytes, and whether they complete a head.
    Bytes(usize, bool),
    /// Nothing: the head is too big.
    TooBig,
}

impl Head {
    /// Shares out what has arrived: nothing beyond one request. Where its length
    /// is not what it seems, tiny_http or `framing` end the connection.
    fn share(&mut self, arrived: &[u8]) -> Share {
        const LENGTH: &[u8] = b"content-length:";
        let mut completes = false;
        for (at, &byte) in arrived.iter().enumerate() {
            if self.body > 0 {
                self.body -= 1;
                if self.body == 0 {
                    return Share::Bytes(at + 1, completes);
                }
                continue;
            }
            self.bytes += 1;
            if self.bytes > MAX_HEAD {
                return Share::TooBig;
            }
            match LENGTH.get(self.line) {
                Some(&letter) => {
                    self.is_length =
                        (self.line == 0 || self.is_length) && byte.to_ascii_lowercase() == letter;
                }
                None if self.is_length && byte.is_ascii_digit() => {
                    let digit = usize::from(byte - b'0');
                    self.length = self.length.saturating_mul(10).saturating_add(digit);
                }
                None => {}
            }
            self.line += 1;
            let ends_line = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            if ends_line && self.line == 2 {
                *self = Self { body: self.length.min(MAX_BODY), ..Self::default() };
                if self.body == 0 {
                    return Share::Bytes(at + 1, true);
                }
                completes = true;
            } else if ends_line {
                (self.line, self.lines) = (0, self.lines + 1);
                if self.lines > MAX_LINES {
                    return Share::TooBig;
                }
            }
        }
        Share::Bytes(arrived.len(), completes)
    }
}

impl Reader {
    /// How many of the bytes that have arrived may be read, once it is their
    /// turn. None at all: the connection is to end.
    fn share(&mut self, socket: BorrowedFd<'_>, arrived: &[u8]) -> usize {
        let Some((pipeline, metrics)) = SERVER.get() else { return arrived.len() };
        let socket = SockRef::from(&socket);
        let Ok(cookie) = socket.cookie() else { return arrived.len() };
        if self.cookie != cookie {
            // One that has reset the connection has no address any more.
            let peer = socket.peer_addr().ok().and_then(|address| address.as_socket());
            *self = Self { cookie, peer, ..Self::default() };
        }
        match (self.head.share(arrived), self.peer) {
            (Share::Bytes(bytes, true), Some(peer)) => {
                pipeline.await_turn(peer);
                bytes
            }
            // A heartbeat may be sent and the connection reset at once.
            (Share::Bytes(_, true), None) if mem::replace(&mut self.is_over, true) => 0,
            (Share::Bytes(bytes, _), _) => bytes,
            (Share::TooBig, None) => 0,
            (Share::TooBig, Some(peer)) => {
                pipeline.await_turn(peer);
                let answer = Answer::error(431, "A head must have at most 16384 bytes in 100 lines");
                // The client may be gone; then nobody waits for the answer.
                let _ = socket.send_with_flags(&answer.to_bytes(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
                metrics.closed(Closed::Flood);
                0
            }
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
    let read =
        |length, flags| unsafe { libc::recvfrom(socket, buffer, length, flags, null(), null().cast()) };
    if flags != 0 {
        return read(length, flags);
    }
    let in_turn = READER.try_with(|reader| {
        let mut reader = reader.as_ref()?.try_borrow_mut().ok()?;
        // SAFETY: the caller lends it for as long as the call takes.
        let borrowed = unsafe { BorrowedFd::borrow_raw(socket) };
        let arrived = read(length, libc::MSG_PEEK);
        let Ok(count @ 1..) = usize::try_from(arrived) else { return Some(arrived) };
        // SAFETY: the kernel has just written so many bytes there.
        let arrived = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), count) };
        let share = reader.share(borrowed, arrived);
        Some(if share == 0 { 0 } else { read(share, 0) })
    });
    in_turn.ok().flatten().unwrap_or_else(|| read(length, 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn post(body: &str) -> String {
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-LENGTH: {}\r\nX: 7\r\n\r\n{body}", body.len())
    }

    #[test]
    fn one_request_at_a_time() {
        let mut head = Head::default();
        assert_eq!(head.share(GET.as_bytes()), Share::Bytes(GET.len(), true));
        assert_eq!(head.share(GET.repeat(3).as_bytes()), Share::Bytes(GET.len(), true));
        let with_body = post("{\r\n\r\n}");
        let both = format!("{with_body}{GET}");
        assert_eq!(head.share(both.as_bytes()), Share::Bytes(with_body.len(), true));
        // In pieces, of which the last has something of the next.
        let (first, second) = both.as_bytes().split_at(with_body.len() - 4);
        assert_eq!(head.share(first), Share::Bytes(first.len(), true));
        assert_eq!(head.share(second), Share::Bytes(4, false));
        assert_eq!(head, Head::default());
    }

    #[test]
    fn a_head_ends_at_its_limits() {
        for before in [String::new(), GET.to_owned(), post("\r\nx")] {
            let begun = || {
                let mut head = Head::default();
                assert_eq!(head.share(before.as_bytes()), Share::Bytes(before.len(), !before.is_empty()));
                head
            };
            let filled = "x".repeat(MAX_HEAD);
            assert_eq!(begun().share(filled.as_bytes()), Share::Bytes(MAX_HEAD, false));
            assert_eq!(begun().share(format!("{filled}x").as_bytes()), Share::TooBig);
            let lines = "x\r\n".repeat(MAX_LINES);
            assert_eq!(begun().share(lines.as_bytes()), Share::Bytes(lines.len(), false));
            assert_eq!(begun().share(format!("{lines}x\r\n").as_bytes()), Share::TooBig);
        }
    }

    #[test]
    fn a_length_is_what_it_seems_or_short() {
        let body = |line: &str| {
            let mut head = Head::default();
            let text = format!("POST / HTTP/1.1\r\n{line}\r\n\r\n");
            assert_eq!(head.share(text.as_bytes()), Share::Bytes(text.len(), true), "{line}");
            head.body
        };
        assert_eq!(body("content-length:17"), 17);
        assert_eq!(body("Content-Length:   1024  "), 1024);
        assert_eq!(body("Content-Length: 99999999999999999999999"), MAX_BODY);
        for none in ["Content-Lengths: 5", "X-Content-Length: 5", "Content-Length", "Content-Length:"] {
            assert_eq!(body(none), 0, "{none}");
        }
    }

    proptest! {
        /// However a client's bytes arrive, each of its requests is one share's
        /// to complete, and all of it is handed out.
        #[test]
        fn all_is_handed_out_and_each_request_by_itself(
            requests in prop::collection::vec(prop::option::of("[ -~\r\n]{0,40}"), 1..20),
            windows in prop::collection::vec(1_usize..200, 1..40),
        ) {
            let requests = requests.iter().map(|body| body.as_deref().map_or_else(|| GET.to_owned(), post));
            let requests: Vec<String> = requests.collect();
            let text = requests.concat();
            let ends = requests.iter().scan(0, |end, request| {
                *end += request.len();
                Some(*end)
            });
            let mut ends = ends.peekable();
            let (mut done, mut head, mut completed) = (0, Head::default(), 0);
            for window in windows.into_iter().cycle() {
                if done == text.len() {
                    break;
                }
                let rest = &text.as_bytes()[done..];
                let Share::Bytes(bytes, completes) = head.share(&rest[..window.min(rest.len())]) else {
                    return Err(TestCaseError::fail("too big"));
                };
                prop_assert!(bytes > 0);
                done += bytes;
                completed += usize::from(completes);
                prop_assert!(done <= *ends.peek().unwrap(), "nothing of the next request");
                if done == *ends.peek().unwrap() {
                    ends.next();
                }
            }
            prop_assert_eq!(completed, requests.len());
        }
    }
}
