//! A client's connection as actix sees it, and how its socket is taken out of actix when an event stream begins.
//!
//! actix-http keeps two buffers of 8 KiB for an open response, has no write time-out, and does not look
//! at the client's side while a body is pending. So it serves a wrapper instead of the socket. When a
//! response's body says that it is an event stream, the wrapper keeps the bytes of its head, gives them and the socket
//! to the worker's hub, which writes them together with the stream's first blocks, and plays dead: actix reads an end of
//! file, and frees what it kept.
//!
//! What is no stream is a guest (`guests.rs`), also while it ends.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::access::admission::Lease;
use crate::client_addr::ClientAddr;
use crate::guests::{Guests, Place};
use crate::hub::Opened;
use crate::problem;

/// A client's connection as actix sees it.
#[derive(Debug)]
pub struct Takeable {
    stream: Option<TcpStream>,
    order: TakeoverOrder,
    /// What actix wrote since the take-over was ordered: the head, behind whatever answers it had not written before.
    head: BytesMut,
    /// What is written in the place of an answer of actix's own.
    instead: Bytes,
    /// The client sends nothing more.
    ended: bool,
}

/// What a handler of this connection may do with it.
#[derive(Clone)]
pub struct TakeoverOrder(Rc<Shared>);

struct Shared {
    guests: Rc<Guests>,
    opened: RefCell<Option<Opened>>,
    /// Until the connection is a stream.
    place: RefCell<Option<Place>>,
    /// Counts the connection among its client's. A stream that took over the socket holds it as well.
    lease: RefCell<Option<Rc<Lease>>>,
    client: Cell<Option<ClientAddr>>,
    /// A request is being answered: what comes is of its body.
    asked: Cell<bool>,
}

impl fmt::Debug for TakeoverOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TakeoverOrder")
    }
}

impl Takeable {
    /// Wraps an accepted connection, unless there is no room for it.
    pub fn new(stream: TcpStream, guests: &Rc<Guests>) -> Option<Self> {
        let place = RefCell::new(Some(guests.enter()?));
        let shared = Shared {
            guests: guests.clone(),
            opened: RefCell::default(),
            place,
            lease: RefCell::default(),
            client: Cell::default(),
            asked: Cell::new(false),
        };
        Some(Takeable {
            stream: Some(stream),
            order: TakeoverOrder(Rc::new(shared)),
            head: BytesMut::new(),
            instead: Bytes::new(),
            ended: false,
        })
    }

    /// Whose the connection is, and what counts it among its client's.
    pub fn is_of(&self, client: ClientAddr, lease: Option<Lease>) {
        self.order.0.client.set(Some(client));
        self.order.0.lease.replace(lease.map(Rc::new));
    }

    /// Whose the connection is.
    pub fn client(&self) -> Option<ClientAddr> {
        self.order.0.client.get()
    }

    /// The means to order the take-over, for the connection's data.
    pub fn order(&self) -> TakeoverOrder {
        self.order.clone()
    }

    fn ordered(&self) -> bool {
        self.order.0.opened.borrow().is_some()
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let Some(opened) = self.order.0.opened.take() else { return Ok(()) };
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

    /// What counts the connection among its client's, for whoever holds its socket.
    pub fn lease(&self) -> Option<Rc<Lease>> {
        self.0.lease.borrow().clone()
    }

    /// A request's head is whole, and the request is being answered until it is not.
    pub fn asks(&self, asked: bool) {
        self.0.asked.set(asked);
        if let Some(place) = &*self.0.place.borrow() {
            place.head_is_whole();
        }
    }

    /// The connection is counted with the streams from now on, and is no guest.
    pub fn becomes_stream(&self) {
        self.0.place.take();
    }

    /// It is a guest again, because its stream was refused.
    pub fn becomes_guest(&self) {
        self.0.place.replace(self.0.guests.enter());
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
            *self.order.0.opened.borrow_mut() = Some(opened);
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
        let this = &mut *self;
        let Some(stream) = &mut this.stream else { return Poll::Ready(Ok(())) };
        let place = this.order.0.place.borrow();
        if let Some(place) = &*place {
            place.check()?;
        }
        let before = buf.filled().len();
        let read = Pin::new(stream).poll_read(cx, buf);
        if let Some(place) = &*place {
            match read {
                Poll::Pending => place.waits(cx),
                Poll::Ready(_) => place.heard(!this.order.0.asked.get()),
            }
        }
        this.ended |= read.is_ready() && buf.filled().len() == before;
        read
    }
}

impl AsyncWrite for Takeable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.ordered() {
            self.head.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        if self.instead.is_empty()
            && let Some(answer) = problem::instead(buf)
        {
            self.order.0.guests.unreadable();
            self.instead = answer;
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(self.write_instead(cx))?;
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_write(cx, buf),
            None => Poll::Ready(Ok(buf.len())),
        }
    }

    /// actix flushes after every byte it had was accepted, so here the head is whole.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ordered() {
            self.hand_over()?;
            // The end of file is there to be read.
            cx.waker().wake_by_ref();
        }
        ready!(self.write_instead(cx))?;
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

impl Takeable {
    fn write_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let (false, Some(stream)) = (self.instead.is_empty(), &mut self.stream) {
            let n = ready!(Pin::new(stream).poll_write(cx, &self.instead))?;
            self.instead.advance(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Takeable {
    /// A client that still sends may not have read its answer.
    fn drop(&mut self) {
        let Some(stream) = self.stream.take().filter(|_| !self.ended) else { return };
        let guests = &self.order.0.guests;
        if let Some(place) = self.order.0.place.take().or_else(|| guests.enter()) {
            guests.see_out(stream, place);
        }
    }
}
