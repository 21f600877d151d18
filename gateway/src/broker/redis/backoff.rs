//! How long to wait between attempts to reach Redis: growing, jittered delays without end.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff};

/// The first delay, unless the longest one is too short for it.
const FIRST: Duration = Duration::from_millis(50);

/// The delays after failed attempts: from 50 ms on each is twice the one before, at most `longest`
/// with its jitter, endless.
pub(crate) fn delays(longest: Duration) -> ExponentialBackoff {
    // The jitter makes a delay up to twice as long.
    let most = longest / 2;
    backon::ExponentialBuilder::new()
        .with_min_delay(FIRST.min(most))
        .with_max_delay(most)
        .with_jitter()
        .without_max_times()
        .build()
}

/// The delays between the ingest's sessions.
#[derive(Debug)]
pub(crate) struct Backoff {
    longest: Duration,
    delays: ExponentialBackoff,
    /// When the current session began; none while there is none.
    pub(super) began: Option<Instant>,
}

impl Backoff {
    /// Delays of `longest` at most.
    pub(crate) fn new(longest: Duration) -> Self {
        Backoff { longest, delays: delays(longest), began: None }
    }

    /// A session has begun.
    pub(crate) fn begun(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// A session has ended, or an attempt to begin one has failed. Returns the delay before the
    /// next attempt.
    ///
    /// The delays start anew only after a session that lasted for longer than the longest delay. A
    /// server that accepts connections, answers the first tick and closes would otherwise be tried
    /// again and again after the shortest delay, each time with all subscriptions and all streams
    /// that read history. The time of connecting does not count: a server that leaves connects
    /// unanswered would pass for one that served.
    pub(crate) fn ended(&mut self, now: Instant) -> Duration {
        let lasted = self.began.take().map(|began| now.saturating_duration_since(began));
        if lasted.is_some_and(|lasted| lasted > self.longest) {
            self.delays = delays(self.longest);
        }
        self.delays.next().unwrap_or(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(5);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_grow_to_no_more_than_the_longest() {
        for longest in [LONGEST, FIRST] {
            let first: Vec<Duration> = delays(longest).take(20).collect();
            assert!(first.iter().all(|delay| *delay <= longest), "{first:?}");
            assert!(first[0] <= 2 * FIRST && first[19] >= longest / 2, "{first:?}");
        }
    }

    /// Whether the delays are as long as they get after ten attempts, each of which took `attempt`
    /// and then had a session of this length, or none.
    fn grows(attempt: Duration, session: Option<Duration>) -> bool {
        let (mut backoff, mut now) = (Backoff::new(LONGEST), Instant::now());
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            now += attempt;
            if let Some(session) = session {
                backoff.begun(now);
                now += session;
            }
            last = backoff.ended(now);
            now += last;
        }
        assert!(last >= LONGEST / 2 || last <= 2 * FIRST, "{last:?}");
        last >= LONGEST / 2
    }

    #[test]
    fn only_a_session_that_lasted_starts_the_delays_anew() {
        assert!(grows(Duration::ZERO, None), "connects are refused");
        assert!(grows(60 * SECOND, None), "connects are swallowed");
        assert!(grows(60 * SECOND, Some(SECOND)), "the server is slow, then closes");
        assert!(grows(Duration::ZERO, Some(Duration::ZERO)), "the server closes at once");
        assert!(!grows(Duration::ZERO, Some(6 * SECOND)), "the server serves for a while");
    }

    /// A session that lasted counts once, not for all that fail after it.
    #[test]
    fn an_attempt_that_fails_after_a_session_is_no_session() {
        let (mut backoff, start) = (Backoff::new(LONGEST), Instant::now());
        backoff.begun(start);
        let after = |seconds| start + seconds * SECOND;
        assert!(backoff.ended(after(60)) <= 2 * FIRST);
        let later: Vec<_> = (61..70).map(|seconds| backoff.ended(after(seconds))).collect();
        assert!(later[8] >= LONGEST / 2, "{later:?}");
    }
}
