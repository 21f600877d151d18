//! Reads histories from Redis for connections that join. One read is under way at a time; everybody
//! who waits for the same part shares it.
//!
//! A request that arrives while a read is under way waits for the next one. So every fresh answer
//! comes from a read that was sent after the request was made, and so after the connection had
//! attached. Cached pages are older; they bring a connection forward but never make it live.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, RedisError, Value};
use sse_contract::{Channel, EventId, Function};
use tokio::sync::mpsc;

use crate::broker::redis::{RedisShared, delays};
use crate::feed::frame::Frame;
use crate::feed::inbox::{Inbox, ReadToken, ToHub};
use crate::feed::read::ReadRequest;
use crate::feed::snapshot::{Extent, Range, Snapshot};

/// Ranges in one read at most. The channels of one connection may exceed it.
const RANGES: usize = 256;
/// Different positions of one channel in one read at most.
const POSITIONS: usize = 4;
/// Pages' worth of bytes in one read at most.
const PAGES: usize = 16;

/// The error code of Redis when its ACL refuses a command or a key.
const NO_PERMISSION: &str = "NOPERM";

/// How long a page is cached for later requests.
const CACHE_TIME: Duration = Duration::from_secs(1);
/// Bytes of events in the cache at most.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// The rate of reads while `history.page_bytes` is `PAGE_BYTES` or more: at most `BURST` without a
/// pause, `READS_PER_SECOND` on average. Smaller pages raise the average, up to 16-fold.
const BURST: f64 = 16.0;
const READS_PER_SECOND: f64 = 50.0;
const PAGE_BYTES: usize = 64 * 1024;

/// A message to the history thread.
#[derive(Debug)]
pub enum Ask {
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

/// A part to read: the channel, the position to read after, and the extent.
pub type Part = (Channel, EventId, Extent);

/// Pages read a moment ago. They serve connections that are as far behind, except for the last
/// read, which makes a connection live.
#[derive(Debug, Default)]
struct Cache {
    snapshots: VecDeque<(Instant, usize, Arc<Snapshot>)>,
    bytes: usize,
}

/// Limits the rate of reads. Requests come in bursts, when a gateway starts or Redis returns, and
/// one read serves everybody who waits, so it pays to let requests gather.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    allowance: f64,
    since: Instant,
}

/// The waiting requests and the cached pages. No I/O.
#[derive(Debug, Default)]
pub struct Reads {
    workers: Vec<Arc<Inbox>>,
    waiting: Waiting,
    cache: Cache,
}

impl Reads {
    /// Takes in a message.
    pub fn hear(&mut self, ask: Ask) {
        match ask {
            Ask::Register(inbox) => self.workers.push(inbox),
            Ask::Read(request) => self.waiting.add(request),
        }
    }

    /// Whether no request waits.
    pub fn is_idle(&self) -> bool {
        self.waiting.requests.is_empty()
    }

    /// Answers the requests that a cached page serves.
    pub fn serve_cached(&mut self, now: Instant) {
        for snapshot in self.cache.young(now) {
            answer(&mut self.waiting, &snapshot, &self.workers, true);
        }
    }

    /// The parts to read next.
    pub fn plan(&self) -> Vec<Part> {
        self.waiting.plan()
    }

    /// Takes the answer to a read that was planned after every waiting request had arrived.
    pub fn answered(&mut self, snapshot: Snapshot, now: Instant) {
        let snapshot = Arc::new(snapshot);
        answer(&mut self.waiting, &snapshot, &self.workers, false);
        self.cache.add(snapshot, now);
    }
}

