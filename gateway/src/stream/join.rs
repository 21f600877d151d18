//! How one connection gets from its position to the live events without a silent loss.
//!
//! A state machine without I/O: its caller tells it what happened, and it returns what to send and
//! what to ask for. It knows neither Redis nor sockets. The same machine serves a client that
//! reconnects, a reader that fell behind, and a gateway that lost its broker; they differ only in
//! where they start.
//!
//! It promises that the events it hands out have strictly rising ids, and that none is missing
//! between the starting position and the last one unless a gap was handed out before. Its memory is
//! bounded: it keeps live events up to a limit during the join; beyond that it drops them and reads
//! them from history.

use std::collections::VecDeque;

use sse_contract::{Channel, EventId};

pub use crate::stream::account::Output;

use crate::feed::frame::SharedFrame;
use crate::feed::gap::{After, GapReason};
use crate::feed::snapshot::{Extent, Snapshot};
use crate::stream::account::Account;

/// Where a client wants its stream to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// At the next event published.
    Now,
    /// At the oldest event kept.
    Oldest,
    /// After the event with this id.
    After(EventId),
    /// The client named something that is no event id. This is what it sent, shortened.
    Unknown(Box<str>),
}

/// What the caller must do next for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until something happens.
    Wait,
    /// Ask the broker for a tick.
    Tick,
    /// Read history after this position, as soon as the outbox has room for it.
    Read(EventId),
    /// End the join, and send live events above this position.
    Live(EventId),
}

/// Bounds on the live events that a join keeps while it reads history.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many events it keeps.
    pub live_events: usize,
    /// How many bytes of events it keeps.
    pub live_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Some channels are not attached, so events published now may not arrive. Nothing is read yet.
    Attaching,
    /// Waits for a tick: for a first position, or because a read saw a newer epoch than the live
    /// side.
    Ticking,
    /// Waits for the answer to a read.
    Reading,
    /// Has its first position, and waits until the stream is open.
    Opening,
}

/// The state of a connection that is not live.
#[derive(Debug)]
pub struct Join {
    phase: Phase,
    start: Start,
    /// What the client has and was told. Without meaning while `start` is not `After`.
    account: Account,
    live: VecDeque<SharedFrame>,
    live_bytes: usize,
    overflowed: bool,
    limits: Limits,
    /// The clock of the youngest page so far. An older page may hold events that are already
    /// excused; if they were handed out, the loss of the events after them would go unnoticed.
    youngest: EventId,
    /// Marks the channels that send only their newest event until the connection is live. Mostly
    /// empty.
    conflated: Vec<bool>,
    /// The opening checkpoint was not handed out yet.
    unopened: bool,
    /// The client was let in before the stream had a position, so events published since may be
    /// missing.
    late: bool,
    /// The connection was live before.
    was_live: bool,
    /// The stream has other strands, and is not open before each has a position. Until then this
    /// one does not go live.
    held_back: bool,
}

impl Join {
    /// Creates a join from what the client asked for. It waits until its channels are attached.
    pub fn new(start: Start, limits: Limits) -> Self {
        let position = if let Start::After(id) = start { id } else { EventId::ZERO };
        Join {
            phase: Phase::Attaching,
            start,
            account: Account::after(position),
            live: VecDeque::new(),
            live_bytes: 0,
            overflowed: false,
            limits,
            youngest: EventId::ZERO,
            conflated: Vec::new(),
            unopened: true,
            late: false,
            was_live: false,
            held_back: false,
        }
    }

    /// A join that does not go live before [`Join::open`].
    pub fn held_back(self) -> Self {
        Join { held_back: true, ..self }
    }

    /// The stream is open.
    pub fn open(&mut self, out: &mut Vec<Output>) -> Next {
        self.held_back = false;
        if self.phase != Phase::Opening {
            return Next::Wait;
        }
        if std::mem::take(&mut self.overflowed) {
            return self.read();
        }
        self.go_live(self.account.position(), out)
    }

