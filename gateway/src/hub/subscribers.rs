//! The connections of one worker: opening, closing, heartbeats, deadlines, drain.
//!
//! All state belongs to one thread, and nothing here waits. `fanout.rs` and `rejoin.rs` hold the
//! other half: what the broker's messages do to these connections.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;
use sse_contract::{Channel, EventId};

use crate::broker::Broker;
use crate::config::StreamConfig;
use crate::feed::frame::{self, Form, Framing};
use crate::feed::inbox::Whose;
use crate::hub::OpenStreams;
use crate::hub::channels::Channels;
use crate::hub::clocks::Clock;
use crate::hub::poller::Readiness;
use crate::logging::Sampler;
use crate::metrics::{Cells, Replayed};
use crate::stream::close_reason::CloseReason;
use crate::stream::connection::Connection;
use crate::stream::delivery::{End, Traffic};
use crate::stream::join::{Join, Limits, Output};
use crate::stream::outbox::Deciseconds;
use crate::stream::sink::{ClientSide, Sink};
use crate::stream::story::StreamId;
use crate::stream::strand::{Joining, Membership, Strands};
use crate::stream::subscription::{About, Begin, Held, Peer, Subscription, Waiter};

/// Lines of one kind that a worker logs in a second at most.
const LINES: u32 = 5;

/// The connections of one worker, and the channels they listen to.
#[derive(Debug)]
pub(crate) struct Subscribers {
    pub(crate) connections: Slab<Connection>,
    pub(crate) channels: Channels,
    /// Who opened each stream, by the stream's slot. Only a list reads it, so it stands beside the
    /// connections, which every delivery reads.
    peers: Vec<Option<Peer>>,
    /// What to drop when a stream ends, by the stream's slot. Most streams have no entry.
    pub(crate) held: HashMap<usize, Held>,
    /// A clock for each partition, by its number.
    pub(crate) clocks: Box<[Clock]>,
    pub(crate) broker: Broker,
    pub(crate) worker: u16,
    pub(crate) config: StreamConfig,
    open: Arc<OpenStreams>,
    /// Limits the log's lines about gaps, and those about gaps and lags at the level debug.
    pub(crate) gap_lines: Sampler,
    pub(crate) debug_lines: Sampler,
    pub(crate) cells: Arc<Cells>,
    began: Instant,
    /// The same moment on the system's clock.
    began_at: SystemTime,
    generation: u32,
    /// Scratch space: what a join handed out.
    pub(crate) outputs: Vec<Output>,
    /// Scratch space: connections that a fan-out must close or send to history.
    pub(crate) ends: Vec<(u32, End)>,
    /// Scratch space: indices of a run's events, sorted by channel.
    pub(crate) picks: Vec<u32>,
    /// Scratch space: indices of the events that also go to connections with several channels.
    pub(crate) mixed: Vec<u32>,
    /// Scratch space: the bytes of several events in a row.
    pub(crate) row: Vec<u8>,
    /// How many connections have each form. Most are chunked and without channels, so bytes of
    /// another form are joined only while there are any.
    pub(crate) forms: [usize; Form::ALL.len()],
    /// Tokens of connections with queued events that nothing has tried to write.
    pub(crate) unwritten: Vec<u64>,
}

impl Subscribers {
    /// Creates a hub's state without connections.
    pub(crate) fn new(
        broker: Broker,
        worker: u16,
        config: StreamConfig,
        open: Arc<OpenStreams>,
        cells: Arc<Cells>,
    ) -> Self {
        Subscribers {
            connections: Slab::new(),
            peers: Vec::new(),
            channels: Channels::default(),
            held: HashMap::new(),
            clocks: (0..broker.partitions()).map(|_| Clock::new()).collect(),
            broker,
            worker,
            config,
            open,
            gap_lines: Sampler::new(LINES),
            debug_lines: Sampler::new(LINES),
            cells,
            began: Instant::now(),
            began_at: SystemTime::now(),
            generation: 0,
            outputs: Vec::new(),
            ends: Vec::new(),
            picks: Vec::new(),
            mixed: Vec::new(),
            row: Vec::new(),
            forms: [0; Form::ALL.len()],
            unwritten: Vec::new(),
        }
    }

    pub(crate) fn now(&self) -> Deciseconds {
        (self.began.elapsed().as_millis() / 100) as Deciseconds
    }

    /// A time of this hub in milliseconds since 1970. It is the same whenever it is asked for.
    pub(crate) fn unix_millis(&self, time: Deciseconds) -> u64 {
        let began = self.began_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        began.as_millis() as u64 + u64::from(time) * 100
    }

