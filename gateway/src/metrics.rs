//! What Prometheus scrapes. Each metric is declared once, with its help text.
//!
//! Each worker counts in cells that no other thread writes, and a scrape adds them up. A shared
//! counter would make every core write to the same memory for every delivery.

pub mod cells;
pub mod distribution;
pub mod rejection;
pub mod workers;

use std::sync::{Arc, OnceLock, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::feed::publication::PublishError;
use crate::logging::DroppedLines;
pub use crate::metrics::cells::{Cells, Count, Replayed};
pub use crate::metrics::rejection::Rejection;
use crate::metrics::workers::{AllCells, WorkerCollector};

/// Every metric of this gateway. Those that change with each delivery are in [`Cells`].
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    workers: AllCells,
    /// Events published through this gateway, by result.
    pub published: IntCounterVec,
    /// Connections and requests that were refused, by reason; [`Metrics::reject`] counts them.
    pub rejected: IntCounterVec,
    /// Reads of the certificate after its files changed, by result.
    pub certificate_reads: IntCounterVec,
    /// Metrics of the broker.
    pub broker: BrokerMetrics,
    /// Publishes that waited because a worker had much to hand out.
    pub publishers_waited: IntCounter,
    /// Streams let in without being counted in Redis, because it did not answer.
    pub uncounted_streams: IntCounter,
    /// Whether the gateway is draining (1) or not (0).
    pub draining: IntGauge,
    /// Metrics of readiness.
    pub readiness: ReadinessMetrics,
    /// How long publishing took, until every event of the request had its answer.
    pub publish_seconds: Histogram,
    /// Spans of publish requests that ended, by what became of them.
    pub spans: IntCounterVec,
    dropped_lines: Arc<OnceLock<DroppedLines>>,
}

/// Metrics of readiness and of the probes that it comes from.
#[derive(Debug, Clone)]
pub struct ReadinessMetrics {
    /// Whether clients can be sent here (1) or not (0), as `/readyz` says.
    pub ready: IntGauge,
    /// Probes that failed, by what was probed.
    pub failures: IntCounterVec,
    /// How long probes took, by what was probed.
    pub seconds: HistogramVec,
}

/// Metrics of the broker.
#[derive(Debug, Clone)]
pub struct BrokerMetrics {
    /// Whether the broker's live side is connected in every partition (1) or not (0).
    pub connected: IntGaugeVec,
    /// Channels with a subscriber on this gateway.
    pub channels: IntGauge,
    /// Approximate bytes that the memory broker keeps, and how many it may keep at most.
    pub kept_bytes: IntGauge,
    /// The limit of `kept_bytes`.
    pub kept_bytes_limit: IntGauge,
    /// Sessions with Redis that began.
    pub sessions: IntCounter,
    /// Events that the broker handed to this gateway.
    pub received: IntCounter,
    /// Events dropped because a worker's inbox was full.
    pub dropped: IntCounter,
    /// Messages on live channels that are no event of the current epoch, by reason.
    pub refused_frames: IntCounterVec,
    /// Reads of histories, by result.
    pub history_reads: IntCounterVec,
    /// Histories that Redis or the gateway cannot read.
    pub unreadable_histories: IntCounter,
    /// Channels that Redis refused to this gateway's user.
    pub refused_subscriptions: IntCounter,
    /// Epochs that began while this gateway ran.
    pub epochs: IntCounter,
    /// How long Redis took to answer a tick.
    pub answer_seconds: Histogram,
}

/// The buckets of times, in seconds: from the best that Redis does to what a publisher waits at most.
const SECONDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// What is probed.
const PROBED: [&str; 2] = ["broker", "public"];

/// Creates and registers metrics.
struct Maker(Registry);

