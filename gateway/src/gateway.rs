//! A gateway from its configuration to its end: binds, serves, drains.
//!
//! Nothing here is global: two gateways can live in one process.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Protocol, Request, Version};
use actix_server::ServerBuilder;
use actix_service::{
    Service, ServiceFactory, ServiceFactoryExt, apply_fn_factory, fn_service, map_config,
};
use actix_web::body::EitherBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use bytes::Bytes;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::access::Access;
use crate::access::admission::Lease;
use crate::access::client::ClientAddr;
use crate::broker::Broker;
use crate::broker::memory::{MemoryBroker, MemoryLimits};
use crate::broker::redis::RedisBroker;
use crate::broker::redis::settings::RedisSettings;
use crate::config::{BrokerKind, Config};
use crate::http::app::App;
use crate::http::certificate::Tls;
use crate::http::guests::Guests;
use crate::http::listener::Room;
use crate::http::routes::routes;
use crate::http::takeover::{Takeable, TakeoverOrder, UnderWay};
use crate::http::transport::{self, HandshakeError, Transport};
use crate::http::{admin, listener, proxy_protocol};
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::panics;
use crate::vitals::{self, Vitals, Watch};

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {addr} ({key}): {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The setting that names it.
        key: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
    /// A setting that only shows when it is used.
    #[error("configuration: {0}")]
    Config(String),
    /// Redis cannot be used.
    #[error("Redis at {addr}: {error}")]
    Redis {
        /// The address, without credentials.
        addr: String,
        /// Why.
        error: String,
    },
}

/// Why a gateway ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system refuses something that a server needs.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A part ended that streams depend on.
    #[error("{0} ended before its time; without it streams would stay open and hear nothing")]
    Died(String),
}

/// A gateway that is bound and does not serve yet.
#[derive(Debug)]
pub struct Gateway {
    public: TcpListener,
    admin: TcpListener,
    addr: SocketAddr,
    admin_addr: SocketAddr,
    app: Arc<App>,
    tls: Option<Tls>,
    room: Room,
    vitals: Vitals,
    watch: Watch,
}

impl Gateway {
    /// Binds both ports and connects to the broker; waits for Redis for `patience` at most.
    pub async fn bind(config: Config, patience: Duration) -> Result<Self, StartError> {
        let tls = Tls::of(&config.tls).map_err(|error| StartError::Config(error.to_string()))?;
        let public = listener::public(&config)
            .map_err(|error| listen_error(config.server.listen, "server.listen", error))?;
        let admin = listener::plain(config.admin.listen)
            .map_err(|error| listen_error(config.admin.listen, "admin.listen", error))?;
        let addr = |listener: &TcpListener, key| {
            listener.local_addr().map_err(|error| listen_error(config.server.listen, key, error))
        };
        let (addr, admin_addr) = (addr(&public, "server.listen")?, addr(&admin, "admin.listen")?);
        let metrics = Metrics::default();
        let (vitals, watch) = vitals::watch();
        let access = Access::new(&config.auth, &config.cors).map_err(StartError::Config)?;
        let broker = broker(&config, metrics.clone(), &vitals, patience).await?;
        let room = listener::descriptor_room();
        let max_streams = match config.stream.max_streams {
            0 => room.streams,
            configured => configured,
        };
        let app = App::new(config, broker, metrics, access, addr, max_streams);
        // Whoever was revoked before this must not be let in while that is being read.
        app.learn_revocations().await?;
        let app = Arc::new(app);
        Ok(Gateway { public, admin, addr, admin_addr, app, tls, room, vitals, watch })
    }

    /// The public address, with the port that was bound.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The admin address, with the port that was bound.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// The metrics, for whoever embeds a gateway.
    pub fn metrics(&self) -> Metrics {
        self.app.metrics.clone()
    }

