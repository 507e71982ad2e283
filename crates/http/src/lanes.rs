//! Lanes: threads that give the answers which may be big or have to be waited
//! for. A lane has the connection for as long as that takes, under a deadline,
//! and gives it back to its event loop.

use std::io::{self, Read, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, select};
use pap_core::time::Monotonic;
use pap_process::clock::monotonic;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::common::{Command, Common, Item};
use crate::connection::LaneJob;
use crate::request::Version;
use crate::response::{After, Content, Length, write_stamp, write_stream_head, write_whole};
use crate::service::{Closed, Service};

/// A client may take this long to read an answer, however steadily it reads,
const LONGEST: Duration = Duration::from_secs(30);
/// and this long while others wait for a lane.
const LONGEST_BEFORE_OTHERS: Duration = Duration::from_secs(3);
/// A lane that waits for a client looks up this often: others may have come.
const LOOK_UP: Duration = Duration::from_millis(500);
/// What is read from a stream at once.
const CHUNK: usize = 16 * 1024;

/// Gives answers until the server is stopped and none is left.
pub fn run<S: Service>(
    common: &Arc<Common<S>>,
    items: &Receiver<Item>,
    stop: &Receiver<std::convert::Infallible>,
) {
    loop {
        let item = select! {
            recv(items) -> item => item.ok(),
            recv(stop) -> _ => match items.try_recv() {
                Ok(item) => Some(item),
                Err(_) => return,
            },
        };
        if let Some(item) = item {
            answer(common, items, item);
            common.in_lanes.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn answer<S: Service>(common: &Arc<Common<S>>, waiting: &Receiver<Item>, item: Item) {
    let Item { edge, socket, place, mut connection, job } = item;
    let LaneJob { work, answering } = job;
    let mut response = work();
    let then = response.then.take();
    let mut out = Out { socket: &socket, began: monotonic(), waiting };
    let mut before = std::mem::take(&mut connection.output);
    let mut stamp = String::new();
    write_stamp(&mut stamp, S::NAME, common.service.wall().into());
    let is_chunked = answering.version == Version::Http11;
    let is_stream = matches!(response.content, Content::Stream(_));
    // Without chunks the end of the connection is the end of the answer.
    let after = if is_stream && !is_chunked { After::Close } else { answering.after };
    let sent = if is_stream {
        let length = if is_chunked { Length::Chunked } else { Length::Unsaid };
        write_stream_head(&mut before, &response, &stamp, length, after);
        let Content::Stream(content) = response.content else { return };
        out.send(&before)
            .and_then(|()| if answering.is_head { Ok(()) } else { stream(content, &mut out, is_chunked) })
    } else {
        write_whole(&mut before, &response, &stamp, after, answering.is_head);
        out.send(&before)
    };
    if let Some(act) = then {
        act();
    }
    match sent {
        Ok(()) => {
            connection.answered(after, !connection.input.is_empty());
            common.edges()[edge].command(Command::Adopt(Box::new((socket, place, connection))));
        }
        // A part of an answer is no answer; or the client has gone.
        Err(error) if error.kind() == io::ErrorKind::TimedOut => common.service.closed(Closed::Stalled),
        Err(_) => {}
    }
}

/// Sends what a stream makes, in chunks where the client knows them
/// (RFC 9112 §7.1).
fn stream(mut content: Box<dyn Read + Send>, out: &mut Out<'_>, is_chunked: bool) -> io::Result<()> {
    let mut piece = vec![0; CHUNK];
    let mut framed = Vec::with_capacity(CHUNK + 16);
    loop {
        let length = content.read(&mut piece)?;
        framed.clear();
        if is_chunked {
            write!(framed, "{length:x}\r\n")?;
        }
        framed.extend_from_slice(&piece[..length]);
        if is_chunked {
            framed.extend_from_slice(b"\r\n");
        }
        out.send(&framed)?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// Writes to a client that has until a deadline to take all of it.
struct Out<'a> {
    socket: &'a TcpStream,
    began: Monotonic,
    waiting: &'a Receiver<Item>,
}

impl Out<'_> {
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the client takes more.
    fn wait(&self) -> io::Result<()> {
        let longest = if self.waiting.is_empty() { LONGEST } else { LONGEST_BEFORE_OTHERS };
        let left = longest.saturating_sub(monotonic().since(self.began));
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let wait = Timespec::try_from(left.min(LOOK_UP)).ok();
        // If it fails, the next attempt to write says why.
        let _ = poll(&mut [PollFd::new(self.socket, PollFlags::OUT)], wait.as_ref());
        Ok(())
    }
}
