//! Keys: shared secrets, PEM files, and keys of a JSON Web Key Set (RFC 7517).

use std::fmt;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};

use crate::MIN_SECRET;

/// Why a key cannot be used. No message contains any of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The secret is too short, so it could be guessed. Holds its length in bytes.
    #[error("the secret has {0} bytes; at least {MIN_SECRET} are needed, random ones")]
    Short(usize),
    /// The text is not PEM, or not of a key for this algorithm.
    #[error("this is no PEM of a key for {0:?}")]
    Pem(Algorithm),
    /// A private key was given where a public key is needed.
    #[error("this is a private key, which only signs; what checks is the public key")]
    Private,
    /// A secret was given where a key pair is needed, or vice versa. Holds what is needed.
    #[error("{0:?} needs {1}")]
    Kind(Algorithm, &'static str),
    /// The key cannot sign with this algorithm.
    #[error("the key cannot sign with {0:?}")]
    Unfit(Algorithm),
    /// The key of a key set is not for signatures by any of the allowed algorithms.
    #[error("this key is not for checking signatures by an algorithm that is allowed")]
    Unsuited,
}

/// A key that verifies signatures, and the algorithms that it may be used with.
#[derive(Clone)]
pub struct VerifyingKey {
    inner: DecodingKey,
    algorithms: Vec<Algorithm>,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey").field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

/// The kind of key that an algorithm uses: one shared secret, or a pair of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A shared secret (HMAC).
    Secret,
    /// RSA.
    Rsa,
    /// Elliptic curves (ECDSA).
    Curve,
    /// Ed25519.
    Edwards,
}

/// The kind of key that an algorithm uses.
pub fn family(algorithm: Algorithm) -> Family {
    match algorithm.family() {
        AlgorithmFamily::Hmac => Family::Secret,
        AlgorithmFamily::Rsa => Family::Rsa,
        AlgorithmFamily::Ec => Family::Curve,
        AlgorithmFamily::Ed => Family::Edwards,
    }
}

impl VerifyingKey {
    /// From a shared secret, for HMAC.
    ///
    /// # Errors
    ///
    /// The secret is too short, or one of the algorithms needs a key pair.
    pub fn from_secret(secret: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        if let Some(other) = algorithms.iter().find(|a| family(**a) != Family::Secret) {
            return Err(KeyError::Kind(*other, "a public key (pem or jwks), not a secret"));
        }
        long_enough(secret)?;
        Ok(VerifyingKey {
            inner: DecodingKey::from_secret(secret),
            algorithms: algorithms.to_vec(),
        })
    }

    /// From a PEM file with a public key or a certificate.
    ///
    /// # Errors
    ///
    /// The text is no public key for one of the algorithms, it is a private key, one of the
    /// algorithms needs a secret, or `algorithms` is empty.
    pub fn from_pem(pem: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        // An RSA private key would parse as a public key and then match no signature.
        if String::from_utf8_lossy(pem).contains("PRIVATE KEY-----") {
            return Err(KeyError::Private);
        }
        let mut inner = None;
        for algorithm in algorithms {
            let read = match family(*algorithm) {
                Family::Secret => {
                    return Err(KeyError::Kind(*algorithm, "a secret, not a public key"));
                }
                Family::Rsa => DecodingKey::from_rsa_pem(pem),
                Family::Curve => DecodingKey::from_ec_pem(pem),
                Family::Edwards => DecodingKey::from_ed_pem(pem),
            };
            inner = Some(read.map_err(|_| KeyError::Pem(*algorithm))?);
        }
        let inner = inner.ok_or(KeyError::Unsuited)?;
        Ok(VerifyingKey { inner, algorithms: algorithms.to_vec() })
    }

    /// From a key of a key set. Keeps those of `algorithms` that fit the key. Shared secrets are
    /// refused: anybody who may read the set could sign tokens.
    ///
    /// # Errors
    ///
    /// The key is a secret, malformed, not for signatures, or for none of the algorithms.
    pub fn from_jwk(jwk: &Jwk, algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let common = &jwk.common;
        let for_signatures =
            common.public_key_use.as_ref().is_none_or(|using| *using == PublicKeyUse::Signature);
        let own: Option<Algorithm> = match common.key_algorithm {
            Some(own) => Some(own.try_into().map_err(|_| KeyError::Unsuited)?),
            None => None,
        };
        if !for_signatures || matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
            return Err(KeyError::Unsuited);
        }
        let inner = DecodingKey::from_jwk(jwk).map_err(|_| KeyError::Unsuited)?;
        let fits =
            |a: &&Algorithm| a.family() == inner.family() && own.is_none_or(|own| own == **a);
        let algorithms: Vec<Algorithm> = algorithms.iter().filter(fits).copied().collect();
        if algorithms.is_empty() {
            return Err(KeyError::Unsuited);
        }
        Ok(VerifyingKey { inner, algorithms })
    }

    /// Whether the key may verify signatures by this algorithm.
    pub fn takes(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    pub(crate) fn inner(&self) -> &DecodingKey {
        &self.inner
    }
}

/// A key that signs tokens.
pub struct SigningKey(EncodingKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// From a shared secret, for HMAC.
    ///
    /// # Errors
    ///
    /// The secret is too short.
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        long_enough(secret)?;
        Ok(SigningKey(EncodingKey::from_secret(secret)))
    }

    /// From a private key in PEM.
    ///
    /// # Errors
    ///
    /// The text is no private key for the algorithm, or the algorithm needs a secret.
    pub fn from_pem(pem: &[u8], algorithm: Algorithm) -> Result<Self, KeyError> {
        let read = match family(algorithm) {
            Family::Secret => return Err(KeyError::Kind(algorithm, "a secret, not a private key")),
            Family::Rsa => EncodingKey::from_rsa_pem(pem),
            Family::Curve => EncodingKey::from_ec_pem(pem),
            Family::Edwards => EncodingKey::from_ed_pem(pem),
        };
        read.map(SigningKey).map_err(|_| KeyError::Pem(algorithm))
    }

    pub(crate) fn inner(&self) -> &EncodingKey {
        &self.0
    }
}

fn long_enough(secret: &[u8]) -> Result<(), KeyError> {
    if secret.len() < MIN_SECRET { Err(KeyError::Short(secret.len())) } else { Ok(()) }
}
