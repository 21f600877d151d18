//! How much of the server's memory an idle stream takes: all on one channel, and each on its own.

use std::time::Duration;

use serde_json::json;

use super::{AROUND, CHANNEL, OPENED_A_SECOND, Options, opened};
use crate::clock;
use crate::proc::Memory;
use crate::servers::{Kind, Server};
use crate::table::{Output, Table};

/// A pause before memory is read, so that allocators and page tables come to rest.
const REST: Duration = Duration::from_secs(1);

/// The floor is left out, because it stores nothing but a socket for each stream.
const SERVERS: fn(Kind) -> bool = |kind| !kind.is_floor();

/// Runs the scenario on every server.
pub fn run(options: &Options, output: &mut Output) {
    let servers: Vec<Kind> = options.servers_for(SERVERS).collect();
    let options = Options { servers, ..options.clone() };
    let title = "idle: memory of the server for each stream";
    let channels = [("one", CHANNEL), ("one each", "user-{n}")];
    table(title, "idle", &channels, |kind| connections(kind, &options), &options, output);
}

/// Measures every server on each of these channels, given by name and pattern, and prints the
/// table.
pub fn table(
    title: &str,
    scenario: &str,
    channels: &[(&str, &str)],
    connections: impl Fn(Kind) -> usize,
    options: &Options,
    output: &mut Output,
) {
    let columns =
        ["server", "channels", "streams", "before MB", "after MB", "anonymous KB", "PSS KB"];
    let mut table = Table::new(title, &columns);
    for (name, channel) in channels {
        for kind in options.servers.iter().copied() {
            let connections = connections(kind);
            let (before, after) = match one(kind, connections, channel, options) {
                Ok(found) => found,
                Err(error) => {
                    output.failed(scenario, kind.name(), &error);
                    continue;
                }
            };
            let each = |after: u64, before: u64| {
                after.saturating_sub(before) as f64 / 1024.0 / connections as f64
            };
            let (anonymous, pss) =
                (each(after.anonymous, before.anonymous), each(after.pss, before.pss));
            output.record(json!({
                "scenario": scenario, "server": kind.name(), "channels": name,
                "connections": connections, "anonymous_before": before.anonymous,
                "anonymous_after": after.anonymous, "anonymous_kb_each": anonymous,
                "pss_kb_each": pss,
            }));
            table.row(vec![
                kind.name().to_owned(),
                (*name).to_owned(),
                connections.to_string(),
                format!("{:.1}", before.anonymous as f64 / 1e6),
                format!("{:.1}", after.anonymous as f64 / 1e6),
                format!("{anonymous:.2}"),
                format!("{pss:.2}"),
            ]);
        }
    }
    output.table(table);
}

/// About how many seconds it takes.
pub fn estimate(options: &Options) -> f64 {
    let of = |kind| seconds(connections(kind, options));
    2.0 * options.servers_for(SERVERS).map(of).sum::<f64>()
}

/// About how many seconds it takes for one server.
pub fn seconds(connections: usize) -> f64 {
    connections as f64 / OPENED_A_SECOND + 2.0 * REST.as_secs_f64() + AROUND
}

fn connections(kind: Kind, options: &Options) -> usize {
    match kind {
        // FastAPI opens about 400 streams per second.
        Kind::FastApi => options.connections(5_000, 3_000),
        _ => options.connections(15_000, 3_000),
    }
}

fn one(
    kind: Kind,
    connections: usize,
    channel: &str,
    options: &Options,
) -> Result<(Memory, Memory), String> {
    let server = Server::start(kind, &options.settings)?;
    clock::sleep(REST);
    let before = server.memory();
    let load = opened(server.streams(connections, server.target(channel)))?;
    clock::sleep(REST);
    let after = server.memory();
    drop(load);
    Ok((before, after))
}
