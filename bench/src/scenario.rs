//! The scenarios, and what they share: a server and its load, measured over a window while it is
//! published to.

mod fanout;
mod idle;
mod large;
mod multi_channel;
mod per_user;
mod publish;
mod ramp;
mod replicas;
mod saturation;
mod shared;
mod stalled;
mod steady;
mod storm;
mod tls;
mod tokens;
mod window;

use std::time::Duration;

use crate::load::{Load, Plan};
use crate::servers::{Kind, Settings};
use crate::table::Output;

/// How long opening may take.
const OPENING: Duration = Duration::from_secs(30);
/// Bytes of an event's data.
const SIZE: usize = 200;
/// The channel of scenarios that have one.
const CHANNEL: &str = "bench";

/// For estimates: seconds of starting a server, attaching, settling and ending it.
const AROUND: f64 = 1.5;
/// For estimates: streams opened a second.
const OPENED_A_SECOND: f64 = 5000.0;

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// 2,000 readers of one channel, 50 events a second: what a delivery costs, and how late it is
    Steady,
    /// The same at 25 events a second, at which no server falls behind
    SteadyHalf,
    /// As steady, as fast as publishers are answered
    Saturation,
    /// 8,000 readers of a channel each, 5,000 events a second, through HTTP and straight to Redis
    PerUser,
    /// 2,000 readers of the same 20 channels, 50 events a second
    MultiChannel,
    /// 200 readers, events of 64 KB, 20 a second
    Large,
    /// A tenth of the readers reads nothing: what the others notice, and what memory it takes
    Stalled,
    /// 10,000 readers come back at once, 100 events behind
    Storm,
    /// 15,000 idle streams (FastAPI 5,000): memory of each, on one channel and on one each
    Idle,
    /// TLS beside none, and beside nginx' in front: what a delivery costs, and 10,000 idle streams
    Tls,
    /// 10,000 streams opened with a token of their own each, and again; 2,000 readers with one each
    Tokens,
    /// How fast streams can be opened
    Ramp,
    /// Two gateways on one Redis, published through one, read on both
    Replicas,
    /// How fast batches are taken that nobody reads, beside Redis itself
    Publish,
}

impl Scenario {
    /// All there are, in the order they run.
    pub const ALL: [Scenario; 14] = [
        Scenario::Steady,
        Scenario::SteadyHalf,
        Scenario::Saturation,
        Scenario::PerUser,
        Scenario::MultiChannel,
        Scenario::Large,
        Scenario::Stalled,
        Scenario::Storm,
        Scenario::Idle,
        Scenario::Tls,
        Scenario::Tokens,
        Scenario::Ramp,
        Scenario::Replicas,
        Scenario::Publish,
    ];

    /// Runs it on every server. What one server fails at is said, and the others go on.
    pub fn run(self, options: &Options, output: &mut Output) {
        match self {
            Scenario::Steady => steady::case(options).run(options, output),
            Scenario::SteadyHalf => steady::half(options).run(options, output),
            Scenario::Saturation => {
                saturation::single(options).run(options, output);
                if !options.quick {
                    saturation::batches(options).run(options, output);
                }
            }
            Scenario::PerUser => per_user::run(options, output),
            Scenario::MultiChannel => multi_channel::case(options).run(options, output),
            Scenario::Large => large::case(options).run(options, output),
            Scenario::Stalled => stalled::run(options, output),
            Scenario::Storm => storm::run(options, output),
            Scenario::Idle => idle::run(options, output),
            Scenario::Tls => tls::run(options, output),
            Scenario::Tokens => tokens::run(options, output),
            Scenario::Ramp => ramp::run(options, output),
            Scenario::Replicas => replicas::run(options, output),
            Scenario::Publish => publish::run(options, output),
        }
    }

    /// How many seconds it takes, about, were all servers there.
    pub fn estimate(self, options: &Options) -> f64 {
        match self {
            Scenario::Steady => steady::case(options).estimate(options),
            Scenario::SteadyHalf => steady::half(options).estimate(options),
            Scenario::Saturation => {
                let single = saturation::single(options).estimate(options);
                let batches = saturation::batches(options).estimate(options);
                single + if options.quick { 0.0 } else { batches }
            }
            Scenario::PerUser => per_user::estimate(options),
            Scenario::MultiChannel => multi_channel::case(options).estimate(options),
            Scenario::Large => large::case(options).estimate(options),
            Scenario::Stalled => stalled::estimate(options),
            Scenario::Storm => storm::estimate(options),
            Scenario::Idle => idle::estimate(options),
            Scenario::Tls => tls::estimate(options),
            Scenario::Tokens => tokens::estimate(options),
            Scenario::Ramp => ramp::estimate(options),
            Scenario::Replicas => replicas::estimate(options),
            Scenario::Publish => publish::estimate(options),
        }
    }
}

/// Whether the targets compare it.
pub fn compared(kind: Kind) -> bool {
    kind.is_gateway() || matches!(kind, Kind::Floor2 | Kind::Nchan)
}

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Once, shorter and smaller.
    pub quick: bool,
    /// Which servers.
    pub servers: Vec<Kind>,
    /// What starting them needs.
    pub settings: Settings,
    /// Connections instead of the scenario's own number.
    pub connections: Option<usize>,
    /// Events a second instead of the scenario's own.
    pub rate: Option<f64>,
    /// Seconds measured instead of the scenario's own.
    pub seconds: Option<u64>,
    /// In `stalled`: the stalled ones read again after 20 seconds.
    pub resume: bool,
}

impl Options {
    fn connections(&self, full: usize, quick: usize) -> usize {
        self.connections.unwrap_or(if self.quick { quick } else { full })
    }

    fn seconds(&self, full: u64, quick: u64) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { quick } else { full }))
    }

    /// How often what is repeated runs: thrice on the servers that targets speak of, once on others.
    fn rounds(&self, kind: Kind) -> u32 {
        if self.quick || !compared(kind) { 1 } else { 3 }
    }

    /// The servers that a scenario is for.
    fn servers_for(&self, which: fn(Kind) -> bool) -> impl Iterator<Item = Kind> {
        self.servers.iter().copied().filter(move |kind| which(*kind))
    }

    fn rate(&self, own: f64) -> f64 {
        self.rate.unwrap_or(own)
    }
}

/// A load with all its streams open.
fn opened(plan: Plan) -> Result<Load, String> {
    let (connections, load) = (plan.connections, Load::start(plan));
    let load = load.map_err(|error| format!("the load does not start: {error}"))?;
    let opened = load.open(OPENING);
    if opened.open < connections {
        let error = opened.error.unwrap_or_else(|| "no first bytes in time".to_owned());
        return Err(format!("{} of {connections} streams open: {error}", opened.open));
    }
    Ok(load)
}

/// The middle of some numbers.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A ratio for a table: of nothing, a dash.
fn ratio(value: f64, to: Option<f64>) -> String {
    to.map_or_else(|| "-".to_owned(), |to| format!("{:.2}", value / to))
}