    /// Who opened a stream, if the hub was told.
    pub(crate) fn peer(&self, slot: usize) -> Option<Peer> {
        self.peers.get(slot).copied().flatten()
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
        let form = Form::new(framing, subscription.annotate);
        let strands = self.strands(&subscription.channels, &subscription.begin);
        let partitions: SmallVec<[u16; 4]> =
            strands.iter().map(|strand| strand.partition).collect();
        let mut connection = Connection::new(
            Sink::Awaited(waiter),
            strands,
            subscription.checkpoints,
            form,
            generation,
            now,
        );
        connection.about = subscription.about;
        self.forms[form as usize] += 1;
        let slot = self.connections.insert(connection);
        self.peers.resize(self.peers.len().max(slot + 1), None);
        self.peers[slot] = subscription.peer;
        for channel in subscription.channels.iter() {
            let partition = self.broker.partition_of(channel);
            let added = self.channels.add(channel, partition, slot as u32);
            let membership = Membership { channel: added.key.slot, place: added.place };
            let strands = &mut self.connections[slot].strands;
            strands.memberships(partition).push(membership);
            if let Some(joining) = strands.joining(partition) {
                joining.unattached += usize::from(!added.attached);
            }
            if added.first {
                self.broker.attach(self.worker, channel, added.key);
            }
        }
        self.open.opened();
        self.cells.opened.add(1);
        self.cells.joining.add(partitions.len() as u64);
        self.count();
        let token = Self::token(slot, generation);
        for partition in partitions {
            self.clocks[usize::from(partition)].all_lagged = false;
            // What is handed out may show that the client has gone.
            let Some(slot) = self.find(token) else { break };
            let joining = self.connections[slot].strands.joining(partition);
            if joining.is_some_and(|joining| joining.unattached == 0) {
                self.all_attached(slot, partition);
            }
        }
        token
    }

    /// A new stream's strands, which join from where its client wants to begin.
    fn strands(&self, channels: &Arc<[Channel]>, begin: &Begin) -> Strands {
        let of = |channel: &Channel| self.broker.partition_of(channel);
        let partitions = self.broker.partitions();
        let joining = |partition, channels, several| {
            let join = Join::new(begin.in_partition(partition, partitions), self.limits());
            let mut join = if several { join.held_back() } else { join };
            if begin.lacks(partition, partitions) {
                join.late();
            }
            Joining::new(join, channels, false)
        };
        let first = channels.first().map_or(0, of);
        if partitions == 1 || channels.iter().all(|channel| of(channel) == first) {
            return Strands::of_one(first, joining(first, channels.clone(), false));
        }
        let mut sorted = channels.to_vec();
        sorted.sort_by_key(of);
        let parts = sorted.chunk_by(|a, b| of(a) == of(b)).map(|part| {
            let partition = of(&part[0]);
            (partition, joining(partition, part.into(), true))
        });
        Strands::of_several(partitions, parts)
    }

    /// Lets a client in before its stream has a position. It gets `retry:` now, and a `late` gap
    /// with its first position.
    pub(crate) fn let_in_late(&mut self, slot: usize) {
        let now = self.now();
        let retry = frame::retry(self.config.jittered_retry());
        let connection = &mut self.connections[slot];
        if connection.sink.let_in().is_some() {
            connection.strands.all_joining().for_each(|(_, joining)| joining.join.late());
            connection.queue_own(&retry, now);
            self.open_several(slot, true);
        }
    }

    /// Makes `sink` the stream's sink. `head` is written to it first.
    pub(crate) fn lead_out(&mut self, slot: usize, sink: Sink, head: Option<Bytes>) {
        let now = self.now();
        let id = self.stream_id(slot);
        let connection = &mut self.connections[slot];
        if let Some(About { story: Some(story), subject, .. }) = connection.about.as_deref_mut() {
            story.opened(id, subject.as_deref());
        }
        connection.sink = sink;
        if let Some(head) = head {
            connection.lead(head, now);
        }
        self.flush(slot);
    }

    pub(crate) fn close(&mut self, slot: usize, reason: CloseReason) {
        let mut connection = self.connections.remove(slot);
        self.held.remove(&slot);
        let strands = connection.strands.iter();
        for (partition, membership) in
            strands.flat_map(|strand| strand.memberships.iter().map(move |m| (strand.partition, m)))
        {
            let removed = self.channels.remove(membership.channel, membership.place);
            if let Some(moved) = removed.moved {
                let memberships = self.connections[moved as usize].strands.memberships(partition);
                if let Some(m) = memberships.iter_mut().find(|m| m.channel == membership.channel) {
                    m.place = membership.place;
                }
            }
            if let Some((channel, key)) = removed.last {
                self.broker.detach(self.worker, &channel, key);
            }
        }
        if reason == CloseReason::Stalled {
            connection.sink.abort();
        } else if connection.form.framing() == Framing::Chunked {
            // Without chunks, an orderly close would mark the body as finished, and the client
            // would not reconnect.
            connection.sink.close_session();
        }
        self.forms[connection.form as usize] -= 1;
        self.open.closed();
        self.cells.closed[reason as usize].add(1);
        self.cells.joining.sub(connection.joining() as u64);
        for joining in connection.strands.iter().filter_map(|strand| strand.joining) {
            if joining.join.replays() {
                self.cells.replays[Replayed::Abandoned as usize].add(1);
            }
        }
        let open = u64::from(self.now() - connection.opened) * 100;
        self.cells.stream_duration.observe(open, 1);
        self.count();
        let id = StreamId { worker: self.worker, number: connection.generation };
        if let Some(About { story: Some(story), subject, .. }) = connection.about.as_deref() {
            story.closed(id, subject.as_deref(), reason);
        }
    }

