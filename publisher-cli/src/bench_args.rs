//! The command line of `bench`.

use std::time::Duration;

use clap::Args;
use sse_contract::Channel;

use crate::args::{count, rate};
use crate::bench_target::BenchUrl;
use crate::http_args::HttpArguments;
use crate::when::positive_duration;

/// The arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// The event stream.
    #[arg(value_name = "URL", help = crate::help::BENCH_URL)]
    pub url: BenchUrl,
    /// How many connections to open
    #[arg(short, long, value_name = "N", default_value = "100", value_parser = count)]
    pub connections: usize,
    /// How many connections may be opening at once
    #[arg(long, value_name = "N", default_value = "200", value_parser = count)]
    pub ramp: usize,
    /// How long to listen after all connections are open
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = positive_duration)]
    pub time: Duration,
    /// The same as a number of seconds, as it was written before there was --for
    #[arg(long, hide = true, conflicts_with = "time", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub seconds: Option<u64>,
    /// While listening, publish stamped events on this channel
    #[arg(short, long, value_name = "CHANNEL")]
    pub publish: Option<Channel>,
    /// Events to publish per second
    #[arg(short, long, value_name = "N", default_value = "50", value_parser = rate, requires = "publish")]
    pub rate: f64,
    /// Bytes of an event's data; at least its stamp, about 40 bytes
    #[arg(long, value_name = "BYTES", default_value = "200", value_parser = count, requires = "publish")]
    pub size: usize,
    /// The share of connections that read nothing once they are open, from 0 to 1
    #[arg(long, value_name = "PART", default_value = "0", value_parser = part)]
    pub stalled: f64,
    /// Print one line of JSON instead of the table
    #[arg(short, long)]
    pub json: bool,
    /// What every request carries.
    #[command(flatten)]
    pub http: HttpArguments,
}

impl BenchArguments {
    /// How long to listen.
    pub fn listening(&self) -> Duration {
        self.seconds.map_or(self.time, Duration::from_secs)
    }
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}
