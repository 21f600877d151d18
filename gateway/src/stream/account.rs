//! What one client has, and what it was told is missing: its side of "complete or told".
//!
//! This is one half of the join and does no I/O. `Join` decides when to read and when to go live;
//! `Account` decides which events of a page are handed out and which gaps precede them. It promises
//! that ids handed out strictly rise, and that no event of the client's channels is missing between
//! two of them unless a gap between the two says so.

use std::collections::VecDeque;

use sse_contract::{Channel, EventId};

use crate::feed::frame::{Began, SharedFrame};
use crate::feed::gap::{After, Gap, GapReason};
use crate::feed::snapshot::{Extent, Range, Snapshot};

/// Something to send. Outputs are sent in order.
#[derive(Debug, Clone)]
pub enum Output {
    /// An event.
    Frame(SharedFrame),
    /// A gap.
    Gap(Box<Gap>),
    /// The opening checkpoint: every channel is attached, and the stream begins at this position.
    Opened(EventId, Began),
    /// A position of the live epoch, for a client that holds none.
    Checkpoint(EventId),
}

/// A client's position, and what it was told about it.
#[derive(Debug)]
pub(crate) struct Account {
    /// Every event at or below this was handed out or told missing.
    position: EventId,
    /// The last id handed out, which becomes the client's cursor once it is sent.
    told: Option<EventId>,
    /// Up to this clock a `reset`, or the start "from the oldest", accounts for everything, also in
    /// earlier epochs.
    vouched: Option<EventId>,
    /// For each channel, the position up to which missing events were told or never promised.
    excused: Vec<EventId>,
    /// For each channel that sends only its newest event, the event that its last gap named.
    named: Vec<EventId>,
}

impl Account {
    /// The account of a client that says it has everything at or below `position`.
    pub(crate) fn after(position: EventId) -> Self {
        let (excused, named) = (Vec::new(), Vec::new());
        Account { position, told: None, vouched: None, excused, named }
    }

    /// The account of a connection that was live up to `position`.
    pub(crate) fn resumed(position: EventId) -> Self {
        Account { told: Some(position), ..Account::after(position) }
    }

    /// Every event at or below this was handed out or told missing.
    pub(crate) fn position(&self) -> EventId {
        self.position
    }

    /// Begins at `clock`, for a client without a position. `untold` is the reason why earlier
    /// events may be missing, and where they begin.
    pub(crate) fn begin(
        &mut self,
        clock: EventId,
        untold: Option<(GapReason, After)>,
        out: &mut Vec<Output>,
    ) {
        if let Some((reason, after)) = untold {
            out.push(gap(clock, None, reason, after, None));
        }
        out.push(Output::Opened(clock, Began::Now));
        self.told = Some(clock);
        self.position = clock;
    }

    /// Continues after the client's own position.
    pub(crate) fn resume(&self, out: &mut Vec<Output>) {
        out.push(Output::Opened(self.position, Began::After));
    }

    /// Begins at the oldest event kept, which promises nothing about events that were gone before
    /// the first read, in any epoch. Returns false if this read lacks a channel's beginning.
    pub(crate) fn begin_oldest(
        &mut self,
        snapshot: &Snapshot,
        channels: &[Channel],
        late: bool,
        out: &mut Vec<Output>,
    ) -> bool {
        let range = |channel| snapshot.covering(channel, EventId::ZERO, Extent::All);
        if !channels.iter().all(|channel| range(channel).is_some()) {
            return false;
        }
        let oldest = |channel| range(channel)?.oldest;
        let begins = |channel| oldest(channel).map_or(snapshot.clock, EventId::before);
        // The events of a history that cannot be read are owed, and must be told missing.
        let excuse = |channel| match range(channel).is_none_or(|range| range.readable) {
            true => begins(channel),
            false => EventId::ZERO,
        };
        self.excused = channels.iter().map(excuse).collect();
        self.vouched = Some(snapshot.clock);
        // The stream begins below the first of the oldest events: nothing is promised at or below
        // that.
        let first = channels.iter().map(begins).min().unwrap_or(snapshot.clock);
        self.position = first.min(snapshot.clock);
        if late {
            // Events published since the client was let in may be gone already.
            out.push(gap(self.position, None, GapReason::Late, After::Open, None));
        }
        out.push(Output::Opened(self.position, Began::After));
        true
    }

