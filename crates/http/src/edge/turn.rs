//! One turn of one connection: unsent answers go out, what has come is read once and
//! answered, and the connection is put into the queue where it belongs.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pap_core::time::{Tick, Wall};

use super::{Edge, Entry};
use crate::connection::{Desk, Ending, Step};
use crate::order::{Queue, Slot};
use crate::parse::Refused;
use crate::patience::Wait;
use crate::response::write_stamp;
use crate::service::{Closed, Service};

/// The most that is read from a connection in one turn, in bytes.
pub(super) const TURN_READ: usize = 16 * 1024;

/// How many bytes a client may go on sending after the last answer.
const MOST_LINGERED: usize = 64 * 1024;

impl<S: Service> Edge<S> {
    /// One turn of one connection.
    pub(super) fn attend(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot as usize];
        if entry.lingered.is_some() {
            return self.linger(slot);
        }
        if !entry.connection.output.is_empty() {
            let output = std::mem::take(&mut entry.connection.output);
            if !self.send(slot, &output) {
                return;
            }
        }
        if self.entries[slot as usize].connection.ending.is_some() {
            return self.finish(slot);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = self.read(slot, &mut buffer);
        if let Some(length) = outcome {
            self.serve(slot, &buffer[..length]);
        }
        self.buffer = buffer;
    }

    /// Reads once, after what was kept. Returns how many bytes there are to look at; None if
    /// the connection is gone.
    pub(super) fn read(&mut self, slot: Slot, buffer: &mut [u8]) -> Option<usize> {
        let entry = &mut self.entries[slot as usize];
        let kept = std::mem::take(&mut entry.connection.input);
        let length = kept.len();
        buffer[..length].copy_from_slice(&kept);
        if buffer.len() - length < TURN_READ {
            // Whole requests wait here: earlier answers had to be sent first.
            self.stand_in_line(slot);
            return Some(length);
        }
        let read = loop {
            match entry.socket.read(&mut buffer[length..length + TURN_READ]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => {
                (entry.connection.is_read_closed, entry.has_end) = (true, false);
                Some(length)
            }
            Ok(count) => {
                // If the read filled less than its room, no more has come, unless an event said
                // that there is an end to be read.
                if (count == TURN_READ || entry.has_end) && !std::mem::replace(&mut entry.is_in_line, true) {
                    self.line.push_back(slot);
                }
                Some(length + count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                entry.has_end = false;
                Some(length)
            }
            // The client has reset it.
            Err(_) => {
                self.remove(slot);
                None
            }
        }
    }

    /// Has the requests in `bytes` answered.
    pub(super) fn serve(&mut self, slot: Slot, bytes: &[u8]) {
        let now = self.common.service.now();
        self.refresh_stamp(self.common.service.wall());
        let (mut out, mut scratch) = (std::mem::take(&mut self.out), std::mem::take(&mut self.scratch));
        let mut body = std::mem::take(&mut self.body);
        let common = Arc::clone(&self.common);
        let mut desk = Desk {
            service: &*common.service,
            stamp: &self.stamp.1,
            out: &mut out,
            body: &mut body,
            scratch: &mut scratch,
            says_close: common.says_close(),
            now,
            peer: self.entries[slot as usize].peer,
        };
        let entry = &mut self.entries[slot as usize];
        let had_asked = entry.connection.has_asked;
        let (done, step) = entry.connection.take_in(bytes, &mut desk);
        if bytes.len() > done {
            entry.connection.input = bytes[done..].to_vec();
        }
        if entry.connection.has_asked && !had_asked {
            common.asked.fetch_add(1, Ordering::Relaxed);
        }
        let is_alive = match step {
            Step::Waiting => out.is_empty() || self.send(slot, &out),
            Step::Full => {
                let is_sent = self.send(slot, &out);
                if is_sent {
                    self.stand_in_line(slot);
                }
                is_sent
            }
            Step::Lane(job) => {
                self.give_to_lane(slot, &mut out, job);
                false
            }
            Step::Stream(run, answering) => {
                self.give_to_stream(slot, &mut out, run, answering.after, answering.is_head);
                false
            }
        };
        out.clear();
        (self.out, self.scratch, self.body) = (out, scratch, body);
        if is_alive {
            self.settle(slot, done > 0, now);
        }
    }

    /// Puts a connection into the queue where it belongs, after a turn in which all was sent.
    pub(super) fn settle(&mut self, slot: Slot, was_answered: bool, now: Tick) {
        let entry = &mut self.entries[slot as usize];
        if entry.connection.ending.is_some() {
            return self.finish(slot);
        }
        let queue = if entry.connection.has_asked { Queue::Idle } else { Queue::Newcomers };
        if was_answered || entry.links.queue() != queue {
            if was_answered {
                entry.since = now;
            }
            self.move_to(slot, queue);
        }
        let deadline =
            self.entries[slot as usize].connection.request_since.map(|since| Wait::Request(since).until());
        self.set_deadline(slot, deadline);
        self.count(slot);
        self.register(slot);
    }

    /// Sends bytes of answers. Returns whether all of them went out. If not, the connection is
    /// gone or held back, and its turn is over.
    pub(super) fn send(&mut self, slot: Slot, bytes: &[u8]) -> bool {
        let now = self.common.service.now();
        let entry = &mut self.entries[slot as usize];
        let mut rest = bytes;
        while !rest.is_empty() {
            match entry.socket.write(rest) {
                Ok(0) => break,
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.remove(slot);
                    return false;
                }
            }
        }
        if rest.is_empty() {
            if entry.unsent_since.take().is_some() {
                self.set_deadline(slot, None);
                self.count(slot);
                self.register(slot);
            }
            return true;
        }
        entry.connection.output = rest.to_vec();
        let is_new = entry.unsent_since.is_none();
        let since = *entry.unsent_since.get_or_insert(now);
        if is_new || rest.len() < bytes.len() {
            self.set_deadline(slot, Some(Wait::Unsent { since, taken: now }.until()));
        }
        self.move_to(slot, Queue::Busy);
        self.count(slot);
        self.register(slot);
        false
    }

    /// Ends a connection: all is sent, and nothing more is answered.
    pub(super) fn finish(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot as usize];
        if !entry.connection.lingers || entry.connection.is_read_closed {
            return self.remove_ended(slot);
        }
        // If this fails, the connection is gone, and the next read says so.
        let _ = entry.socket.shutdown(Shutdown::Write);
        entry.lingered = Some(0);
        entry.connection.input = Vec::new();
        let due = Wait::Linger(self.common.service.now()).until();
        self.set_deadline(slot, Some(due));
        self.count(slot);
        self.move_to(slot, Queue::Busy);
        self.register(slot);
        self.linger(slot);
    }

