//! The command line of `publish`, which is also the command line without a subcommand.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use sse_contract::{Channel, EventType, Keys};

use crate::args::rate;
use crate::http_args::HttpArguments;
use crate::input::Split;
use crate::item::parse_channels;
use crate::when::{duration, positive_duration};

/// Channel names, separated by commas on the command line.
#[derive(Debug, Clone)]
pub struct Channels(pub Vec<Channel>);

/// The arguments of `publish`.
#[derive(Debug, Args)]
pub struct PublishArguments {
    /// One or more channels to publish on
    #[arg(value_name = "CHANNEL[,CHANNEL...]", value_parser = channels, required_unless_present = "ndjson")]
    pub channels: Option<Channels>,
    /// The event's data, or @FILE for the content of a file (@@ begins a text with @). Without it,
    /// each line of --file or standard input is an event
    #[arg(value_name = "DATA|@FILE", allow_negative_numbers = true, conflicts_with_all = ["file", "ndjson"])]
    pub data: Option<String>,
    /// Read events from a file instead of standard input
    #[arg(short, long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Publish all of --file or standard input as one event, without its last line end
    #[arg(short, long, conflicts_with_all = ["data", "ndjson"])]
    pub whole: bool,
    /// Split the input at this text instead of at line ends; \0, \n, \r, \t, \\ and \xHH are read
    #[arg(short, long, value_name = "TEXT", value_parser = delimiter, conflicts_with_all = ["data", "whole", "ndjson"])]
    pub delimiter: Option<Split>,
    /// Each line is a JSON object {"channel"|"channels", "data", "event"?, "idempotency_key"?}; an
    /// item without a channel is published on CHANNEL. The lines of tail --json are such items
    #[arg(long)]
    pub ndjson: bool,
    /// The events' type
    #[arg(short, long, value_name = "TYPE")]
    pub event: Option<EventType>,
    /// The event's idempotency key: a second event with this key on its channel is not published.
    /// Of several events each gets KEY-NUMBER, where the number is that of its line
    #[arg(short = 'k', long, value_name = "KEY", value_parser = idempotency_key)]
    pub idempotency_key: Option<Arc<str>>,
    /// Take each event's idempotency key from this member: of the item, with --ndjson, or else of
    /// the event's data, which must then be a JSON object
    #[arg(long, value_name = "NAME", conflicts_with = "idempotency_key")]
    pub key_field: Option<String>,
    // In this help, clap would replace a plain `{n}` with a line break; see help.rs.
    /// Publish the event N times.
    #[arg(short = 'n', long, value_name = "N", requires = "data", value_parser = clap::value_parser!(u64).range(1..), help = crate::help::COUNT)]
    pub count: Option<u64>,
    /// Publish at most N events of the input per second, evenly spaced
    #[arg(short, long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Print a line of JSON on stdout for each event, and one for the whole run
    #[arg(short, long)]
    pub json: bool,
    /// Print neither a progress bar nor a summary; errors are still printed
    #[arg(short, long)]
    pub quiet: bool,
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
    #[arg(short, long, value_name = "URL", conflicts_with = "redis", help_heading = "Connection")]
    pub url: Option<String>,
    /// Publish straight to Redis: redis://HOST, redis+sentinel://HOST,HOST/NAME or
    /// redis+cluster://HOST,HOST; rediss… for TLS [env: SSE_REDIS]
    #[arg(long, value_name = "URL", help_heading = "Connection")]
    pub redis: Option<String>,
    /// The prefix of the gateway's keys in Redis [default: sse]
    #[arg(long, value_name = "PREFIX", value_parser = prefix, help_heading = "Connection")]
    pub prefix: Option<String>,
    /// How many partitions the gateway has in Redis (redis.partitions) [default: what Redis says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), help_heading = "Connection")]
    pub partitions: Option<u16>,
    /// What HTTP requests carry.
    #[command(flatten)]
    pub http: HttpArguments,
}

fn channels(text: &str) -> Result<Channels, String> {
    parse_channels(text.split(',')).map(Channels).map_err(|reason| reason.text)
}

/// Checks the prefix of the gateway's keys.
pub fn prefix(text: &str) -> Result<String, String> {
    Keys::check_prefix(text).map(|()| text.to_owned()).map_err(|why| why.to_string())
}

fn idempotency_key(text: &str) -> Result<Arc<str>, String> {
    sse_contract::idempotency_key(text.as_bytes()).map_err(|why| why.to_string())
}

/// Parses a delimiter, in which a backslash begins an escape.
fn delimiter(text: &str) -> Result<Split, String> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        bytes.push(match rest.next() {
            Some('0') => 0,
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('\\') => b'\\',
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                let byte = plain.then(|| u8::from_str_radix(&digits, 16).ok()).flatten();
                byte.ok_or("behind \\x stand two hexadecimal digits")?
            }
            _ => return Err("behind a backslash stands one of 0 n r t \\ x".to_owned()),
        });
    }
    if bytes.is_empty() {
        return Err("a delimiter has at least one character; --whole does not split".to_owned());
    }
    Ok(Split::At(bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delimiter_may_hold_any_byte() {
        for (text, want) in [(";", &b";"[..]), ("\\0", b"\0"), ("\\r\\n\\t\\\\", b"\r\n\t\\")] {
            assert_eq!(delimiter(text), Ok(Split::At(want.into())), "{text}");
        }
        assert_eq!(delimiter("ü\\x1e"), Ok(Split::At(b"\xc3\xbc\x1e"[..].into())));
        for bad in ["", "\\", "\\q", "\\x1", "\\xzz", "\\x+1"] {
            assert!(delimiter(bad).is_err(), "{bad}");
        }
    }
}
