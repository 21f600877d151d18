//! The address of a client, and whether limits apply to it.

use std::fmt;
use std::net::IpAddr;

use crate::config::trusted_proxies::TrustedProxies;

/// A client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddr {
    /// The address. IPv4-mapped IPv6 addresses are converted to IPv4.
    pub ip: IpAddr,
    /// Whether limits per address apply. They do not apply to peers on loopback or in a private
    /// network, nor to trusted proxies: those are proxies or the operator's own machines. They
    /// always apply to an address that a trusted proxy reports.
    pub limited: bool,
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)
    }
}

impl ClientAddr {
    /// The peer of a connection.
    pub fn of_peer(peer: IpAddr, trusted: &TrustedProxies) -> Self {
        let ip = peer.to_canonical();
        ClientAddr { ip, limited: !is_own(ip) && !trusted.contain(ip) }
    }

    /// A client whose address a trusted proxy reports.
    pub fn told(ip: IpAddr) -> Self {
        ClientAddr { ip: ip.to_canonical(), limited: true }
    }
}

/// Whether the address is loopback, private or link-local, and so cannot come from the internet.
fn is_own(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
