//! The ingest: receives a partition's live events from Redis on one connection, and hands them to
//! the workers.
//!
//! It never waits for a worker, because Redis disconnects a subscriber that does not read. Ticks
//! use the same connection, so that their answers arrive in order among the events. Every failure
//! ends the session: the workers get `Detached`, and the ingest tries to begin a new session, after
//! growing, jittered delays, for ever.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::BackoffBuilder;
use sse_contract::EventId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::broker::redis::connector::{self, Connection, SessionError};
use crate::broker::redis::dispatch::{Dispatch, IngestRequest};
use crate::broker::redis::partition::Partition;
use crate::broker::redis::resp::Value;
use crate::broker::redis::session::{self, Run};

/// The state of the ingest's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
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
    partition: Arc<Partition>,
    requests: mpsc::UnboundedReceiver<IngestRequest>,
    dispatch: Dispatch,
    /// The number of the last session.
    number: u64,
    /// The server and the epoch of the last tick. `None` before the first one.
    last: Option<(Run, u64)>,
    /// Whether there was an outage of which the log has not told the end.
    telling: bool,
}

impl Ingest {
    /// Creates an ingest that connects when it is run.
    pub(crate) fn new(
        partition: Arc<Partition>,
        requests: mpsc::UnboundedReceiver<IngestRequest>,
    ) -> Self {
        Ingest {
            dispatch: partition.dispatch(),
            partition,
            requests,
            number: 0,
            last: None,
            telling: false,
        }
    }

    /// Runs session after session, for ever.
    pub(crate) async fn run(mut self) -> Infallible {
        if self.partition.number > 0 {
            // The first partition compares the number of partitions for all.
            self.partition.agreement.confirmed().await;
        }
        let longest = self.partition.config.reconnect_max;
        let mut delay = delays(longest);
        loop {
            let began = Instant::now();
            let Err(error) = self.session().await;
            self.offline(&error);
            if began.elapsed() > longest {
                delay = delays(longest);
            }
            self.idle(delay.next().unwrap_or(longest)).await;
        }
    }

    fn offline(&mut self, error: &SessionError) {
        self.telling |= self.partition.outages.offline(self.partition.number);
        self.partition.sessions.end();
        self.dispatch.end();
        let text = error.to_string();
        let (addr, partition) = (self.partition.addr(), self.partition.label());
        let before = match error {
            SessionError::Mismatch(_) => {
                self.partition.status.send_replace(Status::Mismatch(text.clone()))
            }
            _ => self.partition.status.send_replace(Status::Offline(text.clone())),
        };
        if before == Status::Online {
            tracing::warn!(
                redis.addr = %addr, partition, error = %text, "live events are interrupted"
            );
        } else if before != *self.partition.status.borrow() {
            tracing::warn!(
                redis.addr = %addr, partition, error = %text, "Redis cannot be reached; trying on"
            );
        }
    }

