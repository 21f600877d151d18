//! What the broker's messages do to a worker's connections: fan-out, lags and rejoins.

use std::sync::Arc;
use std::time::Instant;

use sse_contract::{Channel, EventId};

use crate::config::SlowReader;
use crate::feed::clock::believable;
use crate::feed::frame::{self, Framing, SharedFrame};
use crate::feed::inbox::{ChannelKey, ReadToken, ToHub};
use crate::feed::read::ReadRequest;
use crate::feed::snapshot::Snapshot;
use crate::hub::subscribers::Subscribers;
use crate::stream::close_reason::CloseReason;
use crate::stream::connection::{Batch, End, Joining, QueueLimits};
use crate::stream::join::{Item, Join, Next};
use crate::stream::subscription::Refusal;

/// Selects subscribers of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readers {
    All,
    /// Those that have no other channel.
    OfOneChannel,
    /// Those that have other channels.
    OfSeveral,
}

/// Whether positions rise within one epoch, as they must. If they do not, Redis has lost data or
/// another server has taken over, and only history knows which events came in between.
fn follows(last: EventId, next: EventId) -> bool {
    next.epoch() == last.epoch() && next > last
}

impl Subscribers {
    /// Handles one message of the broker.
    pub(crate) fn handle(&mut self, message: ToHub) {
        match message {
            ToHub::Event(key, frame) => self.events(&[(key, frame)]),
            ToHub::Tick(clock) => self.tick(clock),
            ToHub::Attached(key) => self.attach(key),
            ToHub::Refused(key, why) => self.refused(key, &why),
            ToHub::Detached => self.detach(),
            ToHub::Lagged => self.lag_all(),
            ToHub::End(whose) => self.end(&whose),
            ToHub::Count(channel, answer) => {
                // The receiver may be gone.
                let _ = answer.send(self.channels.count(&channel));
            }
            ToHub::Snapshot { snapshot, tokens, cached } => {
                self.snapshot(&snapshot, &tokens, cached);
            }
        }
    }

    /// Hands out a run of events. Their order is kept within each channel and for each connection.
    pub(crate) fn events(&mut self, run: &[(ChannelKey, SharedFrame)]) {
        let (mut start, mut clock) = (0, self.clock);
        for (n, (_, frame)) in run.iter().enumerate() {
            let Some(id) = frame.id else { continue };
            if clock.is_some_and(|clock| !follows(clock, id)) {
                self.fan_out(&run[start..n]);
                self.lag_all();
                start = n;
            }
            clock = Some(id);
        }
        self.fan_out(&run[start..]);
    }

    /// Hands out a run whose ids rise, starting above the last position.
    fn fan_out(&mut self, run: &[(ChannelKey, SharedFrame)]) {
        let mut picks = std::mem::take(&mut self.picks);
        picks.clear();
        picks.extend(0..run.len() as u32);
        // The sort is stable, so the events of a channel stay in order.
        picks.sort_by_key(|&n| run[n as usize].0.slot);
        let same = |a: &u32, b: &u32| run[*a as usize].0 == run[*b as usize].0;
        let alone = picks.chunk_by(same).nth(1).is_none();
        let mut mixed = std::mem::take(&mut self.mixed);
        mixed.clear();
        for group in picks.chunk_by(same) {
            let readers = if alone { Readers::All } else { Readers::OfOneChannel };
            if self.batch(run, group, readers) {
                mixed.extend_from_slice(group);
            }
        }
        if !mixed.is_empty() {
            // A connection with several channels gets the events of all its channels in the order
            // of the run, and one write for all of them.
            mixed.sort_unstable();
            for n in &mixed {
                self.batch(run, std::slice::from_ref(n), Readers::OfSeveral);
            }
            for token in std::mem::take(&mut self.unwritten) {
                if let Some(slot) = self.find(token) {
                    self.flush(slot);
                }
            }
        }
        (self.picks, self.mixed) = (picks, mixed);
        self.clock = run.iter().rev().find_map(|(_, frame)| frame.id).or(self.clock);
    }

    /// Hands events of one channel to the subscribers that `readers` selects. Returns whether the
    /// channel has others.
    fn batch(
        &mut self,
        run: &[(ChannelKey, SharedFrame)],
        picks: &[u32],
        readers: Readers,
    ) -> bool {
        let (key, _) = &run[picks[0] as usize];
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        let mut chunks = 0;
        if picks.len() > 1 {
            let mut join = |framing| {
                let frames = picks.iter().map(|&n| &run[n as usize].1);
                frames.for_each(|frame| joined.extend_from_slice(frame.bytes(framing)));
                joined.len()
            };
            chunks = join(Framing::Chunked);
            if self.plain > 0 {
                join(Framing::Plain);
            }
        }
        let batch = Batch::new(run, picks, joined.split_at(chunks));
        let (now, limits) = (self.now(), self.queue_limits());
        let write = readers != Readers::OfSeveral;
        let (mut written, mut missed, mut others) = (0, 0, false);
        for &slot in self.channels.subscribers(*key) {
            let connection = &mut self.connections[slot as usize];
            let several = connection.memberships.len() > 1;
            if readers != Readers::All && several != (readers == Readers::OfSeveral) {
                others = true;
                continue;
            }
            let idle = !connection.pending();
            let delivery = connection.deliver(&batch, limits, now, write);
            written += delivery.written;
            missed += delivery.missed;
            if !write && idle && connection.pending() {
                self.unwritten.push(Self::token(slot as usize, connection.generation));
            }
            if delivery.end != End::Taken {
                self.ends.push((slot, delivery.end));
            }
        }
        self.cells.delivered.add(written);
        self.cells.missed.add(missed);
        self.joined = joined;
        let mut ends = std::mem::take(&mut self.ends);
        for (slot, end) in ends.drain(..) {
            match end {
                End::Overflow(position) => self.overflow(slot as usize, position),
                _ => self.close(slot as usize, CloseReason::Failed),
            }
        }
        self.ends = ends;
        others
    }

