//! The story of an outage, in the log: one line when live events are interrupted, and one when all
//! streams are live again, which says how long it took, how many streams went on, and how many were
//! told of a gap.

use std::fmt;
use std::time::{Duration, Instant};

use crate::feed::gap::GapReason;
use crate::metrics::Metrics;

/// After this time with a session the story ends, even if some streams still read history: with
/// many clients there are always some.
const PATIENCE: Duration = Duration::from_secs(10);

/// An outage that the log has not told to the end.
#[derive(Debug)]
pub(crate) struct Outage {
    began: Instant,
    before: Counts,
    /// When the next session began.
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
    pub(crate) fn begin(metrics: &Metrics) -> Self {
        Outage { began: Instant::now(), before: Counts::of(metrics), back: None }
    }

    /// The session that had begun meanwhile is lost, too.
    pub(crate) fn lost(&mut self) {
        self.back = None;
    }

    /// A session has begun. Returns how long there was none.
    pub(crate) fn back(&mut self) -> Duration {
        *self.back.get_or_insert_with(Instant::now) - self.began
    }

    /// Tells the end of the story once no stream joins any more, or after `PATIENCE`. Returns
    /// whether it is told.
    pub(crate) fn tell(&self, metrics: &Metrics) -> bool {
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
        let away = outage.back();
        assert_eq!(outage.back(), away, "the first session counts");
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
}
