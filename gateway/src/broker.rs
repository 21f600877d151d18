//! Where events come from and go to: one behaviour, two implementations.
//!
//! A hub attaches channels, asks for ticks and reads, and is answered through its inbox. History and readiness are asked
//! for by HTTP handlers and answered to them; they publish by [`publish`](crate::http::publisher::publish).

pub mod memory;
pub mod redis;

use std::sync::Arc;

use smallvec::SmallVec;
use sse_contract::{Channel, EventId, EventType, Publish};

use crate::broker::memory::MemoryBroker;
use crate::broker::redis::RedisBroker;
use crate::feed::inbox::{ChannelKey, Inbox, ReadToken};
use crate::feed::snapshot::{Extent, Snapshot};

/// The broker of a gateway. Cloning shares it.
#[derive(Debug, Clone)]
pub enum Broker {
    /// This process alone.
    Memory(Arc<MemoryBroker>),
    /// Redis, shared by all replicas.
    Redis(Arc<RedisBroker>),
}

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

impl Broker {
    /// Adds a worker's inbox; answers its number.
    pub fn register(&self, inbox: Arc<Inbox>) -> u16 {
        match self {
            Broker::Memory(broker) => broker.register(inbox),
            Broker::Redis(broker) => broker.register(inbox),
        }
    }

    /// Asks for a channel's events from now on; `Attached` answers.
    pub fn attach(&self, worker: u16, channel: &Channel, key: ChannelKey) {
        match self {
            Broker::Memory(broker) => broker.attach(worker, channel, key),
            Broker::Redis(broker) => broker.attach(worker, channel, key),
        }
    }

    /// Ends an attachment.
    pub fn detach(&self, worker: u16, channel: &Channel, key: ChannelKey) {
        match self {
            Broker::Memory(broker) => broker.detach(worker, channel, key),
            Broker::Redis(broker) => broker.detach(worker, channel, key),
        }
    }

    /// Asks for a tick behind whatever was asked for before; `Tick` answers.
    pub fn want_tick(&self, worker: u16) {
        match self {
            Broker::Memory(broker) => broker.tick(Some(worker)),
            Broker::Redis(broker) => broker.want_tick(),
        }
    }

    /// Asks for history; `Snapshot` answers, sooner or later.
    pub fn read(&self, request: ReadRequest) {
        match self {
            Broker::Memory(broker) => broker.read(&request),
            Broker::Redis(broker) => broker.read(request),
        }
    }

    /// A part of one channel's history, for a handler; the error says why there is none.
    pub async fn history(&self, channel: &Channel, after: EventId) -> Result<Snapshot, String> {
        match self {
            Broker::Memory(broker) => Ok(broker.history(channel, after)),
            Broker::Redis(broker) => broker.history(channel, after).await,
        }
    }

    /// Whether live events are received, as it is known now; the error says why not.
    pub fn status(&self) -> Result<(), String> {
        match self {
            Broker::Memory(_) => Ok(()),
            Broker::Redis(broker) => broker.status(),
        }
    }

    /// Sends an event through the broker and waits for it to come back; the error says what is wrong.
    pub async fn probe(&self) -> Result<(), String> {
        match self {
            Broker::Memory(_) => Ok(()),
            Broker::Redis(broker) => broker.probe().await,
        }
    }

    /// The word in metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Broker::Memory(_) => "memory",
            Broker::Redis(_) => "redis",
        }
    }
}
