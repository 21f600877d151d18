//! A channel per user: every event has one reader, so its cost is to publish it and to find that
//! reader.
//!
//! When events are published through HTTP, the cost is that of the server and of any Redis behind
//! it. When they are published straight to Redis, the gateway's cost is reported apart from that of
//! Redis, which such a publisher causes whichever server delivers.

use std::time::Duration;

use serde_json::json;

use super::fanout::{Case, print};
use super::shared::Shared;
use super::window::Window;
use super::{Options, SIZE, opened};
use crate::publish::{Channels, Pace, Plan, Published, Route};
use crate::servers::Kind;
use crate::table::Output;

/// Events per round trip of a publisher to Redis.
const PIPELINED: usize = 10;

/// The numbers of the scenario, through HTTP.
pub fn case(options: &Options) -> Case {
    let (connections, rate) = (options.connections(8000, 2000), options.rate(5000.0));
    Case {
        name: "per-user",
        title: format!(
            "per-user: {connections} readers of a channel each, {rate} events/s of {SIZE} B over them"
        ),
        repeated: true,
        servers: |kind| !kind.is_floor(),
        connections,
        target: |server| server.target("user-{n}"),
        publishers: 8,
        pace: Pace::Rate(rate),
        batch: None,
        channels: Channels::Each { name: "user-{n}".to_owned(), count: connections as u32 },
        size: SIZE,
        expected: Published::expected_of_own,
        time: (options.seconds(4, 2), Duration::from_secs(1)),
    }
}

/// Runs the scenario through HTTP on every server, then straight to Redis.
pub fn run(options: &Options, output: &mut Output) {
    let case = case(options);
    let mut rows = case.rows(options, output);
    let mut split = None;
    if options.servers.contains(&Kind::GatewayRedis) {
        match straight(&case, options, output) {
            Ok((window, redis)) => {
                split = Some(format!(
                    "gateway, FCALL: published straight to Redis; its {:.2} µs an event are the \
                     gateway's process alone, Redis took {redis:.2} µs more.",
                    window.cost().total()
                ));
                rows.push(("gateway, FCALL".to_owned(), vec![window]));
            }
            Err(error) => output.failed(case.name, "gateway, FCALL", &error),
        }
    }
    print(&case.title, &rows, output);
    split.iter().for_each(|split| output.remark(split));
}

/// About how many seconds it takes.
pub fn estimate(options: &Options) -> f64 {
    let case = case(options);
    let straight = options.servers.contains(&Kind::GatewayRedis);
    let one = Case { repeated: false, ..case.clone() };
    let redis = Options { servers: vec![Kind::GatewayRedis], ..options.clone() };
    case.estimate(options) + if straight { one.estimate(&redis) } else { 0.0 }
}

/// Publishes straight to Redis. Returns the gateway's window, and the CPU of Redis in microseconds
/// per event.
fn straight(case: &Case, options: &Options, output: &mut Output) -> Result<(Window, f64), String> {
    let shared = Shared::start()?;
    let gateway = shared.gateway(&options.settings)?;
    let load = opened(case.readers(&gateway))?;
    let plan = Plan {
        addr: shared.addr,
        route: Route::Redis { prefix: "sse".to_owned(), batch: PIPELINED },
        publishers: 1,
        ..case.plan(&gateway)
    };
    let mut redis = Vec::new();
    let window = Window::measure(&gateway, &load, &plan, case.timing(), |_| {
        redis.push(shared.cpu().total());
    });
    let used = redis.last().zip(redis.first()).map_or(f64::NAN, |(end, start)| end - start);
    let window = window.checked()?.without(used);
    let redis = used * 1e6 / window.deliveries().max(1) as f64;
    let name = "gateway, FCALL";
    case.tell(name, 1, &window, output);
    output.record(json!({
        "scenario": "per-user", "server": "Redis, FCALL", "cpu_us_per_event": redis,
    }));
    Ok((window, redis))
}
