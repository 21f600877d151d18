//! Counts the streams of one subject on all gateways together, in Redis.
//!
//! Each open stream has a lease: a member of its subject's sorted set, scored with the time at
//! which the lease expires. The gateway renews its leases while their streams are open and removes
//! them when the streams close. The leases of a crashed gateway expire. While Redis does not answer
//! nobody is refused: the stream is let in, counted in a metric, and added to the set by the next
//! renewal that succeeds.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, Pipeline, RedisError};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::access::admission::{Over, Refused};
use crate::broker::redis::RedisBroker;
use crate::metrics::Metrics;

/// How long a lease lasts without a renewal.
pub const LIFE: Duration = Duration::from_secs(60);
/// How long a new stream waits for Redis to count it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Calls (one per subject or ended stream) in one pipeline.
const TOGETHER: usize = 500;

/// KEYS: the subject's set. ARGV: the most members allowed before the call (0: any number), a
/// lease's life in milliseconds, then the members to add. Returns 1, or 0 if the set is full.
const TAKE: &str = "local t = redis.call('TIME') \
    local now = t[1] * 1000 + math.floor(t[2] / 1000) \
    local most = tonumber(ARGV[1]) \
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now) \
    if most > 0 and redis.call('ZCARD', KEYS[1]) >= most then return 0 end \
    for n = 3, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[n]) end \
    redis.call('PEXPIRE', KEYS[1], ARGV[2]) \
    return 1";

/// The leases of this gateway.
#[derive(Debug)]
pub struct ClusterStreams {
    redis: Arc<RedisBroker>,
    metrics: Metrics,
    /// `limits.cluster_streams_per_subject`.
    most: u32,
    life: Duration,
    /// Random prefix of this gateway's members, so that they differ from those of other gateways.
    gateway: u64,
    next: AtomicU64,
    books: Mutex<Books>,
    some_ended: Notify,
}

#[derive(Debug, Default)]
struct Books {
    held: HashMap<Arc<str>, HashSet<u64>>,
    ended: Vec<(Arc<str>, u64)>,
}

/// A counted stream. Dropping it removes the lease from Redis.
#[derive(Debug)]
pub struct ClusterLease {
    of: Arc<ClusterStreams>,
    subject: Arc<str>,
    number: u64,
}

impl ClusterStreams {
    /// Starts without leases. Run [`ClusterStreams::serve`] beside it, or leases are neither
    /// renewed nor removed.
    pub fn new(redis: Arc<RedisBroker>, metrics: Metrics, most: u32, life: Duration) -> Arc<Self> {
        Arc::new(ClusterStreams {
            redis,
            metrics,
            most,
            life,
            gateway: fastrand::u64(..),
            next: AtomicU64::new(0),
            books: Mutex::default(),
            some_ended: Notify::new(),
        })
    }

