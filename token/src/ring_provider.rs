//! Cryptography for `jsonwebtoken` by `ring`, which both programs already use for TLS. A second
//! provider would add code to build and to trust.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::signature::{self as rings, UnparsedPublicKey, VerificationAlgorithm};
use ring::{hmac, rand};

static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory, verifier_factory, key_utils: KeyUtils::new_unimplemented() };
static INSTALLED: Once = Once::new();

/// Makes `jsonwebtoken` use `ring`, once per process. A provider that was installed before stays.
pub fn install() {
    INSTALLED.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

/// Verifies signatures with one key and one algorithm.
struct Check {
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Signs with one key and one algorithm.
struct Sign {
    algorithm: Algorithm,
    key: EncodingKey,
}

fn verifier_factory(
    algorithm: &Algorithm,
    key: &DecodingKey,
) -> Result<Box<dyn JwtVerifier>, Error> {
    // A public key must never be used as a shared secret (RFC 8725 §2.1).
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(Check { algorithm: *algorithm, key: key.clone() }))
}

fn signer_factory(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(Sign { algorithm: *algorithm, key: key.clone() }))
}

fn hmac_of(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    Some(match algorithm {
        Algorithm::HS256 => hmac::HMAC_SHA256,
        Algorithm::HS384 => hmac::HMAC_SHA384,
        Algorithm::HS512 => hmac::HMAC_SHA512,
        _ => return None,
    })
}

fn rsa_of(algorithm: Algorithm) -> Option<&'static rings::RsaParameters> {
    Some(match algorithm {
        Algorithm::RS256 => &rings::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &rings::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &rings::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &rings::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &rings::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &rings::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn curve_of(algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match algorithm {
        Algorithm::ES256 => &rings::ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &rings::ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &rings::ED25519,
        _ => return None,
    })
}

impl Check {
    fn is_right(&self, message: &[u8], signature: &[u8]) -> bool {
        let checked = match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                let key = rings::RsaPublicKeyComponents { n, e };
                rsa_of(self.algorithm).map(|rsa| key.verify(rsa, message, signature))
            }
            DecodingKeyKind::SecretOrDer(bytes) => {
                let public = |algorithm: &'static dyn VerificationAlgorithm| {
                    UnparsedPublicKey::new(algorithm, bytes).verify(message, signature)
                };
                let secret =
                    |algorithm| hmac::verify(&hmac::Key::new(algorithm, bytes), message, signature);
                let rsa = rsa_of(self.algorithm).map(|rsa| public(rsa));
                let curve = || curve_of(self.algorithm).map(public);
                rsa.or_else(curve).or_else(|| hmac_of(self.algorithm).map(secret))
            }
        };
        checked.is_some_and(|checked| checked.is_ok())
    }
}

impl Verifier<Vec<u8>> for Check {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        self.is_right(message, signature).then_some(()).ok_or_else(signature::Error::new)
    }
}

impl JwtVerifier for Check {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Sign {
    fn signed(&self, message: &[u8]) -> Option<Vec<u8>> {
        let (bytes, random) = (self.key.as_bytes(), rand::SystemRandom::new());
        let rsa = |encoding: &'static dyn rings::RsaEncoding| {
            let pair = rings::RsaKeyPair::from_der(bytes).ok()?;
            let mut signature = vec![0; pair.public().modulus_len()];
            pair.sign(encoding, &random, message, &mut signature).ok()?;
            Some(signature)
        };
        let ecdsa = |curve| {
            let pair = rings::EcdsaKeyPair::from_pkcs8(curve, bytes, &random).ok()?;
            Some(pair.sign(&random, message).ok()?.as_ref().to_vec())
        };
        match self.algorithm {
            Algorithm::RS256 => rsa(&rings::RSA_PKCS1_SHA256),
            Algorithm::RS384 => rsa(&rings::RSA_PKCS1_SHA384),
            Algorithm::RS512 => rsa(&rings::RSA_PKCS1_SHA512),
            Algorithm::PS256 => rsa(&rings::RSA_PSS_SHA256),
            Algorithm::PS384 => rsa(&rings::RSA_PSS_SHA384),
            Algorithm::PS512 => rsa(&rings::RSA_PSS_SHA512),
            Algorithm::ES256 => ecdsa(&rings::ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::ES384 => ecdsa(&rings::ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::EdDSA => {
                let pair = rings::Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).ok()?;
                Some(pair.sign(message).as_ref().to_vec())
            }
            _ => {
                let key = hmac::Key::new(hmac_of(self.algorithm)?, bytes);
                Some(hmac::sign(&key, message).as_ref().to_vec())
            }
        }
    }
}

impl Signer<Vec<u8>> for Sign {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        self.signed(message).ok_or_else(signature::Error::new)
    }
}

impl JwtSigner for Sign {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