    /// The stream's name in the log.
    pub(crate) fn stream_id(&self, slot: usize) -> StreamId {
        StreamId { worker: self.worker, number: self.connections[slot].generation }
    }

    fn count(&self) {
        self.cells.subscribers.set(self.connections.len() as u64);
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
            Ok(written) => self.cells.wrote(written),
            Err(_) => return self.close(slot, CloseReason::Failed),
        }
        self.read_if_room(slot);
    }

    /// Sends heartbeats and enforces deadlines, for all connections.
    pub(crate) fn sweep(&mut self) {
        let (now, instant) = (self.now(), Instant::now());
        let heartbeat = deciseconds(self.config.heartbeat);
        let deadline = deciseconds(self.config.progress_deadline);
        // 0 is never, so an age below the resolution is the least.
        let max_age = match self.config.max_age {
            Duration::ZERO => 0,
            age => deciseconds(age).max(1),
        };
        let mut ended = Vec::new();
        let (mut queued_bytes, mut queued_streams, mut written) = (0, 0, Traffic::default());
        for (slot, connection) in &mut self.connections {
            let until = connection.about.as_ref().and_then(|about| about.until);
            if until.is_some_and(|until| until <= instant) {
                ended.push((slot, CloseReason::Expired));
                continue;
            }
            if connection.stalled(now, deadline) {
                ended.push((slot, CloseReason::Stalled));
                continue;
            }
            // Times differ between connections, so that those opened together drift apart.
            let jitter = connection.generation.wrapping_mul(0x9E37_79B9) >> 16;
            let part = u64::from(jitter % 64);
            let jittered = |time: Deciseconds| time - (u64::from(time) * part / 256) as Deciseconds;
            if max_age > 0 && now - connection.opened >= jittered(max_age) {
                ended.push((slot, CloseReason::Aged));
                continue;
            }
            let dispatched = |partition: u16| self.clocks[usize::from(partition)].dispatched;
            connection.strands.advance(dispatched);
            if connection.pending() {
                queued_streams += 1;
                queued_bytes += connection.queued() as u64;
                continue;
            }
            if now - connection.last_write < jittered(heartbeat) {
                continue;
            }
            match beat(connection, dispatched, now) {
                Ok(sent) => written += sent,
                Err(_) => ended.push((slot, CloseReason::Failed)),
            }
        }
        self.cells.wrote(written);
        self.cells.queued_streams.set(queued_streams);
        self.cells.queued_bytes.set(queued_bytes);
        for (slot, reason) in ended {
            if matches!(reason, CloseReason::Expired | CloseReason::Aged) {
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
        let written = self.connections[slot].send_own(&retry, now);
        self.cells.wrote(written.unwrap_or_default());
    }

    /// Ends the streams that a revocation names.
    pub(crate) fn end(&mut self, whose: &Whose) {
        let of = |about: &About| match whose {
            Whose::Subject(subject) => about.subject.as_deref() == Some(subject),
            Whose::Token(id) => about.token_id.as_deref() == Some(id),
            Whose::Channel(_) => false,
        };
        let slots: Vec<usize> = match whose {
            Whose::Channel(name) => self.channels.subscribers_by_name(name),
            _ => {
                let connections = self.connections.iter();
                connections
                    .filter(|(_, c)| c.about.as_deref().is_some_and(of))
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

/// Sends a heartbeat: a checkpoint if the stream takes checkpoints and has a live strand. Of several
/// strands one is enough, because the cursor has what each is at.
fn beat(
    connection: &mut Connection,
    dispatched: impl Fn(u16) -> Option<EventId>,
    now: Deciseconds,
) -> io::Result<Traffic> {
    if !connection.checkpoints {
        return connection.heartbeat(frame::COMMENT, now);
    }
    let position = {
        let mut live = connection.strands.iter().filter(|strand| strand.joining.is_none());
        live.find_map(|s| Some((s.partition, dispatched(s.partition)?.max(s.seen))))
    };
    match position {
        Some((partition, id)) => {
            let cursor = connection.strands.cursor(partition, id);
            connection.heartbeat(&frame::checkpoint(&cursor), now)
        }
        None => connection.heartbeat(frame::ALIVE, now),
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
