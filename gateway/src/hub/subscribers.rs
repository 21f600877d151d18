//! The connections of one worker: opening, closing, heartbeats, deadlines, drain.
//!
//! All state belongs to one thread, and nothing here waits. `fanout.rs` holds the other half: what
//! the broker's messages do to these connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slab::Slab;
use sse_contract::EventId;

use crate::broker::Broker;
use crate::config::StreamConfig;
use crate::feed::frame::{self, Framing};
use crate::feed::inbox::Whose;
use crate::hub::channels::Channels;
use crate::hub::poller::Readiness;
use crate::metrics::Cells;
use crate::stream::close_reason::CloseReason;
use crate::stream::connection::{Connection, Deciseconds, End, Joining, Membership};
use crate::stream::join::{Item, Join, Limits};
use crate::stream::sink::{ClientSide, Sink};
use crate::stream::subscription::{Bearer, Held, Subscription, Waiter};

/// The connections of one worker, and the channels they listen to.
#[derive(Debug)]
pub(crate) struct Subscribers {
    pub(crate) connections: Slab<Connection>,
    pub(crate) channels: Channels,
    /// What to drop when a stream ends, by the stream's slot. Most streams have no entry.
    pub(crate) held: HashMap<usize, Held>,
    /// The last position that the broker dispatched here; `None` while the broker is away. Every
    /// event at or below it, of the channels attached here, was handled.
    pub(crate) clock: Option<EventId>,
    /// When the last tick arrived.
    pub(crate) ticked: Instant,
    /// Tokens of the connections that wait for a tick.
    pub(crate) ticking: Vec<u64>,
    pub(crate) broker: Broker,
    pub(crate) worker: u16,
    pub(crate) config: StreamConfig,
    pub(crate) cells: Arc<Cells>,
    began: Instant,
    generation: u32,
    /// Scratch space: what a join handed out.
    pub(crate) items: Vec<Item>,
    /// Scratch space: connections that a fan-out must close or send to history.
    pub(crate) ends: Vec<(u32, End)>,
    /// Scratch space: indices of a run's events, sorted by channel.
    pub(crate) picks: Vec<u32>,
    /// Scratch space: indices of the events that also go to connections with several channels.
    pub(crate) mixed: Vec<u32>,
    /// Scratch space: the bytes of several events in a row.
    pub(crate) joined: Vec<u8>,
    /// How many connections are not chunked. They are few, so plain bytes are joined only while
    /// there are any.
    pub(crate) plain: usize,
    /// Tokens of connections with queued events that nothing has tried to write.
    pub(crate) unwritten: Vec<u64>,
    /// Every connection is already due to read history once more, so another lag changes nothing.
    pub(crate) all_lagged: bool,
}

impl Subscribers {
    /// Creates a hub's state without connections.
    pub(crate) fn new(
        broker: Broker,
        worker: u16,
        config: StreamConfig,
        cells: Arc<Cells>,
    ) -> Self {
        Subscribers {
            connections: Slab::new(),
            channels: Channels::default(),
            held: HashMap::new(),
            clock: None,
            ticked: Instant::now(),
            ticking: Vec::new(),
            broker,
            worker,
            config,
            cells,
            began: Instant::now(),
            generation: 0,
            items: Vec::new(),
            ends: Vec::new(),
            picks: Vec::new(),
            mixed: Vec::new(),
            joined: Vec::new(),
            plain: 0,
            unwritten: Vec::new(),
            all_lagged: false,
        }
    }

    pub(crate) fn now(&self) -> Deciseconds {
        (self.began.elapsed().as_millis() / 100) as Deciseconds
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { live_events: self.config.queue_events, live_bytes: self.config.queue_bytes }
    }

    pub(crate) fn token(slot: usize, generation: u32) -> u64 {
        (u64::from(generation) << 32) | slot as u64
    }

    pub(crate) fn find(&self, token: u64) -> Option<usize> {
        let slot = (token & u64::from(u32::MAX)) as usize;
        let connection = self.connections.get(slot)?;
        (u64::from(connection.generation) == token >> 32).then_some(slot)
    }

