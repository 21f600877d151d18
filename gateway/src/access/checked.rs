//! Cache of checked tokens, by hash. The tokens themselves are not stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest::{SHA256, digest};

use crate::access::grant::Grant;

/// Entries of one half. When the young half is full, it replaces the old half, whose entries are
/// dropped.
const HALF: usize = 16 * 1024;

/// SHA-256 of a token.
pub(crate) type Hash = [u8; 32];

/// The grants of tokens that were checked.
#[derive(Debug, Default)]
pub(crate) struct Checked(Mutex<Halves>);

#[derive(Debug, Default)]
struct Halves {
    /// The generation of the keys with which all entries were checked.
    generation: u64,
    young: HashMap<Hash, Arc<Grant>>,
    old: HashMap<Hash, Arc<Grant>>,
}

impl Checked {
    /// The grant of a token, if the token was checked with keys of this generation.
    pub(crate) fn find(&self, hash: &Hash, generation: u64) -> Option<Arc<Grant>> {
        let halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.generation != generation {
            return None;
        }
        halves.young.get(hash).or_else(|| halves.old.get(hash)).cloned()
    }

    /// Stores a grant that was checked with keys of this generation. Drops all entries of another
    /// generation.
    pub(crate) fn add(&self, hash: Hash, grant: Arc<Grant>, generation: u64) {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The keys changed during the check. Tokens checked with the newer keys must stay known.
        if generation < halves.generation {
            return;
        }
        if halves.generation < generation {
            *halves = Halves { generation, ..Halves::default() };
        }
        if halves.young.len() >= HALF {
            halves.old = std::mem::take(&mut halves.young);
        }
        halves.young.insert(hash, grant);
    }
}

/// The hash by which a token is cached.
pub(crate) fn hash(token: &str) -> Hash {
    digest(&SHA256, token.as_bytes()).as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_checked_with_other_keys_is_forgotten() {
        let checked = Checked::default();
        checked.add(hash("a"), Arc::default(), 1);
        assert!(checked.find(&hash("a"), 1).is_some() && checked.find(&hash("b"), 1).is_none());
        assert!(checked.find(&hash("a"), 2).is_none());
        checked.add(hash("b"), Arc::default(), 2);
        checked.add(hash("c"), Arc::default(), 1);
        assert!(checked.find(&hash("b"), 2).is_some() && checked.find(&hash("c"), 2).is_none());
        assert!(checked.find(&hash("a"), 1).is_none() && checked.find(&hash("a"), 2).is_none());
    }

    #[test]
    fn there_are_never_more_than_two_halves() {
        let checked = Checked::default();
        for n in 0..3 * HALF {
            checked.add(hash(&n.to_string()), Arc::default(), 0);
        }
        let halves = checked.0.lock().unwrap();
        assert!(halves.young.len() + halves.old.len() <= 2 * HALF);
        drop(halves);
        assert!(
            checked.find(&hash(&(3 * HALF - 1).to_string()), 0).is_some()
                && checked.find(&hash("0"), 0).is_none()
        );
    }
}
