//! Descriptors that are inherited: from systemd, which listens for us
//! (`LISTEN_FDS`, sd_listen_fds(3)), or from ourselves, when the process goes
//! on in another image with its port open and its state kept.

use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::process;

use nix::unistd::execve;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};

/// `pid:listener:state:connections`, for ourselves; the last is a file with the
/// descriptors of the connections as text.
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
    /// Everything, from the former image.
    Image(Image),
}

/// What one image hands over to the next.
#[derive(Debug)]
pub struct Image {
    /// The socket that listens.
    pub listener: OwnedFd,
    /// The state, as in a state file.
    pub state: File,
    /// Connections, with nothing in hand that was read from them.
    pub connections: Vec<OwnedFd>,
}

/// What this process inherited. To be called once, before any descriptor is
/// opened.
pub fn inherited() -> Inherited {
    let own = process::id().to_string();
    if let Ok(text) = env::var(OURS) {
        let parts: Option<Vec<i32>> = text.split(':').map(|part| part.parse().ok()).collect();
        if let Some(&[pid, listener, state, connections]) = parts.as_deref()
            && pid.to_string() == own
        {
            let mut text = String::new();
            // Without the list the connections are lost, and nothing else.
            let _ = File::from(take(connections)).read_to_string(&mut text);
            let connections = text.split_whitespace().filter_map(|number| number.parse().ok());
            let connections = connections.map(take).collect();
            let state = take(state);
            // The image after this one gets its own.
            let _ = fcntl_setfd(&state, FdFlags::CLOEXEC);
            return Inherited::Image(Image { listener: take(listener), state: state.into(), connections });
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

/// Goes on in the image at `program`, with the same arguments. Returns only when
/// that failed.
pub fn replace(program: &Path, listener: &TcpListener, state: &File, connections: &[OwnedFd]) -> io::Error {
    let list = || -> io::Result<File> {
        let mut list = memory()?;
        let numbers = connections.iter().map(|connection| format!("{} ", connection.as_raw_fd()));
        list.write_all(numbers.collect::<String>().as_bytes())?;
        list.rewind()?;
        Ok(list)
    };
    let list = match list() {
        Ok(list) => list,
        Err(error) => return error,
    };
    let keep = |how: FdFlags| {
        let fixed = [listener.as_fd(), state.as_fd(), list.as_fd()].into_iter();
        fixed.chain(connections.iter().map(OwnedFd::as_fd)).try_for_each(|it| fcntl_setfd(it, how))
    };
    if let Err(error) = keep(FdFlags::empty()) {
        return error.into();
    }
    let numbers =
        [listener.as_raw_fd(), state.as_raw_fd(), list.as_raw_fd()].map(|number| number.to_string());
    let ours = format!("{}:{}", process::id(), numbers.join(":"));
    let error = exec(program, &ours);
    // Programs that are started from now on have no use for them.
    let _ = keep(FdFlags::CLOEXEC);
    error
}

/// `execve(2)` as it is: the standard library would unblock all signals, and
/// one that waits would end the new image before it can take it.
fn exec(program: &Path, ours: &str) -> io::Error {
    let text = |text: OsString| CString::new(text.into_vec());
    let run = || -> io::Result<Infallible> {
        let program = text(program.into())?;
        let arguments = env::args_os().map(text).collect::<Result<Vec<_>, _>>()?;
        let others = env::vars_os().filter(|(name, _)| name != OURS);
        let variables = others.chain([(OURS.into(), ours.into())]).map(|(name, value)| {
            let mut variable = name;
            variable.push("=");
            variable.push(value);
            text(variable)
        });
        Ok(execve(&program, &arguments, &variables.collect::<Result<Vec<_>, _>>()?)?)
    };
    match run() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

#[expect(unsafe_code, reason = "an inherited descriptor is only a number")]
fn take(descriptor: RawFd) -> OwnedFd {
    // SAFETY: nothing else in this process owns the number: it was inherited
    // under a name for us, and is taken once.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
