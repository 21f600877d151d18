//! `GET /events`: checks the request, builds the head, and hands the connection to the hub.

use actix_http::ConnectionType;
use actix_web::http::Version;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError, web};
use actix_web_lab::extract::LocalData;
use sse_contract::Positions;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use crate::access::admission;
use crate::access::asker::Asker;
use crate::access::denied::{Over, Refused};
use crate::access::grant::Grant;
use crate::feed::frame::{self, Framing};
use crate::http::app::App;
use crate::http::asking::Asking;
use crate::http::body::{LastWords, StreamBody};
use crate::http::problem::{Kind, Problem};
use crate::http::request;
use crate::http::takeover::TakeoverOrder;
use crate::hub::Hub;
use crate::metrics::Rejection;
use crate::stream::body_pipe::Carrier;
use crate::stream::story::Story;
use crate::stream::subscription::{About, HttpVersion, Peer, Refusal, Subscription};

/// Handles `GET /events`: opens a stream, or sends the client away.
pub(crate) async fn get(
    request: HttpRequest,
    app: web::Data<App>,
    hub: LocalData<HubHandle>,
) -> Result<HttpResponse, Problem> {
    let mut subscription =
        wanted(&request, &app).inspect_err(|_| app.reject(Rejection::Invalid))?;
    if app.draining() {
        return Ok(come_back(&request, &app, Away::Here(Rejection::Draining)));
    }
    if app.full() {
        return Ok(come_back(&request, &app, Away::Here(Rejection::Full)));
    }
    let asking = Asking::of(&request, &app.config.server);
    let channels = subscription.channels.clone();
    let grant = match app.access.subscriber(&asking, &channels, &app.broker).await {
        Ok(grant) => grant,
        Err(refused) => return answer(refused, &request, &app),
    };
    let lease = match app
        .admit_stream(asking.client(), grant.subject.as_deref(), grant.limits.streams)
        .await
    {
        Ok(lease) => lease,
        Err(refused) => return Ok(come_back(&request, &app, Away::Client(refused))),
    };
    subscription.about = about(&grant, &asking, &subscription);
    subscription.peer = Some(Peer { client: asking.client.ip, http: version(&request) });
    let old = request.version() == Version::HTTP_10;
    let connection = request.conn_data::<TakeoverOrder>();
    let order = connection
        .filter(|_| app.config.stream.takeover && (old || request.version() == Version::HTTP_11));
    // actix frames a body by itself.
    let framing = if order.is_some() && !old { Framing::Chunked } else { Framing::Plain };
    let opening = hub.0.open(framing, subscription);
    let of_socket = order.and_then(TakeoverOrder::lease);
    if !lease.is_empty() || of_socket.is_some() {
        opening.hold(Box::new((lease, of_socket)));
    }
    let stream = connection.map(TakeoverOrder::becomes_stream);
    let opening = opening.wait(app.config.stream.open_wait).await;
    // A revocation that arrived during the wait found no stream, or one that was still opening, so
    // it is checked again here. Later ones end the open stream.
    if let Err(refused) = app.access.still_holds(&grant) {
        return answer(refused, &request, &app);
    }
    let opened = match opening {
        Ok(opened) => opened,
        Err(Refusal::Draining) => {
            return Ok(come_back(&request, &app, Away::Here(Rejection::Draining)));
        }
        Err(Refusal::Denied(channel, why)) => {
            app.reject(Rejection::Denied);
            let detail = format!("Redis refuses this gateway the channel {channel}: {why}");
            return Err(Problem::new(Kind::SubscribeDenied, detail).field("channel"));
        }
    };
    let response = match order {
        Some(order) => head().body(order.clone().body(opened, stream)),
        None => {
            let carrier = stream.map(|stream| Box::new(stream) as Box<dyn Carrier>);
            head().body(StreamBody(opened.on_body(carrier)))
        }
    };
    Ok(delimited(response, request.version()))
}

/// Reads the request. Refuses channels of more partitions than a position can name.
fn wanted(request: &HttpRequest, app: &App) -> Result<Subscription, Problem> {
    let subscription = request::subscription(request, app.config.stream.max_channels)?;
    if usize::from(app.broker.partitions()) <= Positions::MOST {
        return Ok(subscription);
    }
    let channels = subscription.channels.iter();
    let partitions = channels.map(|channel| app.broker.partition_of(channel));
    let count = partitions.collect::<HashSet<_>>().len();
    if count <= Positions::MOST {
        return Ok(subscription);
    }
    let detail = format!(
        "these channels are of {count} partitions, and a stream can be of {} at most; channels that \
         are listened to together can have a {{tag}} in common",
        Positions::MOST
    );
    Err(Problem::new(Kind::InvalidParameter, detail).field("channel"))
}

