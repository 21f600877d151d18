//! Tokens: an unsigned token is never accepted, and a signed one only within its time and for its
//! issuer and audience.
//!
//! Input: a token; or `c` and claims in JSON, which are signed here; or `k` and a key set.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sse_token::{Algorithm, Claims, Expected, JwkSet, SigningKey, Token, VerifyingKey};

const SECRET: &[u8] = b"a-secret-of-at-least-32-bytes-for-fuzzing";
const RSA: &[u8] = include_bytes!("../keys/rsa.pub.pem");
const CURVE: &[u8] = include_bytes!("../keys/p256.pub.pem");
const EDWARDS: &[u8] = include_bytes!("../keys/ed25519.pub.pem");
/// One token for each key pair. The private keys were deleted.
const SIGNED: [&str; 3] = [
    include_str!("../keys/rs256.token"),
    include_str!("../keys/es256.token"),
    include_str!("../keys/eddsa.token"),
];

/// The keys of a gateway, and keys that sign.
struct Keys {
    secret: VerifyingKey,
    pairs: [VerifyingKey; 3],
    signing: SigningKey,
    /// Signs with a public key, as if it were a shared secret.
    forging: SigningKey,
    /// All tokens that were signed with the secret.
    signed: Vec<String>,
}

fn keys() -> &'static Keys {
    use Algorithm::*;
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let signing = SigningKey::from_secret(SECRET).expect("a secret");
        let pem =
            |pem, algorithms: &[Algorithm]| VerifyingKey::from_pem(pem, algorithms).expect("a key");
        let claims = [
            r#"{"exp":4102444800,"sub":"42"}"#,
            r#"{"aud":"sse","exp":4102444800,"iss":"https://a","subscribe":["user:{sub}:*"]}"#,
        ];
        let sign = |(claims, algorithm): (&str, Algorithm)| {
            let claims: Claims = serde_json::from_str(claims).expect("claims");
            sse_token::sign(&claims, &signing, algorithm, None).expect("a token")
        };
        let signed =
            [(claims[0], HS256), (claims[1], HS256), (claims[0], HS512)].map(sign).to_vec();
        Keys {
            secret: VerifyingKey::from_secret(SECRET, &[HS256, HS384, HS512]).expect("a secret"),
            pairs: [
                pem(RSA, &[RS256, RS384, RS512, PS256, PS384, PS512]),
                pem(CURVE, &[ES256]),
                pem(EDWARDS, &[EdDSA]),
            ],
            forging: SigningKey::from_secret(RSA).expect("long enough"),
            signing,
            signed,
        }
    })
}

/// All tokens that are accepted.
pub fn signed() -> impl Iterator<Item = &'static str> {
    keys().signed.iter().map(String::as_str).chain(SIGNED.map(str::trim_end))
}

/// Whether any of the keys accepts the token.
pub fn is_taken(token: &str) -> bool {
    let keys = keys();
    let expected = [anything(), Expected { audience: Some("sse".to_owned()), ..anything() }];
    keys.pairs
        .iter()
        .chain([&keys.secret])
        .any(|key| expected.iter().any(|expected| sse_token::check(token, key, expected).is_ok()))
}

/// Checks the input with every key.
pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((b'c', claims)) => {
            if let Ok(claims) = serde_json::from_slice(claims) {
                times(&claims);
            }
        }
        Some((b'k', set)) => {
            let Ok(set) = serde_json::from_slice::<JwkSet>(set) else { return };
            let algorithms =
                [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
            for jwk in &set.keys {
                let Ok(key) = VerifyingKey::from_jwk(jwk, &algorithms) else { continue };
                assert!(!key.takes(Algorithm::HS256), "no secret comes out of a key set");
                for token in signed() {
                    let taken = sse_token::check(token, &key, &anything()).is_ok();
                    // The set may contain the kept public keys, which accept their own tokens.
                    assert!(!taken || SIGNED.iter().any(|known| known.trim_end() == token));
                }
            }
        }
        _ => {
            if let Ok(token) = std::str::from_utf8(data) {
                forged(token);
            }
        }
    }
}

fn anything() -> Expected {
    Expected { unending: true, ..Expected::default() }
}

/// Every accepted token was signed, byte for byte.
fn forged(token: &str) {
    let keys = keys();
    for expected in [anything(), Expected { audience: Some("sse".to_owned()), ..anything() }] {
        if let Ok(claims) = sse_token::check(token, &keys.secret, &expected) {
            assert!(keys.signed.iter().any(|known| known == token), "a token nobody signed");
            assert_eq!(Token::read(token).and_then(|token| token.unproven()), Ok(claims));
        }
        for key in &keys.pairs {
            if sse_token::check(token, key, &expected).is_ok() {
                assert!(SIGNED.iter().any(|known| said_the_same(known.trim_end(), token)));
            }
        }
    }
    let _ = Token::read(token).and_then(|token| token.unproven());
}

/// Whether header and claims are the same. Signatures are not compared: another encoding of one may
/// also be valid.
fn said_the_same(one: &str, other: &str) -> bool {
    let said = |token: &str| token.rsplit_once('.').map(|(said, _)| said.to_owned());
    said(one) == said(other)
}

/// Signed claims are accepted only within their time and for the expected issuer and audience.
fn times(claims: &Claims) {
    let keys = keys();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let Ok(forged) = sse_token::sign(claims, &keys.forging, Algorithm::HS256, None) else { return };
    assert!(keys.pairs.iter().all(|key| sse_token::check(&forged, key, &anything()).is_err()));
    assert!(sse_token::check(&forged, &keys.secret, &anything()).is_err());

    let token =
        sse_token::sign(claims, &keys.signing, Algorithm::HS256, Some("k")).expect("a token");
    let number = |name: &str| claims.get(name).map(|value| value.as_f64());
    let named = |name: &str, wanted: &str| match claims.get(name) {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Array(all)) => all.iter().any(|one| one == wanted),
        _ => false,
    };
    for unending in [false, true] {
        for (issuer, audience) in [(None, None), (Some("https://a"), None), (None, Some("sse"))] {
            let expected = Expected {
                issuer: issuer.map(str::to_owned),
                audience: audience.map(str::to_owned),
                unending,
                leeway: 5,
            };
            let taken = sse_token::check(&token, &keys.secret, &expected);
            if taken.is_ok() {
                match number("exp") {
                    None => assert!(unending, "without an end"),
                    Some(end) => {
                        assert!(end.is_some_and(|end| end >= (now - 6) as f64), "{claims:?}")
                    }
                }
                if let Some(start) = number("nbf") {
                    assert!(start.is_some_and(|start| start <= (now + 6) as f64), "{claims:?}");
                }
                assert!(issuer.is_none_or(|issuer| named("iss", issuer)), "{claims:?}");
                match audience {
                    Some(audience) => assert!(named("aud", audience), "{claims:?}"),
                    None => assert!(claims.get("aud").is_none_or(Value::is_null), "{claims:?}"),
                }
            }
            // A subject is a text (RFC 7519 §4.1.2); of another kind it may be refused.
            let plain = ["nbf", "iss", "aud"].iter().all(|name| !claims.contains_key(*name))
                && claims.get("sub").is_none_or(Value::is_string);
            let good = claims
                .get("exp")
                .and_then(Value::as_u64)
                .is_some_and(|end| (now + 1000..1 << 40).contains(&end));
            if plain
                && good
                && issuer.is_none()
                && audience.is_none()
                && token.len() <= sse_token::MAX_BYTES
            {
                assert_eq!(taken.as_ref(), Ok(claims), "a good token is taken");
            }
        }
    }
}
