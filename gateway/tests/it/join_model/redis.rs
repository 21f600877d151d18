//! The model's Redis: servers that hold data and run the contract's functions by the rules of
//! contract/lua/sse.lua, as far as the join depends on them.

use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use redis::Value;
use sse_contract::{Channel, EventId};
use sse_gateway::feed::snapshot::Extent;

/// How long an event is kept, in milliseconds. Its history is kept longer by `SLACK`.
pub const TTL: u64 = 400;
const SLACK: u64 = 60;
const BEATS_AN_EPOCH: u64 = 1_000_000;

/// The index of an event among all that were ever published.
pub type Event = usize;

/// An acknowledged event.
pub struct Published {
    pub id: EventId,
    pub channel: usize,
    /// Whether no fault had befallen the data unnoticed when the event was published.
    pub sound: bool,
}

#[derive(Clone, Default)]
pub struct History {
    pub kept: VecDeque<(EventId, Event)>,
    last: EventId,
    added: usize,
}

/// The last id of each channel, by which readers notice that a history vanished.
#[derive(Clone, Default)]
struct Witness {
    marked: bool,
    ids: Vec<Option<EventId>>,
}

#[derive(Clone, Default)]
struct State {
    clock: Option<EventId>,
    life: Life,
    beat: Option<u64>,
    known_until: u64,
}

/// What INFO tells, and what a state remembers of it.
#[derive(Clone, Copy, Default, PartialEq)]
struct Life {
    run: u32,
    replid: u32,
    evicted: u32,
}

/// A data set. Replication, saving and rolling back copy it.
#[derive(Clone, Default)]
pub struct Data {
    state: State,
    pub histories: Vec<Option<History>>,
    /// The witness of this generation, and of the one before.
    witness: [Witness; 2],
    /// Every event that was acknowledged here and not taken back. Only the model knows this and
    /// `sound`.
    pub log: Vec<Event>,
    pub sound: bool,
}

impl Data {
    pub fn beat(&self) -> u64 {
        self.state.beat.unwrap_or(0)
    }

    pub fn clock(&self) -> EventId {
        self.state.clock.unwrap_or_default()
    }
}

/// A Redis process and its data.
pub struct Server {
    life: Life,
    /// Whether this process was promoted, and has not become a replica since.
    promoted: bool,
    pub master: bool,
    pub data: Data,
    /// Events that were acknowledged here and are no longer in the data.
    pub lost: Vec<Event>,
    /// How far its clock is ahead of the world's time.
    pub skew: u64,
    /// Draws numbers that never were before: for epochs, run ids and replication ids.
    draws: Rc<Cell<u32>>,
    /// Channels whose history cannot be read.
    pub unreadable: HashSet<usize>,
}

/// The arguments with which every call of a gateway begins, as far as they matter here.
pub struct Caller {
    pub seen: Option<EventId>,
    pub beat: Option<u64>,
}

impl Caller {
    pub fn of(args: &[String]) -> Self {
        Caller { seen: args[0].parse().ok(), beat: args[1].parse().ok() }
    }
}

pub fn name(channel: usize) -> Channel {
    format!("c{channel}").parse().unwrap()
}

/// The channel of a key that ends with its [`name`].
pub fn channel_of(key: &str) -> usize {
    key.rsplit_once('c').unwrap().1.parse().unwrap()
}

impl Server {
    pub fn new(channels: usize, draws: Rc<Cell<u32>>) -> Self {
        let mut server = Server {
            life: Life::default(),
            promoted: false,
            master: false,
            data: Data::default(),
            lost: Vec::new(),
            skew: 0,
            draws,
            unreadable: HashSet::new(),
        };
        server.restart();
        server.data.histories = vec![None; channels];
        server
    }

    fn draw(&self) -> u32 {
        self.draws.set(self.draws.get() + 1);
        self.draws.get()
    }

    pub fn run(&self) -> String {
        format!("{:x}", self.life.run)
    }

    /// Replaces the process: its run id and its replication id are new.
    pub fn restart(&mut self) {
        self.life = Life { run: self.draw(), replid: self.draw(), evicted: 0 };
        self.promoted = false;
    }

    pub fn promote(&mut self) {
        (self.master, self.promoted) = (true, true);
        self.life.replid = self.draw();
        self.data.sound = false;
    }

    /// Becomes a replica of this master.
    pub fn demote(&mut self, master: &Server) {
        (self.master, self.promoted, self.life.replid) = (false, false, master.life.replid);
        self.replace(master.data.clone());
    }

