//! What a broker hands to a hub: encoded events, answers to history reads, and the queue between
//! their threads.

pub(crate) mod clock;
pub mod frame;
pub mod gap;
pub mod inbox;
pub mod listing;
pub mod publication;
pub(crate) mod read;
pub mod snapshot;
