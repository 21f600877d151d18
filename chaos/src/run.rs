//! One run: set up, warm up, storm, heal, calm, settle.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use sse_contract::EventId;
use sse_lab::scratch::Scratch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::census;
use crate::faults::Fault;
use crate::gateways::Gateway;
use crate::ledger::now_ms;
use crate::namespace::Namespace;
use crate::nginx::Nginx;
use crate::payload::KEYLESS;
use crate::publisher::{Beat, Publisher, Way};
use crate::reading::RECOVERY;
use crate::redis_side::RedisSide;
use crate::settings::Settings;
use crate::stage::{Places, Stage};
use crate::storm::Lane;
use crate::subscriber::{Habit, Subscriber};
use crate::tally::Wrong;
use crate::verdict::Court;

const GATEWAYS: usize = 3;
/// The publishers: number, way and channels.
const PUBLISHERS: [(u16, Way, Beat); 10] = [
    (0, Way::Http, Beat::Town),
    (1, Way::Direct, Beat::Town),
    (2, Way::Http, Beat::Town),
    (3, Way::Direct, Beat::Town),
    (4, Way::Http, Beat::Groups),
    (5, Way::Direct, Beat::Town),
    (6, Way::Http, Beat::Crowd),
    (7, Way::Direct, Beat::Crowd),
    (KEYLESS, Way::Http, Beat::Town),
    (KEYLESS + 1, Way::Direct, Beat::Town),
];
/// The habits of the subscribers, in turn.
const HABITS: [Habit; 16] = {
    use Habit::{Crowd, Fresh, Hopping, Slow, Stalling, Steady};
    [
        Steady, Hopping, Fresh, Slow, Crowd, Steady, Hopping, Stalling, Steady, Hopping, Fresh,
        Slow, Crowd, Hopping, Fresh, Stalling,
    ]
};
/// The number of clients that publish as soon as their stream is open.
const OPENERS: usize = 6;
/// How long nothing is broken at the beginning and at the end.
const CALM: Duration = Duration::from_secs(4);
/// A subscriber that has reached what was acknowledged this long ago is up to date.
const PRESENT_MS: u64 = 2_000;
/// How long publishers may take at the end until everything is acknowledged.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// The parameters of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed of faults, payloads, habits and settings.
    pub seed: u64,
    /// How long faults happen.
    pub storm: Duration,
    /// The faults that may happen.
    pub faults: Vec<Fault>,
    /// The path of the gateway's program.
    pub gateway: PathBuf,
    /// The settings, drawn from the seed and overridden by the command line.
    pub settings: Settings,
    /// The settings of the command line.
    pub over: Vec<String>,
    /// The number of subscribers.
    pub subscribers: usize,
}

/// Everything that has to be taken down. Dropping it does that.
struct Set {
    stage: Rc<Stage>,
    redis: Option<RedisSide>,
    gateways: Vec<Gateway>,
    nginx: Option<Nginx>,
    scratch: Scratch,
}

/// Performs a run. The error is a problem of the environment, not a broken promise.
pub async fn run(plan: &Plan) -> Result<Rc<Stage>, String> {
    let mut set = set_up(plan).await?;
    let stage = set.stage.clone();
    let played = play(plan, &mut set).await;
    for gateway in &set.gateways {
        for panic in gateway.panics() {
            stage.wrong(Wrong::Crashed, panic);
        }
    }
    if played.is_err() || stage.tally.borrow().violations() > 0 {
        set.scratch.keep();
        eprintln!("the logs of gateways and Redis are in {}", set.scratch.path().display());
    }
    played.map(|()| stage)
}

