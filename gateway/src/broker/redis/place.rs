//! Where a partition's master is.
//!
//! The ingest asks at the beginning of every session. The server that it is told is the session's
//! server: every other connection of the session goes there, too.

use std::sync::Arc;

use redis::{ConnectionInfo, ProtocolVersion, RedisError};

use crate::broker::redis::connector::SessionError;
use crate::broker::redis::settings::{BadRedis, RedisSettings, RedisTls};
use crate::config::redis_url::BadRedisUrl;

/// Tells where a partition's master is. Clones share what they know.
#[derive(Debug, Clone)]
pub enum Place {
    /// A fixed address. After a failover it must lead to the new master.
    Url(Server),
}

/// A Redis server, with everything that a connection to it needs.
#[derive(Debug, Clone)]
pub struct Server {
    info: ConnectionInfo,
    tls: RedisTls,
    addr: Arc<str>,
}

impl Place {
    /// The place that the settings name. Reads the PEM files; fails if a file or the address is
    /// invalid.
    pub fn of(settings: &RedisSettings) -> Result<Self, BadRedis> {
        let server = Server::new(settings.connection_info()?, settings.tls()?);
        server.client().map_err(BadRedisUrl::new)?;
        Ok(Place::Url(server))
    }

    /// Where the master is now. The ingest still checks that the server there is one.
    pub async fn master(&self) -> Result<Server, SessionError> {
        match self {
            Place::Url(server) => Ok(server.clone()),
        }
    }

    /// The address to name in messages before a master is known.
    pub(crate) fn addr(&self) -> &Arc<str> {
        match self {
            Place::Url(server) => &server.addr,
        }
    }
}

impl Server {
    /// A server at this address, with credentials and TLS.
    pub(crate) fn new(info: ConnectionInfo, tls: RedisTls) -> Self {
        let addr = info.addr().to_string().into();
        Server { info, tls, addr }
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
