//! The guests: one worker's connections without a stream, that is, with requests under way, or idle
//! and kept for the client's next request.
//!
//! Anybody can open a connection and send nothing, or half a request. So the number of guests is
//! bounded by a share of the process's descriptors; when it is reached, the guest that has waited
//! longest for its client is closed. How long a guest may wait is bounded as well.
//!
//! A connection that the gateway ends is closed in stages (RFC 9112 §9.6). With a plain close, the
//! kernel would reset the connection of a client that is still sending a body, and the client would
//! lose the answer that explains the error.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::access::admission::Lease;
use crate::config::Config;
use crate::http::transport::Transport;
use crate::metrics::{Metrics, Rejection};

/// Pause between two searches for overdue guests; shorter if `server.head_timeout` is shorter.
const SWEEP: Duration = Duration::from_secs(5);
/// A client whose connection the gateway ends may go on sending for `FAREWELL`, with pauses of up
/// to `FAREWELL_PAUSE`, and at most `FAREWELL_BYTES`: four times the largest body that the default
/// configuration accepts.
const FAREWELL: Duration = Duration::from_secs(30);
const FAREWELL_PAUSE: Duration = Duration::from_secs(5);
const FAREWELL_BYTES: usize = 64 * 1024 * 1024;

/// The guests of one worker.
#[derive(Debug)]
pub(crate) struct Guests {
    all: RefCell<Slab<Guest>>,
    most: usize,
    /// How long a guest may wait for its client.
    patience: Duration,
    /// How long a request's head may take. actix's own timer covers only the first head of a
    /// connection.
    head_patience: Duration,
    sweep: Duration,
    /// Counts refused and closed connections, by reason.
    metrics: Metrics,
    leaving: RefCell<Vec<Leaving>>,
    some_leave: Notify,
}

#[derive(Debug)]
struct Guest {
    /// Since when the connection waits for its client, and the waker of the task that reads it.
    /// There is no waker until that task has polled the connection.
    waits: Option<(Instant, Option<Waker>)>,
    /// When the first byte of a head arrived that is still incomplete.
    head: Option<Instant>,
    /// Requests being answered. While there are any, incoming bytes belong to their bodies.
    asked: u32,
    /// The connection speaks HTTP/2 and has sent a request. From then on incoming bytes may be any
    /// frame, so they are not timed as a head.
    mixed: bool,
    closed: bool,
}

/// A connection that is being closed in stages, its place, and the lease that counts it against its
/// client's limit until then.
type Leaving = (Transport, Place, Option<Rc<Lease>>);

/// A connection's place among the guests. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Place {
    guests: Rc<Guests>,
    key: usize,
}

impl Guests {
    /// Allows at most `most` guests; the configuration says how long they may wait. `metrics`
    /// counts connections that are refused or closed.
    pub(crate) fn new(most: usize, config: &Config, metrics: Metrics) -> Rc<Self> {
        let head_patience = config.server.head_timeout;
        // Keep-alive and NDJSON bodies have their own timers. Those send an answer, so they must
        // run out first.
        let patience = config.server.keep_alive.max(config.publish.idle_timeout) + SWEEP;
        Rc::new(Guests {
            all: RefCell::default(),
            most: most.max(1),
            patience,
            head_patience,
            sweep: SWEEP.min(head_patience),
            metrics,
            leaving: RefCell::default(),
            some_leave: Notify::new(),
        })
    }

    /// A place for a new connection. If all places are taken, the longest-waiting guest is closed;
    /// if none is waiting, the new connection gets no place.
    pub(crate) fn enter(self: &Rc<Self>) -> Option<Place> {
        let full = self.all.borrow().len() >= self.most;
        if full && !self.close_longest_waiting() {
            self.count_closed();
            return None;
        }
        // Waiting from the start: in a burst of connections none has been polled yet, and one of
        // them must be available to close.
        let waits = Some((Instant::now(), None));
        let guest = Guest { waits, head: None, asked: 0, mixed: false, closed: false };
        let key = self.all.borrow_mut().insert(guest);
        Some(Place { guests: self.clone(), key })
    }

    /// Counts a client whose bytes cannot be read as a request.
    pub(crate) fn unreadable(&self) {
        self.metrics.reject(Rejection::Unreadable);
    }

