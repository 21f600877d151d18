//! What a client asked for, and why a stream may be refused.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use sse_contract::Channel;
use tokio::sync::oneshot;

use crate::stream::join::Start;

/// A client's validated request for a stream.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// At least one channel, none twice.
    pub channels: Arc<[Channel]>,
    /// Where the stream begins.
    pub start: Start,
    /// Whether the client takes `checkpoint` events.
    pub checkpoints: bool,
    /// Who holds the stream. `None` if neither expiry nor a revocation of a subject or token can
    /// end it.
    pub bearer: Option<Box<Bearer>>,
}

/// The holder of a stream, and how long the stream may last.
#[derive(Debug, Clone)]
pub struct Bearer {
    /// The subject by which the stream can be revoked.
    pub subject: Option<Arc<str>>,
    /// The id of the token by which the stream can be revoked.
    pub token_id: Option<Arc<str>>,
    /// When the grant expires; `None` for never.
    pub until: Option<Instant>,
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
