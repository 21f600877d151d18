//! One partition of the Redis broker: one clock, one history space, one master at a time.
//!
//! Three tasks work for it, each on a thread that it may share with those of other partitions: the
//! ingest receives live events and ticks on a connection of its own, the history thread reads, and
//! the publish thread publishes single events. They do not wait for one another, and all their
//! connections belong to the ingest's session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value};
use sse_contract::{Channel, EventId, Keys, Meaning, Part, Reply, meaning};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::broker::redis::agreement::Agreement;
use crate::broker::redis::calls::Calls;
use crate::broker::redis::connector::SessionError;
use crate::broker::redis::dispatch::{Dispatch, Heard, IngestRequest, Terms, is_moving};
use crate::broker::redis::failure::{Again, EnsureError, Failure, pool_error, unsent, words};
use crate::broker::redis::history::{self, HistoryRequest};
use crate::broker::redis::ingest::Status;
use crate::broker::redis::outage::Outages;
use crate::broker::redis::place::{Place, Server};
use crate::broker::redis::publish_thread::{PublishThread, Queue};
use crate::broker::redis::session::{Session, Sessions};
use crate::broker::redis::settings::RedisSettings;
use crate::feed::snapshot::Snapshot;
use crate::metrics::Metrics;

/// After Redis has refused to show a history, it is not asked for that history again for this long.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// What a partition's threads and callers share.
#[derive(Debug)]
pub struct Partition {
    /// Its number.
    pub number: u16,
    /// The settings of the broker.
    pub config: RedisSettings,
    pub(crate) keys: Keys,
    /// Tells where the master is.
    pub place: Place,
    /// The address of the last server that `place` told, for messages.
    addr: Mutex<Arc<str>>,
    /// The calls of the function library.
    pub calls: Arc<Calls>,
    /// The current session, which every connection belongs to.
    pub sessions: Sessions,
    pub(crate) metrics: Metrics,
    /// Shared by all partitions.
    pub(crate) agreement: Arc<Agreement>,
    /// Shared by all partitions.
    pub(crate) outages: Arc<Outages>,
    /// The pub/sub channel of this gateway's probes.
    probe_channel: String,
    /// Notified when another gateway asks to read the revocations.
    pub(crate) revocations_called: Notify,
    /// Channels whose history Redis refused to show this user, each with the time of the refusal.
    refused: Mutex<HashMap<Channel, Instant>>,
    requests: mpsc::UnboundedSender<IngestRequest>,
    reads: mpsc::UnboundedSender<HistoryRequest>,
    pub(crate) publish_thread: PublishThread,
    pub(crate) status: watch::Sender<Status>,
}

/// What all partitions of a broker have in common.
#[derive(Debug)]
pub(crate) struct Common {
    pub keys: Keys,
    pub config: RedisSettings,
    pub metrics: Metrics,
    pub agreement: Arc<Agreement>,
    pub outages: Arc<Outages>,
}

/// The receiving ends for a partition's tasks.
#[derive(Debug)]
pub struct Works {
    /// Requests for the ingest.
    pub requests: mpsc::UnboundedReceiver<IngestRequest>,
    /// Requests for the history thread.
    pub reads: mpsc::UnboundedReceiver<HistoryRequest>,
    /// Single events for the publish thread.
    pub queue: Arc<Queue>,
}

impl Partition {
    /// Creates a partition without its tasks, and what they would work with.
    pub(crate) fn new(number: u16, place: Place, common: &Common) -> (Arc<Self>, Works) {
        let (keys, config) = (common.keys.clone(), common.config.clone());
        #[expect(clippy::disallowed_methods, reason = "streams that open and end bound it")]
        let (requests, heard) = mpsc::unbounded_channel();
        #[expect(clippy::disallowed_methods, reason = "one for each stream that joins")]
        let (reads, asked) = mpsc::unbounded_channel();
        let (publish_thread, queue) = PublishThread::new();
        let calls = Calls::new(keys.clone(), number, config.limits, config.page_bytes);
        let partition = Partition {
            number,
            probe_channel: keys.probe(number, fastrand::u64(..)),
            keys,
            config,
            addr: Mutex::new(place.addr()),
            place,
            calls: Arc::new(calls),
            sessions: Sessions::default(),
            metrics: common.metrics.clone(),
            agreement: common.agreement.clone(),
            outages: common.outages.clone(),
            revocations_called: Notify::new(),
            refused: Mutex::default(),
            requests,
            reads,
            publish_thread,
            status: watch::Sender::new(Status::Connecting),
        };
        (Arc::new(partition), Works { requests: heard, reads: asked, queue })
    }

    /// The number for log lines. `None` if there is only one partition.
    pub(crate) fn label(&self) -> Option<u16> {
        label(&self.keys, self.number)
    }

