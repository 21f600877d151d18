//! A master, two replicas and three Sentinels, and what happens to them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sse_lab::sentinels::{NAME, Sentinels};

use crate::topology::asking::{ask, field, until};
use crate::topology::lane::{Lane, Side};

/// The faults, with what each does.
pub const FAULTS: [(&str, &str); 6] = [
    (
        "kill-master",
        "the master is killed, and comes back once another was named, empty or with old data",
    ),
    ("restart-master", "the master is killed and starts again at once, empty or with old data"),
    ("sentinel-failover", "SENTINEL FAILOVER: the old master becomes a replica"),
    ("freeze-master", "the master stands still until another was named, then runs on"),
    ("pause-master", "the master stands still for a moment"),
    ("freeze-sentinel", "one Sentinel stands still; often the master is killed meanwhile"),
];

/// How long a failover takes at most, unless the Sentinels have given it up.
const GIVEN_UP: Duration = Duration::from_secs(20);

/// The only partition.
const ALL: [u16; 1] = [0];

/// The servers.
#[derive(Debug)]
pub struct SentinelSide {
    all: Sentinels,
    /// The Sentinel that stands still.
    frozen: Option<usize>,
}

impl SentinelSide {
    /// Starts everything.
    pub fn start() -> Self {
        SentinelSide { all: Sentinels::start(2, ""), frozen: None }
    }

    /// The master, as most of the Sentinels say.
    fn named(&self) -> Option<usize> {
        let say = |n: usize| -> Option<SocketAddr> {
            if self.frozen == Some(n) {
                return None;
            }
            let told = ask(self.all.sentinels[n].addr, &["SENTINEL", "MASTER", NAME]).ok()?;
            let lines: Vec<&str> = told.lines().collect();
            let of = |name: &str| lines.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
            format!("{}:{}", of("ip")?, of("port")?).parse().ok()
        };
        let said: Vec<SocketAddr> = (0..3).filter_map(say).collect();
        let agreed = said.iter().find(|a| said.iter().filter(|b| a == b).count() >= 2)?;
        self.all.servers.iter().position(|server| server.addr == *agreed)
    }

    fn other_named(&self, lane: &Lane, than: usize) -> Result<usize, String> {
        let mut named = None;
        until(&lane.shared, "the Sentinels name another master", || {
            named = self.named().filter(|named| *named != than);
            named.is_some()
        })?;
        let named = named.ok_or("no master is named")?;
        lane.shared.say(&format!("  the master is {} now", self.all.servers[named].addr));
        Ok(named)
    }

    /// Has a Sentinel fail over from this master, until another one is named.
    fn fail_over(&self, lane: &mut Lane, master: usize) -> Result<(), String> {
        let sentinel = self.all.sentinels[lane.rng.usize(..3)].addr;
        // It is refused for a while after another one.
        let fail_over = || ask(sentinel, &["SENTINEL", "FAILOVER", NAME]).is_ok();
        until(&lane.shared, "a failover is begun", fail_over)?;
        // One that was begun is given up if the replica does not answer in time.
        let mut begun = Instant::now();
        until(&lane.shared, "the Sentinels name another master", || {
            if begun.elapsed() > GIVEN_UP && fail_over() {
                begun = Instant::now();
            }
            self.named().is_some_and(|named| named != master)
        })
    }

    /// Whether everybody follows the master that the Sentinels name, and they see all of them.
    fn in_order(&self) -> bool {
        let Some(named) = self.named() else { return false };
        let master = self.all.servers[named].addr;
        let in_step = |server: &sse_lab::redis_server::RedisServer| {
            let Ok(info) = ask(server.addr, &["INFO", "replication"]) else { return false };
            let is = |name, value: &str| field(&info, name) == Some(value);
            match server.addr == master {
                true => is("role", "master") && is("connected_slaves", "2"),
                false => {
                    is("role", "slave")
                        && is("master_host", &master.ip().to_string())
                        && is("master_link_status", "up")
                }
            }
        };
        let sees = |sentinel: &sse_lab::sentinels::Sentinel| {
            let told = ask(sentinel.addr, &["SENTINEL", "MASTER", NAME]).unwrap_or_default();
            let lines: Vec<&str> = told.lines().collect();
            let is = |name, value| lines.chunks(2).any(|pair| pair == [name, value]);
            is("flags", "master") && is("num-slaves", "2") && is("ip", &master.ip().to_string())
        };
        self.all.servers.iter().all(in_step) && self.all.sentinels.iter().all(sees)
    }

    fn kill_master(&mut self, lane: &mut Lane, master: usize) -> Result<(), String> {
        self.all.servers[master].kill();
        self.other_named(lane, master)?;
        lane.wait(0..2_000)?;
        self.all.servers[master].restart();
        Ok(())
    }

    /// Freezes a Sentinel for a while, and kills a master meanwhile.
    fn freeze_sentinel(&mut self, lane: &mut Lane, kill: Option<usize>) -> Result<(), String> {
        let sentinel = lane.rng.usize(..3);
        self.all.sentinels[sentinel].freeze();
        self.frozen = Some(sentinel);
        let worked = match kill {
            Some(master) => self.kill_master(lane, master),
            None => lane.wait(1_000..6_000),
        };
        let waited = lane.wait(0..1_500);
        self.all.sentinels[sentinel].thaw();
        self.frozen = None;
        worked.and(waited)
    }
}

impl Side for SentinelSide {
    fn url(&self) -> String {
        self.all.url()
    }

    fn servers(&self) -> Vec<SocketAddr> {
        self.all.sentinels.iter().map(|sentinel| sentinel.addr).collect()
    }

    fn fault(&mut self, fault: &'static str, lane: &mut Lane) -> Result<(), String> {
        let master = self.named().ok_or("the Sentinels name no master")?;
        let place = lane.shared.begin(fault, ALL.to_vec());
        let shared = lane.shared.clone();
        let ends = |splits| {
            shared.amend(place, |window| {
                (window.ends_epoch, window.splits) = (true, splits);
            });
        };
        match fault {
            "kill-master" => {
                ends(false);
                self.kill_master(lane, master)?;
            }
            "restart-master" => {
                ends(true);
                self.all.servers[master].kill();
                self.all.servers[master].restart();
            }
            "sentinel-failover" => {
                ends(true);
                self.fail_over(lane, master)?;
                self.other_named(lane, master)?;
            }
            "freeze-master" => {
                ends(true);
                self.all.servers[master].freeze();
                let named = self.other_named(lane, master);
                let waited = lane.wait(0..4_000);
                self.all.servers[master].thaw();
                named.and(waited)?;
            }
            "pause-master" => {
                self.all.servers[master].freeze();
                let waited = lane.wait(50..600);
                self.all.servers[master].thaw();
                waited?;
                lane.wait(1_500..2_000)?;
                // On a busy machine it may have been too long.
                if self.named() != Some(master) {
                    ends(true);
                }
            }
            _ => {
                let kills = lane.rng.bool();
                if kills {
                    ends(false);
                }
                self.freeze_sentinel(lane, kills.then_some(master))?;
            }
        }
        until(&lane.shared, "master, replicas and Sentinels are in order", || self.in_order())?;
        // A failover that was begun late.
        if self.named() != Some(master) {
            lane.shared.amend(place, |window| window.ends_epoch = true);
        }
        lane.shared.end(place);
        Ok(())
    }
}
