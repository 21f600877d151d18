//! `POST /channels/{channel}` and `POST /publish`: reads events, publishes them, answers each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_lab::respond::NdJson;
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};
use sse_contract::Channel;
use tokio::time::timeout_at;

use crate::access::admission;
use crate::access::client::ClientAddr;
use crate::access::denied::Refused;
use crate::access::grant::Grant;
use crate::config::PublishConfig;
use crate::feed::publication::{Publication, PublishError};
use crate::http::app::App;
use crate::http::asking::Asking;
use crate::http::client_addr;
use crate::http::lines::{Line, Lines};
use crate::http::problem::{Kind, Problem};
use crate::http::publish_item::{self, Entry};
use crate::http::publisher;
use crate::http::request;
use crate::http::trace::Trace;

/// The most channels of one request that a forward service is asked about. Whether further channels
/// are allowed depends on the grant that it returns.
const MOST_ASKED: usize = 100;
/// Publications that are handed to the broker at once.
const BATCH: usize = 512;
/// Bytes of an NDJSON body after which no more lines are gathered before they are published.
const GATHERED_BYTES: usize = 512 * 1024;
/// The longest pause that is imposed on an NDJSON stream above its rate. If a longer one is needed,
/// the rest of the request is refused.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Handles `POST /channels/{channel}`: publishes one event, whose data is the body.
pub(crate) async fn one(
    request: HttpRequest,
    body: web::Payload,
    app: web::Data<App>,
) -> Result<HttpResponse, Problem> {
    let mut trace = Trace::begin(&request, &app, "/channels/{channel}");
    let answer = publish_one(&request, body, &app, &mut trace).await;
    trace.end(&answer);
    answer
}

/// Refuses a request that may come from a foreign page, without the client's certificate, or with a
/// body that cannot be read.
fn check_request(request: &HttpRequest, app: &App) -> Result<(), Problem> {
    request::check_origin(request, &app.config.cors.origins, &app.config.server)?;
    request::check_certificate(request, &app.config.tls)?;
    request::check_body(request)
}

async fn publish_one(
    request: &HttpRequest,
    body: web::Payload,
    app: &App,
    trace: &mut Trace,
) -> Result<HttpResponse, Problem> {
    check_request(request, app)?;
    let channel = request::path_channel(request)?;
    let mut event = None;
    let pairs = request::query_pairs(request.query_string())?;
    request::once_each(&pairs, |_| true)?;
    for (name, value) in pairs {
        if name != "event" {
            // A misspelt parameter must not be ignored: the event would be published without its
            // type.
            let detail = format!("there is no parameter {name:?}; ?event= types the event");
            return Err(Problem::new(Kind::InvalidParameter, detail).field(name));
        }
        event = request::event_type(&value)?;
    }
    let key = request.headers().get("Idempotency-Key");
    let idempotency_key = key.map(|key| request::idempotency_key(key.as_bytes())).transpose()?;
    let grant = publisher(request, std::slice::from_ref(&channel), app).await?;
    app.access.may_publish(&grant, &channel).inspect_err(|_| app.deny_publish(1))?;
    may_publish(request, app, &grant, 1)?;
    // The body is read only up to the limit, which is enough to know that it is too large.
    let limit = app.config.publish.max_event_bytes as usize;
    let body = whole_body(request, body, &app.config.publish, limit, "data").await?;
    let data = std::str::from_utf8(&body).map_err(|error| {
        let detail = format!("the body is not UTF-8 from byte {} on", error.valid_up_to());
        Problem::new(Kind::InvalidData, detail).field("data")
    })?;
    let publication = Publication { channel, event, data: data.into(), idempotency_key };
    let mut results = publisher::publish(app, trace, &[publication]).await;
    let id = results.pop().unwrap_or_else(|| unreachable!("one item has one result"))?;
    Ok(HttpResponse::Ok().json(json!({ "id": id.to_string() })))
}

/// Handles `POST /publish`: the body is one item, an array of items, or NDJSON.
pub(crate) async fn many(
    request: HttpRequest,
    body: web::Payload,
    app: web::Data<App>,
) -> Result<HttpResponse, Problem> {
    let mut trace = Trace::begin(&request, &app, "/publish");
    let answer = publish_many(&request, body, &app, &mut trace).await;
    trace.end(&answer);
    answer
}

