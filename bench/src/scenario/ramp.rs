//! How fast streams can be opened, as many clients demand after a deployment or a network failure.

use serde_json::json;

use super::{AROUND, CHANNEL, OPENED_A_SECOND, OPENING, Options, median};
use crate::load::{Load, Opened};
use crate::proc::Cpu;
use crate::servers::{Kind, Server};
use crate::table::{Output, Table};

/// Runs the scenario on every server.
pub fn run(options: &Options, output: &mut Output) {
    let title = "ramp: streams opened, 200 on their way at once";
    let mut table =
        Table::new(title, &["server", "open", "failed", "seconds", "streams/s", "CPU µs each"]);
    let servers: Vec<Kind> = options.servers_for(|_| true).collect();
    let mut found: Vec<(Kind, Vec<Found>)> =
        servers.iter().map(|kind| (*kind, Vec::new())).collect();
    for round in 1..=3 {
        for (kind, rounds) in found.iter_mut().filter(|(kind, _)| round <= options.rounds(*kind)) {
            match one(*kind, connections(*kind, options), options) {
                Ok(one) => {
                    one.tell(*kind, round, output);
                    rounds.push(one);
                }
                Err(error) => output.failed("ramp", kind.name(), &error),
            }
        }
    }
    for (kind, rounds) in found.iter().filter(|(_, rounds)| !rounds.is_empty()) {
        let mid = |of: fn(&Found) -> f64| median(rounds.iter().map(of));
        let sum = |of: fn(&Found) -> usize| rounds.iter().map(of).sum::<usize>().to_string();
        table.row(vec![
            kind.name().to_owned(),
            sum(|found| found.opened.open),
            sum(|found| found.opened.failed),
            format!("{:.2}", mid(|found| found.opened.seconds)),
            format!("{:.0}", mid(Found::rate)),
            format!("{:.0}", mid(Found::cost)),
        ]);
    }
    output.table(table);
}

/// A round on a server.
struct Found {
    opened: Opened,
    cpu: Cpu,
}

impl Found {
    /// Streams opened per second.
    fn rate(&self) -> f64 {
        self.opened.open as f64 / self.opened.seconds.max(f64::MIN_POSITIVE)
    }

    /// CPU microseconds per stream.
    fn cost(&self) -> f64 {
        self.cpu.total() * 1e6 / self.opened.open.max(1) as f64
    }

    fn tell(&self, kind: Kind, round: u32, output: &mut Output) {
        let Opened { open, failed, seconds, error } = &self.opened;
        if let Some(error) = error {
            output.failed("ramp", kind.name(), error);
        }
        output.record(json!({
            "scenario": "ramp", "server": kind.name(), "round": round, "open": open, "failed": failed,
            "seconds": seconds, "cpu_us_each": self.cost(), "streams_per_second": self.rate(),
        }));
    }
}

/// About how many seconds it takes.
pub fn estimate(options: &Options) -> f64 {
    let of = |kind| {
        let opening = connections(kind, options) as f64 / OPENED_A_SECOND;
        f64::from(options.rounds(kind)) * (opening + AROUND)
    };
    options.servers_for(|_| true).map(of).sum()
}

fn connections(kind: Kind, options: &Options) -> usize {
    match kind {
        // They open about 400 and 700 streams per second.
        Kind::FastApi | Kind::Pushpin => options.connections(3_000, 3_000),
        _ => options.connections(10_000, 3_000),
    }
}

fn one(kind: Kind, connections: usize, options: &Options) -> Result<Found, String> {
    let server = Server::start(kind, &options.settings)?;
    let load = Load::start(server.streams(connections, server.target(CHANNEL)));
    let load = load.map_err(|error| format!("the load does not start: {error}"))?;
    let before = server.cpu();
    let opened = load.open(OPENING);
    Ok(Found { opened, cpu: server.cpu() - before })
}
