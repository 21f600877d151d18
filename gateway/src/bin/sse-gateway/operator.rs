//! The operator's commands: they ask a running gateway, or change its Redis, from the command line.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::Value;
use sse_gateway::Config;
use sse_gateway::broker::redis::RedisBroker;
use sse_gateway::broker::redis::operator::Begun;
use sse_gateway::broker::redis::partition::named;
use sse_gateway::broker::redis::settings::RedisSettings;
use sse_gateway::config::BrokerKind;
use sse_gateway::config::sources::{Place, Settings};
use sse_gateway::http::listener;
use sse_gateway::metrics::Metrics;
use sse_gateway::vitals;

/// Asks the `/readyz` of the gateway with this configuration, for at most 10 s. The error says why
/// it is not ready.
pub async fn healthcheck(config: &Config) -> Result<(), String> {
    let (addr, tls) = (config.admin.listen, config.tls.is_on() && config.tls.admin);
    let answer = listener::ask(addr, tls, "GET /readyz", Duration::from_secs(10), |_| &[]).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        // What is no gateway has no reason in this form.
        let reason = body["detail"].as_str().unwrap_or(status);
        return Err(format!("not ready: {reason}"));
    }
    match body["broker"].as_str() {
        None | Some("ok") => say(format_args!("ready")),
        Some(why) => say(format_args!("ready to serve, but no events come: {why}")),
    }
    Ok(())
}

/// The settings that Redis holds for all writers.
const SHARED: [&str; 5] = [
    "history.max_len",
    "history.ttl",
    "publish.max_event_bytes",
    "publish.idempotency_ttl",
    "redis.durable",
];

/// Prints the limits in Redis and the configured ones. With `apply`, writes the configured ones to
/// Redis, which begins a new epoch; unless `yes`, asks before.
pub async fn settings(
    config: Config,
    places: &Settings,
    apply: bool,
    yes: bool,
) -> Result<(), String> {
    let redis = connected(&config).await?;
    let limits = redis.limits();
    for (found, partitions) in limits.groups() {
        match partitions.len() == limits.found.len() {
            true => say(format_args!("in Redis: {found}")),
            false => say(format_args!("in Redis, {}: {found}", named(&partitions))),
        }
    }
    say(format_args!("configured: {}", limits.configured));
    say(format_args!("{}", origin(places)));
    if !apply {
        return Ok(());
    }
    if limits.agree() {
        say(format_args!("Redis holds these already; nothing is written"));
        return Ok(());
    }
    say(format_args!(
        "To write them begins a new epoch: every client is told once of a gap (reset) and is then \
         sent what the history holds."
    ));
    if !yes {
        ask("Write them?")?;
    }
    tell(&redis, redis.write_settings().await, "written; a new epoch began at")
}

/// Says where the configured limits were given.
fn origin(places: &Settings) -> String {
    let given = SHARED.iter().filter_map(|key| match &places.get(key).place {
        Place::Default => None,
        place => Some(format!("{key} is from {place}")),
    });
    let given: Vec<String> = given.collect();
    match given.len() {
        0 => "these are the defaults: no file (--config), variable or flag sets any of them"
            .to_owned(),
        n if n == SHARED.len() => given.join(", "),
        _ => format!("{}; the others are the defaults", given.join(", ")),
    }
}

/// Asks the operator. The error says that the answer was no, or that there is nobody to ask.
pub fn ask(question: &str) -> Result<(), String> {
    if !std::io::stdin().is_terminal() {
        return Err("nothing is written: standard input is no terminal, so nobody can be asked; \
                    --yes writes without a question"
            .to_owned());
    }
    // An error is ignored, as in `say`.
    let _ = write!(std::io::stdout(), "{question} [y/N] ").and_then(|()| std::io::stdout().flush());
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    match read {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        _ => Err("nothing is written".to_owned()),
    }
}

/// Begins a new epoch and prints the clock at which it begins.
pub async fn fence(config: Config) -> Result<(), String> {
    let redis = connected(&config).await?;
    tell(&redis, redis.fence().await, "a new epoch began at")
}

/// Prints the clock at which each epoch begins. The error says where none began, and why.
fn tell(redis: &RedisBroker, answers: Vec<Begun>, words: &str) -> Result<(), String> {
    let mut failed = Vec::new();
    for Begun { partition, clock } in answers {
        let of = match redis.partitions().len() {
            1 => String::new(),
            _ => format!("{}: ", named(&[partition])),
        };
        match clock {
            Ok(clock) => say(format_args!("{of}{words} {clock}")),
            Err(error) => failed.push(format!("{of}{error}")),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

/// Fails unless the broker is Redis.
pub fn needs_redis(config: &Config) -> Result<(), String> {
    match config.broker {
        BrokerKind::Memory => Err("the broker is \"memory\"; name a Redis with --redis".to_owned()),
        BrokerKind::Redis => Ok(()),
    }
}

async fn connected(config: &Config) -> Result<std::sync::Arc<RedisBroker>, String> {
    needs_redis(config)?;
    let redis =
        RedisBroker::start(RedisSettings::of(config), Metrics::default(), &vitals::watch().0)
            .map_err(|error| error.to_string())?;
    redis.online(Duration::ZERO).await.map_err(|error| error.to_string())?;
    Ok(redis)
}

/// Prints a line. An error is ignored, because the reader of standard output may be gone.
pub fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
