//! Parses `redis.url` and refuses URLs that the gateway cannot use.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use rustls::pki_types::ServerName;
use sse_contract::Address;

/// `redis.url` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("redis.url: {0}")]
pub struct BadRedisUrl(String);

impl BadRedisUrl {
    /// Wraps the error of a library.
    pub fn new(error: impl fmt::Display) -> Self {
        BadRedisUrl(error.to_string())
    }

    /// What is wrong, without the setting's name.
    pub fn what(&self) -> &str {
        &self.0
    }
}

/// What `redis.url` names.
#[derive(Debug, Clone)]
pub(crate) enum RedisUrl {
    /// One server.
    Server(ConnectionInfo),
    /// The master that Sentinels watch over.
    Sentinel {
        /// At least one.
        sentinels: Vec<ConnectionInfo>,
        /// What they call the master.
        name: String,
        /// The master's credentials, at another address than its own.
        master: ConnectionInfo,
    },
    /// Some nodes of a Redis Cluster, at least one.
    Cluster(Vec<ConnectionInfo>),
}

impl RedisUrl {
    /// Parses the URL. Of several servers, each must be one that the gateway can use.
    pub(crate) fn parse(url: &str) -> Result<Self, BadRedisUrl> {
        let all = |urls: &[String]| -> Result<Vec<_>, _> {
            urls.iter().map(|url| connection_info(url)).collect()
        };
        Ok(match Address::parse(url).map_err(BadRedisUrl::new)? {
            Address::Server(url) => RedisUrl::Server(connection_info(&url)?),
            Address::Cluster(nodes) => RedisUrl::Cluster(all(&nodes)?),
            Address::Sentinel { sentinels, name, master } => RedisUrl::Sentinel {
                sentinels: all(&sentinels)?,
                name,
                master: connection_info(&master)?,
            },
        })
    }
}

/// Parses the URL of one server. Refuses TLS without certificate checks, a host that is no valid TLS name, and a
/// database other than 0.
fn connection_info(url: &str) -> Result<ConnectionInfo, BadRedisUrl> {
    let odd = |what: &dyn fmt::Display| {
        BadRedisUrl(format!("{what}; write it as redis://user:password@host:6379"))
    };
    if url.is_empty() {
        return Err(odd(&"it is empty"));
    }
    let info = url.into_connection_info().map_err(|error| odd(&error))?;
    if let ConnectionAddr::TcpTls { host, insecure, .. } = info.addr() {
        if *insecure {
            return Err(odd(&"TLS without checking the certificate is refused"));
        }
        if ServerName::try_from(host.as_str()).is_err() {
            return Err(odd(&format_args!("{host:?} is no name for TLS")));
        }
    }
    if info.redis_settings().db() != 0 {
        let text = "a database number other than 0 is refused, because pub/sub ignores databases; \
                    use redis.prefix to keep several gateways apart on one Redis";
        return Err(BadRedisUrl(text.to_owned()));
    }
    Ok(info)
}

/// Whether a valid URL names a Redis Cluster.
pub(crate) fn names_cluster(url: &str) -> bool {
    matches!(Address::parse(url), Ok(Address::Cluster(_)))
}

/// Whether a valid URL uses TLS; false for an invalid one.
pub(crate) fn speaks_tls(url: &str) -> bool {
    let first = match RedisUrl::parse(url) {
        Ok(RedisUrl::Server(info) | RedisUrl::Sentinel { master: info, .. }) => Some(info),
        Ok(RedisUrl::Cluster(nodes)) => nodes.into_iter().next(),
        Err(_) => None,
    };
    first.is_some_and(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. }))
}
