//! What one client has, and what it was told is missing: its side of "complete or told".
//!
//! Pure, and half of the join: `Join` decides when to read and when to go live, this what of a page is
//! handed out and which gaps are told before it. What it promises: ids handed out strictly rise, and between two of
//! them nothing of the client's channels is missing, or a gap was told in between.

use std::collections::VecDeque;

use sse_contract::{Channel, EventId};

use crate::feed::frame::{self, Began, GapReason, SharedFrame};
use crate::feed::snapshot::{Extent, Range, Snapshot};

/// Something to send, in order.
#[derive(Debug, Clone)]
pub enum Item {
    /// An event.
    Frame(SharedFrame),
    /// A gap, and its reason for the metrics.
    Gap(Box<[u8]>, GapReason),
    /// The stream is open: it has all its channels, and begins at this position.
    Opened(EventId, Began),
    /// A position of the live epoch, for a client that was sent none.
    Checkpoint(EventId),
}

/// A client's position and what was told about it.
#[derive(Debug)]
pub(crate) struct Account {
    /// Everything at or below was handed out, or told missing.
    position: EventId,
    /// The last id handed out: the client's cursor once it is sent.
    told: Option<EventId>,
    /// A reset (or the start "from the oldest") speaks for everything up to here, in every epoch before.
    vouched: Option<EventId>,
    /// Per channel: up to here its incompleteness was told, or was never claimed.
    excused: Vec<EventId>,
    /// Per channel of which only the newest event is sent: the newest of the last gap that said so.
    named: Vec<EventId>,
}

impl Account {
    /// Of a client that was handed everything at or below `position`, by its own words.
    pub(crate) fn after(position: EventId) -> Self {
        let (excused, named) = (Vec::new(), Vec::new());
        Account { position, told: None, vouched: None, excused, named }
    }

    /// Of a connection that was live up to `position`.
    pub(crate) fn resumed(position: EventId) -> Self {
        Account { told: Some(position), ..Account::after(position) }
    }

    /// Everything at or below was handed out, or told missing.
    pub(crate) fn position(&self) -> EventId {
        self.position
    }

    /// A client without a position begins here. `untold` is why something may be missing before that, and what the
    /// client named instead of a position.
    pub(crate) fn begin(
        &mut self,
        clock: EventId,
        untold: Option<(GapReason, &str)>,
        out: &mut Vec<Item>,
    ) {
        if let Some((reason, after)) = untold {
            out.push(gap(clock, None, reason, after, None));
        }
        out.push(Item::Opened(clock, Began::Now));
        self.told = Some(clock);
        self.position = clock;
    }

    /// A client with a position of its own goes on after it.
    pub(crate) fn resume(&self, out: &mut Vec<Item>) {
        out.push(Item::Opened(self.position, Began::After));
    }

    /// "From the oldest" claims nothing about what was gone before its first read, in any epoch. Answers whether
    /// this read holds all it takes to begin so.
    pub(crate) fn begin_oldest(
        &mut self,
        snapshot: &Snapshot,
        channels: &[Channel],
        late: bool,
        out: &mut Vec<Item>,
    ) -> bool {
        let range = |channel| snapshot.covering(channel, EventId::ZERO, Extent::All);
        if !channels.iter().all(|channel| range(channel).is_some()) {
            return false;
        }
        let oldest = |channel| range(channel)?.oldest;
        let begins = |channel| oldest(channel).map_or(snapshot.clock, EventId::before);
        // What a history holds that cannot be read is owed, and to be told missing.
        let excuse = |channel| match range(channel).is_none_or(|range| range.readable) {
            true => begins(channel),
            false => EventId::ZERO,
        };
        self.excused = channels.iter().map(excuse).collect();
        self.vouched = Some(snapshot.clock);
        // Nothing at or below the lowest of them is claimed, so that is where the stream begins.
        let first = channels.iter().map(begins).min().unwrap_or(snapshot.clock);
        self.position = first.min(snapshot.clock);
        if late {
            // What came since its client was let in may be gone again.
            out.push(gap(self.position, None, GapReason::Late, "", None));
        }
        out.push(Item::Opened(self.position, Began::After));
        true
    }

