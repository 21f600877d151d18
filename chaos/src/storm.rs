//! The storm: two lanes of faults, one at Redis, one at gateways, wires and readers, each from its own
//! generator, so that a seed gives each lane the same faults in the same order again.

use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::faults::Fault;
use crate::gateways::Gateway;
use crate::ledger::now_ms;
use crate::payload::CHANNELS;
use crate::proxy::Link;
use crate::redis_side::RedisSide;
use crate::stage::Stage;
use crate::tally::Wrong;

/// A lane's source of faults: every kind comes once before any comes again.
#[derive(Debug)]
pub struct Lane {
    stage: Rc<Stage>,
    rng: fastrand::Rng,
    kinds: Vec<Fault>,
    bag: Vec<Fault>,
    /// Until then no epoch ends: a reset speaks for all there was, and would hide what mild faults lose.
    mild_until: Instant,
    until: Instant,
}

impl Lane {
    /// A lane of these kinds, for so long. Faults that end no epoch come first, for half of it.
    pub fn new(stage: Rc<Stage>, kinds: Vec<Fault>, salt: u64, length: Duration) -> Self {
        let rng = fastrand::Rng::with_seed(stage.seed ^ salt);
        let now = Instant::now();
        let (mild_until, until) = (now + length / 2, now + length);
        Lane { stage, rng, kinds, bag: Vec::new(), mild_until, until }
    }

    /// The next fault, after a pause; none when the storm is over.
    async fn next(&mut self) -> Option<Fault> {
        loop {
            self.wait(300..2_500).await;
            if Instant::now() >= self.until {
                return None;
            }
            if self.bag.is_empty() {
                let mild = Instant::now() < self.mild_until;
                self.bag =
                    self.kinds.iter().copied().filter(|f| !mild || !f.ends_epoch()).collect();
                self.rng.shuffle(&mut self.bag);
            }
            if let Some(fault) = self.bag.pop() {
                return Some(fault);
            }
        }
    }

