//! The publish thread: one connection for all events that are published one by one.
//!
//! Taking a connection from the pool costs a round trip, so these events share this connection
//! instead. Events that arrive while a call is under way wait, and go as one batch with the next
//! call. When several publishers send many events, the thread also waits a moment for more: a call
//! costs both sides several writes and wake-ups, and costs Redis a cold start of the script,
//! however many events it carries.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisError};
use sse_contract::{Publish, batch_len};
use tokio::sync::{Notify, oneshot};

use crate::broker::redis::alarm::Alarm;
use crate::broker::redis::failure::{Again, Failure, Outcome};
use crate::broker::redis::partition::Partition;
use crate::broker::redis::publish::{self, Sent};
use crate::broker::redis::session::{Session, check_server};
use crate::feed::publication::{Publication, PublishError};

/// After a silence longer than this, the connection is checked with a PING before it gets an event.
const SILENCE: Duration = Duration::from_secs(1);
/// A publisher counts as alone when no two publishers have met for this long.
const ALONE: Duration = Duration::from_millis(20);
/// The rate from which events gather: this many within this time, which is 1,000 a second.
const MUCH: (usize, Duration) = (8, Duration::from_millis(8));
/// With this many events waiting, the call is sent at once: they share its cost well enough.
const ENOUGH: usize = 16;

/// The handlers' end of the queue.
#[derive(Debug)]
pub(crate) struct PublishThread(Arc<Queue>);

/// The events that wait for the thread.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    /// Notified when the first event waits, and when `ENOUGH` wait.
    bell: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Whether a call is under way.
    busy: bool,
    /// When an event last arrived while another one waited or a call was under way: the sign of
    /// more than one publisher.
    met: Option<Instant>,
    /// The arrival times of the last `MUCH.0` events.
    came: VecDeque<Instant>,
}

#[derive(Debug)]
struct Waiting {
    item: Publication,
    answer: oneshot::Sender<Outcome>,
}

impl PublishThread {
    /// Creates the handlers' end, and the queue for the thread.
    pub(crate) fn new() -> (PublishThread, Arc<Queue>) {
        let queue = Arc::new(Queue::default());
        (PublishThread(queue.clone()), queue)
    }

    /// Publishes one event, together with others that wait. If the thread ends before it has
    /// answered, the outcome is unknown.
    pub(crate) async fn publish(&self, item: Publication) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let waiting = {
            let mut state = self.0.lock();
            let now = Instant::now();
            if state.came.len() == MUCH.0 {
                state.came.pop_front();
            }
            state.came.push_back(now);
            if state.busy || !state.waiting.is_empty() {
                state.met = Some(now);
            }
            state.waiting.push_back(Waiting { item, answer });
            state.waiting.len()
        };
        if waiting == 1 || waiting == ENOUGH {
            self.0.bell.notify_one();
        }
        answered.await.unwrap_or_else(|_| {
            let error = PublishError::OutcomeUnknown("Redis: the publisher is gone".to_owned());
            Err(Failure { error, again: Again::Never })
        })
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an event.
    async fn filled(&self) {
        while self.lock().waiting.is_empty() {
            self.bell.notified().await;
        }
    }

    /// Waits until `ENOUGH` events wait.
    async fn enough(&self) {
        while self.lock().waiting.len() < ENOUGH {
            self.bell.notified().await;
        }
    }

    /// Takes all waiting events.
    fn take_all(&self) -> VecDeque<Waiting> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// Takes the events for the next call, as many as one batch holds, and marks a call as under
    /// way.
    fn take(&self) -> Vec<Waiting> {
        let mut state = self.lock();
        state.busy = true;
        let length = batch_len(state.waiting.iter().map(|waiting| waiting.item.data.len()));
        state.waiting.drain(..length).collect()
    }
}

