//! The Redis broker: the state that its parts share, and the front for hubs and handlers.
//!
//! It has three kinds of connections: the ingest's own for live events and ticks, a pool for reads
//! and batches, and the line's for single events. They do not wait for one another, and all belong
//! to the ingest's session.

pub(crate) mod access;
pub(crate) mod alarm;
pub(crate) mod connection;
pub(crate) mod connector;
pub mod dispatch;
pub mod history;
pub(crate) mod ingest;
pub(crate) mod interest;
pub(crate) mod library;
pub(crate) mod publish;
pub mod resp;
pub mod session;
pub mod settings;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use backon::BackoffBuilder;
use deadpool_redis::PoolError;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionInfo, RedisError};
use sse_contract::{CONTRACT_VERSION, Channel, EventId, Function, Keys, Meaning, meaning};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::broker::redis::connection::{Line, Queue};
use crate::broker::redis::connector::SessionError;
use crate::broker::redis::dispatch::Command;
use crate::broker::redis::history::Ask;
use crate::broker::redis::ingest::{Ingest, Status};
use crate::broker::redis::library::{Answer, Library};
use crate::broker::redis::resp::Value;
use crate::broker::redis::session::{Session, Sessions};
use crate::broker::redis::settings::{BadRedis, HistoryLimits, RedisSettings, RedisTls};
use crate::config::redis_url::BadRedisUrl;
use crate::feed::inbox::{ChannelKey, Inbox};
use crate::feed::publication::{Publication, PublishError};
use crate::feed::read::ReadRequest;
use crate::feed::snapshot::{Extent, Snapshot};
use crate::metrics::Metrics;
use crate::vitals::Vitals;

/// After Redis has refused to show a history, it is not asked for that history again for this long.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// The state that all parts of the Redis broker share.
#[derive(Debug)]
pub struct RedisShared {
    /// The settings of this broker.
    pub config: RedisSettings,
    pub(crate) keys: Keys,
    /// The address of Redis, with credentials and TLS.
    pub info: ConnectionInfo,
    /// Certificates for the ingest's TLS connection.
    pub tls: RedisTls,
    /// The address of Redis without credentials, for logs.
    pub(crate) addr: String,
    pub(crate) library: Library,
    /// The current session, which every connection belongs to.
    pub sessions: Sessions,
    /// Opens the line's connection, which is not of the pool.
    pub(crate) client: redis::Client,
    pub(crate) metrics: Metrics,
    pub(crate) probe_channel: String,
    /// The pub/sub channel on which gateways tell each other to read the revocations.
    pub(crate) revocation_channel: String,
    pub(crate) revocations_called: Notify,
    /// The ingest's commands. This sender is weak, so that the ingest ends when the front drops the
    /// only strong one.
    commands: mpsc::WeakUnboundedSender<Command>,
    /// What this gateway has seen. A Redis that is behind it begins a new epoch above it.
    seen: Mutex<Seen>,
    /// The limits that Redis holds; `None` before the first tick.
    found: Mutex<Option<HistoryLimits>>,
    /// Channels whose history Redis refused to show this user, each with the time of the refusal.
    refused: Mutex<HashMap<Channel, Instant>>,
}

/// What this gateway has seen of the data. Redis compares it with its own state, to detect that it
/// has lost data.
#[derive(Debug, Default)]
struct Seen {
    /// The highest position.
    id: Option<EventId>,
    /// The highest count of ticks. It reveals a state that went back in time even after the clock
    /// has passed `id` again: the clock follows the time, but only ticks raise this count.
    beat: Option<u64>,
}

/// A tick's answer.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    /// The clock. No event with an id at or below it can still be published.
    pub clock: EventId,
    /// The number of ticks counted in this data set.
    pub beat: u64,
    /// The limits that hold for all writers.
    pub limits: HistoryLimits,
}

/// The front of the broker: what hubs and handlers call.
#[derive(Debug)]
pub struct RedisBroker {
    pub(crate) shared: Arc<RedisShared>,
    commands: mpsc::UnboundedSender<Command>,
    asks: mpsc::UnboundedSender<Ask>,
    line: Line,
    status: watch::Receiver<Status>,
    workers: Mutex<u16>,
}

/// The receiving ends for the broker's three threads.
#[derive(Debug)]
pub struct Works {
    /// The state that all threads share.
    pub shared: Arc<RedisShared>,
    /// Commands for the ingest.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// Requests for the history thread.
    pub asks: mpsc::UnboundedReceiver<Ask>,
    /// Single events for the line's thread.
    pub queue: Arc<Queue>,
    /// Where the ingest publishes its status.
    pub status: watch::Sender<Status>,
}

