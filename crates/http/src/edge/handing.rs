//! Connections that leave their event loop: to a lane, to a stream's thread, to
//! another program, or to their end.

use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering;

use crossbeam_channel::{TrySendError, bounded, select};
use pap_process::threads::spawn;
use rustix::io::{FdFlags, fcntl_setfd};
use slab::Slab;

use super::{Edge, Entry, TURN_ACCEPT};
use crate::common::{Command, Item, Park, Parked, Place};
use crate::connection::{Carried, Connection, LaneJob};
use crate::order::Slot;
use crate::patience::Wait;
use crate::response::{After, Response, write_whole};
use crate::service::{Closed, Service, Upgraded};

impl<S: Service> Edge<S> {
    pub(super) fn give_to_lane(&mut self, slot: Slot, out: &mut Vec<u8>, job: LaneJob) {
        let edge = self.number;
        let is_head = job.answering.is_head;
        let Some((socket, place, mut connection)) = self.take_out(slot) else { return };
        connection.output = std::mem::take(out);
        let after = job.answering.after;
        self.common.in_lanes.fetch_add(1, Ordering::SeqCst);
        let item = Item { edge, socket, place, connection, job };
        if let Err(TrySendError::Full(item) | TrySendError::Disconnected(item)) =
            self.common.lanes.try_send(item)
        {
            self.common.in_lanes.fetch_sub(1, Ordering::SeqCst);
            let Item { socket, place, mut connection, .. } = item;
            let answer =
                Response::error(503, "Too many requests of this kind are waiting, try again").retry_after(1);
            write_whole(&mut connection.output, &answer, &self.stamp.1, after, is_head);
            connection.answered(after, !connection.input.is_empty());
            let slot = self.insert(mio::net::TcpStream::from_std(socket), place, connection);
            self.stand_in_line(slot);
        }
    }

    pub(super) fn give_to_stream(
        &mut self,
        slot: Slot,
        out: &mut Vec<u8>,
        run: Box<dyn FnOnce(Upgraded) + Send>,
        after: After,
        is_head: bool,
    ) {
        let (sender, upgraded) = bounded(1);
        let work = move || {
            if let Ok((socket, read, place)) = upgraded.recv() {
                run(Upgraded { socket, read });
                drop::<Place>(place);
            }
        };
        if let Err(error) = spawn("observer", work) {
            log::warn!("a stream found no thread: {error}; check the limit on processes");
            let answer = Response::error(503, "No stream can be opened now").retry_after(1);
            write_whole(out, &answer, &self.stamp.1, after, is_head);
            let has_more = !self.entries[slot as usize].connection.input.is_empty();
            self.entries[slot as usize].connection.answered(after, has_more);
            if self.send(slot, out) {
                self.stand_in_line(slot);
            }
            return;
        }
        // Answers to earlier requests go out first.
        if !out.is_empty() && !self.send(slot, out) {
            if self.entries.contains(slot as usize) {
                self.close(slot, Closed::Stalled);
            }
            return;
        }
        if let Some((socket, place, connection)) = self.take_out(slot) {
            // The thread waits for it.
            let _ = sender.send((socket, connection.input, place));
        }
    }

    /// Gives a connection out of this loop.
    pub(super) fn take_out(&mut self, slot: Slot) -> Option<(TcpStream, Place, Connection)> {
        let mut entry = self.detach(slot);
        if entry.is_registered && self.poll.registry().deregister(&mut entry.socket).is_err() {
            return None;
        }
        Some((entry.socket.into(), entry.place, entry.connection))
    }

    /// Stands still, so that the next program can take over our connections.
    pub(super) fn park(&mut self, park: &Park) {
        let _ = park.standing.send(());
        loop {
            select! {
                recv(self.commands) -> command => self.take_back(command.ok()),
                recv(park.gather) -> _ => break,
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            self.take_back(Some(command));
        }
        let now = self.common.service.now();
        let keep = |entries: &Slab<Entry>, how: FdFlags| {
            let kept = entries.iter().filter(|(_, entry)| fcntl_setfd(&entry.socket, how).is_ok());
            kept.map(|(slot, _)| slot).collect::<Vec<_>>()
        };
        let kept = if park.keeps { keep(&self.entries, FdFlags::empty()) } else { Vec::new() };
        let kept = kept.into_iter().map(|slot| {
            let entry = &self.entries[slot];
            let carried = Carried {
                idle_age: now.since(entry.since),
                unsent_age: entry.unsent_since.map(|since| now.since(since)),
                ..entry.connection.carried(now)
            };
            Parked { descriptor: entry.socket.as_raw_fd(), carried }
        });
        let _ = park.parked.send(kept.collect());
        // The channel is closed when the re-exec has failed.
        let _ = park.until.recv();
        keep(&self.entries, FdFlags::CLOEXEC);
    }

    /// Takes a connection back that a lane has had. What its client sent after the answered
    /// request is looked at in the next turn, here or in the next program.
    fn take_back(&mut self, command: Option<Command>) {
        // While the loop stands still, only lanes send commands.
        let Some(Command::Adopt(adopted)) = command else { return };
        let (socket, place, connection) = *adopted;
        self.insert_in_line(socket, place, connection);
    }

    /// Takes a connection over from the former program, before the loop runs.
    pub(crate) fn take_over(&mut self, socket: TcpStream, carried: Carried) {
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        let now = self.common.service.now();
        let (since, unsent_since) = (now - carried.idle_age, carried.unsent_age.map(|age| now - age));
        let place = Place::take(&self.open());
        let connection = Connection::handed_over(carried, now);
        let slot = self.insert(mio::net::TcpStream::from_std(socket), place, connection);
        let entry = &mut self.entries[slot as usize];
        (entry.since, entry.unsent_since) = (since, unsent_since);
        self.set_deadline(slot, unsent_since.map(|since| Wait::Unsent { since, taken: now }.until()));
        self.stand_in_line(slot);
    }

    /// Answers what has come, and closes all.
    pub(super) fn end(&mut self) {
        self.common.is_draining.store(true, Ordering::SeqCst);
        for _ in 0..=self.common.most / TURN_ACCEPT {
            if !self.listeners.iter().any(|listener| listener.is_ready) {
                break;
            }
            self.accept();
        }
        for slot in self.entries.iter().map(|(slot, _)| slot).collect::<Vec<_>>() {
            let slot = super::slot(slot);
            if self.entries[slot as usize].lingered.is_none() {
                self.attend(slot);
            }
            if self.entries.contains(slot as usize) {
                self.close(slot, Closed::Stopping);
            }
        }
    }
}
