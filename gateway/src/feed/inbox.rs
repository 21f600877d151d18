//! What a broker tells a worker's hub: an ordered, bounded queue between two threads.
//!
//! The broker's side never waits, because Redis cuts a subscriber that does not read. When a worker falls
//! behind by more than the bound, its events are dropped here and it is told `Lagged` in each place where some are
//! missing: its connections then read history. Long before that, who publishes through this gateway waits for
//! [`Inbox::room`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sse_contract::{Channel, EventId};
use tokio::sync::{Notify, mpsc};

use crate::feed::frame::SharedFrame;
use crate::feed::snapshot::Snapshot;

/// A hub's channel: an index, and a generation that tells it from the one that used the index before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChannelKey {
    /// The index.
    pub slot: u32,
    /// Rises with every use of the index.
    pub generation: u32,
}

/// A connection of a hub, and which of its reads is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadToken {
    /// The connection.
    pub connection: u64,
    /// Rises with every read it asks for, so that a late answer is known as such.
    pub number: u32,
}

/// Whose streams end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Whose {
    /// Those of this subject.
    Subject(Box<str>),
    /// Those opened with the token of this id.
    Token(Box<str>),
    /// Those that listen to this channel. They may come back.
    Channel(Box<str>),
}

/// One thing a broker tells a hub.
#[derive(Debug, Clone)]
pub enum ToHub {
    /// From here on, every event of the channel comes through this inbox.
    Attached(ChannelKey),
    /// An event.
    Event(ChannelKey, SharedFrame),
    /// Everything at or below this position was told before this.
    Tick(EventId),
    /// The broker refuses the channel, in these words.
    Refused(ChannelKey, Arc<str>),
    /// The broker's connection is gone, and with it all attachments. Each channel is attached anew.
    Detached,
    /// Events may be missing here, though attachments stand.
    Lagged,
    /// These streams are not to go on.
    End(Whose),
    /// How many connections listen to the channel, for whoever asks.
    Count(Channel, mpsc::UnboundedSender<usize>),
    /// The answer to reads; `cached` if it was read before they were asked for.
    Snapshot {
        /// What was read.
        snapshot: Arc<Snapshot>,
        /// Whose reads it answers.
        tokens: Vec<ReadToken>,
        /// It was read before these reads were asked for.
        cached: bool,
    },
}

/// Bytes of events that may wait before publishers do: some milliseconds of a worker's time.
const ROOM: usize = 256 * 1024;
/// What a hub takes at once: as many events as a socket takes together, and not more of anything than other work of
/// its thread can wait for.
const RUN_EVENTS: usize = 256;
const RUN_BYTES: usize = 64 * 1024;
const RUN_OTHERS: usize = 64;
/// An empty queue keeps room for so many messages.
const KEPT: usize = 1024;

/// The queue of one hub.
#[derive(Debug)]
pub struct Inbox {
    queue: Mutex<Queue>,
    wake: Notify,
    /// Publishers wait here.
    roomy: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<ToHub>,
    bytes: usize,
    /// Events are dropped, until the hub has caught up with half of what may wait.
    dropping: bool,
}

impl Inbox {
    /// An empty inbox that holds at most `limit` bytes of events.
    pub fn new(limit: usize) -> Arc<Self> {
        let (wake, roomy) = (Notify::new(), Notify::new());
        Arc::new(Inbox { queue: Mutex::default(), wake, roomy, limit })
    }

    /// Appends messages in order and wakes the hub. Never waits. Answers how many events were dropped.
    pub fn send(&self, messages: impl IntoIterator<Item = ToHub>) -> u64 {
        let dropped = self.push(messages);
        self.wake();
        dropped
    }

    /// Appends as [`Inbox::send`] does; [`Inbox::wake`] is to follow. For whoever holds a lock meanwhile, because
    /// waking another thread takes longer than all else here.
    pub fn push(&self, messages: impl IntoIterator<Item = ToHub>) -> u64 {
        let mut dropped = 0;
        let mut queue = self.lock();
        for message in messages {
            let bytes = event_bytes(&message);
            if bytes > 0 {
                queue.dropping |= queue.bytes + bytes > self.limit;
                if queue.dropping {
                    dropped += 1;
                    // In every such place: a tick in between proves nothing of what was dropped before it and behind
                    // the mark before that.
                    if !matches!(queue.messages.back(), Some(ToHub::Lagged)) {
                        queue.messages.push_back(ToHub::Lagged);
                    }
                    continue;
                }
                queue.bytes += bytes;
            }
            queue.messages.push_back(message);
        }
        dropped
    }

