//! Where to publish or read, and who asks: from the command line, else from the environment, else
//! from the profile, else the default.

use std::io::{self, Write};

use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::address::{Address, BaseUrl, DEFAULT_URL};
use crate::environment::Environment;
use crate::http_args::HttpArguments;
use crate::profile::Profile;

/// The header that carries a trace (W3C Trace Context).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header that carries an API key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// How a request says who sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Credential {
    /// `Authorization: Bearer …`
    Token(String),
    /// `X-API-Key: …`
    Key(String),
}

/// What stands behind the command line.
#[derive(Debug)]
pub struct Settings<'a> {
    environment: &'a Environment,
    profile: Profile,
    /// Whether the user named the profile, for this run or in the environment.
    named: bool,
}

impl<'a> Settings<'a> {
    /// Reads the profile that these arguments name.
    pub fn read(http: &HttpArguments, environment: &'a Environment) -> Result<Self, String> {
        let profile = Profile::choose(http.profile.as_deref(), environment)?;
        let named = http.profile.is_some() || environment.profile.is_some();
        Ok(Settings { environment, profile, named })
    }

    /// The gateway that `url`, the value of `--url`, names; else the environment's, else the
    /// profile's, else the default.
    pub fn gateway(&self, url: Option<&str>) -> Result<BaseUrl, String> {
        match (url, &self.environment.url, &self.profile.url) {
            (Some(url), _, _) => url.parse().map_err(|why| format!("--url: {why}")),
            (None, Some(url), _) => url.parse().map_err(|why| format!("SSE_URL: {why}")),
            (None, None, Some(url)) => Ok(url.clone()),
            (None, None, None) => DEFAULT_URL.parse(),
        }
    }

    /// Where to publish. A gateway and a Redis from the same source are an error.
    pub fn address(&self, url: Option<&str>, redis: Option<&str>) -> Result<Address, String> {
        let variables = (self.environment.url.as_deref(), self.environment.redis.as_deref());
        match (url, redis, variables.0, variables.1) {
            (Some(_), Some(_), _, _) => Err("--url and --redis exclude each other".to_owned()),
            (None, Some(redis), _, _) | (None, None, None, Some(redis)) => {
                Ok(Address::Redis(redis.to_owned()))
            }
            (Some(_), None, _, _) | (None, None, Some(_), None) => {
                self.gateway(url).map(Address::Gateway)
            }
            (None, None, Some(_), Some(_)) => {
                Err("SSE_URL and SSE_REDIS are both set; choose with --url or --redis".to_owned())
            }
            (None, None, None, None) => match &self.profile.redis {
                Some(redis) => Ok(Address::Redis(redis.clone())),
                None => self.gateway(None).map(Address::Gateway),
            },
        }
    }

    /// The prefix of the gateway's keys in Redis.
    pub fn prefix(&self, option: Option<&str>) -> String {
        option.or(self.profile.prefix.as_deref()).unwrap_or("sse").to_owned()
    }

