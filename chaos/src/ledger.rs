//! What was published, by the publishers' own account: the truth that subscribers are held against.

use std::collections::{BTreeMap, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use sse_contract::EventId;

use crate::payload::Stamp;

/// Unix time in milliseconds: the scale of event ids, so that both compare.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// An acknowledged event.
#[derive(Debug, Clone, Copy)]
pub struct Acked {
    /// What it is.
    pub stamp: Stamp,
    /// When it was first sent: it happened no earlier.
    pub sent_ms: u64,
}

/// Every publication tried, acknowledged or seen.
#[derive(Debug)]
pub struct Ledger {
    /// The run's seed, from which payloads follow.
    pub seed: u64,
    /// When each publication was first sent.
    attempted: HashMap<Stamp, u64>,
    acked: BTreeMap<EventId, Acked>,
    /// Every id that was acknowledged or received, whatever for.
    ids: HashMap<EventId, Stamp>,
    /// The ids that one publication has, in the order in which they were learnt. One, normally.
    by_stamp: HashMap<Stamp, Vec<EventId>>,
}

impl Ledger {
    /// Nothing yet.
    pub fn new(seed: u64) -> Self {
        Ledger {
            seed,
            attempted: HashMap::new(),
            acked: BTreeMap::new(),
            ids: HashMap::new(),
            by_stamp: HashMap::new(),
        }
    }

    /// A publication is about to be sent, for the first time or again.
    pub fn sending(&mut self, stamp: Stamp) {
        self.attempted.entry(stamp).or_insert_with(now_ms);
    }

    /// A publication was acknowledged. The error tells what cannot be.
    pub fn acknowledged(&mut self, stamp: Stamp, id: EventId) -> Result<(), String> {
        let sent_ms = self.attempted.get(&stamp).copied().unwrap_or_else(now_ms);
        self.acked.insert(id, Acked { stamp, sent_ms });
        self.identify(id, stamp)
    }

    /// An event was received. The error tells what is wrong with it.
    pub fn received(&mut self, id: EventId, data: &str) -> Result<Stamp, String> {
        let stamp = Stamp::read(data).ok_or_else(|| format!("{id} holds {:?}", cut(data)))?;
        if !self.attempted.contains_key(&stamp) {
            return Err(format!("{id} holds {stamp:?}, which nobody published"));
        }
        if stamp.text(self.seed) != data {
            return Err(format!("{id} holds {stamp:?} with another text: {:?}", cut(data)));
        }
        self.identify(id, stamp).map(|()| stamp)
    }

    fn identify(&mut self, id: EventId, stamp: Stamp) -> Result<(), String> {
        match self.ids.insert(id, stamp) {
            None => self.by_stamp.entry(stamp).or_default().push(id),
            Some(was) if was != stamp => {
                return Err(format!("{id} is both {was:?} and {stamp:?}"));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// The acknowledged events above `after`, up to and including `upto`.
    pub fn between(
        &self,
        after: EventId,
        upto: EventId,
    ) -> impl Iterator<Item = (EventId, Acked)> + '_ {
        use std::ops::Bound::{Excluded, Included};
        let range = (after < upto).then(|| self.acked.range((Excluded(after), Included(upto))));
        range.into_iter().flatten().map(|(id, acked)| (*id, *acked))
    }

    /// Publications that became more than one event, with the ids.
    pub fn repeated(&self) -> impl Iterator<Item = (Stamp, &[EventId])> {
        self.by_stamp.iter().filter(|(_, ids)| ids.len() > 1).map(|(s, ids)| (*s, &ids[..]))
    }

    /// How many publications were acknowledged, and how many were sent and never answered for.
    pub fn counts(&self) -> (usize, usize) {
        let known = self.acked.values().map(|acked| acked.stamp);
        let known: std::collections::HashSet<Stamp> = known.collect();
        (known.len(), self.attempted.len() - known.len())
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
