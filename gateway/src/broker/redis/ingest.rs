//! The ingest: receives live events from Redis on one connection and one thread, and hands them to
//! the workers.
//!
//! It never waits for a worker, because Redis disconnects a subscriber that does not read. Ticks
//! use the same connection, so that their answers arrive in order among the events. Every failure
//! ends the session: the workers get `Detached`, and the ingest tries to begin a new session, after
//! growing, jittered delays, for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sse_contract::EventId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use crate::broker::redis::connector::{self, Connection, SessionError};
use crate::broker::redis::dispatch::{Command, Dispatch};
use crate::broker::redis::resp::Value;
use crate::broker::redis::session::{self, Run};
use crate::broker::redis::{RedisShared, delays};

/// The state of the ingest's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// No session has begun or failed yet.
    Connecting,
    /// Live events are being received.
    Online,
    /// The last session ended, or could not begin, for this reason.
    Offline(String),
    /// Redis holds a different contract, so no session can begin.
    Mismatch(String),
}

/// The ingest's state, which outlives its sessions.
pub(crate) struct Ingest {
    shared: Arc<RedisShared>,
    commands: mpsc::UnboundedReceiver<Command>,
    status: watch::Sender<Status>,
    dispatch: Dispatch,
    /// The number of the last session.
    number: u64,
}

impl Ingest {
    /// Creates an ingest that connects when it is run.
    pub(crate) fn new(
        shared: Arc<RedisShared>,
        commands: mpsc::UnboundedReceiver<Command>,
        status: watch::Sender<Status>,
    ) -> Self {
        Ingest { dispatch: Dispatch::new(shared.clone()), shared, commands, status, number: 0 }
    }

    /// Runs until every sender of commands is gone.
    pub(crate) async fn run(mut self) {
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
        self.shared.sessions.end();
        self.dispatch.end();
        let text = error.to_string();
        let addr = &self.shared.addr;
        let before = match error {
            SessionError::Mismatch(_) => self.status.send_replace(Status::Mismatch(text.clone())),
            _ => self.status.send_replace(Status::Offline(text.clone())),
        };
        if before == Status::Online {
            tracing::warn!(redis.addr = %addr, error = %text, "live events are interrupted");
        } else if before != *self.status.borrow() {
            tracing::warn!(redis.addr = %addr, error = %text, "Redis cannot be reached; trying on");
        }
        self.shared.metrics.broker.connected.with_label_values(&["redis"]).set(0);
    }

    /// Handles commands between two sessions. Returns false when every sender of commands is gone.
    async fn idle(&mut self, wait: Duration) -> bool {
        let end = tokio::time::sleep(wait);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return true,
                command = self.commands.recv() => match command {
                    Some(command) => self.dispatch.command(command),
                    None => return false,
                }
            }
        }
    }

    /// Runs one session. Returns an error if it breaks, `Ok` when every sender of commands is gone.
    async fn session(&mut self) -> Result<(), SessionError> {
        let timeout = self.shared.config.connect_timeout;
        let mut connection =
            connector::connect(&self.shared.info, &self.shared.tls, timeout).await?;
        let prepared = tokio::time::timeout(timeout, self.prepare(&mut connection)).await;
        let (run, clock) = prepared.unwrap_or(Err(SessionError::Timeout(timeout)))?;
        self.number += 1;
        let (number, shared) = (self.number, &self.shared);
        let begun = shared.sessions.begin(number, run, clock.epoch(), &shared.info, &shared.config);
        begun.map_err(|error| SessionError::Refused(error.to_string()))?;
        self.dispatch.begin(clock);
        tracing::info!(redis.addr = %self.shared.addr, "live events are received");
        self.shared.metrics.broker.connected.with_label_values(&["redis"]).set(1);
        self.shared.metrics.broker.sessions.inc();
        self.status.send_replace(Status::Online);
        self.serve(&mut connection).await
    }

    /// Loads the library, checks the server and sends the first tick. Returns the server's run id
    /// and the clock.
    async fn prepare(&self, connection: &mut Connection) -> Result<(Run, EventId), SessionError> {
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
        let info = redis::cmd("INFO").arg("server").to_owned();
        let run =
            connection.call(&info, |value| Some(session::run_id(value.text()?)?.into())).await?;
        let run = run.ok_or_else(|| {
            let text = "INFO does not tell run_id: a gateway needs the right to INFO";
            SessionError::Refused(text.to_owned())
        })?;
        let tick = self.shared.tick_call();
        let clock = connection.call(&tick, |value| shared.read_tick(value)).await??;
        Ok((run, clock))
    }

    async fn serve(&mut self, connection: &mut Connection) -> Result<(), SessionError> {
        let Connection { stream, input } = connection;
        let (mut reader, mut writer) = tokio::io::split(stream);
        loop {
            self.dispatch.maintain();
            let (wake, overdue) = self.dispatch.wake();
            let written = !self.dispatch.out.is_empty();
            tokio::select! {
                read = reader.read_buf(input) => {
                    if read? == 0 {
                        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                    }
                    // A probe's event may arrive before its command is taken from the queue. Then
                    // nobody would be found waiting for it.
                    self.hear_commands();
                    self.dispatch.understand(input)?;
                }
                written = writer.write_buf(&mut self.dispatch.out), if written => {
                    written?;
                    if self.dispatch.out.is_empty() {
                        writer.flush().await?;
                    }
                }
                command = self.commands.recv() => match command {
                    Some(command) => {
                        self.dispatch.command(command);
                        // Taking all queued commands now lets one tick serve them together.
                        self.hear_commands();
                    }
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(wake.into()) => {
                    if overdue.is_some_and(|overdue| overdue <= Instant::now()) {
                        return Err(SessionError::Timeout(self.shared.config.answer_timeout));
                    }
                }
            }
            self.dispatch.deliver();
        }
    }

    fn hear_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.dispatch.command(command);
        }
    }
}
