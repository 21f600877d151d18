//! Keys: shared secrets, PEM files, and those of a JSON Web Key Set (RFC 7517).

use std::fmt;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};

use crate::MIN_SECRET;

/// Why a key is of no use. No message holds any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A secret that can be guessed.
    #[error("the secret has {0} bytes; at least {MIN_SECRET} are needed, random ones")]
    Short(usize),
    /// Other PEM than a key for this algorithm.
    #[error("this is no PEM of a key for {0:?}")]
    Pem(Algorithm),
    /// A private key where a public one is needed.
    #[error("this is a private key, which only signs; what checks is the public key")]
    Private,
    /// A secret where a key pair is needed, or the other way round.
    #[error("{0:?} needs {1}")]
    Kind(Algorithm, &'static str),
    /// It cannot sign.
    #[error("the key cannot sign with {0:?}")]
    Unfit(Algorithm),
    /// Of a key set, none for a signature by one of the algorithms.
    #[error("this key is not for checking signatures by an algorithm that is allowed")]
    Unsuited,
}

/// A key that checks signatures, and the algorithms it may do that with.
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

/// What an algorithm signs with: one secret on both sides, or a pair of keys.
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

/// What an algorithm signs with.
pub fn family(algorithm: Algorithm) -> Family {
    match algorithm.family() {
        AlgorithmFamily::Hmac => Family::Secret,
        AlgorithmFamily::Rsa => Family::Rsa,
        AlgorithmFamily::Ec => Family::Curve,
        AlgorithmFamily::Ed => Family::Edwards,
    }
}

impl VerifyingKey {
    /// A shared secret, for HMAC.
    ///
    /// # Errors
    ///
    /// The secret is too short, or an algorithm needs a key pair.
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

    /// A public key in PEM, or a certificate's.
    ///
    /// # Errors
    ///
    /// The text is no public key for one of the algorithms, or one of them needs a secret.
    pub fn from_pem(pem: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        // An RSA one would be read, and fit no signature.
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

    /// A key of a key set, and its name. Secrets in a key set are passed over: whoever may read the set could sign.
    ///
    /// # Errors
    ///
    /// The key is for something else.
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

    /// Whether it checks signatures by this algorithm.
    pub fn takes(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    pub(crate) fn inner(&self) -> &DecodingKey {
        &self.inner
    }
}

/// A key that signs.
pub struct SigningKey(EncodingKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// A shared secret, for HMAC.
    ///
    /// # Errors
    ///
    /// The secret is too short.
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        long_enough(secret)?;
        Ok(SigningKey(EncodingKey::from_secret(secret)))
    }

    /// A private key in PEM.
    ///
    /// # Errors
    ///
    /// The text is no key for the algorithm.
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
