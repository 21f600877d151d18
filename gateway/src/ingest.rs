//! Receives live events from Redis and hands them to the workers: one connection, one thread.
//!
//! It never waits for a worker, because Redis cuts off a subscriber that does not read. Ticks travel on
//! this very connection, so that their answers stand in order among the events. Whatever goes wrong ends
//! the session: the workers are told `Detached`, and a new session begins after a jittered, growing wait,
//! for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use sse_contract::{Channel, EventId, LiveMessage, decode_live};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};

use crate::connector::{self, Connection, SessionError};
use crate::frame::Frame;
use crate::inbox::{ChannelKey, Inbox, ToHub};
use crate::interest::{Ask, Interest};
use crate::redis_broker::{RedisShared, delays};
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

/// The outcome of the ingest's first session, and whether there is one now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// No session yet.
    Connecting,
    /// Live events are received.
    Online,
    /// The last session ended, or could not begin, for this reason.
    Offline(String),
    /// Redis speaks another contract: no session can begin.
    Mismatch(String),
}

/// The ingest's state over all its sessions.
pub struct Ingest {
    shared: Arc<RedisShared>,
    commands: mpsc::UnboundedReceiver<Command>,
    status: watch::Sender<Status>,
    workers: Vec<Arc<Inbox>>,
    interest: Interest,
    probes: Vec<(String, oneshot::Sender<()>)>,
}

/// What one session has to write and waits for.
struct Session {
    out: BytesMut,
    /// When the tick under way was sent.
    ticking: Option<Instant>,
    tick_wanted: bool,
    next_tick: Instant,
    /// One batch a worker, sent once what was read is understood.
    batches: Vec<Vec<ToHub>>,
    /// Events received since the last batch, for the metrics.
    received: u64,
}

impl Ingest {
    /// An ingest that connects when it is run.
    pub fn new(
        shared: Arc<RedisShared>,
        commands: mpsc::UnboundedReceiver<Command>,
        status: watch::Sender<Status>,
    ) -> Self {
        let interest = Interest::new(shared.config.linger);
        Ingest { shared, commands, status, workers: Vec::new(), interest, probes: Vec::new() }
    }

    /// Runs until everybody who could ask for anything is gone.
    pub async fn run(mut self) {
        let longest = self.shared.config.reconnect_max;
        let mut delay = delays(longest);
        loop {
            let began = Instant::now();
            let error = match self.session().await {
                Ok(()) => return,
                Err(error) => error,
            };
            self.offline(&error);
            if began.elapsed() > longest {
                delay = delays(longest);
            }
            let wait = delay.next().unwrap_or(longest);
            if !self.idle(wait).await {
                return;
            }
        }
    }

    fn offline(&mut self, error: &SessionError) {
        let text = error.to_string();
        let addr = &self.shared.addr;
        let before = match error {
            SessionError::Mismatch(_) => self.status.send_replace(Status::Mismatch(text.clone())),
            _ => self.status.send_replace(Status::Offline(text.clone())),
        };
        if before == Status::Online {
            tracing::warn!(redis.addr = %addr, error = %text, "live events are interrupted");
            self.interest.lost();
            for inbox in &self.workers {
                inbox.send([ToHub::Detached]);
            }
        } else if before != *self.status.borrow() {
            tracing::warn!(redis.addr = %addr, error = %text, "Redis cannot be reached; trying on");
        }
        self.shared.metrics.connected.with_label_values(&["redis"]).set(0);
    }

