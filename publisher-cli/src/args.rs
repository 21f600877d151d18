//! The command line. `sse-publish CHANNEL DATA` publishes without a subcommand; the subcommands are
//! `tail`, `publish`, `bench`, `token` and `key`. A command line with two possible meanings is
//! refused.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use sse_contract::{Channel, EventType, Keys};
use strsim::{damerau_levenshtein, levenshtein};

use crate::access_args::{self, ApiKeyArguments, TokenArguments};
use crate::address::{BaseUrl, Credential, Environment};
use crate::bench_target::BenchUrl;
use crate::item::parse_channels;

/// The header that carries a trace (W3C Trace Context).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header that carries an API key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

// clap replaces a plain `{n}` with a line break. The escape sequence in `{\x1b[0mn}` prevents this
// and is invisible.
const BENCH_HELP: &str = "\
Use it only against servers that you run: it is an attack on any other. It stops by itself; Ctrl-C
ends it with the report so far.

With --publish each event is POSTed to /channels/CHANNEL of the same origin and carries its number and
the time, so the report tells what was lost, repeated or out of order, and how long each event took from
just before its POST to this client. Only one run at a time should publish on a channel. Without
--publish it counts what comes.

Examples:
  sse-publish bench 'http://127.0.0.1:8080/events?channel=demo' --connections 1000 --publish demo
  sse-publish bench 'https://sse.example.org/events?channel=user-{\x1b[0mn}' --token T --json

Exit codes: 0 when all connections opened and stayed open, nothing was lost, no gap event came, and
everything was published; 1 otherwise; 64 when the command line is wrong; 130 after Ctrl-C.";

const BENCH_URL_HELP: &str = "The event stream, of any server; {\x1b[0mn} behind the host is the connection's number, from 0";

const AFTER_HELP: &str = "\
Examples:
  sse-publish demo hello                      one event; prints its id
  sse-publish demo,orders --event tick hello  the same on two channels, typed
  tail -f log | sse-publish demo              a line, an event; sent within 50 ms
  sse-publish demo --file events.txt --rate 10
  sse-publish --ndjson < items.ndjson         {\"channel\":\"a\",\"data\":{\"x\":1}} a line
  sse-publish --redis redis://user:pass@host demo hello
  sse-publish tail demo orders                follow channels; resumes when cut
  sse-publish publish tail hello              a channel called \"tail\": name the subcommand
  sse-publish bench http://host/events        load your own server; see bench --help
  sse-publish token --help                    make and check tokens, and secrets for them
  sse-publish key --publish orders            make an API key for a service

Every event carries an idempotency key, so retries publish nothing twice. Some clients cannot read events
over 64 KB (see docs/clients.md); the first one of a run that is longer is told of on stderr.

Environment: SSE_URL and SSE_REDIS stand in for --url and --redis, SSE_TOKEN and SSE_KEY for --token and
--key. Secrets belong there rather than on the command line, which other users of the machine can read.
SSL_CERT_FILE names other root certificates. TRACEPARENT (W3C Trace Context) goes with each request to a
gateway, which logs it.

Exit codes:
  0    everything was published (tail: --limit was reached, the server ended the stream with 204, or
       stdout was closed)
  1    something was not published, or nobody can say; stderr names the lines and why (tail: refused;
       bench: not all connections opened and stayed open, or something was lost)
  2    no connection could be made: nothing was sent
  64   the command line is wrong
  130  ended by Ctrl-C; a second one does not wait for the account";

/// Publishes events to an sse-gateway or straight to its Redis, follows channels, and load-tests
/// servers.
#[derive(Debug, Parser)]
#[command(
    name = "sse-publish",
    version,
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    override_usage = "sse-publish [OPTIONS] CHANNEL[,CHANNEL...] [DATA]\n       \
                      sse-publish --ndjson [OPTIONS] [CHANNEL]\n       \
                      sse-publish tail [OPTIONS] CHANNEL...\n       \
                      sse-publish bench [OPTIONS] URL\n       \
                      sse-publish token [OPTIONS] | token check | token secret\n       \
                      sse-publish key [OPTIONS]"
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
    Tail(TailArguments),
    /// Publish events; this is the default without a subcommand
    #[command(alias = "pub")]
    Publish(PublishArguments),
    /// Load-test an event stream of a server that you run, and report what arrived
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArguments),
    /// Make a token for a gateway and print it, check a token, or make a secret
    #[command(after_help = access_args::TOKEN_HELP)]
    Token(Box<TokenArguments>),
    /// Make an API key, and the line that lets a gateway recognize it
    #[command(after_help = access_args::KEY_HELP)]
    Key(ApiKeyArguments),
}

