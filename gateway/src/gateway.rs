//! A gateway's life: it binds, serves and drains.
//!
//! There is no global state: two gateways can run in one process.

mod drain;

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actix_server::ServerBuilder;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::access::Access;
use crate::broker::Broker;
use crate::broker::memory::{MemoryBroker, MemoryLimits};
use crate::broker::redis::settings::RedisSettings;
use crate::broker::redis::{Offline, RedisBroker};
use crate::config::{BrokerKind, Config};
use crate::gateway::drain::Drain;
use crate::http::app::App;
use crate::http::certificate::Tls;
use crate::http::listener::{Capacity, DescriptorLimit};
use crate::http::{admin, listener};
use crate::logging::Log;
use crate::metrics::Metrics;
use crate::telemetry::Telemetry;
use crate::vitals::{self, Vitals, Watch};
use crate::worker::WorkerSetup;

/// How long a stopping gateway waits for the collector of its last spans, if its deadline leaves so
/// much.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The gateway cannot listen on an address.
    #[error("cannot listen on {addr} ({key}): {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The setting that names it.
        key: &'static str,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// A setting whose error shows only when it is used.
    #[error("configuration: {0}")]
    Config(String),
    /// Redis cannot be used.
    #[error("Redis at {addr}: {error}")]
    Redis {
        /// The address, without credentials.
        addr: String,
        /// What went wrong.
        error: String,
    },
}

/// Why a gateway ended before it was stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The operating system refuses something that a server needs.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A part that streams depend on ended; its name.
    #[error("{0} ended before its time; without it streams would stay open and hear nothing")]
    Died(String),
}

/// A gateway that is bound but does not serve yet.
#[derive(Debug)]
pub struct Gateway {
    public: TcpListener,
    admin: TcpListener,
    addr: SocketAddr,
    admin_addr: SocketAddr,
    app: Arc<App>,
    tls: Option<Tls>,
    capacity: Capacity,
    descriptors: DescriptorLimit,
    vitals: Vitals,
    watch: Watch,
}

/// Tells whether a gateway's threads do their work, for a watchdog. It keeps nothing alive.
#[derive(Debug, Clone)]
pub struct Pulse(Weak<App>);

impl Pulse {
    /// Checks that each worker reads its inbox and that the broker's threads run their tasks. The
    /// error names what did nothing within `patience`. Redis and the network play no part in it, and
    /// a drain does not disturb it.
    ///
    /// # Errors
    ///
    /// A thread hangs, or is so busy that it does nothing else for that long.
    pub async fn check(&self, patience: Duration) -> Result<(), String> {
        match self.0.upgrade() {
            Some(app) => app.lives(patience).await,
            None => Ok(()),
        }
    }
}

impl Gateway {
    /// Binds both ports and connects to the broker. Waits for Redis for at most `patience`.
    pub async fn bind(config: Config, patience: Duration) -> Result<Self, StartError> {
        let tls = Tls::of(&config.tls).map_err(|error| StartError::Config(error.to_string()))?;
        let public = listener::public(&config)
            .map_err(|error| listen_error(config.server.listen, "server.listen", error))?;
        let admin = listener::plain(config.admin.listen)
            .map_err(|error| listen_error(config.admin.listen, "admin.listen", error))?;
        let addr = |listener: &TcpListener, configured, key| {
            listener.local_addr().map_err(|error| listen_error(configured, key, error))
        };
        let admin_addr = addr(&admin, config.admin.listen, "admin.listen")?;
        let addr = addr(&public, config.server.listen, "server.listen")?;
        let metrics = Metrics::default();
        let (vitals, watch) = vitals::watch();
        let access = Access::new(&config.auth, &config.cors).map_err(StartError::Config)?;
        let broker = broker(&config, metrics.clone(), &vitals, patience).await?;
        let telemetry =
            Telemetry::start(&config.telemetry, &metrics).map_err(StartError::Config)?;
        let descriptors = listener::raise_descriptor_limit();
        let further = broker.partitions().saturating_sub(1).into();
        // Besides the pool: the connections for live events and for single events, and a timer.
        let capacity = Capacity::of(descriptors, further, config.redis.pool_size as u64 + 3);
        let max_streams = match config.stream.max_streams {
            0 => capacity.streams,
            configured => configured,
        };
        let app = App::new(config, broker, metrics, access, telemetry, addr, max_streams);
        // Revocations made before the start must be known before the first client is let in.
        app.learn_revocations().await?;
        let app = Arc::new(app);
        Ok(Gateway {
            public,
            admin,
            addr,
            admin_addr,
            app,
            tls,
            capacity,
            descriptors,
            vitals,
            watch,
        })
    }

