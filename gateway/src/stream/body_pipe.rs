//! A stream as the body of a response: a bounded buffer between the hub and the HTTP server of one thread.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

/// The connection that a body is on.
pub trait Carrier: fmt::Debug {
    /// This pipe is to hear of the connection's end.
    fn hears(&self, pipe: &Rc<BodyPipe>);

    /// Ends the connection with all that is on it.
    fn cut(&self);
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
    carrier: Option<Box<dyn Carrier>>,
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

    /// The body is on this connection, and hears of its end.
    pub(crate) fn on(self: &Rc<Self>, carrier: Box<dyn Carrier>) {
        carrier.hears(self);
        self.inner.borrow_mut().carrier = Some(carrier);
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
    pub(crate) fn abort(&self) {
        if let Some(carrier) = &self.inner.borrow().carrier {
            carrier.cut();
        }
    }

    /// The end that comes is the end of the story.
    pub(crate) fn finish(&self) {
        self.inner.borrow_mut().whole = true;
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

/// The response's end of a pipe. Dropping it tells the hub that the client is gone.
#[derive(Debug)]
pub struct PipeReader(Rc<BodyPipe>);

/// The end of a body whose client is to come back. It is an error, so that the body stays unfinished on the wire: no
/// last chunk, or a reset in HTTP/2.
#[derive(Debug, thiserror::Error)]
#[error("the stream ends unfinished, so that its client comes back")]
pub struct Unfinished;

/// Ends a body unfinished, once what it said before was passed on.
#[derive(Debug, Default)]
pub struct Ending {
    passed_on: bool,
}

impl Ending {
    /// An error drops what the server has not written yet, so there is a turn in which it writes.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Unfinished>>> {
        if std::mem::replace(&mut self.passed_on, true) {
            return Poll::Ready(Some(Err(Unfinished)));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl PipeReader {
    /// That of this pipe.
    pub fn of(pipe: Rc<BodyPipe>) -> Self {
        PipeReader(pipe)
    }

    /// What the hub has written since; none at the end of the story.
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
        // The connection has one stream less.
        drop(carrier);
        self.0.signals.push(self.0.token, BodySignal::Gone);
    }
}
