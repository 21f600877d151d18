//! A Redis-backed, horizontally scaled Server-Sent-Events fan-out gateway.
//!
//! The modules stand in the order in which data flows: from configuration and broker to a worker's hub
//! and its connections, then the HTTP around them. ARCHITECTURE.md tells the same as a story.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod config;
pub mod config_checks;
pub mod config_names;
pub mod config_sources;
pub mod log_filter;
pub mod logging;
pub mod metrics;
pub mod origin;
pub mod panics;
pub mod slow_readers;
pub mod tls_files;
pub mod vitals;

// Pure: no I/O, no Redis, no actix.
pub mod account;
pub mod frame;
pub mod interest;
pub mod join;
pub mod outbox;
pub mod resp;
pub mod snapshot;

// The broker: where events come from and go to.
pub mod alarm;
pub mod broker;
pub mod connector;
pub mod dispatch;
pub mod history;
pub mod ingest;
pub mod library;
pub mod memory;
pub mod redis_access;
pub mod redis_broker;
pub mod redis_line;
pub mod redis_publisher;
pub mod redis_settings;
pub mod session;

// A worker's hub and its connections.
pub mod channels;
pub mod connection;
pub mod fanout;
pub mod guests;
pub mod hub;
pub mod inbox;
pub mod poller;
pub mod sink;
pub mod subscribers;
pub mod takeover;
pub mod tls_socket;
pub mod transport;

// Who may come in, who may do what, and how much.
pub mod access;
pub mod client_addr;
pub mod proxy_protocol;

// HTTP.
pub mod admin;
pub mod app;
pub mod certificate;
pub mod channel_api;
pub mod connections_api;
pub mod item;
pub mod listener;
pub mod ndjson;
pub mod problem;
pub mod publish_api;
pub mod publisher;
pub mod request;
pub mod routes;
pub mod server;
pub mod subscribe;
pub mod ticket_api;
pub mod unread_body;

pub use config::Config;
pub use server::{Gateway, StartError};

#[cfg(test)]
mod config_tests;
