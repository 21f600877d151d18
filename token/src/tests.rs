//! Makes tokens and checks them. Key pairs come from `openssl`.

use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

fn claims(value: Value) -> Claims {
    value.as_object().expect("an object").clone()
}

fn openssl(args: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut command = Command::new("openssl");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("openssl, of Debian's package of that name");
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "openssl {args:?}");
    output.stdout
}

/// A private key and its public key, in PEM.
fn pair(algorithm: Algorithm) -> (Vec<u8>, Vec<u8>) {
    let kind: &[&str] = match family(algorithm) {
        Family::Rsa => &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        Family::Curve if algorithm == Algorithm::ES384 => {
            &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]
        }
        Family::Curve => &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        _ => &["genpkey", "-algorithm", "ed25519"],
    };
    let private = openssl(kind, b"");
    let public = openssl(&["pkey", "-pubout"], &private);
    (private, public)
}

fn made(value: Value) -> String {
    let key = SigningKey::from_secret(SECRET).unwrap();
    sign(&claims(value), &key, Algorithm::HS256, None).unwrap()
}

fn checked(token: &str, expected: &Expected) -> Result<Claims, TokenError> {
    check(token, &VerifyingKey::from_secret(SECRET, &[Algorithm::HS256]).unwrap(), expected)
}

fn encoded(part: &str) -> String {
    let base64 = String::from_utf8(openssl(&["base64", "-A"], part.as_bytes())).unwrap();
    base64.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

#[test]
fn what_is_signed_is_taken_with_every_algorithm() {
    use Algorithm::*;
    let wanted = claims(json!({ "sub": "42", "exp": now() + 60 }));
    for algorithm in [HS256, HS384, HS512] {
        let token =
            sign(&wanted, &SigningKey::from_secret(SECRET).unwrap(), algorithm, None).unwrap();
        let key = VerifyingKey::from_secret(SECRET, &[algorithm]).unwrap();
        assert_eq!(check(&token, &key, &Expected::default()).unwrap(), wanted);
        let other = VerifyingKey::from_secret(&[7; 32], &[algorithm]).unwrap();
        assert_eq!(check(&token, &other, &Expected::default()), Err(TokenError::Signature));
    }
    let (rsa, p256, p384, ed) = (pair(RS256), pair(ES256), pair(ES384), pair(EdDSA));
    let pairs = [RS256, RS384, RS512, PS256, PS384, PS512].map(|a| (a, &rsa));
    for (algorithm, (private, public)) in
        pairs.into_iter().chain([(ES256, &p256), (ES384, &p384), (EdDSA, &ed)])
    {
        let key = SigningKey::from_pem(private, algorithm).unwrap();
        let token = sign(&wanted, &key, algorithm, Some("k1")).unwrap();
        assert_eq!(Token::read(&token).unwrap().head().kid.as_deref(), Some("k1"));
        let key = VerifyingKey::from_pem(public, &[algorithm]).unwrap();
        assert_eq!(check(&token, &key, &Expected::default()).unwrap(), wanted, "{algorithm:?}");
        let other = VerifyingKey::from_pem(&pair(algorithm).1, &[algorithm]).unwrap();
        assert_eq!(check(&token, &other, &Expected::default()), Err(TokenError::Signature));
    }
}

#[test]
fn what_a_token_says_can_be_read_without_a_key() {
    let wanted = claims(json!({ "sub": "42", "exp": 5 }));
    let key = SigningKey::from_secret(SECRET).unwrap();
    let token = sign(&wanted, &key, Algorithm::HS384, Some("k1")).unwrap();
    let head = Head { algorithm: Algorithm::HS384, kid: Some("k1".to_owned()) };
    let read = Token::read(&token).unwrap();
    assert_eq!((read.head(), read.unproven()), (&head, Ok(wanted)));
    for odd in ["", "a.b.c", &format!("{}.{}.", token.split('.').next().unwrap(), encoded("[1]"))] {
        let read = Token::read(odd).and_then(|token| token.unproven());
        assert_eq!(read, Err(TokenError::Malformed), "{odd}");
    }
}

/// RFC 8725 §2.1, §3.1: the checker selects the algorithm, not the token.
#[test]
fn no_token_chooses_its_own_algorithm() {
    let body = encoded(&json!({ "sub": "admin", "exp": now() + 60 }).to_string());
    for none in ["none", "None", "NONE", ""] {
        let head = encoded(&json!({ "alg": none, "typ": "JWT" }).to_string());
        for token in
            [format!("{head}.{body}."), format!("{head}.{body}"), format!("{head}.{body}.eA")]
        {
            assert_eq!(checked(&token, &Expected::default()), Err(TokenError::Malformed), "{none}");
        }
    }
    // An attacker signs with HMAC and the public key, which anybody has, as the secret.
    let (_, public) = pair(Algorithm::RS256);
    let signing = SigningKey::from_secret(&public).unwrap();
    let wanted = claims(json!({ "sub": "admin", "exp": now() + 60 }));
    let token = sign(&wanted, &signing, Algorithm::HS256, None).unwrap();
    let key = VerifyingKey::from_pem(&public, &[Algorithm::RS256]).unwrap();
    assert_eq!(check(&token, &key, &Expected::default()), Err(TokenError::NoKey));
    assert!(VerifyingKey::from_pem(&public, &[Algorithm::RS256, Algorithm::HS256]).is_err());
    assert!(VerifyingKey::from_secret(SECRET, &[Algorithm::RS256]).is_err());
}

#[test]
fn times_issuer_and_audience_are_those_that_are_expected() {
    let expected = Expected { leeway: 5, ..Expected::default() };
    let with = |value: Value, expected: &Expected| checked(&made(value), expected).map(|_| ());
    assert_eq!(with(json!({ "exp": now() - 6 }), &expected), Err(TokenError::Expired));
    assert_eq!(with(json!({ "exp": now() - 1 }), &expected), Ok(()));
    assert_eq!(
        with(json!({ "exp": now() + 60, "nbf": now() + 60 }), &expected),
        Err(TokenError::NotYet)
    );
    assert_eq!(with(json!({}), &expected), Err(TokenError::Claim("exp".to_owned())));
    for odd in [json!("x"), json!(-5), json!(null), json!([now() + 60]), json!("99999999999")] {
        let unending = Expected { unending: true, ..Expected::default() };
        let refused = |result: &Result<(), TokenError>| {
            matches!(result, Err(TokenError::Claim(_) | TokenError::Malformed))
        };
        let ended = with(json!({ "exp": odd, "sub": "a" }), &expected);
        assert!(refused(&ended), "{odd}: {ended:?}");
        let ahead = with(json!({ "nbf": odd }), &unending);
        assert!(refused(&ahead), "{odd}: {ahead:?}");
    }
    let unending = Expected { unending: true, ..Expected::default() };
    assert_eq!(with(json!({}), &unending), Ok(()));
    assert_eq!(with(json!({ "exp": now() - 600 }), &unending), Err(TokenError::Expired));

    let ours = Expected {
        issuer: Some("https://a".to_owned()),
        audience: Some("sse".to_owned()),
        unending: true,
        leeway: 0,
    };
    assert_eq!(with(json!({ "iss": "https://a", "aud": "sse" }), &ours), Ok(()));
    assert_eq!(with(json!({ "iss": "https://a", "aud": ["x", "sse"] }), &ours), Ok(()));
    for (iss, aud) in [
        (json!("https://b"), json!("sse")),
        (json!("https://a"), json!("x")),
        (json!("https://a"), json!(["x"])),
        (json!("https://a"), json!([])),
        (json!("https://a"), json!(5)),
        (json!(["https://b"]), json!("sse")),
        (json!({}), json!("sse")),
        (json!(null), json!("sse")),
        (json!("https://a"), json!(null)),
        (json!("https://a/"), json!("sse")),
    ] {
        let token = json!({ "iss": iss, "aud": aud });
        assert!(with(token.clone(), &ours).is_err(), "{token}");
    }
    // Where no audience is expected, a token with any `aud` is refused.
    for aud in [json!("other"), json!(["other"]), json!(0), json!({}), json!([])] {
        assert_eq!(with(json!({ "aud": aud }), &unending), Err(TokenError::Audience), "{aud}");
    }
}

/// RFC 7515 §4.1.11: a token whose header has an extension in `crit` that the checker does not
/// understand must be refused, even if its signature is valid.
#[test]
fn a_token_that_demands_what_is_not_understood_is_refused() {
    let wanted = claims(json!({ "exp": now() + 60 }));
    let header = Header { crit: Some(vec!["exp".to_owned()]), ..Header::new(Algorithm::HS256) };
    let key = SigningKey::from_secret(SECRET).unwrap();
    ring_provider::install();
    let token = jsonwebtoken::encode(&header, &wanted, key.inner()).unwrap();
    assert_eq!(checked(&token, &Expected::default()), Err(TokenError::Critical));
}

/// A gateway needs no private key, and with one, anybody who reads its files could sign tokens.
#[test]
fn a_private_key_checks_nothing() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let error = VerifyingKey::from_pem(&pair(algorithm).0, &[algorithm]).unwrap_err();
        assert_eq!(error, KeyError::Private, "{algorithm:?}");
    }
}

