//! One publisher's schedule, numbers and failures.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Channels, Failure, Item, Pace, Plan, Published, StampAt, Wire};
use crate::clock::{self, SECOND};
use crate::stamp::Stamp;

/// An event later than this on its schedule counts as late.
const LATE_NS: u64 = 10_000_000;

/// One publisher: a thread, a connection, and the channels it alone numbers.
pub struct Publisher {
    plan: Plan,
    /// Name, stream of numbers, last number.
    channels: Vec<(String, u32, u64)>,
    turn: usize,
    /// Time between two of its batches in nanoseconds; 0: none.
    interval: f64,
    /// When its first batch is due, after the start: publishers take turns.
    offset: f64,
    done: Published,
}

impl Publisher {
    /// One of the plan's publishers.
    pub fn new(plan: Plan, number: u32) -> Publisher {
        let channels = match &plan.channels {
            Channels::One(name) => vec![(name.clone(), number, 0)],
            Channels::Each { name, count } => {
                // In a row: every n-th would go along with how servers deal connections to threads.
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

    /// Publishes until it is stopped or has sent all it was to send.
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

    /// The next events, each stamped, as text and where in it each lies.
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

    /// Sends a batch. A server may close a connection just when it is used again; as any client would,
    /// this one then tries once on a new connection. Was it taken the first time, it is seen twice, and
    /// counted so.
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

    /// Publishes one batch. What failed is not repeated: its numbers are missing at every subscriber,
    /// unless the server took it after all.
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
                // A server that refuses connections is not asked a million times a second.
                clock::sleep_until(now + SECOND / 100);
            }
        }
    }
}
