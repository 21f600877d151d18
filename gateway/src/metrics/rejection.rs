//! Why a connection or a request was refused before a stream existed, as the metrics say it.

/// A reason to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The stream's query is wrong.
    Invalid,
    /// The gateway stops.
    Draining,
    /// `stream.max_streams` are open.
    Full,
    /// Redis refuses the channel.
    Denied,
    /// Nobody known asks: 401.
    Unauthenticated,
    /// The grant does not allow it: 403.
    Forbidden,
    /// Nobody can say at the moment whether it is allowed.
    AccessUnknown,
    /// The ticket is used up.
    TicketSpent,
    /// The subject or the token is revoked.
    Revoked,
    /// The bytes are no request of HTTP/1.1.
    Unreadable,
    /// The TLS handshake failed.
    Handshake,
    /// Newer connections need the place, or the client was too slow.
    Crowded,
    /// The address has too many connections.
    AddressConnections,
    /// The address opens connections too fast.
    AddressConnectionRate,
    /// Connections are opened too fast by all clients together.
    ConnectionRate,
    /// The address has too many streams.
    AddressStreams,
    /// The subject has too many streams.
    SubjectStreams,
    /// The subject has too many streams on all gateways together.
    ClusterStreams,
    /// The client publishes too fast.
    PublishRate,
    /// A trusted proxy did not send the header of `server.proxy_protocol`.
    ProxyHeader,
}

impl Rejection {
    /// Every reason.
    pub const ALL: [Rejection; 20] = [
        Rejection::Invalid,
        Rejection::Draining,
        Rejection::Full,
        Rejection::Denied,
        Rejection::Unauthenticated,
        Rejection::Forbidden,
        Rejection::AccessUnknown,
        Rejection::TicketSpent,
        Rejection::Revoked,
        Rejection::Unreadable,
        Rejection::Handshake,
        Rejection::Crowded,
        Rejection::AddressConnections,
        Rejection::AddressConnectionRate,
        Rejection::ConnectionRate,
        Rejection::AddressStreams,
        Rejection::SubjectStreams,
        Rejection::ClusterStreams,
        Rejection::PublishRate,
        Rejection::ProxyHeader,
    ];

    /// The label of `sse_rejected_requests_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Rejection::Invalid => "invalid",
            Rejection::Draining => "draining",
            Rejection::Full => "full",
            Rejection::Denied => "denied",
            Rejection::Unauthenticated => "unauthenticated",
            Rejection::Forbidden => "forbidden",
            Rejection::AccessUnknown => "access_unknown",
            Rejection::TicketSpent => "ticket_spent",
            Rejection::Revoked => "revoked",
            Rejection::Unreadable => "unreadable",
            Rejection::Handshake => "handshake",
            Rejection::Crowded => "crowded",
            Rejection::AddressConnections => "address_connections",
            Rejection::AddressConnectionRate => "address_connection_rate",
            Rejection::ConnectionRate => "connection_rate",
            Rejection::AddressStreams => "address_streams",
            Rejection::SubjectStreams => "subject_streams",
            Rejection::ClusterStreams => "cluster_streams",
            Rejection::PublishRate => "publish_rate",
            Rejection::ProxyHeader => "proxy_header",
        }
    }
}
