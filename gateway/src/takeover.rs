//! Takes a connection's socket out of actix when an event stream begins.
//!
//! actix-http keeps two buffers of 8 KiB for an open response, has no write time-out, and does not look
//! at the client's side while a body is pending. So it serves a wrapper instead of the socket. When a
//! response's body says that it is an event stream, the wrapper keeps the bytes of its head, gives them and the socket
//! to the worker's hub, which writes them together with the stream's first blocks, and plays dead: actix reads an end of
//! file, and frees what it kept.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::hub::Opened;

/// A client's connection as actix sees it.
#[derive(Debug)]
pub struct Takeable {
    stream: Option<TcpStream>,
    order: TakeoverOrder,
    /// What actix wrote since the take-over was ordered: the head, behind whatever answers it had not written before.
    head: BytesMut,
}

/// How a handler of this connection orders its take-over.
#[derive(Clone, Default)]
pub struct TakeoverOrder(Rc<RefCell<Option<Opened>>>);

impl fmt::Debug for TakeoverOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TakeoverOrder")
    }
}

impl Takeable {
    /// Wraps an accepted connection.
    pub fn new(stream: TcpStream) -> Self {
        Takeable { stream: Some(stream), order: TakeoverOrder::default(), head: BytesMut::new() }
    }

    /// The means to order the take-over, for the connection's data.
    pub fn order(&self) -> TakeoverOrder {
        self.order.clone()
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let Some(opened) = self.order.0.borrow_mut().take() else { return Ok(()) };
        if let Some(stream) = self.stream.take() {
            let head = std::mem::take(&mut self.head).freeze();
            // Out of the runtime's driver, into the hub's.
            opened.on_socket(OwnedFd::from(stream.into_std()?), head);
        }
        Ok(())
    }
}

impl TakeoverOrder {
    /// The body of a response whose connection is to be taken over.
    pub fn body(self, opened: Opened) -> TakeoverBody {
        TakeoverBody { order: self, opened: Some(opened) }
    }
}

/// A body that never says anything: being asked for its first byte, it orders the take-over.
pub struct TakeoverBody {
    order: TakeoverOrder,
    opened: Option<Opened>,
}

impl MessageBody for TakeoverBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        if let Some(opened) = self.opened.take() {
            *self.order.0.borrow_mut() = Some(opened);
        }
        Poll::Pending
    }
}

impl AsyncRead for Takeable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Takeable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.order.0.borrow().is_some() {
            self.head.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_write(cx, buf),
            None => Poll::Ready(Ok(buf.len())),
        }
    }

    /// actix flushes after every byte it had was accepted, so here the head is whole.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.order.0.borrow().is_some() {
            self.hand_over()?;
            // The end of file is there to be read.
            cx.waker().wake_by_ref();
        }
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}
