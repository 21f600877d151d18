//! Tests of `annotate=channel`: each event's first line of data is the name of its channel, and
//! everything else is as without it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use sse_lab::chunked::Body;

use crate::event_source::{EventSource, heard, live};
use crate::streams::{NDJSON, flood, on_both};
use crate::support::{BOUND, Block, Redis, Subscriber, TestGateway, connect, eventually};
use crate::webdriver::Browser;

/// What an annotated stream is sent where others are sent this block of a channel.
fn annotated(channel: &str, block: &Block) -> Block {
    let Block { id, event, data } = block.clone();
    Block { id, event, data: format!("{channel}\n{data}") }
}

/// Publishes events of every shape, and returns the channel of each.
fn publish_all(gateway: &TestGateway) -> Vec<&'static str> {
    let events = [
        ("a", "", "plain"),
        ("b:{x}", "", "two\nlines"),
        ("a", "", ""),
        ("a", "tick", "typed"),
        ("b:{x}", "tick", ""),
        ("a", "", "\r\rdata: forged\r\nid: 1-1\n"),
        ("b:{x}", "", "a\nb looks annotated"),
    ];
    for (channel, event, data) in events {
        let channel = channel.replace('{', "%7B").replace('}', "%7D");
        let path = format!("/channels/{channel}?event={event}");
        let answer = gateway.post(&path, &[], data.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    events.map(|(channel, ..)| channel).into()
}

const BOTH: &str = "channel=a&channel=b:%7Bx%7D";

#[test]
fn each_event_begins_with_its_channel_live_and_replayed() {
    for takeover in ["true", "false"] {
        on_both(&[("stream.takeover", takeover)], |gateway| {
            let mut plain = gateway.live(BOTH);
            let mut asked = gateway.live(&format!("{BOTH}&annotate=channel"));
            live(gateway, 2);
            let channels = publish_all(gateway);
            let blocks: Vec<Block> = channels.iter().map(|_| plain.event()).collect();
            assert_eq!(blocks[1].data, "two\nlines");
            let expected: Vec<Block> =
                channels.iter().zip(&blocks).map(|(name, block)| annotated(name, block)).collect();
            let mut check = |events: &[Block]| {
                for block in events {
                    assert_eq!(asked.event(), *block);
                }
            };
            check(&expected);
            let query = format!("{BOTH}&annotate=channel");
            let mut oldest = gateway.subscribe(&format!("{query}&last_event_id=0"));
            let mut resumed = gateway.resumed(&query, &blocks[2].id);
            let mut without = gateway.resumed(BOTH, &blocks[2].id);
            for (n, block) in expected.iter().enumerate() {
                assert_eq!(oldest.event(), *block);
                if n > 2 {
                    assert_eq!(resumed.event(), *block);
                    assert_eq!(without.event(), blocks[n]);
                }
            }
        });
    }
}

/// A browser's own parser joins the lines.
#[test]
fn a_page_reads_the_channel_as_the_first_line() {
    let browser = Browser::open();
    let gateway = TestGateway::memory(&[]);
    let first = gateway.publish("a", "replayed");
    let query = "channel=a&channel=b&annotate=channel&last_event_id=0";
    let page = EventSource::open(&browser, gateway.addr, query, &["tick"]);
    live(&gateway, 1);
    let answer = gateway.post("/channels/b?event=tick", &[], b"two\nlines");
    let second = answer.json()["id"].as_str().expect("an id").to_owned();
    let third = gateway.publish("b", "");
    let expected = [
        heard("message", &first, "a\nreplayed"),
        heard("tick", &second, "b\ntwo\nlines"),
        heard("message", &third, "b\n"),
    ];
    assert_eq!(page.wait_for(3), expected);
    assert_eq!(page.errors(), [0; 0]);
    page.close();
    gateway.settled();
}

#[test]
fn a_raw_publish_begins_with_its_channel() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let mut plain = gateway.live(BOTH);
    let mut asked = gateway.live(&format!("{BOTH}&annotate=channel"));
    live(&gateway, 2);
    for (channel, data) in [("a", "raw"), ("b:{x}", ""), ("a", "x\r\nid: 1-1")] {
        redis.command(&["PUBLISH", &format!("sse:{channel}"), data]);
        let block = plain.event();
        assert_eq!((block.id.as_str(), &*block.data), ("", &*data.replace("\r\n", "\n")));
        assert_eq!(asked.event(), annotated(channel, &block));
    }
    drop((plain, asked));
    gateway.settled();
}