    /// Adds a stream whose client waits to be let in. Returns its token.
    pub(crate) fn open(
        &mut self,
        framing: Framing,
        subscription: Subscription,
        waiter: Waiter,
    ) -> u64 {
        self.generation = self.generation.wrapping_add(1);
        let (now, generation) = (self.now(), self.generation);
        let joining = Joining {
            join: Join::new(subscription.start, self.limits()),
            channels: subscription.channels.clone(),
            unattached: 0,
            held: None,
            read_number: 0,
            waiter: Some(waiter),
        };
        let mut connection = Connection::new(
            Sink::Awaited,
            joining,
            subscription.checkpoints,
            framing,
            generation,
            now,
        );
        connection.bearer = subscription.bearer;
        self.plain += usize::from(framing == Framing::Plain);
        let slot = self.connections.insert(connection);
        let mut unattached = 0;
        for channel in subscription.channels.iter() {
            let joined = self.channels.join(channel, slot as u32);
            let membership = Membership { channel: joined.key.slot, place: joined.place };
            self.connections[slot].memberships.push(membership);
            unattached += usize::from(!joined.attached);
            if joined.first {
                self.broker.attach(self.worker, channel, joined.key);
            }
        }
        self.cells.opened.add(1);
        self.cells.joining.add(1);
        self.count();
        if let Some(joining) = &mut self.connections[slot].joining {
            joining.unattached = unattached;
        }
        if unattached == 0 {
            self.attached(slot);
        }
        self.all_lagged = false;
        Self::token(slot, generation)
    }

    /// Lets a client in before its stream has a position. It gets `retry:` now, and a `late` gap
    /// with its first position.
    pub(crate) fn let_in_late(&mut self, slot: usize) {
        let now = self.now();
        let retry = frame::retry(self.config.jittered_retry());
        let connection = &mut self.connections[slot];
        let Some(joining) = &mut connection.joining else { return };
        if joining.waiter.take().is_some() {
            joining.join.late();
            connection.queue_own(&retry, now);
        }
    }

    /// Makes `sink` the stream's sink. `head` is written to it first.
    pub(crate) fn lead_out(&mut self, slot: usize, sink: Sink, head: Option<Bytes>) {
        let now = self.now();
        tracing::debug!("a stream is open");
        let connection = &mut self.connections[slot];
        connection.sink = sink;
        if let Some(head) = head {
            connection.lead(head, now);
        }
        self.flush(slot);
    }

    pub(crate) fn close(&mut self, slot: usize, reason: CloseReason) {
        let mut connection = self.connections.remove(slot);
        self.held.remove(&slot);
        for membership in &connection.memberships {
            let left = self.channels.leave(membership.channel, membership.place);
            if let Some(moved) = left.moved {
                let memberships = &mut self.connections[moved as usize].memberships;
                if let Some(m) = memberships.iter_mut().find(|m| m.channel == membership.channel) {
                    m.place = membership.place;
                }
            }
            if let Some((channel, key)) = left.last {
                self.broker.detach(self.worker, &channel, key);
            }
        }
        if reason == CloseReason::Stalled {
            connection.sink.abort();
        } else if connection.framing == Framing::Chunked {
            // Without chunks, an orderly close would mark the body as finished, and the client
            // would not reconnect.
            connection.sink.close_session();
        }
        self.plain -= usize::from(connection.framing == Framing::Plain);
        self.cells.closed[reason as usize].add(1);
        self.cells.joining.sub(u64::from(connection.joining.is_some()));
        self.count();
        tracing::debug!(close.reason = reason.as_str(), "a stream is closed");
    }

    fn count(&self) {
        self.cells.subscribers.set(self.connections.len() as u64);
        self.cells.channels.set(self.channels.len() as u64);
    }

    /// Handles what the poller reported.
    pub(crate) fn ready(&mut self, ready: &mut Vec<Readiness>) {
        for readiness in ready.drain(..) {
            let Some(slot) = self.find(readiness.token) else { continue };
            let gone = readiness.hung_up
                || (readiness.readable && self.connections[slot].sink.drain() == ClientSide::Gone);
            if gone {
                self.close(slot, CloseReason::Gone);
            } else if readiness.writable {
                self.flush(slot);
            }
        }
    }

    /// Writes what is queued for a connection, and then sends a read that waited for room.
    pub(crate) fn flush(&mut self, slot: usize) {
        let now = self.now();
        let connection = &mut self.connections[slot];
        match connection.flush(now) {
            Ok(events) => self.cells.delivered.add(events),
            Err(_) => return self.close(slot, CloseReason::Failed),
        }
        self.read_if_room(slot);
    }

