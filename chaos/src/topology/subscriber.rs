//! Subscribers: native EventSources that come back to any gateway with the last id.

use std::rc::Rc;
use std::time::Duration;

use sse_lab::chunked::Framing;
use sse_lab::event_stream::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::ledger::now_ms;
use crate::payload::{MARKER, channel_in_url, channel_name};
use crate::tally::Wrong;
use crate::topology::history::{Seen, What};
use crate::topology::stage::{Cue, Stage};

/// A stream without a byte for this long is given up. Heartbeats come every second.
const SILENCE: Duration = Duration::from_secs(15);

/// How a subscriber behaves while things are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Reads at once and stays.
    Steady,
    /// Leaves at random times and comes back with its cursor.
    Hopping,
    /// Reads little at a time, and stops for a while.
    Slow,
    /// Begins a new session every few seconds.
    Fresh,
}

/// The habits, in turn.
pub const HABITS: [Habit; 8] = {
    use Habit::{Fresh, Hopping, Slow, Steady};
    [Steady, Hopping, Steady, Slow, Steady, Hopping, Fresh, Steady]
};

/// How far the answer to one request was read.
#[derive(Debug, Default)]
struct Answer {
    head: Vec<u8>,
    /// None before the head has ended.
    body: Option<Framing>,
    parser: Parser,
}

/// One subscriber.
#[derive(Debug)]
pub struct Subscriber {
    stage: Rc<Stage>,
    cue: watch::Receiver<Cue>,
    number: usize,
    habit: Habit,
    rng: fastrand::Rng,
    seen: Seen,
    cursor: Option<String>,
    lives: u32,
    markers: usize,
}

impl Subscriber {
    /// Subscriber `number`.
    pub fn new(stage: Rc<Stage>, number: usize) -> Self {
        let rng = fastrand::Rng::with_seed(stage.seed ^ (0x5ab5 << 16) ^ number as u64);
        let habit = HABITS[number % HABITS.len()];
        let nobody = Seen::new(String::new(), Vec::new(), false);
        let (cue, cursor) = (stage.cue.subscribe(), None);
        let mut subscriber = Subscriber {
            stage,
            cue,
            number,
            habit,
            rng,
            seen: nobody,
            cursor,
            lives: 0,
            markers: 0,
        };
        subscriber.seen = subscriber.born();
        subscriber
    }

    /// A session with one to five channels: sometimes of one partition, mostly of several.
    fn born(&mut self) -> Seen {
        let stage = &self.stage;
        let mut channels = stage.channels.clone();
        self.rng.shuffle(&mut channels);
        if self.rng.u8(..3) == 0 {
            let partition = self.rng.u16(..stage.keys.partitions());
            channels.retain(|n| stage.keys.partition(&channel_name(*n)) == partition);
        }
        channels.truncate(self.rng.usize(1..6));
        let name = format!("{:?} {}.{}", self.habit, self.number, self.lives);
        Seen::new(name, channels, self.habit == Habit::Steady)
    }

    /// Subscribes until every channel's marker has come, or the run is over.
    pub async fn run(mut self) {
        loop {
            let cue = *self.cue.borrow_and_update();
            if cue.over || self.markers == self.seen.channels.len() {
                break;
            }
            if let Some(stream) = self.connect().await {
                let reborn = self.read(stream).await;
                if reborn {
                    self.lives += 1;
                    let next = self.born();
                    self.stage.ended(std::mem::replace(&mut self.seen, next));
                    (self.cursor, self.markers) = (None, 0);
                }
            }
            let mut pause = self.rng.u64(20..300);
            if self.habit == Habit::Hopping && self.rng.u8(..10) == 0 {
                pause = self.rng.u64(1_000..6_000);
            }
            if self.cue.borrow().calm {
                sleep(Duration::from_millis(pause.min(200))).await;
            } else {
                let calm = self.cue.wait_for(|cue| cue.calm || cue.over);
                let _ = timeout(Duration::from_millis(pause), calm).await;
            }
        }
        let complete = self.markers == self.seen.channels.len();
        if !complete {
            let text = format!(
                "{}: {} of {} channels have no last event; cursor {:?}, last blocks {:?}",
                self.seen.name,
                self.seen.channels.len() - self.markers,
                self.seen.channels.len(),
                self.cursor,
                &self.seen.told[self.seen.told.len().saturating_sub(4)..],
            );
            self.stage.wrong(Wrong::Stuck, text);
        }
        self.stage.complete.set(self.stage.complete.get() + usize::from(complete));
        self.seen.last = true;
        self.stage.ended(self.seen);
    }

