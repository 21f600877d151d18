//! Tests of `GET /events`: what a subscriber is sent, with either broker.

use std::io::{Read, Write};
use std::net::Shutdown;

use sse_gateway::stream::close_reason::CloseReason;

use crate::support::{Answer, BOUND, Block, Redis, Subscriber, TestGateway, eventually, request};

/// Runs a test with both brokers, which must behave the same.
pub fn on_both(settings: &[(&str, &str)], story: impl Fn(&TestGateway)) {
    let memory = TestGateway::memory(settings);
    story(&memory);
    memory.settled();
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, settings);
    story(&gateway);
    gateway.settled();
}

fn event(id: &str, data: &str) -> Block {
    Block { id: id.to_owned(), event: String::new(), data: data.to_owned() }
}

#[test]
fn a_stream_opens_with_retry_and_a_position_and_carries_events() {
    on_both(&[], |gateway| {
        let mut subscriber = gateway.subscribe("channel=demo");
        for header in [
            "HTTP/1.1 200 OK",
            // Without the charset some clients read the body as Latin-1.
            "content-type: text/event-stream; charset=utf-8\r\n",
            "cache-control: no-store, no-transform",
            "x-accel-buffering: no",
        ] {
            assert!(subscriber.head.contains(header), "{header}: {}", subscriber.head);
        }
        // With `Connection: close`, Node's fetch takes any cut for the body's end.
        assert!(!subscriber.head.to_ascii_lowercase().contains("connection: close"));
        let opening = subscriber.opening();
        assert_eq!(opening.data, r#"{"from":"now"}"#);
        assert!(subscriber.retry.is_some_and(|ms| (3000..=4500).contains(&ms)));
        let first = gateway.publish("demo", "hello");
        let answer = gateway.post("/channels/demo?event=tick", &[], "a\r\nb\rc\n".as_bytes());
        let second = answer.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(subscriber.next(), event(&first, "hello"));
        assert_eq!(
            subscriber.next(),
            Block { event: "tick".into(), ..event(&second, "a\nb\nc\n") }
        );
        assert!(opening.id < first && first < second, "{} {first} {second}", opening.id);
    });
}

#[test]
fn without_checkpoints_only_events_come() {
    on_both(&[("stream.heartbeat", "1s")], |gateway| {
        let mut subscriber = gateway.subscribe("channel=demo&checkpoints=off");
        subscriber.heartbeat();
        let id = gateway.publish("demo", "hello");
        assert_eq!(subscriber.next(), event(&id, "hello"));
    });
}

#[test]
fn an_idle_stream_is_told_a_younger_position() {
    on_both(&[("stream.heartbeat", "1s"), ("redis.tick", "100ms")], |gateway| {
        let mut subscriber = gateway.subscribe("channel=demo");
        let first = subscriber.next();
        let second = subscriber.next();
        assert_eq!((first.event.as_str(), second.event.as_str()), ("checkpoint", "checkpoint"));
        assert!(first.id < second.id, "{} {}", first.id, second.id);
    });
}

#[test]
fn a_reconnecting_client_has_every_event_once() {
    on_both(&[], |gateway| {
        let mut first = gateway.live("channel=a&channel=b");
        let ids: Vec<String> = (0..200)
            .map(|n| gateway.publish(if n % 3 == 0 { "a" } else { "b" }, &n.to_string()))
            .collect();
        for (n, id) in ids[..50].iter().enumerate() {
            assert_eq!(first.next(), event(id, &n.to_string()));
        }
        drop(first);
        let query = "channel=a&channel=b";
        let mut second = gateway.resumed(query, &ids[49]);
        for (n, id) in ids.iter().enumerate().skip(50) {
            assert_eq!(second.next(), event(id, &n.to_string()));
        }
        let live = gateway.publish("a", "live");
        assert_eq!(second.event(), event(&live, "live"));
    });
}

#[test]
fn a_replay_of_many_pages_is_whole_and_joins_the_live_events() {
    let settings = [
        ("history.page_bytes", "2000"),
        ("stream.queue_bytes", "3000"),
        ("history.max_len", "10000"),
    ];
    on_both(&settings, |gateway| {
        let mut lines = String::new();
        for n in 0..3000 {
            lines += &format!("{{\"channel\":\"c{}\",\"data\":\"{n}\"}}\n", n % 7);
        }
        let published = gateway.post("/publish", &[NDJSON], lines.as_bytes());
        assert_eq!(published.status, 200, "{}", published.body);
        let query: Vec<String> = (0..7).map(|n| format!("channel=c{n}")).collect();
        let mut subscriber = gateway.subscribe(&format!("{}&last_event_id=0", query.join("&")));
        let mut last = String::new();
        for n in 0..3000 {
            if n == 1500 {
                gateway.publish("c3", "live");
            }
            let block = subscriber.event();
            assert_eq!(block.data, n.to_string());
            assert!(last < block.id, "{last} {}", block.id);
            last = block.id;
        }
        assert_eq!(subscriber.event().data, "live");
    });
}

pub const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");

#[test]
fn a_cursor_that_proves_nothing_is_told_so_once() {
    on_both(&[], |gateway| {
        for (cursor, reason, replayed) in [
            ("nonsense", "unknown_id", false),
            ("9999999999999-1", "reset", false),
            ("1-1", "reset", true),
        ] {
            let channel = format!("demo-{cursor}");
            let old = gateway.publish(&channel, "old");
            let mut subscriber =
                gateway.subscribe(&format!("channel={channel}&last_event_id={cursor}"));
            let gap = subscriber.event();
            assert_eq!(gap.event, "gap", "{gap:?}");
            let data: serde_json::Value = serde_json::from_str(&gap.data).unwrap();
            assert_eq!(data["reason"], reason, "{data}");
            assert_eq!((&data["channel"], &data["after"]), (&"*".into(), &cursor.into()));
            if replayed {
                assert_eq!(subscriber.event(), event(&old, "old"));
            }
            eventually("it is live", || gateway.sum(|c| c.joining.get()) == 0);
            let new = gateway.publish(&channel, "new");
            assert_eq!(subscriber.event(), event(&new, "new"));
        }
    });
}

#[test]
fn an_id_of_the_future_is_unknown() {
    on_both(&[], |gateway| {
        let id = parsed(&gateway.publish("demo", "old"));
        let future = sse_contract::EventId { ms: id.ms + 3_600_000, ..id };
        let mut subscriber = gateway.subscribe(&format!("channel=demo&last_event_id={future}"));
        let gap = subscriber.event();
        assert!(gap.data.contains("unknown_id"), "{gap:?}");
        assert!(parsed(&gap.id) < future, "the cursor is put right");
    });
}

#[test]
fn what_was_trimmed_is_told_with_the_oldest_kept() {
    on_both(&[("history.max_len", "10")], |gateway| {
        let first = gateway.publish("demo", "0");
        let quiet = gateway.publish("quiet", "q");
        // Redis trims in blocks of a hundred entries.
        for n in 1..=400 {
            gateway.publish("demo", &n.to_string());
        }
        let mut subscriber =
            gateway.subscribe(&format!("channel=demo&channel=quiet&last_event_id={first}"));
        assert_eq!(subscriber.opening().id, first);
        let gap = subscriber.next();
        let data: serde_json::Value = serde_json::from_str(&gap.data).unwrap();
        assert_eq!((gap.event.as_str(), gap.id.as_str()), ("gap", first.as_str()));
        assert_eq!((&data["channel"], &data["reason"]), (&"demo".into(), &"trimmed".into()));
        assert_eq!(subscriber.next(), event(&quiet, "q"));
        let oldest = subscriber.next();
        assert_eq!(data["oldest"], oldest.id.as_str());
        let start: usize = oldest.data.parse().unwrap();
        assert!(start > 200);
        for n in start + 1..=400 {
            assert_eq!(subscriber.next().data, n.to_string());
        }
    });
}

#[test]
fn a_closed_tab_is_gone_without_a_publish() {
    on_both(&[], |gateway| {
        for takeover in [Shutdown::Write, Shutdown::Both] {
            let subscriber = gateway.live("channel=demo");
            assert_eq!(gateway.sum(|c| c.subscribers.get()), 1);
            subscriber.socket().shutdown(takeover).unwrap();
            gateway.settled();
        }
    });
}

#[test]
fn the_body_fallback_behaves_the_same() {
    on_both(&[("stream.takeover", "false"), ("stream.heartbeat", "1s")], |gateway| {
        let mut subscriber = gateway.live("channel=demo");
        assert!(subscriber.head.contains("transfer-encoding: chunked"), "{}", subscriber.head);
        assert!(subscriber.retry.is_some());
        let large = "x".repeat(200_000);
        let id = gateway.publish("demo", &large);
        assert_eq!(subscriber.event(), event(&id, &large));
        assert_eq!(subscriber.next().event, "checkpoint");
        drop(subscriber);
        gateway.settled();
    });
}

/// HTTP/1.0 has no chunks: the stream ends with its connection.
#[test]
fn an_http_1_0_client_reads_beside_the_others() {
    on_both(&[("stream.takeover", "true")], old_beside_new);
    on_both(&[("stream.takeover", "false")], old_beside_new);
}

fn old_beside_new(gateway: &TestGateway) {
    let mut old = std::net::TcpStream::connect(gateway.addr).unwrap();
    old.set_read_timeout(Some(BOUND)).unwrap();
    old.write_all(b"GET /events?channel=a&channel=b HTTP/1.0\r\n\r\n").unwrap();
    let mut new = gateway.live("channel=a&channel=b");
    eventually("both are live", || {
        gateway.sum(|c| c.subscribers.get()) == 2 && gateway.sum(|c| c.joining.get()) == 0
    });
    let items: String =
        (0..200).map(|n| format!("{{\"channels\":[\"a\",\"b\"],\"data\":{n}}}\n")).collect();
    let ndjson = [("Content-Type", "application/x-ndjson")];
    let answer = gateway.post("/publish", &ndjson, items.as_bytes());
    let ids = answer.body.lines().map(|line| {
        let answer: serde_json::Value = serde_json::from_str(line).unwrap();
        answer["id"].as_str().expect("an id").to_owned()
    });
    let mut expected = String::new();
    for (n, id) in ids.enumerate() {
        let data = (n / 2).to_string();
        assert_eq!(new.event(), event(&id, &data));
        expected += &format!("data: {data}\nid: {id}\n\n");
    }
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.ends_with(&expected) {
        let n = old.read(&mut buffer).unwrap();
        assert_ne!(n, 0, "{text}");
        text += std::str::from_utf8(&buffer[..n]).unwrap();
    }
    assert!(!text.to_ascii_lowercase().contains("transfer-encoding"), "{text:.300}");
}

#[test]
fn head_answers_what_get_would_without_a_body() {
    let gateway = TestGateway::memory(&[]);
    let answer = request(gateway.addr, "HEAD", "/events?channel=a", &[], b"");
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert!(answer.head.contains("text/event-stream"));
    assert!(!answer.head.to_ascii_lowercase().contains("content-length"), "{}", answer.head);
    assert_eq!(gateway.sum(|c| c.opened.get()), 0);
    let public = ["/", "/channels/demo", "/channels/demo/history"].map(|path| (gateway.addr, path));
    let admin = ["/metrics", "/healthz", "/healthz/broker", "/readyz"];
    for (addr, path) in public.into_iter().chain(admin.map(|path| (gateway.admin, path))) {
        let [get, head] = ["GET", "HEAD"].map(|method| request(addr, method, path, &[], b""));
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        let kind = |answer: &Answer| {
            let head = answer.head.to_ascii_lowercase();
            head.lines().find(|line| line.starts_with("content-type")).map(str::to_owned)
        };
        assert_eq!(kind(&head), kind(&get), "{path}");
        let answer = request(addr, "DELETE", path, &[], b"");
        assert_eq!(
            (answer.status, &answer.json()["type"]),
            (405, &"urn:sse-gateway:method-not-allowed".into())
        );
        let allow = answer.head.to_ascii_lowercase();
        assert!(allow.contains("\r\nallow: get, head"), "{path}: {allow}");
    }
}

#[test]
fn a_bad_request_names_the_culprit() {
    let gateway = TestGateway::memory(&[("stream.max_channels", "2")]);
    let get = |path: &str| request(gateway.addr, "GET", path, &[], b"");
    let named = |answer: Answer, status: u16, kind: &str, field: Option<&str>, word: &str| {
        let json = answer.json();
        assert_eq!(answer.status, status, "{json}");
        assert!(answer.head.contains("application/problem+json"), "{}", answer.head);
        assert_eq!(json["type"], format!("urn:sse-gateway:{kind}"));
        assert_eq!(json["field"].as_str(), field, "{json}");
        assert!(json["detail"].as_str().unwrap().contains(word), "{json}");
    };
    named(get("/events"), 400, "invalid-parameter", Some("channel"), "channel=demo");
    named(get("/events?channel=a%20b"), 400, "invalid-channel", Some("channel"), "' '");
    named(get("/events?channel=%FF"), 400, "invalid-parameter", Some("channel"), "UTF-8");
    named(get("/events?channel=:a"), 400, "invalid-channel", Some("channel"), "colon");
    let annotate = get("/events?channel=a&annotate=id");
    named(annotate, 400, "invalid-parameter", Some("annotate"), "annotate is channel, not \"id\"");
    let twice = get("/events?channel=a&annotate=channel&annotate=channel");
    named(twice, 400, "invalid-parameter", Some("annotate"), "twice");
    let three = "/events?channel=1&channel=2&channel=3";
    named(get(three), 400, "invalid-parameter", Some("channel"), "at most 2");
    named(get("/event?channel=a"), 404, "not-found", None, "/event");
    let post = request(gateway.addr, "POST", "/events?channel=a", &[], b"");
    named(post, 405, "method-not-allowed", None, "POST");
}

#[test]
fn one_stream_sees_twenty_channels_in_id_order_and_two_gateways_agree() {
    let redis = Redis::start();
    let settings = [("history.max_len", "5000")];
    let [one, two] = [(); 2].map(|()| TestGateway::redis(&redis, &settings));
    let query: Vec<String> = (0..20).map(|n| format!("channel=c{n}")).collect();
    let query = query.join("&");
    let readers = [one.live(&query), two.live(&query)].map(|mut subscriber| {
        std::thread::spawn(move || {
            let events = std::iter::repeat_with(|| subscriber.event());
            events.take(20_000).map(|block| (block.id, block.data)).collect::<Vec<_>>()
        })
    });
    std::thread::scope(|scope| {
        for (publisher, gateway) in [&one, &two, &one, &two].into_iter().enumerate() {
            scope.spawn(move || {
                for batch in 0..10 {
                    let mut lines = String::new();
                    for n in 0..500 {
                        let channel = (batch * 500 + n + publisher * 5) % 20;
                        lines += &format!(
                            "{{\"channel\":\"c{channel}\",\"data\":\"{publisher}.{batch}.{n}\"}}\n"
                        );
                    }
                    assert_eq!(gateway.post("/publish", &[NDJSON], lines.as_bytes()).status, 200);
                }
            });
        }
    });
    let [first, second] = readers.map(|reader| reader.join().unwrap());
    assert!(first.is_sorted_by(|a, b| parsed(&a.0) < parsed(&b.0)), "ids rise");
    assert_eq!(first, second);
    one.settled();
    two.settled();
}

fn parsed(id: &str) -> sse_contract::EventId {
    id.parse().expect("an id")
}

#[test]
fn a_thousand_streams_leave_nothing_behind() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[("redis.linger", "300ms")]);
    let streams: Vec<Subscriber> =
        (0..1000).map(|n| gateway.subscribe(&format!("channel=c{}", n % 250))).collect();
    eventually("all are live", || {
        gateway.sum(|c| c.subscribers.get()) == 1000 && gateway.sum(|c| c.joining.get()) == 0
    });
    let subscribed = || redis.command(&["PUBSUB", "CHANNELS", "sse:c*"]).lines().count();
    assert_eq!(subscribed(), 250);
    drop(streams);
    gateway.settled();
    eventually("Redis has no subscription left", || subscribed() == 0);
    assert_eq!(gateway.sum(|c| c.opened.get()), gateway.sum(|c| c.closed[0].get()));
}

