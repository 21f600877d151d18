//! What one subscriber saw, and the checks that are possible at once.
//!
//! A session corresponds to an EventSource of a page: it outlives connections and keeps the cursor.
//! Order, identity and repetition are checked as blocks arrive. Losses and gaps are judged at the
//! end of the run, when all answers to publishers are known: [`crate::verdict`]. Sessions do no
//! I/O.

use std::collections::{HashMap, HashSet};

use sse_contract::EventId;
use sse_lab::event_stream::Block;

use crate::faults::Fault;
use crate::ledger::{Ledger, now_ms};
use crate::payload::{Stamp, channel_name};
use crate::tally::{Tally, Wrong};
use crate::truth::Gap;

/// An event may be acknowledged, and an epoch be seen, this long after a client was told of it.
const EPOCH_SLACK_MS: u64 = 2_000;

/// Where a session begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Live, without a cursor.
    Now,
    /// With `last_event_id=0`.
    Oldest,
    /// With a cursor that no gateway issued.
    Garbage,
}

/// How a client differs from a browser's EventSource.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quirks {
    /// It asks for no checkpoints.
    pub no_checkpoints: bool,
    /// It adopts the cursor as soon as it has read the `id:` line, as npm's `eventsource` does.
    pub eager: bool,
    /// It speaks HTTP/1.0.
    pub http10: bool,
    /// It connects through nginx.
    pub nginx: bool,
}

/// One connection.
#[derive(Debug)]
pub struct Open {
    /// When the request was sent.
    pub at_ms: u64,
    /// When the response's head was read.
    pub head_ms: Option<u64>,
    /// The cursor in the request.
    pub cursor: Option<String>,
    /// How many blocks came.
    pub blocks: u32,
    /// The old epochs of the resets that were told, and when.
    pub resets: HashMap<u64, u64>,
    /// The last plain text on each channel.
    pub raw: HashMap<u16, u32>,
}

/// One change of the position.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// When the id was read.
    pub at_ms: u64,
    /// The new position.
    pub id: EventId,
}

/// The first position.
#[derive(Debug, Clone, Copy)]
pub struct First {
    /// The position.
    pub id: EventId,
    /// When it was read.
    pub at_ms: u64,
    /// The index of its connection.
    pub open: usize,
}

/// One entry of the story, which is printed with a violation.
#[derive(Debug, Clone)]
struct Note {
    at_ms: u64,
    cursor: EventId,
    text: String,
}

/// The state and history of a session.
#[derive(Debug)]
pub struct Session {
    /// The name in reports.
    pub name: String,
    /// The number of the subscriber.
    pub number: usize,
    /// The channels subscribed to.
    pub channels: Vec<u16>,
    /// Where the session began.
    pub from: From,
    /// How the client differs from a browser.
    pub quirks: Quirks,
    /// The `Last-Event-ID` of the next request, verbatim.
    pub cursor: Option<String>,
    /// The current position.
    pub position: EventId,
    /// All connections.
    pub opens: Vec<Open>,
    /// The position of every block with an id.
    pub steps: Vec<Step>,
    /// All events received, and when.
    pub received: HashMap<(EventId, Stamp), u64>,
    /// All gaps told.
    pub gaps: Vec<Gap>,
    /// The position of the first block with an id.
    pub first: Option<First>,
    /// The first event received on each channel.
    pub first_on: HashMap<u16, EventId>,
    /// The epochs of all positions.
    pub epochs: HashSet<u64>,
    /// When the first position or the last gap of all channels was read: earlier changes of epoch
    /// need no further gap.
    pub vouched_ms: u64,
    markers: usize,
    notes: Vec<Note>,
    /// The end of the last fault after which this session has received an event.
    repaired_ms: u64,
    /// Whether the time that this session takes to recover measures the gateway.
    pub prompt: bool,
    /// Whether the subscriber ended with this session, instead of beginning another.
    pub last: bool,
    /// The event that was published as soon as the stream was open, and the faults at that time.
    pub opener: Option<(Stamp, Vec<&'static str>)>,
}

impl Session {
    /// A session that has seen nothing.
    pub fn new(name: String, channels: Vec<u16>, from: From, quirks: Quirks) -> Self {
        Session {
            name,
            number: usize::MAX,
            channels,
            from,
            quirks,
            cursor: None,
            position: EventId::ZERO,
            opens: Vec::new(),
            steps: Vec::new(),
            received: HashMap::new(),
            gaps: Vec::new(),
            first: None,
            first_on: HashMap::new(),
            epochs: HashSet::new(),
            vouched_ms: 0,
            markers: 0,
            notes: Vec::new(),
            repaired_ms: 0,
            prompt: false,
            last: false,
            opener: None,
        }
    }

