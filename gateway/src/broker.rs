//! The broker: where events come from and go to. It has two implementations with the same
//! behaviour.
//!
//! A hub attaches channels and asks for ticks and reads; the broker answers through the hub's
//! inbox. HTTP handlers ask for history and readiness, and get the answer as a return value.

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
    /// Events stay within this process.
    Memory(Arc<MemoryBroker>),
    /// Redis, shared by all replicas.
    Redis(Arc<RedisBroker>),
}

impl Broker {
    /// How many partitions there are.
    pub fn partitions(&self) -> u16 {
        match self {
            Broker::Memory(_) => 1,
            Broker::Redis(broker) => broker.keys.partitions(),
        }
    }

    /// The number of a channel's partition.
    pub fn partition_of(&self, channel: &Channel) -> u16 {
        match self {
            Broker::Memory(_) => 0,
            Broker::Redis(broker) => broker.keys.partition(channel.as_str()),
        }
    }

    /// Adds a worker's inbox and returns the worker's number.
    pub fn register(&self, inbox: Arc<Inbox>) -> u16 {
        match self {
            Broker::Memory(broker) => broker.register(inbox),
            Broker::Redis(broker) => broker.register(inbox),
        }
    }

    /// Asks for a channel's events from now on. The broker answers with `ToHub::Attached`, or with
    /// `ToHub::Refused`.
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

    /// Asks for a tick of a partition that covers everything the worker asked for before. The
    /// broker answers with `ToHub::Tick`.
    pub fn want_tick(&self, worker: u16, partition: u16) {
        match self {
            Broker::Memory(broker) => broker.tick(Some(worker)),
            Broker::Redis(broker) => broker.want_tick(partition),
        }
    }

    /// Asks for history. The broker answers with `ToHub::Snapshot`; without Redis it keeps trying,
    /// so the answer may take long.
    pub fn read(&self, request: ReadRequest) {
        match self {
            Broker::Memory(broker) => broker.read(&request),
            Broker::Redis(broker) => broker.read(request),
        }
    }

    /// Reads one page of a channel's history above `after`. The error says why it cannot be read.
    pub async fn history(&self, channel: &Channel, after: EventId) -> Result<Snapshot, String> {
        match self {
            Broker::Memory(broker) => Ok(broker.history(channel, after)),
            Broker::Redis(broker) => broker.history(channel, after).await,
        }
    }

    /// What the broker is and where, for messages.
    pub fn place(&self) -> String {
        match self {
            Broker::Memory(_) => "the memory broker".to_owned(),
            Broker::Redis(broker) => broker.place(),
        }
    }

    /// Sends an event through the broker and waits until it comes back. The error says why it did
    /// not.
    pub async fn probe(&self) -> Result<(), String> {
        match self {
            Broker::Memory(_) => Ok(()),
            Broker::Redis(broker) => broker.probe().await,
        }
    }
}
