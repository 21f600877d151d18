//! API keys: for services, which have no login of their own. Only hashes are configured, so that who reads the configuration
//! cannot use them.
//!
//! A key is random and long, so a plain hash is enough: there is nothing to guess (unlike a password).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use sse_token::api_key::{Hash, MIN_BYTES, hash, hash_from_hex};

use crate::access::grant::{Grant, Limits};
use crate::config::words::Words;

/// One line of `auth.keys`: `name=billing hash=<64 hex digits> publish=orders subscribe=*`.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct ApiKeyLine {
    name: Arc<str>,
    hash: Hash,
    admin: bool,
    grant: Grant,
}

impl fmt::Debug for ApiKeyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyLine").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is told of a key.
#[derive(Debug, Clone)]
pub struct Known {
    /// What its bearer may do.
    pub grant: Grant,
    /// Whether its bearer may use the admin port's calls that change something.
    pub admin: bool,
}

/// All keys, by their hashes.
#[derive(Debug, Default)]
pub struct ApiKeys(HashMap<Hash, Known>);

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
        let grant = Grant {
            subject: Some(name.clone()),
            subscribe: words.parsed("subscribe")?.into(),
            publish: words.parsed("publish")?.into(),
            limits: Limits {
                streams: words.number("streams")?,
                publish_rate: words.number("rate")?,
            },
            ..Grant::default()
        };
        Ok(ApiKeyLine { name, hash, admin, grant })
    }
}

impl ApiKeys {
    /// Those of the configuration.
    pub fn new(lines: &[ApiKeyLine]) -> Result<Self, String> {
        let mut keys = HashMap::new();
        for line in lines {
            let known = Known { grant: line.grant.clone(), admin: line.admin };
            if keys.insert(line.hash, known).is_some() {
                return Err(format!("auth.keys: the key {} stands there twice", line.name));
            }
        }
        Ok(ApiKeys(keys))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key's, if it is one. The time that this takes tells nothing of a key, because only hashes are compared.
    pub fn find(&self, key: &str) -> Option<&Known> {
        if self.is_empty() || key.len() < MIN_BYTES {
            return None;
        }
        self.0.get(&hash(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "k-0123456789-0123456789-0123456789";

    fn line(rest: &str) -> Result<ApiKeyLine, String> {
        let hash: String = hash(KEY).iter().map(|byte| format!("{byte:02x}")).collect();
        ApiKeyLine::read(&format!("name=billing hash={hash} {rest}"))
    }

    #[test]
    fn a_key_is_found_by_its_hash_and_may_what_its_line_says() {
        let keys = ApiKeys::new(&[line("publish=orders publish=user:* rate=5").unwrap()]).unwrap();
        let known = keys.find(KEY).unwrap();
        assert!(known.grant.may_publish(&"user:42".parse().unwrap()) && !known.admin);
        assert!(!known.grant.may_subscribe(&"orders".parse().unwrap()));
        assert_eq!(known.grant.limits.publish_rate, Some(5));
        assert!(keys.find(&KEY[1..]).is_none() && keys.find("").is_none());
        let hash: String = hash(KEY).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(keys.find(&hash).is_none(), "the hash is no key");
    }

    #[test]
    fn a_line_of_no_use_is_refused_without_repeating_it() {
        for rest in [
            "publish=a b",
            "publsh=a",
            "rate=0",
            "admin=maybe",
            "publish=user:{sub}",
            "hash=ab",
            "publish=",
        ] {
            let error = line(rest).unwrap_err();
            assert!(
                !error.contains(&format!("{:02x}", hash(KEY)[0])[..]) || error.len() < 200,
                "{error}"
            );
        }
        let error = ApiKeyLine::read(&format!("name=a hash={KEY}")).unwrap_err();
        assert!(!error.contains(KEY), "{error}");
        assert!(ApiKeys::new(&[line("").unwrap(), line("").unwrap()]).is_err());
    }
}
