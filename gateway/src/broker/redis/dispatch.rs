//! Interprets what the ingest's connection receives and decides what it sends: live events and
//! ticks go to the workers' inboxes, and the workers' requests become subscriptions.
//!
//! This module does no I/O, and knows neither the connection nor the other parts of the broker;
//! `Ingest` connects, reads, writes, and passes on what concerns others. A `Dispatch` outlives
//! connections, because the workers' requests do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use sse_contract::{Channel, EventId, Keys, LiveMessage, Meaning, decode_live, meaning};
use tokio::sync::oneshot;

use crate::broker::redis::calls::Calls;
use crate::broker::redis::connector::SessionError;
use crate::broker::redis::interest::{Attaching, Interest};
use crate::broker::redis::resp::{self, Value};
use crate::feed::clock::believable;
use crate::feed::frame::Frame;
use crate::feed::inbox::{ChannelKey, Inbox, ToHub};
use crate::metrics::BrokerMetrics;

/// A request to the ingest, from a hub or a handler.
#[derive(Debug)]
pub enum IngestRequest {
    /// Adds a worker's inbox. Workers are numbered in the order in which they register.
    Register(Arc<Inbox>),
    /// A worker wants a channel's events.
    Attach(u16, Channel, ChannelKey),
    /// A worker no longer wants a channel.
    Detach(u16, Channel, ChannelKey),
    /// A worker wants a tick that covers everything it asked for before.
    Tick,
    /// A handler waits for this text to come back on the probe channel.
    Probe(String, ProbeAnswer),
}

/// Where a probe's outcome goes. The error says why the probe cannot come back.
pub type ProbeAnswer = oneshot::Sender<Result<(), String>>;

/// A command that was sent and not answered yet. Redis answers commands in order.
#[derive(Debug)]
enum Asked {
    Tick,
    Subscribe(Box<[u8]>),
    Unsubscribe(Box<[u8]>),
}

/// What a dispatch works by.
#[derive(Debug)]
pub(crate) struct Terms {
    /// The number of the partition.
    pub partition: u16,
    /// The names in Redis.
    pub keys: Keys,
    /// The pub/sub channel of this gateway's probes.
    pub probe_channel: String,
    /// The pub/sub channel on which gateways tell each other to read the revocations. `None` if
    /// this dispatch does not listen there.
    pub revocation_channel: Option<String>,
    /// How long a channel stays subscribed after its last subscriber left.
    pub linger: Duration,
    /// Time between ticks.
    pub tick: Duration,
    /// How long the answer to a tick may take.
    pub answer_timeout: Duration,
}

/// What Redis said that concerns more than the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// The epoch of the last tick, if one was answered.
    pub epoch: Option<u64>,
    /// Whether the revocations must be read: another gateway asks for it, or one may have asked
    /// before this session listened.
    pub revocations: bool,
}

/// The workers, the channels they want, and the state of the exchange with Redis.
#[derive(Debug)]
pub struct Dispatch {
    terms: Terms,
    calls: Arc<Calls>,
    metrics: BrokerMetrics,
    workers: Vec<Arc<Inbox>>,
    interest: Interest,
    probes: Vec<(String, ProbeAnswer)>,
    /// Why probes cannot come back: Redis refuses their channel. `None` while it does not.
    probes_refused: Option<String>,
    /// Whether there is a session. Without one, attachments are only recorded; a new session begins
    /// with a tick anyway.
    connected: bool,
    /// The address of the session's server, for logs.
    addr: Arc<str>,
    /// Bytes to write to Redis.
    pub out: BytesMut,
    /// The commands in `out` or already sent whose answers are still missing, in order.
    asked: VecDeque<Asked>,
    /// The clock of the last tick, and when it arrived.
    last: Option<(EventId, Instant)>,
    /// When the tick that is under way was sent.
    ticking: Option<Instant>,
    tick_wanted: bool,
    next_tick: Instant,
    /// One batch of messages for each worker, sent after everything that was read is parsed.
    batches: Vec<Vec<ToHub>>,
    /// Events received since the last delivery, for the metrics.
    received: u64,
    heard: Heard,
}

impl Dispatch {
    /// Creates a dispatch without workers, channels or a session.
    pub(crate) fn new(terms: Terms, calls: Arc<Calls>, metrics: BrokerMetrics) -> Self {
        let interest = Interest::new(terms.linger);
        Dispatch {
            terms,
            calls,
            metrics,
            workers: Vec::new(),
            interest,
            probes: Vec::new(),
            probes_refused: None,
            asked: VecDeque::new(),
            last: None,
            connected: false,
            addr: "".into(),
            out: BytesMut::new(),
            ticking: None,
            tick_wanted: false,
            next_tick: Instant::now(),
            batches: Vec::new(),
            received: 0,
            heard: Heard::default(),
        }
    }

