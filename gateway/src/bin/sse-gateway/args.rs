//! The command line of `sse-gateway`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use sse_gateway::config::sources::Flag;

/// Fans events out to browsers over Server-Sent Events, from Redis or from memory.
#[derive(Debug, Clone, Parser)]
#[command(name = "sse-gateway", version)]
pub struct Args {
    /// A configuration file (TOML); `sse-gateway defaults` prints one with every setting
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The public address (server.listen)
    #[arg(long, value_name = "ADDR", global = true)]
    pub listen: Option<String>,
    /// The admin address (admin.listen)
    #[arg(long, value_name = "ADDR", global = true)]
    pub admin_listen: Option<String>,
    /// Use Redis at this URL (broker = "redis", redis.url)
    #[arg(long, value_name = "URL", global = true)]
    pub redis: Option<String>,
    /// Anybody who reaches the public address may subscribe and publish (auth.open = true)
    #[arg(long, global = true)]
    pub open: bool,
    /// Any setting, such as stream.heartbeat=10s
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value, global = true)]
    pub set: Vec<(String, String)>,
    /// At start, how long to go on trying to reach Redis
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = patience)]
    pub wait_for_redis: Duration,
    /// Check the configuration and exit
    #[arg(long)]
    pub check_config: bool,
    /// Instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else the program does.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Print every setting with its default, as a configuration file
    Defaults,
    /// Ask a running gateway's admin port whether it is ready; exit 0 if so
    Healthcheck,
    /// Show the limits that Redis holds for all writers, beside the configured ones
    Settings {
        /// Write the configured ones, after a question; every client is then told of a gap
        #[arg(long)]
        apply: bool,
        /// Do not ask, for scripts
        #[arg(long, requires = "apply")]
        yes: bool,
    },
    /// Begin a new epoch: after a history was deleted by hand, say
    Fence,
}

impl Args {
    /// The settings that flags name.
    pub fn flags(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        let mut add = |name: &str, key: &str, value: Option<&str>| {
            flags.extend(value.map(|value| Flag {
                name: name.to_owned(),
                key: key.to_owned(),
                value: value.to_owned(),
            }));
        };
        add("--listen", "server.listen", self.listen.as_deref());
        add("--admin-listen", "admin.listen", self.admin_listen.as_deref());
        add("--redis", "redis.url", self.redis.as_deref());
        add("--redis", "broker", self.redis.as_ref().map(|_| "redis"));
        add("--open", "auth.open", self.open.then_some("true"));
        for (key, value) in &self.set {
            add(&format!("--set {key}"), key, Some(value));
        }
        flags
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

fn patience(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("write a duration such as 500ms, 30s or 2m ({error})"))?;
    // Bounded: with a far longer duration, the deadline would overflow the clock.
    if time > Duration::from_secs(24 * 3600) {
        Err("must be at most 1day".to_owned())
    } else {
        Ok(time)
    }
}
