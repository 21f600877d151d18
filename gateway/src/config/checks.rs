//! Bounds of numbers and durations, and checks of settings against each other. Whatever would fail
//! at start-up or misbehave later is refused here, so that a configuration that `--check-config`
//! accepts also starts.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::redis_url;
use crate::config::sources::{Place, Settings};
use crate::config::{Config, ConfigError};

/// The lower and upper bound of each whole number.
pub const WHOLE: [(&str, u64, u64); 27] = [
    ("auth.forward.max_pending", 1, 1 << 20),
    ("server.workers", 0, 512),
    ("server.backlog", 1, 1 << 30),
    ("server.max_connections", 1, 1 << 30),
    ("server.max_requests", 0, 1 << 30),
    // actix reads at most 128 KB of head.
    ("server.max_head_bytes", 1024, 128 << 10),
    ("limits.connections_per_address", 0, 1 << 30),
    ("limits.connection_rate_per_address", 0, 1_000_000),
    ("limits.connection_rate", 0, 1_000_000),
    ("limits.streams_per_address", 0, 1 << 30),
    ("limits.streams_per_subject", 0, 1 << 30),
    ("limits.cluster_streams_per_subject", 0, 1 << 30),
    ("limits.publish_rate", 0, 100_000_000),
    // The function library keeps what it knows of this many partitions from call to call.
    ("redis.partitions", 0, 256),
    ("redis.pool_size", 1, 1024),
    // The Lua script counts in doubles, and nobody replays more than this.
    ("history.max_len", 0, 1_000_000_000),
    ("history.page_bytes", 1, 1 << 30),
    ("history.memory_bytes", 0, 1 << 50),
    // A Redis string holds at most 512 MB, and the frame is longer than the data.
    ("publish.max_event_bytes", 1, 256 << 20),
    ("publish.max_body_bytes", 1, 1 << 40),
    ("publish.max_batch", 1, 1 << 24),
    ("publish.max_lines", 1, 1 << 40),
    ("stream.max_streams", 0, 1 << 40),
    ("stream.max_channels", 1, 1 << 20),
    ("stream.queue_events", 1, 1 << 30),
    ("stream.queue_bytes", 1, 1 << 40),
    ("stream.inbox_bytes", 1, 1 << 40),
];

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// The lower and upper bound of each duration. Timers, deadlines and socket options overflow only
/// far above the upper bounds.
pub const DURATIONS: [(&str, Duration, Duration); 27] = [
    ("admin.probe_interval", Duration::from_millis(100), MINUTE),
    ("auth.revoked_for", SECOND, YEAR),
    ("auth.jwt.leeway", Duration::ZERO, HOUR),
    ("auth.tickets.lifetime", SECOND, HOUR),
    ("auth.forward.timeout", MS, HOUR),
    ("auth.forward.cache", Duration::ZERO, HOUR),
    // The TCP keepalive time of the ingest connection; the kernel takes nine hours at most.
    ("redis.connect_timeout", MS, HOUR),
    ("redis.answer_timeout", MS, HOUR),
    ("redis.request_timeout", MS, HOUR),
    ("server.keep_alive", SECOND, HOUR),
    // actix measures from a cached time that is up to half a second old.
    ("server.head_timeout", SECOND, HOUR),
    ("publish.body_timeout", MS, HOUR),
    ("publish.idle_timeout", MS, HOUR),
    ("redis.reconnect_max", Duration::from_millis(50), HOUR),
    ("redis.tick", Duration::from_millis(50), HOUR),
    ("redis.gather", Duration::ZERO, SECOND),
    ("redis.linger", Duration::ZERO, DAY),
    ("history.ttl", SECOND, YEAR),
    ("publish.idempotency_ttl", SECOND, YEAR),
    ("stream.heartbeat", SECOND, HOUR),
    ("stream.retry", MS, DAY),
    ("stream.open_wait", Duration::ZERO, HOUR),
    ("stream.progress_deadline", SECOND, DAY),
    ("stream.max_age", Duration::ZERO, YEAR),
    ("stream.coalesce", Duration::ZERO, SECOND),
    ("drain.spread", Duration::ZERO, DAY),
    ("drain.deadline", Duration::ZERO, DAY),
];

/// Parses a duration such as `500ms` or `15s`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("write a duration such as 500ms, 15s or 10m ({error})"))
}

/// Parses a listen address: an IP address and a port.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let named = match text.rsplit_once(':') {
            Some(("localhost", _)) => "; localhost is 127.0.0.1",
            Some(("" | "*", _)) => "; all addresses of this machine are 0.0.0.0",
            _ => "",
        };
        format!("write an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080{named}")
    })
}

/// Checks each number and duration against its bounds.
pub fn bounds(settings: &Settings) -> Result<(), ConfigError> {
    for (key, least, most) in &WHOLE {
        let setting = settings.get(key);
        let within = |number: u64| (*least..=*most).contains(&number);
        if !setting.value.as_u64().is_some_and(within) {
            let what = format!("must be a whole number from {least} to {most}");
            return Err(ConfigError::at(key, setting, what));
        }
    }
    for (key, least, most) in &DURATIONS {
        let setting = settings.get(key);
        let duration = parse_duration(setting.value.as_str().unwrap_or_default())
            .map_err(|what| ConfigError::at(key, setting, what))?;
        if !(least..=most).contains(&&duration) {
            let (least, most) = (humantime::format_duration(*least), longest(*most));
            return Err(ConfigError::at(key, setting, format!("must be from {least} to {most}")));
        }
    }
    Ok(())
}

