//! State that publishers, subscribers and faults share: ledger, tally, addresses and cues.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;

use sse_contract::EventId;
use tokio::sync::{Mutex, watch};

use crate::census::Census;
use crate::ledger::{Ledger, now_ms};
use crate::payload::ONCE;
use crate::session::Session;
use crate::settings::Settings;
use crate::tally::{Tally, Wrong};

/// Instructions to all subscribers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cue {
    /// When this rises, every subscriber drops its connection.
    pub aborts: u32,
    /// Nobody reads before this time.
    pub stalled_until_ms: u64,
    /// Everybody reads as fast as possible and stays connected.
    pub calm: bool,
    /// The run is over, whether subscribers are done or not.
    pub over: bool,
}

/// The addresses of a run.
#[derive(Debug, Clone)]
pub struct Places {
    /// The gateways, whether they are up or not.
    pub gateways: Vec<SocketAddr>,
    /// nginx in front of the gateways, if it runs.
    pub nginx: Option<SocketAddr>,
    /// Redis, for publishers without a gateway.
    pub redis: Option<SocketAddr>,
    /// The first master, past all wires.
    pub master: Option<SocketAddr>,
}

/// The shared state of a run, which has one thread.
#[derive(Debug)]
pub struct Stage {
    /// The run's seed.
    pub seed: u64,
    /// The settings of the run.
    pub settings: Settings,
    /// The addresses. [`Stage::master`] has the current master's.
    pub places: Places,
    /// The current master, past all wires.
    pub master: Cell<Option<SocketAddr>>,
    /// What was published.
    pub ledger: RefCell<Ledger>,
    /// What the broker kept.
    pub census: RefCell<Census>,
    /// Counts and violations.
    pub tally: RefCell<Tally>,
    /// Instructions to the subscribers.
    pub cue: watch::Sender<Cue>,
    /// Publishers begin nothing new.
    pub last_call: Cell<bool>,
    /// The positions of the permanent subscribers.
    pub reached: RefCell<Vec<EventId>>,
    /// Publishers slow down, so that all subscribers can come up to date. Otherwise, on a busy
    /// machine with small pages, reading history can be slower than publishing.
    pub gentle: Cell<bool>,
    /// The subscribers that were not up to date in time, and the message about them.
    pub stuck: RefCell<(Vec<usize>, String)>,
    /// The sessions that have ended.
    pub sessions: RefCell<Vec<Session>>,
    /// Held while a fault needs gateways that remember earlier states of Redis, and while all
    /// gateways are killed.
    pub memory: Mutex<()>,
    once: Cell<u16>,
    began_ms: u64,
}

impl Stage {
    /// The state at the beginning of a run.
    pub fn new(seed: u64, settings: Settings, places: Places) -> Self {
        let tally = Tally::of(settings.memory());
        Stage {
            seed,
            settings,
            master: Cell::new(places.master),
            places,
            ledger: RefCell::new(Ledger::new(seed)),
            census: RefCell::default(),
            tally: RefCell::new(tally),
            cue: watch::Sender::new(Cue::default()),
            last_call: Cell::new(false),
            reached: RefCell::default(),
            gentle: Cell::new(false),
            stuck: RefCell::default(),
            sessions: RefCell::default(),
            memory: Mutex::default(),
            once: Cell::new(ONCE.start),
            began_ms: now_ms(),
        }
    }

    /// A channel that was not used before.
    pub fn fresh_channel(&self) -> u16 {
        let channel = self.once.get();
        self.once.set(if channel + 1 < ONCE.end { channel + 1 } else { ONCE.start });
        channel
    }

    /// Notes a violation.
    pub fn wrong(&self, what: Wrong, text: String) {
        self.tally.borrow_mut().wrong(what, text);
    }

    /// Prints a line of the run's log, with the time since the beginning.
    pub fn say(&self, text: &str) {
        let at = now_ms() - self.began_ms;
        eprintln!("{:4}.{:03} {} {text}", at / 1000, at % 1000, now_ms());
    }
}
