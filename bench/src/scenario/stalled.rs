//! Readers that stop reading: what the other readers notice, how much memory it takes, and what
//! happens to the stalled readers.
//!
//! Each server is started twice, without and with stalled readers. What the others notice is the
//! ratio of their p99 in the two runs. With `--resume` the stalled readers read again after 20
//! seconds. The table then shows whether they received every event in order, or were told of a gap.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::window::{LEGEND, Timing, Window, disturbed};
use super::{AROUND, CHANNEL, Options, SIZE, compared, opened, ratio};
use crate::publish::{Channels, Pace, Plan, Published, StampAt};
use crate::servers::{Kind, Server, Settings};
use crate::table::{Output, Table};

/// The share of the readers that stalls.
const STALLED: f64 = 0.1;
/// The receive buffer of stalled readers. The kernel makes it a few kilobytes, so the server
/// notices after some events.
const RECEIVE_BUFFER: usize = 4096;
/// The gateway's progress deadline: short enough to pass within a short run, unlike the default of
/// 120 s.
const DEADLINE: &str = "4s";
const WARM_UP: Duration = Duration::from_secs(1);
/// Seconds between two samples of the server's memory.
const SAMPLE: u64 = 2;
/// The second at which stalled readers read again.
const RESUME_AT: u64 = 20;

/// The floor is left out because it closes stalled readers at once. Of the other servers, only
/// these can deliver a million events per second.
const SERVERS: fn(Kind) -> bool =
    |kind| (compared(kind) && !kind.is_floor()) || kind == Kind::PlainActix;

#[rustfmt::skip]
const COLUMNS: [&str; 16] = [
    "server", "stall", "deliv/s", "CPU µs", "p50 ms", "p99 ms", "max ms", "p99 ratio", "lost", "dup",
    "order", "gaps", "behind", "late", "load CPU", "others",
];

/// One run of one server.
struct Found {
    window: Window,
    /// Anonymous memory in bytes by second of the window.
    memory: Vec<(u64, u64)>,
    closed: BTreeMap<String, u64>,
    lags: Option<u64>,
}

/// Runs the scenario on every server.
pub fn run(options: &Options, output: &mut Output) {
    let (connections, rate) = (options.connections(2000, 2000), options.rate(500.0));
    let seconds = time(options).as_secs();
    let resumed = if options.resume { ", resumed after 20 s" } else { "" };
    let title = format!(
        "stalled: {connections} readers, {:.0} % of them stalled{resumed}; {rate} events/s of \
         {SIZE} B for {seconds} s",
        100.0 * STALLED
    );
    let (mut table, mut notes) = (Table::new(title, &COLUMNS), Vec::new());
    for kind in options.servers_for(SERVERS) {
        let mut without = None;
        for stall in [false, true] {
            let found = match one(kind, stall, options) {
                Ok(found) => found,
                Err(error) => {
                    output.failed("stalled", kind.name(), &error);
                    continue;
                }
            };
            output.record(json!({
                "scenario": "stalled", "server": kind.name(), "stall": stall,
                "resume": options.resume, "rate": rate, "result": found.window.json(),
                "anonymous_bytes": found.memory, "closed_by_reason": found.closed,
                "lags": found.lags,
            }));
            table.row(row(kind, stall, &found.window, without));
            notes.push(note(kind, stall, &found));
            without = Some(found.window.measured.readers.latency.p99);
        }
    }
    output.table(table);
    output.note(LEGEND);
    output.remark("Anonymous memory in MB by second, and streams closed:");
    notes.iter().for_each(|note| output.remark(note));
}

/// About how many seconds it takes.
pub fn estimate(options: &Options) -> f64 {
    let runs = 2 * options.servers_for(SERVERS).count();
    runs as f64 * ((time(options) + WARM_UP).as_secs_f64() + AROUND)
}

/// How long to measure. Stalled readers that read again need time to catch up.
fn time(options: &Options) -> Duration {
    if options.resume { options.seconds(30, 25) } else { options.seconds(8, 3) }
}

fn one(kind: Kind, stall: bool, options: &Options) -> Result<Found, String> {
    let server = Server::start(kind, &settings(options))?;
    let connections = options.connections(2000, 2000);
    let mut streams = server.streams(connections, server.target(CHANNEL));
    streams.first = Some(1);
    if stall {
        streams.stalled = STALLED;
        streams.stalled_receive_buffer = Some(RECEIVE_BUFFER);
    }
    let load = opened(streams)?;
    let plan = Plan {
        addr: server.addr,
        route: server.route(),
        publishers: 4,
        pace: Pace::Rate(options.rate(500.0)),
        channels: Channels::One(CHANNEL.to_owned()),
        size: SIZE,
        stamp: StampAt::Sent,
        batches: None,
    };
    let timing = Timing {
        warm_up: WARM_UP,
        time: time(options),
        settling: Duration::from_secs(60),
        expected: Published::expected,
    };
    let mut memory = Vec::new();
    let window = Window::measure(&server, &load, &plan, timing, |second| {
        // The last sample is taken later.
        if second % SAMPLE == 0 && second < timing.time.as_secs() {
            memory.push((second, server.memory().anonymous));
        }
        if options.resume && second == RESUME_AT {
            load.resume();
        }
    })
    .checked()?;
    // The load has settled by now, so this is the memory that stays after all deliveries.
    memory.push((timing.time.as_secs(), server.memory().anonymous));
    let (closed, lags) = (server.closed(), server.lags());
    Ok(Found { window, memory, closed, lags })
}

/// With `--resume`: a long history and the default deadline, so that stalled readers can catch up.
/// Otherwise: a deadline that passes within the run.
fn settings(options: &Options) -> Settings {
    let mut settings = options.settings.clone();
    if options.resume {
        settings.history = 100_000;
    } else {
        let deadline = ("SSE_STREAM__PROGRESS_DEADLINE".to_owned(), DEADLINE.to_owned());
        settings.variables.push(deadline);
    }
    settings
}

fn row(kind: Kind, stall: bool, window: &Window, without: Option<f64>) -> Vec<String> {
    let latency = window.measured.readers.latency;
    let settled = &window.settled;
    vec![
        kind.name().to_owned(),
        if stall { "10 %" } else { "none" }.to_owned(),
        format!("{:.0}", window.rate()),
        format!("{:.2}", window.cost().total()),
        format!("{:.2}", latency.p50),
        format!("{:.2}", latency.p99),
        format!("{:.2}", latency.max),
        ratio(latency.p99, without),
        settled.lost.to_string(),
        settled.duplicated.to_string(),
        settled.out_of_order.to_string(),
        settled.gaps.to_string(),
        settled.behind.to_string(),
        window.lateness(),
        format!("{:.0} %", 100.0 * window.own_share()),
        disturbed(window.disturbance()),
    ]
}

fn note(kind: Kind, stall: bool, found: &Found) -> String {
    let memory: Vec<String> = found
        .memory
        .iter()
        .map(|(second, bytes)| format!("{second} s {:.1}", *bytes as f64 / 1e6))
        .collect();
    let closed: Vec<String> =
        found.closed.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let closed = if closed.is_empty() { "none told".to_owned() } else { closed.join(", ") };
    let lags = found.lags.map_or_else(String::new, |lags| format!("; sent to history: {lags}"));
    let stall = if stall { "10 % stalled" } else { "no stall" };
    format!(
        "  {:14} {stall:12}  {};  closed: {closed}{lags}; \
         seen closed by the load: {} readers, {} stalled",
        kind.name(),
        memory.join(", "),
        found.window.measured.readers.closed,
        found.window.measured.stalled.closed,
    )
}
