//! How often history is read.

use std::time::{Duration, Instant};

/// The rate of reads while `history.page_bytes` is `PAGE_BYTES` or more: at most `BURST` without a
/// pause, `READS_PER_SECOND` on average. Smaller pages raise the average, up to 16-fold.
const READS_PER_SECOND: f64 = 50.0;
const BURST: f64 = 16.0;
const PAGE_BYTES: usize = 64 * 1024;

/// Limits the rate of reads. Requests come in bursts, when a gateway starts or Redis returns, and
/// one read serves everybody who waits, so it pays to let requests gather, until a read is large.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: f64,
    allowance: f64,
    since: Instant,
}

impl Pace {
    /// The pace for pages of so many bytes (`history.page_bytes`).
    pub(super) fn new(page_bytes: usize) -> Self {
        let per_second =
            READS_PER_SECOND * (PAGE_BYTES as f64 / page_bytes as f64).clamp(1.0, 16.0);
        Pace { per_second, allowance: BURST, since: Instant::now() }
    }

    /// How long to wait until the next read is sent.
    pub(super) fn turn(&mut self, now: Instant) -> Duration {
        let earned = (now - self.since).as_secs_f64() * self.per_second;
        self.allowance = (self.allowance + earned).min(BURST);
        self.since = now;
        let wait = (1.0 - self.allowance).max(0.0) / self.per_second;
        // What is earned meanwhile is counted at the next turn.
        self.allowance -= 1.0;
        Duration::from_secs_f64(wait)
    }

    /// Notes that the read, which took this long, was a large one. To wait would hardly let more
    /// requests gather in the next one. So that is only as far away as this one was long, and Redis has
    /// half of the time for others.
    pub(super) fn was_large(&mut self, took: Duration) {
        // Half of this is earned while the read is under way.
        let cost = 2.0 * took.as_secs_f64() * self.per_second;
        self.allowance += 1.0 - cost.min(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits as the pace says before each of so many reads, which take this long. Returns the time spent
    /// waiting.
    fn waited(pace: &mut Pace, reads: u32, took: Duration, large: bool) -> Duration {
        let (mut now, mut waited) = (pace.since, Duration::ZERO);
        for _ in 0..reads {
            let wait = pace.turn(now);
            waited += wait;
            now += wait + took;
            if large {
                pace.was_large(took);
            }
        }
        waited
    }

    #[test]
    fn reads_are_paced_unless_they_are_large() {
        let pace = || Pace::new(PAGE_BYTES);
        let ms = Duration::from_millis;
        assert_eq!(waited(&mut pace(), 16, ms(1), false), Duration::ZERO);
        let long = waited(&mut pace(), 116, ms(1), false);
        assert!((ms(1_850)..ms(2_000)).contains(&long), "{long:?}");
        // Each waits as long as the one before took.
        let mut spent = pace();
        waited(&mut spent, 16, ms(0), false);
        let long = waited(&mut spent, 100, ms(1), true);
        assert!((ms(90)..ms(125)).contains(&long), "{long:?}");
        // A read that takes long is paced as others.
        let mut spent = pace();
        waited(&mut spent, 16, ms(0), false);
        assert!(waited(&mut spent, 100, ms(15), true) >= ms(450));
    }
}
