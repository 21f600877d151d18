//! Parses `redis.url` and refuses URLs that the gateway cannot use.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use rustls::pki_types::ServerName;

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

/// Parses the URL. Refuses TLS without certificate checks, a host that is no valid TLS name, and a
/// database other than 0.
pub(crate) fn connection_info(url: &str) -> Result<ConnectionInfo, BadRedisUrl> {
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

/// Whether a valid URL uses TLS; false for an invalid one.
pub(crate) fn speaks_tls(url: &str) -> bool {
    connection_info(url).is_ok_and(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. }))
}
