//! What the Redis broker needs to know of the configuration, how it connects by it, and the limits that Redis holds for
//! all writers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, ClientTlsConfig, ConnectionInfo, ProtocolVersion, RedisError,
    TlsCertificates,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Config;
use crate::config::pem::{self, BadFile, PemFile};
use crate::config::redis_url::{BadRedisUrl, connection_info};

/// Idle time after which the kernel asks whether Redis is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The limits that Redis holds for all writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Events a history keeps.
    pub max_len: u64,
    /// How long an event is kept at least.
    pub ttl: Duration,
    /// Bytes of one event's data.
    pub max_data: u64,
    /// How long an idempotency key is remembered.
    pub idempotency_ttl: Duration,
    /// The operator's word that acknowledged writes survive a restart of Redis.
    pub durable: bool,
}

impl fmt::Display for HistoryLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "history.max_len {}, history.ttl {}, publish.max_event_bytes {}, publish.idempotency_ttl {}, \
             redis.durable {}",
            self.max_len,
            humantime::format_duration(self.ttl),
            self.max_data,
            humantime::format_duration(self.idempotency_ttl),
            self.durable,
        )
    }
}

/// What the broker needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://`, `rediss://` or `redis+unix://`, with user and password.
    pub url: String,
    /// A PEM file of the authorities that its certificate may come from; empty for the machine's.
    pub ca: String,
    /// A PEM file of the certificate that it is shown; empty for none.
    pub certificate: String,
    /// A PEM file of that one's key.
    pub key: String,
    /// What every name in Redis begins with.
    pub prefix: String,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer may take before its connection counts as broken.
    pub answer_timeout: Duration,
    /// How long a client's request may wait for Redis as a whole.
    pub request_timeout: Duration,
    /// The longest wait between attempts to connect.
    pub reconnect_max: Duration,
    /// Time between ticks.
    pub tick: Duration,
    /// How long a channel stays subscribed after its last subscriber left.
    pub linger: Duration,
    /// Whether other gateways' calls to read revocations are heard: where nobody has to show anything, there are none.
    pub hear_revocations: bool,
    /// Connections for publishing and reading.
    pub pool_size: usize,
    /// The least time between two calls of the line while several publishers use it.
    pub gather: Duration,
    /// Bytes of events in one range of a read.
    pub page_bytes: usize,
    /// The limits this gateway would set.
    pub limits: HistoryLimits,
}

impl RedisSettings {
    /// The part of a configuration that the Redis broker needs.
    pub fn of(config: &Config) -> Self {
        let redis = config.redis.clone();
        RedisSettings {
            url: redis.url,
            ca: redis.ca,
            certificate: redis.certificate,
            key: redis.key,
            prefix: redis.prefix,
            connect_timeout: redis.connect_timeout,
            answer_timeout: redis.answer_timeout,
            request_timeout: redis.request_timeout,
            reconnect_max: redis.reconnect_max,
            tick: redis.tick,
            linger: redis.linger,
            hear_revocations: !config.auth.is_open(),
            pool_size: redis.pool_size,
            gather: redis.gather,
            page_bytes: config.history.page_bytes,
            limits: HistoryLimits {
                max_len: config.history.max_len.into(),
                ttl: config.history.ttl,
                max_data: config.publish.max_event_bytes.into(),
                idempotency_ttl: config.publish.idempotency_ttl,
                durable: redis.durable,
            },
        }
    }

    /// Where Redis is, and how connections to it are kept: one that is idle is asked by the kernel whether it is still
    /// there, so that nothing in between (NAT, IPVS, a balancer) forgets it; one that does not answer ends.
    pub fn connection_info(&self) -> Result<ConnectionInfo, BadRedis> {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive)
            .set_user_timeout(self.answer_timeout);
        let info = connection_info(&self.url)?.set_tcp_settings(tcp);
        let [ca, certificate, key] = self.pem_files();
        if ca.is_none() && certificate.is_none() {
            return Ok(info);
        }
        let read = |file: PemFile| file.read();
        let (ca, certificate, key) = (
            ca.map(read).transpose()?,
            certificate.map(read).transpose()?,
            key.map(read).transpose()?,
        );
        let client_tls = certificate
            .zip(key)
            .map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        let files = TlsCertificates { client_tls, root_cert: ca };
        let client = redis::Client::build_with_tls(info, files).map_err(BadRedisUrl::new)?;
        Ok(client.get_connection_info().clone())
    }

    fn pem_files(&self) -> [Option<PemFile>; 3] {
        [
            PemFile::of("redis.ca", &self.ca),
            PemFile::of("redis.certificate", &self.certificate),
            PemFile::of("redis.key", &self.key),
        ]
    }

    /// What TLS to Redis is made of; reads the files.
    pub fn tls(&self) -> Result<RedisTls, BadFile> {
        let [ca, certificate, key] = self.pem_files();
        let authorities = ca.map(|file| file.authorities()).transpose()?.map(Arc::new);
        let identity = certificate.zip(key).map(|(certificate, key)| {
            pem::certified_key(&certificate, &key)?;
            Ok((certificate.certificates()?, Arc::new(key.private_key()?)))
        });
        Ok(RedisTls { authorities, identity: identity.transpose()? })
    }

    /// How long it may take to find out whether a connection that was idle is still there. A server that is slower gets a
    /// new connection.
    pub(crate) fn check_timeout(&self) -> Duration {
        self.answer_timeout.min(Duration::from_secs(1))
    }

    /// How long connecting and answers may take.
    pub(crate) fn connections(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.answer_timeout))
    }
}

/// What TLS to Redis is made of.
#[derive(Clone)]
pub struct RedisTls {
    /// None for the machine's.
    pub authorities: Option<Arc<RootCertStore>>,
    /// The certificates that Redis is shown, and the key.
    pub identity: Option<(Vec<CertificateDer<'static>>, Arc<PrivateKeyDer<'static>>)>,
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls").finish_non_exhaustive()
    }
}

/// Something about Redis in the configuration is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BadRedis {
    /// Its address.
    #[error(transparent)]
    Url(#[from] BadRedisUrl),
    /// A file.
    #[error(transparent)]
    File(#[from] BadFile),
}

/// Opens connections that tell when they have ended, which takes RESP3.
pub(crate) fn client(info: &ConnectionInfo) -> Result<redis::Client, RedisError> {
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    redis::Client::open(info.clone().set_redis_settings(settings))
}
