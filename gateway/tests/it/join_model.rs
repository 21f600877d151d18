//! The join, and the whole live side around it, against a model of the world: whatever the order of faults, reads and
//! live events, a client has every event once and in order, or was told of a gap.
//!
//! The world is two servers of Redis, of which one or both are masters, two gateways with one to three workers each,
//! and clients that reconnect to any worker of either. The gateways' own code runs here, from the bytes of Redis'
//! connection to those of a client's stream: `Dispatch`, `Interest`, `Inbox`, `Hub`, `Join`, `Reads`. What is modelled
//! is Redis (`redis`), the network, and who reads when. Steps come from a seed; `SSE_MODEL_SEEDS` runs more.
//!
//! What a client is owed. A client lives in one epoch e at a time, on the server on which its gateway lives in e. Each
//! id that it is sent moves its position, from p to q. Take every event of its channels with an id of e between p and q
//! that was ever acknowledged on that server, whoever published it there:
//!
//! - if it is in that server's data, and was published while nothing had befallen the data, then it was received, or a
//!   gap was told before q was sent;
//! - otherwise (a fault took it back, or it was published behind a fault that no tick had noticed yet) it is a debt: a
//!   `reset` must be told sooner or later. So e must end, which is what beats, runs and lines of masters are for.
//!
//! What was acknowledged by another master, and did not reach the data on which the gateway lives, is owed to nobody
//! there. A client moves to another epoch by a `reset` alone, which speaks for everything up to its read's clock S; of
//! epochs before it, only what is at or below S may follow. A client that starts "now" is owed what was published since
//! its response's head arrived. A start from the oldest is owed what was kept when it was first read.
//!
//! Told, for the rest: `trimmed` and `expired` say that events up to the oldest kept, or up to S, may be missing. They
//! are told only where something was removed, or is old enough; `reset` once for an epoch that the gateway heard of and
//! that is another than the client's; `unknown_id` never to a cursor that was given out.
//!
//! S is not on the wire. The model takes the youngest clock that the gateway has read by then, which may be younger,
//! if the client is slow.

mod client;
mod gateway;
mod redis;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use sse_contract::{EventId, encode_live};
use sse_gateway::frame::Framing;
use sse_gateway::hub::Subscription;
use sse_gateway::join::Start;
use tokio::runtime::Runtime;

use client::{Client, Facts, Stream};
use gateway::{Gateway, Request, Shape};
use redis::{Data, Event, Published, Server};

/// Beyond what is believed.
const FAR: u64 = 100_000;

/// What happens next.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Publish,
    WantTick,
    Ingest,
    ServeLink,
    Connect,
    Round,
    PlanRead,
    ServeRead,
    FinishRead,
    Client,
    Reconnect,
    Sweep,
    Replicate,
    Stall,
    OddMessage,
    Fault,
}

/// How often each happens.
const STEPS: [(Step, u32); 16] = [
    (Step::Publish, 14),
    (Step::WantTick, 2),
    (Step::Ingest, 16),
    (Step::ServeLink, 10),
    (Step::Connect, 3),
    (Step::Round, 20),
    (Step::PlanRead, 6),
    (Step::ServeRead, 6),
    (Step::FinishRead, 6),
    (Step::Client, 20),
    (Step::Reconnect, 2),
    (Step::Sweep, 1),
    (Step::Replicate, 1),
    (Step::Stall, 1),
    (Step::OddMessage, 1),
    (Step::Fault, 4),
];

/// One step that happens ten times as often, and one that happens a tenth as often, for a while.
#[derive(Clone, Copy)]
struct Mood {
    often: Step,
    seldom: Step,
}

impl Mood {
    fn new(random: &mut fastrand::Rng) -> Self {
        let often = [Step::Round, Step::Publish, Step::Reconnect, Step::OddMessage, Step::Client];
        let seldom = [Step::Fault, Step::Round, Step::Ingest, Step::ServeRead, Step::FinishRead];
        let mut choose = |steps: [Step; 5]| steps[random.usize(0..steps.len())];
        Mood { often: choose(often), seldom: choose(seldom) }
    }

