//! What a client asked for, and why a stream may be refused.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use sse_contract::{Channel, Cursor};
use tokio::sync::oneshot;

use crate::stream::join::Start;
use crate::stream::story::Story;

/// A client's validated request for a stream.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// At least one channel, none twice.
    pub channels: Arc<[Channel]>,
    /// Where the stream begins.
    pub begin: Begin,
    /// Whether the client takes `checkpoint` events.
    pub checkpoints: bool,
    /// Whether each event's first line of data is the name of its channel.
    pub annotate: bool,
    /// What is known of the client. `None` for most: neither expiry nor a revocation of a subject
    /// or token can end the stream, and the log does not tell of it.
    pub about: Option<Box<About>>,
    /// Who asked, for whoever lists the streams.
    pub peer: Option<Peer>,
}

/// Where a client wants its stream to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// At the next event published.
    Now,
    /// At the oldest event kept.
    Oldest,
    /// After this position.
    After(Cursor),
    /// The client named something that is no position. This is what it sent, shortened.
    Unknown(Box<str>),
}

impl Begin {
    /// Where the stream begins in one of `partitions` partitions.
    pub fn in_partition(&self, partition: u16, partitions: u16) -> Start {
        match self {
            Begin::Now => Start::Now,
            Begin::Oldest => Start::Oldest,
            // The epoch tells whether it is an id of this partition.
            Begin::After(Cursor::One(id)) => Start::After(*id),
            Begin::After(Cursor::Several(positions)) if positions.partitions() == partitions => {
                positions.of(partition).map_or(Start::Now, Start::After)
            }
            // Channels have moved to other partitions since.
            Begin::After(cursor) => Start::Unknown(cursor.to_string().chars().take(64).collect()),
            Begin::Unknown(text) => Start::Unknown(text.clone()),
        }
    }

    /// Whether the client has positions, but none in this partition: events there may be missing
    /// since it was let in.
    pub fn lacks(&self, partition: u16, partitions: u16) -> bool {
        match self {
            Begin::After(Cursor::Several(positions)) => {
                positions.partitions() == partitions && positions.of(partition).is_none()
            }
            _ => false,
        }
    }
}

/// Who opened a stream.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The client's address.
    pub client: IpAddr,
    /// The version of HTTP that it speaks with this gateway, or the proxy in front does.
    pub http: HttpVersion,
}

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0
    V10,
    /// HTTP/1.1
    V11,
    /// HTTP/2
    V2,
}

impl HttpVersion {
    /// The version's number.
    pub fn as_str(self) -> &'static str {
        match self {
            HttpVersion::V10 => "1.0",
            HttpVersion::V11 => "1.1",
            HttpVersion::V2 => "2",
        }
    }
}

/// What is known of a stream's client, and how long the stream may last.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The subject by which the stream can be revoked.
    pub subject: Option<Arc<str>>,
    /// The id of the token by which the stream can be revoked.
    pub token_id: Option<Arc<str>>,
    /// When the grant expires; `None` for never.
    pub until: Option<Instant>,
    /// What the log tells of the stream; `None` if nothing.
    pub story: Option<Story>,
}

impl About {
    /// Events and bytes written; `None` if they are not counted.
    pub(crate) fn written(&self) -> Option<(u64, u64)> {
        self.story.as_ref().map(Story::written)
    }

    /// Counts what was written.
    pub(crate) fn wrote(&mut self, events: u64, bytes: usize) {
        if let Some(story) = &mut self.story {
            story.wrote(events, bytes);
        }
    }
}

/// Why a stream cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The broker refuses a channel, permanently, for this reason.
    Denied(Channel, Arc<str>),
    /// The hub is ending its streams.
    Draining,
}

/// Tells the waiting handler that its client is let in, or refused.
pub type Waiter = oneshot::Sender<Result<(), Refusal>>;

/// What a stream gives back when it ends: dropping it takes the stream off its client's count.
pub type Held = Box<dyn Any>;
