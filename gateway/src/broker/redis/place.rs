//! Where a partition's master is.
//!
//! The ingest asks at the beginning of every session. The server that it is told is the session's
//! server: every other connection of the session goes there, too.

use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo, ProtocolVersion, RedisError};

use crate::broker::redis::cluster::Cluster;
use crate::broker::redis::connector::{Connection, SessionError};
use crate::broker::redis::moved::Verdict;
use crate::broker::redis::sentinel::Sentinels;
use crate::broker::redis::settings::{BadRedis, RedisSettings, RedisTls};
use crate::config::redis_url::{BadRedisUrl, RedisUrl};

/// The longest delay between two attempts to find a slot's owner: Redis Cluster tells nobody of a
/// new one.
const CLUSTER_DELAY: Duration = Duration::from_millis(500);

/// Tells where a partition's master is. Clones share what they know.
#[derive(Debug, Clone)]
pub enum Place {
    /// A fixed address. After a failover it must lead to the new master.
    Url(Box<Server>),
    /// The master that Sentinels name.
    Sentinel(Arc<Sentinels>),
    /// The owner of a slot of a Redis Cluster.
    Cluster {
        /// Shared by all partitions.
        cluster: Arc<Cluster>,
        /// The partition's slot.
        slot: u16,
    },
}

/// A Redis server, with everything that a connection to it needs.
#[derive(Debug, Clone)]
pub struct Server {
    info: ConnectionInfo,
    tls: RedisTls,
    addr: Arc<str>,
}

impl Place {
    /// The place that the settings name, of slot 0. Reads the PEM files; fails if a file or the
    /// address is invalid.
    pub fn of(settings: &RedisSettings) -> Result<Self, BadRedis> {
        let all = |infos: Vec<ConnectionInfo>| -> Result<Vec<Server>, BadRedis> {
            infos.into_iter().map(|info| settings.server(info)).collect()
        };
        Ok(match RedisUrl::parse(&settings.url)? {
            RedisUrl::Server(info) => {
                let server = settings.server(info)?;
                server.client().map_err(BadRedisUrl::new)?;
                Place::Url(Box::new(server))
            }
            RedisUrl::Sentinel { sentinels, name, master } => {
                let template = settings.server(master)?;
                Place::Sentinel(Arc::new(Sentinels::new(all(sentinels)?, name, template)))
            }
            RedisUrl::Cluster(nodes) => {
                Place::Cluster { cluster: Arc::new(Cluster::new(all(nodes)?)), slot: 0 }
            }
        })
    }

    /// The same place, of another slot.
    pub(crate) fn at_slot(&self, slot: u16) -> Self {
        match self {
            Place::Cluster { cluster, .. } => Place::Cluster { cluster: cluster.clone(), slot },
            other => other.clone(),
        }
    }

    /// Where the master is now. The ingest still checks that the server there is one.
    pub async fn master(&self) -> Result<Server, SessionError> {
        match self {
            Place::Url(server) => Ok((**server).clone()),
            Place::Sentinel(sentinels) => sentinels.master().await,
            Place::Cluster { cluster, slot } => cluster.owner(*slot).await,
        }
    }

    /// The masters of a Redis Cluster, each with those of these slots that it owns. `None` elsewhere.
    pub(crate) async fn shares(
        &self,
        slots: &[u16],
    ) -> Result<Option<Vec<(Server, Vec<u16>)>>, SessionError> {
        match self {
            Place::Cluster { cluster, .. } => cluster.shares(slots).await.map(Some),
            _ => Ok(None),
        }
    }

    /// Waits until the master is known to be another one than `server`, and returns its address.
    /// Waits for ever where nobody tells.
    pub(crate) async fn other_than(&self, server: &Server) -> String {
        match self {
            Place::Sentinel(sentinels) => sentinels.other_than(server).await,
            Place::Url(_) | Place::Cluster { .. } => std::future::pending().await,
        }
    }

    /// Takes in why a session ended.
    pub(crate) fn ended(&self, error: &SessionError) {
        if let (Place::Cluster { cluster, .. }, SessionError::Refused(text)) = (self, error) {
            cluster.heard(text);
        }
    }

    /// Asks the server of the last session where the partition went.
    pub(crate) async fn gives(&self) {
        if let Place::Cluster { cluster, slot } = self {
            cluster.gives(*slot).await;
        }
    }

    /// The longest delay between two attempts to reach the master, if `longest` is configured.
    pub(crate) fn longest_delay(&self, longest: Duration) -> Duration {
        match self {
            Place::Cluster { .. } => longest.min(CLUSTER_DELAY),
            _ => longest,
        }
    }

    /// Whether another process may have written a partition's state without any loss, because Redis
    /// Cluster moves partitions.
    pub(crate) fn moves_partitions(&self) -> bool {
        matches!(self, Place::Cluster { .. })
    }

    /// How the partition came to the server at the other end of this connection. `wrote` are the run
    /// id and the replication id that its state names. Waits for other servers no longer than
    /// `patience`.
    pub(crate) async fn judge(
        &self,
        wrote: (&str, &str),
        connection: &mut Connection,
        patience: Duration,
    ) -> Verdict {
        match self {
            Place::Cluster { cluster, slot } => {
                cluster.judge(*slot, wrote, connection, patience).await
            }
            _ => Verdict::Lost,
        }
    }

    /// Notes that a session with this master, at the other end of the connection, begins.
    pub(crate) async fn begins(
        &self,
        server: &Server,
        connection: &mut Connection,
    ) -> Result<(), SessionError> {
        match self {
            Place::Cluster { cluster, slot } => cluster.begins(*slot, server, connection).await,
            _ => Ok(()),
        }
    }

    /// Notes that the master of a session answered a tick.
    pub(crate) fn ticks(&self) {
        if let Place::Cluster { cluster, slot } = self {
            cluster.ticks(*slot);
        }
    }

    /// The address to name in messages before a master is known.
    pub(crate) fn addr(&self) -> Arc<str> {
        match self {
            Place::Url(server) => server.addr.clone(),
            Place::Sentinel(sentinels) => sentinels.addrs().into(),
            Place::Cluster { cluster, .. } => cluster.addrs().into(),
        }
    }
}

impl Server {
    /// A server at this address, with credentials and TLS.
    pub(crate) fn new(info: ConnectionInfo, tls: RedisTls) -> Self {
        let addr = info.addr().to_string().into();
        Server { info, tls, addr }
    }

    /// The server at another address, with the same credentials and TLS.
    pub(crate) fn at(&self, host: &str, port: u16) -> Self {
        let addr = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        Server::new(self.info.clone().set_addr(addr), self.tls.clone())
    }

    /// The host; `None` for a Unix socket.
    pub(crate) fn host(&self) -> Option<&str> {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host),
            _ => None,
        }
    }

    /// The address, with credentials and the settings of connections.
    pub(crate) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// The certificates for the ingest's TLS connection.
    pub(crate) fn tls(&self) -> &RedisTls {
        &self.tls
    }

    /// The address without credentials, for messages.
    pub(crate) fn addr(&self) -> &Arc<str> {
        &self.addr
    }

    /// Creates a client whose connections report when they end. That needs RESP3.
    pub(crate) fn client(&self) -> Result<redis::Client, RedisError> {
        let settings = self.info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        redis::Client::open(self.info.clone().set_redis_settings(settings))
    }
}
