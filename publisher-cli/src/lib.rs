//! The library of `sse-publish`, which publishes events to a gateway or straight to Redis, follows
//! channels, load-tests servers, and makes tokens and API keys.
//!
//! It is a library only so that tests and fuzz targets can use its modules. The modules are
//! declared in the order in which an event passes them.

// The command line, the environment, and the end of the process.
pub mod access_args;
pub mod address;
pub mod args;
pub mod bench_args;
pub mod environment;
pub mod exit;
pub mod help;
pub mod http_args;
pub mod interrupt;
pub mod pages;
pub mod plain;
pub mod profile;
pub mod publish_args;
pub mod settings;
pub mod tail_args;
pub mod when;

// From input to batches.
pub mod input;
pub mod item;
pub mod pace;

pub mod gather;
pub mod source;

// Delivers a batch and records the outcome of every event.
pub mod attempt;
pub mod deliver;
pub mod retry;

// The two targets: a gateway and Redis.
pub mod http_answer;
pub mod http_client;
pub mod http_head;
pub mod http_target;

mod redis_error;
mod redis_place;
pub mod redis_reply;
mod redis_session;
mod redis_slots;
pub mod redis_target;

pub mod progress;
pub mod report;

// Runs the modules above.
pub mod publish;

// From a stream to the terminal.
pub mod colour;
pub mod event_stream;
pub mod tail_format;
pub mod tail_output;
pub mod tail_start;

pub mod tail;

// Makes and checks tokens, and makes API keys.
pub mod api_key;
pub mod key_source;
pub mod token;
pub mod token_check;

// Load-tests a server.
pub mod bench_target;

pub mod bench_publish;

pub mod bench_report;

pub mod bench;