/// The ways in which a connection is framed, each with and without channels. One request brings
/// many events, so that some are written together.
#[test]
fn every_framing_has_the_same_blocks_beside_each_other() {
    on_both(&[("stream.takeover", "true")], every_framing);
    on_both(&[("stream.takeover", "false")], every_framing);
}

fn every_framing(gateway: &TestGateway) {
    let clients: Vec<(TcpStream, bool)> =
        [("1.0", false), ("1.0", true), ("1.1", false), ("1.1", true)]
            .into_iter()
            .map(|(version, asks)| {
                let mut stream = connect(gateway.addr);
                let more = if asks { "&annotate=channel" } else { "" };
                let request = format!(
                    "GET /events?channel=a&channel=b{more} HTTP/{version}\r\nHost: test\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).unwrap();
                (stream, asks)
            })
            .collect();
    live(gateway, 4);
    let items: String =
        (0..200).map(|n| format!("{{\"channels\":[\"a\",\"b\"],\"data\":\"{n}\\n\"}}\n")).collect();
    let answer = gateway.post("/publish", &[NDJSON], items.as_bytes());
    let ids: Vec<String> = answer
        .body
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 400);
    for (stream, asks) in clients {
        let mut expected = String::new();
        for (n, id) in ids.iter().enumerate() {
            if asks {
                expected += ["data: a\n", "data: b\n"][n % 2];
            }
            expected += &format!("data: {}\ndata: \nid: {}\n\n", n / 2, id.trim_matches('"'));
        }
        let mut reader = BufReader::new(Box::new(stream) as Box<dyn Read>);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        read_until(Body::new(reader, &head), &expected);
    }
}

/// Reads until this text has come. Bounded here, because heartbeats alone would keep a stream going
/// for ever.
#[track_caller]
fn read_until(mut stream: impl Read, wanted: &str) {
    let (end, mut text, mut buffer) = (Instant::now() + BOUND, String::new(), [0; 4096]);
    while !text.contains(wanted) {
        assert!(Instant::now() < end, "it did not come: {text}");
        let n = stream.read(&mut buffer).expect("bytes within the bound");
        assert_ne!(n, 0, "{text}");
        text += std::str::from_utf8(&buffer[..n]).unwrap();
    }
}

/// The size line counts the channel's line, because some clients hand on a chunk at a time.
#[test]
fn an_event_with_its_channel_is_one_chunk() {
    let gateway = TestGateway::memory(&[("stream.takeover", "true")]);
    let mut stream = connect(gateway.addr);
    stream
        .write_all(b"GET /events?channel=a&annotate=channel HTTP/1.1\r\nHost: test\r\n\r\n")
        .unwrap();
    live(&gateway, 1);
    let block = format!("data: a\ndata: x\nid: {}\n\n", gateway.publish("a", "x"));
    let chunk = format!("\n\r\n{:x}\r\n{block}\r\n", block.len());
    read_until(&stream, &chunk);
    drop(stream);
    gateway.settled();
}

