//! Tests of the limits for clients. Each limit is reached on real sockets. The client must be told
//! as documented, and other clients must not notice.
//!
//! A peer on loopback is not limited by address, so these clients come through a trusted proxy: by
//! an `X-Forwarded-For`, by the PROXY protocol, or by a real HAProxy. A reader that never reads is
//! tested in `streams.rs` (`a_stalled_reader_is_closed_and_delays_nobody`), and what exhausts a
//! process in `life.rs`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sse_gateway::access::cluster_streams::{ClusterLease, ClusterStreams};
use sse_gateway::broker::redis::RedisBroker;
use sse_gateway::broker::redis::settings::RedisSettings;
use sse_gateway::metrics::Metrics;
use sse_gateway::{Config, vitals};

use crate::event_source::EventSource;
use crate::streams::NDJSON;
use crate::support::{
    Answer, BOUND, Process, Redis, Scratch, Subscriber, TestGateway, eventually, own_addr,
    read_answer, request, spawn,
};
use crate::webdriver::Browser;

const JSON: (&str, &str) = ("Content-Type", "application/json");
/// Makes loopback the address of a trusted proxy.
const TRUSTED: (&str, &str) = ("server.trusted_proxies", "127.0.0.0/8");
const ANN: (&str, &str) = ("X-Forwarded-For", "203.0.113.9");
const BOB: (&str, &str) = ("X-Forwarded-For", "203.0.113.10");

fn rejected(gateway: &TestGateway, reason: &str) -> u64 {
    gateway.metrics.rejected.with_label_values(&[reason]).get()
}

/// Checks that a stream ends at once, with a time to come back, and unfinished, so that its client
/// does come back.
#[track_caller]
fn told_to_come_back(mut stream: Subscriber) {
    // A stream that is let in begins with a checkpoint.
    assert_eq!(stream.read(), None);
    assert!(stream.retry.is_some());
    assert!(!stream.into_reader().get_ref().is_whole());
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let lines = answer.head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
}

fn bounded(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.set_write_timeout(Some(BOUND)).unwrap();
    stream
}

/// Waits for the connection's end, and returns what came before it.
#[track_caller]
fn end_of(mut stream: TcpStream) -> String {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it was not closed: {error}"),
    }
    String::from_utf8_lossy(&rest).into_owned()
}

#[test]
fn streams_of_one_address_have_a_limit_and_a_closed_one_makes_room() {
    for takeover in ["true", "false"] {
        let limit = ("limits.streams_per_address", "2");
        let gateway = TestGateway::memory(&[TRUSTED, limit, ("stream.takeover", takeover)]);
        let open = |who| {
            let mut stream = Subscriber::open(gateway.addr, "channel=demo", &[who]);
            stream.opening();
            stream
        };
        let (one, mut two) = (open(ANN), open(ANN));
        told_to_come_back(Subscriber::open(gateway.addr, "channel=demo", &[ANN]));
        let plain = request(gateway.addr, "GET", "/events?channel=demo", &[ANN], b"");
        assert_eq!(plain.status, 429, "{}", plain.body);
        assert_eq!(plain.json()["type"], "urn:sse-gateway:too-many-streams");
        let seconds: u64 = header(&plain, "Retry-After").unwrap().parse().unwrap();
        assert!((3..=5).contains(&seconds), "stream.retry with its jitter: {seconds}");
        assert_eq!(rejected(&gateway, "address_streams"), 2);
        let other = open(BOB);
        let id = gateway.publish("demo", "to those who are in");
        assert_eq!(two.event().id, id);
        drop(one);
        eventually("there is room", || gateway.sum(|c| c.subscribers.get()) == 2);
        let third = open(ANN);
        drop((two, third, other));
        gateway.settled();
    }
}

