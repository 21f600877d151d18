//! `/log-level` on the admin port: shows which log lines are written, and changes that until the next
//! start or SIGHUP.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use crate::config::log_filter::LogFilter;
use crate::http::app::App;
use crate::http::operator;
use crate::http::problem::{Kind, Problem};
use crate::logging::Log;

/// Handles `GET /log-level`.
pub(crate) async fn show(
    request: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, Problem> {
    operator::check(&request, &app)?;
    Ok(HttpResponse::Ok().json(json!({ "level": log(&app)?.level().as_ref() })))
}

/// Handles `PUT /log-level`. The body is the level, in the form of `log.level`.
pub(crate) async fn change(
    request: HttpRequest,
    app: web::Data<App>,
    body: web::Bytes,
) -> Result<HttpResponse, Problem> {
    operator::check(&request, &app)?;
    let log = log(&app)?;
    let invalid = |detail: String| Problem::new(Kind::InvalidParameter, detail).field("level");
    let text = std::str::from_utf8(&body)
        .map_err(|_| invalid("the body is not UTF-8; it is the level, such as debug".to_owned()))?;
    let level = LogFilter::try_from(text.to_owned()).map_err(invalid)?;
    let by = request.peer_addr().map(|addr| addr.ip().to_string()).unwrap_or_default();
    let before = log.change_level(&level, |before| {
        tracing::info!(
            log.level = level.as_ref(),
            level.before = before.as_ref(),
            client = by,
            "the log's level was changed by the admin port, until the next start or SIGHUP"
        );
    });
    let (level, before) = (level.as_ref(), before.as_ref());
    Ok(HttpResponse::Ok().json(json!({ "level": level, "before": before })))
}

fn log(app: &App) -> Result<&Log, Problem> {
    let detail = "this process does not write its log by way of the gateway";
    app.log.get().ok_or_else(|| Problem::new(Kind::NotFound, detail))
}
