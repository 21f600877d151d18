//! The options of all commands that send HTTP requests.

use clap::Args;
use hyper::header::{HeaderName, HeaderValue};

/// What every HTTP request carries, and the profile that may say so.
#[derive(Debug, Clone, Default, Args)]
pub struct HttpArguments {
    /// Send `Authorization: Bearer TOKEN` [env: SSE_TOKEN]
    #[arg(long, value_name = "TOKEN", help_heading = "Connection")]
    pub token: Option<String>,
    /// Send `X-API-Key: KEY` [env: SSE_KEY]
    #[arg(
        long,
        value_name = "KEY",
        visible_alias = "api-key",
        conflicts_with = "token",
        help_heading = "Connection"
    )]
    pub key: Option<String>,
    /// Send a header with every request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header, help_heading = "Connection")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Take the address and the credential from this profile of the configuration file
    /// [env: SSE_PUBLISH_PROFILE]
    #[arg(short = 'P', long, value_name = "NAME", help_heading = "Connection")]
    pub profile: Option<String>,
}

/// Parses a header as it stands in a request.
pub fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a header is 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is not a header's name"))?;
    let value =
        HeaderValue::from_str(value.trim()).map_err(|_| "not a header's value".to_owned())?;
    Ok((name, value))
}
