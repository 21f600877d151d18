//! One session with a Redis master: the ingest's connection, and all other connections to the same
//! process of the same server.
//!
//! Events must be published to, and read from, the master that live events come from. A master that
//! stood still while it was deposed may wake up and answer on its old connections. It loses
//! whatever it acknowledges then, as soon as it learns that it was deposed.
//!
//! So a session begins and ends with the ingest's connection. Commands go only to the server that
//! the ingest is connected to. An answer counts only while the session lasts, or if the next
//! session is with the same server in the same epoch.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{Hook, HookError, Manager, Metrics, Pool, PoolConfig, Runtime, Timeouts};
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::broker::redis::place::Server;
use crate::broker::redis::settings::RedisSettings;

/// How long a command waits for a session: about as long as the ingest's first attempts to
/// reconnect take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A pooled connection that was idle for longer is discarded.
const IDLE: Duration = Duration::from_secs(60);

/// Names one process of a Redis server: its `run_id`.
pub type Run = Arc<str>;

/// A session, which begins with the first tick.
#[derive(Debug)]
pub struct Session {
    number: u64,
    server: Server,
    run: Run,
    /// Whether an epoch goes on at another server only if the partition was moved there as a whole.
    keeps_moved: bool,
    /// Connections to this server, each used for one command at a time.
    pub(crate) pool: Pool,
    /// The epoch of the ingest's last tick.
    epoch: watch::Sender<u64>,
}

/// The current session, if there is one.
#[derive(Debug)]
pub struct Sessions {
    current: watch::Sender<Option<Arc<Session>>>,
}

impl Session {
    /// The session's server, which every connection of the session goes to.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// The `run_id` of the session's server.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The epoch of the ingest's last tick.
    pub fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    /// Waits until the ingest hears of an epoch other than `than`, for a second at most.
    pub async fn other_epoch(&self, than: u64) {
        let mut epoch = self.epoch.subscribe();
        let _ = timeout(PATIENCE, epoch.wait_for(|epoch| *epoch != than)).await;
    }

    /// Whether this is the session with this number.
    pub fn has_number(&self, number: u64) -> bool {
        self.number == number
    }

    /// The number that tells this session from all others of this gateway.
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
    /// Begins a session after the ingest has connected to `server`: from now on commands go there.
    /// `keeps_moved` is whether the epoch proves that a partition was moved there as a whole
    /// ([`Sessions::confirms`]). Fails if the address cannot be used for a pool.
    pub fn begin(
        &self,
        number: u64,
        server: Server,
        run: Run,
        epoch: u64,
        keeps_moved: bool,
        settings: &RedisSettings,
    ) -> Result<(), RedisError> {
        let pool = pool(&server, settings, run.clone())?;
        let epoch = watch::Sender::new(epoch);
        let session = Session { number, server, run, keeps_moved, pool, epoch };
        self.current.send_replace(Some(Arc::new(session)));
        Ok(())
    }

    /// Records the epoch of a tick that the ingest has received.
    pub fn ticked(&self, epoch: u64) {
        if let Some(session) = &*self.current.borrow() {
            session.epoch.send_if_modified(|known| std::mem::replace(known, epoch) != epoch);
        }
    }

    /// Ends the session, because the ingest's connection is gone. Every other connection ends with
    /// it.
    pub fn end(&self) {
        self.current.send_replace(None);
    }

    /// The current session, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Session>> {
        self.current.borrow().clone()
    }

    /// Returns the current session, or the next one if it begins within a second. Fails with an I/O
    /// error otherwise: without a session nothing is sent.
    pub async fn get(&self) -> Result<Arc<Session>, RedisError> {
        if let Some(session) = self.current() {
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

    /// The number of the current session, if there is one.
    pub(crate) fn number(&self) -> Option<u64> {
        self.current.borrow().as_ref().map(|session| session.number)
    }

    /// Waits for a session other than the one with this number.
    pub(crate) async fn after(&self, number: Option<u64>) {
        let mut current = self.current.subscribe();
        let other = |session: &Option<Arc<Session>>| {
            session.as_ref().is_some_and(|session| Some(session.number) != number)
        };
        // The sender lives as long as `self`.
        let _ = current.wait_for(other).await;
    }

    /// Whether an answer of this session still counts: the session lasts, or the next one is of the
    /// same epoch, and with the same server or in a Redis Cluster. There an epoch goes on at another
    /// server only if the whole partition was moved there, with what was acknowledged before. Waits
    /// up to a second for a next session.
    pub async fn confirms(&self, session: &Arc<Session>) -> bool {
        match self.get().await {
            Ok(now) if now.number == session.number => true,
            Ok(now) => {
                let same = now.run == session.run || now.keeps_moved;
                same && now.epoch() == session.epoch()
            }
            Err(_) => false,
        }
    }
}

/// Checks that a connection leads to the server with this `run_id`, not to another one behind the
/// same name. Fails with an I/O error if it does not.
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

/// Finds the `run_id` in an answer of `INFO`.
pub fn run_id(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("run_id:"))
}

/// Creates a pool of connections, each of which is checked to lead to this server.
fn pool(server: &Server, settings: &RedisSettings, run: Run) -> Result<Pool, RedisError> {
    let manager = Manager::new_with_config(server.info().clone(), settings.connections())?;
    let mut config = PoolConfig::new(settings.pool_size);
    config.timeouts = Timeouts {
        wait: Some(settings.answer_timeout),
        create: Some(settings.connect_timeout),
        recycle: Some(settings.check_timeout()),
    };
    // A firewall or balancer on the way may have forgotten an idle connection, and a new one costs
    // little.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::redis::place::Place;
    use crate::config::Config;

    #[tokio::test]
    async fn an_answer_counts_where_the_next_session_has_what_was_written() {
        let config = Config::load(None, std::iter::empty(), &[]).unwrap();
        let settings = RedisSettings::of(&config);
        let server = Place::of(&settings).unwrap().master().await.unwrap();
        for (run, epoch, keeps_moved, counts) in [
            ("a", 1, false, true),
            ("a", 2, false, false),
            ("a", 2, true, false),
            ("b", 1, false, false),
            ("b", 1, true, true),
            ("b", 2, true, false),
        ] {
            let sessions = Sessions::default();
            let begin = |number, run: &str, epoch, keeps_moved| {
                let begun = sessions.begin(
                    number,
                    server.clone(),
                    run.into(),
                    epoch,
                    keeps_moved,
                    &settings,
                );
                begun.unwrap();
            };
            begin(1, "a", 1, keeps_moved);
            let session = sessions.get().await.unwrap();
            assert!(sessions.confirms(&session).await, "it lasts");
            begin(2, run, epoch, keeps_moved);
            let told = sessions.confirms(&session).await;
            assert_eq!(told, counts, "{run} {epoch} {keeps_moved}");
        }
    }
}
