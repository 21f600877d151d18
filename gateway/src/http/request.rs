//! Reads requests and checks them at the edge. The code behind it sees only valid channels, event
//! types and starts.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::Version;
use actix_web::http::header::{self, HeaderValue};
use percent_encoding::percent_decode;
use sse_contract::{Channel, Cursor, EventType};

use crate::access::asker::NotUtf8;
use crate::config::origins::AllowedOrigins;
use crate::config::{ServerConfig, TlsConfig};
use crate::http::client_addr;
use crate::http::problem::{Kind, Problem};
use crate::http::takeover::TakeoverOrder;
use crate::http::transport::Client;
use crate::stream::subscription::{Begin, Subscription};

/// Bytes of a `Last-Event-ID` that are read; the rest is ignored.
const MAX_LAST_EVENT_ID: usize = 1024;

/// The pairs of a query, in order. Text that is not UTF-8 is an error: a browser's decoder would
/// put U+FFFD in its place, and the client would subscribe to another channel than it meant.
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

/// Parses a channel's name; `field` names the input in the error.
pub fn channel(name: &str, field: &'static str) -> Result<Channel, Problem> {
    name.parse().map_err(|error: sse_contract::ChannelError| {
        Problem::new(Kind::InvalidChannel, error.to_string()).field(field)
    })
}

/// The channel in a path. A slash in its name is written `%2F`.
pub fn path_channel(request: &HttpRequest) -> Result<Channel, Problem> {
    let raw = request.match_info().get("channel").unwrap_or_default();
    let name = percent_decode(raw.as_bytes()).decode_utf8().map_err(|_| {
        Problem::new(Kind::InvalidChannel, "the channel in the path is not UTF-8").field("channel")
    })?;
    channel(&name, "channel")
}

/// Parses an event's type; an empty one means no type.
pub fn event_type(text: &str) -> Result<Option<EventType>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map_err(|error: sse_contract::EventTypeError| {
        Problem::new(Kind::InvalidEvent, error.to_string()).field("event")
    })?;
    Ok(Some(parsed))
}

/// Parses an idempotency key. It must be visible ASCII, because it can be a header's value.
pub fn idempotency_key(key: &[u8]) -> Result<Arc<str>, Problem> {
    sse_contract::idempotency_key(key).map_err(|error| {
        Problem::new(Kind::InvalidIdempotencyKey, error.to_string()).field("idempotency_key")
    })
}

/// Reads the query and the `Last-Event-ID` header of a request for a stream. A stream may have at
/// most `max_channels` channels.
pub fn subscription(request: &HttpRequest, max_channels: usize) -> Result<Subscription, Problem> {
    let mut channels: Vec<Channel> = Vec::new();
    let mut begin = None;
    let (mut checkpoints, mut annotate) = (true, false);
    let pairs = query_pairs(request.query_string())?;
    let once = ["annotate", "checkpoints", "ticket", "token"];
    once_each(&pairs, |name| once.contains(&name) || is_position(name))?;
    for (name, value) in pairs {
        match name.as_str() {
            "channel" => {
                let channel = channel(&value, "channel")?;
                if !channels.contains(&channel) {
                    // This bound also keeps the search above cheap: a query that names thousands of
                    // channels is refused here.
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
                    other => return Err(unknown_value("checkpoints", "on or off", other)),
                }
            }
            "annotate" => {
                annotate = match value.as_str() {
                    "channel" => true,
                    other => return Err(unknown_value("annotate", "channel", other)),
                }
            }
            // Credentials; `access.rs` reads them.
            "ticket" | "token" => {}
            // Of two spellings the last one wins: a client that resumes appends its own to the URL
            // that it was given.
            name if is_position(name) => begin = Some(begin_from(value.as_bytes())),
            name if looks_like_a_position(name, &value) => {
                let detail = format!(
                    "{name}={value:.64} looks like a position to go on after; that is called last_event_id here"
                );
                return Err(Problem::new(Kind::InvalidParameter, detail).field(name.to_owned()));
            }
            // Other parameters are ignored: a proxy or a cache-buster may have added them.
            _ => {}
        }
    }
    if channels.is_empty() {
        let detail = "name at least one channel, as in /events?channel=demo";
        return Err(Problem::new(Kind::InvalidParameter, detail).field("channel"));
    }
    // The header wins: a reconnecting EventSource sends it with its first URL unchanged, so the
    // position in the URL is older.
    if let Some(header) = request.headers().get("Last-Event-ID").filter(|h| !h.is_empty()) {
        begin = Some(begin_from(header.as_bytes()));
    }
    let begin = begin.unwrap_or(Begin::Now);
    let (about, peer) = (None, None);
    Ok(Subscription { channels: channels.into(), begin, checkpoints, annotate, about, peer })
}

