//! A client's connection as actix sees it, and how its socket is taken out of actix when an event stream begins.
//!
//! actix-http keeps two buffers of 8 KiB for an open response, has no write time-out, and does not look
//! at the client's side while a body is pending. So it serves a wrapper instead of the socket. When a
//! response's body says that it is an event stream, the wrapper keeps the bytes of its head, gives them and the socket
//! to the worker's hub, which writes them together with the stream's first blocks, and plays dead: actix reads an end of
//! file, and frees what it kept. With TLS the session goes the same way.
//!
//! HTTP/2 has many streams on a connection, so there the socket stays with actix, and streams are bodies.
//!
//! What has no stream is a guest (`guests.rs`), also while it ends.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::Version;
use bytes::{Buf, Bytes, BytesMut};
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::access::admission::Lease;
use crate::access::client::ClientAddr;
use crate::http::guests::{Guests, Place};
use crate::http::problem;
use crate::http::transport::{Client, Transport};
use crate::hub::Opened;
use crate::stream::body_pipe::{BodyPipe, Carrier};
use crate::stream::sink::Sink;
use crate::stream::tls_socket::TlsSocket;

/// How long a connection of HTTP/2 that is to end stays after it has answered what was under way. To curl, a stream that is reset is
/// whole if the connection's end comes together with the reset.
const LINGER: Duration = Duration::from_millis(250);
/// Requests under way on one connection of HTTP/2 that are no streams. actix tells clients of no bound.
const MOST_REQUESTS: usize = 256;

/// A client's connection as actix sees it.
pub(crate) struct Takeable {
    stream: Option<Transport>,
    order: TakeoverOrder,
    /// What actix wrote since the take-over was ordered: the head, behind whatever answers it had not written before.
    head: BytesMut,
    /// What is written in the place of an answer of actix's own.
    instead: Bytes,
    /// The client sends nothing more.
    ended: bool,
    /// For HTTP/2, of which actix knows no end in order: done when the gateway is to stop.
    stopping: Option<Stopping>,
    /// Until the end behind the last answer.
    lingering: Option<Pin<Box<Sleep>>>,
}

/// An end that is waited for.
pub(crate) type Stopping = Pin<Box<dyn Future<Output = ()>>>;

/// What a handler of this connection may do with it.
#[derive(Clone)]
pub(crate) struct TakeoverOrder(Rc<Shared>);

struct Shared {
    guests: Rc<Guests>,
    opened: RefCell<Option<Opened>>,
    /// While it has no stream.
    place: RefCell<Option<Place>>,
    client: Client,
    /// Streams on it that are bodies or not answered yet.
    streams: Cell<usize>,
    /// Bodies that hear of its end.
    pipes: RefCell<Slab<Weak<BodyPipe>>>,
    /// Requests whose answers are not complete.
    under_way: Cell<usize>,
    /// Who reads it.
    reader: RefCell<Option<Waker>>,
    /// It must end now.
    cut: Cell<bool>,
    /// It has ended, or was taken over.
    over: Cell<bool>,
    /// It is to end as soon as no request is under way.
    ends: Cell<bool>,
    /// It speaks HTTP/2, and had a request.
    mixed: Cell<bool>,
    /// Counts the connection among its client's. A stream that took over the socket holds it as well.
    lease: RefCell<Option<Rc<Lease>>>,
    addr: Cell<Option<ClientAddr>>,
}

impl fmt::Debug for TakeoverOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TakeoverOrder")
    }
}

impl Takeable {
    /// Wraps an accepted connection, which is a guest.
    pub(crate) fn new(stream: Transport, place: Place, guests: &Rc<Guests>) -> Self {
        let shared = Shared {
            guests: guests.clone(),
            opened: RefCell::default(),
            place: RefCell::new(Some(place)),
            client: stream.client(),
            streams: Cell::new(0),
            pipes: RefCell::default(),
            under_way: Cell::new(0),
            reader: RefCell::default(),
            cut: Cell::new(false),
            over: Cell::new(false),
            ends: Cell::new(false),
            mixed: Cell::new(false),
            lease: RefCell::default(),
            addr: Cell::default(),
        };
        Takeable {
            stream: Some(stream),
            order: TakeoverOrder(Rc::new(shared)),
            head: BytesMut::new(),
            instead: Bytes::new(),
            ended: false,
            stopping: None,
            lingering: None,
        }
    }

    /// Ends, when `stopping` is done, as soon as no request is under way.
    pub(crate) fn ending_with(mut self, stopping: Stopping) -> Self {
        self.stopping = Some(stopping);
        self
    }

    /// Whose the connection is, and what counts it among its client's.
    pub(crate) fn is_of(&self, client: ClientAddr, lease: Option<Rc<Lease>>) {
        self.order.0.addr.set(Some(client));
        self.order.0.lease.replace(lease);
    }

    /// Whose the connection is.
    pub(crate) fn client_addr(&self) -> Option<ClientAddr> {
        self.order.0.addr.get()
    }

    /// The means to order the take-over, for the connection's data.
    pub(crate) fn order(&self) -> TakeoverOrder {
        self.order.clone()
    }

    fn ordered(&self) -> bool {
        self.order.0.opened.borrow().is_some()
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let Some(opened) = self.order.0.opened.take() else { return Ok(()) };
        if let Some(stream) = self.stream.take() {
            self.order.0.over.set(true);
            let head = std::mem::take(&mut self.head).freeze();
            // Out of the runtime's driver, into the hub's.
            let sink = match stream {
                Transport::Plain(stream) => Sink::Socket(stream.into_std()?.into()),
                Transport::Tls(stream) => {
                    let (stream, session) = stream.into_inner();
                    Sink::Tls(Box::new(TlsSocket::new(stream.into_std()?.into(), session)))
                }
            };
            opened.on_socket(sink, head);
        }
        Ok(())
    }
}

