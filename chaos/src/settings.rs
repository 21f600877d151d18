//! The settings of a run. They depend only on its seed and the command line, so that a run can be
//! repeated.

use std::time::Duration;

use crate::gateways::Reader;

/// Short times for all runs, so that effects show sooner.
const FIXED: [&str; 8] = [
    "redis.answer_timeout=1s",
    "redis.connect_timeout=1s",
    "redis.reconnect_max=500ms",
    "stream.heartbeat=1s",
    "stream.retry=100ms",
    "stream.progress_deadline=5s",
    "drain.spread=300ms",
    "drain.deadline=5s",
];

/// Where events are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// In the memory of one gateway.
    Memory,
    /// In Redis, by `FCALL`.
    Functions,
    /// In a Redis that refuses `FUNCTION`, by `EVALSHA`.
    Scripts,
}

/// How slow readers of some channels are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// They read history; the default.
    Replay,
    /// They are sent the newest event.
    Latest,
    /// Their streams are closed.
    Close,
}

/// The settings that a seed draws.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where events are stored.
    pub broker: Broker,
    /// Whether the Redis users of gateways and publishers have only the rights that the
    /// documentation asks for.
    pub limited_user: bool,
    /// Worker threads of each gateway.
    workers: u64,
    /// How long a channel stays subscribed after its last subscriber left.
    pub linger: Duration,
    inbox_bytes: u64,
    queue_events: u64,
    queue_bytes: u64,
    /// How many events a history keeps; 0 keeps none.
    pub max_len: u64,
    /// How long an event is kept.
    pub ttl: Duration,
    page_bytes: u64,
    coalesce: Duration,
    takeover: Option<bool>,
    /// What happens to the gateways' logs.
    pub log_reader: Reader,
    policies: Vec<(&'static str, Policy)>,
    /// Time between ticks.
    pub tick: Duration,
    /// Further settings of the command line, as `KEY=VALUE`.
    over: Vec<String>,
}

