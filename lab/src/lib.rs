//! What tests, chaos and bench stand on: real servers, processes, and a network that breaks.
//!
//! It has none of the gateway's code, so that what judges the gateway cannot share its mistakes.
//! A test that cannot have what it needs has failed, so most of this panics and says why.

pub mod certificate;
pub mod chunked;
pub mod event_stream;
pub mod listener;
pub mod process;
pub mod redis_server;
pub mod resp;
pub mod scratch;
pub mod tcp_proxy;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;

/// No wait in a test is longer: past it something is broken, not slow.
pub const BOUND: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < end, "it never came about: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// An address that nobody else uses, for what comes back on it or must be told its port beforehand.
///
/// Its host is a loopback address of its own, so that nobody else is given the port meanwhile.
pub fn own_addr() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let host = Ipv4Addr::new(127, 1 + (pid >> 8) as u8 % 250, pid as u8, 1 + n as u8 % 250);
    TcpListener::bind((host, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}
