//! The join against a model of the world: whatever the order of faults, reads and live events, a client
//! has every event once and in order, or was told of a gap.
//!
//! The model is a Redis with histories that are trimmed, expire, roll back and begin epochs, a live side
//! that is cut and lags, and clients that reconnect. Steps come from a seed; `SSE_MODEL_SEEDS` runs more.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use sse_contract::{Channel, EventId};
use sse_gateway::frame::{Frame, SharedFrame};
use sse_gateway::join::{Item, Join, Limits, Next, Start};
use sse_gateway::snapshot::{Extent, Range, Snapshot};

const TTL: u64 = 400;
const LIMITS: Limits = Limits { live_events: 4, live_bytes: 10_000 };
const ROOM: usize = 120;

/// One channel's history, and what it forgot.
#[derive(Clone, Default)]
struct History {
    kept: Vec<EventId>,
    last: Option<EventId>,
    added: usize,
}

#[derive(Clone)]
struct Redis {
    clock: EventId,
    histories: Vec<History>,
}

/// What the live side brings, in order.
#[derive(Clone, Copy)]
enum Live {
    Event(usize, EventId),
    Tick(EventId),
}

struct World {
    random: fastrand::Rng,
    now: u64,
    epochs: u32,
    redis: Redis,
    /// A state to which a crash may roll back.
    saved: Redis,
    /// Every event ever published, of any epoch, in order.
    truth: Vec<(EventId, usize)>,
    live: VecDeque<Live>,
    subscribed: bool,
    dispatched: Option<EventId>,
    clients: Vec<Client>,
    /// Earlier answers, whose they were, and what was not kept any more when they were read.
    cache: Vec<(usize, Arc<Snapshot>, HashSet<EventId>)>,
}

/// A client and the connection it has now.
struct Client {
    channels: Vec<usize>,
    names: Vec<Channel>,
    join: Option<Box<Join>>,
    /// While live: events above this are sent.
    seen: EventId,
    attached: bool,
    read: Option<EventId>,
    answer: Option<Arc<Snapshot>>,
    ticking: bool,
    /// The cursor an EventSource would send.
    cursor: EventId,
    /// Everything at or below was received, or told, or came before the first position.
    settled: EventId,
    /// Per channel: up to here a gap was told.
    told: HashMap<usize, EventId>,
    received: usize,
    /// It asked for the oldest kept, and no read was answered yet.
    oldest: bool,
    /// What was not kept at that read: nobody promised it.
    excused: HashSet<EventId>,
}

fn name(channel: usize) -> Channel {
    format!("c{channel}").parse().unwrap()
}