    /// Begins a session at this clock, with the server at this address: subscribes to every wanted
    /// channel and asks for a tick behind the subscriptions.
    pub fn begin(&mut self, clock: EventId, addr: Arc<str>) {
        self.connected = true;
        self.addr = addr;
        self.out.clear();
        self.asked.clear();
        self.last = Some((clock, Instant::now()));
        self.probes_refused = None;
        self.heard.epoch = None;
        (self.ticking, self.tick_wanted, self.next_tick) = (None, true, Instant::now());
        for channel in self.interest.restart() {
            self.ask(Asked::Subscribe(channel));
        }
        self.ask(Asked::Subscribe(self.terms.probe_channel.as_bytes().into()));
        if let Some(channel) = &self.terms.revocation_channel {
            self.ask(Asked::Subscribe(channel.as_bytes().into()));
        }
    }

    /// Ends the session, if there is one: every attachment is gone, and each worker gets
    /// `Detached`.
    pub fn end(&mut self) {
        if !std::mem::take(&mut self.connected) {
            return;
        }
        self.interest.lost();
        for (inbox, batch) in self.workers.iter().zip(&mut self.batches) {
            batch.clear();
            inbox.send(self.terms.partition, [ToHub::Detached(self.terms.partition)]);
        }
    }

    /// When `maintain` is to run again even if nothing is read, and by when the answer to the tick
    /// under way must have arrived.
    pub fn wake(&self) -> (Instant, Option<Instant>) {
        let overdue = self.ticking.map(|sent| sent + self.terms.answer_timeout);
        (overdue.unwrap_or(self.next_tick).min(self.next_tick), overdue)
    }

    /// Unsubscribes from channels that were idle for too long, and sends a tick if one is due.
    pub fn maintain(&mut self) {
        let now = Instant::now();
        for channel in self.interest.expired(now) {
            self.ask(Asked::Unsubscribe(channel));
        }
        if now >= self.next_tick {
            self.next_tick = now + self.terms.tick;
            self.tick_wanted = true;
        }
        if self.tick_wanted && self.ticking.is_none() {
            self.tick_wanted = false;
            self.ticking = Some(now);
            self.ask(Asked::Tick);
        }
    }

    fn ask(&mut self, what: Asked) {
        let [on, off]: [&[u8]; 2] = match self.is_sharded() {
            false => [b"SUBSCRIBE", b"UNSUBSCRIBE"],
            true => [b"SSUBSCRIBE", b"SUNSUBSCRIBE"],
        };
        match &what {
            Asked::Tick => {
                self.out.extend_from_slice(&self.calls.tick().get_packed_command());
            }
            Asked::Subscribe(channel) => subscribe(&mut self.out, on, channel),
            Asked::Unsubscribe(channel) => subscribe(&mut self.out, off, channel),
        }
        self.asked.push_back(what);
    }

    /// Whether live channels are of sharded pub/sub.
    fn is_sharded(&self) -> bool {
        self.terms.keys.partitions() > 1
    }

    /// The partition's number for logs, if there are several.
    fn label(&self) -> Option<u16> {
        self.is_sharded().then_some(self.terms.partition)
    }

    /// Handles a request.
    pub fn request(&mut self, request: IngestRequest) {
        let wanted = self.interest.wanted();
        match request {
            IngestRequest::Register(inbox) => {
                self.workers.push(inbox);
                self.batches.push(Vec::new());
            }
            IngestRequest::Attach(worker, channel, key) => {
                let name = self.terms.keys.live(&channel);
                match self.interest.attach(name.as_bytes(), &channel, (worker, key), self.connected)
                {
                    Attaching::Nothing => {}
                    Attaching::Subscribe => self.ask(Asked::Subscribe(name.as_bytes().into())),
                    Attaching::Attached => {
                        self.batches[usize::from(worker)].push(ToHub::Attached(key));
                    }
                }
            }
            IngestRequest::Detach(worker, channel, key) => {
                let name = self.terms.keys.live(&channel);
                self.interest.detach(name.as_bytes(), (worker, key), Instant::now());
            }
            IngestRequest::Tick => {
                self.tick_wanted = self.connected;
            }
            IngestRequest::Probe(text, answer) => {
                self.probes.retain(|(_, waiting)| !waiting.is_closed());
                match &self.probes_refused {
                    // The handler may have given up waiting.
                    Some(why) => drop(answer.send(Err(why.clone()))),
                    None => self.probes.push((text, answer)),
                }
            }
        }
        // A difference, because each partition has a dispatch.
        self.metrics.channels.add(self.interest.wanted() as i64 - wanted as i64);
    }

