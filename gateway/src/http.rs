//! HTTP: what stands between a client's socket and its stream, and between a publisher's request and the broker.

pub(crate) mod admin;
pub(crate) mod app;
pub(crate) mod arrival;
pub mod asking;
pub(crate) mod attended;
pub(crate) mod body;
pub mod certificate;
pub(crate) mod channel;
pub mod client_addr;
pub(crate) mod connections;
pub(crate) mod guests;
pub mod lines;
pub mod listener;
pub(crate) mod problem;
pub mod proxy_protocol;
pub(crate) mod publish;
pub mod publish_item;
pub(crate) mod publisher;
pub mod request;
pub(crate) mod revoke;
pub(crate) mod routes;
pub(crate) mod subscribe;
pub(crate) mod takeover;
pub(crate) mod tickets;
pub(crate) mod transport;
pub(crate) mod unread_body;
