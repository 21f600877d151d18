//! What publishers, subscribers and faults share: the ledger, the tally, the addresses, the prompter.

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

/// What subscribers are told to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cue {
    /// Whoever is connected drops the connection when this rises.
    pub aborts: u32,
    /// Nobody reads before this time.
    pub stalled_until_ms: u64,
    /// Everybody reads as fast as they can and stays connected.
    pub calm: bool,
    /// The run is over; whoever is not done never will be.
    pub over: bool,
}

/// The addresses of a run.
#[derive(Debug, Clone)]
pub struct Places {
    /// Where the gateways listen, whether they are up or not.
    pub gateways: Vec<SocketAddr>,
    /// An nginx in front of them, if there is one.
    pub nginx: Option<SocketAddr>,
    /// Redis, for publishers who need no gateway.
    pub redis: Option<SocketAddr>,
    /// The master itself, past all wires.
    pub master: Option<SocketAddr>,
}

/// Shared by everything in the run, which is one thread.
#[derive(Debug)]
pub struct Stage {
    /// The run's seed.
    pub seed: u64,
    /// What was drawn.
    pub settings: Settings,
    /// Addresses, but for the master's.
    pub places: Places,
    /// The master itself, past all wires.
    pub master: Cell<Option<SocketAddr>>,
    /// What was published.
    pub ledger: RefCell<Ledger>,
    /// What Redis kept.
    pub census: RefCell<Census>,
    /// What it adds up to.
    pub tally: RefCell<Tally>,
    /// For the subscribers.
    pub cue: watch::Sender<Cue>,
    /// Publishers begin nothing new.
    pub last_call: Cell<bool>,
    /// Each lasting subscriber's position.
    pub reached: RefCell<Vec<EventId>>,
    /// Publishers hold back, because everybody is to come up to date. Whoever reads history must be quicker than those who
    /// publish, and on a busy machine with small pages it is not.
    pub gentle: Cell<bool>,
    /// The subscribers that were not up to date in time, and at what.
    pub stuck: RefCell<(Vec<usize>, String)>,
    /// Sessions that are over.
    pub sessions: RefCell<Vec<Session>>,
    /// Held while gateways are needed that remember what Redis was, and while all of them are killed.
    pub memory: Mutex<()>,
    once: Cell<u16>,
    began_ms: u64,
}

impl Stage {
    /// An empty one.
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

    /// A channel that nobody has used.
    pub fn fresh_channel(&self) -> u16 {
        let channel = self.once.get();
        self.once.set(if channel + 1 < ONCE.end { channel + 1 } else { ONCE.start });
        channel
    }

    /// Notes a violation.
    pub fn wrong(&self, what: Wrong, text: String) {
        self.tally.borrow_mut().wrong(what, text);
    }

    /// A line of the run's log, with the time since it began.
    pub fn say(&self, text: &str) {
        let at = now_ms() - self.began_ms;
        eprintln!("{:4}.{:03} {} {text}", at / 1000, at % 1000, now_ms());
    }
}
