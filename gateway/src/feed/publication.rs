//! An event on its way to a broker, and what can come of it.

use std::sync::Arc;

use sse_contract::{Channel, EventType, Publish};

/// An event to publish, checked.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Where to.
    pub channel: Channel,
    /// Its type, if typed.
    pub event: Option<EventType>,
    /// Its data, verbatim.
    pub data: Arc<str>,
    /// What makes a repetition of this publication answer the first one's id.
    pub idempotency_key: Option<Arc<str>>,
}

impl Publication {
    /// The same as the contract's calls take it.
    pub fn as_publish(&self) -> Publish<'_> {
        Publish {
            channel: &self.channel,
            event: self.event.as_ref().map(EventType::as_str),
            data: self.data.as_bytes(),
            idempotency_key: self.idempotency_key.as_deref(),
        }
    }
}

/// Why a publication was not, or perhaps not, published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The data exceeds the limit that the broker holds.
    #[error("{0}")]
    TooLarge(String),
    /// The idempotency key was used on this channel for another payload.
    #[error("{0}")]
    Conflict(String),
    /// The broker refuses this gateway the channel.
    #[error("{0}")]
    Denied(String),
    /// Nothing was published, and nothing will be; it may be retried freely.
    #[error("{0}")]
    Unavailable(String),
    /// It may have been published. A repetition is exact only with an idempotency key.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// The broker refused it for a reason this gateway should have found first.
    #[error("{0}")]
    Refused(String),
}
