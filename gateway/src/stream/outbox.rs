//! What a connection still has to write: a bounded queue in order, which shares events with other
//! connections.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;
use sse_contract::EventId;

use crate::feed::frame::{Form, Placed, SharedFrame};

/// A whole block of the stream.
#[derive(Debug)]
pub(crate) enum Block {
    /// An event, shared with every other connection that is sent it.
    Shared(SharedFrame),
    /// A block of this connection alone, such as a gap or a checkpoint, in its framing.
    Own(Box<[u8]>),
    /// A shared event with a position of this connection alone.
    Placed(Box<Placed>),
    /// The response's head.
    Head(Bytes),
}

impl Block {
    /// The block's bytes, as three slices in a row, any of which may be empty.
    fn pieces(&self, form: Form) -> [&[u8]; 3] {
        match self {
            Block::Shared(frame) => {
                let [first, second] = frame.pieces(form);
                [first, second, &[]]
            }
            Block::Placed(placed) => placed.pieces(),
            Block::Own(bytes) => [bytes, &[], &[]],
            Block::Head(bytes) => [bytes, &[], &[]],
        }
    }

    fn length(&self, form: Form) -> usize {
        self.pieces(form).iter().map(|piece| piece.len()).sum()
    }

    fn is_event(&self) -> bool {
        matches!(self, Block::Shared(_) | Block::Placed(_))
    }
}

/// Blocks that the socket has not accepted yet. A connection has an outbox only while there are
/// any.
#[derive(Debug)]
pub(crate) struct Outbox {
    form: Form,
    blocks: VecDeque<Block>,
    /// How many bytes of the first block the socket has accepted.
    written: usize,
    bytes: usize,
    /// When the socket last accepted a byte of this queue, or when the queue began.
    progress: Deciseconds,
}

/// Tenths of a second since the hub began. 32 bits, because every connection keeps two.
pub(crate) type Deciseconds = u32;

/// How many slices one write takes: enough small events to fill a socket's buffer.
const GATHER: usize = 64;

impl Outbox {
    /// Creates an empty outbox for a stream of this form.
    pub(crate) fn new(form: Form, now: Deciseconds) -> Self {
        Outbox { form, blocks: VecDeque::new(), written: 0, bytes: 0, progress: now }
    }

    /// Appends a block. The socket has accepted its first `written` bytes, which may be more than 0
    /// only for the first block.
    pub(crate) fn push(&mut self, block: Block, written: usize) {
        debug_assert!(written == 0 || self.blocks.is_empty());
        self.bytes += block.length(self.form) - written;
        self.written += written;
        self.blocks.push_back(block);
    }

    /// Puts the response's head before all else. Nothing may be written yet.
    pub(crate) fn lead(&mut self, head: Bytes) {
        debug_assert_eq!(self.written, 0);
        self.bytes += head.len();
        self.blocks.push_front(Block::Head(head));
    }

    /// Drops the events of this epoch at the end of the queue. A block that is partly written
    /// stays; `begun` says so of the first block even if none of it counts as accepted. Returns the
    /// lowest id dropped, and how many dropped events had no id.
    ///
    /// A gap or a checkpoint stays with the events before it, because it may name a position at or
    /// above them; so does an event with a position of its own. Events of another epoch stay, because a reader cannot go back to that epoch
    /// without a reset.
    pub(crate) fn drop_events(&mut self, epoch: u64, begun: bool) -> (Option<EventId>, u64) {
        let (mut first, mut raw) = (None, 0);
        let begun = usize::from(begun || self.written > 0);
        while self.blocks.len() > begun {
            let Some(Block::Shared(frame)) = self.blocks.back() else { break };
            if frame.id.is_some_and(|id| id.epoch() != epoch) {
                break;
            }
            self.bytes -= frame.length(self.form);
            first = frame.id.or(first);
            raw += u64::from(frame.id.is_none());
            self.blocks.pop_back();
        }
        (first, raw)
    }

    /// How many bytes are not accepted yet.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many blocks are not accepted as a whole.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// How many events are not accepted as a whole.
    pub(crate) fn events(&self) -> usize {
        self.blocks.iter().filter(|block| block.is_event()).count()
    }

    /// The first id of the shared events that are not accepted as a whole.
    pub(crate) fn first_id(&self) -> Option<EventId> {
        self.blocks.iter().find_map(|block| match block {
            Block::Shared(frame) => frame.id,
            Block::Placed(_) | Block::Own(_) | Block::Head(_) => None,
        })
    }

