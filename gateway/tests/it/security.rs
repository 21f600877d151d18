//! Tests of attacks from outside that belong to no other file.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use serde_json::json;

use crate::access::{hash_of, token};
use crate::life::Program;
use crate::support::{BOUND, Signal, Subscriber, TestGateway, eventually, request};

const SECRET: &str = "a-secret-of-at-least-32-bytes-for-tests";

/// At the most verbose level of the log, after every kind of request that holds a secret.
#[test]
fn no_secret_is_in_logs_metrics_or_answers() {
    let key = "key-for-tests-0123456789-0123456789";
    let hash = hash_of(key);
    let jwt = format!("auth.jwt.keys=alg=HS256 secret={SECRET} subscribe=user:{{sub}}");
    let keys = format!("auth.keys=name=a hash={hash} publish=*");
    let settings = [&jwt, &keys, "auth.token_parameter=true", "log.level=trace", "log.format=json"];
    let mut gateway = Program::start(&settings);
    let good = token(json!({ "sub": "42" }));
    let bad = format!("{}x", token(json!({ "sub": "43" })));
    let ask = |method: &str, path: &str, headers: &[(&str, &str)]| {
        request(gateway.addr, method, path, headers, b"the payload")
    };
    let mut answers = String::new();
    for token in [&good, &bad] {
        let bearer = format!("Bearer {token}");
        let cookie = format!("sse_token={token}");
        for answer in [
            ask("GET", "/channels/user:42", &[("Authorization", &bearer)]),
            ask("GET", "/channels/user:44", &[("Authorization", &bearer)]),
            ask("GET", "/channels/user:42", &[("Cookie", &cookie)]),
            ask("GET", &format!("/channels/user:42/history?token={token}"), &[]),
            ask("POST", "/channels/user:42", &[("Authorization", &bearer)]),
            ask("POST", "/channels/user:42", &[("X-API-Key", key)]),
            ask("POST", "/channels/user:42", &[("X-API-Key", &token[..40])]),
        ] {
            answers += &answer.head;
            answers += &answer.body;
        }
    }
    let bearer = format!("Bearer {good}");
    let ticket = ask("POST", "/tickets", &[("Authorization", &bearer)]).json()["ticket"].clone();
    let ticket = ticket.as_str().expect("a ticket").to_owned();
    let query = format!("channel=user:42&ticket={ticket}");
    drop(Subscriber::open(gateway.addr, &query, &[]).opening());
    let spent = ask("GET", &format!("/events?{query}"), &[]);
    answers += &spent.head;
    answers += &request(gateway.admin, "GET", "/metrics", &[], b"").body;
    gateway.signal(Signal::TERM);
    let log = gateway.log();
    assert!(log.contains("a stream is open"), "the log is read: {log}");
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    for (what, secret) in [
        ("the secret", SECRET.to_owned()),
        ("the API key", key.to_owned()),
        ("its hash", hash),
        ("a token", signature(&good)),
        ("a bad token", signature(&bad)),
        ("a token's claims", good.split('.').nth(1).unwrap().to_owned()),
        ("a ticket", ticket),
        ("a payload", "the payload".to_owned()),
    ] {
        for (place, text) in [("log", &log), ("answer", &answers)] {
            let line = text.lines().find(|line| line.contains(&secret));
            assert!(line.is_none(), "{what} is in the {place}: {line:?}");
        }
    }
}

/// Some answers repeat what a request says, but never as a header, a second answer or another
/// event.
#[test]
fn nothing_that_a_client_sends_becomes_a_header_or_an_event() {
    let gateway = TestGateway::memory(&[]);
    let evil = "%0d%0aX-Evil:%201%0d%0a%0d%0adata:%20forged%0a%0a";
    for path in [
        format!("/events?channel={evil}"),
        format!("/events?channel=a&last_event_id={evil}"),
        format!("/events?channel=a&checkpoints={evil}"),
        format!("/channels/{evil}"),
        format!("/channels/a/history?after={evil}"),
        format!("/{evil}"),
    ] {
        let mut stream = TcpStream::connect(gateway.addr).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{path}: {head}");
        }
        assert!(!head.to_ascii_lowercase().contains("x-evil"), "{path}: {head}");
        let mut body = vec![0; 2048];
        let n = reader.read(&mut body).unwrap();
        let body = String::from_utf8_lossy(&body[..n]).into_owned();
        assert!(!body.lines().any(|line| line.starts_with("data: forged")), "{path}: {body}");
    }
    // Whatever a publisher writes must stay in its event's data.
    let mut stream = gateway.live("channel=a");
    for data in
        ["a\r\rid: 1-1\r\rdata: b", "a\n\ndata: b", "a\r\nevent: gap\r\n\r\n", "\u{feff}id: 1"]
    {
        gateway.publish("a", data);
        let block = stream.event();
        assert_eq!(block.data, data.replace("\r\n", "\n").replace('\r', "\n"));
        assert_eq!(block.event, "");
    }
    for event in ["a%0Adata:%20b", "a%0D", "a%00"] {
        let answer = gateway.post(&format!("/channels/a?event={event}"), &[], b"x");
        assert_eq!(answer.status, 400, "{event}: {}", answer.body);
    }
    drop(stream);
    gateway.settled();
}