async fn set_up(plan: &Plan) -> Result<Set, String> {
    let scratch = Scratch::new("chaos");
    let memory = plan.settings.memory();
    let mut namespace = match !memory && plan.faults.iter().any(|fault| fault.of_packets()) {
        true => Namespace::new()
            .inspect_err(|error| eprintln!("packets are not dropped in this run: {error}"))
            .ok(),
        false => None,
    };
    // A part of the loopback network for this run alone.
    let (a, b) = (fastrand::u8(2..250), fastrand::u8(..));
    let host = |n: u8| IpAddr::from(Ipv4Addr::new(127, a, b, n));
    let dir = scratch.path().to_owned();
    let mut redis = None;
    if !memory {
        let mut wires: Vec<IpAddr> = (0..=GATEWAYS as u8).map(|n| host(20 + n)).collect();
        if let Some(namespace) = &namespace {
            wires[GATEWAYS - 1] = namespace.outside;
        }
        let nodes = [host(10), host(11)];
        redis = Some(RedisSide::start(nodes, &wires, dir.clone(), &plan.settings).await?);
    }
    let count = if memory { 1 } else { GATEWAYS };
    let mut gateways: Vec<Gateway> = Vec::new();
    for n in 0..count {
        let inside = if n == GATEWAYS - 1 { namespace.take() } else { None };
        let link = redis.as_ref().map(|side| side.links[n].clone());
        let (settings, log) = (plan.settings.of_gateway(n), dir.join(format!("gateway-{n}.log")));
        let (host, reader) = (host(30 + n as u8), plan.settings.log_reader);
        let mut gateway = Gateway::new(host, &plan.gateway, log, reader, settings, link, inside);
        gateway.start()?;
        gateways.push(gateway);
    }
    for gateway in &gateways {
        gateway.serving().await?;
    }
    let addrs: Vec<SocketAddr> = gateways.iter().map(|g| g.addr).collect();
    let nginx = Nginx::start(SocketAddr::new(host(40), 8080), &addrs, &dir)
        .inspect_err(|error| eprintln!("nobody comes through nginx in this run: {error}"))
        .ok();
    let places = Places {
        gateways: addrs,
        nginx: nginx.as_ref().map(|nginx| nginx.addr),
        redis: redis.as_ref().map(|side| side.links[GATEWAYS].addr),
        master: redis.as_ref().map(|side| side.master.addr),
    };
    let stage = Rc::new(Stage::new(plan.seed, plan.settings.clone(), places));
    Ok(Set { stage, redis, gateways, nginx, scratch })
}

/// The tasks of publishers, subscribers and the census.
struct Cast {
    publishers: Vec<JoinHandle<()>>,
    subscribers: Vec<JoinHandle<()>>,
    census: JoinHandle<()>,
}

async fn enter(plan: &Plan, stage: &Rc<Stage>) -> Cast {
    let census = tokio::task::spawn_local(census::watch(stage.clone()));
    let publisher = |(number, way, beat)| {
        tokio::task::spawn_local(Publisher::new(stage.clone(), number, way, beat).run())
    };
    let publishers = PUBLISHERS.map(publisher).into();
    sleep(Duration::from_millis(500)).await;
    stage.reached.borrow_mut().resize(plan.subscribers, Default::default());
    let habits = (0..plan.subscribers).map(|n| HABITS[n % HABITS.len()]);
    let habits = habits.chain([Habit::Opener; OPENERS]).enumerate();
    let subscriber =
        |(n, habit)| tokio::task::spawn_local(Subscriber::new(stage.clone(), n, habit).run());
    Cast { publishers, subscribers: habits.map(subscriber).collect(), census }
}

async fn play(plan: &Plan, set: &mut Set) -> Result<(), String> {
    let stage = set.stage.clone();
    stage.say("everything is up; nothing is broken yet");
    stage.tally.borrow_mut().calm = true;
    // Slow readers also read as fast as they can, so no gap has a reason.
    stage.cue.send_modify(|cue| cue.calm = true);
    let cast = enter(plan, &stage).await;
    sleep(CALM).await;
    stage.tally.borrow_mut().calm = false;
    stage.cue.send_modify(|cue| cue.calm = false);

    storm(plan, set).await?;
    stage.say("the last fault is over");
    // The storm may end with a restart, so recovery counts from when everything is up.
    for gateway in &set.gateways {
        gateway.serving().await?;
    }
    if let Some(error) = set.nginx.as_mut().and_then(Nginx::ended) {
        return Err(error);
    }
    stage.cue.send_modify(|cue| cue.calm = true);
    stage.gentle.set(true);
    recover(&stage).await;
    stage.gentle.set(false);

    stage.say("all are up to date; from here on no gap may be told");
    stage.tally.borrow_mut().calm = true;
    sleep(CALM / 2).await;
    // A reconnect of everybody is no reason for a gap either.
    stage.cue.send_modify(|cue| cue.aborts += 1);
    sleep(CALM).await;

    stage.last_call.set(true);
    for publisher in cast.publishers {
        if timeout(LAST_WORDS, publisher).await.is_err() {
            stage.wrong(Wrong::Stuck, "a publisher is never answered".to_owned());
        }
    }
    let marked = timeout(LAST_WORDS, Publisher::mark_the_end(stage.clone())).await;
    marked.map_err(|_| "the final markers cannot be published".to_owned())?;
    let end = Instant::now() + RECOVERY;
    for subscriber in cast.subscribers {
        while !subscriber.is_finished() && !stage.cue.borrow().over {
            sleep(Duration::from_millis(20)).await;
            stage.cue.send_if_modified(|cue| {
                cue.over = Instant::now() > end;
                cue.over
            });
        }
        subscriber.await.map_err(|error| format!("a subscriber's own fault: {error}"))?;
    }
    cast.census.abort();
    stage.say("every stream has ended; settling");
    settle(&stage);
    Ok(())
}