/// Publishes events for ever.
pub(crate) async fn run(partition: Arc<Partition>, queue: Arc<Queue>) -> Infallible {
    let mut kept = None;
    let alarm = match Alarm::new() {
        Ok(alarm) => Some(alarm),
        Err(error) => {
            tracing::warn!(
                partition = partition.label(), %error,
                "no timer can be made; events go to Redis at once"
            );
            None
        }
    };
    let mut called: Option<Instant> = None;
    loop {
        queue.filled().await;
        let gather = partition.config.gather;
        let pause = called
            .map_or(Duration::ZERO, |called| queue.lock().pause(Instant::now(), called, gather));
        if let Some(alarm) = alarm.as_ref().filter(|_| !pause.is_zero()) {
            tokio::select! {
                _ = alarm.wait(pause) => {}
                () = queue.enough() => {}
            }
        }
        called = Some(Instant::now());
        let (session, mut open) = match ready(&partition, kept.take()).await {
            Ok(ready) => ready,
            Err(error) => {
                // Nothing was sent of any waiting event, so all fail now. Failing batch by batch
                // would make each batch wait anew for a session.
                let failure = partition.unsent(&error);
                for waiting in queue.take_all() {
                    let _ = waiting.answer.send(Err(failure.clone()));
                }
                continue;
            }
        };
        let batch = queue.take();
        let items: Vec<Publish<'_>> =
            batch.iter().map(|waiting| waiting.item.as_publish()).collect();
        let connection = &mut open.connection;
        let Sent { outcomes, usable } =
            publish::send(&partition, &session, connection, &items).await;
        queue.lock().busy = false;
        if usable {
            open.answered = Instant::now();
            kept = Some(open);
        }
        for (waiting, outcome) in batch.into_iter().zip(outcomes) {
            // The caller may have given up waiting. The event is published all the same.
            let _ = waiting.answer.send(outcome);
        }
    }
}

/// Returns the current session and a connection of it: the kept one if it is sound, else a new one.
async fn ready(
    partition: &Partition,
    kept: Option<Open>,
) -> Result<(Arc<Session>, Open), RedisError> {
    let session = partition.sessions.get().await?;
    let open = match kept {
        Some(open) => open.checked(&session, partition.config.check_timeout()).await,
        None => None,
    };
    let open = match open {
        Some(open) => open,
        None => Open::connect(partition, &session).await?,
    };
    Ok((session, open))
}

impl State {
    /// How long to wait for more events, if the last call was made at `called`. It is zero once
    /// `gather` has passed since that call, and for a publisher who is alone.
    fn pause(&self, now: Instant, called: Instant, gather: Duration) -> Duration {
        let met = self.met.is_some_and(|met| now - met <= ALONE);
        let much =
            self.came.len() == MUCH.0 && self.came.front().is_some_and(|at| now - *at <= MUCH.1);
        if met && much { gather.saturating_sub(now - called) } else { Duration::ZERO }
    }
}

/// The thread's connection, and the session it was opened in.
#[derive(Debug)]
struct Open {
    connection: MultiplexedConnection,
    session: u64,
    /// Whether the connection was closed.
    gone: Arc<AtomicBool>,
    /// When the connection last answered.
    answered: Instant,
}

