//! `GET /events`: checks the request, builds the head, and hands the connection to the hub.

use actix_http::ConnectionType;
use actix_web::http::Version;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError, web};
use actix_web_lab::extract::LocalData;
use std::rc::Rc;
use std::time::Duration;

use crate::access::admission::Refused;
use crate::app::App;
use crate::client_addr;
use crate::frame::{self, Framing};
use crate::hub::{Hub, Refusal};
use crate::problem::{Kind, Problem};
use crate::request;
use crate::sink::LastWords;
use crate::subscribers::Leases;
use crate::takeover::TakeoverOrder;

/// Opens a stream.
pub async fn get(
    request: HttpRequest,
    app: web::Data<App>,
    hub: LocalData<HubHandle>,
) -> Result<HttpResponse, Problem> {
    let subscription = request::subscription(&request, app.config.stream.max_channels)
        .inspect_err(|_| app.reject("invalid"))?;
    if app.draining() {
        return Ok(come_back(&request, &app, Away::Here("draining")));
    }
    if app.full() {
        return Ok(come_back(&request, &app, Away::Here("full")));
    }
    let client = client_addr::of(&request, &app.config.server);
    let lease = match app.admit_stream(client, None, None).await {
        Ok(lease) => lease,
        Err(refused) => return Ok(come_back(&request, &app, Away::Client(refused))),
    };
    let old = request.version() == Version::HTTP_10;
    let connection = request.conn_data::<TakeoverOrder>();
    let order = connection
        .filter(|_| app.config.stream.takeover && (old || request.version() == Version::HTTP_11));
    // A body's framing is actix's.
    let framing = if order.is_some() && !old { Framing::Chunked } else { Framing::Plain };
    let opening = hub.0.open(framing, subscription);
    let of_socket = order.and_then(TakeoverOrder::lease);
    if !lease.is_empty() || of_socket.is_some() {
        opening.hold(Leases { stream: lease, connection: of_socket });
    }
    if let Some(connection) = connection {
        connection.becomes_stream();
    }
    let opened = match opening.wait(app.config.stream.open_wait).await {
        Ok(opened) => opened,
        Err(Refusal::Draining) => {
            return Ok(come_back(&request, &app, Away::Here("draining")));
        }
        Err(Refusal::Denied(channel, why)) => {
            if let Some(connection) = connection {
                connection.becomes_guest();
            }
            app.reject("denied");
            let detail = format!("Redis refuses this gateway the channel {channel}: {why}");
            return Err(Problem::new(Kind::SubscribeDenied, detail).field("channel"));
        }
    };
    let response = match order {
        Some(order) => head().body(order.clone().body(opened)),
        None => head().body(opened.on_body()),
    };
    Ok(delimited(response, request.version()))
}

/// HTTP/1.0 knows no chunks (RFC 9112 §6.1): there the close ends the body. Others are not told of a close: behind
/// `Connection: close` in the head, Node's fetch takes any cut for the body's end.
fn delimited(mut response: HttpResponse, version: Version) -> HttpResponse {
    if version == Version::HTTP_10 {
        response.head_mut().no_chunking(true);
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response
}

/// Answers as `GET` would, without a stream.
pub async fn head_only(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    request::subscription(&request, app.config.stream.max_channels)?;
    // Of no known length, as the stream's is.
    Ok(head().body(actix_web::body::None::new()))
}

/// Why a client is sent away for now.
enum Away {
    /// This gateway takes nobody, or nobody more; another one may.
    Here(&'static str),
    /// The client has as much as it may, wherever it asks.
    Client(Refused),
}

/// Refuses for now. Any status but 200 would end a native EventSource for good (WHATWG HTML §9.2.3), so
/// it is answered a stream that ends at once and says when to come back.
fn come_back(request: &HttpRequest, app: &App, away: Away) -> HttpResponse {
    let retry = app.config.stream.jittered_retry();
    let (reason, retry, problem) = match away {
        // Sooner than usual.
        Away::Here(reason) => {
            let detail = format!("the gateway is {reason}");
            (reason, retry / 4, Problem::new(Kind::Unavailable, detail))
        }
        Away::Client(refused) => {
            let after = refused.after.unwrap_or(Duration::from_millis(retry));
            (refused.over.reason(), retry, Problem::from(refused).after(after))
        }
    };
    app.reject(reason);
    if !request::names_event_stream(request) {
        return problem.error_response();
    }
    delimited(head().body(LastWords::new(frame::retry(retry))), request.version())
}

fn head() -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .insert_header((
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream; charset=utf-8"),
        ))
        // Nothing on the way may keep or change it.
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")))
        .insert_header(("X-Accel-Buffering", "no"));
    response
}

/// A worker's hub, as its handlers hold it.
#[derive(Debug)]
pub struct HubHandle(pub Rc<Hub>);
