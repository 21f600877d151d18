//! What the ingest's one connection brings and must say: live events and ticks for each worker's inbox, and
//! the subscriptions that the workers' wishes come to.
//!
//! No I/O: `Ingest` reads, writes and connects; this understands what was read and fills what is to be written. It
//! outlives connections, because wishes do.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};
use sse_contract::{Channel, EventId, LiveMessage, decode_live};
use tokio::sync::oneshot;

use crate::connector::SessionError;
use crate::frame::Frame;
use crate::inbox::{ChannelKey, Inbox, ToHub};
use crate::interest::{Ask, Interest};
use crate::redis_broker::RedisShared;
use crate::resp::{self, Value};

/// What hubs and handlers ask of the ingest.
#[derive(Debug)]
pub enum Command {
    /// A worker's inbox; its number is its place.
    Register(Arc<Inbox>),
    /// A worker wants a channel.
    Attach(u16, Channel, ChannelKey),
    /// A worker no longer wants a channel.
    Detach(u16, Channel, ChannelKey),
    /// A worker wants a tick behind all it asked for before.
    Tick,
    /// Somebody waits for this text to come back on the probe channel.
    Probe(String, oneshot::Sender<()>),
}

/// The workers, what they want, and what stands between them and the connection.
pub struct Dispatch {
    shared: Arc<RedisShared>,
    workers: Vec<Arc<Inbox>>,
    interest: Interest,
    probes: Vec<(String, oneshot::Sender<()>)>,
    /// Whether there is a session; without one, wishes are only noted.
    connected: bool,
    /// What is to be written.
    pub(crate) out: BytesMut,
    /// When the tick under way was sent.
    ticking: Option<Instant>,
    tick_wanted: bool,
    next_tick: Instant,
    /// One batch a worker, sent once what was read is understood.
    batches: Vec<Vec<ToHub>>,
    /// Events received since the last batch, for the metrics.
    received: u64,
}

impl Dispatch {
    /// Without workers, wishes or a session.
    pub fn new(shared: Arc<RedisShared>) -> Self {
        let interest = Interest::new(shared.config.linger);
        Dispatch {
            shared,
            workers: Vec::new(),
            interest,
            probes: Vec::new(),
            connected: false,
            out: BytesMut::new(),
            ticking: None,
            tick_wanted: false,
            next_tick: Instant::now(),
            batches: Vec::new(),
            received: 0,
        }
    }

    /// A session begins: everything wanted is subscribed, and a tick stands behind it.
    pub fn begin(&mut self) {
        self.connected = true;
        self.out.clear();
        (self.ticking, self.tick_wanted, self.next_tick) = (None, true, Instant::now());
        for channel in self.interest.restart() {
            subscribe(&mut self.out, b"SUBSCRIBE", &channel);
        }
        subscribe(&mut self.out, b"SUBSCRIBE", self.shared.probe_channel.as_bytes());
    }

    /// The session is over, if there was one: nothing is attached any more.
    pub fn end(&mut self) {
        if !std::mem::take(&mut self.connected) {
            return;
        }
        self.interest.lost();
        for (inbox, batch) in self.workers.iter().zip(&mut self.batches) {
            batch.clear();
            inbox.send([ToHub::Detached]);
        }
    }

    /// When to look again, whatever is read; and until when an answer must have come.
    pub fn wake(&self) -> (Instant, Option<Instant>) {
        let overdue = self.ticking.map(|sent| sent + self.shared.config.answer_timeout);
        (overdue.unwrap_or(self.next_tick).min(self.next_tick), overdue)
    }

    /// Gives up idle channels and sends a tick when one is due.
    pub fn maintain(&mut self) {
        let now = Instant::now();
        for channel in self.interest.expired(now) {
            subscribe(&mut self.out, b"UNSUBSCRIBE", &channel);
        }
        if now >= self.next_tick {
            self.next_tick = now + self.shared.config.tick;
            self.tick_wanted = true;
        }
        if self.tick_wanted && self.ticking.is_none() {
            self.tick_wanted = false;
            self.ticking = Some(now);
            self.out.extend_from_slice(&self.shared.tick_call().get_packed_command());
        }
    }

