//! One channel with many readers. Each publisher sends the next request once the last is answered.
//!
//! All compared servers are published to alike, one event per request, because some take no
//! batches. Where requests are the limit, the table measures publishing. So the gateways are also
//! measured with batches, in a table of their own.

use std::time::Duration;

use super::fanout::Case;
use super::{CHANNEL, Options, SIZE};
use crate::publish::{Channels, Pace, Published};

/// Events per request in batches.
const BATCH: usize = 20;

/// The numbers for one event per request, on every server.
pub fn single(options: &Options) -> Case {
    let connections = options.connections(2000, 2000);
    Case {
        name: "saturation",
        title: format!(
            "saturation: {connections} readers of one channel, events of {SIZE} B as fast as each is \
             answered, 4 publishers"
        ),
        repeated: true,
        servers: |_| true,
        connections,
        target: |server| server.target(CHANNEL),
        publishers: 4,
        pace: Pace::Saturate,
        batch: None,
        channels: Channels::One(CHANNEL.to_owned()),
        size: SIZE,
        expected: Published::expected,
        time: (options.seconds(4, 2), Duration::from_secs(1)),
    }
}

/// The numbers for batches, on the gateways.
pub fn batches(options: &Options) -> Case {
    let single = single(options);
    Case {
        name: "saturation-batches",
        title: format!(
            "saturation in batches: {} readers of one channel, events of {SIZE} B by NDJSON, {BATCH} a \
             request, as fast as each is answered, 4 publishers; not comparable with the table above",
            single.connections
        ),
        repeated: false,
        servers: |kind| kind.is_gateway(),
        batch: Some(BATCH),
        ..single
    }
}
