//! Listening sockets. Their options are inherited by every accepted connection, at no cost for each.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::Config;
use crate::config::pem;

/// Bytes the kernel takes for a connection beyond what the network has accepted. A reader that stalls then
/// costs little memory, and what waits for it waits where it is shared.
const NOT_SENT_LOWAT: u32 = 32 * 1024;
/// Idle time after which the kernel asks whether a silent client is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Descriptors that are no connections of the public port: Redis, the admin port, logs.
const OTHER_DESCRIPTORS: u64 = 512;
/// Connections that are no streams need not grow with the streams.
const MOST_REQUESTS: u64 = 16 * 1024;

/// The public port's listener.
pub fn public(config: &Config) -> io::Result<TcpListener> {
    let socket = bound(config.server.listen)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    // Later than our own deadline, which ends a stream with a reason.
    socket.set_tcp_user_timeout(Some(config.stream.progress_deadline + KEEPALIVE))?;
    socket.set_tcp_notsent_lowat(NOT_SENT_LOWAT)?;
    listening(socket, config.server.backlog)
}

/// A listener without options of its own.
pub fn plain(addr: SocketAddr) -> io::Result<TcpListener> {
    listening(bound(addr)?, 128)
}

/// From where this machine itself reaches a port that is bound to this address.
fn local(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        let loopback: IpAddr = match addr {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        addr.set_ip(loopback);
    }
    addr
}

/// Asks a port of this machine's own for a path, over TLS if it speaks that; answers the whole answer, or why there is
/// none. `greeting` is what a connection from this address begins with.
pub async fn ask(
    addr: SocketAddr,
    tls: bool,
    path: &str,
    patience: Duration,
    greeting: impl FnOnce(IpAddr) -> &'static [u8],
) -> Result<String, String> {
    let addr = local(addr);
    let ask = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(greeting(stream.local_addr()?.ip())).await?;
        if tls {
            let config = pem::any_certificate();
            let name = ServerName::IpAddress(addr.ip().into());
            get(TlsConnector::from(config).connect(name, stream).await?, path).await
        } else {
            get(stream, path).await
        }
    };
    match tokio::time::timeout(patience, ask).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.") => Ok(answer),
        Ok(Ok(_)) => Err(format!("{addr} closes connections without an answer")),
        Ok(Err(error)) => Err(format!("{addr}: {error}")),
        Err(_) => Err(format!("{addr} does not answer within {patience:?}")),
    }
}

async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    stream.flush().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// What the process may have open at once, by use. What is left is for Redis, the admin port and log files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Streams.
    pub streams: u64,
    /// Other connections of the public port.
    pub requests: usize,
}

/// Raises the process's limit of descriptors as far as it may be raised, and divides it.
pub fn descriptor_room() -> Room {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused only where the limit could not be read either; the old one then stands.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    divided(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

fn divided(all: u64) -> Room {
    let others = OTHER_DESCRIPTORS.min(all / 4);
    let requests = (all / 8).min(MOST_REQUESTS);
    Room { streams: (all - others - requests).max(1), requests: requests as usize }
}

fn bound(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn listening(socket: Socket, backlog: i32) -> io::Result<TcpListener> {
    socket.listen(backlog)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_requests_leave_descriptors_for_everything_else() {
        assert_eq!(divided(20_000), Room { streams: 16_988, requests: 2_500 });
        assert_eq!(divided(700), Room { streams: 438, requests: 87 });
        for all in [16, 100, 1024, 1 << 20, u64::MAX] {
            let room = divided(all);
            assert!(
                room.streams + room.requests as u64 <= all - all.min(2048) / 4,
                "{all}: {room:?}"
            );
        }
    }
}
