//! Client addresses in `Forwarded`, `X-Forwarded-For` and the PROXY protocol. A client cannot
//! choose its own address, whatever it sends: only what a trusted proxy appends counts.
//!
//! Input: the header as the client sent it, 0xFF, the first bytes of a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use sse_gateway::Config;
use sse_gateway::access::client::ClientAddr;
use sse_gateway::config::ServerConfig;
use sse_gateway::http::client_addr;
use sse_gateway::http::proxy_protocol;

use crate::parts;

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The bytes before the addresses: signature, version and command, family, and length.
const FIXED: usize = 16;

/// Reads the header and the first bytes of a connection.
pub fn run(data: &[u8]) {
    let [written, connection] = parts(data);
    for (server, name, client) in [
        (&servers()[0], "x-forwarded-for", CLIENT.to_string()),
        (&servers()[1], "forwarded", format!("for={CLIENT}")),
    ] {
        header(server, name, written, &client);
    }
    first_bytes(connection);
}

fn servers() -> &'static [ServerConfig; 2] {
    static SERVERS: OnceLock<[ServerConfig; 2]> = OnceLock::new();
    SERVERS.get_or_init(|| {
        ["x-forwarded-for", "forwarded"].map(|header| {
            let pairs = [
                ("server.trusted_proxies", "10.0.0.0/8"),
                ("server.forwarded_header", header),
                ("server.proxy_protocol", "true"),
            ];
            let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
            Config::load(None, std::iter::empty(), &pairs).expect("a configuration").server
        })
    })
}

/// `entry` is the entry that a trusted proxy appends for `CLIENT`.
fn header(server: &ServerConfig, name: &'static str, written: &[u8], entry: &str) {
    let of = |peer: IpAddr, lines: &[&[u8]]| {
        let mut headers = HeaderMap::new();
        for line in lines {
            let Ok(value) = HeaderValue::from_bytes(line) else { return None };
            headers.append(HeaderName::from_static(name), value);
        }
        let connection = ClientAddr::of_peer(peer, &server.trusted_proxies);
        Some(client_addr::of_request(connection, &headers, server))
    };
    // A header from a peer that is no trusted proxy is ignored.
    let stranger = of(STRANGER, &[written]);
    assert!(stranger.is_none_or(|client| client.ip == STRANGER && client.limited));
    // The address that the proxy appends counts: in the same line, in a line of its own, and with
    // another trusted proxy behind it.
    let appended = [written, b", ", entry.as_bytes()].concat();
    let twice =
        [&appended[..], b", ", entry.replace(&CLIENT.to_string(), "10.9.9.9").as_bytes()].concat();
    for lines in [&[&appended[..]][..], &[written, entry.as_bytes()], &[&twice], &[written, &twice]]
    {
        let client = of(PROXY, lines);
        assert!(client.is_none_or(|client| client.ip == CLIENT && client.limited), "{client:?}");
    }
    // Without an appended entry, the header is the proxy's own. The result is an address in it, or
    // the proxy.
    if let Some(client) = of(PROXY, &[written]) {
        assert!(client.ip == PROXY || client.limited, "{client:?}");
    }
}

fn first_bytes(connection: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    let of = |peer: IpAddr| {
        let mut rest = connection;
        let client = RUNTIME.with(|runtime| {
            runtime.block_on(proxy_protocol::client(&mut rest, peer, &servers()[0]))
        });
        (client.ok(), rest)
    };
    // A peer that is no trusted proxy is its own client, and no byte of the connection is consumed.
    let (client, rest) = of(STRANGER);
    assert!(client.is_some_and(|client| client.ip == STRANGER) && rest == connection);

    let (client, rest) = of(PROXY);
    let Some(client) = client else { return };
    assert!(connection.starts_with(SIGNATURE), "it is required");
    let length = usize::from(u16::from_be_bytes([connection[14], connection[15]]));
    assert_eq!(rest, &connection[FIXED + length..], "not a byte beyond it is taken");
    let (command, family) = (connection[12], connection[13]);
    let addresses = &connection[FIXED..FIXED + length];
    let source = match (command, family >> 4) {
        (0x21, 1) => addresses.first_chunk::<4>().map(|ip| IpAddr::from(Ipv4Addr::from(*ip))),
        (0x21, 2) => addresses.first_chunk::<16>().map(|ip| IpAddr::from(Ipv6Addr::from(*ip))),
        (0x20 | 0x21, _) => None,
        other => panic!("{other:?} is no header of version 2"),
    };
    let told = source.is_some_and(|source| source.to_canonical() == client.ip && client.limited);
    let own = client.ip == PROXY && !client.limited;
    assert!(told || own, "{client:?} of {source:?}");
    // Proxies announce clients as TCP over IPv4 or IPv6; those addresses must be used.
    assert!(told || !matches!((command, family), (0x21, 0x11 | 0x21)), "{client:?} of {source:?}");
}