#[test]
fn what_the_gateway_itself_says_is_unchanged() {
    let settings = [("history.max_len", "10"), ("stream.heartbeat", "1s")];
    on_both(&settings, |gateway| {
        // Redis trims in blocks of a hundred entries.
        let ids: Vec<String> = (0..400).map(|n| gateway.publish("a", &n.to_string())).collect();
        let open = |query: &str| {
            let mut subscriber = gateway.resumed(query, &ids[0]);
            let gap = subscriber.event();
            assert_eq!(gap.event, "gap");
            assert!(gap.data.starts_with('{') && gap.data.contains("\"channel\":\"a\""), "{gap:?}");
            (subscriber, gap)
        };
        let (mut plain, gap) = open("channel=a");
        let (mut asked, same) = open("channel=a&annotate=channel");
        assert_eq!(gap, same);
        let mut last = String::new();
        while last != ids[399] {
            let block = plain.event();
            assert_eq!(asked.event(), annotated("a", &block));
            last = block.id;
        }
        let idle = asked.next();
        assert_eq!((idle.event.as_str(), idle.data.as_str()), ("checkpoint", ""));
        let mut silent = gateway.subscribe("channel=a&annotate=channel&checkpoints=off");
        silent.heartbeat();
        let id = gateway.publish("a", "live");
        assert_eq!(silent.next(), Block { id, event: String::new(), data: "a\nlive".into() });
    });
}

/// The number that `flood` wrote to a channel.
fn number(channel: &str, block: &Block) -> usize {
    let (first, rest) = block.data.split_once('\n').expect("two lines");
    assert_eq!(first, channel);
    rest.split(' ').next().unwrap().parse().expect("a number")
}

/// Events wait in the queue, are written in pieces, and are read from history.
#[test]
fn a_slow_reader_is_told_each_channel() {
    on_both(&[("stream.queue_bytes", "50000")], |gateway| {
        let mut reading = gateway.live("channel=demo");
        let mut slow = Subscriber::narrow(gateway.addr, "channel=demo&annotate=channel");
        slow.opening();
        let count = flood(gateway, "demo", &mut reading);
        assert!(gateway.sum(|c| c.lags.get()) >= 1, "it lagged");
        for n in 0..count {
            assert_eq!(number("demo", &slow.event()), n);
        }
        let id = gateway.publish("demo", "live again");
        let last = Block { id, event: String::new(), data: "demo\nlive again".into() };
        assert_eq!(slow.event(), last);
    });
}

#[test]
fn a_slow_reader_of_the_newest_is_told_its_channel() {
    let settings = [("stream.queue_bytes", "50000"), ("stream.slow_readers", "ticker*=latest")];
    on_both(&settings, |gateway| {
        let mut reading = gateway.live("channel=ticker");
        let mut slow = Subscriber::narrow(gateway.addr, "channel=ticker&annotate=channel");
        slow.opening();
        let count = flood(gateway, "ticker", &mut reading);
        let (mut last, mut gaps) = (None, 0);
        while last != Some(count - 1) {
            let block = slow.event();
            if block.event == "gap" {
                gaps += 1;
                assert!(block.data.starts_with('{') && block.data.contains("conflated"));
                continue;
            }
            let n = number("ticker", &block);
            assert!(last.is_none_or(|last| n > last), "{last:?} {n}");
            last = Some(n);
        }
        assert!(gaps > 0, "something was left out");
    });
}

#[test]
fn after_an_outage_events_are_told_with_their_channels() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[]);
    let mut asked = gateway.live("channel=a&channel=b&annotate=channel");
    live(&gateway, 1);
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let ids: Vec<String> =
        (0..50).map(|n| redis.fcall(["a", "b"][n % 2], &n.to_string())).collect();
    for (n, id) in ids.iter().enumerate() {
        let data = format!("{}\n{n}", ["a", "b"][n % 2]);
        assert_eq!(asked.event(), Block { id: id.clone(), event: String::new(), data });
    }
    eventually("the stream has read history", || gateway.sum(|c| c.joining.get()) == 0);
    assert!(gateway.sum(|c| c.lags.get()) >= 1, "it rejoined");
    drop(asked);
    gateway.settled();
}
