//! Subscribers: EventSource clients with different habits. They read, dawdle, leave and come back;
//! their sessions judge what they saw.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::payload::{BUSY, CHANNELS, CROWD, ONCE, Stamp, channel_in_url};
use crate::publisher::{Beat, Publisher, Way};
use crate::reading::{Left, Reading};
use crate::session::{From, Quirks, Session};
use crate::stage::{Cue, Stage};

/// How long the publisher of a client that publishes on `open` tries.
const OPENER_BOUND: Duration = Duration::from_secs(20);

/// How a subscriber behaves during the storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Reads everything at once and stays.
    Steady,
    /// Leaves at random times and reconnects with its cursor to any gateway, sometimes after a long
    /// time.
    Hopping,
    /// Reads more slowly than events come.
    Slow,
    /// Stops reading for seconds.
    Stalling,
    /// Begins a new session every few seconds.
    Fresh,
    /// Subscribes to dozens of channels that come and go. Reconnects about when the gateway gives
    /// them up.
    Crowd,
    /// Opens an unused channel, and publishes there as soon as the response's head has come.
    Opener,
}

/// One subscriber.
#[derive(Debug)]
pub struct Subscriber {
    pub(crate) stage: Rc<Stage>,
    pub(crate) cue: watch::Receiver<Cue>,
    pub(crate) number: usize,
    pub(crate) habit: Habit,
    pub(crate) rng: fastrand::Rng,
    pub(crate) session: Session,
    lives: u32,
}

impl Subscriber {
    /// Subscriber `number`.
    pub fn new(stage: Rc<Stage>, number: usize, habit: Habit) -> Self {
        let rng = fastrand::Rng::with_seed(stage.seed ^ (0x5ab5 << 16) ^ number as u64);
        let nobody = Session::new(String::new(), Vec::new(), From::Now, Quirks::default());
        let cue = stage.cue.subscribe();
        let mut subscriber =
            Subscriber { cue, stage, number, habit, rng, session: nobody, lives: 0 };
        subscriber.session = subscriber.born();
        subscriber
    }

    fn born(&mut self) -> Session {
        let rng = &mut self.rng;
        let channels = match self.habit {
            Habit::Opener => vec![self.stage.fresh_channel()],
            Habit::Crowd => {
                let mut all: Vec<u16> = CROWD.collect();
                rng.shuffle(&mut all);
                all.truncate(rng.usize(20..90));
                all
            }
            _ => some_channels(rng),
        };
        let from = match (self.habit, rng.u8(0..10)) {
            (Habit::Opener, _) => From::Now,
            (Habit::Fresh, 0) => From::Garbage,
            (_, 0..5) => From::Now,
            _ => From::Oldest,
        };
        let nginx = self.stage.places.nginx.is_some() && rng.u8(0..8) == 0;
        let quirks = Quirks {
            no_checkpoints: rng.u8(0..8) == 0 && self.habit != Habit::Opener,
            eager: rng.u8(0..4) == 0,
            http10: rng.u8(0..8) == 0,
            nginx,
        };
        let name = format!("{:?} {}.{}", self.habit, self.number, self.lives);
        let mut session = Session::new(name, channels, from, quirks);
        session.number = self.number;
        session.prompt = matches!(self.habit, Habit::Steady | Habit::Hopping);
        session
    }

    /// Whether the subscriber lasts for the whole run, which then waits until it is up to date.
    pub fn lasts(&self) -> bool {
        self.habit != Habit::Opener
    }

