//! The results of measuring a group of connections: what is counted, and the report on it.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::account::Counts;

/// The longest latency that is recorded, in microseconds. Longer ones are recorded as this.
const LONGEST_US: u64 = 600_000_000;

/// What is counted for a group of connections while it is measured.
#[derive(Debug)]
pub struct Tally {
    /// Stamped events and `gap` events.
    pub counts: Counts,
    /// Events without a stamp, except `gap` and `checkpoint`.
    pub unstamped: u64,
    /// Bytes received, including heads and framing, and as encrypted by TLS.
    pub bytes: u64,
    /// Streams that have ended since the opening.
    pub closed: u64,
    /// The time of the read minus the stamp, in microseconds.
    pub latency: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds");
        Tally { counts: Counts::default(), unstamped: 0, bytes: 0, closed: 0, latency }
    }
}

/// The report on a group of connections that was measured.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Connections that are open at the end.
    pub connections: usize,
    /// Stamped events received.
    pub events: u64,
    /// Events without a stamp received, except `gap` and `checkpoint`.
    pub unstamped: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Numbers that were skipped and have not arrived since.
    pub lost: u64,
    /// Numbers that had arrived before.
    pub duplicated: u64,
    /// Numbers that arrived after a higher one, for the first time.
    pub out_of_order: u64,
    /// `gap` events received.
    pub gaps: u64,
    /// Streams that have ended since the opening.
    pub closed: u64,
    /// The latencies of stamped events.
    pub latency: Latency,
    /// How many seconds were measured.
    pub seconds: f64,
}

/// Quantiles and maximum in milliseconds.
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
    /// Makes a report from what was counted within `time`.
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

    /// Stamped events per second.
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// The report as JSON.
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
