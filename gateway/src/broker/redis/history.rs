//! Reads histories from Redis for connections that join. One read is under way at a time; everybody
//! who waits for the same part shares it.
//!
//! A request that arrives while a read is under way waits for the next one. So every fresh answer
//! comes from a read that was sent after the request was made, and so after the connection had
//! attached. Cached pages are older; they bring a connection forward but never make it live.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{RedisError, Value};
use sse_contract::{Channel, EventId, Part};
use tokio::sync::mpsc;

use crate::broker::redis::backoff::delays;
use crate::broker::redis::partition::Partition;
use crate::feed::frame::Frame;
use crate::feed::inbox::{Inbox, ReadToken, ToHub};
use crate::feed::read::ReadRequest;
use crate::feed::snapshot::{Extent, Range, Snapshot};

/// Ranges in one read at most. The channels of one connection may exceed it.
const RANGES: usize = 256;
/// A read of so many ranges has no room for a further stream of many channels.
const FULL: usize = RANGES / 2;
/// Different positions of one channel in one read at most.
const POSITIONS: usize = 4;

/// The error code of Redis when its ACL refuses a command or a key.
const NO_PERMISSION: &str = "NOPERM";

/// How long a page is cached for later requests.
const CACHE_TIME: Duration = Duration::from_secs(1);
/// Bytes of events in the caches of all partitions together at most, while a partition's share is
/// not below `LEAST_CACHE_BYTES`.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
const LEAST_CACHE_BYTES: usize = 1024 * 1024;
/// The rate of reads while `history.page_bytes` is `PAGE_BYTES` or more: at most `BURST` without a
/// pause, `READS_PER_SECOND` on average. Smaller pages raise the average, up to 16-fold.
const BURST: f64 = 16.0;
const READS_PER_SECOND: f64 = 50.0;
const PAGE_BYTES: usize = 64 * 1024;

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

/// Pages read a moment ago. They serve connections that are as far behind, except for the last
/// read, which makes a connection live.
#[derive(Debug)]
struct Cache {
    snapshots: VecDeque<(Instant, usize, Arc<Snapshot>)>,
    bytes: usize,
    /// How many bytes it may have.
    most: usize,
}

