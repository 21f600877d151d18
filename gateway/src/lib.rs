//! A Redis-backed, horizontally scaled Server-Sent-Events fan-out gateway.
//!
//! The rooms stand in the order in which an event passes them: a broker feeds a hub, a hub feeds streams, HTTP stands
//! around them. A room imports only rooms above it; `tests/it/rooms.rs` checks that. ARCHITECTURE.md walks through them.

#![deny(clippy::print_stdout, clippy::print_stderr)]
// What nobody outside uses is not shown, so that the compiler sees what nobody uses at all.
#![warn(unreachable_pub)]

pub mod config;

pub mod logging;
pub mod panics;
pub mod vitals;

pub mod feed;
pub mod stream;

pub mod metrics;

pub mod broker;

pub mod hub;

pub mod access;

pub mod http;

pub(crate) mod worker;

pub mod gateway;

pub use config::Config;
pub use gateway::{Gateway, StartError};
