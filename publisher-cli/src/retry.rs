//! Decides how long to wait before the next attempt, and when to give up.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};

/// The first wait before publishing again, without jitter.
pub const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Growing waits with jitter, so that many clients do not return at the same time after an outage.
pub type Waits = <ExponentialBuilder as BackoffBuilder>::Backoff;

/// Waits without end. They start at `first` and double up to `longest`. Jitter makes each up to
/// twice as long.
pub fn waits(first: Duration, longest: Duration) -> Waits {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(longest.max(first))
        .without_max_times()
        .with_jitter()
        .build()
}

/// How long one batch may still be retried.
#[derive(Debug)]
pub struct Patience {
    budget: Duration,
    first: Duration,
    /// The time of the first failure since the last success.
    failing_since: Option<Instant>,
    waits: Waits,
}

impl Patience {
    /// Gives up once nothing has succeeded for `budget`. A budget of zero allows no second attempt.
    /// `first` is the first wait.
    pub fn new(budget: Duration, first: Duration) -> Self {
        Patience { budget, first, failing_since: None, waits: waits(first, LONGEST_WAIT) }
    }

    /// Restores the whole budget after a success.
    pub fn progress(&mut self) {
        self.failing_since = None;
        self.waits = waits(self.first, LONGEST_WAIT);
    }

    /// The time of the first failure since the last success; `now` if there is none.
    pub fn failing_since(&self, now: Instant) -> Instant {
        self.failing_since.unwrap_or(now)
    }

    /// How much longer attempts are made if none succeeds.
    pub fn left(&self, now: Instant) -> Duration {
        self.budget.saturating_sub(now.saturating_duration_since(self.failing_since(now)))
    }

    /// How long to wait before the next attempt, at least `retry_after`; `None` to give up. The
    /// last wait is shortened, so that the last attempt is made at the end of the budget and not
    /// before.
    pub fn wait(&mut self, now: Instant, retry_after: Option<Duration>) -> Option<Duration> {
        let since = *self.failing_since.get_or_insert(now);
        let left = self.budget.checked_sub(now.saturating_duration_since(since))?;
        let asked = retry_after.unwrap_or_default();
        if left.is_zero() || asked > left {
            return None;
        }
        Some(self.waits.next()?.min(left).max(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn no_budget_is_no_second_attempt() {
        assert_eq!(Patience::new(Duration::ZERO, FIRST_WAIT).wait(Instant::now(), None), None);
    }

    #[test]
    fn what_the_other_side_asks_for_is_kept_or_given_up() {
        let mut patience = Patience::new(30 * SECOND, FIRST_WAIT);
        let now = Instant::now();
        assert_eq!(patience.wait(now, Some(7 * SECOND)), Some(7 * SECOND));
        assert_eq!(patience.wait(now + 7 * SECOND, Some(24 * SECOND)), None);
        patience.progress();
        assert_eq!(patience.wait(now + 7 * SECOND, Some(24 * SECOND)), Some(24 * SECOND));
    }

    proptest! {
        #[test]
        fn attempts_end_at_the_budget_and_not_before(budget_ms in 1u64..100_000) {
            let budget = Duration::from_millis(budget_ms);
            let mut patience = Patience::new(budget, FIRST_WAIT);
            let start = Instant::now();
            let (mut now, mut attempts) = (start, 0);
            while let Some(wait) = patience.wait(now, None) {
                prop_assert!(wait <= 2 * LONGEST_WAIT);
                now += wait;
                attempts += 1;
                prop_assert!(attempts < 1000);
            }
            prop_assert_eq!(now - start, budget);
        }
    }
}
