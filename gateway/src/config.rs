//! The configuration: one struct of sections, read and checked once, before the gateway binds a
//! port.
//!
//! Later layers override earlier ones: embedded defaults, file, environment, flags ([`sources`]). A
//! configuration that `--check-config` accepts also starts: every value is parsed into its final
//! type, within bounds that the code can handle ([`checks`]). An error names the setting, where it
//! was given, its value and what is allowed.

pub mod api_key_line;
pub mod checks;
pub mod issuer_line;
pub(crate) mod limits;
pub(crate) mod log_filter;
pub(crate) mod names;
pub mod origins;
pub(crate) mod pem;
pub(crate) mod redis_url;
pub mod shown;
pub(crate) mod slow_readers;
pub mod sources;
pub(crate) mod trusted_proxies;
pub mod words;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hyper::header::HeaderName;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use sse_contract::pattern::Pattern;
use sse_contract::{Channel, Keys};
use url::Url;

use crate::config::api_key_line::ApiKeyLine;
use crate::config::issuer_line::{IssuerLine, as_url};
use crate::config::log_filter::LogFilter;
use crate::config::origins::AllowedOrigins;
use crate::config::redis_url::RedisUrl;
use crate::config::shown::shown;
pub use crate::config::slow_readers::{SlowReader, SlowReaderRule};
use crate::config::sources::{Flag, Setting, Settings};
use crate::config::trusted_proxies::{ForwardedHeader, TrustedProxies};

/// The documented defaults, which are also the reference of all settings.
pub const DEFAULTS: &str = include_str!("config/defaults.toml");

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each key is documented in defaults.toml")]
pub struct Config {
    pub broker: BrokerKind,
    pub server: ServerConfig,
    pub admin: AdminConfig,
    pub auth: AuthConfig,
    pub limits: LimitsConfig,
    pub cors: CorsConfig,
    pub redis: RedisConfig,
    pub tls: TlsConfig,
    pub history: HistoryConfig,
    pub publish: PublishConfig,
    pub stream: StreamConfig,
    pub drain: DrainConfig,
    pub log: LogConfig,
    pub telemetry: TelemetryConfig,
}

