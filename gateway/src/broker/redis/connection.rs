//! The gateway's own connection to Redis for events that are published one by one, and the thread that works it.
//!
//! A checkout of the pool costs a round trip. All such events share this one connection instead. While Redis is busy with
//! one call, whatever comes waits, and then goes as one batch. Where several publish at once and much comes, more are let
//! gather for a moment: a call costs both sides several writes and wake-ups, and Redis a cold start of the script,
//! however many events it carries.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisError};
use sse_contract::{Publish, batch_len};
use tokio::sync::{Notify, oneshot};

use crate::broker::redis::RedisShared;
use crate::broker::redis::alarm::Alarm;
use crate::broker::redis::publish::{self, Again, Failure, Outcome, Sent};
use crate::broker::redis::session::{Session, check_server};
use crate::feed::publication::{Publication, PublishError};

/// A connection that was silent for longer is asked whether it is there before an event is trusted to it.
const SILENCE: Duration = Duration::from_secs(1);
/// A publisher who has met no other for so long is alone.
const ALONE: Duration = Duration::from_millis(20);
/// Much comes if so many events came within this time: 1,000 a second.
const MUCH: (usize, Duration) = (8, Duration::from_millis(8));
/// So many events share a call's cost well enough that no more are waited for.
const ENOUGH: usize = 16;

/// Where handlers leave their events. Dropped, it ends the thread.
#[derive(Debug)]
pub(crate) struct Line(Arc<Queue>);

/// What waits for the thread.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    /// Rings when a first event waits, when enough wait, and at the end.
    bell: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// A call is under way.
    busy: bool,
    /// When an event last came while another one waited or was on its way.
    met: Option<Instant>,
    /// When the last events came, as many as tell whether much comes.
    came: VecDeque<Instant>,
    closed: bool,
}

#[derive(Debug)]
struct Waiting {
    item: Publication,
    answer: oneshot::Sender<Outcome>,
}

impl Line {
    /// A line, and the queue for its thread.
    pub(crate) fn new() -> (Line, Arc<Queue>) {
        let queue = Arc::new(Queue::default());
        (Line(queue.clone()), queue)
    }

    /// Publishes one event, together with others that wait.
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

impl Drop for Line {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.bell.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something waits; answers whether anything ever will.
    async fn filled(&self) -> bool {
        loop {
            {
                let state = self.lock();
                if !state.waiting.is_empty() || state.closed {
                    return !state.waiting.is_empty();
                }
            }
            self.bell.notified().await;
        }
    }

    /// Waits until enough wait.
    async fn enough(&self) {
        while self.lock().waiting.len() < ENOUGH {
            self.bell.notified().await;
        }
    }

