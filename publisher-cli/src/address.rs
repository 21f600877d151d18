//! Where events are published or read, and who asks: from the command line, else from the
//! environment, else the default. No other module reads the environment.

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
    /// A `redis://` or `rediss://` URL. It is never printed, because it may contain a password.
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

/// Reads an environment variable that must be set. For values that the command line may only name,
/// because they are secret.
pub fn variable(name: &str) -> Result<String, String> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(value),
        Ok(_) | Err(std::env::VarError::NotPresent) => Err(format!("{name} is not set")),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("{name} is not UTF-8")),
    }
}

/// What this program reads from the environment. Empty variables count as not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `SSE_URL`
    pub url: Option<String>,
    /// `SSE_REDIS`
    pub redis: Option<String>,
    /// `SSE_TOKEN`
    pub token: Option<String>,
    /// `SSE_KEY`
    pub key: Option<String>,
    /// `TRACEPARENT`: the trace that this program works for, as command-line tools are told it.
    pub traceparent: Option<String>,
}

/// How a request says who sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// `Authorization: Bearer …`
    Token(&'a str),
    /// `X-API-Key: …`
    Key(&'a str),
}

impl Environment {
    /// Reads this process's environment.
    pub fn read() -> Self {
        let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Environment {
            url: read("SSE_URL"),
            redis: read("SSE_REDIS"),
            token: read("SSE_TOKEN"),
            key: read("SSE_KEY"),
            traceparent: read("TRACEPARENT"),
        }
    }

    /// The credential to send, if there is one. The command line overrides the environment. A token
    /// and a key from the same source are an error.
    pub fn credential<'a>(
        &'a self,
        token: Option<&'a str>,
        key: Option<&'a str>,
    ) -> Result<Option<Credential<'a>>, String> {
        match (token, key, self.token.as_deref(), self.key.as_deref()) {
            (Some(_), Some(_), _, _) => Err("--token and --key exclude each other".to_owned()),
            (Some(token), None, _, _) | (None, None, Some(token), None) => {
                Ok(Some(Credential::Token(token)))
            }
            (None, Some(key), _, _) | (None, None, None, Some(key)) => {
                Ok(Some(Credential::Key(key)))
            }
            (None, None, Some(_), Some(_)) => {
                Err("SSE_TOKEN and SSE_KEY are both set; choose with --token or --key".to_owned())
            }
            (None, None, None, None) => Ok(None),
        }
    }

    /// The gateway that `url`, the value of `--url`, names; else the environment's, else the
    /// default.
    pub fn gateway(&self, url: Option<&str>) -> Result<BaseUrl, String> {
        match (url, &self.url) {
            (Some(url), _) => url.parse().map_err(|why| format!("--url: {why}")),
            (None, Some(url)) => url.parse().map_err(|why| format!("SSE_URL: {why}")),
            (None, None) => DEFAULT_URL.parse(),
        }
    }

    /// Where to publish. The command line overrides the environment. A gateway and a Redis from the
    /// same source are an error.
    pub fn address(&self, url: Option<&str>, redis: Option<&str>) -> Result<Address, String> {
        match (url, redis) {
            (Some(_), Some(_)) => Err("--url and --redis exclude each other".to_owned()),
            (Some(_), None) => self.gateway(url).map(Address::Gateway),
            (None, Some(redis)) => Ok(Address::Redis(redis.to_owned())),
            (None, None) => match (&self.url, &self.redis) {
                (Some(_), Some(_)) => {
                    Err("SSE_URL and SSE_REDIS are both set; choose with --url or --redis"
                        .to_owned())
                }
                (None, Some(redis)) => Ok(Address::Redis(redis.clone())),
                (_, None) => self.gateway(None).map(Address::Gateway),
            },
        }
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

    #[test]
    fn who_is_asking_is_said_once() {
        let (token, key) = (Some("t".to_owned()), Some("k".to_owned()));
        let both = Environment { token, key, ..Environment::default() };
        assert!(
            both.credential(None, None).is_err() && both.credential(Some("a"), Some("b")).is_err()
        );
        assert_eq!(both.credential(Some("a"), None), Ok(Some(Credential::Token("a"))));
        assert_eq!(both.credential(None, Some("b")), Ok(Some(Credential::Key("b"))));
        let key = Environment { token: None, ..both };
        assert_eq!(key.credential(None, None), Ok(Some(Credential::Key("k"))));
        assert_eq!(key.credential(Some("a"), None), Ok(Some(Credential::Token("a"))));
        assert_eq!(Environment::default().credential(None, None), Ok(None));
    }

    #[test]
    fn the_command_line_wins_over_the_environment() {
        let both = Environment {
            url: Some("http://a".into()),
            redis: Some("redis://b".into()),
            ..Environment::default()
        };
        assert!(both.address(None, None).is_err());
        let c = Address::Gateway("http://c".parse().unwrap());
        assert_eq!(both.address(Some("http://c"), None), Ok(c));
        let d = Address::Redis("redis://d".into());
        assert_eq!(both.address(None, Some("redis://d")), Ok(d));
        let none = Environment::default();
        assert_eq!(none.address(None, None), Ok(Address::Gateway(DEFAULT_URL.parse().unwrap())));
    }
}
