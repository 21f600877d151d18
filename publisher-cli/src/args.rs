//! The command line. `sse-publish CHANNEL DATA` publishes without a subcommand; the arguments of
//! each subcommand have a file of their own. A command line with two possible meanings is refused.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use strsim::{damerau_levenshtein, levenshtein};

use crate::access_args::{self, ApiKeyArguments, TokenArguments};
use crate::bench_args::BenchArguments;
use crate::help;
use crate::publish_args::PublishArguments;
use crate::tail_args::TailArguments;

/// Publishes events to an sse-gateway or straight to its Redis, follows channels, and load-tests
/// servers.
#[derive(Debug, Parser)]
#[command(
    name = "sse-publish",
    version,
    after_help = help::MAIN,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    override_usage = "sse-publish [OPTIONS] CHANNEL[,CHANNEL...] [DATA|@FILE]\n       \
                      sse-publish --ndjson [OPTIONS] [CHANNEL]\n       \
                      sse-publish tail [OPTIONS] CHANNEL...\n       \
                      sse-publish bench [OPTIONS] URL\n       \
                      sse-publish token [OPTIONS] | token check | token secret\n       \
                      sse-publish key [OPTIONS]\n       \
                      sse-publish completions SHELL\n       \
                      sse-publish man [--out DIRECTORY]"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    publish: PublishArguments,
}

/// A subcommand with its arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow channels and print their events
    #[command(after_help = help::TAIL)]
    Tail(Box<TailArguments>),
    /// Publish events; this is the default without a subcommand
    #[command(alias = "pub", after_help = help::PUBLISH)]
    Publish(Box<PublishArguments>),
    /// Load-test an event stream of a server that you run, and report what arrived
    #[command(after_help = help::BENCH)]
    Bench(Box<BenchArguments>),
    /// Make a token for a gateway and print it, check a token, or make a secret
    #[command(after_help = help::TOKEN)]
    Token(Box<TokenArguments>),
    /// Make an API key, and the line that lets a gateway recognize it
    #[command(after_help = help::KEY)]
    Key(ApiKeyArguments),
    /// Print the completions of a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArguments),
    /// Print the manual page, or write one for each command
    #[command(after_help = help::MAN)]
    Man(ManArguments),
}

/// The arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// The arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// Write sse-publish.1 and a page for each subcommand into this directory
    #[arg(short, long, value_name = "DIRECTORY")]
    pub out: Option<PathBuf>,
}

/// Parses the command line.
pub fn parse(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Command, clap::Error> {
    let CommandLine { command, publish } =
        CommandLine::try_parse_from(arguments).map_err(access_args::without_tokens)?;
    if let Some(command) = command {
        return Ok(command);
    }
    match publish.channels.as_ref().and_then(|channels| meant_otherwise(channels.0[0].as_str())) {
        Some(text) => Err(clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, text)),
        None => Ok(Command::Publish(Box::new(publish))),
    }
}

/// The definition of the command line, from which completions and manual pages are made.
pub fn definition() -> clap::Command {
    CommandLine::command()
}

/// The subcommands.
const VERBS: [&str; 7] = ["tail", "publish", "bench", "token", "key", "completions", "man"];

/// Says what to write if a channel's name was probably meant as a subcommand. Without this check
/// such a command line would publish instead of, for example, following a channel.
fn meant_otherwise(name: &str) -> Option<String> {
    let meant = match VERBS.into_iter().find(|verb| *verb == name || is_near(name, verb)) {
        // After an option, clap takes the name of a subcommand for a channel.
        Some(verb) if verb == name => {
            format!("options go behind the subcommand: sse-publish {name} [OPTIONS] ...")
        }
        Some(verb) => format!("there is no subcommand {name:?}; the nearest is {verb}"),
        None if name == "help" => "help is printed by sse-publish --help".to_owned(),
        None => return None,
    };
    Some(format!(
        "{meant}\nTo publish on a channel called {name:?}: sse-publish publish [OPTIONS] {name} [DATA]\n"
    ))
}

