//! The storm: two lanes of faults at a time, one in Redis, one in gateways, wires and readers. Each
//! lane has its own random generator, so a seed always gives each lane the same faults in the same
//! order.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::faults::{Fault, access, data, gateways, life, rollback, time};
use crate::gateways::Gateway;
use crate::redis_side::Link;
use crate::redis_side::RedisSide;
use crate::stage::Stage;
use crate::tally::Wrong;

/// The pause between two faults of a lane, in milliseconds.
const PAUSE: Range<u64> = 100..900;

/// What a fault needs: the stage and random numbers.
#[derive(Debug)]
pub struct Hand {
    /// The state of the run.
    pub stage: Rc<Stage>,
    /// The random generator of the lane.
    pub rng: fastrand::Rng,
}

impl Hand {
    /// Notes that a gateway ended, and with it the contents of a memory broker.
    pub fn gateway_is_gone(&self) {
        if self.stage.settings.memory() {
            self.stage.census.borrow_mut().breaks();
        }
    }

    /// Waits for a random number of milliseconds.
    pub async fn wait(&mut self, range: Range<u64>) {
        sleep(Duration::from_millis(self.rng.u64(range))).await;
    }
}

/// Draws the faults of a lane: every kind comes once before any comes again.
#[derive(Debug)]
pub struct Lane {
    hand: Hand,
    kinds: Vec<Fault>,
    bag: Vec<Fault>,
    /// Until this time no fault ends an epoch. A reset covers all earlier events, so it would hide
    /// what milder faults lose.
    mild_until: Instant,
    until: Instant,
}

impl Lane {
    /// A lane of these faults for this long. For the first two fifths, no fault ends an epoch.
    pub fn new(stage: Rc<Stage>, kinds: Vec<Fault>, salt: u64, length: Duration) -> Self {
        let rng = fastrand::Rng::with_seed(stage.seed ^ salt);
        let now = Instant::now();
        let (mild_until, until) = (now + length * 2 / 5, now + length);
        Lane { hand: Hand { stage, rng }, kinds, bag: Vec::new(), mild_until, until }
    }

    /// The next fault, after a pause; none when the storm is over.
    async fn next(&mut self) -> Option<Fault> {
        loop {
            self.hand.wait(PAUSE).await;
            if Instant::now() >= self.until {
                return None;
            }
            let mild = Instant::now() < self.mild_until;
            let fits = |fault: &Fault| !mild || !fault.ends_epoch();
            if !self.bag.iter().any(fits) {
                let missing: Vec<Fault> =
                    self.kinds.iter().copied().filter(|f| !self.bag.contains(f)).collect();
                self.bag.extend(missing);
                self.hand.rng.shuffle(&mut self.bag);
            }
            if let Some(place) = self.bag.iter().rposition(fits) {
                return Some(self.bag.remove(place));
            }
        }
    }

    /// Causes faults in Redis until the storm is over.
    pub async fn redis(mut self, side: &mut RedisSide) -> Result<(), String> {
        while let Some(fault) = self.next().await {
            let stage = self.hand.stage.clone();
            stage.say(fault.name());
            let place = stage.tally.borrow_mut().begin(fault);
            let struck = strike_redis(fault, &mut self.hand, side).await;
            struck.map_err(|error| format!("{}: {error}", fault.name()))?;
            stage.tally.borrow_mut().end(place);
            stage.master.set(Some(side.master.addr));
        }
        Ok(())
    }

    /// Causes faults in gateways, wires and readers until the storm is over. `links` are all wires
    /// to Redis.
    pub async fn gateways(
        mut self,
        gateways: &mut [Gateway],
        links: &[Link],
    ) -> Result<(), String> {
        while let Some(fault) = self.next().await {
            let stage = self.hand.stage.clone();
            let place = stage.tally.borrow_mut().begin(fault);
            gateways::strike(fault, &mut self.hand, gateways, links).await?;
            stage.tally.borrow_mut().end(place);
            for ended in gateways.iter_mut().filter_map(Gateway::ended) {
                stage.wrong(Wrong::Crashed, ended);
            }
        }
        Ok(())
    }
}

async fn strike_redis(fault: Fault, hand: &mut Hand, side: &mut RedisSide) -> Result<(), String> {
    use Fault::*;
    match fault {
        RedisRollback | RedisEmpty | RedisAof | RedisPause => life::crash(fault, hand, side).await,
        Promote => life::promote(hand, side).await,
        TwoMasters => life::two_masters(hand, side).await,
        FailoverBack => life::failover_back(hand, side).await,
        Revert => rollback::revert(hand, side).await,
        DebugReload => rollback::debug_reload(hand, side).await,
        Evict | Oom => data::memory(fault, hand, side).await,
        FlushAll | ClockBack | Fence | DelFence | Del | Trim => data::lose(fault, hand, side).await,
        PoisonType | PoisonId => data::poison(fault, hand, side).await,
        TimeGlitch | TimeBack | TimeForward => time::step(fault, hand, side).await,
        RawFrames | ForgedFrames => access::frames(fault, hand, side).await,
        AclUser | RefuseChannel => access::refuse(fault, hand, side).await,
        KillPubsub | KillNormal | FunctionFlush | ScriptFlush | ClientPause => {
            access::interrupt(fault, hand, side).await
        }
        other => Err(format!("{other:?} is not done to Redis")),
    }
}
