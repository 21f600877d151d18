//! Listening sockets. Their options are inherited by every accepted connection, at no cost for each.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::config::Config;

/// Bytes the kernel takes for a connection beyond what the network has accepted. A reader that stalls then
/// costs little memory, and what waits for it waits where it is shared.
const NOT_SENT_LOWAT: u32 = 32 * 1024;
/// Idle time after which the kernel asks whether a silent client is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Descriptors that are no streams: Redis, requests of other kinds, logs.
const OTHER_DESCRIPTORS: u64 = 512;

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

/// Raises the process's limit of descriptors as far as it may be raised, and answers how many streams that
/// leaves room for beside everything else.
pub fn descriptor_room() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused only where the limit could not be read either; the old one then stands.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    now.saturating_sub(OTHER_DESCRIPTORS).max(1)
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
