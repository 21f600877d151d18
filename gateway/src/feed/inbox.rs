//! A broker's messages to a worker's hub: an ordered, bounded queue between two threads.
//!
//! The broker's side never waits, because Redis disconnects a subscriber that does not read. When a
//! worker falls behind by more than the bound, the inbox drops its events and queues `Lagged` in
//! each place where some of a partition are missing; the hub's connections then read history. Long before that,
//! publishers of this gateway wait in [`Inbox::caught_up`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sse_contract::{Channel, EventId};
use tokio::sync::{Notify, mpsc};

use crate::feed::frame::SharedFrame;
use crate::feed::listing::{ChannelsStep, StreamsStep};
use crate::feed::snapshot::Snapshot;

/// A channel of a hub: an index, and a generation that tells it from earlier channels at that
/// index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChannelKey {
    /// The index in the hub's table of channels.
    pub slot: u32,
    /// Differs for every channel that uses the index.
    pub generation: u32,
}

/// A connection of a hub, and one of its reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadToken {
    /// The connection's token.
    pub connection: u64,
    /// Rises with every read of the connection, so that a late answer can be recognised.
    pub number: u32,
}

/// Which streams an operator ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Whose {
    /// Streams of this subject.
    Subject(Box<str>),
    /// Streams opened with the token of this id.
    Token(Box<str>),
    /// Streams that listen to this channel. Their clients may reconnect.
    Channel(Box<str>),
}

/// A message of a broker to a hub.
#[derive(Debug, Clone)]
pub enum ToHub {
    /// From here on, every event of the channel comes through this inbox.
    Attached(ChannelKey),
    /// A live event of the channel.
    Event(ChannelKey, SharedFrame),
    /// An event of the channel may be missing in this place.
    Missed(ChannelKey),
    /// Every event of this partition at or below this position was queued before this message, or
    /// dropped and marked by a `Lagged` before it.
    Tick(u16, EventId),
    /// The broker refuses the channel, for this reason.
    Refused(ChannelKey, Arc<str>),
    /// The broker's connection for this partition is lost, and with it every attachment there. The
    /// broker attaches each channel again.
    Detached(u16),
    /// Events of this partition may be missing in this place. Attachments stand.
    Lagged(u16),
    /// End these streams.
    End(Whose),
    /// Count the connections that listen to the channel, and send the number to this sender.
    Count(Channel, mpsc::UnboundedSender<usize>),
    /// Tell of some streams.
    ListStreams(Box<StreamsStep>),
    /// Tell of some channels.
    ListChannels(ChannelsStep),
    /// The answer to reads.
    Snapshot {
        /// The partition that was read.
        partition: u16,
        /// What the read returned.
        snapshot: Arc<Snapshot>,
        /// The reads that it answers.
        tokens: Vec<ReadToken>,
        /// Whether the snapshot was read before these reads were requested.
        cached: bool,
    },
}

/// Bytes of events that may wait before publishers have to: some milliseconds of a worker's time.
const BEHIND: usize = 256 * 1024;
/// Bounds of one run, which is what a hub takes at once: about as many events as one socket write
/// accepts, and not so much that other work of the thread waits long.
const RUN_EVENTS: usize = 256;
const RUN_BYTES: usize = 64 * 1024;
const RUN_OTHERS: usize = 64;
/// How many messages an empty queue keeps capacity for.
const KEPT: usize = 1024;

/// The queue of one hub.
#[derive(Debug)]
pub struct Inbox {
    queue: Mutex<Queue>,
    wake: Notify,
    /// Notifies publishers that wait for the worker to catch up.
    taken: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<ToHub>,
    bytes: usize,
    /// Whether events are being dropped. It begins when an event exceeds `limit`, and ends when the
    /// hub has drained the queue to half of that.
    dropping: bool,
    /// The hub has ended. Messages to it are dropped.
    closed: bool,
}

impl Inbox {
    /// Creates an empty inbox that holds at most `limit` bytes of events.
    pub fn new(limit: usize) -> Arc<Self> {
        let (wake, taken) = (Notify::new(), Notify::new());
        Arc::new(Inbox { queue: Mutex::default(), wake, taken, limit })
    }

    /// Appends messages of a partition in order and wakes the hub. Never waits. Returns how many
    /// events were dropped.
    pub fn send(&self, partition: u16, messages: impl IntoIterator<Item = ToHub>) -> u64 {
        let dropped = self.push(partition, messages);
        self.wake();
        dropped
    }

    /// Appends as [`Inbox::send`] does, but does not wake the hub; the caller must call
    /// [`Inbox::wake`]. A caller that holds a lock uses this, because waking another thread takes
    /// longer than the rest.
    pub fn push(&self, partition: u16, messages: impl IntoIterator<Item = ToHub>) -> u64 {
        let mut dropped = 0;
        let mut queue = self.lock();
        if queue.closed {
            return 0;
        }
        for message in messages {
            let bytes = event_bytes(&message);
            if bytes > 0 {
                queue.dropping |= queue.bytes + bytes > self.limit;
                if queue.dropping {
                    dropped += 1;
                    queue.mark(partition);
                    continue;
                }
                queue.bytes += bytes;
            }
            queue.messages.push_back(message);
        }
        dropped
    }

    /// Sends a message that is of no partition.
    pub fn tell(&self, message: ToHub) {
        self.send(0, [message]);
    }

    /// Wakes the hub.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Notes that the hub has ended. What is queued and what is sent from now on is dropped, so that
    /// nobody waits for an answer of this hub.
    pub fn close(&self) {
        let mut queue = self.lock();
        *queue = Queue { closed: true, ..Queue::default() };
        drop(queue);
        self.taken.notify_waiters();
    }

