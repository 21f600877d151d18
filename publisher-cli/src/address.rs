//! The address of a gateway or of a Redis.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;

/// The default URL of a gateway.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// The base of a gateway's URLs: `http` or `https`, a host, and an optional path without a trailing
/// slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    tls: bool,
    authority: String,
    host: String,
    port: u16,
    path: String,
}

/// Where to publish: a gateway, or Redis itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A gateway's HTTP API.
    Gateway(BaseUrl),
    /// A URL of Redis: one server, Sentinels or a cluster. It is never printed, because it may contain
    /// a password.
    Redis(String),
}

impl BaseUrl {
    /// Whether connections use TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The value of the `Host` header.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host to connect to, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The beginning of every request's path: empty, or a path that begins with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether `other` is the same server: scheme, host and port are the same, whatever the path.
    pub fn is_origin_of(&self, other: &BaseUrl) -> bool {
        self.tls == other.tls
            && self.port == other.port
            && self.host.eq_ignore_ascii_case(&other.host)
    }
}

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| format!("{text:?} is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("{text:?} is not an http:// or https:// URL")),
        };
        let (authority, host) =
            (uri.authority().map_or("", |a| a.as_str()), uri.host().unwrap_or(""));
        if host.is_empty() {
            return Err(format!("{text:?} names no host"));
        }
        if authority.contains('@') {
            return Err("a user in the URL is not sent; use --token or --header".to_owned());
        }
        if uri.query().is_some() {
            return Err(format!("{text:?} has a query; give only the base, such as {DEFAULT_URL}"));
        }
        Ok(BaseUrl {
            tls,
            authority: authority.to_owned(),
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_has_a_scheme_and_a_host_and_no_trailing_slash() {
        let base: BaseUrl = "https://example.org/sse/".parse().unwrap();
        assert_eq!((base.host(), base.port(), base.path()), ("example.org", 443, "/sse"));
        assert_eq!(base.to_string(), "https://example.org/sse");
        let base: BaseUrl = "http://[::1]:81".parse().unwrap();
        assert_eq!((base.host(), base.port(), base.path()), ("::1", 81, ""));
        for bad in ["localhost:8080", "ftp://a", "http://", "http://u:p@a", "http://a/?b=c", "a b"]
        {
            assert!(bad.parse::<BaseUrl>().is_err(), "{bad}");
        }
    }
}
