//! Benchmarks each step of the gateway's work for an event:   make microbench [ARGS=pattern]
//!
//! The times depend on the machine; `scripts/instructions` counts instructions, which hardly do.
//! The crate in `bench/` measures whole gateways under load.

mod worker;

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, Divan, black_box};
use sse_contract::{Channel, EventId, decode_live, encode_live};
use sse_gateway::broker::redis::resp;
use sse_gateway::feed::frame::Frame;
use sse_gateway::feed::snapshot::{Extent, Range, Snapshot};
use sse_gateway::stream::join::{Join, Limits, Next, Start};
use worker::{DATA, Worker};

fn main() {
    Divan::default().min_time(Duration::from_secs(1)).config_with_args().main();
}

/// The n-th id of an epoch that began in 2023.
fn id(n: u64) -> EventId {
    EventId::new(1_700_000_000_000 + n, 7, 0)
}

/// The data to encode. divan shows the variants' names.
#[derive(Debug)]
enum Data {
    Short,
    Long,
    ShortLines,
    LongLines,
}

impl Data {
    const ALL: [Data; 4] = [Data::Short, Data::Long, Data::ShortLines, Data::LongLines];

    fn text(&self) -> String {
        let line = format!("{}\r\n", "x".repeat(38));
        match self {
            Data::Short => "x".repeat(DATA),
            Data::Long => "x".repeat(64 * 1024),
            Data::ShortLines => line.repeat(DATA / line.len()),
            Data::LongLines => line.repeat(64 * 1024 / line.len()),
        }
    }
}

/// Encodes an event into the bytes that all subscribers share, and frees them. The data has 200
/// bytes or 64 KB, in one line or in lines of 40 bytes.
#[divan::bench(args = Data::ALL)]
fn encode(bencher: Bencher, data: &Data) {
    let (channel, text) = (worker::channel(0), data.text());
    bencher
        .counter(BytesCount::of_str(&text))
        .bench(|| drop(black_box(Frame::event(&channel, id(1), "", black_box(&text)))));
}

/// The ingest's first step: splits a published message into id, type and data, without copying.
#[divan::bench(args = [DATA, 64 * 1024])]
fn decode(bencher: Bencher, size: usize) {
    let live = encode_live(id(1), "tick", "x".repeat(size).as_bytes());
    bencher.counter(BytesCount::new(live.len())).bench(|| black_box(decode_live(black_box(&live))));
}

/// Parses the 100 messages that one read of the ingest's connection returned. Each message
/// allocates one list.
#[divan::bench]
fn parse_100_pushes(bencher: Bencher) {
    let live = encode_live(id(1), "tick", "x".repeat(DATA).as_bytes());
    let mut push = b">3\r\n$7\r\nmessage\r\n$13\r\nsse:live:demo\r\n".to_vec();
    push.extend_from_slice(format!("${}\r\n", live.len()).as_bytes());
    push.extend_from_slice(&live);
    push.extend_from_slice(b"\r\n");
    let buffer = push.repeat(100);
    bencher.counter(ItemsCount::new(100_usize)).bench(|| {
        let mut used = 0;
        while let Ok(Some((value, length))) = resp::parse(black_box(&buffer[used..])) {
            black_box(value);
            used += length;
        }
        assert_eq!(used, buffer.len());
    });
}

/// A client that missed 10,000 events joins. Measures how the join hands out 100 pages of 100
/// events each, by reference, without the writes.
#[divan::bench]
fn join_100_pages(bencher: Bencher) {
    let channels = [worker::channel(0)];
    let clock = id(100 * 100);
    let pages: Vec<Snapshot> = (0..100).map(|n| page(&channels[0], n, clock)).collect();
    let limits = Limits { live_events: 256, live_bytes: 256 * 1024 };
    let mut items = Vec::new();
    bencher.counter(ItemsCount::new(100_usize * 100)).bench_local(|| {
        let mut join = Join::new(Start::After(id(0)), limits);
        let mut next = join.attached(&mut Vec::new());
        let mut handed_out = 0;
        for page in &pages {
            next = join.snapshot(page, &channels, Some(clock), false, 256 * 1024, &mut items);
            handed_out += items.len();
            items.clear();
        }
        assert_eq!((next, handed_out), (Next::Live(clock), 100 * 100));
    });
}

