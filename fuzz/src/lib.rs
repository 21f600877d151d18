//! Fuzz targets: one function for each parser of untrusted input. It feeds the parser arbitrary
//! bytes, compares the result with a second, simpler implementation of the same rules, and panics
//! if they differ.
//!
//! libFuzzer runs the targets for minutes, guided by coverage (`make fuzz`). An ordinary test runs
//! them with the kept corpus and some thousand mutations of it (`tests/kept.rs`), so that they keep
//! working.
//!
//! In an input of several parts the byte 0xFF separates them. UTF-8 text cannot contain that byte,
//! and seeds stay readable.

#![forbid(unsafe_code)]

// The simpler implementations.
pub mod event_source;
pub mod naive;

// What is written to clients, and the parser of `sse-publish` for it.
pub mod events;
pub mod streams;

// What Redis sends.
pub mod live_frames;
pub mod resp;

// What clients and proxies send.
pub mod addresses;
pub mod cursors;
pub mod items;
pub mod ndjson;
pub mod requests;

// Access control.
pub mod grants;
pub mod lines;
pub mod patterns;
pub mod tokens;

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its corpus folder and of its program.
    pub name: &'static str,
    /// Feeds the parser these bytes; panics if the result is wrong.
    pub run: fn(&[u8]),
}

/// All targets.
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

/// Splits an input into `N` parts. Missing parts are empty; the last part may contain 0xFF.
fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |byte| *byte == 0xFF);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// A part as text. Invalid UTF-8 is replaced, as a browser does.
fn text(part: &[u8]) -> String {
    String::from_utf8_lossy(part).into_owned()
}