/// Selects Redis as the broker if only `redis.url` is given. Otherwise replicas with a URL would
/// silently use the memory broker and share nothing.
pub fn broker(settings: &mut Settings) -> Result<(), ConfigError> {
    let (broker, url) = (settings.get("broker"), settings.get("redis.url"));
    if url.place == Place::Default {
        return Ok(());
    }
    if broker.place == Place::Default {
        let place = url.place.clone();
        settings.imply("broker", "redis", place);
        return Ok(());
    }
    // The output of `sse-gateway defaults` contains both settings, so a file with both defaults is
    // fine.
    let printed = matches!(url.place, Place::File { .. })
        && url.value == Settings::defaults().get("redis.url").value;
    if broker.value == "memory" && !printed {
        return Err(ConfigError::new(format!(
            "broker = \"memory\" ({}) and redis.url ({}) contradict each other: a URL means Redis; \
             take out one of them, or set broker = \"redis\"",
            broker.place, url.place
        )));
    }
    Ok(())
}

/// Checks settings that depend on each other.
pub fn together(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let at = |key: &str, what: String| Err(ConfigError::at(key, settings.get(key), what));
    let (public, admin) = (config.server.listen, config.admin.listen);
    if config.auth.open && config.auth.is_configured() {
        let what = "lets in anybody, whatever else [auth] says; take out one of the two";
        return at("auth.open", what.to_owned());
    }
    if !public.ip().is_loopback() && !config.auth.open && !config.auth.is_configured() {
        let what = "this address can be reached from outside and nothing says who may subscribe and publish; set \
                    auth.jwt.keys, auth.keys, auth.forward.url or auth.anonymous, or auth.open = true if anybody may";
        return at("server.listen", what.to_owned());
    }
    if public.port() != 0 && public.port() == admin.port() && overlap(public, admin) {
        let place = &settings.get("server.listen").place;
        return at(
            "admin.listen",
            format!("server.listen = {public} ({place}) takes this port; choose another one"),
        );
    }
    tls(config, settings)?;
    if config.server.proxy_protocol && config.server.trusted_proxies.is_empty() {
        let what = "only server.trusted_proxies may send the PROXY protocol, and there are none; write their networks";
        return at("server.proxy_protocol", what.to_owned());
    }
    if config.telemetry.otlp.is_some() && !cfg!(feature = "otlp") {
        let what = "this program was built without the feature otlp and exports nothing; build it with \
                    --features sse-gateway/otlp, or leave the setting empty";
        return at("telemetry.otlp", what.to_owned());
    }
    if config.drain.deadline < config.drain.spread {
        let spread = settings.get("drain.spread");
        let what = format!(
            "must not be below drain.spread = {} ({}), or streams are cut off before their turn",
            spread.value, spread.place
        );
        return at("drain.deadline", what);
    }
    Ok(())
}

/// Checks that TLS settings which need each other are set together.
fn tls(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let at = |key: &str, what: &str| Err(ConfigError::at(key, settings.get(key), what));
    let (tls, redis) = (&config.tls, &config.redis);
    let pairs = [
        ("tls.certificate", &tls.certificate, "tls.key", &tls.key),
        ("redis.certificate", &redis.certificate, "redis.key", &redis.key),
    ];
    for (certificate, certificate_file, key, key_file) in pairs {
        match (certificate_file.is_empty(), key_file.is_empty()) {
            (false, true) => return at(certificate, &format!("set {key} as well")),
            (true, false) => return at(key, &format!("set {certificate} as well")),
            _ => {}
        }
    }
    let without = [("tls.client_ca", !tls.client_ca.is_empty()), ("tls.admin", tls.admin)];
    if let Some((key, _)) = without.iter().find(|(_, set)| *set && !tls.is_on()) {
        return at(key, "there is no TLS without tls.certificate and tls.key");
    }
    if tls.publish_needs_certificate && tls.client_ca.is_empty() {
        return at(
            "tls.publish_needs_certificate",
            "set tls.client_ca, whose certificates are taken",
        );
    }
    let of_redis = [("redis.ca", &redis.ca), ("redis.certificate", &redis.certificate)];
    if let Some((key, _)) = of_redis.iter().find(|(_, file)| !file.is_empty())
        && !redis_url::speaks_tls(&redis.url)
    {
        return at(key, "redis.url must begin with rediss for TLS to be spoken");
    }
    if redis.partitions == 1 && redis_url::names_cluster(&redis.url) {
        let what = "a Redis Cluster takes 2 or more, or 0 for as many as usual: the names of a single \
                    partition have no slot in common";
        return at("redis.partitions", what);
    }
    Ok(())
}

/// Whether binding both addresses with the same port would fail.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    // An IPv6 wildcard socket also accepts IPv4.
    let takes = |all: SocketAddr, other: SocketAddr| {
        all.ip().is_unspecified() && (all.is_ipv6() || other.is_ipv4())
    };
    a.ip().to_canonical() == b.ip().to_canonical() || takes(a, b) || takes(b, a)
}

fn longest(duration: Duration) -> String {
    // humantime would print a year with fractions.
    if duration == YEAR {
        "366days".to_owned()
    } else {
        humantime::format_duration(duration).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_and_duration_has_bounds() {
        for (key, setting) in Settings::defaults().iter() {
            let whole = WHOLE.iter().any(|(name, ..)| *name == key);
            let duration = DURATIONS.iter().any(|(name, ..)| *name == key);
            let text = setting.value.as_str().unwrap_or_default();
            assert_eq!(setting.value.is_number(), whole, "{key}");
            assert_eq!(humantime::parse_duration(text).is_ok(), duration, "{key}");
        }
    }
}