/// The setting `broker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum BrokerKind {
    /// Within this process only.
    Memory,
    /// Redis.
    Redis,
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $key:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(missing_docs, reason = "each key is documented in defaults.toml")]
        pub struct $name { $($(#[$attr])* pub $key: $kind,)* }
    };
}

section!(
    /// `[server]`
    ServerConfig {
        #[serde(deserialize_with = "address")] listen: SocketAddr,
        workers: usize,
        backlog: i32,
        max_connections: usize,
        max_requests: usize,
        #[serde(deserialize_with = "duration")] keep_alive: Duration,
        #[serde(deserialize_with = "duration")] head_timeout: Duration,
        max_head_bytes: usize,
        trusted_proxies: TrustedProxies,
        forwarded_header: ForwardedHeader,
        proxy_protocol: bool,
        console: bool,
    }
);
section!(
    /// `[admin]`
    AdminConfig {
        #[serde(deserialize_with = "address")] listen: SocketAddr,
        ready_needs_broker: bool,
        #[serde(deserialize_with = "duration")] probe_interval: Duration,
    }
);
section!(
    /// `[auth]`
    AuthConfig {
        open: bool,
        keys: Vec<ApiKeyLine>,
        cookie: String,
        token_parameter: bool,
        #[serde(deserialize_with = "duration")] revoked_for: Duration,
        anonymous: AnonymousConfig,
        jwt: JwtConfig,
        tickets: TicketConfig,
        forward: ForwardConfig,
    }
);
section!(
    /// `[auth.anonymous]`
    AnonymousConfig { subscribe: Vec<Pattern>, publish: Vec<Pattern>, }
);
section!(
    /// `[auth.jwt]`
    JwtConfig {
        keys: Vec<IssuerLine>,
        #[serde(deserialize_with = "duration")] leeway: Duration,
        require_expiry: bool,
    }
);
section!(
    /// `[auth.tickets]`
    TicketConfig { #[serde(deserialize_with = "duration")] lifetime: Duration, }
);
section!(
    /// `[auth.forward]`
    ForwardConfig {
        #[serde(deserialize_with = "http_url")] url: Option<Url>,
        #[serde(deserialize_with = "header_names")] headers: Vec<HeaderName>,
        #[serde(deserialize_with = "duration")] timeout: Duration,
        #[serde(deserialize_with = "duration")] cache: Duration,
        max_pending: usize,
    }
);
section!(
    /// `[tls]`
    TlsConfig {
        certificate: String,
        key: String,
        client_ca: String,
        publish_needs_certificate: bool,
        admin: bool,
    }
);
section!(
    /// `[limits]`
    LimitsConfig {
        connections_per_address: u32,
        connection_rate_per_address: u32,
        connection_rate: u32,
        streams_per_address: u32,
        streams_per_subject: u32,
        cluster_streams_per_subject: u32,
        publish_rate: u32,
    }
);
section!(
    /// `[cors]`
    CorsConfig {
        origins: AllowedOrigins,
        #[serde(deserialize_with = "header_names")] headers: Vec<HeaderName>,
    }
);
section!(
    /// `[redis]`
    RedisConfig {
        #[serde(deserialize_with = "redis_url")] url: String,
        ca: String,
        certificate: String,
        key: String,
        #[serde(deserialize_with = "prefix")] prefix: String,
        partitions: u16,
        #[serde(deserialize_with = "duration")] connect_timeout: Duration,
        #[serde(deserialize_with = "duration")] answer_timeout: Duration,
        #[serde(deserialize_with = "duration")] request_timeout: Duration,
        #[serde(deserialize_with = "duration")] reconnect_max: Duration,
        #[serde(deserialize_with = "duration")] tick: Duration,
        #[serde(deserialize_with = "duration")] gather: Duration,
        #[serde(deserialize_with = "duration")] linger: Duration,
        durable: bool,
        pool_size: usize,
    }
);
section!(
    /// `[history]`
    HistoryConfig {
        max_len: u32,
        #[serde(deserialize_with = "duration")] ttl: Duration,
        page_bytes: usize,
        memory_bytes: usize,
    }
);
section!(
    /// `[publish]`
    PublishConfig {
        max_event_bytes: u32,
        max_body_bytes: usize,
        max_batch: usize,
        max_lines: u64,
        #[serde(deserialize_with = "duration")] body_timeout: Duration,
        #[serde(deserialize_with = "duration")] idle_timeout: Duration,
        #[serde(deserialize_with = "duration")] idempotency_ttl: Duration,
    }
);
section!(
    /// `[stream]`
    StreamConfig {
        #[serde(deserialize_with = "duration")] heartbeat: Duration,
        #[serde(deserialize_with = "duration")] retry: Duration,
        #[serde(deserialize_with = "duration")] open_wait: Duration,
        max_streams: u64,
        max_channels: usize,
        queue_events: usize,
        queue_bytes: usize,
        inbox_bytes: usize,
        #[serde(deserialize_with = "duration")] progress_deadline: Duration,
        #[serde(deserialize_with = "duration")] max_age: Duration,
        #[serde(deserialize_with = "duration")] coalesce: Duration,
        slow_readers: Vec<SlowReaderRule>,
        takeover: bool,
    }
);
section!(
    /// `[drain]`
    DrainConfig {
        #[serde(deserialize_with = "duration")] spread: Duration,
        #[serde(deserialize_with = "duration")] deadline: Duration,
    }
);
section!(
    /// `[log]`
    LogConfig { format: LogFormat, level: LogFilter, }
);
section!(
    /// `[telemetry]`
    TelemetryConfig {
        #[serde(deserialize_with = "collector_url")] otlp: Option<Url>,
        #[serde(deserialize_with = "ratio")] sample_ratio: f64,
    }
);

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// The configuration is invalid. The message is one line and names the setting at fault.
#[derive(Debug, thiserror::Error)]
#[error("configuration: {0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// An error with this text, joined to one line.
    pub(crate) fn new(text: String) -> Self {
        ConfigError(text.split('\n').map(str::trim).collect::<Vec<_>>().join(" "))
    }

    /// An error about a setting's value.
    pub(crate) fn at(key: &str, setting: &Setting, what: impl std::fmt::Display) -> Self {
        let Setting { value, place } = setting;
        ConfigError::new(format!("{key} = {} ({place}): {what}", shown(key, value)))
    }
}

impl Config {
    /// Loads all layers and checks the result. `env` is the process's environment; `flags` are the
    /// `key=value` pairs of `--set`.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (OsString, OsString)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        Self::read(file, env, &self::flags(flags))
    }

    /// Like [`Config::load`], for flags with names of their own such as `--listen`.
    pub fn read(
        file: Option<&Path>,
        env: impl Iterator<Item = (OsString, OsString)>,
        flags: &[Flag],
    ) -> Result<Self, ConfigError> {
        Self::with_settings(file, env, flags).map(|(config, _)| config)
    }

    /// Like [`Config::read`]. Also returns each value with the place where it was given.
    pub fn with_settings(
        file: Option<&Path>,
        env: impl Iterator<Item = (OsString, OsString)>,
        flags: &[Flag],
    ) -> Result<(Self, Settings), ConfigError> {
        let mut settings = Settings::defaults().clone();
        if let Some(file) = file {
            settings.add_file(file)?;
        }
        settings.add_environment(env)?;
        settings.add_flags(flags)?;
        checks::broker(&mut settings)?;
        checks::bounds(&settings)?;
        let config = Config::parse(&settings)?;
        checks::together(&config, &settings)?;
        Ok((config, settings))
    }

    /// Parses each value into its type.
    fn parse(settings: &Settings) -> Result<Self, ConfigError> {
        let built = config::Config::builder().add_source(settings.clone()).build();
        let built = built.map_err(|error| ConfigError::new(error.to_string()))?;
        serde_path_to_error::deserialize(built).map_err(|error| {
            let path = error.path().to_string();
            // The path of a list item is `key[n]`; the error names the key and shows the item's
            // text.
            let key = path.split('[').next().unwrap_or_default();
            ConfigError::at(key, settings.get(key), what(error.inner()))
        })
    }
}

