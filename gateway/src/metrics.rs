//! What Prometheus scrapes. Each metric is declared once; its text here is its help.
//!
//! Workers count in cells of their own, which nobody else writes, and a scrape adds them up: a shared
//! counter would be touched by every core for every delivery.

pub mod workers;

use std::sync::{Arc, OnceLock, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::feed::publication::PublishError;
use crate::logging::DroppedLines;
use crate::metrics::workers::{AllCells, WorkerCollector};
pub use crate::metrics::workers::{Cells, Count};

/// Numbers that are not counted a delivery at a time.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    workers: AllCells,
    /// Events published through this gateway, by result.
    pub published: IntCounterVec,
    /// Requests refused before a stream existed, by reason.
    pub rejected: IntCounterVec,
    /// How often the certificate was read again, by result.
    pub certificate_reads: IntCounterVec,
    /// What the broker does.
    pub broker: BrokerMetrics,
    /// Publishes that waited for the workers.
    pub publishers_waited: IntCounter,
    /// Streams that were let in without being counted in Redis.
    pub uncounted_streams: IntCounter,
    dropped_lines: Arc<OnceLock<DroppedLines>>,
}

/// What the broker does.
#[derive(Debug, Clone)]
pub struct BrokerMetrics {
    /// Whether the broker's live side is connected (1) or not (0).
    pub connected: IntGaugeVec,
    /// Sessions with the broker that began.
    pub sessions: IntCounter,
    /// Events that the broker handed to this gateway.
    pub received: IntCounter,
    /// Events that a worker's full inbox did not take.
    pub dropped: IntCounter,
    /// Frames on live channels that were not believed, by reason.
    pub refused_frames: IntCounterVec,
    /// Reads of histories, by result.
    pub history_reads: IntCounterVec,
    /// Histories that cannot be read.
    pub unreadable_histories: IntCounter,
    /// Channels that Redis refused.
    pub refused_subscriptions: IntCounter,
}

/// Makes metrics and registers them.
struct Maker(Registry);

impl Maker {
    /// A counter whose label has these values from the start: an alert on one that is not there would never fire.
    fn counters(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntCounterVec {
        let made = IntCounterVec::new(Opts::new(name, help), &[label]).expect("a valid metric");
        values.iter().for_each(|value| made.with_label_values(&[*value]).inc_by(0));
        self.registered(made)
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.registered(IntCounter::new(name, help).expect("a valid metric"))
    }

    fn registered<M: Collector + Clone + 'static>(&self, metric: M) -> M {
        self.0.register(Box::new(metric.clone())).expect("each metric is registered once");
        metric
    }
}

impl BrokerMetrics {
    fn of(make: &Maker) -> Self {
        let connected =
            Opts::new("sse_broker_connected", "Whether live events reach this gateway.");
        let connected = IntGaugeVec::new(connected, &["broker"]).expect("a valid metric");
        BrokerMetrics {
            connected: make.registered(connected),
            sessions: make.counter(
                "sse_broker_sessions_total",
                "Sessions with Redis that began: one at the start, and one more behind each outage.",
            ),
            received: make.counter(
                "sse_received_events_total",
                "Events that the broker handed to this gateway.",
            ),
            dropped: make.counter(
                "sse_dropped_events_total",
                "Events that a worker's full inbox did not take; its streams read them from history.",
            ),
            refused_frames: make.counters(
                "sse_refused_frames_total",
                "Messages on live channels that are no event of the current epoch, by reason: unknown (nothing of ours), unbelieved (of another epoch, or of the future).",
                "reason",
                &["unknown", "unbelieved"],
            ),
            history_reads: make.counters(
                "sse_history_reads_total",
                "Reads of histories, each for all who wait, by result: ok, failed.",
                "result",
                &["ok", "failed"],
            ),
            unreadable_histories: make.counter(
                "sse_unreadable_histories_total",
                "Histories that Redis or the gateway cannot read; their streams are told of a gap.",
            ),
            refused_subscriptions: make.counter(
                "sse_refused_subscriptions_total",
                "Channels that Redis refused to this gateway's user.",
            ),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let make = Maker(Registry::new());
        let workers = AllCells::default();
        let collector = WorkerCollector::new(workers.clone());
        make.0.register(Box::new(collector)).expect("each metric is registered once");
        let dropped_lines = Arc::default();
        let lines = DroppedCollector::new(Arc::clone(&dropped_lines));
        make.0.register(Box::new(lines)).expect("each metric is registered once");
        Metrics {
            published: make.counters(
                "sse_published_events_total",
                "Events published through this gateway, by result.",
                "result",
                &["ok", "invalid", "conflict", "denied", "unavailable", "unknown"],
            ),
            rejected: make.counters(
                "sse_rejected_requests_total",
                "Connections and requests that were refused, by reason.",
                "reason",
                &[],
            ),
            certificate_reads: make.counters(
                "sse_certificate_reads_total",
                "How often the certificate and its key were read again because the files changed, by result: ok, failed (the one before stays).",
                "result",
                &["ok", "failed"],
            ),
            broker: BrokerMetrics::of(&make),
            publishers_waited: make.counter(
                "sse_publishers_waited_total",
                "Publishes that waited because a worker had much to hand out.",
            ),
            uncounted_streams: make.counter(
                "sse_uncounted_streams_total",
                "Streams let in without being counted among their subject's in Redis, which did not answer.",
            ),
            registry: make.0,
            workers,
            dropped_lines,
        }
    }
}

impl Metrics {
    /// Counts what became of a publication.
    pub fn count_publish<T>(&self, result: &Result<T, PublishError>) {
        let label = match result {
            Ok(_) => "ok",
            Err(PublishError::TooLarge(_) | PublishError::Refused(_)) => "invalid",
            Err(PublishError::Conflict(_)) => "conflict",
            Err(PublishError::Denied(_)) => "denied",
            Err(PublishError::Unavailable(_)) => "unavailable",
            Err(PublishError::OutcomeUnknown(_)) => "unknown",
        };
        self.published.with_label_values(&[label]).inc();
    }

    /// Tells as well how many of this process's log lines were not written.
    pub fn count_dropped_lines(&self, lines: DroppedLines) {
        // A process has one log: that it is told twice changes nothing.
        let _ = self.dropped_lines.set(lines);
    }

    /// Cells for one more worker.
    pub fn worker(&self) -> Arc<Cells> {
        let cells = Arc::new(Cells::default());
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(cells.clone());
        cells
    }

    /// The sum of one number over all workers.
    pub fn sum(&self, of: impl Fn(&Cells) -> u64) -> u64 {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().map(|cells| of(cells)).sum()
    }

    /// The text that Prometheus reads (exposition format 0.0.4).
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// The log's own count, read at a scrape.
struct DroppedCollector {
    lines: Arc<OnceLock<DroppedLines>>,
    count: IntCounter,
}

impl DroppedCollector {
    fn new(lines: Arc<OnceLock<DroppedLines>>) -> Self {
        let help =
            "Log lines that were not written, because whoever reads standard error is slower.";
        let count = IntCounter::new("sse_log_lines_dropped_total", help).expect("a valid metric");
        DroppedCollector { lines, count }
    }
}

impl Collector for DroppedCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.count.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let dropped = self.lines.get().map_or(0, DroppedLines::get);
        self.count.inc_by(dropped.saturating_sub(self.count.get()));
        self.count.collect()
    }
}
