//! The token issuers in `auth.jwt.keys`, and what their tokens grant.
//!
//! The operator configures which algorithms a key may be used with; a token's `alg` can only select
//! among them. A checked token is cached until it expires, so a rush of reconnects costs one
//! signature check per token instead of one per connection.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use sse_contract::pattern::{Pattern, Template};
use sse_token::{Claims, Expected, Head, Right, Token, TokenError, VerifyingKey};

use crate::access::checked::{Checked, hash};
use crate::access::grant::Grant;
use crate::access::key_set::KeySet;
use crate::access::outbound::Outbound;
use crate::config::issuer_line::{IssuerLine, KeySource};

/// The keys of one line.
enum Keys {
    One(VerifyingKey),
    Set(KeySet),
}

struct Issuer {
    line: IssuerLine,
    keys: Keys,
    expected: Expected,
}

/// Why a token was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The token is invalid, for this reason.
    Invalid(String),
    /// The issuer's key set could not be loaded, which is not the bearer's fault.
    NoKeys,
}

/// All configured issuers.
pub struct Issuers {
    all: Vec<Issuer>,
    checked: Checked,
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuers").field("lines", &self.all.len()).finish_non_exhaustive()
    }
}

impl Issuers {
    /// Reads the secrets, PEM files and key set files of all lines. Key sets at URLs are loaded by
    /// [`Issuers::watch`]. `leeway` is in seconds; `unending` accepts tokens without `exp`. The
    /// error names the line by its number.
    pub fn new(lines: &[IssuerLine], leeway: u64, unending: bool) -> Result<Self, String> {
        let issuer = |(n, line): (usize, &IssuerLine)| {
            let keys =
                keys_of(line).map_err(|error| format!("auth.jwt.keys, line {}: {error}", n + 1))?;
            let owned = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
            let expected = Expected {
                issuer: owned(&line.issuer),
                audience: owned(&line.audience),
                unending,
                leeway,
            };
            Ok(Issuer { line: line.clone(), keys, expected })
        };
        let all = lines.iter().enumerate().map(issuer).collect::<Result<_, String>>()?;
        Ok(Issuers { all, checked: Checked::default() })
    }

    /// Whether no issuer is configured.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Reloads all key sets periodically, forever. Returns at once if there are none.
    pub async fn watch(&self, outbound: &Outbound) {
        let sets = self.all.iter().filter_map(|issuer| match &issuer.keys {
            Keys::Set(set) => Some(set.watch(outbound)),
            Keys::One(_) => None,
        });
        futures_util::future::join_all(sets).await;
    }

    /// Checks a token, or finds it in the cache, and returns its grant.
    pub async fn grant(&self, token: &str, outbound: &Outbound) -> Result<Arc<Grant>, Refusal> {
        let (generation, hash) = (self.generation(), hash(token));
        if let Some(grant) = self.checked.find(&hash, generation) {
            return if grant.has_expired() {
                Err(Refusal::Invalid(TokenError::Expired.to_string()))
            } else {
                Ok(grant)
            };
        }
        let token = Token::read(token).map_err(|error| Refusal::Invalid(error.to_string()))?;
        let mut refusal = TokenError::NoKey;
        let mut away = false;
        for issuer in self.all.iter().filter(|issuer| issuer.may_know(token.head())) {
            match issuer.check(&token, outbound).await {
                Ok(claims) => {
                    let grant = Arc::new(issuer.grant(&claims).map_err(Refusal::Invalid)?);
                    self.checked.add(hash, grant.clone(), generation);
                    return Ok(grant);
                }
                Err(None) => away = true,
                // The signature fits this line's key, so its error is the one to report. After a
                // wrong `iss` or `aud`, another line with the same key may still match.
                Err(Some(error)) if !matches!(error, TokenError::Signature | TokenError::NoKey) => {
                    refusal = error;
                    if !matches!(refusal, TokenError::Issuer | TokenError::Audience) {
                        break;
                    }
                }
                Err(Some(error)) if refusal == TokenError::NoKey => refusal = error,
                Err(Some(_)) => {}
            }
        }
        match (away, refusal) {
            (true, TokenError::NoKey | TokenError::Signature) => Err(Refusal::NoKeys),
            (_, error) => Err(Refusal::Invalid(error.to_string())),
        }
    }

