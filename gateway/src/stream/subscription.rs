//! What a client asked for, and what becomes of its asking.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use sse_contract::Channel;
use tokio::sync::oneshot;

use crate::stream::join::Start;

/// What a client asked for, checked.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// At least one, none twice.
    pub channels: Arc<[Channel]>,
    /// Where it begins.
    pub start: Start,
    /// Whether the client takes `checkpoint` events.
    pub checkpoints: bool,
    /// Who listens, if that can end the stream.
    pub bearer: Option<Box<Bearer>>,
}

/// Whose stream it is, and until when.
#[derive(Debug, Clone)]
pub struct Bearer {
    /// The subject that it can be revoked by.
    pub subject: Option<Arc<str>>,
    /// The token that it can be revoked by.
    pub token_id: Option<Arc<str>>,
    /// When the grant is over; never, if none.
    pub until: Option<Instant>,
}

/// Why a stream cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The broker refuses a channel, for ever; its words.
    Denied(Channel, Arc<str>),
    /// The hub ends its streams.
    Draining,
}

/// Who waits to be let in.
pub(crate) type Waiter = oneshot::Sender<Result<(), Refusal>>;

/// What a stream gives back when it ends, by dropping it: what counts it among its client's.
pub type Held = Box<dyn Any>;
