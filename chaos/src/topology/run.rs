//! One run: set up, warm up, storm, heal, calm, settle.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sse_contract::Keys;
use sse_lab::scratch::Scratch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::gateways::{Gateway, Reader};
use crate::ledger::now_ms;
use crate::tally::Wrong;
use crate::topology::checker::{Judgement, judge};
use crate::topology::cluster::{self, ClusterSide};
use crate::topology::lane::{Lane, Side, Storm};
use crate::topology::publisher::{PUBLISHERS, Publisher};
use crate::topology::sentinel::SentinelSide;
use crate::topology::shared::Shared;
use crate::topology::stage::Stage;
use crate::topology::subscriber::Subscriber;
use crate::topology::{Topology, crew, sentinel};

/// Settings of every gateway: short times, so that effects show sooner, and histories from which
/// nothing is ever removed.
const SETTINGS: [&str; 12] = [
    "broker=redis",
    "redis.answer_timeout=1s",
    "redis.connect_timeout=1s",
    "redis.reconnect_max=500ms",
    "redis.tick=200ms",
    "stream.heartbeat=1s",
    "stream.retry=100ms",
    "stream.open_wait=4s",
    "drain.spread=300ms",
    "drain.deadline=5s",
    "history.max_len=100000",
    "server.workers=2",
];
/// How long nothing is broken at the beginning and at the end.
const CALM: Duration = Duration::from_secs(3);
/// How long publishers, markers and subscribers each may take at the end.
const BOUND: Duration = Duration::from_secs(30);

/// The parameters of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where Redis' servers are and how they stand to each other.
    pub topology: Topology,
    /// The seed of faults, payloads and habits.
    pub seed: u64,
    /// How long faults happen.
    pub storm: Duration,
    /// The faults that may happen.
    pub faults: Vec<&'static str>,
    /// The path of the gateway's program.
    pub gateway: PathBuf,
    /// Settings of the command line.
    pub over: Vec<String>,
    /// The number of subscribers.
    pub subscribers: usize,
}

impl Plan {
    /// All faults of a topology, with what each does.
    pub fn catalogue(topology: Topology) -> Vec<(&'static str, &'static str)> {
        let servers: &[(&str, &str)] = match topology {
            Topology::Sentinel => &sentinel::FAULTS,
            Topology::Cluster => &cluster::FAULTS,
        };
        servers.iter().chain(&crew::FAULTS).copied().collect()
    }

    /// Whether the cluster refuses everything while slots have no owner, as is Redis' default.
    pub fn full_coverage(&self) -> bool {
        self.seed.is_multiple_of(3)
    }
}

/// Everything that has to be taken down. Dropping it does that.
struct Set {
    stage: Rc<Stage>,
    gateways: Vec<Gateway>,
    scratch: Scratch,
}

/// Performs a run. The error is a problem of the environment, not a broken promise.
pub async fn run(plan: &Plan) -> Result<(Rc<Stage>, Judgement), String> {
    let shared = Arc::new(Shared::new());
    let full_coverage = plan.full_coverage();
    let topology = plan.topology;
    // The lab waits for processes, and panics where one does not come up.
    let side = tokio::task::spawn_blocking(move || -> Box<dyn Side> {
        match topology {
            Topology::Sentinel => Box::new(SentinelSide::start()),
            Topology::Cluster => Box::new(ClusterSide::start(full_coverage)),
        }
    });
    let side = side.await.map_err(|error| format!("the servers do not start: {error}"))?;
    shared.set_servers(side.servers());
    let mut set = set_up(plan, side.as_ref(), shared).await?;
    let stage = set.stage.clone();
    let played = play(plan, &mut set, side).await;
    for gateway in &mut set.gateways {
        let crashed = gateway.panics().into_iter().chain(gateway.ended());
        crashed.for_each(|text| stage.wrong(Wrong::Crashed, text));
    }
    let mut judgement = Judgement::default();
    if played.is_ok() {
        let mut history = stage.history.borrow_mut();
        history.windows = stage.shared.windows();
        judgement = judge(&history);
    }
    judgement.wrongs.extend(stage.wrongs.borrow_mut().drain(..));
    if played.is_err() || !judgement.wrongs.is_empty() {
        set.scratch.keep();
        eprintln!("the logs of the gateways are in {}", set.scratch.path().display());
    }
    played.map(|()| (stage, judgement))
}