    /// Counts a TLS handshake that failed.
    pub(crate) fn no_handshake(&self) {
        self.metrics.reject(Rejection::Handshake);
    }

    fn count_closed(&self) {
        self.metrics.reject(Rejection::Crowded);
    }

    /// Queues a connection for [`Guests::serve`] to close in stages.
    pub(crate) fn see_out(&self, stream: Transport, place: Place, lease: Option<Rc<Lease>>) {
        self.leaving.borrow_mut().push((stream, place, lease));
        self.some_leave.notify_one();
    }

    /// Closes overdue guests, and finishes the staged closes. Never returns.
    pub(crate) async fn serve(self: Rc<Self>) -> Result<(), Infallible> {
        let mut interval = tokio::time::interval(self.sweep);
        let mut leaving = FuturesUnordered::new();
        loop {
            tokio::select! {
                _ = interval.tick() => {
                    self.close_waiting_since(Instant::now().checked_sub(self.patience));
                    self.close_heads_since(Instant::now().checked_sub(self.head_patience));
                }
                () = self.some_leave.notified() => {
                    leaving.extend(self.leaving.take().into_iter().map(farewell));
                }
                Some(()) = leaving.next() => {}
            }
        }
    }

    fn close_waiting_since(&self, latest: Option<Instant>) {
        for (_, guest) in self.all.borrow_mut().iter_mut() {
            if guest.waits.as_ref().is_some_and(|(since, _)| Some(*since) <= latest) {
                self.close(guest);
            }
        }
    }

    fn close_heads_since(&self, latest: Option<Instant>) {
        for (_, guest) in self.all.borrow_mut().iter_mut() {
            if guest.head.is_some_and(|since| Some(since) <= latest) {
                self.close(guest);
            }
        }
    }

    /// Returns false if no guest is waiting.
    fn close_longest_waiting(&self) -> bool {
        let mut all = self.all.borrow_mut();
        let waiting = all.iter_mut().filter_map(|(_, guest)| {
            let since = guest.waits.as_ref()?.0;
            Some((since, guest))
        });
        let Some((_, guest)) = waiting.min_by_key(|(since, _)| *since) else { return false };
        self.close(guest);
        true
    }

    fn close(&self, guest: &mut Guest) {
        guest.closed = true;
        if let Some((_, waker)) = guest.waits.take() {
            self.count_closed();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Place {
    /// Fails if the connection was chosen to be closed.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.guests.all.borrow()[self.key].closed {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }

    /// Reports that a read found nothing, so the connection waits for its client.
    pub(crate) fn waits(&self, cx: &Context<'_>) {
        let waits = &mut self.guests.all.borrow_mut()[self.key].waits;
        match waits {
            Some((_, Some(waker))) => waker.clone_from(cx.waker()),
            Some((_, waker @ None)) => *waker = Some(cx.waker().clone()),
            None => *waits = Some((Instant::now(), Some(cx.waker().clone()))),
        }
    }

    /// Runs `work` that depends on the client, such as a handshake. The connection counts as
    /// waiting until `work` is done, and may be closed meanwhile.
    pub(crate) async fn waiting<T, E: From<io::Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.check()?;
            let done = work.as_mut().poll(cx);
            if done.is_pending() {
                self.waits(cx);
            }
            done
        })
        .await
    }

    /// Reports that the client sent bytes or closed its side.
    pub(crate) fn heard(&self) {
        let guest = &mut self.guests.all.borrow_mut()[self.key];
        guest.waits = None;
        if guest.asked == 0 && !guest.mixed {
            guest.head.get_or_insert_with(Instant::now);
        }
    }

    /// Reports that a request's head is complete (`asked`), or that its handler has answered
    /// (`!asked`).
    pub(crate) fn asks(&self, asked: bool) {
        let guest = &mut self.guests.all.borrow_mut()[self.key];
        guest.asked = if asked { guest.asked + 1 } else { guest.asked.saturating_sub(1) };
        guest.head = None;
    }

    /// Reports that the connection speaks HTTP/2 and its first head is complete.
    pub(crate) fn mixes(&self) {
        self.guests.all.borrow_mut()[self.key].mixed = true;
    }
}

