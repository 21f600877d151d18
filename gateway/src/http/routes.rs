//! The public port: its routes, and the middleware around them.

use std::rc::Rc;
use std::sync::Arc;

use actix_cors::Cors;
use actix_service::Service;
use actix_web::dev::{Path, ServiceRequest, ServiceResponse, Url};
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::http::{Uri, Version};
use actix_web::middleware::Condition;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, ResponseError, Route, web};
use actix_web_lab::extract::LocalData;
use actix_web_lab::middleware::CatchPanic;
use futures_util::FutureExt;
use futures_util::future::{Either, ready};

use crate::config::CorsConfig;
use crate::http::app::App;
use crate::http::problem::{self, Kind, Problem};
use crate::http::subscribe::{self, HubHandle};
use crate::http::takeover::TakeoverOrder;
use crate::http::{channel, console, publish, request, tickets, unread_body};
use crate::hub::Hub;

/// The HTTP application of one worker; `hub` is that worker's hub.
pub(crate) fn routes(
    app: Arc<App>,
    hub: Rc<Hub>,
) -> actix_web::App<
    impl actix_service::ServiceFactory<
        actix_web::dev::ServiceRequest,
        Config = (),
        Response = actix_web::dev::ServiceResponse<impl actix_web::body::MessageBody>,
        Error = actix_web::Error,
        InitError = (),
    >,
> {
    let cors_config = app.config.cors.clone();
    let max_head_bytes = app.config.server.max_head_bytes;
    actix_web::App::new()
        .app_data(web::Data::from(app))
        .app_data(LocalData::new(HubHandle(hub)))
        // The first wrapper is the innermost.
        .wrap(CatchPanic::default())
        .wrap(Condition::new(!cors_config.origins.is_empty(), cors(&cors_config)))
        .wrap_fn(move |request, service| {
            match request::check_head(request.request(), max_head_bytes) {
                Ok(()) => Either::Left(service.call(request)),
                Err(problem) => Either::Right(ready(Err(problem.into()))),
            }
        })
        .wrap_fn(|request, service| {
            let answered = service.call(request);
            answered.map(|response| response.map(problem::in_place).map_err(problem::of))
        })
        .wrap_fn(|mut request, service| {
            let (connection, version) =
                (request.conn_data::<TakeoverOrder>().cloned(), request.version());
            if let Some(connection) = &connection {
                connection.asks(true, version);
            }
            // h2 discards a body once nothing holds it. A body that is held but never read lets h2
            // queue empty frames without bound (RUSTSEC-2026-0258), so it is dropped here.
            if version == Version::HTTP_2 && request.method().is_safe() {
                drop(request.take_payload());
            }
            let body = unread_body::share(&mut request);
            service.call(request).map(move |response| {
                if let Some(connection) = connection {
                    connection.asks(false, version);
                }
                Ok(unread_body::hold(let_go(response?), body))
            })
        })
        .configure(resources)
        .default_service(web::to(not_found))
}

/// The routes: paths, methods and their handlers.
fn resources(services: &mut web::ServiceConfig) {
    services
        .service(
            web::resource("/events")
                .get(subscribe::get)
                .route(web::head().to(subscribe::head_only))
                .default_service(not_allowed("GET, HEAD")),
        )
        .service(
            web::resource("/channels/{channel}")
                .get(channel::info)
                .route(web::head().to(channel::info))
                .post(publish::one)
                .default_service(not_allowed("GET, HEAD, POST")),
        )
        .service(
            web::resource("/channels/{channel}/history")
                .get(channel::history)
                .route(web::head().to(channel::history))
                .default_service(not_allowed("GET, HEAD")),
        )
        .service(web::resource("/publish").post(publish::many).default_service(not_allowed("POST")))
        .service(
            web::resource("/tickets").post(tickets::issue).default_service(not_allowed("POST")),
        )
        .service(
            web::resource("/")
                .get(console::get)
                .route(web::head().to(console::get))
                .default_service(not_allowed("GET, HEAD")),
        );
}

/// Clears the request, because actix keeps up to 128 finished ones per worker for reuse. Their
/// headers and paths are slices of read buffers, so a rush of streams that open together would keep
/// megabytes in use.
fn let_go<B>(response: ServiceResponse<B>) -> ServiceResponse<B> {
    let (request, response) = response.into_parts();
    let mut request = ServiceRequest::from_request(request);
    let head = request.head_mut();
    head.headers = HeaderMap::new();
    head.uri = Uri::default();
    *request.match_info_mut() = Path::new(Url::default());
    ServiceResponse::new(request.into_parts().0, response)
}

fn cors(config: &CorsConfig) -> Cors {
    let cors = Cors::default()
        .allowed_methods(["GET", "HEAD", "POST"])
        .allowed_headers(config.headers.iter().map(|name| name.as_str()))
        .expose_headers([header::RETRY_AFTER, header::WWW_AUTHENTICATE])
        .max_age(600);
    if config.origins.any() {
        // A wildcard origin must not be combined with credentials.
        return cors.allow_any_origin().send_wildcard();
    }
    let allow = |cors: Cors, origin: &String| cors.allowed_origin(origin);
    config.origins.listed().iter().fold(cors.supports_credentials(), allow)
}

/// Answers 404 and says where the resource is, if the path is a near miss.
pub(crate) async fn not_found(request: actix_web::HttpRequest) -> Result<HttpResponse, Problem> {
    let detail = match request.path() {
        path @ ("/metrics" | "/healthz" | "/readyz") => format!("{path} is on the admin port"),
        path if path.starts_with("/channels/") => {
            format!("{path} is not here; a slash in a channel's name is written %2F")
        }
        path => format!("{path} is not here"),
    };
    Err(Problem::new(Kind::NotFound, detail))
}

/// Answers 405 with the methods that are allowed (RFC 9110 §15.5.6).
pub(crate) fn not_allowed(allowed: &'static str) -> Route {
    web::to(move |request: HttpRequest| async move {
        let detail = format!("{} takes {allowed}, and not {}", request.path(), request.method());
        let mut response = Problem::new(Kind::MethodNotAllowed, detail).error_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        response
    })
}