/// The problem of a parameter that takes only `known` values, and has this one.
fn unknown_value(name: &'static str, known: &str, value: &str) -> Problem {
    let detail = format!("{name} is {known}, not {value:?}");
    Problem::new(Kind::InvalidParameter, detail).field(name)
}

/// Refuses a query that has one of `these` parameters twice. Either value could be the one that the
/// client did not mean.
pub fn once_each(pairs: &[(String, String)], these: impl Fn(&str) -> bool) -> Result<(), Problem> {
    let mut seen = HashSet::new();
    let twice = pairs.iter().find(|(name, _)| these(name) && !seen.insert(name));
    let Some((name, _)) = twice else { return Ok(()) };
    let detail = format!("the parameter {name:?} is given twice");
    Err(Problem::new(Kind::InvalidParameter, detail).field(name.clone()))
}

/// A name's letters and digits in lower case: equal for all spellings of the name.
fn letters(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase())
}

/// Whether a parameter is `last_event_id`, in any spelling that clients use: event-source-polyfill
/// writes `lastEventId`, others use the header's name.
fn is_position(name: &str) -> bool {
    letters(name).eq("lasteventid".chars())
}

/// Whether a parameter with another name was probably meant as a position. If it were ignored, the
/// stream would begin with live events, and the client would silently lose the events before.
fn looks_like_a_position(name: &str, value: &str) -> bool {
    let letters: String = letters(name).collect();
    let named = ["after", "cursor", "position", "resume", "since"].contains(&letters.as_str());
    named
        || letters.contains("eventid")
        || letters.contains("lastid")
        || value.parse::<Cursor>().is_ok()
}

/// Refuses a page of another site that is not among the allowed origins. CORS alone would not do:
/// it keeps such a page from reading the answer, but the event would be published. `server` says
/// which proxies may name this site.
pub fn check_origin(
    request: &HttpRequest,
    allowed: &AllowedOrigins,
    server: &ServerConfig,
) -> Result<(), Problem> {
    let Some(origin) = header(request, "Origin") else { return Ok(()) };
    if allowed.allow(origin) || is_own(request, origin, server) {
        return Ok(());
    }
    let detail =
        format!("pages of {origin} may not publish here; cors.origins lists those that may");
    Err(Problem::new(Kind::ForeignOrigin, detail).field("Origin"))
}

/// The page's origin, if the page belongs to another site that `allowed` does not list by name. A
/// wildcard does not count: it admits requests without cookies only. `server` says which proxies
/// may name this site.
pub fn foreign_origin(
    request: &HttpRequest,
    allowed: &AllowedOrigins,
    server: &ServerConfig,
) -> Option<String> {
    match header(request, "Origin") {
        Some(origin) => {
            let listed = allowed.listed().iter().any(|listed| listed == origin);
            (!listed && !is_own(request, origin, server)).then(|| origin.to_owned())
        }
        // Browsers send no `Origin` with requests for resources that a page includes, such as
        // images (Fetch Metadata, W3C).
        None => (header(request, "Sec-Fetch-Site") == Some("cross-site"))
            .then(|| "another site".to_owned()),
    }
}

fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

fn is_own(request: &HttpRequest, origin: &str, server: &ServerConfig) -> bool {
    // HTTP/2 carries the host in `:authority`, which actix puts into the URL.
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let named = authority.filter(|_| request.version() == Version::HTTP_2);
    // Anybody can write this header. Only a trusted proxy's says under which name pages know us.
    let told = header(request, "X-Forwarded-Host")
        .filter(|_| client_addr::is_of_trusted_proxy(request, server));
    let own = [named, header(request, "Host"), told];
    own.into_iter().flatten().any(|host| is_of_host(origin, host))
}

/// Refuses a publisher without a verified client certificate if `tls.publish_needs_certificate` is
/// set.
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

/// Whether an origin belongs to this host. A browser omits the port that the scheme implies (WHATWG
/// HTML §7.1.1), while a proxy may write it, so both forms are equal.
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

