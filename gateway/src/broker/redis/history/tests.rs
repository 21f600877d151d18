//! Who shares which read, and what is made of Redis' answer, without a Redis.

use super::*;
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
    let (mut reads, inbox) = (Reads::new(0), Inbox::new(1000));
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
    reads.serve_cached(now + CACHE_TIME + Duration::from_millis(1));
    assert_eq!(answered(&inbox), []);
    // The first page of another epoch makes all before useless.
    reads.answered(Snapshot { clock: EventId::new(60, 8, 0), ..page(10, 60) }, now);
    assert_eq!(reads.cache.snapshots.len(), 1);
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
    let mut reads = Reads::new(0);
    reads.hear(wide(1, RANGES + 10));
    reads.hear(wide(2, 1));
    assert_eq!(reads.plan().len(), RANGES + 10);
    let mut reads = Reads::new(0);
    (0..3).for_each(|n| reads.hear(wide(n, RANGES / 2)));
    assert_eq!(reads.plan().len(), RANGES);
}

#[test]
fn the_cache_is_bounded_in_bytes() {
    let mut cache = Cache::new(CACHE_BYTES);
    let now = Instant::now();
    let frames: Arc<[_]> =
        [Frame::event(&channel(), id(5), "", &"x".repeat(CACHE_BYTES / 3))].into();
    for _ in 0..5 {
        let mut page = page(1, 50);
        page.ranges.values_mut().flatten().for_each(|range| range.frames = frames.clone());
        cache.add(Arc::new(page), now);
    }
    assert_eq!(cache.young(now).len(), 2);
    assert!(cache.bytes <= CACHE_BYTES);
    cache.add(Arc::new(Snapshot { ranges: HashMap::new(), ..page(1, 50) }), now);
    assert_eq!(cache.young(now).len(), 2, "an empty page is of no use to anybody");
    assert_eq!(cache.young(now + CACHE_TIME * 2).len(), 0);
    assert_eq!(cache.bytes, 0);
}

/// One channel's trouble is not the others'.
#[test]
fn a_range_that_cannot_be_read_is_told_and_the_others_are_there() {
    let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
    let entries = |id: &str| Value::Array(vec![text(id), text("data"), text("")]);
    let range = |entries| {
        let numbers = [text("60-458752"), text("50-458752"), Value::Int(2), Value::Int(1)];
        Value::Array([&numbers[..], &[Value::Int(0), entries]].concat())
    };
    let parts: Vec<Part> = ["good", "refused", "odd", "foreign"]
        .map(|name| Part { channel: name.parse().unwrap(), after: id(1), newest: false })
        .into();
    let answer = Value::Array(vec![
        text("70-458752"),
        Value::Int(70),
        Value::Int(1000),
        Value::Int(5000),
        range(entries("60-458752")),
        Value::Array(vec![text("WRONGTYPE")]),
        Value::Int(5),
        range(entries("x")),
    ]);
    let mut told = Vec::new();
    let read = snapshot(&parts, answer.clone(), |channel, why| {
        told.push(format!("{channel}: {why}"));
    });
    let read = read.unwrap();
    let (clock, history, ttl) = (read.clock, read.history, read.ttl_ms);
    assert_eq!((clock, history, ttl), (EventId::new(70, 7, 0), true, 5000));
    let readable = |part: &Part| read.ranges[&part.channel][0].readable;
    assert_eq!(parts.iter().map(readable).collect::<Vec<_>>(), [true, false, false, false]);
    let good = &read.ranges[&parts[0].channel][0];
    assert_eq!((good.frames.len(), good.untrimmed, good.upto), (1, false, None));
    assert_eq!(
        told,
        [
            "refused: WRONGTYPE",
            "odd: sse_read answered a range otherwise",
            "foreign: it holds x, which is no event's id"
        ]
    );
    // Without its head, or with too few ranges, the whole answer is of no use.
    let Value::Array(whole) = answer else { unreachable!() };
    for short in [&whole[..3], &whole[..6]] {
        assert!(snapshot(&parts, Value::Array(short.to_vec()), |_, _| {}).is_none());
    }
    assert!(snapshot(&parts, Value::Nil, |_, _| {}).is_none());
}

/// Waits as the pace says before each of so many reads, which take this long. Returns the time spent
/// waiting.
fn waited(pace: &mut Pace, reads: u32, took: Duration, full: bool) -> Duration {
    let (mut now, mut waited) = (pace.since, Duration::ZERO);
    for _ in 0..reads {
        let wait = pace.turn(now);
        waited += wait;
        now += wait + took;
        if full {
            pace.was_full(took);
        }
    }
    waited
}

#[test]
fn reads_are_paced_unless_they_are_full() {
    let pace = || Pace::new(PAGE_BYTES);
    let ms = Duration::from_millis;
    assert_eq!(waited(&mut pace(), 16, ms(1), false), Duration::ZERO);
    let long = waited(&mut pace(), 116, ms(1), false);
    assert!((ms(1_850)..ms(2_000)).contains(&long), "{long:?}");
    // Each waits as long as the one before took.
    let mut spent = pace();
    waited(&mut spent, 16, ms(0), false);
    let long = waited(&mut spent, 100, ms(1), true);
    assert!((ms(90)..ms(125)).contains(&long), "{long:?}");
    // A read that takes long is paced as others.
    let mut spent = pace();
    waited(&mut spent, 16, ms(0), false);
    assert!(waited(&mut spent, 100, ms(15), true) >= ms(450));
}
