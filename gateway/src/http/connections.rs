//! `DELETE /connections` on the admin port: ends the streams of a subject, token or channel on all
//! gateways, and keeps the subject or token out.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;
use sse_contract::Channel;

use crate::access::revocations::ONCE;
use crate::config::checks::parse_duration;
use crate::feed::inbox::Whose;
use crate::http::app::App;
use crate::http::operator;
use crate::http::problem::{Kind, Problem};
use crate::http::request;

/// The longest duration that `for` accepts.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Handles `DELETE /connections?subject=|id=|channel=[&for=]`.
pub(crate) async fn revoke(
    request: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, Problem> {
    operator::check(&request, &app)?;
    if app.access.is_open() {
        let detail = "nobody shows here who it is, so nobody can be kept out; see [auth]";
        return Err(Problem::new(Kind::NotFound, detail));
    }
    let invalid = |detail: String| Problem::new(Kind::InvalidParameter, detail);
    let pairs = request::query_pairs(request.query_string())?;
    request::once_each(&pairs, |_| true)?;
    let (mut whose, mut keep) = (None, app.config.auth.revoked_for);
    for (name, value) in pairs {
        let one = match name.as_str() {
            "subject" => Whose::Subject(value.into()),
            "id" => Whose::Token(value.into()),
            "channel" => {
                let channel: Channel = request::channel(&value, "channel")?;
                Whose::Channel(channel.as_str().into())
            }
            "for" => {
                let duration = parse_duration(&value).ok().filter(|time| *time <= LONGEST);
                keep = duration.ok_or_else(|| {
                    invalid(format!("for is a duration such as 24h, not {value:?}")).field("for")
                })?;
                continue;
            }
            _ => {
                let detail = format!(
                    "there is no parameter {name:?}; there are subject, id, channel and for"
                );
                return Err(invalid(detail).field(name));
            }
        };
        if whose.replace(one).is_some() {
            return Err(invalid("name one of subject, id and channel, and no two".to_owned()));
        }
    }
    let whose = whose.ok_or_else(|| {
        invalid("name whose streams end: subject=, id= (of a token) or channel=".to_owned())
    })?;
    if let Whose::Channel(_) = whose {
        keep = ONCE;
    }
    app.revoke(whose, keep).await.map_err(|why| Problem::new(Kind::RedisUnavailable, why))?;
    Ok(HttpResponse::Ok().json(json!({ "revoked_for": keep.as_secs() })))
}
