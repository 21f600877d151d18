//! What the collector gets, and what a collector in trouble costs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::Command;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::Value;
use sse_lab::certificate::certify;

use super::collector::{Collector, attributes, hex};
use crate::life::Program;
use crate::support::{Redis, Scratch, Signal, TestGateway, Wire, connect, eventually, request};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const JSON: (&str, &str) = ("Content-Type", "application/json");
const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");

/// A `traceparent` whose sender has sampled its trace, or has not.
fn traceparent(sampled: bool) -> String {
    format!("00-{TRACE}-{PARENT}-0{}", u8::from(sampled))
}

/// A gateway whose spans go to this collector.
fn gateway(collector: &Collector, settings: &[(&str, &str)]) -> TestGateway {
    let url = collector.url();
    TestGateway::memory(&[&[("telemetry.otlp", url.as_str())], settings].concat())
}

/// The attributes of a span, without those that every span has.
fn told(span: &Span) -> BTreeMap<String, String> {
    let mut told = attributes(&span.attributes);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("url.scheme", "http"),
        ("messaging.system", "sse-gateway"),
        ("messaging.operation.name", "publish"),
        ("messaging.operation.type", "send"),
    ] {
        assert_eq!(told.remove(name).as_deref(), Some(value), "{name}");
    }
    told
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn status(span: &Span) -> StatusCode {
    span.status.as_ref().map_or(StatusCode::Unset, |status| status.code())
}

/// What became of spans so far, in the order exported, failed, dropped.
fn counts(gateway: &TestGateway) -> [u64; 3] {
    let counted = |result| gateway.metrics.spans.with_label_values(&[result]).get();
    ["exported", "failed", "dropped"].map(counted)
}