/// Channel names, separated by commas on the command line.
#[derive(Debug, Clone)]
pub struct Channels(pub Vec<Channel>);

/// What every HTTP request carries.
#[derive(Debug, Args)]
pub struct HttpArguments {
    /// Send `Authorization: Bearer TOKEN` [env: SSE_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Send `X-API-Key: KEY` [env: SSE_KEY]
    #[arg(long, value_name = "KEY", conflicts_with = "token")]
    key: Option<String>,
    /// Send a header with every request; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The arguments of `publish`.
#[derive(Debug, Args)]
pub struct PublishArguments {
    /// One or more channels to publish on
    #[arg(value_name = "CHANNEL[,CHANNEL...]", value_parser = channels, required_unless_present = "ndjson")]
    pub channels: Option<Channels>,
    /// The event's data; without it, each line of --file or standard input is an event
    #[arg(value_name = "DATA", allow_negative_numbers = true, conflicts_with_all = ["file", "ndjson"])]
    pub data: Option<String>,
    /// Read events from a file instead of standard input
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Each line is a JSON object {"channel"|"channels", "data", "event"?, "idempotency_key"?}; an
    /// item without a channel is published on CHANNEL
    #[arg(long)]
    pub ndjson: bool,
    /// The events' type
    #[arg(long, value_name = "TYPE")]
    pub event: Option<EventType>,
    /// Publish at most N lines per second, evenly spaced
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Print a line of JSON on stdout for each event, and one for the whole run
    #[arg(long)]
    pub json: bool,
    /// Stop at the first line that is not a valid event or is not published
    #[arg(long)]
    pub strict: bool,
    /// Give up when nothing has succeeded for this long; 0 never retries. Choose less than the time
    /// that a gateway remembers idempotency keys (10 minutes by default)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub retry_for: Duration,
    /// How long to wait for a connection or an answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive_duration)]
    pub timeout: Duration,
    /// The gateway [env: SSE_URL] [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL", conflicts_with = "redis")]
    pub url: Option<String>,
    /// Publish straight to Redis: redis://… or rediss://… [env: SSE_REDIS]
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// The prefix of the gateway's keys in Redis
    #[arg(long, value_name = "PREFIX", default_value = "sse", value_parser = prefix)]
    pub prefix: String,
    /// What HTTP requests carry.
    #[command(flatten)]
    pub http: HttpArguments,
}

/// The arguments of `tail`.
#[derive(Debug, Args)]
pub struct TailArguments {
    /// The channels to follow
    #[arg(value_name = "CHANNEL", required = true)]
    pub channels: Vec<Channel>,
    /// Begin after the event with this id, or with the oldest event kept; without it, begin now
    #[arg(long, value_name = "ID|oldest")]
    pub from: Option<String>,
    /// Stop after N events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Print a line {"id","event","data"} for each event and gap; the id of a raw PUBLISH is null
    #[arg(long)]
    pub json: bool,
    /// Print only each event's data, unchanged
    #[arg(long, conflicts_with = "json")]
    pub data_only: bool,
    /// Also print checkpoints: they move the position without an event
    #[arg(long, conflicts_with = "data_only")]
    pub checkpoints: bool,
    /// Do not report on stderr when the connection is made or lost; gaps are still reported
    #[arg(long)]
    pub quiet: bool,
    /// Reconnect when no byte arrives for this long
    #[arg(long, value_name = "TIME", default_value = "45s", value_parser = positive_duration)]
    pub idle_timeout: Duration,
    /// The gateway [env: SSE_URL] [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// What every request carries.
    #[command(flatten)]
    pub http: HttpArguments,
}

/// The arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// The event stream.
    #[arg(value_name = "URL", help = BENCH_URL_HELP)]
    pub url: BenchUrl,
    /// How many connections to open
    #[arg(long, value_name = "N", default_value = "100", value_parser = count)]
    pub connections: usize,
    /// How many connections may be opening at once
    #[arg(long, value_name = "N", default_value = "200", value_parser = count)]
    pub ramp: usize,
    /// How many seconds to listen after all connections are open
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub seconds: u64,
    /// While listening, publish stamped events on this channel
    #[arg(long, value_name = "CHANNEL")]
    pub publish: Option<Channel>,
    /// Events to publish per second
    #[arg(long, value_name = "N", default_value = "50", value_parser = rate, requires = "publish")]
    pub rate: f64,
    /// Bytes of an event's data; at least its stamp, about 40 bytes
    #[arg(long, value_name = "BYTES", default_value = "200", value_parser = count, requires = "publish")]
    pub size: usize,
    /// The share of connections that read nothing once they are open, from 0 to 1
    #[arg(long, value_name = "PART", default_value = "0", value_parser = part)]
    pub stalled: f64,
    /// Print one line of JSON instead of the table
    #[arg(long)]
    pub json: bool,
    /// What every request carries.
    #[command(flatten)]
    pub http: HttpArguments,
}

