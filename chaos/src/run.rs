//! One run: set up, warm up, storm, heal, calm, settle.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::faults::Fault;
use crate::gateways::Gateway;
use crate::ledger::now_ms;
use crate::namespace::Namespace;
use crate::process::Scratch;
use crate::publisher::{Publisher, Way};
use crate::redis_side::RedisSide;
use crate::session::check_repeats;
use crate::stage::Stage;
use crate::storm::Lane;
use crate::subscriber::{Habit, Subscriber};
use crate::tally::Wrong;

const GATEWAYS: usize = 3;
const PUBLISHERS: u16 = 6;
/// The habits of the subscribers, one after the other.
const HABITS: [Habit; 15] = {
    use Habit::{Fresh, Hopping, Slow, Stalling, Steady};
    [
        Steady, Hopping, Fresh, Slow, Steady, Hopping, Stalling, Steady, Hopping, Fresh, Slow,
        Steady, Hopping, Fresh, Stalling,
    ]
};
/// Nothing is broken for so long, first and last.
const CALM: Duration = Duration::from_secs(4);
/// Everybody must be up to date so long after the last fault, whatever the machine.
const RECOVERY: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Debug)]
pub struct Plan {
    /// Where faults, payloads and habits come from.
    pub seed: u64,
    /// How long the storm lasts.
    pub storm: Duration,
    /// Which faults it has.
    pub faults: Vec<Fault>,
    /// The gateway's program.
    pub gateway: PathBuf,
    /// Its settings, `KEY=VALUE`, over the suite's own.
    pub settings: Vec<String>,
    /// How many subscribers.
    pub subscribers: usize,
}

/// Everything that has to be taken down again; dropping it does.
struct Set {
    stage: Rc<Stage>,
    redis: RedisSide,
    gateways: Vec<Gateway>,
    scratch: Scratch,
}

/// Runs the plan. The error is trouble with the environment, not a verdict.
pub async fn run(plan: &Plan) -> Result<Rc<Stage>, String> {
    let mut set = set_up(plan).await?;
    let stage = set.stage.clone();
    let played = play(plan, &mut set).await;
    for gateway in &set.gateways {
        for panic in gateway.panics() {
            stage.tally.borrow_mut().wrong(Wrong::Crashed, panic);
        }
    }
    if played.is_err() || stage.tally.borrow().violations() > 0 {
        set.scratch.keep();
        eprintln!("the logs of gateways and Redis are in {}", set.scratch.path().display());
    }
    played.map(|()| stage)
}

async fn set_up(plan: &Plan) -> Result<Set, String> {
    let scratch = Scratch::new()?;
    let namespace = match plan.faults.iter().any(|fault| fault.of_packets()) {
        true => Namespace::new()
            .inspect_err(|error| eprintln!("packets are not dropped in this run: {error}"))
            .ok(),
        false => None,
    };
    // A part of the loopback network for this run alone.
    let (a, b) = (fastrand::u8(2..250), fastrand::u8(..));
    let host = |n: u8| IpAddr::from(Ipv4Addr::new(127, a, b, n));
    let mut wires: Vec<IpAddr> = (0..=GATEWAYS as u8).map(|n| host(20 + n)).collect();
    if let Some(namespace) = &namespace {
        wires[GATEWAYS - 1] = namespace.outside;
    }
    let dir = scratch.path().to_owned();
    let redis = RedisSide::start([host(10), host(11)], &wires, dir.clone()).await?;
    let mut namespace = namespace;
    let gateway = |n: usize| {
        let namespace = if n == GATEWAYS - 1 { namespace.take() } else { None };
        let link = redis.links[n].clone();
        Gateway::new(n, host(30 + n as u8), plan, &dir, link, namespace)
    };
    let mut gateways: Vec<Gateway> = (0..GATEWAYS).map(gateway).collect();
    for gateway in &mut gateways {
        gateway.start()?;
    }
    for gateway in &gateways {
        gateway.serving().await?;
    }
    let addrs = gateways.iter().map(|g| g.addr).collect();
    let stage = Rc::new(Stage::new(plan.seed, addrs, redis.links[GATEWAYS].addr));
    Ok(Set { stage, redis, gateways, scratch })
}

