//! Publishers: by HTTP or directly in Redis, with idempotency keys or without.
//!
//! A publisher has one publication of a channel under way at a time, and begins the next one when
//! that is an event, or given up. So its events of a channel have an order that the checker knows.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use sse_contract::{Call, Channel, EventId, Meaning, Publish, Way, meaning};
use sse_lab::sentinels::NAME;
use tokio::time::{Instant, sleep, timeout};

use crate::ledger::now_ms;
use crate::payload::{BULK, KEYLESS, MARKER, Stamp, channel_in_url, channel_name};
use crate::publisher::exchange;
use crate::resp::{Redis, Reply};
use crate::tally::Wrong;
use crate::topology::stage::Stage;

/// The longest wait for a gateway.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a publisher publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// One request for each event.
    Single,
    /// NDJSON with events of several partitions.
    Batch,
    /// `FCALL` to the owner.
    Direct,
}

/// The publishers: number and way. Those from [`KEYLESS`] on have no keys.
pub const PUBLISHERS: [(u16, How); 9] = [
    (0, How::Single),
    (1, How::Single),
    (2, How::Single),
    (3, How::Batch),
    (4, How::Batch),
    (5, How::Direct),
    (KEYLESS, How::Single),
    (KEYLESS + 1, How::Batch),
    (KEYLESS + 2, How::Direct),
];

/// The publisher of the first events.
const FIRST: u16 = 999;

/// What became of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Event(EventId),
    Nothing,
    Unknown,
}

/// One publisher.
#[derive(Debug)]
pub struct Publisher {
    stage: Rc<Stage>,
    number: u16,
    how: How,
    rng: fastrand::Rng,
    /// The last number on each channel.
    numbers: HashMap<u16, u32>,
    pending: Vec<Stamp>,
    /// Where each partition was last.
    owners: HashMap<u16, SocketAddr>,
    connections: HashMap<SocketAddr, Redis>,
}

impl Publisher {
    /// Publisher `number`.
    pub fn new(stage: Rc<Stage>, number: u16, how: How) -> Self {
        let rng = fastrand::Rng::with_seed(stage.seed ^ (0x9ab1 << 16) ^ u64::from(number));
        let (numbers, owners, connections) = Default::default();
        Publisher { stage, number, how, rng, numbers, pending: Vec::new(), owners, connections }
    }

    /// Publishes until the last call, and then until everything is acknowledged.
    pub async fn run(mut self) {
        loop {
            if !self.stage.last_call.get() {
                self.invent();
            } else if self.pending.is_empty() {
                return;
            }
            self.publish().await;
            sleep(Duration::from_millis(self.rng.u64(40..160))).await;
        }
    }

    /// Publishes an event on each channel, so that every partition is known to be there. Returns
    /// whether all were acknowledged within the bound.
    pub async fn first_events(stage: Rc<Stage>, bound: Duration) -> bool {
        let first = |channel: &u16| Stamp { channel: *channel, publisher: FIRST, seq: 1 };
        let stamps = stage.channels.iter().map(first).collect();
        Publisher::new(stage, FIRST, How::Batch).deliver(stamps, bound).await
    }

    /// Publishes a marker on each channel, as its last event. Returns whether all were acknowledged
    /// within the bound.
    pub async fn mark_the_end(stage: Rc<Stage>, bound: Duration) -> bool {
        let mark = |channel: &u16| Stamp { channel: *channel, publisher: MARKER, seq: 0 };
        let stamps = stage.channels.iter().map(mark).collect();
        Publisher::new(stage, MARKER, How::Batch).deliver(stamps, bound).await
    }

    async fn deliver(mut self, stamps: Vec<Stamp>, bound: Duration) -> bool {
        let end = Instant::now() + bound;
        self.pending = stamps;
        while !self.pending.is_empty() && Instant::now() < end {
            self.publish().await;
            sleep(Duration::from_millis(50)).await;
        }
        self.pending.is_empty()
    }

