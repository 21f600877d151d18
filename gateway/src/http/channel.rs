//! `GET /channels/{channel}` and `GET /channels/{channel}/history`: a channel's history as JSON.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use sse_contract::{Channel, EventId};

use crate::access::denied::{Over, Refused};
use crate::feed::gap::GapReason;
use crate::feed::snapshot::Snapshot;
use crate::http::app::App;
use crate::http::asking::Asking;
use crate::http::problem::{Kind, Problem};
use crate::http::request;

/// Events in one answer if `limit` is absent.
const DEFAULT_LIMIT: usize = 100;
/// The largest `limit`.
const MAX_LIMIT: usize = 1000;

/// Handles `GET /channels/{channel}`: last and oldest id, length, and subscribers on this gateway.
pub(crate) async fn info(
    request: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, Problem> {
    let channel = request::path_channel(&request)?;
    check_access(&request, &channel, &app).await?;
    // `MAX` is above every id, so only the channel's state is read and no event.
    let snapshot = read(&app, &channel, EventId::MAX).await?;
    let range = snapshot.ranges.get(&channel).and_then(|ranges| ranges.first());
    let text = |id: Option<EventId>| id.map(|id| id.to_string());
    Ok(HttpResponse::Ok().json(json!({
        "channel": channel.as_str(),
        "last_id": text(range.and_then(|range| range.last)),
        "oldest_id": text(range.and_then(|range| range.oldest)),
        "length": range.map_or(0, |range| range.length),
        "subscribers": app.subscribers(&channel).await,
    })))
}

/// Handles `GET /channels/{channel}/history`: the events after a position, oldest first.
pub(crate) async fn history(
    request: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, Problem> {
    let channel = request::path_channel(&request)?;
    let (mut after, mut limit) = (None, DEFAULT_LIMIT);
    let pairs = request::query_pairs(request.query_string())?;
    request::once_each(&pairs, |_| true)?;
    for (name, value) in pairs {
        match name.as_str() {
            "after" => after = Some(position(&value)?).filter(|id| *id > EventId::ZERO),
            "limit" => {
                limit = value.parse().ok().filter(|n| (1..=MAX_LIMIT).contains(n)).ok_or_else(
                    || {
                        let detail = format!("limit is 1 to {MAX_LIMIT}, not {value:?}");
                        Problem::new(Kind::InvalidParameter, detail).field("limit")
                    },
                )?;
            }
            "ticket" | "token" => {}
            _ => {
                let detail = format!("there is no parameter {name:?}; there are after and limit");
                return Err(Problem::new(Kind::InvalidParameter, detail).field(name));
            }
        }
    }
    check_access(&request, &channel, &app).await?;
    let snapshot = read(&app, &channel, after.unwrap_or(EventId::ZERO)).await?;
    Ok(HttpResponse::Ok().json(page(&snapshot, &channel, after, limit)))
}

/// Checks that the client may subscribe to the channel; the same right covers its history.
async fn check_access(request: &HttpRequest, channel: &Channel, app: &App) -> Result<(), Problem> {
    let asking = Asking::of(request, &app.config.server);
    let channels = std::slice::from_ref(channel);
    match app.access.subscriber(&asking, channels, &app.broker).await {
        Ok(_) => Ok(()),
        Err(Refused::Denied(denied)) => Err(denied.into()),
        Err(Refused::ComeBack(why)) => Err(Problem::new(Kind::Unavailable, why)),
        Err(Refused::Over(Over::Revoked)) => {
            Err(Problem::new(Kind::InvalidToken, "access was revoked"))
        }
        Err(Refused::Over(Over::TicketSpent)) => {
            Err(Problem::new(Kind::InvalidToken, "the ticket is used up"))
        }
    }
}

fn page(snapshot: &Snapshot, channel: &Channel, after: Option<EventId>, limit: usize) -> Value {
    let range = snapshot.ranges.get(channel).and_then(|ranges| ranges.first());
    let frames = range.map_or(&[][..], |range| &range.frames);
    let shown = &frames[..frames.len().min(limit)];
    let events = shown.iter().map(|frame| {
        let (event, data) = frame.parts();
        let mut value = json!({ "id": frame.id.map(|id| id.to_string()), "data": data });
        if !event.is_empty() {
            value["event"] = event.into();
        }
        value
    });
    let cut = shown.len() < frames.len() || range.is_some_and(|range| range.upto.is_some());
    // The position to continue from: the last event shown, or the clock if nothing was cut off. The
    // next page then begins without a hole.
    let last = shown.last().and_then(|frame| frame.id);
    let next = if cut { last.or(after) } else { Some(snapshot.clock) };
    let missing = after.and_then(|after| match range {
        _ if !snapshot.history => Some(GapReason::NoHistory),
        _ if after.epoch() != snapshot.clock.epoch() => Some(GapReason::Reset),
        _ if after > snapshot.clock => Some(GapReason::UnknownId),
        Some(range) => snapshot.missing(range, after),
        None => None,
    });
    json!({
        "channel": channel.as_str(),
        "events": events.collect::<Vec<_>>(),
        "next": next.map(|id| id.to_string()),
        "more": cut,
        "gap": missing.map(|reason| json!({
            "reason": reason.as_str(),
            "oldest": range.and_then(|range| range.oldest).map(|id| id.to_string()),
        })),
    })
}

async fn read(app: &App, channel: &Channel, after: EventId) -> Result<Snapshot, Problem> {
    let read = app.broker.history(channel, after).await;
    read.map_err(|error| Problem::new(Kind::RedisUnavailable, error))
}

fn position(text: &str) -> Result<EventId, Problem> {
    if text == "0" {
        return Ok(EventId::ZERO);
    }
    text.parse().map_err(|error: sse_contract::EventIdError| {
        Problem::new(Kind::InvalidParameter, error.to_string()).field("after")
    })
}
