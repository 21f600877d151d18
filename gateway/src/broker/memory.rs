//! The embedded broker: the same promises as Redis, within one process.
//!
//! There is one clock. It starts in a random new epoch, so that a cursor from an earlier process
//! gets a gap with reason `reset`. One lock orders publishing, ticks, attachments and reads, as
//! Redis' single thread does. It is held for a few appends and never across a wait.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use sse_contract::{Channel, EventId};

use crate::config::Config;
use crate::feed::clock::unix_ms;
use crate::feed::frame::{Frame, SharedFrame};
use crate::feed::inbox::{ChannelKey, Inbox, ToHub};
use crate::feed::publication::{Publication, PublishError};
use crate::feed::read::ReadRequest;
use crate::feed::snapshot::{Extent, Range, Snapshot};
use crate::metrics::Metrics;

/// How much longer than the ttl a history is kept after its youngest event, as in the Redis
/// contract.
const EXPIRY_SLACK: Duration = Duration::from_secs(60);

/// The number of the only partition.
const PARTITION: u16 = 0;

/// The limits of the embedded broker.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLimits {
    /// Events a channel keeps at most; 0 switches history off.
    pub max_len: usize,
    /// How long an event is kept at least, unless `max_len` or `bytes` forces it out.
    pub ttl: Duration,
    /// Bytes of all histories together. Idempotency keys may take another quarter of this number.
    pub bytes: usize,
    /// Bytes of one event's data at most.
    pub event_bytes: usize,
    /// How long an idempotency key is remembered.
    pub idempotency_ttl: Duration,
    /// Bytes of events in one answer to a read. The event that reaches the limit is still included.
    pub page_bytes: usize,
}

impl MemoryLimits {
    /// The part of a configuration that the embedded broker needs.
    pub fn of(config: &Config) -> Self {
        MemoryLimits {
            max_len: config.history.max_len as usize,
            ttl: config.history.ttl,
            bytes: config.history.memory_bytes,
            event_bytes: config.publish.max_event_bytes as usize,
            idempotency_ttl: config.publish.idempotency_ttl,
            page_bytes: config.history.page_bytes,
        }
    }
}

/// Ids of dropped events that may always stay in the order of all.
const FEW_IDS: usize = 1024;

/// The embedded broker.
#[derive(Debug)]
pub struct MemoryBroker {
    state: Mutex<State>,
    limits: MemoryLimits,
    metrics: Metrics,
    payloads: RandomState,
}

#[derive(Debug)]
struct State {
    clock: EventId,
    workers: Vec<Arc<Inbox>>,
    channels: HashMap<Channel, Entry>,
    /// The ids of all kept events, oldest first, to find what to drop when `bytes` is exceeded. An
    /// id whose event its channel has already dropped is skipped.
    order: VecDeque<(EventId, Channel)>,
    /// How many events are kept: `order` holds at most twice as many ids, and a few.
    kept: usize,
    bytes: usize,
    idempotency: HashMap<(Channel, Arc<str>), Published>,
    /// Idempotency keys in the order of their expiry. The expiry is on the monotonic clock, so
    /// changes of the system time do not affect it.
    expiring: VecDeque<(Instant, Channel, Arc<str>)>,
    /// Approximate bytes of `idempotency` and `expiring`.
    key_bytes: usize,
}

#[derive(Debug)]
struct Published {
    id: EventId,
    /// A hash of event type and data. Keyed with a per-process secret, so clients cannot construct
    /// collisions.
    payload: u64,
}

#[derive(Debug, Default)]
struct Entry {
    events: VecDeque<SharedFrame>,
    last: Option<EventId>,
    trimmed: bool,
    attached: SmallVec<[(u16, ChannelKey); 2]>,
}

impl Entry {
    /// Drops the oldest event. Returns the bytes that it took.
    fn trim(&mut self) -> usize {
        self.trimmed = true;
        self.events.pop_front().as_ref().map_or(0, kept_size)
    }
}

impl MemoryBroker {
    /// Creates an empty broker in a new epoch.
    pub fn new(limits: MemoryLimits, metrics: Metrics) -> Self {
        metrics.broker.connected.with_label_values(&["memory"]).set(1);
        metrics.broker.kept_bytes_limit.set(limits.bytes as i64);
        MemoryBroker {
            state: Mutex::new(State {
                clock: EventId::new(unix_ms(), fastrand::u32(1..1 << 28), 0),
                workers: Vec::new(),
                channels: HashMap::new(),
                order: VecDeque::new(),
                kept: 0,
                bytes: 0,
                idempotency: HashMap::new(),
                expiring: VecDeque::new(),
                key_bytes: 0,
            }),
            limits,
            metrics,
            payloads: RandomState::new(),
        }
    }