    /// Told once where an epoch begins with the live events: a first position; or one of the new epoch, lest the
    /// next reconnect be told of the old one again.
    pub(crate) fn go_live(&mut self, clock: EventId, out: &mut Vec<Item>) {
        if self.told.is_none_or(|id| id.epoch() != clock.epoch()) {
            out.push(Item::Checkpoint(clock));
        }
    }

    /// Hands out what a read holds for this client, the gaps before it; at most `room` bytes, but one event always.
    /// Answers whether that brought the client up to the read's clock. `extent` tells which part of the n-th
    /// channel's history it wants. `live` are events kept meanwhile: of a channel whose history cannot be read, there is
    /// nothing else.
    pub(crate) fn take(
        &mut self,
        snapshot: &Snapshot,
        channels: &[Channel],
        extent: impl Fn(usize) -> Extent,
        live: &VecDeque<SharedFrame>,
        room: usize,
        out: &mut Vec<Item>,
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
        // Otherwise the read was cut before a channel, or served positions behind ours.
        let Some(ranges) = ranges else { return false };
        let clock = snapshot.clock;
        let reached =
            ranges.iter().filter_map(|range| range.upto).min().unwrap_or(clock).min(clock);
        self.tell_gaps(snapshot, channels, &ranges, reached, out);
        let none = VecDeque::new();
        let live = if ranges.iter().all(|range| range.readable) { &none } else { live };
        self.replay((reached, clock), channels, &ranges, live, room, out)
    }

