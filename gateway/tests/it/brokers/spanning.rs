//! Streams whose channels are of several partitions.

use sse_contract::{Channel, Cursor, EventId, Keys};

use crate::support::{Block, Redis, Subscriber, TestGateway, eventually};

const P: u16 = 4;
const PARTITIONS: (&str, &str) = ("redis.partitions", "4");

/// A channel of each partition, by the partition's number.
pub fn channels() -> Vec<String> {
    channels_of(P)
}

/// A channel of each of so many partitions.
pub fn channels_of(partitions: u16) -> Vec<String> {
    let keys = Keys::new("sse", partitions);
    let of = |partition| {
        let mut names = (0..).map(|n| format!("c{n}"));
        names.find(|name| keys.partition(name) == partition).expect("there are enough names")
    };
    (0..partitions).map(of).collect()
}

/// A query for these channels.
pub fn query(channels: &[String]) -> String {
    let pairs: Vec<String> = channels.iter().map(|channel| format!("channel={channel}")).collect();
    pairs.join("&")
}

/// The positions in a block's id, by partition.
pub fn positions(block: &Block) -> Vec<Option<EventId>> {
    match block.id.parse() {
        Ok(Cursor::Several(positions)) => (0..P).map(|p| positions.of(p)).collect(),
        other => panic!("{other:?} in {block:?}"),
    }
}

/// The next block of this kind.
fn next_of(subscriber: &mut Subscriber, kind: &str) -> Block {
    loop {
        let block = subscriber.next();
        if block.event == kind {
            return block;
        }
    }
}

fn id(text: &str) -> EventId {
    text.parse().unwrap()
}