async fn play(plan: &Plan, set: &mut Set) -> Result<(), String> {
    let stage = set.stage.clone();
    stage.say("everything is up; nothing is broken yet");
    stage.tally.borrow_mut().calm = true;
    let publishers: Vec<JoinHandle<()>> = (0..PUBLISHERS)
        .map(|n| {
            let way = if n % 2 == 0 { Way::Http } else { Way::Direct };
            tokio::task::spawn_local(Publisher::new(stage.clone(), n, way).run())
        })
        .collect();
    sleep(Duration::from_millis(500)).await;
    stage.reached.borrow_mut().resize(plan.subscribers, 0);
    let subscribers: Vec<JoinHandle<()>> = (0..plan.subscribers)
        .map(|n| {
            let habit = HABITS[n % HABITS.len()];
            tokio::task::spawn_local(Subscriber::new(stage.clone(), n, habit).run())
        })
        .collect();
    sleep(CALM).await;
    stage.tally.borrow_mut().calm = false;

    storm(plan, set).await?;
    stage.say("the last fault is over");
    // The storm may end in a restart: recovery is counted from when everything is up.
    for gateway in &set.gateways {
        gateway.serving().await?;
    }
    stage.cue.send_modify(|cue| cue.calm = true);
    recover(&stage).await;

    stage.say("all are up to date; from here on no gap may be told");
    stage.tally.borrow_mut().calm = true;
    sleep(CALM / 2).await;
    // A plain reconnect of everybody is no reason for a gap either.
    stage.cue.send_modify(|cue| cue.aborts += 1);
    sleep(CALM).await;

    stage.last_call.set(true);
    for publisher in publishers {
        if timeout(RECOVERY, publisher).await.is_err() {
            stage
                .tally
                .borrow_mut()
                .wrong(Wrong::Stuck, "a publisher is never answered".to_owned());
        }
    }
    let marked = timeout(RECOVERY, Publisher::mark_the_end(stage.clone())).await;
    marked.map_err(|_| "the final markers cannot be published".to_owned())?;
    let end = Instant::now() + RECOVERY;
    for subscriber in subscribers {
        while !subscriber.is_finished() && !stage.cue.borrow().over {
            sleep(Duration::from_millis(20)).await;
            stage.cue.send_if_modified(|cue| {
                cue.over = Instant::now() > end;
                cue.over
            });
        }
        subscriber.await.map_err(|error| format!("a subscriber's own fault: {error}"))?;
    }
    stage.say("every stream has ended; settling");
    settle(&stage);
    Ok(())
}

async fn storm(plan: &Plan, set: &mut Set) -> Result<(), String> {
    let until = Instant::now() + plan.storm;
    let packets = set.gateways.iter().any(|gateway| gateway.namespace().is_some());
    let (redis, others): (Vec<Fault>, Vec<Fault>) =
        plan.faults.iter().filter(|f| packets || !f.of_packets()).partition(|f| f.of_redis());
    let links = set.redis.links.clone();
    let at_redis = Lane::new(set.stage.clone(), redis, 0x4ed15, plan.storm).redis(&mut set.redis);
    let at_gateways = Lane::new(set.stage.clone(), others, 0x6a7e, plan.storm)
        .gateways(&mut set.gateways, &links);
    tokio::try_join!(at_redis, at_gateways, async {
        tokio::time::sleep_until(until).await;
        Ok(())
    })?;
    Ok(())
}

/// Waits until every subscriber has reached the present.
async fn recover(stage: &Rc<Stage>) {
    let healed = stage.tally.borrow().healed_ms.max(now_ms());
    let end = Instant::now() + RECOVERY;
    let behind = || {
        let reached = stage.reached.borrow();
        let late = |at: &u64| *at <= healed || *at + 2_000 < now_ms();
        reached.iter().enumerate().filter(|(_, at)| late(at)).map(|(n, _)| n).collect::<Vec<_>>()
    };
    while !behind().is_empty() {
        if Instant::now() > end {
            let text =
                format!("the subscribers {:?} are not up to date after {RECOVERY:?}", behind());
            return stage.tally.borrow_mut().wrong(Wrong::Stuck, text);
        }
        sleep(Duration::from_millis(20)).await;
    }
    let mut tally = stage.tally.borrow_mut();
    tally.repair_ms = tally.repair_ms.max(now_ms() - tally.healed_ms);
}

fn settle(stage: &Rc<Stage>) {
    let (ledger, mut tally) = (stage.ledger.borrow(), stage.tally.borrow_mut());
    let over = stage.cue.borrow().over;
    for session in stage.sessions.borrow().iter() {
        session.settle(&ledger, &mut tally);
        if over && session.last && !session.complete() {
            session.wrong(Wrong::Stuck, "not all final events came".to_owned(), &mut tally);
        }
    }
    check_repeats(&ledger, &mut tally);
}
