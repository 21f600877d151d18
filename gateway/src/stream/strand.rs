//! What a stream has of one partition: its channels there, its position, and whether it is live.
//!
//! Ids of different partitions do not compare, so "complete or told" is a promise of each strand.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;
use sse_contract::{Channel, Cursor, EventId, Positions};

use crate::feed::frame::Began;
use crate::feed::gap::After;
use crate::stream::join::{Join, Output};

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

/// A stream's strands: one, nearly always.
///
/// The only strand's parts stand in these fields, and `aside` is `None` while it is live. So a
/// delivery to such a stream finds out with one test that it may write at once, and a stream of
/// several strands costs the others nothing.
#[derive(Debug)]
pub(crate) struct Strands {
    partition: u16,
    seen: EventId,
    memberships: Memberships,
    aside: Option<Box<Aside>>,
}

/// Why live events are not simply written.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is always in a box, and mostly the large one")]
enum Aside {
    /// The only strand joins.
    Joining(Joining),
    /// There are several strands. The fields of `Strands` say nothing.
    Several(Several),
}

/// The strands of a stream that has several.
#[derive(Debug)]
struct Several {
    /// How many partitions the broker has.
    partitions: u16,
    /// At least two, of different partitions.
    list: Box<[Strand]>,
    /// What the joins handed out before the stream is open; `None` once it is.
    opening: Option<Vec<(u16, Output)>>,
    /// Whether the opening checkpoint was handed out.
    greeted: bool,
}

/// One of several strands.
#[derive(Debug)]
struct Strand {
    partition: u16,
    seen: EventId,
    memberships: Memberships,
    /// `None` if the strand is live.
    joining: Option<Box<Joining>>,
}

/// What there is to know of one strand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    /// The number of the partition.
    pub partition: u16,
    /// Live events at or below this were sent or told missing. It only rises while the strand is
    /// live.
    pub seen: EventId,
    /// `None` if the strand is live.
    pub joining: Option<&'a Joining>,
    /// The strand's channels.
    pub memberships: &'a [Membership],
}

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

impl Strands {
    /// A strand that joins; its channels' memberships are still to come.
    pub(crate) fn of_one(partition: u16, joining: Joining) -> Self {
        let aside = Some(Box::new(Aside::Joining(joining)));
        Strands { partition, seen: EventId::ZERO, memberships: Memberships::None, aside }
    }

    /// At least two strands that join, each with its partition; their channels' memberships are still
    /// to come. `partitions` is how many partitions the broker has.
    pub(crate) fn of_several(
        partitions: u16,
        joining: impl IntoIterator<Item = (u16, Joining)>,
    ) -> Self {
        let strand = |(partition, joining)| Strand {
            partition,
            seen: EventId::ZERO,
            memberships: Memberships::None,
            joining: Some(Box::new(joining)),
        };
        let (list, opening) = (joining.into_iter().map(strand).collect(), Some(Vec::new()));
        let several = Several { partitions, list, opening, greeted: false };
        let (seen, memberships) = (EventId::ZERO, Memberships::None);
        let aside = Some(Box::new(Aside::Several(several)));
        Strands { partition: 0, seen, memberships, aside }
    }

