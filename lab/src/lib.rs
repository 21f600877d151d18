//! Tools that tests, chaos and bench share: real servers, processes, and a network that can fail.
//!
//! Contains none of the gateway's code, so it cannot share the gateway's mistakes. A test without
//! its tools has failed, so most functions here panic and say why.

pub mod certificate;
pub mod chunked;
pub mod event_stream;
pub mod listener;
pub mod process;
pub mod redis_cluster;
pub mod redis_server;
pub mod resp;
pub mod scratch;
pub mod sentinels;
pub mod tcp_proxy;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;

/// The longest wait in a test. If it is exceeded, something is broken, not slow.
pub const BOUND: Duration = Duration::from_secs(60);

/// Waits until the condition holds; panics after [`BOUND`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < end, "it never came about: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// An unused address, for a server that restarts on its address or must be told its port in
/// advance.
///
/// The host is a loopback address of its own, so that no other process is given the port in the
/// meantime.
pub fn own_addr() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let host = Ipv4Addr::new(127, 1 + (pid >> 8) as u8 % 250, pid as u8, 1 + n as u8 % 250);
    TcpListener::bind((host, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}
