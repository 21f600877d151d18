//! Whose a connection or a request is, and whether what it may have is limited.

use std::fmt;
use std::net::IpAddr;

use crate::config::trusted_proxies::TrustedProxies;

/// A client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddr {
    /// The address; an IPv4 one is never written as IPv6.
    pub ip: IpAddr,
    /// Whether what this address may have is limited. A peer of this machine or of a private network is a proxy or the
    /// operator's own, and so is a trusted proxy; what a trusted proxy tells is always a client.
    pub limited: bool,
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)
    }
}

impl ClientAddr {
    /// Whoever opened the connection.
    pub fn of_peer(peer: IpAddr, trusted: &TrustedProxies) -> Self {
        let ip = peer.to_canonical();
        ClientAddr { ip, limited: !is_own(ip) && !trusted.contain(ip) }
    }

    /// A client that a trusted proxy names.
    pub fn told(ip: IpAddr) -> Self {
        ClientAddr { ip: ip.to_canonical(), limited: true }
    }
}

/// An address that cannot be anybody's on the internet: this machine's, or of a private network.
fn is_own(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