/// The flags of these `key=value` pairs of `--set`.
fn flags(pairs: &[(String, String)]) -> Vec<Flag> {
    let set = |(key, value): &(String, String)| {
        let (key, value) = (key.clone(), value.clone());
        Flag { name: format!("--set {key}"), key, value }
    };
    pairs.iter().map(set).collect()
}

/// The innermost error, because [`ConfigError::at`] adds key and place itself.
fn what(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::At { error, .. } => what(error),
        other => other.to_string(),
    }
}

impl AuthConfig {
    /// Whether any setting says who may do what.
    pub fn is_configured(&self) -> bool {
        let anonymous = &self.anonymous;
        !self.keys.is_empty()
            || !self.jwt.keys.is_empty()
            || self.forward.url.is_some()
            || !anonymous.subscribe.is_empty()
            || !anonymous.publish.is_empty()
    }

    /// Whether everybody who reaches the public port may do everything.
    pub fn is_open(&self) -> bool {
        self.open || !self.is_configured()
    }
}

impl TlsConfig {
    /// Whether the public port uses TLS.
    pub fn is_on(&self) -> bool {
        !self.certificate.is_empty()
    }
}

impl StreamConfig {
    /// The policy of the first rule that matches the channel, or replay if none does.
    pub fn slow_reader(&self, channel: &Channel) -> SlowReader {
        let rule = self.slow_readers.iter().find(|rule| rule.matches(channel.as_str()));
        rule.map_or(SlowReader::Replay, |rule| rule.policy)
    }

    /// The reconnect delay for a client in milliseconds: `stream.retry` plus up to half of it at
    /// random, so that clients disconnected together do not come back together.
    pub fn jittered_retry(&self) -> u64 {
        let retry = self.retry.as_millis() as u64;
        retry + fastrand::u64(0..=retry / 2)
    }
}

impl TryFrom<String> for BrokerKind {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        match text.as_str() {
            "memory" => Ok(BrokerKind::Memory),
            "redis" => Ok(BrokerKind::Redis),
            _ => Err("must be memory or redis"),
        }
    }
}

impl TryFrom<String> for LogFormat {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        match text.as_str() {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("must be text or json"),
        }
    }
}

/// Defines a deserializer that reads a text and parses it.
macro_rules! parsed_by {
    ($name:ident, $kind:ty, $parse:expr) => {
        fn $name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$kind, D::Error> {
            let text = String::deserialize(deserializer)?;
            $parse(&text).map_err(D::Error::custom)
        }
    };
}

fn header_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HeaderName>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let read = |name: &String| {
        name.parse().map_err(|_| D::Error::custom(format!("{name:?} is no name of a header")))
    };
    names.iter().map(read).collect()
}

parsed_by!(http_url, Option<Url>, |text: &str| {
    if text.is_empty() {
        return Ok(None);
    }
    as_url(text).map(Some).ok_or("must be a URL of http:// or https://, or empty")
});
parsed_by!(collector_url, Option<Url>, |text: &str| {
    if text.is_empty() {
        return Ok(None);
    }
    let url = as_url(text).ok_or("must be a URL of http:// or https://, or empty")?;
    let bare = url.username().is_empty() && url.password().is_none();
    if bare && url.query().is_none() && url.fragment().is_none() {
        return Ok(Some(url));
    }
    Err("must hold neither credentials nor a query; OTEL_EXPORTER_OTLP_HEADERS gives headers")
});
parsed_by!(ratio, f64, |text: &str| {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or("must be a number from 0 to 1, such as 0.01")
});
parsed_by!(duration, Duration, checks::parse_duration);
parsed_by!(address, SocketAddr, checks::parse_address);
parsed_by!(prefix, String, |text: &str| Keys::check_prefix(text).map(|()| text.to_owned()));
parsed_by!(redis_url, String, |text: &str| {
    RedisUrl::parse(text).map(|_| text.to_owned()).map_err(|error| error.what().to_owned())
});
