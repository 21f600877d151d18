//! The result of one attempt to publish some events, in the same terms for HTTP and Redis.

use std::future::Future;
use std::time::Duration;

use crate::item::Event;

/// Why an event was not published, or why that is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The type of the problem, if the server named one.
    pub kind: Option<String>,
    /// A text for people.
    pub text: String,
}

impl Reason {
    /// A reason without a type.
    pub fn new(text: impl Into<String>) -> Self {
        Reason { kind: None, text: text.into() }
    }
}

/// The result of one attempt for one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The event was published with this id.
    Published(String),
    /// The event was refused, and another attempt would be refused too.
    Refused(Reason),
    /// It is unknown whether the event was published, and another attempt would not clarify it.
    Unknown(Reason),
    /// Another attempt may succeed.
    Again {
        /// Why this attempt did not succeed.
        reason: Reason,
        /// Whether the event may have been published nevertheless.
        perhaps_published: bool,
    },
}

/// The result of one attempt for all its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// One answer for each event sent, in order.
    pub answers: Vec<Answer>,
    /// How long the server asks to wait before the next attempt.
    pub retry_after: Option<Duration>,
    /// Whether a usable connection was made.
    pub connected: bool,
    /// The server refused the request for its size. Fewer events per request may pass.
    pub too_large: bool,
    /// Every further attempt would fail in the same way, for example because of a wrong URL or a
    /// refused token.
    pub stop: bool,
}

impl Attempt {
    /// An attempt with the same answer for all events.
    pub fn alike(events: usize, answer: Answer) -> Self {
        Attempt::of(vec![answer; events])
    }

    /// An attempt with these answers.
    pub fn of(answers: Vec<Answer>) -> Self {
        Attempt { answers, retry_after: None, connected: true, too_large: false, stop: false }
    }
}

/// A server that events are published to.
pub trait Target {
    /// Its address without any credential, for messages.
    fn place(&self) -> String;

    /// Makes one attempt to publish these events, in order. Every event has an idempotency key, so
    /// it may be sent again after any answer.
    fn send(&mut self, events: &[&Event]) -> impl Future<Output = Attempt>;
}
