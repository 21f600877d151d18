//! What a broker tells a worker's hub: an ordered, bounded queue between two threads.
//!
//! The broker's side never waits, because Redis cuts a subscriber that does not read. When a worker falls
//! behind by more than the bound, its events are dropped here and it is told `Lagged` in their place: its
//! connections then read history.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sse_contract::{Channel, EventId};
use tokio::sync::{Notify, mpsc};

use crate::frame::SharedFrame;
use crate::snapshot::Snapshot;

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

/// One thing a broker tells a hub.
#[derive(Debug, Clone)]
pub enum ToHub {
    /// From here on, every event of the channel comes through this inbox.
    Attached(ChannelKey),
    /// An event.
    Event(ChannelKey, SharedFrame),
    /// Everything at or below this position was told before this.
    Tick(EventId),
    /// The broker's connection is gone, and with it all attachments. Each channel is attached anew.
    Detached,
    /// Events may be missing here, though attachments stand.
    Lagged,
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

/// The queue of one hub.
#[derive(Debug)]
pub struct Inbox {
    queue: Mutex<Queue>,
    wake: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<ToHub>,
    bytes: usize,
    /// `Lagged` stands in the queue for events dropped since.
    lagged: bool,
}

impl Inbox {
    /// An empty inbox that holds at most `limit` bytes of events.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Inbox { queue: Mutex::default(), wake: Notify::new(), limit })
    }

    /// Appends messages in order. Never waits. Answers how many events were dropped.
    pub fn send(&self, messages: impl IntoIterator<Item = ToHub>) -> u64 {
        let mut dropped = 0;
        {
            let mut queue = self.lock();
            for message in messages {
                if let ToHub::Event(_, frame) = &message {
                    if queue.lagged {
                        dropped += 1;
                        continue;
                    }
                    queue.bytes += frame.size() + size_of::<ToHub>();
                    if queue.bytes > self.limit {
                        dropped += 1;
                        queue.lagged = true;
                        queue.messages.push_back(ToHub::Lagged);
                        continue;
                    }
                }
                queue.messages.push_back(message);
            }
        }
        self.wake.notify_one();
        dropped
    }

    /// Waits until there are messages.
    pub async fn filled(&self) {
        while self.lock().messages.is_empty() {
            self.wake.notified().await;
        }
    }

    /// Moves all messages into `into`, which is empty.
    pub fn take(&self, into: &mut VecDeque<ToHub>) {
        let mut queue = self.lock();
        std::mem::swap(&mut queue.messages, into);
        queue.bytes = 0;
        queue.lagged = false;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    #[test]
    fn a_full_inbox_says_lagged_where_events_are_missing() {
        let inbox = Inbox::new(400);
        let key = ChannelKey { slot: 0, generation: 0 };
        let event =
            |n| ToHub::Event(key, Frame::event(EventId::new(n, 1, 0), "", &"x".repeat(100)));
        assert_eq!(inbox.send([event(1), event(2), event(3), event(4)]), 2);
        inbox.send([ToHub::Tick(EventId::new(9, 1, 0)), event(5)]);
        let mut got = VecDeque::new();
        inbox.take(&mut got);
        assert!(matches!(
            got.make_contiguous()[..],
            [ToHub::Event(..), ToHub::Event(..), ToHub::Lagged, ToHub::Tick(_)]
        ));
        got.clear();
        inbox.send([event(6)]);
        inbox.take(&mut got);
        assert!(
            matches!(got.make_contiguous()[..], [ToHub::Event(..)]),
            "what comes after the worker caught up counts again"
        );
    }
}
