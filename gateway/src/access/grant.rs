//! What somebody may do: the one form that every way of access ends in.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sse_contract::Channel;
use sse_contract::pattern::Pattern;

use crate::config::limits::Limits;
use crate::stream::subscription::Bearer;

/// Seconds since 1970, as tokens count them (RFC 7519 §2, NumericDate).
pub type Seconds = u64;

/// What somebody may do.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// Who it is; nobody in particular if none.
    pub subject: Option<Arc<str>>,
    /// The token's own id, by which it can be revoked alone.
    pub token_id: Option<Arc<str>>,
    /// When the token was issued.
    pub issued: Option<Seconds>,
    /// The last second in which it holds.
    pub expires: Option<Seconds>,
    /// What it may listen to.
    pub subscribe: Arc<[Pattern]>,
    /// What it may publish to.
    pub publish: Arc<[Pattern]>,
    /// What it may take of the gateway.
    pub limits: Limits,
    /// Nobody had to show anything for it.
    pub of_anybody: bool,
}

impl Grant {
    /// Everything, for anybody.
    pub fn everything() -> Self {
        let all: Arc<[Pattern]> = [Pattern::everything()].into();
        Grant { subscribe: all.clone(), publish: all, of_anybody: true, ..Grant::default() }
    }

    /// Whether it allows to listen to a channel.
    pub fn may_subscribe(&self, channel: &Channel) -> bool {
        self.subscribe.iter().any(|pattern| pattern.matches(channel.as_str()))
    }

    /// Whether it allows to publish to a channel.
    pub fn may_publish(&self, channel: &Channel) -> bool {
        self.publish.iter().any(|pattern| pattern.matches(channel.as_str()))
    }

    /// Whether it is over.
    pub fn has_expired(&self) -> bool {
        self.expires.is_some_and(|last| last < now())
    }

    /// How long it still holds. Afterwards what it was given for is refused, so a stream that ends then does not begin anew
    /// with the same token.
    pub fn left(&self) -> Option<Duration> {
        let end = UNIX_EPOCH.checked_add(Duration::from_secs(self.expires?.saturating_add(1)))?;
        Some(end.duration_since(SystemTime::now()).unwrap_or_default())
    }
}

impl Grant {
    /// What can end a stream that is opened with it; none where nothing can.
    pub fn bearer(&self) -> Option<Box<Bearer>> {
        let until = self.left().and_then(|left| Instant::now().checked_add(left));
        let (subject, token_id) = (self.subject.clone(), self.token_id.clone());
        let ends = subject.is_some() || token_id.is_some() || until.is_some();
        ends.then(|| Box::new(Bearer { subject, token_id, until }))
    }
}

/// A grant as it is kept for a moment, outside of this process.
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
    /// As text.
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

    /// What [`Grant::stored`] wrote.
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

/// The time.
pub fn now() -> Seconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