    /// Whether the worker keeps up, so that publishers need not wait.
    pub fn keeps_up(&self) -> bool {
        self.lock().bytes <= BEHIND.min(self.limit / 2)
    }

    /// Waits until the worker keeps up.
    pub async fn caught_up(&self) {
        loop {
            // Created before the check, so that a notification between check and wait is not lost.
            let made = self.taken.notified();
            if self.keeps_up() {
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

    /// Moves the next run of messages into `into`. Returns whether more are queued.
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
        self.taken.notify_waiters();
        more
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Marks that events of a partition are missing in this place. Every place has a mark: without
    /// one between two ticks, the second tick would vouch for events that were dropped between
    /// them.
    fn mark(&mut self, partition: u16) {
        let marks = self.messages.iter().rev().map_while(|message| match message {
            ToHub::Lagged(marked) => Some(*marked),
            _ => None,
        });
        if !marks.into_iter().any(|marked| marked == partition) {
            self.messages.push_back(ToHub::Lagged(partition));
        }
    }
}

/// The size that counts against the bound: that of an event, or of the mark that one was missed.
/// Other messages do not count.
fn event_bytes(message: &ToHub) -> usize {
    match message {
        ToHub::Event(_, frame) => frame.size() + size_of::<ToHub>(),
        ToHub::Missed(_) => size_of::<ToHub>(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tokio::sync::mpsc::error::TryRecvError;

    use super::*;
    use crate::feed::frame::Frame;

    fn demo() -> Channel {
        "demo".parse().expect("a channel")
    }

    fn event(n: u64) -> ToHub {
        let key = ChannelKey { slot: 0, generation: 0 };
        ToHub::Event(key, Frame::event(&demo(), EventId::new(n, 1, 0), "", &"x".repeat(100)))
    }

    #[test]
    fn a_full_inbox_says_lagged_where_events_are_missing() {
        let inbox = Inbox::new(400);
        let tick = |n| ToHub::Tick(0, EventId::new(n, 1, 0));
        assert_eq!(inbox.send(0, [event(1), event(2), event(3), event(4)]), 2);
        inbox.send(0, [tick(5), event(6), event(7), ToHub::Detached(0), tick(8), event(9)]);
        let mut got = Vec::new();
        inbox.take(&mut got);
        let missing: Vec<bool> = got.iter().map(|m| matches!(m, ToHub::Lagged(0))).collect();
        // Event, event, mark, tick, mark, detached, tick, mark.
        assert_eq!(missing, [false, false, true, false, true, false, false, true]);
        got.clear();
        inbox.send(0, [event(10)]);
        inbox.take(&mut got);
        assert!(
            matches!(got[..], [ToHub::Event(..)]),
            "what comes after the worker caught up counts again"
        );
    }

    /// One place has one mark of each partition, however their events alternate.
    #[test]
    fn each_partition_is_marked_and_the_marks_are_bounded() {
        let inbox = Inbox::new(0);
        for n in 0..100 {
            inbox.send(n % 3, [event(n.into())]);
        }
        inbox.send(1, [ToHub::Tick(1, EventId::new(1, 1, 0))]);
        let missed = ChannelKey { slot: 0, generation: 0 };
        inbox.send(2, (0..100).map(|_| ToHub::Missed(missed)));
        let mut got = Vec::new();
        inbox.take(&mut got);
        let marks: Vec<Option<u16>> = got
            .iter()
            .map(
                |message| {
                    if let ToHub::Lagged(partition) = message { Some(*partition) } else { None }
                },
            )
            .collect();
        assert_eq!(marks, [Some(0), Some(1), Some(2), None, Some(2)]);
    }

    #[test]
    fn a_hub_is_given_a_run_at_a_time() {
        let inbox = Inbox::new(1 << 20);
        inbox.send(0, (0..300).map(event));
        inbox.send(0, (0..100).map(|n| ToHub::Tick(0, EventId::new(n, 1, 0))));
        let mut sizes = Vec::new();
        let mut more = true;
        while more {
            let mut got = Vec::new();
            more = inbox.take(&mut got);
            sizes.push(got.len());
        }
        assert_eq!(sizes, [256, 44 + 64, 36]);
        assert!(inbox.keeps_up());
    }

    #[test]
    fn an_ended_hub_leaves_nobody_waiting() {
        let inbox = Inbox::new(400);
        let ask = || {
            #[expect(clippy::disallowed_methods, reason = "it gets one answer at most")]
            let (answer, answered) = mpsc::unbounded_channel();
            inbox.tell(ToHub::Count("demo".parse().unwrap(), answer));
            answered
        };
        inbox.send(0, [event(1), event(2)]);
        let mut before = ask();
        assert!(!inbox.keeps_up() && before.try_recv() == Err(TryRecvError::Empty));
        inbox.close();
        assert!(inbox.keeps_up());
        for answered in [&mut before, &mut ask()] {
            assert_eq!(answered.try_recv(), Err(TryRecvError::Disconnected));
        }
    }

    #[test]
    fn publishers_wait_until_the_hub_has_taken_enough() {
        let inbox = Inbox::new(400);
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(pin!(inbox.caught_up()).poll(&mut context), Poll::Ready(()));
        inbox.send(0, [event(1), event(2)]);
        let mut waiting = pin!(inbox.caught_up());
        assert_eq!(waiting.as_mut().poll(&mut context), Poll::Pending);
        inbox.take(&mut Vec::new());
        assert_eq!(waiting.as_mut().poll(&mut context), Poll::Ready(()));
    }
}