    /// Each strand, by partition.
    pub(crate) fn iter(&self) -> impl Iterator<Item = View<'_>> {
        let (one, several) = match self.aside.as_deref() {
            None => (Some(None), None),
            Some(Aside::Joining(joining)) => (Some(Some(joining)), None),
            Some(Aside::Several(several)) => (None, Some(several)),
        };
        let one = one.map(|joining| View {
            partition: self.partition,
            seen: self.seen,
            joining,
            memberships: &self.memberships,
        });
        one.into_iter()
            .chain(several.into_iter().flat_map(|several| several.list.iter().map(View::of)))
    }

    /// The strand of a partition that the stream has a channel of.
    pub(crate) fn of(&self, partition: u16) -> View<'_> {
        match self.aside.as_deref() {
            Some(Aside::Several(several)) => View::of(several.strand(partition)),
            aside => View {
                partition: self.partition,
                seen: self.seen,
                joining: match aside {
                    Some(Aside::Joining(joining)) => Some(joining),
                    _ => None,
                },
                memberships: &self.memberships,
            },
        }
    }

    /// The partition's join; `None` if its strand is live.
    pub(crate) fn joining(&mut self, partition: u16) -> Option<&mut Joining> {
        match self.aside.as_deref_mut()? {
            Aside::Joining(joining) => Some(joining),
            Aside::Several(several) => several.strand_mut(partition).joining.as_deref_mut(),
        }
    }

    /// The joins of all strands that are not live.
    pub(crate) fn all_joining(&mut self) -> impl Iterator<Item = (u16, &mut Joining)> {
        let (one, several) = match self.aside.as_deref_mut() {
            None => (None, None),
            Some(Aside::Joining(joining)) => (Some((self.partition, joining)), None),
            Some(Aside::Several(several)) => (None, Some(several)),
        };
        let several = several.into_iter().flat_map(|several| several.list.iter_mut());
        let several = several.filter_map(|s| Some((s.partition, s.joining.as_deref_mut()?)));
        one.into_iter().chain(several)
    }

    /// The partition's strand joins from now on.
    pub(crate) fn leave_live(&mut self, partition: u16, joining: Joining) {
        match self.aside.as_deref_mut() {
            Some(Aside::Several(several)) => {
                several.strand_mut(partition).joining = Some(Box::new(joining));
            }
            _ => self.aside = Some(Box::new(Aside::Joining(joining))),
        }
    }

    /// The partition's strand is live from now on, above `seen`.
    pub(crate) fn go_live(&mut self, partition: u16, seen: EventId) {
        match self.aside.as_deref_mut() {
            Some(Aside::Several(several)) => {
                let strand = several.strand_mut(partition);
                (strand.joining, strand.seen) = (None, seen);
            }
            _ => (self.aside, self.seen) = (None, seen),
        }
    }

    /// The strand's channels.
    pub(crate) fn memberships(&mut self, partition: u16) -> &mut Memberships {
        match self.aside.as_deref_mut() {
            Some(Aside::Several(several)) => &mut several.strand_mut(partition).memberships,
            _ => &mut self.memberships,
        }
    }

    /// Live events at or below `seen` were sent or told missing.
    pub(crate) fn saw(&mut self, partition: u16, seen: EventId) {
        match self.aside.as_deref_mut() {
            Some(Aside::Several(several)) => several.strand_mut(partition).seen = seen,
            _ => self.seen = seen,
        }
    }

    /// The position of the only strand, if it is live.
    #[inline]
    pub(crate) fn live(&self) -> Option<EventId> {
        self.aside.is_none().then_some(self.seen)
    }

    /// Moves the position of the only strand, which is live.
    #[inline]
    pub(crate) fn wrote(&mut self, last: EventId) {
        self.seen = last;
    }

    /// Whether the stream has one channel.
    #[inline]
    pub(crate) fn has_one_channel(&self) -> bool {
        matches!(self.memberships, Memberships::One(_))
    }

    /// The stream's position, if it is at `position` in `partition`. In every other partition it is
    /// where the strand is now.
    pub(crate) fn cursor(&self, partition: u16, position: EventId) -> Cursor {
        match self.aside.as_deref() {
            Some(Aside::Several(several)) => several.cursor(|strand| match strand.partition {
                other if other == partition => Some(position),
                _ => strand.position(),
            }),
            _ => Cursor::One(position),
        }
    }

    /// The channels of a strand that joins; `None` if it is the only strand.
    pub(crate) fn among_others(&self, partition: u16) -> Option<&[Channel]> {
        let strand = self.several()?.strand(partition);
        strand.joining.as_ref().map(|joining| &*joining.channels)
    }

    /// Whether there are several strands, which need a cursor of their own behind each event.
    pub(crate) fn are_several(&self) -> bool {
        self.several().is_some()
    }

    /// Moves live strands to the positions up to which their partitions are dispatched. Without
    /// this, the position in a quiet partition would grow old beside a busy one. Does nothing to an
    /// only strand.
    pub(crate) fn advance(&mut self, dispatched: impl Fn(u16) -> Option<EventId>) {
        let Some(Aside::Several(several)) = self.aside.as_deref_mut() else { return };
        for strand in several.list.iter_mut().filter(|strand| strand.joining.is_none()) {
            strand.seen = strand.seen.max(dispatched(strand.partition).unwrap_or_default());
        }
    }

    /// Keeps what a join handed out while a stream of several strands is not open. Returns false,
    /// and keeps nothing, if it is open.
    pub(crate) fn keep(&mut self, partition: u16, outputs: &mut Vec<Output>) -> bool {
        let opening = self.several_mut().and_then(|several| several.opening.as_mut());
        let Some(opening) = opening else { return false };
        opening.extend(outputs.drain(..).map(|output| (partition, output)));
        true
    }

    /// The strands that have a position already in a stream of several that is not open. They do
    /// not read history yet, because what they read would have to be kept.
    pub(crate) fn begun(&self) -> SmallVec<[u16; 4]> {
        let opening = self.several().and_then(|several| several.opening.as_ref());
        let opened = |(partition, output): &(u16, Output)| {
            matches!(output, Output::Opened(..)).then_some(*partition)
        };
        opening.into_iter().flatten().filter_map(opened).collect()
    }

    /// Opens a stream of several strands if each has a position, or if `late`. Returns what the
    /// joins have handed out, in the order in which it is sent, with their partitions; `None` if
    /// the stream stays closed or was open.
    pub(crate) fn open(&mut self, late: bool) -> Option<Vec<(u16, Output)>> {
        let several = self.several_mut()?;
        let kept = several.opening.as_ref()?;
        let opened = kept.iter().filter(|(_, output)| matches!(output, Output::Opened(..))).count();
        if opened < several.list.len() && !late {
            return None;
        }
        several.opening.take().map(in_order)
    }

    /// Whether the opening checkpoint is still to be sent. Only the first call says so.
    pub(crate) fn greet(&mut self) -> bool {
        match self.several_mut() {
            Some(several) => !std::mem::replace(&mut several.greeted, true),
            None => true,
        }
    }

    fn several(&self) -> Option<&Several> {
        match self.aside.as_deref() {
            Some(Aside::Several(several)) => Some(several),
            _ => None,
        }
    }

    fn several_mut(&mut self) -> Option<&mut Several> {
        match self.aside.as_deref_mut() {
            Some(Aside::Several(several)) => Some(several),
            _ => None,
        }
    }
}

