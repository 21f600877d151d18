//! Subscribers: EventSources with habits. They read, dawdle, leave and come back; what they saw is
//! judged by their session.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::ledger::now_ms;
use crate::payload::CHANNELS;
use crate::session::{From, Session};
use crate::stage::{Cue, Stage};
use crate::stream::{Body, Parser};
use crate::tally::Wrong;

/// A stream without a byte for so long is given up, as a browser behind a dead router would. Heartbeats
/// come every second, and a gateway is paused for eight at most.
const SILENCE: Duration = Duration::from_secs(10);

/// How a subscriber behaves while things break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Reads everything at once and stays.
    Steady,
    /// Leaves at random and comes back with its cursor, to any gateway; sometimes after a long time.
    Hopping,
    /// Reads less than comes.
    Slow,
    /// Stops reading for seconds.
    Stalling,
    /// Forgets everything every few seconds and begins anew.
    Fresh,
}

/// One subscriber.
#[derive(Debug)]
pub struct Subscriber {
    stage: Rc<Stage>,
    cue: watch::Receiver<Cue>,
    number: usize,
    habit: Habit,
    rng: fastrand::Rng,
    session: Session,
    lives: u32,
}

/// Why reading a stream ended.
#[derive(Debug)]
enum Left {
    Ended,
    Silent,
    Hopped,
    Finished,
    Reborn,
}

impl Subscriber {
    /// Subscriber `number`.
    pub fn new(stage: Rc<Stage>, number: usize, habit: Habit) -> Self {
        let mut rng = fastrand::Rng::with_seed(stage.seed ^ (0x5ab5 << 16) ^ number as u64);
        let session = Self::born(number, habit, 0, &mut rng);
        Subscriber { cue: stage.cue.subscribe(), stage, number, habit, rng, session, lives: 0 }
    }

    fn born(number: usize, habit: Habit, life: u32, rng: &mut fastrand::Rng) -> Session {
        let mut channels: Vec<u16> = (0..CHANNELS.len() as u16).collect();
        rng.shuffle(&mut channels);
        let some = match rng.u8(0..4) {
            0 => 1,
            1 => CHANNELS.len(),
            _ => rng.usize(2..5),
        };
        channels.truncate(some);
        // Without a busy channel nothing would be learnt about repair.
        if !channels.iter().any(|n| (1..7).contains(n)) {
            channels.push(rng.u16(1..7));
        }
        let from = if rng.bool() { From::Now } else { From::Oldest };
        let name = format!("{habit:?} {number}.{life}");
        let mut session = Session::new(name, channels, from);
        session.prompt = matches!(habit, Habit::Steady | Habit::Hopping);
        session
    }

    /// Subscribes until the markers have come or the run is over.
    pub async fn run(mut self) {
        let mut first = true;
        loop {
            let cue = *self.cue.borrow_and_update();
            if cue.over || self.session.complete() {
                break;
            }
            let addr = self.stage.gateways[self.rng.usize(..self.stage.gateways.len())];
            let connected = timeout(Duration::from_secs(3), self.open(addr)).await;
            let mut pause = self.rng.u64(20..200);
            if let Ok(Ok(stream)) = connected {
                self.stage.tally.borrow_mut().reconnects += u64::from(!first);
                first = false;
                self.session.note(format!("connected to {addr}"));
                let left = self.read(stream, cue.aborts).await;
                self.session.note(format!("{left:?}"));
                match left {
                    Left::Hopped if self.rng.u8(0..25) == 0 => pause = self.rng.u64(9_000..20_000),
                    Left::Reborn => {
                        self.lives += 1;
                        let rng = &mut self.rng;
                        let next = Self::born(self.number, self.habit, self.lives, rng);
                        let old = std::mem::replace(&mut self.session, next);
                        self.stage.sessions.borrow_mut().push(old);
                        first = true;
                    }
                    _ => {}
                }
            }
            // Calm ends a long absence, but is no reason to try without a pause.
            if self.cue.borrow().calm {
                sleep(Duration::from_millis(pause.min(200))).await;
            } else {
                let calm = self.cue.wait_for(|cue| cue.calm || cue.over);
                let _ = timeout(Duration::from_millis(pause), calm).await;
            }
        }
        self.session.last = true;
        self.stage.sessions.borrow_mut().push(self.session);
    }