    /// All that wait.
    fn take_all(&self) -> VecDeque<Waiting> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// What goes with the next call.
    fn take(&self) -> Vec<Waiting> {
        let mut state = self.lock();
        state.busy = true;
        let length = batch_len(state.waiting.iter().map(|waiting| waiting.item.data.len()));
        state.waiting.drain(..length).collect()
    }
}

/// Publishes what comes for as long as anything can.
pub(crate) async fn run(shared: Arc<RedisShared>, queue: Arc<Queue>) {
    let mut kept = None;
    let alarm = match Alarm::new() {
        Ok(alarm) => Some(alarm),
        Err(error) => {
            tracing::warn!(%error, "no timer can be made; events go to Redis at once");
            None
        }
    };
    let mut called: Option<Instant> = None;
    while queue.filled().await {
        let gather = shared.config.gather;
        let pause = called
            .map_or(Duration::ZERO, |called| queue.lock().pause(Instant::now(), called, gather));
        if let Some(alarm) = alarm.as_ref().filter(|_| !pause.is_zero()) {
            tokio::select! {
                _ = alarm.wait(pause) => {}
                () = queue.enough() => {}
            }
        }
        called = Some(Instant::now());
        let (session, mut open) = match ready(&shared, kept.take()).await {
            Ok(ready) => ready,
            Err(error) => {
                // However many wait: nothing was sent of any of them.
                let failure = publish::unsent(&error);
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
        let Sent { outcomes, usable } = publish::send(&shared, &session, connection, &items).await;
        queue.lock().busy = false;
        if usable {
            open.answered = Instant::now();
            kept = Some(open);
        }
        for (waiting, outcome) in batch.into_iter().zip(outcomes) {
            // Whoever waited may have gone; the event is published all the same.
            let _ = waiting.answer.send(outcome);
        }
    }
}

/// The session and a connection of it: the one that was kept, if it is sound.
async fn ready(
    shared: &RedisShared,
    kept: Option<Open>,
) -> Result<(Arc<Session>, Open), RedisError> {
    let session = shared.sessions.get().await?;
    let open = match kept {
        Some(open) => open.checked(&session, shared.config.check_timeout()).await,
        None => None,
    };
    let open = match open {
        Some(open) => open,
        None => Open::connect(shared, &session).await?,
    };
    Ok((session, open))
}

impl State {
    /// How long to let more events gather, if the last call was `called` then. Nobody waits once `gather` has passed since
    /// that call, and a publisher who is alone waits for nobody.
    fn pause(&self, now: Instant, called: Instant, gather: Duration) -> Duration {
        let met = self.met.is_some_and(|met| now - met <= ALONE);
        let much =
            self.came.len() == MUCH.0 && self.came.front().is_some_and(|at| now - *at <= MUCH.1);
        if met && much { gather.saturating_sub(now - called) } else { Duration::ZERO }
    }
}

/// The connection.
#[derive(Debug)]
struct Open {
    connection: MultiplexedConnection,
    session: u64,
    /// It is closed.
    gone: Arc<AtomicBool>,
    /// When it last was seen to answer.
    answered: Instant,
}

impl Open {
    async fn connect(shared: &RedisShared, session: &Session) -> Result<Open, RedisError> {
        let gone = Arc::new(AtomicBool::new(false));
        let closed = gone.clone();
        let settings = shared.config.connections().set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed.store(true, Ordering::Relaxed);
            }
            Ok::<(), redis::aio::SendError>(())
        });
        let mut connection =
            shared.client.get_multiplexed_async_connection_with_config(&settings).await?;
        check_server(&mut connection, session.run()).await?;
        Ok(Open { connection, session: session.number(), gone, answered: Instant::now() })
    }

    /// The connection, if it is of this session and found sound a moment ago.
    async fn checked(mut self, session: &Session, patience: Duration) -> Option<Open> {
        // An end that has arrived is heard first.
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

    /// However many wait: each batch of them would wait for a session anew.
    #[actix_web::test]
    async fn without_a_session_all_who_wait_are_told_at_once() {
        let config = Config::load(None, std::iter::empty(), &[]).unwrap();
        let settings = RedisSettings::of(&config);
        let (broker, works) = RedisBroker::without_threads(settings, Metrics::default()).unwrap();
        let queue = works.queue.clone();
        #[expect(clippy::disallowed_methods, reason = "it ends with this test's runtime")]
        actix_web::rt::spawn(run(works.shared, works.queue));
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
        let (line, queue) = Line::new();
        let mut publishers = FuturesUnordered::new();
        publishers.push(line.publish(item()));
        assert!(publishers.next().now_or_never().is_none());
        assert!(queue.filled().await);
        assert_eq!(queue.lock().met, None);
        let call = queue.take();
        assert_eq!(call.len(), 1);
        (0..ENOUGH).for_each(|_| publishers.push(line.publish(item())));
        assert!(publishers.next().now_or_never().is_none());
        assert!(queue.lock().met.is_some());
        queue.enough().await;
        assert_eq!(queue.take().len(), ENOUGH);
        drop(publishers);
        drop(line);
        assert!(!queue.filled().await);
    }
}
