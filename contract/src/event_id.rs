//! An event's id. One clock issues the ids of a partition, so ids of all its channels compare.

use std::fmt;
use std::str::FromStr;

/// An event's id, `<ms>-<seq>`, with `seq = epoch · 2^16 + counter`.
///
/// `ms` is Redis' Unix time in milliseconds and never goes back. `counter` distinguishes the events
/// of one millisecond. `epoch` names one unbroken life of the data: an id of another epoch proves
/// nothing about the events in between. Ids are ordered by `(ms, seq)`, as Redis orders stream
/// entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventId {
    /// Milliseconds since the Unix epoch.
    pub ms: u64,
    /// `epoch · 2^16 + counter`.
    pub seq: u64,
}

/// The text is not `<ms>-<seq>` in decimal, or a number is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event id is <milliseconds>-<sequence> in decimal, below {MAX_MS} and 2^44")]
pub struct EventIdError;

/// The limit of `ms`, in the year 5107; ids at or above it are rejected. A clock that followed such
/// an id would soon have more digits than the parsers read.
const MAX_MS: u64 = 99_000_000_000_000;
/// The limit of `seq`: 28 bits of epoch and 16 bits of counter.
const MAX_SEQ: u64 = 1 << 44;

impl EventId {
    /// The position below every event. `0-0` is never an event's id.
    pub const ZERO: EventId = EventId { ms: 0, seq: 0 };

    /// The position above every event.
    pub const MAX: EventId = EventId { ms: MAX_MS - 1, seq: MAX_SEQ - 1 };

    /// Builds an id from its three parts. `epoch` must be below 2^28.
    pub fn new(ms: u64, epoch: u32, counter: u16) -> Self {
        EventId { ms, seq: (u64::from(epoch) << 16) | u64::from(counter) }
    }

    /// The position just below this id in the same epoch. No other id of that epoch lies between.
    pub fn before(self) -> EventId {
        if self.seq & 0xFFFF == 0 {
            EventId { ms: self.ms.saturating_sub(1), seq: self.seq | 0xFFFF }
        } else {
            EventId { ms: self.ms, seq: self.seq - 1 }
        }
    }

    /// The number of the epoch that this id belongs to.
    pub fn epoch(self) -> u64 {
        self.seq >> 16
    }

    /// The id that a clock at `self` issues next, at the time `now_ms`. It takes the time if that
    /// has moved on, else the next counter, else the next millisecond. The epoch stays the same.
    pub fn next(self, now_ms: u64) -> EventId {
        let first = self.epoch() << 16;
        if now_ms > self.ms {
            EventId { ms: now_ms, seq: first }
        } else if self.seq < first | 0xFFFF {
            EventId { ms: self.ms, seq: self.seq + 1 }
        } else {
            EventId { ms: self.ms + 1, seq: first }
        }
    }
}

impl FromStr for EventId {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, EventIdError> {
        let (ms, seq) = text.split_once('-').ok_or(EventIdError)?;
        let number = |digits: &str, limit: u64| {
            let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let short = decimal && digits.len() <= 14;
            short.then(|| digits.parse().ok())?.filter(|n| *n < limit)
        };
        let ms = number(ms, MAX_MS).ok_or(EventIdError)?;
        let seq = number(seq, MAX_SEQ).ok_or(EventIdError)?;
        Ok(EventId { ms, seq })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_plain_form_is_an_id() {
        for text in [
            "",
            "1",
            "-",
            "1-",
            "-1",
            "+1-1",
            "1-1-1",
            "1-+1",
            " 1-1",
            "99000000000000-1",
            "1-17592186044416",
        ] {
            assert_eq!(text.parse::<EventId>(), Err(EventIdError), "{text:?}");
        }
    }

    #[test]
    fn the_clock_follows_time_then_counts() {
        let start = EventId::new(1000, 7, 0);
        assert_eq!(start.next(1001), EventId::new(1001, 7, 0));
        assert_eq!(start.next(900), EventId::new(1000, 7, 1));
        assert_eq!(EventId::new(1000, 7, 0xFFFF).next(1000), EventId::new(1001, 7, 0));
    }

    proptest! {
        #[test]
        fn text_and_back(ms in 0u64..MAX_MS, seq in 0u64..MAX_SEQ) {
            let id = EventId { ms, seq };
            prop_assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
        }

        #[test]
        fn next_is_above_and_keeps_the_epoch(ms in 1u64..1 << 40, epoch in 0u32..1 << 28, c: u16, now in 0u64..1 << 41) {
            let id = EventId::new(ms, epoch, c);
            prop_assert!(id.next(now) > id);
            prop_assert_eq!(id.next(now).epoch(), id.epoch());
            prop_assert!(id.before() < id && id.before().epoch() == id.epoch());
        }
    }
}
