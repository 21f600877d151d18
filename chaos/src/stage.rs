//! What publishers, subscribers and faults share: the ledger, the tally, the addresses, the prompter.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;

use tokio::sync::watch;

use crate::ledger::{Ledger, now_ms};
use crate::session::Session;
use crate::tally::Tally;

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

/// Shared by everything in the run, which is one thread.
#[derive(Debug)]
pub struct Stage {
    /// The run's seed.
    pub seed: u64,
    /// What was published.
    pub ledger: RefCell<Ledger>,
    /// What it adds up to.
    pub tally: RefCell<Tally>,
    /// Where the gateways listen, whether they are up or not.
    pub gateways: Vec<SocketAddr>,
    /// Where Redis is, for publishers who need no gateway.
    pub redis: SocketAddr,
    /// For the subscribers.
    pub cue: watch::Sender<Cue>,
    /// Publishers begin nothing new.
    pub last_call: Cell<bool>,
    /// The time of each subscriber's position.
    pub reached: RefCell<Vec<u64>>,
    /// Sessions that are over.
    pub sessions: RefCell<Vec<Session>>,
    began_ms: u64,
}

impl Stage {
    /// An empty one.
    pub fn new(seed: u64, gateways: Vec<SocketAddr>, redis: SocketAddr) -> Self {
        Stage {
            seed,
            ledger: RefCell::new(Ledger::new(seed)),
            tally: RefCell::default(),
            gateways,
            redis,
            cue: watch::Sender::new(Cue::default()),
            last_call: Cell::new(false),
            reached: RefCell::default(),
            sessions: RefCell::default(),
            began_ms: now_ms(),
        }
    }

    /// A line of the run's log, with the time since it began.
    pub fn say(&self, text: &str) {
        let at = now_ms() - self.began_ms;
        eprintln!("{:4}.{:03} {} {text}", at / 1000, at % 1000, now_ms());
    }
}