    /// Creates a join for a connection that was live up to `position`.
    pub fn resumed(position: EventId, limits: Limits) -> Self {
        let account = Account::resumed(position);
        Join {
            account,
            unopened: false,
            was_live: true,
            ..Join::new(Start::After(position), limits)
        }
    }

    /// Whether the join reads history, and does not only wait for its first position.
    pub fn replays(&self) -> bool {
        matches!(self.start, Start::Oldest | Start::After(_))
    }

    /// Notes that the client is let in before the stream has a position.
    pub fn late(&mut self) {
        self.late = true;
    }

    /// Marks channels, one mark each, that send only their newest event until the connection is
    /// live.
    pub fn conflating(self, conflated: Vec<bool>) -> Self {
        Join { conflated, ..self }
    }

    /// Everything at or below this was handed out or told missing; `None` while the join has no
    /// position.
    pub fn position(&self) -> Option<EventId> {
        let known = matches!(self.start, Start::After(_)).then(|| self.account.position());
        known.filter(|position| *position > EventId::ZERO)
    }

    /// Whether the connection was live before.
    pub fn was_live(&self) -> bool {
        self.was_live
    }

    /// The lowest clock that a cached page may have.
    pub fn youngest(&self) -> EventId {
        self.youngest
    }

    /// Which part of the n-th channel's history the join reads.
    pub fn extent(&self, n: usize) -> Extent {
        extent(&self.conflated, n)
    }

    /// Every channel is attached: from now on no live event is missed.
    pub fn attached(&mut self, out: &mut Vec<Output>) -> Next {
        if self.phase != Phase::Attaching {
            return Next::Wait;
        }
        match self.start {
            Start::Now | Start::Unknown(_) => {
                self.phase = Phase::Ticking;
                Next::Tick
            }
            Start::Oldest => self.read(),
            Start::After(_) => {
                if std::mem::take(&mut self.unopened) {
                    self.account.resume(out);
                }
                self.read()
            }
        }
    }

    /// The live side is lost. Events may be missing after the kept ones, so those are dropped.
    pub fn detached(&mut self) {
        self.phase = Phase::Attaching;
        self.drop_live();
        self.overflowed = false;
    }

    /// Events may have been missed although the channels stay attached, so one more read is due.
    /// Returns whether that is new.
    pub fn lagged(&mut self) -> bool {
        self.drop_live();
        !std::mem::replace(&mut self.overflowed, true)
    }

    /// A tick: every event at or below `clock` was dispatched.
    pub fn tick(&mut self, clock: EventId, out: &mut Vec<Output>) -> Next {
        if self.phase != Phase::Ticking {
            return Next::Wait;
        }
        let untold = match &self.start {
            Start::After(_) | Start::Oldest => return self.read(),
            Start::Now => self.late.then_some((GapReason::Late, After::Open)),
            Start::Unknown(text) => Some((GapReason::UnknownId, After::Text(text.clone()))),
        };
        self.account.begin(clock, untold, out);
        self.unopened = false;
        // The kept events are at or below the tick, so they came before "now".
        self.drop_live();
        if self.held_back {
            (self.start, self.phase) = (Start::After(clock), Phase::Opening);
            return Next::Wait;
        }
        if std::mem::take(&mut self.overflowed) {
            // Events after the tick may have been dropped as well. History has them.
            self.start = Start::After(clock);
            return self.read();
        }
        self.go_live(clock, out)
    }

    /// A live event during the join. Returns false for an event without an id: it is in no history,
    /// so the connection misses it.
    pub fn live(&mut self, frame: &SharedFrame) -> bool {
        if frame.id.is_none() {
            return false;
        }
        if self.phase == Phase::Attaching || self.overflowed {
            return true;
        }
        if self.live.len() >= self.limits.live_events
            || self.live_bytes + frame.size() > self.limits.live_bytes
        {
            self.lagged();
            return true;
        }
        self.live_bytes += frame.size();
        self.live.push_back(frame.clone());
        true
    }

