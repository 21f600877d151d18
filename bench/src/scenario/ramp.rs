//! How fast streams can be opened: what a deploy or a network's hiccup asks of a server.

use serde_json::json;

use super::{AROUND, CHANNEL, OPENED_A_SECOND, OPENING, Options};
use crate::load::{Load, Opened};
use crate::proc::Cpu;
use crate::servers::{Kind, Server};
use crate::table::{Output, Table};

/// Runs it on every server.
pub fn run(options: &Options, output: &mut Output) {
    let connections = connections(options);
    let title = format!("ramp: {connections} streams, 200 on their way at once");
    let mut table =
        Table::new(title, &["server", "open", "failed", "seconds", "streams/s", "CPU µs each"]);
    for kind in options.servers_for(|_| true) {
        let (opened, cpu) = match one(kind, connections, options) {
            Ok(found) => found,
            Err(error) => {
                output.failed("ramp", kind.name(), &error);
                continue;
            }
        };
        if let Some(error) = &opened.error {
            output.failed("ramp", kind.name(), error);
        }
        let rate = opened.open as f64 / opened.seconds.max(f64::MIN_POSITIVE);
        let each = cpu.total() * 1e6 / opened.open.max(1) as f64;
        output.record(json!({
            "scenario": "ramp", "server": kind.name(), "open": opened.open,
            "failed": opened.failed, "seconds": opened.seconds, "cpu_us_each": each,
            "streams_per_second": rate,
        }));
        table.row(vec![
            kind.name().to_owned(),
            opened.open.to_string(),
            opened.failed.to_string(),
            format!("{:.2}", opened.seconds),
            format!("{rate:.0}"),
            format!("{each:.0}"),
        ]);
    }
    output.table(table);
}

/// What it takes, about.
pub fn estimate(options: &Options) -> f64 {
    let opening = connections(options) as f64 / OPENED_A_SECOND;
    options.servers_for(|_| true).count() as f64 * (opening + AROUND)
}

fn connections(options: &Options) -> usize {
    options.connections(10_000, 3_000)
}

fn one(kind: Kind, connections: usize, options: &Options) -> Result<(Opened, Cpu), String> {
    let server = Server::start(kind, &options.settings)?;
    let load = Load::start(server.streams(connections, server.target(CHANNEL)));
    let load = load.map_err(|error| format!("the load does not start: {error}"))?;
    let before = server.cpu();
    let opened = load.open(OPENING);
    Ok((opened, server.cpu() - before))
}
