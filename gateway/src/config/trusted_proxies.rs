//! `server.trusted_proxies` and `server.forwarded_header`: which proxies may report their clients'
//! addresses, and in which header.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// `server.trusted_proxies`: networks of proxies that may report their clients' addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct TrustedProxies(Vec<IpNet>);

/// `server.forwarded_header`: the only header in which proxies may report addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ForwardedHeader {
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `X-Forwarded-For`.
    XForwardedFor,
}

impl TrustedProxies {
    /// Whether the address belongs to a trusted proxy.
    pub fn contain(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// Whether there are no trusted proxies.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<Vec<String>> for TrustedProxies {
    type Error = String;

    fn try_from(entries: Vec<String>) -> Result<Self, String> {
        let read = |entry: &String| {
            let net = entry.parse::<IpNet>().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
            let net = net.map_err(|_| {
                format!(
                    "{entry:?} is no network; write one such as 10.0.0.0/8 or fd00::/8, or a proxy's address"
                )
            })?;
            if net.prefix_len() == 0 {
                return Err(format!(
                    "{entry:?} is everybody: any client could then write itself another address; write the \
                     proxies' own networks"
                ));
            }
            Ok(net.trunc())
        };
        entries.iter().map(read).collect::<Result<_, _>>().map(TrustedProxies)
    }
}

impl TryFrom<String> for ForwardedHeader {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        match text.to_ascii_lowercase().as_str() {
            "forwarded" => Ok(ForwardedHeader::Forwarded),
            "x-forwarded-for" => Ok(ForwardedHeader::XForwardedFor),
            _ => Err("must be x-forwarded-for or forwarded"),
        }
    }
}
