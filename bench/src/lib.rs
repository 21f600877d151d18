//! A load generator for servers of event streams, and the scenarios that compare servers with it.
//!
//! A publisher stamps an event, a server fans it out, and the load receives it and checks its
//! number. The other modules start servers and measure their CPU and memory.
//!
//! There is no async runtime, because the measuring code must be cheap and its cost visible.

pub mod chunked;
pub mod clock;
pub mod floor;
pub mod load;
#[cfg(feature = "servers")]
pub mod proc;
#[cfg(feature = "servers")]
pub mod process;
pub mod publish;
#[cfg(feature = "servers")]
pub mod scenario;
#[cfg(feature = "servers")]
pub mod servers;
pub mod stamp;
#[cfg(feature = "servers")]
pub mod table;