#[test]
fn a_forwarded_address_of_an_untrusted_peer_changes_nothing() {
    let limits = [("limits.streams_per_address", "1"), ("limits.publish_rate", "1")];
    let both = [ANN, ("Forwarded", "for=203.0.113.9")];
    let untrusting =
        TestGateway::memory(&[&limits[..], &[("server.trusted_proxies", "10.0.0.0/8")]].concat());
    let streams = [0; 3].map(|_| Subscriber::open(untrusting.addr, "channel=demo", &both));
    for mut stream in streams {
        stream.opening();
        assert_eq!(untrusting.post("/channels/demo", &both, b"x").status, 200);
    }
    // Behind a trusted proxy, an address that the client itself wrote into the header does not
    // count.
    let gateway = TestGateway::memory(&[&limits[..], &[TRUSTED]].concat());
    let mut first = Subscriber::open(gateway.addr, "channel=demo", &[ANN]);
    first.opening();
    for spoofed in
        ["198.51.100.1, 203.0.113.9", "unknown, 203.0.113.9:4711", ",,\", 203.0.113.9, 127.0.0.9"]
    {
        told_to_come_back(Subscriber::open(
            gateway.addr,
            "channel=demo",
            &[("X-Forwarded-For", spoofed)],
        ));
    }
    let forwarded = [("Forwarded", "for=198.51.100.1"), ANN];
    told_to_come_back(Subscriber::open(gateway.addr, "channel=demo", &forwarded));
}

#[test]
fn an_address_may_be_told_by_forwarded_instead() {
    let settings =
        [TRUSTED, ("server.forwarded_header", "forwarded"), ("limits.streams_per_address", "1")];
    let gateway = TestGateway::memory(&settings);
    let ann = ("Forwarded", "for=198.51.100.1, for=203.0.113.9;host=\"a,for=198.51.100.2\"");
    let mut first = Subscriber::open(gateway.addr, "channel=demo", &[ann]);
    first.opening();
    told_to_come_back(Subscriber::open(gateway.addr, "channel=demo", &[ann, BOB]));
    Subscriber::open(gateway.addr, "channel=demo", &[("Forwarded", "for=\"[2001:db8::1]:80\"")])
        .opening();
}

#[test]
fn a_publisher_above_its_rate_is_told_when_to_come_back() {
    let gateway = TestGateway::memory(&[TRUSTED, ("limits.publish_rate", "10")]);
    let publish = |who, body: &[u8]| gateway.post("/publish", &[JSON, who], body);
    let item = r#"{"channel":"a","data":1}"#;
    let ten = format!("[{}]", [item; 10].join(","));
    // A batch may exceed the rate if nothing was published before. Later requests wait until it is
    // paid off.
    assert_eq!(publish(ANN, format!("[{}]", [item; 50].join(",")).as_bytes()).status, 200);
    for answer in [
        publish(ANN, ten.as_bytes()),
        publish(ANN, item.as_bytes()),
        gateway.post("/channels/a", &[ANN], b"1"),
    ] {
        assert_eq!(answer.status, 429, "{}", answer.body);
        assert_eq!(answer.json()["type"], "urn:sse-gateway:rate-limited");
        let seconds: u64 = header(&answer, "Retry-After").unwrap().parse().unwrap();
        assert!((1..=5).contains(&seconds), "{seconds}");
        assert_eq!(header(&answer, "RateLimit-Policy"), Some("\"events\";q=10;w=1"));
        assert_eq!(header(&answer, "RateLimit"), Some(&*format!("\"events\";r=0;t={seconds}")));
    }
    assert_eq!(rejected(&gateway, "publish_rate"), 3);
    assert_eq!(publish(BOB, ten.as_bytes()).status, 200);
    // A client that is not limited by address has no rate either.
    assert_eq!(gateway.post("/publish", &[JSON], ten.as_bytes()).status, 200);
    // The lines of one request wait for the rate. Lines that would wait too long are refused.
    let lines = |who, n: usize| {
        gateway.post("/publish", &[NDJSON, who], [item; 600][..n].join("\n").as_bytes())
    };
    let waited = lines(BOB, 10);
    assert_eq!(
        (waited.status, waited.body.matches("\"id\"").count()),
        (200, 10),
        "{}",
        waited.body
    );
    let partly = lines(BOB, 600);
    assert_eq!(
        (partly.status, partly.body.matches("\"id\"").count()),
        (207, 512),
        "{}",
        partly.body
    );
    assert_eq!(partly.body.matches("urn:sse-gateway:rate-limited").count(), 88);
    let refused = lines(BOB, 3);
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert!(header(&refused, "Retry-After").is_some(), "{}", refused.head);
}

/// Connects as a proxy does for a client of this address.
fn proxied(gateway: &TestGateway, ip: [u8; 4]) -> TcpStream {
    let mut stream = bounded(TcpStream::connect(gateway.addr).unwrap());
    let header =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &ip, &[127, 0, 0, 1, 0x12, 0x34, 0, 80]]
            .concat();
    // Fails if the gateway has already closed the connection.
    let _ = stream.write_all(&header);
    stream
}

