//! What one subscriber saw, and whether it may be so.
//!
//! A session is what an EventSource is to its page: it lives across reconnections and keeps the cursor.
//! Order, identity and repetition are checked as blocks arrive; loss is checked at its end, against the
//! ledger. It does no I/O.

use std::collections::HashMap;

use sse_contract::EventId;

use crate::ledger::{Acked, Ledger, now_ms};
use crate::payload::{CHANNELS, Stamp};
use crate::stream::Block;
use crate::tally::{Tally, Wrong};

/// The Redis clock and ours are one machine's; an id may run ahead of time by a little.
const CLOCK_SLACK_MS: u64 = 100;

/// Where a session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Live, without a cursor.
    Now,
    /// `last_event_id=0`.
    Oldest,
}

/// A gap that was told.
#[derive(Debug, Clone)]
struct Gap {
    /// None: all of them.
    channel: Option<u16>,
    after: EventId,
    oldest: Option<EventId>,
    read_ms: u64,
}

impl Gap {
    /// Whether it speaks for an event.
    fn covers(&self, id: EventId, event: &Acked) -> bool {
        match (self.channel, self.oldest) {
            (Some(channel), _) if channel != event.stamp.channel => false,
            (Some(_), Some(oldest)) => id < oldest && id > self.after,
            // It speaks for what had happened when it was written, so at most for what had been sent when
            // it was read.
            _ => event.sent_ms <= self.read_ms && id.ms <= self.read_ms + CLOCK_SLACK_MS,
        }
    }
}

/// One entry of the story that is told when something is wrong.
#[derive(Debug, Clone)]
struct Note {
    at_ms: u64,
    cursor: EventId,
    text: String,
}

/// A subscriber's memory.
#[derive(Debug)]
pub struct Session {
    /// For the report.
    pub name: String,
    /// Indices into [`CHANNELS`].
    pub channels: Vec<u16>,
    /// Where it began.
    pub from: From,
    /// The `Last-Event-ID` of the next request, verbatim.
    pub cursor: Option<String>,
    position: EventId,
    /// Every event received, of which channel, and when.
    received: HashMap<EventId, (u16, u64)>,
    gaps: Vec<Gap>,
    /// The first block's position, and when it was read.
    first: Option<(EventId, u64)>,
    /// The first event received on each channel.
    first_on: HashMap<u16, EventId>,
    markers: usize,
    notes: Vec<Note>,
    /// The end of the fault up to which this session is known to be repaired.
    repaired_ms: u64,
    /// Whether the time it takes to recover says something about the gateway.
    pub prompt: bool,
    /// Whether its subscriber ended with it, instead of beginning anew.
    pub last: bool,
}

impl Session {
    /// One that has seen nothing.
    pub fn new(name: String, channels: Vec<u16>, from: From) -> Self {
        Session {
            name,
            channels,
            from,
            cursor: None,
            position: EventId::ZERO,
            received: HashMap::new(),
            gaps: Vec::new(),
            first: None,
            first_on: HashMap::new(),
            markers: 0,
            notes: Vec::new(),
            repaired_ms: 0,
            prompt: false,
            last: false,
        }
    }

    /// Whether the final marker of every channel has come.
    pub fn complete(&self) -> bool {
        self.markers == self.channels.len()
    }

    /// The time of its position.
    pub fn reached_ms(&self) -> u64 {
        self.position.ms
    }

    /// Writes down something for the story.
    pub fn note(&mut self, text: String) {
        self.notes.push(Note { at_ms: now_ms(), cursor: self.position, text });
    }

    /// Takes a block.
    pub fn take(&mut self, block: &Block, ledger: &mut Ledger, tally: &mut Tally) {
        let Some(text) = &block.id else {
            return self.wrong(Wrong::Forged, format!("a block without id: {block:?}"), tally);
        };
        let Ok(id) = text.parse::<EventId>() else {
            return self.wrong(Wrong::Forged, format!("the id {text:?}"), tally);
        };
        let now = now_ms();
        match block.event.as_str() {
            "" => self.event(id, now, &block.data, ledger, tally),
            "checkpoint" => {
                if id < self.position {
                    let text = format!("a checkpoint at {id} behind {}", self.position);
                    self.wrong(Wrong::Disorder, text, tally);
                }
            }
            "gap" => self.gap(id, now, &block.data, tally),
            other => self.wrong(Wrong::Forged, format!("the event type {other:?}"), tally),
        }
        self.first.get_or_insert((id, now));
        self.position = id;
        self.cursor = Some(text.clone());
    }

    fn event(&mut self, id: EventId, now: u64, data: &str, ledger: &mut Ledger, tally: &mut Tally) {
        let stamp = match ledger.received(id, data) {
            Ok(stamp) => stamp,
            Err(text) => return self.wrong(Wrong::Forged, text, tally),
        };
        if !self.channels.contains(&stamp.channel) {
            let text = format!("{id} is of {}, not ours", stamp.channel_name());
            self.wrong(Wrong::Forged, text, tally);
        }
        if self.received.insert(id, (stamp.channel, now)).is_some() {
            let text = format!("{id} {stamp:?} came twice; position {}", self.position);
            self.wrong(Wrong::Duplicated, text, tally);
        } else if self.cursor.is_some() && id <= self.position {
            let text = format!("{id} {stamp:?} came behind {}", self.position);
            self.wrong(Wrong::Disorder, text, tally);
        }
        tally.events += 1;
        self.first_on.entry(stamp.channel).or_insert(id);
        self.markers += usize::from(stamp.seq == 0);
        if self.prompt && tally.active == 0 && id.ms > tally.healed_ms + CLOCK_SLACK_MS {
            if self.repaired_ms != tally.healed_ms {
                tally.repair_ms = tally.repair_ms.max(now.saturating_sub(tally.healed_ms));
            }
            self.repaired_ms = tally.healed_ms;
        }
    }