    /// Handles requests between two sessions.
    async fn idle(&mut self, wait: Duration) {
        let end = tokio::time::sleep(wait);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return,
                Some(request) = self.requests.recv() => self.dispatch.request(request),
            }
        }
    }

    /// Runs one session until it breaks.
    async fn session(&mut self) -> Result<Infallible, SessionError> {
        let timeout = self.partition.config.connect_timeout;
        let server = self.partition.master().await?;
        let mut connection = connector::connect(&server, timeout).await?;
        let prepared = tokio::time::timeout(timeout, self.prepare(&mut connection)).await;
        let (run, clock) = prepared.unwrap_or(Err(SessionError::Timeout(timeout)))?;
        self.number += 1;
        let (addr, label) = (server.addr().clone(), self.partition.label());
        let (number, epoch, config) = (self.number, clock.epoch(), &self.partition.config);
        let begun = self.partition.sessions.begin(number, server, run.clone(), epoch, config);
        begun.map_err(|error| SessionError::Refused(error.to_string()))?;
        self.dispatch.begin(clock, addr.clone());
        match self.partition.outages.online(self.partition.number) {
            None => {
                tracing::info!(redis.addr = %addr, partition = label, "live events are received");
            }
            Some(away) => tracing::info!(
                redis.addr = %addr, partition = label, outage.seconds = away.as_secs_f64(),
                "Redis is back"
            ),
        }
        self.hear_epoch(run, epoch);
        self.partition.metrics.broker.sessions.inc();
        self.partition.status.send_replace(Status::Online);
        self.serve(&mut connection).await
    }

    /// Tells of a new epoch. The clients are told of a gap, so the operator must be able to find out
    /// why.
    fn hear_epoch(&mut self, run: Run, epoch: u64) {
        if let Some((last_run, last_epoch)) = &self.last
            && *last_epoch != epoch
        {
            let why = match *last_run == run {
                true => {
                    "the same process lost acknowledged writes, evicted keys or went back in time, \
                     or an operator began the epoch"
                }
                false => "Redis was started again, or another server answers in its place",
            };
            self.partition.metrics.broker.epochs.inc();
            tracing::warn!(
                redis.addr = %self.partition.addr(), partition = self.partition.label(), epoch.old = last_epoch, epoch.new = epoch, why,
                "a new epoch has begun: every client is told of a gap (reset)"
            );
        }
        self.last = Some((run, epoch));
    }

    /// Loads the library, checks the server and sends the first tick. Returns the server's run id
    /// and the clock.
    async fn prepare(&self, connection: &mut Connection) -> Result<(Run, EventId), SessionError> {
        let partition = &self.partition;
        partition.calls.library.ensure(async |cmd| connection.ask(&cmd).await).await?;
        let policy = redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").to_owned();
        let policy = connection
            .call(&policy, |value| {
                value.elements().get(1).and_then(Value::text).unwrap_or("noeviction").to_owned()
            })
            .await?;
        if policy != "noeviction" && *self.partition.status.borrow() == Status::Connecting {
            tracing::warn!(
                partition = partition.label(), redis.maxmemory_policy = %policy,
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
        let agreement = &partition.agreement;
        if !agreement.is_confirmed() {
            connection.call(&agreement.question(), |value| agreement.judge(value)).await??;
        }
        let tick = partition.calls.tick();
        let clock = connection.call(&tick, |value| partition.calls.ticked(value)).await??;
        agreement.confirm();
        Ok((run, clock))
    }

    async fn serve(&mut self, connection: &mut Connection) -> Result<Infallible, SessionError> {
        let Connection { stream, input } = connection;
        let (mut reader, mut writer) = tokio::io::split(stream);
        loop {
            self.dispatch.maintain();
            self.telling = self.telling && !self.partition.outages.told();
            let (wake, overdue) = self.dispatch.wake();
            let written = !self.dispatch.out.is_empty();
            tokio::select! {
                read = reader.read_buf(input) => {
                    if read? == 0 {
                        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                    }
                    // A probe's event may arrive before its request is taken from the queue. Then
                    // nobody would be found waiting for it.
                    self.hear_requests();
                    let heard = self.dispatch.understand(input)?;
                    self.partition.heard(&heard);
                    if let (Some(epoch), Some((run, _))) = (heard.epoch, &self.last) {
                        self.hear_epoch(run.clone(), epoch);
                    }
                }
                written = writer.write_buf(&mut self.dispatch.out), if written => {
                    written?;
                    if self.dispatch.out.is_empty() {
                        writer.flush().await?;
                    }
                }
                Some(request) = self.requests.recv() => {
                    self.dispatch.request(request);
                    // Taking all queued requests now lets one tick serve them together.
                    self.hear_requests();
                }
                () = tokio::time::sleep_until(wake.into()) => {
                    if overdue.is_some_and(|overdue| overdue <= Instant::now()) {
                        return Err(SessionError::Timeout(self.partition.config.answer_timeout));
                    }
                }
            }
            self.dispatch.deliver();
        }
    }

    fn hear_requests(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            self.dispatch.request(request);
        }
    }
}

/// The delays between attempts to reach Redis: growing from 50 ms up to `longest`, jittered,
/// endless.
pub(crate) fn delays(longest: Duration) -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}