impl TakeoverOrder {
    /// The body of a response whose connection is to be taken over.
    pub(crate) fn body(self, opened: Opened, stream: Option<AsStream>) -> TakeoverBody {
        TakeoverBody { order: self, opened: Some(opened), _stream: stream }
    }

    /// What counts the connection among its client's, for whoever holds its socket.
    pub(crate) fn lease(&self) -> Option<Rc<Lease>> {
        self.0.lease.borrow().clone()
    }

    /// A request's head is whole, and the request is being answered until it is not.
    pub(crate) fn asks(&self, asked: bool, version: Version) {
        self.0.mixed.set(version == Version::HTTP_2);
        if let Some(place) = &*self.0.place.borrow() {
            place.asks(asked);
            if self.0.mixed.get() {
                place.mixes();
            }
        }
    }

    /// Who the client is.
    pub(crate) fn client(&self) -> Client {
        self.0.client
    }

    /// The connection has a stream while the answer lives. One that has any is counted with the streams, and is no guest.
    pub(crate) fn becomes_stream(&self) -> AsStream {
        self.0.streams.set(self.0.streams.get() + 1);
        self.0.place.take();
        AsStream { order: self.clone(), key: Cell::new(None) }
    }

    /// A request is under way while the answer lives.
    pub(crate) fn begins_request(&self) -> UnderWay {
        let shared = &self.0;
        shared.under_way.set(shared.under_way.get() + 1);
        if shared.under_way.get() - shared.streams.get() > MOST_REQUESTS {
            tracing::debug!("a connection has too many requests under way; it is cut");
            self.cut();
        }
        UnderWay(self.clone())
    }

    /// Ends the connection with all that is on it.
    fn cut(&self) {
        self.0.cut.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(reader) = self.0.reader.take() {
            reader.wake();
        }
    }
}

/// Held while a connection has a stream.
pub(crate) struct AsStream {
    order: TakeoverOrder,
    /// The body's place among those who hear of the connection's end.
    key: Cell<Option<usize>>,
}

impl Carrier for AsStream {
    fn hears(&self, pipe: &Rc<BodyPipe>) {
        self.key.set(Some(self.order.0.pipes.borrow_mut().insert(Rc::downgrade(pipe))));
    }

    fn cut(&self) {
        self.order.cut();
    }
}

impl fmt::Debug for AsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AsStream")
    }
}

impl Drop for AsStream {
    fn drop(&mut self) {
        let shared = &self.order.0;
        if let Some(key) = self.key.get() {
            shared.pipes.borrow_mut().try_remove(key);
        }
        shared.streams.set(shared.streams.get() - 1);
        if shared.streams.get() == 0 && !shared.over.get() {
            let place = shared.guests.enter();
            match &place {
                None => self.order.cut(),
                Some(place) if shared.mixed.get() => place.mixes(),
                Some(_) => {}
            }
            shared.place.replace(place);
            // Whoever reads it must ask the new place to be told of its end.
            self.order.wake();
        }
    }
}

/// Held while a request is under way.
pub(crate) struct UnderWay(TakeoverOrder);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let shared = &self.0.0;
        shared.under_way.set(shared.under_way.get() - 1);
        if shared.under_way.get() == 0 && shared.ends.get() {
            self.0.wake();
        }
    }
}

/// A body that never says anything: being asked for its first byte, it orders the take-over.
pub(crate) struct TakeoverBody {
    order: TakeoverOrder,
    opened: Option<Opened>,
    _stream: Option<AsStream>,
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
        if this.stops(cx) {
            return Poll::Ready(Ok(()));
        }
        let Some(stream) = &mut this.stream else { return Poll::Ready(Ok(())) };
        let shared = &this.order.0;
        shared.check()?;
        let place = shared.place.borrow();
        if let Some(place) = &*place {
            place.check()?;
        }
        let before = buf.filled().len();
        let read = Pin::new(stream).poll_read(cx, buf);
        if let Some(place) = &*place {
            match read {
                Poll::Pending => place.waits(cx),
                Poll::Ready(_) => place.heard(),
            }
        }
        if read.is_pending() {
            shared
                .reader
                .borrow_mut()
                .get_or_insert_with(|| cx.waker().clone())
                .clone_from(cx.waker());
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
        self.order.0.check()?;
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

impl Shared {
    /// Whether the connection may go on.
    fn check(&self) -> io::Result<()> {
        match self.cut.get() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

impl Takeable {
    /// Whether the connection is to end now, in the order that HTTP/2 allows us.
    fn stops(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(stopping) = &mut self.stopping else { return false };
        let shared = &self.order.0;
        if !shared.ends.get() {
            shared.ends.set(stopping.as_mut().poll(cx).is_ready());
        }
        if !shared.ends.get() || shared.under_way.get() > 0 {
            return false;
        }
        // Begun once: a client that is sent away comes back on the same connection.
        let end = self.lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        end.is_elapsed() || end.as_mut().poll(cx).is_ready()
    }

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
        let shared = &self.order.0;
        shared.over.set(true);
        let bodies: Vec<_> = shared.pipes.borrow().iter().map(|(_, pipe)| pipe.clone()).collect();
        for body in bodies {
            if let Some(body) = body.upgrade() {
                body.connection_over();
            }
        }
        let Some(stream) = self.stream.take().filter(|_| !self.ended) else { return };
        let guests = &shared.guests;
        if let Some(place) = shared.place.take().or_else(|| guests.enter()) {
            guests.see_out(stream, place, self.order.lease());
        }
    }
}
