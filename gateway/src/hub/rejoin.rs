//! How a worker's streams get to the live events: at their opening, after a lag and after an
//! outage. What the broker's messages do to joining strands, and which strands leave the live side.

use std::sync::Arc;

use sse_contract::{Channel, EventId};

use crate::config::SlowReader;
use crate::feed::frame;
use crate::feed::gap::{Gap, GapReason};
use crate::feed::inbox::{ChannelKey, ReadToken};
use crate::feed::read::ReadRequest;
use crate::feed::snapshot::Snapshot;
use crate::hub::clocks::Clock;
use crate::hub::subscribers::Subscribers;
use crate::metrics::{Cells, Replayed};
use crate::stream::close_reason::CloseReason;
use crate::stream::connection::Connection;
use crate::stream::join::{Join, Next, Output};
use crate::stream::strand::{Joining, Replay};
use crate::stream::subscription::Refusal;

impl Subscribers {
    /// Every event of the partition at or below `clock` was dispatched here.
    pub(crate) fn tick(&mut self, partition: u16, clock: EventId) {
        if !self.clock(partition).permits(clock) {
            self.lag_all(partition);
        }
        self.clock(partition).tick(clock);
        for token in std::mem::take(&mut self.clock(partition).ticking) {
            self.clock(partition).all_lagged = false;
            let Some(slot) = self.find(token) else { continue };
            let mut outputs = std::mem::take(&mut self.outputs);
            if let Some(joining) = self.connections[slot].strands.joining(partition) {
                let next = joining.join.tick(clock, &mut outputs);
                self.act(slot, partition, &mut outputs, next);
            }
            self.outputs = outputs;
        }
    }

