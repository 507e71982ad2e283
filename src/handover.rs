//! Descriptors that are inherited: from systemd, which listens for us
//! (`LISTEN_FDS`, sd_listen_fds(3)), or from ourselves, when the process goes
//! on in another image with its port open and its state kept.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{self, Command};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, dup2, fcntl_setfd};

use crate::server::socket::listeners;

/// `pid:listener:state`, for ourselves.
const OURS: &str = "PAP_COLLECTOR_HANDOVER";
/// Where systemd puts the first descriptor.
const FIRST_OF_SYSTEMD: RawFd = 3;

/// What was inherited.
#[derive(Debug)]
pub enum Inherited {
    /// Nothing.
    Nothing,
    /// A socket that listens, from systemd.
    Listener(OwnedFd),
    /// A socket that listens and the state, from the former image.
    Image(OwnedFd, File),
}

/// What this process inherited. To be called once, before any descriptor is
/// opened.
pub fn inherited() -> Inherited {
    let own = process::id().to_string();
    if let Ok(text) = env::var(OURS) {
        let mut parts = text.split(':');
        let mut number = |expected: bool| parts.next().filter(|_| expected)?.parse::<RawFd>().ok();
        let pid = number(true).filter(|pid| pid.to_string() == own);
        if let (Some(_), Some(listener), Some(state)) = (pid, number(true), number(true)) {
            return Inherited::Image(take(listener), File::from(take(state)));
        }
    }
    let for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid == own);
    let count = env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<u32>().ok());
    if for_us && count.is_some_and(|count| count > 0) {
        return Inherited::Listener(take(FIRST_OF_SYSTEMD));
    }
    Inherited::Nothing
}

/// Memory that looks like a file and outlives the image.
///
/// # Errors
/// The system has none left.
pub fn memory() -> io::Result<File> {
    Ok(File::from(memfd_create("pap-collector-state", MemfdFlags::CLOEXEC)?))
}

/// Goes on in the image at `program`, with the same arguments, the listener
/// and the state. Returns only when that failed.
pub fn replace(program: &Path, listener: &TcpListener, state: &File) -> io::Error {
    let keep = |descriptor| fcntl_setfd(descriptor, FdFlags::empty());
    if let Err(error) = keep(listener.as_fd()).and_then(|()| keep(state.as_fd())) {
        return error.into();
    }
    let ours = format!("{}:{}:{}", process::id(), listener.as_raw_fd(), state.as_raw_fd());
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("pap-collector"));
    Command::new(program).arg0(name).args(arguments).env(OURS, ours).exec()
}

/// Ends all accept loops on `port` but leaves the port open: whoever connects
/// from now on waits for the next loop. `own` is the listener that we keep.
///
/// # Errors
/// No socket can be made.
pub fn close_tap(own: &TcpListener) -> io::Result<()> {
    let address = own.local_addr()?;
    // Something that is no listener takes the place of tiny_http's: its next
    // accept() fails, and the one it is in is ended by a last connection.
    let blind = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    let theirs = listeners(address.port()).into_iter().filter(|&descriptor| descriptor != own.as_raw_fd());
    for descriptor in theirs {
        let mut place = std::mem::ManuallyDrop::new(take(descriptor));
        dup2(&blind, &mut place)?;
        let loopback = std::net::SocketAddr::new(crate::server::loopback(address.ip()), address.port());
        drop(TcpStream::connect_timeout(&loopback, Duration::from_millis(50)));
    }
    Ok(())
}

#[expect(unsafe_code, reason = "an inherited descriptor is only a number")]
fn take(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the number is one that nothing else in this process owns (it was
    // inherited under a name for us), or it is only borrowed as a place for
    // dup2 and never dropped.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