    /// The position is above the clock: no id of this epoch, so either of another one or of none.
    fn tell_beyond(&mut self, snapshot: &Snapshot, channels: &[Channel], out: &mut Vec<Item>) {
        let clock = snapshot.clock;
        if self.epoch() == clock.epoch() {
            let after = self.position.to_string();
            out.push(gap(clock, None, GapReason::UnknownId, &after, None));
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
        out: &mut Vec<Item>,
    ) {
        let after = self.position.to_string();
        self.position = self.position.min(clock);
        out.push(gap(self.position, None, GapReason::Reset, &after, oldest));
        self.told = Some(self.position);
        self.vouched = Some(clock);
        self.excused = vec![clock; channels];
    }

    /// The epoch this connection's position belongs to.
    fn epoch(&self) -> u64 {
        self.vouched.map_or(self.position, |v| v.max(self.position)).epoch()
    }

    fn tell_no_history(&mut self, clock: EventId, out: &mut Vec<Item>) {
        if self.position < clock && self.vouched.is_none_or(|v| v < clock) {
            let position = self.position.min(clock);
            out.push(gap(position, None, GapReason::NoHistory, &self.position.to_string(), None));
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
        out: &mut Vec<Item>,
    ) {
        let clock = snapshot.clock;
        if self.epoch() != clock.epoch() {
            let oldest = ranges.iter().filter_map(|r| r.oldest).min();
            return self.tell_reset(clock, oldest, channels.len(), out);
        }
        self.excused.resize(channels.len(), EventId::ZERO);
        for (n, (channel, range)) in channels.iter().zip(ranges).enumerate() {
            let judged = self.position.max(self.excused[n]);
            // A page must not lead past what was told of a history that cannot be read: only the live events that came in
            // time are there.
            let reason = match range.readable {
                true => snapshot.missing(range, judged),
                false => (reached > self.excused[n]).then_some(GapReason::Trimmed),
            };
            let Some(reason) = reason else { continue };
            let after = self.position.to_string();
            out.push(gap(self.position, Some(channel), reason, &after, range.oldest));
            self.told = Some(self.position);
            // The oldest kept is still owed: until it is handed out, it may be cut off as well.
            self.excused[n] = range.oldest.map_or(clock, EventId::before);
        }
    }

    /// Hands out what the ranges hold up to `reached`, in id order over all channels. Answers whether that was the clock.
    fn replay(
        &mut self,
        (reached, clock): (EventId, EventId),
        channels: &[Channel],
        ranges: &[&Range],
        live: &VecDeque<SharedFrame>,
        room: usize,
        out: &mut Vec<Item>,
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
            out.push(Item::Frame(frame.clone()));
        }
        self.position = reached;
        reached == clock
    }

    /// A page may lead past what the newest event of its n-th channel leaves out, and not reach that event itself. So
    /// that is told before the page, and once for each event that is the newest.
    fn tell_left_out(
        &mut self,
        n: usize,
        channels: &[Channel],
        range: &Range,
        out: &mut Vec<Item>,
    ) {
        let [.., before, newest] = &range.frames[..] else { return };
        let (Some(before), Some(newest)) = (before.id, newest.id) else { return };
        self.named.resize(channels.len(), EventId::ZERO);
        if before <= self.position || self.named[n] == newest {
            return;
        }
        self.named[n] = newest;
        let after = self.position.to_string();
        let reason = GapReason::Conflated;
        out.push(gap(self.position, Some(&channels[n]), reason, &after, Some(newest)));
        self.told = Some(self.position);
    }
}

fn gap(
    position: EventId,
    channel: Option<&Channel>,
    reason: GapReason,
    after: &str,
    oldest: Option<EventId>,
) -> Item {
    Item::Gap(frame::gap(position, channel, reason, after, oldest), reason)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::feed::frame::Frame;

    fn id(ms: u64) -> EventId {
        EventId::new(1_000_000 + ms, 7, 0)
    }

    /// A history that was trimmed: its last event, the oldest kept, and up to where it was read.
    fn trimmed(last: u64, kept: &[u64], upto: Option<u64>) -> Range {
        Range {
            after: EventId::ZERO,
            upto: upto.map(id),
            last: Some(id(last)),
            oldest: kept.first().map(|n| id(*n)),
            length: kept.len() as u64,
            untrimmed: false,
            frames: kept.iter().map(|n| Frame::event(id(*n), "", "x")).collect(),
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

    /// Takes a page of a busy channel and of one of which only the newest event is wanted.
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
            .map(|item| match item {
                Item::Gap(block, GapReason::Conflated) => between(block),
                item => told(item),
            })
            .collect()
    }

    /// What a gap is told of: `after..oldest`.
    fn between(block: &[u8]) -> String {
        let block = String::from_utf8_lossy(block);
        let data = block.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
        let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
        let ms = |name: &str| {
            let id: EventId = data[name].as_str()?.parse().expect("an id");
            Some((id.ms - 1_000_000).to_string())
        };
        let [after, oldest] = ["after", "oldest"].map(|name| ms(name).unwrap_or_default());
        format!("{after}..{oldest}")
    }

    /// Only the live events that came in time are there.
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
            let live = live.iter().map(|n| Frame::event(id(*n), "", "x")).collect();
            let mut out = Vec::new();
            let all = |_| Extent::All;
            assert!(account.take(&snapshot, &channels, all, &live, 1 << 20, &mut out));
            out
        };
        let tell = |items: &[Item]| -> Vec<String> {
            let tell = |item: &Item| match item {
                Item::Gap(block, _) => between(block),
                item => told(item),
            };
            items.iter().map(tell).collect()
        };
        assert_eq!(tell(&read(50, &[])), ["5.."]);
        assert_eq!(tell(&read(100, &[60, 80])), ["50..", "60", "80"]);
        // Up to there it is told.
        assert_eq!(tell(&read(100, &[60, 80])), [""; 0]);
    }

