//! What an idle stream holds in the server's memory: many on one channel, and each on its own.

use std::time::Duration;

use serde_json::json;

use super::{CHANNEL, Options, opened};
use crate::clock;
use crate::load::Plan;
use crate::proc::Memory;
use crate::servers::{Kind, Server};
use crate::table::{Output, Table};

/// Allocators and page tables come to rest.
const REST: Duration = Duration::from_secs(2);

/// Runs it on every server.
pub fn run(options: &Options, output: &mut Output) {
    let connections = options.connections(15_000, 4_000);
    let title = format!("idle: {connections} streams, memory of the server for each");
    let columns = ["server", "channels", "before MB", "after MB", "anonymous KB", "PSS KB"];
    let mut table = Table::new(title, &columns);
    for (name, channel) in [("one", CHANNEL), ("one each", "user-{n}")] {
        for kind in &options.servers {
            let (before, after) = match one(*kind, connections, channel, options) {
                Ok(found) => found,
                Err(error) => {
                    output.note(&format!("idle: {error}"));
                    continue;
                }
            };
            let each = |after: u64, before: u64| {
                after.saturating_sub(before) as f64 / 1024.0 / connections as f64
            };
            let (anonymous, pss) =
                (each(after.anonymous, before.anonymous), each(after.pss, before.pss));
            output.record(&json!({
                "scenario": "idle", "server": kind.name(), "channels": name,
                "connections": connections, "anonymous_before": before.anonymous,
                "anonymous_after": after.anonymous, "anonymous_kb_each": anonymous,
                "pss_kb_each": pss,
            }));
            table.row(vec![
                kind.name().to_owned(),
                name.to_owned(),
                format!("{:.1}", before.anonymous as f64 / 1e6),
                format!("{:.1}", after.anonymous as f64 / 1e6),
                format!("{anonymous:.2}"),
                format!("{pss:.2}"),
            ]);
        }
    }
    output.table(&table);
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
    let load = opened(&server, Plan::new(server.addr, connections, server.target(channel)))?;
    clock::sleep(REST);
    let after = server.memory();
    drop(load);
    Ok((before, after))
}
