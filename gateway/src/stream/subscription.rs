//! What a client asked for, and why a stream may be refused.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use sse_contract::Channel;
use tokio::sync::oneshot;

use crate::stream::join::Start;
use crate::stream::story::Story;

/// A client's validated request for a stream.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// At least one channel, none twice.
    pub channels: Arc<[Channel]>,
    /// Where the stream begins.
    pub start: Start,
    /// Whether the client takes `checkpoint` events.
    pub checkpoints: bool,
    /// Whether each event's first line of data is the name of its channel.
    pub annotate: bool,
    /// What is known of the client. `None` for most: neither expiry nor a revocation of a subject
    /// or token can end the stream, and the log does not tell of it.
    pub about: Option<Box<About>>,
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