/// An address of this machine by which others on the network reach it, or loopback if there is
/// none.
fn outside() -> IpAddr {
    // Nothing is sent: the system only chooses the address from which it would send.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let routed = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    routed.map_or(Ipv4Addr::LOCALHOST.into(), |addr| addr.ip())
}

#[test]
fn the_admin_port_is_for_programs_of_this_machine_and_for_keys() {
    let key = "key-for-tests-0123456789-0123456789";
    let hash = hash_of(key);
    let admin = format!("name=ops hash={hash} admin=true");
    let gateway = TestGateway::memory(&[("auth.keys", &admin), ("admin.listen", "0.0.0.0:0")]);
    for (method, path) in [
        ("GET", "/metrics"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("DELETE", "/connections?subject=a"),
        ("GET", "/connections"),
        ("GET", "/log-level"),
        ("PUT", "/log-level"),
        ("GET", "/channels?prefix=a"),
    ] {
        assert_eq!(request(gateway.addr, method, path, &[], b"").status, 404, "{method} {path}");
    }
    let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), gateway.admin.port());
    let revoke = |to: SocketAddr, headers: &[(&str, &str)]| {
        request(to, "DELETE", "/connections?subject=a", headers, b"").status
    };
    assert_eq!(revoke(here, &[]), 200);
    // A page in the operator's own browser is refused, by whatever name it reached this port.
    assert_eq!(revoke(here, &[("Origin", "http://rebound.example:9090")]), 403);
    assert_eq!(revoke(here, &[("Origin", "null")]), 403);
    let read = |to: SocketAddr, path: &str, headers: &[(&str, &str)]| {
        request(to, "GET", path, headers, b"").status
    };
    for list in ["/connections", "/channels"] {
        assert_eq!(read(here, list, &[]), 200);
        assert_eq!(read(here, list, &[("Origin", "http://rebound.example:9090")]), 403);
        // With a GET of its own site a page sends no `Origin`, but the name that was rebound.
        let rebound = format!(
            "GET {list} HTTP/1.1\r\nHost: rebound.example:9090\r\nConnection: close\r\n\r\n"
        );
        let mut stream = TcpStream::connect(here).unwrap();
        stream.write_all(rebound.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("\"Host\""), "{answer}");
    }
    let there = SocketAddr::new(outside(), gateway.admin.port());
    if !there.ip().is_loopback() {
        assert_eq!(revoke(there, &[]), 401);
        assert_eq!(revoke(there, &[("X-API-Key", "another-key-0123456789-0123456789")]), 401);
        assert_eq!(revoke(there, &[("X-API-Key", key)]), 200);
        for list in ["/connections", "/channels"] {
            assert_eq!(read(there, list, &[]), 401);
            assert_eq!(read(there, list, &[("X-API-Key", key)]), 200);
        }
        // Another service's token beside the key does not invalidate the key.
        let both = [("Authorization", "Bearer somebody.elses.token"), ("X-API-Key", key)];
        assert_eq!(revoke(there, &both), 200);
        assert_eq!(request(there, "GET", "/metrics", &[], b"").status, 200);
        // A revoked key is refused.
        let of_key = "/connections?subject=ops";
        assert_eq!(request(here, "DELETE", of_key, &[], b"").status, 200);
        assert_eq!(revoke(there, &[("X-API-Key", key)]), 401);
    }
}

/// The page loads no script from elsewhere, and no other page may embed it.
#[test]
fn the_console_says_what_a_browser_may_do_with_it() {
    let gateway = TestGateway::memory(&[]);
    let head = request(gateway.addr, "GET", "/", &[], b"").head.to_ascii_lowercase();
    for line in [
        "default-src 'none'",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
}

#[test]
fn a_stream_is_cut_off_where_its_revocation_comes_while_it_opens() {
    // Two hundred clients come, and are revoked meanwhile: none of their streams may stay.
    let gateway = TestGateway::memory(&[(
        "auth.jwt.keys",
        "alg=HS256 secret=a-secret-of-at-least-32-bytes-for-tests subscribe=*",
    )]);
    let addr = gateway.addr;
    let bearer = format!("Bearer {}", token(json!({ "sub": "a" })));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let bearer = bearer.clone();
            std::thread::spawn(move || {
                for _ in 0..25 {
                    let query = format!("/events?channel=c{}", fastrand::u8(..));
                    let mut stream = TcpStream::connect(addr).unwrap();
                    stream.set_read_timeout(Some(BOUND)).unwrap();
                    write!(
                        stream,
                        "GET {query} HTTP/1.1\r\nHost: t\r\nAuthorization: {bearer}\r\n\r\n"
                    )
                    .unwrap();
                    let mut line = String::new();
                    BufReader::new(&stream).read_line(&mut line).unwrap();
                    // The connection stays open, unless the gateway ends it.
                    std::mem::forget(stream);
                }
            })
        })
        .collect();
    eventually("some are there", || gateway.sum(|cells| cells.subscribers.get()) > 5);
    let answer = request(gateway.admin, "DELETE", "/connections?subject=a", &[], b"");
    assert_eq!(answer.status, 200);
    for client in clients {
        client.join().unwrap();
    }
    gateway.settled();
}
