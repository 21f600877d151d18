//! Why there is no connection to publish on.

use redis::{ErrorKind, RedisError};
use sse_contract::{Meaning, is_passing};

use crate::attempt::{Answer, Reason};
use crate::plain::without_number;
use crate::redis_reply;

/// Why no session could be opened.
#[derive(Debug, Clone)]
pub(crate) enum NoSession {
    /// Another attempt may succeed.
    Passing(Reason),
    /// Another attempt would fail too.
    Final(Reason),
}

impl NoSession {
    /// For this reason, and whether another attempt would fail too.
    pub(crate) fn new(is_final: bool, text: impl Into<String>) -> Self {
        let reason = Reason::new(text);
        if is_final { NoSession::Final(reason) } else { NoSession::Passing(reason) }
    }

    /// Whether another attempt would fail too.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, NoSession::Final(_))
    }

    /// The reason.
    pub(crate) fn reason(&self) -> &Reason {
        match self {
            NoSession::Passing(reason) | NoSession::Final(reason) => reason,
        }
    }

    /// The reason's text.
    pub(crate) fn text(&self) -> &str {
        &self.reason().text
    }

    /// The answer to an event for which there is no connection.
    pub(crate) fn answer(&self) -> Answer {
        match self {
            NoSession::Passing(reason) => {
                Answer::Again { reason: reason.clone(), perhaps_published: false }
            }
            NoSession::Final(reason) => Answer::Refused(reason.clone()),
        }
    }

    /// The same, with the name of the server that it is about.
    pub(crate) fn of(mut self, server: &str) -> Self {
        let (NoSession::Passing(reason) | NoSession::Final(reason)) = &mut self;
        reason.text = format!("{server}: {}", reason.text);
        self
    }
}

impl From<RedisError> for NoSession {
    fn from(error: RedisError) -> Self {
        let passing = match error.code() {
            Some(code) => is_passing(code),
            None => error.is_io_error(),
        };
        match passing {
            true => NoSession::Passing(Reason::new(describe(&error))),
            false => NoSession::Final(Reason::new(format!("Redis refuses: {}", describe(&error)))),
        }
    }
}

/// An error's text for people.
pub(crate) fn describe(error: &RedisError) -> String {
    match error.kind() {
        ErrorKind::Io => without_number(&error.to_string()),
        _ => redis_reply::reason(error).text,
    }
}

/// Whether a node of a Redis Cluster answered that it does not serve the keys now.
pub(crate) fn is_elsewhere(error: &RedisError) -> bool {
    redis_reply::call_meaning(error) == Meaning::Elsewhere
}
