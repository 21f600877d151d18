//! Redis as the broker: what its parts share, and the front that hubs and handlers talk to.
//!
//! Connections of different kinds: the ingest's own (live events and ticks), a pool for reads and batches, and the line
//! for events published singly. None is waited for by another; all are of the ingest's session.

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

/// How long a refusal to show a history is taken for granted before it is asked for again.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// What the parts of the Redis broker share.
#[derive(Debug)]
pub struct RedisShared {
    /// What it was configured for.
    pub config: RedisSettings,
    pub(crate) keys: Keys,
    /// Where Redis is.
    pub info: ConnectionInfo,
    /// What TLS to it is made of.
    pub tls: RedisTls,
    /// The address without credentials, for logs.
    pub(crate) addr: String,
    pub(crate) library: Library,
    /// What all connections belong to.
    pub sessions: Sessions,
    /// For connections of one's own.
    pub(crate) client: redis::Client,
    pub(crate) metrics: Metrics,
    pub(crate) probe_channel: String,
    /// Where gateways call each other to read revocations.
    pub(crate) revocation_channel: String,
    pub(crate) revocations_called: Notify,
    /// Commands for the ingest, for as long as the front lives: without it the ingest ends.
    commands: mpsc::WeakUnboundedSender<Command>,
    /// What this gateway has seen: a new epoch begins above it.
    seen: Mutex<Seen>,
    /// The limits as Redis holds them, once known.
    found: Mutex<Option<HistoryLimits>>,
    /// Histories that Redis refuses to show this user, and since when that is known.
    refused: Mutex<HashMap<Channel, Instant>>,
}

/// What tells a Redis that it has forgotten something.
#[derive(Debug, Default)]
struct Seen {
    /// The highest position.
    id: Option<EventId>,
    /// The highest count of ticks. Only ticks raise it: a clock that was set back is soon above all that was seen again.
    beat: Option<u64>,
}

/// What a tick tells.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    /// Nothing at or below this position can still be published.
    pub clock: EventId,
    /// Ticks counted in this data set.
    pub beat: u64,
    /// The limits that hold for all writers.
    pub limits: HistoryLimits,
}

/// The broker's front.
#[derive(Debug)]
pub struct RedisBroker {
    pub(crate) shared: Arc<RedisShared>,
    commands: mpsc::UnboundedSender<Command>,
    asks: mpsc::UnboundedSender<Ask>,
    line: Line,
    status: watch::Receiver<Status>,
    workers: Mutex<u16>,
}

/// What the broker's threads work with.
#[derive(Debug)]
pub struct Works {
    /// Of all threads.
    pub shared: Arc<RedisShared>,
    /// What the ingest is asked.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// What the history thread is asked.
    pub asks: mpsc::UnboundedReceiver<Ask>,
    /// What the line's thread is to publish.
    pub queue: Arc<Queue>,
    /// What the ingest says of itself.
    pub status: watch::Sender<Status>,
}

impl RedisBroker {
    /// Starts the broker's threads; they connect, and go on trying.
    pub fn start(
        config: RedisSettings,
        metrics: Metrics,
        vitals: &Vitals,
    ) -> Result<Arc<Self>, BadRedis> {
        // The redis crate brings no TLS provider of its own; the first one installed is as good as ours.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (broker, works) = RedisBroker::without_threads(config, metrics)?;
        let Works { shared, commands, asks, queue, status } = works;
        let (ingest, line) = (shared.clone(), shared.clone());
        on_thread("sse-ingest", vitals, move || Ingest::new(ingest, commands, status).run());
        on_thread("sse-publish", vitals, move || connection::run(line, queue));
        on_thread("sse-history", vitals, move || history::run(shared, asks));
        Ok(broker)
    }

    /// A broker whose threads are not started, and what they would work with: the model of the join moves it step by
    /// step.
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
            // No channel's name begins with a colon, so this one is nobody's.
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

    /// Waits until live events are received, or says why that does not come about within `patience`.
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

    /// What its parts share.
    pub(crate) fn shared(&self) -> &Arc<RedisShared> {
        &self.shared
    }

    /// The address without credentials.
    pub fn addr(&self) -> &str {
        &self.shared.addr
    }

    /// Adds a worker.
    pub fn register(&self, inbox: Arc<Inbox>) -> u16 {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(Command::Register(inbox.clone()));
        self.ask(Ask::Register(inbox));
        *workers += 1;
        *workers - 1
    }

    /// Attaches a channel once Redis has confirmed it.
    pub fn attach(&self, worker: u16, channel: &Channel, key: ChannelKey) {
        self.tell(Command::Attach(worker, channel.clone(), key));
    }

