//! What a stretch of measuring found.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::account::Counts;

/// The longest latency told apart; what is longer counts as this.
const LONGEST_US: u64 = 600_000_000;

/// What is counted while measuring, for one group of connections.
#[derive(Debug)]
pub struct Tally {
    /// Events, by what became of them.
    pub counts: Counts,
    /// Events without a stamp, `gap` and `checkpoint` apart.
    pub unstamped: u64,
    /// Bytes received, heads and framing included.
    pub bytes: u64,
    /// Streams that ended.
    pub closed: u64,
    /// Receive time minus stamp, in microseconds.
    pub latency: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds");
        Tally { counts: Counts::default(), unstamped: 0, bytes: 0, closed: 0, latency }
    }
}

/// One group of connections over a stretch of time.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Connections open at the end.
    pub connections: usize,
    /// Stamped events received.
    pub events: u64,
    /// Other events received, `gap` and `checkpoint` apart.
    pub unstamped: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Numbers skipped and not seen since.
    pub lost: u64,
    /// Numbers seen again.
    pub duplicated: u64,
    /// Numbers that came after a higher one.
    pub out_of_order: u64,
    /// `gap` events received.
    pub gaps: u64,
    /// Streams that ended.
    pub closed: u64,
    /// Latencies in milliseconds: p50, p90, p99, p99.9 and the longest.
    pub latency: Latency,
    /// How long it was measured.
    pub seconds: f64,
}

/// Quantiles in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Report {
    /// What a tally says after so long.
    pub fn of(tally: &Tally, connections: usize, time: Duration) -> Report {
        let quantile = |q| tally.latency.value_at_quantile(q) as f64 / 1000.0;
        Report {
            connections,
            events: tally.counts.events,
            unstamped: tally.unstamped,
            bytes: tally.bytes,
            lost: tally.counts.lost.max(0) as u64,
            duplicated: tally.counts.duplicated,
            out_of_order: tally.counts.out_of_order,
            gaps: tally.counts.gaps,
            closed: tally.closed,
            latency: Latency {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: tally.latency.max() as f64 / 1000.0,
            },
            seconds: time.as_secs_f64(),
        }
    }

    /// Events a second.
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let Latency { p50, p90, p99, p999, max } = self.latency;
        json!({
            "connections": self.connections, "events": self.events, "bytes": self.bytes,
            "lost": self.lost, "duplicated": self.duplicated, "out_of_order": self.out_of_order,
            "gaps": self.gaps, "closed": self.closed, "seconds": self.seconds,
            "latency_ms": { "p50": p50, "p90": p90, "p99": p99, "p999": p999, "max": max },
        })
    }
}
