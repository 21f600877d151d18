//! The Redis broker: a list of partitions, and the front for hubs and handlers. Today the list has
//! one.

pub(crate) mod access;
pub(crate) mod alarm;
pub(crate) mod backoff;
pub mod calls;
pub(crate) mod connector;
pub mod dispatch;
pub(crate) mod failure;
pub mod history;
pub(crate) mod ingest;
pub(crate) mod interest;
pub(crate) mod library;
pub(crate) mod outage;
pub mod partition;
pub(crate) mod publish;
pub(crate) mod publish_thread;
pub mod resp;
pub mod session;
pub mod settings;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::{Cmd, RedisError};
use sse_contract::{Channel, EventId, Keys};
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use crate::broker::redis::dispatch::IngestRequest;
use crate::broker::redis::history::HistoryRequest;
use crate::broker::redis::ingest::Ingest;
use crate::broker::redis::partition::{Partition, Works};
use crate::broker::redis::settings::{BadRedis, HistoryLimits, RedisSettings};
use crate::feed::inbox::{ChannelKey, Inbox};
use crate::feed::publication::{Publication, PublishError};
use crate::feed::read::ReadRequest;
use crate::feed::snapshot::Snapshot;
use crate::metrics::Metrics;
use crate::vitals::Vitals;

/// How many partitions there are. Publishing and the operators' calls know of one only.
const PARTITIONS: u16 = 1;

/// The front of the broker: what hubs and handlers call. Dropping it ends its threads.
#[derive(Debug)]
pub struct RedisBroker {
    pub(crate) partitions: Box<[Arc<Partition>]>,
    pub(crate) keys: Keys,
    workers: Mutex<u16>,
    threads: Threads,
}

/// The threads of all partitions. Dropping this ends them and waits for their end.
#[derive(Debug)]
struct Threads {
    ended: watch::Sender<bool>,
    handles: Vec<JoinHandle<()>>,
    /// The runtime of each thread, with the thread's name.
    runtimes: Vec<(&'static str, Handle)>,
}

impl RedisBroker {
    /// Starts the broker's threads. They connect to Redis, and keep trying if they cannot. The
    /// error says that the address or a certificate file is invalid.
    pub fn start(
        config: RedisSettings,
        metrics: Metrics,
        vitals: &Vitals,
    ) -> Result<Arc<Self>, BadRedis> {
        // rustls needs a default provider, which the redis crate does not install. An error means
        // that one is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (mut broker, works) = RedisBroker::made(config, metrics)?;
        let threads = &mut broker.threads;
        for (partition, works) in broker.partitions.iter().zip(works) {
            let Works { requests, reads, queue } = works;
            let [ingest, publisher, reader] = [(); 3].map(|()| partition.clone());
            threads.run("sse-ingest", vitals, move || Ingest::new(ingest, requests).run());
            threads.run("sse-publish", vitals, move || publish_thread::run(publisher, queue));
            threads.run("sse-history", vitals, move || history::run(reader, reads));
        }
        Ok(Arc::new(broker))
    }

    /// Creates a broker without threads, and returns what the threads of each partition would work
    /// with. Tests that step through the join by hand (`join_model`) use it.
    pub fn without_threads(
        config: RedisSettings,
        metrics: Metrics,
    ) -> Result<(Arc<Self>, Vec<Works>), BadRedis> {
        let (broker, works) = RedisBroker::made(config, metrics)?;
        Ok((Arc::new(broker), works))
    }

    fn made(config: RedisSettings, metrics: Metrics) -> Result<(Self, Vec<Works>), BadRedis> {
        let keys = Keys::new(config.prefix.clone(), PARTITIONS);
        let made: Result<Vec<_>, _> = (0..PARTITIONS)
            .map(|number| Partition::new(number, keys.clone(), config.clone(), metrics.clone()))
            .collect();
        let (partitions, works): (Vec<_>, Vec<_>) = made?.into_iter().unzip();
        let (partitions, workers) = (partitions.into(), Mutex::default());
        Ok((RedisBroker { partitions, keys, workers, threads: Threads::new() }, works))
    }

    /// The partitions.
    pub fn partitions(&self) -> &[Arc<Partition>] {
        &self.partitions
    }

    /// The partition of a channel, or of any other name that the contract spreads alike.
    pub(crate) fn partition_of(&self, name: &str) -> &Arc<Partition> {
        &self.partitions[usize::from(self.keys.partition(name))]
    }

    /// The partition with what belongs to no channel.
    pub(crate) fn first(&self) -> &Arc<Partition> {
        &self.partitions[0]
    }

    /// Waits until live events are received, within `patience` in each partition. Returns the last
    /// error if that takes longer, and at once on a contract mismatch. With zero `patience` the
    /// first failure is returned, after twice `connect_timeout` at most.
    pub async fn online(&self, patience: Duration) -> Result<(), String> {
        for partition in &self.partitions {
            partition.online(patience).await?;
        }
        Ok(())
    }

    /// The address of Redis without credentials.
    pub fn addr(&self) -> &str {
        &self.first().addr
    }

    /// Adds a worker's inbox and returns the worker's number.
    pub fn register(&self, inbox: Arc<Inbox>) -> u16 {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        for partition in &self.partitions {
            partition.tell(IngestRequest::Register(inbox.clone()));
            partition.ask(HistoryRequest::Register(inbox.clone()));
        }
        *workers += 1;
        *workers - 1
    }

    /// Attaches a channel. `Attached` follows once Redis has confirmed the subscription, `Refused`
    /// if Redis refuses it.
    pub fn attach(&self, worker: u16, channel: &Channel, key: ChannelKey) {
        self.partition_of(channel.as_str()).tell(IngestRequest::Attach(
            worker,
            channel.clone(),
            key,
        ));
    }

