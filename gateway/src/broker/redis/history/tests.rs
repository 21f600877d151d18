//! Who shares which read, without a Redis.

use std::time::Duration;

use super::*;
use crate::feed::frame::Frame;
use crate::feed::inbox::ReadToken;
use crate::feed::snapshot::Extent;

fn channel() -> Channel {
    "a".parse().unwrap()
}

fn id(ms: u64) -> EventId {
    EventId::new(ms, 7, 0)
}

/// A request for channel `a` by the connection of this number.
fn of(connection: u64, after: u64) -> ReadRequest {
    ReadRequest {
        partition: 0,
        worker: 0,
        token: ReadToken { connection, number: 0 },
        channels: [channel()].into(),
        after: id(after),
        youngest: EventId::ZERO,
        extents: [Extent::All].into_iter().collect(),
        epoch: Some(7),
    }
}

fn request(after: u64) -> HistoryRequest {
    HistoryRequest::Read(of(after, after))
}

/// Reads of a gateway with one worker, and the worker's inbox.
fn reads() -> (Reads, Arc<Inbox>) {
    let (mut reads, inbox) = (Reads::new(0, 1), Inbox::new(1000));
    reads.hear(HistoryRequest::Register(inbox.clone()));
    (reads, inbox)
}

/// The connections that were answered since, in order, and whether from a cached page.
fn answered(inbox: &Inbox) -> Vec<(u64, bool)> {
    let mut messages = Vec::new();
    while inbox.take(&mut messages) {}
    let connections = |message: &ToHub| match message {
        ToHub::Snapshot { tokens, cached, .. } => {
            tokens.iter().map(|token| (token.connection, *cached)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    messages.iter().flat_map(connections).collect()
}

/// A snapshot of channel `a`, read above `after` when the clock stood at `clock`.
fn page(after: u64, clock: u64) -> Snapshot {
    let frames = [Frame::event(&channel(), id(clock), "", "x")].into();
    let unread = Range::unreadable(id(after), Extent::All);
    let range = Range { frames, readable: true, ..unread };
    Snapshot {
        clock: id(clock),
        now_ms: clock,
        history: true,
        ttl_ms: 1000,
        ranges: HashMap::from([(channel(), vec![range])]),
    }
}

/// Otherwise a connection at the page's clock would get the same page for ever: the page that
/// makes it live must be read after it asked.
#[test]
fn a_page_of_before_serves_nobody_who_has_come_to_its_clock() {
    let (mut reads, _inbox) = reads();
    let now = Instant::now();
    reads.hear(request(10));
    reads.answered(page(10, 50), now);
    assert!(reads.is_idle());
    reads.hear(request(30));
    reads.serve_cached(now);
    assert!(reads.is_idle());
    reads.hear(request(50));
    reads.serve_cached(now);
    assert!(!reads.is_idle());
    reads.answered(page(50, 50), now);
    assert!(reads.is_idle());
}

#[test]
fn connections_at_one_position_share_a_read_and_a_newer_request_replaces_the_older() {
    let (mut reads, inbox) = reads();
    for request in [of(1, 10), of(2, 10), of(3, 20), of(3, 10)] {
        reads.hear(HistoryRequest::Read(request));
    }
    let plan = reads.plan();
    assert_eq!(plan.len(), 1, "{plan:?}");
    assert_eq!(plan[0].after, id(10));
    reads.answered(page(10, 50), Instant::now());
    assert_eq!(answered(&inbox), [(1, false), (2, false), (3, false)]);
    assert!(reads.is_idle());
}

#[test]
fn a_page_serves_whoever_is_within_it_and_leaves_the_others_waiting() {
    let (mut reads, inbox) = reads();
    for request in [of(1, 5), of(2, 10), of(3, 30)] {
        reads.hear(HistoryRequest::Read(request));
    }
    reads.answered(page(10, 50), Instant::now());
    assert_eq!(answered(&inbox), [(2, false), (3, false)]);
    assert_eq!(reads.plan()[0].after, id(5));
}

/// Its page would be of a time at which others' events were not excused yet, or of other data.
#[test]
fn a_cached_page_serves_nobody_of_another_epoch_or_who_has_seen_a_younger_one() {
    let (mut reads, inbox) = reads();
    let now = Instant::now();
    reads.hear(HistoryRequest::Read(of(1, 10)));
    reads.answered(page(10, 50), now);
    answered(&inbox);
    reads.hear(HistoryRequest::Read(ReadRequest { epoch: Some(8), ..of(2, 10) }));
    reads.hear(HistoryRequest::Read(ReadRequest { epoch: None, ..of(3, 10) }));
    reads.hear(HistoryRequest::Read(ReadRequest { youngest: id(51), ..of(4, 10) }));
    reads.hear(HistoryRequest::Read(ReadRequest { youngest: id(50), ..of(5, 10) }));
    reads.serve_cached(now);
    assert_eq!(answered(&inbox), [(5, true)]);
    // A page is cached for a while only.
    reads.hear(HistoryRequest::Read(of(6, 10)));
    reads.serve_cached(now + cache::KEPT + Duration::from_millis(1));
    assert_eq!(answered(&inbox), []);
    // The first page of another epoch makes all before useless.
    reads.answered(Snapshot { clock: EventId::new(60, 8, 0), ..page(10, 60) }, now);
    assert_eq!(reads.cache.young(now).len(), 1);
}

#[test]
fn a_position_above_the_clock_is_answered_by_a_fresh_read_alone() {
    let (mut reads, inbox) = reads();
    let now = Instant::now();
    reads.hear(HistoryRequest::Read(of(1, 10)));
    reads.answered(page(10, 50), now);
    reads.hear(HistoryRequest::Read(of(2, 70)));
    answered(&inbox);
    reads.serve_cached(now);
    assert_eq!(answered(&inbox), []);
    reads.answered(page(10, 50), now);
    assert_eq!(answered(&inbox), [(2, false)]);
}

#[test]
fn one_read_is_bounded_but_serves_the_oldest_request_whole() {
    let (mut reads, _inbox) = reads();
    (0..10).for_each(|n| reads.hear(HistoryRequest::Read(of(n, n))));
    assert_eq!(reads.plan().len(), POSITIONS, "positions of one channel");
    let wide = |connection: u64, channels: usize| {
        let channels: Vec<Channel> =
            (0..channels).map(|n| format!("{connection}-{n}").parse().unwrap()).collect();
        let extents = channels.iter().map(|_| Extent::All).collect();
        HistoryRequest::Read(ReadRequest {
            channels: channels.into(),
            extents,
            ..of(connection, 1)
        })
    };
    let mut reads = Reads::new(0, 1);
    reads.hear(wide(1, RANGES + 10));
    reads.hear(wide(2, 1));
    assert_eq!(reads.plan().len(), RANGES + 10);
    let mut reads = Reads::new(0, 1);
    (0..3).for_each(|n| reads.hear(wide(n, RANGES / 2)));
    assert_eq!(reads.plan().len(), RANGES);
}