    /// Sends a checkpoint if the client holds no id of the live epoch. Otherwise its next reconnect
    /// would present an old id and get the same `reset` again.
    pub(crate) fn go_live(&mut self, clock: EventId, out: &mut Vec<Output>) {
        if self.told.is_none_or(|id| id.epoch() != clock.epoch()) {
            out.push(Output::Checkpoint(clock));
        }
    }

    /// Hands out the read's gaps and then its events for this client: at most `room` bytes of
    /// events, but always one event. Returns whether the client now has everything up to the read's
    /// clock. `extent` says which part of the n-th channel's history the client wants. `live` holds
    /// the events kept during the join, the only source for a channel whose history cannot be read.
    pub(crate) fn take(
        &mut self,
        snapshot: &Snapshot,
        channels: &[Channel],
        extent: impl Fn(usize) -> Extent,
        live: &VecDeque<SharedFrame>,
        room: usize,
        out: &mut Vec<Output>,
    ) -> bool {
        if self.position > snapshot.clock {
            self.tell_beyond(snapshot, channels, out);
            return true;
        }
        if !snapshot.history {
            self.tell_no_history(snapshot.clock, out);
            return true;
        }
        let covering = |(n, c)| snapshot.covering(c, self.position, extent(n));
        let ranges: Option<Vec<&Range>> = channels.iter().enumerate().map(covering).collect();
        // A range is absent if the read was cut before its channel, or served only other positions.
        let Some(ranges) = ranges else { return false };
        let clock = snapshot.clock;
        let reached =
            ranges.iter().filter_map(|range| range.upto).min().unwrap_or(clock).min(clock);
        self.tell_gaps(snapshot, channels, &ranges, reached, out);
        let none = VecDeque::new();
        let live = if ranges.iter().all(|range| range.readable) { &none } else { live };
        self.replay((reached, clock), channels, &ranges, live, room, out)
    }

    /// The position is above the clock, so this epoch did not issue it: it is of another epoch, or
    /// no event's id.
    fn tell_beyond(&mut self, snapshot: &Snapshot, channels: &[Channel], out: &mut Vec<Output>) {
        let clock = snapshot.clock;
        if self.epoch() == clock.epoch() {
            let after = After::Position(self.position);
            out.push(gap(clock, None, GapReason::UnknownId, after, None));
            self.told = Some(clock);
        } else {
            let known = channels.iter().filter_map(|c| snapshot.ranges.get(c)?.first()?.oldest);
            self.tell_reset(clock, known.min(), channels.len(), out);
        }
        self.position = clock;
    }

    fn tell_reset(
        &mut self,
        clock: EventId,
        oldest: Option<EventId>,
        channels: usize,
        out: &mut Vec<Output>,
    ) {
        let after = After::Position(self.position);
        self.position = self.position.min(clock);
        out.push(gap(self.position, None, GapReason::Reset, after, oldest));
        self.told = Some(self.position);
        self.vouched = Some(clock);
        self.excused = vec![clock; channels];
    }

    /// The epoch of the client's position, or of the clock in `vouched` if that is higher.
    fn epoch(&self) -> u64 {
        self.vouched.map_or(self.position, |v| v.max(self.position)).epoch()
    }

    fn tell_no_history(&mut self, clock: EventId, out: &mut Vec<Output>) {
        if self.position < clock && self.vouched.is_none_or(|v| v < clock) {
            let position = self.position.min(clock);
            let after = After::Position(self.position);
            out.push(gap(position, None, GapReason::NoHistory, after, None));
        }
        self.position = clock;
        self.told = None;
    }

