//! Which partitions have a session, and the story of an outage, in the log: one line when live
//! events of a partition are interrupted, one when its Redis is back, and one when all streams are
//! live again, which says how long it took, how many streams went on, and how many were told of a
//! gap.
//!
//! What streams were told is counted for the whole gateway, so an outage that several partitions
//! have together is one story.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::feed::gap::GapReason;
use crate::metrics::Metrics;

/// After this time with a session the story ends, even if some streams still read history: with
/// many clients there are always some.
const PATIENCE: Duration = Duration::from_secs(10);

/// The sessions of all partitions, as their ingests report them.
#[derive(Debug)]
pub(crate) struct Outages {
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By the partition's number.
    partitions: Box<[Connected]>,
    outage: Option<Outage>,
}

/// A partition's part.
#[derive(Debug, Clone, Copy, Default)]
struct Connected {
    now: bool,
    /// When its session was lost, until the story is told.
    lost: Option<Instant>,
}

impl Outages {
    /// No partition has a session yet.
    pub(crate) fn new(partitions: u16, metrics: Metrics) -> Self {
        let partitions = vec![Connected::default(); partitions.into()].into();
        Outages { metrics, state: Mutex::new(State { partitions, outage: None }) }
    }

    /// A partition has no session, or no longer has one. Returns whether it had one. Must be called
    /// before the workers are told, who make their streams leave the live side.
    pub(crate) fn offline(&self, partition: u16) -> bool {
        let mut state = self.state();
        let connected = &mut state.partitions[usize::from(partition)];
        let had = std::mem::take(&mut connected.now);
        if had {
            // A second loss before all streams are back belongs to the same story.
            connected.lost.get_or_insert_with(Instant::now);
            state.outage.get_or_insert_with(|| Outage::begin(&self.metrics)).lost();
        }
        self.metrics.broker.connected.with_label_values(&["redis"]).set(0);
        had
    }

    /// A session of a partition has begun. Returns how long there was none, if one was lost.
    pub(crate) fn online(&self, partition: u16) -> Option<Duration> {
        let mut state = self.state();
        let connected = &mut state.partitions[usize::from(partition)];
        connected.now = true;
        let away = connected.lost.map(|lost| lost.elapsed());
        let all = state.partitions.iter().all(|partition| partition.now);
        if let Some(outage) = state.outage.as_mut().filter(|_| all) {
            outage.back();
        }
        // Set under the lock, because partitions report from several threads.
        self.metrics.broker.connected.with_label_values(&["redis"]).set(all.into());
        away
    }

    /// Tells the end of the story if it has come. Returns whether there is nothing left to tell.
    pub(crate) fn told(&self) -> bool {
        let mut state = self.state();
        if state.outage.as_ref().is_some_and(|outage| !outage.tell(&self.metrics)) {
            return false;
        }
        if state.outage.take().is_some() {
            state.partitions.iter_mut().for_each(|partition| partition.lost = None);
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An outage that the log has not told to the end.
#[derive(Debug)]
struct Outage {
    began: Instant,
    before: Counts,
    /// Since when all partitions have a session again.
    back: Option<Instant>,
}

/// What streams were told so far, and how many left the live side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    lags: u64,
    gaps: [u64; GapReason::ALL.len()],
}

impl Counts {
    fn of(metrics: &Metrics) -> Self {
        let gaps = GapReason::ALL.map(|reason| metrics.sum(|c| c.gaps[reason as usize].get()));
        Counts { lags: metrics.sum(|cells| cells.lags.get()), gaps }
    }
}

impl Outage {
    /// Live events are interrupted now.
    fn begin(metrics: &Metrics) -> Self {
        Outage { began: Instant::now(), before: Counts::of(metrics), back: None }
    }

    /// Another session is lost, too.
    fn lost(&mut self) {
        self.back = None;
    }

    /// All partitions have a session again.
    fn back(&mut self) {
        self.back.get_or_insert_with(Instant::now);
    }

    /// Tells the end of the story once no stream joins any more, or after `PATIENCE`. Returns
    /// whether it is told.
    fn tell(&self, metrics: &Metrics) -> bool {
        let Some(back) = self.back else { return false };
        let joining = metrics.sum(|cells| cells.joining.get());
        if joining > 0 && back.elapsed() < PATIENCE {
            return false;
        }
        let now = Counts::of(metrics);
        let told = Told { before: self.before.gaps, now: now.gaps };
        tracing::info!(
            outage.seconds = (back - self.began).as_secs_f64(),
            streams.resumed = now.lags - self.before.lags, streams.joining = joining,
            gaps = %told,
            "the outage is over: streams are live again"
        );
        true
    }
}

/// The gaps that streams were told of, by reason.
struct Told {
    before: [u64; GapReason::ALL.len()],
    now: [u64; GapReason::ALL.len()],
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.now.iter().zip(&self.before).map(|(now, before)| now - before);
        let told: Vec<String> = GapReason::ALL
            .iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| format!("{} {count}", reason.as_str()))
            .collect();
        if told.is_empty() { f.write_str("none") } else { f.write_str(&told.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_ends_when_no_stream_joins_and_says_what_was_told() {
        let metrics = Metrics::default();
        let cells = metrics.worker();
        cells.gaps[GapReason::Late as usize].add(5);
        let mut outage = Outage::begin(&metrics);
        cells.joining.add(2);
        assert!(!outage.tell(&metrics), "there is no session yet");
        outage.back();
        assert!(!outage.tell(&metrics), "streams still read history");
        cells.joining.sub(2);
        assert!(outage.tell(&metrics));
        cells.gaps[GapReason::Reset as usize].add(3);
        cells.gaps[GapReason::Late as usize].add(1);
        let told = Told { before: outage.before.gaps, now: Counts::of(&metrics).gaps };
        assert_eq!(told.to_string(), "reset 3, late 1");
        let told = Told { before: outage.before.gaps, now: outage.before.gaps };
        assert_eq!(told.to_string(), "none");
    }

    #[test]
    fn partitions_that_are_lost_together_share_one_story() {
        let metrics = Metrics::default();
        let outages = Outages::new(2, metrics.clone());
        let connected = || metrics.broker.connected.with_label_values(&["redis"]).get();
        assert!(!outages.offline(0), "it had no session");
        assert_eq!(outages.online(0), None);
        assert_eq!(connected(), 0, "one of two is not enough");
        assert_eq!(outages.online(1), None);
        assert_eq!(connected(), 1);
        assert!(outages.told(), "there was no outage");
        assert!(outages.offline(0) && outages.offline(1));
        assert!(!outages.offline(1), "it is known already");
        assert_eq!(connected(), 0);
        assert!(outages.online(0).is_some());
        assert!(!outages.told(), "the other partition is still away");
        assert!(outages.online(1).is_some());
        assert_eq!(connected(), 1);
        assert!(outages.told());
        assert!(outages.offline(1));
        assert_eq!(outages.online(0), None, "its story is told");
    }
}