    fn gap(&mut self, id: EventId, now: u64, data: &str, tally: &mut Tally) {
        let value: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
        let text = |name: &str| value[name].as_str();
        let (Some(channel), Some(reason)) = (text("channel"), text("reason")) else {
            return self.wrong(Wrong::Forged, format!("the gap {data:?}"), tally);
        };
        self.note(format!("gap {data} id {id}"));
        *tally.gaps.entry(reason.to_owned()).or_default() += 1;
        let whole = matches!(reason, "reset" | "unknown_id" | "no_history");
        if tally.calm || (whole && tally.epochs_ended == 0) {
            let text = format!("{data}, though nothing was broken that could cause it");
            self.wrong(Wrong::FalseGap, text, tally);
        }
        let star = channel == "*";
        let index = CHANNELS.iter().position(|name| *name == channel).map(|n| n as u16);
        let known = index.is_some_and(|n| self.channels.contains(&n));
        if star != whole || !(star || known) {
            return self.wrong(Wrong::Forged, format!("the gap {data}"), tally);
        }
        // Up it may move, as with a checkpoint: what lies between is owed all the same.
        if !star && self.cursor.is_some() && id < self.position {
            let text =
                format!("the gap {data} moved the position back to {id}, from {}", self.position);
            self.wrong(Wrong::Disorder, text, tally);
        }
        let position = |name: &str| text(name).and_then(|id| id.parse().ok());
        let after = position("after").unwrap_or_default();
        let oldest = if star { None } else { position("oldest") };
        self.gaps.push(Gap { channel: index.filter(|_| !star), after, oldest, read_ms: now });
    }

    /// The check for loss: every acknowledged event between where this session began and where it stands
    /// was received, or a gap spoke for it.
    pub fn settle(&self, ledger: &Ledger, tally: &mut Tally) {
        let Some((first, first_ms)) = self.first else { return };
        let start = if self.from == From::Now { first } else { EventId::ZERO };
        // What a reset moved down is still above the start.
        let upto = self.received.keys().copied().max().unwrap_or(start).max(self.position);
        let mut told = false;
        for (id, event) in ledger.between(start, upto) {
            if !self.channels.contains(&event.stamp.channel)
                || self.received.contains_key(&id)
                || (self.from == From::Oldest
                    && !self.owed_from_oldest(id, &event, first_ms, tally))
            {
                continue;
            }
            if self.gaps.iter().any(|gap| gap.covers(id, &event)) {
                tally.told += 1;
            } else {
                self.wrong(Wrong::Lost, format!("{id} {:?}", event.stamp), tally);
                if !std::mem::replace(&mut told, true) {
                    tally.story(|| self.story(event.sent_ms, id.ms));
                }
            }
        }
    }

    /// "From the oldest" claims nothing about what was gone when it first read: below the oldest, or lost
    /// by Redis before.
    fn owed_from_oldest(&self, id: EventId, event: &Acked, first_ms: u64, tally: &Tally) -> bool {
        let behind = self.first_on.get(&event.stamp.channel).is_some_and(|first| id > *first);
        event.sent_ms > first_ms || (behind && !tally.epoch_ended_between(event.sent_ms, first_ms))
    }

    /// Notes a violation.
    pub fn wrong(&self, what: Wrong, text: String, tally: &mut Tally) {
        tally.wrong(what, format!("{}: {text}", self.name));
        if what != Wrong::Lost {
            tally.story(|| self.story(now_ms(), now_ms()));
        }
    }

    /// What this session lived through around a time.
    fn story(&self, from_ms: u64, to_ms: u64) -> String {
        let channels: Vec<&str> = self.channels.iter().map(|n| CHANNELS[usize::from(*n)]).collect();
        let mut text = format!("{} on {channels:?} from {:?}\n", self.name, self.from);
        let near = |at: u64| at + 4_000 > from_ms && at < to_ms + 12_000;
        for note in self.notes.iter().filter(|note| near(note.at_ms)) {
            text += &format!("  {} at {}: {}\n", note.at_ms, note.cursor, note.text);
        }
        let mut ids: Vec<_> = self.received.iter().collect();
        ids.sort_unstable();
        let place = ids.partition_point(|(id, _)| id.ms < to_ms);
        for (id, (channel, at)) in &ids[place.saturating_sub(8)..ids.len().min(place + 16)] {
            text += &format!("  received {id} of channel {channel} at {at}\n");
        }
        text
    }
}

/// A publication that became two events although no idempotency key was lost.
pub fn check_repeats(ledger: &Ledger, tally: &mut Tally) {
    for (stamp, ids) in ledger.repeated() {
        let (Some(low), Some(high)) = (ids.iter().min(), ids.iter().max()) else { continue };
        if !tally.keys_lost_between(low.ms, high.ms) {
            let text = format!("{} became {ids:?}", describe(stamp));
            tally.wrong(Wrong::Duplicated, text);
        } else {
            tally.repeated += 1;
        }
    }
}

fn describe(stamp: Stamp) -> String {
    format!("the publication {} of {:?}", stamp.key(), stamp.channel_name())
}
