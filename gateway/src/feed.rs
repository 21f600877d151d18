//! What a broker hands a hub: events as bytes, what was read of histories, and the queue between their threads.

pub mod frame;
pub mod inbox;
pub mod publication;
pub(crate) mod read;
pub mod snapshot;