impl RedisBroker {
    /// Starts the broker's threads. They connect to Redis, and keep trying if they cannot. The
    /// error says that the address or a certificate file is invalid.
    pub fn start(
        config: RedisSettings,
        metrics: Metrics,
        vitals: &Vitals,
    ) -> Result<Arc<Self>, BadRedis> {
        // rustls needs a default provider, which the redis crate does not install. An error means
        // that one is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (broker, works) = RedisBroker::without_threads(config, metrics)?;
        let Works { shared, commands, asks, queue, status } = works;
        let (ingest, line) = (shared.clone(), shared.clone());
        on_thread("sse-ingest", vitals, move || Ingest::new(ingest, commands, status).run());
        on_thread("sse-publish", vitals, move || connection::run(line, queue));
        on_thread("sse-history", vitals, move || history::run(shared, asks));
        Ok(broker)
    }

    /// Creates a broker without starting its threads, and returns what they would work with. Tests
    /// that step through the join by hand (`join_model`) use it.
    pub fn without_threads(
        config: RedisSettings,
        metrics: Metrics,
    ) -> Result<(Arc<Self>, Works), BadRedis> {
        let tls = config.tls()?;
        let info = config.connection_info()?;
        let client = settings::client(&info).map_err(BadRedisUrl::new)?;
        #[expect(clippy::disallowed_methods, reason = "streams that open and end bound it")]
        let (commands, heard) = mpsc::unbounded_channel();
        let shared = Arc::new(RedisShared {
            keys: Keys::new(config.prefix.clone(), 1),
            addr: info.addr().to_string(),
            // No channel's name begins with a colon, so no channel can collide with this name.
            probe_channel: format!("{}::probe:{:016x}", config.prefix, fastrand::u64(..)),
            revocation_channel: Keys::new(config.prefix.clone(), 1).revocation_channel(),
            revocations_called: Notify::new(),
            info,
            tls,
            library: Library::default(),
            sessions: Sessions::default(),
            client,
            metrics,
            commands: commands.downgrade(),
            seen: Mutex::default(),
            found: Mutex::default(),
            refused: Mutex::default(),
            config,
        });
        #[expect(clippy::disallowed_methods, reason = "one for each stream that joins")]
        let (asks, asks_rx) = mpsc::unbounded_channel();
        let (status_tx, status) = watch::channel(Status::Connecting);
        let (line, queue) = Line::new();
        let works = Works {
            shared: shared.clone(),
            commands: heard,
            asks: asks_rx,
            queue,
            status: status_tx,
        };
        let broker = RedisBroker { shared, commands, asks, line, status, workers: Mutex::new(0) };
        Ok((Arc::new(broker), works))
    }