/// The position just before an event.
fn below(id: EventId) -> EventId {
    EventId { seq: id.seq - 1, ..id }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let channels = random.usize(1..4);
        let redis = Redis {
            clock: EventId::new(1000, 1, 0),
            histories: vec![History::default(); channels],
        };
        let mut world = World {
            random,
            now: 1000,
            epochs: 1,
            saved: redis.clone(),
            redis,
            truth: Vec::new(),
            live: VecDeque::new(),
            subscribed: true,
            dispatched: None,
            clients: Vec::new(),
            cache: Vec::new(),
        };
        for _ in 0..3 {
            let mut channels: Vec<usize> = (0..channels).collect();
            world.random.shuffle(&mut channels);
            channels.truncate(world.random.usize(1..=channels.len()));
            world.clients.push(Client::new(channels));
        }
        world.tick();
        world
    }

    fn publish(&mut self, channel: usize) {
        let id = self.redis.clock.next(self.now);
        self.redis.clock = id;
        let history = &mut self.redis.histories[channel];
        history.kept.push(id);
        history.last = Some(id);
        history.added += 1;
        self.truth.push((id, channel));
        if self.subscribed {
            self.live.push_back(Live::Event(channel, id));
        }
    }

    fn tick(&mut self) {
        if self.now > self.redis.clock.ms {
            self.redis.clock = EventId { ms: self.now, seq: self.redis.clock.epoch() << 16 };
        }
        if self.subscribed {
            self.live.push_back(Live::Tick(self.redis.clock));
        }
    }

    /// As the script does: above the clock, the time and whatever this gateway has seen.
    fn begin_epoch(&mut self) {
        let highest = self.truth.last().map_or(0, |(id, _)| id.ms);
        let ms = self.redis.clock.ms.max(self.now).max(highest) + 1;
        // Drawn from 2^28 in truth; here no two are alike.
        self.epochs += 1;
        self.redis.clock = EventId::new(ms, self.epochs, 0);
    }

    fn detach(&mut self) {
        self.subscribed = false;
        self.live.clear();
        for client in &mut self.clients {
            client.leave_live(self.dispatched);
            client.attached = false;
            (client.read, client.answer, client.ticking) = (None, None, false);
            client.join.as_mut().unwrap().detached();
        }
        self.dispatched = None;
    }

    fn dispatch(&mut self) {
        let Some(message) = self.live.pop_front() else { return };
        let (position, tick) = match message {
            Live::Event(_, id) => (id, false),
            Live::Tick(clock) => (clock, true),
        };
        if let Some(last) = self.dispatched
            && (position.epoch() != last.epoch() || position < last || (position == last && !tick))
        {
            for n in 0..self.clients.len() {
                self.lag(n);
            }
        }
        match message {
            Live::Event(channel, id) => {
                let frame = Frame::event(id, "", "x");
                for client in &mut self.clients {
                    if client.channels.contains(&channel) && client.attached {
                        client.live(&frame, channel, &self.truth);
                    }
                }
            }
            Live::Tick(clock) => {
                for n in 0..self.clients.len() {
                    if std::mem::take(&mut self.clients[n].ticking) {
                        let mut items = Vec::new();
                        let client = &mut self.clients[n];
                        let Some(join) = &mut client.join else { continue };
                        let next = join.tick(clock, &mut items);
                        client.act(items, next, clock, &self.truth);
                    }
                }
            }
        }
        self.dispatched = Some(position);
    }

    fn lag(&mut self, n: usize) {
        let client = &mut self.clients[n];
        match &mut client.join {
            Some(join) => {
                join.lagged();
            }
            None => {
                client.leave_live(self.dispatched);
                let mut items = Vec::new();
                let next = client.join.as_mut().unwrap().attached(&mut items);
                client.act(items, next, EventId::ZERO, &self.truth);
            }
        }
    }

    fn attach(&mut self, n: usize) {
        let client = &mut self.clients[n];
        if client.attached || !self.subscribed {
            return;
        }
        client.attached = true;
        let mut items = Vec::new();
        let next = client.join.as_mut().unwrap().attached(&mut items);
        client.act(items, next, EventId::ZERO, &self.truth);
    }

    /// Redis runs a read; its answer is under way.
    fn serve(&mut self, n: usize) {
        let Some(after) = self.clients[n].read.take() else { return };
        let page = self.random.usize(1..4);
        // A read may serve a client from further back, as shared ones do.
        let from = if self.random.bool() { after } else { EventId::ZERO };
        self.tick_without_telling();
        let redis = &self.redis;
        let kept = |id: EventId, c: usize| redis.histories[c].kept.contains(&id);
        let gone = self.truth.iter().filter(|(id, c)| !kept(*id, *c)).map(|(id, _)| *id);
        let gone: HashSet<EventId> = gone.collect();
        if self.clients[n].oldest {
            self.clients[n].excused = gone.clone();
        }
        let ranges = self.clients[n].channels.iter().map(|&channel| {
            let history = &redis.histories[channel];
            let above = |from: EventId| {
                let ids: Vec<EventId> =
                    history.kept.iter().copied().filter(|id| *id > from).collect();
                let upto = (ids.len() > page).then(|| ids[page - 1]);
                let frames = ids.iter().take(page).map(|id| Frame::event(*id, "", "x"));
                Range {
                    after: from,
                    upto,
                    last: history.last,
                    oldest: history.kept.first().copied(),
                    length: history.kept.len() as u64,
                    untrimmed: history.added == history.kept.len(),
                    frames: frames.collect::<Vec<SharedFrame>>().into(),
                    extent: Extent::All,
                    readable: true,
                }
            };
            (name(channel), vec![above(from), above(after)])
        });
        let snapshot = Snapshot {
            clock: redis.clock,
            now_ms: self.now,
            history: true,
            ttl_ms: TTL,
            ranges: ranges.collect(),
        };
        let snapshot = Arc::new(snapshot);
        // As the history thread does: pages of another epoch are of no use.
        self.cache.retain(|(_, cached, _)| cached.clock.epoch() == snapshot.clock.epoch());
        self.cache.push((n, snapshot.clone(), gone));
        if self.cache.len() > 8 {
            self.cache.remove(0);
        }
        self.clients[n].answer = Some(snapshot);
    }

    fn tick_without_telling(&mut self) {
        let subscribed = std::mem::take(&mut self.subscribed);
        self.tick();
        self.subscribed = subscribed;
    }

    fn answer(&mut self, n: usize) {
        let Some(snapshot) = self.clients[n].answer.take() else { return };
        let client = &mut self.clients[n];
        let mut items = Vec::new();
        let names = client.names.clone();
        let Some(join) = &mut client.join else { return };
        let next = join.snapshot(&snapshot, &names, self.dispatched, false, ROOM, &mut items);
        client.oldest &= !items.iter().any(|item| matches!(item, Item::Opened(..)));
        client.act(items, next, snapshot.clock, &self.truth);
    }

    /// A page that was read some time ago brings a client on.
    fn answer_from_cache(&mut self, n: usize) {
        let Some(after) = self.clients[n].read else { return };
        let useful = |(owner, snapshot, _): &&(usize, Arc<Snapshot>, HashSet<EventId>)| {
            let covered = |c| snapshot.covering(c, after, Extent::All).is_some();
            let join = self.clients[n].join.as_ref();
            let young = join.is_some_and(|join| snapshot.clock >= join.youngest());
            // As the history thread does: no page of another epoch than the live side's.
            let of_now = self.dispatched.map(EventId::epoch) == Some(snapshot.clock.epoch());
            *owner == n
                && of_now
                && young
                && snapshot.clock > after
                && self.clients[n].names.iter().all(covered)
        };
        let Some((_, snapshot, gone)) = self.cache.iter().find(useful).cloned() else { return };
        let client = &mut self.clients[n];
        client.read = None;
        if client.oldest {
            client.excused = gone;
        }
        let mut items = Vec::new();
        let names = client.names.clone();
        let Some(join) = &mut client.join else { return };
        let next = join.snapshot(&snapshot, &names, self.dispatched, true, ROOM, &mut items);
        client.oldest &= !items.iter().any(|item| matches!(item, Item::Opened(..)));
        client.act(items, next, snapshot.clock, &self.truth);
    }

    fn reconnect(&mut self, n: usize) {
        let start = match self.random.u8(0..10) {
            0 => Start::Now,
            1 => Start::Oldest,
            2 => Start::Unknown("?".into()),
            _ => Start::After(self.clients[n].cursor),
        };
        self.clients[n].connect(start);
    }

    fn step(&mut self, faults: bool) {
        let channel = self.random.usize(0..self.redis.histories.len());
        let n = self.random.usize(0..self.clients.len());
        self.now += self.random.u64(0..4);
        match self.random.u8(0..if faults { 110 } else { 90 }) {
            0..20 => self.publish(channel),
            20..26 => self.tick(),
            26..50 => self.dispatch(),
            50..60 => self.attach(n),
            60..63 => self.answer_from_cache(n),
            63..75 => self.serve(n),
            75..88 => self.answer(n),
            88..90 => {
                self.subscribed = true;
                self.tick();
            }
            90..93 => self.reconnect(n),
            93..95 => self.detach(),
            95..97 => self.lag(n),
            97..101 => {
                let history = &mut self.redis.histories[channel];
                let cut = self.random.usize(0..=history.kept.len());
                history.kept.drain(..cut);
            }
            101 => self.saved = self.redis.clone(),
            102 => {
                // A crash and reload: the live side is cut, and the next script finds another run id.
                self.detach();
                self.redis = self.saved.clone();
                self.begin_epoch();
                self.saved = self.redis.clone();
            }
            103 => self.begin_epoch(),
            104 => {
                self.now += TTL;
                let now = self.now;
                for history in &mut self.redis.histories {
                    if history.last.is_some_and(|last| last.ms + TTL < now) {
                        *history = History::default();
                    }
                }
            }
            _ => {}
        }
    }

    /// No more faults: everything in flight arrives, and everybody must be live and whole.
    fn settle(&mut self) {
        self.subscribed = true;
        for _ in 0..200 {
            self.tick();
            for n in 0..self.clients.len() {
                self.attach(n);
                self.serve(n);
                self.answer(n);
                if self.clients[n].ticking {
                    self.tick();
                }
            }
            while !self.live.is_empty() {
                self.dispatch();
            }
        }
        for channel in 0..self.redis.histories.len() {
            self.publish(channel);
        }
        while !self.live.is_empty() {
            self.dispatch();
        }
        for client in &self.clients {
            assert!(client.join.is_none(), "a client never became live: {:?}", client.join);
            let mine = |(_, c): &&(EventId, usize)| client.channels.contains(c);
            let last = self.truth.iter().rfind(mine).unwrap();
            assert!(client.settled >= last.0, "the last event did not arrive");
        }
    }
}