/// What the stream keeps of its client: what may end it, and what the log tells.
fn about(grant: &Grant, asking: &Asking<'_>, subscription: &Subscription) -> Option<Box<About>> {
    let Subscription { channels, begin, .. } = subscription;
    let mut about = grant.about();
    if let Some(story) = Story::begin(asking.client.ip, channels, begin) {
        about.get_or_insert_default().story = Some(story);
    }
    about
}

fn version(request: &HttpRequest) -> HttpVersion {
    match request.version() {
        Version::HTTP_2 => HttpVersion::V2,
        Version::HTTP_10 => HttpVersion::V10,
        _ => HttpVersion::V11,
    }
}

/// Marks an HTTP/1.0 response as ended by its connection's close, because HTTP/1.0 has no chunks
/// (RFC 9112 §6.1). Other versions must not announce the close: with `Connection: close` in the
/// head, Node's fetch takes a broken connection for the regular end of the body.
fn delimited(mut response: HttpResponse, version: Version) -> HttpResponse {
    if version == Version::HTTP_10 {
        response.head_mut().no_chunking(true);
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response
}

/// Handles `HEAD /events`: the answer of `GET`, without opening a stream.
pub(crate) async fn head_only(
    request: HttpRequest,
    app: web::Data<App>,
) -> Result<HttpResponse, Problem> {
    let subscription = wanted(&request, &app)?;
    let asking = Asking::of(&request, &app.config.server);
    let channels = subscription.channels;
    if let Err(refused) = app.access.subscriber(&asking, &channels, &app.broker).await {
        return answer(refused, &request, &app);
    }
    // Without a length, like the stream.
    Ok(head().body(actix_web::body::None::new()))
}

/// Answers a client whose access was refused.
fn answer(refused: Refused, request: &HttpRequest, app: &App) -> Result<HttpResponse, Problem> {
    match refused {
        Refused::Denied(denied) => {
            let problem = Problem::from(denied);
            app.reject(match problem.status().as_u16() {
                401 => Rejection::Unauthenticated,
                _ => Rejection::Forbidden,
            });
            Err(problem)
        }
        Refused::ComeBack(why) => {
            tracing::debug!(error = %why, "whether a stream is allowed cannot be said now");
            Ok(come_back(request, app, Away::Unsaid))
        }
        // 204 is the only answer after which neither a browser nor a client with its own retries
        // comes back (WHATWG HTML §9.2.3).
        Refused::Over(over) => {
            app.reject(match over {
                Over::TicketSpent => Rejection::TicketSpent,
                Over::Revoked => Rejection::Revoked,
            });
            Ok(HttpResponse::NoContent()
                .insert_header((header::CACHE_CONTROL, "no-store"))
                .finish())
        }
    }
}

/// Why a client is sent away for now, to come back later.
enum Away {
    /// This gateway is draining or full; another one may have room.
    Here(Rejection),
    /// It cannot be decided now whether the client has access.
    Unsaid,
    /// The client has reached one of its own limits.
    Client(admission::Refused),
}

/// Sends a client away for now. Any status but 200 would end a native EventSource for good (WHATWG
/// HTML §9.2.3). So the answer is a stream that carries only a `retry:` (in ms) and ends at once. A
/// client whose `Accept` does not name event streams gets a problem document instead.
fn come_back(request: &HttpRequest, app: &App, away: Away) -> HttpResponse {
    let retry = app.config.stream.jittered_retry();
    let (reason, retry, problem) = match away {
        // A quarter of the usual delay, because another gateway may take the client at once.
        Away::Here(reason) => {
            let detail = format!("the gateway is {}", reason.as_str());
            (reason, retry / 4, Problem::new(Kind::Unavailable, detail))
        }
        Away::Unsaid => {
            let detail = "whether this is allowed cannot be said at the moment";
            (Rejection::AccessUnknown, retry, Problem::new(Kind::Unavailable, detail))
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
        // No cache or proxy may store or transform the stream.
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")))
        .insert_header(("X-Accel-Buffering", "no"));
    response
}

/// A worker's hub, in the form that handlers extract.
#[derive(Debug)]
pub(crate) struct HubHandle(pub Rc<Hub>);