impl Open {
    async fn connect(partition: &Partition, session: &Session) -> Result<Open, RedisError> {
        let gone = Arc::new(AtomicBool::new(false));
        let closed = gone.clone();
        let settings = partition.config.connections().set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed.store(true, Ordering::Relaxed);
            }
            Ok::<(), redis::aio::SendError>(())
        });
        let client = session.server().client()?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&settings).await?;
        check_server(&mut connection, session.run()).await?;
        Ok(Open { connection, session: session.number(), gone, answered: Instant::now() })
    }

    /// Returns the connection if it belongs to this session and is not closed. After a silence, a
    /// PING must be answered within `patience`.
    async fn checked(mut self, session: &Session, patience: Duration) -> Option<Open> {
        // A disconnection that has already arrived must set `gone`. The runtime looks for it at the
        // first yield, and runs the connection's task at the second: this future comes before tasks.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        if self.session != session.number() || self.gone.load(Ordering::Relaxed) {
            return None;
        }
        if self.answered.elapsed() >= SILENCE {
            let ping = redis::cmd("PING");
            let answer = ping.query_async::<()>(&mut self.connection);
            tokio::time::timeout(patience, answer).await.ok()?.ok()?;
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::FuturesUnordered;
    use futures_util::{FutureExt, StreamExt};

    use super::*;
    use crate::broker::redis::RedisBroker;
    use crate::broker::redis::settings::RedisSettings;
    use crate::config::Config;
    use crate::metrics::Metrics;

    fn item() -> Publication {
        Publication {
            channel: "demo".parse().unwrap(),
            event: None,
            data: "x".into(),
            idempotency_key: None,
        }
    }

    #[test]
    fn events_gather_where_publishers_meet_and_much_comes() {
        let (began, gather) = (Instant::now(), Duration::from_millis(10));
        let at = |ms| began + Duration::from_millis(ms);
        let state = |met: Option<u64>, came: [u64; MUCH.0]| State {
            met: met.map(at),
            came: came.map(at).into(),
            ..State::default()
        };
        let much = [0, 1, 2, 3, 4, 5, 6, 7];
        let pause = |state: State, called| state.pause(at(8), at(called), gather);
        assert_eq!(pause(state(Some(7), much), 7), Duration::from_millis(9));
        assert_eq!(pause(state(None, much), 7), Duration::ZERO);
        assert_eq!(state(Some(7), much).pause(at(9), at(7), gather), Duration::ZERO);
        assert_eq!(state(Some(7), much).pause(at(8), at(7), Duration::ZERO), Duration::ZERO);
        let late = [22, 23, 24, 25, 26, 27, 28, 29];
        assert_eq!(state(Some(7), late).pause(at(30), at(29), gather), Duration::ZERO);
        assert_eq!(state(Some(20), late).pause(at(30), at(20), gather), Duration::ZERO);
    }

    /// If they failed batch by batch, each batch would wait anew for a session.
    #[actix_web::test]
    async fn without_a_session_all_who_wait_are_told_at_once() {
        let config = Config::load(None, std::iter::empty(), &[]).unwrap();
        let settings = RedisSettings::of(&config);
        let (broker, works) = RedisBroker::without_threads(settings, Metrics::default()).unwrap();
        let works = works.into_iter().next().unwrap();
        let queue = works.queue.clone();
        #[expect(clippy::disallowed_methods, reason = "it ends with this test's runtime")]
        actix_web::rt::spawn(run(broker.partitions[0].clone(), works.queue));
        let items = [item()];
        let mut publishers: FuturesUnordered<_> =
            (0..300).map(|_| broker.publish(&items)).collect();
        let mut answers = Vec::new();
        while let Some(answer) = publishers.next().await {
            assert!(queue.lock().waiting.is_empty(), "{} were told", answers.len());
            answers.extend(answer);
        }
        let unavailable = |answer| matches!(answer, &Err(PublishError::Unavailable(_)));
        assert!(answers.len() == 300 && answers.iter().all(unavailable), "{answers:?}");
    }

    #[tokio::test]
    async fn who_comes_during_a_call_meets_others_and_enough_of_them_ring() {
        let (thread, queue) = PublishThread::new();
        let mut publishers = FuturesUnordered::new();
        publishers.push(thread.publish(item()));
        assert!(publishers.next().now_or_never().is_none());
        queue.filled().await;
        assert_eq!(queue.lock().met, None);
        let call = queue.take();
        assert_eq!(call.len(), 1);
        (0..ENOUGH).for_each(|_| publishers.push(thread.publish(item())));
        assert!(publishers.next().now_or_never().is_none());
        assert!(queue.lock().met.is_some());
        queue.enough().await;
        assert_eq!(queue.take().len(), ENOUGH);
    }
}