/// Reads until the last sender of requests is gone. A failed read is repeated after a growing
/// delay.
pub async fn run(shared: Arc<RedisShared>, mut asks: mpsc::UnboundedReceiver<Ask>) {
    let mut reads = Reads::default();
    let mut pace = Pace::new(shared.config.page_bytes);
    let longest = shared.config.reconnect_max;
    let mut delay = delays(longest);
    loop {
        if reads.is_idle() {
            match asks.recv().await {
                Some(ask) => reads.hear(ask),
                None => return,
            }
        }
        while let Ok(ask) = asks.try_recv() {
            reads.hear(ask);
        }
        reads.serve_cached(Instant::now());
        if reads.is_idle() {
            continue;
        }
        pace.turn().await;
        while let Ok(ask) = asks.try_recv() {
            reads.hear(ask);
        }
        let plan = reads.plan();
        match read(&shared, &plan).await {
            Ok(snapshot) => {
                delay = delays(longest);
                reads.answered(snapshot, Instant::now());
            }
            Err(error) => {
                tracing::debug!(%error, "history cannot be read; trying on");
                shared.metrics.broker.history_reads.with_label_values(&["failed"]).inc();
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

    /// The parts to read next: all parts of the oldest request, then of others as many as fit.
    fn plan(&self) -> Vec<Part> {
        let mut ranges = Vec::new();
        let mut planned: HashSet<(&Channel, EventId, Extent)> = HashSet::new();
        let mut positions: HashMap<&Channel, usize> = HashMap::new();
        for key in &self.order {
            let request = &self.requests[key];
            if !ranges.is_empty() && ranges.len() + request.channels.len() > RANGES {
                break;
            }
            for (channel, extent) in request.parts() {
                let count = positions.entry(channel).or_default();
                if *count < POSITIONS && planned.insert((channel, request.after, extent)) {
                    *count += 1;
                    ranges.push((channel.clone(), request.after, extent));
                }
            }
        }
        ranges
    }
}

/// Reads these parts in one call. An unreadable history becomes an unreadable range; the others are
/// read all the same.
pub async fn read(shared: &RedisShared, plan: &[Part]) -> Result<Snapshot, RedisError> {
    let (refused, allowed): (Vec<Part>, Vec<Part>) =
        plan.iter().cloned().partition(|(channel, ..)| shared.refuses(channel));
    let mut snapshot = match read_together(shared, &allowed).await {
        // Redis refuses the whole call if one of its keys is refused, and does not say which.
        Err(error) if error.code() == Some(NO_PERMISSION) && !allowed.is_empty() => {
            find_refused(shared, &allowed).await?;
            return Box::pin(read(shared, plan)).await;
        }
        other => other?,
    };
    for (channel, after, extent) in refused {
        let range = Range::unreadable(after, extent);
        snapshot.ranges.entry(channel).or_default().push(range);
    }
    Ok(snapshot)
}

/// Reads each history alone and records those that Redis refuses. Succeeds if it has found one, or
/// if all can be read together after all.
async fn find_refused(shared: &RedisShared, plan: &[Part]) -> Result<(), RedisError> {
    let mut found = false;
    for part @ (channel, ..) in plan {
        if shared.refuses(channel) {
            continue;
        }
        match read_together(shared, std::slice::from_ref(part)).await {
            Ok(_) => {}
            Err(error) if error.code() == Some(NO_PERMISSION) => {
                found = true;
                unreadable(shared, channel, &error.to_string());
                shared.note_refused(channel);
            }
            Err(error) => return Err(error),
        }
    }
    match found {
        true => Ok(()),
        // No single history is refused, so the error has another cause.
        false => read_together(shared, plan).await.map(|_| ()),
    }
}

/// Counts and logs a history that cannot be read. The subscribers only get a gap; the log tells the
/// operator why.
fn unreadable(shared: &RedisShared, channel: &Channel, why: &str) {
    shared.metrics.broker.unreadable_histories.inc();
    tracing::warn!(channel.name = %channel, error = %why, "a history cannot be read");
}

/// The command that reads these parts in one call.
pub fn read_call(shared: &RedisShared, plan: &[Part]) -> Cmd {
    let mut cmd = shared.library.call(Function::Read, plan.len() + 1);
    cmd.arg(shared.keys.state(0));
    for (channel, ..) in plan {
        cmd.arg(shared.keys.history(channel));
    }
    shared.add_gateway_args(&mut cmd);
    cmd.arg(shared.config.page_bytes).arg(shared.config.page_bytes.saturating_mul(PAGES));
    for (_, after, extent) in plan {
        let mark = if *extent == Extent::Newest { "~" } else { "" };
        cmd.arg(format!("{mark}{after}"));
    }
    cmd
}

async fn read_together(shared: &RedisShared, plan: &[Part]) -> Result<Snapshot, RedisError> {
    let (_, value) = shared.command(&read_call(shared, plan)).await?;
    shared.metrics.broker.history_reads.with_label_values(&["ok"]).inc();
    let snapshot = snapshot(plan, value, |channel, why| unreadable(shared, channel, why));
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
    for (channel, after, extent) in plan {
        let range = range(*after, *extent, answer.next()?).unwrap_or_else(|why| {
            unreadable(channel, &why);
            Range::unreadable(*after, *extent)
        });
        ranges.entry(channel.clone()).or_default().push(range);
    }
    Some(Snapshot { clock, now_ms, history: max_len > 0, ttl_ms, ranges })
}

/// Parses one range. The error says why the history cannot be read.
fn range(after: EventId, extent: Extent, value: Value) -> Result<Range, String> {
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
        frames.push(Frame::event(id, &event, &data));
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

/// Answers every request that the snapshot serves, and leaves the others waiting. A cached snapshot
/// serves only positions below its clock: a connection at its clock needs its last page, which must
/// be read after the request was made.
fn answer(waiting: &mut Waiting, snapshot: &Arc<Snapshot>, workers: &[Arc<Inbox>], cached: bool) {
    let mut tokens: Vec<Vec<ReadToken>> = vec![Vec::new(); workers.len()];
    let requests = &mut waiting.requests;
    waiting.order.retain(|key| {
        let request = &requests[key];
        let of_now = request.epoch == Some(snapshot.clock.epoch());
        if cached && (snapshot.clock < request.youngest || !of_now) {
            return true;
        }
        let above = request.after > snapshot.clock;
        let served = if above || !snapshot.history {
            !cached && request.channels.iter().all(|c| snapshot.ranges.contains_key(c))
        } else {
            let covered =
                |(channel, extent)| snapshot.covering(channel, request.after, extent).is_some();
            !(cached && request.after == snapshot.clock) && request.parts().all(covered)
        };
        if !served {
            return true;
        }
        tokens[usize::from(request.worker)].push(request.token);
        requests.remove(key);
        false
    });
    for (inbox, tokens) in workers.iter().zip(tokens) {
        if !tokens.is_empty() {
            inbox.send([ToHub::Snapshot { snapshot: snapshot.clone(), tokens, cached }]);
        }
    }
}

impl Cache {
    /// Caches a snapshot. The first one of another epoch makes all earlier ones useless.
    fn add(&mut self, snapshot: Arc<Snapshot>, now: Instant) {
        let epoch = snapshot.clock.epoch();
        if self.snapshots.back().is_some_and(|(.., last)| last.clock.epoch() != epoch) {
            *self = Cache::default();
        }
        let frames = snapshot.ranges.values().flatten().flat_map(|range| range.frames.iter());
        let bytes: usize = frames.map(|frame| frame.size()).sum();
        if bytes == 0 {
            return;
        }
        self.bytes += bytes;
        self.snapshots.push_back((now, bytes, snapshot));
        while self.bytes > CACHE_BYTES {
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

    /// Waits until the next read may be sent.
    async fn turn(&mut self) {
        let earned = self.since.elapsed().as_secs_f64() * self.per_second;
        self.allowance = (self.allowance + earned).min(BURST);
        self.since = Instant::now();
        if self.allowance < 1.0 {
            let wait = (1.0 - self.allowance) / self.per_second;
            tokio::time::sleep(Duration::from_secs_f64(wait)).await;
            self.allowance = 1.0;
            self.since = Instant::now();
        }
        self.allowance -= 1.0;
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
mod tests {
    use super::*;
    use crate::feed::inbox::ReadToken;
    use crate::feed::snapshot::Extent;

    fn id(ms: u64) -> EventId {
        EventId::new(ms, 7, 0)
    }

    fn request(after: u64) -> Ask {
        Ask::Read(ReadRequest {
            worker: 0,
            token: ReadToken { connection: after, number: 0 },
            channels: ["a".parse().unwrap()].into(),
            after: id(after),
            youngest: EventId::ZERO,
            extents: [Extent::All].into_iter().collect(),
            epoch: Some(7),
        })
    }

    /// A snapshot of channel `a`, read above `after` when the clock stood at `clock`.
    fn page(after: u64, clock: u64) -> Snapshot {
        let frames = [Frame::event(id(clock), "", "x")].into();
        let unread = Range::unreadable(id(after), Extent::All);
        let range = Range { frames, readable: true, ..unread };
        Snapshot {
            clock: id(clock),
            now_ms: clock,
            history: true,
            ttl_ms: 1000,
            ranges: HashMap::from([("a".parse().unwrap(), vec![range])]),
        }
    }

    /// Otherwise a connection at the page's clock would get the same page for ever: the page that
    /// makes it live must be read after it asked.
    #[test]
    fn a_page_of_before_serves_nobody_who_has_come_to_its_clock() {
        let mut reads = Reads::default();
        let now = Instant::now();
        reads.hear(Ask::Register(Inbox::new(1000)));
        reads.hear(request(10));
        reads.answered(page(10, 50), now);
        assert!(reads.is_idle());
        reads.hear(request(30));
        reads.serve_cached(now);
        assert!(reads.is_idle());
        reads.hear(request(50));
        reads.serve_cached(now);
        assert!(!reads.is_idle());
        reads.answered(page(50, 50), now);
        assert!(reads.is_idle());
    }
}
