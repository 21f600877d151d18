//! What a stream's client is told is missing.

use std::fmt;

use sse_contract::{Channel, EventId};

/// Events that may be missing. A fact: the stream renders it as a `gap` event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The stream's position in the partition, at which the client continues after the gap.
    pub position: EventId,
    /// The channel with missing events; `None` for all channels of the stream.
    pub channel: Option<Channel>,
    /// Why they are missing.
    pub reason: GapReason,
    /// Where the missing events begin.
    pub after: After,
    /// The oldest event kept above the missing ones, if there is one.
    pub oldest: Option<EventId>,
}

/// Where missing events begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// After this position.
    Position(EventId),
    /// After what the client sent instead of a position, shortened.
    Text(Box<str>),
    /// Where the client was let in.
    Open,
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            After::Position(position) => position.fmt(f),
            After::Text(text) => f.write_str(text),
            After::Open => Ok(()),
        }
    }
}

/// Why events after a position may be missing (the `reason` of a `gap` event).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// The history was cut to its length limit, or cannot be read.
    Trimmed,
    /// The events are older than the history's retention time.
    Expired,
    /// The position is of another epoch: Redis may have lost acknowledged writes.
    Reset,
    /// The position was not issued by this system.
    UnknownId,
    /// History is switched off.
    NoHistory,
    /// The client was let in before the stream had a position, because the broker did not answer in
    /// time.
    Late,
    /// A slow reader was sent only the channel's newest event, as configured.
    Conflated,
}

impl GapReason {
    /// Every reason, in declaration order.
    pub const ALL: [GapReason; 7] = [
        GapReason::Trimmed,
        GapReason::Expired,
        GapReason::Reset,
        GapReason::UnknownId,
        GapReason::NoHistory,
        GapReason::Late,
        GapReason::Conflated,
    ];

    /// The reason's name on the wire and in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            GapReason::Trimmed => "trimmed",
            GapReason::Expired => "expired",
            GapReason::Reset => "reset",
            GapReason::UnknownId => "unknown_id",
            GapReason::NoHistory => "no_history",
            GapReason::Late => "late",
            GapReason::Conflated => "conflated",
        }
    }
}
