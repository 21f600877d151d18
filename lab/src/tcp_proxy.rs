//! A TCP proxy that simulates network faults: cuts, stalls, moves and tiny segments.
//!
//! It never changes a byte.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::Duration;

use crate::listener::Listener;

/// Forwards connections to a server. The server can be changed for new connections.
#[derive(Debug)]
pub struct TcpProxy {
    /// The address that clients connect to.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    _listener: Listener,
}

#[derive(Debug)]
struct Shared {
    pieces: Pieces,
    state: Mutex<State>,
    /// Wakes the threads that are held back.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The server for new connections; none after a cut.
    to: Option<SocketAddr>,
    open: Vec<Weak<Pair>>,
    /// What clients have sent, in order; none if it is not recorded.
    asked: Option<Vec<u8>>,
    /// How many more bytes may reach clients before all connections are cut; none: no limit.
    left: Option<usize>,
    /// How often all connections were cut.
    cuts: usize,
    /// How often all connections were forgotten.
    forgotten: usize,
    /// Whether forwarding is paused.
    stalled: bool,
}

/// How bytes are written to the client.
#[derive(Debug, Clone, Copy)]
enum Pieces {
    AsTheyCome,
    /// One to three bytes per write.
    Tiny,
}

/// A connection's two sockets, and the counters of [`State`] when it was made.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    cuts: usize,
    forgotten: usize,
}

impl TcpProxy {
    /// A proxy that forwards unchanged and records what clients send for [`TcpProxy::asked`].
    #[track_caller]
    pub fn to(server: SocketAddr) -> Self {
        let asked = Some(Vec::new());
        Self::start(Ipv4Addr::LOCALHOST.into(), server, Pieces::AsTheyCome, asked).expect("a port")
    }

    /// A proxy that writes one to three bytes at a time to clients, so that everything arrives in
    /// pieces, also characters of four bytes.
    #[track_caller]
    pub fn shredding(server: SocketAddr) -> Self {
        Self::start(Ipv4Addr::LOCALHOST.into(), server, Pieces::Tiny, None).expect("a port")
    }

    /// A proxy that listens on `host`, on a port that the kernel chooses, and records nothing.
    pub fn on(host: IpAddr, server: SocketAddr) -> Result<Self> {
        Self::start(host, server, Pieces::AsTheyCome, None)
    }

    /// Sends new connections to another server. Open connections stay.
    pub fn move_to(&self, server: SocketAddr) {
        self.state().to = Some(server);
    }

    /// Cuts all connections, and each new one at once, until [`TcpProxy::move_to`] sets a server.
    pub fn cut(&self) {
        self.state().to = None;
        self.close();
    }

    /// Cuts all connections. New ones are forwarded.
    pub fn close(&self) {
        self.state().end_all();
        self.shared.changed.notify_all();
    }

    /// Sends new connections to another server and cuts the open ones.
    pub fn switch(&self, server: SocketAddr) {
        self.move_to(server);
        self.close();
    }

    /// Cuts all connections, once, when `bytes` more bytes have reached clients. Later connections
    /// are not affected.
    pub fn cut_behind(&self, bytes: usize) {
        self.state().left = Some(bytes);
    }

    /// Forgets all open connections as a NAT does: they stay open, but nothing passes any more.
    pub fn forget(&self) {
        self.state().forgotten += 1;
    }

    /// Pauses or resumes forwarding.
    pub fn stall(&self, stalled: bool) {
        self.state().stalled = stalled;
        self.shared.changed.notify_all();
    }

    /// What clients have sent so far.
    pub fn asked(&self) -> String {
        String::from_utf8_lossy(self.state().asked.as_deref().unwrap_or_default()).into_owned()
    }

    fn start(
        host: IpAddr,
        server: SocketAddr,
        pieces: Pieces,
        asked: Option<Vec<u8>>,
    ) -> Result<Self> {
        let state = Mutex::new(State { to: Some(server), asked, ..State::default() });
        let shared = Arc::new(Shared { pieces, state, changed: Condvar::new() });
        let forwarding = shared.clone();
        let listener = Listener::on(host, move |client| forwarding.forward(client))?;
        Ok(TcpProxy { addr: listener.addr, shared, _listener: listener })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.cut();
    }
}

impl State {
    /// How many of the next `bytes` to clients may still pass, if the limit lies within them; none
    /// if all pass.
    fn last_of(&mut self, bytes: usize) -> Option<usize> {
        match &mut self.left {
            Some(left) if *left > bytes => {
                *left -= bytes;
                None
            }
            left => left.take(),
        }
    }