    /// Whether it currently reads more slowly than events come.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self.habit, Habit::Slow | Habit::Stalling) && !self.cue.borrow().calm
    }

    /// Subscribes until the markers have come or the run is over.
    pub async fn run(mut self) {
        loop {
            let cue = *self.cue.borrow_and_update();
            let bored =
                !self.lasts() && self.stage.last_call.get() && self.session.opener.is_none();
            if cue.over || bored || self.session.complete() {
                break;
            }
            let mut pause = self.rng.u64(20..200);
            if let Some(stream) = self.connect().await {
                let left = self.read(stream, cue.aborts).await;
                self.session.note(format!("{left:?}"));
                pause = self.pause_after(left, pause);
            }
            // Calm ends a long absence, but does not allow reconnects without a pause.
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

    fn pause_after(&mut self, left: Left, pause: u64) -> u64 {
        match (left, self.habit) {
            (Left::Refused, _) => 300 + pause,
            (Left::Reborn, _) => {
                self.lives += 1;
                let next = self.born();
                let old = std::mem::replace(&mut self.session, next);
                self.stage.sessions.borrow_mut().push(old);
                if self.lasts() { pause } else { 200 + pause }
            }
            (Left::Hopped, Habit::Crowd) => {
                let linger = self.stage.settings.linger.as_millis() as u64;
                linger * self.rng.u64(3..17) / 10 + self.rng.u64(0..40)
            }
            (Left::Hopped, _) if self.rng.u8(0..25) == 0 => self.rng.u64(9_000..20_000),
            _ => pause,
        }
    }

    async fn connect(&mut self) -> Option<TcpStream> {
        let places = &self.stage.places;
        let addr = match places.nginx {
            Some(nginx) if self.session.quirks.nginx => nginx,
            _ => places.gateways[self.rng.usize(..places.gateways.len())],
        };
        let again = !self.session.opens.is_empty();
        let connected = timeout(Duration::from_secs(3), self.open(addr)).await;
        let Ok(Ok(stream)) = connected else { return None };
        self.session.note(format!("connected to {addr}"));
        let mut tally = self.stage.tally.borrow_mut();
        tally.reconnects += u64::from(again);
        if !again {
            self.session.count(self.habit, &mut tally);
        }
        Some(stream)
    }

    async fn open(&mut self, addr: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if self.is_slow() {
            socket.set_recv_buffer_size(8 * 1024)?;
        }
        let mut stream = socket.connect(addr).await?;
        let mut query: Vec<String> = Vec::new();
        for n in &self.session.channels {
            query.push(format!("channel={}", channel_in_url(*n)));
        }
        let quirks = self.session.quirks;
        if self.session.from == From::Oldest {
            query.push("last_event_id=0".to_owned());
        }
        if quirks.no_checkpoints {
            query.push("checkpoints=off".to_owned());
        }
        let cursor = self.session.opening();
        let cursor = cursor.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let query = query.join("&");
        let version = if quirks.http10 { "1.0" } else { "1.1" };
        let head = format!("GET /events?{query} HTTP/{version}\r\nHost: chaos\r\n");
        let accept = "Accept: text/event-stream\r\n\r\n";
        stream.write_all(format!("{head}{cursor}{accept}").as_bytes()).await?;
        Ok(stream)
    }

    /// The response's head was read. An opener now publishes its event.
    pub(crate) fn opened(&mut self) {
        self.session.head();
        if self.habit != Habit::Opener || self.session.opener.is_some() {
            return;
        }
        let channel = self.session.channels[0];
        let stamp = Stamp { channel, publisher: self.number as u16, seq: 1 };
        let way = if self.rng.bool() { Way::Http } else { Way::Direct };
        let number = (u64::from(channel - ONCE.start) % 60_000) as u16;
        let publisher = Publisher::new(self.stage.clone(), number, way, Beat::Town);
        tokio::task::spawn_local(publisher.deliver(vec![stamp], OPENER_BOUND));
        let faults = self.stage.tally.borrow().at_work().map(|fault| fault.name()).collect();
        self.session.opener = Some((stamp, faults));
    }

    pub(crate) fn reading(&mut self, aborts: u32) -> Reading {
        let leave = match self.habit {
            Habit::Hopping => self.rng.u64(100..4_000),
            Habit::Fresh => self.rng.u64(1_000..7_000),
            Habit::Crowd => self.rng.u64(50..3_000),
            _ => 3_600_000,
        };
        Reading::new(aborts, leave, self.rng.u64(500..4_000), self.is_slow())
    }
}

fn some_channels(rng: &mut fastrand::Rng) -> Vec<u16> {
    let mut channels: Vec<u16> = (0..CHANNELS.len() as u16).collect();
    rng.shuffle(&mut channels);
    let some = match rng.u8(0..4) {
        0 => 1,
        1 => CHANNELS.len(),
        _ => rng.usize(2..6),
    };
    channels.truncate(some);
    // Without a busy channel, recovery times could not be measured.
    if !channels.iter().any(|n| BUSY.contains(n)) {
        channels.push(rng.u16(BUSY));
    }
    channels
}