async fn publish_many(
    request: &HttpRequest,
    body: web::Payload,
    app: &App,
    trace: &mut Trace,
) -> Result<HttpResponse, Problem> {
    check_request(request, app)?;
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match kind.to_ascii_lowercase().as_str() {
        "application/json" => {
            let publish = &app.config.publish;
            // Access is checked before the body is read, so that the gateway need not read the body
            // of a client that may not publish. A forward service is asked after the body instead,
            // because it must be told the channels.
            let mut grant = match app.access.asks_for_channels() {
                false => Some(publisher(request, &[], app).await?),
                true => None,
            };
            let body = whole_body(request, body, publish, publish.max_body_bytes, "body").await?;
            let items = publish_item::read_body(request::without_mark(&body), publish.max_batch)?;
            drop(body);
            if grant.is_none() {
                let mut channels: Vec<Channel> = Vec::new();
                let named = items
                    .iter()
                    .filter_map(|entry| Some(&entry.publication.as_ref().ok()?.channel));
                for channel in named {
                    if !channels.contains(channel) && channels.len() < MOST_ASKED {
                        channels.push(channel.clone());
                    }
                }
                grant = Some(publisher(request, &channels, app).await?);
            }
            let grant = grant.unwrap_or_default();
            may_publish(request, app, &grant, items.len())?;
            let mut results = Results::new("item", grant, trace);
            for entries in items.chunks(BATCH) {
                results.publish(app, entries).await;
            }
            Ok(results.into_response())
        }
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
            let grant = publisher(request, &[], app).await?;
            let client = client_addr::of(request, &app.config.server);
            let results = Results::new("line", grant, trace);
            Ok(lines(client, body, app, results).await.into_ndjson_response())
        }
        other => {
            let detail = format!(
                "the Content-Type is application/json or application/x-ndjson, not {other:?}"
            );
            Err(Problem::new(Kind::UnsupportedMediaType, detail).field("Content-Type"))
        }
    }
}

/// The grant of the request's sender, or the problem to answer.
async fn publisher(
    request: &HttpRequest,
    channels: &[Channel],
    app: &App,
) -> Result<Arc<Grant>, Problem> {
    let asking = Asking::of(request, &app.config.server);
    let refused = match app.access.publisher(&asking, channels, &app.broker).await {
        Ok(grant) => return Ok(grant),
        Err(refused) => refused,
    };
    app.deny_publish(1);
    Err(match refused {
        Refused::Denied(denied) => denied.into(),
        Refused::ComeBack(why) => {
            Problem::new(Kind::Unavailable, format!("nothing was published: {why}"))
        }
        Refused::Over(_) => Problem::new(Kind::InvalidToken, "access was revoked"),
    })
}

/// Counts `events` against the sender's publish rate, and refuses them above it.
fn may_publish(
    request: &HttpRequest,
    app: &App,
    grant: &Grant,
    events: usize,
) -> Result<(), Problem> {
    let client = client_addr::of(request, &app.config.server);
    let (subject, rate) = (grant.subject.as_deref(), grant.limits.publish_rate);
    app.admission.publish(client, subject, rate, events).map_err(|refused| {
        app.reject(refused.over.reason());
        refused.into()
    })
}

