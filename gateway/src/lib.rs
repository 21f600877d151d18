//! A Redis-backed, horizontally scaled Server-Sent-Events fan-out gateway.
//!
//! The modules are declared in the order in which an event passes them: a broker feeds a hub, a hub
//! feeds streams, and HTTP stands around them. A module imports only modules declared above it;
//! `tests/it/rooms.rs` checks that. ARCHITECTURE.md describes each.

#![deny(clippy::print_stdout, clippy::print_stderr)]
// Items that no other crate uses must not be `pub`, so that the compiler can report those that
// nothing uses.
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

pub mod telemetry;

pub mod http;

pub(crate) mod worker;

pub mod gateway;

pub use config::Config;
pub use gateway::{Gateway, StartError};
