//! `POST /tickets`: exchanges a token or API key for a ticket that opens one stream.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use crate::access::denied::Refused;
use crate::http::app::App;
use crate::http::asking::Asking;
use crate::http::problem::{Kind, Problem};
use crate::http::request;

/// Handles `POST /tickets`.
pub(crate) async fn issue(
    request: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, Problem> {
    request::check_origin(&request, &app.config.cors.origins, &app.config.server)?;
    match app.access.ticket(&Asking::of(&request, &app.config.server), &app.broker).await {
        Ok((ticket, seconds)) => Ok(HttpResponse::Created()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .json(json!({ "ticket": ticket, "expires_in": seconds }))),
        Err(Refused::Denied(denied)) => Err(denied.into()),
        Err(Refused::ComeBack(why)) => Err(Problem::new(Kind::Unavailable, why)),
        Err(Refused::Over(_)) => Err(Problem::new(Kind::InvalidToken, "access was revoked")),
    }
}
