//! The lines of `auth.jwt.keys`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use sse_contract::pattern::Template;
use sse_token::Algorithm;
use url::Url;

use crate::config::limits::Limits;
use crate::config::words::{Secret, Words};

/// Where the keys of a line come from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// A shared secret in the line itself.
    Secret(Secret),
    /// A file that holds a shared secret.
    SecretFile(PathBuf),
    /// A PEM file of a public key.
    Pem(PathBuf),
    /// A key set.
    Set(Location),
}

/// One line of `auth.jwt.keys`, such as `alg=RS256 jwks=https://login.example/jwks.json iss=https://login.example aud=sse`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct IssuerLine {
    /// What its tokens may be signed with.
    pub algorithms: Vec<Algorithm>,
    /// Its keys.
    pub source: KeySource,
    /// The one `kid` that its tokens must bear; none: any.
    pub kid: Option<Box<str>>,
    /// Their `iss`; none: any.
    pub issuer: Option<Box<str>>,
    /// Their `aud`; none: tokens for somebody are not taken.
    pub audience: Option<Box<str>>,
    /// The claim that names the subject.
    pub subject: Box<str>,
    /// What each of its tokens allows to listen to, beside what the token says.
    pub subscribe: Vec<Template>,
    /// What each of its tokens allows to publish to, beside what the token says.
    pub publish: Vec<Template>,
    /// What each of its bearers may take.
    pub limits: Limits,
}

impl TryFrom<String> for IssuerLine {
    type Error = String;

    fn try_from(line: String) -> Result<Self, String> {
        let words = Words::parse(
            &line,
            &[
                "alg",
                "secret",
                "secret_file",
                "pem",
                "jwks",
                "kid",
                "iss",
                "aud",
                "subject",
                "subscribe",
                "publish",
                "streams",
                "rate",
            ],
        )?;
        let algorithm = |name: &str| {
            name.parse::<Algorithm>().map_err(|_| {
                "alg must be one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA"
                    .to_owned()
            })
        };
        let algorithms: Vec<Algorithm> =
            words.all("alg").map(algorithm).collect::<Result<_, _>>()?;
        if algorithms.is_empty() {
            return Err(
                "alg=… is missing: the algorithms that these tokens are signed with".to_owned()
            );
        }
        let mut sources = Vec::new();
        sources.extend(
            words.one("secret")?.map(|text| KeySource::Secret(Secret(text.as_bytes().into()))),
        );
        sources.extend(words.one("secret_file")?.map(|path| KeySource::SecretFile(path.into())));
        sources.extend(words.one("pem")?.map(|path| KeySource::Pem(path.into())));
        if let Some(place) = words.one("jwks")? {
            sources.push(KeySource::Set(place.parse()?));
        }
        let Ok([source]) = <[KeySource; 1]>::try_from(sources) else {
            return Err(
                "one of secret, secret_file, pem and jwks must stand there, and no two".to_owned()
            );
        };
        let text = |name| words.one(name).map(|text| text.map(Box::from));
        Ok(IssuerLine {
            algorithms,
            source,
            kid: text("kid")?,
            issuer: text("iss")?,
            audience: text("aud")?,
            subject: text("subject")?.unwrap_or_else(|| "sub".into()),
            subscribe: words.parsed("subscribe")?,
            publish: words.parsed("publish")?,
            limits: Limits::of(&words)?,
        })
    }
}

/// Where a key set is.
#[derive(Debug, Clone)]
pub enum Location {
    /// In a file.
    File(PathBuf),
    /// At a URL.
    Url(Url),
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(url) = as_url(text) {
            return Ok(Location::Url(url));
        }
        if text.contains("://") {
            return Err("jwks is the path of a file, or a URL of https:// or http://".to_owned());
        }
        Ok(Location::File(text.into()))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::File(path) => write!(f, "{}", path.display()),
            // Without what may be secret in it.
            Location::Url(url) => write!(f, "{}{}", url.origin().ascii_serialization(), url.path()),
        }
    }
}

/// Whether a location of keys is a URL.
pub fn as_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}
