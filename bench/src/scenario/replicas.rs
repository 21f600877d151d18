//! Two gateways on one Redis: events published through one reach the readers of both.

use std::time::Duration;

use serde_json::json;

use super::shared::Shared;
use super::window::{LEGEND, Timing, Window, disturbed};
use super::{AROUND, CHANNEL, OPENED_A_SECOND, Options, SIZE, opened};
use crate::load::{Load, Measured, Plan, Settled};
use crate::publish::{self, Channels, Pace, Published, StampAt};
use crate::servers::{Kind, Server};
use crate::table::{Output, Table};

/// Runs the scenario if the gateway on Redis is among the servers.
pub fn run(options: &Options, output: &mut Output) {
    if !options.servers.contains(&Kind::GatewayRedis) {
        return;
    }
    let (connections, rate) = (connections(options), options.rate(50.0));
    let title = format!(
        "replicas: 2 gateways on one Redis, {connections} readers on each, {rate} events/s of {SIZE} B \
         published through one"
    );
    let found = match both(options) {
        Ok(found) => found,
        Err(error) => return output.failed("replicas", Kind::GatewayRedis.name(), &error),
    };
    let columns =
        ["gateway", "deliv/s", "lost", "dup", "order", "gaps", "p50 ms", "p99 ms", "others"];
    let mut table = Table::new(title, &columns);
    let others = found.window.others / found.window.measured.readers.seconds;
    let here = (&found.window.measured, &found.window.settled);
    let there = (&found.measured, &found.settled);
    for (name, (measured, settled)) in [("published here", here), ("the other", there)] {
        let readers = &measured.readers;
        output.record(json!({
            "scenario": "replicas", "server": name, "readers": readers.json(),
            "lost": settled.lost, "connections": settled.connections, "behind": settled.behind,
        }));
        table.row(vec![
            name.to_owned(),
            format!("{:.0}", readers.rate()),
            settled.lost.to_string(),
            settled.duplicated.to_string(),
            settled.out_of_order.to_string(),
            settled.gaps.to_string(),
            format!("{:.2}", readers.latency.p50),
            format!("{:.2}", readers.latency.p99),
            disturbed(others),
        ]);
    }
    output.table(table);
    output.note(LEGEND);
}

/// About how many seconds it takes.
pub fn estimate(options: &Options) -> f64 {
    let opening = 2.0 * connections(options) as f64 / OPENED_A_SECOND;
    time(options).as_secs_f64() + 1.0 + opening + AROUND
}

struct Found {
    /// The gateway that events are published through.
    window: Window,
    /// The other gateway.
    measured: Measured,
    settled: Settled,
}

fn both(options: &Options) -> Result<Found, String> {
    let shared = Shared::start()?;
    let (first, second) = (shared.gateway(&options.settings)?, shared.gateway(&options.settings)?);
    let (readers, others) = (readers(&first, options)?, readers(&second, options)?);
    let plan = publish::Plan {
        addr: first.addr,
        route: first.route(),
        publishers: 1,
        pace: Pace::Rate(options.rate(50.0)),
        channels: Channels::One(CHANNEL.to_owned()),
        size: SIZE,
        stamp: StampAt::Sent,
        batches: None,
    };
    let settling = Duration::from_secs(20);
    let timing = Timing {
        warm_up: Duration::from_secs(1),
        time: time(options),
        settling,
        expected: Published::expected,
    };
    let rest = || (shared.cpu() + second.cpu()).total();
    // The readers of both gateways are measured over the same seconds. `measure` returns only when
    // the publishers have stopped and the first gateway's readers have settled.
    let (mut used, mut measured) = (0.0, Measured::default());
    let window = Window::measure(&first, &readers, &plan, timing, |second| {
        if second == 0 {
            used = -rest();
            others.begin();
        }
        if second == timing.time.as_secs() {
            measured = others.end();
            used += rest();
        }
    });
    let window = window.checked()?.without(used);
    let settled = others.settle(window.published.expected(), settling);
    Ok(Found { window, measured, settled })
}

fn readers(gateway: &Server, options: &Options) -> Result<Load, String> {
    let mut plan = Plan::new(gateway.addr, connections(options), gateway.target(CHANNEL));
    plan.first = Some(1);
    opened(plan)
}

fn connections(options: &Options) -> usize {
    options.connections(1000, 500)
}

fn time(options: &Options) -> Duration {
    options.seconds(5, 2)
}
