//! Every error that an HTTP client can see, as RFC 9457 problem details. They are made only here.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::access::admission::{Over, Refused};
use crate::access::asker::NotUtf8;
use crate::access::denied::{Denied, Why};
use crate::feed::publication::PublishError;

/// The media type of problem details (RFC 9457 §6.1).
const JSON: &str = "application/problem+json";

/// An error for a client, as `application/problem+json`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    kind: Kind,
    detail: String,
    field: Option<Cow<'static, str>>,
    results: Option<Box<serde_json::Value>>,
    /// How long the client should wait before it tries again.
    after: Option<Duration>,
    /// The rate, in events per second, that the client exceeded.
    rate: Option<u32>,
}

/// The types of problem. docs/http-api.md lists them with their status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The channel's name is invalid.
    InvalidChannel,
    /// The event's type is invalid.
    InvalidEvent,
    /// The data is not UTF-8, or the body broke off.
    InvalidData,
    /// The idempotency key is invalid.
    InvalidIdempotencyKey,
    /// The JSON of a body or an item is invalid.
    InvalidJson,
    /// A parameter of the query is unknown, missing, repeated or invalid.
    InvalidParameter,
    /// The bytes are not an HTTP/1.1 request, or the request asks for something that does not exist
    /// here, such as a WebSocket.
    InvalidRequest,
    /// The request's head is larger than the gateway reads.
    HeadTooLarge,
    /// The request did not arrive completely in time.
    RequestTimeout,
    /// The data, the body or the number of events exceeds its limit.
    TooLarge,
    /// The body's content type or encoding is not accepted.
    UnsupportedMediaType,
    /// The idempotency key was used before with another payload.
    IdempotencyConflict,
    /// Redis is unavailable; nothing was published.
    RedisUnavailable,
    /// Redis did not confirm the publish; the event may have been published.
    PublishOutcomeUnknown,
    /// The credentials, or Redis, do not allow publishing to this channel.
    PublishDenied,
    /// The credentials, or Redis, do not allow subscribing to this channel.
    SubscribeDenied,
    /// The request needs a client certificate, and the client showed none.
    CertificateRequired,
    /// A page of another site that is not among `cors.origins` tries to publish, to use a cookie or
    /// to revoke.
    ForeignOrigin,
    /// The request has no credentials, and anonymous clients may not do this.
    Unauthenticated,
    /// The credentials are invalid, expired or revoked.
    InvalidToken,
    /// The client's address, or its subject, has as many streams as it may.
    TooManyStreams,
    /// The client publishes faster than it may.
    RateLimited,
    /// The gateway cannot serve the request now, for example while it drains.
    Unavailable,
    /// There is no such resource.
    NotFound,
    /// The resource does not support this method.
    MethodNotAllowed,
    /// The gateway itself failed.
    Internal,
}

impl Kind {
    /// The last part of the problem's type, such as `redis-unavailable`.
    pub fn name(self) -> &'static str {
        self.parts().0
    }

    fn parts(self) -> (&'static str, &'static str, u16) {
        match self {
            Kind::InvalidChannel => ("invalid-channel", "Invalid channel name", 400),
            Kind::InvalidEvent => ("invalid-event", "Invalid event type", 400),
            Kind::InvalidData => ("invalid-data", "Invalid data", 400),
            Kind::InvalidIdempotencyKey => {
                ("invalid-idempotency-key", "Invalid idempotency key", 400)
            }
            Kind::InvalidJson => ("invalid-json", "Invalid JSON", 400),
            Kind::InvalidParameter => ("invalid-parameter", "Invalid parameter", 400),
            Kind::InvalidRequest => ("invalid-request", "Invalid request", 400),
            Kind::HeadTooLarge => ("head-too-large", "The request's head is too large", 431),
            Kind::RequestTimeout => ("request-timeout", "The request took too long", 408),
            Kind::TooLarge => ("too-large", "Too large", 413),
            Kind::UnsupportedMediaType => ("unsupported-media-type", "Unsupported media type", 415),
            Kind::IdempotencyConflict => ("idempotency-conflict", "Idempotency key reused", 422),
            Kind::RedisUnavailable => ("redis-unavailable", "Redis is unavailable", 503),
            Kind::PublishOutcomeUnknown => {
                ("publish-outcome-unknown", "The outcome of the publish is unknown", 503)
            }
            Kind::CertificateRequired => {
                ("certificate-required", "A client certificate is required", 403)
            }
            Kind::ForeignOrigin => ("foreign-origin", "Origin not allowed", 403),
            Kind::PublishDenied => ("publish-denied", "Publishing is denied", 403),
            Kind::SubscribeDenied => ("subscribe-denied", "Subscribing is denied", 403),
            Kind::Unauthenticated => ("authentication-required", "Authentication is required", 401),
            Kind::InvalidToken => ("invalid-token", "The credentials are not valid", 401),
            Kind::TooManyStreams => ("too-many-streams", "Too many streams", 429),
            Kind::RateLimited => ("rate-limited", "Too many events", 429),
            Kind::Unavailable => ("unavailable", "The gateway is not available", 503),
            Kind::NotFound => ("not-found", "Not found", 404),
            Kind::MethodNotAllowed => ("method-not-allowed", "Method not allowed", 405),
            Kind::Internal => ("internal", "Internal error", 500),
        }
    }
}