impl Maker {
    /// Creates a counter with every label value present from the start, because an alert on an
    /// absent series never fires.
    fn counters(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntCounterVec {
        let made = IntCounterVec::new(Opts::new(name, help), &[label]).expect("a valid metric");
        values.iter().for_each(|value| made.with_label_values(&[*value]).inc_by(0));
        self.registered(made)
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.registered(IntGauge::new(name, help).expect("a valid metric"))
    }

    fn seconds(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.registered(Histogram::with_opts(options).expect("a valid metric"))
    }

    /// Creates a histogram of times with every label value present from the start.
    fn seconds_by(&self, name: &str, help: &str, label: &str, values: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let made = HistogramVec::new(options, &[label]).expect("a valid metric");
        values.iter().for_each(|value| drop(made.with_label_values(&[*value])));
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

impl ReadinessMetrics {
    fn of(make: &Maker) -> Self {
        ReadinessMetrics {
            ready: make.gauge(
                "sse_ready",
                "Whether clients can be sent here, as /readyz says; 0 until both probes have ended.",
            ),
            failures: make.counters(
                "sse_probe_failures_total",
                "Probes that failed, by what was probed: broker (an event through the broker and back), public (the public port and every worker).",
                "path",
                &PROBED,
            ),
            seconds: make.seconds_by(
                "sse_probe_seconds",
                "How long probes took, by what was probed.",
                "path",
                &PROBED,
            ),
        }
    }
}

impl BrokerMetrics {
    fn of(make: &Maker) -> Self {
        let connected = Opts::new(
            "sse_broker_connected",
            "Whether live events of every partition reach this gateway.",
        );
        let connected = IntGaugeVec::new(connected, &["broker"]).expect("a valid metric");
        BrokerMetrics {
            connected: make.registered(connected),
            channels: make.gauge("sse_channels", "Channels with a subscriber on this gateway."),
            kept_bytes: make.gauge(
                "sse_memory_history_bytes",
                "Approximate bytes of the events that the memory broker keeps.",
            ),
            kept_bytes_limit: make.gauge(
                "sse_memory_history_limit_bytes",
                "history.memory_bytes: the bytes that the memory broker keeps at most; 0 with Redis.",
            ),
            sessions: make.counter(
                "sse_broker_sessions_total",
                "Sessions with Redis that began: for each partition one at the start, and one more behind each outage.",
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
            epochs: make.counter(
                "sse_epochs_total",
                "Epochs that began while this gateway ran; each tells every client of its partition of a gap.",
            ),
            answer_seconds: make.seconds(
                "sse_broker_answer_seconds",
                "How long Redis took to answer a tick, behind the events before it.",
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
        make.0
            .register(Box::new(ProcessCollector::for_self()))
            .expect("each metric is registered once");
        let build = Opts::new("sse_build_info", "1, with the version of this program.");
        let build = IntGaugeVec::new(build, &["version"]).expect("a valid metric");
        make.registered(build).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
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
                &Rejection::ALL.map(Rejection::as_str),
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
            draining: make.gauge("sse_draining", "Whether this gateway is draining."),
            readiness: ReadinessMetrics::of(&make),
            publish_seconds: make.seconds(
                "sse_publish_seconds",
                "How long publishing took, until every event of the request had its answer.",
            ),
            spans: make.counters(
                "sse_spans_total",
                "Spans of publish requests, by what became of them: exported, failed (the collector did not take them), dropped (too many waited for it).",
                "result",
                &["exported", "failed", "dropped"],
            ),
            registry: make.0,
            workers,
            dropped_lines,
        }
    }
}

impl Metrics {
    /// Counts the result of a publication.
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

    /// Counts a connection or a request that was refused.
    pub fn reject(&self, reason: Rejection) {
        self.rejected.with_label_values(&[reason.as_str()]).inc();
    }

    /// Also reports how many of this process's log lines were dropped.
    pub fn count_dropped_lines(&self, lines: DroppedLines) {
        // A process has one log, so a second call changes nothing.
        let _ = self.dropped_lines.set(lines);
    }

    /// Creates the cells of one more worker.
    pub fn worker(&self) -> Arc<Cells> {
        let cells = Arc::new(Cells::default());
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(cells.clone());
        cells
    }

    /// Sums one number over all workers.
    pub fn sum(&self, of: impl Fn(&Cells) -> u64) -> u64 {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().map(|cells| of(cells)).sum()
    }

    /// Renders the text that Prometheus scrapes (exposition format 0.0.4).
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Reports the log's own count at a scrape.
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
