//! Pages of history for those who ask a moment later.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::feed::snapshot::Snapshot;

/// How long a page is cached for later requests.
pub(super) const KEPT: Duration = Duration::from_secs(1);
/// Bytes of events in the caches of all partitions together at most, while a partition's share is
/// not below `LEAST`.
const BYTES: usize = 16 * 1024 * 1024;
const LEAST: usize = 1024 * 1024;

/// Pages read a moment ago. They serve connections that are as far behind, except for the last
/// read, which makes a connection live.
#[derive(Debug)]
pub(super) struct Cache {
    snapshots: VecDeque<(Instant, usize, Arc<Snapshot>)>,
    bytes: usize,
    /// How many bytes it may have.
    most: usize,
}

impl Cache {
    /// An empty cache of one of so many partitions.
    pub(super) fn shared_by(partitions: u16) -> Self {
        Cache::new((BYTES / usize::from(partitions)).max(LEAST))
    }

    fn new(most: usize) -> Self {
        Cache { snapshots: VecDeque::new(), bytes: 0, most }
    }

    /// Caches a snapshot. The first one of another epoch makes all earlier ones useless.
    pub(super) fn add(&mut self, snapshot: Arc<Snapshot>, now: Instant) {
        let epoch = snapshot.clock.epoch();
        if self.snapshots.back().is_some_and(|(.., last)| last.clock.epoch() != epoch) {
            *self = Cache::new(self.most);
        }
        let frames = snapshot.ranges.values().flatten().flat_map(|range| range.frames.iter());
        let bytes: usize = frames.map(|frame| frame.size()).sum();
        if bytes == 0 {
            return;
        }
        self.bytes += bytes;
        self.snapshots.push_back((now, bytes, snapshot));
        while self.bytes > self.most {
            self.drop_oldest();
        }
    }

    /// The snapshots younger than `KEPT`, oldest first.
    pub(super) fn young(&mut self, now: Instant) -> Vec<Arc<Snapshot>> {
        while self.snapshots.front().is_some_and(|(read, ..)| now - *read > KEPT) {
            self.drop_oldest();
        }
        self.snapshots.iter().map(|(.., snapshot)| snapshot.clone()).collect()
    }

    fn drop_oldest(&mut self) {
        if let Some((_, bytes, _)) = self.snapshots.pop_front() {
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use sse_contract::EventId;

    use super::*;
    use crate::feed::frame::Frame;
    use crate::feed::snapshot::{Extent, Range};

    #[test]
    fn the_cache_is_bounded_in_bytes() {
        let mut cache = Cache::new(BYTES);
        let now = Instant::now();
        let (channel, id) = ("a".parse().unwrap(), EventId::new(5, 7, 0));
        let frames = [Frame::event(&channel, id, "", &"x".repeat(BYTES / 3))].into();
        let range =
            Range { frames, readable: true, ..Range::unreadable(EventId::ZERO, Extent::All) };
        let page = |ranges| {
            Arc::new(Snapshot { clock: id, now_ms: 5, history: true, ttl_ms: 1000, ranges })
        };
        for _ in 0..5 {
            cache.add(page(HashMap::from([(channel.clone(), vec![range.clone()])])), now);
        }
        assert_eq!(cache.young(now).len(), 2);
        assert!(cache.bytes <= BYTES);
        cache.add(page(HashMap::new()), now);
        assert_eq!(cache.young(now).len(), 2, "an empty page is of no use to anybody");
        assert_eq!(cache.young(now + KEPT * 2).len(), 0);
        assert_eq!(cache.bytes, 0);
    }
}
