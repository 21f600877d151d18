//! Tests of the lists on the admin port: `GET /connections` and `GET /channels`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};
use sse_gateway::Config;
use sse_gateway::broker::Broker;
use sse_gateway::broker::memory::{MemoryBroker, MemoryLimits};
use sse_gateway::feed::frame::Framing;
use sse_gateway::feed::inbox::ToHub;
use sse_gateway::feed::listing::{ChannelsStep, STEP, StreamFilter, StreamSort, StreamsStep};
use sse_gateway::hub::{Hub, Opening};
use sse_gateway::metrics::Metrics;
use sse_gateway::stream::subscription::{Begin, Subscription};
use tokio::sync::mpsc;

use crate::access::{SECRET, token};
use crate::life::Program;
use crate::support::{Subscriber, TestGateway, eventually};

fn list(gateway: &TestGateway, path: &str) -> Value {
    let answer = gateway.admin(path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    let list = answer.json();
    assert_eq!(list["complete"], true, "{path}: {list}");
    list
}

fn texts(list: &Value, field: &str) -> Vec<String> {
    let text = |entry: &Value| entry[field].as_str().expect(field).to_owned();
    let entries = list["connections"].as_array().or_else(|| list["channels"].as_array());
    entries.expect("entries").iter().map(text).collect()
}

/// All entries of a list, asked for in pages of `limit`.
fn pages(gateway: &TestGateway, path: &str, limit: usize, field: &str) -> Vec<String> {
    let (mut all, mut next) = (Vec::new(), String::new());
    loop {
        let page = list(gateway, &format!("{path}&limit={limit}{next}"));
        let entries = texts(&page, field);
        assert!(entries.len() <= limit, "{page}");
        all.extend(entries);
        let Some(place) = page["next"].as_str() else { return all };
        next = format!("&next={place}");
    }
}

#[test]
fn a_stream_is_listed_with_what_is_known_of_it() {
    let keys = format!("alg=HS256 secret={SECRET} subscribe=*");
    let settings = [("auth.jwt.keys", keys.as_str()), ("auth.anonymous.subscribe", "open:*")];
    let publish = [("auth.anonymous.publish", "*")];
    let settings: Vec<_> = settings.into_iter().chain(publish).collect();
    let gateway = TestGateway::memory(&settings);
    let bearer = format!("Bearer {}", token(json!({ "sub": "42" })));
    let many: String = (0..12).map(|n| format!("&channel=c{n}")).collect();
    let headers = [("Authorization", bearer.as_str())];
    let mut named = Subscriber::open(gateway.addr, &format!("channel=a{many}"), &headers);
    let first = named.opening().id;
    let _other = gateway.live("channel=open:b");
    let all = list(&gateway, "/connections");
    assert_eq!((&all["matched"], &all["next"]), (&json!(2), &Value::Null));
    let [entry, other] = &all["connections"].as_array().unwrap()[..] else { panic!("{all}") };
    assert_eq!(entry["subject"], "42");
    assert_eq!(entry["channels"].as_array().unwrap().len(), 10);
    assert_eq!((&entry["channels"][0], &entry["channels"][9]), (&json!("a"), &json!("c8")));
    assert_eq!(entry["channel_count"], 13);
    assert_eq!((&entry["client"], &entry["http"]), (&json!("127.0.0.1"), &json!("1.1")));
    assert_eq!((&entry["tls"], &entry["state"]), (&json!(false), &json!("live")));
    assert_eq!((&entry["queued_bytes"], &entry["queued_events"]), (&json!(0), &json!(0)));
    // The log does not tell of streams here, so nobody counts.
    assert_eq!((&entry["events"], &entry["bytes"]), (&Value::Null, &Value::Null));
    let opened = entry["opened_at"].as_str().unwrap();
    assert!(opened.starts_with("20") && opened.ends_with('Z'), "{opened}");
    assert!(entry["age_seconds"].as_f64().unwrap() >= 0.0, "{entry}");
    assert_eq!((&other["subject"], &other["channels"]), (&Value::Null, &json!(["open:b"])));
    assert_ne!(entry["id"], other["id"]);
    // Its position is where it began, and then the event that it was sent.
    let position = |entry: &Value| entry["position"].as_str().unwrap().to_owned();
    assert!(as_number(&position(entry)) >= as_number(&first), "{entry} {first}");
    let id = gateway.publish("c11", "x");
    assert_eq!(named.event().id, id);
    let filtered = list(&gateway, "/connections?subject=42");
    assert_eq!(filtered["matched"], 1);
    assert!(as_number(&position(&filtered["connections"][0])) >= as_number(&id), "{filtered}");
}

fn as_number(id: &str) -> u128 {
    let (ms, seq) = id.split_once('-').unwrap();
    (ms.parse::<u128>().unwrap() << 64) + seq.parse::<u128>().unwrap()
}

#[test]
fn streams_are_filtered_sorted_and_paged() {
    let gateway = TestGateway::memory(&[]);
    let streams: Vec<_> =
        (0..7).map(|n| gateway.live(&format!("channel=all&channel=of:{}", n % 2))).collect();
    let ids = pages(&gateway, "/connections?sort=oldest", 3, "id");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 7, "{ids:?}");
    let mut backwards = pages(&gateway, "/connections?sort=newest", 2, "id");
    let opened = texts(&list(&gateway, "/connections"), "opened_at");
    assert!(opened.is_sorted(), "{opened:?}");
    let opened = texts(&list(&gateway, "/connections?sort=newest"), "opened_at");
    assert!(opened.is_sorted_by(|a, b| a >= b), "{opened:?}");
    backwards.sort();
    let mut sorted = ids.clone();
    sorted.sort();
    assert_eq!(backwards, sorted);
    let slowest: BTreeSet<_> =
        pages(&gateway, "/connections?sort=slowest", 1, "id").into_iter().collect();
    assert_eq!(slowest, sorted.into_iter().collect());
    for (query, matched) in [
        ("channel=of:0", 4),
        ("channel=of:1", 3),
        ("channel=all", 7),
        ("channel=of:2", 0),
        ("client=127.0.0.1", 7),
        ("client=::1", 0),
        ("subject=a", 0),
    ] {
        let found = list(&gateway, &format!("/connections?{query}&limit=1"));
        assert_eq!(found["matched"], matched, "{query}");
        assert_eq!(found["next"].is_string(), matched > 1, "{query}");
    }
    drop(streams);
    gateway.settled();
    assert_eq!(list(&gateway, "/connections")["connections"], json!([]));
}

