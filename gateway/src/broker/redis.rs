//! The Redis broker: a list of partitions, and the front for hubs and handlers.

pub(crate) mod access;
pub(crate) mod agreement;
pub(crate) mod alarm;
pub(crate) mod backoff;
pub mod calls;
pub(crate) mod cluster;
pub(crate) mod connector;
pub mod dispatch;
pub(crate) mod failure;
pub mod history;
pub(crate) mod ingest;
pub(crate) mod interest;
pub(crate) mod library;
pub(crate) mod moved;
pub mod operator;
pub(crate) mod outage;
pub mod partition;
pub mod place;
pub(crate) mod preparation;
pub(crate) mod publish;
pub(crate) mod publish_thread;
pub mod repartition;
pub mod resp;
pub(crate) mod sentinel;
pub mod session;
pub mod settings;
pub mod survey;
pub(crate) mod threads;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use sse_contract::{Channel, EventId, Keys};

use crate::broker::redis::agreement::Agreement;
use crate::broker::redis::dispatch::IngestRequest;
use crate::broker::redis::history::HistoryRequest;
use crate::broker::redis::ingest::Ingest;
use crate::broker::redis::outage::Outages;
use crate::broker::redis::partition::{Common, Partition, Works, named};
use crate::broker::redis::place::Place;
use crate::broker::redis::publish::together;
use crate::broker::redis::settings::{BadRedis, RedisSettings};
use crate::broker::redis::threads::{Threads, together};
use crate::feed::inbox::{ChannelKey, Inbox};
use crate::feed::publication::{Publication, PublishError};
use crate::feed::read::ReadRequest;
use crate::feed::snapshot::Snapshot;
use crate::metrics::Metrics;
use crate::vitals::Vitals;

/// The front of the broker: what hubs and handlers call. Dropping it ends its threads.
#[derive(Debug)]
pub struct RedisBroker {
    pub(crate) partitions: Box<[Arc<Partition>]>,
    pub(crate) keys: Keys,
    workers: Mutex<u16>,
    threads: Threads,
}

/// Redis cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("Redis at {addr}: {error}")]
pub struct Offline {
    /// The address, without credentials.
    pub addr: String,
    /// What went wrong.
    pub error: String,
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
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut ingests: Vec<Vec<_>> = Vec::new();
        ingests.resize_with(cores.min(broker.partitions.len()), Vec::new);
        let (mut publishers, mut readers) = (Vec::new(), Vec::new());
        for (n, (partition, works)) in broker.partitions.iter().zip(works).enumerate() {
            let Works { requests, reads, queue } = works;
            let of_thread = n % ingests.len();
            ingests[of_thread].push((partition.clone(), requests));
            publishers.push((partition.clone(), queue));
            readers.push((partition.clone(), reads));
        }
        let threads = &mut broker.threads;
        // Live events are most of the work, because each of them is parsed and encoded here.
        for ingests in ingests {
            threads.run("sse-ingest", vitals, move || {
                together(ingests.into_iter().map(|(of, requests)| Ingest::new(of, requests).run()))
            });
        }
        threads.run("sse-publish", vitals, move || {
            together(publishers.into_iter().map(|(of, queue)| publish_thread::run(of, queue)))
        });
        threads.run("sse-history", vitals, move || {
            together(readers.into_iter().map(|(of, reads)| history::run(of, reads)))
        });
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
        let place = Place::of(&config)?;
        let keys = Keys::new(config.prefix.clone(), config.partitions);
        let common = Common {
            agreement: Arc::new(Agreement::new(&config.prefix, keys.partitions())),
            outages: Arc::new(Outages::new(keys.partitions(), metrics.clone())),
            keys: keys.clone(),
            config,
            metrics,
        };
        let (partitions, works): (Vec<_>, Vec<_>) = (0..keys.partitions())
            .map(|number| Partition::new(number, place.at_slot(keys.slot(number)), &common))
            .unzip();
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

    /// Waits until live events are received in all partitions. Returns the last error of one if
    /// that takes longer than `patience`, and at once on a contract mismatch. With zero `patience`
    /// the first failure is returned, after four times `connect_timeout` at most: the first
    /// partition may take half of that, and the others begin behind it.
    pub async fn online(&self, patience: Duration) -> Result<(), Offline> {
        let offline =
            |partition: &Partition, error| Offline { addr: partition.addr().to_string(), error };
        // While the first partition is away, the others cannot say why they are.
        let (first, end) = (self.first(), Instant::now() + patience);
        first.online(patience).await.map_err(|error| offline(first, error))?;
        let patience = end.saturating_duration_since(Instant::now());
        let others = self.partitions[1..].iter().map(|partition| async move {
            partition.online(patience).await.map_err(|error| offline(partition, error))
        });
        try_join_all(others).await.map(drop)
    }

