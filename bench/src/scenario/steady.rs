//! One channel and many readers at a rate that is no trouble: what a delivery costs, and how late it is.

use std::time::Duration;

use super::fanout::Case;
use super::{CHANNEL, Options, SIZE};
use crate::publish::{Channels, Pace, Published};

/// With these numbers.
pub fn case(options: &Options) -> Case {
    let (connections, rate) = (options.connections(2000, 2000), options.rate(50.0));
    Case {
        name: "steady",
        title: format!("steady: {connections} readers of one channel, {rate} events/s of {SIZE} B"),
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
        time: (options.seconds(5, 2), Duration::from_secs(1)),
    }
}
