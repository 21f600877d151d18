//! The world of the model: who is connected to whom, and what each of them does at its turn.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use sse_contract::{EventId, encode_live};
use sse_gateway::feed::frame::Framing;
use sse_gateway::stream::join::Start;
use sse_gateway::stream::subscription::{Begin, Subscription};
use tokio::runtime::Runtime;

use super::claim::Facts;
use super::client::{Client, Stream};
use super::gateway::{Gateway, Shape};
use super::link::Request;
use super::redis::{Caller, Data, Event, Published, Server};

pub struct World<'a> {
    pub random: fastrand::Rng,
    pub runtime: &'a Runtime,
    pub now: u64,
    /// The highest time that a server, or a clock of one, has had.
    pub latest: u64,
    pub servers: [Server; 2],
    /// The server to which a new connection usually leads.
    pub master: usize,
    /// Data to which a server may go back, with the server's number.
    pub saved: Vec<(usize, Data)>,
    pub gateways: Vec<Gateway>,
    pub clients: Vec<Client>,
    pub events: Vec<Published>,
    /// For each channel, whether an event was ever removed from its history, or the history was
    /// unreadable.
    pub cut: Vec<bool>,
    /// The size of a large event, in bytes.
    pub large: usize,
    /// The percentage of events that are published by a newer library than the gateways'.
    pub newer: u8,
}