    /// The server was a replica for a moment: it takes that master's data, and is promoted again.
    pub fn blink(&mut self, data: Data) {
        self.replace(data);
        self.promote();
    }

    /// Replaces the data. Events that the new data does not hold are lost.
    pub fn replace(&mut self, data: Data) {
        let kept: HashSet<Event> = data.log.iter().copied().collect();
        let old = std::mem::replace(&mut self.data, data);
        self.lost.extend(old.log.into_iter().filter(|event| !kept.contains(event)));
        self.data.histories.resize(old.histories.len(), None);
        self.data.sound = false;
    }

    pub fn flush(&mut self) {
        self.replace(Data::default());
    }

    /// Redis needs memory, and evicts a key.
    pub fn evict(&mut self, key: usize) {
        self.life.evicted += 1;
        self.delete(key);
    }

    /// Deletes a key: a channel's history; with the next number, the witness; with the one after
    /// that, the state and the witness.
    pub fn delete(&mut self, key: usize) {
        let channels = self.data.histories.len();
        if key < channels {
            self.data.histories[key] = None;
        } else if key == channels {
            self.data.witness[0] = Witness::default();
        } else {
            (self.data.state, self.data.witness) = Default::default();
        }
    }

    /// Somebody writes a clock that is far ahead.
    pub fn leap(&mut self, ms: u64) {
        if let Some(clock) = &mut self.data.state.clock {
            clock.ms += ms;
        }
    }

    fn begin_epoch(&mut self, floor: EventId, now: u64) {
        let state = &mut self.data.state;
        let ms = now.max(floor.ms).max(state.clock.unwrap_or_default().ms) + 1;
        state.beat = Some(state.beat.unwrap_or(0) + BEATS_AN_EPOCH);
        state.life = self.life;
        let epoch = self.draw();
        self.data.state.clock = Some(EventId::new(ms, epoch, 0));
        self.data.sound = true;
    }

    fn begin_generation(&mut self, now: u64) {
        let clock = self.data.clock().ms;
        let fresh = Witness { marked: true, ids: vec![None; self.data.histories.len()] };
        let before = std::mem::replace(&mut self.data.witness[0], fresh);
        self.data.witness[1] = before;
        self.data.state.known_until = now.max(clock) + TTL + SLACK;
    }

    fn generation_is_over(&self, now: u64) -> bool {
        now.max(self.data.clock().ms) >= self.data.state.known_until
    }

    fn witnessed(&self, channel: usize) -> Option<EventId> {
        let of = |witness: &Witness| witness.ids.get(channel).copied().flatten();
        of(&self.data.witness[0]).or_else(|| of(&self.data.witness[1]))
    }

    /// Redis deletes the histories that have expired.
    fn expire(&mut self, now: u64) {
        for history in &mut self.data.histories {
            if history.as_ref().is_some_and(|history| history.last.ms + TTL + SLACK < now) {
                *history = None;
            }
        }
    }

    /// Whether acknowledged writes may have been lost since the state was written.
    fn is_lost(&self, caller: &Caller, highest: EventId) -> bool {
        let state = &self.data.state;
        let Some(clock) = state.clock else { return true };
        if state.life.run != self.life.run || state.life.evicted != self.life.evicted {
            return true;
        }
        if state.life.replid != self.life.replid && self.promoted {
            return true;
        }
        if caller.beat > state.beat {
            return true;
        }
        highest > clock || !self.data.witness[0].marked
    }

    fn settle(&mut self, caller: &Caller, asked: &[usize], now: u64) {
        self.expire(now);
        let last = |c: &usize| Some(self.data.histories[*c].as_ref()?.last);
        let found = asked.iter().flat_map(|c| [last(c), self.witnessed(*c)]);
        let highest = found.chain([caller.seen]).flatten().max().unwrap_or_default();
        if self.is_lost(caller, highest) {
            let beat = self.data.beat().max(caller.beat.unwrap_or(0));
            self.data.state.beat = Some(beat);
            self.begin_epoch(highest, now);
        }
        self.data.state.life = self.life;
        let clock = self.data.clock();
        if now > clock.ms {
            self.data.state.clock = Some(EventId { ms: now, seq: clock.epoch() << 16 });
        }
        if !self.data.witness[0].marked || self.generation_is_over(now) {
            self.begin_generation(now);
        }
    }

