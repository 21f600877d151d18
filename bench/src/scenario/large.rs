//! Large events, whose delivery is mostly copying.

use std::time::Duration;

use super::fanout::Case;
use super::{CHANNEL, Options};
use crate::publish::{Channels, Pace, Published};
use crate::servers::Kind;

/// Bytes of data per event.
const LARGE: usize = 64 * 1024;

/// The numbers of the scenario.
pub fn case(options: &Options) -> Case {
    let (connections, rate) = (options.connections(200, 200), options.rate(20.0));
    Case {
        name: "large",
        title: format!("large: {connections} readers of one channel, {rate} events/s of 64 KB"),
        repeated: false,
        servers: |kind| kind != Kind::Floor1,
        connections,
        target: |server| server.target(CHANNEL),
        publishers: 1,
        pace: Pace::Rate(rate),
        batch: None,
        channels: Channels::One(CHANNEL.to_owned()),
        size: LARGE,
        expected: Published::expected,
        time: (options.seconds(4, 1), Duration::from_secs(1)),
    }
}