/// The n-th page of 100 events. Only the last page reaches the clock.
fn page(channel: &Channel, n: u64, clock: EventId) -> Snapshot {
    let frame = |m| Frame::event(channel, id(100 * n + m), "", &"x".repeat(DATA));
    let upto = id(100 * (n + 1));
    let range = Range {
        after: id(100 * n),
        upto: (upto < clock).then_some(upto),
        last: Some(clock),
        oldest: Some(id(1)),
        length: 100 * 100,
        untrimmed: true,
        frames: (1..=100).map(frame).collect(),
        extent: Extent::All,
        readable: true,
    };
    Snapshot {
        clock,
        now_ms: clock.ms,
        history: true,
        ttl_ms: 3_600_000,
        ranges: HashMap::from([(channel.clone(), vec![range])]),
    }
}

/// Sends one event to every subscriber of one channel, from its publication until the last
/// subscriber can read it. Most of the time is the kernel's, for one `send` per subscriber.
#[divan::bench(args = [100, 1000], sample_size = 1)]
fn round_of_one_event(bencher: Bencher, subscribers: usize) {
    round(bencher, subscribers, 1, 1);
}

/// Sends 32 events that arrived together. This still takes one `send` per subscriber.
#[divan::bench(args = [100, 1000], sample_size = 1)]
fn round_of_32_events(bencher: Bencher, subscribers: usize) {
    round(bencher, subscribers, 32, 1);
}

/// Sends one event when every subscriber has 20 channels.
#[divan::bench(args = [100, 1000], sample_size = 1)]
fn round_of_one_event_with_20_channels(bencher: Bencher, subscribers: usize) {
    round(bencher, subscribers, 1, 20);
}

/// Sends 32 events that arrived together, spread over the subscribers' 20 channels.
#[divan::bench(args = [100, 1000], sample_size = 1)]
fn round_of_32_events_with_20_channels(bencher: Bencher, subscribers: usize) {
    round(bencher, subscribers, 32, 20);
}

/// Measures rounds of the same events. The subscribers' sockets are read between the rounds, so
/// that reading is not measured.
fn round(bencher: Bencher, subscribers: usize, events: usize, channels: usize) {
    let worker = Worker::new();
    let (sockets, clients): (Vec<OwnedFd>, Vec<UnixStream>) = (0..subscribers).map(pair).unzip();
    worker.open(sockets, channels);
    read_all(&clients);
    worker.rest();
    let items = worker::events(events, channels);
    let last = clients.last().expect("a subscriber");
    let arrived = || rustix::io::ioctl_fionread(last).is_ok_and(|n| n >= (events * DATA) as u64);
    let mut read = 0;
    bencher
        .counter(ItemsCount::new(subscribers * events))
        .with_inputs(|| {
            read += read_all(&clients);
            worker.rest();
        })
        .bench_local_values(|()| worker.round(&items, arrived));
    read += read_all(&clients);
    assert_eq!(worker.delivered() % (subscribers * events) as u64, 0, "whole rounds");
    // `>=`, because heartbeats may have arrived too.
    assert!(read as u64 >= worker.delivered() * DATA as u64, "all of it arrived");
}

/// A socket pair: the worker's end and the client's end, both non-blocking.
fn pair(_: usize) -> (OwnedFd, UnixStream) {
    let (server, client) = UnixStream::pair().expect("a socket pair");
    for end in [&server, &client] {
        end.set_nonblocking(true).expect("a socket's mode");
    }
    (server.into(), client)
}

/// Reads everything that the sockets hold and returns the number of bytes.
fn read_all(clients: &[UnixStream]) -> usize {
    let mut scrap = [0; 16 * 1024];
    let mut sum = 0;
    for mut client in clients {
        loop {
            match client.read(&mut scrap) {
                Ok(0) => panic!("the worker closed a stream"),
                Ok(n) => sum += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("a client cannot read: {error}"),
            }
        }
    }
    sum
}
