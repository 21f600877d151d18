//! The raw head of a stream request: the subscription is what the query says, and the credentials
//! are those in the request.

use std::sync::OnceLock;

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{Method, Uri};
use actix_web::test::TestRequest;
use sse_contract::Channel;
use sse_gateway::Config;
use sse_gateway::access::credentials::Credentials;
use sse_gateway::config::ServerConfig;
use sse_gateway::config::origins::AllowedOrigins;
use sse_gateway::http::asking::Asking;
use sse_gateway::http::request;
use sse_gateway::stream::subscription::Begin;

use crate::cursors::is_meant;

const MOST_CHANNELS: usize = 5;
const COOKIE: &str = "sse_token";
const PROXY: [u8; 4] = [10, 0, 0, 1];

/// Reads a head, if it is valid HTTP/1.1.
pub fn run(data: &[u8]) {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut headers);
    if !matches!(head.parse(data), Ok(httparse::Status::Complete(_))) {
        return;
    }
    let (Some(method), Some(path)) = (head.method, head.path) else { return };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method.as_bytes()), path.parse::<Uri>()) else {
        return;
    };
    let mut request = TestRequest::default().method(method).uri(&uri.to_string());
    request = request.peer_addr((PROXY, 1).into());
    for header in head.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(header.value)) {
            request = request.append_header((name, value));
        }
    }
    let request = request.to_http_request();
    subscription(&request);
    credentials(&request);
    for trusts in [true, false] {
        site(&request, trusts);
    }
    let _ = request::check_body(&request);
    let streams = request.headers().get_all("Accept").any(|value| {
        String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase().contains("text/event-stream")
    });
    assert_eq!(request::names_event_stream(&request), streams);
}

/// The pairs of a query, form-decoded; none if any of them is not UTF-8.
fn pairs(query: &str) -> Option<Vec<(String, String)>> {
    let decode = |text: &str| {
        let (bytes, mut decoded, mut n) = (text.as_bytes(), Vec::new(), 0);
        while n < bytes.len() {
            let hex = |at: usize| bytes.get(at).and_then(|c| char::from(*c).to_digit(16));
            match (bytes[n], hex(n + 1), hex(n + 2)) {
                (b'%', Some(high), Some(low)) => {
                    decoded.push((16 * high + low) as u8);
                    n += 3;
                }
                (b'+', ..) => {
                    decoded.push(b' ');
                    n += 1;
                }
                (byte, ..) => {
                    decoded.push(byte);
                    n += 1;
                }
            }
        }
        String::from_utf8(decoded).ok()
    };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(name)?, decode(value)?))
    };
    query.split('&').filter(|text| !text.is_empty()).map(pair).collect()
}

fn subscription(request: &HttpRequest) {
    let pairs = pairs(request.query_string());
    assert_eq!(request::query_pairs(request.query_string()).ok(), pairs);
    let Ok(read) = request::subscription(request, MOST_CHANNELS) else { return };
    let pairs = pairs.expect("a query that is no UTF-8 is refused");
    let mut meant: Vec<Channel> = Vec::new();
    let (mut position, mut checkpoints, mut annotate) = (None, true, false);
    for (name, value) in &pairs {
        let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        if name == "channel" {
            let channel = value.parse().expect("what is subscribed to is a channel");
            if !meant.contains(&channel) {
                meant.push(channel);
            }
        } else if name == "checkpoints" {
            checkpoints = value == "on";
        } else if name == "annotate" {
            assert_eq!(value, "channel");
            annotate = true;
        } else if letters.eq_ignore_ascii_case("lasteventid") {
            position = Some(value.as_bytes());
        }
    }
    assert_eq!(*read.channels, *meant);
    assert!((1..=MOST_CHANNELS).contains(&meant.len()));
    assert_eq!((read.checkpoints, read.annotate), (checkpoints, annotate));
    let header = request.headers().get("Last-Event-ID").filter(|value| !value.is_empty());
    match header.map(HeaderValue::as_bytes).or(position) {
        Some(raw) => is_meant(raw, &read.begin),
        None => assert_eq!(read.begin, Begin::Now),
    }
}

/// Credentials are in the request, each in one place.
fn credentials(request: &HttpRequest) {
    let Ok(pairs) = request::query_pairs(request.query_string()) else { return };
    let asking = Asking::of(request, server(false));
    let Ok(shown) = Credentials::of(&asking, COOKIE, &pairs) else { return };
    let all = |name: &str| -> Vec<String> {
        let values = request.headers().get_all(name);
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    if let Some(bearer) = shown.bearer {
        let [header] = &all("Authorization")[..] else { panic!("taken from two headers") };
        assert!(
            header.to_ascii_lowercase().trim().starts_with("bearer") && header.contains(bearer)
        );
    }
    if let Some(key) = shown.api_key {
        assert_eq!(all("X-API-Key"), [key]);
    }
    if let Some(cookie) = shown.cookie {
        assert!(!cookie.is_empty() && !cookie.contains(';'));
        assert!(all("Cookie").iter().any(|line| line.contains(COOKIE) && line.contains(cookie)));
    }
    if let Some(ticket) = shown.ticket {
        assert!(ticket.len() == 64 && ticket.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    let token =
        pairs.iter().rev().find(|(name, _)| name == "token").map(|(_, value)| value.clone());
    assert_eq!(shown.token, token);
}

/// A gateway that trusts `PROXY`, or another address.
fn server(trusts: bool) -> &'static ServerConfig {
    static SERVERS: OnceLock<[ServerConfig; 2]> = OnceLock::new();
    let servers = SERVERS.get_or_init(|| {
        ["192.0.2.1", "10.0.0.0/8"].map(|network| {
            let pairs = [("server.trusted_proxies".to_owned(), network.to_owned())];
            Config::load(None, std::iter::empty(), &pairs).expect("a configuration").server
        })
    });
    &servers[usize::from(trusts)]
}

/// The origin of another site is never taken for that of this host. `X-Forwarded-Host` names this
/// host only if the request comes from a proxy that the gateway trusts.
fn site(request: &HttpRequest, trusts: bool) {
    let (server, told) = (server(trusts), trusts.then_some("X-Forwarded-Host"));
    let allowed: AllowedOrigins =
        serde_json::from_str(r#"["https://app.example.org"]"#).expect("origins");
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = header("Origin") else { return };
    let own = ["Host"].into_iter().chain(told).filter_map(header).any(|host| {
        let host = host.to_ascii_lowercase();
        let of = |scheme: &str, port: &str| {
            let plain = host.strip_suffix(port).unwrap_or(&host);
            let origin = origin.to_ascii_lowercase();
            origin == format!("{scheme}://{plain}") || origin == format!("{scheme}://{plain}{port}")
        };
        of("http", ":80") || of("https", ":443")
    });
    let listed = origin == "https://app.example.org";
    let foreign = request::foreign_origin(request, &allowed, server).is_some();
    assert!(foreign || own || listed, "{origin} is taken for this site's");
    assert_eq!(foreign, request::check_origin(request, &allowed, server).is_err());
}