    async fn connect(&mut self) -> Option<TcpStream> {
        let gateways = &self.stage.gateways;
        let addr = gateways[self.rng.usize(..gateways.len())];
        let calm = self.cue.borrow().calm;
        let open = async {
            let socket = TcpSocket::new_v4()?;
            if self.habit == Habit::Slow && !calm {
                socket.set_recv_buffer_size(8 * 1024)?;
            }
            let mut stream = socket.connect(addr).await?;
            let query: Vec<String> = self
                .seen
                .channels
                .iter()
                .map(|channel| format!("channel={}", channel_in_url(*channel)))
                .collect();
            let cursor = self.cursor.as_ref();
            let cursor = cursor.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
            let query = query.join("&");
            let request = format!(
                "GET /events?{query} HTTP/1.1\r\nHost: chaos\r\n{cursor}Accept: text/event-stream\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await?;
            Ok::<_, std::io::Error>(stream)
        };
        let at_ms = now_ms();
        let stream = timeout(Duration::from_secs(3), open).await.ok()?.ok()?;
        self.stage.reconnects.set(self.stage.reconnects.get() + 1);
        self.seen.opening(self.cursor.as_deref(), &self.stage.keys, at_ms);
        Some(stream)
    }

    /// Reads until the stream ends or the subscriber leaves. Returns whether it begins a new
    /// session.
    async fn read(&mut self, mut stream: TcpStream) -> bool {
        let cuts = self.cue.borrow().cuts;
        let after = |ms| Instant::now() + Duration::from_millis(ms);
        let leave = match self.habit {
            Habit::Hopping => after(self.rng.u64(200..5_000)),
            Habit::Fresh => after(self.rng.u64(1_500..8_000)),
            _ => after(3_600_000),
        };
        let slow = self.habit == Habit::Slow && !self.cue.borrow().calm;
        let mut answer = Answer::default();
        let mut buffer = vec![0; 16 * 1024];
        let mut silence = Instant::now() + SILENCE;
        loop {
            let cue = *self.cue.borrow_and_update();
            if cue.over || cue.cuts != cuts || self.markers == self.seen.channels.len() {
                return false;
            }
            // The size of a receive buffer is fixed, so another one needs another connection.
            if slow && cue.calm {
                return false;
            }
            let size = if slow { self.dawdle().await } else { buffer.len() };
            let n = tokio::select! {
                read = stream.read(&mut buffer[..size]) => match read {
                    Ok(n) if n > 0 => n,
                    _ => return false,
                },
                () = sleep_until(leave), if !cue.calm => return self.habit == Habit::Fresh,
                () = sleep_until(silence) => return false,
                _ = self.cue.changed() => continue,
            };
            silence = Instant::now() + SILENCE;
            if !self.digest(&mut answer, &buffer[..n]) {
                return false;
            }
        }
    }

    /// Parses what came. Returns whether more can be read.
    fn digest(&mut self, answer: &mut Answer, mut bytes: &[u8]) -> bool {
        if answer.body.is_none() {
            let before = answer.head.len();
            answer.head.extend_from_slice(bytes);
            let end = answer.head.windows(4).position(|w| w == b"\r\n\r\n");
            let Some(end) = end else { return true };
            let text = String::from_utf8_lossy(&answer.head[..end]).into_owned();
            if text.split(' ').nth(1) != Some("200") {
                let line = text.lines().next().unwrap_or_default();
                self.stage.wrong(Wrong::Terminal, format!("{}: {line}", self.seen.name));
                return false;
            }
            self.seen.head(now_ms());
            answer.body = Some(Framing::of(&text));
            bytes = &bytes[end + 4 - before..];
        }
        let Some(framing) = &mut answer.body else { return true };
        let Ok(content) = framing.decode(bytes) else {
            self.stage.wrong(Wrong::Forged, format!("{}: a bad chunk", self.seen.name));
            return false;
        };
        for block in answer.parser.feed(&content) {
            self.seen.take(&block, self.stage.seed, &self.stage.keys, now_ms());
            if !block.id.is_empty() {
                self.cursor = Some(block.id);
            }
            let what = self.seen.told.last().map(|told| &told.what);
            let is_last = matches!(what, Some(What::Event(stamp)) if stamp.publisher == MARKER);
            self.markers += usize::from(is_last);
        }
        true
    }

    async fn dawdle(&mut self) -> usize {
        let long = self.rng.u8(..100) == 0;
        let ms = if long { self.rng.u64(500..3_000) } else { self.rng.u64(10..80) };
        sleep(Duration::from_millis(ms)).await;
        self.rng.usize(1..4_000)
    }
}