    /// Between sessions, commands are still heard. Answers whether anybody is left to ask.
    async fn idle(&mut self, wait: Duration) -> bool {
        let end = tokio::time::sleep(wait);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return true,
                command = self.commands.recv() => match command {
                    Some(command) => { self.command(command, None); }
                    None => return false,
                }
            }
        }
    }

    /// One session: ends with an error when it breaks, or without when nobody is left to ask.
    async fn session(&mut self) -> Result<(), SessionError> {
        let timeout = self.shared.config.connect_timeout;
        let mut connection = connector::connect(&self.shared.info, timeout).await?;
        let prepared = tokio::time::timeout(timeout, self.prepare(&mut connection)).await;
        prepared.unwrap_or(Err(SessionError::Timeout(timeout)))?;
        let mut session = Session {
            out: BytesMut::new(),
            ticking: None,
            tick_wanted: true,
            next_tick: Instant::now(),
            batches: self.workers.iter().map(|_| Vec::new()).collect(),
            received: 0,
        };
        for channel in self.interest.restart() {
            subscribe(&mut session.out, b"SUBSCRIBE", &channel);
        }
        subscribe(&mut session.out, b"SUBSCRIBE", self.shared.probe_channel.as_bytes());
        tracing::info!(redis.addr = %self.shared.addr, "live events are received");
        self.shared.metrics.connected.with_label_values(&["redis"]).set(1);
        self.shared.metrics.broker.with_label_values(&["connected"]).inc();
        self.status.send_replace(Status::Online);
        self.serve(&mut connection, &mut session).await
    }

    async fn prepare(&self, connection: &mut Connection) -> Result<(), SessionError> {
        let shared = &self.shared;
        shared.library.ensure(async |cmd| connection.ask(&cmd).await).await?;
        let policy = redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").to_owned();
        let policy = connection
            .call(&policy, |value| {
                value.elements().get(1).and_then(Value::text).unwrap_or("noeviction").to_owned()
            })
            .await?;
        if policy != "noeviction" && *self.status.borrow() == Status::Connecting {
            tracing::warn!(
                redis.maxmemory_policy = %policy,
                "any eviction ends an epoch, and every cursor with it: set maxmemory-policy noeviction"
            );
        }
        let tick = self.shared.tick_call();
        let answer = connection.call(&tick, |value| shared.read_tick(value)).await?;
        answer.map(|_| ())
    }

    async fn serve(
        &mut self,
        connection: &mut Connection,
        session: &mut Session,
    ) -> Result<(), SessionError> {
        let Connection { stream, input } = connection;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let answer_timeout = self.shared.config.answer_timeout;
        loop {
            self.maintain(session);
            let overdue = session.ticking.map(|sent| sent + answer_timeout);
            let wake = overdue.unwrap_or(session.next_tick).min(session.next_tick);
            tokio::select! {
                read = reader.read_buf(input) => {
                    if read? == 0 {
                        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                    }
                    // A probe may come back before its command's turn came.
                    self.hear_commands(session);
                    self.understand(input, session)?;
                }
                written = writer.write_buf(&mut session.out), if !session.out.is_empty() => {
                    written?;
                    if session.out.is_empty() {
                        writer.flush().await?;
                    }
                }
                command = self.commands.recv() => match command {
                    Some(command) => {
                        self.command(command, Some(session));
                        // What was asked for together is answered together, with one tick behind it all.
                        self.hear_commands(session);
                    }
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(wake.into()) => {
                    if overdue.is_some_and(|overdue| overdue <= Instant::now()) {
                        return Err(SessionError::Timeout(answer_timeout));
                    }
                }
            }
            self.deliver(session);
        }
    }

    /// Gives up idle channels and sends a tick when one is due.
    fn maintain(&mut self, session: &mut Session) {
        let now = Instant::now();
        for channel in self.interest.expired(now) {
            subscribe(&mut session.out, b"UNSUBSCRIBE", &channel);
        }
        if now >= session.next_tick {
            session.next_tick = now + self.shared.config.tick;
            session.tick_wanted = true;
        }
        if session.tick_wanted && session.ticking.is_none() {
            session.tick_wanted = false;
            session.ticking = Some(now);
            session.out.extend_from_slice(&self.shared.tick_call().get_packed_command());
        }
    }

    fn hear_commands(&mut self, session: &mut Session) {
        while let Ok(command) = self.commands.try_recv() {
            self.command(command, Some(session));
        }
    }

    fn command(&mut self, command: Command, session: Option<&mut Session>) {
        match command {
            Command::Register(inbox) => {
                self.workers.push(inbox);
                if let Some(session) = session {
                    session.batches.push(Vec::new());
                }
            }
            Command::Attach(worker, channel, key) => {
                let name = self.shared.keys.live(&channel);
                match self.interest.attach(name.as_bytes(), (worker, key), session.is_some()) {
                    Ask::Nothing => {}
                    Ask::Subscribe => {
                        if let Some(session) = session {
                            subscribe(&mut session.out, b"SUBSCRIBE", name.as_bytes());
                        }
                    }
                    Ask::Attached => {
                        if let Some(session) = session {
                            session.batches[usize::from(worker)].push(ToHub::Attached(key));
                        }
                    }
                }
            }
            Command::Detach(worker, channel, key) => {
                let name = self.shared.keys.live(&channel);
                self.interest.detach(name.as_bytes(), (worker, key), Instant::now());
            }
            Command::Tick => {
                if let Some(session) = session {
                    session.tick_wanted = true;
                }
            }
            Command::Probe(text, answer) => {
                self.probes.retain(|(_, waiting)| !waiting.is_closed());
                self.probes.push((text, answer));
            }
        }
    }

    /// Everything whole in the buffer.
    fn understand(
        &mut self,
        input: &mut BytesMut,
        session: &mut Session,
    ) -> Result<(), SessionError> {
        let mut used = 0;
        while let Some((value, length)) = resp::parse(&input[used..])? {
            match &value {
                Value::Push(elements) => self.push(elements, session),
                answer => self.answer(answer, session)?,
            }
            used += length;
        }
        input.advance(used);
        // Room for the next read at once, however large the next event is.
        input.reserve(64 * 1024);
        Ok(())
    }

    fn push(&mut self, elements: &[Value<'_>], session: &mut Session) {
        match elements {
            [Value::Text(b"message"), Value::Text(channel), Value::Text(payload)] => {
                self.message(channel, payload, session);
            }
            [Value::Text(b"subscribe"), Value::Text(channel), ..] => {
                for (worker, key) in self.interest.confirmed(channel) {
                    session.batches[usize::from(*worker)].push(ToHub::Attached(*key));
                }
            }
            _ => {}
        }
    }

    fn message(&mut self, channel: &[u8], payload: &[u8], session: &mut Session) {
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
        session.received += 1;
        let frame = match decode_live(payload) {
            LiveMessage::Event { id, event, data } => {
                self.shared.saw(id);
                Frame::event(id, &event, &data)
            }
            LiveMessage::Text(text) => Frame::raw(&text),
            LiveMessage::Unknown => {
                self.shared.metrics.broker.with_label_values(&["unknown_frame"]).inc();
                for (worker, _) in attachments {
                    session.batches[usize::from(*worker)].push(ToHub::Lagged);
                }
                return;
            }
        };
        for (worker, key) in attachments {
            session.batches[usize::from(*worker)].push(ToHub::Event(*key, frame.clone()));
        }
    }

    fn answer(&mut self, value: &Value<'_>, session: &mut Session) -> Result<(), SessionError> {
        let clock: EventId = self.shared.read_tick(value)?;
        session.ticking = None;
        self.shared.saw(clock);
        for batch in &mut session.batches {
            batch.push(ToHub::Tick(clock));
        }
        Ok(())
    }

    fn deliver(&mut self, session: &mut Session) {
        let mut dropped = 0;
        for (inbox, batch) in self.workers.iter().zip(&mut session.batches) {
            if !batch.is_empty() {
                dropped += inbox.send(batch.drain(..));
            }
        }
        let count = &self.shared.metrics.broker;
        if dropped > 0 {
            count.with_label_values(&["dropped"]).inc_by(dropped);
        }
        if session.received > 0 {
            count.with_label_values(&["received"]).inc_by(std::mem::take(&mut session.received));
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
