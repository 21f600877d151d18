//! What one worker counts, in cells that no other thread writes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::feed::gap::GapReason;
use crate::metrics::distribution::Distribution;
use crate::stream::close_reason::CloseReason;
use crate::stream::delivery::Traffic;

/// A number that one thread writes and any thread may read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the thread that owns the cells may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts `n`. Only the thread that owns the cells may call this.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets the number. Only the thread that owns the cells may call this.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The current number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's numbers.
#[derive(Debug)]
pub struct Cells {
    /// Open streams.
    pub subscribers: Count,
    /// Open streams that are not live: they read history or wait for the broker.
    pub joining: Count,
    /// Streams opened.
    pub opened: Count,
    /// Streams closed, by [`CloseReason`].
    pub closed: [Count; CloseReason::ALL.len()],
    /// Events that a socket accepted as a whole.
    pub delivered: Count,
    /// Gap events, by [`GapReason`].
    pub gaps: [Count; GapReason::ALL.len()],
    /// Live connections that had to read history.
    pub lags: Count,
    /// Raw publishes that a connection missed because it was not live.
    pub missed: Count,
    /// Bytes that sockets accepted.
    pub sent_bytes: Count,
    /// Writes that sockets accepted bytes of.
    pub writes: Count,
    /// Bytes that wait for sockets with room, when the connections were last swept.
    pub queued_bytes: Count,
    /// Streams with bytes that wait, when the connections were last swept.
    pub queued_streams: Count,
    /// Replays that ended, by [`Replayed`].
    pub replays: [Count; Replayed::ALL.len()],
    /// Milliseconds from an event's publication to its write, for each subscriber that took it at
    /// once.
    pub delivery_delay: Distribution,
    /// How long streams were open, in milliseconds.
    pub stream_duration: Distribution,
    /// How long complete replays took, in milliseconds.
    pub replay_time: Distribution,
    /// How many events complete replays handed out.
    pub replay_events: Distribution,
    /// How many events a live stream that had to read history was behind.
    pub lag_events: Distribution,
}

/// How a replay ended: the reading of history from a position to the live events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// The stream is live and has every event.
    Complete,
    /// The stream is live, and was told of a gap.
    Gap,
    /// The stream ended before it was live.
    Abandoned,
}

impl Replayed {
    /// Every result.
    pub const ALL: [Replayed; 3] = [Replayed::Complete, Replayed::Gap, Replayed::Abandoned];

    /// The result's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Replayed::Complete => "complete",
            Replayed::Gap => "gap",
            Replayed::Abandoned => "abandoned",
        }
    }
}

/// Milliseconds of a delivery, up to what only an outage takes.
const DELAYS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 30_000];
/// Milliseconds of a replay.
const REPLAYS: [u64; 11] = [1, 5, 10, 25, 50, 100, 250, 1_000, 5_000, 30_000, 120_000];
/// Milliseconds that a stream is open: a second to a day.
const DURATIONS: [u64; 9] =
    [1_000, 5_000, 30_000, 60_000, 300_000, 900_000, 3_600_000, 14_400_000, 86_400_000];
/// Numbers of events.
const EVENTS: [u64; 9] = [0, 1, 10, 50, 100, 500, 1_000, 10_000, 100_000];

impl Cells {
    /// Counts what a socket accepted. Only the thread that owns the cells may call this.
    pub(crate) fn wrote(&self, written: Traffic) {
        self.delivered.add(written.events);
        self.sent_bytes.add(written.bytes);
        self.writes.add(written.writes);
    }
}

impl Default for Cells {
    fn default() -> Self {
        Cells {
            subscribers: Count::default(),
            joining: Count::default(),
            opened: Count::default(),
            closed: Default::default(),
            delivered: Count::default(),
            gaps: Default::default(),
            lags: Count::default(),
            missed: Count::default(),
            sent_bytes: Count::default(),
            writes: Count::default(),
            queued_bytes: Count::default(),
            queued_streams: Count::default(),
            replays: Default::default(),
            delivery_delay: Distribution::new(&DELAYS),
            stream_duration: Distribution::new(&DURATIONS),
            replay_time: Distribution::new(&REPLAYS),
            replay_events: Distribution::new(&EVENTS),
            lag_events: Distribution::new(&EVENTS),
        }
    }
}