impl Problem {
    /// Makes a problem; `detail` explains this occurrence to the client.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Problem { kind, detail: detail.into(), field: None, results: None, after: None, rate: None }
    }

    /// Adds how long the client should wait before it tries again.
    pub fn after(mut self, after: Duration) -> Self {
        self.after = Some(after);
        self
    }

    /// Adds the name of the input at fault.
    pub fn field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Adds the results of a publish request's items.
    pub fn results(mut self, results: serde_json::Value) -> Self {
        self.results = Some(Box::new(results));
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        let (_, _, status) = self.kind.parts();
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The `WWW-Authenticate` challenge of 401 and 403 (RFC 6750 §3). It names no error if the
    /// request had no credentials (§3.1).
    fn challenge(&self) -> Option<HeaderValue> {
        let error = match self.kind {
            Kind::Unauthenticated => "",
            Kind::InvalidToken => ", error=\"invalid_token\"",
            Kind::SubscribeDenied | Kind::PublishDenied => ", error=\"insufficient_scope\"",
            _ => return None,
        };
        HeaderValue::from_str(&format!("Bearer realm=\"sse-gateway\"{error}")).ok()
    }

    /// Adds `Retry-After` and, for an exceeded rate, the rate limit headers
    /// (draft-ietf-httpapi-ratelimit-headers).
    pub fn add_headers(&self, response: &mut HttpResponseBuilder) {
        // A 503 without a delay of its own says two seconds. By then a failover or restart of Redis
        // may be over; an overload probably is not.
        let by_itself =
            (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(2));
        let Some(after) = self.after.or(by_itself) else { return };
        // Rounded up, because a client that comes back early is refused again.
        let seconds = (after.as_millis().div_ceil(1000)).max(1);
        response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        if let Some(rate) = self.rate {
            response.insert_header(("RateLimit-Policy", format!("\"events\";q={rate};w=1")));
            response.insert_header(("RateLimit", format!("\"events\";r=0;t={seconds}")));
        }
    }

    /// The problem's type.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let kind = match denied.why {
            Why::Unauthenticated => Kind::Unauthenticated,
            Why::InvalidCredentials => Kind::InvalidToken,
            Why::Ambiguous => Kind::InvalidRequest,
            Why::InvalidParameter => Kind::InvalidParameter,
            Why::MayNotSubscribe => Kind::SubscribeDenied,
            Why::MayNotPublish => Kind::PublishDenied,
            Why::ForeignOrigin => Kind::ForeignOrigin,
            Why::NoTickets => Kind::NotFound,
        };
        Problem { field: denied.field, ..Problem::new(kind, denied.detail) }
    }
}

impl From<NotUtf8> for Problem {
    fn from(error: NotUtf8) -> Self {
        Denied::from(error).into()
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (name, title, status) = self.kind.parts();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &format_args!("urn:sse-gateway:{name}"))?;
        map.serialize_entry("title", title)?;
        map.serialize_entry("status", &status)?;
        map.serialize_entry("detail", &self.detail)?;
        if let Some(field) = &self.field {
            map.serialize_entry("field", field)?;
        }
        if let Some(results) = &self.results {
            map.serialize_entry("results", results)?;
        }
        map.end()
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status());
        self.add_headers(&mut response);
        if let Some(challenge) = self.challenge() {
            response.insert_header((header::WWW_AUTHENTICATE, challenge));
        }
        response
            .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
            .content_type(JSON)
            .body(serde_json::to_string(self).unwrap_or_default())
    }
}

