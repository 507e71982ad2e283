//! Accepting connections, for tiny_http.
//!
//! Its accept loop ends for good at the first error, takes in more than the
//! process can bear, cannot be told to wait, and leaves connections lying in
//! the queue of its threads when several come at once: each counts on the same
//! idle thread. It offers no way to accept for it; but what it calls in the end
//! is `accept4`, and a program may bring its own. This one never fails, waits
//! while there is no room, and gives the next connection when a thread has
//! picked up the former. Listeners that are not ours are passed on to the kernel.

use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, IntoRawFd as _, OwnedFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use libc::{c_int, sockaddr, socklen_t};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use socket2::{SockAddr, SockRef};

use super::socket::set_low_water;

/// How often one who waits for room asks for it again.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Where connections come in. There is one, as there is one `accept4`.
pub static ACCEPT_GATE: AcceptGate = AcceptGate::new();

thread_local! {
    static IS_ACCEPT_LOOP: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is one of tiny_http's accept loops. When one panics,
/// because descriptors or threads have run out, nobody else says so.
pub fn is_accept_loop() -> bool {
    IS_ACCEPT_LOOP.get()
}

/// Decides when tiny_http gets a connection.
pub struct AcceptGate {
    state: Mutex<Gate>,
    changed: Condvar,
    guard: OnceLock<Sender<()>>,
}

struct Gate {
    /// Our listener: the kernel's own number for it, and the descriptor by
    /// which the current accept loop knows it.
    ours: Option<(u64, RawFd)>,
    /// Connections that the former image of the process had accepted.
    inherited: Vec<OwnedFd>,
    /// The one that was given out last, until a thread has picked it up.
    given: Option<u64>,
    is_open: bool,
    closed: u64,
    room: usize,
    /// Connections given out so far.
    accepted: u64,
    /// Somebody waited for room since this was asked.
    was_full: bool,
}

/// What the accept loop gets.
enum Turn {
    /// Whatever the kernel says: the listener is not ours.
    Foreign,
    /// Nothing more: another loop has taken its place.
    Over,
    /// A connection, from the kernel.
    Accepted(c_int),
    /// A connection, from us.
    Given(OwnedFd),
}

impl AcceptGate {
    const fn new() -> Self {
        let state = Gate {
            ours: None,
            inherited: Vec::new(),
            given: None,
            is_open: true,
            closed: 0,
            room: 1,
            accepted: 0,
            was_full: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), guard: OnceLock::new() }
    }

    /// Lets the accept loop on `listener` in, and none before it any more.
    ///
    /// # Errors
    /// It is no listener.
    pub fn serve(&self, listener: &TcpListener) -> io::Result<()> {
        // Whether there is a connection is asked before it is taken.
        listener.set_nonblocking(true)?;
        let ours = Some((SockRef::from(listener).cookie()?, listener.as_raw_fd()));
        let mut state = self.lock();
        // What another loop was given is not waited for: it may have ended.
        (state.ours, state.given) = (ours, None);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Gives these connections out first.
    pub fn hand_on(&self, mut connections: Vec<OwnedFd>) {
        connections.retain(|it| fcntl_setfd(it, FdFlags::CLOEXEC).is_ok());
        // Somebody of the former image may have waited for more than a byte.
        for connection in &connections {
            set_low_water(connection.as_fd(), 1);
        }
        self.lock().inherited = connections;
    }

    /// A thread has picked up the connection with this cookie.
    pub fn picked_up(&self, cookie: u64) {
        let mut state = self.lock();
        if state.given == Some(cookie) {
            state.given = None;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The connections that no thread has picked up, by their cookies.
    pub fn waiting(&self) -> HashSet<u64> {
        let state = self.lock();
        let inherited = state.inherited.iter().filter_map(|it| SockRef::from(it).cookie().ok());
        inherited.chain(state.given).collect()
    }

    /// Sends a word to `guard` whenever there is no room.
    pub fn ask_for_room(&self, guard: Sender<()>) {
        // Set once: there is one server.
        let _ = self.guard.set(guard);
    }

    /// From now on whoever connects waits in the kernel.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_open = false;
        state.closed += 1;
    }

    /// Lets them in again.
    pub fn open(&self) {
        self.lock().is_open = true;
        self.changed.notify_all();
    }

    /// Whether anybody is let in.
    pub fn is_open(&self) -> bool {
        self.lock().is_open
    }

    /// How often it was closed.
    pub fn closed(&self) -> u64 {
        self.lock().closed
    }

    /// How many connections were given out.
    pub fn accepted(&self) -> u64 {
        self.lock().accepted
    }

    /// There is room for so many, counted when `accepted` had been given out.
    /// Returns whether somebody has waited for room.
    pub fn set_room(&self, room: usize, accepted: u64) -> bool {
        let mut state = self.lock();
        let since = usize::try_from(state.accepted - accepted).unwrap_or(usize::MAX);
        state.room = room.saturating_sub(since);
        self.changed.notify_all();
        std::mem::take(&mut state.was_full)
    }

    /// Gives the next connection, when there is one and room for it.
    fn next(&self, listener: RawFd, take: impl Fn() -> c_int) -> Turn {
        loop {
            let mut state = self.lock();
            match state.ours {
                Some((_, descriptor)) if descriptor == listener => IS_ACCEPT_LOOP.set(true),
                Some((cookie, _))
                    if borrowed(listener, |it| SockRef::from(&it).cookie().ok()) == Some(cookie) =>
                {
                    return Turn::Over;
                }
                _ => return Turn::Foreign,
            }
            // Those that came along were counted already.
            let is_full = state.room == 0 && state.inherited.is_empty();
            if !state.is_open || state.given.is_some() || is_full {
                if state.is_open && state.given.is_none() {
                    state.was_full = true;
                    // One call that waits is enough.
                    let _ = self.guard.get().map(|guard| guard.try_send(()));
                }
                drop(self.changed.wait_timeout(state, ASK_EVERY));
                continue;
            }
            let inherited = state.inherited.pop();
            let accepted = if inherited.is_none() { take() } else { 0 };
            if accepted >= 0 {
                if inherited.is_none() {
                    state.room -= 1;
                    state.accepted += 1;
                }
                let descriptor = inherited.as_ref().map_or(accepted, OwnedFd::as_raw_fd);
                state.given = borrowed(descriptor, |it| SockRef::from(&it).cookie().ok());
                return inherited.map_or(Turn::Accepted(accepted), Turn::Given);
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EAGAIN) => {
                    drop(state);
                    wait_for_connection(listener);
                }
                Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK) => return Turn::Over,
                // Out of descriptors or memory: the guard makes room.
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => state.room = 0,
                // The peer has given up, or a signal came.
                _ => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until somebody connects.
fn wait_for_connection(listener: RawFd) {
    borrowed(listener, |listener| {
        // If it fails, the next attempt to accept says why.
        let _ = poll(&mut [PollFd::from_borrowed_fd(listener, PollFlags::IN)], None);
    });
}

#[expect(unsafe_code, reason = "the kernel and the caller of accept4 give numbers")]
fn borrowed<R>(descriptor: RawFd, look: impl FnOnce(BorrowedFd<'_>) -> R) -> R {
    // SAFETY: the caller of accept4 holds its listener open for as long as the
    // call takes; a connection is not yet anybody else's.
    look(unsafe { BorrowedFd::borrow_raw(descriptor) })
}

/// `accept4(2)` as the standard library calls it.
///
/// # Safety
/// As for the system call: `address` and `length` are null, or `length` says
/// how many bytes may be written to `address`.
#[expect(unsafe_code, reason = "it takes the place of a function of the C library")]
#[unsafe(no_mangle)]
unsafe extern "C" fn accept4(
    listener: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
    flags: c_int,
) -> c_int {
    // SAFETY: the arguments are the caller's, who keeps to the rules of the call.
    let call = || unsafe { libc::syscall(libc::SYS_accept4, listener, address, length, flags) };
    #[expect(clippy::cast_possible_truncation, reason = "a descriptor or -1")]
    let take = || call() as c_int;
    match ACCEPT_GATE.next(listener, take) {
        Turn::Foreign => take(),
        Turn::Accepted(accepted) => accepted,
        Turn::Over => {
            // SAFETY: the place of this thread's errno is always there.
            unsafe { *libc::__errno_location() = libc::EINVAL };
            -1
        }
        Turn::Given(given) => {
            if !address.is_null() && !length.is_null() {
                // Any will do: tiny_http asks the connection itself.
                let nobody = SockAddr::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
                // SAFETY: no more bytes are written than there is room for, and
                // the address has that many.
                unsafe {
                    let room = (*length).min(nobody.len());
                    let from = nobody.as_ptr().cast::<u8>();
                    from.copy_to_nonoverlapping(address.cast(), room as usize);
                    *length = nobody.len();
                }
            }
            given.into_raw_fd()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{RecvTimeoutError, bounded};
    use std::net::TcpStream;
    use std::thread;

    /// All in one test, as there is one door.
    #[test]
    fn the_door_lets_in_whom_there_is_room_for() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(foreign.local_addr().unwrap()).unwrap();
        foreign.accept().unwrap();

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (hurry, hurried) = bounded(1);
        ACCEPT_GATE.ask_for_room(hurry);
        let former = listener.try_clone().unwrap();
        ACCEPT_GATE.serve(&former).unwrap();
        let (given, taken) = bounded(8);
        let start = |listener: TcpListener| {
            let given = given.clone();
            thread::spawn(move || {
                // The standard library comes through our accept4.
                while let Ok((stream, _)) = listener.accept() {
                    // Nobody waits for it once the test is over.
                    let _ = given.send(stream);
                }
            })
        };
        let pick_up = |stream: TcpStream| ACCEPT_GATE.picked_up(SockRef::from(&stream).cookie().unwrap());
        let loop_of_former = start(former);
        let first = TcpStream::connect(address).unwrap();
        let got = taken.recv_timeout(PATIENCE).unwrap();
        assert_eq!(got.peer_addr().unwrap(), first.local_addr().unwrap());
        assert_eq!(ACCEPT_GATE.accepted(), 1);
        let cookie = SockRef::from(&got).cookie().unwrap();
        assert_eq!(ACCEPT_GATE.waiting(), HashSet::from([cookie]));

        // There was room for one.
        let second = TcpStream::connect(address).unwrap();
        ACCEPT_GATE.set_room(1, 1);
        // But the first is not picked up yet.
        let too_early = taken.recv_timeout(Duration::from_millis(50)).unwrap_err();
        assert_eq!(too_early, RecvTimeoutError::Timeout);
        ACCEPT_GATE.set_room(1, 0);
        pick_up(got);
        hurried.recv_timeout(PATIENCE).unwrap();
        assert_eq!(taken.try_recv().unwrap_err(), crossbeam_channel::TryRecvError::Empty);
        assert!(ACCEPT_GATE.set_room(1, 0), "somebody waits, but one was given out since this was counted");
        hurried.recv_timeout(PATIENCE).unwrap();
        assert!(ACCEPT_GATE.set_room(1, 1));
        let got = taken.recv_timeout(PATIENCE).unwrap();
        assert_eq!(got.peer_addr().unwrap(), second.local_addr().unwrap());
        pick_up(got);

        // Closed, then given to another loop.
        ACCEPT_GATE.close();
        ACCEPT_GATE.set_room(10, 2);
        let third = TcpStream::connect(address).unwrap();
        assert_eq!(taken.recv_timeout(Duration::from_millis(50)).unwrap_err(), RecvTimeoutError::Timeout);
        ACCEPT_GATE.serve(&listener).unwrap();
        let _loop = start(listener);
        ACCEPT_GATE.open();
        let got = taken.recv_timeout(PATIENCE).unwrap();
        assert_eq!(got.peer_addr().unwrap(), third.local_addr().unwrap());
        pick_up(got);
        while !loop_of_former.is_finished() {
            // It looks up when somebody connects, unless the other is quicker.
            TcpStream::connect(address).unwrap();
            ACCEPT_GATE.set_room(10, ACCEPT_GATE.accepted());
            taken.recv_timeout(Duration::from_millis(10)).into_iter().for_each(pick_up);
        }
        loop_of_former.join().unwrap();
    }
}