    fn tick(&mut self, clock: EventId) {
        if self.clock.is_some_and(|last| last != clock && !follows(last, clock)) {
            self.lag_all();
        }
        self.clock = Some(clock);
        self.ticked = Instant::now();
        for token in std::mem::take(&mut self.ticking) {
            self.all_lagged = false;
            let Some(slot) = self.find(token) else { continue };
            let mut items = std::mem::take(&mut self.items);
            if let Some(joining) = &mut self.connections[slot].joining {
                let next = joining.join.tick(clock, &mut items);
                self.act(slot, &mut items, next);
            }
            self.items = items;
        }
    }

    fn attach(&mut self, key: ChannelKey) {
        if !self.channels.set_attached(key) {
            return;
        }
        // Copied, because attaching may close a connection, and that changes the list.
        let waiting: Vec<u64> = self
            .channels
            .subscribers(key)
            .iter()
            .map(|&slot| Self::token(slot as usize, self.connections[slot as usize].generation))
            .collect();
        for token in waiting {
            let Some(slot) = self.find(token) else { continue };
            let Some(joining) = &mut self.connections[slot].joining else { continue };
            joining.unattached = joining.unattached.saturating_sub(1);
            if joining.unattached == 0 {
                self.attached(slot);
            }
        }
    }

    /// Tells a joining connection that all its channels are attached.
    pub(crate) fn attached(&mut self, slot: usize) {
        if let Some(joining) = &mut self.connections[slot].joining {
            let mut items = Vec::new();
            let next = joining.join.attached(&mut items);
            self.act(slot, &mut items, next);
        }
    }

    /// The broker refuses a channel. Clients that wait to be let in are told so. Other streams with
    /// this channel end, and their clients are told when they reconnect.
    fn refused(&mut self, key: ChannelKey, why: &Arc<str>) {
        let now = self.now();
        let slots: Vec<u32> = self.channels.subscribers(key).to_vec();
        for slot in slots.into_iter().map(|slot| slot as usize) {
            let channel = self.channels.name(key.slot).clone();
            let retry = frame::retry(self.config.jittered_retry());
            let connection = &mut self.connections[slot];
            match connection.joining.as_mut().and_then(|joining| joining.waiter.take()) {
                // The handler abandons the stream when it receives this.
                Some(waiter) => {
                    let _ = waiter.send(Err(Refusal::Denied(channel, why.clone())));
                }
                None => {
                    // A client that does not take this `retry:` reconnects all the same.
                    let _ = connection.send_own(&retry, now);
                    self.close(slot, CloseReason::Refused);
                }
            }
        }
    }

