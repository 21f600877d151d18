//! Reads histories from Redis for connections that join. One read is under way at a time; everybody
//! who waits for the same part shares it.
//!
//! A request that arrives while a read is under way waits for the next one. So every fresh answer
//! comes from a read that was sent after the request was made, and so after the connection had
//! attached. Cached pages are older; they bring a connection forward but never make it live.

mod answer;
mod cache;
mod pace;

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use redis::RedisError;
use sse_contract::{Channel, EventId, Part};
use tokio::sync::mpsc;

use crate::broker::redis::backoff::delays;
use crate::broker::redis::history::answer::extent;
pub use crate::broker::redis::history::answer::snapshot;
use crate::broker::redis::history::cache::Cache;
use crate::broker::redis::history::pace::Pace;
use crate::broker::redis::partition::Partition;
use crate::feed::inbox::{Inbox, ReadToken, ToHub};
use crate::feed::read::ReadRequest;
use crate::feed::snapshot::{Extent, Range, Snapshot};

/// Ranges in one read at most. The channels of one connection may exceed it.
const RANGES: usize = 256;
/// A read of so many ranges is a large one: it may have had no room for the channels of the next
/// request.
const LARGE: usize = RANGES / 2;
/// Different positions of one channel in one read at most.
const POSITIONS: usize = 4;

/// The error code of Redis when its ACL refuses a command or a key.
const NO_PERMISSION: &str = "NOPERM";

/// A message to the history thread.
#[derive(Debug)]
pub enum HistoryRequest {
    /// Adds a worker's inbox. Workers are numbered in the order in which they register.
    Register(Arc<Inbox>),
    /// Asks for history on behalf of a connection.
    Read(ReadRequest),
}

/// The unanswered requests: the newest one of each connection, in the order in which the
/// connections began to wait.
#[derive(Debug, Default)]
struct Waiting {
    requests: HashMap<(u16, u64), ReadRequest>,
    order: VecDeque<(u16, u64)>,
}

/// The waiting requests and the cached pages. No I/O.
#[derive(Debug)]
pub struct Reads {
    partition: u16,
    workers: Vec<Arc<Inbox>>,
    waiting: Waiting,
    cache: Cache,
}

impl Reads {
    /// Creates the reads of one of so many partitions. Nobody waits.
    pub fn new(partition: u16, partitions: u16) -> Self {
        let (waiting, cache) = (Waiting::default(), Cache::shared_by(partitions));
        Reads { partition, workers: Vec::new(), waiting, cache }
    }

    /// Takes in a message.
    pub fn hear(&mut self, request: HistoryRequest) {
        match request {
            HistoryRequest::Register(inbox) => self.workers.push(inbox),
            HistoryRequest::Read(request) => self.waiting.add(request),
        }
    }

    /// Whether no request waits.
    pub fn is_idle(&self) -> bool {
        self.waiting.requests.is_empty()
    }

    /// Answers the requests that a cached page serves.
    pub fn serve_cached(&mut self, now: Instant) {
        for snapshot in self.cache.young(now) {
            self.answer(&snapshot, true);
        }
    }

    /// The parts to read next.
    pub fn plan(&self) -> Vec<Part> {
        self.waiting.plan()
    }

    /// Takes the answer to a read that was planned after every waiting request had arrived.
    pub fn answered(&mut self, snapshot: Snapshot, now: Instant) {
        let snapshot = Arc::new(snapshot);
        self.answer(&snapshot, false);
        self.cache.add(snapshot, now);
    }

    /// Answers every request that the snapshot serves, and leaves the others waiting.
    fn answer(&mut self, snapshot: &Arc<Snapshot>, cached: bool) {
        let served = self.waiting.served(snapshot, cached, self.workers.len());
        for (inbox, tokens) in self.workers.iter().zip(served) {
            if !tokens.is_empty() {
                let (partition, snapshot) = (self.partition, snapshot.clone());
                inbox.send(partition, [ToHub::Snapshot { partition, snapshot, tokens, cached }]);
            }
        }
    }
}

