//! The settings of the Redis broker, how it connects with them, and the limits that Redis holds for
//! all writers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{AsyncConnectionConfig, ClientTlsConfig, ConnectionInfo, TlsCertificates};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::broker::redis::place::Server;
use crate::config::Config;
use crate::config::pem::{self, BadFile, PemFile};
use crate::config::redis_url::{self, BadRedisUrl};

/// After this idle time the kernel probes whether Redis is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How many partitions there are in a Redis Cluster, if the configuration does not say.
const CLUSTER_PARTITIONS: u16 = 16;

/// The limits that Redis holds for all writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Events a history keeps at least (Redis trims to about this many); 0 keeps none.
    pub max_len: u64,
    /// How long an event is kept at least.
    pub ttl: Duration,
    /// Bytes of one event's data at most.
    pub max_data: u64,
    /// How long an idempotency key is remembered.
    pub idempotency_ttl: Duration,
    /// Whether the operator vouches that acknowledged writes survive a restart of Redis.
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

/// The part of the configuration that the Redis broker needs.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// The address of Redis: `redis://`, `rediss://` or `redis+unix://`, with user and password.
    pub url: String,
    /// Path of a PEM file with the authorities that Redis' certificate may come from. Empty means
    /// the authorities of this machine.
    pub ca: String,
    /// Path of a PEM file with the certificate to show to Redis. Empty means none.
    pub certificate: String,
    /// Path of a PEM file with the key of `certificate`.
    pub key: String,
    /// The prefix of every name in Redis.
    pub prefix: String,
    /// Into how many partitions the channels are divided.
    pub partitions: u16,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer may take before its connection counts as broken.
    pub answer_timeout: Duration,
    /// How long a client's request may wait for Redis in all.
    pub request_timeout: Duration,
    /// The longest delay between attempts to connect.
    pub reconnect_max: Duration,
    /// Time between ticks.
    pub tick: Duration,
    /// How long a channel stays subscribed after its last subscriber left.
    pub linger: Duration,
    /// Whether to subscribe to the channel on which gateways announce revocations. False if access
    /// is open to everybody: then there is nothing to revoke.
    pub hear_revocations: bool,
    /// Connections of the pool, for batches and reads.
    pub pool_size: usize,
    /// The least time between two calls of the publish thread while several publishers send many events.
    pub gather: Duration,
    /// Bytes of events in one range of a read at most.
    pub page_bytes: usize,
    /// The limits that this gateway is configured for. Redis may hold others.
    pub limits: HistoryLimits,
}

impl RedisSettings {
    /// Takes the part that the Redis broker needs out of a configuration.
    pub fn of(config: &Config) -> Self {
        let redis = config.redis.clone();
        let cluster = redis_url::names_cluster(&redis.url);
        RedisSettings {
            url: redis.url,
            ca: redis.ca,
            certificate: redis.certificate,
            key: redis.key,
            prefix: redis.prefix,
            partitions: match redis.partitions {
                0 if cluster => CLUSTER_PARTITIONS,
                0 => 1,
                number => number,
            },
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

    /// A server at this address, with the settings of its connections. The kernel probes an idle
    /// connection, so that nothing on the way (NAT, IPVS, a balancer) forgets it, and ends one
    /// whose peer does not answer. Reads the PEM files; fails if a file or the address is invalid.
    pub(crate) fn server(&self, info: ConnectionInfo) -> Result<Server, BadRedis> {
        Ok(Server::new(self.connection_info(info)?, self.tls()?))
    }

    fn connection_info(&self, info: ConnectionInfo) -> Result<ConnectionInfo, BadRedis> {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive)
            .set_user_timeout(self.answer_timeout);
        let info = info.set_tcp_settings(tcp);
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

    /// Reads the PEM files for the ingest's TLS connection; fails if one is invalid.
    pub fn tls(&self) -> Result<RedisTls, BadFile> {
        let [ca, certificate, key] = self.pem_files();
        let authorities = ca.map(|file| file.authorities()).transpose()?.map(Arc::new);
        let identity = certificate.zip(key).map(|(certificate, key)| {
            pem::certified_key(&certificate, &key)?;
            Ok((certificate.certificates()?, Arc::new(key.private_key()?)))
        });
        Ok(RedisTls { authorities, identity: identity.transpose()? })
    }

    /// How long the check of an idle connection may take. A server that answers more slowly gets a
    /// new connection.
    pub(crate) fn check_timeout(&self) -> Duration {
        self.answer_timeout.min(Duration::from_secs(1))
    }

    /// The time limits of connections outside the ingest.
    pub(crate) fn connections(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.answer_timeout))
    }
}

/// The certificates for TLS to Redis.
#[derive(Clone)]
pub struct RedisTls {
    /// The authorities that Redis' certificate may come from. `None` means those of this machine.
    pub authorities: Option<Arc<RootCertStore>>,
    /// The certificate chain to show to Redis, and its key. `None` shows no certificate.
    pub identity: Option<(Vec<CertificateDer<'static>>, Arc<PrivateKeyDer<'static>>)>,
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls").finish_non_exhaustive()
    }
}

/// A setting for Redis is invalid.
#[derive(Debug, thiserror::Error)]
pub enum BadRedis {
    /// The address.
    #[error(transparent)]
    Url(#[from] BadRedisUrl),
    /// A PEM file.
    #[error(transparent)]
    File(#[from] BadFile),
}
