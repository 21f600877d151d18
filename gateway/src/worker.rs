//! One worker of the public port: its hub, its guests, and HTTP on each connection that it accepts.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Protocol};
use actix_server::GracefulShutdownSignal;
use actix_service::{
    Service, ServiceFactory, ServiceFactoryExt, apply_fn_factory, fn_service, map_config,
};
use actix_web::dev::AppConfig;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::http::app::App;
use crate::http::arrival;
use crate::http::attended::attended;
use crate::http::guests::Guests;
use crate::http::routes::routes;
use crate::http::takeover::Takeable;
use crate::hub::Hub;
use crate::panics;
use crate::vitals::Vitals;

/// What every worker is assembled from.
#[derive(Debug, Clone)]
pub(crate) struct WorkerSetup {
    /// The state that all workers share.
    pub app: Arc<App>,
    /// The public address.
    pub addr: SocketAddr,
    /// TLS for each connection; `None` for plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// Learns when a part of the worker ends.
    pub vitals: Vitals,
    /// Says when the worker's streams must end, and over how long.
    pub drain: Arc<watch::Sender<Option<Duration>>>,
    /// Says when idle connections must end.
    pub stopping: GracefulShutdownSignal,
    /// How many connections that are no streams each worker may have.
    pub most_guests: usize,
}

impl WorkerSetup {
    /// Assembles a worker on this thread, which then owns its hub.
    pub(crate) fn assemble(
        &self,
    ) -> impl ServiceFactory<
        TcpStream,
        Config = (),
        Error = DispatchError,
        InitError = (),
        Response = (),
    > + use<> {
        let app = self.app.clone();
        let (hub, guests) = (self.hub(), self.guests());
        let (stopping, ending) = (self.stopping.clone(), self.stopping.clone());
        let http = HttpService::build()
            // Otherwise a drain would wait until idle kept-alive connections time out.
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            // A client that closed its side of a stream has left.
            .h1_allow_half_closed(false)
            .client_request_timeout(app.config.server.head_timeout)
            .keep_alive(KeepAlive::Timeout(app.config.server.keep_alive))
            .on_connect_ext(|io: &Takeable, data| {
                data.insert(io.order());
                if let Some(client) = io.client_addr() {
                    data.insert(client);
                }
            })
            .local_addr(self.addr)
            .finish(attended(map_config(routes(app.clone(), hub), |()| AppConfig::default())));
        let tls = self.tls.clone();
        let serve = fn_service(move |stream: TcpStream| {
            let ready = arrival::ready_for_http(stream, app.clone(), tls.clone(), guests.clone());
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
        // A panic while a connection is served ends that connection alone. Boxed, because
        // actix-server and tokio move the future eight times before it runs.
        apply_fn_factory(serve.and_then(http), |stream, serve| {
            Box::pin(panics::handling(serve.call(stream)))
        })
    }

    fn hub(&self) -> Rc<Hub> {
        let app = &self.app;
        let cells = app.metrics.worker();
        let (broker, config) = (app.broker.clone(), app.config.stream.clone());
        let hub = Hub::new(broker, config, app.open_streams.clone(), cells)
            .unwrap_or_else(|error| panic!("a worker cannot watch sockets: {error}"));
        app.add_hub(hub.inbox());
        self.vitals.spawn("a worker's hub", hub.clone().run(self.drain.subscribe()));
        hub
    }

    fn guests(&self) -> Rc<Guests> {
        let metrics = self.app.metrics.clone();
        let guests = Guests::new(self.most_guests, &self.app.config, metrics);
        self.vitals.spawn("a worker's guests", guests.clone().serve());
        guests
    }
}