    /// The public address, with the port that was bound.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The admin address, with the port that was bound.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// How many workers serve the public port, and how many streams they may have together.
    pub fn size(&self) -> (usize, u64) {
        (workers(&self.app.config), self.app.max_streams())
    }

    /// How many descriptors the process may have open.
    pub fn descriptors(&self) -> DescriptorLimit {
        self.descriptors
    }

    /// Lets the admin port change which lines of this log pass, and counts the lines that it drops.
    pub fn use_log(&self, log: Log) {
        self.app.metrics.count_dropped_lines(log.dropped());
        // A process has one log, so a second call changes nothing.
        let _ = self.app.log.set(log);
    }

    /// The gateway's metrics, for a program that embeds it.
    pub fn metrics(&self) -> Metrics {
        self.app.metrics.clone()
    }

    /// What a watchdog asks while the gateway runs.
    pub fn pulse(&self) -> Pulse {
        Pulse(Arc::downgrade(&self.app))
    }

    /// Serves until `stop` is done, then drains: reports not ready, refuses new streams, and ends
    /// all streams over the configured spread. Returns by the configured deadline.
    ///
    /// # Errors
    ///
    /// A server failed, or a part that streams depend on ended. Nothing serves the streams then, so
    /// the caller must end the process to disconnect them.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), RunError> {
        let (app, mut watch) = (self.app, self.watch);
        let drain_config = app.config.drain.clone();
        let drain = Arc::new(watch::Sender::new(None));
        let of_admin = self.tls.as_ref().and_then(|tls| tls.admin.clone());
        let admin = admin::server(self.admin, app.clone(), of_admin, self.vitals.clone())?;
        let (builder, most_guests) = public_builder(&app, self.capacity);
        let worker = WorkerSetup {
            app: app.clone(),
            addr: self.addr,
            tls: self.tls.as_ref().map(|tls| tls.public.clone()),
            vitals: self.vitals.clone(),
            drain: drain.clone(),
            stopping: builder.graceful_shutdown_signal(),
            most_guests,
        };
        let public = builder.listen("public", self.public, move || worker.assemble())?.run();
        let (admin_handle, public_handle) = (admin.handle(), public.handle());
        #[expect(clippy::disallowed_methods, reason = "both are waited for below")]
        let (mut admin, mut public) = (actix_rt::spawn(admin), actix_rt::spawn(public));
        let tasks = tasks(&app, self.tls, &self.vitals);
        tokio::select! {
            () = stop => {}
            name = watch.death() => return Err(RunError::Died(name)),
            _ = &mut admin => return Err(RunError::Died("the admin port's server".to_owned())),
            _ = &mut public => return Err(RunError::Died("the public port's server".to_owned())),
        }
        let story = Drain::begin(&app, &drain_config);
        let deadline = Instant::now() + drain_config.deadline;
        drain.send_replace(Some(drain_config.spread));
        let ended = async {
            // Each hub holds a receiver until its last stream has ended.
            drain.closed().await;
            public_handle.stop(true).await;
        };
        let in_time = tokio::select! {
            ended = tokio::time::timeout(drain_config.deadline, ended) => ended.is_ok(),
            never = story.follow() => match never {},
        };
        if !in_time {
            story.late(drain_config.deadline);
            public_handle.stop(false).await;
        }
        story.end();
        tasks.iter().for_each(JoinHandle::abort);
        admin_handle.stop(false).await;
        let left = deadline.saturating_duration_since(Instant::now());
        app.telemetry.finish(left.min(LAST_SPANS)).await;
        for server in [admin, public] {
            if let Ok(Err(error)) = server.await {
                return Err(error.into());
            }
        }
        Ok(())
    }
}