    /// Counts a stream of `subject`. `own_limit` is the grant's limit and replaces `most`; with 0
    /// nothing is counted and there is no lease. Fails only if Redis says that the limit is
    /// reached.
    pub async fn take(
        self: &Arc<Self>,
        subject: &str,
        own_limit: Option<u32>,
    ) -> Result<Option<ClusterLease>, Refused> {
        let limit = own_limit.unwrap_or(self.most);
        if limit == 0 {
            return Ok(None);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let subject: Arc<str> = subject.into();
        // Created before the call: if the call fails or its caller is dropped, dropping the lease
        // removes what Redis may have counted. Held only after it: a renewal before the call would
        // add the stream to the set, where it would take its own place.
        let lease = ClusterLease { of: self.clone(), subject, number };
        let call = self.call(&lease.subject, limit, [number]);
        let taken = timeout(PATIENCE, async {
            let value = self.redis.partition_of(&lease.subject).command(&call).await?;
            Ok::<i64, RedisError>(redis::from_redis_value(value)?)
        });
        match taken.await {
            Ok(Ok(0)) => Err(Refused { over: Over::ClusterStreams, limit, after: None }),
            Ok(Ok(_)) => Ok(Some(lease.held())),
            failed => {
                self.metrics.uncounted_streams.inc();
                tracing::debug!(?failed, "a stream of a subject could not be counted in Redis");
                Ok(Some(lease.held()))
            }
        }
    }

    /// Renews leases and removes those of closed streams, forever.
    pub async fn serve(self: Arc<Self>) -> Result<(), Infallible> {
        let mut renewals = interval(self.life / 3);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = renewals.tick() => self.renew().await,
                () = self.some_ended.notified() => self.take_back().await,
            }
        }
    }

    async fn renew(&self) {
        self.send(self.renewals()).await;
    }

    fn renewals(&self) -> Vec<(Arc<str>, Cmd)> {
        let books = self.books();
        let held = books.held.iter();
        let renewal = |(subject, numbers): (&Arc<str>, &HashSet<u64>)| {
            (subject.clone(), self.call(subject, 0, numbers.iter().copied()))
        };
        held.map(renewal).collect()
    }

    async fn take_back(&self) {
        let ended = std::mem::take(&mut self.books().ended);
        let calls = ended.into_iter().map(|(subject, number)| {
            let mut call = redis::cmd("ZREM");
            call.arg(self.redis.keys.streams(&subject)).arg(self.member(number));
            (subject, call)
        });
        self.send(calls.collect()).await;
    }

    /// Sends calls, each for its subject. Errors are only logged: the next renewal restores a
    /// missing lease, and a lease that could not be removed expires.
    async fn send(&self, mut calls: Vec<(Arc<str>, Cmd)>) {
        let partition = |subject: &str| self.redis.partition_of(subject).number;
        calls.sort_by_key(|(subject, _)| partition(subject));
        for calls in calls.chunk_by(|(a, _), (b, _)| partition(a) == partition(b)) {
            for calls in calls.chunks(TOGETHER) {
                let mut pipeline = Pipeline::with_capacity(calls.len());
                calls.iter().for_each(|(_, call)| {
                    pipeline.add_command(call.clone()).ignore();
                });
                let sent = self.redis.partition_of(&calls[0].0).commands(&pipeline);
                match timeout(self.life / 3, sent).await {
                    Ok(Ok(())) => {}
                    failed => {
                        tracing::debug!(?failed, "leases of streams could not be written to Redis");
                        break;
                    }
                }
            }
        }
    }

    fn call(&self, subject: &str, most: u32, numbers: impl IntoIterator<Item = u64>) -> Cmd {
        let mut call = redis::cmd("EVAL");
        call.arg(TAKE).arg(1).arg(self.redis.keys.streams(subject));
        call.arg(most).arg(self.life.as_millis() as u64);
        for number in numbers {
            call.arg(self.member(number));
        }
        call
    }

    fn member(&self, number: u64) -> String {
        format!("{:016x}:{number:x}", self.gateway)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClusterLease {
    /// Has the lease renewed from now on.
    fn held(self) -> Self {
        self.of.books().held.entry(self.subject.clone()).or_default().insert(self.number);
        self
    }
}

impl Drop for ClusterLease {
    fn drop(&mut self) {
        let mut books = self.of.books();
        if let Some(numbers) = books.held.get_mut(&self.subject) {
            numbers.remove(&self.number);
            if numbers.is_empty() {
                books.held.remove(&self.subject);
            }
        }
        books.ended.push((self.subject.clone(), self.number));
        drop(books);
        self.of.some_ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::broker::redis::settings::RedisSettings;
    use crate::config::Config;

    /// The renewal would add the stream to the set, and the set could be full because of that.
    #[tokio::test]
    async fn a_stream_that_is_not_counted_yet_is_not_renewed() {
        let config = Config::load(None, std::iter::empty(), &[]).unwrap();
        let settings = RedisSettings::of(&config);
        let (broker, _works) = RedisBroker::without_threads(settings, Metrics::default()).unwrap();
        let streams = ClusterStreams::new(broker, Metrics::default(), 1, LIFE);
        let mut taking = Box::pin(streams.take("ann", None));
        assert!(taking.as_mut().now_or_never().is_none(), "there is no session yet");
        assert_eq!(streams.renewals().len(), 0);
        // Without an answer the stream is let in, and the next renewal adds it.
        let lease = taking.await.unwrap();
        assert_eq!(streams.renewals().len(), 1);
        drop(lease);
        assert_eq!(streams.renewals().len(), 0);
    }
}
