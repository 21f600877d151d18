//! What a stream has of one partition: its channels there, its position, and whether it is live.
//!
//! Ids of different partitions do not compare, so "complete or told" is a promise of each strand.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;
use sse_contract::{Channel, EventId};

use crate::stream::join::Join;

/// A stream's place in one channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Membership {
    /// The channel's index in the hub.
    pub channel: u32,
    /// The stream's index in the channel's list of subscribers.
    pub place: u32,
}

/// The channels of a strand. One takes no memory of its own, because nearly every strand has one.
#[derive(Debug)]
pub(crate) enum Memberships {
    /// None yet.
    None,
    /// One.
    One(Membership),
    /// Several, in the order in which the client named them.
    Several(Box<SmallVec<[Membership; 4]>>),
}

/// A stream's part in one partition.
#[derive(Debug)]
pub(crate) struct Strand {
    /// The number of the partition.
    pub partition: u16,
    /// Live events at or below this were sent or told missing. It only rises while the strand is
    /// live.
    pub seen: EventId,
    /// `None` if the strand is live.
    pub joining: Option<Box<Joining>>,
    pub memberships: Memberships,
}

/// A stream's strands. There is one partition, so a stream has one.
pub(crate) type Strands = [Strand; 1];

/// The state that only a joining strand has.
#[derive(Debug)]
pub(crate) struct Joining {
    pub join: Join,
    pub channels: Arc<[Channel]>,
    /// How many channels are not attached yet.
    pub unattached: usize,
    /// The position of a read that waits for room in the outbox.
    pub held: Option<EventId>,
    /// The number of the read under way.
    pub read_number: u32,
    /// What the metrics tell of the join.
    pub replay: Replay,
}

/// How far a join has come, for the metrics.
#[derive(Debug)]
pub(crate) struct Replay {
    /// Whether the strand was live before.
    pub lagged: bool,
    pub began: Instant,
    /// Events handed out.
    pub events: u64,
    /// Whether a gap was handed out.
    pub gap: bool,
}

impl Memberships {
    /// Adds a channel.
    pub(crate) fn push(&mut self, membership: Membership) {
        match self {
            Memberships::None => *self = Memberships::One(membership),
            Memberships::One(first) => {
                *self = Memberships::Several(Box::new([*first, membership].into_iter().collect()));
            }
            Memberships::Several(all) => all.push(membership),
        }
    }
}

impl Deref for Memberships {
    type Target = [Membership];

    fn deref(&self) -> &[Membership] {
        match self {
            Memberships::None => &[],
            Memberships::One(one) => std::slice::from_ref(one),
            Memberships::Several(all) => all,
        }
    }
}

impl DerefMut for Memberships {
    fn deref_mut(&mut self) -> &mut [Membership] {
        match self {
            Memberships::None => &mut [],
            Memberships::One(one) => std::slice::from_mut(one),
            Memberships::Several(all) => all,
        }
    }
}

impl Strand {
    /// A strand that joins, with its channels' memberships still to come.
    pub(crate) fn joining(partition: u16, join: Join, channels: Arc<[Channel]>) -> Self {
        let (seen, memberships) = (EventId::ZERO, Memberships::None);
        let joining = Some(Box::new(Joining::new(join, channels, false)));
        Strand { partition, seen, joining, memberships }
    }
}

impl Joining {
    /// A join that has not begun to read. Every channel counts as attached. `lagged` says whether
    /// the strand was live before.
    pub(crate) fn new(join: Join, channels: Arc<[Channel]>, lagged: bool) -> Self {
        let replay = Replay { lagged, began: Instant::now(), events: 0, gap: false };
        Joining { join, channels, unattached: 0, held: None, read_number: 0, replay }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_keep_their_order_however_many_they_are() {
        let mut memberships = Memberships::None;
        for n in 0..9 {
            assert_eq!(memberships.len(), n as usize);
            memberships.push(Membership { channel: n, place: 0 });
        }
        memberships.iter_mut().for_each(|membership| membership.place = membership.channel + 1);
        let all: Vec<(u32, u32)> = memberships.iter().map(|m| (m.channel, m.place)).collect();
        assert_eq!(all, (0..9).map(|n| (n, n + 1)).collect::<Vec<_>>());
    }
}
