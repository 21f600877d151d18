//! Judges a history: what every subscriber was sent, against what was published and what was broken.
//!
//! Ids of two partitions do not compare, so each stream is judged in each of its partitions alone.
//! Within a partition, epochs are ordered by their first known id: a new one always begins above
//! every id of the old one that anybody knew.

use std::collections::{BTreeMap, HashMap, HashSet};

use sse_contract::EventId;

use crate::payload::{MARKER, Stamp, channel_name};
use crate::tally::Wrong;
use crate::topology::history::{History, Publication, Seen, Told, What};

/// How much later than a client the rest may see an epoch.
const SEEN_MS: u64 = 2_000;

/// How much later than an epoch began the first id of it may be that anybody knows.
const BEGUN_MS: u64 = 1_000;

/// The judgement of a history.
#[derive(Debug, Default)]
pub struct Judgement {
    /// The violations, each with a text.
    pub wrongs: Vec<(Wrong, String)>,
    /// Events that came.
    pub events: u64,
    /// Acknowledged events that did not come, and that a gap told missing.
    pub told: u64,
    /// Events that came again after a reset had taken the position back, while there were two
    /// masters.
    pub again: u64,
    /// Publications that were two events, because Redis lost an idempotency key.
    pub repeated: u64,
    /// Gaps, by reason.
    pub gaps: BTreeMap<String, u64>,
}

/// Judges a history.
pub fn judge(history: &History) -> Judgement {
    let ground = Ground::of(history);
    let mut judgement = Judgement::default();
    for seen in &history.seen {
        for told in &seen.told {
            if let What::Odd(why) = &told.what {
                judgement.wrong(Wrong::Forged, seen, told.at_ms, why.clone());
            }
        }
        for partition in seen.partitions(&history.keys) {
            Strand { ground: &ground, seen, partition }.judge(&mut judgement);
        }
    }
    judgement
}

impl Judgement {
    fn wrong(&mut self, what: Wrong, seen: &Seen, at_ms: u64, text: String) {
        self.wrongs.push((what, format!("{} at {at_ms}: {text}", seen.name)));
    }
}

/// What holds for all streams.
struct Ground<'a> {
    history: &'a History,
    /// By partition and epoch: its lowest known id.
    epochs: HashMap<(u16, u64), EventId>,
    /// By channel: the acknowledged events.
    acked: HashMap<u16, Vec<(Stamp, EventId)>>,
}

impl<'a> Ground<'a> {
    fn of(history: &'a History) -> Self {
        let (mut epochs, mut acked) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
        let mut meet = |partition, id: EventId| {
            let first = epochs.entry((partition, id.epoch())).or_insert(id);
            *first = id.min(*first);
        };
        for (stamp, publication) in &history.publications {
            for ack in &publication.acked {
                meet(history.partition(stamp.channel), ack.id);
                acked.entry(stamp.channel).or_default().push((*stamp, ack.id));
            }
        }
        let told = history.seen.iter().flat_map(|seen| &seen.told);
        told.flat_map(|told| &told.positions).for_each(|(partition, id)| meet(*partition, *id));
        Ground { history, epochs, acked }
    }

    fn publication(&self, stamp: Stamp) -> Option<&Publication> {
        self.history.publications.get(&stamp)
    }

    /// Whether the partition's epoch may have ended between these times.
    fn may_end(&self, partition: u16, from_ms: u64, to_ms: u64) -> bool {
        let windows = &self.history.windows;
        windows.iter().any(|w| w.ends_epoch && w.touches(partition, from_ms, to_ms))
    }

    /// Whether the partition may have had two masters between these times.
    fn may_split(&self, partition: u16, from_ms: u64, to_ms: u64) -> bool {
        let windows = &self.history.windows;
        windows.iter().any(|w| w.splits && w.touches(partition, from_ms, to_ms))
    }

    /// The order of epochs in a partition.
    fn rank(&self, partition: u16, epoch: u64) -> EventId {
        self.epochs.get(&(partition, epoch)).copied().unwrap_or(EventId::ZERO)
    }
}

/// One stream in one partition.
struct Strand<'a> {
    ground: &'a Ground<'a>,
    seen: &'a Seen,
    partition: u16,
}

