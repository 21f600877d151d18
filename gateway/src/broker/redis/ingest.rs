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

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::broker::redis::backoff::Backoff;
use crate::broker::redis::connector::{self, Connection, SessionError};
use crate::broker::redis::dispatch::{self, Dispatch, IngestRequest};
use crate::broker::redis::partition::Partition;
use crate::broker::redis::place::Server;
use crate::broker::redis::preparation::prepare;
use crate::broker::redis::session::Run;

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
    backoff: Backoff,
    /// The server of the last session, or of the last attempt to begin one.
    server: Option<Server>,
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
            backoff: Backoff::new(partition.place.longest_delay(partition.config.reconnect_max)),
            partition,
            requests,
            number: 0,
            last: None,
            server: None,
            telling: false,
        }
    }

    /// Runs session after session, for ever.
    pub(crate) async fn run(mut self) -> Infallible {
        loop {
            let Err(error) = self.session().await;
            self.offline(&error);
            let moving = matches!(&error, SessionError::Refused(why) if dispatch::is_moving(why));
            let wait = self.backoff.ended(Instant::now());
            self.idle(wait, moving).await;
        }
    }

    fn offline(&mut self, error: &SessionError) {
        self.partition.place.ended(error);
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

    /// Handles requests between two sessions, for this long or until another master is named. Where
    /// the partition is being moved, its former server is asked about that meanwhile.
    async fn idle(&mut self, wait: Duration, moving: bool) {
        let (partition, server) = (self.partition.clone(), self.server.clone());
        let gives = async {
            if moving {
                partition.place.gives().await;
            }
        };
        let end = futures_util::future::join(tokio::time::sleep(wait), gives);
        let named = async {
            match &server {
                Some(server) => partition.place.other_than(server).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end, named);
        loop {
            tokio::select! {
                _ = &mut end => return,
                _ = &mut named => return,
                Some(request) = self.requests.recv() => self.dispatch.request(request),
            }
        }
    }

    /// Runs one session until it breaks.
    async fn session(&mut self) -> Result<Infallible, SessionError> {
        let timeout = self.partition.config.connect_timeout;
        let server = self.partition.master().await?;
        self.server = Some(server.clone());
        let mut connection = connector::connect(&server, timeout).await?;
        let prepared =
            tokio::time::timeout(timeout, prepare(&self.partition, &server, &mut connection)).await;
        let (run, clock) = prepared.unwrap_or(Err(SessionError::Timeout(timeout)))?;
        self.number += 1;
        let (addr, label) = (server.addr().clone(), self.partition.label());
        let (number, epoch, config) = (self.number, clock.epoch(), &self.partition.config);
        // With `redis.durable` an epoch may also go on at a replica that took the master's place.
        let durable = self.partition.calls.found_limits().is_none_or(|limits| limits.durable);
        let keeps_moved = self.partition.place.moves_partitions() && !durable;
        let (sessions, its_run) = (&self.partition.sessions, run.clone());
        let begun = sessions.begin(number, server.clone(), its_run, epoch, keeps_moved, config);
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
        self.backoff.begun(Instant::now());
        self.partition.status.send_replace(Status::Online);
        self.serve(&mut connection, &server).await
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

    async fn serve(
        &mut self,
        connection: &mut Connection,
        server: &Server,
    ) -> Result<Infallible, SessionError> {
        let Connection { stream, input } = connection;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let partition = self.partition.clone();
        let named = partition.place.other_than(server);
        tokio::pin!(named);
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
                        partition.place.ticks();
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
                addr = &mut named => {
                    let text = format!("the master is {addr} now, say the Sentinels");
                    return Err(SessionError::Refused(text));
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
    use std::io::{Read, Write};
    use std::net::TcpStream;

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

    /// Two gateways that are configured for different numbers may start on an empty Redis at once.
    #[tokio::test]
    async fn a_state_of_another_number_that_comes_with_the_first_tick_is_found() {
        let redis = Arc::new(RedisServer::start());
        let other = redis.clone();
        let between = Listener::start(move |mut client| {
            let mut server = TcpStream::connect(other.addr).unwrap();
            let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            let mut chunk = vec![0; 1 << 16];
            while let Ok(n @ 1..) = client.read(&mut chunk) {
                let call = b"FCALL\r\n$8\r\nsse_tick";
                if chunk[..n].windows(call.len()).any(|words| words == call) {
                    other.command(&["HSET", "sse:{0}:state", "partitions", "4"]);
                }
                server.write_all(&chunk[..n]).unwrap();
            }
        });
        let mut starts = ingest(format!("redis://{}", between.addr), "1h");
        let session = tokio::time::timeout(sse_lab::BOUND, starts.session()).await;
        let Err(error) = session.expect("it ends");
        assert!(error.to_string().contains("holds 4 (sse:{0}:state)"), "{error}");
        assert!(!starts.partition.agreement.is_confirmed());
    }
}