#[test]
fn what_is_no_token_is_refused_and_not_repeated() {
    let token = made(json!({ "exp": now() + 60 }));
    let parts: Vec<&str> = token.split('.').collect();
    let critical = encoded(r#"{"alg":"HS256","crit":["exp"]}"#);
    for odd in [
        "".to_owned(),
        ".".to_owned(),
        "a.b.c".to_owned(),
        format!("{}.{}", parts[0], parts[1]),
        format!("{token}.x"),
        format!("{} {}", parts[0], parts[1]),
        format!("{critical}.{}.{}", parts[1], parts[2]),
        "x".repeat(MAX_BYTES + 1),
        format!("{}.{}.{}", parts[0], encoded("[1]"), parts[2]),
        format!("{}.{}.{}", parts[0], encoded(&"[".repeat(4000)), parts[2]),
    ] {
        let error = checked(&odd, &Expected::default()).unwrap_err();
        assert!(error.to_string().len() < 80 && error != TokenError::Expired, "{error}");
    }
    let changed = format!("{}.{}.{}", parts[0], encoded(r#"{"exp":99999999999}"#), parts[2]);
    assert_eq!(checked(&changed, &Expected::default()), Err(TokenError::Signature));
}

#[test]
fn a_key_set_gives_keys_for_signatures_alone() {
    let jwk = |value: Value| -> Jwk { serde_json::from_value(value).unwrap() };
    let public = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let with = |name: &str, value: &str| {
        let mut changed = public.clone();
        changed[name] = value.into();
        VerifyingKey::from_jwk(&jwk(changed), &[Algorithm::EdDSA, Algorithm::RS256])
    };
    assert!(with("use", "sig").unwrap().takes(Algorithm::EdDSA));
    assert!(!with("kid", "a").unwrap().takes(Algorithm::RS256));
    assert!(with("use", "enc").is_err());
    assert!(with("alg", "RS256").is_err());
    let secret = json!({ "kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY" });
    assert!(VerifyingKey::from_jwk(&jwk(secret), &[Algorithm::HS256]).is_err());
    let debug = format!("{:?}", with("use", "sig").unwrap());
    assert!(!debug.contains("11qY") && !debug.contains("215"), "{debug}");
}
