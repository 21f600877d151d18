//! Where events come from and go to: one behaviour, two implementations.
//!
//! A hub attaches channels, asks for ticks and reads, and is answered through its inbox. History and readiness are asked
//! for by HTTP handlers and answered to them.

pub mod memory;
pub mod redis;

use std::sync::Arc;

use sse_contract::{Channel, EventId};

use crate::broker::memory::MemoryBroker;
use crate::broker::redis::RedisBroker;
use crate::feed::inbox::{ChannelKey, Inbox};
use crate::feed::read::ReadRequest;
use crate::feed::snapshot::Snapshot;

/// The broker of a gateway. Cloning shares it.
#[derive(Debug, Clone)]
pub enum Broker {
    /// This process alone.
    Memory(Arc<MemoryBroker>),
    /// Redis, shared by all replicas.
    Redis(Arc<RedisBroker>),
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
}
