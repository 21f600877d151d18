//! Publishers: some use a gateway, some use Redis directly, most send idempotency keys.
//!
//! With a key, a publication is repeated until it is acknowledged. So at the end every publication
//! is known to be an event, except the few that the end of the run cuts off. Without a key, it is
//! repeated only if the answer says that nothing was written; otherwise its outcome stays unknown.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use sse_contract::EventId;
use sse_lab::chunked::Framing;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::by_http;
use crate::by_redis::Direct;
use crate::ledger::now_ms;
use crate::payload::{BULK, BUSY, CHANNELS, CROWD, MARKER, QUIET, Stamp, USER, USER_42};
use crate::stage::Stage;
use crate::tally::Wrong;

/// How a publisher reaches the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `POST` to a random gateway.
    Http,
    /// `FCALL` or `EVALSHA` on a connection of its own.
    Direct,
}

/// The channels of a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// The permanent channels.
    Town,
    /// Groups of permanent channels, several at once.
    Groups,
    /// The channels that come and go.
    Crowd,
}

/// The outcome of one publication on one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It became this event.
    Event(EventId),
    /// Nothing was written.
    Nothing,
    /// It may or may not have been written.
    Unknown,
    /// Nothing was written or will be. The caller has noted a violation.
    Never,
}

/// One publisher with its own count.
#[derive(Debug)]
pub struct Publisher {
    stage: Rc<Stage>,
    number: u16,
    way: Way,
    beat: Beat,
    rng: fastrand::Rng,
    seq: u32,
    pending: Vec<Stamp>,
    direct: Direct,
}

impl Publisher {
    /// Publisher `number`.
    pub fn new(stage: Rc<Stage>, number: u16, way: Way, beat: Beat) -> Self {
        let way = if stage.settings.memory() { Way::Http } else { way };
        let rng = fastrand::Rng::with_seed(stage.seed ^ (0x9ab1 << 16) ^ u64::from(number));
        let (seq, pending, direct) = (0, Vec::new(), Direct::default());
        Publisher { stage, number, way, beat, rng, seq, pending, direct }
    }

    /// Publishes until the last call, and then until everything is acknowledged.
    pub async fn run(mut self) {
        loop {
            if !self.stage.last_call.get() {
                self.invent();
            } else if self.pending.is_empty() {
                return;
            }
            let failed = !self.publish().await;
            let pause = match (failed, self.stage.gentle.get()) {
                (_, true) => 400..1_200,
                (true, _) => 100..300,
                (false, _) => 40..120,
            };
            tokio::time::sleep(Duration::from_millis(self.rng.u64(pause))).await;
        }
    }

    /// Publishes these stamps, and retries until all are acknowledged or `bound` is over.
    pub async fn deliver(mut self, stamps: Vec<Stamp>, bound: Duration) {
        let end = Instant::now() + bound;
        self.pending = stamps;
        while !self.publish().await && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Publishes a marker on each channel, as its last event.
    pub async fn mark_the_end(stage: Rc<Stage>) {
        let mark = |channel| Stamp { channel, publisher: MARKER, seq: 0 };
        let marks = (0..CHANNELS.len() as u16).chain(CROWD).map(mark).collect();
        let publisher = Publisher::new(stage, MARKER, Way::Direct, Beat::Town);
        publisher.deliver(marks, Duration::from_secs(3_600)).await;
    }

    fn invent(&mut self) {
        if self.pending.len() > 40 {
            return;
        }
        for _ in 0..self.rng.usize(1..8) {
            self.seq += 1;
            let (publisher, seq) = (self.number, self.seq);
            let stamp = |channel| Stamp { channel, publisher, seq };
            match self.beat {
                Beat::Groups => {
                    self.pending.push(Stamp::of_group(self.rng.usize(0..8), publisher, seq));
                }
                Beat::Crowd => self.pending.push(stamp(self.rng.u16(CROWD))),
                Beat::Town => match self.rng.u16(0..3_000) {
                    0 => self.pending.push(stamp(QUIET)),
                    1..250 => self.pending.push(stamp(BULK)),
                    // Two publications in a row whose channel and key, joined by a colon, are the
                    // same text.
                    250..400 => self.pending.extend([stamp(USER), stamp(USER_42)]),
                    n @ 400..700 => self.pending.push(stamp(USER + 1 + n % 4)),
                    n => self.pending.push(stamp(BUSY.start + n % BUSY.len() as u16)),
                },
            }
        }
    }

    /// Sends what is pending. Returns whether nothing has to be sent again.
    async fn publish(&mut self) -> bool {
        let sent_ms = now_ms();
        for stamp in &self.pending {
            self.stage.ledger.borrow_mut().sending(*stamp);
        }
        let (stage, rng) = (self.stage.clone(), &mut self.rng);
        let answers = match self.way {
            Way::Http => by_http::publish(&stage, rng, &self.pending).await,
            Way::Direct => self.direct.publish(&stage, rng.bool(), &self.pending).await,
        };
        let pending = std::mem::take(&mut self.pending);
        self.pending =
            pending.into_iter().filter(|s| self.is_left(*s, &answers, sent_ms)).collect();
        self.stage.tally.borrow_mut().unanswered += self.pending.len() as u64;
        self.pending.is_empty()
    }

    /// Notes the outcome of one publication. Returns whether it has to be sent again.
    fn is_left(&self, stamp: Stamp, answers: &Answers, sent_ms: u64) -> bool {
        let mut ledger = self.stage.ledger.borrow_mut();
        let (mut unknown, mut nothing) = (false, false);
        for channel in stamp.channels() {
            match answers.of(stamp, *channel) {
                Answer::Event(id) => ledger.acknowledged(stamp, *channel, id),
                Answer::Nothing => nothing = true,
                Answer::Unknown => unknown = true,
                Answer::Never => {}
            }
        }
        if unknown {
            ledger.doubted(stamp, sent_ms);
        }
        let again = stamp.key().is_some() || (nothing && !unknown && stamp.channels().len() == 1);
        (unknown || nothing) && again
    }
}

/// The outcomes of a batch. Publications that are not in it have an unknown outcome.
#[derive(Debug, Default)]
pub struct Answers(std::collections::HashMap<(Stamp, u16), Answer>);

impl Answers {
    /// Nothing of these publications was written.
    pub fn nothing(stamps: &[Stamp]) -> Answers {
        let mut answers = Answers::default();
        for stamp in stamps {
            for channel in stamp.channels() {
                answers.note(*stamp, *channel, Answer::Nothing);
            }
        }
        answers
    }

    /// Adds one outcome.
    pub fn note(&mut self, stamp: Stamp, channel: u16, answer: Answer) {
        self.0.insert((stamp, channel), answer);
    }

    fn of(&self, stamp: Stamp, channel: u16) -> Answer {
        self.0.get(&(stamp, channel)).copied().unwrap_or(Answer::Unknown)
    }
}

/// Notes a refused publication as a violation, unless a fault explains it.
pub fn refused(stage: &Stage, text: &str, sent_ms: u64) {
    let mut tally = stage.tally.borrow_mut();
    if !tally.touched(sent_ms.saturating_sub(1_000), now_ms(), |fault| fault.refuses()) {
        tally.wrong(Wrong::Terminal, format!("a publication was refused: {text}"));
    }
}

/// Sends one request on a new connection, and returns the response's head and body.
pub async fn exchange(addr: SocketAddr, request: &[u8]) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let body = Framing::of(&head).decode(&answer[end + 4..]);
    let body = body.map_err(|_| std::io::ErrorKind::InvalidData)?;
    Ok((head, String::from_utf8_lossy(&body).into_owned()))
}
