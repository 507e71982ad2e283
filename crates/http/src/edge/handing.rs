//! Connections that leave their event loop: to a lane, to a stream's thread, to
//! another program, or to their end.

use std::convert::Infallible;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use pap_process::threads::spawn;
use rustix::io::{FdFlags, fcntl_setfd};
use slab::Slab;

use super::{Edge, Entry, TURN_ACCEPT};
use crate::common::{Item, Parked, Place};
use crate::connection::{Connection, LaneJob};
use crate::order::Slot;
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
        // What was asked before it is answered before it.
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

    /// Stands still, for another program image to go on with our connections.
    pub(super) fn park(&mut self, keeps: bool, parked: &Sender<Vec<Parked>>, until: &Receiver<Infallible>) {
        let now = self.common.service.now();
        let keep = |entries: &Slab<Entry>, how: FdFlags| {
            let served = entries.iter().filter(|(_, entry)| entry.lingered.is_none());
            served
                .filter(|(_, entry)| fcntl_setfd(&entry.socket, how).is_ok())
                .map(|(slot, _)| slot)
                .collect::<Vec<_>>()
        };
        let kept = if keeps { keep(&self.entries, FdFlags::empty()) } else { Vec::new() };
        let kept = kept.into_iter().map(|slot| {
            let Entry { socket, connection, .. } = &self.entries[slot];
            Parked {
                descriptor: socket.as_raw_fd(),
                input: connection.input.clone(),
                output: connection.output.clone(),
                request_age: connection.request_since.map(|since| now.since(since)),
                has_asked: connection.has_asked,
                is_ending: connection.ending.is_some(),
            }
        });
        let _ = parked.send(kept.collect());
        // It is closed when the exec has failed.
        let _ = until.recv();
        keep(&self.entries, FdFlags::CLOEXEC);
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
