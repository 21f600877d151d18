//! API keys, for services that have no login. The configuration holds only hashes, so a reader of
//! the configuration cannot use the keys.
//!
//! A plain hash is enough: keys are long and random, so they cannot be guessed as passwords can.

use std::collections::HashMap;
use std::sync::Arc;

use sse_token::api_key::{Hash, MIN_BYTES, hash};

use crate::access::grant::Grant;
use crate::config::api_key_line::ApiKeyLine;

/// What the configuration says about a key.
#[derive(Debug, Clone)]
pub struct Known {
    /// What its bearer may do.
    pub grant: Arc<Grant>,
    /// Whether the bearer may make changes by the admin port.
    pub admin: bool,
}

/// All configured keys, by hash.
#[derive(Debug, Default)]
pub struct ApiKeys(HashMap<Hash, Known>);

impl ApiKeys {
    /// Fails if two lines have the same hash.
    pub fn new(lines: &[ApiKeyLine]) -> Result<Self, String> {
        let mut keys = HashMap::new();
        for line in lines {
            let grant = Grant {
                subject: Some(line.name.clone()),
                subscribe: line.subscribe.clone(),
                publish: line.publish.clone(),
                limits: line.limits,
                ..Grant::default()
            };
            let known = Known { grant: Arc::new(grant), admin: line.admin };
            if keys.insert(line.hash, known).is_some() {
                return Err(format!("auth.keys: the key {} stands there twice", line.name));
            }
        }
        Ok(ApiKeys(keys))
    }

    /// Whether no key is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks up a key. Timing reveals nothing about configured keys, because only hashes are
    /// compared.
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
        ApiKeyLine::try_from(format!("name=billing hash={hash} {rest}"))
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
        let error = ApiKeyLine::try_from(format!("name=a hash={KEY}")).unwrap_err();
        assert!(!error.contains(KEY), "{error}");
        assert!(ApiKeys::new(&[line("").unwrap(), line("").unwrap()]).is_err());
    }
}