impl Client {
    fn new(channels: Vec<usize>) -> Self {
        let mut client = Client {
            names: channels.iter().map(|c| name(*c)).collect(),
            channels,
            join: None,
            seen: EventId::ZERO,
            attached: false,
            read: None,
            answer: None,
            ticking: false,
            cursor: EventId::ZERO,
            settled: EventId::ZERO,
            told: HashMap::new(),
            received: 0,
            oldest: false,
            excused: HashSet::new(),
        };
        client.connect(Start::Now);
        client
    }

    fn connect(&mut self, start: Start) {
        self.told.clear();
        self.excused.clear();
        match start {
            // What came before "now" was not asked for; where "now" is, the first checkpoint tells.
            Start::Now | Start::Unknown(_) => self.settled = EventId { ms: u64::MAX, seq: 0 },
            Start::Oldest => self.settled = EventId::ZERO,
            Start::After(cursor) => self.settled = cursor,
        }
        self.oldest = start == Start::Oldest;
        self.join = Some(Box::new(Join::new(start, LIMITS)));
        self.attached = false;
        (self.read, self.answer, self.ticking) = (None, None, false);
    }

    fn leave_live(&mut self, dispatched: Option<EventId>) {
        if self.join.is_none() {
            let position = dispatched.map_or(self.seen, |d| d.max(self.seen));
            self.join = Some(Box::new(Join::resumed(position, LIMITS)));
        }
    }

