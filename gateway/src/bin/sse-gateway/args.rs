//! The command line of `sse-gateway`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use sse_gateway::config::sources::Flag;

use crate::help;
use crate::top::TopArgs;

/// Fans events out to browsers over Server-Sent Events, from Redis or from memory.
#[derive(Debug, Clone, Parser)]
#[command(name = "sse-gateway", version, after_long_help = help::GATEWAY)]
pub struct Args {
    /// A configuration file (TOML); `sse-gateway defaults` prints one with every setting
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The public address (server.listen) [default: 127.0.0.1:8080] [env: SSE_SERVER__LISTEN]
    #[arg(long, value_name = "ADDR", global = true)]
    pub listen: Option<String>,
    /// The admin address (admin.listen) [default: 127.0.0.1:9090] [env: SSE_ADMIN__LISTEN]
    #[arg(long, value_name = "ADDR", global = true)]
    pub admin_listen: Option<String>,
    /// Use Redis at this URL (broker = "redis", redis.url) [default: broker = "memory"] [env:
    /// SSE_REDIS__URL]
    #[arg(long, value_name = "URL", global = true)]
    pub redis: Option<String>,
    /// Anybody who reaches the public address may subscribe and publish (auth.open = true) [default:
    /// false] [env: SSE_AUTH__OPEN]
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
    /// Print each setting with its value and where it was given, without secrets, and exit
    #[arg(long)]
    pub print_config: bool,
    /// Instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else the program does.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Print every setting with its default, as a configuration file
    #[command(after_long_help = help::DEFAULTS)]
    Defaults,
    /// Ask a running gateway's admin port whether it is ready, and print why not
    #[command(after_long_help = help::HEALTHCHECK)]
    Healthcheck,
    /// Show the limits that Redis holds for all writers, beside the configured ones
    #[command(after_long_help = help::SETTINGS)]
    Settings {
        /// Write the configured ones, after a question; every client is then told of a gap
        #[arg(long)]
        apply: bool,
        /// Do not ask, for scripts
        #[arg(long, requires = "apply")]
        yes: bool,
    },
    /// Show the number of partitions that Redis holds, or change it while no gateway runs
    #[command(after_long_help = help::PARTITIONS)]
    Partitions {
        /// The new number, 1 to 256 (2 to 256 in a Redis Cluster); asks before it changes anything
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
        to: Option<u16>,
        /// Do not ask, for scripts
        #[arg(long, requires = "to")]
        yes: bool,
    },
    /// Show live what one or several gateways do: streams, rates, delays, slow readers, Redis
    #[command(after_long_help = help::TOP)]
    Top(TopArgs),
    /// Begin a new epoch: after a history was deleted by hand, say
    #[command(after_long_help = help::FENCE)]
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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::CommandFactory;
    use sse_gateway::Config;
    use sse_gateway::config::sources::Settings;

    use super::*;

    /// The long help of the program and of each command, with the command's name.
    fn helps() -> Vec<(String, String)> {
        let mut program = Args::command();
        program.build();
        let mut all = vec![("sse-gateway".to_owned(), program.render_long_help().to_string())];
        for command in program.get_subcommands_mut().filter(|c| c.get_name() != "help") {
            all.push((command.get_name().to_owned(), command.render_long_help().to_string()));
        }
        all
    }

    /// A command line of an example.
    struct Example<'a> {
        env: Vec<(OsString, OsString)>,
        line: Vec<&'a str>,
    }

    /// The command lines among the examples.
    fn examples(help: &str) -> Vec<Example<'_>> {
        let part = help.split("\nExamples:\n").nth(1).unwrap_or_default();
        let part = part.split("\n\n").next().unwrap_or_default();
        let lines = part.lines().filter(|line| !line.trim_start().starts_with('#'));
        lines
            .map(|line| {
                let words = line.split(" > ").next().unwrap_or_default().split_whitespace();
                let (before, behind): (Vec<&str>, Vec<&str>) =
                    words.partition(|word| word.starts_with("SSE_"));
                let pair = |word: &&str| word.split_once('=').map(|(k, v)| (k.into(), v.into()));
                Example { env: before.iter().filter_map(pair).collect(), line: behind }
            })
            .collect()
    }

    #[test]
    fn the_help_of_every_command_has_examples_environment_and_exit_codes() {
        let helps = helps();
        assert!(helps.len() > 4, "{}", helps.len());
        for (name, help) in &helps {
            for heading in ["\nExamples:\n", "\nEnvironment:\n", "\nExit codes:\n  0 "] {
                assert!(help.contains(heading), "{name} has no {heading:?}: {help}");
            }
        }
        let short = Args::command().render_help().to_string();
        assert!(!short.contains("Examples:"), "-h is short: {short}");
    }

    #[test]
    fn the_examples_of_every_command_are_valid() {
        for (name, help) in helps() {
            let examples = examples(&help);
            assert!(!examples.is_empty(), "{name} has no example");
            for Example { env, line } in examples {
                let args = Args::try_parse_from(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
                // The file of an example exists on no machine.
                Config::read(None, env.into_iter(), &args.flags())
                    .unwrap_or_else(|error| panic!("{line:?}: {error}"));
                if name != "sse-gateway" {
                    assert!(
                        line.contains(&name.as_str()),
                        "{name}: {line:?} is of another command"
                    );
                }
            }
        }
    }

    #[test]
    fn the_defaults_and_variables_in_the_help_are_those_of_the_settings() {
        let help = helps().remove(0).1;
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for (key, flag) in [("server.listen", "--listen"), ("admin.listen", "--admin-listen")] {
            let default = Settings::defaults().get(key).value.as_str().unwrap();
            let part = words.split(flag).nth(1).unwrap();
            assert!(part.contains(&format!("[default: {default}]")), "{key}: {help}");
        }
        for (variable, value) in [
            ("SSE_SERVER__LISTEN", "127.0.0.1:1"),
            ("SSE_ADMIN__LISTEN", "127.0.0.1:2"),
            ("SSE_REDIS__URL", "redis://10.0.0.5"),
            ("SSE_AUTH__OPEN", "true"),
        ] {
            assert!(words.contains(&format!("[env: {variable}]")), "{variable}: {help}");
            let env = [(variable.into(), value.into())];
            Config::read(None, env.into_iter(), &[]).unwrap();
        }
    }
}
