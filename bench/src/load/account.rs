//! Checks the numbers that a connection receives: which are lost, repeated or out of order.
//!
//! Numbers rise by one within a stream of numbers (see [`crate::stamp::Stamp::stream`]). A skipped
//! number counts as lost at once, and as out of order instead if it arrives later.

use std::ops::AddAssign;

use smallvec::SmallVec;

/// The counts of a group of connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Stamped events received, repeated ones included.
    pub events: u64,
    /// Numbers that were skipped and have not arrived since.
    pub lost: i64,
    /// Numbers that had arrived before.
    pub duplicated: u64,
    /// Numbers that arrived after a higher one, for the first time.
    pub out_of_order: u64,
    /// `gap` events, by which a server says that events may be missing.
    pub gaps: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Counts) {
        self.events += more.events;
        self.lost += more.lost;
        self.duplicated += more.duplicated;
        self.out_of_order += more.out_of_order;
        self.gaps += more.gaps;
    }
}

/// The position of a connection in a stream of numbers. It takes 16 bytes.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    /// The next number in order: one above the highest received.
    next: u64,
    /// Bit i: the number `next - 1 - i` was received. Older numbers count as received.
    seen: u64,
}

impl Sequence {
    /// Starts at `first`. Lower numbers were not meant for this connection, so they are not missed.
    fn new(first: u64) -> Self {
        Sequence { next: first, seen: u64::MAX }
    }

    fn take(&mut self, number: u64, counts: &mut Counts) {
        if number >= self.next {
            let ahead = number - self.next;
            counts.lost += ahead as i64;
            self.seen = match ahead {
                0..63 => self.seen << (ahead + 1) | 1,
                _ => 1,
            };
            self.next = number + 1;
            return;
        }
        let bit = match self.next - 1 - number {
            age @ 0..64 => 1_u64 << age,
            _ => 0,
        };
        if bit == 0 || self.seen & bit != 0 {
            counts.duplicated += 1;
        } else {
            self.seen |= bit;
            counts.out_of_order += 1;
            counts.lost -= 1;
        }
    }
}

/// The positions of a connection. One stream of numbers, the usual case, needs no heap.
#[derive(Debug, Default)]
pub struct Tracker(SmallVec<[(u32, Sequence); 1]>);

impl Tracker {
    /// Counts a received event. A stream of numbers starts at `first`, or else at the first number
    /// that arrives.
    pub fn take(&mut self, stream: u32, number: u64, first: Option<u64>, counts: &mut Counts) {
        counts.events += 1;
        if let Some((_, known)) = self.0.iter_mut().find(|(name, _)| *name == stream) {
            return known.take(number, counts);
        }
        let mut sequence = Sequence::new(first.unwrap_or(number));
        sequence.take(number, counts);
        self.0.push((stream, sequence));
    }

    /// How many numbers above the highest received are missing, up to `last`. If nothing arrived in
    /// this stream, all numbers from `first` on are missing.
    pub fn missing(&self, stream: u32, last: u64, first: u64) -> u64 {
        let known = self.0.iter().find(|(name, _)| *name == stream);
        let next = known.map_or(first, |(_, sequence)| sequence.next);
        (last + 1).saturating_sub(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(first: Option<u64>, numbers: &[u64]) -> (Tracker, Counts) {
        let (mut tracker, mut counts) = (Tracker::default(), Counts::default());
        for number in numbers {
            tracker.take(0, *number, first, &mut counts);
        }
        (tracker, counts)
    }

    fn counts(events: u64, lost: i64, duplicated: u64, out_of_order: u64) -> Counts {
        Counts { events, lost, duplicated, out_of_order, gaps: 0 }
    }

    #[test]
    fn what_comes_in_order_is_only_counted() {
        assert_eq!(judge(None, &[5, 6, 7, 8]).1, counts(4, 0, 0, 0));
        assert_eq!(judge(Some(5), &[5, 6, 7, 8]).1, counts(4, 0, 0, 0));
    }

    #[test]
    fn a_jump_is_a_loss() {
        assert_eq!(judge(None, &[5, 8, 9, 200]).1, counts(4, 2 + 190, 0, 0));
        assert_eq!(judge(Some(1), &[5]).1, counts(1, 4, 0, 0));
    }

    #[test]
    fn a_late_number_is_not_lost_but_out_of_order() {
        assert_eq!(judge(None, &[1, 2, 4, 3, 5]).1, counts(5, 0, 0, 1));
        assert_eq!(judge(None, &[1, 4, 3, 2, 5]).1, counts(5, 0, 0, 2));
    }

    #[test]
    fn a_number_seen_twice_is_a_duplicate_however_old() {
        assert_eq!(judge(None, &[1, 2, 2, 1, 3]).1, counts(5, 0, 2, 0));
        let replay: Vec<u64> = (1..=100).chain([1]).collect();
        assert_eq!(judge(None, &replay).1, counts(101, 0, 1, 0));
        assert_eq!(judge(None, &[1, 3, 2, 2]).1, counts(4, 0, 1, 1));
    }

    #[test]
    fn streams_are_judged_apart() {
        let (mut tracker, mut total) = (Tracker::default(), Counts::default());
        for (stream, number) in [(1, 1), (2, 50), (1, 2), (2, 51), (1, 4)] {
            tracker.take(stream, number, None, &mut total);
        }
        assert_eq!(total, counts(5, 1, 0, 0));
        assert_eq!(tracker.missing(1, 6, 1), 2);
        assert_eq!(tracker.missing(2, 51, 1), 0);
        assert_eq!(tracker.missing(3, 7, 1), 7, "never heard of");
    }

    #[test]
    fn a_shift_by_the_whole_window_forgets_what_it_must() {
        assert_eq!(judge(None, &[1, 64, 2]).1, counts(3, 61, 0, 1));
        assert_eq!(judge(None, &[1, 65, 64]).1, counts(3, 62, 0, 1));
    }
}