    /// The broker's connection is lost. Every connection waits until its channels are attached
    /// again.
    fn detach(&mut self) {
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.leave_live(slot, self.clock);
            let unattached = self.connections[slot].memberships.len();
            if let Some(joining) = &mut self.connections[slot].joining {
                joining.join.detached();
                joining.unattached = unattached;
                joining.held = None;
                joining.read_number = joining.read_number.wrapping_add(1);
            }
        }
        self.channels.detach_all();
        self.ticking.clear();
        self.clock = None;
        self.all_lagged = false;
    }

    /// Every connection may have missed events.
    fn lag_all(&mut self) {
        if self.all_lagged {
            return;
        }
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
        let mut news = false;
        for slot in slots {
            match &mut self.connections[slot].joining {
                Some(joining) => news |= joining.join.lagged(),
                None => {
                    news = true;
                    self.lag(slot);
                }
            }
        }
        self.all_lagged = !news;
    }

    /// A reader is too slow for the live events and has everything up to `position`. The policies
    /// of its channels decide what happens.
    fn overflow(&mut self, slot: usize, position: EventId) {
        let policies: Vec<SlowReader> = self.connections[slot]
            .memberships
            .iter()
            .map(|m| self.config.slow_reader(self.channels.name(m.channel)))
            .collect();
        if policies.contains(&SlowReader::Close) {
            return self.close(slot, CloseReason::Slow);
        }
        self.leave_live(slot, Some(position));
        if policies.contains(&SlowReader::Latest) {
            let conflated: Vec<bool> = policies.iter().map(|p| *p == SlowReader::Latest).collect();
            let all = conflated.iter().all(|conflated| *conflated);
            self.conflate(slot, conflated, all.then_some(position.epoch()));
        }
        self.attached(slot);
    }

    /// Makes the marked channels send only their newest event. `epoch` is set if all channels are
    /// marked: the queued events of that epoch are then superseded, and dropped.
    fn conflate(&mut self, slot: usize, conflated: Vec<bool>, epoch: Option<u64>) {
        let limits = self.limits();
        let connection = &mut self.connections[slot];
        let (position, raw) = epoch.map_or((None, 0), |epoch| connection.drop_events(epoch));
        self.cells.missed.add(raw);
        if let Some(joining) = &mut connection.joining {
            let join = match position {
                Some(position) => Join::resumed(position, limits),
                None => std::mem::replace(&mut joining.join, Join::resumed(EventId::ZERO, limits)),
            };
            joining.join = join.conflating(conflated);
        }
    }

    /// Makes a live connection read history from its position. Its queue stays: the queue is in
    /// order, and the read begins after it.
    fn lag(&mut self, slot: usize) {
        self.leave_live(slot, self.clock);
        self.attached(slot);
    }

    fn leave_live(&mut self, slot: usize, position: Option<EventId>) {
        let connection = &mut self.connections[slot];
        if connection.joining.is_some() || cfg!(feature = "sabotage") {
            return;
        }
        let position = position.map_or(connection.seen, |position| position.max(connection.seen));
        let names = connection.memberships.iter().map(|m| self.channels.name(m.channel).clone());
        let channels: Arc<[Channel]> = names.collect();
        let join = Join::resumed(position, self.limits());
        let joining =
            Joining { join, channels, unattached: 0, held: None, read_number: 0, waiter: None };
        self.connections[slot].joining = Some(Box::new(joining));
        self.cells.lags.add(1);
        self.cells.joining.add(1);
    }

    fn snapshot(&mut self, snapshot: &Snapshot, tokens: &[ReadToken], cached: bool) {
        let mut items = std::mem::take(&mut self.items);
        // A clock far beyond the last tick is not believed. The join then waits for a tick that
        // confirms it.
        let dispatched = self.clock.filter(|clock| believable(*clock, self.ticked, snapshot.clock));
        self.all_lagged = false;
        for token in tokens {
            let Some(slot) = self.find(token.connection) else { continue };
            let room = self.config.queue_bytes;
            let Some(joining) = &mut self.connections[slot].joining else { continue };
            if joining.read_number != token.number {
                continue;
            }
            let Joining { join, channels, .. } = &mut **joining;
            let next = join.snapshot(snapshot, channels, dispatched, cached, room, &mut items);
            self.act(slot, &mut items, next);
        }
        self.items = items;
    }

    /// Queues and writes what a join handed out, and does what the join asks for next.
    fn act(&mut self, slot: usize, items: &mut Vec<Item>, next: Next) {
        let now = self.now();
        for item in items.iter() {
            if let Item::Gap(_, reason) = item {
                self.cells.gaps[*reason as usize].add(1);
            }
        }
        let retry = self.config.jittered_retry();
        let connection = &mut self.connections[slot];
        let token = Self::token(slot, connection.generation);
        let unchanged = items.is_empty() && next == Next::Tick;
        let opened = items.iter().any(|item| matches!(item, Item::Opened(..)));
        let waiter = connection
            .joining
            .as_mut()
            .and_then(|joining| if opened { joining.waiter.take() } else { None });
        if waiter.is_some() {
            connection.queue_own(&frame::retry(retry), now);
        }
        connection.queue_items(items.drain(..), now);
        if let Some(waiter) = waiter {
            // The handler may have gone. It then abandons the stream.
            let _ = waiter.send(Ok(()));
        }
        match next {
            Next::Wait => {}
            Next::Tick => {
                self.ticking.push(token);
                self.broker.want_tick(self.worker);
            }
            Next::Read(after) => {
                if let Some(joining) = &mut connection.joining {
                    joining.held = Some(after);
                }
            }
            Next::Live(seen) => {
                connection.joining = None;
                connection.seen = seen;
                self.cells.joining.sub(1);
                self.all_lagged = false;
            }
        }
        if !unchanged {
            self.flush(slot);
        }
    }

    /// Sends the read that was held back until the queue is empty, so that its answer has room.
    pub(crate) fn read_if_room(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if connection.pending() {
            return;
        }
        let token = Self::token(slot, connection.generation);
        let Some(joining) = &mut connection.joining else { return };
        let Some(after) = joining.held.take() else { return };
        joining.read_number = joining.read_number.wrapping_add(1);
        self.broker.read(ReadRequest {
            worker: self.worker,
            token: ReadToken { connection: token, number: joining.read_number },
            channels: joining.channels.clone(),
            after,
            youngest: joining.join.youngest(),
            extents: (0..joining.channels.len()).map(|n| joining.join.extent(n)).collect(),
            epoch: self.clock.map(EventId::epoch),
        });
    }

    fn queue_limits(&self) -> QueueLimits {
        QueueLimits { blocks: self.config.queue_events, bytes: self.config.queue_bytes }
    }
}
