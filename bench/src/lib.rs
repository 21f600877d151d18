//! What the load generator is made of, in the order an event takes: a publisher stamps it, a server fans
//! it out, the load receives and judges it; around that, the processes and what they cost.
//!
//! There is no async runtime here: what measures must cost little and hide nothing.

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
