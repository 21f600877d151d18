//! A client's connection as actix sees it, and the take-over: how its socket leaves actix when an
//! event stream begins.
//!
//! actix-http keeps two buffers of 8 KiB for an open response, has no write time-out, and does not
//! read from the client while a body is pending. So actix serves a wrapper, [`Takeable`], instead
//! of the socket. When a response's body orders the take-over, the wrapper keeps the bytes of the
//! response's head and hands them, with the socket, to the worker's hub. The hub writes the head
//! together with the stream's first blocks. The wrapper then reports an end of file, so actix frees
//! its buffers. A TLS session is handed over with its socket.
//!
//! An HTTP/2 connection carries many streams, so its socket stays with actix and its streams are
//! ordinary response bodies.
//!
//! A connection without a stream is a guest (`guests.rs`), even while it is being closed.

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

/// How long an HTTP/2 connection stays open after its last answer when the gateway stops. curl
/// takes a reset stream for complete if the connection closes together with the reset.
const LINGER: Duration = Duration::from_millis(250);
/// The most requests that may be under way on one HTTP/2 connection, not counting streams. actix
/// announces no limit to clients.
const MOST_REQUESTS: usize = 256;

/// A client's connection as actix sees it: a wrapper that can give its socket away.
pub(crate) struct Takeable {
    stream: Option<Transport>,
    order: TakeoverOrder,
    /// What actix wrote since the take-over was ordered: the response's head, and before it any
    /// earlier answers that were still unwritten.
    head: BytesMut,
    /// The unwritten rest of a problem document that replaces one of actix's own error answers.
    instead: Bytes,
    /// Whether the client has closed its sending side.
    ended: bool,
    /// Completes when the gateway stops. Only HTTP/2 needs it: actix shuts down HTTP/1 connections
    /// gracefully, but not HTTP/2 ones.
    stopping: Option<Stopping>,
    /// Runs for [`LINGER`] after the last answer; the connection ends when it elapses.
    lingering: Option<Pin<Box<Sleep>>>,
}

/// A future that completes when the gateway stops.
pub(crate) type Stopping = Pin<Box<dyn Future<Output = ()>>>;

/// A handler's access to its connection; handlers find it in the connection's data. Clones share
/// one state.
#[derive(Clone)]
pub(crate) struct TakeoverOrder(Rc<Shared>);

struct Shared {
    guests: Rc<Guests>,
    opened: RefCell<Option<Opened>>,
    /// The connection's place among the guests, while it has no stream.
    place: RefCell<Option<Place>>,
    client: Client,
    /// Streams on the connection: bodies, and streams that are not answered yet.
    streams: Cell<usize>,
    /// Stream bodies to tell when the connection ends.
    pipes: RefCell<Slab<Weak<BodyPipe>>>,
    /// HTTP/2 requests whose answers are not complete.
    under_way: Cell<usize>,
    /// The waker of the task that reads the connection.
    reader: RefCell<Option<Waker>>,
    /// The connection must end now: every read and write fails.
    cut: Cell<bool>,
    /// The connection has ended, or its socket was taken over.
    over: Cell<bool>,
    /// The gateway stops, so the connection ends when no request is under way.
    ends: Cell<bool>,
    /// The connection speaks HTTP/2 and has sent a request.
    mixed: Cell<bool>,
    /// Counts the connection against its client's limit. A stream that took over the socket holds a
    /// clone, because it outlives this struct.
    lease: RefCell<Option<Rc<Lease>>>,
    addr: Cell<Option<ClientAddr>>,
}

impl fmt::Debug for TakeoverOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TakeoverOrder")
    }
}

impl Takeable {
    /// Wraps an accepted connection. It begins as a guest, in `place`.
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

    /// Makes the connection end as soon as `stopping` has completed and no request is under way.
    pub(crate) fn ending_with(mut self, stopping: Stopping) -> Self {
        self.stopping = Some(stopping);
        self
    }

    /// Records the client's address, and the lease that counts the connection against the client's
    /// limit.
    pub(crate) fn is_of(&self, client: ClientAddr, lease: Option<Rc<Lease>>) {
        self.order.0.addr.set(Some(client));
        self.order.0.lease.replace(lease);
    }

    /// The client's address.
    pub(crate) fn client_addr(&self) -> Option<ClientAddr> {
        self.order.0.addr.get()
    }

    /// The handle that handlers find in the connection's data.
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
            // `into_std` takes the socket out of tokio's poller; the hub adds it to its own.
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
    /// A response's body that makes the connection be taken over.
    pub(crate) fn body(self, opened: Opened, stream: Option<AsStream>) -> TakeoverBody {
        TakeoverBody { order: self, opened: Some(opened), _stream: stream }
    }

    /// The lease that counts the connection; whatever takes over the socket must hold it.
    pub(crate) fn lease(&self) -> Option<Rc<Lease>> {
        self.0.lease.borrow().clone()
    }

    /// Reports that a request's head is complete (`asked`), or that its handler has answered
    /// (`!asked`).
    pub(crate) fn asks(&self, asked: bool, version: Version) {
        self.0.mixed.set(version == Version::HTTP_2);
        if let Some(place) = &*self.0.place.borrow() {
            place.asks(asked);
            if self.0.mixed.get() {
                place.mixes();
            }
        }
    }

    /// What the client proved about itself.
    pub(crate) fn client(&self) -> Client {
        self.0.client
    }

    /// Counts a stream on the connection until the returned value is dropped. A connection with a
    /// stream is counted with the streams and is no guest.
    pub(crate) fn becomes_stream(&self) -> AsStream {
        self.0.streams.set(self.0.streams.get() + 1);
        self.0.place.take();
        AsStream { order: self.clone(), key: Cell::new(None) }
    }

    /// Counts a request as under way until the returned value is dropped. Cuts the connection if
    /// more than [`MOST_REQUESTS`] are under way, streams aside.
    pub(crate) fn begins_request(&self) -> UnderWay {
        let shared = &self.0;
        shared.under_way.set(shared.under_way.get() + 1);
        if shared.under_way.get() - shared.streams.get() > MOST_REQUESTS {
            tracing::debug!("a connection has too many requests under way; it is cut");
            self.cut();
        }
        UnderWay(self.clone())
    }

    /// Ends the connection and every stream and request on it.
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
    /// The body's key in `Shared::pipes`; none if the stream has no body.
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
            // Makes `poll_read` register its waker with the new place. Otherwise a sweep could not
            // wake the connection to close it.
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

/// A body without bytes: when actix asks for its first one, the body orders the take-over.
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

    /// actix flushes only after every byte it had was accepted, so `head` is complete here.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ordered() {
            self.hand_over()?;
            // Makes actix read the end of file, which ends its side of the connection.
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
    /// Fails if the connection was cut.
    fn check(&self) -> io::Result<()> {
        match self.cut.get() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

impl Takeable {
    /// Whether the connection must end now: the gateway stops, no request is under way, and the
    /// last answer is [`LINGER`] ago.
    fn stops(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(stopping) = &mut self.stopping else { return false };
        let shared = &self.order.0;
        if !shared.ends.get() {
            shared.ends.set(stopping.as_mut().poll(cx).is_ready());
        }
        if !shared.ends.get() || shared.under_way.get() > 0 {
            return false;
        }
        // Started only once. A refused client asks again on the same connection, and would
        // otherwise put off the end each time.
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
    /// Closes the connection in stages if the client may still be sending. A plain close could make
    /// the kernel reset the connection before the client has read its answer.
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
