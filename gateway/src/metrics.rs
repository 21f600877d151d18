//! What Prometheus scrapes. Each metric is declared once; its text here is its help.
//!
//! Workers count in cells of their own, which nobody else writes, and a scrape adds them up: a shared
//! counter would be touched by every core for every delivery.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::feed::frame::GapReason;
use crate::feed::publication::PublishError;
use crate::logging::DroppedLines;

/// Why a stream ended: the label in the metrics and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed it.
    Gone,
    /// Writing failed.
    Failed,
    /// The client accepted no byte for the progress deadline.
    Stalled,
    /// The gateway is stopping; the client should come back.
    Drain,
    /// The reader was too slow, and its channels' policy is to close.
    Slow,
    /// The broker refuses one of its channels.
    Refused,
    /// What its bearer was granted is over; the client should come back with something new.
    Expired,
    /// An operator ended it.
    Revoked,
}

impl CloseReason {
    const ALL: [CloseReason; 8] = [
        CloseReason::Gone,
        CloseReason::Failed,
        CloseReason::Stalled,
        CloseReason::Drain,
        CloseReason::Slow,
        CloseReason::Refused,
        CloseReason::Expired,
        CloseReason::Revoked,
    ];

    /// The word in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::Gone => "gone",
            CloseReason::Failed => "failed",
            CloseReason::Stalled => "stalled",
            CloseReason::Drain => "drain",
            CloseReason::Slow => "slow",
            CloseReason::Refused => "refused",
            CloseReason::Expired => "expired",
            CloseReason::Revoked => "revoked",
        }
    }
}

/// A number that one thread writes and any may read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds; only from the thread that owns the cells.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes away; only from the thread that owns the cells.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets; only from the thread that owns the cells.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's numbers.
#[derive(Debug, Default)]
pub struct Cells {
    /// Open streams.
    pub subscribers: Count,
    /// Open streams that are not live: they read history or wait for the broker.
    pub joining: Count,
    /// Channels with a subscriber on this worker.
    pub channels: Count,
    /// Streams opened.
    pub opened: Count,
    /// Streams closed, by [`CloseReason`].
    pub closed: [Count; CloseReason::ALL.len()],
    /// Events the sockets accepted whole.
    pub delivered: Count,
    /// Gap events, by [`GapReason`].
    pub gaps: [Count; GapReason::ALL.len()],
    /// Live connections that had to read history.
    pub lags: Count,
    /// Raw publishes that a connection missed because it was not live.
    pub missed: Count,
}

/// Numbers that are not counted a delivery at a time.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    workers: Arc<Mutex<Vec<Arc<Cells>>>>,
    /// Events published through this gateway, by result.
    pub published: IntCounterVec,
    /// Requests refused before a stream existed, by reason.
    pub rejected: IntCounterVec,
    /// How often the certificate was read again, by result.
    pub certificate_reads: IntCounterVec,
    /// What the broker did, by kind.
    pub broker: IntCounterVec,
    /// Whether the broker's live side is connected (1) or not (0).
    pub connected: IntGaugeVec,
    dropped_lines: Arc<OnceLock<DroppedLines>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let counter = |name, help, label| {
            IntCounterVec::new(Opts::new(name, help), &[label]).expect("a valid metric")
        };
        let metrics = Metrics {
            registry: Registry::new(),
            workers: Arc::default(),
            dropped_lines: Arc::default(),
            published: counter(
                "sse_published_events_total",
                "Events published through this gateway, by result.",
                "result",
            ),
            rejected: counter(
                "sse_rejected_requests_total",
                "Connections and requests that were refused, by reason.",
                "reason",
            ),
            certificate_reads: counter(
                "sse_certificate_reads_total",
                "How often the certificate and its key were read again because the files changed, by result: ok, failed (the one before stays).",
                "result",
            ),
            broker: counter(
                "sse_broker_events_total",
                "What the broker did, by kind: connected, received, read, read_failed, dropped, unknown_frame, unbelieved_frame, subscription_refused, unreadable_history, publishers_waited, stream_not_counted.",
                "kind",
            ),
            connected: IntGaugeVec::new(
                Opts::new("sse_broker_connected", "Whether live events reach this gateway."),
                &["broker"],
            )
            .expect("a valid metric"),
        };
        let workers = WorkerCollector::new(metrics.workers.clone(), metrics.dropped_lines.clone());
        let collectors: [Box<dyn Collector>; 6] = [
            Box::new(metrics.published.clone()),
            Box::new(metrics.rejected.clone()),
            Box::new(metrics.certificate_reads.clone()),
            Box::new(metrics.broker.clone()),
            Box::new(metrics.connected.clone()),
            Box::new(workers),
        ];
        for collector in collectors {
            metrics.registry.register(collector).expect("each metric is registered once");
        }
        metrics
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

