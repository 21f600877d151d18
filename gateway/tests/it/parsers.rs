//! Tests of the encoder: whatever is published, four parsers that other people wrote read back
//! exactly that, with its line ends as LF.
//!
//! The parsers are Chromium's, `eventsource-parser` (Node.js), `httpx-sse` (Python) and `russe`
//! (Rust). Each reads the gateway's own socket.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use bytes::BytesMut;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use tokio_util::codec::Decoder;

use crate::event_source::{EventSource, Heard};
use crate::streams::{NDJSON, on_both};
use crate::support::{Answer, Redis, Subscriber, TestGateway, Wire, eventually, spawn};
use crate::webdriver::Browser;

/// No stream may lag here: it would miss the events that are published raw.
const ROOM: [(&str, &str); 2] =
    [("stream.queue_events", "100000"), ("stream.queue_bytes", "100000000")];

/// One event to publish. An empty `kind` means no type.
struct Sample {
    kind: &'static str,
    data: Cow<'static, str>,
}

/// Event types that look like something else.
const KINDS: [&str; 10] =
    ["", "tick", "", " spaced ", "data: x", "id", ":", "🦀 ünï", "\u{feff}bom", "a\u{2028}b\u{b}c"];

/// Texts that a line-based format may get wrong.
const HOSTILE: [&str; 50] = [
    "",
    " ",
    "  two leading spaces",
    "\ttab",
    "plain",
    "trailing newline\n",
    "trailing newlines\n\n\n",
    "trailing\r",
    "trailing\r\n",
    "trailing\r\n\r\n",
    "\nleading newline",
    "\r\rleading",
    "\n",
    "\n\n\n",
    "\r",
    "\r\r\r",
    "\r\n",
    "\r\n\r\n",
    "\n\r",
    "\n\r\n\r",
    "a\nb",
    "a\rb",
    "a\r\nb",
    "a\n\nb",
    "a\r\rb",
    "a\r\n\r\nb",
    "a\n\rb",
    "data: x",
    "data",
    "a\ndata: b",
    "a\rdata: b",
    "id: 1-1",
    "a\nid: 1-1",
    "a\rid: 9999999999999-1\r",
    "a\n\nid: 1-1\ndata: forged\n\n",
    "a\r\revent: tick\rdata: forged\r\r",
    "a\r\n\r\nevent: gap\r\ndata: {}\r\n\r\n",
    "event: checkpoint\ndata:\n\n",
    "retry: 1",
    "a\nretry: 1\n",
    ":",
    ": comment",
    "a\n: comment\nb",
    "\0",
    "a\0b\n\0",
    "\u{feff}",
    "\u{feff}at the start\n\u{feff}of each\ninside\u{feff} too",
    "\u{2028}\u{2029}\u{85}\u{b}\u{c}\u{1c}\u{1d}\u{1e}",
    "a\u{2028}id: 1\u{2029}data: x\u{85}event: y\u{b}retry: 1\u{c}z",
    "🦀é\u{10ffff}\u{fffd}\u{e000}\u{7f}",
];

/// The parts of random texts.
const PIECES: [&str; 24] = [
    "\r",
    "\n",
    "\r\n",
    "\0",
    "\u{feff}",
    "data",
    "id",
    "event",
    "retry",
    ":",
    ": ",
    " ",
    "\t",
    "🦀",
    "\u{10ffff}",
    "é",
    "\u{2028}",
    "\u{2029}",
    "\u{85}",
    "\u{b}",
    "\u{c}",
    "a",
    "1-1",
    "gap",
];

fn samples(texts: impl IntoIterator<Item = String>) -> Vec<Sample> {
    let hostile = HOSTILE.into_iter().map(Cow::Borrowed);
    let mut random = fastrand::Rng::with_seed(5);
    let random = std::iter::repeat_with(move || {
        (0..random.usize(..24)).map(|_| PIECES[random.usize(..PIECES.len())]).collect::<String>()
    });
    let all = hostile.chain(random.take(200).map(Cow::Owned));
    let all = all.chain(texts.into_iter().map(Cow::Owned));
    all.enumerate().map(|(n, data)| Sample { kind: KINDS[n % KINDS.len()], data }).collect()
}

