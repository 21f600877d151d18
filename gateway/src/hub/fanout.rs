//! What the broker's messages do to a worker's connections, and the fan-out: each event to every
//! live subscriber of its channel.

use crate::feed::clock::unix_ms;
use crate::feed::frame::{Form, SharedFrame};
use crate::feed::inbox::{ChannelKey, ToHub};
use crate::hub::clocks::Clock;
use crate::hub::subscribers::Subscribers;
use crate::stream::close_reason::CloseReason;
use crate::stream::connection::Connection;
use crate::stream::delivery::{Attempt, Batch, End, QueueLimits, Traffic};
use crate::stream::outbox::Deciseconds;

/// Selects subscribers of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readers {
    All,
    /// Those that have no other channel.
    OfOneChannel,
    /// Those that have other channels.
    OfSeveral,
}

/// Subscribers that did not take a batch at once and whole. They are kept out of the loop over all
/// subscribers, which then has registers for everything it needs.
struct Rest<'a> {
    limits: QueueLimits,
    now: Deciseconds,
    write: bool,
    written: Traffic,
    missed: u64,
    unwritten: &'a mut Vec<u64>,
    ends: &'a mut Vec<(u32, End)>,
}

impl Rest<'_> {
    #[inline(never)]
    fn deliver(
        &mut self,
        slot: u32,
        connection: &mut Connection,
        batch: &Batch<'_>,
        attempt: Attempt,
    ) {
        let idle = !connection.pending();
        let delivery = connection.deliver(batch, attempt, self.limits, self.now, self.write);
        self.written += delivery.written;
        self.missed += delivery.missed;
        if !self.write && idle && connection.pending() {
            self.unwritten.push(Subscribers::token(slot as usize, connection.generation));
        }
        if delivery.end != End::Taken {
            self.ends.push((slot, delivery.end));
        }
    }
}

impl Subscribers {
    /// Handles one message of the broker.
    pub(crate) fn handle(&mut self, message: ToHub) {
        match message {
            ToHub::Event(key, frame) => self.events(&[(key, frame)]),
            ToHub::Missed(key) => self.lag_channel(key),
            ToHub::Tick(partition, clock) => self.tick(partition, clock),
            ToHub::Attached(key) => self.channel_attached(key),
            ToHub::Refused(key, why) => self.refused(key, &why),
            ToHub::Detached(partition) => self.detach(partition),
            ToHub::Lagged(partition) => self.lag_all(partition),
            ToHub::End(whose) => self.end(&whose),
            ToHub::Count(channel, answer) => {
                // The receiver may be gone.
                let _ = answer.send(self.channels.count(&channel));
            }
            // The asker may have given up.
            ToHub::ListStreams(step) => drop(step.answer.try_send(self.list_streams(&step))),
            ToHub::ListChannels(step) => drop(step.answer.try_send(self.channels.list(&step))),
            ToHub::Snapshot { partition, snapshot, tokens, cached } => {
                self.snapshot(partition, &snapshot, &tokens, cached);
            }
        }
    }

    /// Hands out a run of events. Their order is kept within each channel and for each connection.
    pub(crate) fn events(&mut self, run: &[(ChannelKey, SharedFrame)]) {
        let mut start = 0;
        for (n, (key, frame)) in run.iter().enumerate() {
            let Some(id) = frame.id else { continue };
            // Nobody listens to a channel that is gone.
            let Some(partition) = self.channels.hands_out(*key, id) else { continue };
            if !self.clock(partition).precedes(id) {
                self.fan_out(&run[start..n]);
                self.lag_all(partition);
                start = n;
            }
            self.clock(partition).dispatched = Some(id);
        }
        self.fan_out(&run[start..]);
    }

    pub(crate) fn clock(&mut self, partition: u16) -> &mut Clock {
        &mut self.clocks[usize::from(partition)]
    }

    /// Hands out a run in which the ids of each partition rise, starting above its last position.
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
        let Some(partition) = self.channels.partition(*key) else { return false };
        let mut row = std::mem::take(&mut self.row);
        // Streams of several channels queue the events and write them together later.
        let write = readers != Readers::OfSeveral;
        let in_a_row = if write { self.in_a_row(run, picks, &mut row) } else { Default::default() };
        let batch = Batch::new(partition, run, picks, in_a_row);
        let now = self.now();
        let mut others = false;
        let (mut whole, mut bytes) = (0, 0);
        let mut rest = Rest {
            limits: self.queue_limits(),
            now,
            write,
            written: Traffic::default(),
            missed: 0,
            unwritten: &mut self.unwritten,
            ends: &mut self.ends,
        };
        for &slot in self.channels.subscribers(*key) {
            let connection = &mut self.connections[slot as usize];
            if readers != Readers::All && connection.strands.has_one_channel() != write {
                others = true;
                continue;
            }
            let attempt = if write { connection.write_now(&batch, now) } else { Attempt::NotMade };
            match attempt {
                Attempt::Whole(n) => {
                    whole += 1;
                    bytes += n as u64;
                }
                attempt => rest.deliver(slot, connection, &batch, attempt),
            }
        }
        let Rest { mut written, missed, .. } = rest;
        written += Traffic { events: whole * batch.len() as u64, bytes, writes: whole };
        self.cells.wrote(written);
        self.observe_delay(&batch, whole);
        self.cells.missed.add(missed);
        self.row = row;
        let mut ends = std::mem::take(&mut self.ends);
        for (slot, end) in ends.drain(..) {
            match end {
                End::Overflow(position) => self.overflow(slot as usize, partition, position),
                _ => self.close(slot as usize, CloseReason::Failed),
            }
        }
        self.ends = ends;
        others
    }

    /// Counts the time since each event's publication, for the subscribers that took it at once.
    fn observe_delay(&self, batch: &Batch<'_>, subscribers: u64) {
        if subscribers == 0 {
            return;
        }
        let now = unix_ms();
        for id in batch.frames().filter_map(|frame| frame.id) {
            self.cells.delivery_delay.observe(now.saturating_sub(id.ms), subscribers);
        }
    }

    /// Joins the bytes of events in `row`, for each form in which they are not joined and which a
    /// connection has: once for all of them.
    fn in_a_row<'a>(
        &self,
        run: &[(ChannelKey, SharedFrame)],
        picks: &[u32],
        row: &'a mut Vec<u8>,
    ) -> [&'a [u8]; Form::ALL.len()] {
        row.clear();
        let mut ends = [0; Form::ALL.len()];
        for form in Form::ALL {
            if self.forms[form as usize] > 0 && (picks.len() > 1 || form.annotated()) {
                let frames = picks.iter().map(|&n| &run[n as usize].1);
                let pieces = frames.flat_map(|frame| frame.pieces(form));
                pieces.for_each(|piece| row.extend_from_slice(piece));
            }
            ends[form as usize] = row.len();
        }
        let mut from = 0;
        ends.map(|end| &row[std::mem::replace(&mut from, end)..end])
    }

    fn queue_limits(&self) -> QueueLimits {
        QueueLimits { blocks: self.config.queue_events, bytes: self.config.queue_bytes }
    }
}
