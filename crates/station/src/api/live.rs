//! `WS /api/live`: says what has changed, so that a page asks for it again.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pap_http::service::Upgraded;
use pap_http::websocket::Accepted;
use pap_process::panics;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use socket2::SockRef;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use crate::VERSION;
use crate::station::Station;

/// The most pages that are told.
pub const MAX_WATCHERS: usize = 64;
/// How often a thread looks for changes.
const LOOK_UP: Duration = Duration::from_millis(500);
/// A ping goes out after so many looks without a change.
const PING_AFTER: u32 = 60;
/// A client that takes nothing for this long is given up.
const STUCK: Duration = Duration::from_secs(30);
/// The longest message that a client may send, in bytes.
const MAX_RECEIVED: usize = 1024;
/// What is buffered, in bytes.
const BUFFER: usize = 4096;

/// A place among the pages that are told, until it is dropped.
pub struct Place(Arc<Station>);

impl Place {
    /// Takes a place; None if all are taken.
    pub fn take(station: &Arc<Station>) -> Option<Self> {
        let taken = station.watchers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
            (count < MAX_WATCHERS).then_some(count + 1)
        });
        taken.ok().map(|_| Self(Arc::clone(station)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves a page to the end.
pub fn serve(station: &Arc<Station>, upgraded: Upgraded, accepted: &Accepted, place: Place) {
    let Upgraded { mut socket, read } = upgraded;
    // The send buffer is empty, so this is one write.
    if socket.write_all(&accepted.to_bytes()).is_err() {
        return;
    }
    // Whatever the library does with a client's bytes, even a panic, concerns this client alone.
    let _ = panics::contain(|| watch(station, socket, read));
    drop(place);
}

fn watch(station: &Station, socket: TcpStream, read: Vec<u8>) {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(BUFFER * 4)
        .max_message_size(Some(MAX_RECEIVED))
        .max_frame_size(Some(MAX_RECEIVED));
    let _ = SockRef::from(&socket).set_tcp_user_timeout(Some(STUCK));
    let mut web = WebSocket::from_partially_read(socket, read, Role::Server, Some(config));
    let mut known = station.news.now();
    let mut idle = 0;
    if !is_open(web.send(Message::text(json!({ "type": "hello", "version": VERSION }).to_string()))) {
        return;
    }
    while !station.stop.is_stopping() {
        let wait = Timespec::try_from(LOOK_UP).ok();
        let mut ready = [PollFd::new(web.get_ref(), PollFlags::IN)];
        // If the poll fails, the look only comes too early.
        let _ = poll(&mut ready, wait.as_ref());
        let is_readable = !ready[0].revents().is_empty();
        if is_readable {
            match web.read() {
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
                // What a page sends is ignored.
                Ok(_) => {}
            }
            if !is_open(web.flush()) {
                return;
            }
            // A page that sends all the time must not keep this thread busy.
            station.stop.wait(Duration::from_millis(50));
        }
        let now = station.news.now();
        let changed: Vec<_> =
            now.iter().zip(&known).filter(|(now, was)| now != was).map(|(now, _)| now.0).collect();
        known = now;
        idle += 1;
        let message = if !changed.is_empty() {
            Message::text(json!({ "type": "changed", "what": changed }).to_string())
        } else if idle >= PING_AFTER {
            // As text: a page's script does not see the protocol's own pings.
            Message::text(json!({ "type": "ping" }).to_string())
        } else {
            continue;
        };
        idle = 0;
        if !is_open(web.send(message)) {
            return;
        }
    }
    let _ = web.close(None);
    let _ = web.flush();
}

/// Whether the connection goes on. What does not fit stays in its buffer, which is small.
fn is_open(sent: Result<(), Error>) -> bool {
    match sent {
        Ok(()) => true,
        Err(Error::Io(error)) => error.kind() == std::io::ErrorKind::WouldBlock,
        Err(_) => false,
    }
}
