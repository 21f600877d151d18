//! A storm of reconnects: many readers come back at once, each a hundred events behind. It measures
//! when the last of them has caught up, and how often the gateway read history for that.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::shared::Gateway;
use super::{AROUND, CHANNEL, OPENED_A_SECOND, OPENING, Options, SIZE, opened, ratio};
use crate::clock::{self, SECOND};
use crate::load::{Load, Settled};
use crate::proc::Cpu;
use crate::publish::{Channels, Pace, Plan, Published, Publishers, StampAt};
use crate::servers::{Kind, Server};
use crate::table::{Output, Table};

/// How many events each reader is behind.
const BEHIND: u64 = 100;
/// How many readers connect at once.
const IN_FLIGHT: usize = 1000;
/// How long readers may take to receive everything.
const CATCHING_UP: Duration = Duration::from_secs(30);

#[rustfmt::skip]
const COLUMNS: [&str; 11] = [
    "server", "seconds", "× nchan", "complete", "lost", "dup", "order", "gaps", "history reads",
    "CPU µs each", "peak MB",
];

/// The result of one server.
struct Found {
    seconds: f64,
    settled: Settled,
    cpu: Cpu,
    reads: Option<u64>,
    peak: Option<u64>,
}

/// Runs the scenario on the servers that resume by `Last-Event-ID`.
pub fn run(options: &Options, output: &mut Output) {
    let connections = connections(options);
    let title = format!(
        "storm: {connections} readers come back, {BEHIND} events of {SIZE} B behind, {IN_FLIGHT} on \
         their way at once; seconds until the last has them all"
    );
    let mut found = Vec::new();
    for kind in options.servers_for(SERVERS) {
        match one(kind, options) {
            Ok(one) => found.push((kind, one)),
            Err(error) => output.failed("storm", kind.name(), &error),
        }
    }
    let nchan = found.iter().find(|(kind, _)| *kind == Kind::Nchan).map(|(_, one)| one.seconds);
    let mut table = Table::new(title, &COLUMNS);
    for (kind, one) in &found {
        let Found { seconds, settled, reads, peak, .. } = one;
        let missing = connections - settled.connections + settled.behind;
        let each = one.cpu.total() * 1e6 / connections as f64;
        output.record(json!({
            "scenario": "storm", "server": kind.name(), "connections": connections,
            "seconds": seconds, "incomplete": missing, "lost": settled.lost,
            "duplicated": settled.duplicated, "out_of_order": settled.out_of_order,
            "gaps": settled.gaps, "reads": reads, "cpu_us_each": each, "peak_bytes": peak,
        }));
        table.row(vec![
            kind.name().to_owned(),
            format!("{seconds:.2}"),
            ratio(*seconds, nchan),
            (connections - missing).to_string(),
            settled.lost.to_string(),
            settled.duplicated.to_string(),
            settled.out_of_order.to_string(),
            settled.gaps.to_string(),
            reads.map_or_else(|| "-".to_owned(), |reads| reads.to_string()),
            format!("{each:.0}"),
            peak.map_or_else(|| "-".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e6)),
        ]);
    }
    output.table(table);
}

/// About how many seconds it takes.
pub fn estimate(options: &Options) -> f64 {
    let opening = connections(options) as f64 / OPENED_A_SECOND;
    options.servers_for(SERVERS).count() as f64 * (opening + 2.0 + AROUND)
}

const SERVERS: fn(Kind) -> bool = |kind| kind.is_gateway() || kind == Kind::Nchan;

fn connections(options: &Options) -> usize {
    options.connections(10_000, 2_000)
}

fn one(kind: Kind, options: &Options) -> Result<Found, String> {
    let server = Server::start(kind, &options.settings)?;
    let id = last_id(&server)?;
    let expected = publish(&server, BEHIND)?.expected();

    let mut plan = server.streams(connections(options), server.target(CHANNEL));
    plan.first = Some(1);
    plan.in_flight = IN_FLIGHT;
    plan.headers = Some(Arc::new(move |_| format!("Last-Event-ID: {id}\r\n")));
    let load = Load::start(plan).map_err(|error| format!("the load does not start: {error}"))?;
    let gateway = Gateway::of(&server);
    let reads = || gateway.as_ref().and_then(Gateway::reads);
    let (before, cpu, began) = (reads(), server.cpu(), clock::now());
    let opened = load.open(OPENING);
    let settled = load.settle(expected, CATCHING_UP);
    let seconds = (clock::now() - began) as f64 / SECOND as f64;
    match opened.error {
        Some(error) if opened.open == 0 => Err(error),
        _ => Ok(Found {
            seconds,
            settled,
            cpu: server.cpu() - cpu,
            reads: reads().zip(before).map(|(after, before)| after - before),
            peak: gateway.and_then(|gateway| gateway.peak()),
        }),
    }
}

/// The event id at which readers lost their connection: the last one that a reader of ten events
/// saw.
fn last_id(server: &Server) -> Result<String, String> {
    let mut plan = server.streams(1, server.target(CHANNEL));
    plan.remember_ids = true;
    let load = opened(plan)?;
    // A server may answer before it has subscribed the reader (see `window::ATTACHING`).
    clock::sleep(Duration::from_millis(500));
    let published = publish(server, 10)?;
    load.settle(published.expected(), CATCHING_UP);
    let id = load.stop().pop().flatten().ok_or("no event had an id")?;
    String::from_utf8(id.into()).map_err(|_| "an id is not UTF-8".to_owned())
}

/// Publishes this many events, one after the other. Each call numbers its events from 1.
fn publish(server: &Server, events: u64) -> Result<Published, String> {
    let plan = Plan {
        addr: server.addr,
        route: server.route(),
        publishers: 1,
        pace: Pace::Saturate,
        channels: Channels::One(CHANNEL.to_owned()),
        size: SIZE,
        stamp: StampAt::Sent,
        batches: Some(events),
    };
    let published = Publishers::start(&plan).finish();
    match published.error {
        Some(error) => Err(error),
        None => Ok(published),
    }
}
