//! How a scrape adds up what the workers count.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use crate::feed::gap::GapReason;
use crate::metrics::cells::{Cells, Count, Replayed};
use crate::metrics::distribution::{self, Distribution};
use crate::stream::close_reason::CloseReason;

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
const OF_WORKERS: [OfWorkers; 12] = [
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
    OfWorkers {
        name: "sse_sent_bytes_total",
        help: "Bytes that subscribers' sockets accepted, before TLS.",
        label: "",
        kind: Kind::Counter,
        values: |sum| vec![("", sum(&|cells| &cells.sent_bytes))],
    },
    OfWorkers {
        name: "sse_writes_total",
        help: "Writes that subscribers' sockets accepted bytes of; events for each write say how well events coalesce.",
        label: "",
        kind: Kind::Counter,
        values: |sum| vec![("", sum(&|cells| &cells.writes))],
    },
    OfWorkers {
        name: "sse_queued_bytes",
        help: "Bytes that wait for slow readers.",
        label: "",
        kind: Kind::Gauge,
        values: |sum| vec![("", sum(&|cells| &cells.queued_bytes))],
    },
    OfWorkers {
        name: "sse_queued_streams",
        help: "Streams with bytes that wait for a slow reader.",
        label: "",
        kind: Kind::Gauge,
        values: |sum| vec![("", sum(&|cells| &cells.queued_streams))],
    },
    OfWorkers {
        name: "sse_replays_total",
        help: "Readings of history up to the live events, by result: complete, gap (the client was told of one), abandoned (the stream ended before).",
        label: "result",
        kind: Kind::Counter,
        values: |sum| {
            let all = Replayed::ALL.iter().enumerate();
            all.map(|(n, result)| (result.as_str(), sum(&|cells| &cells.replays[n]))).collect()
        },
    },
];

/// A histogram that is the sum of the workers' cells.
struct Histogram {
    name: &'static str,
    help: &'static str,
    /// The size of a value's unit in that of the metric.
    unit: f64,
    of: fn(&Cells) -> &Distribution,
}

/// Every histogram of the workers.
const HISTOGRAMS: [Histogram; 5] = [
    Histogram {
        name: "sse_delivery_delay_seconds",
        help: "From an event's publication, by Redis' clock, to its write, by this machine's; not of what waits for a slow reader.",
        unit: 0.001,
        of: |cells| &cells.delivery_delay,
    },
    Histogram {
        name: "sse_stream_duration_seconds",
        help: "How long streams were open.",
        unit: 0.001,
        of: |cells| &cells.stream_duration,
    },
    Histogram {
        name: "sse_replay_seconds",
        help: "How long replays took until their streams were live.",
        unit: 0.001,
        of: |cells| &cells.replay_time,
    },
    Histogram {
        name: "sse_replay_events",
        help: "How many events replays handed out until their streams were live.",
        unit: 1.0,
        of: |cells| &cells.replay_events,
    },
    Histogram {
        name: "sse_lag_events",
        help: "How many events a live stream was behind that had to read history.",
        unit: 1.0,
        of: |cells| &cells.lag_events,
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
    histograms: Vec<Desc>,
}

impl WorkerCollector {
    pub(super) fn new(workers: AllCells) -> Self {
        let histograms = HISTOGRAMS.iter().map(|histogram| {
            Desc::new(histogram.name.into(), histogram.help.into(), Vec::new(), HashMap::new())
                .expect("a valid metric")
        });
        let (histograms, held) = (histograms.collect(), OF_WORKERS.iter().map(Held::of).collect());
        WorkerCollector { workers, held, histograms }
    }
}

impl Collector for WorkerCollector {
    fn desc(&self) -> Vec<&Desc> {
        let held = self.held.iter().flat_map(|held| held.collector().desc());
        held.chain(&self.histograms).collect()
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
        let histograms = HISTOGRAMS.iter().map(|histogram| {
            let cells: Vec<&Distribution> =
                workers.iter().map(|cells| (histogram.of)(cells)).collect();
            distribution::sum(histogram.name, histogram.help, histogram.unit, &cells)
        });
        let held = self.held.iter().flat_map(|held| held.collector().collect());
        held.chain(histograms).collect()
    }
}
