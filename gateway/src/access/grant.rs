//! The grant: the result of every way to authenticate.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sse_contract::Channel;
use sse_contract::pattern::Pattern;

use crate::config::limits::Limits;
use crate::stream::subscription::About;

/// Seconds since 1970 (RFC 7519 §2, NumericDate).
pub type Seconds = u64;

/// What the bearer of some credentials may do.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// Who the bearer is. None for anonymous access, and for credentials that name nobody.
    pub subject: Option<Arc<str>>,
    /// The token's `jti`, by which this one token can be revoked.
    pub token_id: Option<Arc<str>>,
    /// The token's `iat`.
    pub issued: Option<Seconds>,
    /// The last second in which the grant is valid, leeway included. None: it never expires.
    pub expires: Option<Seconds>,
    /// Channels that the bearer may listen to.
    pub subscribe: Arc<[Pattern]>,
    /// Channels that the bearer may publish to.
    pub publish: Arc<[Pattern]>,
    /// The bearer's own limits, which replace the configured ones.
    pub limits: Limits,
    /// The grant is that of anonymous access: no credentials were needed for it.
    pub of_anybody: bool,
}

impl Grant {
    /// Grants everything to everybody.
    pub fn everything() -> Self {
        let all: Arc<[Pattern]> = [Pattern::everything()].into();
        Grant { subscribe: all.clone(), publish: all, of_anybody: true, ..Grant::default() }
    }

    /// Whether the bearer may listen to the channel.
    pub fn may_subscribe(&self, channel: &Channel) -> bool {
        self.subscribe.iter().any(|pattern| pattern.matches(channel.as_str()))
    }

    /// Whether the bearer may publish to the channel.
    pub fn may_publish(&self, channel: &Channel) -> bool {
        self.publish.iter().any(|pattern| pattern.matches(channel.as_str()))
    }

    /// Whether the grant has expired.
    pub fn has_expired(&self) -> bool {
        self.expires.is_some_and(|last| last < now())
    }

    /// The time until [`Grant::has_expired`] becomes true, zero if it is, none if it never does. So
    /// when a stream ends at that time, the same token cannot reopen it.
    pub fn left(&self) -> Option<Duration> {
        let end = UNIX_EPOCH.checked_add(Duration::from_secs(self.expires?.saturating_add(1)))?;
        Some(end.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// What may end a stream opened with this grant: its expiry or a revocation. None if nothing
    /// can.
    pub fn about(&self) -> Option<Box<About>> {
        let until = self.left().and_then(|left| Instant::now().checked_add(left));
        let (subject, token_id) = (self.subject.clone(), self.token_id.clone());
        let ends = subject.is_some() || token_id.is_some() || until.is_some();
        ends.then(|| Box::new(About { subject, token_id, until, story: None }))
    }
}

/// JSON form of a grant, for a ticket in Redis.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    subject: Option<Arc<str>>,
    token_id: Option<Arc<str>>,
    issued: Option<Seconds>,
    expires: Option<Seconds>,
    subscribe: Vec<String>,
    publish: Vec<String>,
    limits: Limits,
}

impl Grant {
    /// The grant as JSON, for [`Grant::from_stored`].
    pub fn stored(&self) -> String {
        let patterns = |patterns: &[Pattern]| patterns.iter().map(Pattern::stored).collect();
        let stored = Stored {
            subject: self.subject.clone(),
            token_id: self.token_id.clone(),
            issued: self.issued,
            expires: self.expires,
            subscribe: patterns(&self.subscribe),
            publish: patterns(&self.publish),
            limits: self.limits,
        };
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// Reads what [`Grant::stored`] wrote; none if it is malformed.
    pub fn from_stored(text: &[u8]) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(text).ok()?;
        let patterns = |texts: Vec<String>| -> Option<Arc<[Pattern]>> {
            texts.iter().map(|text| Pattern::from_stored(text)).collect()
        };
        Some(Grant {
            subject: stored.subject,
            token_id: stored.token_id,
            issued: stored.issued,
            expires: stored.expires,
            subscribe: patterns(stored.subscribe)?,
            publish: patterns(stored.publish)?,
            limits: stored.limits,
            of_anybody: false,
        })
    }
}

/// The system clock's time.
pub fn now() -> Seconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
