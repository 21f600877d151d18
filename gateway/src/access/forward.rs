//! Forward authentication: another service, which has sessions and no tokens, decides whether a
//! request is allowed.
//!
//! The service is asked once per stream, history or publish request, with bounds on time and on
//! requests at once, and answers are cached for a moment. While it does not answer, requests that
//! depend on it are refused, and clients are told to come back because the fault is not theirs.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use sse_contract::Channel;
use sse_contract::pattern::Pattern;
use tokio::sync::{OnceCell, Semaphore};
use url::Url;

use crate::access::asker::Asker;
use crate::access::grant::{Grant, now};
use crate::access::outbound::{Answered, Outbound, Question};
use crate::config::ForwardConfig;
use crate::config::limits::Limits;

/// The longest answer body, in bytes.
const MOST_BYTES: usize = 64 * 1024;
/// The most answers that are cached.
const MOST_ANSWERS: usize = 16 * 1024;

/// What the request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Listen to channels.
    Subscribe,
    /// Publish to channels.
    Publish,
}

impl Action {
    /// The value of `X-SSE-Action`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Action::Subscribe => "subscribe",
            Action::Publish => "publish",
        }
    }
}

/// The service's decision.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// Allowed, with this grant.
    Allowed(Arc<Grant>),
    /// Nobody is logged in (401).
    Unknown,
    /// The user is known and not allowed (403).
    Forbidden,
    /// No decision: no answer in time, another status, a body that is no grant, or too many
    /// requests waiting.
    Away,
}

type Hash = [u8; 32];
type Pending = Arc<OnceCell<Verdict>>;

/// Client of the service at `auth.forward.url`.
pub(crate) struct Forward {
    url: Url,
    config: ForwardConfig,
    places: Semaphore,
    answers: Mutex<HashMap<Hash, (Instant, Pending)>>,
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forward")
    }
}

/// A grant as the service sends it. Limits that it omits are not set; channels that it omits are
/// not granted.
#[derive(Deserialize)]
struct Body {
    subject: Option<Arc<str>>,
    #[serde(default)]
    subscribe: Vec<Pattern>,
    #[serde(default)]
    publish: Vec<Pattern>,
    expires_in: Option<u64>,
    #[serde(default)]
    limits: Limits,
}

impl Forward {
    /// None if `auth.forward.url` is empty.
    pub(crate) fn new(config: &ForwardConfig) -> Option<Self> {
        let url = config.url.clone()?;
        let (places, answers) = (Semaphore::new(config.max_pending), Mutex::default());
        Some(Forward { url, config: config.clone(), places, answers })
    }

    /// Asks whether a request may do this with these channels, unless an answer is cached.
    pub(crate) async fn ask(
        &self,
        asker: &impl Asker,
        action: Action,
        channels: &[Channel],
        outbound: &Outbound,
    ) -> Verdict {
        let headers = self.headers(asker, action);
        let mut url = self.url.clone();
        for channel in channels {
            url.query_pairs_mut().append_pair("channel", channel.as_str());
        }
        let pending = self.pending(&headers, &url);
        let verdict = pending
            .get_or_init(|| self.verdict(&url, headers.clone(), action, channels, outbound))
            .await
            .clone();
        if matches!(verdict, Verdict::Away) {
            // Failures are not cached: the next request asks again. Those already waiting share
            // this one.
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.retain(|_, (_, known)| !Arc::ptr_eq(known, &pending));
        }
        verdict
    }

    /// The headers that the service is sent. They are also part of the cache key, so a header that
    /// does not affect the decision would only cause more questions.
    fn headers(&self, asker: &impl Asker, action: Action) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let own = [header::COOKIE, header::AUTHORIZATION, header::ORIGIN];
        for name in own.iter().chain(&self.config.headers) {
            let values = asker.header(name.as_str()).map(HeaderValue::from_bytes);
            headers.extend(values.flatten().map(|value| (name.clone(), value)));
        }
        let mut add = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        add("x-forwarded-for", &asker.client().to_string());
        add("x-original-method", asker.method());
        add("x-original-uri", asker.path());
        add("x-sse-action", action.as_str());
        headers
    }

    /// The cell for the answer to this question. Equal questions share it while the first one waits
    /// and for `auth.forward.cache` afterwards.
    fn pending(&self, headers: &HeaderMap, url: &Url) -> Pending {
        let mut text = url.as_str().as_bytes().to_vec();
        let mut lines: Vec<(&[u8], &[u8])> = headers
            .iter()
            .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
            .collect();
        lines.sort_unstable();
        for (name, value) in lines {
            text.extend([&b"\n"[..], name, b":", value].concat());
        }
        let hash: Hash = digest(&SHA256, &text).as_ref().try_into().unwrap_or_default();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if answers.len() >= MOST_ANSWERS {
            answers.retain(|_, (end, pending)| *end > now && pending.initialized());
        }
        if answers.len() >= MOST_ANSWERS {
            // The cache is full of unexpired answers, so this one is not cached.
            return Pending::default();
        }
        let (end, pending) = answers.entry(hash).or_insert_with(|| (now, Pending::default()));
        if *end <= now && (pending.initialized() || Arc::strong_count(pending) == 1) {
            *pending = Pending::default();
            *end = now + self.config.cache;
        }
        pending.clone()
    }

    async fn verdict(
        &self,
        url: &Url,
        headers: HeaderMap,
        action: Action,
        channels: &[Channel],
        outbound: &Outbound,
    ) -> Verdict {
        let away = |why: String| {
            tracing::warn!(error = %why, "the service of auth.forward.url does not say who is allowed");
            Verdict::Away
        };
        let waiting = tokio::time::timeout(self.config.timeout, self.places.acquire());
        let Ok(Ok(_place)) = waiting.await else {
            return away(format!("{} requests wait for it", self.config.max_pending));
        };
        let timeout = self.config.timeout;
        let (method, body) = (Method::GET, Bytes::new());
        let question = Question { method, url, headers, body, timeout, most: MOST_BYTES };
        match outbound.ask(question).await {
            Ok(Answered { status, body, .. }) => match status.as_u16() {
                200 | 204 => match granted(&body, action, channels) {
                    Ok(grant) => Verdict::Allowed(Arc::new(grant)),
                    Err(why) => away(format!("its answer is no grant: {why}")),
                },
                401 => Verdict::Unknown,
                403 => Verdict::Forbidden,
                status => away(format!("it answers {status}")),
            },
            Err(why) => away(why),
        }
    }
}

/// Reads the grant of a 200 or 204. An empty body grants exactly the channels that were asked for.
fn granted(body: &[u8], action: Action, channels: &[Channel]) -> Result<Grant, String> {
    if body.trim_ascii().is_empty() {
        let asked: Arc<[Pattern]> = channels.iter().map(Pattern::of_channel).collect();
        let (subscribe, publish) = match action {
            Action::Subscribe => (asked, Arc::default()),
            Action::Publish => (Arc::default(), asked),
        };
        return Ok(Grant { subscribe, publish, ..Grant::default() });
    }
    let body: Body = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    Ok(Grant {
        subject: body.subject,
        expires: body.expires_in.map(|seconds| now().saturating_add(seconds)),
        subscribe: body.subscribe.into(),
        publish: body.publish.into(),
        limits: body.limits,
        ..Grant::default()
    })
}
