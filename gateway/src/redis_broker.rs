//! Redis as the broker: what its parts share, and the front that hubs and handlers talk to.
//!
//! Connections of different kinds: the ingest's own (live events and ticks), a pool for reads and batches, and each
//! worker's line for events published singly. None is waited for by another.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use backon::BackoffBuilder;
use deadpool_redis::{Pool, PoolError};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionInfo, RedisError};
use sse_contract::{CONTRACT_VERSION, Channel, EventId, Function, Keys};
use tokio::sync::{mpsc, oneshot, watch};

use crate::broker::{Publication, PublishError, ReadRequest};
use crate::connector::SessionError;
use crate::dispatch::Command;
use crate::history::{self, Ask};
use crate::inbox::{ChannelKey, Inbox};
use crate::ingest::{Ingest, Status};
use crate::library::{Answer, Library};
use crate::metrics::Metrics;
use crate::redis_line::Line;
use crate::redis_publisher;
use crate::redis_settings::{self, BadRedisUrl, HistoryLimits, RedisSettings, connection_info};
use crate::resp::Value;
use crate::snapshot::{Extent, Snapshot};

/// What the parts of the Redis broker share.
#[derive(Debug)]
pub struct RedisShared {
    pub(crate) config: RedisSettings,
    pub(crate) keys: Keys,
    pub(crate) info: ConnectionInfo,
    /// The address without credentials, for logs.
    pub(crate) addr: String,
    pub(crate) library: Library,
    pub(crate) pool: Pool,
    /// For connections of one's own.
    pub(crate) client: redis::Client,
    pub(crate) metrics: Metrics,
    pub(crate) probe_channel: String,
    /// The highest position this gateway has seen: a new epoch begins above it.
    seen: Mutex<Option<EventId>>,
    /// The limits as Redis holds them, once known.
    found: Mutex<Option<HistoryLimits>>,
}

/// The broker's front.
#[derive(Debug)]
pub struct RedisBroker {
    shared: Arc<RedisShared>,
    commands: mpsc::UnboundedSender<Command>,
    asks: mpsc::UnboundedSender<Ask>,
    status: watch::Receiver<Status>,
    workers: Mutex<u16>,
}

impl RedisBroker {
    /// Starts the broker's threads; they connect, and go on trying.
    pub fn start(config: RedisSettings, metrics: Metrics) -> Result<Arc<Self>, BadRedisUrl> {
        let info = connection_info(&config.url)?;
        // The redis crate brings no TLS provider of its own; the first one installed is as good as ours.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pool = config.pool(&info).map_err(BadRedisUrl::new)?;
        let client = redis_settings::client(&info).map_err(BadRedisUrl::new)?;
        let shared = Arc::new(RedisShared {
            keys: Keys::new(config.prefix.clone(), 1),
            addr: info.addr().to_string(),
            // No channel's name begins with a colon, so this one is nobody's.
            probe_channel: format!("{}::probe:{:016x}", config.prefix, fastrand::u64(..)),
            info,
            library: Library::default(),
            pool,
            client,
            metrics,
            seen: Mutex::default(),
            found: Mutex::default(),
            config,
        });
        let (commands, commands_rx) = mpsc::unbounded_channel();
        let (asks, asks_rx) = mpsc::unbounded_channel();
        let (status_tx, status) = watch::channel(Status::Connecting);
        let ingest = shared.clone();
        on_thread("sse-ingest", move || Ingest::new(ingest, commands_rx, status_tx).run());
        let reader = shared.clone();
        on_thread("sse-history", move || history::run(reader, asks_rx));
        Ok(Arc::new(RedisBroker { shared, commands, asks, status, workers: Mutex::new(0) }))
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
        self.tell(Command::Tick);
    }

    /// Asks for history.
    pub fn read(&self, request: ReadRequest) {
        self.ask(Ask::Read(request));
    }

    /// A part of one channel's history.
    pub async fn history(&self, channel: &Channel, after: EventId) -> Result<Snapshot, String> {
        let part = (channel.clone(), after, Extent::All);
        history::read(&self.shared, &[part]).await.map_err(|error| format!("Redis: {error}"))
    }

    /// Publishes in order; a single event by the caller's line.
    pub async fn publish(
        &self,
        line: &Line,
        items: &[Publication],
    ) -> Vec<Result<EventId, PublishError>> {
        redis_publisher::publish(&self.shared, line, items).await
    }

    /// Sends an event through Redis and waits for it to come back through the ingest.
    pub async fn probe(&self) -> Result<(), String> {
        let text = format!("{:032x}", fastrand::u128(..));
        let (arrived, arrival) = oneshot::channel();
        self.tell(Command::Probe(text.clone(), arrived));
        let publish = redis::cmd("PUBLISH").arg(&self.shared.probe_channel).arg(&text).to_owned();
        let work = async {
            self.shared.command(&publish).await.map_err(|error| error.to_string())?;
            arrival.await.map_err(|_| "the ingest is gone".to_owned())
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
        self.shared.command(&cmd).await.and_then(|value| Ok(redis::from_redis_value(value)?))
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
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = (*seen).max(Some(id));
    }

    /// The eight arguments that tell the library who calls.
    pub(crate) fn add_gateway_args(&self, cmd: &mut Cmd) {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = &self.config.limits;
        cmd.arg(seen.map_or(String::new(), |id| id.to_string()))
            .arg(i32::from(self.config.durable))
            .arg(limits.max_len)
            .arg(limits.ttl.as_millis() as u64)
            .arg(limits.max_data)
            .arg(limits.idempotency_ttl.as_millis() as u64)
            .arg(self.keys.partitions())
            .arg(CONTRACT_VERSION);
    }

    /// The tick's command.
    pub(crate) fn tick_call(&self) -> Cmd {
        let mut cmd = self.library.call(Function::Tick, 1);
        cmd.arg(self.keys.state(0));
        self.add_gateway_args(&mut cmd);
        cmd
    }

    /// The tick's answer: the clock. Notes the limits that Redis holds.
    pub(crate) fn read_tick(&self, value: &Value<'_>) -> Result<EventId, SessionError> {
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
        let [max_len, ttl, max_data, idempotency_ttl] = numbers[..] else { return Err(odd()) };
        self.note_limits(HistoryLimits {
            max_len,
            ttl: Duration::from_millis(ttl),
            max_data,
            idempotency_ttl: Duration::from_millis(idempotency_ttl),
        });
        Ok(clock)
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

    /// Sends one command on a connection of the pool; puts the library back if it is missing.
    pub(crate) async fn command(&self, cmd: &Cmd) -> Result<redis::Value, RedisError> {
        let mut connection = self.pool.get().await.map_err(pool_error)?;
        match cmd.query_async(&mut connection).await {
            Err(error) if crate::library::is_missing(&error.to_string()) => {
                self.ensure_library(&mut connection).await?;
                Err(error)
            }
            other => other,
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
                    Err(error) => Ok(Answer::Error(error.to_string())),
                }
            })
            .await;
        ensured.map_err(|EnsureError(error)| error)
    }
}

struct EnsureError(RedisError);

impl From<String> for EnsureError {
    fn from(text: String) -> Self {
        EnsureError(RedisError::from((redis::ErrorKind::Client, "no library", text)))
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
fn on_thread<F: Future<Output = ()>>(name: &str, work: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(work()),
            Err(error) => tracing::error!(%error, "a thread has no runtime"),
        }
    };
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
        tracing::error!(%error, thread = name, "a thread cannot be started");
    }
}