impl Settings {
    /// Draws the settings of a seed and applies those of the command line.
    pub fn draw(seed: u64, over: &[String]) -> Result<Settings, String> {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5e77_1465);
        let ms = Duration::from_millis;
        let broker = match rng.u8(0..16) {
            0..2 => Broker::Memory,
            2..6 => Broker::Scripts,
            _ => Broker::Functions,
        };
        let policies: &[(&str, Policy)] = match rng.u8(0..8) {
            0 => &[("x.*", Policy::Latest), ("user*", Policy::Latest)],
            1 => &[("under*", Policy::Close), ("bulk", Policy::Close)],
            2 => &[("bulk", Policy::Latest), ("a/b", Policy::Close), ("*", Policy::Replay)],
            _ => &[],
        };
        let mut settings = Settings {
            broker,
            limited_user: rng.u8(0..3) == 0,
            workers: [1, 2, 2, 3][rng.usize(0..4)],
            linger: [ms(0), ms(50), ms(500), ms(3_000)][rng.usize(0..4)],
            inbox_bytes: [65_536, 262_144, 33_554_432][rng.usize(0..3)],
            queue_events: [8, 64, 256][rng.usize(0..3)],
            queue_bytes: [8_192, 32_768, 262_144][rng.usize(0..3)],
            max_len: [0, 50, 100, 100, 300, 300, 300, 300, 600, 600, 600, 1_000][rng.usize(0..12)],
            ttl: [ms(8_000), ms(15_000), ms(15_000), ms(40_000)][rng.usize(0..4)],
            page_bytes: [4_096, 32_768, 262_144][rng.usize(0..3)],
            coalesce: [ms(0), ms(2), ms(20)][rng.usize(0..3)],
            takeover: [None, None, Some(true), Some(false)][rng.usize(0..4)],
            policies: policies.to_vec(),
            tick: [ms(100), ms(200), ms(200), ms(500), ms(1_000)][rng.usize(0..5)],
            // Last, so that earlier seeds draw the other settings as before.
            log_reader: [Reader::File, Reader::File, Reader::Gone, Reader::Stalled]
                [rng.usize(0..4)],
            over: Vec::new(),
        };
        settings.override_with(over)?;
        Ok(settings)
    }

    /// Applies the command line. Settings that the suite's judgement depends on are parsed; the
    /// others are only passed to the gateways.
    fn override_with(&mut self, over: &[String]) -> Result<(), String> {
        for setting in over {
            let bad = || format!("--set {setting}: the suite does not understand this value");
            let (key, value) = setting.split_once('=').ok_or_else(bad)?;
            match key {
                "broker" => {
                    self.broker = match value {
                        "memory" => Broker::Memory,
                        "redis" => Broker::Functions,
                        "scripts" => Broker::Scripts,
                        _ => return Err(bad()),
                    }
                }
                "redis.user" => {
                    self.limited_user = match value {
                        "limited" => true,
                        "free" => false,
                        _ => return Err(bad()),
                    }
                }
                "log.reader" => {
                    self.log_reader = match value {
                        "file" => Reader::File,
                        "gone" => Reader::Gone,
                        "stalled" => Reader::Stalled,
                        _ => return Err(bad()),
                    }
                }
                "redis.linger" => self.linger = duration(value).ok_or_else(bad)?,
                "redis.tick" => self.tick = duration(value).ok_or_else(bad)?,
                "history.ttl" => self.ttl = duration(value).ok_or_else(bad)?,
                "history.max_len" => self.max_len = value.parse().map_err(|_| bad())?,
                "stream.slow_readers" => return Err(format!("--set {key}: the seed draws it")),
                _ => self.over.push(setting.clone()),
            }
        }
        Ok(())
    }

    /// The settings of gateway `n`, as `KEY=VALUE`.
    pub fn of_gateway(&self, n: usize) -> Vec<String> {
        let mut all: Vec<String> = FIXED.map(str::to_owned).into();
        let ms = |d: Duration| format!("{}ms", d.as_millis());
        // Unless it is set for all gateways, gateway 1 serves its streams as ordinary response
        // bodies.
        let takeover = self.takeover.unwrap_or(n != 1);
        all.extend([
            format!("server.workers={}", self.workers),
            format!("redis.tick={}", ms(self.tick)),
            format!("redis.linger={}", ms(self.linger)),
            format!("history.max_len={}", self.max_len),
            format!("history.ttl={}", ms(self.ttl)),
            format!("history.page_bytes={}", self.page_bytes),
            format!("stream.inbox_bytes={}", self.inbox_bytes),
            format!("stream.queue_events={}", self.queue_events),
            format!("stream.queue_bytes={}", self.queue_bytes),
            format!("stream.coalesce={}", ms(self.coalesce)),
            format!("stream.takeover={takeover}"),
        ]);
        if !self.policies.is_empty() {
            let rules = self.policies.iter().map(|(pattern, p)| format!("{pattern}={}", p.name()));
            all.push(format!("stream.slow_readers={}", rules.collect::<Vec<_>>().join(",")));
        }
        if self.log_reader == Reader::Stalled {
            // Makes it write enough to fill the pipe.
            all.push("log.level=debug".to_owned());
        }
        all.extend(self.over.iter().cloned());
        all
    }

    /// The drawn settings as words, for people and for the sums over runs.
    pub fn words(&self) -> Vec<String> {
        let takeover = self.takeover.map_or("mixed".to_owned(), |all| all.to_string());
        let policies = self.policies.iter().map(|(pattern, p)| format!("{pattern}={}", p.name()));
        let policies = policies.collect::<Vec<_>>().join(",");
        let ms = |d: Duration| format!("{}ms", d.as_millis());
        let user = if self.limited_user { "limited" } else { "free" };
        vec![
            format!("broker={}", format!("{:?}", self.broker).to_lowercase()),
            format!("user={user}"),
            format!("workers={}", self.workers),
            format!("linger={}", ms(self.linger)),
            format!("inbox_bytes={}", self.inbox_bytes),
            format!("queue_events={}", self.queue_events),
            format!("queue_bytes={}", self.queue_bytes),
            format!("max_len={}", self.max_len),
            format!("ttl={}", ms(self.ttl)),
            format!("page_bytes={}", self.page_bytes),
            format!("coalesce={}", ms(self.coalesce)),
            format!("takeover={takeover}"),
            format!("slow_readers={}", if policies.is_empty() { "replay" } else { &policies }),
            format!("tick={}", ms(self.tick)),
            format!("log={}", format!("{:?}", self.log_reader).to_lowercase()),
        ]
    }

    /// Whether the memory broker is used.
    pub fn memory(&self) -> bool {
        self.broker == Broker::Memory
    }

    /// How slow readers of a channel are treated.
    pub fn policy(&self, channel: &str) -> Policy {
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(head) => channel.starts_with(head),
            None => channel == pattern,
        };
        let rule = self.policies.iter().find(|(pattern, _)| fits(pattern));
        rule.map_or(Policy::Replay, |(_, policy)| *policy)
    }
}

impl Policy {
    fn name(self) -> &'static str {
        match self {
            Policy::Replay => "replay",
            Policy::Latest => "latest",
            Policy::Close => "close",
        }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number * 60)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_again_and_seeds_differ() {
        let words = |seed| Settings::draw(seed, &[]).unwrap().words();
        assert_eq!(words(7), words(7));
        let kinds: std::collections::HashSet<_> = (0..200).map(words).collect();
        assert!(kinds.len() > 150, "{}", kinds.len());
    }

    #[test]
    fn the_command_line_wins_and_the_suite_knows() {
        let over = ["history.ttl=3s", "broker=memory", "stream.heartbeat=2s"].map(str::to_owned);
        let settings = Settings::draw(1, &over).unwrap();
        assert!(settings.memory());
        assert_eq!(settings.ttl, Duration::from_secs(3));
        assert_eq!(settings.of_gateway(0).last().unwrap(), "stream.heartbeat=2s");
        assert!(Settings::draw(1, &["history.ttl=soon".to_owned()]).is_err());
    }
}
