//! Makes and checks JSON Web Tokens (RFC 7519) and API keys, and reads what a token's claims allow.
//! The gateway and `sse-publish` share this crate, so each accepts what the other makes.
//!
//! Does no I/O except for the system's random bytes: callers pass keys as bytes.

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

/// The claims of a token.
pub type Claims = Map<String, Value>;

/// The longest token that is read, in bytes.
pub const MAX_BYTES: usize = 8 * 1024;
/// The shortest shared secret, in bytes: the size of the smallest hash, SHA-256 (RFC 7518 §3.2).
pub const MIN_SECRET: usize = 32;

/// Requirements for a token besides its signature.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// The required `iss`. None: any or no `iss`.
    pub issuer: Option<String>,
    /// The required `aud`: the token's `aud` must equal or contain it. None: a token with an `aud`
    /// is for somebody else and refused (RFC 7519 §4.1.3).
    pub audience: Option<String>,
    /// Whether a token without `exp` is accepted.
    pub unending: bool,
    /// By how many seconds the clocks of issuer and checker may differ.
    pub leeway: u64,
}

/// The header of a token, not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The algorithm that the token claims to be signed with.
    pub algorithm: Algorithm,
    /// The claimed name of the key.
    pub kid: Option<String>,
}

/// A token of which only the header was read.
#[derive(Debug)]
pub struct Token<'a> {
    text: &'a str,
    head: Head,
}

/// Why a token is refused. No message contains any of the token, except the name of a claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not a JSON Web Token.
    #[error("this is no JSON Web Token")]
    Malformed,
    /// It is longer than [`MAX_BYTES`].
    #[error("the token has more than {MAX_BYTES} bytes")]
    TooLong,
    /// The header has `crit`, of which no extension is understood here (RFC 7515 §4.1.11).
    #[error("the token's head has `crit`, and nothing of that is understood")]
    Critical,
    /// No key is configured for this algorithm, issuer and key id.
    #[error("no key is configured for this token's algorithm, issuer and key id")]
    NoKey,
    /// The signature does not fit the key.
    #[error("the token's signature is wrong")]
    Signature,
    /// `exp` is past.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is in the future.
    #[error("the token is not valid yet")]
    NotYet,
    /// `iss` is not the required one.
    #[error("the token is of another issuer")]
    Issuer,
    /// `aud` is not the required one, or there is an `aud` and none is expected.
    #[error("the token is for another audience")]
    Audience,
    /// A required claim is missing or has the wrong type. Holds its name.
    #[error("the token's claim {0:?} is missing or malformed")]
    Claim(String),
}

impl<'a> Token<'a> {
    /// Reads the header of a token. Verifies nothing.
    ///
    /// # Errors
    ///
    /// The text is no token, longer than [`MAX_BYTES`], or has a header with `crit` or an unknown
    /// algorithm, such as `none`.
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

    /// The header, not verified.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The claims, not verified; for display only.
    ///
    /// # Errors
    ///
    /// The claims are not a JSON object.
    pub fn unproven(&self) -> Result<Claims, TokenError> {
        let claims = jsonwebtoken::dangerous::insecure_decode_claims(self.text);
        claims.map_err(|_| TokenError::Malformed)
    }

    /// Verifies the token with one key and returns its claims.
    ///
    /// # Errors
    ///
    /// The first problem found. After [`TokenError::Signature`] or [`TokenError::NoKey`] another
    /// key may fit.
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
        // The library ignores an `aud` of the wrong type; it still names somebody else.
        let for_somebody = claims.get("aud").is_some_and(|audience| !audience.is_null());
        if expected.audience.is_none() && for_somebody {
            return Err(TokenError::Audience);
        }
        Ok(claims)
    }
}

/// Reads a token, verifies it with one key and returns its claims.
///
/// # Errors
///
/// Those of [`Token::read`] and [`Token::check`].
pub fn check(text: &str, key: &VerifyingKey, expected: &Expected) -> Result<Claims, TokenError> {
    Token::read(text)?.check(key, expected)
}

/// Makes a signed token.
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