    /// Adds a worker's inbox and returns the worker's number.
    pub fn register(&self, inbox: Arc<Inbox>) -> u16 {
        let mut state = self.lock();
        state.workers.push(inbox);
        (state.workers.len() - 1) as u16
    }

    /// Attaches a channel and answers `Attached` at once.
    pub fn attach(&self, worker: u16, channel: &Channel, key: ChannelKey) {
        let mut state = self.lock();
        let attached = &mut state.channels.entry(channel.clone()).or_default().attached;
        if attached.is_empty() {
            self.metrics.broker.channels.inc();
        }
        attached.push((worker, key));
        state.send(worker, ToHub::Attached(key));
    }

    /// Ends an attachment.
    pub fn detach(&self, worker: u16, channel: &Channel, key: ChannelKey) {
        let mut state = self.lock();
        let Some(entry) = state.channels.get_mut(channel) else { return };
        let before = entry.attached.len();
        entry.attached.retain(|attached| *attached != (worker, key));
        if before > 0 && entry.attached.is_empty() {
            self.metrics.broker.channels.dec();
        }
        if entry.attached.is_empty() && entry.last.is_none() {
            state.channels.remove(channel);
        }
    }

    /// Raises the clock to the current time and sends a tick to one worker, or to all for `None`.
    /// The tick to all also removes expired histories and idempotency keys.
    pub fn tick(&self, worker: Option<u16>) {
        let now = unix_ms();
        let mut state = self.lock();
        state.raise_clock(now);
        let clock = state.clock;
        match worker {
            Some(worker) => state.send(worker, ToHub::Tick(PARTITION, clock)),
            None => {
                for inbox in &state.workers {
                    inbox.send(PARTITION, [ToHub::Tick(PARTITION, clock)]);
                }
                state.expire(now, self.limits.ttl + EXPIRY_SLACK);
                self.metrics.broker.kept_bytes.set(state.bytes as i64);
            }
        }
    }

    /// Publishes one event to every attached worker and returns its id. A known idempotency key
    /// returns the first event's id, or `Conflict` if the payload differs. Data above `event_bytes`
    /// is `TooLarge`.
    pub fn publish(&self, item: &Publication) -> Result<EventId, PublishError> {
        let result = self.try_publish(item);
        self.metrics.count_publish(&result);
        result
    }

    fn try_publish(&self, item: &Publication) -> Result<EventId, PublishError> {
        if item.data.len() > self.limits.event_bytes {
            let (size, limit) = (item.data.len(), self.limits.event_bytes);
            return Err(PublishError::TooLarge(format!("data: {size} bytes, at most {limit}")));
        }
        let event = item.event.as_ref().map_or("", |event| event.as_str());
        let now = unix_ms();
        let mut state = self.lock();
        let key = item.idempotency_key.as_ref().map(|key| (item.channel.clone(), key.clone()));
        let payload = key.as_ref().map_or(0, |_| self.payloads.hash_one((event, &item.data)));
        if let Some(known) = key.as_ref().and_then(|key| state.idempotency.get(key)) {
            if known.payload == payload {
                return Ok(known.id);
            }
            return Err(PublishError::Conflict(format!(
                "idempotency_key: was used here for another payload, published as {}",
                known.id
            )));
        }
        let id = state.clock.next(now);
        state.clock = id;
        if let Some(key) = key {
            let until = Instant::now() + self.limits.idempotency_ttl;
            state.remember(key, Published { id, payload }, until, self.limits.bytes / 4);
        }
        let frame = Frame::event(&item.channel, id, event, &item.data);
        let told = state.append(&item.channel, frame, id, &self.limits);
        self.metrics.broker.kept_bytes.set(state.bytes as i64);
        drop(state);
        told.iter().for_each(|inbox| inbox.wake());
        self.metrics.broker.received.inc();
        Ok(id)
    }