/// Adds the workers' cells up at a scrape.
struct WorkerCollector {
    workers: Arc<Mutex<Vec<Arc<Cells>>>>,
    subscribers: IntGaugeVec,
    channels: IntGaugeVec,
    streams_opened: IntCounterVec,
    streams_closed: IntCounterVec,
    delivered: IntCounterVec,
    gaps: IntCounterVec,
    lags: IntCounterVec,
    missed: IntCounterVec,
    dropped_lines: Arc<OnceLock<DroppedLines>>,
    log_lines_dropped: IntCounterVec,
}

impl WorkerCollector {
    fn new(
        workers: Arc<Mutex<Vec<Arc<Cells>>>>,
        dropped_lines: Arc<OnceLock<DroppedLines>>,
    ) -> Self {
        let gauge = |name, help, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid metric")
        };
        let counter = |name, help, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("a valid metric")
        };
        WorkerCollector {
            workers,
            dropped_lines,
            log_lines_dropped: counter(
                "sse_log_lines_dropped_total",
                "Log lines that were not written, because whoever reads standard error is slower.",
                &[],
            ),
            subscribers: gauge(
                "sse_subscribers",
                "Open streams, by state: live, or joining (reading history or waiting for the broker).",
                &["state"],
            ),
            channels: gauge(
                "sse_channels",
                "Channels with a subscriber, counted once a worker.",
                &[],
            ),
            streams_opened: counter("sse_streams_opened_total", "Streams opened.", &[]),
            streams_closed: counter(
                "sse_streams_closed_total",
                "Streams closed, by reason.",
                &["reason"],
            ),
            delivered: counter(
                "sse_delivered_events_total",
                "Events that subscribers' sockets accepted whole.",
                &[],
            ),
            gaps: counter("sse_gaps_total", "Gap events sent, by reason.", &["reason"]),
            lags: counter(
                "sse_lags_total",
                "Live streams that had to read history: slow readers and outages.",
                &[],
            ),
            missed: counter(
                "sse_missed_raw_events_total",
                "Raw publishes (without id) that a stream missed because it was not live.",
                &[],
            ),
        }
    }

    fn all(&self) -> [&dyn Collector; 9] {
        [
            &self.subscribers,
            &self.channels,
            &self.streams_opened,
            &self.streams_closed,
            &self.delivered,
            &self.gaps,
            &self.lags,
            &self.missed,
            &self.log_lines_dropped,
        ]
    }
}

impl Collector for WorkerCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.all().iter().flat_map(|c| c.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: &dyn Fn(&Cells) -> u64| workers.iter().map(|cells| of(cells)).sum::<u64>();
        let set = |counter: &IntCounterVec, labels: &[&str], value: u64| {
            let counter = counter.with_label_values(labels);
            counter.inc_by(value.saturating_sub(counter.get()));
        };
        let joining = sum(&|c| c.joining.get());
        let live = sum(&|c| c.subscribers.get()).saturating_sub(joining);
        self.subscribers.with_label_values(&["live"]).set(live as i64);
        self.subscribers.with_label_values(&["joining"]).set(joining as i64);
        self.channels.with_label_values(&[] as &[&str]).set(sum(&|c| c.channels.get()) as i64);
        set(&self.streams_opened, &[], sum(&|c| c.opened.get()));
        for (n, reason) in CloseReason::ALL.iter().enumerate() {
            set(&self.streams_closed, &[reason.as_str()], sum(&|c| c.closed[n].get()));
        }
        for (n, reason) in GapReason::ALL.iter().enumerate() {
            set(&self.gaps, &[reason.as_str()], sum(&|c| c.gaps[n].get()));
        }
        set(&self.delivered, &[], sum(&|c| c.delivered.get()));
        set(&self.lags, &[], sum(&|c| c.lags.get()));
        set(&self.missed, &[], sum(&|c| c.missed.get()));
        set(&self.log_lines_dropped, &[], self.dropped_lines.get().map_or(0, DroppedLines::get));
        drop(workers);
        self.all().iter().flat_map(|c| c.collect()).collect()
    }
}
