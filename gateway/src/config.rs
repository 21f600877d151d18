//! The configuration: one struct of sections, read once, checked before anything is bound.
//!
//! Layers, later ones winning: the embedded defaults, a file, the environment, flags. An unknown key is
//! an error that names it, wherever it stands.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use config::{Environment, File, FileFormat};
use serde::Deserialize;
use sse_contract::{Channel, Keys};

use crate::redis_settings::connection_info;

/// The defaults, documented: also the reference for every key.
pub const DEFAULTS: &str = include_str!("defaults.toml");

/// Variables with our prefix that belong to the publisher.
const NOT_OURS: [&str; 3] = ["SSE_URL", "SSE_REDIS", "SSE_TOKEN"];

/// Settings that are lists: in the environment and in flags, separated by commas.
const LISTS: [&str; 3] = ["cors.origins", "cors.headers", "stream.slow_readers"];

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each key is documented in defaults.toml")]
pub struct Config {
    pub broker: BrokerKind,
    pub server: ServerConfig,
    pub admin: AdminConfig,
    pub auth: AuthConfig,
    pub cors: CorsConfig,
    pub redis: RedisConfig,
    pub history: HistoryConfig,
    pub publish: PublishConfig,
    pub stream: StreamConfig,
    pub drain: DrainConfig,
    pub log: LogConfig,
}

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerKind {
    /// This process alone.
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
        listen: SocketAddr,
        workers: usize,
        backlog: i32,
        max_connections: usize,
        max_requests: usize,
        #[serde(deserialize_with = "duration")] keep_alive: Duration,
    }
);
section!(
    /// `[admin]`
    AdminConfig { listen: SocketAddr, ready_needs_broker: bool, }
);
section!(
    /// `[auth]`
    AuthConfig { open: bool, }
);
section!(
    /// `[cors]`
    CorsConfig { origins: Vec<String>, headers: Vec<String>, }
);
section!(
    /// `[redis]`
    RedisConfig {
        url: String,
        prefix: String,
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
        #[serde(deserialize_with = "duration")] body_timeout: Duration,
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
    LogConfig { format: LogFormat, level: String, }
);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The configuration is of no use; one line that names the culprit.
#[derive(Debug, thiserror::Error)]
#[error("configuration: {0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads all layers. `env` is the process's environment; `flags` are `key=value` pairs.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let ours = env.filter(|(name, _)| !NOT_OURS.contains(&name.to_uppercase().as_str()));
        let env: HashMap<String, String> = ours.collect();
        let environment = Environment::with_prefix("SSE")
            .prefix_separator("_")
            .separator("__")
            .try_parsing(true)
            .list_separator(",")
            .source(Some(env));
        let environment = LISTS.iter().fold(environment, |e, key| e.with_list_parse_key(key));
        let mut builder =
            config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(file) = file {
            builder = builder.add_source(File::from(file).format(FileFormat::Toml));
        }
        builder = builder.add_source(environment);
        for (key, value) in flags {
            builder = builder
                .set_override(key, parsed(key, value))
                .map_err(|error| ConfigError(format!("{key}: {error}")))?;
        }
        let built = builder.build().map_err(|error| ConfigError(one_line(&error)))?;
        let config: Config =
            built.try_deserialize().map_err(|error| ConfigError(one_line(&error)))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("server.max_connections", self.server.max_connections),
            ("redis.pool_size", self.redis.pool_size),
            ("history.page_bytes", self.history.page_bytes),
            ("publish.max_event_bytes", self.publish.max_event_bytes as usize),
            ("publish.max_body_bytes", self.publish.max_body_bytes),
            ("stream.max_channels", self.stream.max_channels),
            ("stream.queue_events", self.stream.queue_events),
            ("stream.queue_bytes", self.stream.queue_bytes),
            ("stream.inbox_bytes", self.stream.inbox_bytes),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError(format!("{key}: must be above 0")));
        }
        let least = [
            ("redis.connect_timeout", self.redis.connect_timeout, 1),
            ("redis.answer_timeout", self.redis.answer_timeout, 1),
            ("redis.request_timeout", self.redis.request_timeout, 1),
            ("publish.body_timeout", self.publish.body_timeout, 1),
            ("server.keep_alive", self.server.keep_alive, 1000),
            ("redis.reconnect_max", self.redis.reconnect_max, 50),
            ("redis.tick", self.redis.tick, 50),
            ("history.ttl", self.history.ttl, 1000),
            ("publish.idempotency_ttl", self.publish.idempotency_ttl, 1000),
            ("stream.heartbeat", self.stream.heartbeat, 1000),
            ("stream.retry", self.stream.retry, 1),
            ("stream.progress_deadline", self.stream.progress_deadline, 1000),
        ];
        for (key, value, least) in least {
            if value < Duration::from_millis(least) {
                return Err(ConfigError(format!("{key}: must be at least {least}ms")));
            }
        }
        if self.redis.gather > Duration::from_secs(1) {
            return Err(ConfigError("redis.gather: at most 1s".to_owned()));
        }
        if self.server.workers > 512 {
            return Err(ConfigError("server.workers: at most 512".to_owned()));
        }
        Keys::check_prefix(&self.redis.prefix)
            .map_err(|error| ConfigError(format!("redis.prefix: {error}")))?;
        if self.broker == BrokerKind::Redis {
            connection_info(&self.redis.url).map_err(|error| ConfigError(error.to_string()))?;
        }
        if !self.server.listen.ip().is_loopback() && !self.auth.open {
            return Err(ConfigError(format!(
                "server.listen: {} can be reached from outside and no authentication is configured; \
                 set auth.open = true if anybody who reaches it may subscribe and publish",
                self.server.listen
            )));
        }
        Ok(())
    }
}

