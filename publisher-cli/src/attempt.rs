//! What one attempt to publish a few events told, in terms that HTTP and Redis share.

use std::future::Future;
use std::time::Duration;

use crate::item::Event;

/// Why an event is not published, or may not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The problem's type, where the other side named one.
    pub kind: Option<String>,
    /// For people.
    pub text: String,
}

impl Reason {
    /// A reason found on this side, or one without a type.
    pub fn new(text: impl Into<String>) -> Self {
        Reason { kind: None, text: text.into() }
    }
}

/// What became of one event in one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It has this id.
    Published(String),
    /// It was refused, and would be again.
    Refused(Reason),
    /// Nobody can say, and another attempt would not tell.
    Unknown(Reason),
    /// Another attempt may succeed.
    Again {
        /// Why this one did not.
        reason: Reason,
        /// Whether the event may have been published all the same.
        perhaps_published: bool,
    },
}

/// What became of all events of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// One for each event sent, in order.
    pub answers: Vec<Answer>,
    /// How long the other side asks to be left alone.
    pub retry_after: Option<Duration>,
    /// Whether a connection was made and could be used.
    pub connected: bool,
    /// The request was too large as a whole: fewer events at a time may pass.
    pub too_large: bool,
    /// Whatever is sent next would fare alike (a wrong URL, a refused token).
    pub stop: bool,
}

impl Attempt {
    /// Every event has the same answer.
    pub fn alike(events: usize, answer: Answer) -> Self {
        Attempt::of(vec![answer; events])
    }

    /// Each event has its own answer.
    pub fn of(answers: Vec<Answer>) -> Self {
        Attempt { answers, retry_after: None, connected: true, too_large: false, stop: false }
    }
}

/// What events are published to.
pub trait Target {
    /// Makes one attempt at these events, in order. Every event carries an idempotency key, so that an
    /// event may be sent again after any answer.
    fn send(&mut self, events: &[&Event]) -> impl Future<Output = Attempt>;
}