    fn step(self, random: &mut fastrand::Rng) -> Step {
        let weight = |(step, weight): &(Step, u32)| match step {
            step if *step == self.seldom => weight.div_ceil(10) * 2,
            step if *step == self.often => weight * 10 + 10,
            _ => weight * 2,
        };
        let mut at = random.u32(0..STEPS.iter().map(weight).sum());
        for choice in &STEPS {
            match at.checked_sub(weight(choice)) {
                Some(rest) => at = rest,
                None => return choice.0,
            }
        }
        unreachable!()
    }
}

struct World<'a> {
    random: fastrand::Rng,
    runtime: &'a Runtime,
    now: u64,
    /// The highest time that a server, or a clock of one, has had.
    latest: u64,
    servers: [Server; 2],
    /// Where whoever connects is led to.
    master: usize,
    /// Something happened to a server's data that no tick has noticed.
    saved: Vec<(usize, Data)>,
    gateways: Vec<Gateway>,
    clients: Vec<Client>,
    events: Vec<Published>,
    removed: Vec<EventId>,
    /// Bytes of a large event.
    large: usize,
}

impl<'a> World<'a> {
    fn new(seed: u64, runtime: &'a Runtime) -> Self {
        fastrand::seed(seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let (channels, draws) = (random.usize(1..4), Rc::new(Cell::new(0)));
        let mut servers = [(); 2].map(|()| Server::new(channels, draws.clone()));
        servers[0].promote();
        let shape = |random: &mut fastrand::Rng| Shape {
            workers: random.usize(1..4),
            // The last one is more than a run hands out, twice.
            inbox_bytes: [1_000, 4_000, 140_000][random.usize(0..3)],
            lingers: random.bool(),
        };
        let gateways = (0..2).map(|_| Gateway::new(shape(&mut random))).collect();
        let clients = (0..5).map(|_| {
            let mut mine: Vec<usize> = (0..channels).collect();
            random.shuffle(&mut mine);
            mine.truncate(random.usize(1..=channels));
            Client::new(mine)
        });
        let clients = clients.collect();
        World {
            large: [1, 100, 3000, 12_000][random.usize(0..4)],
            random,
            runtime,
            now: 1000,
            latest: 1000,
            servers,
            master: 0,
            saved: Vec::new(),
            gateways,
            clients,
            events: Vec::new(),
            removed: vec![EventId::ZERO; channels],
        }
    }

    fn time(&mut self, server: usize) -> u64 {
        let time = self.now + self.servers[server].skew;
        self.latest = self.latest.max(time);
        time
    }

    /// What a server did to its histories, and how far its clock is.
    fn look(&mut self, server: usize, before: &[Vec<EventId>]) {
        let server = &self.servers[server];
        self.latest = self.latest.max(server.clock().ms);
        for (channel, before) in before.iter().enumerate() {
            let kept = server.data.histories[channel].as_ref().map(|history| &history.kept);
            let oldest = kept.and_then(|kept| kept.front()).map(|(id, _)| *id);
            let gone = before.iter().filter(|id| oldest.is_none_or(|oldest| **id < oldest));
            self.removed[channel] = gone.copied().max().unwrap_or_default().max(self.removed[channel]);
        }
    }

    /// Something that may remove events.
    fn at<T>(&mut self, server: usize, act: impl FnOnce(&mut Self) -> T) -> T {
        let histories = self.servers[server].data.histories.iter();
        let ids = histories.map(|history| {
            let kept = history.iter().flat_map(|history| &history.kept);
            kept.map(|(id, _)| *id).collect()
        });
        let before: Vec<Vec<EventId>> = ids.collect();
        let answer = act(self);
        self.look(server, &before);
        answer
    }

    fn publish(&mut self, server: usize, channel: usize, epoch: Option<u64>) {
        let now = self.time(server);
        let published = self.at(server, |world| {
            world.servers[server].publish(channel, epoch, now, &mut world.events)
        });
        let Some(event) = published else { return };
        let message = encode_live(self.events[event].id, "", self.data(event).as_bytes());
        self.send(server, channel, &message);
    }

    fn data(&self, event: Event) -> String {
        data(event, self.large)
    }

    /// To everybody who is subscribed there.
    fn send(&mut self, server: usize, channel: usize, message: &[u8]) {
        let links = self.gateways.iter_mut().filter_map(|gateway| gateway.link.as_mut());
        for link in links.filter(|link| link.server == server) {
            link.publish(&format!("sse:c{channel}"), message);
        }
    }

    /// A gateway goes on with coming into a session.
    fn connect(&mut self, g: usize) {
        if self.gateways[g].link.is_some() {
            return;
        }
        if self.gateways[g].prepared.is_some() {
            return self.gateways[g].begin();
        }
        let stale = self.random.u8(0..8) == 0;
        let server = if stale { 1 - self.master } else { self.master };
        if self.servers[server].master {
            let caller = self.gateways[g].caller();
            let answer = self.tick(server, &caller);
            let run = self.servers[server].run();
            self.gateways[g].connect(server, run, answer);
        }
    }

    fn tick(&mut self, server: usize, caller: &redis::Caller) -> Vec<u8> {
        let now = self.time(server);
        self.at(server, |world| world.servers[server].tick(caller, now))
    }

    /// Redis does what the ingest asked for.
    fn serve_link(&mut self, g: usize) {
        let Some(link) = &mut self.gateways[g].link else { return };
        let Some(request) = link.requests.pop_front().filter(|_| link.open) else { return };
        let answer = match request {
            Request::Subscribe(channel) => return link.confirm("subscribe", &channel),
            Request::Unsubscribe(channel) => return link.confirm("unsubscribe", &channel),
            Request::Tick(caller) => {
                let server = link.server;
                self.tick(server, &caller)
            }
        };
        let link = self.gateways[g].link.as_mut();
        link.expect("it was there").replies.push_back(answer);
    }

    /// Redis answers a read.
    fn serve_read(&mut self, g: usize, page: usize) {
        let Some(mut flight) = self.gateways[g].flight.take() else { return };
        if flight.answer.is_none() {
            let (server, large) = (flight.server, self.large);
            let now = self.time(server);
            let answer = self.at(server, |world| {
                let server = &mut world.servers[server];
                server.read(&flight.caller, &flight.parts, page, now, |event| data(event, large))
            });
            flight.answer = Some(answer);
        }
        self.gateways[g].flight = Some(flight);
    }

    fn reconnect(&mut self, n: usize) {
        let client = &mut self.clients[n];
        let start = match (self.random.u8(0..10), client.cursor) {
            (0, _) | (_, None) => Start::Now,
            (1, _) => Start::Oldest,
            (2, _) => Start::Unknown("?".into()),
            (_, Some(cursor)) => Start::After(cursor),
        };
        // Its old connection is closed before the new one is opened, or some time after.
        client.stream = Stream::None;
        let g = self.random.usize(0..2);
        let gateway = &mut self.gateways[g];
        let w = self.random.usize(0..gateway.workers.len());
        let worker = &gateway.workers[w];
        let subscription =
            Subscription { channels: client.names.clone(), start: start.clone(), checkpoints: true };
        let opening = worker.hub.open(Framing::Plain, subscription);
        client.connect(start, (g, w), worker.at, opening);
    }

    /// The client is let in, if its stream is subscribed or it has waited long enough.
    fn let_in(&mut self, n: usize, late: bool) {
        let client = &mut self.clients[n];
        match std::mem::replace(&mut client.stream, Stream::None) {
            Stream::Waiting(opening) if late || opening.is_answered() => {
                let late = !opening.is_answered();
                let opened = self.runtime.block_on(opening.wait(Duration::ZERO)).unwrap();
                client.open(opened.on_body(), late, self.events.len());
            }
            other => client.stream = other,
        }
    }

    fn read(&mut self, n: usize) {
        let client = &mut self.clients[n];
        if client.stalled > 0 {
            client.stalled -= 1;
            return;
        }
        loop {
            let facts = Facts {
                events: &self.events,
                servers: &self.servers,
                gateway: &self.gateways[client.gateway],
                removed: &self.removed,
                latest: self.latest,
            };
            let any = client.read(&facts);
            self.gateways[client.gateway].workers[client.worker].hub.body_signals();
            if !any {
                return;
            }
        }
    }

    fn step(&mut self, mood: Mood, faults: bool) {
        let n = self.random.usize(0..self.clients.len());
        let g = self.random.usize(0..2);
        self.now += self.random.u64(0..4);
        let step = mood.step(&mut self.random);
        match step {
            Step::Publish => self.publish_somewhere(),
            Step::WantTick => self.gateways[g].want_tick(),
            Step::Ingest => {
                let values = self.random.usize(0..10);
                self.gateways[g].ingest(values);
            }
            Step::ServeLink => (0..self.random.u8(1..5)).for_each(|_| self.serve_link(g)),
            Step::Connect => self.connect(g),
            Step::Round => {
                let w = self.random.usize(0..self.gateways[g].workers.len());
                self.gateways[g].round(w);
            }
            Step::PlanRead => self.gateways[g].plan_read(self.now),
            Step::ServeRead => {
                let page = self.random.usize(1..6);
                self.serve_read(g, page);
            }
            Step::FinishRead => {
                let patient = self.random.bool();
                self.gateways[g].finish_read(self.now, patient);
            }
            Step::Client => self.client_turn(n),
            Step::Reconnect => self.reconnect(n),
            Step::Sweep => {
                let workers = &self.gateways[g].workers;
                workers[self.random.usize(0..workers.len())].hub.sweep();
            }
            Step::Replicate => self.replicate(),
            Step::Stall => self.clients[n].stalled = self.random.u32(0..40),
            Step::OddMessage => self.odd_message(),
            Step::Fault if faults => self.fault(),
            Step::Fault => {}
        }
    }

    fn client_turn(&mut self, n: usize) {
        let late = self.random.u8(0..30) == 0;
        self.let_in(n, late);
        self.read(n);
    }

    /// By a gateway in the epoch of its session, or by anybody in any.
    fn publish_somewhere(&mut self) {
        let channel = self.random.usize(0..self.removed.len());
        let g = self.random.usize(0..2);
        if self.random.u8(0..30) == 0 {
            // More than an inbox, or a client's queue, may hold.
            for _ in 0..self.random.u8(0..40) {
                self.publish(self.master, channel, None);
            }
        }
        match (self.random.bool(), self.gateways[g].session()) {
            (true, Some((epoch, server))) => self.publish(server, channel, Some(epoch)),
            _ => {
                let stale = self.random.u8(0..4) == 0;
                let server = if stale { 1 - self.master } else { self.master };
                self.publish(server, channel, None);
            }
        }
    }

    /// What is published on a live channel without the library.
    fn odd_message(&mut self) {
        let channel = self.random.usize(0..self.removed.len());
        let server = self.random.usize(0..2);
        let clock = self.servers[server].clock();
        let message = match self.random.u8(0..4) {
            0 => b"raw".to_vec(),
            1 => b"\xff\x09what?".to_vec(),
            2 => {
                let far = EventId { ms: clock.ms + FAR, seq: clock.seq };
                encode_live(far, "", b"forged")
            }
            _ => encode_live(EventId::new(clock.ms, 1 << 27, 0), "", b"forged"),
        };
        self.send(server, channel, &message);
    }

    fn replicate(&mut self) {
        let replica = 1 - self.master;
        if !self.servers[replica].master {
            let master = self.servers[self.master].data.clone();
            self.at(replica, |world| world.servers[replica].replace(master));
            self.servers[replica].lost.clear();
        }
    }

    /// Cuts off whoever is connected to a server.
    fn cut(&mut self, server: usize) {
        for gateway in &mut self.gateways {
            let linked = gateway.link.as_ref().or(gateway.prepared.as_ref().map(|(link, _)| link));
            if linked.is_some_and(|link| link.server == server) {
                gateway.cut(self.random.usize(0..5));
            }
            if gateway.flight.as_ref().is_some_and(|flight| flight.server == server) {
                gateway.cut_reads();
            }
        }
    }

    fn fault(&mut self) {
        let server = self.random.usize(0..2);
        let key = self.random.usize(0..self.removed.len() + 2);
        match self.random.u8(0..22) {
            0..3 => self.at(server, |world| world.trim(server)),
            3 => self.at(server, |world| {
                let channel = key % world.removed.len();
                world.servers[server].data.histories[channel] = None;
            }),
            4..6 => self.cut(server),
            6..9 => self.fail_over(),
            9..11 => self.demote(),
            11 => self.blink(),
            12 => self.at(server, |world| world.servers[server].flush()),
            13 => self.at(server, |world| world.servers[server].evict(key)),
            14..17 => self.save(),
            17..19 => self.roll_back(),
            19 => self.crash(server),
            20 => {
                self.servers[server].skew = [0, 0, 20, 500][self.random.usize(0..4)];
                if self.random.u8(0..10) == 0 {
                    self.servers[server].leap(FAR);
                }
            }
            _ => self.now += TTL_AND_MORE,
        }
    }

    fn trim(&mut self, server: usize) {
        let channel = self.random.usize(0..self.removed.len());
        if let Some(history) = &mut self.servers[server].data.histories[channel] {
            let cut = self.random.usize(0..=history.kept.len());
            history.kept.drain(..cut);
        }
    }

    /// The replica becomes the master. The old one does not know.
    fn fail_over(&mut self) {
        let replica = 1 - self.master;
        if !self.servers[replica].master {
            self.servers[replica].promote();
            self.master = replica;
        }
    }

    /// The master that was deposed hears of it.
    fn demote(&mut self) {
        let old = 1 - self.master;
        if self.servers[old].master {
            self.cut(old);
            self.at(old, |world| {
                let [a, b] = &mut world.servers;
                let (old, master) = if old == 0 { (a, b) } else { (b, a) };
                old.demote(master);
            });
        }
    }

    /// A failover to the replica and back, between two ticks. Connections may survive it.
    fn blink(&mut self) {
        let (master, replica) = (self.master, 1 - self.master);
        if self.servers[replica].master {
            return;
        }
        let kept = self.servers[replica].data.clone();
        self.servers[replica].promote();
        for _ in 0..self.random.usize(0..3) {
            let channel = self.random.usize(0..self.removed.len());
            self.publish(replica, channel, None);
        }
        let data = self.servers[replica].data.clone();
        self.at(master, |world| world.servers[master].blink(data));
        let [a, b] = &mut self.servers;
        let (replica, master) = if replica == 0 { (a, b) } else { (b, a) };
        replica.data = kept;
        replica.demote(master);
        if self.random.bool() {
            self.cut(self.master);
        }
    }

    fn save(&mut self) {
        let server = self.random.usize(0..2);
        self.saved.retain(|(of, _)| *of != server);
        self.saved.push((server, self.servers[server].data.clone()));
    }

    /// The data goes back in time, under a process that stays. No further back than every gateway knows of: ticks are
    /// counted, and whoever has seen none since may count up to what the others have seen.
    fn roll_back(&mut self) {
        if self.saved.is_empty() {
            return;
        }
        let (server, data) = self.saved[self.random.usize(0..self.saved.len())].clone();
        let mut probe = Server::new(0, Rc::default());
        probe.data = data.clone();
        let beat = probe.beat();
        if self.gateways.iter().all(|gateway| gateway.caller().beat > Some(beat)) {
            self.at(server, |world| world.servers[server].replace(data));
        }
    }

    /// A process dies, and another one has what was saved, or nothing.
    fn crash(&mut self, server: usize) {
        self.cut(server);
        self.servers[server].restart();
        let data = self.saved.iter().find(|(of, _)| *of == server).map(|(_, data)| data.clone());
        self.at(server, |world| world.servers[server].replace(data.unwrap_or_default()));
    }

    /// No more faults: everything in flight arrives, and everybody must be live and whole.
    fn settle(&mut self) {
        self.demote();
        self.servers.iter_mut().for_each(|server| server.skew = 0);
        self.replicate();
        self.clients.iter_mut().for_each(|client| client.stalled = 0);
        self.turn();
        for _ in 0..1000 {
            if self.all_live() {
                break;
            }
            self.turn();
        }
        assert!(self.all_live(), "a client never became live");
        for channel in 0..self.removed.len() {
            self.publish(self.master, channel, None);
        }
        (0..3).for_each(|_| self.turn());
        let log = &self.servers[self.master].data.log;
        for client in &self.clients {
            let mine = |event: &&Event| client.channels.contains(&self.events[**event].channel);
            client.finish(self.events[*log.iter().rfind(mine).unwrap()].id);
        }
    }

    fn all_live(&self) -> bool {
        let mut workers = self.gateways.iter().flat_map(|gateway| &gateway.workers);
        let open = |client: &Client| matches!(client.stream, Stream::Open(_));
        let joined = self.gateways.iter().all(|gateway| gateway.link.is_some());
        joined && self.clients.iter().all(open) && workers.all(|w| w.cells.joining.get() == 0)
    }

    /// Everybody does all there is to do.
    fn turn(&mut self) {
        self.now += 1;
        for g in 0..2 {
            self.connect(g);
            self.gateways[g].want_tick();
            self.gateways[g].ingest(50);
            let asks = |gateway: &Gateway| {
                gateway.link.as_ref().is_some_and(|link| link.open && !link.requests.is_empty())
            };
            while asks(&self.gateways[g]) {
                self.serve_link(g);
            }
            self.gateways[g].ingest(50);
            (0..self.gateways[g].workers.len()).for_each(|w| self.gateways[g].round(w));
            self.gateways[g].plan_read(self.now);
            self.serve_read(g, 20);
            self.gateways[g].finish_read(self.now, false);
        }
        for n in 0..self.clients.len() {
            if matches!(self.clients[n].stream, Stream::None) {
                self.reconnect(n);
            }
            self.let_in(n, false);
            self.read(n);
        }
    }
}

/// More than a history lives.
const TTL_AND_MORE: u64 = redis::TTL + 100;

fn data(event: Event, large: usize) -> String {
    let size = if event % 3 == 0 { large } else { 1 };
    format!("{event} {}", "x".repeat(size))
}

/// Answers how many events were received, and how many resets.
fn play(seed: u64, runtime: &Runtime) -> (usize, usize) {
    let mut world = World::new(seed, runtime);
    for n in 0..world.clients.len() {
        world.reconnect(n);
    }
    for stretch in 0..12 {
        let mood = Mood::new(&mut world.random);
        // Quiet stretches let everybody become live between the faults.
        (0..100).for_each(|_| world.step(mood, stretch % 2 == 1));
    }
    world.settle();
    let clients = world.clients.iter();
    clients.fold((0, 0), |sum, client| (sum.0 + client.received, sum.1 + client.resets))
}

#[test]
fn whatever_happens_nothing_is_lost_without_a_gap() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let (first, seeds) = (number("SSE_MODEL_FIRST"), number("SSE_MODEL_SEEDS").unwrap_or(300));
    let (first, seeds) = (first.unwrap_or(0), first.unwrap_or(0) + seeds);
    let next = AtomicU64::new(first);
    let (received, resets) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let play = std::panic::AssertUnwindSafe(|| play(seed, &runtime));
            let Ok(counts) = std::panic::catch_unwind(play) else {
                next.store(seeds, Ordering::Relaxed);
                panic!("seed {seed}");
            };
            received.fetch_add(counts.0, Ordering::Relaxed);
            resets.fetch_add(counts.1, Ordering::Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let [received, resets] = [received, resets].map(|count| count.load(Ordering::Relaxed) as u64);
    eprintln!("COUNTS {received} {resets}");
    assert!(received > (seeds - first) * 50, "the model does something: {received}");
    assert!(resets > seeds - first, "epochs end: {resets}");
}
