//! What the broker's messages do to a worker's connections: the fan-out itself, lags and rejoins.

use std::sync::Arc;

use sse_contract::{Channel, EventId};

use crate::broker::ReadRequest;
use crate::config::SlowReader;
use crate::connection::{Delivery, Joining, QueueLimits};
use crate::frame::SharedFrame;
use crate::inbox::{ChannelKey, ReadToken, ToHub};
use crate::join::{Item, Join, Next};
use crate::metrics::CloseReason;
use crate::snapshot::Snapshot;
use crate::subscribers::Subscribers;

impl Subscribers {
    /// Acts on one message of the broker.
    pub(crate) fn handle(&mut self, message: ToHub) {
        match message {
            ToHub::Event(key, frame) => self.event(key, &frame),
            ToHub::Tick(clock) => self.tick(clock),
            ToHub::Attached(key) => self.attach(key),
            ToHub::Detached => self.detach(),
            ToHub::Lagged => self.lag_all(),
            ToHub::Count(channel, answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(self.channels.count(&channel));
            }
            ToHub::Snapshot { snapshot, tokens, cached } => {
                self.snapshot(&snapshot, &tokens, cached);
            }
        }
    }

    fn event(&mut self, key: ChannelKey, frame: &SharedFrame) {
        if let Some(id) = frame.id {
            self.advance(id, false);
        }
        let (now, limits) = (self.now(), self.queue_limits());
        let (mut written, mut missed) = (0, 0);
        for &slot in self.channels.subscribers(key) {
            match self.connections[slot as usize].deliver(frame, limits, now) {
                Delivery::Written => written += 1,
                Delivery::Queued | Delivery::Passed => {}
                Delivery::Missed => missed += 1,
                outcome => self.outcomes.push((slot, outcome)),
            }
        }
        self.cells.delivered.add(written);
        self.cells.missed.add(missed);
        let mut outcomes = std::mem::take(&mut self.outcomes);
        for (slot, outcome) in outcomes.drain(..) {
            match outcome {
                // The event itself is read again, with all that follows: it was not queued. A raw one has
                // no place in history; it alone is missed.
                Delivery::Overflow if frame.id.is_none() => self.cells.missed.add(1),
                Delivery::Overflow => self.overflow(slot as usize),
                _ => self.close(slot as usize, CloseReason::Failed),
            }
        }
        self.outcomes = outcomes;
        if frame.id.is_some() {
            self.clock = frame.id;
        }
    }

    fn tick(&mut self, clock: EventId) {
        self.advance(clock, true);
        self.clock = Some(clock);
        for token in std::mem::take(&mut self.ticking) {
            let Some(slot) = self.find(token) else { continue };
            let mut items = std::mem::take(&mut self.items);
            if let Some(joining) = &mut self.connections[slot].joining {
                let next = joining.join.tick(clock, &mut items);
                self.act(slot, &mut items, next);
            }
            self.items = items;
        }
    }

    /// Positions only rise, within one epoch. Where they do not, Redis is not the one it was: what came
    /// between is known to history alone.
    fn advance(&mut self, to: EventId, tick: bool) {
        let Some(clock) = self.clock else { return };
        if to.epoch() != clock.epoch() || to < clock || (to == clock && !tick) {
            self.lag_all();
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

    /// All channels of a joining connection are attached.
    pub(crate) fn attached(&mut self, slot: usize) {
        if let Some(joining) = &mut self.connections[slot].joining {
            let next = joining.join.attached();
            self.act(slot, &mut Vec::new(), next);
        }
    }

    /// The broker's connection is gone: every connection waits for its channels anew.
    fn detach(&mut self) {
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.leave_live(slot);
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
    }

    fn lag_all(&mut self) {
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            match &mut self.connections[slot].joining {
                Some(joining) => joining.join.lagged(),
                None => self.lag(slot),
            }
        }
    }

    /// A reader is too slow for the live events: what becomes of it is configured, by channel.
    fn overflow(&mut self, slot: usize) {
        let policies: Vec<SlowReader> = self.connections[slot]
            .memberships
            .iter()
            .map(|m| self.config.slow_reader(self.channels.name(m.channel)))
            .collect();
        if policies.contains(&SlowReader::Close) {
            return self.close(slot, CloseReason::Slow);
        }
        self.leave_live(slot);
        if policies.contains(&SlowReader::Latest) {
            let conflated: Vec<bool> = policies.iter().map(|p| *p == SlowReader::Latest).collect();
            let all = conflated.iter().all(|conflated| *conflated);
            self.conflate(slot, conflated, all);
        }
        self.attached(slot);
    }

    /// Only the newest of the marked channels is of use. If that is all of them, so is what is queued.
    fn conflate(&mut self, slot: usize, conflated: Vec<bool>, all: bool) {
        let limits = self.limits();
        let connection = &mut self.connections[slot];
        let (position, raw) = if all { connection.drop_events() } else { (None, 0) };
        self.cells.missed.add(raw);
        if let Some(joining) = &mut connection.joining {
            let join = match position {
                Some(position) => Join::resumed(position, limits),
                None => std::mem::replace(&mut joining.join, Join::resumed(EventId::ZERO, limits)),
            };
            joining.join = join.conflating(conflated);
        }
    }

    /// A live connection reads history from where it stands. What is queued for it stays: it is in order,
    /// and nothing after it is.
    fn lag(&mut self, slot: usize) {
        self.leave_live(slot);
        self.attached(slot);
    }

    fn leave_live(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if connection.joining.is_some() || cfg!(feature = "sabotage") {
            return;
        }
        let position = self.clock.map_or(connection.seen, |clock| clock.max(connection.seen));
        let names = connection.memberships.iter().map(|m| self.channels.name(m.channel).clone());
        let channels: Arc<[Channel]> = names.collect();
        let join = Join::resumed(position, self.limits());
        let joining = Joining { join, channels, unattached: 0, held: None, read_number: 0 };
        self.connections[slot].joining = Some(Box::new(joining));
        self.cells.lags.add(1);
        self.cells.joining.add(1);
    }

    fn snapshot(&mut self, snapshot: &Snapshot, tokens: &[ReadToken], cached: bool) {
        let mut items = std::mem::take(&mut self.items);
        for token in tokens {
            let Some(slot) = self.find(token.connection) else { continue };
            let room = self.config.queue_bytes;
            let Some(joining) = &mut self.connections[slot].joining else { continue };
            if joining.read_number != token.number {
                continue;
            }
            let Joining { join, channels, .. } = &mut **joining;
            let next = join.snapshot(snapshot, channels, self.clock, cached, room, &mut items);
            self.act(slot, &mut items, next);
        }
        self.items = items;
    }

    /// Queues and writes what a join handed out, and does what it asks for next.
    fn act(&mut self, slot: usize, items: &mut Vec<Item>, next: Next) {
        let now = self.now();
        for item in items.iter() {
            if let Item::Gap(_, reason) = item {
                self.cells.gaps[*reason as usize].add(1);
            }
        }
        let connection = &mut self.connections[slot];
        let token = Self::token(slot, connection.generation);
        connection.queue_items(items.drain(..), now);
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
            }
        }
        self.flush(slot);
    }

    /// Sends the read that was held back until what it answers would have room.
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
        });
    }

    fn queue_limits(&self) -> QueueLimits {
        QueueLimits { blocks: self.config.queue_events, bytes: self.config.queue_bytes }
    }
}