    async fn open(&mut self, addr: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if matches!(self.habit, Habit::Slow | Habit::Stalling) {
            socket.set_recv_buffer_size(8 * 1024)?;
        }
        let mut stream = socket.connect(addr).await?;
        let mut query: Vec<String> = Vec::new();
        for n in &self.session.channels {
            query.push(format!("channel={}", CHANNELS[usize::from(*n)].replace('=', "%3D")));
        }
        if self.session.from == From::Oldest {
            query.push("last_event_id=0".to_owned());
        }
        let cursor = self.session.cursor.as_ref();
        let cursor = cursor.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let query = query.join("&");
        let head = format!("GET /events?{query} HTTP/1.1\r\nHost: chaos\r\n");
        let accept = "Accept: text/event-stream\r\n\r\n";
        stream.write_all(format!("{head}{cursor}{accept}").as_bytes()).await?;
        Ok(stream)
    }

    async fn read(&mut self, mut stream: TcpStream, aborts: u32) -> Left {
        let mut parser = Parser::default();
        let mut body: Option<Body> = None;
        let mut head = Vec::new();
        let leave = match self.habit {
            Habit::Hopping => self.rng.u64(100..4_000),
            Habit::Fresh => self.rng.u64(1_000..7_000),
            _ => 3_600_000,
        };
        let leave = Instant::now() + Duration::from_millis(leave);
        let mut dawdle = Instant::now() + Duration::from_millis(self.rng.u64(500..4_000));
        let mut silence = Instant::now() + SILENCE;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let cue = *self.cue.borrow_and_update();
            if cue.over || self.session.complete() {
                return Left::Finished;
            }
            if cue.aborts != aborts {
                return Left::Hopped;
            }
            let mut size = buffer.len();
            if !cue.calm {
                let now = now_ms();
                let mut hold = cue.stalled_until_ms.saturating_sub(now);
                if self.habit == Habit::Slow {
                    (size, hold) = (self.rng.usize(1..4_000), hold.max(self.rng.u64(20..80)));
                }
                if self.habit == Habit::Stalling && dawdle < Instant::now() {
                    hold = hold.max(self.rng.u64(500..7_000));
                    dawdle =
                        Instant::now() + Duration::from_millis(hold + self.rng.u64(500..5_000));
                }
                if hold > 0 {
                    // Calm ends a stall, so that the run's end does not wait for it.
                    let calm = self.cue.wait_for(|cue| cue.calm || cue.over);
                    let _ = timeout(Duration::from_millis(hold), calm).await;
                    silence = silence.max(Instant::now() + Duration::from_secs(1));
                }
            }
            let n = tokio::select! {
                read = stream.read(&mut buffer[..size]) => match read {
                    Ok(n) if n > 0 => n,
                    _ => return Left::Ended,
                },
                () = sleep_until(leave), if !cue.calm => {
                    return if self.habit == Habit::Fresh { Left::Reborn } else { Left::Hopped };
                }
                () = sleep_until(silence) => return Left::Silent,
                _ = self.cue.changed() => continue,
            };
            silence = Instant::now() + SILENCE;
            let mut bytes = &buffer[..n];
            if body.is_none() {
                head.extend_from_slice(bytes);
                let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
                let text = String::from_utf8_lossy(&head[..end]).into_owned();
                self.judge(&text);
                body = Some(Body::of(&text));
                bytes = &head[end + 4..];
            }
            let Some(body) = &mut body else { continue };
            for block in parser.feed(&body.decode(bytes)) {
                let mut ledger = self.stage.ledger.borrow_mut();
                self.session.take(&block, &mut ledger, &mut self.stage.tally.borrow_mut());
            }
            self.stage.reached.borrow_mut()[self.number] = self.session.reached_ms();
        }
    }

    /// Any status but 200 would end a native EventSource for good, whatever the trouble.
    fn judge(&mut self, head: &str) {
        if head.split(' ').nth(1) != Some("200") {
            let line = head.lines().next().unwrap_or_default().to_owned();
            self.session.wrong(Wrong::Terminal, line, &mut self.stage.tally.borrow_mut());
        }
    }
}
