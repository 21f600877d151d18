//! The answer to a history read: parts of channels' histories, and the clock at the same moment.

use std::collections::HashMap;
use std::sync::Arc;

use sse_contract::{Channel, EventId};

use crate::feed::frame::SharedFrame;
use crate::feed::gap::GapReason;

/// One atomic read, shared by all connections that waited for it.
#[derive(Debug)]
pub struct Snapshot {
    /// The partition's clock S at the read. No event with an id at or below it can still be
    /// published.
    pub clock: EventId,
    /// The broker's time, in Unix milliseconds.
    pub now_ms: u64,
    /// Whether history is kept at all.
    pub history: bool,
    /// The minimum time that an event is kept, in milliseconds.
    pub ttl_ms: u64,
    /// What was read, by channel. One read may start from several positions of a channel.
    pub ranges: HashMap<Channel, Vec<Range>>,
}

/// A part of one channel's history, and the facts that decide whether it is complete.
#[derive(Debug, Clone)]
pub struct Range {
    /// The position that was read after.
    pub after: EventId,
    /// The last position that was read, if the range was cut. `None` if it reaches the snapshot's
    /// clock.
    pub upto: Option<EventId>,
    /// The id of the last event ever added, if the history exists.
    pub last: Option<EventId>,
    /// The id of the oldest event kept, if any.
    pub oldest: Option<EventId>,
    /// How many events are kept.
    pub length: u64,
    /// Whether nothing was removed from the history since it was created. Also true if it does not
    /// exist.
    pub untrimmed: bool,
    /// The events that were read, in id order.
    pub frames: Arc<[SharedFrame]>,
    /// Which of the events above `after` were read.
    pub extent: Extent,
    /// Whether the history could be read. If not, the range holds neither facts nor events.
    pub readable: bool,
}

impl Range {
    /// The range of a history that cannot be read.
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

/// Which part of a history to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Every event after the position, up to the size of a page.
    All,
    /// The two newest events. Only the newest is sent; the other shows whether events between it
    /// and the position are left out.
    Newest,
}

impl Snapshot {
    /// Returns the range of `channel` with this extent from which a client at `position` can
    /// continue. `None` if no such range was read.
    pub fn covering(&self, channel: &Channel, position: EventId, extent: Extent) -> Option<&Range> {
        let ranges = self.ranges.get(channel)?;
        let covers = |r: &&Range| {
            r.extent == extent && r.after <= position && r.upto.is_none_or(|upto| upto > position)
        };
        // The range that reaches furthest spares the client pages that only others need.
        ranges.iter().filter(covers).max_by_key(|r| (r.upto.is_none(), r.upto))
    }

    /// Whether every event of the range's channel in (`position`, clock] is still in its history.
    /// The rules are in ARCHITECTURE.md, "Complete or told".
    pub fn complete(&self, range: &Range, position: EventId) -> bool {
        if !range.readable {
            return false;
        }
        let young = position.ms > self.now_ms.max(self.clock.ms).saturating_sub(self.ttl_ms);
        range.last.is_some_and(|last| last <= position)
            // No id fits between a position and the id right above it, so nothing is missing there.
            || range.oldest.is_some_and(|oldest| oldest.before() <= position)
            || (range.untrimmed && young)
    }

    /// Returns why events of the range's channel above `position` may be missing; `None` if none
    /// are. `position` must be of the clock's epoch.
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

    /// Judges a range of an epoch whose clock is at 1000 ms, with a ttl of 100 ms.
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
        // No id fits between a position and the id right above it.
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
        // The history may have expired and begun again.
        assert_eq!(missing(range(Some(990), Some(990), true), 901), None);
        assert_eq!(missing(range(Some(990), Some(990), true), 900), Some(GapReason::Expired));
    }
}