    /// Answers a read at once, through the worker's inbox.
    pub fn read(&self, request: &ReadRequest) {
        let mut state = self.lock();
        let snapshot = self.snapshot(&mut state, request.parts(), request.after);
        let (snapshot, tokens) = (Arc::new(snapshot), vec![request.token]);
        state.send(
            request.worker,
            ToHub::Snapshot { partition: PARTITION, snapshot, tokens, cached: false },
        );
    }

    /// Reads one page of a channel's history above `after`.
    pub fn history(&self, channel: &Channel, after: EventId) -> Snapshot {
        self.snapshot(&mut self.lock(), std::iter::once((channel, Extent::All)), after)
    }

    fn snapshot<'a>(
        &self,
        state: &mut State,
        parts: impl Iterator<Item = (&'a Channel, Extent)>,
        after: EventId,
    ) -> Snapshot {
        let now = unix_ms();
        state.raise_clock(now);
        let ranges = parts.map(|(channel, extent)| {
            let range = state.range(channel, after, extent, self.limits.page_bytes);
            (channel.clone(), vec![range])
        });
        let ranges = ranges.collect();
        self.metrics.broker.history_reads.with_label_values(&["ok"]).inc();
        Snapshot {
            clock: state.clock,
            now_ms: now,
            history: self.limits.max_len > 0,
            ttl_ms: self.limits.ttl.as_millis() as u64,
            ranges,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn raise_clock(&mut self, now: u64) {
        if now > self.clock.ms {
            self.clock = EventId { ms: now, seq: self.clock.epoch() << 16 };
        }
    }

    fn send(&self, worker: u16, message: ToHub) {
        self.workers[usize::from(worker)].send(PARTITION, [message]);
    }

    /// Stores the event and queues it for every attached worker. Returns the inboxes to wake, which
    /// the caller does after it has released the lock.
    fn append(
        &mut self,
        channel: &Channel,
        frame: SharedFrame,
        id: EventId,
        limits: &MemoryLimits,
    ) -> SmallVec<[Arc<Inbox>; 8]> {
        let kept = limits.max_len > 0;
        let mut told = SmallVec::new();
        if !kept && !self.channels.contains_key(channel) {
            return told;
        }
        let entry = self.channels.entry(channel.clone()).or_default();
        for (worker, key) in &entry.attached {
            let inbox = &self.workers[usize::from(*worker)];
            inbox.push(PARTITION, [ToHub::Event(*key, frame.clone())]);
            told.push(inbox.clone());
        }
        if !kept {
            return told;
        }
        self.bytes += kept_size(&frame);
        self.kept += 1;
        entry.last = Some(id);
        entry.events.push_back(frame);
        self.order.push_back((id, channel.clone()));
        while entry.events.len() > limits.max_len {
            self.bytes -= entry.trim();
            self.kept -= 1;
        }
        while self.bytes > limits.bytes {
            let Some((id, channel)) = self.order.pop_front() else { break };
            let Some(entry) = self.channels.get_mut(&channel) else { continue };
            if entry.events.front().is_some_and(|frame| frame.id == Some(id)) {
                self.bytes -= entry.trim();
                self.kept -= 1;
            }
        }
        if self.order.len() > 2 * self.kept + FEW_IDS {
            self.forget_ids();
        }
        told
    }

    /// Removes the ids whose events are gone: a channel drops its own events beyond `max_len`, and
    /// a quiet channel's event may stand before their ids for as long as it is kept.
    fn forget_ids(&mut self) {
        let channels = &self.channels;
        self.order.retain(|(id, channel)| {
            let first = channels.get(channel).and_then(|entry| entry.events.front());
            first.is_some_and(|frame| frame.id <= Some(*id))
        });
    }

    /// Remembers an idempotency key. Drops the oldest keys once all keys take more than `bytes`.
    fn remember(
        &mut self,
        key: (Channel, Arc<str>),
        published: Published,
        until: Instant,
        bytes: usize,
    ) {
        self.key_bytes += key_size(&key.0, &key.1);
        self.expiring.push_back((until, key.0.clone(), key.1.clone()));
        self.idempotency.insert(key, published);
        while self.key_bytes > bytes && self.forget_key() {}
    }

    /// Forgets the oldest idempotency key. Returns false if there is none.
    fn forget_key(&mut self) -> bool {
        let Some((_, channel, key)) = self.expiring.pop_front() else { return false };
        self.key_bytes -= key_size(&channel, &key);
        self.idempotency.remove(&(channel, key));
        true
    }

    fn range(&self, channel: &Channel, after: EventId, extent: Extent, page_bytes: usize) -> Range {
        let none = Entry::default();
        let entry = self.channels.get(channel).unwrap_or(&none);
        let mut from = entry.events.partition_point(|frame| frame.id <= Some(after));
        if extent == Extent::Newest {
            from = from.max(entry.events.len().saturating_sub(2));
        }
        let (mut frames, mut bytes, mut upto) = (Vec::new(), 0, None);
        for frame in entry.events.range(from..) {
            if bytes >= page_bytes && extent == Extent::All {
                upto = frames.last().and_then(|frame: &SharedFrame| frame.id);
                break;
            }
            bytes += frame.size();
            frames.push(frame.clone());
        }
        Range {
            after,
            upto,
            last: entry.last,
            oldest: entry.events.front().and_then(|frame| frame.id),
            length: entry.events.len() as u64,
            untrimmed: !entry.trimmed,
            frames: frames.into(),
            extent,
            readable: true,
        }
    }

    fn expire(&mut self, now: u64, keep: Duration) {
        let horizon = now.saturating_sub(keep.as_millis() as u64);
        let (bytes, kept) = (&mut self.bytes, &mut self.kept);
        self.channels.retain(|_, entry| {
            if entry.last.is_some_and(|last| last.ms < horizon) {
                *bytes -= entry.events.iter().map(kept_size).sum::<usize>();
                *kept -= entry.events.len();
                let attached = std::mem::take(&mut entry.attached);
                *entry = Entry { attached, ..Entry::default() };
            }
            entry.last.is_some() || !entry.attached.is_empty()
        });
        let now = Instant::now();
        while self.expiring.front().is_some_and(|(until, ..)| *until <= now) && self.forget_key() {}
    }
}

/// Approximate bytes for keeping an event: its own, and its entries in its history and in `order`.
fn kept_size(frame: &SharedFrame) -> usize {
    frame.size() + 128
}

/// Approximate bytes for remembering an idempotency key: its text, and its entries in the map and
/// in the queue.
fn key_size(channel: &Channel, key: &str) -> usize {
    channel.as_str().len() + key.len() + 192
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(bytes: usize) -> MemoryBroker {
        let limits = MemoryLimits {
            max_len: 10,
            ttl: Duration::from_secs(60),
            bytes,
            event_bytes: 1000,
            idempotency_ttl: Duration::from_secs(60),
            page_bytes: 1000,
        };
        MemoryBroker::new(limits, Metrics::default())
    }

    fn keyed(key: &str, data: &str) -> Publication {
        Publication {
            channel: "demo".parse().expect("a channel"),
            event: None,
            data: data.into(),
            idempotency_key: Some(key.into()),
        }
    }

    #[test]
    fn keys_are_bounded_and_the_oldest_forgotten() {
        let broker = broker(40_000);
        let first = broker.publish(&keyed("k0", "x")).unwrap();
        assert_eq!(broker.publish(&keyed("k0", "x")).unwrap(), first);
        assert!(broker.publish(&keyed("k0", "y")).is_err());
        for n in 1..1000 {
            broker.publish(&keyed(&format!("k{n}"), "x")).unwrap();
        }
        let state = broker.lock();
        assert!(state.key_bytes <= 10_000);
        assert_eq!(state.idempotency.len(), state.expiring.len());
        assert!((40..60).contains(&state.expiring.len()), "{}", state.expiring.len());
        drop(state);
        let last = broker.publish(&keyed("k999", "x")).unwrap();
        assert_eq!(broker.publish(&keyed("k999", "x")).unwrap(), last);
        assert!(broker.publish(&keyed("k0", "y")).is_ok(), "forgotten");
    }

    /// A quiet channel's event stays at the front of `order` for as long as it is kept.
    #[test]
    fn a_quiet_channel_does_not_make_a_busy_one_leave_ids_behind() {
        let broker = broker(1 << 20);
        let publish = |channel: &str| {
            let channel = channel.parse().expect("a channel");
            let (event, data, idempotency_key) = (None, "x".into(), None);
            broker.publish(&Publication { channel, event, data, idempotency_key }).unwrap();
        };
        publish("quiet");
        (0..20_000).for_each(|_| publish("busy"));
        let state = broker.lock();
        assert_eq!(state.channels.values().map(|entry| entry.events.len()).sum::<usize>(), 11);
        assert!(state.order.len() < 3000, "{} ids of 11 events", state.order.len());
    }
}