#[test]
fn a_stalled_reader_is_closed_and_delays_nobody() {
    let settings = [("stream.progress_deadline", "1s"), ("stream.queue_bytes", "20000")];
    on_both(&settings, |gateway| {
        let stalled = Subscriber::narrow(gateway.addr, "channel=demo");
        let mut reading = gateway.live("channel=demo");
        let data = "x".repeat(50_000);
        for _ in 0..100 {
            gateway.publish("demo", &data);
            assert_eq!(reading.event().data.len(), data.len());
        }
        eventually("the stalled one is closed", || gateway.sum(|c| c.closed[2].get()) == 1);
        drop(stalled);
    });
}

/// The rest of a stream's body, and whether the body is whole.
fn last_words(stream: Subscriber) -> (String, bool) {
    let mut reader = stream.into_reader();
    let mut words = String::new();
    reader.read_to_string(&mut words).expect("text within the bound");
    (words, reader.get_ref().is_whole())
}

/// A client that reads with `fetch` takes a whole body for the end of the stream. To some clients,
/// a blank line after `retry:` is an empty message.
#[test]
fn a_stop_leaves_streams_unfinished_with_a_time_to_come_back() {
    for takeover in ["true", "false"] {
        let settings =
            [("stream.takeover", takeover), ("stream.retry", "100ms"), ("drain.spread", "100ms")];
        let gateway = TestGateway::memory(&settings);
        let streams: Vec<Subscriber> = (0..20).map(|_| gateway.live("channel=demo")).collect();
        let mut idle = std::net::TcpStream::connect(gateway.addr).unwrap();
        std::io::Write::write_all(&mut idle, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        gateway.stop();
        for stream in streams {
            let (words, whole) = last_words(stream);
            assert!(!whole, "takeover {takeover}");
            let ms = words.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix('\n'));
            let ms: Option<u64> = ms.and_then(|ms| ms.parse().ok());
            assert!(ms.is_some_and(|ms| (100..=150).contains(&ms)), "{words:?}");
        }
    }
}