    /// Asks where the master is now. Fails if that takes longer than `connect_timeout`.
    pub(crate) async fn master(&self) -> Result<Server, SessionError> {
        let timeout = self.config.connect_timeout;
        let told = tokio::time::timeout(timeout, self.place.master()).await;
        let server = told.unwrap_or(Err(SessionError::Timeout(timeout)))?;
        *self.addr.lock().unwrap_or_else(PoisonError::into_inner) = server.addr().clone();
        Ok(server)
    }

    /// The address of the last known master, without credentials, for messages.
    pub(crate) fn addr(&self) -> Arc<str> {
        self.addr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The dispatch for this partition's ingest.
    pub fn dispatch(&self) -> Dispatch {
        // Revocations are announced once, in the first partition.
        let hears = self.config.hear_revocations && self.number == 0;
        let terms = Terms {
            partition: self.number,
            keys: self.keys.clone(),
            probe_channel: self.probe_channel.clone(),
            revocation_channel: hears.then(|| self.keys.revocation_channel()),
            linger: self.config.linger,
            tick: self.config.tick,
            answer_timeout: self.config.answer_timeout,
        };
        Dispatch::new(terms, self.calls.clone(), self.metrics.broker.clone())
    }

    /// Gives the ingest a request.
    pub(crate) fn tell(&self, request: IngestRequest) {
        // The ingest outlives every caller, so a send can fail only at shutdown, when it does not
        // matter.
        let _ = self.requests.send(request);
    }

    /// Gives the history thread a request.
    pub(crate) fn ask(&self, request: HistoryRequest) {
        let _ = self.reads.send(request);
    }

    /// Takes in what the ingest heard.
    pub fn heard(&self, heard: &Heard) {
        if let Some(epoch) = heard.epoch {
            self.sessions.ticked(epoch);
        }
        if heard.revocations {
            self.revocations_called.notify_one();
        }
    }

    /// Waits until live events are received. Returns the last error if that takes longer than
    /// `patience`, and at once on a contract mismatch. With zero `patience` the first failure is
    /// returned, after twice `connect_timeout` at most.
    pub(crate) async fn online(&self, patience: Duration) -> Result<(), String> {
        let mut status = self.status.subscribe();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let last = match &*status.borrow_and_update() {
                Status::Online => return Ok(()),
                Status::Mismatch(text) => return Err(text.clone()),
                Status::Offline(text) if patience.is_zero() => return Err(self.of_this(text)),
                Status::Offline(text) => self.of_this(text),
                Status::Connecting => self.of_this("no answer yet"),
            };
            let bound = deadline.max(tokio::time::Instant::now());
            let first = self.config.connect_timeout * 2;
            let bound = if patience.is_zero() { bound + first } else { bound };
            if tokio::time::timeout_at(bound, status.changed()).await.is_err() {
                return Err(last);
            }
        }
    }

    /// A text about this partition alone, which names it if there are several.
    fn of_this(&self, text: &str) -> String {
        match self.label() {
            Some(number) => format!("{text} ({})", named(&[number])),
            None => text.to_owned(),
        }
    }

    /// Publishes a probe event and waits until the ingest receives it. Fails after
    /// `answer_timeout`. The error says where Redis is, and why no event passes through it.
    pub(crate) async fn probe(&self) -> Result<(), String> {
        let Err(failure) = self.send_probe().await else { return Ok(()) };
        let addr = self.addr();
        Err(match &*self.status.borrow() {
            Status::Online => format!("Redis at {addr}: {failure}"),
            Status::Connecting => format!("Redis at {addr} is not connected yet"),
            // Why there is no session says more than that a probe found none.
            Status::Offline(why) => format!("Redis at {addr} does not answer: {why}"),
            Status::Mismatch(why) => format!("Redis at {addr} cannot be used: {why}"),
        })
    }