async fn whole_body(
    request: &HttpRequest,
    body: web::Payload,
    config: &PublishConfig,
    limit: usize,
    field: &'static str,
) -> Result<bytes::Bytes, Problem> {
    let patience = config.body_timeout;
    let too_large = || {
        Problem::new(Kind::TooLarge, format!("the {field} has more than {limit} bytes"))
            .field(field)
    };
    // A declared length above the limit is refused without waiting for the body.
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if declared.and_then(|length| length.parse::<u64>().ok()).is_some_and(|n| n > limit as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(patience, body.to_bytes_limited(limit)).await {
        Ok(Ok(Ok(bytes))) => Ok(bytes),
        Ok(Ok(Err(error))) => {
            Err(Problem::new(Kind::InvalidData, format!("the body broke off: {error}")))
        }
        Ok(Err(_)) => Err(too_large()),
        Err(_) => {
            let detail = format!("the body did not come whole within {patience:?}");
            Err(Problem::new(Kind::RequestTimeout, detail).field(field))
        }
    }
}

/// Publishes the lines of an NDJSON body while it arrives. A bad line gets its own error and does
/// not end the request.
async fn lines<'a>(
    client: ClientAddr,
    mut body: web::Payload,
    app: &App,
    mut results: Results<'a>,
) -> Results<'a> {
    let PublishConfig { max_body_bytes: longest, max_lines, idle_timeout, .. } = app.config.publish;
    let mut lines = Lines::new(longest);
    let mut heard = Instant::now();
    let (mut entries, mut bytes, mut before) = (Vec::new(), 0, lines.number());
    // A piece that had arrived when the lines before it were read.
    let mut arrived = None;
    let gathers = gathers(app, &results.grant);
    loop {
        let piece = match arrived.take() {
            Some(piece) => Ok(piece),
            None => timeout_at((heard + idle_timeout).into(), body.next()).await,
        };
        let ended = match piece {
            Ok(Some(Ok(piece))) => {
                bytes += piece.len();
                lines.add(&piece);
                false
            }
            Ok(None) => true,
            Ok(Some(Err(error))) => {
                let detail = format!("the body broke off: {error}");
                let problem = Problem::new(Kind::InvalidData, detail);
                return results.and_fail(lines.number() + 1, problem);
            }
            Err(_) => {
                let detail = format!("the line did not come whole within {idle_timeout:?}");
                let problem = Problem::new(Kind::RequestTimeout, detail);
                return results.and_fail(lines.number() + 1, problem);
            }
        };
        read_lines(&mut lines, ended, &app.config.publish, &mut entries);
        let too_many = lines.number() > max_lines;
        if gathers && !ended && !too_many && entries.len() < BATCH && bytes < GATHERED_BYTES {
            // What has arrived as well goes in the same batch. The connection may read it now, into
            // the space that the piece has left.
            tokio::task::yield_now().await;
            arrived = body.next().now_or_never();
            if matches!(arrived, Some(None | Some(Ok(_)))) {
                continue;
            }
        }
        for entries in entries.chunks(BATCH) {
            pace(client, app, entries.len(), &mut results).await;
            results.publish(app, entries).await;
        }
        entries.clear();
        bytes = 0;
        if lines.number() > before {
            // The time that publishing took must not count as the client's pause.
            (heard, before) = (Instant::now(), lines.number());
        }
        if ended {
            return results;
        }
        if too_many {
            let detail = format!(
                "one request publishes at most {max_lines} lines; \
                                  from this one on nothing was published"
            );
            return results.and_fail(lines.number() + 1, Problem::new(Kind::TooLarge, detail));
        }
    }
}

/// Whether lines gather while more have arrived. A larger batch would make a client above its rate
/// pause longer, perhaps for too long.
fn gathers(app: &App, grant: &Grant) -> bool {
    grant.limits.publish_rate.unwrap_or(app.config.limits.publish_rate) == 0
}

/// Reads the lines that have come whole. Adds their entries, and an error for each bad line.
fn read_lines(lines: &mut Lines, ended: bool, limits: &PublishConfig, entries: &mut Vec<Entry>) {
    while let Some(line) = lines.next(ended) {
        match line {
            Line::Nothing => {}
            Line::TooLong(number) => {
                let detail = format!("the line has more than {} bytes", limits.max_body_bytes);
                entries.push(Entry::failed(number, Problem::new(Kind::TooLarge, detail)));
            }
            Line::Text(number, text) => {
                publish_item::read_item(number, &text, limits.max_batch, entries);
            }
        }
    }
}

/// Waits until the client's rate allows `events` more. What the client sends meanwhile waits in its
/// own buffers. If the wait would exceed [`LONGEST_PAUSE`], marks the rest of the request as
/// refused.
async fn pace(client: ClientAddr, app: &App, events: usize, results: &mut Results<'_>) {
    let grant = results.grant.clone();
    let (subject, rate) = (grant.subject.as_deref(), grant.limits.publish_rate);
    while let (None, Err(refused)) =
        (results.failed, app.admission.publish(client, subject, rate, events))
    {
        match refused.after {
            Some(after) if after <= LONGEST_PAUSE => tokio::time::sleep(after).await,
            _ => {
                app.reject(refused.over.reason());
                results.refused = Some(refused);
                results.failed = Some(Kind::RateLimited);
            }
        }
    }
}

