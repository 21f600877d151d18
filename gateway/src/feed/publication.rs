//! An event on its way to a broker, and the ways in which publishing can fail.

use std::sync::Arc;

use sse_contract::{Channel, EventType, Publish};

/// A validated event to publish.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The channel to publish on.
    pub channel: Channel,
    /// The event's type, if it has one.
    pub event: Option<EventType>,
    /// The event's data, verbatim.
    pub data: Arc<str>,
    /// A repetition with the same key publishes nothing and returns the first event's id.
    pub idempotency_key: Option<Arc<str>>,
}

impl Publication {
    /// Borrows the publication in the form that the contract's calls take.
    pub fn as_publish(&self) -> Publish<'_> {
        Publish {
            channel: &self.channel,
            event: self.event.as_ref().map(EventType::as_str),
            data: self.data.as_bytes(),
            idempotency_key: self.idempotency_key.as_deref(),
        }
    }
}

/// Why an event was not published, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The data exceeds the size limit that the broker holds.
    #[error("{0}")]
    TooLarge(String),
    /// The idempotency key was used on this channel with another payload.
    #[error("{0}")]
    Conflict(String),
    /// The broker does not allow this gateway to publish on the channel.
    #[error("{0}")]
    Denied(String),
    /// Nothing was published, and nothing will be. The publisher may retry freely.
    #[error("{0}")]
    Unavailable(String),
    /// The event may have been published. Only a retry with an idempotency key cannot publish it
    /// twice.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// The broker refused the event for a reason that this gateway should have found first.
    #[error("{0}")]
    Refused(String),
}
