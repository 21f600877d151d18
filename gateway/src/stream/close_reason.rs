//! Why a stream ended.

/// Why a stream ended: the label in the metrics and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed it.
    Gone,
    /// Writing failed.
    Failed,
    /// The client accepted no byte for the progress deadline.
    Stalled,
    /// The gateway is stopping; the client should come back.
    Drain,
    /// The reader was too slow, and its channels' policy is to close.
    Slow,
    /// The broker refuses one of its channels.
    Refused,
    /// What its bearer was granted is over; the client should come back with something new.
    Expired,
    /// An operator ended it.
    Revoked,
}

impl CloseReason {
    /// All there are.
    pub const ALL: [CloseReason; 8] = [
        CloseReason::Gone,
        CloseReason::Failed,
        CloseReason::Stalled,
        CloseReason::Drain,
        CloseReason::Slow,
        CloseReason::Refused,
        CloseReason::Expired,
        CloseReason::Revoked,
    ];

    /// The word in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::Gone => "gone",
            CloseReason::Failed => "failed",
            CloseReason::Stalled => "stalled",
            CloseReason::Drain => "drain",
            CloseReason::Slow => "slow",
            CloseReason::Refused => "refused",
            CloseReason::Expired => "expired",
            CloseReason::Revoked => "revoked",
        }
    }
}
