//! HTTP: what stands between a client's socket and its stream, and between a publisher's request and the broker.

pub mod admin;
pub mod app;
pub mod arrival;
pub mod asking;
pub mod attended;
pub mod body;
pub mod certificate;
pub mod channel;
pub mod client_addr;
pub mod connections;
pub mod guests;
pub mod lines;
pub mod listener;
pub mod problem;
pub mod proxy_protocol;
pub mod publish;
pub mod publish_item;
pub mod publisher;
pub mod request;
pub mod revoke;
pub mod routes;
pub mod subscribe;
pub mod takeover;
pub mod tickets;
pub mod transport;
pub mod unread_body;