    /// Ends an attachment.
    pub fn detach(&self, worker: u16, channel: &Channel, key: ChannelKey) {
        self.tell(Command::Detach(worker, channel.clone(), key));
    }

    /// Asks for a tick.
    pub fn want_tick(&self) {
        self.shared.want_tick();
    }

    /// Asks for history.
    pub fn read(&self, request: ReadRequest) {
        self.ask(Ask::Read(request));
    }

    /// A part of one channel's history.
    pub async fn history(&self, channel: &Channel, after: EventId) -> Result<Snapshot, String> {
        let parts = [(channel.clone(), after, Extent::All)];
        let patience = self.shared.config.request_timeout;
        match tokio::time::timeout(patience, history::read(&self.shared, &parts)).await {
            Ok(read) => read.map_err(|error| format!("Redis: {error}")),
            Err(_) => Err(format!("Redis: no answer within {patience:?}")),
        }
    }

    /// Publishes in order; a single event by the line.
    pub async fn publish(&self, items: &[Publication]) -> Vec<Result<EventId, PublishError>> {
        publish::publish(&self.shared, &self.line, items).await
    }

    /// Whether live events are received, as it is known now; the error says why not.
    pub fn status(&self) -> Result<(), String> {
        match &*self.status.borrow() {
            Status::Online => Ok(()),
            Status::Connecting => Err("not connected yet".to_owned()),
            Status::Offline(why) | Status::Mismatch(why) => Err(why.clone()),
        }
    }

    /// Sends an event through Redis and waits for it to come back through the ingest.
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

    /// Runs one function that only an operator calls; answers the clock.
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

    /// The limits this gateway is configured for, and those Redis holds.
    pub fn limits(&self) -> (HistoryLimits, Option<HistoryLimits>) {
        let found = self.shared.found.lock().unwrap_or_else(PoisonError::into_inner);
        (self.shared.config.limits, *found)
    }

    fn tell(&self, command: Command) {
        // The ingest ends only after everybody who could ask; a late word to it means nothing.
        let _ = self.commands.send(command);
    }

    fn ask(&self, ask: Ask) {
        let _ = self.asks.send(ask);
    }
}

impl RedisShared {
    /// Notes a position that was dispatched.
    pub(crate) fn saw(&self, id: EventId) {
        let mut seen = self.seen();
        seen.id = seen.id.max(Some(id));
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether Redis refused to show a channel's history a moment ago.
    pub(crate) fn refuses(&self, channel: &Channel) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(channel).is_some_and(|since| since.elapsed() < REFUSED_FOR)
    }

    /// Redis refuses to show a channel's history.
    pub(crate) fn note_refused(&self, channel: &Channel) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|_, since| since.elapsed() < REFUSED_FOR);
        refused.insert(channel.clone(), Instant::now());
    }

    /// Asks the ingest for a tick behind all it was asked for before.
    pub(crate) fn want_tick(&self) {
        self.tell(Command::Tick);
    }

    fn tell(&self, command: Command) {
        // The ingest ends only after everybody who could ask; a late word to it means nothing.
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(command);
        }
    }

    /// The nine arguments that tell the library who calls.
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

    /// The tick's command.
    pub fn tick_call(&self) -> Cmd {
        let mut cmd = self.library.call(Function::Tick, 1);
        cmd.arg(self.keys.state(0));
        self.add_gateway_args(&mut cmd);
        cmd
    }

    /// The tick's answer, noted: it is the ingest's word for what the data set is.
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

    /// Sends one command on a connection of the pool; puts the library back if it is missing. Answers in which session.
    pub(crate) async fn command(
        &self,
        cmd: &Cmd,
    ) -> Result<(Arc<Session>, redis::Value), RedisError> {
        let session = self.sessions.get().await?;
        // Boxed: it takes 7 KB, and so would all that may come to it, such as each request for a stream.
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

    /// Makes sure of the library.
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

/// An error as Redis wrote it: its code, then its words.
pub(crate) fn words(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("{code} {}", error.detail().unwrap_or_default()),
        None => error.to_string(),
    }
}

/// What the pool could not do, as an error of Redis: nothing was sent.
pub(crate) fn pool_error(error: PoolError) -> RedisError {
    match error {
        PoolError::Backend(error) => error,
        other => RedisError::from((redis::ErrorKind::Io, "no connection", other.to_string())),
    }
}

/// The waits between attempts to reach Redis: growing, jittered, without end.
pub(crate) fn delays(longest: Duration) -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Runs a future on a thread of its own, until it ends by itself.
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
