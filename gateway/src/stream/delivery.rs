//! The delivery of live events to a connection: what is delivered, and how it ended.

use std::ops::AddAssign;

use sse_contract::EventId;

use crate::feed::frame::{Form, Framing, SharedFrame};
use crate::feed::inbox::ChannelKey;

/// Live events of one channel, in order, prepared once for all deliveries.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    /// The channel's partition.
    pub partition: u16,
    run: &'a [(ChannelKey, SharedFrame)],
    picks: &'a [u32],
    /// The events' bytes in a row, indexed by form.
    bytes: [&'a [u8]; Form::ALL.len()],
    first: Option<EventId>,
    /// The id of the last event that has one.
    pub last: Option<EventId>,
}

/// What a socket accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Traffic {
    /// Events whose last byte is among it.
    pub events: u64,
    /// Bytes: of the body with its framing, and of the response's head. TLS adds its own.
    pub bytes: u64,
    /// Writes that the socket took a byte of.
    pub writes: u64,
}

/// The result of delivering a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// What the socket accepted.
    pub written: Traffic,
    /// Events without an id that this connection missed.
    pub missed: u64,
    /// How the delivery ended.
    pub end: End,
}

/// An attempt to write a batch at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The socket took the whole batch, which is this many bytes.
    Whole(usize),
    /// The socket took this many bytes.
    Part(usize),
    /// Nothing was written: the strand joins, or other blocks wait, or some of the events are not
    /// to be sent.
    NotMade,
    /// The socket failed.
    Broken,
}

/// How the delivery of a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Every event was written, queued, kept by the join, or skipped.
    Taken,
    /// The queue is full, because the reader is too slow. It has everything up to this position.
    Overflow(EventId),
    /// The socket failed.
    Broken,
}

/// Bounds on a connection's queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimits {
    /// How many blocks may wait.
    pub blocks: usize,
    /// How many bytes may wait. A single event may be larger.
    pub bytes: usize,
}

impl Traffic {
    /// What one write of `events` whole events and `bytes` was.
    pub(crate) fn of(events: u64, bytes: usize) -> Self {
        Traffic { events, bytes: bytes as u64, writes: u64::from(bytes > 0) }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Self) {
        self.events += more.events;
        self.bytes += more.bytes;
        self.writes += more.writes;
    }
}

impl<'a> Batch<'a> {
    /// The events of `run` that `picks` lists; `run` has events of all channels. `in_a_row` holds
    /// their bytes in each form that a connection has. A single event has the forms without channels
    /// in a row by itself.
    pub(crate) fn new(
        partition: u16,
        run: &'a [(ChannelKey, SharedFrame)],
        picks: &'a [u32],
        in_a_row: [&'a [u8]; Form::ALL.len()],
    ) -> Self {
        let frame = |n: &u32| &run[*n as usize].1;
        let bytes = match picks {
            [one] => {
                let [chunked, plain] =
                    [Framing::Chunked, Framing::Plain].map(|framing| frame(one).bytes(framing));
                let [.., annotated_chunked, annotated_plain] = in_a_row;
                [chunked, plain, annotated_chunked, annotated_plain]
            }
            _ => in_a_row,
        };
        let first = picks.iter().find_map(|n| frame(n).id);
        let last = picks.iter().rev().find_map(|n| frame(n).id);
        Batch { partition, run, picks, bytes, first, last }
    }

    /// The events.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &'a SharedFrame> {
        self.picks.iter().map(|&n| &self.run[n as usize].1)
    }

    /// The events' bytes in a row.
    pub(crate) fn bytes(&self, form: Form) -> &'a [u8] {
        self.bytes[form as usize]
    }

    /// How many events there are.
    pub(crate) fn len(&self) -> usize {
        self.picks.len()
    }

    /// Whether every event is above `seen`. Ids rise, so the first one decides.
    pub(crate) fn begins_above(&self, seen: EventId) -> bool {
        self.first.is_none_or(|first| first > seen)
    }
}