    /// The answer to `sse_tick`, on the wire.
    pub fn tick(&mut self, caller: &Caller, now: u64) -> Vec<u8> {
        if !self.master {
            return b"-READONLY You can't write against a read only replica.\r\n".to_vec();
        }
        self.settle(caller, &[], now);
        let beat = self.data.beat() + 1;
        self.data.state.beat = Some(beat);
        let clock = self.data.clock().to_string();
        let limits = format!(":1000\r\n:{TTL}\r\n:1048576\r\n:600000\r\n:0\r\n");
        let length = clock.len();
        format!("*8\r\n${length}\r\n{clock}\r\n:{now}\r\n{limits}:{beat}\r\n").into_bytes()
    }

    /// Runs `sse_publish`. Returns the event, or `None` if the server is no master, or lives in
    /// another epoch than the caller.
    pub fn publish(
        &mut self,
        channel: usize,
        epoch: Option<u64>,
        now: u64,
        events: &mut Vec<Published>,
    ) -> Option<Event> {
        let lives = self.data.state.clock.map(EventId::epoch);
        if !self.master || (epoch.is_some() && epoch != lives) {
            return None;
        }
        self.expire(now);
        if lives.is_none() {
            self.begin_epoch(EventId::ZERO, now);
        }
        if self.generation_is_over(now) {
            self.begin_generation(now);
        }
        let last = self.data.histories[channel].as_ref().map_or(EventId::ZERO, |h| h.last);
        if self.data.clock().next(now) <= last {
            self.begin_epoch(last, now);
        }
        let id = self.data.clock().next(now);
        let missed = self.witnessed(channel).filter(|known| {
            known.epoch() == id.epoch() && known.ms + TTL + SLACK > now.max(self.data.clock().ms)
        });
        self.data.state.clock = Some(id);
        let history = self.data.histories[channel].get_or_insert_with(|| {
            // If the old history vanished before its time, the new one looks as if it was trimmed.
            History { added: usize::from(missed.is_some()), ..History::default() }
        });
        history.kept.push_back((id, events.len()));
        history.last = id;
        history.added += 1;
        self.data.witness[0].ids.resize(self.data.histories.len(), None);
        self.data.witness[0].ids[channel] = Some(id);
        self.data.log.push(events.len());
        events.push(Published { id, channel, sound: self.data.sound });
        Some(events.len() - 1)
    }

    /// The answer to `sse_read`, with up to `page` entries in each range. `None` if the server is
    /// no master.
    pub fn read(
        &mut self,
        caller: &Caller,
        parts: &[(usize, EventId, Extent)],
        page: usize,
        now: u64,
        data: impl Fn(Event) -> String,
    ) -> Option<Value> {
        if !self.master {
            return None;
        }
        let asked: Vec<usize> = parts.iter().map(|(channel, ..)| *channel).collect();
        self.settle(caller, &asked, now);
        let head = [bulk(self.data.clock()), int(now), int(1000), int(TTL)];
        let ranges = parts.iter().map(|part| self.range(*part, page, &data));
        Some(Value::Array(head.into_iter().chain(ranges).collect()))
    }

    fn range(
        &self,
        (channel, after, extent): (usize, EventId, Extent),
        page: usize,
        data: impl Fn(Event) -> String,
    ) -> Value {
        if self.unreadable.contains(&channel) {
            return Value::Array(vec![bulk("WRONGTYPE")]);
        }
        let none = History::default();
        let history = self.data.histories[channel].as_ref();
        let witness = self.witnessed(channel);
        let mut last = history.map(|history| history.last);
        let history = history.unwrap_or(&none);
        let mut added = history.added;
        if witness > last {
            (last, added) = (witness, added + 1);
        }
        let mut from = history.kept.partition_point(|(id, _)| *id <= after);
        let page = if extent == Extent::Newest { 2 } else { page };
        if extent == Extent::Newest {
            from = from.max(history.kept.len().saturating_sub(page));
        }
        let taken = history.kept.range(from..).take(page);
        let entries = taken.flat_map(|(id, event)| {
            [bulk(*id), Value::BulkString(data(*event).into_bytes()), Value::BulkString(Vec::new())]
        });
        let id = |id: Option<EventId>| id.map_or(Value::BulkString(Vec::new()), bulk);
        Value::Array(vec![
            id(last),
            id(history.kept.front().map(|(id, _)| *id)),
            int(added as u64),
            int(history.kept.len() as u64),
            int(u64::from(history.kept.len() - from > page)),
            Value::Array(entries.collect()),
        ])
    }
}

fn bulk(text: impl ToString) -> Value {
    Value::BulkString(text.to_string().into_bytes())
}

fn int(n: u64) -> Value {
    Value::Int(n as i64)
}
