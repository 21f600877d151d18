//! How far each partition's events have come in this hub.

use std::time::Instant;

use sse_contract::EventId;

use crate::feed::clock::believable;

/// One partition's clock in this hub.
#[derive(Debug)]
pub(crate) struct Clock {
    /// The last position that the broker dispatched here; `None` while the broker is away. Every
    /// event at or below it, of the channels attached here, was handled or is of the run that is
    /// being handed out.
    pub dispatched: Option<EventId>,
    /// When the last tick arrived.
    ticked: Instant,
    /// Tokens of the connections that wait for a tick.
    pub ticking: Vec<u64>,
    /// Every strand of the partition is already due to read history once more, so another lag
    /// changes nothing.
    pub all_lagged: bool,
}

impl Clock {
    /// The clock of a partition from which nothing has come yet.
    pub(crate) fn new() -> Self {
        Clock { dispatched: None, ticked: Instant::now(), ticking: Vec::new(), all_lagged: false }
    }

    /// Whether an event's id rises within one epoch, as it must. If it does not, Redis has lost
    /// data or another server has taken over, and only history knows which events came in between.
    pub(crate) fn precedes(&self, id: EventId) -> bool {
        self.dispatched.is_none_or(|last| id.epoch() == last.epoch() && id > last)
    }

    /// Whether a tick follows on what was dispatched: a clock rises, or stands still.
    pub(crate) fn permits(&self, tick: EventId) -> bool {
        self.dispatched == Some(tick) || self.precedes(tick)
    }

    /// Takes in a tick.
    pub(crate) fn tick(&mut self, clock: EventId) {
        (self.dispatched, self.ticked) = (Some(clock), Instant::now());
    }

    /// The last position, if a read at `clock` can be of the same time. A read's clock far beyond
    /// the last tick is not believed; the join then waits for a tick that confirms it.
    pub(crate) fn confirms(&self, clock: EventId) -> Option<EventId> {
        self.dispatched.filter(|last| believable(*last, self.ticked, clock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_rises_within_its_epoch() {
        let id = |ms, epoch| EventId::new(ms, epoch, 0);
        let mut clock = Clock::new();
        assert!(clock.precedes(id(5, 1)), "nothing was dispatched yet");
        clock.tick(id(50, 1));
        assert!(clock.precedes(id(51, 1)) && clock.permits(id(51, 1)));
        assert!(!clock.precedes(id(50, 1)) && clock.permits(id(50, 1)), "it may stand still");
        for other in [id(49, 1), id(60, 2)] {
            assert!(!clock.precedes(other) && !clock.permits(other));
        }
        clock.tick(id(60, 2));
        assert_eq!(clock.confirms(id(60, 2)), Some(id(60, 2)));
        assert_eq!(clock.confirms(id(3_600_000, 2)), None);
    }
}