/// A gap of this strand.
#[derive(Clone, Copy)]
struct Gap<'a> {
    at_ms: u64,
    open: usize,
    channels: &'a [u16],
    reason: &'a str,
    after: Option<EventId>,
    oldest: Option<EventId>,
}

fn is_whole(gap: &Gap<'_>) -> bool {
    matches!(gap.reason, "reset" | "unknown_id")
}

/// What a strand went through.
#[derive(Default)]
struct Walk<'a> {
    /// The first position, with its time and connection.
    first: Option<(EventId, u64, usize)>,
    position: Option<EventId>,
    /// Each epoch, its lowest and its highest position, and when it was entered first.
    visits: Vec<(u64, EventId, EventId, u64)>,
    /// The events, each with the time at which it came first.
    came: HashMap<(EventId, Stamp), u64>,
    /// The events of each publication.
    ids: HashMap<Stamp, EventId>,
    /// The highest number of each publisher on each channel.
    numbers: HashMap<(u16, u16), u32>,
    gaps: Vec<Gap<'a>>,
    /// The connection of the last event.
    heard: Option<usize>,
}

impl<'a> Strand<'a> {
    fn judge(&self, judgement: &mut Judgement) {
        let mut walk = Walk::default();
        for told in &self.seen.told {
            if let Some(gap) = self.gap(told) {
                *judgement.gaps.entry(gap.reason.to_owned()).or_default() += 1;
                if let Err(why) = self.judge_gap(&gap, &walk) {
                    let text = format!(
                        "partition {}: {} after {:?}: {why}",
                        self.partition,
                        gap.reason,
                        gap.after.map(|id| id.to_string()),
                    );
                    judgement.wrong(Wrong::FalseGap, self.seen, told.at_ms, text);
                }
                walk.gaps.push(gap);
            }
            let position = told.positions.iter().find(|(p, _)| *p == self.partition);
            let Some((_, id)) = position else {
                if matches!(told.what, What::Event(stamp) if self.owns(stamp.channel)) {
                    let text = "an event without an id".to_owned();
                    judgement.wrong(Wrong::Forged, self.seen, told.at_ms, text);
                }
                continue;
            };
            match told.what {
                What::Event(stamp) if self.owns(stamp.channel) => {
                    self.event(stamp, *id, told, &mut walk, judgement);
                }
                _ => self.stands(*id, told, &walk, judgement),
            }
            self.step(*id, told, &mut walk, judgement);
        }
        self.judge_missing(&walk, judgement);
    }

    fn owns(&self, channel: u16) -> bool {
        self.ground.history.partition(channel) == self.partition
    }

