//! One function for each parser that reads what strangers write: it feeds the parser any bytes and checks what comes out
//! against a second, plainer reading of the same rules. It panics where the two differ.
//!
//! libFuzzer calls them for minutes (`make fuzz`), with what it learns of the parsers' branches; an ordinary test calls
//! them with the kept corpus and some thousand changes of it (`tests/kept.rs`), so that they cannot rot.
//!
//! An input of several parts has the byte 0xFF between them, which no UTF-8 text holds, so that seeds can be read.

#![forbid(unsafe_code)]

// The plainer readings.
pub mod event_source;
pub mod naive;

// What is written to clients, and what `sse-publish` reads of it.
pub mod events;
pub mod streams;

// What comes from Redis.
pub mod live_frames;
pub mod resp;

// What clients and proxies send.
pub mod addresses;
pub mod cursors;
pub mod items;
pub mod ndjson;
pub mod requests;

// Who may do what.
pub mod grants;
pub mod lines;
pub mod patterns;
pub mod tokens;

/// A parser under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The folder of its corpus, and its program.
    pub name: &'static str,
    /// Feeds it these bytes; panics where something is wrong.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 13] = [
    Target { name: "addresses", run: addresses::run },
    Target { name: "cursors", run: cursors::run },
    Target { name: "events", run: events::run },
    Target { name: "grants", run: grants::run },
    Target { name: "items", run: items::run },
    Target { name: "lines", run: lines::run },
    Target { name: "live_frames", run: live_frames::run },
    Target { name: "ndjson", run: ndjson::run },
    Target { name: "patterns", run: patterns::run },
    Target { name: "requests", run: requests::run },
    Target { name: "resp", run: resp::run },
    Target { name: "streams", run: streams::run },
    Target { name: "tokens", run: tokens::run },
];

/// The parts of an input, so many; those that are not there are empty, and the last one is all that is left.
fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |byte| *byte == 0xFF);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// A part as text. What is not UTF-8 is read as a browser would.
fn text(part: &[u8]) -> String {
    String::from_utf8_lossy(part).into_owned()
}
