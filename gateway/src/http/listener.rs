//! Listening sockets. Every accepted connection inherits their options, so no connection needs a
//! system call to set them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::Config;
use crate::config::pem;

/// Bytes that the kernel buffers for a connection and has not sent yet (`TCP_NOTSENT_LOWAT`). A
/// stalled reader then costs little kernel memory, and the rest waits in the process, where
/// subscribers share it.
const NOT_SENT_LOWAT: u32 = 32 * 1024;
/// Idle time after which the kernel probes whether a silent client still exists.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Descriptors kept for other uses than the public port: Redis, the admin port, logs.
const OTHER_DESCRIPTORS: u64 = 512;
/// The most connections without a stream; their number need not grow with that of the streams.
const MOST_REQUESTS: u64 = 16 * 1024;

/// Binds the public port, with the socket options that its connections inherit.
pub fn public(config: &Config) -> io::Result<TcpListener> {
    let socket = bound(config.server.listen)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    // Longer than the progress deadline: the gateway's own close has a reason, the kernel's has
    // none.
    socket.set_tcp_user_timeout(Some(config.stream.progress_deadline + KEEPALIVE))?;
    socket.set_tcp_notsent_lowat(NOT_SENT_LOWAT)?;
    listening(socket, config.server.backlog)
}

/// A listener without socket options of its own.
pub fn plain(addr: SocketAddr) -> io::Result<TcpListener> {
    listening(bound(addr)?, 128)
}

/// The address at which this machine itself reaches a port that is bound to `addr`.
pub fn from_here(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        let loopback: IpAddr = match addr {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        addr.set_ip(loopback);
    }
    addr
}

/// TLS to a port of this machine, for requests that carry no secrets: any certificate will do.
pub fn own_tls() -> Arc<ClientConfig> {
    pem::any_certificate()
}

/// Sends a request, such as `GET /readyz`, to a port of this machine, over TLS if `tls`, and returns
/// the whole response, head included. The error says why there is none. `greeting` gets the local
/// address of the connection and returns the bytes to send first.
pub async fn ask(
    addr: SocketAddr,
    tls: bool,
    request: &str,
    patience: Duration,
    greeting: impl FnOnce(IpAddr) -> &'static [u8],
) -> Result<String, String> {
    let addr = from_here(addr);
    let ask = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(greeting(stream.local_addr()?.ip())).await?;
        if tls {
            let config = pem::any_certificate();
            let name = ServerName::IpAddress(addr.ip().into());
            exchange(TlsConnector::from(config).connect(name, stream).await?, request).await
        } else {
            exchange(stream, request).await
        }
    };
    match tokio::time::timeout(patience, ask).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.") => Ok(answer),
        Ok(Ok(_)) => Err(format!("{addr} closes connections without an answer")),
        Ok(Err(error)) => Err(format!("{addr}: {error}")),
        Err(_) => Err(format!("{addr} does not answer within {patience:?}")),
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> io::Result<String> {
    stream.write_all(format!("{request} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    stream.flush().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// How many connections the process may have open at once. The remaining descriptors are for Redis,
/// the admin port and log files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// The most streams, over all workers.
    pub streams: u64,
    /// The most other connections of the public port, over all workers.
    pub requests: usize,
}

/// The limit of the descriptors that this process may have open (RLIMIT_NOFILE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// What holds.
    pub soft: u64,
    /// What the process could raise it to.
    pub hard: u64,
}

/// Raises the process's descriptor limit as far as it goes. Returns what holds then.
pub fn raise_descriptor_limit() -> DescriptorLimit {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Fails only where the limit cannot be read either; the old limit then stays in force.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let limit = getrlimit(Resource::Nofile);
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    DescriptorLimit { soft: number(limit.current), hard: number(limit.maximum) }
}

impl Capacity {
    /// Divides the descriptors among their uses. `partitions` is how many the broker has beyond the
    /// first one, and `each` how many descriptors one of them may take.
    pub fn of(limit: DescriptorLimit, partitions: u64, each: u64) -> Self {
        divided(limit.soft, partitions.saturating_mul(each))
    }
}

fn divided(all: u64, further: u64) -> Capacity {
    let others = OTHER_DESCRIPTORS.saturating_add(further).min(all / 4);
    let requests = (all / 8).min(MOST_REQUESTS);
    Capacity { streams: (all - others - requests).max(1), requests: requests as usize }
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
        assert_eq!(divided(20_000, 0), Capacity { streams: 16_988, requests: 2_500 });
        assert_eq!(divided(20_000, 1000), Capacity { streams: 15_988, requests: 2_500 });
        assert_eq!(divided(700, 0), Capacity { streams: 438, requests: 87 });
        for all in [16, 100, 1024, 1 << 20, u64::MAX] {
            let room = divided(all, 0);
            assert!(
                room.streams + room.requests as u64 <= all - all.min(2048) / 4,
                "{all}: {room:?}"
            );
        }
    }
}
