//! Tests of what the log tells: read alone, it must say what happened to whom.

use std::io::{BufRead, BufReader};

use serde_json::Value;

use crate::life::Program;
use crate::support::{Redis, Signal, eventually, request};

/// Everything that a program logs until its end, line by line.
struct Lines(Vec<Value>);

impl Lines {
    /// Stops the program and reads its log.
    fn of(mut gateway: Program) -> Self {
        gateway.signal(Signal::TERM);
        let log = gateway.log();
        assert_eq!(gateway.end().code(), Some(0), "{log}");
        let line =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Lines(log.lines().map(line).collect())
    }

    /// The lines with this message.
    fn with(&self, message: &str) -> Vec<&Value> {
        self.0.iter().filter(|line| line["message"] == message).collect()
    }

    /// The only line with this message.
    fn one(&self, message: &str) -> &Value {
        let lines = self.with(message);
        assert_eq!(lines.len(), 1, "{message}: {:#?}", self.0);
        lines[0]
    }

    /// The place of the first line with this message.
    fn place(&self, message: &str) -> usize {
        let place = self.0.iter().position(|line| line["message"] == message);
        place.unwrap_or_else(|| panic!("{message}: {:#?}", self.0))
    }
}

#[test]
fn the_first_lines_say_what_has_started() {
    let lines = Lines::of(Program::start(&["log.format=json"]));
    let started = lines.one("sse-gateway has started");
    assert_eq!(started["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&started["workers"], &started["broker"]), (&2.into(), &"Memory".into()));
    assert!(started["streams.most"].as_u64().unwrap() > 0);
    assert_eq!(started["history.max_len"], 1000);
    let descriptors = ["descriptors.soft", "descriptors.hard"].map(|name| started[name].as_u64());
    assert!(descriptors[0] > Some(0) && descriptors[0] <= descriptors[1], "{started}");
    let drained = lines.one("drained: these streams have ended");
    assert_eq!(drained["streams"], 0);
}

#[test]
fn the_lines_of_a_stream_pair_by_its_id() {
    let level = "log.level=info,sse_gateway::streams=debug";
    let gateway = Program::start(&["log.format=json", level]);
    let mut gone = gateway.subscribe("channel=a&channel=b");
    let stays = gateway.subscribe("channel=a&last_event_id=0");
    let id = gateway.publish("a", "x");
    assert_eq!(gone.event().id, id);
    drop(gone);
    eventually("it is gone", || {
        gateway.metric("sse_streams_closed_total{reason=\"gone\"}") == Some(1.0)
    });
    let lines = Lines::of(gateway);
    drop(stays);
    let (opened, closed) = (lines.with("a stream is open"), lines.with("a stream is closed"));
    assert_eq!((opened.len(), closed.len()), (2, 2), "{:#?}", lines.0);
    for close in &closed {
        let open = opened.iter().find(|open| open["stream"] == close["stream"]);
        let open = open.unwrap_or_else(|| panic!("{close} was never opened"));
        assert_eq!((&open["client"], &open["channels"]), (&"127.0.0.1".into(), &close["channels"]));
        let of_both = open["channels"] == "a,b";
        assert_eq!(open["from"], if of_both { "now" } else { "oldest" });
        assert_eq!(close["close.reason"], if of_both { "gone" } else { "drain" });
        assert_eq!(close["events"], 1, "{close}");
        assert!(close["bytes"].as_u64().unwrap() > 20, "{close}");
        assert!(close["seconds"].as_f64().unwrap() > 0.0, "{close}");
    }
    assert_eq!(lines.one("draining")["streams"], 1);
    let drained = lines.one("drained: these streams have ended");
    let told =
        ["streams", "closed.drain", "closed.otherwise", "refused"].map(|name| &drained[name]);
    assert_eq!(told, [1, 1, 0, 0].map(Value::from).each_ref());
}

/// Read alone, the lines of a drain say how far it is, and what became of the streams.
#[test]
fn a_drain_tells_how_far_it_is_and_what_became_of_the_streams() {
    let settings = ["log.format=json", "drain.spread=40s", "drain.deadline=40s"];
    let mut gateway = Program::start(&settings);
    let mut streams = [(); 40].map(|()| Some(gateway.subscribe("channel=demo")));
    gateway.signal(Signal::TERM);
    let mut log = BufReader::new(gateway.stderr.take().unwrap()).lines();
    let mut until = |message: &str| loop {
        let line = log.next().unwrap_or_else(|| panic!("no line {message:?}")).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        if line["message"] == message {
            return line;
        }
    };
    assert_eq!(until("draining")["deadline"], "40s");
    let event_stream = ("Accept", "text/event-stream");
    let refused = request(gateway.addr, "GET", "/events?channel=demo", &[event_stream], b"");
    assert_eq!(refused.status, 200, "{}", refused.body);
    let progress = until("still draining");
    assert_eq!(progress["streams"], 40);
    let left = progress["streams.left"].as_u64().unwrap();
    assert!((1..=40).contains(&left), "{progress}");
    // The clients leave, so that nobody has to be waited for.
    streams.iter_mut().for_each(|stream| drop(stream.take()));
    let drained = until("drained: these streams have ended");
    let number = |name: &str| drained[name].as_u64().unwrap();
    assert_eq!((number("streams"), number("refused")), (40, 1), "{drained}");
    assert_eq!(number("closed.drain") + number("closed.otherwise"), 40, "{drained}");
    assert_eq!(gateway.end().code(), Some(0));
}

#[test]
fn the_log_tells_when_the_gateway_is_not_ready_and_why() {
    let mut redis = Redis::start();
    let url = format!("redis.url={}", redis.url());
    let strict = ["admin.ready_needs_broker=true", "admin.probe_interval=100ms"];
    let settings = ["broker=redis", &url, "log.format=json", "redis.reconnect_max=200ms"];
    let gateway = Program::start(&[&settings[..], &strict[..]].concat());
    assert_eq!(gateway.metric("sse_ready"), Some(1.0));
    redis.kill();
    eventually("it is unready", || gateway.metric("sse_ready") == Some(0.0));
    assert!(gateway.metric("sse_probe_failures_total{path=\"broker\"}") > Some(0.0));
    redis.restart();
    eventually("it is ready", || gateway.metric("sse_ready") == Some(1.0));
    let addr = redis.addr.to_string();
    let lines = Lines::of(gateway);
    let reason = lines.one("the gateway is not ready")["reason"].as_str().unwrap();
    assert!(reason.starts_with(&format!("Redis at {addr}")), "{reason}");
    assert!(lines.one("the gateway is ready again")["unready.seconds"].as_f64() > Some(0.0));
}

/// A stream whose channel Redis refuses was never open for its client.
#[test]
fn a_stream_that_was_never_open_is_not_said_to_be_closed() {
    let redis = Redis::start();
    let acl = ["ACL", "SETUSER", "limited", "on", "nopass", "~*", "+@all", "resetchannels"];
    redis.command(&[&acl[..], &["&sse:public", "&sse::probe:*", "&sse::revoked"]].concat());
    let url = format!("redis.url=redis://limited:x@{}", redis.addr);
    let level = "log.level=info,sse_gateway::streams=debug";
    let gateway = Program::start(&["broker=redis", &url, "log.format=json", level]);
    let refused = request(gateway.addr, "GET", "/events?channel=secret", &[], b"");
    assert_eq!(refused.status, 403, "{}", refused.body);
    drop(gateway.subscribe("channel=public"));
    let lines = Lines::of(gateway);
    assert_eq!(lines.one("a stream is open")["channels"], "public");
    assert_eq!(lines.one("a stream is closed")["channels"], "public");
}

#[test]
fn streams_have_no_lines_where_nobody_asked_for_them() {
    let gateway = Program::start(&["log.format=json"]);
    drop(gateway.subscribe("channel=demo"));
    let lines = Lines::of(gateway);
    assert!(lines.with("a stream is open").is_empty(), "{:#?}", lines.0);
}

/// The lines of an outage, read alone, say that it began, how long it took, why clients were told
/// of a gap, and how many were.
#[test]
fn an_outage_is_told_from_its_beginning_to_its_end() {
    let mut redis = Redis::start();
    let url = format!("redis.url={}", redis.url());
    let quick = ["redis.tick=100ms", "redis.reconnect_max=200ms"];
    let gateway = Program::start(&["broker=redis", &url, "log.format=json", quick[0], quick[1]]);
    let mut streams = [(); 3].map(|()| gateway.subscribe("channel=demo"));
    redis.kill();
    eventually("the gateway has noticed", || {
        gateway.metric("sse_broker_connected{broker=\"redis\"}") == Some(0.0)
    });
    redis.restart();
    for stream in &mut streams {
        assert_eq!(stream.event().event, "gap");
    }
    let id = gateway.publish("demo", "after the outage");
    for stream in &mut streams {
        assert_eq!(stream.event().id, id);
    }
    eventually("its ticks go on", || {
        gateway.metric("sse_subscribers{state=\"joining\"}") == Some(0.0)
    });
    let lines = Lines::of(gateway);
    assert_eq!(lines.with("live events are received").len(), 1, "a return is no start");
    let order = [
        "live events are interrupted",
        "Redis is back",
        "a new epoch has begun: every client is told of a gap (reset)",
        "a stream is told of a gap",
        "the outage is over: streams are live again",
    ]
    .map(|message| lines.place(message));
    assert!(order.is_sorted(), "{:#?}", lines.0);
    assert!(lines.one("Redis is back")["outage.seconds"].as_f64().unwrap() > 0.0);
    assert!(lines.0.iter().all(|line| line.get("partition").is_none()), "there is only one");
    let epoch = lines.one("a new epoch has begun: every client is told of a gap (reset)");
    assert_eq!(epoch["level"], "WARN");
    assert_eq!(epoch["why"], "Redis was started again, or another server answers in its place");
    assert_ne!(epoch["epoch.old"], epoch["epoch.new"]);
    let gap = lines.with("a stream is told of a gap");
    assert_eq!(gap.len(), 3);
    assert_eq!((&gap[0]["channel"], &gap[0]["gap.reason"]), (&"*".into(), &"reset".into()));
    let over = lines.one("the outage is over: streams are live again");
    assert_eq!((&over["streams.resumed"], &over["gaps"]), (&3.into(), &"reset 3".into()));
}

/// What streams were told is counted for the whole gateway, so the end of the story has no partition.
#[test]
fn lines_of_several_partitions_carry_their_numbers_and_an_outage_of_all_is_one_story() {
    let mut redis = Redis::start();
    let url = format!("redis.url={}", redis.url());
    let quick = ["redis.tick=100ms", "redis.reconnect_max=200ms", "redis.partitions=4"];
    let settings = [&["broker=redis", &url, "log.format=json"][..], &quick].concat();
    let gateway = Program::start(&settings);
    let connected = || gateway.metric("sse_broker_connected{broker=\"redis\"}");
    assert_eq!(connected(), Some(1.0));
    let mut stream = gateway.subscribe("channel=demo");
    redis.kill();
    eventually("the gateway has noticed", || connected() == Some(0.0));
    redis.restart();
    eventually("all partitions are back", || connected() == Some(1.0));
    assert_eq!(stream.event().event, "gap");
    let id = gateway.publish("demo", "after the outage");
    assert_eq!(stream.event().id, id);
    eventually("its ticks go on", || {
        gateway.metric("sse_subscribers{state=\"joining\"}") == Some(0.0)
    });
    let lines = Lines::of(gateway);
    for message in ["live events are received", "live events are interrupted", "Redis is back"] {
        let mut of: Vec<u64> = lines
            .with(message)
            .iter()
            .map(|line| line["partition"].as_u64().expect("a number"))
            .collect();
        of.sort_unstable();
        assert_eq!(of, [0, 1, 2, 3], "{message}");
    }
    let over = lines.one("the outage is over: streams are live again");
    assert_eq!(over.get("partition"), None);
    assert_eq!((&over["streams.resumed"], &over["gaps"]), (&1.into(), &"reset 1".into()));
}

#[test]
fn a_publish_carries_its_trace_to_the_log() {
    let level = "log.level=info,sse_gateway::publishing=debug";
    let gateway = Program::start(&["log.format=json", level]);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let publish = |path: &str, trace: &str, body: &str| {
        let kind = if path == "/publish" { "application/x-ndjson" } else { "text/plain" };
        let headers = [("traceparent", trace), ("Content-Type", kind)];
        let answer = request(gateway.addr, "POST", path, &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    publish("/channels/one", trace, "x");
    publish(
        "/publish",
        trace,
        "{\"channel\":\"two\",\"data\":\"x\"}\n{\"channel\":\"three\",\"data\":\"x\"}\n",
    );
    // What is no trace keeps no event from being published.
    publish("/channels/four", "00-nonsense", "x");
    let lines = Lines::of(gateway);
    let published = lines.with("an event is published");
    let told: Vec<[&Value; 2]> =
        published.iter().map(|line| [&line["channel"], &line["traceparent"]]).collect();
    let trace = Value::from(trace);
    let names = ["one", "two", "three", "four"].map(Value::from);
    let expected =
        [[&names[0], &trace], [&names[1], &trace], [&names[2], &trace], [&names[3], &Value::Null]];
    assert_eq!(told, expected);
    assert!(published.iter().all(|line| line["id"].is_string()), "{published:?}");
}