    /// Handles every complete value in `input` and removes it from there. Returns what concerns
    /// others. An error ends the session.
    pub fn understand(&mut self, input: &mut BytesMut) -> Result<Heard, SessionError> {
        let mut used = 0;
        while let Some((value, length)) = resp::parse(&input[used..])? {
            match &value {
                Value::Push(elements) => self.push(elements)?,
                answer => self.answer(answer)?,
            }
            used += length;
        }
        input.advance(used);
        // Lets the next read take up to 64 KB at once, even behind an incomplete large event.
        input.reserve(64 * 1024);
        Ok(std::mem::take(&mut self.heard))
    }

    fn push(&mut self, elements: &[Value<'_>]) -> Result<(), SessionError> {
        match elements {
            [Value::Text(b"message"), Value::Text(channel), Value::Text(payload)] => {
                self.message(channel, payload);
            }
            // Sharded pub/sub, with several partitions.
            [Value::Text(b"smessage"), Value::Text(channel), Value::Text(payload)] => {
                self.message(channel, payload);
            }
            [Value::Text(b"subscribe" | b"ssubscribe"), Value::Text(channel), ..] => {
                let answered = self.asked.pop_front();
                if !matches!(&answered, Some(Asked::Subscribe(asked)) if **asked == **channel) {
                    return Err(unasked(&answered, "a subscription"));
                }
                // Revocations that were announced before this subscription were not heard, so they
                // are read now.
                self.heard.revocations |= self.is_of_revocations(channel);
                for (worker, key) in self.interest.confirmed(channel) {
                    self.batches[usize::from(*worker)].push(ToHub::Attached(*key));
                }
            }
            [Value::Text(b"unsubscribe" | b"sunsubscribe"), Value::Text(channel), ..] => {
                let answered = self.asked.pop_front();
                if !matches!(&answered, Some(Asked::Unsubscribe(asked)) if **asked == **channel) {
                    // What is published on the channel now goes to another server, or to nobody.
                    let channel = String::from_utf8_lossy(channel);
                    return Err(SessionError::Refused(format!(
                        "Redis ended the subscription of {channel} unasked, {AS_SLOTS_MOVE}"
                    )));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn message(&mut self, channel: &[u8], payload: &[u8]) {
        if channel == self.terms.probe_channel.as_bytes() {
            let arrived = self.probes.extract_if(.., |(text, _)| text.as_bytes() == payload);
            for (_, answer) in arrived {
                // The handler may have given up waiting.
                let _ = answer.send(Ok(()));
            }
            return;
        }
        if self.is_of_revocations(channel) {
            self.heard.revocations = true;
            return;
        }
        let Some((channel, attachments)) = self.interest.listeners(channel) else { return };
        self.received += 1;
        let frame = match decode_live(payload) {
            LiveMessage::Event { id, event, data } if self.is_ours(id) => {
                self.calls.saw(id);
                Frame::event(channel, id, &event, &data)
            }
            LiveMessage::Text(text) => Frame::raw(channel, &text),
            other => {
                // If the frame stands for an event, the event is in the history, and `Missed` makes
                // the channel's streams read it there. If the frame is of an epoch that this
                // session does not know yet, the next tick brings that epoch.
                let unknown = matches!(other, LiveMessage::Unknown);
                let reason = if unknown { "unknown" } else { "unbelieved" };
                self.metrics.refused_frames.with_label_values(&[reason]).inc();
                for (worker, key) in attachments {
                    self.batches[usize::from(*worker)].push(ToHub::Missed(*key));
                }
                self.tick_wanted = true;
                return;
            }
        };
        for (worker, key) in attachments {
            self.batches[usize::from(*worker)].push(ToHub::Event(*key, frame.clone()));
        }
    }

    fn is_of_revocations(&self, channel: &[u8]) -> bool {
        self.terms.revocation_channel.as_ref().is_some_and(|known| channel == known.as_bytes())
    }

    /// Whether an event can belong to the data set whose clock this session follows.
    fn is_ours(&self, id: EventId) -> bool {
        self.last
            .is_some_and(|(last, heard)| id.epoch() == last.epoch() && believable(last, heard, id))
    }

    /// Handles an answer that is no push: a tick's, or an error.
    fn answer(&mut self, value: &Value<'_>) -> Result<(), SessionError> {
        match (self.asked.pop_front(), value) {
            (Some(Asked::Tick), value) => self.ticked(value),
            (Some(Asked::Subscribe(_)), Value::Error(error)) if is_elsewhere(error) => {
                Err(SessionError::Refused(String::from_utf8_lossy(error).into_owned()))
            }
            (Some(Asked::Subscribe(channel)), Value::Error(error)) => {
                self.refused(&channel, &String::from_utf8_lossy(error));
                Ok(())
            }
            // The channel stays subscribed. Its events have no attachment, so they are dropped.
            (Some(Asked::Unsubscribe(_)), Value::Error(_)) => Ok(()),
            (answered, value) => Err(unasked(&answered, &format!("{value:?}"))),
        }
    }

    fn ticked(&mut self, value: &Value<'_>) -> Result<(), SessionError> {
        let clock = self.calls.ticked(value)?;
        if let Some(sent) = self.ticking.take() {
            self.metrics.answer_seconds.observe(sent.elapsed().as_secs_f64());
        }
        self.last = Some((clock, Instant::now()));
        self.heard.epoch = Some(clock.epoch());
        for batch in &mut self.batches {
            batch.push(ToHub::Tick(self.terms.partition, clock));
        }
        Ok(())
    }

    /// Redis refused a subscription. Only those who wanted the channel are told; the session goes
    /// on.
    fn refused(&mut self, channel: &[u8], why: &str) {
        self.metrics.refused_subscriptions.inc();
        if channel == self.terms.probe_channel.as_bytes() {
            // The last part of the name is drawn anew at each start.
            let stem = self.terms.probe_channel.rsplit_once(':').map_or("", |(stem, _)| stem);
            let why = format!("Redis refuses this user the channel of probes, {stem}:*: {why}");
            tracing::warn!(
                redis.addr = %self.addr, partition = self.label(), error = %why,
                "probes cannot be heard"
            );
            for (_, answer) in self.probes.drain(..) {
                let _ = answer.send(Err(why.clone()));
            }
            self.probes_refused = Some(why);
            return;
        }
        if self.is_of_revocations(channel) {
            tracing::warn!(
                redis.addr = %self.addr, partition = self.label(), error = %why,
                "Redis refuses this user the channel {}: what others revoke is heard late",
                String::from_utf8_lossy(channel)
            );
            return;
        }
        let why: Arc<str> = why.into();
        for (worker, key) in self.interest.refused(channel) {
            self.batches[usize::from(worker)].push(ToHub::Refused(key, why.clone()));
        }
    }

    /// Sends the batches to the workers' inboxes.
    pub fn deliver(&mut self) {
        let mut dropped = 0;
        for (inbox, batch) in self.workers.iter().zip(&mut self.batches) {
            if !batch.is_empty() {
                dropped += inbox.send(self.terms.partition, batch.drain(..));
            }
        }
        if dropped > 0 {
            self.metrics.dropped.inc_by(dropped);
        }
        if self.received > 0 {
            self.metrics.received.inc_by(std::mem::take(&mut self.received));
        }
    }
}

/// Whether an error says that this server of a Redis Cluster does not serve the partition now. It
/// refuses nobody anything.
fn is_elsewhere(error: &[u8]) -> bool {
    meaning(&String::from_utf8_lossy(error)) == Meaning::Elsewhere
}

/// How the end of a session is explained if Redis ends a subscription.
const AS_SLOTS_MOVE: &str = "as it does when a slot moves to another server";

/// Whether a session ended, or did not begin, because Redis Cluster moves the partition.
pub(crate) fn is_moving(why: &str) -> bool {
    why.ends_with(AS_SLOTS_MOVE) || meaning(why) == Meaning::Elsewhere
}

fn unasked(answered: &Option<Asked>, got: &str) -> SessionError {
    SessionError::Refused(format!("Redis answered {answered:?} with {got}"))
}

/// Writes a `SUBSCRIBE` or `UNSUBSCRIBE`. Redis confirms it with a push, or answers an error
/// instead.
fn subscribe(out: &mut BytesMut, verb: &[u8], channel: &[u8]) {
    let head = format!("*2\r\n${}\r\n", verb.len());
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(verb);
    out.extend_from_slice(format!("\r\n${}\r\n", channel.len()).as_bytes());
    out.extend_from_slice(channel);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