    fn invent(&mut self) {
        for _ in 0..self.rng.usize(1..4) {
            let of = self.rng.usize(..self.stage.channels.len());
            let channel = self.stage.channels[of];
            let busy = self.pending.iter().any(|stamp| stamp.channel == channel);
            // The channel with large events would crowd out the others.
            if busy || (channel == BULK && self.rng.bool()) {
                continue;
            }
            let seq = self.numbers.entry(channel).or_default();
            *seq += 1;
            self.pending.push(Stamp { channel, publisher: self.number, seq: *seq });
        }
    }

    /// Sends what is pending, and keeps what has to be sent again.
    async fn publish(&mut self) {
        let stamps = std::mem::take(&mut self.pending);
        if stamps.is_empty() {
            return;
        }
        stamps.iter().for_each(|stamp| self.stage.history.borrow_mut().sending(*stamp, now_ms()));
        let outcomes: Vec<Outcome> = match self.how {
            How::Single => self.singles(&stamps).await,
            How::Batch => {
                let gateways = &self.stage.gateways;
                let addr = gateways[self.rng.usize(..gateways.len())];
                batch(&self.stage, addr, &stamps).await
            }
            How::Direct => {
                let mut outcomes = Vec::new();
                for stamp in &stamps {
                    outcomes.push(self.direct(*stamp).await);
                }
                outcomes
            }
        };
        let mut history = self.stage.history.borrow_mut();
        for (stamp, outcome) in stamps.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Event(id) => history.acknowledged(stamp, id, now_ms()),
                Outcome::Nothing => self.pending.push(stamp),
                Outcome::Unknown => {
                    history.doubted(stamp);
                    self.pending.extend(stamp.key().map(|_| stamp));
                }
            }
        }
    }

    /// Each by a request of its own to any gateway, all at the same time.
    async fn singles(&mut self, stamps: &[Stamp]) -> Vec<Outcome> {
        let mut sent = Vec::new();
        for stamp in stamps {
            let addr = self.stage.gateways[self.rng.usize(..self.stage.gateways.len())];
            let (stage, stamp) = (self.stage.clone(), *stamp);
            sent.push(tokio::task::spawn_local(async move { single(&stage, addr, stamp).await }));
        }
        let mut outcomes = Vec::new();
        for sent in sent {
            outcomes.push(sent.await.unwrap_or(Outcome::Unknown));
        }
        outcomes
    }

    async fn direct(&mut self, stamp: Stamp) -> Outcome {
        let partition = self.stage.keys.partition(&channel_name(stamp.channel));
        let Some(addr) = self.owner(partition).await else { return Outcome::Nothing };
        let mut redis = match self.connections.remove(&addr) {
            Some(known) => known,
            None => match Redis::connect(addr).await {
                Ok(new) => new,
                Err(_) => {
                    self.owners.remove(&partition);
                    return Outcome::Nothing;
                }
            },
        };
        let channel: Channel = channel_name(stamp.channel).parse().expect("the suite's own");
        let (text, key) = (stamp.text(self.stage.seed), stamp.key());
        let item = Publish {
            channel: &channel,
            event: None,
            data: text.as_bytes(),
            idempotency_key: key.as_deref(),
        };
        let call = Call::publish(&self.stage.keys, &item, None);
        let way = Way::Functions;
        let words: Vec<&[u8]> = way.words(&call).expect("functions need no digest").collect();
        let reply = redis.call(&words).await;
        let error = match reply {
            Ok(Reply::Text(text)) => {
                self.connections.insert(addr, redis);
                return text.parse().map_or(Outcome::Unknown, Outcome::Event);
            }
            Ok(Reply::Error(error)) => error,
            Err(_) => {
                self.owners.remove(&partition);
                return Outcome::Unknown;
            }
        };
        self.owners.remove(&partition);
        if let ["MOVED", _, to] = error.split(' ').collect::<Vec<_>>()[..]
            && let Ok(to) = to.parse()
        {
            self.owners.insert(partition, to);
            self.connections.insert(addr, redis);
        }
        match meaning(&error) {
            // A replica that was a master a moment ago. Nothing ran: it is refused before the call.
            Meaning::Unknown if error.starts_with("READONLY") => Outcome::Nothing,
            Meaning::Unknown => Outcome::Unknown,
            Meaning::Invalid | Meaning::Conflict | Meaning::Denied | Meaning::Mismatch => {
                self.stage.wrong(Wrong::Terminal, format!("{stamp:?} was refused: {error}"));
                Outcome::Nothing
            }
            _ => Outcome::Nothing,
        }
    }

    async fn owner(&mut self, partition: u16) -> Option<SocketAddr> {
        if let Some(known) = self.owners.get(&partition) {
            return Some(*known);
        }
        let any = self.rng.choice(self.stage.shared.servers())?;
        let found = match self.stage.sentinels {
            false => any,
            true => {
                let mut sentinel = Redis::connect(any).await.ok()?;
                let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
                let Ok(Reply::Text(told)) = sentinel.call(&words).await else { return None };
                told.replacen('\n', ":", 1).parse().ok()?
            }
        };
        self.owners.insert(partition, found);
        Some(found)
    }
}