/// Load spreads again after new gateways have started, because old streams end and come back.
#[test]
fn a_stream_of_the_greatest_age_ends_unfinished_and_its_client_goes_on_where_it_was() {
    let gateway = TestGateway::memory(&[("stream.max_age", "1s"), ("stream.heartbeat", "1h")]);
    let first = gateway.publish("demo", "first");
    let mut stream = gateway.subscribe("channel=demo&last_event_id=0");
    stream.opening();
    assert_eq!(stream.event().id, first);
    let (words, whole) = last_words(stream);
    assert!(words.starts_with("retry: ") && !whole, "{words:?}");
    let aged = CloseReason::Aged as usize;
    eventually("it is counted", || gateway.sum(|cells| cells.closed[aged].get()) == 1);
    let second = gateway.publish("demo", "second");
    let mut again = gateway.subscribe(&format!("channel=demo&last_event_id={first}"));
    again.opening();
    assert_eq!(again.event().id, second);

    // A stream without that limit outlives many sweeps.
    let gateway = TestGateway::memory(&[("stream.heartbeat", "1s")]);
    let mut stream = gateway.live("channel=demo");
    (0..3).for_each(|_| drop(stream.next()));
    let id = gateway.publish("demo", "still there");
    while stream.next().id != id {}
}

#[test]
fn a_single_stream_does_not_hold_up_a_stop() {
    let mut gateway = TestGateway::memory(&[
        ("server.workers", "1"),
        ("stream.heartbeat", "1s"),
        ("drain.spread", "20s"),
        ("drain.deadline", "30s"),
    ]);
    let mut stream = gateway.live("channel=demo");
    gateway.drain();
    let heartbeats = stream.rest().0.len();
    assert!(heartbeats < 5, "it was kept open for {heartbeats} heartbeats");
    gateway.stop();
}