    /// Whether the final markers of all channels have come.
    pub fn complete(&self) -> bool {
        self.markers == self.channels.len()
    }

    /// Adds an entry to the story.
    pub fn note(&mut self, text: String) {
        self.notes.push(Note { at_ms: now_ms(), cursor: self.position, text });
    }

    /// Notes that a request is about to be sent. Returns the cursor to send, if there is one.
    pub fn opening(&mut self) -> Option<String> {
        let cursor = match (&self.cursor, self.from) {
            (Some(cursor), _) => Some(cursor.clone()),
            (None, From::Garbage) => Some("LangGraph:-1".to_owned()),
            (None, _) => None,
        };
        self.opens.push(Open {
            at_ms: now_ms(),
            head_ms: None,
            cursor: cursor.clone(),
            blocks: 0,
            resets: HashMap::new(),
            raw: HashMap::new(),
        });
        cursor
    }

    /// Notes that the response's head was read: from here on the client is subscribed.
    pub fn head(&mut self) {
        if let Some(open) = self.opens.last_mut() {
            open.head_ms = Some(now_ms());
        }
    }

    /// Adopts the cursor of a block that was cut off, as an eager client does.
    pub fn cut_off(&mut self, id: &str) {
        self.note(format!("took the cursor {id} of a block that was cut off"));
        self.cursor = Some(id.to_owned());
    }

    /// Processes a block.
    pub fn take(&mut self, block: &Block, ledger: &mut Ledger, tally: &mut Tally) {
        if self.opens.is_empty() {
            self.opening();
        }
        self.check_opening(block, tally);
        let text = &block.id;
        if text.is_empty() {
            return self.without_id(block, ledger, tally);
        }
        let Ok(id) = text.parse::<EventId>() else {
            return self.wrong(Wrong::Forged, format!("the id {text:?}"), tally);
        };
        let now = now_ms();
        ledger.epoch_seen(id.epoch());
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
        let open = self.opens.len() - 1;
        if self.first.is_none() {
            self.first = Some(First { id, at_ms: now, open });
            self.vouched_ms = self.vouched_ms.max(now);
        }
        self.step(id, now, ledger, tally);
        self.cursor = Some(text.clone());
    }

    fn step(&mut self, id: EventId, now: u64, ledger: &Ledger, tally: &mut Tally) {
        let epoch = id.epoch();
        if !self.steps.is_empty() && epoch != self.position.epoch() {
            let began_ms = ledger.epoch_began_ms(epoch).unwrap_or(0);
            if began_ms > self.vouched_ms + EPOCH_SLACK_MS {
                let text = format!("from {} to {id} without a reset", self.position);
                self.wrong(Wrong::Untold, text, tally);
            }
        }
        self.epochs.insert(epoch);
        self.position = id;
        self.steps.push(Step { at_ms: now, id });
    }