    /// Reads and drops what a client still sends after its last answer.
    pub(super) fn linger(&mut self, slot: Slot) {
        let Entry { socket, lingered, .. } = &mut self.entries[slot as usize];
        let total = lingered.get_or_insert(0);
        let mut unread = [0; 4096];
        let is_over = loop {
            match socket.read(&mut unread) {
                Ok(0) => break true,
                Ok(count) => {
                    *total += count;
                    if *total > MOST_LINGERED {
                        break true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break true,
            }
        };
        if is_over {
            self.remove_ended(slot);
        }
    }

    /// Closes a connection whose last answer has said that it ends.
    pub(super) fn remove_ended(&mut self, slot: Slot) {
        match self.entries[slot as usize].connection.ending {
            Some(Ending::Refused) => self.close(slot, Closed::Refused),
            Some(Ending::Said) => self.close(slot, Closed::Done),
            Some(Ending::ByClient) | None => self.remove(slot),
        }
    }

    /// Answers an unfinished request with an error and ends its connection.
    pub(super) fn refuse(&mut self, slot: Slot, why: Refused) {
        self.refresh_stamp(self.common.service.wall());
        let mut out = Vec::new();
        let common = Arc::clone(&self.common);
        let mut desk = Desk {
            service: &*common.service,
            stamp: &self.stamp.1,
            out: &mut out,
            body: &mut [],
            scratch: &mut self.scratch,
            says_close: true,
            now: common.service.now(),
            peer: None,
        };
        let entry = &mut self.entries[slot as usize];
        entry.connection.refuse(why, &mut desk);
        entry.connection.input = Vec::new();
        if self.send(slot, &out) {
            self.finish(slot);
        }
    }

    pub(super) fn refresh_stamp(&mut self, now: Wall) {
        if self.stamp.0 != now.0 / 1000 {
            self.stamp.0 = now.0 / 1000;
            write_stamp(&mut self.stamp.1, S::NAME, now.into());
        }
    }
}
