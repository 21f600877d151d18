//! A histogram that one worker fills and a scrape adds to those of the other workers.

use prometheus::proto::{Bucket, Histogram, Metric, MetricFamily, MetricType};

use crate::metrics::cells::Count;

/// The counts of a histogram. Values are whole numbers of a unit, such as milliseconds.
#[derive(Debug)]
pub struct Distribution {
    bounds: &'static [u64],
    /// How many values were at most each bound and above the one before. The last count is of the
    /// values above every bound.
    counts: Box<[Count]>,
    sum: Count,
}

impl Distribution {
    /// An empty histogram with these upper bounds, which rise.
    pub(super) fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| Count::default()).collect();
        Distribution { bounds, counts, sum: Count::default() }
    }

    /// Counts a value this many times. Only the thread that owns the cells may call this.
    pub fn observe(&self, value: u64, times: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].add(times);
        self.sum.add(value.saturating_mul(times));
    }
}

/// Adds the histograms of all workers up. `unit` is the size of the values' unit in that of the
/// metric: 0.001 turns milliseconds into seconds.
pub(super) fn sum(name: &str, help: &str, unit: f64, workers: &[&Distribution]) -> MetricFamily {
    let mut histogram = Histogram::default();
    let (mut below, mut sum) = (0, 0.0);
    for distribution in workers {
        sum += distribution.sum.get() as f64 * unit;
    }
    if let Some(first) = workers.first() {
        let count = |n: usize| workers.iter().map(|worker| worker.counts[n].get()).sum::<u64>();
        let buckets = first.bounds.iter().enumerate().map(|(n, bound)| {
            below += count(n);
            let mut bucket = Bucket::default();
            bucket.set_cumulative_count(below);
            bucket.set_upper_bound(*bound as f64 * unit);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        below += count(first.bounds.len());
    }
    histogram.set_sample_count(below);
    histogram.set_sample_sum(sum);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(vec![metric]);
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_all_workers_are_counted_at_or_below_their_bound() {
        let (one, other) = (Distribution::new(&[1, 10]), Distribution::new(&[1, 10]));
        one.observe(0, 2);
        one.observe(1, 1);
        other.observe(10, 1);
        other.observe(11, 3);
        let family = sum("x_seconds", "help", 0.5, &[&one, &other]);
        let histogram = family.get_metric()[0].get_histogram();
        let buckets: Vec<(f64, u64)> = histogram
            .get_bucket()
            .iter()
            .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
            .collect();
        assert_eq!(buckets, [(0.5, 3), (5.0, 4)]);
        assert_eq!(histogram.get_sample_count(), 7);
        assert!((histogram.get_sample_sum() - 22.0).abs() < 1e-9);
    }
}
