//! Tests of the `sse-publish` binary against a real `redis-server`, a real gateway, and a
//! scripted one. Tests do
//! not sleep; they wait for what they expect to happen.

mod access;
mod bench;
mod cli;
mod examples;
mod input;
mod profile;
mod publish_http;
mod publish_redis;
mod real_gateway;
mod redis_server;
mod scripted_gateway;
mod tail;
mod tail_view;
mod tls_front;
mod topologies;