const PROXY: [(&str, &str); 2] = [TRUSTED, ("server.proxy_protocol", "true")];
const HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n";

/// Sends a request on a kept connection. Returns whether it was answered.
fn is_served(stream: &mut TcpStream) -> bool {
    let (mut head, mut byte) = (Vec::new(), [0]);
    let mut more = stream.write_all(HEAD).is_ok();
    while more && !head.ends_with(b"\r\n\r\n") {
        more = stream.read_exact(&mut byte).is_ok();
        head.extend(byte);
    }
    more && head.starts_with(b"HTTP/1.1 200")
}

#[test]
fn connections_of_one_address_have_a_limit_and_a_closed_one_makes_room() {
    let gateway =
        TestGateway::memory(&[&PROXY[..], &[("limits.connections_per_address", "2")]].concat());
    let (ann, bob) = ([203, 0, 113, 9], [203, 0, 113, 10]);
    // A stream owns its socket, and still counts as a connection.
    let mut stream = proxied(&gateway, ann);
    stream.write_all(b"GET /events?channel=demo HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    eventually("it is open", || gateway.sum(|c| c.subscribers.get()) == 1);
    stream.read_exact(&mut [0; 12]).unwrap();
    let mut kept = proxied(&gateway, ann);
    assert!(is_served(&mut kept));
    assert_eq!(end_of(proxied(&gateway, ann)), "", "closed without a word");
    assert_eq!(rejected(&gateway, "address_connections"), 1);
    assert!(is_served(&mut proxied(&gateway, bob)));
    // Both kinds of connections make room when they close.
    drop(stream);
    gateway.settled();
    let mut another = proxied(&gateway, ann);
    assert!(is_served(&mut another));
    drop(kept);
    eventually("there is room again", || is_served(&mut proxied(&gateway, ann)));
}

#[test]
fn a_flood_of_connections_from_one_address_leaves_room_for_everybody_else() {
    let limits =
        [("limits.connection_rate_per_address", "1"), ("limits.connections_per_address", "50")];
    let gateway = TestGateway::memory(&[&PROXY[..], &limits].concat());
    let flood: Vec<TcpStream> = (0..500).map(|_| proxied(&gateway, [203, 0, 113, 9])).collect();
    let mut other = proxied(&gateway, [203, 0, 113, 10]);
    assert!(is_served(&mut other));
    eventually("all but a few were closed", || {
        rejected(&gateway, "address_connection_rate") + rejected(&gateway, "address_connections")
            >= 400
    });
    drop(flood);
    assert!(is_served(&mut other));
}

#[test]
fn new_connections_of_all_have_a_rate() {
    let gateway = TestGateway::memory(&[&PROXY[..], &[("limits.connection_rate", "1")]].concat());
    let flood: Vec<TcpStream> = (0..200).map(|n| proxied(&gateway, [203, 0, 113, n])).collect();
    eventually("most were closed", || rejected(&gateway, "connection_rate") >= 100);
    drop(flood);
    // The operator's own connections do not count.
    assert_eq!(gateway.admin("/readyz").status, 200);
}

#[test]
fn the_proxy_protocol_is_required_of_trusted_proxies_and_refused_from_all_others() {
    let gateway = TestGateway::memory(&[&PROXY[..], &[("server.head_timeout", "1s")]].concat());
    // The gateway asks itself from loopback whether it is ready, and must send the header, too.
    let ready = gateway.admin("/readyz");
    assert_eq!(ready.status, 200, "{}", ready.body);
    let v1 = b"PROXY TCP4 203.0.113.9 127.0.0.1 4660 80\r\nHEAD / HTTP/1.1\r\nHost: x\r\n\r\n";
    let other_signature = b"\r\n\r\n\0\r\nquit\n\x21\x11\0\x0c";
    // Some of these are incomplete headers, of which the rest never comes.
    let odd = [
        HEAD,
        v1,
        other_signature,
        b"\r\n\r\n\0\r\nQUIT\n\x21",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71",
        b"",
    ];
    for bytes in odd {
        let mut stream = bounded(TcpStream::connect(gateway.addr).unwrap());
        stream.write_all(bytes).unwrap();
        assert_eq!(end_of(stream), "", "{}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(rejected(&gateway, "proxy_header"), odd.len() as u64);
    let mut own = bounded(TcpStream::connect(gateway.addr).unwrap());
    own.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").unwrap();
    assert!(is_served(&mut own));
    assert!(is_served(&mut proxied(&gateway, [203, 0, 113, 9])));

    let settings = [("server.trusted_proxies", "10.0.0.0/8"), ("server.proxy_protocol", "true")];
    let gateway = TestGateway::memory(&settings);
    assert!(is_served(&mut bounded(TcpStream::connect(gateway.addr).unwrap())));
    let mut spoofed = proxied(&gateway, [203, 0, 113, 9]);
    spoofed.write_all(HEAD).unwrap();
    assert!(end_of(spoofed).starts_with("HTTP/1.1 400 "));
}

/// A process of HAProxy.
struct HaProxy {
    addr: SocketAddr,
    _process: Process,
    _dir: Scratch,
}

impl HaProxy {
    /// Starts HAProxy with these lines in its only frontend, and these options for its only server.
    fn before(gateway: &TestGateway, mode: &str, frontend: &str, server: &str) -> Self {
        let (addr, dir) = (own_addr(), Scratch::new("haproxy"));
        let text = format!(
            "defaults\n mode {mode}\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
             listen gateway\n bind {addr}\n {frontend}\n server one {} {server}\n",
            gateway.addr
        );
        let file = dir.path().join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default().into_string().unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file).env("PATH", format!("{path}:/usr/sbin"));
        let process = spawn(command.stdout(Stdio::null()).stderr(Stdio::null()), "haproxy");
        let proxy = HaProxy { addr, _process: process, _dir: dir };
        eventually("HAProxy listens", || TcpStream::connect(addr).is_ok());
        proxy
    }
}

/// Opens a stream from this local address.
fn stream_from(ip: [u8; 4], to: SocketAddr) -> Subscriber {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    Subscriber::on(bounded(socket.into()), "channel=demo", &[])
}

#[test]
fn haproxy_tells_whose_a_connection_is_by_the_proxy_protocol() {
    let settings =
        [&PROXY[..], &[("limits.streams_per_address", "1"), ("stream.heartbeat", "1h")]].concat();
    let gateway = TestGateway::memory(&settings);
    let haproxy = HaProxy::before(&gateway, "tcp", "", "send-proxy-v2");
    let mut first = stream_from([127, 8, 0, 1], haproxy.addr);
    first.opening();
    told_to_come_back(stream_from([127, 8, 0, 1], haproxy.addr));
    stream_from([127, 8, 0, 2], haproxy.addr).opening();
    let id = gateway_publishes(haproxy.addr);
    assert_eq!(first.event().id, id);
    // Version 1 of the protocol is not accepted.
    let old = HaProxy::before(&gateway, "tcp", "", "send-proxy");
    let mut stream = bounded(TcpStream::connect(old.addr).unwrap());
    assert!(!is_served(&mut stream));
}

fn gateway_publishes(through: SocketAddr) -> String {
    let answer = request(through, "POST", "/channels/demo", &[], b"x");
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// The gateway lets the stream begin and ends it: any other answer would be final to an
/// EventSource.
#[test]
fn an_event_source_over_the_limit_is_connected_by_itself_once_there_is_room() {
    let settings = [TRUSTED, ("limits.streams_per_address", "1"), ("stream.retry", "100ms")];
    let gateway = TestGateway::memory(&settings);
    let haproxy = HaProxy::before(
        &gateway,
        "http",
        "option forwardfor\n option abortonclose\n option http-no-delay",
        "",
    );
    let mut first = Subscriber::open(haproxy.addr, "channel=demo", &[]);
    first.opening();
    let browser = Browser::open();
    let page = EventSource::open(&browser, haproxy.addr, "channel=demo", &[]);
    eventually("it was sent away, again and again", || rejected(&gateway, "address_streams") >= 3);
    let missed = gateway.publish("demo", "while it waits");
    assert_eq!(first.event().id, missed);
    drop(first);
    eventually("it is in", || gateway.sum(|c| c.opened.get()) == 2);
    let id = gateway.publish("demo", "after all");
    eventually("it hears", || page.heard().last().is_some_and(|heard| heard.id == id));
}

#[test]
fn a_hundred_thousand_channels_in_one_url_are_refused() {
    let gateway = TestGateway::memory(&[]);
    let channels = |n: usize| (0..n).map(|n| format!("channel=c{n}")).collect::<Vec<_>>().join("&");
    let distinct = |n: usize| (0..n).map(|n| format!("{n}")).collect::<Vec<_>>().join("&");
    for (path, status, kind) in [
        (format!("/events?{}", channels(100_000)), 431, "head-too-large"),
        // The next two heads are within what actix reads.
        (format!("/events?{}", channels(8_000)), 400, "invalid-request"),
        (format!("/events?{}", channels(4_000)), 400, "invalid-parameter"),
        (format!("/channels/a/history?{}", distinct(10_000)), 400, "invalid-parameter"),
    ] {
        let answer = request(gateway.addr, "GET", &path, &[], b"");
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_eq!(answer.json()["type"], format!("urn:sse-gateway:{kind}"));
    }
    let long = "x".repeat(70_000);
    let answer = request(gateway.addr, "GET", "/", &[("X-Long", &long)], b"");
    assert_eq!(answer.status, 431, "{}", answer.body);
    let many: Vec<(&str, &str)> = vec![("X-More", "x"); 120];
    assert_eq!(request(gateway.addr, "GET", "/", &many, b"").status, 431);
    let gateway = TestGateway::memory(&[("server.max_head_bytes", "1024")]);
    assert_eq!(request(gateway.addr, "GET", "/", &[("X-Long", &long[..1000])], b"").status, 431);
    assert_eq!(request(gateway.addr, "GET", "/", &[("X-Long", &long[..900])], b"").status, 200);
}

#[test]
fn huge_and_deep_json_is_answered() {
    let gateway = TestGateway::memory(&[("publish.max_batch", "1000")]);
    let mut subscriber = gateway.live("channel=a");
    let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    for kind in [JSON, NDJSON] {
        for (body, status) in [
            (deep("[", "]"), 400),
            (deep("{\"a\":", "}"), 400),
            ("[".repeat(100_000), 400),
            (format!("{{\"channel\":\"a\",\"data\":{}}}", deep("[", "]")), 200),
        ] {
            let answer = gateway.post("/publish", &[kind], body.as_bytes());
            // The error may be that of one item, in an answer with status 207.
            assert!(
                [status, 207].contains(&answer.status),
                "{} {:.200}",
                answer.status,
                answer.body
            );
        }
        assert_eq!(subscriber.event().data.len(), 200_000);
    }
    // Each of these small elements would take about a hundred times its bytes in memory.
    let many = format!("[{}0]", "0,".repeat(8_000_000 - 1));
    let channels = format!("{{\"channels\":[{}\"a\"],\"data\":1}}", "\"a\",".repeat(1_000_000));
    for body in [&many, &channels, &format!("[{channels}]")] {
        let answer = gateway.post("/publish", &[JSON], body.as_bytes());
        assert_eq!(answer.status, 413, "{:.200}", answer.body);
        assert_eq!(answer.json()["type"], "urn:sse-gateway:too-large");
    }
    let lines = gateway.post("/publish", &[NDJSON], channels.as_bytes());
    assert_eq!(lines.status, 413, "{:.200}", lines.body);
}

#[test]
fn lines_of_one_request_have_a_limit() {
    let gateway = TestGateway::memory(&[("publish.max_lines", "3")]);
    let item = "{\"channel\":\"a\",\"data\":1}\n";
    assert_eq!(gateway.post("/publish", &[NDJSON], item.repeat(3).as_bytes()).status, 200);
    // Reading ends with the chunk that holds one line too many. The end of this body never comes.
    let mut stream = bounded(TcpStream::connect(gateway.addr).unwrap());
    stream.write_all(b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let lines = item.repeat(5);
    stream.write_all(format!("{:x}\r\n{lines}\r\n", lines.len()).as_bytes()).unwrap();
    let answer = read_answer(stream);
    assert_eq!(answer.status, 207, "{}", answer.body);
    assert!(answer.body.contains("at most 3 lines"), "{}", answer.body);
}

#[test]
fn compressed_bodies_are_refused() {
    let gateway = TestGateway::memory(&[]);
    let bomb = b"\x1f\x8b\x08\0\0\0\0\0\0\x03";
    for encoding in ["gzip", "br", "zstd", "deflate", "gzip, identity"] {
        for path in ["/publish", "/channels/a"] {
            let answer = gateway.post(path, &[JSON, ("Content-Encoding", encoding)], bomb);
            assert_eq!(answer.status, 415, "{encoding} {}", answer.body);
        }
    }
    let mut stream = bounded(TcpStream::connect(gateway.addr).unwrap());
    let head = "POST /publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"a\r\n\x1f\x8b\x08\0\0\0\0\0\0\x03\r\n0\r\n\r\n").unwrap();
    assert!(end_of(stream).starts_with("HTTP/1.1 400 "));
}

/// Sends a byte now and then until the other side closes. Returns what it sent.
#[track_caller]
fn drip(mut stream: TcpStream, begin: &[u8], byte: u8) -> String {
    stream.write_all(begin).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let (mut said, mut piece, end) = (Vec::new(), [0; 4096], Instant::now() + BOUND);
    loop {
        assert!(Instant::now() < end, "it goes on: {}", String::from_utf8_lossy(&said));
        // Fails once the connection is closed. What was sent before may still be read.
        let _ = stream.write_all(&[byte]);
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => said.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn heads_and_bodies_that_come_a_byte_at_a_time_are_cut_by_time() {
    let settings = [
        ("server.head_timeout", "1s"),
        ("publish.body_timeout", "300ms"),
        ("publish.idle_timeout", "300ms"),
    ];
    let gateway = TestGateway::memory(&settings);
    let connect = || bounded(TcpStream::connect(gateway.addr).unwrap());
    let said = drip(connect(), b"GET / HTTP/1.1\r\nX: ", b'x');
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("request-timeout"), "{said}");
    let said = drip(connect(), b"", b'G');
    assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    // actix times only the first head of a connection.
    let second = [HEAD, b"GET / HTTP/1.1\r\nX: "].concat();
    let said = drip(connect(), &second, b'x');
    assert_eq!(said.matches("HTTP/1.1 200 ").count(), 1, "{said}");
    for (path, kind, framing) in [
        ("/channels/a", "text/plain", "Content-Length: 100000"),
        ("/publish", JSON.1, "Content-Length: 100000"),
        ("/publish", NDJSON.1, "Content-Length: 100000"),
    ] {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n");
        let said = drip(connect(), head.as_bytes(), b'x');
        assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("request-timeout"), "{said}");
    }
    gateway.publish("a", "still serves");
}

/// Some clients write their whole body before they read, some do both at once, and some never end.
#[test]
fn a_body_beyond_the_limit_is_refused_in_words_that_its_client_can_read() {
    let gateway = TestGateway::memory(&[]);
    let script = r#"
        const [base] = process.argv.slice(1);
        const piece = new Uint8Array(65536).fill(32);
        const stream = (total) => {
            let sent = 0;
            return new ReadableStream({ pull(c) {
                if (sent >= total) return c.close();
                sent += piece.length;
                c.enqueue(piece);
            } });
        };
        const json = { "Content-Type": "application/json" };
        const post = async (path, init) => {
            try {
                const answer = await fetch(base + path, { method: "POST", ...init });
                const { type } = await answer.json();
                console.log(`${answer.status} ${type}`);
            } catch (error) { console.log(path, error.message, error.cause); }
        };
        for (const total of [2e6, 18e6, 40e6, Infinity]) {
            for (const [path, headers] of [["/channels/a", {}], ["/publish", json]]) {
                if (path === "/publish" && total < 17e6) continue;
                if (total < Infinity) await post(path, { headers, body: new Uint8Array(total).fill(32) });
                await post(path, { headers, body: stream(total), duplex: "half" });
            }
        }
        process.exit(0);"#;
    let mut node = Command::new("node");
    node.args(["--input-type=module", "-e", script]).arg(format!("http://{}", gateway.addr));
    let said = spawn(node.stdout(Stdio::piped()), "nodejs").said();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, ["413 urn:sse-gateway:too-large"; 12], "{said}");

    let dir = Scratch::new("body");
    let file = dir.path().join("large");
    std::fs::write(&file, vec![b' '; 20_000_000]).unwrap();
    let file = file.to_str().unwrap();
    for (expect, upload) in [
        ("Expect: 100-continue", &["--data-binary", &*format!("@{file}")][..]),
        ("Expect:", &["--data-binary", &format!("@{file}")]),
        ("Expect: 100-continue", &["-X", "POST", "-H", "Transfer-Encoding: chunked", "-T", file]),
        ("Expect:", &["-X", "POST", "-H", "Transfer-Encoding: chunked", "-T", file]),
    ] {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "-H",
            expect,
            "-H",
            "Content-Type: application/json",
        ]);
        curl.args(upload).arg(format!("http://{}/publish", gateway.addr));
        let said = spawn(curl.stdout(Stdio::piped()), "curl").said();
        assert!(said.contains("urn:sse-gateway:too-large"), "{expect} {upload:?}: {said}");
    }
}

/// Two requests whose body is refused at once and never ends, one with a length and one in chunks.
fn refused_for_ever(gateway: &TestGateway) -> [TcpStream; 2] {
    let framings = [&format!("Content-Length: {}", 1_u64 << 40), "Transfer-Encoding: chunked"];
    framings.map(|framing| {
        let mut stream = bounded(TcpStream::connect(gateway.addr).unwrap());
        let head = "POST /publish HTTP/1.1\r\nHost: x\r\nContent-Type: text/x";
        stream.write_all(format!("{head}\r\n{framing}\r\n\r\n").as_bytes()).unwrap();
        stream
    })
}

#[test]
fn a_refused_body_is_read_on_for_a_bounded_number_of_bytes() {
    const MOST: usize = 100 << 20;
    let gateway = TestGateway::memory(&[]);
    for mut stream in refused_for_ever(&gateway) {
        let piece = [b"10000\r\n", &[b' '; 0x10000][..], b"\r\n"].concat();
        let mut sent = 0;
        while sent < MOST && stream.write_all(&piece).is_ok() {
            sent += piece.len();
        }
        assert!(sent < MOST, "it would be read for ever");
    }
}

#[test]
fn a_refused_body_is_read_on_for_a_bounded_time() {
    let gateway = TestGateway::memory(&[("server.head_timeout", "1s")]);
    std::thread::scope(|scope| {
        for mut stream in refused_for_ever(&gateway) {
            scope.spawn(move || {
                stream.write_all(b"5\r\nabcde\r\n").unwrap();
                // The client has its answer, and the connection ends, although the body never does.
                let answer = read_answer(stream.try_clone().unwrap());
                assert_eq!(answer.status, 415, "{}", answer.body);
                let answered = Instant::now();
                eventually("it is closed", || stream.write_all(b"1\r\nx\r\n").is_err());
                // The bytes are not taken for a new head, which would have timed out by now.
                assert!(answered.elapsed() > Duration::from_secs(10));
            });
        }
    });
}

#[test]
fn a_body_in_chunks_that_came_whole_ends_no_connection() {
    let gateway = TestGateway::memory(&[]);
    let mut stream = bounded(TcpStream::connect(gateway.addr).unwrap());
    let head = "POST /channels/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    for _ in 0..2 {
        stream.write_all(format!("{head}5\r\nabcde\r\n0\r\n\r\n").as_bytes()).unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\"}") {
            stream.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
}

/// The leases of one gateway, in a thread of its own. Dropping it is like the death of a process.
struct Counting {
    metrics: Metrics,
    asks: tokio::sync::mpsc::UnboundedSender<Take>,
}

/// The subject of a stream, the grant's own limit, and where to send the lease.
type Take = (&'static str, Option<u32>, mpsc::Sender<Option<ClusterLease>>);

impl Counting {
    fn on(redis: &Redis, most: u32, life: Duration) -> Self {
        Self::at(&redis.url(), most, life)
    }

    fn at(url: &str, most: u32, life: Duration) -> Self {
        let pairs = [("redis.url", url), ("redis.tick", "100ms"), ("redis.reconnect_max", "200ms")];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let config = Config::load(None, std::iter::empty(), &pairs).unwrap();
        let metrics = Metrics::default();
        let (started, start) = mpsc::channel();
        #[expect(clippy::disallowed_methods, reason = "the test asks some dozens of times")]
        let (asks, mut asked) = tokio::sync::mpsc::unbounded_channel::<Take>();
        let (of_broker, of_streams) = (metrics.clone(), metrics.clone());
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (vitals, _watch) = vitals::watch();
            runtime.block_on(async {
                let settings = RedisSettings::of(&config);
                let broker = RedisBroker::start(settings, of_broker, &vitals).unwrap();
                broker.online(BOUND).await.unwrap();
                let streams = ClusterStreams::new(broker, of_streams, most, life);
                started.send(()).unwrap();
                let answers = async {
                    while let Some((subject, own, answer)) = asked.recv().await {
                        let taken = streams.take(subject, own).await;
                        answer.send(taken.ok().map(|lease| lease.expect("it is counted"))).unwrap();
                    }
                };
                tokio::select! {
                    _ = streams.clone().serve() => {}
                    () = answers => {}
                }
            });
        });
        start.recv().expect("it reaches Redis");
        Counting { metrics, asks }
    }

    fn take(&self, subject: &'static str) -> Option<ClusterLease> {
        self.take_with(subject, None)
    }

    fn take_with(&self, subject: &'static str, own: Option<u32>) -> Option<ClusterLease> {
        let (answer, answered) = mpsc::channel();
        self.asks.send((subject, own, answer)).unwrap();
        answered.recv_timeout(BOUND).expect("an answer")
    }

    fn not_counted(&self) -> u64 {
        self.metrics.uncounted_streams.get()
    }
}