/// Replaces an error that actix-http answers by itself to bytes that it cannot read as a request: a
/// head without a body. Returns `None` for any other bytes.
pub(crate) fn instead(answer: &[u8]) -> Option<Bytes> {
    let head = answer.strip_prefix(b"HTTP/1.1 ")?.strip_suffix(b"\r\n\r\n")?;
    let (kind, detail) = match head.get(..3)? {
        b"400" => (
            Kind::InvalidRequest,
            "this is not a request of HTTP/1.1, or its URL is longer than 65,534 bytes",
        ),
        b"408" => (Kind::RequestTimeout, "the request's head did not come whole in time"),
        b"431" => (
            Kind::HeadTooLarge,
            "the request's head is larger than 128 KiB, or has more than 96 headers",
        ),
        _ => return None,
    };
    // Other answers with such a status have a body, so the missing body identifies actix's own.
    memchr::memmem::find(head, b"\r\ncontent-length: 0\r\n")?;
    Some(last_answer(kind, detail))
}

/// The answer to a client that speaks plain HTTP on a TLS port.
pub(crate) fn https_wanted() -> Bytes {
    last_answer(Kind::InvalidRequest, "this port speaks TLS; the URL must begin with https://")
}

/// A complete HTTP/1.1 response, after which the connection is closed.
fn last_answer(kind: Kind, detail: &str) -> Bytes {
    let body = serde_json::to_string(&Problem::new(kind, detail)).unwrap_or_default();
    let (_, title, status) = kind.parts();
    Bytes::from(format!(
        "HTTP/1.1 {status} {title}\r\ncontent-type: {JSON}\r\ncache-control: no-store\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// Turns a library's error into a problem.
pub(crate) fn of(error: actix_web::Error) -> actix_web::Error {
    if error.as_error::<Problem>().is_some() {
        return error;
    }
    let words = match error.to_string() {
        empty if empty.is_empty() => "a fault of the gateway; its log has more".to_owned(),
        words => words,
    };
    let kind = library_kind(error.as_response_error().status_code()).unwrap_or(Kind::Internal);
    Problem::new(kind, words).into()
}

fn library_kind(status: StatusCode) -> Option<Kind> {
    Some(match status.as_u16() {
        400 => Kind::InvalidRequest,
        404 => Kind::NotFound,
        405 => Kind::MethodNotAllowed,
        500 => Kind::Internal,
        _ => return None,
    })
}

/// Replaces an error response of a library by a problem. The problem's detail is the library's
/// text, or method and path if it has none.
pub(crate) fn in_place<B: MessageBody>(
    response: ServiceResponse<B>,
) -> ServiceResponse<EitherBody<B>> {
    let Some(kind) = library_kind(response.status()) else { return response.map_into_left_body() };
    // The gateway's own responses have a content type other than `text/plain`, even those that are
    // no problem documents, such as NDJSON results.
    let kinds = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if kinds.is_some_and(|kind| !kind.starts_with(b"text/plain")) {
        return response.map_into_left_body();
    }
    let (request, response) = response.into_parts();
    let words = response.error().map(ToString::to_string);
    let words = words.unwrap_or_else(|| format!("{} {}", request.method(), request.path()));
    let mut answer = Problem::new(kind, words).error_response();
    for (name, value) in response.headers() {
        // Headers that describe the replaced body are dropped with it.
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            answer.headers_mut().append(name.clone(), value.clone());
        }
    }
    ServiceResponse::new(request, answer.map_into_right_body())
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let kind = match refused.over {
            Over::AddressStreams | Over::SubjectStreams | Over::ClusterStreams => {
                Kind::TooManyStreams
            }
            _ => Kind::RateLimited,
        };
        let rate = (refused.over == Over::PublishRate).then_some(refused.limit);
        Problem { after: refused.after, rate, ..Problem::new(kind, refused.to_string()) }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        let detail = error.to_string();
        match error {
            PublishError::TooLarge(_) => Problem::new(Kind::TooLarge, detail).field("data"),
            PublishError::Conflict(_) => {
                Problem::new(Kind::IdempotencyConflict, detail).field("idempotency_key")
            }
            PublishError::Denied(_) => Problem::new(Kind::PublishDenied, detail),
            PublishError::Unavailable(_) => Problem::new(Kind::RedisUnavailable, detail),
            PublishError::OutcomeUnknown(_) => Problem::new(Kind::PublishOutcomeUnknown, detail),
            PublishError::Refused(_) => Problem::new(Kind::Internal, detail),
        }
    }
}
