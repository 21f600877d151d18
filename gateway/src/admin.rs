//! The admin port: metrics, health and readiness, on a thread of its own, so that probes are answered
//! when the workers are full.

use std::net::TcpListener;
use std::sync::Arc;

use actix_web::dev::Server;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use actix_web::{HttpResponse, HttpServer, web};
use serde_json::json;

use crate::app::App;
use crate::problem::{Kind, Problem};

/// A server on the admin port; it does nothing until it is awaited.
pub fn server(listener: TcpListener, app: Arc<App>) -> std::io::Result<Server> {
    let app = web::Data::from(app);
    let server = HttpServer::new(move || {
        actix_web::App::new()
            .app_data(app.clone())
            .service(web::resource("/metrics").get(metrics))
            .service(web::resource("/healthz").get(healthz))
            .service(web::resource("/readyz").get(readyz))
            .default_service(web::to(not_found))
    });
    let server = server.workers(1).disable_signals().shutdown_timeout(1);
    Ok(server.listen(listener)?.run())
}

async fn metrics(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let text = app.metrics.render().map_err(|e| Problem::new(Kind::Internal, e.to_string()))?;
    // The exposition format's own version, not ours.
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, kind)).body(text))
}

/// The process answers; nothing is said of Redis, because restarting us would not mend that.
async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// An event really went through the broker and came back, and we are not stopping.
async fn readyz(app: web::Data<App>) -> Result<HttpResponse, Problem> {
    if app.draining() {
        return Err(Problem::new(Kind::Unavailable, "the gateway is draining"));
    }
    match app.broker.probe().await {
        Ok(()) => Ok(HttpResponse::Ok().json(json!({ "status": "ready" }))),
        Err(error) => Err(Problem::new(Kind::RedisUnavailable, error)),
    }
}

async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::new(Kind::NotFound, "the admin port has /metrics, /healthz and /readyz"))
}