#[test]
fn a_publish_has_one_span_below_its_senders_and_a_delivery_has_none() {
    let collector = Collector::start();
    let gateway = gateway(&collector, &[]);
    let mut readers = [(); 3].map(|()| gateway.live("channel=orders"));
    let trace = traceparent(true);
    let headers = [("traceparent", trace.as_str()), ("tracestate", "vendor=1")];
    let answer = gateway.post("/channels/orders?event=paid", &headers, b"12345");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    for reader in &mut readers {
        assert_eq!(reader.event().id, id);
    }
    drop(readers);
    gateway.stop();
    let export = collector.export();
    assert!(export.head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{}", export.head);
    assert_eq!(export.resource["service.name"], "sse-gateway");
    assert_eq!(export.resource["service.version"], env!("CARGO_PKG_VERSION"));
    let [span] = &export.spans[..] else { panic!("{:?}", export.spans) };
    assert_eq!(collector.spans(), []);
    assert_eq!(span.name, "POST /channels/{channel}");
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!(span.trace_state, "vendor=1");
    assert_eq!((span.kind(), status(span)), (SpanKind::Server, StatusCode::Unset));
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    let expected = [
        ("http.route", "/channels/{channel}"),
        ("http.response.status_code", "200"),
        // Without the query, which may hold a token.
        ("url.path", "/channels/orders"),
        ("messaging.destination.name", "orders"),
        ("messaging.message.id", &id),
        ("messaging.message.body.size", "5"),
    ];
    assert_eq!(told(span), map(&expected));
}

#[test]
fn a_request_with_several_events_has_one_span() {
    let collector = Collector::start();
    let gateway = gateway(&collector, &[]);
    let items =
        br#"[{"channel":"a","data":"12"},{"channel":"b","data":"345"},{"channel":"no way"}]"#;
    assert_eq!(gateway.post("/publish", &[JSON], items).status, 207);
    let lines = "{\"channel\":\"a\",\"data\":\"x\"}\n".repeat(3);
    assert_eq!(gateway.post("/publish", &[NDJSON], lines.as_bytes()).status, 200);
    // The same key with another payload is refused by the broker, and is no fault of the gateway.
    let twice = br#"[{"channel":"a","data":"1","idempotency_key":"k"},{"channel":"a","data":"2","idempotency_key":"k"}]"#;
    assert_eq!(gateway.post("/publish", &[JSON], twice).status, 207);
    gateway.stop();
    let spans = collector.spans();
    let expected = |code, more: &[(&str, &str)]| {
        let same = [
            ("http.route", "/publish"),
            ("url.path", "/publish"),
            ("http.response.status_code", code),
        ];
        map(&[&same, more].concat())
    };
    let batch = |count, bytes, failed| {
        [
            ("messaging.batch.message_count", count),
            ("sse.batch.bytes", bytes),
            ("sse.batch.failed", failed),
        ]
    };
    let of_one = ("messaging.destination.name", "a");
    assert_eq!(
        spans.iter().map(told).collect::<Vec<_>>(),
        [
            expected("207", &batch("2", "5", "0")),
            expected("200", &[&batch("3", "3", "0")[..], &[of_one]].concat()),
            expected("207", &[&batch("2", "2", "1")[..], &[of_one]].concat()),
        ]
    );
    assert!(spans.iter().all(|span| span.name == "POST /publish"));
    assert!(spans.iter().all(|span| status(span) == StatusCode::Unset));
}

/// Publishes to a channel for each kind of request. Returns those channels whose request has a span,
/// with whether its parent is the sender's.
fn sampled(ratio: &str) -> BTreeSet<(String, bool)> {
    let collector = Collector::start();
    let gateway = gateway(&collector, &[("telemetry.sample_ratio", ratio)]);
    let (yes, no) = (traceparent(true), traceparent(false));
    for (channel, value) in [("yes", &*yes), ("no", &no), ("malformed", &yes[..54])] {
        let answer = gateway.post(&format!("/channels/{channel}"), &[("traceparent", value)], b"x");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    gateway.publish("none", "x");
    gateway.stop();
    let of = |span: &Span| {
        let below = hex(&span.trace_id) == TRACE && hex(&span.parent_span_id) == PARENT;
        assert!(below || span.parent_span_id.is_empty(), "{span:?}");
        (told(span)["messaging.destination.name"].clone(), below)
    };
    collector.spans().iter().map(of).collect()
}

#[test]
fn the_senders_flag_decides_and_the_ratio_where_there_is_none() {
    let set = |channels: &[(&str, bool)]| -> BTreeSet<(String, bool)> {
        channels.iter().map(|(channel, below)| (channel.to_string(), *below)).collect()
    };
    assert_eq!(sampled("0"), set(&[("yes", true)]));
    assert_eq!(sampled("1"), set(&[("yes", true), ("malformed", false), ("none", false)]));
}

#[test]
fn what_the_gateway_fails_at_is_an_error_and_a_clients_mistake_is_none() {
    let collector = Collector::start();
    let mut redis = Redis::start();
    let url = collector.url();
    let gateway = TestGateway::redis(&redis, &[("telemetry.otlp", &url)]);
    assert_eq!(gateway.post("/channels/no%20way", &[], b"x").status, 400);
    redis.kill();
    let one = gateway.post("/channels/a", &[], b"x").json();
    let many = gateway.post("/publish", &[JSON], br#"{"channel":"a","data":"x"}"#).json();
    gateway.stop();
    let spans = collector.spans();
    let [mistake, spans @ ..] = &spans[..] else { panic!("{spans:?}") };
    let of_mistake = [
        ("http.route", "/channels/{channel}"),
        ("url.path", "/channels/no%20way"),
        ("http.response.status_code", "400"),
    ];
    assert_eq!((told(mistake), status(mistake)), (map(&of_mistake), StatusCode::Unset));
    assert_eq!(spans.len(), 2);
    for (span, problem) in spans.iter().zip([one, many]) {
        let kind = problem["type"].as_str().unwrap().strip_prefix("urn:sse-gateway:").unwrap();
        let told = told(span);
        assert_eq!((&*told["http.response.status_code"], &*told["error.type"]), ("503", kind));
        assert_eq!(status(span), StatusCode::Error);
        assert_eq!(span.status.as_ref().unwrap().message, kind);
    }
}

/// Publishes many events in one go, on one connection, and reads the answer of each.
fn publish_many(addr: SocketAddr, requests: usize) {
    let stream = connect(addr);
    let mut writing = stream.try_clone().unwrap();
    let one = "POST /channels/a HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx";
    let writer = std::thread::spawn(move || writing.write_all(one.repeat(requests).as_bytes()));
    let mut answers = BufReader::new(stream);
    for _ in 0..requests {
        let (mut first, mut length) = (String::new(), 0);
        answers.read_line(&mut first).expect("an answer");
        assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
        loop {
            let mut line = String::new();
            answers.read_line(&mut line).expect("a header");
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        answers.read_exact(&mut vec![0; length]).expect("a body");
    }
    writer.join().unwrap().unwrap();
}

/// The log says once that spans are lost and why, and once that they are exported again.
#[test]
fn a_collector_that_is_away_costs_spans_and_no_publish() {
    let collector = Collector::start();
    let wire = Wire::to(collector.addr);
    let url = format!("telemetry.otlp=http://{}", wire.addr);
    let mut gateway = Program::start(&[&url, "log.format=json"]);
    let counted = |gateway: &Program, result: &str| {
        gateway.metric(&format!("sse_spans_total{{result=\"{result}\"}}")).unwrap() as usize
    };
    wire.cut();
    // The library sends 512 spans at once, and fewer only after five seconds.
    publish_many(gateway.addr, 512);
    eventually("an export has failed", || counted(&gateway, "failed") > 0);
    collector.answer("401 Unauthorized");
    wire.move_to(collector.addr);
    let before = counted(&gateway, "failed");
    publish_many(gateway.addr, 512);
    eventually("another one has failed", || counted(&gateway, "failed") > before);
    collector.answer("200 OK");
    eventually("one succeeds", || {
        publish_many(gateway.addr, 512);
        counted(&gateway, "exported") > 0
    });
    gateway.signal(Signal::TERM);
    let log = gateway.log();
    assert_eq!(gateway.end().code(), Some(0), "{log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |message| lines.iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
    let lost = with("spans cannot be exported and are lost");
    assert_eq!((lost.len(), with("spans are exported again").len()), (1, 1), "{log}");
    assert!(lost[0]["error"].as_str().unwrap().starts_with("client error"), "{}", lost[0]);
}

/// What waits for the collector has a bound, and what is above it is counted.
#[test]
fn a_collector_that_hangs_fills_no_memory() {
    let collector = Collector::hanging();
    let gateway = gateway(&collector, &[]);
    let mut published = 0;
    eventually("spans are dropped", || {
        publish_many(gateway.addr, 500);
        published += 500;
        counts(&gateway)[2] > 0
    });
    let settled: u64 = counts(&gateway).iter().sum();
    assert!(published - settled <= 2048, "{published} were published, {:?}", counts(&gateway));
    gateway.stop();
}

/// What was exported makes room for more, and each span is counted once.
#[test]
fn exported_spans_make_room() {
    let collector = Collector::start();
    let gateway = gateway(&collector, &[]);
    for round in 1..=5 {
        publish_many(gateway.addr, 512);
        // The library sends at once whenever 512 wait.
        eventually("most are exported", || counts(&gateway)[0] + 512 > round * 512);
    }
    let metrics = gateway.metrics.clone();
    gateway.stop();
    let counted = |result| metrics.spans.with_label_values(&[result]).get();
    assert_eq!(["exported", "failed", "dropped"].map(counted), [2560, 0, 0]);
    assert_eq!(collector.spans().len(), 2560);
}

#[test]
fn a_request_that_its_client_gives_up_has_a_span_without_a_status() {
    let collector = Collector::start();
    let redis = Redis::start();
    let wire = Wire::to(redis.addr);
    let (url, redis_url) = (collector.url(), format!("redis://{}", wire.addr));
    let patient = [("redis.answer_timeout", "5m"), ("redis.request_timeout", "5m")];
    let settings = [("redis.url", &*redis_url), ("telemetry.otlp", &url)];
    let gateway = TestGateway::memory(&[&settings[..], &patient].concat());
    // From now on Redis keeps those waiting who write.
    redis.command(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let mut client = connect(gateway.addr);
    let body = "given-up";
    let head = format!("POST /channels/a HTTP/1.1\r\nHost: test\r\nContent-Length: {}", body.len());
    client.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
    eventually("the event is with Redis", || wire.asked().contains(body));
    drop(client);
    let [span] = &collector.export().spans[..] else { panic!("one span") };
    let expected = [("http.route", "/channels/{channel}"), ("url.path", "/channels/a")];
    assert_eq!((told(span), status(span)), (map(&expected), StatusCode::Unset));
    redis.command(&["CLIENT", "UNPAUSE"]);
    gateway.stop();
}

/// A collector that hangs does not keep a gateway from ending in time.
#[test]
fn the_last_spans_have_no_more_time_than_the_drain() {
    let collector = Collector::hanging();
    let url = format!("telemetry.otlp={}", collector.url());
    let drain = ["drain.spread=0s", "drain.deadline=1s"];
    let mut gateway = Program::start(&[&url, "log.format=json", drain[0], drain[1]]);
    gateway.publish("a", "x");
    gateway.signal(Signal::TERM);
    let log = gateway.log();
    assert_eq!(gateway.end().code(), Some(0), "{log}");
    let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let message = "the collector did not take the last spans in time";
    let line = lines.find(|line| line["message"] == message).unwrap_or_else(|| panic!("{log}"));
    assert_eq!(line["spans.lost"], 1, "{line}");
    let bound = line["bound"].as_str().unwrap();
    assert!(["ms", "µs", "ns"].iter().any(|unit| bound.ends_with(unit)), "below a second: {bound}");
}

/// What every program with OpenTelemetry is told by its environment, over TLS.
#[test]
fn the_variables_of_opentelemetry_hold() {
    let dir = Scratch::new("collector");
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    certify(&certificate, &key).unwrap();
    let collector = Collector::with_tls(&certificate, &key);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
    let endpoint = format!("https://localhost:{}/behind/", collector.addr.port());
    command
        .env("SSL_CERT_FILE", &certificate)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret%20word")
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .env("OTEL_SERVICE_NAME", "events")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=7");
    let mut gateway = Program::start_by(command, &["log.level=debug"]);
    let answer = request(gateway.addr, "POST", "/channels/a", &[], b"x");
    assert_eq!(answer.status, 200, "{}", answer.body);
    gateway.signal(Signal::TERM);
    let log = gateway.log();
    assert_eq!(gateway.end().code(), Some(0), "{log}");
    assert!(!log.contains("secret word"), "{log}");
    let export = collector.export();
    assert!(export.head.starts_with("POST /behind/v1/traces HTTP/1.1\r\n"), "{}", export.head);
    assert!(export.head.contains("\r\nx-key: secret word\r\n"), "{}", export.head);
    assert!(export.head.contains("\r\ncontent-encoding: gzip\r\n"), "{}", export.head);
    assert_eq!(export.spans.len(), 1);
    for (name, value) in [
        ("service.name", "events"),
        ("service.version", "7"),
        ("deployment.environment.name", "test"),
    ] {
        assert_eq!(export.resource[name], value);
    }
}

#[test]
fn the_setting_wins_over_the_variable_of_opentelemetry() {
    let printed = |env: &[(&str, &str)]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_sse-gateway"));
        program.arg("--print-config").env_clear().envs(env.iter().copied());
        String::from_utf8(program.output().expect("the program runs").stdout).unwrap()
    };
    let of_all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all.example:4318");
    let text = printed(&[of_all]);
    let line = "otlp = \"http://all.example:4318\"  # variable OTEL_EXPORTER_OTLP_ENDPOINT";
    assert!(text.contains(line), "{text}");
    let text = printed(&[of_all, ("SSE_TELEMETRY__OTLP", "")]);
    assert!(text.contains("otlp = \"\"  # variable SSE_TELEMETRY__OTLP"), "{text}");
}
