//! The lines of `auth.keys`.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use sse_contract::pattern::Pattern;
use sse_token::api_key::{Hash, hash_from_hex};

use crate::config::limits::Limits;
use crate::config::words::Words;

/// One line of `auth.keys`: `name=billing hash=<64 hex digits> publish=orders subscribe=*`.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct ApiKeyLine {
    /// The key's name, which is also the subject of its bearer.
    pub name: Arc<str>,
    /// The SHA-256 of the key.
    pub hash: Hash,
    /// Whether the bearer may make changes by the admin port.
    pub admin: bool,
    /// Channels that the bearer may listen to.
    pub subscribe: Arc<[Pattern]>,
    /// Channels that the bearer may publish to.
    pub publish: Arc<[Pattern]>,
    /// The bearer's own limits.
    pub limits: Limits,
}

impl fmt::Debug for ApiKeyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyLine").field("name", &self.name).finish_non_exhaustive()
    }
}

impl TryFrom<String> for ApiKeyLine {
    type Error = String;

    fn try_from(line: String) -> Result<Self, String> {
        Self::read(&line)
    }
}

impl ApiKeyLine {
    fn read(line: &str) -> Result<Self, String> {
        let words = Words::parse(
            line,
            &["name", "hash", "subscribe", "publish", "streams", "rate", "admin"],
        )?;
        let name: Arc<str> =
            words.one("name")?.ok_or("name=… is missing: what the key is called")?.into();
        let hash = words.one("hash")?.and_then(hash_from_hex).ok_or_else(|| {
            format!(
                "hash of the key {name} must be the 64 hex digits that `sse-publish key` prints"
            )
        })?;
        let admin = match words.one("admin")? {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err("admin must be true or false".to_owned()),
        };
        Ok(ApiKeyLine {
            name,
            hash,
            admin,
            subscribe: words.parsed("subscribe")?.into(),
            publish: words.parsed("publish")?.into(),
            limits: Limits::of(&words)?,
        })
    }
}