/// Refuses a head of more than `most` bytes. Counted are the request line and the headers, without
/// optional white space.
pub fn check_head(request: &HttpRequest, most: usize) -> Result<(), Problem> {
    let head = request.head();
    // The constants stand for spaces, colons and line ends, and for `HTTP/1.1`.
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

/// Refuses a compressed body, and an upgrade to WebSocket; no handler could read either.
pub fn check_body(request: &HttpRequest) -> Result<(), Problem> {
    let encodings = request.headers().get_all(header::CONTENT_ENCODING);
    let encoded =
        encodings.map(HeaderValue::as_bytes).find(|e| !e.eq_ignore_ascii_case(b"identity"));
    if let Some(encoding) = encoded {
        let encoding = String::from_utf8_lossy(encoding);
        let detail = format!("Content-Encoding {encoding} is not taken; send the body as it is");
        return Err(Problem::new(Kind::UnsupportedMediaType, detail).field("Content-Encoding"));
    }
    // actix treats everything behind an upgrade's head as the new protocol's bytes, so the body
    // would never end.
    let upgrade = request.headers().get(header::UPGRADE);
    if upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        let detail = "there is no WebSocket here; publish without Upgrade, and listen at /events";
        return Err(Problem::new(Kind::InvalidRequest, detail).field("Upgrade"));
    }
    Ok(())
}

/// Removes the UTF-8 byte order mark that some programs write before their text.
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text)
}

/// Whether the client's `Accept` names `text/event-stream`, as every EventSource's does.
pub fn names_event_stream(request: &HttpRequest) -> bool {
    let accepts = request.headers().get_all("Accept");
    let names = |value: &HeaderValue| {
        value.as_bytes().to_ascii_lowercase().windows(17).any(|w| w == b"text/event-stream")
    };
    accepts.into_iter().any(names)
}

fn begin_from(raw: &[u8]) -> Begin {
    if raw.is_empty() {
        return Begin::Now;
    }
    if raw == b"0" {
        return Begin::Oldest;
    }
    let text = String::from_utf8_lossy(&raw[..raw.len().min(MAX_LAST_EVENT_ID)]);
    match text.parse::<Cursor>() {
        Ok(cursor) => Begin::After(cursor),
        // The gap event shows the start of the bad id, so that a person can recognise it. A longer
        // echo would let the client put any text into it.
        Err(_) => Begin::Unknown(text.chars().take(64).collect()),
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
        assert_eq!(s.begin, Begin::Now);
        assert!(read("/events?channel=1&channel=2&channel=3&channel=4", None).is_err());
    }

    #[test]
    fn the_header_wins() {
        let id = EventId { ms: 5, seq: 6 };
        assert_eq!(read("/events?channel=a&last_event_id=0", None).unwrap().begin, Begin::Oldest);
        let both = read("/events?channel=a&last_event_id=0", Some(b"5-6")).unwrap();
        assert_eq!(both.begin, Begin::After(id.into()));
        let odd = read("/events?channel=a", Some(b"\xff\xfe")).unwrap();
        assert!(matches!(odd.begin, Begin::Unknown(_)), "{odd:?}");
    }

    /// An ignored position would start the stream with live events, and silently lose those before.
    #[test]
    fn a_position_is_understood_in_every_spelling_or_refused() {
        let start =
            |query: &str| read(&format!("/events?channel=a&{query}"), None).map(|s| s.begin);
        let id = EventId { ms: 5, seq: 6 };
        for name in
            ["last_event_id", "lastEventId", "lastEventID", "Last-Event-ID", "last-event-id"]
        {
            assert_eq!(start(&format!("{name}=5-6")).unwrap(), Begin::After(id.into()), "{name}");
        }
        assert_eq!(start("last_event_id=0&lastEventId=5-6").unwrap(), Begin::After(id.into()));
        for query in
            ["after=5", "since=1", "event_id=x", "lastId=x", "cursor=", "from=5-6", "LastEvtID=5-6"]
        {
            let error = start(query).unwrap_err().to_string();
            let name = query.split('=').next().unwrap();
            assert!(error.contains(name) && error.contains("last_event_id"), "{error}");
        }
        for query in ["_=1795412348246", "cb=0.234", "utm_source=x", "t=5"] {
            assert_eq!(start(query).unwrap(), Begin::Now, "{query}");
        }
    }

    #[test]
    fn events_tell_their_channel_where_the_client_asks() {
        let annotate = |query: &str| read(&format!("/events?channel=a{query}"), None);
        assert!(!annotate("").unwrap().annotate);
        assert!(annotate("&annotate=channel").unwrap().annotate);
        for value in ["", "channels", "id", "Channel"] {
            let error = annotate(&format!("&annotate={value}")).unwrap_err().to_string();
            assert!(error.contains(&format!("annotate is channel, not {value:?}")), "{error}");
        }
    }

    #[test]
    fn what_is_given_twice_is_refused() {
        assert!(read("/events?channel=a&_=1&_=2", None).is_ok());
        for query in [
            "last_event_id=0&last_event_id=5-6",
            "checkpoints=on&checkpoints=off",
            "annotate=channel&annotate=channel",
        ] {
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
