//! What workers count, each in its own cells, and how a scrape adds the cells up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use crate::feed::gap::GapReason;
use crate::stream::close_reason::CloseReason;

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
    /// Events that a socket accepted as a whole.
    pub delivered: Count,
    /// Gap events, by [`GapReason`].
    pub gaps: [Count; GapReason::ALL.len()],
    /// Live connections that had to read history.
    pub lags: Count,
    /// Raw publishes that a connection missed because it was not live.
    pub missed: Count,
}

/// The cells of all workers.
pub(super) type AllCells = Arc<Mutex<Vec<Arc<Cells>>>>;

/// Sums one number over all workers.
type Sum<'a> = &'a dyn Fn(&dyn Fn(&Cells) -> &Count) -> u64;

/// A metric that is the sum of the workers' cells.
struct OfWorkers {
    name: &'static str,
    help: &'static str,
    /// The label's name; empty if there is no label.
    label: &'static str,
    kind: Kind,
    /// Returns the metric's values, each with its label value.
    values: fn(Sum<'_>) -> Vec<(&'static str, u64)>,
}

#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

/// Every metric of the workers. Its number is in [`Cells`].
const OF_WORKERS: [OfWorkers; 8] = [
    OfWorkers {
        name: "sse_subscribers",
        help: "Open streams, by state: live, or joining (reading history or waiting for the broker).",
        label: "state",
        kind: Kind::Gauge,
        values: |sum| {
            let joining = sum(&|cells| &cells.joining);
            let live = sum(&|cells| &cells.subscribers).saturating_sub(joining);
            vec![("live", live), ("joining", joining)]
        },
    },
    OfWorkers {
        name: "sse_channels",
        help: "Channels with a subscriber, counted once a worker.",
        label: "",
        kind: Kind::Gauge,
        values: |sum| vec![("", sum(&|cells| &cells.channels))],
    },
    OfWorkers {
        name: "sse_streams_opened_total",
        help: "Streams opened.",
        label: "",
        kind: Kind::Counter,
        values: |sum| vec![("", sum(&|cells| &cells.opened))],
    },
    OfWorkers {
        name: "sse_streams_closed_total",
        help: "Streams closed, by reason.",
        label: "reason",
        kind: Kind::Counter,
        values: |sum| {
            let all = CloseReason::ALL.iter().enumerate();
            all.map(|(n, reason)| (reason.as_str(), sum(&|cells| &cells.closed[n]))).collect()
        },
    },
    OfWorkers {
        name: "sse_delivered_events_total",
        help: "Events that subscribers' sockets accepted whole.",
        label: "",
        kind: Kind::Counter,
        values: |sum| vec![("", sum(&|cells| &cells.delivered))],
    },
    OfWorkers {
        name: "sse_gaps_total",
        help: "Gap events sent, by reason.",
        label: "reason",
        kind: Kind::Counter,
        values: |sum| {
            let all = GapReason::ALL.iter().enumerate();
            all.map(|(n, reason)| (reason.as_str(), sum(&|cells| &cells.gaps[n]))).collect()
        },
    },
    OfWorkers {
        name: "sse_lags_total",
        help: "Live streams that had to read history: slow readers and outages.",
        label: "",
        kind: Kind::Counter,
        values: |sum| vec![("", sum(&|cells| &cells.lags))],
    },
    OfWorkers {
        name: "sse_missed_raw_events_total",
        help: "Raw publishes (without id) that a stream missed because it was not live.",
        label: "",
        kind: Kind::Counter,
        values: |sum| vec![("", sum(&|cells| &cells.missed))],
    },
];

/// A metric as the registry holds it.
enum Held {
    Gauge(IntGaugeVec),
    Counter(IntCounterVec),
}

impl Held {
    fn of(metric: &OfWorkers) -> Self {
        let (opts, label) = (Opts::new(metric.name, metric.help), [metric.label]);
        let labels = &label[usize::from(metric.label.is_empty())..];
        match metric.kind {
            Kind::Gauge => Held::Gauge(IntGaugeVec::new(opts, labels).expect("a valid metric")),
            Kind::Counter => {
                Held::Counter(IntCounterVec::new(opts, labels).expect("a valid metric"))
            }
        }
    }

    fn set(&self, labels: &[&str], value: u64) {
        match self {
            Held::Gauge(gauge) => gauge.with_label_values(labels).set(value as i64),
            Held::Counter(counter) => {
                let counter = counter.with_label_values(labels);
                counter.inc_by(value.saturating_sub(counter.get()));
            }
        }
    }

    fn collector(&self) -> &dyn Collector {
        match self {
            Held::Gauge(gauge) => gauge,
            Held::Counter(counter) => counter,
        }
    }
}

/// Adds the workers' cells up at a scrape.
pub(super) struct WorkerCollector {
    workers: AllCells,
    held: Vec<Held>,
}

impl WorkerCollector {
    pub(super) fn new(workers: AllCells) -> Self {
        WorkerCollector { workers, held: OF_WORKERS.iter().map(Held::of).collect() }
    }
}

impl Collector for WorkerCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.held.iter().flat_map(|held| held.collector().desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sum: Sum<'_> =
            &|of: &dyn Fn(&Cells) -> &Count| workers.iter().map(|cells| of(cells).get()).sum();
        for (metric, held) in OF_WORKERS.iter().zip(&self.held) {
            for (value, count) in (metric.values)(sum) {
                held.set(&[value][usize::from(metric.label.is_empty())..], count);
            }
        }
        self.held.iter().flat_map(|held| held.collector().collect()).collect()
    }
}