impl<'a> World<'a> {
    pub fn new(seed: u64, runtime: &'a Runtime) -> Self {
        // The gateways' own code draws from this generator.
        fastrand::seed(seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let (channels, draws) = (random.usize(1..4), Rc::new(Cell::new(0)));
        let mut servers = [(); 2].map(|()| Server::new(channels, draws.clone()));
        servers[0].promote();
        let shape = |random: &mut fastrand::Rng| Shape {
            workers: [1, 1, 2, 3][random.usize(0..4)],
            // The last size holds more than twice what one round hands out.
            inbox_bytes: [1_000, 4_000, 140_000][random.usize(0..3)],
            lingers: random.bool(),
            latest: [0, 0, 1, channels][random.usize(0..4)],
        };
        let gateways = (0..2).map(|_| Gateway::new(shape(&mut random))).collect();
        let clients = (0..7).map(|_| {
            let mut mine: Vec<usize> = (0..channels).collect();
            random.shuffle(&mut mine);
            mine.truncate(random.usize(1..=channels));
            Client::new(mine)
        });
        let clients = clients.collect();
        World {
            large: [1, 100, 3000, 8000][random.usize(0..4)],
            newer: [0, 0, 5, 40][random.usize(0..4)],
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
            cut: vec![false; channels],
        }
    }

    pub fn time(&mut self, server: usize) -> u64 {
        let time = self.now + self.servers[server].skew;
        self.latest = self.latest.max(time);
        time
    }

    /// Does something that may remove events from a server's histories, and records in `cut`
    /// whether it did.
    pub fn at<T>(&mut self, server: usize, act: impl FnOnce(&mut Self) -> T) -> T {
        let looks = |world: &Self| -> Vec<(Option<EventId>, usize)> {
            let histories = world.servers[server].data.histories.iter();
            let kept = histories.map(|history| history.as_ref().map(|history| &history.kept));
            kept.map(|kept| kept.map_or((None, 0), |kept| (kept.front().map(|e| e.0), kept.len())))
                .collect()
        };
        let before = looks(self);
        let answer = act(self);
        for (channel, (before, now)) in before.iter().zip(looks(self)).enumerate() {
            self.cut[channel] |= before.0.is_some() && (before.0 != now.0 || before.1 > now.1);
        }
        self.latest = self.latest.max(self.servers[server].data.clock().ms);
        answer
    }

    pub fn publish(&mut self, server: usize, channel: usize, epoch: Option<u64>) {
        let readable = self.random.u8(0..100) >= self.newer;
        self.publish_as(server, channel, epoch, readable);
    }

    /// Publishes an event. Unless it is `readable`, its frame is of another version.
    pub fn publish_as(
        &mut self,
        server: usize,
        channel: usize,
        epoch: Option<u64>,
        readable: bool,
    ) {
        let now = self.time(server);
        let published = self.at(server, |world| {
            world.servers[server].publish(channel, epoch, now, &mut world.events)
        });
        let Some(event) = published else { return };
        let mut message = encode_live(self.events[event].id, "", self.data(event).as_bytes());
        if !readable {
            message[1] = 9;
        }
        self.send(server, channel, &message);
    }

    pub fn data(&self, event: Event) -> String {
        data(event, self.large)
    }

    /// Sends a message to every gateway that is subscribed on this server.
    pub fn send(&mut self, server: usize, channel: usize, message: &[u8]) {
        let links = self.gateways.iter_mut().filter_map(|gateway| gateway.link.as_mut());
        for link in links.filter(|link| link.server == server) {
            link.publish(&format!("sse:c{channel}"), message);
        }
    }

    /// The gateway takes its next step towards a session.
    pub fn connect(&mut self, g: usize) {
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

    pub fn tick(&mut self, server: usize, caller: &Caller) -> Vec<u8> {
        let now = self.time(server);
        self.at(server, |world| world.servers[server].tick(caller, now))
    }

    /// Redis runs the next request of a gateway's ingest.
    pub fn serve_link(&mut self, g: usize) {
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

    /// Redis answers the gateway's read that is under way.
    pub fn serve_read(&mut self, g: usize, page: usize) {
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

    pub fn reconnect(&mut self, n: usize) {
        let g = self.random.usize(0..2);
        let w = self.random.usize(0..self.gateways[g].workers.len());
        let start = match (self.random.u8(0..10), self.clients[n].cursor) {
            (0, _) | (_, None) => Start::Now,
            (1, _) => Start::Oldest,
            (2, _) => Start::Unknown("?".into()),
            (_, Some(cursor)) => Start::After(cursor),
        };
        self.open(n, start, (g, w));
    }

    /// Opens a new stream of a client, at this worker of a gateway.
    pub fn open(&mut self, n: usize, start: Start, (g, w): (usize, usize)) {
        let client = &mut self.clients[n];
        // This closes the old connection. The hub notices it some time later.
        client.stream = Stream::None;
        let worker = &self.gateways[g].workers[w];
        let channels = client.names.clone();
        let subscription = Subscription {
            channels,
            begin: match &start {
                Start::Now => Begin::Now,
                Start::Oldest => Begin::Oldest,
                Start::After(id) => Begin::After((*id).into()),
                Start::Unknown(text) => Begin::Unknown(text.clone()),
            },
            checkpoints: true,
            annotate: false,
            about: None,
            peer: None,
        };
        let opening = worker.hub.open(Framing::Plain, subscription);
        client.connect(start, (g, w), worker.at, opening);
    }

    /// Lets the client in if its stream is subscribed, or if it has waited long enough (`late`).
    pub fn let_in(&mut self, n: usize, late: bool) {
        let client = &mut self.clients[n];
        match std::mem::replace(&mut client.stream, Stream::None) {
            Stream::Waiting(opening) if late || opening.is_answered() => {
                let late = !opening.is_answered();
                let opened = self.runtime.block_on(opening.wait(Duration::ZERO)).unwrap();
                client.open(opened.on_body(None), late, self.events.len());
            }
            other => client.stream = other,
        }
    }

    pub fn read(&mut self, n: usize) {
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
                cut: &self.cut,
                latest: self.latest,
            };
            let any = client.read(&facts);
            self.gateways[client.gateway].workers[client.worker].hub.body_signals();
            if !any {
                return;
            }
        }
    }

    /// Ends all faults, and lets everything in flight arrive. It is a violation if a client does
    /// not become live, or does not have everything then.
    pub fn settle(&mut self) {
        self.demote();
        for server in &mut self.servers {
            server.skew = 0;
            server.unreadable.clear();
        }
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
        for channel in 0..self.cut.len() {
            self.publish_as(self.master, channel, None, true);
        }
        (0..3).for_each(|_| self.turn());
        let log = &self.servers[self.master].data.log;
        for client in &self.clients {
            let mine = |event: &&Event| client.channels.contains(&self.events[**event].channel);
            client.finish(self.events[*log.iter().rfind(mine).unwrap()].id);
        }
    }

    pub fn all_live(&self) -> bool {
        let mut workers = self.gateways.iter().flat_map(|gateway| &gateway.workers);
        let open = |client: &Client| matches!(client.stream, Stream::Open(_));
        let joined = self.gateways.iter().all(|gateway| gateway.link.is_some());
        joined && self.clients.iter().all(open) && workers.all(|w| w.cells.joining.get() == 0)
    }

    /// Every gateway and every client does all that there is to do.
    pub fn turn(&mut self) {
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

fn data(event: Event, large: usize) -> String {
    let size = if event.is_multiple_of(3) { large } else { 1 };
    format!("{event} {}", "x".repeat(size))
}
