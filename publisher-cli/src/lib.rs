//! `sse-publish`: publishes events to a gateway or straight to Redis, and follows channels; loads servers; and makes tokens and
//! API keys.
//!
//! A library only so that its tests can reach the parts, which are, in the order an event takes:

// What the command line and the environment say.
pub mod access_args;
pub mod address;
pub mod args;
pub mod exit;
pub mod interrupt;

// From input to batches.
pub mod input;
pub mod item;
pub mod pace;

pub mod gather;

// From a batch to an account of it.
pub mod attempt;
pub mod deliver;
pub mod retry;

// The two targets.
pub mod http_answer;
pub mod http_client;
pub mod http_head;
pub mod http_target;

pub mod redis_reply;
pub mod redis_target;

pub mod report;

// What runs all of that.
pub mod publish;

// The other way: from a stream to the terminal.
pub mod event_stream;
pub mod tail_output;

pub mod tail;

// Who may do what: tokens and API keys, made and checked.
pub mod api_key;
pub mod key_source;
pub mod token;
pub mod token_check;

// A load, and what it found.
pub mod bench_target;

pub mod bench_publish;

pub mod bench_report;

pub mod bench;