/// Lines much longer than any buffer on the way.
fn long_lines() -> [String; 3] {
    let line = "x".repeat(100_000);
    [line.clone(), "🦀".repeat(25_000), format!("{line}\r{line}\ndata: {line}")]
}

/// What a parser must read for an event.
fn read_back(id: &str, kind: &str, data: &str) -> Heard {
    let kind = if kind.is_empty() { "message" } else { kind }.to_owned();
    let data = data.replace("\r\n", "\n").replace('\r', "\n");
    Heard { kind, id: id.to_owned(), data }
}

/// Publishes over HTTP, alternately as a plain body and as JSON. Returns what parsers must read.
fn publish(gateway: &TestGateway, samples: &[Sample]) -> Vec<Heard> {
    let one = |(n, Sample { kind, data }): (usize, &Sample)| {
        let answer = if n % 2 == 0 {
            let kind = utf8_percent_encode(kind, NON_ALPHANUMERIC);
            gateway.post(&format!("/channels/demo?event={kind}"), &[], data.as_bytes())
        } else {
            let mut item = json!({"channel": "demo", "data": data});
            if !kind.is_empty() {
                item["event"] = json!(kind);
            }
            gateway.post("/publish", &[JSON], item.to_string().as_bytes())
        };
        assert_eq!(answer.status, 200, "{}", answer.body);
        let answer = answer.json();
        let id = answer["id"].as_str().or(answer["results"][0]["id"].as_str()).expect("an id");
        read_back(id, kind, data)
    };
    samples.iter().enumerate().map(one).collect()
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The four parsers, each reading a stream of its own.
struct Readers<'b> {
    page: EventSource<'b>,
    others: Vec<(&'static str, JoinHandle<Vec<Heard>>)>,
    count: usize,
}

impl<'b> Readers<'b> {
    /// Opens the streams. Each reader ends after `count` events.
    fn open(browser: &'b Browser, addr: SocketAddr, query: &str, count: usize) -> Self {
        let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| !kind.is_empty()).collect();
        let page = EventSource::open(browser, addr, query, &kinds);
        let dir = installed();
        let mut node = Command::new("node");
        node.arg(dir.join("read.mjs"));
        let mut python = Command::new(dir.join("venv/bin/python"));
        python.arg(dir.join("read.py"));
        let url = format!("http://{addr}/events?{query}");
        let others = vec![
            ("eventsource-parser", program(node, "nodejs", &url, count)),
            ("httpx-sse", program(python, "python3-venv", &url, count)),
            ("russe", russe(Subscriber::open(addr, query, &[]), count)),
        ];
        Readers { page, others, count }
    }

    /// Waits until all streams are live, or a reader has given up. `have_read` says why it did.
    #[track_caller]
    fn are_live(&self, gateway: &TestGateway) {
        eventually("the four streams are live", || {
            let live = gateway.sum(|c| c.subscribers.get()) == 4;
            let gave_up = self.others.iter().any(|(_, reader)| reader.is_finished());
            gave_up || (live && gateway.sum(|c| c.joining.get()) == 0)
        });
    }

    /// Waits for all readers and compares what they read. Events published raw have no id to
    /// compare.
    #[track_caller]
    fn have_read(self, expected: &[Heard]) {
        assert_eq!(self.count, expected.len());
        compare("Chromium", &self.page.wait_for(self.count), expected);
        self.page.close();
        for (name, reader) in self.others {
            let read = reader.join().unwrap_or_else(|_| panic!("{name} failed, see above"));
            compare(name, &read, expected);
        }
    }
}