    /// What somebody asks.
    pub fn command(&mut self, command: Command) {
        match command {
            Command::Register(inbox) => {
                self.workers.push(inbox);
                self.batches.push(Vec::new());
            }
            Command::Attach(worker, channel, key) => {
                let name = self.shared.keys.live(&channel);
                match self.interest.attach(name.as_bytes(), (worker, key), self.connected) {
                    Ask::Nothing => {}
                    Ask::Subscribe => subscribe(&mut self.out, b"SUBSCRIBE", name.as_bytes()),
                    Ask::Attached => {
                        self.batches[usize::from(worker)].push(ToHub::Attached(key));
                    }
                }
            }
            Command::Detach(worker, channel, key) => {
                let name = self.shared.keys.live(&channel);
                self.interest.detach(name.as_bytes(), (worker, key), Instant::now());
            }
            Command::Tick => {
                self.tick_wanted = self.connected;
            }
            Command::Probe(text, answer) => {
                self.probes.retain(|(_, waiting)| !waiting.is_closed());
                self.probes.push((text, answer));
            }
        }
    }

    /// Everything whole in the buffer.
    pub fn understand(&mut self, input: &mut BytesMut) -> Result<(), SessionError> {
        let mut used = 0;
        while let Some((value, length)) = resp::parse(&input[used..])? {
            match &value {
                Value::Push(elements) => self.push(elements),
                answer => self.answer(answer)?,
            }
            used += length;
        }
        input.advance(used);
        // Room for the next read at once, however large the next event is.
        input.reserve(64 * 1024);
        Ok(())
    }

    fn push(&mut self, elements: &[Value<'_>]) {
        match elements {
            [Value::Text(b"message"), Value::Text(channel), Value::Text(payload)] => {
                self.message(channel, payload);
            }
            [Value::Text(b"subscribe"), Value::Text(channel), ..] => {
                for (worker, key) in self.interest.confirmed(channel) {
                    self.batches[usize::from(*worker)].push(ToHub::Attached(*key));
                }
            }
            _ => {}
        }
    }

    fn message(&mut self, channel: &[u8], payload: &[u8]) {
        if channel == self.shared.probe_channel.as_bytes() {
            let arrived = self.probes.extract_if(.., |(text, _)| text.as_bytes() == payload);
            for (_, answer) in arrived {
                // Whoever waited may have given up.
                let _ = answer.send(());
            }
            return;
        }
        let attachments = self.interest.attachments(channel);
        if attachments.is_empty() {
            return;
        }
        self.received += 1;
        let frame = match decode_live(payload) {
            LiveMessage::Event { id, event, data } => {
                self.shared.saw(id);
                Frame::event(id, &event, &data)
            }
            LiveMessage::Text(text) => Frame::raw(&text),
            LiveMessage::Unknown => {
                self.shared.metrics.broker.with_label_values(&["unknown_frame"]).inc();
                for (worker, _) in attachments {
                    self.batches[usize::from(*worker)].push(ToHub::Lagged);
                }
                return;
            }
        };
        for (worker, key) in attachments {
            self.batches[usize::from(*worker)].push(ToHub::Event(*key, frame.clone()));
        }
    }

    fn answer(&mut self, value: &Value<'_>) -> Result<(), SessionError> {
        let clock: EventId = self.shared.read_tick(value)?;
        self.ticking = None;
        self.shared.saw(clock);
        for batch in &mut self.batches {
            batch.push(ToHub::Tick(clock));
        }
        Ok(())
    }

    /// What was understood goes to the workers.
    pub fn deliver(&mut self) {
        let mut dropped = 0;
        for (inbox, batch) in self.workers.iter().zip(&mut self.batches) {
            if !batch.is_empty() {
                dropped += inbox.send(batch.drain(..));
            }
        }
        let count = &self.shared.metrics.broker;
        if dropped > 0 {
            count.with_label_values(&["dropped"]).inc_by(dropped);
        }
        if self.received > 0 {
            count.with_label_values(&["received"]).inc_by(std::mem::take(&mut self.received));
        }
    }
}

/// `SUBSCRIBE` and `UNSUBSCRIBE` are confirmed by pushes alone, so they take no place among the answers.
fn subscribe(out: &mut BytesMut, verb: &[u8], channel: &[u8]) {
    let head = format!("*2\r\n${}\r\n", verb.len());
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(verb);
    out.extend_from_slice(format!("\r\n${}\r\n", channel.len()).as_bytes());
    out.extend_from_slice(channel);
    out.extend_from_slice(b"\r\n");
}
