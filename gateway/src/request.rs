//! What requests say, checked at the edge: from here on there are only channels, event types and starts.

use std::borrow::Cow;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::HeaderValue;
use percent_encoding::percent_decode;
use sse_contract::{Channel, EventType};

use crate::hub::Subscription;
use crate::join::Start;
use crate::origin::AllowedOrigins;
use crate::problem::{Kind, Problem};

/// The longest `Last-Event-ID` that is looked at, in bytes.
const MAX_LAST_EVENT_ID: usize = 1024;

/// A query's pairs in order, decoded strictly: what is not UTF-8 is refused, where a browser's decoder
/// would put U+FFFD in its place and subscribe to something else than was meant.
pub fn query_pairs(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let decode = |text: &str, name: &str| {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode(spaced.as_bytes()).decode_utf8().map(Cow::into_owned);
        decoded.map_err(|_| {
            let detail = format!("the query parameter {name:?} is not UTF-8");
            Problem::new(Kind::InvalidParameter, detail).field(name.to_owned())
        })
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name, name)?;
            let value = decode(value, &name)?;
            Ok((name, value))
        })
        .collect()
}

/// A channel's name in a query or body.
pub fn channel(name: &str, field: &'static str) -> Result<Channel, Problem> {
    name.parse().map_err(|error: sse_contract::ChannelError| {
        Problem::new(Kind::InvalidChannel, error.to_string()).field(field)
    })
}

/// The channel in a path, where a slash is written `%2F`.
pub fn path_channel(request: &HttpRequest) -> Result<Channel, Problem> {
    let raw = request.match_info().get("channel").unwrap_or_default();
    let name = percent_decode(raw.as_bytes()).decode_utf8().map_err(|_| {
        Problem::new(Kind::InvalidChannel, "the channel in the path is not UTF-8").field("channel")
    })?;
    channel(&name, "channel")
}

/// An event's type in a query or body; an empty one is none.
pub fn event_type(text: &str) -> Result<Option<EventType>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map_err(|error: sse_contract::EventTypeError| {
        Problem::new(Kind::InvalidEvent, error.to_string()).field("event")
    })?;
    Ok(Some(parsed))
}

/// An idempotency key: visible ASCII, as it must fit a header.
pub fn idempotency_key(key: &[u8]) -> Result<Arc<str>, Problem> {
    sse_contract::idempotency_key(key).map_err(|error| {
        Problem::new(Kind::InvalidIdempotencyKey, error.to_string()).field("idempotency_key")
    })
}

/// What a request for a stream asks for.
pub fn subscription(request: &HttpRequest, max_channels: usize) -> Result<Subscription, Problem> {
    let mut channels: Vec<Channel> = Vec::new();
    let mut start = None;
    let mut checkpoints = true;
    for (name, value) in query_pairs(request.query_string())? {
        match name.as_str() {
            "channel" => {
                let channel = channel(&value, "channel")?;
                if !channels.contains(&channel) {
                    channels.push(channel);
                }
            }
            "last_event_id" => start = Some(start_from(value.as_bytes())),
            "checkpoints" => {
                checkpoints = match value.as_str() {
                    "on" => true,
                    "off" => false,
                    _ => {
                        let detail = format!("checkpoints is on or off, not {value:?}");
                        let problem = Problem::new(Kind::InvalidParameter, detail);
                        return Err(problem.field("checkpoints"));
                    }
                }
            }
            // Others may be a proxy's, or there against caches.
            _ => {}
        }
    }
    if channels.is_empty() {
        let detail = "name at least one channel, as in /events?channel=demo";
        return Err(Problem::new(Kind::InvalidParameter, detail).field("channel"));
    }
    if channels.len() > max_channels {
        let detail =
            format!("a stream has at most {max_channels} channels, this one {}", channels.len());
        return Err(Problem::new(Kind::InvalidParameter, detail).field("channel"));
    }
    // A reconnecting EventSource sends the header and repeats the first URL: the header is the younger.
    if let Some(header) = request.headers().get("Last-Event-ID").filter(|h| !h.is_empty()) {
        start = Some(start_from(header.as_bytes()));
    }
    Ok(Subscription { channels: channels.into(), start: start.unwrap_or(Start::Now), checkpoints })
}

/// Refuses a page of another site that is not among the allowed origins. CORS alone only keeps such a page
/// from reading the answer; the event would be published.
pub fn check_origin(request: &HttpRequest, allowed: &AllowedOrigins) -> Result<(), Problem> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = header("Origin") else { return Ok(()) };
    if allowed.allow(origin) {
        return Ok(());
    }
    let host = origin.split_once("://").map(|(_, host)| host);
    let own = [header("Host"), header("X-Forwarded-Host")];
    if host.is_some() && own.contains(&host) {
        return Ok(());
    }
    let detail =
        format!("pages of {origin} may not publish here; cors.origins lists those that may");
    Err(Problem::new(Kind::ForeignOrigin, detail).field("Origin"))
}

/// Whether the client says itself that it reads event streams, as every EventSource does.
pub fn names_event_stream(request: &HttpRequest) -> bool {
    let accepts = request.headers().get_all("Accept");
    let names = |value: &HeaderValue| {
        value.as_bytes().to_ascii_lowercase().windows(17).any(|w| w == b"text/event-stream")
    };
    accepts.into_iter().any(names)
}

fn start_from(raw: &[u8]) -> Start {
    if raw.is_empty() {
        return Start::Now;
    }
    if raw == b"0" {
        return Start::Oldest;
    }
    let text = String::from_utf8_lossy(&raw[..raw.len().min(MAX_LAST_EVENT_ID)]);
    match text.parse() {
        Ok(id) => Start::After(id),
        // A few characters show whoever reads the gap what was sent; more would be an echo of anything.
        Err(_) => Start::Unknown(text.chars().take(64).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;
    use sse_contract::EventId;

    fn read(uri: &str, header: Option<&[u8]>) -> Result<Subscription, Problem> {
        let mut request = TestRequest::get().uri(uri);
        if let Some(header) = header {
            let value = HeaderValue::from_bytes(header).expect("a header's bytes");
            request = request.insert_header(("Last-Event-ID", value));
        }
        subscription(&request.to_http_request(), 3)
    }

    #[test]
    fn channels_are_counted_once_and_in_order() {
        let s = read("/events?channel=b&channel=a&channel=b&channel=c%2Fd", None).unwrap();
        let names: Vec<&str> = s.channels.iter().map(Channel::as_str).collect();
        assert_eq!(names, ["b", "a", "c/d"]);
        assert_eq!(s.start, Start::Now);
        assert!(read("/events?channel=1&channel=2&channel=3&channel=4", None).is_err());
    }

    #[test]
    fn the_header_wins() {
        let id = EventId { ms: 5, seq: 6 };
        assert_eq!(read("/events?channel=a&last_event_id=0", None).unwrap().start, Start::Oldest);
        let both = read("/events?channel=a&last_event_id=0", Some(b"5-6")).unwrap();
        assert_eq!(both.start, Start::After(id));
        let odd = read("/events?channel=a", Some(b"\xff\xfe")).unwrap();
        assert!(matches!(odd.start, Start::Unknown(_)), "{odd:?}");
    }

    #[test]
    fn what_is_not_utf8_is_refused_by_name() {
        let error = read("/events?channel=a%FF", None).unwrap_err();
        assert!(error.to_string().contains("\"channel\""), "{error}");
        assert!(read("/events?chanel=a", None).is_err());
        assert!(read("/events?channel=a&checkpoints=maybe", None).is_err());
    }
}