    /// Whether everything was accepted.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// What to write next, from the first byte that is not accepted.
    pub(crate) fn slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let mut written = self.written;
        let pieces = self.blocks.iter().flat_map(|block| block.pieces(self.form));
        let rest = pieces.filter_map(move |piece| {
            let skipped = written.min(piece.len());
            written -= skipped;
            (skipped < piece.len()).then(|| IoSlice::new(&piece[skipped..]))
        });
        rest.take(GATHER)
    }

    /// When the socket last accepted a byte of this queue, or when the queue began.
    pub(crate) fn progress(&self) -> Deciseconds {
        self.progress
    }

    /// Removes the bytes that the socket accepted now. Returns how many events that finished.
    pub(crate) fn advance(&mut self, mut accepted: usize, now: Deciseconds) -> u64 {
        if accepted > 0 {
            self.progress = now;
        }
        self.bytes -= accepted;
        let mut events = 0;
        while let Some(block) = self.blocks.front() {
            let rest = block.length(self.form) - self.written;
            if accepted < rest {
                self.written += accepted;
                return events;
            }
            accepted -= rest;
            events += u64::from(block.is_event());
            self.written = 0;
            self.blocks.pop_front();
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::frame::Frame;
    use proptest::prelude::*;
    use sse_contract::Channel;

    fn demo() -> Channel {
        "demo".parse().expect("a channel")
    }

    /// Drops events from an outbox with these blocks. A number is the event with that id, `old` an
    /// event of an earlier epoch, `raw` one without an id, `gap` a block of the connection's own.
    /// Of the first block, `written` bytes are accepted. Returns how many blocks stay, and what
    /// `drop_events` returned.
    fn dropped(blocks: &[&str], written: usize) -> (usize, Option<u64>, u64) {
        let mut outbox = Outbox::new(Form::Plain, 0);
        for (n, block) in blocks.iter().enumerate() {
            let shared = |ms, epoch| {
                Block::Shared(Frame::event(&demo(), EventId::new(ms, epoch, 0), "", "x"))
            };
            let block = match *block {
                "gap" => Block::Own(b"event: gap\n\n"[..].into()),
                "old" => shared(1, 6),
                "raw" => Block::Shared(Frame::raw(&demo(), "x")),
                id => shared(id.parse().expect("an id"), 7),
            };
            outbox.push(block, if n == 0 { written } else { 0 });
        }
        let (first, raw) = outbox.drop_events(7, false);
        let left: usize = outbox.slices().map(|slice| slice.len()).sum();
        assert_eq!(outbox.bytes(), left);
        (outbox.len(), first.map(|id| id.ms), raw)
    }

    #[test]
    fn events_of_the_epoch_behind_all_else_are_dropped() {
        assert_eq!(dropped(&["2", "raw", "3"], 0), (0, Some(2), 1));
        assert_eq!(dropped(&["2", "3"], 1), (1, Some(3), 0));
        assert_eq!(dropped(&["2"], 1), (1, None, 0));
        assert_eq!(dropped(&["2", "gap", "3", "4"], 0), (2, Some(3), 0));
        assert_eq!(dropped(&["2", "gap"], 0), (2, None, 0));
        assert_eq!(dropped(&["gap", "old", "3"], 0), (2, Some(3), 0));
        assert_eq!(dropped(&["gap", "old"], 0), (2, None, 0));
        assert_eq!(dropped(&[], 0), (0, None, 0));
    }

    proptest! {
        #[test]
        fn every_byte_is_written_once_in_order(
            blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 1..20),
            steps in proptest::collection::vec(0usize..50, 1..200),
        ) {
            let mut outbox = Outbox::new(Form::Plain, 0);
            for block in &blocks {
                outbox.push(Block::Own(block.clone().into()), 0);
            }
            let mut written = Vec::new();
            for step in steps.into_iter().chain(std::iter::repeat(7)) {
                let offered: Vec<u8> = outbox.slices().flat_map(|s| s.to_vec()).collect();
                let accepted = step.min(offered.len());
                written.extend_from_slice(&offered[..accepted]);
                outbox.advance(accepted, 0);
                if outbox.is_empty() { break }
            }
            prop_assert_eq!(outbox.bytes(), 0);
            prop_assert_eq!(written, blocks.concat());
        }
    }
}
