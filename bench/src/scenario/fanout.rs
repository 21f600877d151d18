//! Measures readers and publishers over a window, for all scenarios that differ only in their
//! numbers.
//!
//! The servers take turns within each round, so that a slow period of the machine does not hit one
//! server alone. Faults are summed over the rounds, costs and latencies are medians of the rounds,
//! and lateness is that of the worst round.

use std::time::Duration;

use serde_json::json;

use super::window::{LEGEND, Timing, Window, disturbed};
use super::{AROUND, OPENED_A_SECOND, Options, median, opened, ratio};
use crate::load::{self, Expected};
use crate::publish::{Channels, Pace, Plan, Published, Route, StampAt};
use crate::servers::{Kind, Server};
use crate::table::{Output, Table};

/// The numbers of such a scenario.
#[derive(Debug, Clone)]
pub struct Case {
    /// The scenario's name in records.
    pub name: &'static str,
    /// The title of the table.
    pub title: String,
    /// Whether to run as many rounds as [`Options::rounds`] says, instead of one.
    pub repeated: bool,
    /// The servers to measure.
    pub servers: fn(Kind) -> bool,
    /// The number of readers.
    pub connections: usize,
    /// The path that readers request.
    pub target: fn(&Server) -> String,
    /// The number of publishers.
    pub publishers: u32,
    /// How fast to publish.
    pub pace: Pace,
    /// Events per request, as NDJSON; `None`: one event per request.
    pub batch: Option<usize>,
    /// Where to publish.
    pub channels: Channels,
    /// Bytes of data per event.
    pub size: usize,
    /// What each reader should have received.
    pub expected: fn(&Published) -> Expected,
    /// How long to measure, and how long to warm up before.
    pub time: (Duration, Duration),
}

/// A row of the table: the server's name and its rounds.
pub type Row = (String, Vec<Window>);

#[rustfmt::skip]
const COLUMNS: [&str; 18] = [
    "server", "deliv/s", "lost", "dup", "order", "gaps", "closed", "user µs", "sys µs", "CPU µs",
    "min–max", "× floor", "× nchan", "p50 ms", "p99 ms", "max ms", "late", "others",
];

impl Case {
    /// Runs the scenario and prints its table.
    pub fn run(&self, options: &Options, output: &mut Output) {
        let rows = self.rows(options, output);
        print(&self.title, &rows, output);
    }

    /// Runs the scenario on every server.
    pub fn rows(&self, options: &Options, output: &mut Output) -> Vec<Row> {
        let servers: Vec<Kind> = options.servers_for(self.servers).collect();
        let mut found: Vec<Row> =
            servers.iter().map(|kind| (kind.name().to_owned(), Vec::new())).collect();
        for round in 1..=3 {
            for (kind, (_, windows)) in servers.iter().zip(&mut found) {
                if round > self.rounds(*kind, options) {
                    continue;
                }
                match self.one(*kind, options) {
                    Ok(window) => {
                        self.tell(kind.name(), round, &window, output);
                        windows.push(window);
                    }
                    Err(error) => output.failed(self.name, kind.name(), &error),
                }
            }
        }
        found
    }

    /// About how many seconds it takes.
    pub fn estimate(&self, options: &Options) -> f64 {
        let runs: u32 =
            options.servers_for(self.servers).map(|kind| self.rounds(kind, options)).sum();
        let opening = self.connections as f64 / OPENED_A_SECOND;
        let each = (self.time.0 + self.time.1).as_secs_f64() + opening + AROUND;
        f64::from(runs) * each
    }

    /// The timing of a window.
    pub fn timing(&self) -> Timing {
        Timing {
            warm_up: self.time.1,
            time: self.time.0,
            settling: Duration::from_secs(20),
            expected: self.expected,
        }
    }