    async fn send_probe(&self) -> Result<(), String> {
        let text = format!("{:032x}", fastrand::u128(..));
        let (arrived, arrival) = oneshot::channel();
        self.tell(IngestRequest::Probe(text.clone(), arrived));
        let publish = self.publish_text(&self.probe_channel, &text);
        let work = async {
            self.command(&publish).await.map_err(|error| error.to_string())?;
            arrival.await.map_err(|_| "the ingest is gone".to_owned())?
        };
        let timeout = self.config.answer_timeout;
        let late = || Err(format!("a probe event did not come back within {timeout:?}"));
        tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| late())
    }

    /// Reads one page of a channel's history above `after`. Fails after `request_timeout`.
    pub(crate) async fn history(
        &self,
        channel: &Channel,
        after: EventId,
    ) -> Result<Snapshot, String> {
        let parts = [Part { channel: channel.clone(), after, newest: false }];
        let patience = self.config.request_timeout;
        match tokio::time::timeout(patience, history::read(self, &parts)).await {
            Ok(read) => read.map_err(|error| format!("Redis: {error}")),
            Err(_) => Err(format!("Redis: no answer within {patience:?}")),
        }
    }

    /// Whether Redis refused to show a channel's history within the last `REFUSED_FOR`.
    pub(crate) fn refuses(&self, channel: &Channel) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(channel).is_some_and(|since| since.elapsed() < REFUSED_FOR)
    }

    /// Records that Redis refuses to show a channel's history.
    pub(crate) fn note_refused(&self, channel: &Channel) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|_, since| since.elapsed() < REFUSED_FOR);
        refused.insert(channel.clone(), Instant::now());
    }

    /// Sends one command on a connection of the pool and returns the answer. If the library is
    /// missing, loads it again, and still returns the error. An answer after the end of the session
    /// is an error, too.
    pub(crate) async fn command(&self, cmd: &Cmd) -> Result<Value, RedisError> {
        let session = self.sessions.get().await?;
        let mut connection = pooled(&session).await?;
        match cmd.query_async(&mut connection).await {
            Err(error) if meaning(&words(&error)) == Meaning::Missing => {
                self.ensure_library(&mut connection).await?;
                Err(error)
            }
            Ok(value) if self.sessions.confirms(&session).await => Ok(value),
            Ok(_) => {
                let why = "the session ended before the answer came".to_owned();
                Err(RedisError::from((redis::ErrorKind::Io, "no session", why)))
            }
            Err(error) => Err(error),
        }
    }

    /// The failure of a publication that was not sent. While Redis Cluster moves the partition, there
    /// is no session for a moment.
    pub(crate) fn unsent(&self, error: &RedisError) -> Failure {
        let moving = match &*self.status.borrow() {
            Status::Offline(why) => is_moving(why),
            _ => false,
        };
        let again = if moving { Again::Elsewhere } else { Again::WithKey };
        Failure { again, ..unsent(error) }
    }

    /// The command that publishes a text on one of this partition's pub/sub channels.
    pub(crate) fn publish_text(&self, channel: &str, text: &str) -> Cmd {
        let publish = if self.keys.partitions() == 1 { "PUBLISH" } else { "SPUBLISH" };
        redis::cmd(publish).arg(channel).arg(text).to_owned()
    }

    /// Sends several commands at once and ignores their answers.
    pub(crate) async fn commands(&self, pipeline: &Pipeline) -> Result<(), RedisError> {
        let session = self.sessions.get().await?;
        let mut connection = pooled(&session).await?;
        pipeline.query_async(&mut connection).await
    }

    /// Loads the library into Redis unless it is there in this version or a newer one.
    pub(crate) async fn ensure_library(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), RedisError> {
        let ensured = self
            .calls
            .library
            .ensure::<EnsureError>(async |cmd| match cmd.query_async::<Value>(connection).await {
                Ok(Value::Int(n)) => Ok(Reply::Integer(n)),
                Ok(value) => Ok(Reply::Text(redis::from_redis_value(value).unwrap_or_default())),
                Err(error) if error.is_io_error() => Err(EnsureError(error)),
                Err(error) => Ok(Reply::Error(words(&error))),
            })
            .await;
        ensured.map_err(|EnsureError(error)| error)
    }
}

/// Partitions by their numbers, which rise: `partition 2`, or `partitions 0-3, 7`.
pub fn named(numbers: &[u16]) -> String {
    let ranges = numbers.chunk_by(|a, b| *b == *a + 1).map(|run| match run {
        [one] => one.to_string(),
        [first, second] => format!("{first}, {second}"),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    let word = if numbers.len() == 1 { "partition" } else { "partitions" };
    format!("{word} {}", ranges.collect::<Vec<_>>().join(", "))
}

/// A partition's number for log lines. `None` if there is only one partition.
pub(crate) fn label(keys: &Keys, number: u16) -> Option<u16> {
    (keys.partitions() > 1).then_some(number)
}

/// Takes a connection from the pool. Boxed because this future takes 7 KB. Unboxed, so would every
/// future that contains it, such as the one of each request for a stream.
async fn pooled(session: &Session) -> Result<deadpool_redis::Connection, RedisError> {
    Box::pin(session.pool.get()).await.map_err(pool_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_by_their_numbers() {
        assert_eq!(named(&[2]), "partition 2");
        assert_eq!(named(&[0, 3]), "partitions 0, 3");
        assert_eq!(named(&[0, 1, 5, 6, 7, 9]), "partitions 0, 1, 5-7, 9");
    }
}