impl App {
    /// Reads the revocations that were made before this gateway started.
    async fn learn_revocations(&self) -> Result<(), StartError> {
        if self.access.is_open() {
            return Ok(());
        }
        let Broker::Redis(redis) = &self.broker else { return Ok(()) };
        let addr = redis.addr().to_string();
        let read = self.read_revocations().await;
        read.map_err(|error| StartError::Redis {
            addr,
            error: format!("revocations cannot be read: {error}"),
        })
    }
}

fn listen_error(addr: SocketAddr, key: &'static str, error: std::io::Error) -> StartError {
    StartError::Listen { addr, key, error }
}

async fn broker(
    config: &Config,
    metrics: Metrics,
    vitals: &Vitals,
    patience: Duration,
) -> Result<Broker, StartError> {
    let broker = match config.broker {
        BrokerKind::Memory => {
            let limits = MemoryLimits::of(config);
            Broker::Memory(Arc::new(MemoryBroker::new(limits, metrics)))
        }
        BrokerKind::Redis => {
            let redis = RedisBroker::start(RedisSettings::of(config), metrics, vitals)
                .map_err(|error| StartError::Config(error.to_string()))?;
            let online = redis.online(patience).await;
            online.map_err(|Offline { addr, error }| StartError::Redis { addr, error })?;
            Broker::Redis(redis)
        }
    };
    Ok(broker)
}

/// Starts the tasks that run beside the servers.
fn tasks(app: &Arc<App>, tls: Option<Tls>, vitals: &Vitals) -> Vec<JoinHandle<()>> {
    let mut tasks = vec![
        vitals.spawn("the clock", memory_ticks(app.clone())),
        vitals.spawn("access control", guard(app.clone())),
        vitals.spawn("the probes", probes(app.clone())),
    ];
    if let Some(tls) = tls {
        let reads = app.metrics.certificate_reads.clone();
        tasks.push(vitals.spawn("the look at the certificate", tls.follow_files(reads)));
    }
    if let Some(streams) = app.cluster_streams.clone() {
        tasks.push(vitals.spawn("the leases of streams", streams.serve()));
    }
    tasks
}

fn workers(config: &Config) -> usize {
    match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

/// The public port's server, and how many connections that are no streams each worker may have.
fn public_builder(app: &App, capacity: Capacity) -> (ServerBuilder, usize) {
    let config = &app.config;
    let workers = workers(config);
    let requests = match config.server.max_requests {
        0 => capacity.requests,
        configured => configured,
    };
    // Never accept more connections than there are descriptors; the others wait in the backlog. A
    // process without descriptors cannot answer anybody.
    let most = (app.max_streams() as usize).saturating_add(requests).div_ceil(workers);
    let builder = ServerBuilder::new()
        .workers(workers)
        .max_concurrent_connections(config.server.max_connections.min(most))
        .disable_signals()
        .shutdown_timeout(config.drain.deadline.as_secs());
    (builder, requests.div_ceil(workers))
}

/// Raises the memory broker's clock. Redis needs no such task, because each gateway's tick raises
/// its clock.
async fn memory_ticks(app: Arc<App>) -> Result<(), Infallible> {
    let Broker::Memory(broker) = &app.broker else { return Ok(()) };
    let mut interval = tokio::time::interval(app.config.redis.tick);
    loop {
        interval.tick().await;
        broker.tick(None);
    }
}

/// Probes whether clients can be sent here.
async fn probes(app: Arc<App>) -> Result<(), Infallible> {
    app.probe().await
}

/// Keeps the issuers' key sets and the revocations up to date.
async fn guard(app: Arc<App>) -> Result<(), Infallible> {
    tokio::join!(app.access.watch_keys(), app.follow_revocations());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn the_death_of_a_part_ends_the_gateway() {
        let flags =
            ["server.listen", "admin.listen"].map(|key| (key.to_owned(), "127.0.0.1:0".to_owned()));
        let config = Config::load(None, std::iter::empty(), &flags).unwrap();
        let gateway = Gateway::bind(config, Duration::ZERO).await.unwrap();
        gateway.vitals.stillborn("a part", &"of the test");
        let run = gateway.run(std::future::pending());
        let ended = tokio::time::timeout(Duration::from_secs(60), run).await.expect("an end");
        assert!(
            matches!(&ended, Err(RunError::Died(name)) if name == "a part (of the test)"),
            "{ended:?}"
        );
    }
}
