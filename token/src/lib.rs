//! JSON Web Tokens (RFC 7519) and API keys of sse-gateway: how they are made and checked, and what a token's claims allow. The
//! gateway and `sse-publish` share it, so that a token or key which one makes is what the other takes.
//!
//! Pure, but for the system's random bytes: keys come in as bytes, and nobody is asked for any.

pub mod api_key;
mod key;
pub mod random;
mod right;
mod ring_provider;

pub use jsonwebtoken::Algorithm;
use jsonwebtoken::errors::ErrorKind;
pub use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Header, Validation};
pub use key::{Family, KeyError, SigningKey, VerifyingKey, family};
pub use right::Right;
use serde_json::{Map, Value};

/// The claims of a token, checked.
pub type Claims = Map<String, Value>;

/// The longest token that is looked at, in bytes.
pub const MAX_BYTES: usize = 8 * 1024;
/// The shortest shared secret, in bytes: as long as the shortest hash (RFC 7518 §3.2).
pub const MIN_SECRET: usize = 32;

/// What a token must say beside its signature.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// `iss`; none: anything.
    pub issuer: Option<String>,
    /// `aud`, which must be it or contain it. None: a token that names an audience is not for us (RFC 7519 §4.1.3).
    pub audience: Option<String>,
    /// Whether a token without `exp` is taken.
    pub unending: bool,
    /// By how many seconds the clocks of issuer and checker may differ.
    pub leeway: u64,
}

/// A token's head, before anything is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The algorithm that it says it is signed with.
    pub algorithm: Algorithm,
    /// The name of the key.
    pub kid: Option<String>,
}

/// A token whose head was read.
#[derive(Debug)]
pub struct Token<'a> {
    text: &'a str,
    head: Head,
}

/// Why a token is not taken. No message holds any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token at all.
    #[error("this is no JSON Web Token")]
    Malformed,
    /// It is longer than [`MAX_BYTES`].
    #[error("the token has more than {MAX_BYTES} bytes")]
    TooLong,
    /// Its head demands something that nobody here understands (RFC 7515 §4.1.11).
    #[error("the token's head has `crit`, and nothing of that is understood")]
    Critical,
    /// No key is for this algorithm, among those for it.
    #[error("no key is configured for this token's algorithm, issuer and key id")]
    NoKey,
    /// The signature is not of the key.
    #[error("the token's signature is wrong")]
    Signature,
    /// `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is ahead.
    #[error("the token is not valid yet")]
    NotYet,
    /// `iss` is another one.
    #[error("the token is of another issuer")]
    Issuer,
    /// `aud` is another one.
    #[error("the token is for another audience")]
    Audience,
    /// A claim that must be there is not, or is of another kind.
    #[error("the token's claim {0:?} is missing or malformed")]
    Claim(String),
}

impl<'a> Token<'a> {
    /// Reads a token's head. Nothing of it is proven.
    ///
    /// # Errors
    ///
    /// It is no token, too long, or demands what nobody here understands. `alg: none` is no algorithm.
    pub fn read(text: &'a str) -> Result<Self, TokenError> {
        if text.len() > MAX_BYTES {
            return Err(TokenError::TooLong);
        }
        let header = jsonwebtoken::decode_header(text).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        Ok(Token { text, head: Head { algorithm: header.alg, kid: header.kid } })
    }

    /// What its head says. Nothing of it is proven.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// What it says, for people to look at. Nothing of it is proven.
    ///
    /// # Errors
    ///
    /// Its claims are no JSON object.
    pub fn unproven(&self) -> Result<Claims, TokenError> {
        let claims = jsonwebtoken::dangerous::insecure_decode_claims(self.text);
        claims.map_err(|_| TokenError::Malformed)
    }

    /// Checks it against one key; answers its claims.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong. [`TokenError::Signature`] says that another key may fit.
    pub fn check(&self, key: &VerifyingKey, expected: &Expected) -> Result<Claims, TokenError> {
        ring_provider::install();
        if !key.takes(self.head.algorithm) {
            return Err(TokenError::NoKey);
        }
        let mut validation = Validation::new(self.head.algorithm);
        validation.leeway = expected.leeway;
        validation.validate_nbf = true;
        let mut required = Vec::new();
        if !expected.unending {
            required.push("exp");
        }
        if let Some(issuer) = &expected.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &expected.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        let decoded = jsonwebtoken::decode::<Claims>(self.text, key.inner(), &validation);
        let claims =
            decoded.map(|token| token.claims).map_err(|error| match error.into_kind() {
                ErrorKind::InvalidSignature => TokenError::Signature,
                ErrorKind::ExpiredSignature => TokenError::Expired,
                ErrorKind::ImmatureSignature => TokenError::NotYet,
                ErrorKind::InvalidIssuer => TokenError::Issuer,
                ErrorKind::InvalidAudience => TokenError::Audience,
                ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => {
                    TokenError::Claim(name)
                }
                ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => TokenError::NoKey,
                _ => TokenError::Malformed,
            })?;
        // An audience that is no text is passed over there, and is all the same not us.
        let for_somebody = claims.get("aud").is_some_and(|audience| !audience.is_null());
        if expected.audience.is_none() && for_somebody {
            return Err(TokenError::Audience);
        }
        Ok(claims)
    }
}

/// Reads a token and checks it against one key; answers its claims.
///
/// # Errors
///
/// As [`Token::read`] and [`Token::check`].
pub fn check(text: &str, key: &VerifyingKey, expected: &Expected) -> Result<Claims, TokenError> {
    Token::read(text)?.check(key, expected)
}

/// Makes a token.
///
/// # Errors
///
/// The key cannot sign with this algorithm.
pub fn sign(
    claims: &Claims,
    key: &SigningKey,
    algorithm: Algorithm,
    kid: Option<&str>,
) -> Result<String, KeyError> {
    ring_provider::install();
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, key.inner()).map_err(|_| KeyError::Unfit(algorithm))
}

#[cfg(test)]
mod tests;
