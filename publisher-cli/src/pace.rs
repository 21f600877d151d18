//! Spaces events evenly for `--rate`. Does not read the clock: callers pass the time.

use std::time::{Duration, Instant};

/// How far the schedule may fall behind. The rest of a stall is not made up for, so that a retry
/// does not end in a burst.
const CATCH_UP: Duration = Duration::from_secs(1);

/// The schedule of a run's events.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// A schedule for `rate` events per second. `rate` is above zero.
    pub fn new(rate: f64) -> Self {
        let interval = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX);
        Pace { interval, next: None }
    }

    /// The time when the next event is due, never more than a second before `now`. The event takes
    /// that place in the schedule.
    pub fn take(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let due = self.next.map_or(now, |next| next.max(earliest));
        self.next =
            Some(due.checked_add(self.interval).unwrap_or(due + Duration::from_secs(1 << 32)));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stall_is_caught_up_for_one_second_only() {
        let (mut pace, start) = (Pace::new(10.0), Instant::now());
        assert_eq!(pace.take(start), start);
        let late = start + Duration::from_secs(60);
        let due_already = (0..100).filter(|_| pace.take(late) <= late).count();
        assert_eq!(due_already, 11);
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_twice_the_rate(rate in 0.1f64..5000.0, steps in proptest::collection::vec(0u64..300, 1..200)) {
            let (mut pace, start) = (Pace::new(rate), Instant::now());
            let (mut now, mut sent) = (start, 0u32);
            for step in steps {
                now = now.max(pace.take(now)) + Duration::from_millis(step);
                sent += 1;
            }
            let most = rate * ((now - start).as_secs_f64() + 1.0) + 2.0;
            prop_assert!(f64::from(sent) <= most, "{} > {}", sent, most);
        }
    }
}