    async fn wait(&mut self, range: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.rng.u64(range))).await;
    }

    /// Breaks Redis until the storm is over.
    pub async fn redis(mut self, side: &mut RedisSide) -> Result<(), String> {
        while let Some(fault) = self.next().await {
            self.stage.say(fault.name());
            let place = self.stage.tally.borrow_mut().begin(fault);
            self.strike_redis(fault, side).await.map_err(|e| format!("{}: {e}", fault.name()))?;
            self.stage.tally.borrow_mut().end(place);
        }
        Ok(())
    }

    async fn strike_redis(&mut self, fault: Fault, side: &mut RedisSide) -> Result<(), String> {
        let master = &mut side.master;
        match fault {
            Fault::RedisRollback => {
                master.must(&["SAVE"]).await?;
                self.wait(300..2_500).await;
                master.kill();
                self.wait(0..1_500).await;
                master.revive(false).await
            }
            Fault::RedisEmpty => {
                master.wipe();
                self.wait(0..1_500).await;
                master.revive(false).await
            }
            Fault::RedisAof => {
                master.must(&["CONFIG", "SET", "appendonly", "yes"]).await?;
                while master.info("aof_rewrite_in_progress").await? != "0"
                    || master.info("aof_rewrite_scheduled").await? != "0"
                {
                    sleep(Duration::from_millis(50)).await;
                }
                self.wait(200..1_500).await;
                master.kill();
                self.wait(0..1_500).await;
                master.revive(true).await?;
                master.must(&["CONFIG", "SET", "appendonly", "no"]).await.map(|_| ())
            }
            Fault::RedisPause => {
                master.signal(Signal::STOP);
                self.wait(1_000..8_000).await;
                master.signal(Signal::CONT);
                Ok(())
            }
            Fault::Promote => {
                side.caught_up().await?;
                side.replication.stall(true);
                self.wait(200..2_500).await;
                if self.rng.bool() {
                    side.master.signal(Signal::STOP);
                    self.wait(200..2_500).await;
                }
                side.promote().await
            }
            Fault::Evict => {
                let used: u64 = master.info("used_memory").await?.parse().unwrap_or(0);
                let share = self.rng.u64(60..98);
                let low = (used * share / 100).to_string();
                master.must(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await?;
                master.must(&["CONFIG", "SET", "maxmemory", &low]).await?;
                self.wait(100..800).await;
                master.must(&["CONFIG", "SET", "maxmemory", "0"]).await?;
                master.must(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await.map(|_| ())
            }
            Fault::ClockBack => {
                let id = master.must(&["HGET", "sse:state", "id"]).await?;
                let (ms, seq) = id.split_once('-').unwrap_or(("0", "65536"));
                let back = self.rng.u64(1..30_000);
                let ms = ms.parse().unwrap_or(0_u64).saturating_sub(back);
                let set = format!("{ms}-{seq}");
                master.must(&["HSET", "sse:state", "id", &set]).await.map(|_| ())
            }
            Fault::Trim => {
                for channel in CHANNELS {
                    if self.rng.bool() {
                        let keep = if self.rng.bool() { 0 } else { self.rng.u32(0..300) };
                        let key = format!("sse:history:{channel}");
                        master.must(&["XTRIM", &key, "MAXLEN", &keep.to_string()]).await?;
                    }
                }
                Ok(())
            }
            Fault::Fence => {
                // Refused while the library is flushed; then there is no fence.
                master.call(&["FCALL", "sse_fence", "1", "sse:state"]).await.map(|_| ())
            }
            Fault::KillPubsub => {
                master.must(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.map(|_| ())
            }
            Fault::KillNormal => {
                master.must(&["CLIENT", "KILL", "TYPE", "normal"]).await.map(|_| ())
            }
            Fault::FunctionFlush => master.must(&["FUNCTION", "FLUSH"]).await.map(|_| ()),
            Fault::ScriptFlush => master.must(&["SCRIPT", "FLUSH"]).await.map(|_| ()),
            Fault::FlushAll => master.must(&["FLUSHALL"]).await.map(|_| ()),
            other => Err(format!("{other:?} is not done to Redis")),
        }
    }

    /// Breaks gateways, wires and readers until the storm is over. `links` are all wires to Redis.
    pub async fn gateways(
        mut self,
        gateways: &mut [Gateway],
        links: &[Link],
    ) -> Result<(), String> {
        while let Some(fault) = self.next().await {
            let one = match fault.of_packets() {
                true => gateways.iter().position(|g| g.namespace().is_some()).unwrap_or(0),
                false => self.rng.usize(..gateways.len()),
            };
            let place = self.stage.tally.borrow_mut().begin(fault);
            let link = self.rng.usize(..links.len());
            self.stage.say(&match fault {
                Fault::WireCut | Fault::WireSilent | Fault::WireStall => {
                    format!("{} {}", fault.name(), links[link].addr)
                }
                Fault::ReadersAbort | Fault::ReadersStall | Fault::GatewayKillAll => {
                    fault.name().to_owned()
                }
                _ => format!("{} {}", fault.name(), gateways[one].addr),
            });
            self.strike(fault, gateways, one, &links[link]).await?;
            self.stage.tally.borrow_mut().end(place);
            for ended in gateways.iter_mut().filter_map(Gateway::ended) {
                self.stage.tally.borrow_mut().wrong(Wrong::Crashed, ended);
            }
        }
        Ok(())
    }

    async fn strike(
        &mut self,
        fault: Fault,
        gateways: &mut [Gateway],
        one: usize,
        link: &Link,
    ) -> Result<(), String> {
        match fault {
            Fault::GatewayKill => {
                gateways[one].kill();
                self.wait(0..1_500).await;
                gateways[one].start()?;
            }
            Fault::GatewayKillAll => {
                gateways.iter_mut().for_each(Gateway::kill);
                self.wait(0..1_500).await;
                for gateway in gateways {
                    gateway.start()?;
                }
            }
            Fault::GatewayTerm => {
                if let Err(text) = gateways[one].drain().await {
                    self.stage.tally.borrow_mut().wrong(Wrong::Crashed, text);
                }
                gateways[one].start()?;
            }
            Fault::GatewayPause => {
                gateways[one].signal(Signal::STOP);
                self.wait(1_000..8_000).await;
                gateways[one].signal(Signal::CONT);
            }
            Fault::WireCut => link.cut(),
            Fault::WireSilent => link.silence(),
            Fault::WireStall => {
                link.stall(true);
                self.wait(500..5_000).await;
                link.stall(false);
            }
            Fault::PacketLoss | Fault::PacketDrop => {
                let percent = if fault == Fault::PacketDrop { 100 } else { self.rng.u32(10..50) };
                if let Some(namespace) = gateways[one].namespace() {
                    namespace.drop_packets(percent)?;
                    self.wait(1_000..7_000).await;
                    namespace.heal()?;
                }
            }
            Fault::ReadersStall => {
                let hold = self.rng.u64(1_000..6_500);
                self.stage.cue.send_modify(|cue| cue.stalled_until_ms = now_ms() + hold);
                sleep(Duration::from_millis(hold)).await;
            }
            Fault::ReadersAbort => self.stage.cue.send_modify(|cue| cue.aborts += 1),
            other => return Err(format!("{other:?} is done to Redis alone")),
        }
        Ok(())
    }
}