    /// Serves until `stop` is done, then drains: not ready, no new streams, all streams ended over the
    /// configured spread. Returns by the configured deadline.
    ///
    /// # Errors
    ///
    /// A part that streams depend on ended before its time: they are not served any more, and are to be cut off by the
    /// process' end.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), RunError> {
        let (app, mut watch) = (self.app, self.watch);
        let drain_config = app.config.drain.clone();
        let drain = Arc::new(watch::Sender::new(None));
        let of_admin = self.tls.as_ref().and_then(|tls| tls.admin.clone());
        let admin = admin::server(self.admin, app.clone(), of_admin, self.vitals.clone())?;
        let public = public_server(
            (self.public, self.addr),
            self.tls.as_ref().map(|tls| tls.public.clone()),
            &app,
            self.room,
            &self.vitals,
            drain.clone(),
        )?;
        let (admin_handle, public_handle) = (admin.handle(), public.handle());
        let (mut admin, mut public) = (actix_rt::spawn(admin), actix_rt::spawn(public));
        let (ticking, watching) = (app.clone(), self.vitals.clone());
        let ticks =
            actix_rt::spawn(async move { watching.live("the clock", memory_ticks(ticking)).await });
        let (guarding, watching) = (app.clone(), self.vitals.clone());
        let guards =
            actix_rt::spawn(async move { watching.live("access control", guard(guarding)).await });
        let certificate = self.tls.map(|tls| {
            let (watching, reads) = (self.vitals.clone(), app.metrics.certificate_reads.clone());
            actix_rt::spawn(async move {
                watching.live("the look at the certificate", tls.follow_files(reads)).await;
            })
        });
        if let Some(streams) = app.cluster_streams.clone() {
            let watching = self.vitals.clone();
            actix_rt::spawn(async move {
                watching.live("the leases of streams", streams.serve()).await;
            });
        }
        tokio::select! {
            () = stop => {}
            name = watch.death() => return Err(RunError::Died(name)),
            _ = &mut admin => return Err(RunError::Died("the admin port's server".to_owned())),
            _ = &mut public => return Err(RunError::Died("the public port's server".to_owned())),
        }
        app.begin_drain();
        let streams = app.metrics.sum(|cells| cells.subscribers.get());
        tracing::info!(streams, spread = ?drain_config.spread, "draining");
        drain.send_replace(Some(drain_config.spread));
        let ended = async {
            // Each hub holds a receiver until its last stream has ended.
            drain.closed().await;
            public_handle.stop(true).await;
        };
        if tokio::time::timeout(drain_config.deadline, ended).await.is_err() {
            tracing::warn!(deadline = ?drain_config.deadline, "the drain's deadline passed");
            public_handle.stop(false).await;
        }
        ticks.abort();
        guards.abort();
        if let Some(certificate) = certificate {
            certificate.abort();
        }
        admin_handle.stop(false).await;
        for server in [admin, public] {
            if let Ok(Err(error)) = server.await {
                return Err(error.into());
            }
        }
        Ok(())
    }
}

impl App {
    /// What was revoked before this gateway began.
    async fn learn_revocations(&self) -> Result<(), StartError> {
        if self.access.is_open() {
            return Ok(());
        }
        let Broker::Redis(redis) = &self.broker else { return Ok(()) };
        let addr = redis.addr().to_owned();
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
            let limits = MemoryLimits {
                max_len: config.history.max_len as usize,
                ttl: config.history.ttl,
                bytes: config.history.memory_bytes,
                event_bytes: config.publish.max_event_bytes as usize,
                idempotency_ttl: config.publish.idempotency_ttl,
                page_bytes: config.history.page_bytes,
            };
            Broker::Memory(Arc::new(MemoryBroker::new(limits, metrics)))
        }
        BrokerKind::Redis => {
            let redis = RedisBroker::start(RedisSettings::of(config), metrics, vitals)
                .map_err(|error| StartError::Config(error.to_string()))?;
            redis
                .online(patience)
                .await
                .map_err(|error| StartError::Redis { addr: redis.addr().to_owned(), error })?;
            Broker::Redis(redis)
        }
    };
    Ok(broker)
}

fn public_server(
    (listener, addr): (TcpListener, SocketAddr),
    tls: Option<Arc<ServerConfig>>,
    app: &Arc<App>,
    room: Room,
    vitals: &Vitals,
    drain: Arc<watch::Sender<Option<Duration>>>,
) -> std::io::Result<actix_server::Server> {
    let config = &app.config;
    let workers = match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let requests = match config.server.max_requests {
        0 => room.requests,
        configured => configured,
    };
    let most_guests = requests.div_ceil(workers);
    // More than there are descriptors for wait to be accepted: a process without descriptors answers nobody.
    let most = (app.max_streams() as usize).saturating_add(requests).div_ceil(workers);
    let builder = ServerBuilder::new()
        .workers(workers)
        .max_concurrent_connections(config.server.max_connections.min(most))
        .disable_signals()
        .shutdown_timeout(config.drain.deadline.as_secs());
    let stopping = builder.graceful_shutdown_signal();
    let (app, vitals) = (app.clone(), vitals.clone());
    let builder = builder.listen("public", listener, move || {
        // A worker's hub lives on the worker's thread, which is where this runs.
        let cells = app.metrics.worker();
        let hub = Hub::new(app.broker.clone(), app.config.stream.clone(), cells)
            .unwrap_or_else(|error| panic!("a worker cannot watch sockets: {error}"));
        app.add_hub(hub.inbox());
        let (watching, serving) = (vitals.clone(), hub.clone().run(drain.subscribe()));
        actix_rt::spawn(async move { watching.live("a worker's hub", serving).await });
        let guests = Guests::new(most_guests, &app.config, app.metrics.rejected.clone());
        let (watching, serving) = (vitals.clone(), guests.clone().serve());
        actix_rt::spawn(async move { watching.live("a worker's guests", serving).await });
        let (stopping, ending) = (stopping.clone(), stopping.clone());
        let http = HttpService::build()
            // Otherwise an idle kept-alive connection would hold the stop until it times out.
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            // A client that closed its side of a stream is gone.
            .h1_allow_half_closed(false)
            .client_request_timeout(app.config.server.head_timeout)
            .keep_alive(KeepAlive::Timeout(app.config.server.keep_alive))
            .on_connect_ext(|io: &Takeable, data| {
                data.insert(io.order());
                if let Some(client) = io.client_addr() {
                    data.insert(client);
                }
            })
            .local_addr(addr)
            .finish(attended(map_config(routes(app.clone(), hub), |()| AppConfig::default())));
        let (app, tls) = (app.clone(), tls.clone());
        let serve = fn_service(move |stream: TcpStream| {
            let ready = ready_for_http(stream, app.clone(), tls.clone(), guests.clone());
            let stopping = ending.clone();
            async move {
                let (io, protocol, peer) = ready.await?;
                let io = match protocol {
                    Protocol::Http2 => {
                        io.ending_with(Box::pin(async move { stopping.notified().await }))
                    }
                    _ => io,
                };
                Ok((io, protocol, peer))
            }
        });
        // What goes wrong in serving a connection ends that connection alone.
        // Boxed: actix-server and tokio move it eight times before it runs.
        apply_fn_factory(serve.and_then(http), |stream, serve| {
            Box::pin(panics::handling(serve.call(stream)))
        })
    })?;
    Ok(builder.run())
}

