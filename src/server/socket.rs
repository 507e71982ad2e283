//! The sockets behind our connections.
//!
//! tiny_http owns them and lends none, and gives no way to look at one or to
//! close one. So they are found among our own descriptors by their addresses.
//! Where else `unsafe` code is, ARCHITECTURE.md says.

use std::fs::read_dir;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::time::Duration;

use socket2::SockRef;

/// Packets that may be under way without anybody's falling behind.
const UNDERWAY_PACKETS: u32 = 16;

/// Where descriptors are looked for when there is none left to list them with.
const BLIND_END: RawFd = 1 << 16;

/// One of our connections. tiny_http holds each by two descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    descriptor: RawFd,
    /// The kernel's own number for the socket, never used twice.
    pub cookie: u64,
    /// The other end.
    pub peer: SocketAddr,
}

/// What the kernel knows of a connection (`TCP_INFO`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that the peer sent.
    pub received: u64,
    /// Those of them that nobody has read yet.
    pub unread: u64,
    /// Bytes of ours that the peer has taken.
    pub acknowledged: u64,
    /// Whether something of ours waits to be taken, beyond what a busy
    /// connection always has under way.
    pub pending: bool,
    /// How long the peer has sent nothing.
    pub quiet: Duration,
    /// Whether the next move is ours. The kernel does not know that.
    pub in_hand: bool,
    /// Whether it has become a stream, whose own thread sees to it.
    pub watches: bool,
}

impl Connection {
    /// What the kernel knows of it; none when it is gone.
    pub fn traffic(&self) -> Option<Traffic> {
        with_borrowed(self.descriptor, |borrowed| {
            (SockRef::from(&borrowed).cookie().ok()? == self.cookie).then(|| traffic(borrowed))?
        })
    }

    /// Ends it in both directions: whoever reads sees its end, whoever writes
    /// an error. With `abort` the peer gets a reset as soon as it is let go of,
    /// and the kernel keeps nothing of it.
    pub fn shut(&self, abort: bool) {
        let end = |socket: &SockRef<'_>| {
            if abort {
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
            // The peer may have ended it already.
            let _ = socket.shutdown(Shutdown::Both);
        };
        // A duplicate cannot be exchanged for another socket between the look
        // and the act. Without a descriptor left, the look alone must do.
        match duplicate(self.descriptor) {
            Some(stream) if SockRef::from(&stream).cookie().ok() == Some(self.cookie) => {
                end(&SockRef::from(&stream));
            }
            Some(_) => {}
            None => with_borrowed(self.descriptor, |borrowed| {
                let socket = SockRef::from(&borrowed);
                if socket.cookie().ok() == Some(self.cookie) {
                    end(&socket);
                }
            }),
        }
    }

    /// A descriptor of our own for it.
    pub fn stream(&self) -> Option<TcpStream> {
        duplicate(self.descriptor).filter(|stream| SockRef::from(stream).cookie().ok() == Some(self.cookie))
    }
}

/// All connections to our `port`, each once.
pub fn connections(port: u16) -> Vec<Connection> {
    let mut found: Vec<Connection> =
        descriptors().into_iter().filter_map(|descriptor| connection(descriptor, port)).collect();
    found.sort_unstable_by_key(|connection| connection.cookie);
    found.dedup_by_key(|connection| connection.cookie);
    found
}

/// The sockets that were connections to our `port` and have no peer any more,
/// by their cookies.
pub fn orphans(port: u16) -> Vec<u64> {
    let orphan = |descriptor| {
        with_borrowed(descriptor, |borrowed| {
            let socket = SockRef::from(&borrowed);
            let is_ours = local_port(&socket) == Some(port) && socket.peer_addr().is_err();
            (is_ours && !socket.is_listener().unwrap_or(true)).then(|| socket.cookie().ok()).flatten()
        })
    };
    descriptors().into_iter().filter_map(orphan).collect()
}

