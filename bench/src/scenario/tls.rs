//! The gateway with TLS, without, and behind nginx with TLS: the cost of a delivery, and the memory
//! of an idle stream.
//!
//! The rate is half of that of `steady`, at which all of them write each event by itself.

use std::time::Duration;

use super::fanout::Case;
use super::{CHANNEL, Options, SIZE, idle};
use crate::publish::{Channels, Pace, Published};
use crate::servers::Kind;
use crate::table::Output;

/// Runs the scenario if the gateway is among the servers.
pub fn run(options: &Options, output: &mut Output) {
    if let Some(options) = with_tls(options) {
        case(&options).run(&options, output);
        let title = "tls, idle: memory of the server for each stream";
        idle::table(
            title,
            "tls-idle",
            &[("one", CHANNEL)],
            connections(&options),
            &options,
            output,
        );
    }
}

/// About how many seconds it takes.
pub fn estimate(options: &Options) -> f64 {
    with_tls(options).map_or(0.0, |options| {
        let streams = connections(&options)(Kind::GatewayTls);
        case(&options).estimate(&options) + 3.0 * idle::seconds(streams)
    })
}

fn with_tls(options: &Options) -> Option<Options> {
    let servers = vec![Kind::GatewayMemory, Kind::GatewayTls, Kind::NginxTls];
    let wanted = options.servers.contains(&Kind::GatewayMemory);
    wanted.then(|| Options { servers, ..options.clone() })
}

fn connections(options: &Options) -> impl Fn(Kind) -> usize {
    let connections = options.connections(10_000, 3_000);
    move |_| connections
}

fn case(options: &Options) -> Case {
    let (connections, rate) = (options.connections(2000, 1000), options.rate(25.0));
    Case {
        name: "tls",
        title: format!("tls: {connections} readers of one channel, {rate} events/s of {SIZE} B"),
        repeated: true,
        servers: |_| true,
        connections,
        target: |server| server.target(CHANNEL),
        publishers: 1,
        pace: Pace::Rate(rate),
        batch: None,
        channels: Channels::One(CHANNEL.to_owned()),
        size: SIZE,
        expected: Published::expected,
        time: (options.seconds(4, 2), Duration::from_secs(1)),
    }
}