/// Reads for ever. A failed read is repeated after a growing delay.
pub async fn run(
    partition: Arc<Partition>,
    mut requests: mpsc::UnboundedReceiver<HistoryRequest>,
) -> Infallible {
    let mut reads = Reads::new(partition.number, partition.keys.partitions());
    let mut pace = Pace::new(partition.config.page_bytes);
    let longest = partition.config.reconnect_max;
    let mut delay = delays(longest);
    loop {
        if reads.is_idle() {
            reads.hear(requests.recv().await.expect("the partition holds a sender"));
        }
        while let Ok(request) = requests.try_recv() {
            reads.hear(request);
        }
        reads.serve_cached(Instant::now());
        if reads.is_idle() {
            continue;
        }
        let wait = pace.turn(Instant::now());
        // A sleep of no time would last until the timer's next millisecond.
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        while let Ok(request) = requests.try_recv() {
            reads.hear(request);
        }
        let (plan, began) = (reads.plan(), Instant::now());
        match read(&partition, &plan).await {
            Ok(snapshot) => {
                delay = delays(longest);
                if plan.len() >= LARGE {
                    pace.was_large(began.elapsed());
                }
                reads.answered(snapshot, Instant::now());
            }
            Err(error) => {
                tracing::debug!(
                    partition = partition.label(), %error, "history cannot be read; trying on"
                );
                partition.metrics.broker.history_reads.with_label_values(&["failed"]).inc();
                let wait = delay.next().unwrap_or(longest);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

impl Waiting {
    /// Adds a request. A connection has one read at a time, so a newer request replaces the older
    /// one.
    fn add(&mut self, request: ReadRequest) {
        let key = (request.worker, request.token.connection);
        if self.requests.insert(key, request).is_none() {
            self.order.push_back(key);
        }
    }

    /// Removes the requests that the snapshot serves. Returns their tokens, by worker.
    fn served(&mut self, snapshot: &Snapshot, cached: bool, workers: usize) -> Vec<Vec<ReadToken>> {
        let mut tokens = vec![Vec::new(); workers];
        self.order.retain(|key| {
            let served = serves(snapshot, &self.requests[key], cached);
            if served && let Some(request) = self.requests.remove(key) {
                tokens[usize::from(request.worker)].push(request.token);
            }
            !served
        });
        tokens
    }

    /// The parts to read next: all parts of the oldest request, then of others as many as fit.
    fn plan(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut planned: HashSet<(&Channel, EventId, Extent)> = HashSet::new();
        let mut positions: HashMap<&Channel, usize> = HashMap::new();
        for key in &self.order {
            let request = &self.requests[key];
            if !parts.is_empty() && parts.len() + request.channels.len() > RANGES {
                break;
            }
            for (channel, extent) in request.parts() {
                let count = positions.entry(channel).or_default();
                if *count < POSITIONS && planned.insert((channel, request.after, extent)) {
                    *count += 1;
                    let (channel, newest) = (channel.clone(), extent == Extent::Newest);
                    parts.push(Part { channel, after: request.after, newest });
                }
            }
        }
        parts
    }
}

/// Whether a snapshot answers a request. A cached one serves only positions below its clock: a
/// connection at its clock needs its last page, which must be read after the request was made.
fn serves(snapshot: &Snapshot, request: &ReadRequest, cached: bool) -> bool {
    let of_now = request.epoch == Some(snapshot.clock.epoch());
    if cached && (snapshot.clock < request.youngest || !of_now) {
        return false;
    }
    if request.after > snapshot.clock || !snapshot.history {
        // The request is answered without events.
        return !cached && request.channels.iter().all(|c| snapshot.ranges.contains_key(c));
    }
    let covered = |(channel, extent)| snapshot.covering(channel, request.after, extent).is_some();
    !(cached && request.after == snapshot.clock) && request.parts().all(covered)
}

/// Reads these parts in one call. An unreadable history becomes an unreadable range; the others are
/// read all the same.
pub async fn read(partition: &Partition, plan: &[Part]) -> Result<Snapshot, RedisError> {
    let (refused, allowed): (Vec<Part>, Vec<Part>) =
        plan.iter().cloned().partition(|part| partition.refuses(&part.channel));
    let mut snapshot = match read_together(partition, &allowed).await {
        // Redis refuses the whole call if one of its keys is refused, and does not say which.
        Err(error) if error.code() == Some(NO_PERMISSION) && !allowed.is_empty() => {
            find_refused(partition, &allowed).await?;
            return Box::pin(read(partition, plan)).await;
        }
        other => other?,
    };
    for part in refused {
        let range = Range::unreadable(part.after, extent(&part));
        snapshot.ranges.entry(part.channel).or_default().push(range);
    }
    Ok(snapshot)
}

/// Reads each history alone and records those that Redis refuses. Succeeds if it has found one, or
/// if all can be read together after all.
async fn find_refused(partition: &Partition, plan: &[Part]) -> Result<(), RedisError> {
    let mut found = false;
    for part in plan {
        let channel = &part.channel;
        if partition.refuses(channel) {
            continue;
        }
        match read_together(partition, std::slice::from_ref(part)).await {
            Ok(_) => {}
            Err(error) if error.code() == Some(NO_PERMISSION) => {
                found = true;
                unreadable(partition, channel, &error.to_string());
                partition.note_refused(channel);
            }
            Err(error) => return Err(error),
        }
    }
    match found {
        true => Ok(()),
        // No single history is refused, so the error has another cause.
        false => read_together(partition, plan).await.map(|_| ()),
    }
}

/// Counts and logs a history that cannot be read. The subscribers only get a gap; the log tells the
/// operator why.
fn unreadable(partition: &Partition, channel: &Channel, why: &str) {
    partition.metrics.broker.unreadable_histories.inc();
    tracing::warn!(
        channel.name = %channel, partition = partition.label(), error = %why,
        "a history cannot be read"
    );
}

async fn read_together(partition: &Partition, plan: &[Part]) -> Result<Snapshot, RedisError> {
    let value = partition.command(&partition.calls.read(plan)).await?;
    partition.metrics.broker.history_reads.with_label_values(&["ok"]).inc();
    let snapshot = snapshot(plan, value, |channel, why| unreadable(partition, channel, why));
    snapshot.ok_or_else(|| {
        RedisError::from((redis::ErrorKind::UnexpectedReturnType, "sse_read answered otherwise"))
    })
}

#[cfg(test)]
mod tests;
