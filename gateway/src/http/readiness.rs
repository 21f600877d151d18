//! Whether clients can be sent here, by probes at an interval: an event through each partition's
//! master and back, and a request to the gateway's own public port.
//!
//! `/readyz`, the metric `sse_ready` and the log say what the last probes found. So a scrape or a
//! balancer costs no probe, however often it asks. A probe that does not end makes the gateway
//! unready, too.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, timeout};

use crate::http::app::App;
use crate::http::problem::{Kind, Problem};

/// How long one probe may take.
const LIMIT: Duration = Duration::from_secs(5);
/// By how much later than due a probe may end before it counts as stuck. A busy machine delays one.
const SLACK: Duration = Duration::from_secs(5);

/// What is probed, which is a label of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// An event through the broker and back.
    Broker,
    /// A request to the public port, and an answer of each worker.
    Public,
}

impl Path {
    fn as_str(self) -> &'static str {
        match self {
            Path::Broker => "broker",
            Path::Public => "public",
        }
    }
}

/// What the last probes found.
#[derive(Debug)]
pub(crate) struct Readiness {
    interval: Duration,
    broker: watch::Sender<Found>,
    public: watch::Sender<Found>,
    /// Since when the gateway is unready, as far as the log has told.
    told: Mutex<Option<Instant>>,
}

/// What the probes of one path found.
#[derive(Debug, Clone)]
struct Found {
    /// When the last probe ended; before the first one, when the gateway started.
    at: Instant,
    outcome: Outcome,
}

#[derive(Debug, Clone)]
enum Outcome {
    /// No probe has ended yet.
    Unknown,
    Passed,
    /// Probes fail: since when, and why the last one did.
    Failed(Instant, String),
}

impl Readiness {
    /// Nothing is known yet; probes begin `interval` apart.
    pub(crate) fn new(interval: Duration) -> Self {
        let nothing =
            || watch::Sender::new(Found { at: Instant::now(), outcome: Outcome::Unknown });
        Readiness { interval, broker: nothing(), public: nothing(), told: Mutex::new(None) }
    }

    fn of(&self, path: Path) -> &watch::Sender<Found> {
        match path {
            Path::Broker => &self.broker,
            Path::Public => &self.public,
        }
    }

    /// Takes in how a probe that began at `began` ended.
    fn record(&self, path: Path, began: Instant, result: Result<(), String>) {
        self.of(path).send_modify(|found| {
            found.at = Instant::now();
            found.outcome = match (result, &found.outcome) {
                (Ok(()), _) => Outcome::Passed,
                (Err(why), Outcome::Failed(since, _)) => Outcome::Failed(*since, why),
                (Err(why), _) => Outcome::Failed(began, why),
            };
        });
    }

    /// Waits until a probe of each path has ended, for as long as one may take.
    pub(crate) async fn known(&self) {
        let ended = |found: &Found| !matches!(found.outcome, Outcome::Unknown);
        let (mut broker, mut public) = (self.broker.subscribe(), self.public.subscribe());
        let both = async { tokio::join!(broker.wait_for(ended), public.wait_for(ended)).0.is_ok() };
        // If that takes longer, the answer says so.
        let _ = timeout(LIMIT, both).await;
    }

    /// Whether the last probe passed; the error says why not. `what` is what it goes through.
    fn verdict(&self, path: Path, what: &str, now: Instant) -> Result<(), String> {
        let found = self.of(path).borrow();
        let since = |then: Instant| now.saturating_duration_since(then);
        if since(found.at) > self.interval + LIMIT + SLACK {
            let seconds = since(found.at).as_secs();
            return Err(format!("{what}: no probe has ended for {seconds} s, so it is stuck"));
        }
        match &found.outcome {
            Outcome::Unknown => Err(format!("{what}: no probe has ended yet")),
            Outcome::Passed => Ok(()),
            Outcome::Failed(began, why) => Err(format!("{why}, for {} s", since(*began).as_secs())),
        }
    }
}