async fn single(stage: &Stage, addr: SocketAddr, stamp: Stamp) -> Outcome {
    let channel = channel_in_url(stamp.channel);
    let key = stamp.key().map_or(String::new(), |key| format!("\r\nIdempotency-Key: {key}"));
    let head = format!("/channels/{channel} HTTP/1.1{key}");
    let request = post(&head, &stamp.text(stage.seed));
    match timeout(PATIENCE, exchange(addr, request.as_bytes())).await {
        Ok(Ok((head, body))) => {
            let value: Value = serde_json::from_str(&body).unwrap_or_default();
            read(stage, &value, &head)
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Outcome::Nothing,
        _ => Outcome::Unknown,
    }
}

async fn batch(stage: &Stage, addr: SocketAddr, stamps: &[Stamp]) -> Vec<Outcome> {
    let line = |stamp: &Stamp| {
        let mut item =
            json!({ "channel": channel_name(stamp.channel), "data": stamp.text(stage.seed) });
        if let Some(key) = stamp.key() {
            item["idempotency_key"] = json!(key);
        }
        format!("{item}\n")
    };
    let body: String = stamps.iter().map(line).collect();
    let request = post("/publish HTTP/1.1\r\nContent-Type: application/x-ndjson", &body);
    let answer = timeout(PATIENCE, exchange(addr, request.as_bytes())).await;
    let (head, body) = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return vec![Outcome::Nothing; stamps.len()];
        }
        _ => return vec![Outcome::Unknown; stamps.len()],
    };
    let mut outcomes = vec![Outcome::Unknown; stamps.len()];
    for line in body.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_default();
        let place = value["line"].as_u64().unwrap_or(1) as usize;
        if let Some(outcome) = place.checked_sub(1).and_then(|n| outcomes.get_mut(n)) {
            *outcome = read(stage, &value, &head);
        }
    }
    outcomes
}

/// Interprets one result: that of an item, or the problem document of a whole request.
fn read(stage: &Stage, value: &Value, head: &str) -> Outcome {
    if let Some(id) = value["id"].as_str().and_then(|id| id.parse().ok()) {
        return Outcome::Event(id);
    }
    let kind = value["error"]["type"].as_str().or(value["type"].as_str()).unwrap_or_default();
    match kind.strip_prefix("urn:sse-gateway:").unwrap_or_default() {
        "redis-unavailable" | "unavailable" => Outcome::Nothing,
        "publish-outcome-unknown" | "" => Outcome::Unknown,
        _ => {
            let line = head.lines().next().unwrap_or_default();
            stage.wrong(Wrong::Terminal, format!("a publication was refused: {line} {value}"));
            Outcome::Nothing
        }
    }
}

fn post(head: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {head}\r\nHost: chaos\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}