async fn storm(plan: &Plan, set: &mut Set) -> Result<(), String> {
    let stage = set.stage.clone();
    let packets = set.gateways.iter().any(|gateway| gateway.namespace().is_some());
    let clocks = set.redis.as_ref().is_some_and(|side| side.master.clock.is_some());
    let possible = |fault: &&Fault| {
        (packets || !fault.of_packets())
            && (clocks || !fault.of_time())
            && (set.redis.is_some() || fault.of_memory())
    };
    let (at_redis, others): (Vec<Fault>, Vec<Fault>) =
        plan.faults.iter().filter(possible).partition(|f| f.of_redis());
    let links = set.redis.as_ref().map_or(Vec::new(), |side| side.links.clone());
    let at_gateways =
        Lane::new(stage.clone(), others, 0x6a7e, plan.storm).gateways(&mut set.gateways, &links);
    let at_redis = async {
        match &mut set.redis {
            Some(side) => Lane::new(stage.clone(), at_redis, 0x4ed15, plan.storm).redis(side).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(at_redis, at_gateways, async {
        sleep(plan.storm).await;
        Ok(())
    })?;
    Ok(())
}

/// Waits until all subscribers have reached, in the current epoch, what was acknowledged a moment
/// ago, after everything was up.
async fn recover(stage: &Rc<Stage>) {
    let began_ms = now_ms();
    let mut end = Instant::now() + RECOVERY;
    let mut acked: VecDeque<(u64, EventId)> = VecDeque::new();
    loop {
        let latest = stage.ledger.borrow().latest.filter(|(_, at)| *at >= began_ms);
        if let Some((id, _)) = latest {
            if acked.back().is_some_and(|(_, before)| before.epoch() != id.epoch()) {
                // A new epoch began. Subscribers that were up to date in the old one get the whole
                // time again.
                end = Instant::now() + RECOVERY;
                acked.clear();
            }
            acked.push_back((now_ms(), id));
        }
        while acked.get(1).is_some_and(|(at, _)| at + PRESENT_MS <= now_ms()) {
            acked.pop_front();
        }
        let target = acked.front().filter(|(at, _)| at + PRESENT_MS <= now_ms()).map(|(_, id)| *id);
        let behind = target.map(|target| behind(stage, target));
        if behind.as_ref().is_some_and(Vec::is_empty) {
            break;
        }
        if Instant::now() > end {
            let text = format!(
                "the subscribers {behind:?} are not up to date after {RECOVERY:?}; at {target:?}"
            );
            // The subscribers are named with their stories when they end.
            *stage.stuck.borrow_mut() = (behind.unwrap_or_default(), text.clone());
            return stage.wrong(Wrong::Stuck, text);
        }
        sleep(Duration::from_millis(20)).await;
    }
    stage.tally.borrow_mut().recovery_ms = now_ms() - began_ms;
}

/// The numbers of permanent subscribers that have not reached `target` in its epoch.
fn behind(stage: &Stage, target: EventId) -> Vec<usize> {
    let late = |at: &EventId| at.epoch() != target.epoch() || *at < target;
    let reached = stage.reached.borrow();
    (0..reached.len()).filter(|n| late(&reached[*n])).collect()
}

fn settle(stage: &Rc<Stage>) {
    let (ledger, census) = (stage.ledger.borrow(), stage.census.borrow());
    let mut tally = stage.tally.borrow_mut();
    let court = Court { ledger: &ledger, census: &census, settings: &stage.settings };
    let over = stage.cue.borrow().over;
    let stuck = stage.stuck.borrow();
    for session in stage.sessions.borrow().iter() {
        court.judge(session, &mut tally);
        if session.last && stuck.0.contains(&session.number) {
            session.wrong(Wrong::Stuck, stuck.1.clone(), &mut tally);
        }
        if over && session.last && !session.name.starts_with("Opener") && !session.complete() {
            session.wrong(Wrong::Stuck, "not all final events came".to_owned(), &mut tally);
        }
    }
    court.judge_all(&mut tally);
}
