//! One channel, many readers: at a steady rate, or as fast as it goes.
//!
//! The servers take turns within each round, so that a slow spell of the machine does not fall on one of
//! them. Faults are added up over the rounds; costs and latencies are the rounds' medians, and
//! lateness is the worst round's.

use std::time::Duration;

use serde_json::json;

use super::window::{LEGEND, Timing, Window, disturbed};
use super::{CHANNEL, Options, SIZE, median, opened, ratio};
use crate::load;
use crate::publish::{Channels, Pace, Plan, StampAt};
use crate::servers::{self, Server};
use crate::table::{Output, Table};

/// Which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// At a rate that is no trouble.
    Steady,
    /// The next event as soon as the last was answered.
    Saturation,
}

impl Kind {
    fn name(self) -> &'static str {
        if self == Kind::Steady { "steady" } else { "saturation" }
    }
}

#[rustfmt::skip]
const COLUMNS: [&str; 17] = [
    "server", "deliv/s", "lost", "dup", "order", "gaps", "closed", "user µs", "sys µs", "CPU µs",
    "min–max", "× floor", "p50 ms", "p99 ms", "max ms", "late", "others",
];

/// Runs it on every server.
pub fn run(kind: Kind, options: &Options, output: &mut Output) {
    let rounds = if options.quick { 1 } else { 3 };
    let connections = options.connections(2000, 2000);
    let pace = match kind {
        Kind::Steady => Pace::Rate(options.rate(50.0)),
        Kind::Saturation => Pace::Saturate,
    };
    let mut found: Vec<(servers::Kind, Vec<Window>)> =
        options.servers.iter().map(|server| (*server, Vec::new())).collect();
    for round in 1..=rounds {
        for (server, windows) in &mut found {
            match one(*server, connections, pace, options) {
                Ok(window) => {
                    output.record(&json!({
                        "scenario": kind.name(), "server": server.name(), "round": round,
                        "result": window.json(),
                    }));
                    output.note(&progress(kind, *server, round, &window));
                    windows.push(window);
                }
                Err(error) => output.note(&format!("{}: {error}", kind.name())),
            }
        }
    }
    let title = match pace {
        Pace::Rate(rate) => format!("steady: {connections} readers, {rate} events/s of {SIZE} B"),
        Pace::Saturate => {
            format!("saturation: {connections} readers, events of {SIZE} B as fast as answered")
        }
    };
    output.table(&table(&format!("{title}; {rounds} round(s)"), &found));
    output.note(LEGEND);
}

fn one(
    kind: servers::Kind,
    connections: usize,
    pace: Pace,
    options: &Options,
) -> Result<Window, String> {
    let server = Server::start(kind, &options.settings)?;
    let mut streams = load::Plan::new(server.addr, connections, server.target(CHANNEL));
    streams.first = Some(1);
    let load = opened(&server, streams)?;
    let saturate = pace == Pace::Saturate;
    let plan = Plan {
        addr: server.addr,
        route: server.route(),
        publishers: if saturate { 4 } else { 1 },
        pace,
        channels: Channels::One(CHANNEL.to_owned()),
        size: SIZE,
        stamp: StampAt::Sent,
        batches: None,
    };
    let timing = Timing {
        warm_up: Duration::from_secs(2),
        time: options.seconds(if saturate { 8 } else { 10 }),
        settling: Duration::from_secs(20),
    };
    let window = Window::measure(&server, &load, &plan, timing, |_| {});
    match &window.published.error {
        Some(error) if window.published.events == 0 => Err(format!("{}: {error}", kind.name())),
        _ => Ok(window),
    }
}

fn progress(kind: Kind, server: servers::Kind, round: u32, window: &Window) -> String {
    format!(
        "{} {round} {:14} {:9.0} deliveries/s, {:6.2} µs each, p99 {:.2} ms, load {:.0} % of a core, \
         others {:.0} %",
        kind.name(),
        server.name(),
        window.rate(),
        window.cost().total(),
        window.measured.readers.latency.p99,
        100.0 * window.own_share(),
        100.0 * window.disturbance(),
    )
}

fn table(title: &str, found: &[(servers::Kind, Vec<Window>)]) -> Table {
    let cost = |windows: &[Window]| median(windows.iter().map(|w| w.cost().total()));
    let floor = found.iter().find(|(kind, windows)| kind.is_floor() && !windows.is_empty());
    let floor = floor.map(|(_, windows)| cost(windows));
    let mut table = Table::new(title, &COLUMNS);
    for (kind, windows) in found.iter().filter(|(_, windows)| !windows.is_empty()) {
        let sum = |of: fn(&Window) -> u64| windows.iter().map(of).sum::<u64>().to_string();
        let mid = |of: fn(&Window) -> f64| median(windows.iter().map(of));
        let worst = windows.iter().max_by(|a, b| a.published.behind.total_cmp(&b.published.behind));
        let costs = windows.iter().map(|w| w.cost().total());
        let (least, most) = costs.fold((f64::MAX, 0.0_f64), |(a, b), c| (a.min(c), b.max(c)));
        table.row(vec![
            kind.name().to_owned(),
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
            format!("{:.2}", mid(|w| w.measured.readers.latency.p50)),
            format!("{:.2}", mid(|w| w.measured.readers.latency.p99)),
            format!("{:.2}", mid(|w| w.measured.readers.latency.max)),
            worst.map_or_else(String::new, Window::lateness),
            disturbed(mid(Window::disturbance)),
        ]);
    }
    table
}