/// Which of these sockets, given by their cookies, are still open.
pub fn still_open(cookies: &dyn Fn(u64) -> bool) -> Vec<u64> {
    let cookie = |descriptor| with_borrowed(descriptor, |borrowed| SockRef::from(&borrowed).cookie().ok());
    let mut open: Vec<u64> =
        descriptors().into_iter().filter_map(cookie).filter(|&cookie| cookies(cookie)).collect();
    open.sort_unstable();
    open.dedup();
    open
}

/// Our own open descriptors.
fn descriptors() -> Vec<RawFd> {
    match read_dir("/proc/self/fd") {
        Ok(entries) => {
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
        }
        // No descriptor is left to read with, or there is no /proc.
        Err(_) => (0..BLIND_END)
            .filter(|&descriptor| {
                with_borrowed(descriptor, |borrowed| SockRef::from(&borrowed).r#type().is_ok())
            })
            .collect(),
    }
}

fn connection(descriptor: RawFd, port: u16) -> Option<Connection> {
    with_borrowed(descriptor, |borrowed| {
        let socket = SockRef::from(&borrowed);
        if local_port(&socket) != Some(port) {
            return None;
        }
        let peer = socket.peer_addr().ok()?.as_socket()?;
        Some(Connection { descriptor, cookie: socket.cookie().ok()?, peer })
    })
}

fn local_port(socket: &SockRef<'_>) -> Option<u16> {
    Some(socket.local_addr().ok()?.as_socket()?.port())
}

fn duplicate(descriptor: RawFd) -> Option<TcpStream> {
    with_borrowed(descriptor, |borrowed| borrowed.try_clone_to_owned()).ok().map(TcpStream::from)
}

#[expect(unsafe_code, reason = "tiny_http owns the descriptor and does not lend it")]
fn with_borrowed<R>(descriptor: RawFd, look: impl FnOnce(BorrowedFd<'_>) -> R) -> R {
    // SAFETY: the number was open a moment ago. If it has been closed since,
    // the calls made on it fail with EBADF or meet another of our own
    // descriptors; they only look or duplicate, or act after the socket's
    // cookie was seen to be the right one.
    look(unsafe { BorrowedFd::borrow_raw(descriptor) })
}

/// Whoever reads from the socket waits until there are so many bytes
/// (`SO_RCVLOWAT`, socket(7)), also one who waits already.
#[expect(unsafe_code, reason = "no safe crate sets SO_RCVLOWAT")]
pub fn set_low_water(socket: BorrowedFd<'_>, bytes: i32) {
    const LENGTH: libc::socklen_t = 4;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVLOWAT);
    // SAFETY: the kernel reads four bytes from `bytes`, which has that many.
    // If it refuses, whoever reads is as quick as before.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const bytes).cast(), LENGTH) };
}

#[expect(unsafe_code, reason = "no safe crate reads TCP_INFO")]
fn traffic(socket: BorrowedFd<'_>) -> Option<Traffic> {
    /// `struct tcp_info` of linux/tcp.h up to `tcpi_notsent_bytes` (Linux 4.6).
    const LENGTH: usize = 148;
    let mut info = [0_u8; LENGTH];
    let mut length = libc::socklen_t::try_from(LENGTH).ok()?;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has
    // that many, and how many it wrote to `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 || (length as usize) < LENGTH {
        return None;
    }
    let small = |at: usize| u32::from_ne_bytes(info[at..at + 4].try_into().unwrap_or_default());
    let big = |at: usize| u64::from_ne_bytes(info[at..at + 8].try_into().unwrap_or_default());
    Some(Traffic {
        received: big(128),
        unread: rustix::io::ioctl_fionread(socket).unwrap_or(0),
        acknowledged: big(120),
        pending: small(24) > UNDERWAY_PACKETS || small(144) > 0,
        quiet: Duration::from_millis(small(52).into()),
        in_hand: false,
        watches: false,
    })
}
