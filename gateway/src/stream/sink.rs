//! Where a connection's bytes go: a socket that the hub owns, with or without TLS, or the body of a
//! response that the HTTP server writes.
//!
//! Each accepts what fits now, says how much that was, and never waits. So a connection works alike
//! on any of them, and the choice is made once, when the stream begins.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::feed::frame::Framing;
use crate::stream::body_pipe::PipeWriter;
use crate::stream::subscription::Waiter;
use crate::stream::tls_socket::TlsSocket;

/// The end of a chunked body (RFC 9112 §7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Where a connection's bytes go.
#[derive(Debug)]
pub enum Sink {
    /// Nowhere yet, because the client is not let in: this handler waits for it. Accepts nothing.
    Awaited(Waiter),
    /// Nowhere yet, but the client is let in. Accepts nothing.
    LetIn,
    /// A socket that was taken over. The hub owns it, and closes it by dropping it.
    Socket(OwnedFd),
    /// A socket that was taken over, with its TLS session.
    Tls(Box<TlsSocket>),
    /// The HTTP server keeps the socket and reads from this pipe.
    Body(PipeWriter),
}

/// What reading from the client showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientSide {
    /// The client is still there.
    Open,
    /// The client closed the connection, or it broke.
    Gone,
}

impl Sink {
    /// Lets the client in, unless it is already. Returns the handler that waits for it, which must
    /// then be told.
    pub(crate) fn let_in(&mut self) -> Option<Waiter> {
        match std::mem::replace(self, Sink::LetIn) {
            Sink::Awaited(waiter) => Some(waiter),
            before => {
                *self = before;
                None
            }
        }
    }

    /// Writes what fits now, and returns how many bytes that was. `Ok(0)` means that nothing fits
    /// until the sink is writable again. Bytes that were not accepted must be offered again before
    /// any others.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Awaited(_) | Sink::LetIn => Ok(0),
            Sink::Socket(fd) => {
                accepted(rustix::net::send(fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT))
            }
            Sink::Tls(socket) => socket.write_vectored(&[IoSlice::new(bytes)]),
            Sink::Body(pipe) => pipe.write(bytes),
        }
    }

    /// Writes what fits now of several slices in a row.
    pub fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Sink::Awaited(_) | Sink::LetIn => Ok(0),
            Sink::Socket(fd) => accepted(rustix::io::writev(fd, slices)),
            Sink::Tls(socket) => socket.write_vectored(slices),
            Sink::Body(pipe) => {
                let mut sum = 0;
                for slice in slices {
                    let n = pipe.write(slice)?;
                    sum += n;
                    if n < slice.len() {
                        break;
                    }
                }
                Ok(sum)
            }
        }
    }

    /// Reads and discards what the client sent. The gateway expects nothing from it, but only a
    /// read shows whether it is still there.
    pub fn drain(&mut self) -> ClientSide {
        let fd = match self {
            Sink::Socket(fd) => fd,
            Sink::Tls(socket) => return socket.drain(),
            Sink::Awaited(_) | Sink::LetIn | Sink::Body(_) => return ClientSide::Open,
        };
        let mut scrap = [0; 1024];
        loop {
            match rustix::net::recv(&*fd, &mut scrap, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return ClientSide::Gone,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return ClientSide::Open,
                Err(_) => return ClientSide::Gone,
            }
        }
    }

    /// Ends the body as finished: the client need not reconnect.
    pub fn finish(&mut self, framing: Framing) {
        match self {
            Sink::Awaited(_) | Sink::LetIn => {}
            // If the socket does not take these few bytes, the stream ends unfinished, and the
            // client learns why from its next request.
            Sink::Socket(_) | Sink::Tls(_) if framing == Framing::Chunked => {
                drop(self.write(LAST_CHUNK));
            }
            Sink::Socket(_) | Sink::Tls(_) => {}
            Sink::Body(pipe) => pipe.finish(),
        }
    }

    /// Ends the stream without waiting for a client that reads nothing. Unsent bytes are discarded.
    pub fn abort(&self) {
        if let Some(fd) = self.socket() {
            // Fails only for a socket that is already dead.
            let _ = rustix::net::sockopt::set_socket_linger(fd, Some(std::time::Duration::ZERO));
        }
        if let Sink::Body(pipe) = self {
            pipe.abort();
        }
    }

    /// Ends a TLS session in order, which tells the client that no bytes were cut off. Whether the
    /// body is finished is up to its framing.
    pub fn close_session(&mut self) {
        if let Sink::Tls(socket) = self {
            socket.close();
        }
    }

    /// The socket, if the hub owns it.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Sink::Socket(fd) => Some(fd.as_fd()),
            Sink::Tls(socket) => Some(socket.as_fd()),
            Sink::Awaited(_) | Sink::LetIn | Sink::Body(_) => None,
        }
    }

    /// Whether the first byte that was not accepted will be sent all the same. The block that it
    /// begins cannot be dropped.
    pub fn holds_back(&self) -> bool {
        matches!(self, Sink::Tls(socket) if socket.holds_back())
    }
}

fn accepted(result: rustix::io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(n) => Ok(n),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
