//! The PROXY protocol, version 2: the first bytes of a connection, in which a trusted proxy names
//! the client's address.
//!
//! The header is read before anything else, TLS included, within bounds of time and size, and not a
//! byte is read beyond it. Trusted proxies must send it: otherwise a client that reaches the port
//! through a proxy would be taken for the proxy. From other peers it is not accepted; its bytes
//! then fail as an invalid request.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::access::client::ClientAddr;
use crate::config::ServerConfig;

/// Bytes of the fixed part: signature, version and command, family, length.
const FIXED: usize = 16;
/// The most bytes behind the fixed part: addresses, and extensions such as names and a
/// certificate's subject. A whole certificate does not fit.
const LONGEST: usize = 4096;

/// The header of a proxy's own connection, such as a health check (command `LOCAL`).
pub const LOCAL: [u8; FIXED] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The client's address of a connection from `peer`. Reads the header if one is expected; a missing
/// or invalid one is an error, as is one that takes longer than `server.head_timeout`.
pub async fn client(
    stream: &mut (impl AsyncRead + Unpin),
    peer: IpAddr,
    server: &ServerConfig,
) -> io::Result<ClientAddr> {
    let own = ClientAddr::of_peer(peer, &server.trusted_proxies);
    if !expected(own.ip, server) {
        return Ok(own);
    }
    let told = told(stream, server.head_timeout).await?;
    Ok(told.map_or(own, ClientAddr::told))
}

/// Whether connections from `peer` must begin with a PROXY header.
pub fn expected(peer: IpAddr, server: &ServerConfig) -> bool {
    server.proxy_protocol && server.trusted_proxies.contain(peer.to_canonical())
}

/// Reads the header. Returns no address for the proxy's own connections.
async fn told(
    stream: &mut (impl AsyncRead + Unpin),
    patience: Duration,
) -> io::Result<Option<IpAddr>> {
    let read = async {
        let mut header = vec![0; FIXED];
        stream.read_exact(&mut header).await?;
        let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
        // Checked before the rest is read: other bytes in the place of a header would give a random
        // length to wait for.
        if !header.starts_with(&LOCAL[..12]) || rest > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        header.resize(FIXED + rest, 0);
        stream.read_exact(&mut header[FIXED..]).await?;
        let config = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };
        let parsed = ProxyHeader::parse(&header, config);
        let (header, _) = parsed.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(header.proxied_address().map(|told| told.source.ip()))
    };
    timeout(patience, read).await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use proptest::prelude::*;

    fn server() -> ServerConfig {
        let pairs = [
            ("server.trusted_proxies", "10.0.0.0/8"),
            ("server.proxy_protocol", "true"),
            ("server.head_timeout", "60s"),
        ];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Config::load(None, std::iter::empty(), &pairs).unwrap().server
    }

    /// The address found for a connection that begins with these bytes, and the unread rest.
    async fn read(peer: &str, bytes: &[u8]) -> (Option<(String, bool)>, Vec<u8>) {
        let mut rest = bytes;
        let client = client(&mut rest, peer.parse().unwrap(), &server()).await;
        (client.ok().map(|client| (client.ip.to_string(), client.limited)), rest.to_vec())
    }

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [&LOCAL[..12], &[command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 2, 0x12, 0x34, 0, 80];

    #[actix_web::test]
    async fn a_trusted_proxy_tells_whose_a_connection_is() {
        let with_more = [&V4[..], &[4, 0, 2, 0, 0]].concat();
        let v6 = [&[0x20, 1, 0x48, 0x60], &[0; 12][..], &[0; 16], &[0, 1, 0, 2]].concat();
        for (bytes, ip, limited) in [
            (header(0x21, 0x11, &V4), "203.0.113.9", true),
            (header(0x21, 0x11, &with_more), "203.0.113.9", true),
            (header(0x21, 0x21, &v6), "2001:4860::", true),
            (header(0x21, 0, &[]), "10.0.0.1", false),
            (header(0x21, 0x31, &[0; 216]), "10.0.0.1", false),
            (header(0x20, 0x11, &V4), "10.0.0.1", false),
            (LOCAL.to_vec(), "10.0.0.1", false),
        ] {
            let sent = [&bytes[..], b"GET / HTTP/1.1"].concat();
            let (client, rest) = read("10.0.0.1", &sent).await;
            assert_eq!(client, Some((ip.to_owned(), limited)), "{bytes:x?}");
            assert_eq!(rest, b"GET / HTTP/1.1");
        }
    }

    #[actix_web::test]
    async fn a_trusted_proxy_without_the_header_is_nobody() {
        let v1 = b"PROXY TCP4 203.0.113.9 10.0.0.2 4660 80\r\nGET / HTTP/1.1\r\n\r\n";
        let mut signature = header(0x21, 0x11, &V4);
        signature[3] = b'x';
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            v1,
            &signature,
            &header(0x21, 0x11, &V4[..11]),
            &header(0x22, 0x11, &V4),
            &header(0x11, 0x11, &V4),
            &header(0x21, 0x41, &V4),
            &header(0x21, 0x11, &[0; LONGEST + 1]),
            &header(0x21, 0x11, &V4)[..27],
            &LOCAL[..15],
            b"",
        ] {
            assert_eq!(read("10.0.0.1", bytes).await.0, None, "{bytes:x?}");
        }
    }

    #[actix_web::test]
    async fn nothing_is_read_of_anybody_else() {
        let sent = header(0x21, 0x11, &V4);
        let (client, rest) = read("198.51.100.7", &sent).await;
        assert_eq!(client, Some(("198.51.100.7".to_owned(), true)));
        assert_eq!(rest, sent);
    }

    proptest! {
        #[test]
        fn no_bytes_stop_it(bytes in proptest::collection::vec(any::<u8>(), 0..60), at in 0usize..30, cut in 0usize..40) {
            let mut sent = header(0x21, 0x21, &[7; 36]);
            sent.truncate(52 - cut);
            sent.splice(at.min(sent.len()).., bytes);
            let runtime = actix_rt::Runtime::new().unwrap();
            let (client, rest) = runtime.block_on(read("10.0.0.1", &sent));
            prop_assert!(client.is_none() || rest.len() < sent.len());
        }
    }
}
