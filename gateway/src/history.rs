//! Reads histories from Redis for connections that join: one read under way at a time, shared by all who
//! wait for the same part.
//!
//! Requests that arrive while a read is under way share the next one. So every answer stems from a read
//! that was sent after its request was made, hence after the connection had attached.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use redis::Value;
use sse_contract::{Channel, EventId, Function};
use tokio::sync::mpsc;

use crate::broker::ReadRequest;
use crate::frame::Frame;
use crate::inbox::{Inbox, ReadToken, ToHub};
use crate::redis_broker::{RedisShared, delays};
use crate::snapshot::{Range, Snapshot};

/// Ranges in one read; one connection's channels may exceed it.
const RANGES: usize = 256;
/// Positions from which one read reads the same channel.
const POSITIONS: usize = 4;
/// Pages that one read may hold together.
const PAGES: usize = 16;

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

/// Reads for as long as anybody can ask.
pub async fn run(shared: Arc<RedisShared>, mut asks: mpsc::UnboundedReceiver<Ask>) {
    let mut workers: Vec<Arc<Inbox>> = Vec::new();
    let mut waiting = Waiting::default();
    let longest = shared.config.reconnect_max;
    let mut delay = delays(longest);
    loop {
        if waiting.requests.is_empty() {
            match asks.recv().await {
                Some(ask) => take(ask, &mut waiting, &mut workers),
                None => return,
            }
        }
        while let Ok(ask) = asks.try_recv() {
            take(ask, &mut waiting, &mut workers);
        }
        let plan = waiting.plan();
        if plan.is_empty() {
            continue;
        }
        match read(&shared, &plan).await {
            Ok(snapshot) => {
                delay = delays(longest);
                answer(&mut waiting, snapshot, &workers);
            }
            Err(error) => {
                tracing::debug!(%error, "history cannot be read; trying on");
                shared.metrics.broker.with_label_values(&["read_failed"]).inc();
                let wait = delay.next().unwrap_or(longest);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

fn take(ask: Ask, waiting: &mut Waiting, workers: &mut Vec<Arc<Inbox>>) {
    match ask {
        Ask::Register(inbox) => workers.push(inbox),
        Ask::Read(request) => waiting.add(request),
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
    fn plan(&self) -> Vec<(Channel, EventId)> {
        let mut ranges = Vec::new();
        let mut planned: HashSet<(&Channel, EventId)> = HashSet::new();
        let mut positions: HashMap<&Channel, usize> = HashMap::new();
        for key in &self.order {
            let request = &self.requests[key];
            if !ranges.is_empty() && ranges.len() + request.channels.len() > RANGES {
                break;
            }
            for channel in request.channels.iter() {
                let count = positions.entry(channel).or_default();
                if *count < POSITIONS && planned.insert((channel, request.after)) {
                    *count += 1;
                    ranges.push((channel.clone(), request.after));
                }
            }
        }
        ranges
    }
}

async fn read(
    shared: &RedisShared,
    plan: &[(Channel, EventId)],
) -> Result<Snapshot, redis::RedisError> {
    let mut cmd = shared.library.call(Function::Read, plan.len() + 1);
    cmd.arg(shared.keys.state(0));
    for (channel, _) in plan {
        cmd.arg(shared.keys.history(channel));
    }
    shared.add_gateway_args(&mut cmd);
    cmd.arg(shared.config.page_bytes).arg(shared.config.page_bytes.saturating_mul(PAGES));
    for (_, after) in plan {
        cmd.arg(after.to_string());
    }
    let value = shared.command(&cmd).await?;
    shared.metrics.broker.with_label_values(&["read"]).inc();
    snapshot(plan, value).ok_or_else(|| {
        redis::RedisError::from((
            redis::ErrorKind::UnexpectedReturnType,
            "sse_read answered otherwise",
        ))
    })
}

/// Understands the answer of `sse_read`; none if it is not of its form.
fn snapshot(plan: &[(Channel, EventId)], value: Value) -> Option<Snapshot> {
    let Value::Array(answer) = value else { return None };
    let mut answer = answer.into_iter();
    let clock = text(&answer.next()?)?.parse().ok()?;
    let (now_ms, max_len, ttl_ms) =
        (number(&answer.next()?)?, number(&answer.next()?)?, number(&answer.next()?)?);
    let mut ranges: HashMap<Channel, Vec<Range>> = HashMap::with_capacity(plan.len());
    for (channel, after) in plan {
        let range = range(*after, answer.next()?)?;
        ranges.entry(channel.clone()).or_default().push(range);
    }
    Some(Snapshot { clock, now_ms, history: max_len > 0, ttl_ms, ranges })
}

fn range(after: EventId, value: Value) -> Option<Range> {
    let Value::Array(fields) = value else { return None };
    let [last, oldest, added, length, more, entries] = <[Value; 6]>::try_from(fields).ok()?;
    let Value::Array(entries) = entries else { return None };
    let mut frames = Vec::with_capacity(entries.len() / 3);
    for entry in entries.chunks_exact(3) {
        let id = text(&entry[0])?.parse().ok()?;
        frames.push(Frame::event(id, &lossy(&entry[2])?, &lossy(&entry[1])?));
    }
    let upto = match number(&more)? {
        0 => None,
        _ => Some(frames.last().and_then(|frame| frame.id).unwrap_or(after)),
    };
    Some(Range {
        after,
        upto,
        last: text(&last)?.parse().ok(),
        oldest: text(&oldest)?.parse().ok(),
        untrimmed: number(&added)? == number(&length)?,
        frames: frames.into(),
    })
}

/// Answers every request that the snapshot serves; the others wait for the next one.
fn answer(waiting: &mut Waiting, snapshot: Snapshot, workers: &[Arc<Inbox>]) {
    let snapshot = Arc::new(snapshot);
    let mut tokens: Vec<Vec<ReadToken>> = vec![Vec::new(); workers.len()];
    let requests = &mut waiting.requests;
    waiting.order.retain(|key| {
        let request = &requests[key];
        let above = request.after > snapshot.clock;
        let read = |channel| {
            if above {
                snapshot.ranges.contains_key(channel)
            } else {
                snapshot.covering(channel, request.after).is_some()
            }
        };
        if !request.channels.iter().all(read) {
            return true;
        }
        tokens[usize::from(request.worker)].push(request.token);
        requests.remove(key);
        false
    });
    for (inbox, tokens) in workers.iter().zip(tokens) {
        if !tokens.is_empty() {
            inbox.send([ToHub::Snapshot(snapshot.clone(), tokens)]);
        }
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