    /// The answer to a read that was requested after the channels were attached.
    ///
    /// A `cached` answer was read before that, for another connection. It advances this connection
    /// but never makes it live. `dispatched` is the last position that the live side has reached.
    /// `room` is how many bytes may be handed out; one event always may.
    pub fn snapshot(
        &mut self,
        snapshot: &Snapshot,
        channels: &[Channel],
        dispatched: Option<EventId>,
        cached: bool,
        room: usize,
        out: &mut Vec<Output>,
    ) -> Next {
        if self.phase != Phase::Reading {
            return Next::Wait;
        }
        let clock = snapshot.clock;
        if dispatched.is_none_or(|id| id.epoch() != clock.epoch()) {
            // The live side has not seen this epoch begin. Its events could still be of the old
            // epoch, and this page may come from a deposed master. So nothing of the page is handed
            // out.
            if cached {
                return self.read();
            }
            self.phase = Phase::Ticking;
            return Next::Tick;
        }
        if cached && clock < self.youngest {
            return self.read();
        }
        self.youngest = clock;
        if self.start == Start::Oldest {
            if !snapshot.history {
                // Begin at "now", whatever is left from before history was switched off.
                self.start = Start::Now;
                self.phase = Phase::Ticking;
                return Next::Tick;
            }
            if self.account.begin_oldest(snapshot, channels, self.late, out) {
                self.start = Start::After(EventId::ZERO);
                self.unopened = false;
            }
        }
        let conflated = &self.conflated;
        let extent = |n| extent(conflated, n);
        if !self.account.take(snapshot, channels, extent, &self.live, room, out) {
            return self.read();
        }
        if cached || self.held_back {
            return self.read();
        }
        if self.overflowed {
            self.overflowed = false;
            return self.read();
        }
        self.go_live(clock, out)
    }

    fn read(&mut self) -> Next {
        self.phase = Phase::Reading;
        let after = self.account.position();
        Next::Read(if self.start == Start::Oldest { EventId::ZERO } else { after })
    }

    fn go_live(&mut self, clock: EventId, out: &mut Vec<Output>) -> Next {
        self.account.go_live(clock, out);
        let mut seen = clock;
        for frame in std::mem::take(&mut self.live) {
            if frame.id.is_some_and(|id| id > seen) {
                seen = frame.id.unwrap_or(seen);
                out.push(Output::Frame(frame));
            }
        }
        self.live_bytes = 0;
        Next::Live(seen)
    }

    fn drop_live(&mut self) {
        self.live = VecDeque::new();
        self.live_bytes = 0;
    }
}