    /// The newest event lies above what the page reaches, and what it replaces below.
    #[test]
    fn what_the_newest_replaces_is_told_before_the_position_passes_it() {
        let mut account = Account::after(id(5));
        let busy = |upto| trimmed(90, &[4, 6, 10, 90], upto);
        let quiet = |kept: &[u64]| Range { oldest: Some(id(5)), ..trimmed(50, kept, None) };
        let out = take_newest(&mut account, busy(Some(10)), quiet(&[8, 50]), 1 << 20);
        assert_eq!(out, ["5..50", "6", "10"]);
        // It is told once, and handed out in its turn.
        let out = take_newest(&mut account, busy(None), quiet(&[8, 50]), 1 << 20);
        assert_eq!(out, ["50", "90"]);
    }

    #[test]
    fn what_the_newest_replaces_is_told_once_for_each_newest() {
        let mut account = Account::after(id(5));
        let busy = || trimmed(90, &[4, 6, 10, 90], None);
        let quiet = |kept: &[u64]| Range { oldest: Some(id(5)), ..trimmed(50, kept, None) };
        // There is room for one event a page.
        assert_eq!(take_newest(&mut account, busy(), quiet(&[8, 50]), 1), ["5..50", "6"]);
        assert_eq!(take_newest(&mut account, busy(), quiet(&[8, 50]), 1), ["10"]);
        // One event is newest, then another: what was newest is now left out.
        assert_eq!(take_newest(&mut account, busy(), quiet(&[50, 60]), 1), ["10..60", "60"]);
        assert_eq!(take_newest(&mut account, busy(), quiet(&[50, 60]), 1), ["90"]);
    }

    fn told(item: &Item) -> String {
        match item {
            Item::Frame(frame) => format!("{}", frame.id.unwrap_or_default().ms - 1_000_000),
            Item::Gap(_, reason) => format!("{reason:?}"),
            Item::Opened(..) => "opened".to_owned(),
            Item::Checkpoint(_) => "checkpoint".to_owned(),
        }
    }

    /// A page that ends before the oldest event of another channel still owes it.
    #[test]
    fn a_gap_excuses_nothing_that_was_kept_then() {
        let mut account = Account::after(id(5));
        let a = trimmed(90, &[4, 6, 10, 90], Some(10));
        let out = take(&mut account, a.clone(), trimmed(50, &[50], None));
        assert_eq!(out, ["Trimmed", "6", "10"]);
        // Before the next page, what b still had is trimmed as well.
        let out = take(&mut account, trimmed(90, &[10, 90], None), trimmed(50, &[], None));
        assert_eq!(out, ["Trimmed", "90"]);
        // That was told: it is not told again.
        assert_eq!(take(&mut account, a, trimmed(50, &[], None)), [""; 0]);
    }

    #[test]
    fn a_reset_is_told_once_though_what_it_replays_is_of_the_old_epoch() {
        let old = |ms| EventId::new(1_000_000 + ms, 3, 0);
        let kept = |upto| Range {
            oldest: Some(old(10)),
            upto,
            frames: [10u64, 20].map(|ms| Frame::event(old(ms), "", "x")).into(),
            ..trimmed(90, &[], None)
        };
        let mut account = Account::after(old(5));
        let b = trimmed(50, &[], None);
        assert_eq!(take(&mut account, kept(Some(old(10))), b.clone()), ["Reset", "10"]);
        assert_eq!(take(&mut account, kept(Some(old(20))), b.clone()), ["20"]);
        // What is cut off before its page comes is covered by it as well.
        assert_eq!(take(&mut account, trimmed(90, &[90], None), b), ["90"]);
    }

    #[test]
    fn a_client_told_of_the_old_epoch_is_told_a_position_of_the_new_one() {
        let mut account = Account::resumed(EventId::new(1_000_005, 3, 0));
        let nothing = || trimmed(50, &[], None);
        assert_eq!(take(&mut account, nothing(), nothing()), ["Reset"]);
        let mut out = Vec::new();
        account.go_live(id(100), &mut out);
        assert!(matches!(out[..], [Item::Checkpoint(position)] if position == id(100)));
        // Who was sent an event of it needs none.
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
