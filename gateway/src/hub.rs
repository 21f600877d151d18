//! One worker's subscribers. The hub takes events from the broker's inbox to the connections of its
//! thread.
//!
//! All state belongs to one thread. Nothing awaits a subscriber, and a subscriber that keeps up
//! costs no allocation. One sweep serves the timers of all connections.

pub(crate) mod channels;
pub(crate) mod clocks;
pub(crate) mod fanout;
pub(crate) mod listing;
pub(crate) mod poller;
pub(crate) mod rejoin;
pub(crate) mod subscribers;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
use crate::stream::body_pipe::{
    BodyPipe, BodySignal, BodySignals, Carrier, PipeReader, PipeWriter,
};
use crate::stream::close_reason::CloseReason;
use crate::stream::sink::{ClientSide, Sink};
use crate::stream::subscription::{Held, Refusal, Subscription};

/// How often heartbeats and deadlines are checked.
const SWEEP: Duration = Duration::from_millis(500);
/// How often a draining hub ends some of its streams.
pub(crate) const DRAIN_STEP: Duration = Duration::from_millis(50);
/// The resolution of the runtime's timer.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// A stream that waits for its first position. Dropping it abandons the stream.
#[derive(Debug)]
pub struct Opening {
    stream: Opened,
    answered: oneshot::Receiver<Result<(), Refusal>>,
}

/// A stream whose client may be let in, but which has no sink yet. Dropping it abandons the stream.
#[derive(Debug)]
pub struct Opened {
    hub: Rc<Hub>,
    /// `None` once the stream has a sink.
    token: Option<u64>,
}

/// `None` until streams must end; then the time over which their ends are spread.
pub type DrainSignal = watch::Receiver<Option<Duration>>;

/// How many streams are open in all hubs of a gateway.
#[derive(Debug, Default)]
pub struct OpenStreams(AtomicU64);

impl OpenStreams {
    /// How many there are.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn opened(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn closed(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

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
    /// Creates a hub on this thread's runtime, which counts its streams in `open`. The caller must
    /// spawn [`Hub::run`]. Fails if no epoll can be created.
    pub fn new(
        broker: Broker,
        config: StreamConfig,
        open: Arc<OpenStreams>,
        cells: Arc<Cells>,
    ) -> io::Result<Rc<Self>> {
        let inbox = Inbox::new(config.inbox_bytes);
        let worker = broker.register(inbox.clone());
        let coalesce = config.coalesce;
        Ok(Rc::new(Hub {
            state: RefCell::new(Subscribers::new(broker, worker, config, open, cells)),
            inbox,
            poller: Poller::new()?,
            signals: Rc::default(),
            coalesce,
            last_round: Cell::new((Instant::now(), Duration::ZERO)),
        }))
    }

    /// Opens a stream. Its client is let in once every channel is attached and the stream has a
    /// position.
    pub fn open(self: &Rc<Self>, framing: Framing, subscription: Subscription) -> Opening {
        let _shared = panics::shared();
        let (answer, answered) = oneshot::channel();
        let token = self.state.borrow_mut().open(framing, subscription, answer);
        Opening { stream: Opened { hub: self.clone(), token: Some(token) }, answered }
    }

    /// Serves the hub's connections until it is drained and empty. After an error nothing serves
    /// them.
    pub async fn run(self: Rc<Self>, drain: DrainSignal) -> io::Result<()> {
        let served = self.serve(drain).await;
        self.inbox.close();
        served
    }

    async fn serve(&self, mut drain: DrainSignal) -> io::Result<()> {
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

    /// The queue of messages to this hub.
    pub fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    /// Waits for messages, unless `more` says that some are queued. An idle hub takes them at once.
    /// A hub whose last round took long has many sockets to write to. It lets more messages gather
    /// first, because several events then cost each subscriber a single write.
    async fn turn(&self, more: bool) {
        if more {
            // Yield, so that the thread's other work runs between two rounds. Otherwise the hub
            // would not see which sockets have room again, and the queues of readers that keep up
            // would overflow.
            return tokio::task::yield_now().await;
        }
        self.inbox.filled().await;
        let (ended, took) = self.last_round.get();
        let left = took.min(self.coalesce).saturating_sub(ended.elapsed());
        if left >= SHORTEST_PAUSE {
            tokio::time::sleep(left).await;
        }
    }

    /// Handles one run of messages. Events with no other message between them are handed out
    /// together. Returns whether more messages are queued. `messages` is scratch space.
    pub fn round(&self, messages: &mut Vec<ToHub>) -> bool {
        let more = self.inbox.take(messages);
        let began = Instant::now();
        let mut state = self.state.borrow_mut();
        let mut run = Vec::new();
        for message in messages.drain(..) {
            match message {
                ToHub::Event(key, frame) => run.push((key, frame)),
                other => {
                    // Hand out the events that came before this message first.
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

    /// Sends heartbeats and enforces deadlines.
    pub fn sweep(&self) {
        self.state.borrow_mut().sweep();
    }

    /// Closes a stream whose handler no longer waits for it.
    fn give_up(&self, token: u64) {
        let _shared = panics::shared();
        let mut state = self.state.borrow_mut();
        if let Some(slot) = state.find(token) {
            state.close(slot, CloseReason::Gone);
        }
    }

    /// Handles the signals of bodies: room in a pipe, or its end.
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
    /// Keeps `held` until the stream ends, and then drops it.
    pub fn hold(&self, held: Held) {
        let _shared = panics::shared();
        let mut state = self.stream.hub.state.borrow_mut();
        if let Some(slot) = self.stream.token.and_then(|token| state.find(token)) {
            state.held.insert(slot, held);
        }
    }

    /// Whether [`Opening::wait`] would return at once.
    pub fn is_answered(&self) -> bool {
        !self.answered.is_empty() || self.answered.is_terminated()
    }

    /// Waits until every channel is attached and the stream has a position, but no longer than
    /// `patience`. After that the client is let in all the same, and a later `gap` says that events
    /// may be missing.
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

    /// Makes this socket the stream's sink. `head` is written to it first.
    pub fn on_socket(mut self, mut sink: Sink, head: Bytes) {
        let _shared = panics::shared();
        let Some(token) = self.token.take() else { return };
        let mut state = self.hub.state.borrow_mut();
        // The stream was closed meanwhile. Returning drops `sink`, which closes the socket.
        let Some(slot) = state.find(token) else { return };
        let watched = sink.socket().map_or(Ok(()), |socket| self.hub.poller.add(socket, token));
        if let Err(error) = watched {
            tracing::warn!(%error, "a socket cannot be watched; its stream is closed");
            return state.close(slot, CloseReason::Failed);
        }
        // The session may have read the client's close together with its request. Then the poller
        // has nothing more to report.
        if matches!(sink, Sink::Tls(_)) && sink.drain() == ClientSide::Gone {
            return state.close(slot, CloseReason::Gone);
        }
        state.lead_out(slot, sink, Some(head));
    }

    /// Makes the body of a response the stream's sink. `carrier` is the connection of that
    /// response.
    pub fn on_body(mut self, carrier: Option<Box<dyn Carrier>>) -> PipeReader {
        let _shared = panics::shared();
        let token = self.token.take().unwrap_or_default();
        let pipe = BodyPipe::new(self.hub.signals.clone(), token);
        if let Some(carrier) = carrier {
            pipe.on(carrier);
        }
        let mut state = self.hub.state.borrow_mut();
        // If the stream was closed meanwhile, dropping the writer ends the body.
        let writer = PipeWriter::of(pipe.clone());
        if let Some(slot) = state.find(token) {
            state.lead_out(slot, Sink::Body(writer), None);
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