/// What becomes of a reader that is too slow for the live events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowReader {
    /// It reads history at its own pace, and misses nothing.
    Replay,
    /// It is sent the newest event of the channel, and told that others were left out.
    Latest,
    /// Its stream is closed.
    Close,
}

/// `<pattern>=<policy>`: `*` in the pattern stands for any text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SlowReaderRule {
    pattern: String,
    policy: SlowReader,
}

impl TryFrom<String> for SlowReaderRule {
    type Error = String;

    fn try_from(rule: String) -> Result<Self, String> {
        // A channel's name may hold an equals sign, so the last one counts.
        let (pattern, policy) = rule.rsplit_once('=').unwrap_or((&rule, ""));
        let policy = match policy {
            "replay" => SlowReader::Replay,
            "latest" => SlowReader::Latest,
            "close" => SlowReader::Close,
            _ => {
                return Err(format!(
                    "{rule:?} is not PATTERN=POLICY with a policy of replay, latest or close"
                ));
            }
        };
        Ok(SlowReaderRule { pattern: pattern.to_owned(), policy })
    }
}

impl SlowReaderRule {
    fn matches(&self, name: &str) -> bool {
        let mut parts = self.pattern.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl StreamConfig {
    /// The policy of the first rule that matches a channel; replay if none does.
    pub fn slow_reader(&self, channel: &Channel) -> SlowReader {
        let rule = self.slow_readers.iter().find(|rule| rule.matches(channel.as_str()));
        rule.map_or(SlowReader::Replay, |rule| rule.policy)
    }

    /// A client's waiting time in milliseconds: the configured one and up to half of it more, so that
    /// those who were cut off together come back apart.
    pub fn jittered_retry(&self) -> u64 {
        let retry = self.retry.as_millis() as u64;
        retry + fastrand::u64(0..=retry / 2)
    }
}

/// A flag's value: a list where one is wanted, a boolean or number where it reads as one.
fn parsed(key: &str, value: &str) -> config::Value {
    if LISTS.contains(&key) {
        let items: Vec<&str> = value.split(',').filter(|item| !item.is_empty()).collect();
        return items.into();
    }
    if let Ok(boolean) = value.parse::<bool>() {
        return boolean.into();
    }
    value.parse::<i64>().map_or_else(|_| value.into(), Into::into)
}

fn one_line(error: &config::ConfigError) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        serde::de::Error::custom(format!(
            "{text:?} is not a duration such as 500ms or 15s: {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
        };
        Config::load(None, own(env).into_iter(), &own(flags)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_complete_and_valid() {
        let config = load(&[], &[]).unwrap();
        assert_eq!(config.broker, BrokerKind::Memory);
        assert_eq!(config.stream.heartbeat, Duration::from_secs(15));
    }

    #[test]
    fn later_layers_win() {
        let env =
            [("SSE_REDIS__TICK", "3s"), ("SSE_BROKER", "redis"), ("SSE_CORS__ORIGINS", "a,b")];
        let config = load(&env, &[("redis.tick", "4s"), ("history.max_len", "7")]).unwrap();
        assert_eq!(config.redis.tick, Duration::from_secs(4));
        assert_eq!(config.broker, BrokerKind::Redis);
        assert_eq!(config.cors.origins, ["a", "b"]);
        assert_eq!(config.history.max_len, 7);
    }

    #[test]
    fn a_misspelt_key_is_named() {
        for (env, culprit) in [
            (("SSE_REDIS__TIK", "3s"), "tik"),
            (("SSE_REDDIS__TICK", "3s"), "reddis"),
            (("SSE_BROKR", "redis"), "brokr"),
        ] {
            let error = load(&[env], &[]).unwrap_err();
            assert!(error.contains(culprit), "{error}");
        }
        let error = load(&[], &[("stream.hartbeat", "3s")]).unwrap_err();
        assert!(error.contains("hartbeat"), "{error}");
    }

    #[test]
    fn a_bad_value_is_named() {
        for (key, value, culprit) in [
            ("stream.heartbeat", "soon", "soon"),
            ("stream.heartbeat", "10ms", "stream.heartbeat"),
            ("server.listen", "everywhere", "listen"),
            ("broker", "kafka", "kafka"),
            ("stream.queue_events", "0", "stream.queue_events"),
            ("redis.prefix", "a{b}", "redis.prefix"),
            ("redis.prefix", "app:sse", "redis.prefix"),
        ] {
            let error = load(&[], &[(key, value)]).unwrap_err();
            assert!(error.contains(culprit), "{key}={value}: {error}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_holds() {
        let rules = "tick:*=latest,a*b*c=close,x=y=close";
        let config = load(&[], &[("stream.slow_readers", rules)]).unwrap();
        for (channel, policy) in [
            ("tick:eur", SlowReader::Latest),
            ("tick", SlowReader::Replay),
            ("abc", SlowReader::Close),
            ("a-b-b-c", SlowReader::Close),
            ("ac", SlowReader::Replay),
            ("x=y", SlowReader::Close),
        ] {
            assert_eq!(config.stream.slow_reader(&channel.parse().unwrap()), policy, "{channel}");
        }
        let error = load(&[], &[("stream.slow_readers", "a=fast")]).unwrap_err();
        assert!(error.contains("a=fast"), "{error}");
    }

    #[test]
    fn the_public_port_is_not_open_by_accident() {
        let error = load(&[("SSE_SERVER__LISTEN", "0.0.0.0:8080")], &[]).unwrap_err();
        assert!(error.contains("auth.open"), "{error}");
        load(&[("SSE_SERVER__LISTEN", "0.0.0.0:8080"), ("SSE_AUTH__OPEN", "true")], &[]).unwrap();
        load(&[("SSE_URL", "http://elsewhere")], &[]).unwrap();
    }
}
