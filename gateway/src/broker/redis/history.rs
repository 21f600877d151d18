//! Reads histories from Redis for connections that join: one read under way at a time, shared by all who
//! wait for the same part.
//!
//! Requests that arrive while a read is under way share the next one. So every answer stems from a read
//! that was sent after its request was made, hence after the connection had attached.

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

/// Ranges in one read; one connection's channels may exceed it.
const RANGES: usize = 256;
/// Positions from which one read reads the same channel.
const POSITIONS: usize = 4;
/// Pages that one read may hold together.
const PAGES: usize = 16;

/// The code of Redis' error when its ACL refuses a command or a key.
const NO_PERMISSION: &str = "NOPERM";

/// How long a page is shared with those who come later.
const CACHE_TIME: Duration = Duration::from_secs(1);
/// Bytes of events in those pages.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Reads in a row without a pause, and in the long run, of pages of this size; of smaller ones there are more.
const BURST: f64 = 16.0;
const READS_PER_SECOND: f64 = 50.0;
const PAGE_BYTES: usize = 64 * 1024;

/// What the reader is told.
#[derive(Debug)]
pub enum Ask {
    /// A worker's inbox; its number is its place.
    Register(Arc<Inbox>),
    /// A connection wants to read.
    Read(ReadRequest),
}

/// The requests not yet answered: the newest one of each connection, oldest connection first.
#[derive(Debug, Default)]
struct Waiting {
    requests: HashMap<(u16, u64), ReadRequest>,
    order: VecDeque<(u16, u64)>,
}

/// A range that is to be read.
pub type Part = (Channel, EventId, Extent);

/// Pages read a moment ago: whoever is as far back needs no read of its own until the last one.
#[derive(Debug, Default)]
struct Cache {
    snapshots: VecDeque<(Instant, usize, Arc<Snapshot>)>,
    bytes: usize,
}

/// Reads come in bursts, when a gateway starts or Redis returns; each serves all who wait, so it pays to
/// let them gather.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    allowance: f64,
    since: Instant,
}

/// Who waits for which read, and what was read a moment ago. No I/O.
#[derive(Debug, Default)]
pub struct Reads {
    workers: Vec<Arc<Inbox>>,
    waiting: Waiting,
    cache: Cache,
}

impl Reads {
    /// What somebody asks.
    pub fn hear(&mut self, ask: Ask) {
        match ask {
            Ask::Register(inbox) => self.workers.push(inbox),
            Ask::Read(request) => self.waiting.add(request),
        }
    }

    /// Whether nobody waits.
    pub fn is_idle(&self) -> bool {
        self.waiting.requests.is_empty()
    }

    /// Answers those whom a page serves that was read before they asked.
    pub fn serve_cached(&mut self, now: Instant) {
        for snapshot in self.cache.young(now) {
            answer(&mut self.waiting, &snapshot, &self.workers, true);
        }
    }

    /// What to read next.
    pub fn plan(&self) -> Vec<Part> {
        self.waiting.plan()
    }

    /// Redis answered a read that was planned after all who wait had asked.
    pub fn answered(&mut self, snapshot: Snapshot, now: Instant) {
        let snapshot = Arc::new(snapshot);
        answer(&mut self.waiting, &snapshot, &self.workers, false);
        self.cache.add(snapshot, now);
    }
}

/// Reads for as long as anybody can ask.
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
    /// A connection has one read at a time: a newer one takes the older one's place.
    fn add(&mut self, request: ReadRequest) {
        let key = (request.worker, request.token.connection);
        if self.requests.insert(key, request).is_none() {
            self.order.push_back(key);
        }
    }

    /// What to read next: all ranges of the oldest request, and of others as many as fit.
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

/// One read of these parts. A history that cannot be read is answered as such; the others are read all the same.
pub async fn read(shared: &RedisShared, plan: &[Part]) -> Result<Snapshot, RedisError> {
    let (refused, allowed): (Vec<Part>, Vec<Part>) =
        plan.iter().cloned().partition(|(channel, ..)| shared.refuses(channel));
    let mut snapshot = match read_together(shared, &allowed).await {
        // Redis refuses a command as a whole if it refuses one of its keys, and does not say which.
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

/// Reads each history alone, and notes those that Redis refuses.
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
        // It is no history that Redis refuses.
        false => read_together(shared, plan).await.map(|_| ()),
    }
}

/// Its subscribers are told that events may be missing; the operator is told why.
fn unreadable(shared: &RedisShared, channel: &Channel, why: &str) {
    shared.metrics.broker.unreadable_histories.inc();
    tracing::warn!(channel.name = %channel, error = %why, "a history cannot be read");
}

/// The command that reads these parts together.
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

/// Understands the answer of `sse_read`; none if it is not of its form. `unreadable` hears of histories that are not of
/// theirs.
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

/// Understands one range; the error says why its history cannot be read.
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

/// Answers every request that the snapshot serves; the others wait for the next one. A cached one serves
/// only positions below its clock, and never the last page.
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
    /// Keeps a snapshot for a moment. One of another epoch makes all before it useless.
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

    /// What is young enough to be of use, oldest first.
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

/// Data that is no UTF-8 is shown as a browser would show it.
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

    /// A page up to this clock.
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

    /// It would be sent the same page again and again: what makes it live must be read after it asked.
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
