//! One worker's own connection to Redis for events that are published one by one.
//!
//! A checkout of the pool costs a round trip, and its connection may be driven by another worker's thread. All requests
//! of a worker share this one instead. While Redis is busy with one call, whatever comes waits, and then goes as one batch:
//! the busier Redis is, the less it pays for each event.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisError};
use sse_contract::{Publish, batch_len};
use tokio::sync::oneshot;

use crate::broker::{Publication, PublishError};
use crate::redis_broker::RedisShared;
use crate::redis_publisher::{self, Again, Failure, Outcome, Sent};
use crate::session::{Session, check_server};

/// A connection that was silent for longer is asked whether it is there before an event is trusted to it.
const SILENCE: Duration = Duration::from_secs(1);

/// A worker's connection, made when it is first needed and again whenever it is lost.
#[derive(Debug, Default)]
pub struct Line {
    waiting: RefCell<VecDeque<(Publication, oneshot::Sender<Outcome>)>>,
    /// Somebody sends what waits.
    busy: Cell<bool>,
    open: RefCell<Option<Open>>,
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

impl Line {
    /// Publishes one event, together with others that wait. Must be called within the worker's runtime.
    pub async fn publish(self: &Rc<Self>, shared: &Arc<RedisShared>, item: Publication) -> Outcome {
        let (answer, answered) = oneshot::channel();
        self.waiting.borrow_mut().push_back((item, answer));
        if !self.busy.replace(true) {
            // A task of its own: whoever asked first may go away, and the others still wait.
            tokio::task::spawn_local(self.clone().send_all(shared.clone()));
        }
        answered.await.unwrap_or_else(|_| {
            let error = PublishError::OutcomeUnknown("Redis: the worker is gone".to_owned());
            Err(Failure { error, again: Again::Never })
        })
    }

    async fn send_all(self: Rc<Self>, shared: Arc<RedisShared>) {
        // However it ends, the next one who publishes finds out.
        let _idle = Idle(self.clone());
        loop {
            let batch: Vec<_> = {
                let mut waiting = self.waiting.borrow_mut();
                let length = batch_len(waiting.iter().map(|(item, _)| item.data.len()));
                waiting.drain(..length).collect()
            };
            if batch.is_empty() {
                return;
            }
            let items: Vec<Publish<'_>> = batch.iter().map(|(item, _)| item.as_publish()).collect();
            let outcomes = self.send(&shared, &items).await;
            for ((_, answer), outcome) in batch.into_iter().zip(outcomes) {
                // Whoever waited may have gone; the event is published all the same.
                let _ = answer.send(outcome);
            }
        }
    }

    async fn send(&self, shared: &RedisShared, items: &[Publish<'_>]) -> Vec<Outcome> {
        let ready = async {
            let session = shared.sessions.get().await?;
            let open = self.open.take();
            let open = match open {
                Some(open) => open.checked(&session).await,
                None => None,
            };
            let open = match open {
                Some(open) => open,
                None => Open::connect(shared, &session).await?,
            };
            Ok::<_, RedisError>((session, open))
        };
        let (session, mut open) = match ready.await {
            Ok(ready) => ready,
            Err(error) => {
                let failure = redis_publisher::unsent(&error);
                return items.iter().map(|_| Err(failure.clone())).collect();
            }
        };
        let Sent { outcomes, usable } =
            redis_publisher::send(shared, &session, &mut open.connection, items).await;
        if usable {
            open.answered = Instant::now();
            self.open.replace(Some(open));
        }
        outcomes
    }
}

/// Nobody sends any more.
struct Idle(Rc<Line>);

impl Drop for Idle {
    fn drop(&mut self) {
        self.0.busy.set(false);
    }
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
    async fn checked(mut self, session: &Session) -> Option<Open> {
        if self.session != session.number() || self.gone.load(Ordering::Relaxed) {
            return None;
        }
        if self.answered.elapsed() >= SILENCE {
            redis::cmd("PING").query_async::<()>(&mut self.connection).await.ok()?;
        }
        Some(self)
    }
}