/// Whether a name is a verb with one letter too many or too few, or with two letters exchanged. One
/// letter in another's place is too often another word, such as mail. So is a letter more or less
/// in man, such as main.
fn is_near(name: &str, verb: &str) -> bool {
    verb != "man"
        && damerau_levenshtein(name, verb) == 1
        && (name.len() != verb.len() || levenshtein(name, verb) == 2)
}

/// Parses a number of events per second.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "a rate is a number of events per second, above zero".to_owned())
}

/// Parses a number of things of which there is at least one.
pub fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "must be a whole number above zero".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, clap::Error> {
        parse(std::iter::once("sse-publish").chain(line.split_whitespace()))
    }

    fn published(line: &str) -> (String, Option<String>) {
        match read(line) {
            Ok(Command::Publish(publish)) => {
                (publish.channels.unwrap().0[0].to_string(), publish.data)
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn publishing_needs_no_subcommand() {
        assert_eq!(published("demo hello"), ("demo".into(), Some("hello".into())));
        assert_eq!(published("demo tail"), ("demo".into(), Some("tail".into())));
        assert_eq!(published("demo -5"), ("demo".into(), Some("-5".into())));
        assert_eq!(published("demo -- --x"), ("demo".into(), Some("--x".into())));
        assert_eq!(published("publish help me"), ("help".into(), Some("me".into())));
        assert_eq!(published("pub demo hello"), ("demo".into(), Some("hello".into())));
        for other in ["mail", "tell", "bunch", "orders", "keyboard", "main", "many"] {
            assert_eq!(published(&format!("{other} x")), (other.into(), Some("x".into())));
        }
        assert_eq!(published("publish tail hello"), ("tail".into(), Some("hello".into())));
        assert!(matches!(read("--ndjson"), Ok(Command::Publish(_))));
    }

    #[test]
    fn tail_is_a_subcommand() {
        let Ok(Command::Tail(tail)) = read("tail demo,orders b --url http://a") else { panic!() };
        assert_eq!(tail.channels.len(), 3);
    }

    #[test]
    fn what_could_be_meant_either_way_is_refused() {
        for name in ["tail", "bench", "token", "key", "completions", "man"] {
            let error = read(&format!("--url http://a {name} demo")).unwrap_err();
            assert!(error.to_string().contains(&format!("sse-publish {name}")), "{error}");
        }
    }

    #[test]
    fn a_misspelt_subcommand_publishes_nothing_and_is_told_the_nearest() {
        for (name, verb) in [
            ("tial", "tail"),
            ("tails", "tail"),
            ("publsh", "publish"),
            ("pubilsh", "publish"),
            ("tokn", "token"),
            ("keys", "key"),
            ("bnech", "bench"),
        ] {
            let error = read(&format!("{name} demo")).unwrap_err().to_string();
            assert!(error.contains(&format!("the nearest is {verb}")), "{name}: {error}");
            assert!(error.contains(&format!("sse-publish publish [OPTIONS] {name}")), "{error}");
        }
        for line in ["help", "help me", "--rate 0.5 help"] {
            assert!(read(line).unwrap_err().to_string().contains("--help"), "{line}");
        }
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for line in [
            "",
            "a{b x",
            "a x --prefix a:b",
            "demo x --file y",
            "demo x --ndjson",
            "demo --rate 0",
            "demo --rate nan",
            "demo --event gap x",
            "demo --url http://a --redis redis://b",
            "tail",
            "tail a,,b",
            "tail a --from soon",
            "tail a --parse",
            "tail a --format {what}",
            "demo --whole x",
            "demo --count 2",
            "demo x --count 0",
            "demo x --delimiter ;",
            "demo --delimiter \\q",
            "demo x -k a --key-field b",
            "bench http://a --for 5",
            "token --expires 30",
            "completions tcsh",
            "demo x --header nocolon",
            "tail a --limit 0",
            "demo x y",
            "tail a --idle-timeout 0",
            "bench",
            "bench localhost:8080",
            "bench http://a --connections 0",
            "bench http://a --stalled 2",
            "bench http://a --rate 5",
            "bench http://a b",
            "demo x --token a --key b",
            "token demo",
            "token --pem a --secret-file b",
            "token --secret abc",
            "token --subscribe a|b",
            "token check a b",
            "key --publish user:{sub}",
            "key --name a\tb",
            "key demo",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
