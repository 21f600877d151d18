//! What happened in a run: what was published, what every subscriber was sent, and what was broken
//! when. The checker judges it, and knows nothing else.

use std::collections::HashMap;

use sse_contract::{Cursor, EventId, Keys};
use sse_lab::event_stream::Block;

use crate::payload::{Stamp, channel_index, channel_name};

/// Everything that is known of a run at its end.
#[derive(Debug)]
pub struct History {
    /// Tells the partition of a channel.
    pub keys: Keys,
    /// Every publication that was sent.
    pub publications: HashMap<Stamp, Publication>,
    /// Every session of a subscriber.
    pub seen: Vec<Seen>,
    /// Everything that was broken.
    pub windows: Vec<Window>,
    /// When the last fault was over.
    pub healed_ms: u64,
}

impl History {
    /// A history in which nothing has happened.
    pub fn new(keys: Keys) -> Self {
        let (publications, seen, windows) = Default::default();
        History { keys, publications, seen, windows, healed_ms: 0 }
    }

    /// The partition of a channel.
    pub fn partition(&self, channel: u16) -> u16 {
        self.keys.partition(&channel_name(channel))
    }

    /// Notes that a publication is about to be sent, for the first time or again.
    pub fn sending(&mut self, stamp: Stamp, now_ms: u64) {
        let publication = self.publications.entry(stamp).or_insert_with(|| Publication {
            sent_ms: now_ms,
            last_sent_ms: now_ms,
            acked: Vec::new(),
            doubted: false,
        });
        publication.last_sent_ms = now_ms;
    }

    /// Notes that a publication was answered an event's id.
    pub fn acknowledged(&mut self, stamp: Stamp, id: EventId, now_ms: u64) {
        if let Some(publication) = self.publications.get_mut(&stamp)
            && !publication.acked.iter().any(|ack| ack.id == id)
        {
            let sent_ms = publication.last_sent_ms;
            publication.acked.push(Ack { id, sent_ms, known_ms: now_ms });
        }
    }

    /// Notes that nobody knows what became of one attempt.
    pub fn doubted(&mut self, stamp: Stamp) {
        if let Some(publication) = self.publications.get_mut(&stamp) {
            publication.doubted = true;
        }
    }
}

/// One publication on one channel.
#[derive(Debug, Clone)]
pub struct Publication {
    /// When it was first sent.
    pub sent_ms: u64,
    /// When it was last sent.
    pub last_sent_ms: u64,
    /// The events that it was answered to be: one, unless Redis lost its idempotency key.
    pub acked: Vec<Ack>,
    /// Whether an attempt has an unknown outcome.
    pub doubted: bool,
}

/// One acknowledgement.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    /// The event.
    pub id: EventId,
    /// When the attempt was sent.
    pub sent_ms: u64,
    /// When the answer came.
    pub known_ms: u64,
}

/// Something that was broken for a time.
#[derive(Debug, Clone)]
pub struct Window {
    /// The fault's name.
    pub fault: &'static str,
    /// The partitions that the fault is about.
    pub partitions: Vec<u16>,
    /// Partitions that may have been away, besides those.
    pub also_away: Vec<u16>,
    /// When it began.
    pub began_ms: u64,
    /// When everything was in order again.
    pub ended_ms: u64,
    /// Whether Redis may have lost acknowledged events of these partitions, or another process has
    /// taken the master's place: both end an epoch.
    pub ends_epoch: bool,
    /// Whether two servers may have been masters at the same time.
    pub splits: bool,
}

/// How much before its noted beginning and after its noted end a fault may have effects. A gateway
/// needs some time to notice.
const BLUR_MS: u64 = 3_000;

impl Window {
    /// Whether the fault concerned a partition between these times.
    pub fn touches(&self, partition: u16, from_ms: u64, to_ms: u64) -> bool {
        self.partitions.contains(&partition) && self.during(from_ms, to_ms)
    }

    /// Whether a partition may have been away between these times.
    pub fn keeps_away(&self, partition: u16, from_ms: u64, to_ms: u64) -> bool {
        let concerned = self.partitions.contains(&partition) || self.also_away.contains(&partition);
        concerned && self.during(from_ms, to_ms)
    }

    fn during(&self, from_ms: u64, to_ms: u64) -> bool {
        self.began_ms <= to_ms && from_ms <= self.ended_ms.saturating_add(BLUR_MS)
    }
}

/// What one session was sent. A session is an EventSource of a page: it outlives connections.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The name in reports.
    pub name: String,
    /// The channels.
    pub channels: Vec<u16>,
    /// Its connections.
    pub opens: Vec<Open>,
    /// What came, in order.
    pub told: Vec<Told>,
    /// Whether the session lasted until the end of the run.
    pub last: bool,
    /// Whether it reads at once, and leaves only if it has to.
    pub steady: bool,
}

