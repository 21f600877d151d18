//! What a history read answers: parts of channels' histories and the clock, of one moment.

use std::collections::HashMap;
use std::sync::Arc;

use sse_contract::{Channel, EventId};

use crate::feed::frame::{GapReason, SharedFrame};

/// One atomic read, shared by every connection that waited for it.
#[derive(Debug)]
pub struct Snapshot {
    /// The partition's clock S at the read: nothing at or below it can still be published.
    pub clock: EventId,
    /// The broker's time in Unix milliseconds.
    pub now_ms: u64,
    /// Whether history is kept at all.
    pub history: bool,
    /// How long an event is kept at least, in milliseconds.
    pub ttl_ms: u64,
    /// What was read, by channel. A channel may have been read from several positions.
    pub ranges: HashMap<Channel, Vec<Range>>,
}

/// A part of one channel's history, and the facts by which its completeness is judged.
#[derive(Debug, Clone)]
pub struct Range {
    /// Events above this position were read.
    pub after: EventId,
    /// The last position read when the range was cut; none when it reaches the snapshot's clock.
    pub upto: Option<EventId>,
    /// The youngest event ever added, if the stream exists.
    pub last: Option<EventId>,
    /// The oldest event kept, if any.
    pub oldest: Option<EventId>,
    /// Events kept.
    pub length: u64,
    /// Whether nothing was ever removed from the stream since it came to be (or it does not exist).
    pub untrimmed: bool,
    /// The events, in id order.
    pub frames: Arc<[SharedFrame]>,
    /// Which of the events above `after` these are.
    pub extent: Extent,
    /// Whether the history could be read; otherwise nothing else here means anything.
    pub readable: bool,
}

impl Range {
    /// Of a history that cannot be read.
    pub fn unreadable(after: EventId, extent: Extent) -> Self {
        Range {
            after,
            upto: None,
            last: None,
            oldest: None,
            length: 0,
            untrimmed: false,
            frames: [].into(),
            extent,
            readable: false,
        }
    }
}

/// Which part of a history is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Everything after the position, as far as a page goes.
    All,
    /// The two youngest: the newest is wanted, the other tells whether it follows directly.
    Newest,
}

impl Snapshot {
    /// The range of a channel that continues at `position` with this extent, if one was read.
    pub fn covering(&self, channel: &Channel, position: EventId, extent: Extent) -> Option<&Range> {
        let ranges = self.ranges.get(channel)?;
        let covers = |r: &&Range| {
            r.extent == extent && r.after <= position && r.upto.is_none_or(|upto| upto > position)
        };
        // The furthest one, so that nobody walks through what others had to read.
        ranges.iter().filter(covers).max_by_key(|r| (r.upto.is_none(), r.upto))
    }

    /// Whether every event of the range's channel in (`position`, clock] is still in its stream: the
    /// rules of ARCHITECTURE.md, "Complete or told".
    pub fn complete(&self, range: &Range, position: EventId) -> bool {
        if !range.readable {
            return false;
        }
        let young = position.ms > self.now_ms.max(self.clock.ms).saturating_sub(self.ttl_ms);
        range.last.is_some_and(|last| last <= position)
            // Nothing fits between a position and the id just above it, so nothing was cut there either.
            || range.oldest.is_some_and(|oldest| oldest.before() <= position)
            || (range.untrimmed && young)
    }

    /// Why events of the range's channel above `position`, a position of the clock's epoch, may be missing;
    /// none when they are not.
    pub fn missing(&self, range: &Range, position: EventId) -> Option<GapReason> {
        if self.complete(range, position) {
            return None;
        }
        if !range.readable {
            return Some(GapReason::Trimmed);
        }
        let old = position.ms <= self.now_ms.max(self.clock.ms).saturating_sub(self.ttl_ms);
        Some(if old { GapReason::Expired } else { GapReason::Trimmed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of an epoch whose clock is at 1000, with a ttl of 100.
    fn missing(range: Range, position: u64) -> Option<GapReason> {
        let snapshot = Snapshot {
            clock: id(1000),
            now_ms: 1000,
            history: true,
            ttl_ms: 100,
            ranges: HashMap::new(),
        };
        snapshot.missing(&range, id(position))
    }

    fn id(ms: u64) -> EventId {
        EventId::new(ms, 7, 0)
    }

    fn range(oldest: Option<u64>, last: Option<u64>, untrimmed: bool) -> Range {
        let [oldest, last] = [oldest, last].map(|ms| ms.map(id));
        let (after, extent) = (EventId::ZERO, Extent::All);
        Range {
            after,
            upto: None,
            last,
            oldest,
            length: 0,
            untrimmed,
            frames: [].into(),
            extent,
            readable: true,
        }
    }

    #[test]
    fn what_is_kept_from_the_position_on_is_complete() {
        assert_eq!(missing(range(Some(500), Some(900), false), 500), None);
        assert_eq!(missing(range(Some(500), Some(900), false), 700), None);
        assert_eq!(missing(range(Some(950), Some(990), false), 949), Some(GapReason::Trimmed));
        // Nothing fits between a position and the id just above it.
        let above = Range { oldest: Some(id(950).next(0)), ..range(None, Some(990), false) };
        assert_eq!(missing(above, 950), None);
    }

    #[test]
    fn a_history_trimmed_to_nothing_is_complete_after_its_last_event() {
        assert_eq!(missing(range(None, Some(900), false), 900), None);
        assert_eq!(missing(range(None, Some(950), false), 949), Some(GapReason::Trimmed));
    }

    #[test]
    fn where_nothing_was_ever_cut_off_a_young_position_proves_all() {
        let absent = || range(None, None, true);
        assert_eq!(missing(absent(), 901), None);
        assert_eq!(missing(absent(), 900), Some(GapReason::Expired));
        // It may have expired, and have begun anew.
        assert_eq!(missing(range(Some(990), Some(990), true), 901), None);
        assert_eq!(missing(range(Some(990), Some(990), true), 900), Some(GapReason::Expired));
    }
}
