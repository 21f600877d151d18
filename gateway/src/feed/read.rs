//! What a hub asks a broker to read of histories.

use std::sync::Arc;

use smallvec::SmallVec;
use sse_contract::{Channel, EventId};

use crate::feed::inbox::ReadToken;
use crate::feed::snapshot::Extent;

/// A wish to read history.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    /// The hub that asks.
    pub worker: u16,
    /// The connection, and which of its reads this is.
    pub token: ReadToken,
    /// The connection's channels, all attached.
    pub channels: Arc<[Channel]>,
    /// The position to read after.
    pub after: EventId,
    /// A page that was read before may serve, unless its clock is below this.
    pub youngest: EventId,
    /// For each channel, which part of its history is wanted.
    pub extents: SmallVec<[Extent; 2]>,
    /// The epoch of the live side, once it has heard of one: no page of another may serve.
    pub epoch: Option<u64>,
}

impl ReadRequest {
    /// The channels with their extents.
    pub fn parts(&self) -> impl Iterator<Item = (&Channel, Extent)> {
        self.channels.iter().zip(self.extents.iter().copied())
    }
}