/// A connection, from where it was accepted to where HTTP begins.
async fn ready_for_http(
    mut stream: TcpStream,
    app: Arc<App>,
    tls: Option<Arc<ServerConfig>>,
    guests: Rc<Guests>,
) -> Result<(Takeable, Protocol, Option<SocketAddr>), DispatchError> {
    let peer = stream.peer_addr()?;
    // Without a place it is closed at once.
    let place = guests.enter().ok_or(DispatchError::DisconnectTimeout)?;
    let (client, lease) = place.waiting(arrive(&mut stream, peer.ip(), &app)).await?;
    let lease = lease.map(Rc::new);
    let stream = match tls {
        None => Transport::Plain(stream),
        // Boxed, so that connections without TLS do not hold the place of a handshake.
        Some(config) => match place.waiting(Box::pin(Transport::secured(stream, config))).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "a handshake of TLS comes to nothing");
                guests.no_handshake();
                match error {
                    HandshakeError::PlainHttp(mut stream) => {
                        transport::explain(&mut stream).await;
                        guests.see_out(Transport::Plain(stream), place, lease);
                    }
                    HandshakeError::Disagreed(stream, _) => {
                        guests.see_out(Transport::Plain(stream), place, lease);
                    }
                    HandshakeError::Failed(_) => {}
                }
                return Err(DispatchError::DisconnectTimeout);
            }
        },
    };
    let protocol = stream.protocol();
    let io = Takeable::new(stream, place, &guests);
    io.is_of(client, lease);
    Ok((io, protocol, Some(peer)))
}

/// The first step of a connection that was accepted: whose it is, and whether it may come in. Whoever may not is closed
/// without a word, which costs least.
async fn arrive(
    stream: &mut TcpStream,
    peer: IpAddr,
    app: &App,
) -> Result<(ClientAddr, Option<Lease>), DispatchError> {
    let client = proxy_protocol::client(stream, peer, &app.config.server).await;
    let client = client.inspect_err(|error| {
        app.reject("proxy_header");
        tracing::debug!(%peer, %error, "a trusted proxy did not say whose its connection is");
    })?;
    let lease = app.admission.connection(client).map_err(|refused| {
        app.reject(refused.over.reason());
        DispatchError::DisconnectTimeout
    })?;
    Ok((client, lease))
}

/// Serves the requests of HTTP/2 as `app` does all: actix runs each in a task of its own, where a panic would not be taken
/// for the connection's own, and knows no number of those under way.
fn attended<B: MessageBody + 'static>(
    app: impl ServiceFactory<
        Request,
        Config = (),
        Response = ServiceResponse<B>,
        Error = actix_web::Error,
        InitError = (),
    >,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = ServiceResponse<EitherBody<B, BoxBody>>,
    Error = actix_web::Error,
    InitError = (),
> {
    apply_fn_factory(app, |request: Request, app| {
        let order = request.conn_data::<TakeoverOrder>();
        let of_http2 = order.filter(|_| request.version() == Version::HTTP_2);
        let under_way = of_http2.map(TakeoverOrder::begins_request);
        let answer = panics::handling(app.call(request));
        async move {
            let response = answer.await?;
            let Some(under_way) = under_way else { return Ok(response.map_into_left_body()) };
            let attend = |_: &mut _, body| Attended { body, _under_way: under_way };
            let attended = response.map_into_boxed_body().map_body(attend);
            Ok(attended.map_into_boxed_body().map_into_right_body())
        }
    })
}

/// A body whose request is under way until it has ended.
struct Attended {
    body: BoxBody,
    _under_way: UnderWay,
}

impl MessageBody for Attended {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

/// Redis' clock is raised by each gateway's tick; the embedded one by this.
async fn memory_ticks(app: Arc<App>) -> Result<(), Infallible> {
    let Broker::Memory(broker) = &app.broker else { return Ok(()) };
    let mut interval = tokio::time::interval(app.config.redis.tick);
    loop {
        interval.tick().await;
        broker.tick(None);
    }
}

/// Keeps what access control knows from elsewhere up to date.
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