/// Puts what the joins of a stream handed out before it opened into the order in which it is sent:
/// the gaps before each strand's beginning, one opening checkpoint for all, and the rest. What the
/// client sent instead of a position is told once.
fn in_order(kept: Vec<(u16, Output)>) -> Vec<(u16, Output)> {
    let (mut before, mut opened, mut after) = (Vec::new(), None, Vec::new());
    let mut begun: Vec<u16> = Vec::new();
    for (partition, output) in kept {
        match output {
            Output::Opened(id, began) => {
                begun.push(partition);
                match &mut opened {
                    None => opened = Some((partition, Output::Opened(id, began))),
                    // A page that asked to resume was resumed if one strand was.
                    Some((_, Output::Opened(_, first))) if began == Began::After => *first = began,
                    Some(_) => {}
                }
            }
            Output::Gap(gap) if !begun.contains(&partition) => {
                let told = |(_, output): &(u16, Output)| matches!(output, Output::Gap(told) if told.after == gap.after);
                if !matches!(gap.after, After::Text(_)) || !before.iter().any(told) {
                    before.push((partition, Output::Gap(gap)));
                }
            }
            output => after.push((partition, output)),
        }
    }
    before.into_iter().chain(opened).chain(after).collect()
}

impl Several {
    fn strand(&self, partition: u16) -> &Strand {
        let found = self.list.iter().find(|strand| strand.partition == partition);
        found.expect("the stream has a channel of the partition")
    }

    fn strand_mut(&mut self, partition: u16) -> &mut Strand {
        let found = self.list.iter_mut().find(|strand| strand.partition == partition);
        found.expect("the stream has a channel of the partition")
    }

    fn cursor(&self, position: impl Fn(&Strand) -> Option<EventId>) -> Cursor {
        let positions = self.list.iter().filter_map(|s| Some((s.partition, position(s)?)));
        Cursor::Several(Positions::new(self.partitions, positions))
    }
}

impl Strand {
    /// Everything at or below this was handed out or told missing; `None` before the first
    /// position.
    fn position(&self) -> Option<EventId> {
        match &self.joining {
            None => Some(self.seen),
            Some(joining) => joining.join.position(),
        }
    }
}

