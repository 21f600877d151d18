//! The admin port: metrics, health, readiness, lists and revocation. It runs on a thread of its own, so
//! that probes are answered even when the workers are busy.

use std::future::ready;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol};
use actix_server::{Server, ServerBuilder};
use actix_service::{Service, ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::{AppConfig, ServiceRequest};
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use actix_web::{FromRequest, Handler, HttpResponse, Resource, Responder, web};
use futures_util::future::Either;
use rustls::ServerConfig;
use serde_json::json;
use tokio::net::TcpStream;

use crate::http::app::App;
use crate::http::connections;
use crate::http::listing;
use crate::http::log_level;
use crate::http::problem::{Kind, Problem};
use crate::http::routes::not_allowed;
use crate::http::transport::{self, Client, HandshakeError, Transport};
use crate::vitals::Vitals;

/// The most connections of the admin port. Few clients use it, and it must not take descriptors
/// from subscribers.
const MOST: usize = 64;

/// Makes a server for the admin port. It does nothing until it is awaited.
pub(crate) fn server(
    listener: TcpListener,
    app: Arc<App>,
    tls: Option<Arc<ServerConfig>>,
    vitals: Vitals,
) -> std::io::Result<Server> {
    let (app, vitals) = (web::Data::from(app), web::Data::new(vitals));
    let builder = ServerBuilder::new().workers(1).disable_signals().shutdown_timeout(1);
    let builder = builder.max_concurrent_connections(MOST);
    let builder = builder.listen("admin", listener, move || {
        let services = actix_web::App::new()
            .app_data(app.clone())
            .app_data(vitals.clone())
            .wrap_fn(|request, service| match check_certificate(&request) {
                Ok(()) => Either::Left(service.call(request)),
                Err(problem) => Either::Right(ready(Err(problem.into()))),
            })
            .service(resource("/metrics", metrics))
            .service(resource("/healthz", healthz))
            .service(resource("/healthz/broker", broker))
            .service(resource("/readyz", readyz))
            .service(resource("/channels", listing::channels))
            .service(
                web::resource("/connections")
                    .get(listing::connections)
                    .route(web::head().to(listing::connections))
                    .delete(connections::revoke)
                    .default_service(not_allowed("GET, HEAD, DELETE")),
            )
            .service(
                web::resource("/log-level")
                    .route(web::get().to(log_level::show))
                    .route(web::head().to(log_level::show))
                    .route(web::put().to(log_level::change))
                    .default_service(not_allowed("GET, HEAD, PUT")),
            )
            .configure(on_demand)
            .default_service(web::to(not_found));
        let http = HttpService::build()
            .on_connect_ext(|io: &Transport, data| {
                data.insert(io.client());
            })
            .finish(map_config(services, |()| AppConfig::default()));
        let tls = tls.clone();
        fn_service(move |stream| ready_for_http(stream, tls.clone())).and_then(http)
    })?;
    Ok(builder.run())
}

async fn ready_for_http(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
) -> Result<(Transport, Protocol, Option<SocketAddr>), DispatchError> {
    let peer = stream.peer_addr().ok();
    let stream = match tls {
        None => Transport::Plain(stream),
        Some(config) => match Transport::secured(stream, config).await {
            Ok(stream) => stream,
            Err(error) => {
                if let HandshakeError::PlainHttp(mut stream) = error {
                    transport::explain(&mut stream).await;
                }
                return Err(DispatchError::DisconnectTimeout);
            }
        },
    };
    Ok((stream, Protocol::Http1, peer))
}

/// Refuses a client without the certificate that `tls.client_ca` requires. Probes are exempt,
/// because neither the kubelet nor a load balancer has a certificate.
fn check_certificate(request: &ServiceRequest) -> Result<(), Problem> {
    let tls = request.app_data::<web::Data<App>>().map(|app| &app.config.tls);
    let needed = tls.is_some_and(|tls| tls.admin && !tls.client_ca.is_empty());
    let probe = matches!(request.path(), "/healthz" | "/readyz");
    if !needed || probe || request.conn_data::<Client>() == Some(&Client::Certified) {
        return Ok(());
    }
    let detail = "the admin port takes a client certificate that an authority in tls.client_ca has signed; \
                  /healthz and /readyz take none";
    Err(Problem::new(Kind::CertificateRequired, detail))
}

fn resource<H, Args>(path: &str, handler: H) -> Resource
where
    H: Handler<Args, Output: Responder + 'static> + Clone,
    Args: FromRequest + 'static,
{
    let (get, head) = (web::get().to(handler.clone()), web::head().to(handler));
    web::resource(path).route(get).route(head).default_service(not_allowed("GET, HEAD"))
}

#[cfg(not(feature = "panic-on-demand"))]
fn on_demand(_: &mut web::ServiceConfig) {}

/// Adds `POST /panic/{who}` and `POST /hang/{who}`, which make the thread or task with that name
/// panic or hang, for tests.
#[cfg(feature = "panic-on-demand")]
fn on_demand(services: &mut web::ServiceConfig) {
    use crate::vitals::Trouble;

    for (path, trouble) in [("/panic/{who}", Trouble::Panic), ("/hang/{who}", Trouble::Hang)] {
        let demand = move |who: web::Path<String>, vitals: web::Data<Vitals>| async move {
            vitals.demand(&who, trouble);
            HttpResponse::Accepted().finish()
        };
        services.service(web::resource(path).post(demand));
    }
}

async fn metrics(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    // A probe that is stuck changes no metric by itself.
    app.metrics.readiness.ready.set(app.ready().is_ok().into());
    let text = app.metrics.render().map_err(|e| Problem::new(Kind::Internal, e.to_string()))?;
    // `0.0.4` is the version of the exposition format, not of the gateway.
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, kind)).body(text))
}

/// Liveness: answers whenever the process runs. It does not depend on Redis, because a restart of
/// the gateway would not repair Redis.
async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// Readiness, as the last probes found it. The broker's state is only reported, unless
/// `admin.ready_needs_broker` is set: without Redis the gateway still serves streams, and failing
/// every replica would leave clients with none.
async fn readyz(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    if !app.draining() {
        app.readiness.known().await;
    }
    app.ready()?;
    let broker = app.broker_answers().err().unwrap_or_else(|| "ok".to_owned());
    Ok(HttpResponse::Ok().json(json!({ "status": "ready", "broker": broker })))
}

/// Broker health now: sends a probe event through the broker and waits until it comes back.
async fn broker(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    app.broker.probe().await.map_err(|why| Problem::new(Kind::RedisUnavailable, why))?;
    Ok(HttpResponse::Ok().json(json!({ "status": "ok" })))
}

async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::new(
        Kind::NotFound,
        "the admin port has /metrics, /healthz, /healthz/broker, /readyz, /connections, /channels and \
         /log-level",
    ))
}
