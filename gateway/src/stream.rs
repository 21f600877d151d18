//! One client's stream: its position, what it was told, and what it still has to write. Nothing
//! here knows HTTP or a broker, and only the sink does I/O.

pub(crate) mod account;
pub mod body_pipe;
pub mod close_reason;
pub(crate) mod connection;
pub(crate) mod delivery;
pub mod join;
pub(crate) mod outbox;
pub mod sink;
pub mod story;
pub(crate) mod strand;
pub mod subscription;
pub(crate) mod tls_socket;