impl App {
    /// Probes both paths until the gateway drains.
    pub(crate) async fn probe(&self) -> Result<(), Infallible> {
        tokio::join!(self.probe_path(Path::Broker), self.probe_path(Path::Public));
        Ok(())
    }

    async fn probe_path(&self, path: Path) {
        let mut interval = tokio::time::interval(self.readiness.interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let began = Instant::now();
            let result = match path {
                Path::Broker => timeout(LIMIT, self.broker.probe()).await.unwrap_or_else(|_| {
                    Err(format!("{} does not answer within {LIMIT:?}", self.broker.place()))
                }),
                Path::Public => self.answers(LIMIT).await,
            };
            // A gateway that drains is unready whatever it answers.
            if self.draining() {
                return;
            }
            let label = &[path.as_str()];
            self.metrics
                .readiness
                .seconds
                .with_label_values(label)
                .observe(began.elapsed().as_secs_f64());
            if result.is_err() {
                self.metrics.readiness.failures.with_label_values(label).inc();
            }
            self.readiness.record(path, began, result);
            self.tell_readiness();
        }
    }

    /// Whether clients can be sent here: the gateway is not draining, its public port and all
    /// workers answer, and, if `admin.ready_needs_broker`, events pass through the broker.
    pub(crate) fn ready(&self) -> Result<(), Problem> {
        if self.draining() {
            return Err(Problem::new(Kind::Unavailable, "the gateway is draining"));
        }
        let port = format!("the public port {}", self.addr);
        let public = self.readiness.verdict(Path::Public, &port, Instant::now());
        public.map_err(|why| Problem::new(Kind::Unavailable, why))?;
        if self.config.admin.ready_needs_broker {
            self.broker_answers().map_err(|why| Problem::new(Kind::RedisUnavailable, why))?;
        }
        Ok(())
    }

    /// Whether events pass through the broker, by the last probe. The error says why not.
    pub(crate) fn broker_answers(&self) -> Result<(), String> {
        self.readiness.verdict(Path::Broker, &self.broker.place(), Instant::now())
    }

    /// Tells the log and the metric when readiness changes.
    fn tell_readiness(&self) {
        let readiness = &self.readiness;
        let unknown = |path| matches!(readiness.of(path).borrow().outcome, Outcome::Unknown);
        if unknown(Path::Broker) || unknown(Path::Public) {
            return;
        }
        let ready = self.ready();
        self.metrics.readiness.ready.set(ready.is_ok().into());
        let mut told = readiness.told.lock().unwrap_or_else(PoisonError::into_inner);
        match (ready, *told) {
            (Err(problem), None) => {
                *told = Some(Instant::now());
                tracing::warn!(reason = %problem, "the gateway is not ready");
            }
            (Ok(()), Some(since)) => {
                *told = None;
                let seconds = since.elapsed().as_secs_f64();
                tracing::info!(unready.seconds = seconds, "the gateway is ready again");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_fails_or_does_not_end_makes_the_gateway_unready() {
        let readiness = Readiness::new(Duration::from_secs(2));
        let (path, start) = (Path::Broker, Instant::now());
        let verdict = |after: u64| {
            readiness.verdict(path, "Redis at r:1", start + Duration::from_secs(after))
        };
        assert_eq!(verdict(0).unwrap_err(), "Redis at r:1: no probe has ended yet");
        readiness.record(path, start, Ok(()));
        assert_eq!(verdict(10), Ok(()));
        // Nothing runs the probes any more.
        let stuck = verdict(1000).unwrap_err();
        assert!(stuck.starts_with("Redis at r:1: no probe has ended for "), "{stuck}");
        readiness.record(path, start, Err("Redis at r:1 does not answer: refused".to_owned()));
        readiness.record(
            path,
            start + Duration::from_secs(2),
            Err("Redis at r:1: late".to_owned()),
        );
        assert_eq!(verdict(5).unwrap_err(), "Redis at r:1: late, for 5 s");
        assert!(
            readiness.verdict(Path::Public, "the port", start).is_err(),
            "it has a probe of its own"
        );
        readiness.record(path, start, Ok(()));
        assert_eq!(verdict(5), Ok(()));
    }
}
