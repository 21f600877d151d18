//! A stream as the body of a response: a bounded buffer between the hub and the HTTP server, on one
//! thread.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

/// The HTTP connection that carries a body.
pub trait Carrier: fmt::Debug {
    /// Registers a pipe, which then learns of the connection's end.
    fn hears(&self, pipe: &Rc<BodyPipe>);

    /// Ends the connection with every stream on it.
    fn cut(&self);
}

/// A bounded buffer between the hub and a response's body, which belong to the same worker.
#[derive(Debug)]
pub struct BodyPipe {
    inner: RefCell<Pipe>,
    signals: Rc<BodySignals>,
    token: u64,
}

#[derive(Debug, Default)]
struct Pipe {
    buffer: BytesMut,
    /// A write did not fit, so the hub must be told when there is room.
    full: bool,
    ended: bool,
    /// The body ends as finished: its client need not reconnect.
    whole: bool,
    ending: Ending,
    gone: bool,
    reader: Option<Waker>,
    /// The connection that carries the body. It refers to the pipe, too.
    carrier: Option<Box<dyn Carrier>>,
}

/// Signals from bodies to the hub of their worker, which handles them between its rounds.
#[derive(Debug, Default)]
pub struct BodySignals {
    queue: RefCell<VecDeque<(u64, BodySignal)>>,
    pub(crate) wake: Notify,
}

/// A signal from a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodySignal {
    /// The pipe has room again.
    Writable,
    /// The response was dropped: the client is gone.
    Gone,
}

impl BodySignals {
    /// Takes the next signal, with the token of the connection it is for.
    pub fn pop(&self) -> Option<(u64, BodySignal)> {
        self.queue.borrow_mut().pop_front()
    }

    fn push(&self, token: u64, signal: BodySignal) {
        self.queue.borrow_mut().push_back((token, signal));
        self.wake.notify_one();
    }
}

/// Bytes that a pipe holds: about as many as a socket's buffer.
const PIPE_BYTES: usize = 16 * 1024;

impl BodyPipe {
    /// Creates a pipe that reports to `signals` under `token`.
    pub fn new(signals: Rc<BodySignals>, token: u64) -> Rc<Self> {
        Rc::new(BodyPipe { inner: RefCell::default(), signals, token })
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
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

    /// Names the connection that carries the body, and registers the pipe there.
    pub(crate) fn on(self: &Rc<Self>, carrier: Box<dyn Carrier>) {
        carrier.hears(self);
        self.inner.borrow_mut().carrier = Some(carrier);
    }

    /// Reports the end of the connection. A body that waits for room on it would not notice.
    pub(crate) fn connection_over(&self) {
        let mut pipe = self.inner.borrow_mut();
        pipe.gone = true;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        self.signals.push(self.token, BodySignal::Gone);
    }

    /// Ends the whole connection. Its client takes nothing, so the end of the body alone would
    /// never be sent.
    pub(crate) fn abort(&self) {
        if let Some(carrier) = &self.inner.borrow().carrier {
            carrier.cut();
        }
    }

    /// Makes the body end as finished, so that its client need not reconnect.
    pub(crate) fn finish(&self) {
        self.inner.borrow_mut().whole = true;
    }

    /// Ends the body. Nothing more is written.
    fn end(&self) {
        let mut pipe = self.inner.borrow_mut();
        pipe.ended = true;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
    }
}

/// The hub's end of a pipe. Dropping it ends the body.
#[derive(Debug)]
pub struct PipeWriter(Rc<BodyPipe>);

impl PipeWriter {
    /// The writer of this pipe.
    pub fn of(pipe: Rc<BodyPipe>) -> Self {
        PipeWriter(pipe)
    }
}

impl Deref for PipeWriter {
    type Target = BodyPipe;

    fn deref(&self) -> &BodyPipe {
        &self.0
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.end();
    }
}

/// The response's end of a pipe. Dropping it tells the hub that the client is gone.
#[derive(Debug)]
pub struct PipeReader(Rc<BodyPipe>);

/// The error that ends a body whose client should reconnect. It leaves the body unfinished on the
/// wire: without its last chunk, or with a reset in HTTP/2.
#[derive(Debug, thiserror::Error)]
#[error("the stream ends unfinished, so that its client comes back")]
pub struct Unfinished;

/// Ends a body unfinished, after the server has passed on the bytes before.
#[derive(Debug, Default)]
pub struct Ending {
    passed_on: bool,
}

impl Ending {
    /// An error makes the server discard what it has not written yet, so it first gets one turn to
    /// write.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Unfinished>>> {
        if std::mem::replace(&mut self.passed_on, true) {
            return Poll::Ready(Some(Err(Unfinished)));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl PipeReader {
    /// The reader of this pipe.
    pub fn of(pipe: Rc<BodyPipe>) -> Self {
        PipeReader(pipe)
    }

    /// Returns the bytes that the hub has written since the last call; `None` once the body is
    /// finished.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Unfinished>>> {
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

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut pipe = self.0.inner.borrow_mut();
        pipe.gone = true;
        let carrier = pipe.carrier.take();
        drop(pipe);
        // Dropping it tells the connection that it has one stream less.
        drop(carrier);
        self.0.signals.push(self.0.token, BodySignal::Gone);
    }
}