/// Closes the sending side, then discards what the client sends until the client closes too.
async fn farewell((mut stream, place, _lease): Leaving) {
    // Marks the place as answering a request, so that the discarded bytes are not timed as a head.
    place.asks(true);
    let all = async {
        // Fails only on a connection that is already broken.
        if stream.shutdown().await.is_err() {
            return;
        }
        // The discarded bytes need no decryption, so they are read below TLS.
        let mut stream = stream.into_tcp();
        let mut bytes = 0;
        while let Ok(Ok(n @ 1..)) = timeout(FAREWELL_PAUSE, scrap(&mut stream, &place)).await {
            bytes += n;
            if bytes > FAREWELL_BYTES {
                return;
            }
        }
    };
    let _ = timeout(FAREWELL, all).await;
}

/// Reads and discards once; returns the number of bytes.
async fn scrap(stream: &mut TcpStream, place: &Place) -> io::Result<usize> {
    poll_fn(|cx| {
        place.check()?;
        // On the stack, because many connections may be closing at once.
        let mut scrap = [MaybeUninit::uninit(); 16 * 1024];
        let mut buf = ReadBuf::uninit(&mut scrap);
        let read = Pin::new(&mut *stream).poll_read(cx, &mut buf);
        match read {
            Poll::Pending => place.waits(cx),
            Poll::Ready(_) => place.heard(),
        }
        ready!(read)?;
        Poll::Ready(Ok(buf.filled().len()))
    })
    .await
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guests.all.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn guests(most: usize) -> Rc<Guests> {
        guests_with(most, &[])
    }

    fn guests_with(most: usize, settings: &[(&str, &str)]) -> Rc<Guests> {
        let pairs: Vec<_> = settings.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let config = Config::load(None, std::iter::empty(), &pairs).unwrap();
        Guests::new(most, &config, Metrics::default())
    }

    fn waiting(guests: &Rc<Guests>) -> Place {
        let place = guests.enter().unwrap();
        place.waits(&Context::from_waker(Waker::noop()));
        place
    }

    fn busy(guests: &Rc<Guests>) -> Place {
        let place = guests.enter().unwrap();
        place.heard();
        place
    }

    #[test]
    fn the_one_that_waits_longest_makes_room() {
        let guests = guests(3);
        let (first, second, busy) = (waiting(&guests), waiting(&guests), busy(&guests));
        first.heard();
        first.waits(&Context::from_waker(Waker::noop()));
        let third = guests.enter().unwrap();
        third.heard();
        assert!(second.check().is_err(), "it waited longest");
        assert!(first.check().is_ok() && third.check().is_ok() && busy.check().is_ok());
        drop(second);
        first.heard();
        assert!(guests.enter().is_none(), "nobody waits");
        drop(busy);
        assert!(guests.enter().is_some());
    }

    #[test]
    fn an_idle_connection_may_wait_for_as_long_as_it_is_kept() {
        let patience = |settings: &[_]| guests_with(1, settings).patience;
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        assert!(patience(&[]) > 5 * minute && patience(&[]) < 6 * minute);
        assert!(patience(&[("server.keep_alive", "1h")]) > hour);
        assert!(patience(&[("publish.idle_timeout", "1h")]) > hour);
        assert!(patience(&[("publish.idle_timeout", "1s")]) < 2 * minute);
    }

    #[test]
    fn a_head_that_does_not_come_whole_is_closed_and_a_body_is_none() {
        let guests = guests(4);
        let [slow, body, next, idle] = std::array::from_fn(|_| waiting(&guests));
        slow.heard();
        body.heard();
        body.asks(true);
        body.heard();
        next.asks(true);
        next.asks(false);
        next.heard();
        idle.heard();
        idle.asks(true);
        idle.asks(false);
        let between = Instant::now();
        // A further byte must not restart the head's timer.
        slow.heard();
        guests.close_heads_since(Some(between));
        assert!(slow.check().is_err() && next.check().is_err());
        assert!(body.check().is_ok() && idle.check().is_ok());
    }

    #[test]
    fn whoever_waits_too_long_is_closed() {
        let guests = guests(3);
        let (early, busy) = (waiting(&guests), busy(&guests));
        let between = Instant::now();
        let late = waiting(&guests);
        guests.close_waiting_since(Some(between));
        assert!(early.check().is_err());
        assert!(busy.check().is_ok() && late.check().is_ok());
    }
}
