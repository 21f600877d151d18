//! Reads the keys that sign and check tokens from the place that the command line names. No error
//! message contains any part of a key.

use std::path::Path;

use sse_token::{Algorithm, Family, KeyError, SigningKey, VerifyingKey, family};

use crate::access_args::KeyArguments;
use crate::environment;

/// The content of a key file or variable.
enum Key {
    Secret(Vec<u8>),
    Pem(Vec<u8>),
}

impl KeyArguments {
    /// The key to sign with, and its algorithm.
    pub fn signing(&self) -> Result<(SigningKey, Algorithm), String> {
        let Some((key, place)) = self.read()? else {
            return Err("no key: give --secret-file, --secret-env or --pem; sse-publish token secret --out FILE \
                        makes a secret"
                .to_owned());
        };
        let (key, algorithm) = match (key, self.alg) {
            (Key::Secret(secret), algorithm) => {
                let algorithm = algorithm.unwrap_or(Algorithm::HS256);
                if family(algorithm) != Family::Secret {
                    return Err(format!("{algorithm:?} needs a key pair (--pem), not a secret"));
                }
                (SigningKey::from_secret(&secret), algorithm)
            }
            (Key::Pem(_), None) => {
                return Err("--pem needs --alg: what the gateway's line has as alg=…".to_owned());
            }
            (Key::Pem(pem), Some(algorithm)) => (SigningKey::from_pem(&pem, algorithm), algorithm),
        };
        let wrong = |why: KeyError| match why {
            KeyError::Pem(_) | KeyError::Private => format!("{place}: {why}; a private key signs"),
            why => format!("{place}: {why}"),
        };
        Ok((key.map_err(wrong)?, algorithm))
    }

    /// The key to check a token with, and where it came from; `None` if the command line names no
    /// key. `named` is the algorithm that the token names.
    ///
    /// The token never chooses the kind of key: a secret checks only HMAC, and a public key
    /// everything else.
    pub fn verifying(&self, named: Algorithm) -> Result<Option<(VerifyingKey, String)>, String> {
        let Some((key, place)) = self.read()? else {
            return match self.alg {
                Some(_) => {
                    Err("--alg says how a key is used: give --secret-file, --secret-env or --pem"
                        .to_owned())
                }
                None => Ok(None),
            };
        };
        let algorithm = self.alg.unwrap_or(named);
        let key = match key {
            Key::Secret(secret) => VerifyingKey::from_secret(&secret, &[algorithm]),
            Key::Pem(pem) => VerifyingKey::from_pem(&pem, &[algorithm]),
        };
        let wrong = |why: KeyError| match why {
            KeyError::Pem(_) | KeyError::Private => {
                format!("{place}: {why} (openssl pkey -in KEY -pubout makes it of a private one)")
            }
            KeyError::Kind(..) if self.alg.is_none() => {
                format!("{place}: the token says that it is signed with {named:?}, and {why}")
            }
            why => format!("{place}: {why}"),
        };
        key.map(|key| Some((key, place.clone()))).map_err(wrong)
    }

    /// Reads the key, and returns it with its name for error messages.
    fn read(&self) -> Result<Option<(Key, String)>, String> {
        let file = |path: &Path| {
            let place = path.display().to_string();
            let bytes = std::fs::read(path).map_err(|why| format!("{place}: {why}"))?;
            Ok::<_, String>((bytes, place))
        };
        Ok(match (&self.secret_file, &self.secret_env, &self.pem) {
            (Some(path), _, _) => {
                let (bytes, place) = file(path)?;
                // Ignores trailing white space, as the gateway does: an editor ends the file with a
                // line end.
                Some((Key::Secret(bytes.trim_ascii_end().to_vec()), place))
            }
            (None, Some(name), _) => {
                let secret =
                    environment::variable(name).map_err(|why| format!("--secret-env: {why}"))?;
                Some((Key::Secret(secret.into_bytes()), name.clone()))
            }
            (None, None, Some(path)) => {
                let (bytes, place) = file(path)?;
                Some((Key::Pem(bytes), place))
            }
            (None, None, None) => None,
        })
    }
}
