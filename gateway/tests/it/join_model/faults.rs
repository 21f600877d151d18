//! What goes wrong in the model: faults of the servers, and some orders of steps that chance seldom
//! finds.

use sse_contract::{EventId, encode_live};
use sse_gateway::stream::join::Start;

use super::redis::TTL;
use super::world::World;

/// No gateway believes an id that is this many milliseconds ahead.
pub const FAR: u64 = 100_000;
/// Longer than a history lives, in milliseconds.
const LONG: u64 = TTL + 100;

impl World<'_> {
    pub fn replicate(&mut self) {
        let replica = 1 - self.master;
        if !self.servers[replica].master {
            let master = self.servers[self.master].data.clone();
            self.at(replica, |world| world.servers[replica].replace(master));
            self.servers[replica].lost.clear();
        }
    }

    /// Cuts all connections to a server.
    pub fn cut(&mut self, server: usize) {
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

    pub fn fault(&mut self) {
        let server = self.random.usize(0..2);
        let key = self.random.usize(0..self.cut.len() + 2);
        match self.random.u8(0..28) {
            0..3 => self.at(server, |world| world.trim(server)),
            3 => self.at(server, |world| {
                let channel = key % world.cut.len();
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
                if self.random.u8(0..4) == 0 {
                    self.servers[server].leap(FAR);
                }
            }
            21..23 => self.slip(server),
            // A history exists but cannot be read, until this fault comes to it again.
            23..27 => {
                let channel = key % self.cut.len();
                if !self.servers[server].unreadable.remove(&channel) {
                    self.servers[server].unreadable.insert(channel);
                    self.cut[channel] = true;
                }
            }
            _ => self.now += LONG,
        }
    }

    pub fn trim(&mut self, server: usize) {
        let channel = self.random.usize(0..self.cut.len());
        if let Some(history) = &mut self.servers[server].data.histories[channel] {
            let cut = self.random.usize(0..=history.kept.len());
            history.kept.drain(..cut);
        }
    }

    /// Promotes the replica. The old master does not know of it.
    pub fn fail_over(&mut self) {
        let replica = 1 - self.master;
        if !self.servers[replica].master {
            self.servers[replica].promote();
            self.master = replica;
        }
    }

    /// The deposed master learns that it is a replica.
    pub fn demote(&mut self) {
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
    pub fn blink(&mut self) {
        let (master, replica) = (self.master, 1 - self.master);
        if self.servers[replica].master {
            return;
        }
        let kept = self.servers[replica].data.clone();
        self.servers[replica].promote();
        for _ in 0..self.random.usize(0..3) {
            let channel = self.random.usize(0..self.cut.len());
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

    pub fn save(&mut self) {
        let server = self.random.usize(0..2);
        self.saved.retain(|(of, _)| *of != server);
        self.saved.push((server, self.servers[server].data.clone()));
    }

    /// The data goes back in time while the process stays, to before a tick that every gateway has
    /// heard. Only the count of ticks tells. A gateway that knew of no later tick could raise the
    /// count to what the others know before they tick, and the rollback would stay unnoticed.
    pub fn roll_back(&mut self) {
        if self.saved.is_empty() {
            return;
        }
        let (server, data) = self.saved[self.random.usize(0..self.saved.len())].clone();
        if self.gateways.iter().all(|gateway| gateway.told > data.beat()) {
            self.at(server, |world| world.servers[server].replace(data));
        }
    }

    /// The data goes back by one event and no tick, and a gateway that has seen the event reads
    /// before the next one is published. The count of ticks does not tell that time went back, but
    /// the clock does.
    pub fn slip(&mut self, server: usize) {
        let channel = self.random.usize(0..self.cut.len());
        let data = self.servers[server].data.clone();
        self.publish_as(server, channel, None, true);
        for g in 0..2 {
            self.gateways[g].ingest(1000);
            (0..self.gateways[g].workers.len()).for_each(|w| self.gateways[g].round(w));
        }
        (0..self.clients.len()).for_each(|n| self.read(n));
        let clock = self.servers[server].data.clock();
        let had = self.clients.iter().find(|client| client.cursor == Some(clock));
        let Some(g) = had.map(|client| client.gateway).filter(|_| clock > data.clock()) else {
            return;
        };
        self.at(server, |world| world.servers[server].replace(data));
        let (now, caller) = (self.time(server), self.gateways[g].caller());
        self.at(server, |world| {
            world.servers[server].read(&caller, &[], 1, now, |_| unreachable!())
        });
    }

    /// In a settled world, three ids that do not rise come before a client connects, and another one
    /// while it reads. The older streams are due to read history anyway, but the new stream must
    /// hear of the last one, or it would miss an event.
    pub fn connect_among_lags(&mut self) {
        let n = self.random.usize(0..self.clients.len());
        let client = &self.clients[n];
        let (g, w, channel) = (client.gateway, client.worker, client.channels[0]);
        let Some(cursor) = client.cursor else { return };
        let Some(last) = self.events.last().map(|event| event.id) else { return };
        (0..3).for_each(|_| self.lag(g, channel, last));
        self.open(n, Start::After(cursor), (g, w));
        self.gateways[g].ingest(0);
        self.gateways[g].round(w);
        self.let_in(n, false);
        self.gateways[g].plan_read(self.now);
        self.serve_read(g, 20);
        self.lag(g, channel, last);
        self.gateways[g].finish_read(self.now, false);
        (0..self.gateways[g].workers.len()).for_each(|w| self.gateways[g].round(w));
    }

    /// In a settled world a worker's inbox overflows, and more ticks are queued than one round
    /// hands out. A client connects between the mark of the overflow and the last of these ticks.
    /// Events are missing after the ticks as well, and the client must not miss them silently.
    pub fn connect_behind_a_mark(&mut self) {
        let n = self.random.usize(0..self.clients.len());
        let client = &self.clients[n];
        let (g, w, channel) = (client.gateway, client.worker, client.channels[0]);
        for _ in 0..30 {
            self.publish_as(self.master, channel, None, true);
        }
        for _ in 0..70 {
            self.now += 1;
            self.gateways[g].want_tick();
            self.gateways[g].ingest(0);
            self.serve_link(g);
            self.gateways[g].ingest(100);
        }
        self.now += 1;
        self.publish_as(self.master, channel, None, true);
        self.gateways[g].ingest(100);
        self.gateways[g].round(w);
        self.open(n, Start::Now, (g, w));
        (0..3).for_each(|_| self.gateways[g].round(w));
    }

    /// An event's frame is lost, and the frame of `last`, which every gateway has dispatched,
    /// arrives in its place: the id does not rise, so every stream of the partition must read
    /// history. Every worker of the gateway hears of it.
    fn lag(&mut self, g: usize, channel: usize, last: EventId) {
        let (master, now) = (self.master, self.time(self.master));
        let published = self.at(master, |world| {
            world.servers[master].publish(channel, None, now, &mut world.events)
        });
        if published.is_none() {
            return;
        }
        self.send(master, channel, &encode_live(last, "", b"again"));
        self.gateways[g].ingest(1000);
        (0..self.gateways[g].workers.len()).for_each(|w| self.gateways[g].round(w));
    }

    /// A process dies. The next one has the data that was saved, or none.
    pub fn crash(&mut self, server: usize) {
        self.cut(server);
        self.servers[server].restart();
        let data = self.saved.iter().find(|(of, _)| *of == server).map(|(_, data)| data.clone());
        self.at(server, |world| world.servers[server].replace(data.unwrap_or_default()));
    }
}