    /// Wakes the hub.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Whether the worker keeps up, so that publishers need not wait for it.
    pub fn has_room(&self) -> bool {
        self.lock().bytes <= ROOM.min(self.limit / 2)
    }

    /// Waits until the worker keeps up.
    pub async fn room(&self) {
        loop {
            // Before the look, so that no room made in between goes unheard.
            let made = self.roomy.notified();
            if self.has_room() {
                return;
            }
            made.await;
        }
    }

    /// Waits until there are messages.
    pub async fn filled(&self) {
        while self.lock().messages.is_empty() {
            self.wake.notified().await;
        }
    }

    /// Moves the next messages into `into`, as many as a hub deals with at once. Answers whether there are more.
    pub fn take(&self, into: &mut Vec<ToHub>) -> bool {
        let more = {
            let mut queue = self.lock();
            let (mut events, mut bytes, mut others) = (0, 0, 0);
            while events < RUN_EVENTS && bytes < RUN_BYTES && others < RUN_OTHERS {
                let Some(message) = queue.messages.pop_front() else { break };
                let size = event_bytes(&message);
                queue.bytes -= size;
                (events, bytes) = (events + usize::from(size > 0), bytes + size);
                others += usize::from(size == 0);
                into.push(message);
            }
            queue.dropping &= queue.bytes > self.limit / 2;
            if queue.messages.is_empty() && queue.messages.capacity() > KEPT {
                queue.messages.shrink_to(KEPT);
            }
            !queue.messages.is_empty()
        };
        self.roomy.notify_waiters();
        more
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts of a message: an event's bytes, and those it takes to queue it.
fn event_bytes(message: &ToHub) -> usize {
    match message {
        ToHub::Event(_, frame) => frame.size() + size_of::<ToHub>(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::feed::frame::Frame;

    fn event(n: u64) -> ToHub {
        let key = ChannelKey { slot: 0, generation: 0 };
        ToHub::Event(key, Frame::event(EventId::new(n, 1, 0), "", &"x".repeat(100)))
    }

    #[test]
    fn a_full_inbox_says_lagged_where_events_are_missing() {
        let inbox = Inbox::new(400);
        let tick = |n| ToHub::Tick(EventId::new(n, 1, 0));
        assert_eq!(inbox.send([event(1), event(2), event(3), event(4)]), 2);
        inbox.send([tick(5), event(6), event(7), ToHub::Detached, tick(8), event(9)]);
        let mut got = Vec::new();
        inbox.take(&mut got);
        let missing: Vec<bool> = got.iter().map(|m| matches!(m, ToHub::Lagged)).collect();
        // Event, event, mark, tick, mark, detached, tick, mark.
        assert_eq!(missing, [false, false, true, false, true, false, false, true]);
        got.clear();
        inbox.send([event(10)]);
        inbox.take(&mut got);
        assert!(
            matches!(got[..], [ToHub::Event(..)]),
            "what comes after the worker caught up counts again"
        );
    }

    #[test]
    fn a_hub_is_given_a_run_at_a_time() {
        let inbox = Inbox::new(1 << 20);
        inbox.send((0..300).map(event));
        inbox.send((0..100).map(|n| ToHub::Tick(EventId::new(n, 1, 0))));
        let mut sizes = Vec::new();
        let mut more = true;
        while more {
            let mut got = Vec::new();
            more = inbox.take(&mut got);
            sizes.push(got.len());
        }
        assert_eq!(sizes, [256, 44 + 64, 36]);
        assert!(inbox.has_room());
    }

    #[test]
    fn publishers_wait_until_the_hub_has_taken_enough() {
        let inbox = Inbox::new(400);
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(pin!(inbox.room()).poll(&mut context), Poll::Ready(()));
        inbox.send([event(1), event(2)]);
        let mut room = pin!(inbox.room());
        assert_eq!(room.as_mut().poll(&mut context), Poll::Pending);
        inbox.take(&mut Vec::new());
        assert_eq!(room.as_mut().poll(&mut context), Poll::Ready(()));
    }
}
