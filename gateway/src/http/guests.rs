//! One worker's connections that are no streams: requests under way, and idle ones kept for their client's next.
//!
//! Anybody can open such connections and send nothing, or half a request. So they have a bound in number, a share of the
//! process' descriptors: beyond it the one that has waited longest for its client is closed. And they have one in time.
//!
//! A connection that we end is closed in stages (RFC 9112 §9.6). A client that is still sending a body when its answer
//! comes would otherwise be reset by the kernel, and lose the answer that says why.

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
use prometheus::IntCounterVec;
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::access::admission::Lease;
use crate::config::Config;
use crate::http::transport::Transport;

/// How often waits are looked at, unless they are shorter.
const SWEEP: Duration = Duration::from_secs(5);
/// How long a client whose connection we end may go on sending, how long it may pause meanwhile, and how much it may send:
/// four times the largest body that is taken by default.
const FAREWELL: Duration = Duration::from_secs(30);
const FAREWELL_PAUSE: Duration = Duration::from_secs(5);
const FAREWELL_BYTES: usize = 64 * 1024 * 1024;

/// A worker's connections that are no streams.
#[derive(Debug)]
pub(crate) struct Guests {
    all: RefCell<Slab<Guest>>,
    most: usize,
    /// The longest wait for a client.
    patience: Duration,
    /// The longest time that a head may take. actix looks at a connection's first one alone.
    head_patience: Duration,
    sweep: Duration,
    /// Of requests, by reason.
    rejected: IntCounterVec,
    leaving: RefCell<Vec<Leaving>>,
    some_leave: Notify,
}

#[derive(Debug)]
struct Guest {
    /// Since when it waits for its client, and who is to be told of its end: nobody until it was asked once.
    waits: Option<(Instant, Option<Waker>)>,
    /// Since when a request's head comes that is not whole yet.
    head: Option<Instant>,
    /// Requests being answered: what comes is of their bodies.
    asked: u32,
    /// What comes may be of anything, once there was a request: it speaks HTTP/2, which has frames of its own.
    mixed: bool,
    closed: bool,
}

/// A connection that is closed in stages, its place, and what counts it among its client's until it is closed.
type Leaving = (Transport, Place, Option<Rc<Lease>>);

/// A connection's place among them; given up when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    guests: Rc<Guests>,
    key: usize,
}

impl Guests {
    /// At most so many. Who may be silent for how long is configured; what is refused or closed is counted.
    pub(crate) fn new(most: usize, config: &Config, rejected: IntCounterVec) -> Rc<Self> {
        let head_patience = config.server.head_timeout;
        // Timers of their own, which answer, come first.
        let patience = config.server.keep_alive.max(config.publish.idle_timeout) + SWEEP;
        Rc::new(Guests {
            all: RefCell::default(),
            most: most.max(1),
            patience,
            head_patience,
            sweep: SWEEP.min(head_patience),
            rejected,
            leaving: RefCell::default(),
            some_leave: Notify::new(),
        })
    }

    /// A place for a new connection. There is none if all others are busy with something else than waiting.
    pub(crate) fn enter(self: &Rc<Self>) -> Option<Place> {
        let full = self.all.borrow().len() >= self.most;
        if full && !self.close_longest_waiting() {
            self.count_closed();
            return None;
        }
        // Of many that come at once none was asked yet.
        let waits = Some((Instant::now(), None));
        let guest = Guest { waits, head: None, asked: 0, mixed: false, closed: false };
        let key = self.all.borrow_mut().insert(guest);
        Some(Place { guests: self.clone(), key })
    }

    /// A client sent what is no request.
    pub(crate) fn unreadable(&self) {
        self.rejected.with_label_values(&["unreadable"]).inc();
    }

    /// A client and we agree on no session.
    pub(crate) fn no_handshake(&self) {
        self.rejected.with_label_values(&["handshake"]).inc();
    }

    fn count_closed(&self) {
        self.rejected.with_label_values(&["crowded"]).inc();
    }

    /// Closes a connection in stages; [`Guests::serve`] does it.
    pub(crate) fn see_out(&self, stream: Transport, place: Place, lease: Option<Rc<Lease>>) {
        self.leaving.borrow_mut().push((stream, place, lease));
        self.some_leave.notify_one();
    }

    /// Closes those who wait too long, and those who leave, for ever.
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

    /// Answers whether any was waiting.
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
    /// Whether the connection may go on.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.guests.all.borrow()[self.key].closed {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }

    /// Its client said nothing when it was asked just now.
    pub(crate) fn waits(&self, cx: &Context<'_>) {
        let waits = &mut self.guests.all.borrow_mut()[self.key].waits;
        match waits {
            Some((_, Some(waker))) => waker.clone_from(cx.waker()),
            Some((_, waker @ None)) => *waker = Some(cx.waker().clone()),
            None => *waits = Some((Instant::now(), Some(cx.waker().clone()))),
        }
    }

    /// Does what takes its client as well. The connection waits for it all the time, and may be closed.
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

    /// Its client said something.
    pub(crate) fn heard(&self) {
        let guest = &mut self.guests.all.borrow_mut()[self.key];
        guest.waits = None;
        if guest.asked == 0 && !guest.mixed {
            guest.head.get_or_insert_with(Instant::now);
        }
    }

    /// A request's head is whole, and the request is being answered until it is not.
    pub(crate) fn asks(&self, asked: bool) {
        let guest = &mut self.guests.all.borrow_mut()[self.key];
        guest.asked = if asked { guest.asked + 1 } else { guest.asked.saturating_sub(1) };
        guest.head = None;
    }

    /// It speaks HTTP/2, and its first head is whole.
    pub(crate) fn mixes(&self) {
        self.guests.all.borrow_mut()[self.key].mixed = true;
    }
}

/// Says that nothing more comes, and throws away what the client still sends, until it ends as well.
async fn farewell((mut stream, place, _lease): Leaving) {
    // What still comes is no head of another request.
    place.asks(true);
    let all = async {
        // Refused only for a connection that is broken already.
        if stream.shutdown().await.is_err() {
            return;
        }
        // What a client still sends need not be deciphered.
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

/// Reads and throws away; answers how much.
async fn scrap(stream: &mut TcpStream, place: &Place) -> io::Result<usize> {
    poll_fn(|cx| {
        place.check()?;
        // On the stack: many connections may be on their way out.
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
    use crate::metrics::Metrics;

    fn guests(most: usize) -> Rc<Guests> {
        guests_with(most, &[])
    }

    fn guests_with(most: usize, settings: &[(&str, &str)]) -> Rc<Guests> {
        let pairs: Vec<_> = settings.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let config = Config::load(None, std::iter::empty(), &pairs).unwrap();
        Guests::new(most, &config, Metrics::default().rejected)
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
        // Another byte does not begin it anew.
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