/// One connection.
#[derive(Debug, Clone)]
pub struct Open {
    /// When it was asked for.
    pub at_ms: u64,
    /// When the answer's head came.
    pub head_ms: Option<u64>,
    /// The partitions of which the request's cursor has a position.
    pub known: Vec<u16>,
}

/// One block of a stream.
#[derive(Debug, Clone)]
pub struct Told {
    /// When it was read.
    pub at_ms: u64,
    /// The index of the connection.
    pub open: usize,
    /// The position after it, in each partition that its id names.
    pub positions: Vec<(u16, EventId)>,
    /// What it says.
    pub what: What,
}

/// What a block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// An event.
    Event(Stamp),
    /// A checkpoint.
    Checkpoint,
    /// A sign of life.
    Alive,
    /// Events of these channels may be missing.
    Gap {
        /// The channels, which may be all of the stream.
        channels: Vec<u16>,
        /// Why.
        reason: String,
        /// The position before the gap; none if it is no event id.
        after: Option<EventId>,
        /// The oldest event that is kept above the gap, if it names one.
        oldest: Option<EventId>,
    },
    /// Nothing that a gateway may send. Says why.
    Odd(String),
}

impl Seen {
    /// A session that has seen nothing.
    pub fn new(name: String, channels: Vec<u16>, steady: bool) -> Self {
        Seen { name, channels, opens: Vec::new(), told: Vec::new(), last: false, steady }
    }

    /// The partitions of its channels.
    pub fn partitions(&self, keys: &Keys) -> Vec<u16> {
        let mut all: Vec<u16> =
            self.channels.iter().map(|c| keys.partition(&channel_name(*c))).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Notes that a request with this cursor is about to be sent.
    pub fn opening(&mut self, cursor: Option<&str>, keys: &Keys, now_ms: u64) {
        let known = cursor.map_or(Vec::new(), |id| self.positions(id, keys).unwrap_or_default());
        let known = known.into_iter().map(|(partition, _)| partition).collect();
        self.opens.push(Open { at_ms: now_ms, head_ms: None, known });
    }

    /// Notes that the response's head was read.
    pub fn head(&mut self, now_ms: u64) {
        if let Some(open) = self.opens.last_mut() {
            open.head_ms = Some(now_ms);
        }
    }

    /// Takes in a block.
    pub fn take(&mut self, block: &Block, seed: u64, keys: &Keys, now_ms: u64) {
        let (positions, what) = match self.positions(&block.id, keys) {
            Some(positions) => (positions, self.read(block, seed)),
            None => (Vec::new(), What::Odd(format!("the id {:?}", block.id))),
        };
        let open = self.opens.len().saturating_sub(1);
        self.told.push(Told { at_ms: now_ms, open, positions, what });
    }

    /// The positions in an id; none if it is no cursor of this stream. An empty id has none.
    fn positions(&self, id: &str, keys: &Keys) -> Option<Vec<(u16, EventId)>> {
        let own = self.partitions(keys);
        match id.parse() {
            _ if id.is_empty() => Some(Vec::new()),
            Ok(Cursor::One(id)) if own.len() == 1 => Some(vec![(own[0], id)]),
            Ok(Cursor::Several(all)) if own.len() > 1 && all.partitions() == keys.partitions() => {
                Some(own.into_iter().filter_map(|p| Some((p, all.of(p)?))).collect())
            }
            _ => None,
        }
    }

    fn read(&self, block: &Block, seed: u64) -> What {
        match block.event.as_str() {
            "" => match Stamp::read(&block.data) {
                Some(stamp) if stamp.text(seed) != block.data => {
                    What::Odd(format!("the data of {stamp:?} are changed"))
                }
                Some(stamp) if !self.channels.contains(&stamp.channel) => {
                    What::Odd(format!("{stamp:?} is of another channel"))
                }
                Some(stamp) => What::Event(stamp),
                None => What::Odd(format!("the data {:?}", block.data)),
            },
            "checkpoint" => What::Checkpoint,
            "alive" => What::Alive,
            "gap" => {
                let gap = self.gap(&block.data);
                gap.unwrap_or_else(|| What::Odd(format!("the gap {:?}", block.data)))
            }
            other => What::Odd(format!("the event type {other:?}")),
        }
    }

    fn gap(&self, data: &str) -> Option<What> {
        let value: serde_json::Value = serde_json::from_str(data).ok()?;
        let channels = match (value["channel"].as_str()?, value["channels"].as_array()) {
            ("*", None) => self.channels.clone(),
            ("*", Some(names)) => {
                names.iter().map(|name| channel_index(name.as_str()?)).collect::<Option<_>>()?
            }
            (name, _) => vec![channel_index(name)?],
        };
        let id = |name: &str| value[name].as_str().and_then(|id| id.parse().ok());
        let (reason, own) = (value["reason"].as_str()?.to_owned(), &self.channels);
        if !channels.iter().all(|channel| own.contains(channel)) {
            return None;
        }
        Some(What::Gap { channels, reason, after: id("after"), oldest: id("oldest") })
    }
}