#[track_caller]
fn compare(name: &str, read: &[Heard], expected: &[Heard]) {
    let brief = |event: &Heard| format!("{event:?}").chars().take(300).collect::<String>();
    for (n, (read, expected)) in read.iter().zip(expected).enumerate() {
        let same_id = expected.id.is_empty() || read.id == expected.id;
        let same = same_id && (&read.kind, &read.data) == (&expected.kind, &expected.data);
        assert!(same, "{name}, event {n}: {} was read as {}", brief(expected), brief(read));
    }
    assert_eq!(read.len(), expected.len(), "{name}");
}

/// Where scripts/test installs the parsers and axe-core.
pub fn installed() -> PathBuf {
    let dir = std::env::var_os("TEST_PARSERS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-parsers"),
        PathBuf::from,
    );
    assert!(
        dir.join("read.mjs").exists() && dir.join("venv/bin/python").exists(),
        "the parsers of Node.js and Python are not installed in {}: run scripts/test, which does",
        dir.display(),
    );
    dir
}

/// Starts one of the programs in the folder `parsers`, and waits until its stream is open.
#[track_caller]
fn program(mut command: Command, package: &str, url: &str, count: usize) -> JoinHandle<Vec<Heard>> {
    command.args([url, &count.to_string()]).stdout(Stdio::piped());
    let mut child = spawn(&mut command, package);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let opened = lines.next().expect("the stream opens").unwrap();
    assert_eq!(opened.replace(' ', ""), r#"{"open":true}"#);
    std::thread::spawn(move || {
        let read = lines.map(|line| {
            let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            let text = |member: &str| event[member].as_str().expect("a text").to_owned();
            Heard { kind: text("event"), id: text("id"), data: text("data") }
        });
        let read: Vec<Heard> = read.collect();
        let status = child.wait().unwrap();
        assert!(status.success(), "{status} after {} events", read.len());
        read
    })
}

fn russe(subscriber: Subscriber, count: usize) -> JoinHandle<Vec<Heard>> {
    std::thread::spawn(move || {
        let mut stream = subscriber.into_reader();
        let mut decoder = russe::Decoder::default();
        let (mut bytes, mut chunk) = (BytesMut::new(), [0; 4096]);
        let mut read = Vec::new();
        while read.len() < count {
            let n = stream.read(&mut chunk).expect("bytes within the bound");
            assert_ne!(n, 0, "the stream ended after {} events", read.len());
            bytes.extend_from_slice(&chunk[..n]);
            while let Some(event) = decoder.decode(&mut bytes).expect("an event stream") {
                let russe::Event::Message(message) = event else { continue };
                let kind = message.event.map_or("message".to_owned(), |kind| kind.to_string());
                if kind != "checkpoint" {
                    let id = message.id.unwrap_or_default().to_string();
                    read.push(Heard { kind, id, data: message.data.to_string() });
                }
            }
        }
        read
    })
}

#[test]
fn what_is_published_over_http_is_what_is_read() {
    let browser = Browser::open();
    let samples = samples(long_lines());
    let (replayed, followed) = samples.split_at(samples.len() / 2);
    on_both(&ROOM, |gateway| {
        let mut expected = publish(gateway, replayed);
        let query = "channel=demo&last_event_id=0";
        let readers = Readers::open(&browser, gateway.addr, query, samples.len());
        readers.are_live(gateway);
        expected.extend(publish(gateway, followed));
        readers.have_read(&expected);
    });
}

#[test]
fn what_redis_clients_write_is_what_is_read() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &ROOM);
    let browser = Browser::open();
    let samples = samples(long_lines());
    let broken: [&[u8]; 6] = [
        b"\xc3\x28\rid: 1",
        b"\xed\xa0\x80\nlone surrogate",
        b"\xf0\x9f\xa6\r\ncut short\xf0\x9f",
        b"\xc0\xaf\xe0\x80\x8aoverlong line feed",
        b"\xf5\x80\x80\x80\xfe",
        b"\x80\n\n\x80",
    ];
    let count = 2 * (samples.len() + broken.len());
    let readers = Readers::open(&browser, gateway.addr, "channel=demo", count);
    readers.are_live(&gateway);
    let bytes = samples.iter().map(|sample| (sample.kind, sample.data.as_bytes()));
    let all: Vec<(&str, &[u8])> = bytes.chain(broken.map(|data| ("", data))).collect();
    let mut expected = Vec::new();
    for (kind, data) in all {
        let call = ["FCALL", "sse_publish", "2", "sse:state", "sse:history:demo"];
        let mut call: Vec<&[u8]> = call.iter().map(|arg| arg.as_bytes()).collect();
        call.extend([data, kind.as_bytes()]);
        let id = redis.command(&call);
        let text = String::from_utf8_lossy(data);
        expected.push(read_back(&id, kind, &text));
        assert_eq!(redis.command(&[&b"PUBLISH"[..], b"sse:demo", data]), "1");
        expected.push(read_back("", "", &text));
    }
    readers.have_read(&expected);
    gateway.settled();
}

