//! The load, the publishers and the floor in one process: the load counts exactly what is
//! published.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sse_bench::floor::Floor;
use sse_bench::load::{Load, Plan};
use sse_bench::publish::{self, Channels, Pace, Publishers, Route, StampAt};

/// The longest wait. If it is exceeded, something is broken, not slow.
const BOUND: Duration = Duration::from_secs(60);
const STREAMS: usize = 20;

fn floor(threads: usize) -> Floor {
    Floor::start(SocketAddr::from(([127, 0, 0, 1], 0)), threads).unwrap()
}

fn load(floor: &Floor, adjust: impl FnOnce(&mut Plan)) -> Load {
    let mut plan = Plan::new(floor.addr(), STREAMS, "/events?n={n}");
    plan.first = Some(1);
    adjust(&mut plan);
    let load = Load::start(plan).unwrap();
    let opened = load.open(BOUND);
    assert_eq!((opened.open, opened.failed, opened.error), (STREAMS, 0, None));
    load.begin();
    load
}

fn publish(floor: &Floor, publishers: u32, batches: u64) -> publish::Published {
    let plan = publish::Plan {
        addr: floor.addr(),
        route: Route::Post { path: "/channels/{c}".to_owned() },
        publishers,
        pace: Pace::Saturate,
        channels: Channels::One("x".to_owned()),
        size: 200,
        stamp: StampAt::Sent,
        batches: Some(batches),
    };
    Publishers::start(&plan).finish()
}

#[test]
fn every_event_reaches_every_stream_once() {
    let floor = floor(2);
    let load = load(&floor, |_| {});
    let published = publish(&floor, 2, 100);
    assert_eq!((published.events, published.failed, &published.error), (200, 0, &None));
    assert_eq!(published.last, [(0, 100), (1, 100)]);

    let settled = load.settle(published.expected(), BOUND);
    assert_eq!((settled.connections, settled.behind), (STREAMS, 0));
    assert_eq!((settled.lost, settled.duplicated, settled.out_of_order), (0, 0, 0));
    let readers = load.end().readers;
    assert_eq!((readers.connections, readers.events), (STREAMS, STREAMS as u64 * 200));
    assert!(readers.latency.max > 0.0 && readers.latency.p50 <= readers.latency.max);
    assert_eq!(floor.dropped(), 0);
}

#[test]
fn the_stalled_read_nothing_until_they_are_resumed() {
    let floor = floor(1);
    let load = load(&floor, |plan| plan.stalled = 0.1);
    let published = publish(&floor, 1, 50);

    let settled = load.settle(published.expected(), BOUND);
    assert_eq!((settled.connections, settled.behind, settled.lost), (STREAMS - 2, 0, 0));
    assert_eq!(load.end().stalled.events, 0);

    load.resume();
    let settled = load.settle(published.expected(), BOUND);
    assert_eq!((settled.connections, settled.behind, settled.lost), (STREAMS, 0, 0));
    let measured = load.end();
    assert_eq!((measured.readers.connections, measured.stalled.connections), (STREAMS - 2, 2));
    assert_eq!(measured.stalled.events, 100);
}

#[test]
fn what_does_not_come_is_lost() {
    let floor = floor(1);
    let load = load(&floor, |_| {});
    let mut published = publish(&floor, 1, 10);
    published.last[0].1 += 3;
    // Long enough for the events that do arrive: the floor answers a publisher after the last
    // write.
    let settled = load.settle(published.expected(), Duration::from_secs(1));
    assert_eq!((settled.behind, settled.lost), (STREAMS, 3 * STREAMS as u64));
}

#[test]
fn a_server_that_ends_is_noticed() {
    let floor = floor(2);
    let load = load(&floor, |_| {});
    drop(floor);
    let end = Instant::now() + BOUND;
    while load.end().readers.closed < STREAMS as u64 {
        assert!(Instant::now() < end, "streams stay open");
        std::thread::yield_now();
    }
    assert_eq!(load.end().readers.connections, 0);
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let nobody = floor(1).addr();
    let load = Load::start(Plan::new(nobody, 3, "/")).unwrap();
    let opened = load.open(BOUND);
    assert_eq!((opened.open, opened.failed), (0, 3));
    assert!(opened.error.is_some_and(|error| error.starts_with("connect")));
}
