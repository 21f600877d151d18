//! One client's stream: where it stands, what it was told, what it still has to write. Nothing here knows of HTTP or of a
//! broker, and only the sink does I/O.

pub mod account;
pub mod body_pipe;
pub mod connection;
pub mod join;
pub mod outbox;
pub mod sink;
pub mod subscription;
pub mod tls_socket;
