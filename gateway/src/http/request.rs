//! What requests say, checked at the edge: from here on there are only channels, event types and starts.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::Version;
use actix_web::http::header::{self, HeaderValue};
use percent_encoding::percent_decode;
use sse_contract::{Channel, EventId, EventType};

use crate::access::asker::NotUtf8;
use crate::config::TlsConfig;
use crate::config::origins::AllowedOrigins;
use crate::http::problem::{Kind, Problem};
use crate::http::takeover::TakeoverOrder;
use crate::http::transport::Client;
use crate::stream::join::Start;
use crate::stream::subscription::Subscription;

/// The longest `Last-Event-ID` that is looked at, in bytes.
const MAX_LAST_EVENT_ID: usize = 1024;

/// A query's pairs in order, decoded strictly: what is not UTF-8 is refused, where a browser's decoder
/// would put U+FFFD in its place and subscribe to something else than was meant.
pub fn query_pairs(query: &str) -> Result<Vec<(String, String)>, NotUtf8> {
    let decode = |text: &str, name: &str| {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode(spaced.as_bytes()).decode_utf8().map(Cow::into_owned);
        decoded.map_err(|_| NotUtf8(name.to_owned()))
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
    let pairs = query_pairs(request.query_string())?;
    let once = ["checkpoints", "ticket", "token"];
    once_each(&pairs, |name| once.contains(&name) || is_position(name))?;
    for (name, value) in pairs {
        match name.as_str() {
            "channel" => {
                let channel = channel(&value, "channel")?;
                if !channels.contains(&channel) {
                    // Looked for among few: a query that names thousands is not read to its end.
                    if channels.len() == max_channels {
                        let detail =
                            format!("a stream has at most {max_channels} channels, this one more");
                        return Err(Problem::new(Kind::InvalidParameter, detail).field("channel"));
                    }
                    channels.push(channel);
                }
            }
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
            // These say who asks, see access.rs.
            "ticket" | "token" => {}
            // Of two spellings the last one holds: a client that resumes puts its own behind the URL that it was given.
            name if is_position(name) => start = Some(start_from(value.as_bytes())),
            name if looks_like_a_position(name, &value) => {
                let detail = format!(
                    "{name}={value:.64} looks like a position to go on after; that is called last_event_id here"
                );
                return Err(Problem::new(Kind::InvalidParameter, detail).field(name.to_owned()));
            }
            // Others may be a proxy's, or there against caches.
            _ => {}
        }
    }
    if channels.is_empty() {
        let detail = "name at least one channel, as in /events?channel=demo";
        return Err(Problem::new(Kind::InvalidParameter, detail).field("channel"));
    }
    // A reconnecting EventSource sends the header and repeats the first URL: the header is the younger.
    if let Some(header) = request.headers().get("Last-Event-ID").filter(|h| !h.is_empty()) {
        start = Some(start_from(header.as_bytes()));
    }
    let start = start.unwrap_or(Start::Now);
    Ok(Subscription { channels: channels.into(), start, checkpoints, bearer: None })
}

/// Refuses one of `these` parameters that is given twice: whichever of the two were taken, somebody meant the other one.
pub fn once_each(pairs: &[(String, String)], these: impl Fn(&str) -> bool) -> Result<(), Problem> {
    let mut seen = HashSet::new();
    let twice = pairs.iter().find(|(name, _)| these(name) && !seen.insert(name));
    let Some((name, _)) = twice else { return Ok(()) };
    let detail = format!("the parameter {name:?} is given twice");
    Err(Problem::new(Kind::InvalidParameter, detail).field(name.clone()))
}

/// A name as it stands, without what spellings differ in.
fn letters(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase())
}

/// `last_event_id` in the spellings of clients: event-source-polyfill says `lastEventId`, others name the header.
fn is_position(name: &str) -> bool {
    letters(name).eq("lasteventid".chars())
}

/// Whether a parameter of another name was meant as a position: it would otherwise be ignored, and the stream begin with
/// what comes, which loses silently what its client asked for.
fn looks_like_a_position(name: &str, value: &str) -> bool {
    let letters: String = letters(name).collect();
    let named = ["after", "cursor", "position", "resume", "since"].contains(&letters.as_str());
    named
        || letters.contains("eventid")
        || letters.contains("lastid")
        || value.parse::<EventId>().is_ok()
}

/// Refuses a page of another site that is not among the allowed origins. CORS alone only keeps such a page
/// from reading the answer; the event would be published.
pub fn check_origin(request: &HttpRequest, allowed: &AllowedOrigins) -> Result<(), Problem> {
    let Some(origin) = header(request, "Origin") else { return Ok(()) };
    if allowed.allow(origin) || is_own(request, origin) {
        return Ok(());
    }
    let detail =
        format!("pages of {origin} may not publish here; cors.origins lists those that may");
    Err(Problem::new(Kind::ForeignOrigin, detail).field("Origin"))
}

/// The origin of a page of another site that is not listed by its name. What any page may do is done without cookies.
pub fn foreign_origin(request: &HttpRequest, allowed: &AllowedOrigins) -> Option<String> {
    match header(request, "Origin") {
        Some(origin) => {
            let listed = allowed.listed().iter().any(|listed| listed == origin);
            (!listed && !is_own(request, origin)).then(|| origin.to_owned())
        }
        // Browsers send no Origin with what a page includes (Fetch Metadata, W3C).
        None => (header(request, "Sec-Fetch-Site") == Some("cross-site"))
            .then(|| "another site".to_owned()),
    }
}

fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

fn is_own(request: &HttpRequest, origin: &str) -> bool {
    // HTTP/2 has the host in the place of the URL's.
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let named = authority.filter(|_| request.version() == Version::HTTP_2);
    let own = [named, header(request, "Host"), header(request, "X-Forwarded-Host")];
    own.into_iter().flatten().any(|host| is_of_host(origin, host))
}

/// Refuses to publish for a client that proved nothing, where `tls.publish_needs_certificate` says so.
pub fn check_certificate(request: &HttpRequest, tls: &TlsConfig) -> Result<(), Problem> {
    let order = request.conn_data::<TakeoverOrder>();
    let certified = order.is_some_and(|order| order.client() == Client::Certified);
    if certified || !tls.publish_needs_certificate {
        return Ok(());
    }
    let detail =
        "publishing takes a client certificate that an authority in tls.client_ca has signed";
    Err(Problem::new(Kind::CertificateRequired, detail))
}

/// Whether an origin is the one of this host. A browser leaves out the port that its scheme implies (WHATWG HTML §7.1.1);
/// a proxy may write it.
fn is_of_host(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let implied = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |text: &str| text.strip_suffix(implied).unwrap_or(text).to_ascii_lowercase();
    bare(authority) == bare(host)
}

/// Refuses a head that is larger than is taken: its line and its headers, as they are written without padding.
pub fn check_head(request: &HttpRequest, most: usize) -> Result<(), Problem> {
    let head = request.head();
    // A space, a colon or a line end behind each part.
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let line = head.method.as_str().len() + target + 13;
    let headers =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let size = line + headers.sum::<usize>();
    if size <= most {
        return Ok(());
    }
    let detail = format!("the request's head has {size} bytes, and at most {most} are taken");
    Err(Problem::new(Kind::HeadTooLarge, detail))
}

/// Refuses what no handler here could read: a body that is compressed, and a connection that is to become another one.
pub fn check_body(request: &HttpRequest) -> Result<(), Problem> {
    let encodings = request.headers().get_all(header::CONTENT_ENCODING);
    let encoded =
        encodings.map(HeaderValue::as_bytes).find(|e| !e.eq_ignore_ascii_case(b"identity"));
    if let Some(encoding) = encoded {
        let encoding = String::from_utf8_lossy(encoding);
        let detail = format!("Content-Encoding {encoding} is not taken; send the body as it is");
        return Err(Problem::new(Kind::UnsupportedMediaType, detail).field("Content-Encoding"));
    }
    // actix takes whatever follows for the new protocol's, so the body would never end.
    let upgrade = request.headers().get(header::UPGRADE);
    if upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        let detail = "there is no WebSocket here; publish without Upgrade, and listen at /events";
        return Err(Problem::new(Kind::InvalidRequest, detail).field("Upgrade"));
    }
    Ok(())
}

/// Text without the byte order mark that some programs write before it.
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text)
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

    /// Taken for none, it would begin with what comes, and lose silently what was asked for.
    #[test]
    fn a_position_is_understood_in_every_spelling_or_refused() {
        let start =
            |query: &str| read(&format!("/events?channel=a&{query}"), None).map(|s| s.start);
        let id = EventId { ms: 5, seq: 6 };
        for name in
            ["last_event_id", "lastEventId", "lastEventID", "Last-Event-ID", "last-event-id"]
        {
            assert_eq!(start(&format!("{name}=5-6")).unwrap(), Start::After(id), "{name}");
        }
        assert_eq!(start("last_event_id=0&lastEventId=5-6").unwrap(), Start::After(id));
        for query in
            ["after=5", "since=1", "event_id=x", "lastId=x", "cursor=", "from=5-6", "LastEvtID=5-6"]
        {
            let error = start(query).unwrap_err().to_string();
            let name = query.split('=').next().unwrap();
            assert!(error.contains(name) && error.contains("last_event_id"), "{error}");
        }
        for query in ["_=1795412348246", "cb=0.234", "utm_source=x", "t=5"] {
            assert_eq!(start(query).unwrap(), Start::Now, "{query}");
        }
    }

    #[test]
    fn what_is_given_twice_is_refused() {
        assert!(read("/events?channel=a&_=1&_=2", None).is_ok());
        for query in ["last_event_id=0&last_event_id=5-6", "checkpoints=on&checkpoints=off"] {
            let error = read(&format!("/events?channel=a&{query}"), None).unwrap_err().to_string();
            assert!(error.contains("twice"), "{error}");
        }
    }

    #[test]
    fn an_origin_is_the_hosts_own_with_or_without_the_implied_port() {
        let same = |origin, host| is_of_host(origin, host);
        assert!(
            same("https://gw", "gw") && same("https://gw", "gw:443") && same("http://GW:80", "gw")
        );
        assert!(same("http://gw:8080", "gw:8080") && same("http://[::1]", "[::1]:80"));
        assert!(
            !same("https://gw", "gw:80")
                && !same("http://gw", "gw:443")
                && !same("https://gw", "gw2")
        );
        assert!(!same("null", "null") && !same("file://", "") && !same("ftp://gw", "gw"));
    }

    #[test]
    fn what_is_not_utf8_is_refused_by_name() {
        let error = read("/events?channel=a%FF", None).unwrap_err();
        assert!(error.to_string().contains("\"channel\""), "{error}");
        assert!(read("/events?chanel=a", None).is_err());
        assert!(read("/events?channel=a&checkpoints=maybe", None).is_err());
    }
}