#[test]
fn streams_of_a_subject_are_counted_on_all_gateways_together() {
    let redis = Redis::start();
    let minute = Duration::from_secs(60);
    let (one, other) = (Counting::on(&redis, 2, minute), Counting::on(&redis, 2, minute));
    let first = one.take("ann").expect("there is room");
    let second = other.take("ann").expect("there is room");
    assert!(one.take("ann").is_none() && other.take("ann").is_none());
    // A grant's own limit replaces the configured one.
    drop(one.take_with("ann", Some(3)).expect("there is room for it"));
    drop(one.take("bob").expect("others have their own"));
    drop(first);
    eventually("what was closed is given back", || {
        redis.command(&["ZCARD", "sse:streams:ann"]) == "1"
    });
    let third = other.take("ann").expect("there is room again");
    assert!(one.take("ann").is_none());
    drop((second, third));
    eventually("nothing is left", || redis.command(&["KEYS", "sse:streams:*"]).is_empty());
    assert_eq!(one.not_counted() + other.not_counted(), 0);
}

#[test]
fn leases_are_renewed_while_their_gateway_lives_and_end_when_it_dies() {
    let redis = Redis::start();
    let life = Duration::from_secs(3);
    let (one, other) = (Counting::on(&redis, 1, life), Counting::on(&redis, 1, life));
    let lease = one.take("ann").expect("there is room");
    let until = || {
        redis
            .command(&["ZRANGE", "sse:streams:ann", "0", "-1", "WITHSCORES"])
            .lines()
            .last()
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    let first = until();
    eventually("it is renewed beyond its first life", || until() > first + 4000.0);
    assert!(other.take("ann").is_none());
    // Like a process that dies: it no longer renews leases, and gives none back.
    drop(one);
    eventually("its lease has ended", || other.take("ann").is_some());
    drop(lease);
}

#[test]
fn while_redis_is_away_a_subject_is_let_in_and_counted_when_it_is_back() {
    let mut redis = Redis::start();
    let one = Counting::on(&redis, 1, Duration::from_secs(3));
    redis.kill();
    let first = one.take("ann").expect("let in");
    let second = one.take("ann").expect("let in");
    assert_eq!(one.not_counted(), 2);
    redis.restart();
    eventually("both are counted", || redis.command(&["ZCARD", "sse:streams:ann"]) == "2");
    assert!(one.take("ann").is_none());
    drop((first, second));
    eventually("there is room", || one.take("ann").is_some());
}

#[test]
fn a_redis_that_refuses_to_count_keeps_nobody_out() {
    let redis = Redis::start();
    let rights = ["on", ">-", "~*", "&*", "+@all", "-zadd"];
    assert_eq!(redis.command(&[&["ACL", "SETUSER", "gateway"], &rights[..]].concat()), "OK");
    let url = format!("redis://gateway:-@{}", redis.addr);
    let one = Counting::at(&url, 1, Duration::from_secs(60));
    let streams = [one.take("ann"), one.take("ann")];
    assert!(streams.iter().all(Option::is_some));
    assert_eq!(one.not_counted(), 2);
}
