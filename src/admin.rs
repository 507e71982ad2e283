//! The admin socket: a Unix socket at which the owner of a file may ask what the API
//! answers, without a key. It is seldom used and its clients are trusted, so a library's
//! pool of threads serves it; the server of the port is not concerned.
//!
//! The library's loop that accepts connections ends at the first error, and dies when
//! descriptors run out. [`Admin::run`] notices both and serves the socket anew.

use std::fmt;
use std::fs::{self, remove_file};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pap_http::response::Content;
use pap_process::files::destination;
use pap_process::threads::spawn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::process::umask;
use tiny_http::{Header, Request, Server, StatusCode};

use crate::api::Endpoints;
use crate::parts::Parts;

/// Threads that answer. A client that does not read its answer holds one of them.
const ANSWERERS: usize = 4;
/// How often we look whether connections are accepted.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// If nobody accepted a connection for so long, nobody will.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Why there is no admin socket.
#[derive(Debug)]
pub enum AdminError {
    /// Another process serves a socket at its path.
    Living(PathBuf),
    /// Something that is no socket is at its path. It is left alone.
    NotASocket(PathBuf),
    /// It cannot be bound.
    Bind(PathBuf, io::Error),
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Living(path) => {
                write!(f, "ADMIN_SOCKET: another process listens on {}; give each its own", path.display())
            }
            Self::NotASocket(path) => {
                write!(f, "ADMIN_SOCKET: {} is there and is no socket; name another path", path.display())
            }
            Self::Bind(path, error) => {
                write!(f, "ADMIN_SOCKET: cannot listen on {}: {error}", path.display())
            }
        }
    }
}

/// Listens at `path`. Its owner and group may connect.
///
/// # Errors
/// As [`AdminError`] says; whatever is at the path is still there.
pub fn bind(path: &Path) -> Result<UnixListener, AdminError> {
    let failed = |error| AdminError::Bind(path.to_owned(), error);
    match fs::symlink_metadata(path) {
        Ok(about) if !about.file_type().is_socket() => return Err(AdminError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            // A process that was killed has left it behind.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                remove_file(path).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(_) => return Err(AdminError::Living(path.to_owned())),
        },
        Err(_) => {}
    }
    // The socket gets its mode when it is bound; nobody may connect before it has it.
    let former = umask(Mode::from_raw_mode(0o117));
    let bound = UnixListener::bind(path);
    umask(former);
    bound.map_err(failed)
}

/// The admin socket while it is served.
pub struct Admin {
    path: PathBuf,
    listener: UnixListener,
    endpoints: Arc<Endpoints>,
    /// Requests that are being answered.
    busy: AtomicUsize,
}

impl Admin {
    /// An admin socket at `path`: the socket that the former program handed over, or else a
    /// new one.
    ///
    /// # Errors
    /// As [`AdminError`] says.
    pub fn new(
        path: &Path,
        handed_over: Option<OwnedFd>,
        endpoints: Arc<Endpoints>,
    ) -> Result<Self, AdminError> {
        let path = destination(path).map_err(|error| AdminError::Bind(path.to_owned(), error))?;
        let handed_over = handed_over.map(UnixListener::from);
        // If the setting was changed, the socket has to be at the other path.
        let is_ours = |listener: &UnixListener| {
            listener.local_addr().is_ok_and(|address| address.as_pathname() == Some(&*path)) && path.exists()
        };
        let listener = match handed_over.filter(is_ours) {
            Some(listener) => listener,
            None => bind(&path)?,
        };
        Ok(Self { path, listener, endpoints, busy: AtomicUsize::new(0) })
    }

    /// The socket, for an in-place upgrade.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Whether no request is being answered.
    pub fn is_idle(&self) -> bool {
        self.busy.load(Ordering::SeqCst) == 0
    }

    /// Serves it until the threads are to end, and removes its file.
    pub fn run(self: &Arc<Self>, parts: &Parts) {
        while !parts.stop.is_stopping() {
            match self.serve(parts) {
                Ok(()) if parts.stop.is_stopping() => {}
                Ok(()) => log::warn!("the admin socket accepted no connections; it is served anew"),
                Err(error) => log::error!("the admin socket cannot be served: {error}"),
            }
            parts.stop.wait(LONGEST_WAIT);
        }
        let _ = remove_file(&self.path);
    }

    /// Serves it until no connections are accepted any more, or the threads are to end.
    fn serve(self: &Arc<Self>, parts: &Parts) -> io::Result<()> {
        let server = Server::from_listener(self.listener.try_clone()?, None).map_err(io::Error::other)?;
        // Dropping it would remove the file of the socket, which is served again.
        let server: &'static Server = Box::leak(Box::new(server));
        let is_over = Arc::new(AtomicBool::new(false));
        for number in 0..ANSWERERS {
            let (admin, is_over) = (Arc::clone(self), Arc::clone(&is_over));
            spawn(&format!("admin-{number}"), move || {
                while let Ok(request) = server.recv() {
                    admin.busy.fetch_add(1, Ordering::SeqCst);
                    respond(&admin.endpoints, request);
                    admin.busy.fetch_sub(1, Ordering::SeqCst);
                }
                is_over.store(true, Ordering::SeqCst);
            })?;
        }
        while !parts.stop.wait(LOOK_EVERY) {
            let waits = || is_waiting(&self.listener);
            if is_over.load(Ordering::SeqCst) || (waits() && !parts.stop.wait(LONGEST_WAIT) && waits()) {
                break;
            }
        }
        (0..ANSWERERS).for_each(|_| server.unblock());
        Ok(())
    }
}

/// Whether a connection waits to be accepted.
fn is_waiting(listener: &UnixListener) -> bool {
    let mut watched = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut watched, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

fn respond(endpoints: &Arc<Endpoints>, request: Request) {
    let mut response = endpoints.admin(&request.method().to_string(), request.url());
    let then = response.take_then();
    let headers = response.headers().filter_map(|(name, value)| Header::from_bytes(name, value).ok());
    let (status, headers) = (StatusCode(response.status), headers.collect());
    // If this fails, the client has gone and needs no answer.
    let _ = match response.content {
        Content::Whole(body) => {
            let length = body.len();
            request.respond(tiny_http::Response::new(status, headers, &body[..], Some(length), None))
        }
        Content::Stream(body) => request.respond(tiny_http::Response::new(status, headers, body, None, None)),
    };
    if let Some(then) = then {
        then();
    }
}
