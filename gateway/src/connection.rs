//! One open stream: its way out, what waits to be written, and where it stands.
//!
//! A connection is live (the hub hands it events) or joining (its [`Join`] reads history). It knows
//! neither its worker's other connections nor the broker; the hub asks it and acts.

use std::io::{self, IoSlice};
use std::sync::Arc;

use smallvec::SmallVec;
use sse_contract::{Channel, EventId};

use crate::frame::SharedFrame;
use crate::join::{Item, Join};
use crate::outbox::{Block, Outbox};
use crate::sink::Sink;

/// Time in tenths of a second since the hub began: what a connection can afford to keep.
pub type Deciseconds = u32;

/// One channel of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Membership {
    /// The hub's index of the channel.
    pub channel: u32,
    /// Where the connection stands in the channel's list of subscribers.
    pub place: u32,
}

/// What becomes of a live event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Written, whole.
    Written,
    /// Queued behind what the socket has not accepted.
    Queued,
    /// Not for this connection now: sent before, or kept by its join.
    Passed,
    /// Live only, and the connection is not live.
    Missed,
    /// The queue is full: the reader is too slow.
    Overflow,
    /// The socket failed.
    Broken,
}

/// Bounds on what a connection may have waiting.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Blocks.
    pub blocks: usize,
    /// Bytes (one event may be larger).
    pub bytes: usize,
}

/// An open stream.
#[derive(Debug)]
pub struct Connection {
    pub(crate) sink: Sink,
    /// None: live. Otherwise it is on its way from its position to the live events.
    pub(crate) joining: Option<Box<Joining>>,
    /// Live events at or below this were sent, or told missing. Only rises while live.
    pub(crate) seen: EventId,
    pub(crate) memberships: SmallVec<[Membership; 1]>,
    outbox: Option<Box<Outbox>>,
    /// When something was last written, for the heartbeat.
    pub(crate) last_write: Deciseconds,
    /// When the socket last accepted a byte of what waits, for the progress deadline.
    pub(crate) progress: Deciseconds,
    /// Tells this connection's token from that of the one before it in the hub's slab.
    pub(crate) generation: u32,
    pub(crate) checkpoints: bool,
}

/// What only a joining connection has.
#[derive(Debug)]
pub struct Joining {
    pub(crate) join: Join,
    pub(crate) channels: Arc<[Channel]>,
    /// Channels not yet attached.
    pub(crate) unattached: usize,
    /// A read that waits for room in the outbox.
    pub(crate) held: Option<EventId>,
    /// The number of the read that is under way.
    pub(crate) read_number: u32,
}

impl Connection {
    /// A connection that starts by joining.
    pub fn new(
        sink: Sink,
        joining: Joining,
        checkpoints: bool,
        generation: u32,
        now: Deciseconds,
    ) -> Self {
        Connection {
            sink,
            joining: Some(Box::new(joining)),
            seen: EventId::ZERO,
            memberships: SmallVec::new(),
            outbox: None,
            last_write: now,
            progress: now,
            generation,
            checkpoints,
        }
    }

    /// A live event, or one that its join keeps.
    pub fn deliver(
        &mut self,
        frame: &SharedFrame,
        limits: QueueLimits,
        now: Deciseconds,
    ) -> Delivery {
        if let Some(joining) = &mut self.joining {
            let taken = joining.join.live(frame);
            return if taken { Delivery::Passed } else { Delivery::Missed };
        }
        if frame.id.is_some_and(|id| id <= self.seen) {
            return Delivery::Passed;
        }
        let delivery = match &mut self.outbox {
            Some(outbox) => {
                let full = outbox.len() >= limits.blocks
                    || outbox.bytes() + frame.bytes.len() > limits.bytes;
                if full {
                    return Delivery::Overflow;
                }
                outbox.push(Block::Shared(frame.clone()), 0);
                Delivery::Queued
            }
            None => match self.sink.write(&frame.bytes) {
                Ok(n) if n == frame.bytes.len() => Delivery::Written,
                Ok(n) => {
                    self.queue(Block::Shared(frame.clone()), n, now);
                    Delivery::Queued
                }
                Err(_) => return Delivery::Broken,
            },
        };
        self.last_write = now;
        self.seen = frame.id.unwrap_or(self.seen);
        delivery
    }

    /// Queues what a join handed out; [`Connection::flush`] writes it.
    pub fn queue_items(&mut self, items: impl Iterator<Item = Item>, now: Deciseconds) {
        for item in items {
            let block = match item {
                Item::Frame(frame) => Block::Shared(frame),
                Item::Gap(bytes, _) => Block::Own(bytes),
                Item::Checkpoint(_) if !self.checkpoints => continue,
                Item::Checkpoint(id) => Block::Own(crate::frame::checkpoint(id)),
            };
            self.queue(block, 0, now);
        }
    }

    /// Writes a block of this connection's own, behind whatever waits.
    pub fn send_own(&mut self, bytes: Box<[u8]>, now: Deciseconds) -> io::Result<u64> {
        self.queue(Block::Own(bytes), 0, now);
        self.flush(now)
    }

    /// Writes a heartbeat if nothing waits and all of it fits; what a later byte would prove is then
    /// proven by what waits.
    pub fn heartbeat(&mut self, bytes: &[u8], now: Deciseconds) -> io::Result<()> {
        if self.outbox.is_some() {
            return Ok(());
        }
        let n = self.sink.write(bytes)?;
        if n > 0 && n < bytes.len() {
            self.queue(Block::Own(bytes.into()), n, now);
        }
        self.last_write = now;
        Ok(())
    }

    /// Writes what waits, as much as fits. Answers how many queued events were finished.
    pub fn flush(&mut self, now: Deciseconds) -> io::Result<u64> {
        let mut events = 0;
        while let Some(outbox) = &mut self.outbox {
            let offered: SmallVec<[IoSlice<'_>; 64]> = outbox.slices().collect();
            let size: usize = offered.iter().map(|s| s.len()).sum();
            let n = self.sink.write_vectored(&offered)?;
            drop(offered);
            events += outbox.advance(n);
            if n > 0 {
                self.last_write = now;
                self.progress = now;
            }
            if outbox.is_empty() {
                self.outbox = None;
            }
            if n < size {
                break;
            }
        }
        Ok(events)
    }

    /// Drops the queued events that are not begun. Answers the position before them, if there were any with
    /// an id, and how many had none.
    pub fn drop_events(&mut self) -> (Option<EventId>, u64) {
        let Some(outbox) = &mut self.outbox else { return (None, 0) };
        let (first, raw) = outbox.drop_events();
        if outbox.is_empty() {
            self.outbox = None;
        }
        (first.map(EventId::before), raw)
    }

    /// Whether something waits to be written.
    pub fn pending(&self) -> bool {
        self.outbox.is_some()
    }

    /// Bytes that wait to be written.
    pub fn pending_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.bytes())
    }

    fn queue(&mut self, block: Block, written: usize, now: Deciseconds) {
        if self.outbox.is_none() {
            self.progress = now;
        }
        self.outbox.get_or_insert_default().push(block, written);
    }
}