#[test]
fn what_arrives_in_pieces_is_read_whole() {
    let gateway = TestGateway::memory(&ROOM);
    let wire = Wire::shredding(gateway.addr);
    let browser = Browser::open();
    let samples = samples(["🦀".repeat(1000), "\r🦀\n".repeat(100)]);
    let (replayed, followed) = samples.split_at(samples.len() / 2);
    let mut expected = publish(&gateway, replayed);
    let query = "channel=demo&last_event_id=0";
    let readers = Readers::open(&browser, wire.addr, query, samples.len());
    readers.are_live(&gateway);
    expected.extend(publish(&gateway, followed));
    readers.have_read(&expected);
    gateway.settled();
}

#[test]
fn with_its_channel_an_event_is_read_with_one_line_more() {
    let gateway = TestGateway::memory(&ROOM);
    let browser = Browser::open();
    let samples = samples([]);
    let (replayed, followed) = samples.split_at(samples.len() / 2);
    let mut expected = publish(&gateway, replayed);
    let query = "channel=demo&annotate=channel&last_event_id=0";
    let readers = Readers::open(&browser, gateway.addr, query, samples.len());
    readers.are_live(&gateway);
    expected.extend(publish(&gateway, followed));
    expected.iter_mut().for_each(|event| event.data = format!("demo\n{}", event.data));
    readers.have_read(&expected);
    gateway.settled();
}

#[test]
fn half_a_character_is_refused() {
    on_both(&[], |gateway| {
        let mut subscriber = gateway.live("channel=demo");
        let refused = |answer: Answer, kind: &str| {
            assert_eq!(answer.status, 400, "{}", answer.body);
            assert_eq!(answer.json()["type"], format!("urn:sse-gateway:{kind}"));
        };
        for half in [r"\ud800", r"\udc00", r"\udc00\ud800", r"a\ud83e", r"\ud83e\n"] {
            let item = format!(r#"{{"channel":"demo","data":"{half}"}}"#);
            refused(gateway.post("/publish", &[JSON], item.as_bytes()), "invalid-json");
            let line = gateway.post("/publish", &[NDJSON], item.as_bytes());
            assert!(line.body.contains("urn:sse-gateway:invalid-json"), "{}", line.body);
            let typed = format!(r#"{{"channel":"demo","data":"x","event":"{half}"}}"#);
            refused(gateway.post("/publish", &[JSON], typed.as_bytes()), "invalid-json");
        }
        refused(gateway.post("/channels/demo", &[], b"\xed\xa0\x80"), "invalid-data");
        let whole = br#"{"channel":"demo","data":"\ud83e\udd80"}"#;
        assert_eq!(gateway.post("/publish", &[JSON], whole).status, 200);
        assert_eq!(subscriber.event().data, "🦀", "and nothing before it");
    });
}
