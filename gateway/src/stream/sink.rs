//! Where a connection's bytes go: a socket of our own, with or without TLS, or the body of a response that actix writes.
//!
//! All take what fits now and say how much that was; neither waits. So one connection works alike on
//! any of them, and the choice is made once, when the stream begins.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_web::body::{BodySize, MessageBody};
use bytes::{Bytes, BytesMut};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::sync::Notify;

use crate::feed::frame::Framing;
use crate::http::takeover::AsStream;
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
    /// actix keeps the socket and reads from this pipe.
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
            Sink::Body(pipe) => pipe.inner.borrow_mut().whole = true,
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

/// A bounded buffer between the hub and a response's body, both of one worker.
#[derive(Debug)]
pub struct BodyPipe {
    inner: RefCell<Pipe>,
    signals: Rc<BodySignals>,
    token: u64,
}

#[derive(Debug, Default)]
struct Pipe {
    buffer: BytesMut,
    /// A write did not fit: the hub wants to hear of room.
    full: bool,
    ended: bool,
    /// The end is the end of the story.
    whole: bool,
    ending: Ending,
    gone: bool,
    reader: Option<Waker>,
    /// The connection that the body is on, which knows the pipe as well.
    connection: Option<AsStream>,
}

/// What bodies tell the hub of their worker, between its rounds.
#[derive(Debug, Default)]
pub struct BodySignals {
    queue: RefCell<VecDeque<(u64, BodySignal)>>,
    pub(crate) wake: Notify,
}

/// One thing a body tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodySignal {
    /// There is room again.
    Writable,
    /// The response was dropped: the client is gone.
    Gone,
}

impl BodySignals {
    /// The next signal and the token of the connection it is for.
    pub fn pop(&self) -> Option<(u64, BodySignal)> {
        self.queue.borrow_mut().pop_front()
    }

    fn push(&self, token: u64, signal: BodySignal) {
        self.queue.borrow_mut().push_back((token, signal));
        self.wake.notify_one();
    }
}

/// Bytes a pipe holds: about what a socket's buffer would.
const PIPE_BYTES: usize = 16 * 1024;

impl BodyPipe {
    /// A pipe that reports to `signals` under `token`.
    pub fn new(signals: Rc<BodySignals>, token: u64) -> Rc<Self> {
        Rc::new(BodyPipe { inner: RefCell::default(), signals, token })
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = self.inner.borrow_mut();
        if pipe.gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(PIPE_BYTES - pipe.buffer.len());
        pipe.buffer.extend_from_slice(&bytes[..n]);
        pipe.full |= n < bytes.len();
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Ok(n)
    }

    /// The body is on this connection, and hears of its end.
    pub(crate) fn on(self: &Rc<Self>, connection: AsStream) {
        connection.hears(self);
        self.inner.borrow_mut().connection = Some(connection);
    }

    /// The connection is over: its body may be waiting for room, and would not notice.
    pub(crate) fn connection_over(&self) {
        let mut pipe = self.inner.borrow_mut();
        pipe.gone = true;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        self.signals.push(self.token, BodySignal::Gone);
    }

    /// Ends the whole connection: its client takes nothing, so that an end of the body alone would wait for ever.
    fn abort(&self) {
        if let Some(connection) = &self.inner.borrow().connection {
            connection.cut();
        }
    }

    /// Nothing more is written.
    pub(crate) fn end(&self) {
        let mut pipe = self.inner.borrow_mut();
        pipe.ended = true;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
    }
}

/// The response's end of a pipe.
#[derive(Debug)]
pub struct PipeBody(pub Rc<BodyPipe>);

/// The end of a body whose client is to come back. It is an error to actix, so that the body stays unfinished on the
/// wire: no last chunk, or a reset in HTTP/2.
#[derive(Debug, thiserror::Error)]
#[error("the stream ends unfinished, so that its client comes back")]
pub struct Unfinished;

/// Ends a body unfinished, once what it said before was passed on.
#[derive(Debug, Default)]
struct Ending {
    passed_on: bool,
}

impl Ending {
    /// An error drops what actix has not written yet, so there is a turn in which it writes.
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Unfinished>>> {
        if std::mem::replace(&mut self.passed_on, true) {
            return Poll::Ready(Some(Err(Unfinished)));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A body that says something and ends unfinished.
#[derive(Debug)]
pub struct LastWords {
    words: Option<Bytes>,
    ending: Ending,
}

impl LastWords {
    /// One that says this.
    pub fn new(words: Box<[u8]>) -> Self {
        LastWords { words: Some(Bytes::from(words)), ending: Ending::default() }
    }
}

impl MessageBody for LastWords {
    type Error = Unfinished;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Unfinished>>> {
        match self.words.take() {
            Some(words) => Poll::Ready(Some(Ok(words))),
            None => self.ending.poll(cx),
        }
    }
}

impl MessageBody for PipeBody {
    type Error = Unfinished;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Unfinished>>> {
        let pipe = &self.0;
        let mut inner = pipe.inner.borrow_mut();
        if !inner.buffer.is_empty() {
            let bytes = std::mem::take(&mut inner.buffer).freeze();
            if std::mem::take(&mut inner.full) {
                pipe.signals.push(pipe.token, BodySignal::Writable);
            }
            return Poll::Ready(Some(Ok(bytes)));
        }
        if inner.ended && inner.whole && !inner.gone {
            return Poll::Ready(None);
        }
        if inner.ended || inner.gone {
            return inner.ending.poll(cx);
        }
        inner.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for PipeBody {
    fn drop(&mut self) {
        let mut pipe = self.0.inner.borrow_mut();
        pipe.gone = true;
        let connection = pipe.connection.take();
        drop(pipe);
        // The connection has one stream less.
        drop(connection);
        self.0.signals.push(self.0.token, BodySignal::Gone);
    }
}