    fn tell_gaps(
        &mut self,
        snapshot: &Snapshot,
        channels: &[Channel],
        ranges: &[&Range],
        reached: EventId,
        out: &mut Vec<Output>,
    ) {
        let clock = snapshot.clock;
        if self.epoch() != clock.epoch() {
            let oldest = ranges.iter().filter_map(|r| r.oldest).min();
            return self.tell_reset(clock, oldest, channels.len(), out);
        }
        self.excused.resize(channels.len(), EventId::ZERO);
        for (n, (channel, range)) in channels.iter().zip(ranges).enumerate() {
            let judged = self.position.max(self.excused[n]);
            // Of a history that cannot be read, only the live events that came in time are there.
            // So another gap comes before a page that leads past the channel's last one.
            let reason = match range.readable {
                true => snapshot.missing(range, judged),
                false => (reached > self.excused[n]).then_some(GapReason::Trimmed),
            };
            let Some(reason) = reason else { continue };
            let after = After::Position(self.position);
            out.push(gap(self.position, Some(channel), reason, after, range.oldest));
            self.told = Some(self.position);
            // The client is still owed the oldest event kept: it may be trimmed before it is handed
            // out, and must then be told missing.
            self.excused[n] = range.oldest.map_or(clock, EventId::before);
        }
    }

    /// Hands out the events of the ranges up to `reached`, in id order over all channels. Returns
    /// whether `reached` is the clock and every event found room.
    fn replay(
        &mut self,
        (reached, clock): (EventId, EventId),
        channels: &[Channel],
        ranges: &[&Range],
        live: &VecDeque<SharedFrame>,
        room: usize,
        out: &mut Vec<Output>,
    ) -> bool {
        let mut frames: Vec<(EventId, &SharedFrame)> = Vec::new();
        for (n, range) in ranges.iter().enumerate() {
            if range.extent == Extent::Newest {
                self.tell_left_out(n, channels, range, out);
                let newest = range.frames.last().and_then(|f| Some((f.id?, f)));
                frames.extend(newest.filter(|(id, _)| *id > self.position && *id <= reached));
                continue;
            }
            let from = range.frames.partition_point(|f| f.id.is_none_or(|id| id <= self.position));
            let ids = range.frames[from..].iter().filter_map(|f| Some((f.id?, f)));
            frames.extend(ids.take_while(|(id, _)| *id <= reached));
        }
        let above = live.iter().filter_map(|frame| Some((frame.id?, frame)));
        frames.extend(above.filter(|(id, _)| *id > self.position && *id <= reached));
        if ranges.len() > 1 || !live.is_empty() {
            frames.sort_unstable_by_key(|(id, _)| *id);
            frames.dedup_by_key(|(id, _)| *id);
        }
        let mut bytes = 0;
        for (id, frame) in frames {
            if bytes > 0 && bytes + frame.size() > room {
                return false;
            }
            bytes += frame.size();
            self.position = id;
            self.told = Some(id);
            out.push(Output::Frame(frame.clone()));
        }
        self.position = reached;
        reached == clock
    }

    /// Hands out a gap if the newest event of the n-th channel leaves older ones out, once for each
    /// newest event. The gap comes before the page, because the page may lead past the events left
    /// out without reaching the newest one.
    fn tell_left_out(
        &mut self,
        n: usize,
        channels: &[Channel],
        range: &Range,
        out: &mut Vec<Output>,
    ) {
        let [.., before, newest] = &range.frames[..] else { return };
        let (Some(before), Some(newest)) = (before.id, newest.id) else { return };
        self.named.resize(channels.len(), EventId::ZERO);
        if before <= self.position || self.named[n] == newest {
            return;
        }
        self.named[n] = newest;
        let (reason, after) = (GapReason::Conflated, After::Position(self.position));
        out.push(gap(self.position, Some(&channels[n]), reason, after, Some(newest)));
        self.told = Some(self.position);
    }
}

