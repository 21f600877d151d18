//! A hub's request to read history.

use std::sync::Arc;

use smallvec::SmallVec;
use sse_contract::{Channel, EventId};

use crate::feed::inbox::ReadToken;
use crate::feed::snapshot::Extent;

/// A request to read history for one connection.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    /// The partition to read. All channels belong to it.
    pub partition: u16,
    /// The number of the worker whose hub asks.
    pub worker: u16,
    /// The connection, and the number of this read.
    pub token: ReadToken,
    /// The connection's channels. All are attached.
    pub channels: Arc<[Channel]>,
    /// The position to read after.
    pub after: EventId,
    /// A cached page whose clock is below this must not serve the request.
    pub youngest: EventId,
    /// For each channel, which part of its history to read.
    pub extents: SmallVec<[Extent; 2]>,
    /// The epoch of the live side, once it has seen a position. A cached page of another epoch must
    /// not serve the request.
    pub epoch: Option<u64>,
}

impl ReadRequest {
    /// Iterates over the channels, each with its extent.
    pub fn parts(&self) -> impl Iterator<Item = (&Channel, Extent)> {
        self.channels.iter().zip(self.extents.iter().copied())
    }
}
