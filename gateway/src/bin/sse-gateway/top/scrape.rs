//! Reads the text that Prometheus scrapes (exposition format 0.0.4), as far as gateways write it.

use std::collections::BTreeMap;

/// One scrape of a gateway's metrics.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    /// Each metric's samples: the value of the first label (empty without labels), and the number.
    samples: BTreeMap<String, Vec<(String, f64)>>,
}

impl Scrape {
    /// Reads a scrape. Lines that cannot be read are left out.
    pub fn parse(text: &str) -> Self {
        let mut scrape = Scrape::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, number)) = line.rsplit_once(' ') else { continue };
            let Ok(number) = number.parse() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let label = labels.split('"').nth(1).unwrap_or_default().to_owned();
            scrape.samples.entry(name.to_owned()).or_default().push((label, number));
        }
        scrape
    }

    /// A metric's value, summed over its labels; `None` if the gateway does not have the metric.
    pub fn sum(&self, name: &str) -> Option<f64> {
        Some(self.samples.get(name)?.iter().map(|(_, number)| number).sum())
    }

    /// A metric's values by its first label.
    pub fn by_label(&self, name: &str) -> &[(String, f64)] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of a metric with this label.
    pub fn labelled(&self, name: &str, label: &str) -> Option<f64> {
        self.by_label(name).iter().find(|(known, _)| known == label).map(|(_, number)| *number)
    }

    /// A histogram without further labels.
    pub fn histogram(&self, name: &str) -> Histogram {
        let buckets = self.by_label(&format!("{name}_bucket")).iter();
        Histogram(
            buckets.filter_map(|(bound, count)| Some((bound.parse().ok()?, *count))).collect(),
        )
    }
}

/// How many observations there were up to each bound.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram(Vec<(f64, f64)>);

/// A quantile, as exactly as the buckets tell it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Quantile {
    /// About this.
    About(f64),
    /// More than the highest bound, which is this.
    Above(f64),
}

impl Histogram {
    /// What was observed since `before`. If that has more, the gateway was started anew.
    pub fn since(&self, before: &Histogram) -> Histogram {
        let restarted = before.count() > self.count() || before.0.len() != self.0.len();
        if restarted {
            return self.clone();
        }
        let pairs = self.0.iter().zip(&before.0);
        Histogram(pairs.map(|((bound, now), (_, then))| (*bound, now - then)).collect())
    }

    /// What this and another one observed together.
    pub fn with(&self, other: &Histogram) -> Histogram {
        if self.0.len() != other.0.len() {
            return if self.0.is_empty() { other.clone() } else { self.clone() };
        }
        let pairs = self.0.iter().zip(&other.0);
        Histogram(pairs.map(|((bound, a), (_, b))| (*bound, a + b)).collect())
    }

    /// The value that this part of the observations is at or below; `None` without observations.
    /// Within a bucket observations count as spread evenly, as Prometheus' `histogram_quantile` has
    /// it.
    pub fn quantile(&self, part: f64) -> Option<Quantile> {
        let rank = self.count() * part;
        let (mut below, mut low) = (0.0, 0.0);
        for (bound, count) in &self.0 {
            if *count >= rank && *count > 0.0 {
                if bound.is_infinite() {
                    return Some(Quantile::Above(low));
                }
                let share = (rank - below) / (count - below).max(f64::MIN_POSITIVE);
                return Some(Quantile::About(low + (bound - low) * share.clamp(0.0, 1.0)));
            }
            (below, low) = (*count, *bound);
        }
        None
    }

    fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP sse_subscribers Open streams.
# TYPE sse_subscribers gauge
sse_subscribers{state=\"live\"} 7
sse_subscribers{state=\"joining\"} 2
sse_delay_seconds_bucket{le=\"0.1\"} 50
sse_delay_seconds_bucket{le=\"0.2\"} 99
sse_delay_seconds_bucket{le=\"+Inf\"} 100
sse_delay_seconds_sum 3.5
sse_channels 4
";

    #[test]
    fn metrics_are_read_with_their_labels() {
        let scrape = Scrape::parse(TEXT);
        assert_eq!(scrape.sum("sse_subscribers"), Some(9.0));
        assert_eq!(scrape.labelled("sse_subscribers", "joining"), Some(2.0));
        assert_eq!((scrape.sum("sse_channels"), scrape.sum("sse_other")), (Some(4.0), None));
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let scrape = Scrape::parse(TEXT);
        let all = scrape.histogram("sse_delay_seconds");
        assert_eq!(all.quantile(0.5), Some(Quantile::About(0.1)));
        assert_eq!(all.quantile(0.25), Some(Quantile::About(0.05)));
        assert_eq!(all.quantile(1.0), Some(Quantile::Above(0.2)));
        assert_eq!(Histogram::default().quantile(0.5), None);
        let none = all.since(&all);
        assert_eq!(none.quantile(0.5), None);
        assert_eq!(none.with(&all), all);
        assert_eq!(Histogram::default().with(&all), all);
        // The counts of a gateway that was started anew are its own.
        assert_eq!(none.since(&all), none);
    }
}
