//! The scenarios, and what they share.
//!
//! Most scenarios start a server, open streams to it, publish events, and measure for a while.

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

/// How long opening all streams may take.
const OPENING: Duration = Duration::from_secs(30);
/// Bytes of data per event.
const SIZE: usize = 200;
/// The channel of scenarios that need only one.
const CHANNEL: &str = "bench";

/// For estimates: seconds that it takes to start a server, attach, settle and stop the server.
const AROUND: f64 = 1.5;
/// For estimates: streams that are opened per second.
const OPENED_A_SECOND: f64 = 5000.0;

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// 2,000 readers of one channel, 50 events per second: CPU and latency of a delivery
    Steady,
    /// Like steady at 25 events per second, at which no server falls behind
    SteadyHalf,
    /// Like steady, but publishers send the next event once the last is answered
    Saturation,
    /// 8,000 readers with a channel each, 5,000 events per second, through HTTP and straight to
    /// Redis
    PerUser,
    /// 2,000 readers of the same 20 channels, 50 events per second
    MultiChannel,
    /// 200 readers, 20 events of 64 KB per second
    Large,
    /// A tenth of the readers stops reading: what the other readers notice, and the memory it takes
    Stalled,
    /// 10,000 readers reconnect at once, each 100 events behind
    Storm,
    /// 15,000 idle streams (FastAPI 5,000): memory of each, on one channel and on a channel each
    Idle,
    /// The gateway without TLS, with TLS, and behind nginx with TLS: CPU of a delivery, and memory
    /// of 10,000 idle streams
    Tls,
    /// 10,000 streams opened twice, each with its own token; then 2,000 readers with a token each
    Tokens,
    /// How fast streams can be opened
    Ramp,
    /// Two gateways on one Redis: events are published through one and read on both
    Replicas,
    /// How fast batches without readers are accepted, compared with Redis itself
    Publish,
}

impl Scenario {
    /// All scenarios, in the order they run.
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

    /// Runs the scenario on every server. If one fails, its error is reported and the others still
    /// run.
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

    /// About how many seconds the scenario takes.
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

/// Whether the targets compare this server.
pub fn compared(kind: Kind) -> bool {
    kind.is_gateway() || matches!(kind, Kind::Floor2 | Kind::Nchan)
}

/// How to run scenarios.
#[derive(Debug, Clone)]
pub struct Options {
    /// Run one round, shorter and with fewer connections.
    pub quick: bool,
    /// The servers to run.
    pub servers: Vec<Kind>,
    /// The settings to start servers with.
    pub settings: Settings,
    /// The number of connections, instead of the scenario's own.
    pub connections: Option<usize>,
    /// Events per second, instead of the scenario's own.
    pub rate: Option<f64>,
    /// Seconds to measure, instead of the scenario's own.
    pub seconds: Option<u64>,
    /// In `stalled`: let the stalled readers read again after 20 seconds.
    pub resume: bool,
}

impl Options {
    fn connections(&self, full: usize, quick: usize) -> usize {
        self.connections.unwrap_or(if self.quick { quick } else { full })
    }

    fn seconds(&self, full: u64, quick: u64) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { quick } else { full }))
    }

    /// How many rounds a repeated scenario runs: three on the servers that the targets compare, one
    /// on the others.
    fn rounds(&self, kind: Kind) -> u32 {
        if self.quick || !compared(kind) { 1 } else { 3 }
    }

    /// The chosen servers that `which` accepts.
    fn servers_for(&self, which: fn(Kind) -> bool) -> impl Iterator<Item = Kind> {
        self.servers.iter().copied().filter(move |kind| which(*kind))
    }

    fn rate(&self, own: f64) -> f64 {
        self.rate.unwrap_or(own)
    }
}

/// Starts a load and opens all its streams. Fails if any stream does not open.
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

/// The median; NaN if there are no values.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A ratio as text; a dash if there is nothing to compare with.
fn ratio(value: f64, to: Option<f64>) -> String {
    to.map_or_else(|| "-".to_owned(), |to| format!("{:.2}", value / to))
}