/// The answers to a request's items, in order.
struct Results<'a> {
    label: &'static str,
    grant: Arc<Grant>,
    trace: &'a mut Trace,
    values: Vec<Value>,
    published: usize,
    problems: Vec<Problem>,
    /// Set when an item failed that the client should send again, or when the client is above its
    /// rate. Later items must not overtake such an item, so they are not tried and get a problem of
    /// this kind.
    failed: Option<Kind>,
    /// Why the rest was refused, if the client is above its publish rate.
    refused: Option<admission::Refused>,
}

impl<'a> Results<'a> {
    fn new(label: &'static str, grant: Arc<Grant>, trace: &'a mut Trace) -> Self {
        let (values, problems) = (Vec::new(), Vec::new());
        Results { label, grant, trace, values, published: 0, problems, failed: None, refused: None }
    }

    async fn publish(&mut self, app: &App, entries: &[Entry]) {
        let allowed: Vec<Result<&Publication, Problem>> = entries
            .iter()
            .map(|entry| {
                let publication = entry.publication.as_ref().map_err(Clone::clone)?;
                app.access
                    .may_publish(&self.grant, &publication.channel)
                    .inspect_err(|_| app.deny_publish(1))?;
                Ok(publication)
            })
            .collect();
        let valid =
            allowed.iter().filter_map(|publication| Some((*publication.as_ref().ok()?).clone()));
        let publications: Vec<Publication> = valid.take_while(|_| self.failed.is_none()).collect();
        let outcomes = publisher::publish(app, self.trace, &publications).await;
        if outcomes.iter().any(|outcome| {
            matches!(outcome, Err(PublishError::Unavailable(_) | PublishError::OutcomeUnknown(_)))
        }) {
            self.failed = Some(Kind::RedisUnavailable);
        }
        let mut outcomes = outcomes.into_iter();
        for (entry, publication) in entries.iter().zip(&allowed) {
            let outcome = match publication {
                Ok(_) => match outcomes.next() {
                    Some(outcome) => outcome.map_err(Problem::from),
                    None => Err(self.refused.map_or_else(
                        || {
                            let kind = self.failed.unwrap_or(Kind::RedisUnavailable);
                            Problem::new(kind, "not tried, because an item before it failed")
                        },
                        Problem::from,
                    )),
                },
                Err(problem) => Err(problem.clone()),
            };
            let mut value = json!({ self.label: entry.number });
            if let Some(channel) = &entry.channel {
                value["channel"] = channel.as_str().into();
            }
            match outcome {
                Ok(id) => {
                    self.published += 1;
                    value["id"] = id.to_string().into();
                }
                Err(problem) => {
                    value["error"] = json!(problem);
                    self.note(problem);
                }
            }
            self.values.push(value);
        }
    }

    fn and_fail(mut self, number: u64, problem: Problem) -> Self {
        self.values.push(json!({ self.label: number, "error": problem }));
        self.note(problem);
        self
    }

    /// Keeps one problem of each kind, which is enough to choose the status.
    fn note(&mut self, problem: Problem) {
        if !self.problems.iter().any(|known| known.kind() == problem.kind()) {
            self.problems.push(problem);
        }
    }

    fn status(&self) -> actix_web::http::StatusCode {
        match (self.published, &self.problems[..]) {
            (_, []) => actix_web::http::StatusCode::OK,
            (0, [only]) => only.status(),
            _ => actix_web::http::StatusCode::MULTI_STATUS,
        }
    }

    fn into_response(self) -> HttpResponse {
        let status = self.status();
        match (self.published, &self.problems[..]) {
            (0, [only]) => {
                let problem = only.clone().results(self.values.into());
                actix_web::ResponseError::error_response(&problem)
            }
            _ => HttpResponse::build(status).json(json!({ "results": self.values })),
        }
    }

    fn into_ndjson_response(self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status());
        if let (0, [only]) = (self.published, &self.problems[..]) {
            only.add_headers(&mut response);
        }
        let lines = NdJson::new_infallible(stream::iter(self.values));
        response.content_type(NdJson::mime()).body(lines.into_body_stream())
    }
}
