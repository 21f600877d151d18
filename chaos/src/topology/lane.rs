//! The faults of servers: one after the other, on a thread of their own, drawn from the seed.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::topology::shared::Shared;

/// The servers of a run.
pub trait Side: Send {
    /// The gateways' `redis.url`.
    fn url(&self) -> String;
    /// Where to ask for a master.
    fn servers(&self) -> Vec<SocketAddr>;
    /// Causes a fault, and waits until everything is in order again.
    fn fault(&mut self, fault: &'static str, lane: &mut Lane) -> Result<(), String>;
}

/// What a fault works with.
#[derive(Debug)]
pub struct Lane {
    /// Draws everything.
    pub rng: fastrand::Rng,
    /// Takes down what was broken when.
    pub shared: Arc<Shared>,
    /// How long faults happen in all.
    pub storm: Duration,
}

impl Lane {
    /// Waits for some milliseconds. Fails if the run is stopped.
    pub fn wait(&mut self, ms: Range<u64>) -> Result<(), String> {
        let end = Instant::now() + Duration::from_millis(self.rng.u64(ms));
        while Instant::now() < end {
            if self.shared.is_stopped() {
                return Err("interrupted".to_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            std::thread::park_timeout(left.min(Duration::from_millis(50)));
        }
        Ok(())
    }
}

/// The thread. Dropping this ends it, and the servers with it.
pub struct Storm {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Box<dyn Side>, String>>>,
}

impl Storm {
    /// Begins to cause these faults.
    pub fn begin(mut side: Box<dyn Side>, mut lane: Lane, faults: Vec<&'static str>) -> Self {
        let shared = lane.shared.clone();
        let end = Instant::now() + lane.storm;
        let thread = std::thread::spawn(move || {
            // Each fault comes once before one comes again.
            let mut next: Vec<&'static str> = Vec::new();
            while Instant::now() < end && !faults.is_empty() {
                lane.wait(500..2_500)?;
                if next.is_empty() {
                    next.clone_from(&faults);
                    lane.rng.shuffle(&mut next);
                }
                if let Some(fault) = next.pop() {
                    lane.shared.say(fault);
                    side.fault(fault, &mut lane).map_err(|error| format!("{fault}: {error}"))?;
                    lane.shared.set_servers(side.servers());
                    lane.shared.say(&format!("  {fault} is over"));
                }
            }
            Ok(side)
        });
        Storm { shared, thread: Some(thread) }
    }

    /// Whether the faults are over.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// The servers, after the last fault. Waits for it.
    pub fn end(mut self) -> Result<Box<dyn Side>, String> {
        let thread = self.thread.take().ok_or("it has ended before")?;
        thread.join().unwrap_or_else(|_| Err("the faults' thread panicked".to_owned()))
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // An error was reported by whoever drops this.
            let _ = thread.join();
        }
    }
}
