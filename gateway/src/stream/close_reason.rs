//! Why a stream ended.

/// Why a stream ended, as the metrics and the log label it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed the connection.
    Gone,
    /// Writing to the client failed.
    Failed,
    /// The client accepted no byte within the progress deadline.
    Stalled,
    /// The gateway is stopping. The client should reconnect.
    Drain,
    /// The reader was too slow, and the policy of one of its channels is to close.
    Slow,
    /// The broker refuses one of the stream's channels.
    Refused,
    /// The bearer's grant expired. The client should reconnect with a new one.
    Expired,
    /// An operator ended the stream.
    Revoked,
    /// The stream was as old as a stream may be. The client should reconnect.
    Aged,
}

impl CloseReason {
    /// Every reason, in declaration order.
    pub const ALL: [CloseReason; 9] = [
        CloseReason::Gone,
        CloseReason::Failed,
        CloseReason::Stalled,
        CloseReason::Drain,
        CloseReason::Slow,
        CloseReason::Refused,
        CloseReason::Expired,
        CloseReason::Revoked,
        CloseReason::Aged,
    ];

    /// The reason's name in metrics and logs.
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
            CloseReason::Aged => "aged",
        }
    }
}
