//! What publishers and subscribers share. They have one thread.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;

use sse_contract::Keys;
use tokio::sync::watch;

use crate::payload::{BULK, CROWD, channel_name};
use crate::tally::Wrong;
use crate::topology::history::{History, Seen};
use crate::topology::shared::Shared;

/// Instructions to all subscribers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cue {
    /// When this rises, the connections to gateways of this parity are dropped.
    pub cuts: u32,
    /// Everybody reads as fast as possible and stays connected.
    pub calm: bool,
    /// The run is over.
    pub over: bool,
}

/// The state of a run.
#[derive(Debug)]
pub struct Stage {
    /// The run's seed.
    pub seed: u64,
    /// Tells the partition of a channel.
    pub keys: Keys,
    /// The channels: some of each partition.
    pub channels: Vec<u16>,
    /// The gateways, whether they are up or not.
    pub gateways: Vec<SocketAddr>,
    /// Shared with the thread of the faults.
    pub shared: Arc<Shared>,
    /// Whether the servers' addresses are those of Sentinels.
    pub sentinels: bool,
    /// What happened so far. The sessions are added as they end.
    pub history: RefCell<History>,
    /// Violations that are no matter of the history.
    pub wrongs: RefCell<Vec<(Wrong, String)>>,
    /// Instructions to the subscribers.
    pub cue: watch::Sender<Cue>,
    /// Publishers begin nothing new.
    pub last_call: Cell<bool>,
    /// How many subscribers have everything.
    pub complete: Cell<usize>,
    /// How often a subscriber has come back.
    pub reconnects: Cell<u64>,
}

impl Stage {
    /// The state at the beginning.
    pub fn new(
        seed: u64,
        keys: Keys,
        gateways: Vec<SocketAddr>,
        shared: Arc<Shared>,
        sentinels: bool,
    ) -> Self {
        Stage {
            seed,
            channels: channels(&keys),
            history: RefCell::new(History::new(keys.clone())),
            keys,
            gateways,
            shared,
            sentinels,
            wrongs: RefCell::default(),
            cue: watch::Sender::new(Cue::default()),
            last_call: Cell::new(false),
            complete: Cell::new(0),
            reconnects: Cell::new(0),
        }
    }

    /// Notes a violation.
    pub fn wrong(&self, what: Wrong, text: String) {
        self.wrongs.borrow_mut().push((what, text));
    }

    /// Adds a session that has ended.
    pub fn ended(&self, seen: Seen) {
        self.history.borrow_mut().seen.push(seen);
    }
}

/// The channel with large events, and of each partition two more, or all six if there is only one.
fn channels(keys: &Keys) -> Vec<u16> {
    let each = if keys.partitions() == 1 { 6 } else { 2 };
    let of = |partition| {
        CROWD.filter(move |n| keys.partition(&channel_name(*n)) == partition).take(each)
    };
    [BULK].into_iter().chain((0..keys.partitions()).flat_map(of)).collect()
}
