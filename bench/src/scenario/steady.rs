//! One channel with many readers: CPU and latency of a delivery.
//!
//! On two cores some servers cannot keep up with the full rate. They then write several events at
//! once, which costs less and delays events. At half the rate, all servers write each event by
//! itself.

use std::time::Duration;

use super::fanout::Case;
use super::{CHANNEL, Options, SIZE, compared};
use crate::publish::{Channels, Pace, Published};
use crate::servers::Kind;

/// The numbers for the full rate, on all servers.
pub fn case(options: &Options) -> Case {
    with("steady", 50.0, |_| true, options)
}

/// The numbers for half the rate, on the servers that the targets compare.
pub fn half(options: &Options) -> Case {
    with("steady-half", 25.0, compared, options)
}

fn with(name: &'static str, rate: f64, servers: fn(Kind) -> bool, options: &Options) -> Case {
    let (connections, rate) = (options.connections(2000, 2000), options.rate(rate));
    Case {
        name,
        title: format!("{name}: {connections} readers of one channel, {rate} events/s of {SIZE} B"),
        repeated: true,
        servers,
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