    /// Waits until live events are received. Returns the last error if that takes longer than
    /// `patience`, and at once on a contract mismatch. With zero `patience` the first failure is
    /// returned, after twice `connect_timeout` at most.
    pub async fn online(&self, patience: Duration) -> Result<(), String> {
        let mut status = self.status.clone();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let last = match &*status.borrow_and_update() {
                Status::Online => return Ok(()),
                Status::Mismatch(text) => return Err(text.clone()),
                Status::Offline(text) if patience.is_zero() => return Err(text.clone()),
                Status::Offline(text) => text.clone(),
                Status::Connecting => "no answer yet".to_owned(),
            };
            let bound = deadline.max(tokio::time::Instant::now());
            let first = self.shared.config.connect_timeout * 2;
            let bound = if patience.is_zero() { bound + first } else { bound };
            if tokio::time::timeout_at(bound, status.changed()).await.is_err() {
                return Err(last);
            }
        }
    }

    /// The state that the parts of the broker share.
    pub(crate) fn shared(&self) -> &Arc<RedisShared> {
        &self.shared
    }

    /// The address of Redis without credentials.
    pub fn addr(&self) -> &str {
        &self.shared.addr
    }

    /// Adds a worker's inbox and returns the worker's number.
    pub fn register(&self, inbox: Arc<Inbox>) -> u16 {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(Command::Register(inbox.clone()));
        self.ask(Ask::Register(inbox));
        *workers += 1;
        *workers - 1
    }

    /// Attaches a channel. `Attached` follows once Redis has confirmed the subscription, `Refused`
    /// if Redis refuses it.
    pub fn attach(&self, worker: u16, channel: &Channel, key: ChannelKey) {
        self.tell(Command::Attach(worker, channel.clone(), key));
    }

    /// Ends an attachment.
    pub fn detach(&self, worker: u16, channel: &Channel, key: ChannelKey) {
        self.tell(Command::Detach(worker, channel.clone(), key));
    }

    /// Asks the ingest for a tick.
    pub fn want_tick(&self) {
        self.shared.want_tick();
    }

    /// Asks the history thread to read.
    pub fn read(&self, request: ReadRequest) {
        self.ask(Ask::Read(request));
    }

    /// Reads one page of a channel's history above `after`. Fails after `request_timeout`.
    pub async fn history(&self, channel: &Channel, after: EventId) -> Result<Snapshot, String> {
        let parts = [(channel.clone(), after, Extent::All)];
        let patience = self.shared.config.request_timeout;
        match tokio::time::timeout(patience, history::read(&self.shared, &parts)).await {
            Ok(read) => read.map_err(|error| format!("Redis: {error}")),
            Err(_) => Err(format!("Redis: no answer within {patience:?}")),
        }
    }

    /// Publishes in order and returns the results in the same order. A single event goes by the
    /// line, several go by a connection of the pool.
    pub async fn publish(&self, items: &[Publication]) -> Vec<Result<EventId, PublishError>> {
        publish::publish(&self.shared, &self.line, items).await
    }

    /// Whether live events are being received, as far as is known now, without asking Redis. The
    /// error says why not.
    pub fn status(&self) -> Result<(), String> {
        match &*self.status.borrow() {
            Status::Online => Ok(()),
            Status::Connecting => Err("not connected yet".to_owned()),
            Status::Offline(why) | Status::Mismatch(why) => Err(why.clone()),
        }
    }

    /// Publishes a probe event and waits until the ingest receives it. Fails after
    /// `answer_timeout`.
    pub async fn probe(&self) -> Result<(), String> {
        let text = format!("{:032x}", fastrand::u128(..));
        let (arrived, arrival) = oneshot::channel();
        self.tell(Command::Probe(text.clone(), arrived));
        let publish = redis::cmd("PUBLISH").arg(&self.shared.probe_channel).arg(&text).to_owned();
        let work = async {
            let (session, _) = self.shared.command(&publish).await.map_err(|e| e.to_string())?;
            arrival.await.map_err(|_| "the ingest is gone".to_owned())??;
            drop(session);
            Ok(())
        };
        let timeout = self.shared.config.answer_timeout;
        let late = || Err(format!("a probe event did not come back within {timeout:?}"));
        tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| late())
    }

    /// Calls a library function that is reserved for operators, and returns the clock.
    pub async fn administer(
        &self,
        function: Function,
        args: &[String],
    ) -> Result<String, RedisError> {
        let mut cmd = self.shared.library.call(function, 1);
        cmd.arg(self.shared.keys.state(0)).arg(args);
        let (_, value) = self.shared.command(&cmd).await?;
        Ok(redis::from_redis_value(value)?)
    }

    /// The configured limits, and the limits that Redis holds if they are known.
    pub fn limits(&self) -> (HistoryLimits, Option<HistoryLimits>) {
        let found = self.shared.found.lock().unwrap_or_else(PoisonError::into_inner);
        (self.shared.config.limits, *found)
    }

    fn tell(&self, command: Command) {
        // The ingest outlives every caller, so a send can fail only at shutdown, when it does not
        // matter.
        let _ = self.commands.send(command);
    }

    fn ask(&self, ask: Ask) {
        let _ = self.asks.send(ask);
    }
}

impl RedisShared {
    /// Records a position that was dispatched.
    pub(crate) fn saw(&self, id: EventId) {
        let mut seen = self.seen();
        seen.id = seen.id.max(Some(id));
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Asks the ingest for a tick that covers everything it was asked for before.
    pub(crate) fn want_tick(&self) {
        self.tell(Command::Tick);
    }

    fn tell(&self, command: Command) {
        // The ingest outlives every caller, so a send can fail only at shutdown, when it does not
        // matter.
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(command);
        }
    }

    /// Adds the nine arguments that begin every tick and read: what this gateway has seen, its
    /// configured limits, and its contract.
    pub(crate) fn add_gateway_args(&self, cmd: &mut Cmd) {
        let seen = self.seen();
        let limits = &self.config.limits;
        cmd.arg(seen.id.map_or(String::new(), |id| id.to_string()))
            .arg(seen.beat.map_or(String::new(), |beat| beat.to_string()))
            .arg(limits.max_len)
            .arg(limits.ttl.as_millis() as u64)
            .arg(limits.max_data)
            .arg(limits.idempotency_ttl.as_millis() as u64)
            .arg(i32::from(limits.durable))
            .arg(self.keys.partitions())
            .arg(CONTRACT_VERSION);
    }

    /// The command for a tick.
    pub fn tick_call(&self) -> Cmd {
        let mut cmd = self.library.call(Function::Tick, 1);
        cmd.arg(self.keys.state(0));
        self.add_gateway_args(&mut cmd);
        cmd
    }

