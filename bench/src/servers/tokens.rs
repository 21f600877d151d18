//! A gateway that requires tokens. Each stream presents its own, signed with a shared secret or
//! with RSA of 2,048 bits.

use std::fmt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use sse_token::{Algorithm, Claims, SigningKey};

use super::{Server, Settings, StartError, programs};
use crate::load::Headers;

/// The number of tokens: as many as a scenario opens streams. Signing one with RSA takes about a
/// millisecond.
const MOST: usize = 10_000;

const SECRET: &str = "not-a-secret-but-long-enough-for-one";

/// The tokens that streams present.
#[derive(Clone)]
pub(super) struct Tokens(Arc<Vec<String>>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// Makes the n-th stream present the n-th token.
    pub(super) fn headers(&self) -> Headers {
        let tokens = self.0.clone();
        Arc::new(move |n| format!("Authorization: Bearer {}\r\n", tokens[n % tokens.len()]))
    }
}

impl Server {
    /// Starts a gateway that requires tokens for streams. Publishing needs none.
    pub(super) fn gateway_tokens(
        &mut self,
        settings: &Settings,
        algorithm: Algorithm,
    ) -> Result<(), StartError> {
        let file = |name| self.dir().join(name);
        let (key, words) = if algorithm == Algorithm::HS256 {
            let key = SigningKey::from_secret(SECRET.as_bytes());
            (key.map_err(|error| error.to_string())?, format!("secret={SECRET}"))
        } else {
            self.openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out token.key")?;
            self.openssl("pkey -in token.key -pubout -out token.pem")?;
            let private = std::fs::read(file("token.key")).map_err(|error| error.to_string())?;
            let key = SigningKey::from_pem(&private, algorithm);
            let words = format!("pem={}", file("token.pem").display());
            (key.map_err(|error| error.to_string())?, words)
        };
        let keys = format!("alg={algorithm:?} {words} subscribe=*");
        let mut settings = settings.clone();
        settings.variables.extend([
            ("SSE_AUTH__JWT__KEYS".to_owned(), keys),
            ("SSE_AUTH__ANONYMOUS__PUBLISH".to_owned(), "*".to_owned()),
        ]);
        self.tokens = Some(signed(&key, algorithm)?);
        self.gateway(&settings, None)
    }

    fn openssl(&self, words: &str) -> Result<(), StartError> {
        let mut openssl = Command::new(programs::find("openssl", None)?);
        openssl.args(words.split_whitespace()).current_dir(self.dir());
        let output = openssl.output().map_err(|error| format!("openssl: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(StartError::Failed(format!("openssl: {why}")))
    }
}

fn signed(key: &SigningKey, algorithm: Algorithm) -> Result<Tokens, String> {
    let end = SystemTime::now() + Duration::from_secs(24 * 3600);
    let end = end.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let one = |n: usize| {
        let mut claims = Claims::new();
        claims.insert("sub".to_owned(), json!(format!("reader-{n}")));
        claims.insert("exp".to_owned(), json!(end));
        sse_token::sign(&claims, key, algorithm, None).map_err(|error| error.to_string())
    };
    Ok(Tokens(Arc::new((0..MOST).map(one).collect::<Result<_, String>>()?)))
}