async fn set_up(plan: &Plan, side: &dyn Side, shared: Arc<Shared>) -> Result<Set, String> {
    let scratch = Scratch::new("chaos");
    // A part of the loopback network for this run alone.
    let (a, b) = (fastrand::u8(128..250), fastrand::u8(..));
    let count = 2 + (plan.seed % 2) as u8;
    let mut gateways = Vec::new();
    for n in 0..count {
        let mut settings: Vec<String> = SETTINGS.map(str::to_owned).into();
        settings.push(format!("redis.url={}", side.url()));
        // Gateway 1 serves its streams as ordinary response bodies.
        settings.push(format!("stream.takeover={}", n != 1));
        settings.extend(plan.over.iter().cloned());
        let (host, log) = (
            IpAddr::from(Ipv4Addr::new(127, a, b, 30 + n)),
            scratch.path().join(format!("gateway-{n}.log")),
        );
        let mut gateway =
            Gateway::new(host, &plan.gateway, log, Reader::File, settings, None, None);
        gateway.start()?;
        gateways.push(gateway);
    }
    for gateway in &gateways {
        gateway.serving().await?;
    }
    let addrs: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.addr).collect();
    let partitions = if plan.topology == Topology::Sentinel { 1 } else { cluster::PARTITIONS };
    let sentinels = plan.topology == Topology::Sentinel;
    let stage = Stage::new(plan.seed, Keys::new("sse", partitions), addrs, shared, sentinels);
    Ok(Set { stage: Rc::new(stage), gateways, scratch })
}

async fn play(plan: &Plan, set: &mut Set, side: Box<dyn Side>) -> Result<(), String> {
    let stage = set.stage.clone();
    stage.shared.say("everything is up; nothing is broken yet");
    // A gateway answers before it has Redis.
    let warm = Publisher::first_events(stage.clone(), BOUND).await;
    if !warm {
        return Err("nothing can be published before anything is broken".to_owned());
    }
    let publishers: Vec<JoinHandle<()>> = PUBLISHERS
        .map(|(number, how)| {
            tokio::task::spawn_local(Publisher::new(stage.clone(), number, how).run())
        })
        .into();
    let subscribers: Vec<JoinHandle<()>> = (0..plan.subscribers)
        .map(|n| tokio::task::spawn_local(Subscriber::new(stage.clone(), n).run()))
        .collect();
    sleep(CALM).await;

    let side = storm(plan, set, side).await?;
    stage.shared.say("the last fault is over");
    for gateway in &set.gateways {
        gateway.serving().await?;
    }
    stage.history.borrow_mut().healed_ms = now_ms();
    stage.cue.send_modify(|cue| cue.calm = true);
    sleep(CALM).await;

    stage.last_call.set(true);
    let end = Instant::now() + BOUND;
    for publisher in publishers {
        if timeout(end.saturating_duration_since(Instant::now()), publisher).await.is_err() {
            stage.wrong(Wrong::Stuck, "a publisher is never answered".to_owned());
        }
    }
    if !Publisher::mark_the_end(stage.clone(), BOUND).await {
        stage.wrong(Wrong::Stuck, "the last events cannot be published".to_owned());
    }
    let end = Instant::now() + BOUND;
    while stage.complete.get() < plan.subscribers && Instant::now() < end {
        sleep(Duration::from_millis(20)).await;
    }
    stage.cue.send_modify(|cue| cue.over = true);
    for subscriber in subscribers {
        subscriber.await.map_err(|error| format!("a subscriber's own fault: {error}"))?;
    }
    stage.shared.say("every stream has ended; settling");
    drop(side);
    Ok(())
}

async fn storm(plan: &Plan, set: &mut Set, side: Box<dyn Side>) -> Result<Box<dyn Side>, String> {
    let stage = set.stage.clone();
    let of_crew = |fault: &&'static str| crew::FAULTS.iter().any(|(name, _)| name == fault);
    let (crew_faults, server_faults): (Vec<_>, Vec<_>) =
        plan.faults.iter().copied().partition(of_crew);
    let lane = Lane {
        rng: fastrand::Rng::with_seed(plan.seed ^ 0x4ed15),
        shared: stage.shared.clone(),
        storm: plan.storm,
    };
    let end = Instant::now() + plan.storm;
    let storm = Storm::begin(side, lane, server_faults);
    let over = || storm.is_over() && Instant::now() >= end;
    crew::work(&stage, &mut set.gateways, &crew_faults, over).await?;
    storm.end()
}