    fn live(&mut self, frame: &SharedFrame, channel: usize, truth: &[(EventId, usize)]) {
        match &mut self.join {
            Some(join) => {
                join.live(frame);
            }
            None if frame.id.unwrap() > self.seen => {
                self.seen = frame.id.unwrap();
                self.receive(self.seen, Some(channel), truth);
            }
            None => {}
        }
    }

    fn act(&mut self, items: Vec<Item>, next: Next, clock: EventId, truth: &[(EventId, usize)]) {
        for item in items {
            match item {
                Item::Frame(frame) => self.receive(frame.id.unwrap(), None, truth),
                Item::Opened(id, _) | Item::Checkpoint(id) => {
                    if self.settled.ms == u64::MAX {
                        self.settled = id;
                    }
                    self.receive_position(id, truth);
                }
                Item::Gap(bytes, _) => self.gap(&bytes, clock),
            }
        }
        match next {
            Next::Wait => {}
            Next::Tick => self.ticking = true,
            Next::Read(after) => {
                // After a lag, "now" is where the reading begins.
                if self.settled.ms == u64::MAX {
                    self.settled = after;
                }
                self.read = Some(after);
            }
            Next::Live(seen) => {
                self.join = None;
                self.seen = seen;
            }
        }
    }

    fn tell(&mut self, channel: usize, upto: EventId) {
        let told = self.told.entry(channel).or_default();
        *told = upto.max(*told);
    }

    fn gap(&mut self, bytes: &[u8], clock: EventId) {
        let text = std::str::from_utf8(bytes).unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        self.cursor = field("id: ").parse().unwrap();
        let data: serde_json::Value = serde_json::from_str(field("data: ")).unwrap();
        let oldest = data["oldest"].as_str().map(|id| id.parse::<EventId>().unwrap());
        let missing = match data["reason"].as_str().unwrap() {
            "trimmed" | "expired" => oldest.map_or(clock, below),
            _ => clock,
        };
        match data["channel"].as_str().unwrap() {
            "*" => {
                for channel in self.channels.clone() {
                    self.tell(channel, missing);
                }
                // Both may move the position, down to the clock of a younger epoch too.
                if self.settled > clock {
                    self.settled = clock;
                }
            }
            named => {
                let channel = named[1..].parse().unwrap();
                self.tell(channel, missing);
            }
        }
    }

    fn receive(&mut self, id: EventId, channel: Option<usize>, truth: &[(EventId, usize)]) {
        let at = truth.iter().find(|(t, _)| *t == id).expect("an event that was published");
        assert!(channel.is_none_or(|c| c == at.1) && self.channels.contains(&at.1));
        assert!(id > self.settled, "twice or out of order: {id:?} after {:?}", self.settled);
        self.receive_position(id, truth);
        self.received += 1;
    }

    /// All of the client's events below `id` must have been received, or told missing.
    fn receive_position(&mut self, id: EventId, truth: &[(EventId, usize)]) {
        let missing = truth.iter().find(|(t, c)| {
            *t > self.settled
                && *t < id
                && self.channels.contains(c)
                && !self.excused.contains(t)
                && self.told.get(c).is_none_or(|told| t > told)
        });
        assert!(missing.is_none(), "lost without a gap: {missing:?}, {:?} to {id:?}", self.settled);
        self.settled = self.settled.max(id);
        self.cursor = id;
    }
}

#[test]
fn whatever_happens_nothing_is_lost_without_a_gap() {
    let seeds = std::env::var("SSE_MODEL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let mut received = 0;
    for seed in 0..seeds {
        let played = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for step in 0..1500 {
                // Quiet stretches let everybody become live between the faults.
                world.step(step % 300 < 200);
            }
            world.settle();
            world.clients.iter().map(|client| client.received).sum::<usize>()
        });
        received += played.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    assert!(received > seeds as usize * 100, "the model does something: {received}");
}
