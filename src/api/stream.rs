//! One observer: a thread that sends what happens, answers what the client says, and ends
//! when the client or the collector ends the stream. It waits for both at once.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use pap_core::fanout::{Topic, Waiting};
use pap_core::text::with_whole_characters;
use pap_core::time::Uptime;
use pap_http::service::Upgraded;
use pap_http::websocket::Accepted;
use pap_process::clock::wall;
use pap_process::panics;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use socket2::SockRef;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use super::Endpoints;
use crate::metrics::Closed;
use crate::observers::Observation;

/// A ping goes out this often; a client that is there answers.
const PING_EVERY: Duration = Duration::from_secs(30);
/// A client that takes nothing for this long is given up.
const STUCK: Duration = Duration::from_secs(30);
/// A thread that cannot send anything looks this often whether the stream is to end.
const LOOK_UP: Duration = Duration::from_millis(500);
/// How long a client has to answer a close.
const GOODBYE: Duration = Duration::from_secs(1);
/// The longest message or frame a client may send, in bytes.
const MOST_RECEIVED: usize = 4096;
/// The most that may wait to be sent, in bytes: all messages that may wait, and answers.
const MOST_UNSENT: usize = 512 * 1024;
/// What is buffered in each direction, in bytes.
const BUFFER: usize = 4096;

/// The connection is over.
struct Over;

/// Serves a client that has opened a stream, to the end.
pub fn serve(
    endpoints: &Endpoints,
    upgraded: Upgraded,
    accepted: &Accepted,
    watch: &Observation,
    topic: &Topic,
) {
    let Upgraded { mut socket, read } = upgraded;
    // The send buffer is empty, so this is one write.
    if socket.write_all(&accepted.to_bytes()).is_err() {
        return;
    }
    let initial = initial(endpoints, topic);
    // Whatever the library does with a client's bytes, even a panic, concerns this client
    // alone.
    let why = panics::contain(|| Stream::new(endpoints, socket, read, watch).run(&initial));
    endpoints.parts.metrics.closed(why.unwrap_or(Closed::Done));
}

/// What an observer gets first.
fn initial(endpoints: &Endpoints, topic: &Topic) -> String {
    let Endpoints { parts, cluster_id, cluster_name, .. } = endpoints;
    let initial = match topic {
        Topic::All => {
            let watched = parts.observers.watched();
            let stats = parts.shared.with(|registry, _| registry.stats_view(&watched));
            json!({ "type": "initial", "cluster_id": cluster_id, "cluster_name": cluster_name, "stats": stats })
        }
        Topic::One(id) => {
            let agent = match parts.shared.with(|registry, now| registry.view(now, id)) {
                Some(mut agent) => {
                    agent.observation_mode = true;
                    json!(agent)
                }
                None => json!({ "agent_uuid": id, "status": "unknown" }),
            };
            json!({ "type": "initial", "cluster_id": cluster_id, "agent": agent })
        }
    };
    initial.to_string()
}

struct Stream<'a> {
    endpoints: &'a Endpoints,
    web: WebSocket<TcpStream>,
    watch: &'a Observation,
    /// Since when the client has taken nothing of what waits for it.
    stuck_since: Option<Uptime>,
    /// When the last ping went out.
    pinged: Uptime,
    /// When we sent the close frame.
    closing_since: Option<Uptime>,
    /// The client has broken the protocol.
    is_broken: bool,
}

