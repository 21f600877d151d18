//! Integration tests: the gateway as its users meet it, with real sockets, a real Redis and other
//! people's clients.

mod access;
mod access_elsewhere;
mod access_pages;
mod annotate;
mod brokers;
mod clients;
mod configuration;
mod console;
mod contract;
mod documents;
mod edges;
mod event_source;
mod join_model;
mod life;
mod limits;
mod lists;
mod logs;
mod metrics;
mod nginx;
mod pages;
mod parsers;
mod program;
mod proxies;
mod publishing;
mod rooms;
mod security;
mod site;
mod streams;
mod support;
mod telemetry;
mod tls;
mod top;
mod webdriver;