fn extent(conflated: &[bool], n: usize) -> Extent {
    let conflated = conflated.get(n).is_some_and(|conflated| *conflated);
    if conflated { Extent::Newest } else { Extent::All }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::feed::frame::{Began, Frame};
    use crate::feed::snapshot::Range;

    fn demo() -> Channel {
        "demo".parse().expect("a channel")
    }

    fn id(ms: u64) -> EventId {
        EventId::new(1_000_000 + ms, 7, 0)
    }

    fn channels() -> [Channel; 2] {
        ["a", "b"].map(|name| name.parse().expect("a channel"))
    }

    fn range(
        after: EventId,
        upto: Option<u64>,
        last: u64,
        oldest: Option<u64>,
        ids: &[u64],
    ) -> Range {
        Range {
            after,
            upto: upto.map(id),
            last: Some(id(last)),
            oldest: oldest.map(id),
            length: 0,
            untrimmed: false,
            frames: ids.iter().map(|n| Frame::event(&demo(), id(*n), "", "x")).collect(),
            extent: Extent::All,
            readable: true,
        }
    }

    fn snapshot(clock: u64, a: Range, b: Range) -> Snapshot {
        let [first, second] = channels();
        Snapshot {
            clock: id(clock),
            now_ms: 1_000_000 + clock,
            history: true,
            ttl_ms: 3_600_000,
            ranges: HashMap::from([(first, vec![a]), (second, vec![b])]),
        }
    }

    fn opened_from_the_oldest(late: bool, history: bool) -> (Next, Vec<Output>) {
        let limits = Limits { live_events: 64, live_bytes: 32_768 };
        let mut join = Join::new(Start::Oldest, limits);
        let mut out = Vec::new();
        if late {
            join.late();
        }
        assert_eq!(join.attached(&mut out), Next::Read(EventId::ZERO));
        // An event is left from before history was switched off.
        let [a, b] = [(); 2].map(|()| range(EventId::ZERO, None, 50, Some(50), &[50]));
        let snapshot = Snapshot { history, ..snapshot(100, a, b) };
        let next = join.snapshot(&snapshot, &channels(), Some(id(100)), false, 1 << 20, &mut out);
        match next {
            Next::Tick => (join.tick(id(100), &mut out), out),
            next => (next, out),
        }
    }

    /// Events published since the head may be gone before the first read: trimmed, expired, or
    /// never kept.
    #[test]
    fn who_is_let_in_late_is_told_also_from_the_oldest() {
        for history in [false, true] {
            let (next, out) = opened_from_the_oldest(true, history);
            assert_eq!(next, Next::Live(id(100)));
            let [Output::Gap(gap), Output::Opened(..)] = &out[..2] else { panic!("{out:?}") };
            let told = gap.reason == GapReason::Late;
            assert!(told, "{history}: {out:?}");
            let (_, out) = opened_from_the_oldest(false, history);
            assert!(matches!(out[0], Output::Opened(..)), "{history}: {out:?}");
        }
    }

    #[test]
    fn without_history_the_oldest_is_now() {
        let (next, out) = opened_from_the_oldest(false, false);
        assert_eq!(next, Next::Live(id(100)));
        assert!(matches!(out[..], [Output::Opened(at, Began::Now)] if at == id(100)), "{out:?}");
    }

    /// A worker whose inbox overflowed still gets ticks, but not the events after them.
    #[test]
    fn a_lag_before_the_first_position_is_read_up() {
        let limits = Limits { live_events: 64, live_bytes: 32_768 };
        let mut join = Join::new(Start::Now, limits);
        assert_eq!(join.attached(&mut Vec::new()), Next::Tick);
        join.lagged();
        assert_eq!(join.tick(id(100), &mut Vec::new()), Next::Read(id(100)));
    }

    /// Live events of the old epoch may be on their way, with ids above those of the new one.
    #[test]
    fn a_read_of_an_epoch_that_the_live_side_has_not_seen_makes_nobody_live() {
        let limits = Limits { live_events: 64, live_bytes: 32_768 };
        let mut join = Join::resumed(id(5), limits);
        assert_eq!(join.attached(&mut Vec::new()), Next::Read(id(5)));
        let page = || {
            let range = range(id(5), None, 5, Some(5), &[]);
            snapshot(100, range.clone(), range)
        };
        let old = EventId::new(1_000_100, 6, 0);
        let read = |join: &mut Join, dispatched, cached, out: &mut Vec<Output>| {
            join.snapshot(&page(), &channels(), dispatched, cached, 1 << 20, out)
        };
        let mut out = Vec::new();
        assert_eq!(read(&mut join, Some(old), true, &mut out), Next::Read(id(5)));
        assert_eq!(read(&mut join, Some(old), false, &mut out), Next::Tick);
        // The page may come from a deposed master, so nothing of it is handed out.
        assert!(out.is_empty(), "{out:?}");
        assert_eq!(join.tick(id(101), &mut out), Next::Read(id(5)));
        assert_eq!(read(&mut join, Some(id(101)), false, &mut out), Next::Live(id(100)));
    }

    /// Found by the chaos suite, with seeds 1013 and 2003.
    #[test]
    fn an_older_page_is_not_taken() {
        let limits = Limits { live_events: 64, live_bytes: 32_768 };
        let mut join = Join::new(Start::Oldest, limits);
        join.attached(&mut Vec::new());
        let mut out = Vec::new();
        let mut read = |join: &mut Join, snapshot: &Snapshot, cached| {
            join.snapshot(snapshot, &channels(), Some(id(100)), cached, 1 << 20, &mut out);
        };
        let zero = EventId::ZERO;
        // This page was read after b was trimmed to nothing, so b is excused. It ends at 10 for a.
        let trimmed = snapshot(
            100,
            range(zero, Some(10), 90, Some(1), &[1, 10]),
            range(zero, None, 50, None, &[]),
        );
        read(&mut join, &trimmed, false);
        // This older page still has events of b. If they were handed out, the loss of the events
        // after them would go unnoticed.
        let older = snapshot(
            45,
            range(id(10), None, 44, Some(1), &[11, 44]),
            range(id(10), None, 40, Some(5), &[20, 30, 40]),
        );
        read(&mut join, &older, true);
        assert!(
            !out.iter().any(|item| matches!(item, Output::Frame(f) if f.id > Some(id(10)))),
            "{out:?}"
        );
    }

    /// Only the live side has the events of a channel whose history cannot be read.
    #[test]
    fn live_events_of_an_unreadable_history_are_handed_out_in_their_order() {
        let limits = Limits { live_events: 64, live_bytes: 32_768 };
        let mut join = Join::resumed(id(5), limits);
        join.attached(&mut Vec::new());
        let read = |join: &mut Join, clock, upto, ids: &[u64], out: &mut Vec<Output>| {
            let a = range(id(5), upto, 60, Some(5), ids);
            let page = snapshot(clock, a, Range::unreadable(id(5), Extent::All));
            join.snapshot(&page, &channels(), Some(id(100)), false, 1 << 20, out)
        };
        let told = |out: &mut Vec<Output>| {
            let word = |item: Output| match item {
                Output::Frame(frame) => (frame.id.unwrap_or_default().ms - 1_000_000).to_string(),
                Output::Gap(gap) => format!("{:?}", gap.reason),
                other => format!("{other:?}"),
            };
            out.drain(..).map(word).collect::<Vec<_>>()
        };
        let mut out = Vec::new();
        join.live(&Frame::event(&demo(), id(20), "", "of b"));
        assert_eq!(read(&mut join, 40, Some(10), &[10], &mut out), Next::Read(id(10)));
        assert_eq!(told(&mut out), ["Trimmed", "10"]);
        for n in [30, 35, 50] {
            join.live(&Frame::event(&demo(), id(n), "", "x"));
        }
        // Event 30 is of the readable channel, and in its history as well. The live side may lack
        // events of the other channel since its last gap, so another gap comes before the page
        // leads past it.
        assert_eq!(read(&mut join, 45, None, &[10, 30], &mut out), Next::Live(id(50)));
        assert_eq!(told(&mut out), ["Trimmed", "20", "30", "35", "50"]);

        // A gap covers everything up to its read's clock, and nothing above.
        let mut join = Join::resumed(id(5), limits);
        join.attached(&mut Vec::new());
        read(&mut join, 40, Some(10), &[10], &mut out);
        assert_eq!(told(&mut out), ["Trimmed", "10"]);
        join.lagged();
        assert_eq!(read(&mut join, 40, None, &[], &mut out), Next::Read(id(40)));
        assert_eq!(told(&mut out), [""; 0]);
        join.lagged();
        assert_eq!(read(&mut join, 45, None, &[], &mut out), Next::Read(id(45)));
        assert_eq!(told(&mut out), ["Trimmed"]);
    }
}