#[test]
fn the_slowest_reader_comes_first() {
    let settings = [("stream.queue_bytes", "100000"), ("history.max_len", "100000")];
    let gateway = TestGateway::memory(&settings);
    let mut reading = gateway.live("channel=demo");
    let _slow = Subscriber::narrow(gateway.addr, "channel=demo&channel=slow");
    let data = "x".repeat(50_000);
    let mut first = Value::Null;
    eventually("it lags", || {
        gateway.publish("demo", &data);
        assert_eq!(reading.event().data.len(), data.len());
        first = list(&gateway, "/connections?sort=slowest&limit=1")["connections"][0].clone();
        first["state"] == "lagging"
    });
    assert_eq!(first["channels"], json!(["demo", "slow"]));
    assert!(first["queued_bytes"].as_u64().unwrap() > 0, "{first}");
    let all = list(&gateway, "/connections?sort=slowest");
    let other = &all["connections"][1];
    assert_eq!((&other["state"], &other["queued_bytes"]), (&json!("live"), &json!(0)));
    // What waits for the slow one was published before what the other has.
    let position = |entry: &Value| as_number(entry["position"].as_str().unwrap());
    assert!(position(&first) < position(other), "{first} {other}");
}

#[test]
fn what_the_log_counts_is_listed_under_the_same_id() {
    let level = "log.level=info,sse_gateway::streams=debug";
    let mut gateway = Program::start(&["log.format=json", level]);
    let mut stream = gateway.subscribe("channel=a");
    let id = gateway.publish("a", "x");
    assert_eq!(stream.event().id, id);
    let answer = crate::support::request(gateway.admin, "GET", "/connections", &[], b"").json();
    let entry = &answer["connections"][0];
    assert_eq!(entry["events"], 1, "{entry}");
    assert!(entry["bytes"].as_u64().unwrap() > 20, "{entry}");
    gateway.signal(crate::support::Signal::TERM);
    let log = gateway.log();
    let open = log.lines().find(|line| line.contains("a stream is open")).expect(&log);
    let open: Value = serde_json::from_str(open).unwrap();
    assert_eq!(open["stream"], entry["id"]);
}

