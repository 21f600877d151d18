//! The command line of `tail`.

use std::time::Duration;

use clap::{Args, ColorChoice};
use sse_contract::Channel;

use crate::http_args::HttpArguments;
use crate::tail_format::Template;
use crate::tail_start::Start;
use crate::when::positive_duration;

/// The arguments of `tail`.
#[derive(Debug, Args)]
pub struct TailArguments {
    /// The channels to follow
    #[arg(value_name = "CHANNEL", required = true, value_delimiter = ',')]
    pub channels: Vec<Channel>,
    /// Where to begin; without it, now. An event's id: after that event. oldest: with the oldest
    /// event kept. 5m: five minutes ago. 2026-11-26T12:00:00Z: at that time. -20: with the last 20
    /// events of all the channels together
    #[arg(
        short = 's',
        long,
        visible_alias = "since",
        value_name = "ID|oldest|TIME|-N",
        allow_hyphen_values = true
    )]
    pub from: Option<Start>,
    /// Stop after N events
    #[arg(short = 'n', long, visible_alias = "count", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Print a line {"id","event","data"} for each event and gap; the id of a raw PUBLISH is null
    #[arg(short, long)]
    pub json: bool,
    /// With --json, print data that are JSON, other than a string, as JSON instead of as a string
    #[arg(short, long, requires = "json")]
    pub parse: bool,
    /// Print only each event's data, unchanged
    #[arg(short, long, conflicts_with = "json")]
    pub data_only: bool,
    // In this help, clap would replace a plain `{n}` with a line break; see help.rs.
    /// Print each event in this form.
    #[arg(short = 'F', long, value_name = "TEMPLATE", conflicts_with_all = ["json", "data_only", "time", "channel"], help = crate::help::FORMAT)]
    pub format: Option<Template>,
    /// Show when each event was published, in UTC
    #[arg(short, long, conflicts_with = "data_only")]
    pub time: bool,
    /// Show the channel of each event
    #[arg(short, long, conflicts_with = "data_only")]
    pub channel: bool,
    /// Colour the output; auto does so on a terminal, unless NO_COLOR is set or CLICOLOR is 0
    #[arg(long, visible_alias = "colour", value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// Also print checkpoints: they move the position without an event
    #[arg(long, conflicts_with = "data_only")]
    pub checkpoints: bool,
    /// End with exit code 3 at the first gap
    #[arg(long)]
    pub fail_on_gap: bool,
    /// Do not report on stderr when the connection is made or lost; gaps are still reported
    #[arg(short, long)]
    pub quiet: bool,
    /// Reconnect when no byte arrives for this long
    #[arg(long, value_name = "TIME", default_value = "45s", value_parser = positive_duration)]
    pub idle_timeout: Duration,
    /// The gateway [env: SSE_URL] [default: http://127.0.0.1:8080]
    #[arg(short, long, value_name = "URL", help_heading = "Connection")]
    pub url: Option<String>,
    /// What every request carries.
    #[command(flatten)]
    pub http: HttpArguments,
}
