//! The target of `bench`: the URL of any server, and the server's addresses. Also checks that this
//! machine has enough descriptors and ports for the connections.

use std::fs;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::address::BaseUrl;

/// Descriptors other than the streams' ones: standard streams, epoll, publishers, name resolution.
const OTHER_DESCRIPTORS: u64 = 64;
/// Up to this many connections to a loopback server use one source address, as those of any client.
const FROM_ONE_ADDRESS: usize = 20_000;
/// Local ports that Linux offers by default towards one address and port of a server.
const USUAL_PORTS: usize = 28_232;
const PROBE: Duration = Duration::from_secs(5);

/// A URL to load; `{n}` after the host stands for the connection's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchUrl {
    /// The scheme, host, and port.
    pub origin: BaseUrl,
    /// The path and query.
    pub target: String,
}

impl FromStr for BenchUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let start = text.find("://").map_or(0, |at| at + 3);
        let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |at| start + at);
        let (origin, rest) = text.split_at(end);
        let rest = rest.split('#').next().unwrap_or_default();
        let target = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
        let plain = target.replace("{n}", "0");
        if plain.parse::<hyper::Uri>().is_err() || plain.contains(['{', '}']) {
            return Err(format!("{text:?} is not a URL; only {{n}} stands for something"));
        }
        Ok(BenchUrl { origin: origin.parse()?, target })
    }
}

/// The server's addresses that accept connections, and a note on each address that does not. A
/// single address is not tried.
pub async fn resolve(origin: &BaseUrl) -> Result<(Vec<SocketAddr>, Vec<String>), String> {
    let host = origin.host();
    let found = lookup_host((host, origin.port())).await;
    let mut addresses = Vec::new();
    for address in found.map_err(|error| format!("{host}: {error}"))? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.len() < 2 {
        return Ok((addresses, Vec::new()));
    }
    // `localhost` often has two addresses, and the server listens on only one of them.
    let (mut usable, mut notes) = (Vec::new(), Vec::new());
    for address in addresses {
        match timeout(PROBE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => usable.push(address),
            Ok(Err(error)) => notes.push(format!("{address} is left out: {error}")),
            Err(_) => notes.push(format!("{address} is left out: nothing within 5 s")),
        }
    }
    if usable.is_empty() {
        Err(format!("{host}: {}", notes.join("; ")))
    } else {
        Ok((usable, notes))
    }
}

/// Raises the soft limit of descriptors to the hard limit. The error says how many are missing.
pub fn allow_descriptors(connections: usize) -> Result<(), String> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If the limit cannot be raised, the old one is checked below.
    setrlimit(Resource::Nofile, limit).ok();
    let have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let need = connections as u64 + OTHER_DESCRIPTORS;
    if need <= have {
        return Ok(());
    }
    Err(format!(
        "{connections} connections need {need} descriptors, this process may have {have}: \
         raise ulimit -n"
    ))
}

/// How many source addresses to use; 0 leaves the choice to the kernel. Fails if there are too few
/// ports.
pub fn sources(addresses: &[SocketAddr], connections: usize) -> Result<u8, String> {
    if addresses.iter().all(|address| address.is_ipv4() && address.ip().is_loopback()) {
        let few = connections <= FROM_ONE_ADDRESS;
        return Ok(if few { 0 } else { (connections / 10_000).clamp(8, 250) as u8 });
    }
    let ports = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let ports = ports.ok().and_then(|text| port_count(&text)).unwrap_or(USUAL_PORTS);
    let most = ports * addresses.len();
    if connections <= most {
        return Ok(0);
    }
    Err(format!(
        "{connections} connections from one address of this machine: it has {ports} ports towards each of \
         the server's addresses ({}); use more machines, or widen net.ipv4.ip_local_port_range",
        addresses.len()
    ))
}

fn port_count(range: &str) -> Option<usize> {
    let mut ends = range.split_whitespace().map(str::parse::<usize>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_origin_and_a_target_with_a_number() {
        for (text, origin, target) in [
            ("http://a:81/events?channel=x-{n}#y", "http://a:81", "/events?channel=x-{n}"),
            ("https://a?b=c", "https://a", "/?b=c"),
            ("http://[::1]", "http://[::1]", "/"),
        ] {
            let url: BenchUrl = text.parse().unwrap();
            assert_eq!((url.origin.to_string().as_str(), url.target.as_str()), (origin, target));
        }
        for bad in ["a:80/x", "http://u:p@a/", "http://h{n}/", "http://a/{m}", "http://a/b c", ""] {
            assert!(bad.parse::<BenchUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_has_addresses_enough_and_others_are_told() {
        let loopback = [SocketAddr::from(([127, 0, 0, 1], 80))];
        assert_eq!(sources(&loopback, 1000), Ok(0));
        assert_eq!(sources(&loopback, 50_000), Ok(8));
        assert_eq!(sources(&loopback, 200_000), Ok(20));
        let remote = [SocketAddr::from(([192, 0, 2, 1], 80))];
        assert_eq!(sources(&remote, 1000), Ok(0));
        assert!(sources(&remote, 70_000).is_err());
        assert_eq!(port_count("32768\t60999\n"), Some(USUAL_PORTS));
    }
}
