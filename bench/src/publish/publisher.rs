//! One publisher: its schedule, its numbers and its failures.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Channels, Failure, Item, Pace, Plan, Published, StampAt, Wire};
use crate::clock::{self, SECOND};
use crate::stamp::Stamp;

/// An event sent this many nanoseconds after it was due counts as late.
const LATE_NS: u64 = 10_000_000;

/// A publisher: a thread with a connection. No other publisher numbers events in its streams of
/// numbers.
pub struct Publisher {
    plan: Plan,
    /// The name, stream of numbers and last number of each channel.
    channels: Vec<(String, u32, u64)>,
    turn: usize,
    /// Nanoseconds from one batch of this publisher to the next; 0 if there is no schedule.
    interval: f64,
    /// Nanoseconds from the start to its first batch. It differs between publishers, so that they
    /// take turns.
    offset: f64,
    done: Published,
}

impl Publisher {
    pub fn new(plan: Plan, number: u32) -> Publisher {
        let channels = match &plan.channels {
            Channels::One(name) => vec![(name.clone(), number, 0)],
            Channels::Each { name, count } => {
                // Neighbouring channels: if a publisher had every n-th channel instead, its readers
                // might all be on the same thread of the server, which may assign connections to
                // threads in turn.
                let at = |n| (u64::from(*count) * u64::from(n) / u64::from(plan.publishers)) as u32;
                let own = at(number)..at(number + 1);
                own.map(|n| (name.replace("{n}", &n.to_string()), n, 0)).collect()
            }
        };
        let per_batch = match plan.pace {
            Pace::Rate(rate) => SECOND as f64 * plan.route.batch() as f64 / rate,
            Pace::Saturate => 0.0,
        };
        let (interval, offset) =
            (per_batch * f64::from(plan.publishers), per_batch * f64::from(number));
        Publisher { plan, channels, turn: 0, interval, offset, done: Published::default() }
    }

    /// Publishes until it is stopped or has sent all its batches.
    pub fn run(mut self, began: u64, stop: &AtomicBool) -> Published {
        let mut wire = None;
        let mut batch = 0_u64;
        let batches =
            if self.channels.is_empty() { 0 } else { self.plan.batches.unwrap_or(u64::MAX) };
        while batch < batches && !stop.load(Ordering::Relaxed) {
            let mut due = clock::now();
            if self.plan.pace != Pace::Saturate {
                due = began + (self.offset + self.interval * batch as f64) as u64;
                clock::sleep_until(due);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            batch += 1;
            self.batch(&mut wire, due);
        }
        self.done.last = self.channels.iter().map(|(_, stream, last)| (*stream, *last)).collect();
        self.done
    }

    /// The data of the next events, all stamped, and for each its channel's index and its place in
    /// the data.
    fn stamped(&mut self, size: usize, time: u64) -> (Vec<u8>, Vec<(usize, Range<usize>)>) {
        let (mut data, mut places) = (Vec::with_capacity(size * self.plan.size), Vec::new());
        for _ in 0..size {
            let at = self.turn;
            self.turn = (at + 1) % self.channels.len();
            let (_, stream, last) = &mut self.channels[at];
            *last += 1;
            let start = data.len();
            let stamp = Stamp { time, sequence: *last, stream: *stream };
            stamp.write(self.plan.size, &mut data);
            places.push((at, start..data.len()));
        }
        (data, places)
    }

    /// Sends a batch. If the connection turns out to be broken, it tries once more on a new one, as
    /// any client would, because a server may close a connection just when it is used again. If the
    /// server accepted the first try after all, readers count the events as duplicates.
    fn send(&self, wire: &mut Option<Wire>, items: &[Item<'_>]) -> Result<usize, Failure> {
        if let Some(mut used) = wire.take() {
            match used.send(items) {
                Err(Failure::Broken(_)) => {}
                done => {
                    *wire = Some(used);
                    return done;
                }
            }
        }
        let mut fresh = Wire::open(&self.plan)?;
        let taken = fresh.send(items)?;
        *wire = Some(fresh);
        Ok(taken)
    }

    /// Publishes one batch. A batch that failed is not repeated: readers count its numbers as lost,
    /// unless the server accepted it after all.
    fn batch(&mut self, wire: &mut Option<Wire>, due: u64) {
        let size = self.plan.route.batch();
        let now = clock::now();
        let late = now.saturating_sub(due);
        self.done.behind = self.done.behind.max(late as f64 / SECOND as f64);
        if late > LATE_NS {
            self.done.late += size as u64;
        }
        let time = if self.plan.stamp == StampAt::Due { due } else { now };
        let (data, places) = self.stamped(size, time);
        let item = |(at, range): (usize, Range<usize>)| Item {
            channel: &self.channels[at].0,
            data: &data[range],
        };
        let items: Vec<Item<'_>> = places.into_iter().map(item).collect();
        match self.send(wire, &items) {
            Ok(taken) => {
                self.done.events += taken as u64;
                self.done.failed += (size - taken) as u64;
            }
            Err(Failure::Broken(error) | Failure::Refused(error)) => {
                self.done.failed += size as u64;
                self.done.error.get_or_insert(error);
                // Otherwise the loop would spin while the server refuses connections.
                clock::sleep_until(now + SECOND / 100);
            }
        }
    }
}
