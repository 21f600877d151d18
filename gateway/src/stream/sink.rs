//! Where a connection's bytes go: a socket of our own, with or without TLS, or the body of a response that somebody else
//! writes.
//!
//! All take what fits now and say how much that was; neither waits. So one connection works alike on
//! any of them, and the choice is made once, when the stream begins.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::feed::frame::Framing;
use crate::stream::body_pipe::BodyPipe;
use crate::stream::tls_socket::TlsSocket;

/// The end of a body in chunks (RFC 9112 §7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A connection's way out.
#[derive(Debug)]
pub enum Sink {
    /// None yet: the client is not let in. It takes nothing.
    Awaited,
    /// The socket was taken over: the hub owns it and closes it by dropping it.
    Socket(OwnedFd),
    /// The same, with the TLS session on it.
    Tls(Box<TlsSocket>),
    /// The HTTP server keeps the socket and reads from this pipe.
    Body(Rc<BodyPipe>),
}

/// What reading from a client's side told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientSide {
    /// Still there.
    Open,
    /// It closed, or the connection broke.
    Gone,
}

impl Sink {
    /// Writes what fits now. `Ok(0)` means that nothing does until the sink is writable again. What is not accepted must be
    /// offered again before anything else.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Awaited => Ok(0),
            Sink::Socket(fd) => {
                accepted(rustix::net::send(fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT))
            }
            Sink::Tls(socket) => socket.write_vectored(&[IoSlice::new(bytes)]),
            Sink::Body(pipe) => pipe.write(bytes),
        }
    }

    /// Writes what fits now of several pieces in a row.
    pub fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Sink::Awaited => Ok(0),
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

    /// Reads and throws away what the client sent: nothing more is expected of it, but only reading tells
    /// whether it is still there.
    pub fn drain(&mut self) -> ClientSide {
        let fd = match self {
            Sink::Socket(fd) => fd,
            Sink::Tls(socket) => return socket.drain(),
            Sink::Awaited | Sink::Body(_) => return ClientSide::Open,
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

    /// Says that the body is whole: nothing more comes, and the client need not come back for it.
    pub fn finish(&mut self, framing: Framing) {
        match self {
            Sink::Awaited => {}
            // A socket that does not take these few bytes ends unfinished, and its client is told by its next request.
            Sink::Socket(_) | Sink::Tls(_) if framing == Framing::Chunked => {
                drop(self.write(LAST_CHUNK));
            }
            Sink::Socket(_) | Sink::Tls(_) => {}
            Sink::Body(pipe) => pipe.finish(),
        }
    }

    /// Ends the stream without waiting for a client that reads nothing: its bytes are thrown away.
    pub fn abort(&self) {
        if let Some(fd) = self.socket() {
            // Refused only for a socket that is dead already.
            let _ = rustix::net::sockopt::set_socket_linger(fd, Some(std::time::Duration::ZERO));
        }
        if let Sink::Body(pipe) = self {
            pipe.abort();
        }
    }

    /// Ends a session of TLS in order: its bytes are all that there are, whatever their own framing says of their end.
    pub fn close_session(&mut self) {
        if let Sink::Tls(socket) = self {
            socket.close();
        }
    }

    /// The socket, if it is owned here.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Sink::Socket(fd) => Some(fd.as_fd()),
            Sink::Tls(socket) => Some(socket.as_fd()),
            Sink::Awaited | Sink::Body(_) => None,
        }
    }

    /// Whether the first byte that was not accepted is on its way all the same: what it begins cannot be taken back.
    pub fn holds_back(&self) -> bool {
        matches!(self, Sink::Tls(socket) if socket.holds_back())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Sink::Body(pipe) = self {
            pipe.end();
        }
    }
}

fn accepted(result: rustix::io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(n) => Ok(n),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
