//! The ingest: receives live events from Redis on one connection and one thread, and hands them to
//! the workers.
//!
//! It never waits for a worker, because Redis disconnects a subscriber that does not read. Ticks
//! use the same connection, so that their answers arrive in order among the events. Every failure
//! ends the session: the workers get `Detached`, and the ingest tries to begin a new session, after
//! growing, jittered delays, for ever.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sse_contract::EventId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::broker::redis::backoff::Backoff;
use crate::broker::redis::connector::{self, Connection, SessionError};
use crate::broker::redis::dispatch::{Dispatch, IngestRequest};
use crate::broker::redis::outage::Outage;
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
    outage: Option<Outage>,
    backoff: Backoff,
}

impl Ingest {
    /// Creates an ingest that connects when it is run.
    pub(crate) fn new(
        partition: Arc<Partition>,
        requests: mpsc::UnboundedReceiver<IngestRequest>,
    ) -> Self {
        Ingest {
            dispatch: partition.dispatch(),
            backoff: Backoff::new(partition.config.reconnect_max),
            partition,
            requests,
            number: 0,
            last: None,
            outage: None,
        }
    }

    /// Runs session after session, for ever.
    pub(crate) async fn run(mut self) {
        loop {
            let Err(error) = self.session().await;
            self.offline(&error);
            let wait = self.backoff.ended(Instant::now());
            self.idle(wait).await;
        }
    }

    fn offline(&mut self, error: &SessionError) {
        if *self.partition.status.borrow() == Status::Online {
            // Counted before the workers are told, who make their streams leave the live side. A
            // second loss before all streams are back belongs to the same story.
            self.outage.get_or_insert_with(|| Outage::begin(&self.partition.metrics)).lost();
        }
        self.partition.sessions.end();
        self.dispatch.end();
        let text = error.to_string();
        let addr = &self.partition.addr;
        let before = match error {
            SessionError::Mismatch(_) => {
                self.partition.status.send_replace(Status::Mismatch(text.clone()))
            }
            _ => self.partition.status.send_replace(Status::Offline(text.clone())),
        };
        if before == Status::Online {
            tracing::warn!(redis.addr = %addr, error = %text, "live events are interrupted");
        } else if before != *self.partition.status.borrow() {
            tracing::warn!(redis.addr = %addr, error = %text, "Redis cannot be reached; trying on");
        }
        self.partition.metrics.broker.connected.with_label_values(&["redis"]).set(0);
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
        let mut connection =
            connector::connect(&self.partition.info, &self.partition.tls, timeout).await?;
        let prepared = tokio::time::timeout(timeout, self.prepare(&mut connection)).await;
        let (run, clock) = prepared.unwrap_or(Err(SessionError::Timeout(timeout)))?;
        self.number += 1;
        let (number, partition) = (self.number, &self.partition);
        let (info, config) = (&partition.info, &partition.config);
        let begun = partition.sessions.begin(number, run.clone(), clock.epoch(), info, config);
        begun.map_err(|error| SessionError::Refused(error.to_string()))?;
        self.dispatch.begin(clock);
        let addr = &self.partition.addr;
        match &mut self.outage {
            None => tracing::info!(redis.addr = %addr, "live events are received"),
            Some(outage) => {
                let seconds = outage.back().as_secs_f64();
                tracing::info!(redis.addr = %addr, outage.seconds = seconds, "Redis is back");
            }
        }
        self.hear_epoch(run, clock.epoch());
        self.partition.metrics.broker.connected.with_label_values(&["redis"]).set(1);
        self.partition.metrics.broker.sessions.inc();
        self.backoff.begun(Instant::now());
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
                redis.addr = %self.partition.addr, epoch.old = last_epoch, epoch.new = epoch, why,
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
        let tick = partition.calls.tick();
        let clock = connection.call(&tick, |value| partition.calls.ticked(value)).await??;
        Ok((run, clock))
    }

    async fn serve(&mut self, connection: &mut Connection) -> Result<Infallible, SessionError> {
        let Connection { stream, input } = connection;
        let (mut reader, mut writer) = tokio::io::split(stream);
        loop {
            self.dispatch.maintain();
            self.outage.take_if(|outage| outage.tell(&self.partition.metrics));
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

#[cfg(test)]
mod tests {
    use sse_lab::listener::Listener;
    use sse_lab::redis_server::RedisServer;

    use super::*;
    use crate::broker::redis::RedisBroker;
    use crate::broker::redis::settings::RedisSettings;
    use crate::config::Config;
    use crate::metrics::Metrics;

    fn ingest(url: String, connect_timeout: &str) -> Ingest {
        let pairs = [
            ("redis.url".to_owned(), url),
            ("redis.connect_timeout".to_owned(), connect_timeout.to_owned()),
        ];
        let config = Config::load(None, std::iter::empty(), &pairs).unwrap();
        let settings = RedisSettings::of(&config);
        let (broker, works) = RedisBroker::without_threads(settings, Metrics::default()).unwrap();
        let works = works.into_iter().next().unwrap();
        Ingest::new(broker.partitions()[0].clone(), works.requests)
    }

    #[tokio::test]
    async fn a_session_begins_once_its_first_tick_is_answered() {
        let silent = Listener::start(|mut socket| {
            // It reads until the client gives up.
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        });
        let mut connecting = ingest(format!("redis://{}", silent.addr), "1ms");
        let Err(error) = connecting.session().await;
        assert!(matches!(error, SessionError::Timeout(_)), "{error}");
        assert_eq!(connecting.backoff.began, None);
        let redis = RedisServer::start();
        let mut served = ingest(redis.url(), "1h");
        let mut status = served.partition.status.subscribe();
        tokio::select! {
            Err(error) = served.session() => panic!("{error}"),
            online = status.wait_for(|status| *status == Status::Online) => assert!(online.is_ok()),
        }
        assert!(served.backoff.began.is_some());
    }
}