    /// Sends heartbeats and enforces deadlines, for all connections.
    pub(crate) fn sweep(&mut self) {
        let (now, instant) = (self.now(), Instant::now());
        let heartbeat = deciseconds(self.config.heartbeat);
        let deadline = deciseconds(self.config.progress_deadline);
        let mut ended = Vec::new();
        for (slot, connection) in &mut self.connections {
            let until = connection.bearer.as_ref().and_then(|bearer| bearer.until);
            if until.is_some_and(|until| until <= instant) {
                ended.push((slot, CloseReason::Expired));
                continue;
            }
            if connection.pending() {
                if now - connection.progress > deadline {
                    ended.push((slot, CloseReason::Stalled));
                }
                continue;
            }
            // The interval differs between connections, so that those opened together drift apart.
            let jitter = connection.generation.wrapping_mul(0x9E37_79B9) >> 16;
            let due = heartbeat - heartbeat * (jitter % 64) / 256;
            if now - connection.last_write < due {
                continue;
            }
            let position = self.clock.map(|clock| clock.max(connection.seen));
            let sent = match position {
                Some(id) if connection.joining.is_none() && connection.checkpoints => {
                    connection.heartbeat(&frame::checkpoint(id), now)
                }
                _ if connection.checkpoints => connection.heartbeat(frame::ALIVE, now),
                _ => connection.heartbeat(frame::COMMENT, now),
            };
            if sent.is_err() {
                ended.push((slot, CloseReason::Failed));
            }
        }
        for (slot, reason) in ended {
            if reason == CloseReason::Expired {
                self.send_away(slot);
            }
            self.close(slot, reason);
        }
    }

    /// Sends `retry:` to a client that should reconnect.
    fn send_away(&mut self, slot: usize) {
        let now = self.now();
        let retry = frame::retry(self.config.jittered_retry());
        // A client that does not take this resumes from its cursor all the same.
        let _ = self.connections[slot].send_own(&retry, now);
    }

    /// Ends the streams that a revocation names.
    pub(crate) fn end(&mut self, whose: &Whose) {
        let of = |bearer: &Bearer| match whose {
            Whose::Subject(subject) => bearer.subject.as_deref() == Some(subject),
            Whose::Token(id) => bearer.token_id.as_deref() == Some(id),
            Whose::Channel(_) => false,
        };
        let slots: Vec<usize> = match whose {
            Whose::Channel(name) => self.channels.subscribers_by_name(name),
            _ => {
                let bearers = self.connections.iter();
                bearers
                    .filter(|(_, c)| c.bearer.as_deref().is_some_and(of))
                    .map(|(slot, _)| slot)
                    .collect()
            }
        };
        for slot in slots {
            match whose {
                // Their clients may reconnect, and are then authorised again.
                Whose::Channel(_) => self.send_away(slot),
                _ => self.connections[slot].finish(),
            }
            self.close(slot, CloseReason::Revoked);
        }
    }

    /// Plans a drain that begins now and takes `spread`.
    pub(crate) fn drain_plan(&self, spread: Duration) -> DrainPlan {
        DrainPlan { began: Instant::now(), spread, streams: self.connections.len() }
    }

    /// Ends as many streams as the plan makes due. Returns whether all have ended.
    pub(crate) fn drain(&mut self, plan: DrainPlan) -> bool {
        let left = plan.spread.saturating_sub(plan.began.elapsed()).as_millis();
        // The first stream is due at once: a gateway with a single stream has nothing to spread.
        let keep = plan.streams as u128 * left / plan.spread.as_millis().max(1);
        let due = self.connections.len().saturating_sub(keep as usize);
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).take(due).collect();
        for slot in slots {
            self.send_away(slot);
            self.close(slot, CloseReason::Drain);
        }
        self.connections.is_empty()
    }
}

/// When a drain began, how long it takes, and how many streams there were.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DrainPlan {
    began: Instant,
    spread: Duration,
    streams: usize,
}

fn deciseconds(duration: Duration) -> Deciseconds {
    (duration.as_millis() / 100).try_into().unwrap_or(Deciseconds::MAX)
}
