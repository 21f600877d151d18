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

/// Where the keys of one line come from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// `secret=`: a shared secret in the line itself.
    Secret(Secret),
    /// `secret_file=`: a file with a shared secret.
    SecretFile(PathBuf),
    /// `pem=`: a PEM file with a public key or a certificate.
    Pem(PathBuf),
    /// `jwks=`: a key set.
    Set(Location),
}

/// One line of `auth.jwt.keys`, such as
/// `alg=RS256 jwks=https://login.example/jwks.json iss=https://login.example aud=sse`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct IssuerLine {
    /// The algorithms that tokens may be signed with; at least one.
    pub algorithms: Vec<Algorithm>,
    /// Where the keys come from.
    pub source: KeySource,
    /// The `kid` that tokens must have. None: any or no `kid`.
    pub kid: Option<Box<str>>,
    /// The `iss` that tokens must have. None: any or no `iss`.
    pub issuer: Option<Box<str>>,
    /// The `aud` that tokens must have. None: tokens with an `aud` are refused.
    pub audience: Option<Box<str>>,
    /// The claim that names the subject; `sub` by default.
    pub subject: Box<str>,
    /// Channels that every bearer may listen to, in addition to the token's claims.
    pub subscribe: Vec<Template>,
    /// Channels that every bearer may publish to, in addition to the token's claims.
    pub publish: Vec<Template>,
    /// The limits of each bearer.
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

/// The location of a key set.
#[derive(Debug, Clone)]
pub enum Location {
    /// A file.
    File(PathBuf),
    /// An `http://` or `https://` URL.
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
            // Without user, password, query and fragment, which may be secret.
            Location::Url(url) => write!(f, "{}{}", url.origin().ascii_serialization(), url.path()),
        }
    }
}

/// Parses an `http://` or `https://` URL; none for any other text.
pub fn as_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}