    fn gap(&self, told: &'a Told) -> Option<Gap<'a>> {
        match &told.what {
            What::Gap { channels, reason, after, oldest }
                if channels.iter().any(|channel| self.owns(*channel)) =>
            {
                let (at_ms, open) = (told.at_ms, told.open);
                let (after, oldest) = (*after, *oldest);
                Some(Gap { at_ms, open, channels, reason, after, oldest })
            }
            _ => None,
        }
    }

    fn event(
        &self,
        stamp: Stamp,
        id: EventId,
        told: &Told,
        walk: &mut Walk<'_>,
        judgement: &mut Judgement,
    ) {
        judgement.events += 1;
        let Judgement { wrongs, again, repeated, .. } = judgement;
        let mut wrong = |what, text: String| {
            let name = channel_name(stamp.channel);
            let head = format!("{} at {}", self.seen.name, told.at_ms);
            wrongs.push((what, format!("{head}: {stamp:?} of {name}, {id}: {text}")));
        };
        let Some(publication) = self.ground.publication(stamp) else {
            return wrong(Wrong::Forged, "nobody published it".to_owned());
        };
        walk.heard = Some(told.open);
        let from_ms = publication.sent_ms;
        // A repeat is another event where Redis has lost the key, but only then, and never one of a
        // publication without a key. A gateway repeats those with a key by itself.
        let repeats =
            stamp.key().is_some() && self.ground.may_end(self.partition, from_ms, told.at_ms);
        let known = publication.acked.iter().any(|ack| ack.id == id);
        if !known && !publication.doubted && !repeats {
            wrong(Wrong::Forged, "the publisher was answered another id".to_owned());
        }
        if let Some(before_ms) = walk.came.insert((id, stamp), told.at_ms) {
            let back = |gap: &Gap<'_>| gap.reason == "reset" && gap.at_ms >= before_ms;
            let split = self.ground.may_split(self.partition, from_ms, told.at_ms);
            match walk.gaps.iter().any(back) && split {
                true => *again += 1,
                false => wrong(Wrong::Duplicated, format!("it came before, at {before_ms}")),
            }
            return;
        }
        if let Some(other) = walk.ids.insert(stamp, id) {
            match repeats {
                true => *repeated += 1,
                false => wrong(Wrong::Duplicated, format!("it came before, as {other}")),
            }
            return;
        }
        let out = |gap: &&Gap<'_>| {
            let of = gap.after.is_some_and(|after| after.epoch() == id.epoch());
            gap.reason == "reset" && gap.open == told.open && of && gap.at_ms < from_ms
        };
        if let Some(gap) = walk.gaps.iter().find(out)
            && !self.ground.may_split(self.partition, gap.at_ms, told.at_ms)
        {
            wrong(Wrong::FalseGap, "a reset was told out of its epoch, which goes on".to_owned());
        }
        if let Some(at) = walk.position.filter(|at| at.epoch() == id.epoch() && *at >= id) {
            if self.was_reset(walk) {
                *again += 1;
            } else {
                wrong(Wrong::Disorder, format!("it is not above the position {at}"));
            }
        }
        // Nobody knows when an attempt of unknown outcome happened, so it has no place in the order.
        if !publication.doubted && stamp.publisher != MARKER {
            let highest = walk.numbers.entry((stamp.publisher, stamp.channel)).or_default();
            if *highest >= stamp.seq {
                let text = format!("it came behind number {highest} of its publisher");
                wrong(Wrong::Disorder, text);
            }
            *highest = stamp.seq.max(*highest);
        }
    }

