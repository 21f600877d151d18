//! Reasons to refuse a request.

use std::borrow::Cow;

use crate::access::asker::NotUtf8;
use crate::access::tickets::Away;

/// Refused for good, or until the client sends other credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Denied {
    /// The kind of refusal.
    pub why: Why,
    /// The explanation that the client is sent.
    pub detail: String,
    /// The header or parameter at fault.
    pub field: Option<Cow<'static, str>>,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No credentials were sent, and anonymous access does not suffice.
    Unauthenticated,
    /// The credentials are malformed, unknown or expired.
    InvalidCredentials,
    /// A header occurs twice or is not ASCII, or a cookie has two values.
    Ambiguous,
    /// A query parameter is not UTF-8.
    InvalidParameter,
    /// The credentials do not allow subscribing to this channel.
    MayNotSubscribe,
    /// The credentials do not allow publishing to this channel.
    MayNotPublish,
    /// A page of another site sent the cookie.
    ForeignOrigin,
    /// A ticket was requested although access control is off.
    NoTickets,
}

/// How a request is refused.
#[derive(Debug)]
pub enum Refused {
    /// For good, or until the client sends other credentials.
    Denied(Denied),
    /// The gateway cannot decide now, through no fault of the client, which should come back. Holds
    /// an explanation.
    ComeBack(String),
    /// The client should not reconnect by itself: its ticket is spent, or its access was revoked.
    Over(Over),
}

/// Why a client should not reconnect by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Its ticket is used up.
    TicketSpent,
    /// Its subject or its token is revoked.
    Revoked,
}

impl Denied {
    /// A refusal with this explanation and no field at fault.
    pub fn new(why: Why, detail: impl Into<String>) -> Self {
        Denied { why, detail: detail.into(), field: None }
    }

    /// Names the header or parameter at fault.
    pub fn field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }
}

impl From<NotUtf8> for Denied {
    fn from(error: NotUtf8) -> Self {
        Denied::new(Why::InvalidParameter, error.to_string()).field(error.0)
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        Refused::Denied(denied)
    }
}

impl From<Away> for Refused {
    fn from(away: Away) -> Self {
        Refused::ComeBack(away.0)
    }
}