    /// Ends an attachment.
    pub fn detach(&self, worker: u16, channel: &Channel, key: ChannelKey) {
        self.partition_of(channel.as_str()).tell(IngestRequest::Detach(
            worker,
            channel.clone(),
            key,
        ));
    }

    /// Asks a partition's ingest for a tick that covers everything it was asked for before.
    pub fn want_tick(&self, partition: u16) {
        self.in_charge(partition).tell(IngestRequest::Tick);
    }

    /// Asks the history thread of the request's partition to read.
    pub fn read(&self, request: ReadRequest) {
        self.in_charge(request.partition).ask(HistoryRequest::Read(request));
    }

    /// Reads one page of a channel's history above `after`. Fails after `request_timeout`.
    pub async fn history(&self, channel: &Channel, after: EventId) -> Result<Snapshot, String> {
        self.partition_of(channel.as_str()).history(channel, after).await
    }

    /// Publishes and returns the results in the same order. Events of one partition are published
    /// in order. A single event goes by the partition's publish thread, several go by a connection of
    /// its pool.
    pub async fn publish(&self, items: &[Publication]) -> Vec<Result<EventId, PublishError>> {
        publish::publish(self.first(), items).await
    }

    /// Where Redis is, for messages: each partition's address, without credentials.
    pub fn place(&self) -> String {
        let addrs: Vec<&str> = self.partitions.iter().map(|partition| &*partition.addr).collect();
        format!("Redis at {}", addrs.join(", "))
    }

    /// Publishes a probe event in each partition and waits until the ingest receives it, for at most
    /// `answer_timeout`. The error says of each partition that fails where its Redis is, and why.
    pub async fn probe(&self) -> Result<(), String> {
        let probes = self.partitions.iter().map(|partition| partition.probe());
        let failed: Vec<String> =
            join_all(probes).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    /// Checks that each thread of the broker still runs its tasks. The error names one that did not
    /// until `end`. It does not ask Redis.
    pub(crate) async fn threads_run(&self, end: Instant) -> Result<(), String> {
        self.threads.run_tasks(end).await
    }

    /// Begins a new epoch and returns the clock at which it begins.
    pub async fn fence(&self) -> Result<String, RedisError> {
        self.administer(&self.first().calls.fence()).await
    }

    /// Writes the configured limits to Redis, which begins a new epoch. Returns the clock at which
    /// it begins.
    pub async fn write_settings(&self) -> Result<String, RedisError> {
        self.administer(&self.first().calls.write_settings()).await
    }

    async fn administer(&self, cmd: &Cmd) -> Result<String, RedisError> {
        Ok(redis::from_redis_value(self.first().command(cmd).await?)?)
    }

    /// The configured limits, and the limits that Redis holds if they are known.
    pub fn limits(&self) -> (HistoryLimits, Option<HistoryLimits>) {
        let first = self.first();
        (first.config.limits, first.calls.found_limits())
    }

    fn in_charge(&self, partition: u16) -> &Partition {
        &self.partitions[usize::from(partition)]
    }
}

impl Threads {
    fn new() -> Self {
        Threads { ended: watch::Sender::new(false), handles: Vec::new(), runtimes: Vec::new() }
    }

    /// Runs a future on a thread of its own, until it ends or all threads are ended.
    fn run<F: Future<Output = ()>>(
        &mut self,
        name: &'static str,
        vitals: &Vitals,
        work: impl FnOnce() -> F + Send + 'static,
    ) {
        let mut end = self.ended.subscribe();
        let watching = vitals.clone();
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return vitals.stillborn(name, &error),
        };
        self.runtimes.push((name, runtime.handle().clone()));
        let run = move || {
            runtime.block_on(watching.live(name, async {
                tokio::select! {
                    () = work() => {}
                    _ = end.wait_for(|ended| *ended) => {}
                }
                Ok::<_, Infallible>(())
            }));
            // The resolver of names may block for longer than a drain may take, and this thread is
            // waited for.
            runtime.shutdown_background();
        };
        match thread::Builder::new().name(name.to_owned()).spawn(run) {
            Ok(handle) => self.handles.push(handle),
            Err(error) => vitals.stillborn(name, &error),
        }
    }

    /// Has each thread run an empty task, until `end` at the latest.
    async fn run_tasks(&self, end: Instant) -> Result<(), String> {
        for (name, runtime) in &self.runtimes {
            // A task that is cancelled says that the thread has ended, which is reported elsewhere.
            let task = runtime.spawn(async {});
            let ran = tokio::time::timeout_at(end.into(), task).await;
            let _ = ran.map_err(|_| format!("the thread {name} does nothing"))?;
        }
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.ended.send_replace(true);
        for handle in self.handles.drain(..) {
            // A panic was reported as a death.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::vitals;

    #[test]
    fn threads_have_ended_once_they_are_dropped_and_are_not_missed() {
        let (vitals, mut watch) = vitals::watch();
        let (mut threads, held) = (Threads::new(), Arc::new(()));
        for _ in 0..3 {
            let held = held.clone();
            threads.run("a thread", &vitals, move || async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        drop(threads);
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(watch.death().now_or_never().is_none());
    }

    /// Names are resolved by blocking calls, which nothing can interrupt.
    #[test]
    fn the_end_does_not_wait_for_a_call_that_blocks() {
        let mut threads = Threads::new();
        let (blocks, blocked) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        threads.run("a thread", &vitals::watch().0, move || async move {
            let block = move || {
                blocks.send(()).expect("the test waits");
                // It ends with an error when the test drops its end.
                let _ = released.recv();
            };
            drop(tokio::task::spawn_blocking(block).await);
        });
        blocked.recv().expect("the call has begun");
        drop(threads);
        drop(release);
    }
}