/// Limits the rate of reads. Requests come in bursts, when a gateway starts or Redis returns, and
/// one read serves everybody who waits, so it pays to let requests gather, until a read is full.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    allowance: f64,
    since: Instant,
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
    /// Creates the reads of a partition. Nobody waits.
    pub fn new(partition: u16) -> Self {
        let (waiting, cache) = (Waiting::default(), Cache::new(CACHE_BYTES));
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
    let mut reads = Reads::new(partition.number);
    let partitions = usize::from(partition.keys.partitions());
    reads.cache.most = (CACHE_BYTES / partitions).max(LEAST_CACHE_BYTES);
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
                if plan.len() >= FULL {
                    pace.was_full(began.elapsed());
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

/// Which part of a history a part of a read is.
fn extent(part: &Part) -> Extent {
    if part.newest { Extent::Newest } else { Extent::All }
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

/// Parses the answer of `sse_read`. Returns `None` if the answer as a whole has the wrong form.
/// Calls `unreadable` for each history that cannot be read, with the reason.
pub fn snapshot(
    plan: &[Part],
    value: Value,
    mut unreadable: impl FnMut(&Channel, &str),
) -> Option<Snapshot> {
    let Value::Array(answer) = value else { return None };
    let mut answer = answer.into_iter();
    let clock = text(&answer.next()?)?.parse().ok()?;
    let (now_ms, max_len, ttl_ms) =
        (number(&answer.next()?)?, number(&answer.next()?)?, number(&answer.next()?)?);
    let mut ranges: HashMap<Channel, Vec<Range>> = HashMap::with_capacity(plan.len());
    for part in plan {
        let (after, extent) = (part.after, extent(part));
        let range = range(&part.channel, after, extent, answer.next()?).unwrap_or_else(|why| {
            unreadable(&part.channel, &why);
            Range::unreadable(after, extent)
        });
        ranges.entry(part.channel.clone()).or_default().push(range);
    }
    Some(Snapshot { clock, now_ms, history: max_len > 0, ttl_ms, ranges })
}

/// Parses one range of a channel. The error says why the history cannot be read.
fn range(channel: &Channel, after: EventId, extent: Extent, value: Value) -> Result<Range, String> {
    let odd = || "sse_read answered a range otherwise".to_owned();
    let Value::Array(fields) = value else { return Err(odd()) };
    if let [why] = &fields[..] {
        return Err(text(why).ok_or_else(odd)?.to_owned());
    }
    let [last, oldest, added, length, more, entries] =
        <[Value; 6]>::try_from(fields).map_err(|_| odd())?;
    let Value::Array(entries) = entries else { return Err(odd()) };
    let mut frames = Vec::with_capacity(entries.len() / 3);
    for entry in entries.chunks_exact(3) {
        let id = text(&entry[0]).ok_or_else(odd)?;
        let id = id.parse().map_err(|_| format!("it holds {id}, which is no event's id"))?;
        let (event, data) = (lossy(&entry[2]).ok_or_else(odd)?, lossy(&entry[1]).ok_or_else(odd)?);
        frames.push(Frame::event(channel, id, &event, &data));
    }
    let number = |value| number(value).ok_or_else(odd);
    let upto = match number(&more)? {
        0 => None,
        _ => Some(frames.last().and_then(|frame| frame.id).unwrap_or(after)),
    };
    let id = |value| text(value).and_then(|text| text.parse().ok());
    Ok(Range {
        after,
        upto,
        last: id(&last),
        oldest: id(&oldest),
        length: number(&length)?,
        untrimmed: number(&added)? == number(&length)?,
        frames: frames.into(),
        extent,
        readable: true,
    })
}

impl Cache {
    fn new(most: usize) -> Self {
        Cache { snapshots: VecDeque::new(), bytes: 0, most }
    }

    /// Caches a snapshot. The first one of another epoch makes all earlier ones useless.
    fn add(&mut self, snapshot: Arc<Snapshot>, now: Instant) {
        let epoch = snapshot.clock.epoch();
        if self.snapshots.back().is_some_and(|(.., last)| last.clock.epoch() != epoch) {
            *self = Cache::new(self.most);
        }
        let frames = snapshot.ranges.values().flatten().flat_map(|range| range.frames.iter());
        let bytes: usize = frames.map(|frame| frame.size()).sum();
        if bytes == 0 {
            return;
        }
        self.bytes += bytes;
        self.snapshots.push_back((now, bytes, snapshot));
        while self.bytes > self.most {
            self.drop_oldest();
        }
    }

    /// The snapshots younger than `CACHE_TIME`, oldest first.
    fn young(&mut self, now: Instant) -> Vec<Arc<Snapshot>> {
        while self.snapshots.front().is_some_and(|(read, ..)| now - *read > CACHE_TIME) {
            self.drop_oldest();
        }
        self.snapshots.iter().map(|(.., snapshot)| snapshot.clone()).collect()
    }

    fn drop_oldest(&mut self) {
        if let Some((_, bytes, _)) = self.snapshots.pop_front() {
            self.bytes -= bytes;
        }
    }
}

impl Pace {
    fn new(page_bytes: usize) -> Self {
        let per_second =
            READS_PER_SECOND * (PAGE_BYTES as f64 / page_bytes as f64).clamp(1.0, 16.0);
        Pace { per_second, allowance: BURST, since: Instant::now() }
    }

    /// How long to wait until the next read is sent.
    fn turn(&mut self, now: Instant) -> Duration {
        let earned = (now - self.since).as_secs_f64() * self.per_second;
        self.allowance = (self.allowance + earned).min(BURST);
        self.since = now;
        let wait = (1.0 - self.allowance).max(0.0) / self.per_second;
        // What is earned meanwhile is counted at the next turn.
        self.allowance -= 1.0;
        Duration::from_secs_f64(wait)
    }

    /// Notes that the read, which took this long, had all the ranges that a read may have. To wait
    /// would not let more requests gather. So the next one is only as far away as this one was long,
    /// and Redis has half of the time for others.
    fn was_full(&mut self, took: Duration) {
        // Half of this is earned while the read is under way.
        let cost = 2.0 * took.as_secs_f64() * self.per_second;
        self.allowance += 1.0 - cost.min(1.0);
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Invalid UTF-8 becomes U+FFFD, as it would in a browser.
fn lossy(value: &Value) -> Option<std::borrow::Cow<'_, str>> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes)),
        Value::SimpleString(text) => Some(text.into()),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        other => text(other)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests;