    /// Rises when any key set changes. Grants cached under an older generation are not used,
    /// because their key may be gone.
    fn generation(&self) -> u64 {
        self.all
            .iter()
            .map(|issuer| if let Keys::Set(set) = &issuer.keys { set.generation() } else { 0 })
            .sum()
    }
}

impl Issuer {
    fn may_know(&self, head: &Head) -> bool {
        let named = match (&self.line.kid, &head.kid) {
            (Some(ours), Some(theirs)) => **ours == **theirs,
            (Some(_), None) => false,
            (None, _) => true,
        };
        named && self.line.algorithms.contains(&head.algorithm)
    }

    /// The grant of these claims. It expires `leeway` after the token's `exp`, as the check does.
    fn grant(&self, claims: &Claims) -> Result<Grant, String> {
        let mut grant = grant_of(&self.line, claims)?;
        grant.expires = grant.expires.map(|end| end.saturating_add(self.expected.leeway));
        Ok(grant)
    }

    /// The error is `None` if the key set could not be loaded.
    async fn check(
        &self,
        token: &Token<'_>,
        outbound: &Outbound,
    ) -> Result<Claims, Option<TokenError>> {
        match &self.keys {
            Keys::One(key) => token.check(key, &self.expected).map_err(Some),
            Keys::Set(set) => {
                let keys = set.keys(token.head(), outbound).await.ok_or(None)?;
                let mut refusal = TokenError::NoKey;
                for key in keys {
                    match token.check(&key, &self.expected) {
                        Err(error @ (TokenError::Signature | TokenError::NoKey)) => refusal = error,
                        other => return other.map_err(Some),
                    }
                }
                Err(Some(refusal))
            }
        }
    }
}

/// Reads the keys of one line.
fn keys_of(line: &IssuerLine) -> Result<Keys, String> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let key = match &line.source {
        KeySource::Secret(secret) => VerifyingKey::from_secret(&secret.0, &line.algorithms),
        KeySource::SecretFile(path) => {
            // Editors end files with a line end that is not part of the secret.
            let bytes = read(path)?;
            VerifyingKey::from_secret(bytes.trim_ascii_end(), &line.algorithms)
        }
        KeySource::Pem(path) => VerifyingKey::from_pem(&read(path)?, &line.algorithms),
        KeySource::Set(location) => {
            return Ok(Keys::Set(KeySet::new(location.clone(), line.algorithms.clone())?));
        }
    };
    key.map(Keys::One).map_err(|error| error.to_string())
}

/// The line's patterns filled with the claims, plus the token's own `subscribe` and `publish`.
fn grant_of(line: &IssuerLine, claims: &Claims) -> Result<Grant, String> {
    let text = |name: &str| match claims.get(name) {
        Some(Value::String(text)) => Some(Arc::from(text.as_str())),
        Some(Value::Number(number)) => Some(Arc::from(number.to_string())),
        _ => None,
    };
    let seconds = |name: &str| claims.get(name).and_then(Value::as_f64).map(|n| n.max(0.0) as u64);
    let patterns = |right: Right, lines: &[Template]| {
        let mut patterns: Vec<Pattern> =
            lines.iter().filter_map(|template| template.fill(claims)).collect();
        patterns.extend(right.of(claims)?);
        Ok::<Arc<[Pattern]>, String>(patterns.into())
    };
    Ok(Grant {
        subject: text(&line.subject),
        token_id: text("jti"),
        issued: seconds("iat"),
        expires: seconds("exp"),
        subscribe: patterns(Right::Subscribe, &line.subscribe)?,
        publish: patterns(Right::Publish, &line.publish)?,
        limits: line.limits,
        of_anybody: false,
    })
}