    /// Whether a reset may have taken the position back: only while there were two masters.
    fn was_reset(&self, walk: &Walk<'_>) -> bool {
        let back = |gap: &Gap<'_>| {
            gap.reason == "reset"
                && self.ground.may_split(self.partition, gap.at_ms.saturating_sub(1), gap.at_ms)
        };
        walk.gaps.last().is_some_and(back)
    }

    /// Checks a position that is no event's.
    fn stands(&self, id: EventId, told: &Told, walk: &Walk<'_>, judgement: &mut Judgement) {
        let behind = walk.position.is_some_and(|at| at.epoch() == id.epoch() && id < at);
        if behind && !self.was_reset(walk) {
            let text = format!("the position went back from {:?} to {id}", walk.position);
            judgement.wrong(Wrong::Disorder, self.seen, told.at_ms, text);
        }
    }

    fn step(&self, id: EventId, told: &Told, walk: &mut Walk<'_>, judgement: &mut Judgement) {
        let epoch = id.epoch();
        match walk.position {
            None => walk.first = Some((id, told.at_ms, told.open)),
            Some(before) if before.epoch() != epoch => {
                // A reset is told once, and covers everything up to the clock of that moment. So the
                // epoch needs none of its own if it had begun when the connection's reset was told.
                // Between the two, events of others may come: a server that went back in time, or
                // was empty, takes events before a gateway finds it.
                let begun = self.ground.rank(self.partition, epoch);
                let is_told = |gap: &Gap<'_>| {
                    let of = gap.after.is_none_or(|after| after.epoch() == before.epoch());
                    is_whole(gap)
                        && (of || (gap.open == told.open && begun.ms <= gap.at_ms + BEGUN_MS))
                };
                if !walk.gaps.iter().any(is_told) {
                    let text =
                        format!("from {before} to {id} without a reset{}", self.before(told));
                    judgement.wrong(Wrong::Untold, self.seen, told.at_ms, text);
                }
            }
            Some(_) => {}
        }
        match walk.visits.iter_mut().find(|(visited, ..)| *visited == epoch) {
            Some((_, low, high, _)) => (*low, *high) = (id.min(*low), id.max(*high)),
            None => walk.visits.push((epoch, id, id, told.at_ms)),
        }
        walk.position = Some(id);
    }

    /// The error says why the gap is false.
    fn judge_gap(&self, gap: &Gap<'_>, walk: &Walk<'_>) -> Result<(), String> {
        let since = |id: EventId| self.ground.may_end(self.partition, id.ms, gap.at_ms);
        match (gap.reason, gap.after) {
            ("late", _) => self.judge_late(gap, walk),
            ("reset" | "unknown_id", Some(after)) => match since(after) {
                true => self.judge_number(gap, after, walk),
                false => Err("nothing ended its epoch since then".to_owned()),
            },
            // Histories are long and live long in these runs.
            _ => Err("nothing was ever removed".to_owned()),
        }
    }

    /// A connection is told of an epoch's end once for each epoch that began since.
    fn judge_number(&self, gap: &Gap<'_>, after: EventId, walk: &Walk<'_>) -> Result<(), String> {
        let alike = |other: &&Gap<'_>| {
            let of = other.after.is_some_and(|other| other.epoch() == after.epoch());
            is_whole(other) && other.open == gap.open && of
        };
        let told = 1 + walk.gaps.iter().filter(alike).count();
        let rank = self.ground.rank(self.partition, after.epoch());
        let later = self.ground.epochs.iter().filter(|((partition, _), first)| {
            *partition == self.partition && **first > rank && first.ms <= gap.at_ms + SEEN_MS
        });
        let later = later.count();
        // Between two masters a client may be led from one to the other and back.
        match told <= later || self.ground.may_split(self.partition, after.ms, gap.at_ms) {
            true => Ok(()),
            false => Err(format!("it is told {told} times, and {later} epochs began since")),
        }
    }

    fn judge_late(&self, gap: &Gap<'_>, walk: &Walk<'_>) -> Result<(), String> {
        let open = self.seen.opens.get(gap.open).ok_or("it came before the stream")?;
        if open.known.contains(&self.partition) {
            return Err("the client came with a position".to_owned());
        }
        if walk.heard == Some(gap.open) {
            return Err("the stream has sent events of it".to_owned());
        }
        let windows = &self.ground.history.windows;
        let away = windows.iter().any(|w| w.keeps_away(self.partition, open.at_ms, gap.at_ms));
        away.then_some(()).ok_or_else(|| "its partition was there".to_owned())
    }

    /// Every acknowledged event has come, or was told missing.
    fn judge_missing(&self, walk: &Walk<'_>, judgement: &mut Judgement) {
        let Some((first, _, open)) = walk.first else { return };
        let came: HashSet<EventId> = walk.came.keys().map(|(id, _)| *id).collect();
        let own = self.seen.channels.iter().filter(|channel| self.owns(**channel));
        for (stamp, id) in own.filter_map(|channel| self.ground.acked.get(channel)).flatten() {
            if came.contains(id) || !self.is_owed(*stamp, *id, first, open, walk) {
                continue;
            }
            match walk.gaps.iter().any(|gap| self.covers(gap, *stamp, *id, walk)) {
                true => judgement.told += 1,
                false => {
                    let at_ms = self.ground.publication(*stamp).map_or(0, |p| p.last_sent_ms);
                    let text = format!(
                        "{stamp:?} of {}, {id}, partition {}: it neither came nor was told \
                         missing{}",
                        channel_name(stamp.channel),
                        self.partition,
                        self.around(*id),
                    );
                    judgement.wrong(Wrong::Lost, self.seen, at_ms, text);
                }
            }
        }
    }

    /// Whether the stream should have been sent an event, or told of it.
    fn is_owed(
        &self,
        stamp: Stamp,
        id: EventId,
        first: EventId,
        open: usize,
        walk: &Walk<'_>,
    ) -> bool {
        let rank = |epoch| self.ground.rank(self.partition, epoch);
        let left = walk.visits.iter().map(|(epoch, ..)| *epoch).max_by_key(|epoch| rank(*epoch));
        let high = |epoch| walk.visits.iter().find(|v| v.0 == epoch).map(|v| v.2);
        // What happened after the session's end is not owed. (One that lasts until the end of the run
        // has every channel's last event then, or is stuck.)
        if let Some(left) = left
            && (rank(id.epoch()) > rank(left) || (left == id.epoch() && high(left) < Some(id)))
        {
            return false;
        }
        if id.epoch() == first.epoch() && id > first {
            return true;
        }
        if rank(id.epoch()) > rank(first.epoch()) {
            return true;
        }
        // Who has read the head is subscribed, whatever the first position is.
        let head_ms = self.seen.opens.get(open).and_then(|open| open.head_ms);
        let sent_ms = self.ground.publication(stamp).map_or(0, |p| p.sent_ms);
        id.epoch() == first.epoch() && head_ms.is_some_and(|head_ms| sent_ms > head_ms)
    }

    /// Whether a gap says that this event may be missing.
    fn covers(&self, gap: &Gap<'_>, stamp: Stamp, id: EventId, walk: &Walk<'_>) -> bool {
        if !gap.channels.contains(&stamp.channel) {
            return false;
        }
        let rank = |epoch| self.ground.rank(self.partition, epoch);
        let Some(after) = gap.after else {
            // `late`: everything up to the first position.
            return walk
                .first
                .is_some_and(|(first, ..)| id.epoch() == first.epoch() && id <= first);
        };
        let known_ms = self
            .ground
            .publication(stamp)
            .and_then(|p| p.acked.iter().find(|ack| ack.id == id))
            .map_or(0, |ack| ack.known_ms);
        match gap.reason {
            "reset" | "unknown_id" if after.epoch() == id.epoch() => {
                // What a deposed master acknowledges later is lost with its epoch. An event below the
                // position had been sent, unless two masters gave out ids at the same time.
                id > after || self.ground.may_split(self.partition, known_ms, gap.at_ms)
            }
            // An epoch that the stream left out, or whose beginning it was not sent.
            "reset" | "unknown_id" => {
                let entered = walk.visits.iter().find(|v| v.0 == id.epoch()).map(|v| v.1);
                let left_out = entered.is_none_or(|low| id <= low);
                rank(after.epoch()) < rank(id.epoch())
                    && (left_out || self.bridges(gap, id.epoch(), walk))
            }
            _ => {
                id.epoch() == after.epoch()
                    && id > after
                    && gap.oldest.is_none_or(|oldest| id < oldest)
            }
        }
    }

    /// Whether a gap covers all of an epoch, because that was over when the gap was told. A reset is
    /// told once, and covers everything up to the clock of that moment, also between the events that
    /// come after it.
    fn bridges(&self, gap: &Gap<'_>, epoch: u64, walk: &Walk<'_>) -> bool {
        let rank = |epoch| self.ground.rank(self.partition, epoch);
        let is_over = self.ground.epochs.iter().any(|((partition, _), first)| {
            *partition == self.partition && *first > rank(epoch) && first.ms <= gap.at_ms
        });
        let entered = walk.visits.iter().find(|v| v.0 == epoch).map(|v| v.3);
        is_whole(gap)
            && gap.after.is_some_and(|after| rank(after.epoch()) < rank(epoch))
            && entered.is_none_or(|entered_ms| gap.at_ms <= entered_ms)
            && is_over
    }

    /// The blocks up to one, for a report.
    fn before(&self, last: &Told) -> String {
        let place = self.seen.told.iter().position(|told| std::ptr::eq(told, last)).unwrap_or(0);
        let lines = self.seen.told[place.saturating_sub(16)..=place].iter().map(|told| {
            let at = told.positions.iter().find(|(p, _)| *p == self.partition).map(|(_, id)| *id);
            let at = at.map_or("no position".to_owned(), |at| at.to_string());
            format!("\n    {} on {} at {at}: {:?}", told.at_ms, told.open, told.what)
        });
        format!("{}\n    connections {:?}", lines.collect::<String>(), self.seen.opens)
    }

    /// The blocks before and behind an id, for a report.
    fn around(&self, id: EventId) -> String {
        let here = |told: &Told| {
            let own = told.positions.iter().find(|(p, _)| *p == self.partition).map(|(_, id)| *id);
            own.filter(|own| own.epoch() == id.epoch())
        };
        let next = self.seen.told.iter().position(|told| here(told).is_some_and(|at| at > id));
        let next = next.unwrap_or(self.seen.told.len());
        let mut text = String::new();
        for told in &self.seen.told[next.saturating_sub(4)..self.seen.told.len().min(next + 3)] {
            let at = here(told).map_or("elsewhere".to_owned(), |at| at.to_string());
            text += &format!("\n    {} on {} at {at}: {:?}", told.at_ms, told.open, told.what);
        }
        text
    }
}
