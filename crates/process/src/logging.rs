//! The log: lines for people, or one JSON object a line.
//!
//! A reader that stalls (a full pipe) must not stall the program. So a thread of its
//! own writes the lines, and they reach it through a bounded channel. When the channel
//! is full, lines are dropped; as soon as there is room, a line says how many.
//!
//! Whatever is logged stays one line, and nothing in it is obeyed by a terminal: see
//! [`escape`](crate::escape).

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use env_logger::{Builder, Logger, Target};
use log::kv::Key;
use log::{Level, Metadata, Record};
use serde::Serialize;

use crate::clock::wall;
use crate::escape::{in_json, shown};
use crate::settings::{Fallback, Kind};
use crate::threads::spawn;
use pap_core::time::Wall;

crate::settings! {
    /// what is logged; debug shows every heartbeat
    RUST_LOG: Kind::LogFilter, Fallback::Value("info");
    /// how log lines look: text is for people, json is one object a line
    LOG_FORMAT: Kind::Choice(&["text", "json"]), Fallback::Value("text");
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        [Self::Text, Self::Json].into_iter().find(|format| format.to_string() == name).ok_or(())
    }
}

/// The most lines that may wait for the reader of the log.
const MOST_WAITING: usize = 2048;

/// What the log's thread is sent.
enum Message {
    Line(Vec<u8>),
    /// The log's thread answers when it has written everything before this message.
    Flush(Sender<()>),
}

/// Sends lines to the log's thread, and flushes it at the end.
#[derive(Clone)]
pub struct Log {
    /// The messages are boxed: a channel allocates all its places at once.
    messages: Sender<Box<Message>>,
    dropped: Arc<AtomicU64>,
}

impl Log {
    /// Starts logging to standard error.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(filter: &str, format: LogFormat) -> io::Result<Self> {
        let (messages, receiver) = bounded(MOST_WAITING);
        let log = Self { messages, dropped: Arc::default() };
        let dropped = Arc::clone(&log.dropped);
        spawn("log", move || write_lines(&receiver, &dropped, format))?;
        let logger = Builder::new()
            .parse_filters(filter)
            .format(move |line, record| match format {
                LogFormat::Text => write_text(line, wall(), record),
                LogFormat::Json => write_json(line, wall(), record),
            })
            .target(Target::Pipe(Box::new(log.clone())))
            .build();
        log::set_max_level(logger.filter());
        log::set_boxed_logger(Box::new(Discreet(logger))).map_err(io::Error::other)?;
        Ok(log)
    }

    /// Waits until everything that was logged is written, at most for twice `longest`.
    pub fn flush_within(&self, longest: Duration) {
        let (done, written) = bounded(1);
        if self.messages.send_timeout(Box::new(Message::Flush(done)), longest).is_ok() {
            let _ = written.recv_timeout(longest);
        }
    }
}

/// A log that tells the HTTP client that nobody traces it: it would log every byte that
/// it sends, the station's key included, and the queries of URLs.
struct Discreet(Logger);

impl log::Log for Discreet {
    fn enabled(&self, about: &Metadata<'_>) -> bool {
        let is_secret = about.level() == Level::Trace && about.target().starts_with("ureq");
        !is_secret && self.0.enabled(about)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !line.is_empty() && self.messages.try_send(Box::new(Message::Line(line.to_vec()))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(messages: &Receiver<Box<Message>>, dropped: &AtomicU64, format: LogFormat) {
    let mut out = io::stderr();
    for message in messages {
        match *message {
            // If nobody can read the log any more, the program goes on.
            Message::Line(line) => drop(out.write_all(&line)),
            Message::Flush(done) => drop(done.send(())),
        }
        let count = dropped.swap(0, Ordering::Relaxed);
        if count > 0 {
            let text =
                format_args!("{count} log lines were dropped: the reader of the log is too slow").to_string();
            let args = format_args!("{text}");
            let record = Record::builder().level(Level::Warn).args(args).build();
            let _ = match format {
                LogFormat::Text => write_text(&mut out, wall(), &record),
                LogFormat::Json => write_json(&mut out, wall(), &record),
            };
        }
    }
}

fn agent_uuid(record: &Record<'_>) -> Option<String> {
    record.key_values().get(Key::from_str("agent_uuid")).map(|value| value.to_string())
}

fn write_text(out: &mut impl Write, at: Wall, record: &Record<'_>) -> io::Result<()> {
    write!(out, "{at} {:5} {}", record.level(), shown(record.args()))?;
    if let Some(agent) = agent_uuid(record) {
        write!(out, " agent_uuid={}", shown(agent))?;
    }
    writeln!(out)
}

fn write_json(out: &mut impl Write, at: Wall, record: &Record<'_>) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        timestamp: Wall,
        level: &'a str,
        message: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        agent_uuid: Option<String>,
    }
    let line = Line {
        timestamp: at,
        level: record.level().as_str(),
        message: record.args().to_string(),
        agent_uuid: agent_uuid(record),
    };
    writeln!(out, "{}", in_json(&serde_json::to_string(&line)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_when_what_and_who() {
        let agent: &[(&str, &str)] = &[("agent_uuid", "a-1")];
        let record = Record::builder()
            .level(Level::Warn)
            .args(format_args!("it \"is\" dead"))
            .key_values(&agent)
            .build();
        let (mut text, mut json) = (Vec::new(), Vec::new());
        write_text(&mut text, Wall(0), &record).unwrap();
        write_json(&mut json, Wall(0), &record).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "1970-01-01T00:00:00.000Z WARN  it \"is\" dead agent_uuid=a-1\n"
        );
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let expected = serde_json::json!({
            "timestamp": "1970-01-01T00:00:00.000Z", "level": "WARN",
            "message": "it \"is\" dead", "agent_uuid": "a-1",
        });
        assert_eq!(json, expected);
    }
}
