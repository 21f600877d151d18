//! `sse-publish` as a user runs it: the real binary, against a real `redis-server` and against a
//! gateway that plays a script. Nothing sleeps: every wait is for something that happens.

mod access;
mod bench;
mod cli;
mod publish_http;
mod publish_redis;
mod redis_server;
mod scripted_gateway;
mod tail;
mod tls_front;