impl<'a> View<'a> {
    fn of(strand: &'a Strand) -> Self {
        View {
            partition: strand.partition,
            seen: strand.seen,
            joining: strand.joining.as_deref(),
            memberships: &strand.memberships,
        }
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
    use crate::feed::gap::{Gap, GapReason};
    use crate::stream::join::{Limits, Start};

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

    fn strands(partitions: &[u16]) -> Strands {
        let limits = Limits { live_events: 9, live_bytes: 999 };
        let joining = || Joining::new(Join::new(Start::Now, limits).held_back(), [].into(), false);
        match partitions {
            [one] => Strands::of_one(*one, joining()),
            several => {
                Strands::of_several(8, several.iter().map(|partition| (*partition, joining())))
            }
        }
    }

    fn at(ms: u64) -> EventId {
        EventId::new(ms, 1, 0)
    }

    fn gap(reason: GapReason, ms: u64) -> Output {
        let after = match reason {
            GapReason::UnknownId => After::Text("?".into()),
            _ => After::Open,
        };
        let position = at(ms);
        Output::Gap(Box::new(Gap { position, channel: None, reason, after, oldest: None }))
    }

    fn told(outputs: Vec<(u16, Output)>) -> Vec<String> {
        let tell = |(partition, output): (u16, Output)| match output {
            Output::Gap(gap) => format!("{partition} {}", gap.reason.as_str()),
            Output::Opened(_, began) => format!("{partition} {began:?}"),
            other => format!("{partition} {other:?}"),
        };
        outputs.into_iter().map(tell).collect()
    }

    #[test]
    fn one_strand_is_where_its_events_are() {
        let mut strands = strands(&[5]);
        assert!(strands.live().is_none(), "it joins");
        assert!(!strands.keep(5, &mut vec![]) && !strands.are_several());
        strands.go_live(5, at(7));
        assert_eq!(strands.live(), Some(at(7)));
        strands.advance(|_| Some(at(9)));
        assert_eq!(strands.of(5).seen, at(7));
        assert_eq!(strands.cursor(5, at(8)), Cursor::One(at(8)));
    }

    #[test]
    fn a_stream_of_several_opens_when_each_has_a_position() {
        let mut strands = strands(&[2, 6]);
        assert!(strands.are_several() && strands.live().is_none());
        let unknown = |ms| gap(GapReason::UnknownId, ms);
        assert!(strands.keep(6, &mut vec![unknown(3), Output::Opened(at(3), Began::Now)]));
        assert_eq!((strands.begun().as_slice(), strands.open(false).is_none()), (&[6][..], true));
        let more = vec![unknown(4), Output::Opened(at(4), Began::After), gap(GapReason::Reset, 4)];
        assert!(strands.keep(2, &mut more.clone()));
        let outputs = strands.open(false).expect("each has a position");
        assert_eq!(told(outputs), ["6 unknown_id", "6 After", "2 reset"]);
        assert!(strands.open(true).is_none() && !strands.keep(2, &mut more.clone()), "it is open");
        assert!(strands.greet() && !strands.greet());
    }

    #[test]
    fn a_late_one_opens_with_what_there_is() {
        let mut strands = strands(&[2, 6]);
        assert!(strands.keep(6, &mut vec![Output::Opened(at(3), Began::Now)]));
        strands.go_live(6, at(3));
        assert_eq!(told(strands.open(true).expect("it opens")), ["6 Now"]);
        let Cursor::Several(positions) = strands.cursor(6, at(5)) else { panic!("two strands") };
        assert_eq!(
            (positions.of(6), positions.of(2), positions.partitions()),
            (Some(at(5)), None, 8)
        );
    }

    #[test]
    fn a_quiet_partition_keeps_up_with_its_clock() {
        let mut strands = strands(&[2, 6]);
        strands.go_live(2, at(3));
        strands.advance(|partition| Some(at(10 + u64::from(partition))));
        let Cursor::Several(positions) = strands.cursor(6, at(5)) else { panic!("two strands") };
        assert_eq!((positions.of(2), positions.of(6)), (Some(at(12)), Some(at(5))));
        let joining: Vec<u16> = strands.all_joining().map(|(partition, _)| partition).collect();
        assert_eq!(joining, [6]);
        strands.saw(2, at(20));
        let seen: Vec<_> = strands.iter().map(|strand| (strand.partition, strand.seen)).collect();
        assert_eq!(seen, [(2, at(20)), (6, EventId::ZERO)]);
    }
}
