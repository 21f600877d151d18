//! Streams with and without tokens: what tokens cost when streams open, when the same clients come
//! back, and for each delivery.

use std::time::Duration;

use serde_json::json;

use super::fanout::Case;
use super::{AROUND, CHANNEL, OPENED_A_SECOND, OPENING, Options, SIZE, median};
use crate::load::{Load, Opened};
use crate::publish::{Channels, Pace, Published};
use crate::servers::{Kind, Server};
use crate::table::{Output, Table};

/// For estimates: seconds that it takes to sign the tokens.
const SIGNING: f64 = 12.0;

/// Runs the scenario if the gateway is among the servers.
pub fn run(options: &Options, output: &mut Output) {
    let Some(options) = with_tokens(options) else { return };
    let title =
        "tokens: streams opened, 200 on their way at once, and once more by the same clients";
    let columns = ["server", "streams/s", "CPU µs each", "again: streams/s", "CPU µs each"];
    let mut table = Table::new(title, &columns);
    let mut found: Vec<(Kind, Vec<[Found; 2]>)> =
        options.servers.iter().map(|kind| (*kind, Vec::new())).collect();
    for round in 1..=if options.quick { 1 } else { 3 } {
        for (kind, rounds) in &mut found {
            match one(*kind, &options) {
                Ok(both) => {
                    let [first, again] = &both;
                    output.record(json!({
                        "scenario": "tokens", "server": kind.name(), "round": round,
                        "open": first.open, "streams_per_second": first.rate, "cpu_us_each": first.cost,
                        "again_per_second": again.rate, "again_cpu_us_each": again.cost,
                    }));
                    rounds.push(both);
                }
                Err(error) => output.failed("tokens", kind.name(), &error),
            }
        }
    }
    for (kind, rounds) in found.iter().filter(|(_, rounds)| !rounds.is_empty()) {
        let mid = |n: usize, of: fn(&Found) -> f64| median(rounds.iter().map(|both| of(&both[n])));
        let row = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(n, what)| {
            let of: fn(&Found) -> f64 =
                if what == 0 { |found| found.rate } else { |found| found.cost };
            format!("{:.0}", mid(n, of))
        });
        table.row([kind.name().to_owned()].into_iter().chain(row).collect());
    }
    output.table(table);
    case(&options).run(&options, output);
}

/// About how many seconds it takes.
pub fn estimate(options: &Options) -> f64 {
    with_tokens(options).map_or(0.0, |options| {
        let rounds = if options.quick { 1.0 } else { 3.0 };
        let opening = 6.0 * connections(&options) as f64 / OPENED_A_SECOND;
        case(&options).estimate(&options) + rounds * (opening + SIGNING + 3.0 * AROUND)
    })
}

fn with_tokens(options: &Options) -> Option<Options> {
    let servers = vec![Kind::GatewayMemory, Kind::GatewayHs256, Kind::GatewayRs256];
    let wanted = options.servers.contains(&Kind::GatewayMemory);
    wanted.then(|| Options { servers, ..options.clone() })
}

fn connections(options: &Options) -> usize {
    options.connections(10_000, 3_000)
}

/// The streams that were opened on a server.
struct Found {
    open: usize,
    /// Streams opened per second.
    rate: f64,
    /// CPU microseconds per stream.
    cost: f64,
}

/// Opens streams, closes them, and opens them again with the same tokens, which the gateway has
/// seen by then.
fn one(kind: Kind, options: &Options) -> Result<[Found; 2], String> {
    let server = Server::start(kind, &options.settings)?;
    let open = || {
        let load = Load::start(server.streams(connections(options), server.target(CHANNEL)));
        let load = load.map_err(|error| format!("the load does not start: {error}"))?;
        let before = server.cpu();
        let Opened { open, seconds, error, .. } = load.open(OPENING);
        let cost = (server.cpu() - before).total() * 1e6 / open.max(1) as f64;
        match error {
            Some(error) => Err(error),
            None => Ok(Found { open, rate: open as f64 / seconds.max(f64::MIN_POSITIVE), cost }),
        }
    };
    let first = open()?;
    let again = open()?;
    Ok([first, again])
}

fn case(options: &Options) -> Case {
    let (connections, rate) = (options.connections(2000, 1000), options.rate(50.0));
    Case {
        name: "tokens-steady",
        title: format!("tokens: {connections} readers of one channel, {rate} events/s of {SIZE} B"),
        repeated: true,
        servers: |_| true,
        connections,
        target: |server| server.target(CHANNEL),
        publishers: 1,
        pace: Pace::Rate(rate),
        batch: None,
        channels: Channels::One(CHANNEL.to_owned()),
        size: SIZE,
        expected: Published::expected,
        time: (options.seconds(4, 2), Duration::from_secs(1)),
    }
}