#[test]
fn channels_are_listed_once_with_the_streams_of_all_workers() {
    let gateway = TestGateway::memory(&[]);
    // Enough for both workers to have some.
    let mut streams: Vec<_> = (0..8).map(|_| gateway.live("channel=busy&channel=a%2Bb")).collect();
    let _quiet = gateway.live("channel=a");
    let id = gateway.publish("busy", "x");
    for stream in &mut streams {
        assert_eq!(stream.event().id, id);
    }
    let all = list(&gateway, "/channels");
    let found: HashMap<_, _> = all["channels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["channel"].as_str().unwrap(), entry))
        .collect();
    assert_eq!(texts(&all, "channel").last().map(String::as_str), Some("a"), "{all}");
    assert_eq!((&all["matched"], found.len()), (&json!(3), 3));
    assert_eq!((&found["busy"]["subscribers"], &found["a"]["subscribers"]), (&json!(8), &json!(1)));
    assert_eq!((&found["busy"]["last_id"], &found["a"]["last_id"]), (&json!(id), &Value::Null));
    assert!(found["busy"]["last_at"].as_str().unwrap().starts_with("20"), "{all}");
    assert_eq!(pages(&gateway, "/channels?sort=name", 1, "channel"), ["a", "a+b", "busy"]);
    assert_eq!(pages(&gateway, "/channels?sort=subscribers", 1, "channel"), ["a+b", "busy", "a"]);
    assert_eq!(pages(&gateway, "/channels?prefix=a%2B", 5, "channel"), ["a+b"]);
}

#[test]
fn a_list_names_the_parameter_that_is_wrong() {
    let gateway = TestGateway::memory(&[]);
    for (path, field) in [
        ("/connections?limit=0", "limit"),
        ("/connections?limit=1001", "limit"),
        ("/connections?limit=x", "limit"),
        ("/connections?sort=age", "sort"),
        ("/connections?client=localhost", "client"),
        ("/connections?channel=%20", "channel"),
        ("/connections?next=oldest.1", "next"),
        ("/connections?sort=newest&next=oldest.1.0.0.0.1", "next"),
        ("/connections?limit=1&limit=2", "limit"),
        ("/connections?order=age", "order"),
        ("/channels?sort=oldest", "sort"),
        ("/channels?next=name.0.a", "next"),
        ("/channels?channel=a", "channel"),
    ] {
        let answer = gateway.admin(path);
        assert_eq!((answer.status, &answer.json()["field"]), (400, &json!(field)), "{path}");
    }
}

/// A hub whose turns are made by hand.
struct ByHand {
    hub: std::rc::Rc<Hub>,
    streams: Vec<Opening>,
}

impl ByHand {
    fn new() -> Self {
        let flags = [("server.listen", "127.0.0.1:0"), ("admin.listen", "127.0.0.1:0")];
        let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let config = Config::load(None, std::iter::empty(), &flags).unwrap();
        let metrics = Metrics::default();
        let cells = metrics.worker();
        let broker =
            Broker::Memory(Arc::new(MemoryBroker::new(MemoryLimits::of(&config), metrics)));
        let hub = Hub::new(broker, config.stream, Arc::default(), cells).unwrap();
        ByHand { hub, streams: Vec::new() }
    }

    /// Opens a stream whose client is never let in, so it needs no socket.
    fn open(&mut self) {
        let channel = format!("c{}", self.streams.len()).parse().unwrap();
        let (about, peer) = (None, None);
        let channels = Arc::new([channel]);
        let begin = Begin::Now;
        let (checkpoints, annotate) = (true, false);
        let subscription = Subscription { channels, begin, checkpoints, annotate, about, peer };
        self.streams.push(self.hub.open(Framing::Plain, subscription));
    }

    fn turn(&self) {
        while self.hub.round(&mut Vec::new()) {}
    }
}

/// However many streams there are, a step visits a part of them, and the steps together visit each
/// stream once, also while others come and go.
#[tokio::test]
async fn a_walk_visits_every_stream_once_in_bounded_steps() {
    let mut worker = ByHand::new();
    for _ in 0..2 * STEP + 5 {
        worker.open();
    }
    let kept: BTreeSet<u32> = (1..=worker.streams.len() as u32).collect();
    let (mut from, mut seen, mut steps) = (Some(0), Vec::new(), 0);
    while let Some(at) = from {
        // Some that are younger come and go meanwhile.
        worker.open();
        worker.open();
        worker.streams.pop();
        let (answer, mut answered) = mpsc::channel(1);
        let step = StreamsStep {
            from: at,
            filter: Arc::new(StreamFilter::default()),
            sort: StreamSort::Oldest,
            after: None,
            before: None,
            most: usize::MAX,
            answer,
        };
        worker.hub.inbox().tell(ToHub::ListStreams(Box::new(step)));
        worker.turn();
        let part = answered.try_recv().expect("it is answered at once");
        assert!(part.entries.len() <= STEP, "{}", part.entries.len());
        seen.extend(part.entries.iter().map(|(key, _)| key.number));
        (from, steps) = (part.next, steps + 1);
    }
    assert!(steps >= 3, "{steps}");
    let once: BTreeSet<u32> = seen.iter().copied().collect();
    assert_eq!(once.len(), seen.len(), "none is seen twice");
    assert!(kept.is_subset(&once), "{} of {}", once.intersection(&kept).count(), kept.len());
    let (answer, mut answered) = mpsc::channel(1);
    let step = ChannelsStep { from: 0, prefix: "c".into(), answer };
    worker.hub.inbox().tell(ToHub::ListChannels(step));
    worker.turn();
    let part = answered.try_recv().expect("it is answered at once");
    assert_eq!((part.entries.len(), part.next), (STEP, Some(STEP)));
}