impl<'a> Stream<'a> {
    fn new(endpoints: &'a Endpoints, socket: TcpStream, read: Vec<u8>, watch: &'a Observation) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(MOST_UNSENT)
            .max_message_size(Some(MOST_RECEIVED))
            .max_frame_size(Some(MOST_RECEIVED));
        let web = WebSocket::from_partially_read(socket, read, Role::Server, Some(config));
        let pinged = endpoints.parts.shared.clock().uptime();
        Self { endpoints, web, watch, stuck_since: None, pinged, closing_since: None, is_broken: false }
    }

    /// Serves the client to the end, and says why it ended.
    fn run(&mut self, initial: &str) -> Closed {
        // From here on nothing blocks but the wait for both sides.
        let socket = SockRef::from(self.web.get_ref());
        // Longer than for a request: an observer may be lagging.
        let _ = socket.set_tcp_user_timeout(Some(2 * STUCK));
        if self.send(Message::text(initial)).is_err() {
            return Closed::Done;
        }
        loop {
            if self.turn().is_err() {
                return Closed::Done;
            }
            let now = self.now();
            let over =
                |since: Option<Uptime>, longest| since.is_some_and(|since| now.since(since) >= longest);
            if over(self.stuck_since, STUCK) || over(self.closing_since, GOODBYE) {
                return if self.stuck_since.is_some() { Closed::Stalled } else { Closed::Done };
            }
            self.wait();
        }
    }

    /// Sends and receives what can be, without waiting.
    fn turn(&mut self) -> Result<(), Over> {
        if self.stuck_since.is_some() {
            self.flush()?;
        }
        let is_open = self.stuck_since.is_none() && self.closing_since.is_none();
        // First what waits, then the end: a wake-up stands for both.
        let waiting = if is_open { self.watch.take() } else { Waiting::default() };
        if self.watch.is_ending() && self.closing_since.is_none() {
            let is_stopping = self.endpoints.parts.stop.is_stopping();
            let code = if is_stopping { CloseCode::Away } else { CloseCode::Restart };
            self.close(
                code,
                if is_stopping { "the collector stops" } else { "the collector goes on in a moment" },
            )?;
        }
        if is_open && self.closing_since.is_none() {
            for message in waiting.messages {
                self.send(Message::text(self.watch.observers().to_json(&message)))?;
            }
            if waiting.missed > 0 {
                self.send(Message::text(json!({ "type": "lagged", "missed": waiting.missed }).to_string()))?;
            }
            if self.now().since(self.pinged) >= PING_EVERY {
                self.pinged = self.now();
                self.send(Message::Ping(Vec::new().into()))?;
            }
        }
        if self.is_broken { self.drain() } else { self.receive() }
    }

    fn receive(&mut self) -> Result<(), Over> {
        loop {
            // From a client that takes no answers we read no more questions.
            if self.stuck_since.is_some() {
                return Ok(());
            }
            let answer = match self.web.read() {
                Ok(Message::Text(text)) => reply(&text),
                Ok(Message::Binary(_)) => {
                    return self.close(CloseCode::Unsupported, "only text is understood");
                }
                // The library answers these with the next flush.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => {
                    self.flush()?;
                    continue;
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(Error::Capacity(_)) => {
                    return self.fail(CloseCode::Size, "a message may have 4096 bytes");
                }
                Err(Error::Utf8(_)) => return self.fail(CloseCode::Invalid, "text must be UTF-8"),
                Err(Error::Protocol(_)) => {
                    return self.fail(CloseCode::Protocol, "that is not the WebSocket protocol");
                }
                Err(_) => return Err(Over),
            };
            self.send(Message::text(answer))?;
        }
    }

    /// Sends a close frame to a client that has broken the protocol. What still comes is read
    /// and dropped: tungstenite must not parse it, and if we closed the socket with unread
    /// bytes, the kernel would send a reset before the client has read the close frame.
    fn fail(&mut self, code: CloseCode, reason: &'static str) -> Result<(), Over> {
        self.is_broken = true;
        self.close(code, reason)
    }

    fn drain(&mut self) -> Result<(), Over> {
        let mut scratch = [0; 1024];
        loop {
            match self.web.get_mut().read(&mut scratch) {
                Ok(0) => return Err(Over),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Over),
            }
        }
    }

    fn send(&mut self, message: Message) -> Result<(), Over> {
        // What does not fit stays in its buffer.
        match self.web.write(message) {
            Ok(()) => self.flush(),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => self.flush(),
            Err(_) => Err(Over),
        }
    }

    fn close(&mut self, code: CloseCode, reason: &'static str) -> Result<(), Over> {
        self.closing_since.get_or_insert(self.endpoints.parts.shared.clock().uptime());
        match self.web.close(Some(CloseFrame { code, reason: reason.into() })) {
            Ok(()) => self.flush(),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => self.flush(),
            Err(_) => Err(Over),
        }
    }

    fn flush(&mut self) -> Result<(), Over> {
        match self.web.flush() {
            Ok(()) => {
                self.stuck_since = None;
                Ok(())
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                let now = self.now();
                self.stuck_since.get_or_insert(now);
                Ok(())
            }
            Err(_) => Err(Over),
        }
    }

    /// Waits for the client, for news and for the next thing that is due.
    fn wait(&mut self) {
        let now = self.now();
        let due = match (self.closing_since, self.stuck_since) {
            (Some(since), _) => since + GOODBYE,
            (None, Some(since)) => since + STUCK,
            (None, None) => self.pinged + PING_EVERY,
        };
        let is_stuck = self.stuck_since.is_some();
        let wanted = if is_stuck { PollFlags::OUT } else { PollFlags::IN };
        let mut ready = [PollFd::new(self.web.get_ref(), wanted), PollFd::new(self.watch, PollFlags::IN)];
        // News that cannot be sent now must not keep this thread awake; but the end can come
        // at any time.
        let hears_news = !is_stuck && self.closing_since.is_none();
        let (ready, longest) =
            if hears_news { (&mut ready[..], due) } else { (&mut ready[..1], now + LOOK_UP) };
        let wait = Timespec::try_from(due.min(longest).since(now)).ok();
        // If the poll fails, the turn only comes too early.
        let _ = poll(ready, wait.as_ref());
        if is_stuck && ready[0].revents().contains(PollFlags::OUT) {
            // It took something.
            self.stuck_since = Some(self.now());
        }
    }

    fn now(&self) -> Uptime {
        self.endpoints.parts.shared.clock().uptime()
    }
}

/// The answer to a client's message.
fn reply(text: &str) -> String {
    let text = with_whole_characters(text.as_bytes());
    let is_ping = serde_json::from_slice::<Value>(&text).is_ok_and(|message| message["type"] == "ping");
    if is_ping {
        json!({ "type": "pong", "timestamp": wall() }).to_string()
    } else {
        json!({ "type": "error", "error": "Only {\"type\":\"ping\"} is understood" }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_may_hold_text_that_was_cut_between_two_units() {
        assert!(reply(r#"{"type":"ping"}"#).contains("pong"));
        assert!(reply(r#"{"type":"ping","x":"\ud83d"}"#).contains("pong"));
        assert!(reply(r#"{"type":"pin\ud83d"}"#).contains("error"));
    }
}