    /// The last known address of the first partition's Redis, without credentials.
    pub fn addr(&self) -> Arc<str> {
        self.first().addr()
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
    /// in order, and all partitions at the same time. A single event goes by its partition's publish
    /// thread, several go by a connection of a pool: one for each server.
    pub async fn publish(&self, items: &[Publication]) -> Vec<Result<EventId, PublishError>> {
        match self.only_partition_of(items) {
            Some(partition) => publish::publish(partition, items).await,
            None => self.publish_apart(items).await,
        }
    }

    /// The partition of all these items. `None` if they are of several.
    fn only_partition_of(&self, items: &[Publication]) -> Option<&Arc<Partition>> {
        if let [only] = &*self.partitions {
            return Some(only);
        }
        let mut of_items = items.iter().map(|item| self.partition_of(item.channel.as_str()));
        let first = of_items.next()?;
        of_items.all(|partition| partition.number == first.number).then_some(first)
    }

    async fn publish_apart(&self, items: &[Publication]) -> Vec<Result<EventId, PublishError>> {
        let mut places: BTreeMap<u16, (Vec<usize>, Vec<Publication>)> = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            let (places, own) =
                places.entry(self.keys.partition(item.channel.as_str())).or_default();
            places.push(at);
            own.push(item.clone());
        }
        let (places, parts): (Vec<_>, Vec<_>) = places
            .into_iter()
            .map(|(partition, (places, own))| (places, (self.in_charge(partition), own)))
            .unzip();
        let mut results: Vec<_> = items.iter().map(|_| None).collect();
        for (places, own) in places.into_iter().zip(together::publish(&parts).await) {
            for (at, result) in places.into_iter().zip(own) {
                results[at] = Some(result);
            }
        }
        let result = |result: Option<_>| result.expect("each item is of one partition");
        results.into_iter().map(result).collect()
    }

    /// Where Redis is, for messages: the partitions' last known addresses, without credentials.
    pub fn place(&self) -> String {
        let mut addrs: Vec<Arc<str>> = Vec::new();
        for addr in self.partitions.iter().map(|partition| partition.addr()) {
            if !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        format!("Redis at {}", addrs.join(", "))
    }

    /// Publishes a probe event in each partition and waits until the ingest receives it, for at most
    /// `answer_timeout`. The error says of each partition that fails where its Redis is, and why.
    pub async fn probe(&self) -> Result<(), String> {
        let probes = self.partitions.iter().map(|partition| partition.probe());
        match failures(join_all(probes).await) {
            failures if failures.is_empty() => Ok(()),
            failures => Err(failures),
        }
    }

    /// Checks that each thread of the broker still runs its tasks. The error names one that did not
    /// until `end`. It does not ask Redis.
    pub(crate) async fn threads_run(&self, end: Instant) -> Result<(), String> {
        self.threads.run_tasks(end).await
    }

    fn in_charge(&self, partition: u16) -> &Arc<Partition> {
        &self.partitions[usize::from(partition)]
    }
}

/// Joins the failures of all partitions, by number. Equal ones are told once, with their partitions'
/// numbers unless they are those of all.
fn failures(results: Vec<Result<(), String>>) -> String {
    let of = results.len();
    let mut told: Vec<(String, Vec<u16>)> = Vec::new();
    for (number, result) in (0..).zip(results) {
        let Err(why) = result else { continue };
        match told.iter_mut().find(|(text, _)| *text == why) {
            Some((_, numbers)) => numbers.push(number),
            None => told.push((why, vec![number])),
        }
    }
    let words = |(text, numbers): (String, Vec<u16>)| match numbers.len() == of {
        true => text,
        false => format!("{text} ({})", named(&numbers)),
    };
    told.into_iter().map(words).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_alike_is_told_once() {
        let away = || Err("Redis at a:1 does not answer".to_owned());
        let late = || Err("Redis at b:1: late".to_owned());
        assert_eq!(failures(vec![Ok(()), Ok(())]), "");
        assert_eq!(failures(vec![away()]), "Redis at a:1 does not answer");
        assert_eq!(failures(vec![away(), away()]), "Redis at a:1 does not answer");
        assert_eq!(
            failures(vec![away(), late(), Ok(()), away()]),
            "Redis at a:1 does not answer (partitions 0, 3); Redis at b:1: late (partition 1)"
        );
    }
}
