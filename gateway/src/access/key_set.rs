//! A JSON Web Key Set (RFC 7517) in a file or at a URL, which changes while we run.
//!
//! It is read again from time to time, and at once when a token names a key that is not in it, but not more often than
//! every ten seconds: anybody can make up names. While it cannot be read, the keys of before stay.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::{HeaderMap, Method, header};
use ring::digest::{Digest, SHA256, digest};
use serde_json::Value;
use sse_token::{Algorithm, Head, Jwk, VerifyingKey};
use url::Url;

use crate::access::outbound::{Outbound, Question};
use crate::config::issuer_line::Location;

/// The shortest time between two readings that tokens cause.
const PAUSE: Duration = Duration::from_secs(10);
/// How often it is read without a cause.
const REFRESH: Duration = Duration::from_secs(300);
/// How long reading may take, and how long the set may be.
const TIMEOUT: Duration = Duration::from_secs(5);
const MOST_BYTES: usize = 512 * 1024;
/// Keys that are kept of one set.
const MOST_KEYS: usize = 256;

/// A key and its name.
type Named = (Option<String>, VerifyingKey);

#[derive(Debug, Default)]
struct Known {
    keys: Arc<[Named]>,
    /// Of the text it was read from; none if it was never read.
    hash: Option<Digest>,
    /// When it was last tried.
    tried: Option<Instant>,
    /// Rises with each change.
    generation: u64,
}

/// A key set.
#[derive(Debug)]
pub(crate) struct KeySet {
    location: Location,
    algorithms: Vec<Algorithm>,
    known: Mutex<Known>,
    /// Held by whoever reads it: others wait for that answer.
    reading: tokio::sync::Mutex<()>,
}

impl KeySet {
    /// One whose keys may be used with these algorithms. A file is read now, and must be there.
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

    /// Reads it from time to time, for ever.
    pub(crate) async fn watch(&self, outbound: &Outbound) {
        loop {
            let before = self.lock().tried;
            self.read(outbound, before).await;
            // A set that was never read is needed sooner.
            let pause = if self.lock().hash.is_some() { REFRESH } else { PAUSE };
            tokio::time::sleep(pause + pause.mul_f64(fastrand::f64() / 4.0)).await;
        }
    }

    /// The keys that a token of this head may be signed with; none if the set was never read.
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

    /// Reads it, unless somebody else has done so since `before`.
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

    /// Keys for something else, or of a kind that we do not know, are no fault of the set's.
    fn parse(&self, text: &[u8]) -> Result<Vec<Named>, String> {
        let set: Value = serde_json::from_slice(text).map_err(|_| "it is no JSON".to_owned())?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or("it has no list \"keys\"")?;
        let named = |value: &Value| {
            let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
            let key = VerifyingKey::from_jwk(&jwk, &self.algorithms).ok()?;
            Some((jwk.common.key_id, key))
        };
        let keys: Vec<Named> = keys.iter().filter_map(named).take(MOST_KEYS).collect();
        // An empty set would lock everybody out; rather the source is broken than all keys withdrawn.
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
        // What was checked with a key that has gone must be checked again.
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
    let question =
        Question { method: Method::GET, url, headers, timeout: TIMEOUT, most: MOST_BYTES };
    let answered = outbound.ask(question).await?;
    match answered.status.as_u16() {
        200 => Ok(answered.body.to_vec()),
        status @ 300..400 => Err(format!(
            "it answers {status}; redirects are not followed, give the URL it leads to"
        )),
        status => Err(format!("it answers {status}")),
    }
}