fn gap(
    position: EventId,
    channel: Option<&Channel>,
    reason: GapReason,
    after: After,
    oldest: Option<EventId>,
) -> Output {
    Output::Gap(Box::new(Gap { position, channel: channel.cloned(), reason, after, oldest }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::feed::frame::Frame;

    fn demo() -> Channel {
        "demo".parse().expect("a channel")
    }

    fn id(ms: u64) -> EventId {
        EventId::new(1_000_000 + ms, 7, 0)
    }

    /// A trimmed history, by its last event, the events kept, and the position up to which it was
    /// read.
    fn trimmed(last: u64, kept: &[u64], upto: Option<u64>) -> Range {
        Range {
            after: EventId::ZERO,
            upto: upto.map(id),
            last: Some(id(last)),
            oldest: kept.first().map(|n| id(*n)),
            length: kept.len() as u64,
            untrimmed: false,
            frames: kept.iter().map(|n| Frame::event(&demo(), id(*n), "", "x")).collect(),
            extent: Extent::All,
            readable: true,
        }
    }

    fn take(account: &mut Account, a: Range, b: Range) -> Vec<String> {
        let channels: [Channel; 2] = ["a", "b"].map(|name| name.parse().expect("a channel"));
        let [first, second] = channels.clone();
        let snapshot = Snapshot {
            clock: id(100),
            now_ms: 1_000_100,
            history: true,
            ttl_ms: 3_600_000,
            ranges: HashMap::from([(first, vec![a]), (second, vec![b])]),
        };
        if account.vouched.is_none() && account.position == EventId::ZERO {
            account.begin_oldest(&snapshot, &channels, false, &mut Vec::new());
        }
        let mut out = Vec::new();
        account.take(&snapshot, &channels, |_| Extent::All, &VecDeque::new(), 1 << 20, &mut out);
        out.iter().map(told).collect()
    }

    /// Takes a page of a busy channel, and of a quiet one that sends only its newest event.
    fn take_newest(account: &mut Account, busy: Range, quiet: Range, room: usize) -> Vec<String> {
        let channels: [Channel; 2] = ["busy", "quiet"].map(|name| name.parse().expect("a channel"));
        let [first, second] = channels.clone();
        let quiet = Range { extent: Extent::Newest, ..quiet };
        let snapshot = Snapshot {
            clock: id(100),
            now_ms: 1_000_100,
            history: true,
            ttl_ms: 3_600_000,
            ranges: HashMap::from([(first, vec![busy]), (second, vec![quiet])]),
        };
        let extent = |n| [Extent::All, Extent::Newest][n];
        let mut out = Vec::new();
        account.take(&snapshot, &channels, extent, &VecDeque::new(), room, &mut out);
        out.iter()
            .map(|output| match output {
                Output::Gap(gap) if gap.reason == GapReason::Conflated => between(gap),
                output => told(output),
            })
            .collect()
    }

    /// The bounds that a gap names, as `after..oldest`.
    fn between(gap: &Gap) -> String {
        let After::Position(after) = gap.after else { panic!("{gap:?}") };
        let oldest = gap.oldest.map(|id| (id.ms - 1_000_000).to_string());
        format!("{}..{}", after.ms - 1_000_000, oldest.unwrap_or_default())
    }

    /// Of an unreadable history, only the live events that came in time are there.
    #[test]
    fn what_came_to_an_unreadable_history_since_it_was_told_of_is_told() {
        let mut account = Account::after(id(5));
        let channels: [Channel; 1] = ["a".parse().expect("a channel")];
        let mut read = |clock, live: &[u64]| {
            let range = Range::unreadable(EventId::ZERO, Extent::All);
            let snapshot = Snapshot {
                clock: id(clock),
                now_ms: 1_000_000 + clock,
                history: true,
                ttl_ms: 3_600_000,
                ranges: HashMap::from([(channels[0].clone(), vec![range])]),
            };
            let live = live.iter().map(|n| Frame::event(&demo(), id(*n), "", "x")).collect();
            let mut out = Vec::new();
            let all = |_| Extent::All;
            assert!(account.take(&snapshot, &channels, all, &live, 1 << 20, &mut out));
            out
        };
        let tell = |outputs: &[Output]| -> Vec<String> {
            let tell = |output: &Output| match output {
                Output::Gap(gap) => between(gap),
                output => told(output),
            };
            outputs.iter().map(tell).collect()
        };
        assert_eq!(tell(&read(50, &[])), ["5.."]);
        assert_eq!(tell(&read(100, &[60, 80])), ["50..", "60", "80"]);
        // The last gap covers everything up to this clock.
        assert_eq!(tell(&read(100, &[60, 80])), [""; 0]);
    }

    /// The page ends below the newest event, but above one that the newest event replaces.
    #[test]
    fn what_the_newest_replaces_is_told_before_the_position_passes_it() {
        let mut account = Account::after(id(5));
        let busy = |upto| trimmed(90, &[4, 6, 10, 90], upto);
        let quiet = |kept: &[u64]| Range { oldest: Some(id(5)), ..trimmed(50, kept, None) };
        let out = take_newest(&mut account, busy(Some(10)), quiet(&[8, 50]), 1 << 20);
        assert_eq!(out, ["5..50", "6", "10"]);
        // The gap is not repeated, and the newest event keeps its place in the order.
        let out = take_newest(&mut account, busy(None), quiet(&[8, 50]), 1 << 20);
        assert_eq!(out, ["50", "90"]);
    }

    #[test]
    fn what_the_newest_replaces_is_told_once_for_each_newest() {
        let mut account = Account::after(id(5));
        let busy = || trimmed(90, &[4, 6, 10, 90], None);
        let quiet = |kept: &[u64]| Range { oldest: Some(id(5)), ..trimmed(50, kept, None) };
        // Each page has room for one event.
        assert_eq!(take_newest(&mut account, busy(), quiet(&[8, 50]), 1), ["5..50", "6"]);
        assert_eq!(take_newest(&mut account, busy(), quiet(&[8, 50]), 1), ["10"]);
        // Another event becomes the newest, so the one before it is left out now.
        assert_eq!(take_newest(&mut account, busy(), quiet(&[50, 60]), 1), ["10..60", "60"]);
        assert_eq!(take_newest(&mut account, busy(), quiet(&[50, 60]), 1), ["90"]);
    }

    fn told(output: &Output) -> String {
        match output {
            Output::Frame(frame) => format!("{}", frame.id.unwrap_or_default().ms - 1_000_000),
            Output::Gap(gap) => format!("{:?}", gap.reason),
            Output::Opened(..) => "opened".to_owned(),
            Output::Checkpoint(_) => "checkpoint".to_owned(),
        }
    }

    /// A page ends before another channel's oldest event, which is still owed.
    #[test]
    fn a_gap_excuses_nothing_that_was_kept_then() {
        let mut account = Account::after(id(5));
        let a = trimmed(90, &[4, 6, 10, 90], Some(10));
        let out = take(&mut account, a.clone(), trimmed(50, &[50], None));
        assert_eq!(out, ["Trimmed", "6", "10"]);
        // Before the next page, the last event of b is trimmed as well.
        let out = take(&mut account, trimmed(90, &[10, 90], None), trimmed(50, &[], None));
        assert_eq!(out, ["Trimmed", "90"]);
        // The gap is not repeated.
        assert_eq!(take(&mut account, a, trimmed(50, &[], None)), [""; 0]);
    }

    #[test]
    fn a_reset_is_told_once_though_what_it_replays_is_of_the_old_epoch() {
        let old = |ms| EventId::new(1_000_000 + ms, 3, 0);
        let kept = |upto| Range {
            oldest: Some(old(10)),
            upto,
            frames: [10u64, 20].map(|ms| Frame::event(&demo(), old(ms), "", "x")).into(),
            ..trimmed(90, &[], None)
        };
        let mut account = Account::after(old(5));
        let b = trimmed(50, &[], None);
        assert_eq!(take(&mut account, kept(Some(old(10))), b.clone()), ["Reset", "10"]);
        assert_eq!(take(&mut account, kept(Some(old(20))), b.clone()), ["20"]);
        // The reset also covers events that are trimmed before their page is read.
        assert_eq!(take(&mut account, trimmed(90, &[90], None), b), ["90"]);
    }

    #[test]
    fn a_client_told_of_the_old_epoch_is_told_a_position_of_the_new_one() {
        let mut account = Account::resumed(EventId::new(1_000_005, 3, 0));
        let nothing = || trimmed(50, &[], None);
        assert_eq!(take(&mut account, nothing(), nothing()), ["Reset"]);
        let mut out = Vec::new();
        account.go_live(id(100), &mut out);
        assert!(matches!(out[..], [Output::Checkpoint(position)] if position == id(100)));
        // A client that holds an id of the live epoch needs no checkpoint.
        let mut account = Account::resumed(id(90));
        account.go_live(id(100), &mut out);
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn a_start_from_the_oldest_excuses_nothing_that_was_kept_then() {
        let mut account = Account::after(EventId::ZERO);
        let a = trimmed(90, &[4, 10, 90], Some(10));
        assert_eq!(take(&mut account, a, trimmed(50, &[50], None)), ["4", "10"]);
        let out = take(&mut account, trimmed(90, &[10, 90], None), trimmed(50, &[], None));
        assert_eq!(out, ["Trimmed", "90"]);
    }
}
