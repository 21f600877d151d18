//! One session with a master of Redis: the ingest's connection, and every other one that belongs to the same life of the
//! same server.
//!
//! What is published and what is read must be of the master that the live events come from. A master that was deposed
//! while it stood still may wake up, and answer on connections that lead to it: whatever it acknowledges is lost when it
//! is told. So a session begins and ends with the ingest's connection; commands go only to the server that the ingest is
//! connected to; and an answer counts only while the session lasts, or when the next one is with the same server.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{Hook, HookError, Manager, Metrics, Pool, PoolConfig, Runtime, Timeouts};
use redis::aio::MultiplexedConnection;
use redis::{ConnectionInfo, ErrorKind, RedisError};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::broker::redis::settings::RedisSettings;

/// How long a command waits for a session: as long as the ingest's first attempts to connect anew take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A pooled connection that was idle for longer is not used again.
const IDLE: Duration = Duration::from_secs(60);

/// One life of one server, as its `run_id` names it.
pub type Run = Arc<str>;

/// A session, from the first tick on.
#[derive(Debug)]
pub struct Session {
    number: u64,
    run: Run,
    /// Connections to this server for one command at a time.
    pub(crate) pool: Pool,
    /// The epoch that the ingest's last tick told.
    epoch: watch::Sender<u64>,
}

/// The session there is now, if there is one.
#[derive(Debug)]
pub struct Sessions {
    current: watch::Sender<Option<Arc<Session>>>,
}

impl Session {
    /// The server.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The epoch that its data lives in.
    pub fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    /// Waits, a moment at most, until the ingest tells of another epoch than this.
    pub async fn other_epoch(&self, than: u64) {
        let mut epoch = self.epoch.subscribe();
        let _ = timeout(PATIENCE, epoch.wait_for(|epoch| *epoch != than)).await;
    }

    /// Whether a connection is of this session.
    pub fn has_number(&self, number: u64) -> bool {
        self.number == number
    }

    /// Tells this session's connections from those of others.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Sessions { current: watch::Sender::new(None) }
    }
}

impl Sessions {
    /// The ingest has connected: from now on commands go to this server.
    pub fn begin(
        &self,
        number: u64,
        run: Run,
        epoch: u64,
        info: &ConnectionInfo,
        settings: &RedisSettings,
    ) -> Result<(), RedisError> {
        let pool = pool(info, settings, run.clone())?;
        let session = Session { number, run, pool, epoch: watch::Sender::new(epoch) };
        self.current.send_replace(Some(Arc::new(session)));
        Ok(())
    }

    /// The ingest has heard a tick.
    pub fn ticked(&self, epoch: u64) {
        if let Some(session) = &*self.current.borrow() {
            session.epoch.send_if_modified(|known| std::mem::replace(known, epoch) != epoch);
        }
    }

    /// The ingest's connection is gone, and with it all others.
    pub fn end(&self) {
        self.current.send_replace(None);
    }

    /// The session, or the next one if it begins soon. Without one nothing is sent.
    pub async fn get(&self) -> Result<Arc<Session>, RedisError> {
        let known = self.current.borrow().clone();
        if let Some(session) = known {
            return Ok(session);
        }
        let mut current = self.current.subscribe();
        let session = timeout(PATIENCE, current.wait_for(Option::is_some)).await;
        let session = session.ok().and_then(|session| session.ok()?.clone());
        session.ok_or_else(|| {
            let why = "live events are interrupted, so nothing is sent".to_owned();
            RedisError::from((ErrorKind::Io, "no session", why))
        })
    }

    /// Whether what was answered in this session still holds: it lasts, or another one is with the same server in the
    /// same epoch.
    pub async fn confirms(&self, session: &Arc<Session>) -> bool {
        match self.get().await {
            Ok(now) if now.number == session.number => true,
            Ok(now) => now.run == session.run && now.epoch() == session.epoch(),
            Err(_) => false,
        }
    }
}

/// Makes sure that a connection leads to this server, and not to another one of the same name.
pub async fn check_server(
    connection: &mut MultiplexedConnection,
    run: &str,
) -> Result<(), RedisError> {
    let info: String = redis::cmd("INFO").arg("server").query_async(connection).await?;
    if run_id(&info) == Some(run) {
        return Ok(());
    }
    let why = "it is not the one that live events come from".to_owned();
    Err(RedisError::from((ErrorKind::Io, "another server answers", why)))
}

/// The `run_id` in an answer of `INFO`.
pub fn run_id(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("run_id:"))
}

/// Connections for one command at a time, each checked to lead to this server.
fn pool(info: &ConnectionInfo, settings: &RedisSettings, run: Run) -> Result<Pool, RedisError> {
    let manager = Manager::new_with_config(info.clone(), settings.connections())?;
    let mut config = PoolConfig::new(settings.pool_size);
    config.timeouts = Timeouts {
        wait: Some(settings.answer_timeout),
        create: Some(settings.connect_timeout),
        recycle: Some(settings.check_timeout()),
    };
    // To connect anew costs little, and whatever is in between may have forgotten the old connection.
    let young = Hook::sync_fn(|_: &mut MultiplexedConnection, metrics: &Metrics| {
        match metrics.last_used() < IDLE {
            true => Ok(()),
            false => Err(HookError::message("it was idle for too long")),
        }
    });
    let check = Hook::async_fn(move |connection: &mut MultiplexedConnection, _| {
        let run = run.clone();
        Box::pin(async move { check_server(connection, &run).await.map_err(HookError::Backend) })
    });
    let pool = Pool::builder(manager)
        .config(config)
        .runtime(Runtime::Tokio1)
        .post_create(check)
        .pre_recycle(young)
        .build();
    Ok(pool.expect("a runtime is named, which is all that can be missing"))
}