impl TailArguments {
    /// The gateway to follow channels on.
    pub fn gateway(&self, environment: &Environment) -> Result<BaseUrl, String> {
        environment.gateway(self.url.as_deref())
    }
}

impl HttpArguments {
    /// All headers, including the one for the token or key.
    pub fn headers(
        &self,
        environment: &Environment,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let mut headers = self.headers.clone();
        // Whoever started this program set the trace. A value that no header can have is left out,
        // because it must not keep an event from being published.
        let traceparent = environment.traceparent.as_deref();
        let traceparent = traceparent.and_then(|value| HeaderValue::from_str(value).ok());
        if let Some(value) = traceparent
            && !headers.iter().any(|(name, _)| *name == TRACEPARENT)
        {
            headers.push((TRACEPARENT, value));
        }
        let (name, value, what) =
            match environment.credential(self.token.as_deref(), self.key.as_deref())? {
                Some(Credential::Token(token)) => {
                    (AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")), "token")
                }
                Some(Credential::Key(key)) => (API_KEY, HeaderValue::from_str(key), "API key"),
                None => return Ok(headers),
            };
        let mut value = value.map_err(|_| format!("the {what} cannot be sent in a header"))?;
        value.set_sensitive(true);
        headers.push((name, value));
        Ok(headers)
    }
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
        None => Ok(Command::Publish(publish)),
    }
}

/// The subcommands.
const VERBS: [&str; 5] = ["tail", "publish", "bench", "token", "key"];

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
/// letter in another's place is too often another word, such as mail.
fn is_near(name: &str, verb: &str) -> bool {
    damerau_levenshtein(name, verb) == 1
        && (name.len() != verb.len() || levenshtein(name, verb) == 2)
}

fn channels(text: &str) -> Result<Channels, String> {
    parse_channels(text.split(',')).map(Channels).map_err(|reason| reason.text)
}

fn prefix(text: &str) -> Result<String, String> {
    Keys::check_prefix(text).map(|()| text.to_owned()).map_err(|why| why.to_string())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "a rate is a number of events per second, above zero".to_owned())
}

fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "must be a whole number above zero".to_owned())
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|why| format!("{why}; write 30s, 500ms or 2m"))
}

/// Parses a duration above zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time.is_zero() { Err("must be above zero".to_owned()) } else { Ok(time) }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a header is 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is not a header's name"))?;
    let value =
        HeaderValue::from_str(value.trim()).map_err(|_| "not a header's value".to_owned())?;
    Ok((name, value))
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
        <CommandLine as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn publishing_needs_no_subcommand() {
        assert_eq!(published("demo hello"), ("demo".into(), Some("hello".into())));
        assert_eq!(published("demo tail"), ("demo".into(), Some("tail".into())));
        assert_eq!(published("demo -5"), ("demo".into(), Some("-5".into())));
        assert_eq!(published("demo -- --x"), ("demo".into(), Some("--x".into())));
        assert_eq!(published("publish help me"), ("help".into(), Some("me".into())));
        assert_eq!(published("pub demo hello"), ("demo".into(), Some("hello".into())));
        for other in ["mail", "tell", "bunch", "orders", "keyboard"] {
            assert_eq!(published(&format!("{other} x")), (other.into(), Some("x".into())));
        }
        assert_eq!(published("publish tail hello"), ("tail".into(), Some("hello".into())));
        assert!(matches!(read("--ndjson"), Ok(Command::Publish(_))));
    }

    #[test]
    fn tail_is_a_subcommand() {
        let Ok(Command::Tail(tail)) = read("tail demo orders --url http://a") else { panic!() };
        assert_eq!(tail.channels.len(), 2);
    }

    #[test]
    fn what_could_be_meant_either_way_is_refused() {
        for name in ["tail", "bench", "token", "key"] {
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
            "tail a,b",
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