    fn end_all(&mut self) {
        self.cuts += 1;
        for pair in self.open.drain(..).filter_map(|pair| pair.upgrade()) {
            // Fails for a connection that has already ended.
            let _ = pair.client.shutdown(Shutdown::Both);
            let _ = pair.server.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Connects a client to the server. None, which closes the client's connection, if there is no
    /// server or it does not answer.
    fn connect(&self, client: TcpStream) -> Option<Arc<Pair>> {
        let (to, cuts, forgotten) = {
            let state = self.state();
            (state.to?, state.cuts, state.forgotten)
        };
        let server = TcpStream::connect_timeout(&to, Duration::from_secs(10)).ok()?;
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let pair = Arc::new(Pair { client, server, cuts, forgotten });
        let mut state = self.state();
        state.open.retain(|pair| pair.strong_count() > 0);
        state.open.push(Arc::downgrade(&pair));
        // A cut during the connect must end this connection too.
        (state.cuts == cuts).then_some(pair)
    }

    fn forward(self: &Arc<Self>, client: TcpStream) {
        let Some(pair) = self.connect(client) else { return };
        let (shared, back) = (self.clone(), pair.clone());
        thread::spawn(move || shared.carry_back(&back));
        self.pump(&pair, &pair.client, &pair.server, |bytes| {
            if let Some(asked) = &mut self.state().asked {
                asked.extend_from_slice(bytes);
            }
            (&pair.server).write_all(bytes)
        });
    }

    fn carry_back(&self, pair: &Pair) {
        let mut sizes = fastrand::Rng::with_seed(3);
        self.pump(pair, &pair.server, &pair.client, |mut bytes| {
            let mut client = &pair.client;
            let last = self.state().last_of(bytes.len());
            if let Some(last) = last {
                client.write_all(&bytes[..last])?;
                self.state().end_all();
                self.changed.notify_all();
                return Err(ErrorKind::ConnectionReset.into());
            }
            if let Pieces::AsTheyCome = self.pieces {
                return client.write_all(bytes);
            }
            while !bytes.is_empty() {
                let (piece, rest) = bytes.split_at(sizes.usize(1..=3).min(bytes.len()));
                client.write_all(piece)?;
                bytes = rest;
            }
            Ok(())
        });
    }

    /// Copies data until one side ends, then ends the other side.
    fn pump(
        &self,
        pair: &Pair,
        mut from: &TcpStream,
        to: &TcpStream,
        mut write: impl FnMut(&[u8]) -> Result<()>,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut buffer);
            // Data or an end read just before a stall must not pass either.
            let passes = self.held_back(pair);
            match read {
                _ if !passes => break,
                Ok(n @ 1..) if write(&buffer[..n]).is_ok() => {}
                Ok(1..) => {
                    let _ = from.shutdown(Shutdown::Both);
                    break;
                }
                _ => break,
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }

    /// Waits while the connection is stalled or forgotten. Returns false if it was cut.
    fn held_back(&self, pair: &Pair) -> bool {
        let held = |state: &mut State| {
            (state.stalled || state.forgotten > pair.forgotten) && state.cuts == pair.cuts
        };
        let state = self.changed.wait_while(self.state(), held).expect("nobody panics with it");
        state.cuts == pair.cuts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo server, a proxy to it and a client of the proxy.
    fn echoed() -> (Listener, TcpProxy, TcpStream) {
        let server = Listener::start(|stream| {
            let _ = std::io::copy(&mut &stream, &mut &stream);
        });
        let proxy = TcpProxy::to(server.addr);
        let client = TcpStream::connect(proxy.addr).unwrap();
        client.set_read_timeout(Some(crate::BOUND)).unwrap();
        (server, proxy, client)
    }

    fn says(mut client: &TcpStream, text: &str) -> usize {
        let mut piece = [0; 16];
        client.write_all(text.as_bytes()).unwrap();
        client.read(&mut piece).unwrap_or_default()
    }

    #[test]
    fn what_is_held_back_comes_when_it_may_and_a_cut_ends_it() {
        let (_server, proxy, mut client) = echoed();
        assert_eq!(says(&client, "abc"), 3);
        proxy.stall(true);
        client.write_all(b"later").unwrap();
        proxy.stall(false);
        assert_eq!(client.read(&mut [0; 16]).unwrap(), 5);
        assert_eq!(proxy.asked(), "abclater");
        proxy.forget();
        client.write_all(b"lost").unwrap();
        let fresh = TcpStream::connect(proxy.addr).unwrap();
        assert_eq!(says(&fresh, "new"), 3);
        proxy.close();
        assert_eq!(client.read(&mut [0; 16]).unwrap_or_default(), 0);
        assert_eq!(proxy.asked(), "abclaternew");
    }

    #[test]
    fn behind_so_many_bytes_everything_ends() {
        let (_server, proxy, mut client) = echoed();
        proxy.cut_behind(4);
        assert_eq!(says(&client, "abc"), 3);
        assert_eq!(says(&client, "def"), 1);
        assert_eq!(client.read(&mut [0; 16]).unwrap_or_default(), 0);
    }
}
