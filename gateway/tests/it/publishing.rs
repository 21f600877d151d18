//! Tests of publishing over HTTP: every item is answered, and no request is applied in part without
//! saying so.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::streams::NDJSON;
use crate::support::{BOUND, Redis, TestGateway, Wire, eventually, request};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn on_both(story: impl Fn(&TestGateway)) {
    story(&TestGateway::memory(&[
        ("publish.max_event_bytes", "1000"),
        ("publish.max_body_bytes", "5000"),
    ]));
    let redis = Redis::start();
    let settings = [("publish.max_event_bytes", "1000"), ("publish.max_body_bytes", "5000")];
    story(&TestGateway::redis(&redis, &settings));
}

#[test]
fn an_array_is_answered_item_by_item() {
    on_both(|gateway| {
        let mut subscriber = gateway.live("channel=a&channel=b");
        let body = r#"[{"channel":"a","data":"1"},{"channels":["a","b"],"data":{"n": 2}},
            {"channel":"x y","data":"3"},{"channel":"b","data":"4","event":"gap"},{"channel":"b","data":"5"}]"#;
        let answer = gateway.post("/publish", &[JSON], body.as_bytes());
        assert_eq!(answer.status, 207);
        let results = answer.json()["results"].as_array().unwrap().clone();
        let outline: Vec<(u64, &str, bool)> = results
            .iter()
            .map(|r| {
                (
                    r["item"].as_u64().unwrap(),
                    r["channel"].as_str().unwrap_or("-"),
                    r["id"].is_string(),
                )
            })
            .collect();
        assert_eq!(
            outline,
            [
                (0, "a", true),
                (1, "a", true),
                (1, "b", true),
                (2, "x y", false),
                (3, "-", false),
                (4, "b", true)
            ]
        );
        let data: Vec<String> = (0..4).map(|_| subscriber.event().data).collect();
        assert_eq!(data, ["1", r#"{"n":2}"#, r#"{"n":2}"#, "5"]);
    });
}

#[test]
fn broken_json_in_an_array_applies_nothing() {
    on_both(|gateway| {
        let mut subscriber = gateway.live("channel=a");
        let answer =
            gateway.post("/publish", &[JSON], br#"[{"channel":"a","data":"1"},{"channel":"a""#);
        assert_eq!(
            (answer.status, answer.json()["type"].as_str()),
            (400, Some("urn:sse-gateway:invalid-json"))
        );
        let id = gateway.publish("a", "after");
        assert_eq!(subscriber.event().id, id);
    });
}

#[test]
fn a_broken_line_is_named_and_the_others_are_published() {
    on_both(|gateway| {
        let mut subscriber = gateway.live("channel=a");
        let long = format!("{{\"channel\":\"a\",\"data\":\"{}\"}}", "x".repeat(6000));
        let large = format!("{{\"channel\":\"a\",\"data\":\"{}\"}}", "x".repeat(1001));
        let mut body = b"{\"channel\":\"a\",\"data\":\"1\"}\r\n\n{\"channel\":\n".to_vec();
        for line in [long.as_bytes(), large.as_bytes(), b"{\"channel\":\"a\",\"data\":\"\xff\"}"] {
            body.extend_from_slice(line);
            body.push(b'\n');
        }
        body.extend_from_slice(b"{\"channel\":\"a\",\"data\":\"7\"}");
        let answer = gateway.post("/publish", &[NDJSON], &body);
        assert_eq!(answer.status, 207, "{}", answer.body);
        let lines: Vec<serde_json::Value> =
            answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let outline: Vec<(u64, &str)> = lines
            .iter()
            .map(|l| (l["line"].as_u64().unwrap(), l["error"]["type"].as_str().unwrap_or("ok")))
            .collect();
        assert_eq!(
            outline,
            [
                (1, "ok"),
                (3, "urn:sse-gateway:invalid-json"),
                (4, "urn:sse-gateway:too-large"),
                (5, "urn:sse-gateway:too-large"),
                (6, "urn:sse-gateway:invalid-json"),
                (7, "ok")
            ]
        );
        assert_eq!([subscriber.event().data, subscriber.event().data], ["1", "7"]);
    });
}

#[test]
fn an_idempotency_key_publishes_once() {
    on_both(|gateway| {
        let mut subscriber = gateway.live("channel=a");
        let key = [("Idempotency-Key", "k-1")];
        let post = |data: &str| gateway.post("/channels/a", &key, data.as_bytes());
        let first = post("one");
        let again = post("one");
        assert_eq!((again.status, &again.body), (200, &first.body));
        let other = post("two");
        assert_eq!((other.status, other.json()["field"].as_str()), (422, Some("idempotency_key")));
        let elsewhere = gateway.post("/channels/b", &key, b"two");
        assert_eq!(elsewhere.status, 200, "keys are a channel's own");
        gateway.publish("a", "end");
        assert_eq!([subscriber.event().data, subscriber.event().data], ["one", "end"]);
        let bad = gateway.post("/channels/a", &[("Idempotency-Key", "a b")], b"x");
        assert_eq!(bad.json()["type"], "urn:sse-gateway:invalid-idempotency-key");
    });
}

#[test]
fn a_bad_publish_names_the_culprit() {
    on_both(|gateway| {
        for (path, headers, body, status, kind) in [
            ("/channels/a%20b", &[][..], &b"x"[..], 400, "invalid-channel"),
            ("/channels/a%FF", &[], b"x", 400, "invalid-channel"),
            ("/channels/a?event=a%0Ab", &[], b"x", 400, "invalid-event"),
            ("/channels/a?event=a%FF", &[], b"x", 400, "invalid-parameter"),
            ("/channels/a?evnt=x", &[], b"x", 400, "invalid-parameter"),
            ("/channels/a?event=x&event=y", &[], b"x", 400, "invalid-parameter"),
            ("/channels/a", &[("Content-Encoding", "gzip")], b"x", 415, "unsupported-media-type"),
            ("/channels/a", &WEBSOCKET, b"", 400, "invalid-request"),
            ("/channels/a", &[("Origin", "https://test:80")], b"x", 403, "foreign-origin"),
            ("/channels/a", &[("Origin", "http://elsewhere.example")], b"x", 403, "foreign-origin"),
            ("/publish", &[JSON, ("Origin", "null")], b"{}", 403, "foreign-origin"),
            ("/channels/a?event=checkpoint", &[], b"x", 400, "invalid-event"),
            ("/channels/a", &[], b"\xff", 400, "invalid-data"),
            ("/channels/a", &[], &[b'x'; 1001], 413, "too-large"),
            ("/publish", &[JSON], &[b' '; 5001], 413, "too-large"),
            ("/publish", &[("Content-Type", "text/plain")], b"x", 415, "unsupported-media-type"),
            ("/publish", &[JSON], br#"{"channel":"a","data":1,"evnt":"x"}"#, 400, "invalid-json"),
            ("/publish", &[JSON], br#"{"channel":"a","data":"\ud800"}"#, 400, "invalid-json"),
        ] {
            let answer = gateway.post(path, headers, body);
            assert_eq!(answer.status, status, "{path} {}", answer.body);
            assert_eq!(answer.json()["type"], format!("urn:sse-gateway:{kind}"), "{}", answer.body);
        }
        for headers in [
            &[("Origin", "http://test")][..],
            &[("Origin", "http://test:80")],
            &[("Content-Encoding", "identity")],
        ] {
            let own = gateway.post("/channels/a", headers, b"x");
            assert_eq!(own.status, 200, "{headers:?} {}", own.body);
        }
        let slash = gateway.post("/channels/a%2Fb", &[], b"x");
        assert_eq!(slash.status, 200, "{}", slash.body);
    });
}

const WEBSOCKET: [(&str, &str); 2] = [("Connection", "upgrade"), ("Upgrade", "websocket")];

/// Tools on Windows write a byte order mark.
#[test]
fn a_byte_order_mark_before_json_is_passed_over() {
    on_both(|gateway| {
        let item = "\u{feff}{\"channel\":\"a\",\"data\":1}";
        for kind in [JSON, NDJSON] {
            let answer = gateway.post("/publish", &[kind], item.as_bytes());
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    });
}

#[test]
fn a_preflight_takes_what_tracing_adds_and_refuses_in_our_words() {
    let gateway = TestGateway::memory(&[("cors.origins", "https://a.example")]);
    let ask = |origin: &str, headers: &str| {
        let asked = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", headers),
        ];
        request(gateway.addr, "OPTIONS", "/publish", &asked, b"")
    };
    let traced = "content-type,traceparent,tracestate,baggage,sentry-trace,x-requested-with";
    assert_eq!(ask("https://a.example", traced).status, 200);
    for refused in [ask("https://b.example", traced), ask("https://a.example", "x-other")] {
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert_eq!(refused.json()["type"], "urn:sse-gateway:invalid-request");
    }
}

/// A client that writes its whole body before it reads would otherwise lose the answer that says
/// why, and repeat the request for ever.
#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let gateway = TestGateway::memory(&[]);
    let body = vec![b' '; 40_000_000];
    for (path, kind, status) in [
        ("/channels/a", "text/plain", 413),
        ("/publish", JSON.1, 413),
        ("/publish", "text/plain", 415),
        ("/channels/a%20b", JSON.1, 400),
        ("/none", JSON.1, 404),
    ] {
        let answer = gateway.post(path, &[("Content-Type", kind)], &body);
        assert_eq!(answer.status, status, "{path} {}", answer.body);
        assert_eq!(answer.json()["status"], status);
    }
}

#[test]
fn a_body_that_does_not_come_is_answered() {
    let gateway = TestGateway::memory(&[("publish.body_timeout", "100ms")]);
    let mut client = TcpStream::connect(gateway.addr).unwrap();
    client.set_read_timeout(Some(BOUND)).unwrap();
    client
        .write_all(b"POST /channels/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabc")
        .unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[test]
fn with_redis_away_nothing_is_accepted_and_nothing_lost() {
    let mut redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let mut subscriber = gateway.live("channel=a");
    redis.kill();
    let answer = gateway.post("/channels/a", &[], b"lost");
    assert_eq!(answer.status, 503);
    assert!(answer.head.to_ascii_lowercase().contains("retry-after: "), "{}", answer.head);
    let kind = answer.json()["type"].as_str().unwrap().to_owned();
    assert!(kind.ends_with("redis-unavailable") || kind.ends_with("outcome-unknown"), "{kind}");
    let item = br#"{"channel":"a","data":"lost"}"#;
    let many = gateway.post("/publish", &[NDJSON], item);
    assert_eq!(many.status, 503, "{}", many.body);
    eventually("Redis is known to be away", || gateway.admin("/healthz/broker").status == 503);
    assert_eq!(gateway.admin("/healthz").status, 200);
    redis.restart();
    eventually("it is back", || gateway.admin("/healthz/broker").status == 200);
    let gap = subscriber.event();
    assert_eq!(gap.event, "gap", "an empty Redis proves nothing: {gap:?}");
    let id = gateway.publish("a", "new");
    assert_eq!(subscriber.event().id, id);
}

#[test]
fn a_publish_after_its_connection_was_closed_is_sent_on_another_one() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    for _ in 0..20 {
        gateway.publish("a", "before");
        redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
        // Without a key, a publish is sent only once. On a connection that is gone, its outcome
        // would be unknown.
        gateway.publish("a", "after");
    }
}

#[test]
fn a_publish_after_a_restart_is_not_sent_on_the_lost_connection() {
    let mut redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[("server.workers", "1")]);
    for _ in 0..3 {
        gateway.publish("a", "before");
        redis.kill();
        redis.restart();
        // Without a key, a publish is sent only once. On a connection that is gone, its outcome
        // would be unknown.
        gateway.publish("a", "after");
    }
}

/// A NAT, IPVS or a balancer on the way may forget a connection without telling its ends.
#[test]
fn a_publish_finds_out_that_its_connection_was_forgotten() {
    let redis = Redis::start();
    let wire = Wire::to(redis.addr);
    let url = format!("redis://{}", wire.addr);
    // A publish that waits for an answer on the forgotten connection waits longer than the test
    // does.
    let settings = [
        ("broker", "redis"),
        ("redis.url", &url),
        ("redis.answer_timeout", "90s"),
        ("redis.request_timeout", "90s"),
        ("redis.tick", "1s"),
    ];
    let gateway = TestGateway::memory(&settings);
    let (one, many) =
        (br#"{"channel":"a","data":1}"#, br#"[{"channel":"a","data":1},{"channel":"a","data":2}]"#);
    let publish = || {
        for body in [&one[..], &many[..]] {
            let answer = gateway.post("/publish", &[JSON], body);
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    };
    publish();
    // After a second of silence, the gateway probes a connection before it sends an event on it.
    let beat = || redis.command(&["HGET", "sse:state", "beat"]).parse::<u64>().unwrap();
    let before = beat();
    eventually("some seconds of ticks", || beat() > before + 2);
    wire.forget();
    publish();
}

#[test]
fn the_kernel_asks_after_idle_connections_to_redis() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    gateway.publish("a", "on the line");
    let both = br#"[{"channel":"a","data":1},{"channel":"a","data":2}]"#;
    assert_eq!(gateway.post("/publish", &[JSON], both).status, 200, "of the pool");
    let port = format!("{:04X}", redis.addr.port());
    let lines = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let timers: Vec<&str> = lines
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words[2].ends_with(&port) && words[3] == "01")
        .map(|words| &words[5][..2])
        .map(|timer| if timer == "02" { "keepalive" } else { "none" })
        .collect();
    assert!(timers.len() >= 3 && timers.iter().all(|timer| *timer == "keepalive"), "{timers:?}");
}

/// Balancers keep idle connections for 60 s. One that uses a connection just as the gateway ends it
/// answers 502.
#[test]
fn an_idle_connection_is_kept_for_longer_than_a_balancer_keeps_it() {
    let ended_after = |seconds: &str| {
        let gateway = TestGateway::memory(&[("server.keep_alive", seconds)]);
        let mut client = TcpStream::connect(gateway.addr).unwrap();
        client.set_read_timeout(Some(BOUND)).unwrap();
        client.write_all(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        (gateway, client)
    };
    let (_one, mut brief) = ended_after("6s");
    let (_other, mut kept) = ended_after("75s");
    // This connection ends after six seconds. With a fixed keep-alive of five, the other connection
    // would have ended by then.
    brief.read_to_end(&mut Vec::new()).unwrap();
    kept.write_all(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answers = String::new();
    kept.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
}

/// If every replica were unready, the proxy in front would answer 503, which ends an EventSource
/// for good.
#[test]
fn a_gateway_whose_redis_is_away_is_ready_unless_its_operator_says_otherwise() {
    let mut redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let strict = TestGateway::redis(
        &redis,
        &[("admin.ready_needs_broker", "true"), ("admin.probe_interval", "100ms")],
    );
    let ready = gateway.admin("/readyz");
    assert_eq!((ready.status, &ready.json()["broker"]), (200, &"ok".into()), "{}", ready.body);
    let also = strict.admin("/readyz");
    assert_eq!(also.status, 200, "{}", also.body);
    redis.kill();
    eventually("the strict one is unready", || strict.admin("/readyz").status == 503);
    let problem = strict.admin("/readyz").json();
    assert_eq!(problem["type"], "urn:sse-gateway:redis-unavailable");
    let away = format!("Redis at {} does not answer: ", redis.addr);
    let is_told =
        |text: &str| text.starts_with(&away) && text.contains(", for ") && text.ends_with(" s");
    assert!(is_told(problem["detail"].as_str().unwrap()), "{problem}");
    eventually("it is told", || {
        let ready = gateway.admin("/readyz");
        assert_eq!(ready.status, 200, "{}", ready.body);
        is_told(ready.json()["broker"].as_str().unwrap())
    });
    for gateway in [&gateway, &strict] {
        assert_eq!(gateway.admin("/healthz").status, 200, "liveness depends on no Redis");
    }
    redis.restart();
    eventually("it is ready again", || strict.admin("/readyz").status == 200);
}

/// A server that stands still answers nothing and refuses nothing.
#[test]
fn a_probe_that_is_stuck_makes_a_gateway_unready_and_names_no_password() {
    let redis = Redis::start_with(&["--requirepass", "secret-word"]);
    let url = format!("redis://:secret-word@{}", redis.addr);
    let settings = [
        ("redis.url", url.as_str()),
        ("admin.ready_needs_broker", "true"),
        ("admin.probe_interval", "100ms"),
        ("redis.answer_timeout", "1h"),
    ];
    let gateway = TestGateway::redis(&redis, &settings);
    assert_eq!(gateway.admin("/readyz").status, 200);
    redis.freeze();
    eventually("it is unready", || gateway.admin("/readyz").status == 503);
    let ready = gateway.admin("/readyz");
    assert!(ready.body.contains(&format!("Redis at {}", redis.addr)), "{}", ready.body);
    assert!(!ready.body.contains("secret-word"), "{}", ready.body);
    redis.thaw();
    eventually("it is ready again", || gateway.admin("/readyz").status == 200);
}
