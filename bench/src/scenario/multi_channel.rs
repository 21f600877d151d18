//! Many readers that each read the same twenty channels through one stream.

use std::time::Duration;

use super::fanout::Case;
use super::{Options, SIZE};
use crate::publish::{Channels, Pace, Published};
use crate::servers::{Kind, Server};

/// The number of channels.
const CHANNELS: u32 = 20;

/// The numbers of the scenario.
pub fn case(options: &Options) -> Case {
    let (connections, rate) = (options.connections(2000, 1000), options.rate(50.0));
    Case {
        name: "multi-channel",
        title: format!(
            "multi-channel: {connections} readers of the same {CHANNELS} channels, {rate} events/s of \
             {SIZE} B over them; servers whose streams can have several channels (the \
             floor has none: all get all)"
        ),
        repeated: false,
        servers: |kind| another(kind).is_some(),
        connections,
        target,
        publishers: 1,
        pace: Pace::Rate(rate),
        batch: None,
        channels: Channels::Each { name: "multi-{n}".to_owned(), count: CHANNELS },
        size: SIZE,
        expected: Published::expected,
        time: (options.seconds(4, 2), Duration::from_secs(1)),
    }
}

/// What separates the names of channels in a URL; `None` if the server's URLs cannot name several.
fn another(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::GatewayMemory | Kind::GatewayRedis => Some("&channel="),
        Kind::Mercure => Some("&match="),
        // The floor ignores the URL.
        Kind::Floor2 => Some("&"),
        _ => None,
    }
}

/// The path of a stream of all channels.
fn target(server: &Server) -> String {
    let before = another(server.kind).unwrap_or_default();
    let more = (1..CHANNELS).map(|n| format!("{before}multi-{n}"));
    server.target("multi-0") + &more.collect::<String>()
}