#[test]
fn a_full_gateway_asks_to_come_back() {
    let gateway = TestGateway::memory(&[("stream.max_streams", "1")]);
    let open = gateway.live("channel=demo");
    let (words, whole) = last_words(gateway.subscribe("channel=demo"));
    assert!(words.starts_with("retry: ") && words.ends_with('\n'), "{words:?}");
    assert!(words.lines().count() == 1 && !whole, "every client would come back: {words:?}");
    let plain = request(gateway.addr, "GET", "/events?channel=demo", &[], b"");
    assert_eq!(plain.status, 503);
    assert!(plain.head.to_ascii_lowercase().contains("retry-after: "), "{}", plain.head);
    drop(open);
    gateway.settled();
    drop(gateway.live("channel=demo"));
}

#[test]
fn a_channel_tells_what_it_holds() {
    on_both(&[], |gateway| {
        let get = |path: &str| request(gateway.addr, "GET", path, &[], b"").json();
        let empty = get("/channels/demo");
        assert_eq!((&empty["last_id"], &empty["length"]), (&serde_json::Value::Null, &0.into()));
        let subscriber = gateway.live("channel=demo");
        let ids: Vec<String> = (0..5).map(|n| gateway.publish("demo", &n.to_string())).collect();
        let info = get("/channels/demo");
        assert_eq!(info["subscribers"], 1);
        assert_eq!(
            (&info["oldest_id"], &info["last_id"]),
            (&ids[0].as_str().into(), &ids[4].as_str().into())
        );
        let all = get("/channels/demo/history");
        assert_eq!(all["events"].as_array().unwrap().len(), 5);
        assert_eq!((&all["more"], &all["gap"]), (&false.into(), &serde_json::Value::Null));
        let page = get(&format!("/channels/demo/history?after={}&limit=2", ids[1]));
        let data: Vec<&str> = page["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["data"].as_str().unwrap())
            .collect();
        assert_eq!(
            (data, &page["more"], &page["next"]),
            (vec!["2", "3"], &true.into(), &ids[3].as_str().into())
        );
        // A stream resumes without a gap where the answer says to go on.
        let next = all["next"].as_str().unwrap();
        let mut resumed = gateway.subscribe(&format!("channel=demo&last_event_id={next}"));
        assert_eq!(resumed.next().event, "checkpoint");
        assert_eq!(get("/channels/demo/history?after=1-1")["gap"]["reason"], "reset");
        for path in [
            "/channels/demo/history?limit=0",
            "/channels/demo/history?after=x",
            "/channels/demo/history?from=1",
        ] {
            assert_eq!(get(path)["type"], "urn:sse-gateway:invalid-parameter", "{path}");
        }
        drop(subscriber);
    });
}

/// Publishes more than the slow reader's queue, its socket and the inbox can hold. Returns how many
/// events.
pub fn flood(gateway: &TestGateway, channel: &str, reader: &mut Subscriber) -> usize {
    let data = "x".repeat(20_000);
    for n in 0..300 {
        gateway.publish(channel, &format!("{n} {data}"));
        reader.event();
    }
    300
}

fn number(block: &Block) -> usize {
    block.data.split(' ').next().unwrap().parse().expect("a number")
}

#[test]
fn a_slow_reader_reads_history_and_misses_nothing() {
    on_both(&[("stream.queue_bytes", "50000")], |gateway| {
        let mut reading = gateway.live("channel=demo");
        let mut slow = Subscriber::narrow(gateway.addr, "channel=demo");
        slow.opening();
        let count = flood(gateway, "demo", &mut reading);
        assert!(gateway.sum(|c| c.lags.get()) >= 1, "it lagged");
        for n in 0..count {
            assert_eq!(number(&slow.event()), n);
        }
        let id = gateway.publish("demo", "live again");
        assert_eq!(slow.event().id, id);
    });
}

#[test]
fn a_slow_reader_of_a_conflated_channel_gets_the_newest_and_a_gap() {
    let settings = [("stream.queue_bytes", "50000"), ("stream.slow_readers", "ticker*=latest")];
    on_both(&settings, |gateway| {
        let mut reading = gateway.live("channel=ticker");
        let mut slow = Subscriber::narrow(gateway.addr, "channel=ticker");
        assert_eq!(slow.next().event, "checkpoint");
        let count = flood(gateway, "ticker", &mut reading);
        let mut last = None;
        let mut gaps = 0;
        while last != Some(count - 1) {
            let block = slow.event();
            if block.event == "gap" {
                gaps += 1;
                assert!(block.data.contains("conflated"), "{block:?}");
                continue;
            }
            let n = number(&block);
            assert!(
                last.is_none_or(|last| n == last + 1 || (n > last && gaps > 0)),
                "{last:?} {n}"
            );
            last = Some(n);
        }
        assert!(gaps > 0, "something was left out");
        let id = gateway.publish("ticker", "live again");
        assert_eq!(slow.event().id, id);
    });
}

#[test]
fn a_slow_reader_is_closed_where_that_is_configured() {
    let settings = [("stream.queue_bytes", "50000"), ("stream.slow_readers", "*=close")];
    on_both(&settings, |gateway| {
        let mut reading = gateway.live("channel=demo");
        let slow = Subscriber::narrow(gateway.addr, "channel=demo");
        flood(gateway, "demo", &mut reading);
        eventually("the slow one is closed", || gateway.sum(|c| c.closed[4].get()) == 1);
        drop(slow);
    });
}

#[test]
fn many_clients_far_behind_cost_few_reads() {
    let redis = Redis::start();
    let settings = [
        ("history.max_len", "10000"),
        ("redis.answer_timeout", "60s"),
        ("stream.open_wait", "10ms"),
    ];
    let gateway = TestGateway::redis(&redis, &settings);
    let first = gateway.publish("demo", "first");
    let lines: String =
        (0..1000).map(|n| format!("{{\"channel\":\"demo\",\"data\":\"{n}\"}}\n")).collect();
    assert_eq!(gateway.post("/publish", &[NDJSON], lines.as_bytes()).status, 200);
    let reads = || gateway.metrics.broker.history_reads.with_label_values(&["ok"]).get();
    let before = reads();
    // While Redis is frozen, no client is attached. Then all are attached at once, however long
    // they took to connect.
    redis.freeze();
    let header = [("Last-Event-ID", first.as_str())];
    let mut clients: Vec<Subscriber> =
        (0..300).map(|_| Subscriber::open(gateway.addr, "channel=demo", &header)).collect();
    eventually("all have come", || gateway.sum(|c| c.subscribers.get()) == 300);
    redis.thaw();
    for client in &mut clients {
        for n in 0..1000 {
            assert_eq!(client.event().data, n.to_string());
        }
    }
    eventually("all are live", || gateway.sum(|c| c.joining.get()) == 0);
    let cost = reads() - before;
    assert!(cost <= 100, "{cost} reads");
}
