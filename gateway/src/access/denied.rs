//! Why somebody is not let in.

use std::borrow::Cow;

use crate::access::asker::NotUtf8;
use crate::access::tickets::Away;

/// Not let in, for good or until the client shows something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Denied {
    /// What kind of refusal this is.
    pub why: Why,
    /// What is wrong, for the client to read.
    pub detail: String,
    /// The header or parameter at fault.
    pub field: Option<Cow<'static, str>>,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nobody said who sends it, and nobody in particular may do it.
    Unauthenticated,
    /// What was shown is of no use.
    InvalidCredentials,
    /// What was shown can be read in two ways.
    Ambiguous,
    /// The query cannot be read.
    InvalidParameter,
    /// It was shown who sends it, who may not listen to this.
    MayNotSubscribe,
    /// It was shown who sends it, who may not publish this.
    MayNotPublish,
    /// The cookie comes from a page of another site.
    ForeignOrigin,
    /// There is no access control, hence there are no tickets.
    NoTickets,
}

/// Why a request is refused.
#[derive(Debug)]
pub enum Refused {
    /// For good, or until the client shows something else.
    Denied(Denied),
    /// It cannot be said now, by our own trouble: the client should come back.
    ComeBack(&'static str, String),
    /// The client should not come back by itself: its ticket is used up, or its access was revoked.
    Over(&'static str),
}

impl Denied {
    /// With these words.
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
        Refused::ComeBack("access_unknown", away.0)
    }
}
