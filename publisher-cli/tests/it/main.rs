//! Tests of the `sse-publish` binary against a real `redis-server` and a scripted gateway. Tests do
//! not sleep; they wait for what they expect to happen.

mod access;
mod bench;
mod cli;
mod publish_http;
mod publish_redis;
mod redis_server;
mod scripted_gateway;
mod tail;
mod tls_front;
