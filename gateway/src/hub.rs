//! One worker's subscribers: takes events from the broker's inbox to the connections of this thread.
//!
//! Everything here belongs to one thread; nothing awaits a subscriber, and nothing is allocated for a
//! subscriber that keeps up. Timers are one sweep for all connections.

pub(crate) mod channels;
pub(crate) mod fanout;
pub(crate) mod poller;
pub(crate) mod subscribers;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::broker::Broker;
use crate::config::StreamConfig;
use crate::feed::frame::Framing;
use crate::feed::inbox::{Inbox, ToHub};
use crate::hub::poller::Poller;
use crate::hub::subscribers::Subscribers;
use crate::metrics::Cells;
use crate::panics;
use crate::stream::body_pipe::{BodyPipe, BodySignal, BodySignals, Carrier, PipeReader};
use crate::stream::close_reason::CloseReason;
use crate::stream::sink::{ClientSide, Sink};
use crate::stream::subscription::{Held, Refusal, Subscription};

/// How often heartbeats and deadlines are looked at.
const SWEEP: Duration = Duration::from_millis(500);
/// How often a draining hub ends some streams.
pub(crate) const DRAIN_STEP: Duration = Duration::from_millis(50);
/// The runtime's timer cannot wait for less.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// A stream on its way to its first position. Dropping it gives the stream up.
#[derive(Debug)]
pub struct Opening {
    stream: Opened,
    answered: oneshot::Receiver<Result<(), Refusal>>,
}

/// A stream whose client may be let in, and the way out that it still needs. Dropping it gives the stream up.
#[derive(Debug)]
pub struct Opened {
    hub: Rc<Hub>,
    /// None once it has a way out.
    token: Option<u64>,
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

    /// Opens a stream. Its client is let in when the stream is subscribed and has its position.
    pub fn open(self: &Rc<Self>, framing: Framing, subscription: Subscription) -> Opening {
        let _shared = panics::shared();
        let (answer, answered) = oneshot::channel();
        let token = self.state.borrow_mut().open(framing, subscription, answer);
        Opening { stream: Opened { hub: self.clone(), token: Some(token) }, answered }
    }

    /// Serves the hub's connections until it is drained and empty. An error leaves its streams unserved.
    pub async fn run(self: Rc<Self>, mut drain: DrainSignal) -> io::Result<()> {
        let (mut messages, mut more) = (Vec::new(), false);
        let mut ready = Vec::new();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut draining = None;
        loop {
            tokio::select! {
                () = self.turn(more) => more = self.round(&mut messages),
                result = self.poller.wait(&mut ready) => {
                    result?;
                    self.state.borrow_mut().ready(&mut ready);
                }
                () = self.signals.wake.notified() => self.body_signals(),
                _ = sweep.tick() => self.sweep(),
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
                return Ok(());
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

    /// One round: what the inbox hands out at once, its events together where nothing else stands between them. Answers
    /// whether there is more. `messages` is room to work in.
    pub fn round(&self, messages: &mut Vec<ToHub>) -> bool {
        let more = self.inbox.take(messages);
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
        more
    }

    /// Heartbeats and deadlines.
    pub fn sweep(&self) {
        self.state.borrow_mut().sweep();
    }

    /// Whoever waited has gone, or was refused.
    fn give_up(&self, token: u64) {
        let _shared = panics::shared();
        let mut state = self.state.borrow_mut();
        if let Some(slot) = state.find(token) {
            state.close(slot, CloseReason::Gone);
        }
    }

    /// Acts on what bodies told: of room, or of their end.
    pub fn body_signals(&self) {
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

impl Opening {
    /// The stream gives these back when it ends.
    pub fn hold(&self, held: Held) {
        let _shared = panics::shared();
        let mut state = self.stream.hub.state.borrow_mut();
        if let Some(slot) = self.stream.token.and_then(|token| state.find(token)) {
            state.held.insert(slot, held);
        }
    }

    /// Whether [`Opening::wait`] has its answer.
    pub fn is_answered(&self) -> bool {
        !self.answered.is_empty() || self.answered.is_terminated()
    }

    /// Waits until the stream is subscribed and has its position, or for `patience`: then its client is let in all the
    /// same, and told later where the stream begins.
    pub async fn wait(mut self, patience: Duration) -> Result<Opened, Refusal> {
        match tokio::time::timeout(patience, &mut self.answered).await {
            Ok(Ok(answer)) => answer.map(|()| self.stream),
            Ok(Err(_)) => Err(Refusal::Draining),
            Err(_) => {
                self.stream.late();
                Ok(self.stream)
            }
        }
    }
}

impl Opened {
    fn late(&self) {
        let _shared = panics::shared();
        let mut state = self.hub.state.borrow_mut();
        if let Some(slot) = self.token.and_then(|token| state.find(token)) {
            state.let_in_late(slot);
        }
    }

    /// The stream's way out is this socket, on which `head` is still to be written.
    pub fn on_socket(mut self, mut sink: Sink, head: Bytes) {
        let _shared = panics::shared();
        let Some(token) = self.token.take() else { return };
        let mut state = self.hub.state.borrow_mut();
        // It was closed meanwhile: so is the socket.
        let Some(slot) = state.find(token) else { return };
        let watched = sink.socket().map_or(Ok(()), |socket| self.hub.poller.add(socket, token));
        if let Err(error) = watched {
            tracing::warn!(%error, "a socket cannot be watched; its stream is closed");
            return state.close(slot, CloseReason::Failed);
        }
        // A session may have read the client's end together with its request, and then nothing more is there to be seen.
        if matches!(sink, Sink::Tls(_)) && sink.drain() == ClientSide::Gone {
            return state.close(slot, CloseReason::Gone);
        }
        state.lead_out(slot, sink, Some(head));
    }

    /// The stream's way out is the body of a response on this connection.
    pub fn on_body(mut self, carrier: Option<Box<dyn Carrier>>) -> PipeReader {
        let _shared = panics::shared();
        let token = self.token.take().unwrap_or_default();
        let pipe = BodyPipe::new(self.hub.signals.clone(), token);
        if let Some(carrier) = carrier {
            pipe.on(carrier);
        }
        let mut state = self.hub.state.borrow_mut();
        match state.find(token) {
            Some(slot) => state.lead_out(slot, Sink::Body(pipe.clone()), None),
            None => pipe.end(),
        }
        drop(state);
        PipeReader::of(pipe)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            self.hub.give_up(token);
        }
    }
}