    /// All headers of requests to `to`, including the one for the token or key.
    pub fn headers(
        &self,
        http: &HttpArguments,
        to: &BaseUrl,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let own = self.profile.url.as_ref().is_some_and(|url| url.is_origin_of(to));
        let mut headers = http.headers.clone();
        let further = if own { &self.profile.headers[..] } else { &[] };
        for (name, value) in further {
            if !http.headers.iter().any(|(given, _)| given == name) {
                headers.push((name.clone(), value.clone()));
            }
        }
        // Whoever started this program set the trace. A value that no header can have is left out,
        // because it must not keep an event from being published.
        let traceparent = self.environment.traceparent.as_deref();
        let traceparent = traceparent.and_then(|value| HeaderValue::from_str(value).ok());
        if let Some(value) = traceparent
            && !headers.iter().any(|(name, _)| *name == TRACEPARENT)
        {
            headers.push((TRACEPARENT, value));
        }
        let (name, value, what) = match self.credential(http, own)? {
            Some(Credential::Token(token)) => {
                (AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")), "token")
            }
            Some(Credential::Key(key)) => (API_KEY, HeaderValue::from_str(&key), "API key"),
            None => {
                self.tell_of_a_credential_kept_back(to);
                return Ok(headers);
            }
        };
        let mut value = value.map_err(|_| format!("the {what} cannot be sent in a header"))?;
        value.set_sensitive(true);
        headers.push((name, value));
        Ok(headers)
    }

    /// The credential to send, if there is one. A token and a key from the same source are an
    /// error. The profile's is read only for its `own` gateway.
    fn credential(&self, http: &HttpArguments, own: bool) -> Result<Option<Credential>, String> {
        let choose = |token: &Option<String>, key: &Option<String>, conflict: &str| match (
            token.clone(),
            key.clone(),
        ) {
            (Some(_), Some(_)) => Err(conflict.to_owned()),
            (Some(token), None) => Ok(Some(Credential::Token(token))),
            (None, key) => Ok(key.map(Credential::Key)),
        };
        let excluded = "--token and --key exclude each other";
        if let Some(option) = choose(&http.token, &http.key, excluded)? {
            return Ok(Some(option));
        }
        let both = "SSE_TOKEN and SSE_KEY are both set; choose with --token or --key";
        if let Some(variable) = choose(&self.environment.token, &self.environment.key, both)? {
            return Ok(Some(variable));
        }
        Ok(match (&self.profile.token_file, &self.profile.key_file) {
            (Some(path), _) if own => Some(Credential::Token(Profile::read_credential(path)?)),
            (None, Some(path)) if own => Some(Credential::Key(Profile::read_credential(path)?)),
            _ => None,
        })
    }

    /// A gateway other than the profile's may belong to somebody else, so the profile's credential
    /// is not sent to it.
    fn tell_of_a_credential_kept_back(&self, to: &BaseUrl) {
        let Profile { name, url, token_file, key_file, .. } = &self.profile;
        if let Some(url) = url
            && self.named
            && (token_file.is_some() || key_file.is_some())
        {
            let line =
                format!("the credential of profile {name} is for {url} and is not sent to {to}");
            writeln!(io::stderr(), "sse-publish: {line}").ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(environment: &Environment) -> Settings<'_> {
        Settings { environment, profile: Profile::default(), named: false }
    }

    fn http(token: Option<&str>, key: Option<&str>) -> HttpArguments {
        let [token, key] = [token, key].map(|text| text.map(str::to_owned));
        HttpArguments { token, key, ..HttpArguments::default() }
    }

    #[test]
    fn who_is_asking_is_said_once() {
        let (token, key) = (Some("t".to_owned()), Some("k".to_owned()));
        let both = Environment { token, key, ..Environment::default() };
        let of = |environment: &Environment, token, key| {
            settings(environment).credential(&http(token, key), false)
        };
        assert!(of(&both, None, None).is_err() && of(&both, Some("a"), Some("b")).is_err());
        assert_eq!(of(&both, Some("a"), None), Ok(Some(Credential::Token("a".into()))));
        assert_eq!(of(&both, None, Some("b")), Ok(Some(Credential::Key("b".into()))));
        let key = Environment { token: None, ..both };
        assert_eq!(of(&key, None, None), Ok(Some(Credential::Key("k".into()))));
        assert_eq!(of(&key, Some("a"), None), Ok(Some(Credential::Token("a".into()))));
        assert_eq!(of(&Environment::default(), None, None), Ok(None));
    }

    #[test]
    fn the_command_line_goes_before_the_environment_and_that_before_the_profile() {
        let (url, redis) = (Some("http://a".into()), Some("redis://b".into()));
        let both = Environment { url, redis, ..Environment::default() };
        let both = settings(&both);
        let gateway = |url: &str| Ok(Address::Gateway(url.parse().unwrap()));
        let redis = |url: &str| Ok(Address::Redis(url.to_owned()));
        assert!(both.address(None, None).is_err());
        assert_eq!(both.address(Some("http://c"), None), gateway("http://c"));
        assert_eq!(both.address(None, Some("redis://d")), redis("redis://d"));
        let none = Environment::default();
        assert_eq!(settings(&none).address(None, None), gateway(DEFAULT_URL));

        let profile = Profile { redis: Some("redis://p".into()), ..Profile::default() };
        let of_profile = Settings { environment: &none, profile: profile.clone(), named: true };
        assert_eq!(of_profile.address(None, None), redis("redis://p"));
        let variable = Environment { url: Some("http://e".into()), ..Environment::default() };
        let of_variable = Settings { environment: &variable, profile, named: true };
        assert_eq!(of_variable.address(None, None), gateway("http://e"));
    }
}
