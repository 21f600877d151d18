//! One worker's subscribers: takes events from the broker's inbox to the connections of this thread.
//!
//! Everything here belongs to one thread; nothing awaits a subscriber, and nothing is allocated for a
//! subscriber that keeps up. Timers are one sweep for all connections.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sse_contract::Channel;
use tokio::sync::watch;

use crate::broker::Broker;
use crate::config::StreamConfig;
use crate::frame::Framing;
use crate::inbox::{Inbox, ToHub};
use crate::join::Start;
use crate::metrics::{Cells, CloseReason};
use crate::poller::Poller;
use crate::sink::{BodyPipe, BodySignal, BodySignals, PipeBody, Sink};
use crate::subscribers::Subscribers;

/// How often heartbeats and deadlines are looked at.
const SWEEP: Duration = Duration::from_millis(500);
/// How often a draining hub ends some streams.
pub(crate) const DRAIN_STEP: Duration = Duration::from_millis(50);
/// The runtime's timer cannot wait for less.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// What a client asked for, checked.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// At least one, none twice.
    pub channels: Arc<[Channel]>,
    /// Where it begins.
    pub start: Start,
    /// Whether the client takes `checkpoint` events.
    pub checkpoints: bool,
}

/// Whether streams are to end, and over how long.
pub type DrainSignal = watch::Receiver<Option<Duration>>;

/// A worker's hub.
#[derive(Debug)]
pub struct Hub {
    state: RefCell<Subscribers>,
    inbox: Arc<Inbox>,
    poller: Poller,
    signals: Rc<BodySignals>,
    coalesce: Duration,
    /// When the last round ended, and how long it took.
    last_round: Cell<(Instant, Duration)>,
}

impl Hub {
    /// A hub on this thread's runtime; [`Hub::run`] must be spawned beside it.
    pub fn new(broker: Broker, config: StreamConfig, cells: Arc<Cells>) -> io::Result<Rc<Self>> {
        let inbox = Inbox::new(config.inbox_bytes);
        let worker = broker.register(inbox.clone());
        let coalesce = config.coalesce;
        Ok(Rc::new(Hub {
            state: RefCell::new(Subscribers::new(broker, worker, config, cells)),
            inbox,
            poller: Poller::new()?,
            signals: Rc::default(),
            coalesce,
            last_round: Cell::new((Instant::now(), Duration::ZERO)),
        }))
    }

    /// A stream on a socket of its own, from the byte after the response head.
    pub fn open_socket(&self, socket: OwnedFd, framing: Framing, subscription: Subscription) {
        let mut state = self.state.borrow_mut();
        let (slot, token) = state.reserve();
        if let Err(error) = self.poller.add(&socket, token) {
            tracing::warn!(%error, "a socket cannot be watched; its stream is closed");
            return;
        }
        state.open(slot, token, Sink::Socket(socket), framing, subscription);
    }

    /// A stream through a response's body.
    pub fn open_body(&self, subscription: Subscription) -> PipeBody {
        let mut state = self.state.borrow_mut();
        let (slot, token) = state.reserve();
        let pipe = BodyPipe::new(self.signals.clone(), token);
        state.open(slot, token, Sink::Body(pipe.clone()), Framing::Plain, subscription);
        PipeBody(pipe)
    }

    /// Serves the hub's connections until it is drained and empty.
    pub async fn run(self: Rc<Self>, mut drain: DrainSignal) {
        let (mut messages, mut more) = (Vec::new(), false);
        let mut ready = Vec::new();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut draining = None;
        loop {
            tokio::select! {
                () = self.turn(more) => {
                    more = self.inbox.take(&mut messages);
                    self.dispatch(&mut messages);
                }
                result = self.poller.wait(&mut ready) => {
                    if let Err(error) = result {
                        tracing::error!(%error, "sockets can no longer be watched");
                        return;
                    }
                    self.state.borrow_mut().ready(&mut ready);
                }
                () = self.signals.wake.notified() => self.body_signals(),
                _ = sweep.tick() => self.state.borrow_mut().sweep(),
                Ok(()) = drain.changed(), if draining.is_none() => {
                    if let Some(spread) = *drain.borrow_and_update() {
                        draining = Some(self.state.borrow().drain_plan(spread));
                        sweep = tokio::time::interval(DRAIN_STEP);
                    }
                }
            }
            if let Some(plan) = draining
                && self.state.borrow_mut().drain(plan)
            {
                return;
            }
        }
    }

    /// What the hub is told.
    pub fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    /// Waits for messages, unless `more` are known to be there. A hub that is idle takes them at once; one whose last
    /// round took long, hence had many to write to, lets more gather first, because several events cost each
    /// subscriber one write.
    async fn turn(&self, more: bool) {
        if more {
            // So that the thread's other work gets a turn between two rounds: sockets that have room again must be
            // seen, or the queues of readers who are quick enough would overflow.
            return tokio::task::yield_now().await;
        }
        self.inbox.filled().await;
        let (ended, took) = self.last_round.get();
        let left = took.min(self.coalesce).saturating_sub(ended.elapsed());
        if left >= SHORTEST_PAUSE {
            tokio::time::sleep(left).await;
        }
    }

    /// One round: what the inbox handed out, its events together where nothing else stands between them.
    fn dispatch(&self, messages: &mut Vec<ToHub>) {
        let began = Instant::now();
        let mut state = self.state.borrow_mut();
        let mut run = Vec::new();
        for message in messages.drain(..) {
            match message {
                ToHub::Event(key, frame) => run.push((key, frame)),
                other => {
                    // Whatever came before it is handed out before it.
                    state.events(&run);
                    run.clear();
                    state.handle(other);
                }
            }
        }
        state.events(&run);
        self.last_round.set((Instant::now(), began.elapsed()));
    }

    fn body_signals(&self) {
        while let Some((token, signal)) = self.signals.pop() {
            let mut state = self.state.borrow_mut();
            let Some(slot) = state.find(token) else { continue };
            match signal {
                BodySignal::Writable => state.flush(slot),
                BodySignal::Gone => state.close(slot, CloseReason::Gone),
            }
        }
    }
}
