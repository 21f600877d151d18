//! A network between clients and a gateway that a test can break, mend, move and shred.
//!
//! It forwards TCP connections and changes no byte. What it was sent by clients is kept, so that a test
//! can tell what a browser asked for.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// Forwards connections to a gateway, which may be another one for each connection.
pub struct Wire {
    /// Where clients connect to.
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Where new connections go; none while the wire is broken.
    to: Option<SocketAddr>,
    /// Both ends of every connection there has been since the last cut.
    sockets: Vec<TcpStream>,
    /// All that clients sent, in the order it came.
    asked: Vec<u8>,
    /// The wire is dropped.
    ended: bool,
    /// Behind so many bytes more to clients, every connection ends.
    left: Option<usize>,
    /// How often everything was forgotten.
    forgotten: usize,
}

/// How many bytes reach the client at once.
#[derive(Clone, Copy)]
enum Pieces {
    AsTheyCome,
    /// One to three, each a write of its own.
    Tiny,
}

impl Wire {
    /// One that changes nothing.
    pub fn to(gateway: SocketAddr) -> Self {
        Self::start(gateway, Pieces::AsTheyCome)
    }

    /// One whose clients are written one to three bytes at a time, so that characters of four bytes, and
    /// everything else, arrive in pieces.
    pub fn shredding(gateway: SocketAddr) -> Self {
        Self::start(gateway, Pieces::Tiny)
    }

    /// New connections go to another gateway from now on; those there are stay.
    pub fn move_to(&self, gateway: SocketAddr) {
        self.state().to = Some(gateway);
    }

    /// Ends every connection, and each new one at once.
    pub fn cut(&self) {
        let mut state = self.state();
        state.to = None;
        state.end_all();
    }

    /// Ends every connection once so many bytes more have reached clients; those that follow pass whole.
    pub fn cut_behind(&self, bytes: usize) {
        self.state().left = Some(bytes);
    }

    /// Loses every connection there is as a NAT does: they stay open, and nothing passes any more.
    pub fn forget(&self) {
        self.state().forgotten += 1;
    }

    /// What clients have sent so far.
    pub fn asked(&self) -> String {
        String::from_utf8_lossy(&self.state().asked).into_owned()
    }

    fn start(gateway: SocketAddr, pieces: Pieces) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { to: Some(gateway), ..State::default() }));
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.lock().unwrap().ended {
                    return;
                }
                if let Ok(client) = client {
                    forward(client, &shared, pieces);
                }
            }
        });
        Wire { addr, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let mut state = self.state();
        state.ended = true;
        state.end_all();
        // So that whoever accepts sees it.
        let _ = TcpStream::connect(self.addr);
    }
}

impl State {
    fn end_all(&mut self) {
        for socket in self.sockets.drain(..) {
            // It fails for a connection that is over.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Connects a client; it is left to its own where there is nobody to connect it to.
fn forward(client: TcpStream, shared: &Arc<Mutex<State>>, pieces: Pieces) {
    let mut state = shared.lock().unwrap();
    let Some(Ok(gateway)) = state.to.map(TcpStream::connect) else { return };
    client.set_nodelay(true).unwrap();
    gateway.set_nodelay(true).unwrap();
    let both = || [&client, &gateway].map(|socket| socket.try_clone().unwrap());
    state.sockets.extend(both());
    let born = state.forgotten;
    let ([from_client, to_gateway], [to_client, from_gateway]) = (both(), both());
    let (asked, sent) = (shared.clone(), shared.clone());
    thread::spawn(move || {
        pump(from_client, &to_gateway, |bytes| {
            let mut state = asked.lock().unwrap();
            if state.forgotten > born {
                return Ok(());
            }
            state.asked.extend_from_slice(bytes);
            drop(state);
            (&to_gateway).write_all(bytes)
        });
    });
    thread::spawn(move || {
        let mut sizes = fastrand::Rng::with_seed(3);
        pump(from_gateway, &to_client, |mut bytes| {
            let State { left, forgotten, .. } = *sent.lock().unwrap();
            if forgotten > born {
                return Ok(());
            }
            if let Some(left) = left.filter(|left| *left <= bytes.len()) {
                (&to_client).write_all(&bytes[..left])?;
                let mut state = sent.lock().unwrap();
                state.left = None;
                state.end_all();
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            if let Some(left) = &mut sent.lock().unwrap().left {
                *left -= bytes.len();
            }
            if let Pieces::AsTheyCome = pieces {
                return (&to_client).write_all(bytes);
            }
            while !bytes.is_empty() {
                let (piece, rest) = bytes.split_at(sizes.usize(1..=3).min(bytes.len()));
                (&to_client).write_all(piece)?;
                bytes = rest;
            }
            Ok(())
        });
    });
}

/// Writes what is read until one side ends, which ends the other.
fn pump(mut from: TcpStream, to: &TcpStream, mut write: impl FnMut(&[u8]) -> std::io::Result<()>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if write(&buffer[..n]).is_err() {
            let _ = from.shutdown(Shutdown::Both);
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
