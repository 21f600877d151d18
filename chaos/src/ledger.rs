//! What publishers published, by their own account. Subscribers are judged by it.
//!
//! All times are the suite's own. An id's milliseconds are no time here, because faults set Redis'
//! clock back and forth.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{SystemTime, UNIX_EPOCH};

use sse_contract::EventId;

use crate::payload::Stamp;

/// Unix time in milliseconds, by the suite's clock.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// An acknowledged event.
#[derive(Debug, Clone, Copy)]
pub struct Acked {
    /// The publication.
    pub stamp: Stamp,
    /// The channel of the event.
    pub channel: u16,
    /// When the publication was first sent; the event did not happen before.
    pub sent_ms: u64,
    /// When the publisher was answered; the event did not happen after.
    pub known_ms: u64,
}

/// A publication of unknown outcome: it may have become an event between these times.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    from_ms: u64,
    to_ms: u64,
}

/// Every publication that was sent, acknowledged or received.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The run's seed, from which payloads are derived.
    pub seed: u64,
    /// When each publication was first sent.
    attempted: HashMap<Stamp, u64>,
    /// Acknowledged events by channel. Two versions of the data may issue one id twice.
    acked: HashMap<u16, BTreeMap<(EventId, Stamp), Acked>>,
    /// All known ids of a channel, acknowledged or received, and since when each is known.
    events: HashMap<u16, BTreeMap<EventId, u64>>,
    /// The ids of each publication in the order in which they were learnt, and when. Normally one
    /// per channel.
    by_stamp: HashMap<Stamp, Vec<(EventId, u64)>>,
    by_id: HashMap<EventId, Stamp>,
    /// Ids that were two events, and when the second was learnt.
    pub clashes: Vec<(EventId, Stamp, Stamp, u64)>,
    /// Publications of unknown outcome, by channel.
    doubts: HashMap<u16, Vec<Doubt>>,
    /// Epochs in the order in which they were first seen, and when.
    epochs: Vec<(u64, u64)>,
    /// How many plain texts were sent to each channel.
    raw: HashMap<u16, u32>,
    twice: HashSet<EventId>,
    /// The rising milliseconds of ids, each with the time at which an id exceeded all earlier ones.
    clocks: Vec<(u64, u64)>,
    /// The rising ids of each epoch, each with the time at which it exceeded all earlier ones.
    heights: HashMap<u64, Vec<(u64, EventId)>>,
    /// The last acknowledged event, and when it was acknowledged.
    pub latest: Option<(EventId, u64)>,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(seed: u64) -> Self {
        Ledger { seed, ..Ledger::default() }
    }

    /// Notes that a publication is about to be sent, for the first time or again.
    pub fn sending(&mut self, stamp: Stamp) {
        self.attempted.entry(stamp).or_insert_with(now_ms);
    }

    /// When a publication was first sent.
    pub fn sent_ms(&self, stamp: Stamp) -> Option<u64> {
        self.attempted.get(&stamp).copied()
    }

    /// Notes that a publication was acknowledged on one of its channels.
    pub fn acknowledged(&mut self, stamp: Stamp, channel: u16, id: EventId) {
        let known_ms = now_ms();
        let sent_ms = self.sent_ms(stamp).unwrap_or(known_ms);
        let acked = Acked { stamp, channel, sent_ms, known_ms };
        self.acked.entry(channel).or_default().insert((id, stamp), acked);
        self.events.entry(channel).or_default().entry(id).or_insert(known_ms);
        self.latest = Some((id, known_ms));
        self.identify(id, stamp, known_ms);
    }

    /// Whether a publication is known to be an event on each of its channels.
    pub fn is_acked(&self, stamp: Stamp) -> bool {
        let on = |channel: &u16| {
            let known = self.by_stamp.get(&stamp).into_iter().flatten();
            let acked = self.acked.get(channel);
            known
                .into_iter()
                .any(|(id, _)| acked.is_some_and(|acked| acked.contains_key(&(*id, stamp))))
        };
        stamp.channels().iter().all(on)
    }

    /// The channel of an event, if known. The payload of a publication to several channels does not
    /// say which one the event is on.
    pub fn channel_of(&self, id: EventId, stamp: Stamp) -> Option<u16> {
        let acked = |channel: &&u16| {
            self.acked.get(channel).is_some_and(|acked| acked.contains_key(&(id, stamp)))
        };
        match stamp.channels() {
            [only] => Some(*only),
            several => several.iter().find(acked).copied(),
        }
    }

    /// Notes that a request ended without an outcome for a publication.
    pub fn doubted(&mut self, stamp: Stamp, from_ms: u64) {
        let to_ms = now_ms();
        for channel in stamp.channels() {
            self.doubts.entry(*channel).or_default().push(Doubt { from_ms, to_ms });
        }
    }

    /// Whether a publication of unknown outcome may have become an event of this channel between
    /// these times.
    pub fn doubtful(&self, channel: u16, from_ms: u64, to_ms: u64) -> bool {
        let doubts = self.doubts.get(&channel).into_iter().flatten();
        doubts.into_iter().any(|doubt| doubt.from_ms <= to_ms && from_ms <= doubt.to_ms)
    }

    /// Notes a received event. The error says what is wrong with it.
    pub fn received(&mut self, id: EventId, data: &str) -> Result<Stamp, String> {
        let stamp = Stamp::read(data).ok_or_else(|| format!("{id} holds {:?}", cut(data)))?;
        if !self.attempted.contains_key(&stamp) {
            return Err(format!("{id} holds {stamp:?}, which nobody published"));
        }
        if stamp.text(self.seed) != data {
            return Err(format!("{id} holds {stamp:?} with another text: {:?}", cut(data)));
        }
        let now = now_ms();
        if let [channel] = stamp.channels() {
            self.events.entry(*channel).or_default().entry(id).or_insert(now);
        }
        self.identify(id, stamp, now);
        Ok(stamp)
    }

    fn identify(&mut self, id: EventId, stamp: Stamp, now: u64) {
        self.epoch_seen(id.epoch());
        if self.clocks.last().is_none_or(|(_, ms)| *ms < id.ms) {
            self.clocks.push((now, id.ms));
        }
        let heights = self.heights.entry(id.epoch()).or_default();
        if heights.last().is_none_or(|(_, height)| *height < id) {
            heights.push((now, id));
        }
        match self.by_id.insert(id, stamp) {
            Some(was) if was == stamp => return,
            Some(was) => {
                self.twice.insert(id);
                self.clashes.push((id, was, stamp, now));
            }
            None => {}
        }
        let ids = self.by_stamp.entry(stamp).or_default();
        if ids.iter().all(|(known, _)| *known != id) {
            ids.push((id, now));
        }
    }

    /// Notes that an id of this epoch was seen.
    pub fn epoch_seen(&mut self, epoch: u64) {
        if self.epochs.iter().rev().all(|(known, _)| *known != epoch) {
            self.epochs.push((epoch, now_ms()));
        }
    }

    /// When an epoch was first seen.
    pub fn epoch_began_ms(&self, epoch: u64) -> Option<u64> {
        self.epochs.iter().find(|(known, _)| *known == epoch).map(|(_, ms)| *ms)
    }

    /// Epochs in the order in which they were first seen, and when.
    pub fn epochs(&self) -> &[(u64, u64)] {
        &self.epochs
    }

    /// The acknowledged events of a channel.
    pub fn acked_on(&self, channel: u16) -> impl Iterator<Item = (EventId, &Acked)> + '_ {
        self.acked.get(&channel).into_iter().flatten().map(|((id, _), acked)| (*id, acked))
    }

    /// Whether an id was two events. An id in a history then does not say which of the two is
    /// there.
    pub fn was_two(&self, id: EventId) -> bool {
        self.twice.contains(&id)
    }

    /// Whether an id above this one was known in its epoch at that time. Then this id was issued in
    /// another version of the data, or again.
    pub fn was_passed(&self, id: EventId, at_ms: u64) -> bool {
        let Some(heights) = self.heights.get(&id.epoch()) else { return false };
        let place = heights.partition_point(|(known_ms, _)| *known_ms < at_ms);
        place.checked_sub(1).is_some_and(|n| heights[n].1 > id)
    }

    /// Known ids of a channel strictly between two ids, and since when each is known.
    pub fn known_between(
        &self,
        channel: u16,
        after: EventId,
        below: Option<EventId>,
    ) -> impl Iterator<Item = (EventId, u64)> + '_ {
        let below = below.map_or(Unbounded, Excluded);
        let sound = !matches!(below, Excluded(below) if below <= after);
        let ids = self.events.get(&channel).filter(|_| sound);
        ids.into_iter()
            .flat_map(move |ids| ids.range((Excluded(after), below)))
            .map(|(id, ms)| (*id, *ms))
    }

    /// The highest milliseconds of an id learnt up to this time, which Redis' clock had reached.
    pub fn clock_ms(&self, upto_ms: u64) -> u64 {
        let place = self.clocks.partition_point(|(at, _)| *at <= upto_ms);
        place.checked_sub(1).map_or(0, |n| self.clocks[n].1)
    }

    /// Whether the id is known as an event of the channel.
    pub fn is_event(&self, channel: u16, id: EventId) -> bool {
        let ambiguous = self.by_id.get(&id).is_some_and(|s| s.channels().contains(&channel));
        ambiguous || self.events.get(&channel).is_some_and(|ids| ids.contains_key(&id))
    }

    /// When the highest known id at or below this one was learnt; 0 if there is none.
    pub fn learnt_ms(&self, channel: u16, upto: EventId) -> u64 {
        let ids = self.events.get(&channel);
        ids.and_then(|ids| ids.range(..=upto).next_back()).map_or(0, |(_, ms)| *ms)
    }

    /// A new plain text, which is about to be sent to a channel.
    pub fn raw(&mut self, channel: u16) -> String {
        let count = self.raw.entry(channel).or_default();
        *count += 1;
        format!("raw {channel} {count}")
    }

    /// The channel and number of a plain text, if it was sent.
    pub fn was_raw(&self, data: &str) -> Option<(u16, u32)> {
        let mut words = data.strip_prefix("raw ")?.split(' ');
        let (channel, n) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let known = words.next().is_none() && (1..=*self.raw.get(&channel)?).contains(&n);
        known.then_some((channel, n))
    }

    /// Publications that became more events than they have channels, with the ids.
    pub fn repeated(&self) -> impl Iterator<Item = (Stamp, &[(EventId, u64)])> {
        let more = |(stamp, ids): &(&Stamp, &Vec<_>)| ids.len() > stamp.channels().len();
        self.by_stamp.iter().filter(more).map(|(stamp, ids)| (*stamp, &ids[..]))
    }

    /// The numbers of acknowledged events and of publications that were never acknowledged.
    pub fn counts(&self) -> (usize, usize) {
        let acked = self.acked.values().map(BTreeMap::len).sum();
        let unknown = self.attempted.keys().filter(|stamp| !self.is_acked(**stamp)).count();
        (acked, unknown)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