    fn event(&mut self, id: EventId, now: u64, data: &str, ledger: &mut Ledger, tally: &mut Tally) {
        let stamp = match ledger.received(id, data) {
            Ok(stamp) => stamp,
            Err(text) => return self.wrong(Wrong::Forged, text, tally),
        };
        if !stamp.channels().iter().any(|channel| self.channels.contains(channel)) {
            let text = format!("{id} is of {}, not ours", channel_name(stamp.channel));
            return self.wrong(Wrong::Forged, text, tally);
        }
        match self.received.insert((id, stamp), now) {
            // With two masters, a reset may take the position back, and later events then come
            // again.
            Some(before) if id > self.position && self.went_back(id, before, tally) => {
                tally.again += 1;
            }
            Some(_) => {
                let text = format!("{id} {stamp:?} came twice; position {}", self.position);
                self.wrong(Wrong::Duplicated, text, tally);
            }
            None if self.cursor.is_some() && id <= self.position => {
                let text = format!("{id} {stamp:?} came behind {}", self.position);
                self.wrong(Wrong::Disorder, text, tally);
            }
            None => {}
        }
        tally.events += 1;
        if let Some(channel) = ledger.channel_of(id, stamp) {
            self.first_on.entry(channel).or_insert(id);
        }
        self.markers += usize::from(stamp.seq == 0);
        let sent_ms = ledger.sent_ms(stamp).unwrap_or(now);
        let reset = self.opens.last().and_then(|open| open.resets.get(&id.epoch())).copied();
        if let Some(reset_ms) = reset
            && sent_ms > reset_ms
            // With two masters, a client may be led from one to the other and back.
            && !tally.split_between(reset_ms, now)
        {
            let text = format!("a reset out of the epoch of {id}, which goes on");
            self.wrong(Wrong::FalseGap, text, tally);
        }
        if self.prompt && tally.active == 0 && sent_ms > tally.healed_ms {
            if self.repaired_ms != tally.healed_ms {
                tally.repair_ms = tally.repair_ms.max(now.saturating_sub(tally.healed_ms));
            }
            self.repaired_ms = tally.healed_ms;
        }
    }

    /// Whether, while ids could be issued twice, a reset took the position below this event since
    /// it was received.
    fn went_back(&self, id: EventId, since_ms: u64, tally: &Tally) -> bool {
        let back = |gap: &Gap| gap.reason == "reset" && gap.read_ms >= since_ms && gap.id < id;
        self.gaps.iter().any(back) && tally.touched(since_ms, now_ms(), Fault::splits)
    }

    /// Notes a violation.
    pub fn wrong(&self, what: Wrong, text: String, tally: &mut Tally) {
        tally.wrong(what, format!("{}: {text}", self.name));
        if what != Wrong::Lost {
            tally.story(what, || self.story(now_ms(), now_ms()));
        }
    }

    /// The positions around one, when they were read, and the channels of the events there.
    pub fn around(&self, id: EventId) -> String {
        let mut steps: Vec<Step> = self.steps.clone();
        steps.sort_by_key(|step| step.id);
        let place = steps.partition_point(|step| step.id < id);
        let mut text = format!("  around {id}:\n");
        for step in &steps[place.saturating_sub(6)..steps.len().min(place + 6)] {
            let came = self.received.keys().find(|(came, _)| *came == step.id);
            let channel = came.map_or("no event".into(), |(_, stamp)| channel_name(stamp.channel));
            text += &format!("    {} of {channel} at {}\n", step.id, step.at_ms);
        }
        for gap in &self.gaps {
            text += &format!("    gap {} at {} after {}\n", gap.reason, gap.read_ms, gap.after);
        }
        text
    }

    /// What this session experienced around a time.
    pub fn story(&self, from_ms: u64, to_ms: u64) -> String {
        let channels: Vec<_> = self.channels.iter().take(12).map(|n| channel_name(*n)).collect();
        let mut text =
            format!("{} on {channels:?} from {:?}, {:?}\n", self.name, self.from, self.quirks);
        text += &format!("  first {:?}\n", self.first);
        let near = |at: u64| at + 4_000 > from_ms && at < to_ms + 12_000;
        for note in self.notes.iter().filter(|note| near(note.at_ms)) {
            text += &format!("  {} at {}: {}\n", note.at_ms, note.cursor, note.text);
        }
        let mut times: Vec<_> = self.received.iter().map(|((id, s), at)| (*at, *id, *s)).collect();
        times.sort_unstable();
        let place = times.partition_point(|(at, ..)| *at < from_ms);
        for (at, id, stamp) in &times[place.saturating_sub(8)..times.len().min(place + 16)] {
            text += &format!("  received {id} {stamp:?} at {at}\n");
        }
        text
    }
}