#[test]
fn a_stream_over_partitions_hears_each_and_carries_its_position_in_each() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    let channels = channels();
    let mut subscriber = gateway.subscribe(&query(&channels[1..]));
    let opening = subscriber.opening();
    assert_eq!((&*opening.event, &*opening.data), ("checkpoint", r#"{"from":"now"}"#));
    let mut at = positions(&opening);
    assert!(at[0].is_none() && at[1..].iter().all(Option::is_some), "{at:?}");
    for n in 0..30 {
        let partition = [1, 2, 3, 2, 1][n % 5];
        let published = gateway.publish(&channels[partition], &n.to_string());
        let block = subscriber.event();
        assert_eq!(
            (block.data.clone(), positions(&block)[partition]),
            (n.to_string(), Some(id(&published)))
        );
        let now = positions(&block);
        assert!((1..4).all(|p| now[p] >= at[p]), "no position goes back");
        at = now;
    }
    drop(subscriber);
    gateway.settled();
}

/// Each event comes once after any block that the client comes back with.
#[test]
fn a_client_resumes_in_each_partition_where_it_was() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    let channels = channels();
    let query = query(&channels);
    let mut subscriber = gateway.subscribe(&query);
    let mut ids = vec![subscriber.opening().id];
    for n in 0..12 {
        gateway.publish(&channels[n % 4], &n.to_string());
        ids.push(subscriber.event().id);
    }
    let mut open = Vec::new();
    for (had, cursor) in ids.iter().enumerate() {
        let mut resumed = Subscriber::open(gateway.addr, &query, &[("Last-Event-ID", cursor)]);
        let opening = resumed.opening();
        assert_eq!(opening.data, format!(r#"{{"from":"{cursor}"}}"#));
        let mut rest: Vec<usize> =
            (had..12).map(|_| resumed.event().data.parse().expect("a number")).collect();
        let of = |partition| rest.iter().copied().filter(move |n| n % 4 == partition);
        assert!((0..4).all(|p| of(p).is_sorted()), "in the order of its partition: {rest:?}");
        rest.sort_unstable();
        assert_eq!(rest, (had..12).collect::<Vec<_>>());
        open.push(resumed);
    }
    let mut oldest = Subscriber::open(gateway.addr, &format!("{query}&last_event_id=0"), &[]);
    oldest.opening();
    let mut all: Vec<usize> = (0..12).map(|_| oldest.event().data.parse().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..12).collect::<Vec<_>>());
    open.push(oldest);
    for (n, channel) in channels.iter().enumerate() {
        gateway.publish(channel, &format!("live {n}"));
        open.iter_mut().for_each(|s| assert_eq!(s.event().data, format!("live {n}")));
    }
}

#[test]
fn a_cursor_of_other_partitions_is_told() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    let channels = channels();
    let all = query(&channels);
    let cursor = gateway.subscribe(&query(&channels[..2])).opening().id;
    // Two of these partitions are new to the client.
    let mut wider = Subscriber::open(gateway.addr, &all, &[("Last-Event-ID", &cursor)]);
    for _ in 0..2 {
        let gap = wider.next();
        assert!(gap.data.contains(r#""reason":"late""#), "{gap:?}");
        assert!(positions(&gap).iter().all(Option::is_some));
    }
    wider.opening();
    // The number of partitions was another one.
    let other =
        Cursor::Several(sse_contract::Positions::new(8, [(0, id("5-65536")), (1, id("5-65536"))]));
    let cursor = other.to_string();
    let mut moved = Subscriber::open(gateway.addr, &all, &[("Last-Event-ID", &cursor)]);
    let gap = next_of(&mut moved, "gap");
    assert!(gap.data.contains(r#""reason":"unknown_id""#) && gap.data.contains(&cursor), "{gap:?}");
    assert_eq!(moved.opening().data, r#"{"from":"now"}"#, "the gap is told once");
    // An id of one partition means nothing in the others, and its epoch shows that.
    let published = gateway.publish(&channels[1], "x");
    let mut from_one = Subscriber::open(gateway.addr, &all, &[("Last-Event-ID", &published)]);
    for _ in 0..3 {
        let gap = next_of(&mut from_one, "gap");
        assert!(gap.data.contains(r#""reason":"reset""#), "{gap:?}");
        let told: serde_json::Value = serde_json::from_str(&gap.data).unwrap();
        let named = told["channels"].as_array().expect("the channels are named");
        assert!(named.len() == 1 && named[0] != channels[1], "{told}");
    }
    gateway.publish(&channels[1], "y");
    assert_eq!(from_one.event().data, "y");
}

#[test]
fn channels_with_a_tag_are_of_one_partition_and_have_short_ids() {
    let redis = Redis::start();
    let gateway = TestGateway::redis(&redis, &[PARTITIONS]);
    let mut subscriber = gateway.live("channel=%7Buser:7%7D:mail&channel=%7Buser:7%7D:chat");
    let mail: Channel = "{user:7}:mail".parse().unwrap();
    let published = gateway.publish(mail.as_str(), "x");
    assert_eq!(subscriber.event().id, published);
}

/// The heartbeat moves the position in every partition, and so does a busy one's event.
#[test]
fn quiet_partitions_keep_a_young_position() {
    let redis = Redis::start();
    let quick = [PARTITIONS, ("stream.heartbeat", "1s"), ("redis.tick", "100ms")];
    let gateway = TestGateway::redis(&redis, &quick);
    let channels = channels();
    let mut subscriber = gateway.subscribe(&query(&channels));
    let first = positions(&subscriber.opening());
    let moved = |now: &[Option<EventId>]| now.iter().zip(&first).all(|(now, first)| now > first);
    let beat = next_of(&mut subscriber, "checkpoint");
    assert!(beat.data.is_empty() && moved(&positions(&beat)), "{beat:?}");
    let mut last = Vec::new();
    eventually("an event moves the others' positions", || {
        gateway.publish(&channels[0], "x");
        let now = positions(&subscriber.event());
        let before = std::mem::replace(&mut last, now.clone());
        !before.is_empty() && (1..4).all(|p| now[p] > before[p])
    });
}

#[test]
fn a_slow_reader_of_several_partitions_misses_nothing() {
    let redis = Redis::start();
    let settings = [PARTITIONS, ("stream.queue_bytes", "20000"), ("stream.queue_events", "20")];
    let gateway = TestGateway::redis(&redis, &settings);
    let channels = channels();
    let mut subscriber = Subscriber::narrow(gateway.addr, &query(&channels));
    subscriber.opening();
    let data = "x".repeat(3000);
    for n in 0..800 {
        gateway.publish(&channels[n % 4], &format!("{n} {data}"));
    }
    let mut got: Vec<usize> = Vec::new();
    for _ in 0..800 {
        let block = subscriber.event();
        assert_ne!(block.event, "gap", "{block:?}");
        got.push(block.data.split(' ').next().unwrap().parse().unwrap());
    }
    for partition in 0..4 {
        let of: Vec<usize> = got.iter().copied().filter(|n| n % 4 == partition).collect();
        assert_eq!(of, (partition..800).step_by(4).collect::<Vec<_>>());
    }
}

#[test]
fn more_partitions_than_a_cursor_has_room_for_are_refused() {
    let redis = Redis::start();
    let gateway =
        TestGateway::redis(&redis, &[("redis.partitions", "60"), ("stream.max_channels", "100")]);
    let channels = channels_of(60);
    let ask = |channels: &[String]| {
        let path = format!("/events?{}", query(channels));
        crate::support::request(gateway.addr, "HEAD", &path, &[], b"").status
    };
    assert_eq!((ask(&channels[..44]), ask(&channels[..45])), (200, 400));
    gateway.subscribe(&query(&channels[..44])).opening();
}