    /// Reads a tick's answer and records its clock, count and limits. Only the ingest may call
    /// this: its connection decides which data set is the current one.
    pub fn read_tick(&self, value: &Value<'_>) -> Result<EventId, SessionError> {
        let told = Told::read(value)?;
        self.saw(told.clock);
        let mut seen = self.seen();
        seen.beat = seen.beat.max(Some(told.beat));
        drop(seen);
        self.note_limits(told.limits);
        Ok(told.clock)
    }

    fn note_limits(&self, now: HistoryLimits) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if *found != Some(now) && now != self.config.limits {
            tracing::warn!(
                found = %now,
                configured = %self.config.limits,
                "Redis holds other limits than this configuration, and holds for all; \
                 `sse-gateway settings --apply` writes these"
            );
        }
        *found = Some(now);
    }

    /// Sends one command on a connection of the pool and returns the session that answered. If the
    /// library is missing, loads it again, and still returns the error. An answer after the end of
    /// the session is an error, too.
    pub(crate) async fn command(
        &self,
        cmd: &Cmd,
    ) -> Result<(Arc<Session>, redis::Value), RedisError> {
        let session = self.sessions.get().await?;
        // Boxed because this future takes 7 KB. Unboxed, so would every future that contains it,
        // such as the one of each request for a stream.
        let mut connection = Box::pin(session.pool.get()).await.map_err(pool_error)?;
        match cmd.query_async(&mut connection).await {
            Err(error) if meaning(&words(&error)) == Meaning::Missing => {
                self.ensure_library(&mut connection).await?;
                Err(error)
            }
            Ok(value) if self.sessions.confirms(&session).await => Ok((session, value)),
            Ok(_) => {
                let why = "the session ended before the answer came".to_owned();
                Err(RedisError::from((redis::ErrorKind::Io, "no session", why)))
            }
            Err(error) => Err(error),
        }
    }

    /// Loads the library into Redis unless it is there in this version or a newer one.
    pub(crate) async fn ensure_library(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), RedisError> {
        let ensured = self
            .library
            .ensure::<EnsureError>(async |cmd| {
                match cmd.query_async::<redis::Value>(connection).await {
                    Ok(redis::Value::Int(n)) => Ok(Answer::Integer(n)),
                    Ok(value) => {
                        Ok(Answer::Text(redis::from_redis_value(value).unwrap_or_default()))
                    }
                    Err(error) if error.is_io_error() => Err(EnsureError(error)),
                    Err(error) => Ok(Answer::Error(words(&error))),
                }
            })
            .await;
        ensured.map_err(|EnsureError(error)| error)
    }
}

impl Told {
    fn read(value: &Value<'_>) -> Result<Told, SessionError> {
        if let Value::Error(error) = value {
            let text = String::from_utf8_lossy(error).into_owned();
            return Err(match text.strip_prefix("SSEMISMATCH ") {
                Some(mismatch) => SessionError::Mismatch(mismatch.to_owned()),
                None => SessionError::Refused(text),
            });
        }
        let odd = || SessionError::Refused(format!("sse_tick answered {value:?}"));
        let [clock, _, numbers @ ..] = value.elements() else { return Err(odd()) };
        let clock = clock.text().and_then(|text| text.parse().ok()).ok_or_else(odd)?;
        let numbers: Vec<u64> =
            numbers.iter().filter_map(|n| u64::try_from(n.integer()?).ok()).collect();
        let [max_len, ttl, max_data, idempotency_ttl, durable, beat] = numbers[..] else {
            return Err(odd());
        };
        let limits = HistoryLimits {
            max_len,
            ttl: Duration::from_millis(ttl),
            max_data,
            idempotency_ttl: Duration::from_millis(idempotency_ttl),
            durable: durable == 1,
        };
        Ok(Told { clock, beat, limits })
    }
}

struct EnsureError(RedisError);

impl From<String> for EnsureError {
    fn from(text: String) -> Self {
        EnsureError(RedisError::from((redis::ErrorKind::Client, "no library", text)))
    }
}

/// An error's text as Redis wrote it: the code, then the words.
pub(crate) fn words(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("{code} {}", error.detail().unwrap_or_default()),
        None => error.to_string(),
    }
}

/// Converts an error of the pool. It always means that nothing was sent.
pub(crate) fn pool_error(error: PoolError) -> RedisError {
    match error {
        PoolError::Backend(error) => error,
        other => RedisError::from((redis::ErrorKind::Io, "no connection", other.to_string())),
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

/// Runs a future on a thread of its own until the future ends.
fn on_thread<F: Future<Output = ()>>(
    name: &'static str,
    vitals: &Vitals,
    work: impl FnOnce() -> F + Send + 'static,
) {
    let watching = vitals.clone();
    let run = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(watching.live(name, async {
            work().await;
            Ok::<_, Infallible>(())
        })),
        Err(error) => watching.stillborn(name, &error),
    };
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
        vitals.stillborn(name, &error);
    }
}