    /// The broker has attached a channel.
    pub(crate) fn channel_attached(&mut self, key: ChannelKey) {
        let Some(partition) = self.channels.partition(key) else { return };
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
            let Some(joining) = self.connections[slot].strands.joining(partition) else { continue };
            joining.unattached = joining.unattached.saturating_sub(1);
            if joining.unattached == 0 {
                self.all_attached(slot, partition);
            }
        }
    }

    /// Tells a joining strand that all its channels are attached.
    pub(crate) fn all_attached(&mut self, slot: usize, partition: u16) {
        if let Some(joining) = self.connections[slot].strands.joining(partition) {
            let mut outputs = Vec::new();
            let next = joining.join.attached(&mut outputs);
            self.act(slot, partition, &mut outputs, next);
        }
    }

    /// The broker refuses a channel. Clients that wait to be let in are told so. Other streams with
    /// this channel end, and their clients are told when they reconnect.
    pub(crate) fn refused(&mut self, key: ChannelKey, why: &Arc<str>) {
        let now = self.now();
        let slots: Vec<u32> = self.channels.subscribers(key).to_vec();
        for slot in slots.into_iter().map(|slot| slot as usize) {
            let channel = self.channels.name(key.slot).clone();
            let retry = frame::retry(self.config.jittered_retry());
            let connection = &mut self.connections[slot];
            match connection.sink.let_in() {
                // The handler abandons the stream when it receives this.
                Some(waiter) => {
                    let _ = waiter.send(Err(Refusal::Denied(channel, why.clone())));
                }
                None => {
                    // A client that does not take this `retry:` reconnects all the same.
                    let written = connection.send_own(&retry, now);
                    self.cells.wrote(written.unwrap_or_default());
                    self.close(slot, CloseReason::Refused);
                }
            }
        }
    }

    /// The broker's connection for a partition is lost. Every strand there waits until its channels
    /// are attached again.
    pub(crate) fn detach(&mut self, partition: u16) {
        let clock = self.clock(partition).dispatched;
        for slot in self.of_partition(partition) {
            self.leave_live(slot, partition, clock);
            let strands = &mut self.connections[slot].strands;
            let unattached = strands.memberships(partition).len();
            if let Some(joining) = strands.joining(partition) {
                joining.join.detached();
                joining.unattached = unattached;
                joining.held = None;
                joining.read_number = joining.read_number.wrapping_add(1);
            }
        }
        self.channels.detach_all(partition);
        *self.clock(partition) = Clock::new();
    }

    /// The connections with a strand in this partition.
    fn of_partition(&self, partition: u16) -> Vec<usize> {
        let has = |connection: &Connection| {
            connection.strands.iter().any(|strand| strand.partition == partition)
        };
        let of = self.connections.iter().filter(|(_, connection)| has(connection));
        of.map(|(slot, _)| slot).collect()
    }

    /// Every strand of a partition may have missed events.
    pub(crate) fn lag_all(&mut self, partition: u16) {
        if self.clock(partition).all_lagged {
            return;
        }
        let slots = self.of_partition(partition);
        self.clock(partition).all_lagged = !self.lag(slots, partition);
    }

    /// The subscribers of a channel may have missed an event.
    pub(crate) fn lag_channel(&mut self, key: ChannelKey) {
        let Some(partition) = self.channels.partition(key) else { return };
        let slots = self.channels.subscribers(key).iter().map(|slot| *slot as usize).collect();
        self.lag(slots, partition);
    }

    /// Makes these strands read history from their positions. Returns whether that is new for any
    /// of them. A queue stays: it is in order, and the read begins after it.
    fn lag(&mut self, slots: Vec<usize>, partition: u16) -> bool {
        let (mut news, clock) = (false, self.clock(partition).dispatched);
        for slot in slots {
            match self.connections[slot].strands.joining(partition) {
                Some(joining) => news |= joining.join.lagged(),
                None => {
                    news = true;
                    self.leave_live(slot, partition, clock);
                    self.all_attached(slot, partition);
                }
            }
        }
        news
    }

    /// A reader is too slow for the live events and has everything up to `position`. The policies
    /// of its channels decide what happens.
    pub(crate) fn overflow(&mut self, slot: usize, partition: u16, position: EventId) {
        let policies: Vec<SlowReader> = self.connections[slot]
            .strands
            .of(partition)
            .memberships
            .iter()
            .map(|m| self.config.slow_reader(self.channels.name(m.channel)))
            .collect();
        if policies.contains(&SlowReader::Close) {
            return self.close(slot, CloseReason::Slow);
        }
        self.leave_live(slot, partition, Some(position));
        if policies.contains(&SlowReader::Latest) {
            let conflated: Vec<bool> = policies.iter().map(|p| *p == SlowReader::Latest).collect();
            let all = conflated.iter().all(|conflated| *conflated);
            self.conflate(slot, partition, conflated, all.then_some(position.epoch()));
        }
        self.all_attached(slot, partition);
    }

    /// Makes the marked channels send only their newest event. `epoch` is set if all channels are
    /// marked: the queued events of that epoch are then superseded, and dropped.
    fn conflate(&mut self, slot: usize, partition: u16, conflated: Vec<bool>, epoch: Option<u64>) {
        let limits = self.limits();
        let connection = &mut self.connections[slot];
        let (position, raw) = epoch.map_or((None, 0), |epoch| connection.drop_events(epoch));
        self.cells.missed.add(raw);
        if let Some(joining) = connection.strands.joining(partition) {
            let join = match position {
                Some(position) => Join::resumed(position, limits),
                None => std::mem::replace(&mut joining.join, Join::resumed(EventId::ZERO, limits)),
            };
            joining.join = join.conflating(conflated);
        }
    }

    /// Makes a live strand join from its position.
    fn leave_live(&mut self, slot: usize, partition: u16, position: Option<EventId>) {
        let limits = self.limits();
        let strand = self.connections[slot].strands.of(partition);
        if strand.joining.is_some() || cfg!(feature = "sabotage") {
            return;
        }
        let position = position.map_or(strand.seen, |position| position.max(strand.seen));
        let names = strand.memberships.iter().map(|m| self.channels.name(m.channel).clone());
        let joining = Joining::new(Join::resumed(position, limits), names.collect(), true);
        self.connections[slot].strands.leave_live(partition, joining);
        self.cells.lags.add(1);
        self.cells.joining.add(1);
        if let Some(left_out) = self.debug_lines.pass() {
            let stream = self.stream_id(slot);
            tracing::debug!(%stream, %position, left_out, "a stream reads history");
        }
    }

    fn log_gap(&mut self, slot: usize, gap: &Gap) {
        // Anybody can send a position that nobody issued, and `latest` is the operator's wish. Both
        // must not crowd out the gaps that somebody should know of.
        let expected = matches!(gap.reason, GapReason::UnknownId | GapReason::Conflated);
        let lines = if expected { &mut self.debug_lines } else { &mut self.gap_lines };
        let Some(left_out) = lines.pass() else { return };
        let (stream, reason) = (self.stream_id(slot), gap.reason.as_str());
        let channel = gap.channel.as_ref().map_or("*", Channel::as_str);
        // A client may have written it, so it is quoted.
        let after = gap.after.to_string();
        match expected {
            true => tracing::debug!(
                %stream, channel, gap.reason = reason, gap.after = ?after, left_out,
                "a stream is told of a gap"
            ),
            false => tracing::info!(
                %stream, channel, gap.reason = reason, gap.after = ?after, left_out,
                "a stream is told of a gap"
            ),
        }
    }

    /// The answer to reads of a partition.
    pub(crate) fn snapshot(
        &mut self,
        partition: u16,
        snapshot: &Snapshot,
        tokens: &[ReadToken],
        cached: bool,
    ) {
        let mut outputs = std::mem::take(&mut self.outputs);
        let clock = self.clock(partition);
        let dispatched = clock.confirms(snapshot.clock);
        clock.all_lagged = false;
        for token in tokens {
            let Some(slot) = self.find(token.connection) else { continue };
            let room = self.config.queue_bytes;
            let Some(joining) = self.connections[slot].strands.joining(partition) else { continue };
            if joining.read_number != token.number {
                continue;
            }
            let Joining { join, channels, .. } = joining;
            let next = join.snapshot(snapshot, channels, dispatched, cached, room, &mut outputs);
            self.act(slot, partition, &mut outputs, next);
        }
        self.outputs = outputs;
    }

    /// Queues and writes what a join handed out, and does what the join asks for next.
    fn act(&mut self, slot: usize, partition: u16, outputs: &mut Vec<Output>, next: Next) {
        let now = self.now();
        let (mut events, mut gaps) = (0, false);
        for output in outputs.iter() {
            match output {
                Output::Frame(_) => events += 1,
                Output::Gap(gap) => {
                    gaps = true;
                    self.cells.gaps[gap.reason as usize].add(1);
                    self.log_gap(slot, gap);
                }
                Output::Opened(..) | Output::Checkpoint(_) => {}
            }
        }
        let retry = self.config.jittered_retry();
        let connection = &mut self.connections[slot];
        if let Some(joining) = connection.strands.joining(partition) {
            joining.replay.events += events;
            joining.replay.gap |= gaps;
            if matches!(next, Next::Live(_)) && joining.join.replays() {
                count_replay(&self.cells, &joining.replay);
            }
        }
        let token = Self::token(slot, connection.generation);
        let unchanged = outputs.is_empty() && next == Next::Tick;
        let kept = connection.strands.keep(partition, outputs);
        let opened = outputs.iter().any(|output| matches!(output, Output::Opened(..)));
        let waiter = if opened { connection.sink.let_in() } else { None };
        if waiter.is_some() {
            connection.queue_own(&frame::retry(retry), now);
        }
        for output in outputs.drain(..) {
            connection.queue_output(partition, output, now);
        }
        if let Some(waiter) = waiter {
            // The handler may have gone. It then abandons the stream.
            let _ = waiter.send(Ok(()));
        }
        match next {
            Next::Wait => {}
            Next::Tick => {
                self.clocks[usize::from(partition)].ticking.push(token);
                self.broker.want_tick(self.worker, partition);
            }
            Next::Read(after) => {
                if let Some(joining) = connection.strands.joining(partition) {
                    joining.held = Some(after);
                }
            }
            Next::Live(seen) => {
                connection.strands.go_live(partition, seen);
                self.cells.joining.sub(1);
                self.clocks[usize::from(partition)].all_lagged = false;
            }
        }
        if kept {
            self.open_several(slot, false);
        }
        if !unchanged && self.find(token).is_some() {
            self.flush(slot);
        }
    }

    /// Opens a stream of several strands once each has a position, or if the client is let in late.
    pub(crate) fn open_several(&mut self, slot: usize, late: bool) {
        let (now, retry) = (self.now(), self.config.jittered_retry());
        let connection = &mut self.connections[slot];
        let token = Self::token(slot, connection.generation);
        let Some(outputs) = connection.strands.open(late) else { return };
        let waiter = connection.sink.let_in();
        if waiter.is_some() {
            connection.queue_own(&frame::retry(retry), now);
        }
        for (partition, output) in outputs {
            connection.queue_output(partition, output, now);
        }
        if let Some(waiter) = waiter {
            // The handler may have gone. It then abandons the stream.
            let _ = waiter.send(Ok(()));
        }
        let joining: Vec<u16> = connection.strands.all_joining().map(|(p, _)| p).collect();
        for partition in joining {
            let Some(slot) = self.find(token) else { return };
            let mut outputs = Vec::new();
            if let Some(joining) = self.connections[slot].strands.joining(partition) {
                let next = joining.join.open(&mut outputs);
                self.act(slot, partition, &mut outputs, next);
            }
        }
    }

    /// Sends the reads that were held back until the queue is empty, so that their answers have
    /// room.
    pub(crate) fn read_if_room(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if connection.pending() {
            return;
        }
        let connection_token = Self::token(slot, connection.generation);
        let closed = connection.strands.begun();
        for (partition, joining) in connection.strands.all_joining() {
            if closed.contains(&partition) {
                continue;
            }
            let Some(after) = joining.held.take() else { continue };
            joining.read_number = joining.read_number.wrapping_add(1);
            let dispatched = self.clocks[usize::from(partition)].dispatched;
            self.broker.read(ReadRequest {
                partition,
                worker: self.worker,
                token: ReadToken { connection: connection_token, number: joining.read_number },
                channels: joining.channels.clone(),
                after,
                youngest: joining.join.youngest(),
                extents: (0..joining.channels.len()).map(|n| joining.join.extent(n)).collect(),
                epoch: dispatched.map(EventId::epoch),
            });
        }
    }
}

/// Counts a replay that has reached the live events.
fn count_replay(cells: &Cells, replay: &Replay) {
    let result = if replay.gap { Replayed::Gap } else { Replayed::Complete };
    cells.replays[result as usize].add(1);
    cells.replay_events.observe(replay.events, 1);
    cells.replay_time.observe(replay.began.elapsed().as_millis() as u64, 1);
    if replay.lagged {
        cells.lag_events.observe(replay.events, 1);
    }
}