    /// What to publish to a server.
    pub fn plan(&self, server: &Server) -> Plan {
        let route = match self.batch {
            Some(batch) => Route::Ndjson { path: "/publish".to_owned(), batch },
            None => server.route(),
        };
        Plan {
            addr: server.addr,
            route,
            publishers: self.publishers,
            pace: self.pace,
            channels: self.channels.clone(),
            size: self.size,
            stamp: StampAt::Sent,
            batches: None,
        }
    }

    /// The streams to open to a server.
    pub fn readers(&self, server: &Server) -> load::Plan {
        let mut streams = server.streams(self.connections, (self.target)(server));
        streams.first = Some(1);
        streams
    }

    /// Prints a line about a round and records its result.
    pub fn tell(&self, server: &str, round: u32, window: &Window, output: &mut Output) {
        output.record(json!({
            "scenario": self.name, "server": server, "round": round, "result": window.json(),
        }));
        output.note(&format!(
            "{} {round} {server:14} {:9.0} deliveries/s, {:6.2} µs each, p99 {:.2} ms, load {:.0} % \
             of a core, others {:.0} %",
            self.name,
            window.rate(),
            window.cost().total(),
            window.measured.readers.latency.p99,
            100.0 * window.own_share(),
            100.0 * window.disturbance(),
        ));
    }

    fn rounds(&self, kind: Kind, options: &Options) -> u32 {
        if self.repeated { options.rounds(kind) } else { 1 }
    }

    fn one(&self, kind: Kind, options: &Options) -> Result<Window, String> {
        let server = Server::start(kind, &options.settings)?;
        let load = opened(self.readers(&server))?;
        let window = Window::measure(&server, &load, &self.plan(&server), self.timing(), |_| {});
        window.checked()
    }
}

/// Prints the table of these rows.
pub fn print(title: &str, found: &[Row], output: &mut Output) {
    output.table(table(title, found));
    output.note(LEGEND);
}

fn table(title: &str, found: &[Row]) -> Table {
    let cost = |windows: &[Window]| median(windows.iter().map(|w| w.cost().total()));
    let cost_of = |name: &str| {
        let row = found.iter().find(|(server, windows)| server == name && !windows.is_empty());
        row.map(|(_, windows)| cost(windows))
    };
    // On two cores the gateway has as many threads as this floor.
    let (floor, nchan) = (cost_of(Kind::Floor2.name()), cost_of(Kind::Nchan.name()));
    let mut table = Table::new(title, &COLUMNS);
    for (server, windows) in found.iter().filter(|(_, windows)| !windows.is_empty()) {
        let sum = |of: fn(&Window) -> u64| windows.iter().map(of).sum::<u64>().to_string();
        let mid = |of: fn(&Window) -> f64| median(windows.iter().map(of));
        let worst = windows.iter().max_by(|a, b| a.published.behind.total_cmp(&b.published.behind));
        let costs = windows.iter().map(|w| w.cost().total());
        let (least, most) = costs.fold((f64::MAX, 0.0_f64), |(a, b), c| (a.min(c), b.max(c)));
        table.row(vec![
            server.clone(),
            format!("{:.0}", mid(Window::rate)),
            sum(|w| w.settled.lost),
            sum(|w| w.settled.duplicated),
            sum(|w| w.settled.out_of_order),
            sum(|w| w.settled.gaps),
            sum(|w| w.measured.readers.closed),
            format!("{:.2}", mid(|w| w.cost().user)),
            format!("{:.2}", mid(|w| w.cost().system)),
            format!("{:.2}", cost(windows)),
            format!("{least:.2}–{most:.2}"),
            ratio(cost(windows), floor),
            ratio(cost(windows), nchan),
            format!("{:.2}", mid(|w| w.measured.readers.latency.p50)),
            format!("{:.2}", mid(|w| w.measured.readers.latency.p99)),
            format!("{:.2}", mid(|w| w.measured.readers.latency.max)),
            worst.map_or_else(String::new, Window::lateness),
            disturbed(mid(Window::disturbance)),
        ]);
    }
    table
}
