//! Publishers: some through a gateway, some straight through Redis, all with idempotency keys.
//!
//! What is not acknowledged is sent again with the same key until it is, so that at the end every
//! publication is known to be an event, except the few that the run's end cuts off.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use sse_contract::{EventId, Keys};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::payload::{BULK, CHANNELS, QUIET, Stamp};
use crate::resp::{Redis, Reply};
use crate::stage::Stage;
use crate::stream::Body;
use crate::tally::Wrong;

/// How long a gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a publisher reaches Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `POST` to any gateway.
    Http,
    /// `FCALL` on a connection of its own.
    Direct,
}

/// One publisher, with a count of its own.
#[derive(Debug)]
pub struct Publisher {
    stage: Rc<Stage>,
    number: u16,
    way: Way,
    rng: fastrand::Rng,
    seq: u32,
    pending: Vec<Stamp>,
    connection: Option<Redis>,
}

impl Publisher {
    /// Publisher `number`.
    pub fn new(stage: Rc<Stage>, number: u16, way: Way) -> Self {
        let rng = fastrand::Rng::with_seed(stage.seed ^ (0x9ab1 << 16) ^ u64::from(number));
        Publisher { stage, number, way, rng, seq: 0, pending: Vec::new(), connection: None }
    }

    /// Publishes until the last call, and then until all of it is acknowledged.
    pub async fn run(mut self) {
        loop {
            if !self.stage.last_call.get() {
                self.invent();
            } else if self.pending.is_empty() {
                return;
            }
            let failed = !self.publish().await;
            let pause = if failed { 100..300 } else { 40..120 };
            tokio::time::sleep(Duration::from_millis(self.rng.u64(pause))).await;
        }
    }

    /// Publishes one marker on each channel; it is the last event there.
    pub async fn mark_the_end(stage: Rc<Stage>) {
        let mut publisher = Publisher::new(stage, u16::MAX, Way::Direct);
        let mark = |channel| Stamp { channel, publisher: u16::MAX, seq: 0 };
        publisher.pending = (0..CHANNELS.len() as u16).map(mark).collect();
        while !publisher.pending.is_empty() {
            publisher.publish().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn invent(&mut self) {
        if self.pending.len() > 40 {
            return;
        }
        for _ in 0..self.rng.usize(1..8) {
            self.seq += 1;
            let channel = match self.rng.u16(0..3000) {
                0 => QUIET,
                1..300 => BULK,
                n => 1 + n % 6,
            };
            self.pending.push(Stamp { channel, publisher: self.number, seq: self.seq });
        }
    }

    /// Sends what is pending; answers whether all of it was acknowledged.
    async fn publish(&mut self) -> bool {
        for stamp in &self.pending {
            self.stage.ledger.borrow_mut().sending(*stamp);
        }
        let answers = match self.way {
            Way::Http => self.by_http().await,
            Way::Direct => self.by_redis().await,
        };
        let mut left = Vec::new();
        for (n, stamp) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let Some(id) = answers.get(n).copied().flatten() else {
                left.push(stamp);
                continue;
            };
            if let Err(text) = self.stage.ledger.borrow_mut().acknowledged(stamp, id) {
                self.stage.tally.borrow_mut().wrong(Wrong::Forged, text);
            }
        }
        self.stage.tally.borrow_mut().unanswered += left.len() as u64;
        self.pending = left;
        self.pending.is_empty()
    }

    async fn by_http(&mut self) -> Vec<Option<EventId>> {
        let gateways = &self.stage.gateways;
        let addr = gateways[self.rng.usize(..gateways.len())];
        let seed = self.stage.seed;
        let (head, body) = match self.pending[..] {
            [only] if self.rng.bool() => {
                let channel = only.channel_name().replace('/', "%2F");
                let head =
                    format!("/channels/{channel} HTTP/1.1\r\nIdempotency-Key: {}", only.key());
                (head, only.text(seed))
            }
            _ => {
                let line = |stamp: &Stamp| {
                    let item = serde_json::json!({
                        "channel": stamp.channel_name(),
                        "data": stamp.text(seed),
                        "idempotency_key": stamp.key(),
                    });
                    format!("{item}\n")
                };
                let head = "/publish HTTP/1.1\r\nContent-Type: application/x-ndjson".to_owned();
                (head, self.pending.iter().map(line).collect())
            }
        };
        let length = body.len();
        let request = format!(
            "POST {head}\r\nHost: chaos\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = tokio::time::timeout(PATIENCE, exchange(addr, &request)).await;
        let Ok(Ok((head, body))) = answer else { return Vec::new() };
        self.judge(&head, &body);
        let id = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            let place = value["line"].as_u64().unwrap_or(1) as usize;
            Some((place.checked_sub(1)?, value["id"].as_str()?.parse().ok()?))
        };
        let mut ids = vec![None; self.pending.len()];
        for (place, id) in body.lines().filter_map(id) {
            if let Some(slot) = ids.get_mut(place) {
                *slot = Some(id);
            }
        }
        ids
    }

    /// Nothing sent here is wrong, so no answer may say that it is.
    fn judge(&self, head: &str, body: &str) {
        let status = head.split(' ').nth(1).unwrap_or_default();
        if !matches!(status, "200" | "207" | "503") {
            let text = format!("a publication was answered {status}: {body}");
            self.stage.tally.borrow_mut().wrong(Wrong::Terminal, text);
        }
    }

    async fn by_redis(&mut self) -> Vec<Option<EventId>> {
        let mut ids = Vec::new();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match Redis::connect(self.stage.redis).await {
                Ok(connection) => connection,
                Err(_) => return ids,
            },
        };
        let (keys, seed) = (Keys::new("sse".to_owned(), 1), self.stage.seed);
        let call = |stamp: &Stamp| {
            let channel = stamp.channel_name();
            vec![
                "FCALL".to_owned(),
                "sse_publish".to_owned(),
                "3".to_owned(),
                keys.state(0),
                format!("sse:history:{channel}"),
                format!("sse:idem:{channel}:{}", stamp.key()),
                stamp.text(seed),
            ]
        };
        let calls: Vec<Vec<String>> = self.pending.iter().map(call).collect();
        if connection.send(&calls).await.is_err() {
            return ids;
        }
        let mut replica = false;
        for _ in &self.pending {
            match connection.reply().await {
                Ok(Reply::Text(id)) => ids.push(id.parse().ok()),
                Ok(Reply::Error(error)) => {
                    replica |= error.starts_with("READONLY");
                    ids.push(None);
                }
                Err(_) => return ids,
            }
        }
        if !replica {
            self.connection = Some(connection);
        }
        ids
    }
}

/// One request on a connection of its own; answers head and body.
pub async fn exchange(addr: SocketAddr, request: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let body = Body::of(&head).decode(&answer[end + 4..]);
    Ok((head, String::from_utf8_lossy(&body).into_owned()))
}
