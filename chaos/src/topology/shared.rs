//! What the faults, the load and the run share: when what was broken, the servers' addresses, and
//! whether the run is over. The faults of servers have a thread of their own, because they wait for
//! processes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ledger::now_ms;
use crate::topology::history::Window;

/// Shared by the threads of a run.
#[derive(Debug)]
pub struct Shared {
    began_ms: u64,
    known: Mutex<Known>,
    stop: AtomicBool,
    /// Gateways and connections are left alone.
    quiet: AtomicBool,
    /// A fault of a gateway or connection is at work.
    busy: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    windows: Vec<Window>,
    kills: Vec<Kill>,
    servers: Vec<SocketAddr>,
}

/// One kill of a master of a cluster.
#[derive(Debug, Clone)]
pub struct Kill {
    /// The partitions that it had.
    pub partitions: Vec<u16>,
    /// When it was killed.
    pub at_ms: u64,
    /// When the others agreed on a new owner of its slots.
    pub promoted_ms: u64,
    /// Whether the cluster refuses everything while slots have no owner.
    pub full_coverage: bool,
}

impl Shared {
    /// Nothing was broken yet.
    pub fn new() -> Self {
        let (stop, quiet, busy) = Default::default();
        Shared { began_ms: now_ms(), known: Mutex::default(), stop, quiet, busy }
    }

    /// Notes that something is broken. Returns the index for [`Shared::amend`].
    pub fn begin(&self, fault: &'static str, partitions: Vec<u16>) -> usize {
        let window = Window {
            fault,
            partitions,
            also_away: Vec::new(),
            began_ms: now_ms(),
            ended_ms: u64::MAX,
            ends_epoch: false,
            splits: false,
        };
        let mut known = self.known();
        known.windows.push(window);
        known.windows.len() - 1
    }

    /// Changes what is known of a fault.
    pub fn amend(&self, place: usize, change: impl FnOnce(&mut Window)) {
        change(&mut self.known().windows[place]);
    }

    /// Notes that what a fault broke is in order again.
    pub fn end(&self, place: usize) {
        self.amend(place, |window| window.ended_ms = now_ms());
    }

    /// Everything that was broken.
    pub fn windows(&self) -> Vec<Window> {
        self.known().windows.clone()
    }

    /// Notes a kill of a cluster's master.
    pub fn killed(&self, kill: Kill) {
        self.known().kills.push(kill);
    }

    /// All kills of a cluster's masters.
    pub fn kills(&self) -> Vec<Kill> {
        self.known().kills.clone()
    }

    /// The addresses where Redis may be asked for a master: those of the cluster's nodes, or of the
    /// Sentinels.
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.known().servers.clone()
    }

    /// Sets the addresses.
    pub fn set_servers(&self, servers: Vec<SocketAddr>) {
        self.known().servers = servers;
    }

    /// Whether gateways and connections are to be left alone, so that what a fault of a server does
    /// to streams can be measured.
    pub fn set_quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::SeqCst);
    }

    /// Whether a fault of a gateway or connection is at work.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst)
    }

    /// A fault of a gateway or connection begins. Returns false if it may not.
    pub fn occupy(&self) -> bool {
        self.busy.store(true, Ordering::SeqCst);
        let may = !self.quiet.load(Ordering::SeqCst);
        self.busy.store(may, Ordering::SeqCst);
        may
    }

    /// A fault of a gateway or connection is over.
    pub fn leave(&self) {
        self.busy.store(false, Ordering::SeqCst);
    }

    /// Ends the faults.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the faults are to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Prints a line of the run's log, with the time since the beginning and the time of day.
    pub fn say(&self, text: &str) {
        let now = now_ms();
        let at = now - self.began_ms;
        eprintln!("{:4}.{:03} {now} {text}", at / 1000, at % 1000);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
