//! One worker's own connection to Redis for events that are published one by one.
//!
//! A checkout of the pool costs a round trip, and its connection may be driven by another worker's thread. All requests
//! of a worker share this one instead: what they send at the same time travels together.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, PushInfo, PushKind, RedisError};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::redis_broker::RedisShared;

/// A connection that was silent for longer is asked whether it is there before an event is trusted to it.
const SILENCE: Duration = Duration::from_secs(1);

/// A worker's connection, made when it is first needed and again whenever it is lost.
#[derive(Debug, Default)]
pub struct Line {
    open: Mutex<Option<Shared>>,
}

/// The connection, held by one of those who share it.
#[derive(Debug, Clone)]
pub struct Shared {
    connection: MultiplexedConnection,
    /// It is closed, or of no more use.
    gone: Arc<AtomicBool>,
    /// When it last was seen to answer.
    answered: Rc<Cell<Instant>>,
}

impl Line {
    /// The connection, found sound a moment ago. If there is none, nothing was sent.
    pub async fn get(&self, shared: &RedisShared) -> Result<Shared, RedisError> {
        let patience = shared.config.answer_timeout;
        let mut open = timeout(patience, self.open.lock()).await.map_err(|_| {
            RedisError::from((ErrorKind::Io, "no connection", "others wait for it".to_owned()))
        })?;
        if let Some(known) = open.as_mut()
            && known.is_sound().await
        {
            return Ok(known.clone());
        }
        *open = None;
        let fresh = Shared::connect(shared).await?;
        Ok(open.insert(fresh).clone())
    }
}

impl Shared {
    async fn connect(shared: &RedisShared) -> Result<Shared, RedisError> {
        let gone = Arc::new(AtomicBool::new(false));
        let closed = gone.clone();
        let settings = shared.config.connections().set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed.store(true, Ordering::Relaxed);
            }
            Ok::<(), redis::aio::SendError>(())
        });
        let connection =
            shared.client.get_multiplexed_async_connection_with_config(&settings).await?;
        Ok(Shared { connection, gone, answered: Rc::new(Cell::new(Instant::now())) })
    }

    /// The connection itself.
    pub fn connection(&mut self) -> &mut MultiplexedConnection {
        &mut self.connection
    }

    /// It has just answered.
    pub fn has_answered(&self) {
        self.answered.set(Instant::now());
    }

    /// Whoever comes next connects anew.
    pub fn give_up(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    async fn is_sound(&mut self) -> bool {
        if self.gone.load(Ordering::Relaxed) {
            return false;
        }
        if self.answered.get().elapsed() < SILENCE {
            return true;
        }
        let answer = redis::cmd("PING").query_async::<()>(&mut self.connection).await;
        if answer.is_ok() {
            self.has_answered();
        }
        answer.is_ok()
    }
}
