//! A JSON Web Key Set (RFC 7517), loaded from a file or a URL and reloaded while the gateway runs.
//!
//! It is reloaded every five minutes, and when a token names an unknown key. The latter happens at
//! most every ten seconds, because anybody can send made-up key names. While loading fails, the
//! previous keys stay in use.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{HeaderMap, Method, header};
use ring::digest::{Digest, SHA256, digest};
use serde_json::Value;
use sse_token::{Algorithm, Head, Jwk, VerifyingKey};
use url::Url;

use crate::access::outbound::{Outbound, Question};
use crate::config::issuer_line::Location;

/// The shortest time between two loads caused by tokens.
const PAUSE: Duration = Duration::from_secs(10);
/// The time between periodic loads.
const REFRESH: Duration = Duration::from_secs(300);
/// The longest time that loading may take; below, the most bytes of a set.
const TIMEOUT: Duration = Duration::from_secs(5);
const MOST_BYTES: usize = 512 * 1024;
/// The most keys kept of one set.
const MOST_KEYS: usize = 256;

/// A key with its `kid`.
type Named = (Option<String>, VerifyingKey);

#[derive(Debug, Default)]
struct Known {
    keys: Arc<[Named]>,
    /// Hash of the text that the keys were read from; none if the set was never loaded.
    hash: Option<Digest>,
    /// When loading was last tried, whether it succeeded or not.
    tried: Option<Instant>,
    /// Rises with each change of the keys.
    generation: u64,
}

/// A key set and where it comes from.
#[derive(Debug)]
pub(crate) struct KeySet {
    location: Location,
    algorithms: Vec<Algorithm>,
    known: Mutex<Known>,
    /// Held while loading, so that concurrent callers wait for one load.
    reading: tokio::sync::Mutex<()>,
}

impl KeySet {
    /// A set whose keys may be used with these algorithms. Loads a file now and fails if that
    /// fails; a URL is loaded later.
    pub(crate) fn new(location: Location, algorithms: Vec<Algorithm>) -> Result<Self, String> {
        let (known, reading) = (Mutex::default(), tokio::sync::Mutex::default());
        let set = KeySet { location, algorithms, known, reading };
        if let Location::File(path) = &set.location {
            let text =
                std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let keys = set.parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
            set.learn(keys, &text);
        }
        Ok(set)
    }

    /// Rises with each change of the keys.
    pub(crate) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Reloads the set periodically, forever.
    pub(crate) async fn watch(&self, outbound: &Outbound) {
        loop {
            let before = self.lock().tried;
            self.read(outbound, before).await;
            // A set that was never loaded is retried sooner: its tokens cannot be checked until
            // then.
            let pause = if self.lock().hash.is_some() { REFRESH } else { PAUSE };
            tokio::time::sleep(pause + pause.mul_f64(fastrand::f64() / 4.0)).await;
        }
    }

    /// The keys that may have signed a token with this head. None if the set was never loaded.
    pub(crate) async fn keys(&self, head: &Head, outbound: &Outbound) -> Option<Vec<VerifyingKey>> {
        let fitting = |keys: &[Named]| -> Vec<VerifyingKey> {
            let fits = |(name, key): &&Named| {
                let named = match (&head.kid, name) {
                    (Some(theirs), Some(ours)) => theirs == ours,
                    _ => true,
                };
                named && key.takes(head.algorithm)
            };
            keys.iter().filter(fits).map(|(_, key)| key.clone()).collect()
        };
        let (keys, read, tried) = {
            let known = self.lock();
            (known.keys.clone(), known.hash.is_some(), known.tried)
        };
        let found = fitting(&keys);
        let young = tried.is_some_and(|tried| tried.elapsed() < PAUSE);
        if !found.is_empty() || (young && read) {
            return Some(found);
        }
        if !young {
            self.read(outbound, tried).await;
        }
        let known = self.lock();
        known.hash.is_some().then(|| fitting(&known.keys))
    }

    /// Loads the set, unless another caller has tried since `before`.
    async fn read(&self, outbound: &Outbound, before: Option<Instant>) {
        let _reading = self.reading.lock().await;
        if self.lock().tried != before {
            return;
        }
        let text = match &self.location {
            Location::File(path) => std::fs::read(path).map_err(|error| error.to_string()),
            Location::Url(url) => ask(outbound, url).await,
        };
        let keys = text.and_then(|text| Ok((self.parse(&text)?, text)));
        self.lock().tried = Some(Instant::now());
        match keys {
            Ok((keys, text)) => self.learn(keys, &text),
            Err(error) => {
                tracing::warn!(jwks = %self.location, %error, "a key set cannot be read; the keys of before stay");
            }
        }
    }

    /// Skips keys that are for something else or of an unknown kind; sets may contain such keys.
    fn parse(&self, text: &[u8]) -> Result<Vec<Named>, String> {
        let set: Value = serde_json::from_slice(text).map_err(|_| "it is no JSON".to_owned())?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or("it has no list \"keys\"")?;
        let named = |value: &Value| {
            let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
            let key = VerifyingKey::from_jwk(&jwk, &self.algorithms).ok()?;
            Some((jwk.common.key_id, key))
        };
        let keys: Vec<Named> = keys.iter().filter_map(named).take(MOST_KEYS).collect();
        // An empty set would reject every token. A broken source is likelier than the withdrawal of
        // all keys.
        if keys.is_empty() {
            Err("it has no key for an algorithm that is allowed".to_owned())
        } else {
            Ok(keys)
        }
    }

    fn learn(&self, keys: Vec<Named>, text: &[u8]) {
        let hash = digest(&SHA256, text);
        let mut known = self.lock();
        if known.hash.as_ref().is_some_and(|before| before.as_ref() == hash.as_ref()) {
            return;
        }
        known.hash = Some(hash);
        known.keys = keys.into();
        // Invalidates the cached tokens: their key may be gone.
        known.generation += 1;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(outbound: &Outbound, url: &Url) -> Result<Vec<u8>, String> {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::ACCEPT,
        header::HeaderValue::from_static("application/jwk-set+json, application/json"),
    );
    let (method, body) = (Method::GET, Bytes::new());
    let question = Question { method, url, headers, body, timeout: TIMEOUT, most: MOST_BYTES };
    let answered = outbound.ask(question).await?;
    match answered.status.as_u16() {
        200 => Ok(answered.body.to_vec()),
        status @ 300..400 => Err(format!(
            "it answers {status}; redirects are not followed, give the URL it leads to"
        )),
        status => Err(format!("it answers {status}")),
    }
}
