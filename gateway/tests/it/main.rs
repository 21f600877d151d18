//! The gateway as its users meet it: real sockets, real Redis, other people's clients.

mod brokers;
mod program;
mod publishing;
mod streams;
mod support;
