//! The scenarios, and what they share: a server and its load, measured over a window while it is
//! published to.

mod fanout;
mod idle;
mod ramp;
mod stalled;
mod window;

use crate::load::{Load, Plan};
use crate::servers::{Kind, Server, Settings};
use crate::table::Output;
use std::time::Duration;

/// How long opening may take.
const OPENING: Duration = Duration::from_secs(60);
/// Bytes of an event's data.
const SIZE: usize = 200;
/// The channel of scenarios that have one.
const CHANNEL: &str = "bench";

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// 2,000 readers of one channel, 50 events a second: what a delivery costs, and how late it is
    Steady,
    /// The same as fast as publishers are answered
    Saturation,
    /// A tenth of the readers reads nothing: what the others notice, and what memory it takes
    Stalled,
    /// 15,000 idle streams: memory of each, on one channel and on one each
    Idle,
    /// How fast streams can be opened
    Ramp,
}

impl Scenario {
    /// All there are, in the order they run.
    pub const ALL: [Scenario; 5] =
        [Scenario::Steady, Scenario::Saturation, Scenario::Stalled, Scenario::Idle, Scenario::Ramp];

    /// Runs it on every server. What one server fails at is said, and the others go on.
    pub fn run(self, options: &Options, output: &mut Output) {
        match self {
            Scenario::Steady => fanout::run(fanout::Kind::Steady, options, output),
            Scenario::Saturation => fanout::run(fanout::Kind::Saturation, options, output),
            Scenario::Stalled => stalled::run(options, output),
            Scenario::Idle => idle::run(options, output),
            Scenario::Ramp => ramp::run(options, output),
        }
    }
}

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Once instead of thrice, and smaller.
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

    fn seconds(&self, own: u64) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(own))
    }

    fn rate(&self, own: f64) -> f64 {
        self.rate.unwrap_or(own)
    }
}

/// A server, and a load with all its streams open.
fn opened(server: &Server, plan: Plan) -> Result<Load, String> {
    let (connections, load) = (plan.connections, Load::start(plan));
    let load = load.map_err(|error| format!("the load does not start: {error}"))?;
    let opened = load.open(OPENING);
    if opened.open < connections {
        let error = opened.error.unwrap_or_else(|| "no first bytes in time".to_owned());
        let name = server.kind.name();
        return Err(format!("{name}: {} of {connections} streams open: {error}", opened.open));
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
