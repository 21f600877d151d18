//! What goes wrong in the model.

use super::gateway::Gateway;
use super::redis::TTL;
use super::world::World;

/// Beyond what is believed.
pub const FAR: u64 = 100_000;
/// More than a history lives.
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

    /// Cuts off whoever is connected to a server.
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
        match self.random.u8(0..22) {
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

    /// The replica becomes the master. The old one does not know.
    pub fn fail_over(&mut self) {
        let replica = 1 - self.master;
        if !self.servers[replica].master {
            self.servers[replica].promote();
            self.master = replica;
        }
    }

    /// The master that was deposed hears of it.
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

    /// The data goes back in time, under a process that stays. Behind a tick that every gateway has heard of: ticks are
    /// counted, and a gateway that knows of none since might count up to what the others know before they tick. Or less
    /// far, but before the next publication some gateway reads.
    pub fn roll_back(&mut self) {
        if self.saved.is_empty() {
            return;
        }
        let (server, data) = self.saved[self.random.usize(0..self.saved.len())].clone();
        let (beat, clock) = (data.beat(), data.clock());
        let before = |gateway: &Gateway| gateway.told.0 > beat;
        if self.gateways.iter().all(before) {
            self.at(server, |world| world.servers[server].replace(data));
        } else if let Some(g) = (0..2).find(|g| self.gateways[*g].told.1 > clock) {
            self.at(server, |world| world.servers[server].replace(data));
            let (now, caller) = (self.time(server), self.gateways[g].caller());
            self.at(server, |world| {
                world.servers[server].read(&caller, &[], 1, now, |_| unreachable!())
            });
        }
    }

    /// A process dies, and another one has what was saved, or nothing.
    pub fn crash(&mut self, server: usize) {
        self.cut(server);
        self.servers[server].restart();
        let data = self.saved.iter().find(|(of, _)| *of == server).map(|(_, data)| data.clone());
        self.at(server, |world| world.servers[server].replace(data.unwrap_or_default()));
    }
}
